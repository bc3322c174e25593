"""The concept index: each entry leads somewhere, nothing public is left out, and broken entries are found."""

import importlib
import io
from pathlib import Path

import pytest
from book_concepts import load, planned, problems, several, unlisted, written
from book_reference import public_names
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbformat.v4 import writes as write_notebook
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
ENTRIES = load(BOOK / "concepts.yml")
NAMES = public_names(ROOT / "mmtutor")

CHAPTER = """# Means

## 3.1 The mean, or: a centre

$$
c=\\frac1B\\sum_iz_i
$$ (eq-mean)

```{math}
:label: def-spread
v=1
```

### Why a square?

## Exercises
"""
PLAN = "[{part: I, chapters: [{number: 3, title: Means}, {number: 4, title: Not written}]}]"
MEAN = {
    "term": "mean",
    "zh": "均值",
    "chapter": 3,
    "section": "The mean, or: a centre",
    "equation": ["eq-mean", "def-spread"],
    "check": "check:eq-mean",
    "widget": "widget:mean",
    "code": "mmtutor.centre.mean",
    "covers": 7,
}


@pytest.fixture
def book(tmp_path) -> Path:
    """A folder with a plan of two chapters, of which the first is written."""
    cells = [new_markdown_cell(CHAPTER)]
    cells += [new_code_cell("0", metadata={"tags": [tag]}) for tag in ("check:eq-mean", "widget:mean")]
    nb = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    (tmp_path / "03_means.ipynb").write_text(write_notebook(nb), encoding="utf-8")
    (tmp_path / "chapters.yml").write_text(PLAN, encoding="utf-8")
    return tmp_path


def found_in(book: Path, *entries: dict) -> list[str]:
    return problems(list(entries), planned(book), written(book), {"mmtutor.centre.mean"})


def without(*keys: str) -> dict:
    return {key: value for key, value in MEAN.items() if key not in keys}


def test_every_entry_leads_somewhere():
    assert problems(ENTRIES, planned(BOOK), written(BOOK), NAMES) == []


def test_every_public_object_has_an_entry():
    assert unlisted(ENTRIES, NAMES) == [], "add these to the code of an entry in book/concepts.yml"


@pytest.mark.parametrize("name", sorted({name for entry in ENTRIES for name in several(entry, "code")}))
def test_the_code_of_an_entry_can_be_imported(name):
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_every_chapter_that_exists_has_entries():
    assert set(written(BOOK)) <= {entry["chapter"] for entry in ENTRIES}


@pytest.mark.parametrize(
    "entry",
    [
        MEAN,
        {**MEAN, "section": "the-mean-or-a-centre"},  # its anchor
        {**MEAN, "section": "3.1 The mean, or: a centre"},
        {**MEAN, "section": "Why a square?"},
        {**without("section", "equation", "check", "widget"), "chapter": 4},
        {**MEAN, "chapter": 4},  # cannot be known before it is written
        {**without("section", "equation", "check", "widget"), "chapter": "tools"},
    ],
)
def test_a_sound_entry_passes(book, entry):
    assert found_in(book, entry) == []


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (without("term"), "expected a key term"),
        (without("zh"), "expected a key zh"),
        (without("chapter"), "expected a key chapter"),
        ({**MEAN, "equations": "eq-mean"}, "expected no key equations"),
        ({**MEAN, "zh": "mean"}, "expected a Chinese term, found 'mean'"),
        ({**MEAN, "chapter": 99}, "expected a chapter of chapters.yml or 'tools', found 99"),
        ({**MEAN, "chapter": "3"}, "expected a chapter of chapters.yml or 'tools', found '3'"),
        (without("section"), "section None: expected one heading in 03_means.ipynb, found 0"),
        ({**MEAN, "section": "The median"}, "section 'The median': expected one heading"),
        ({**MEAN, "equation": "eq-median"}, "equation 'eq-median': expected it in 03_means.ipynb"),
        ({**MEAN, "equation": ["eq-mean", "eq-median"]}, "equation 'eq-median': expected it"),
        ({**MEAN, "check": "check:eq-median"}, "check 'check:eq-median': expected it"),
        ({**MEAN, "check": "widget:mean"}, "check 'widget:mean': expected it"),
        ({**MEAN, "widget": "widget:median"}, "widget 'widget:median': expected it"),
        ({**MEAN, "code": "mmtutor.centre.median"}, "mmtutor.centre.median is not in the reference"),
        (
            {**without("equation", "check", "widget"), "chapter": "tools"},
            "expected no section without a chapter",
        ),
    ],
)
def test_a_broken_entry_is_found(book, entry, problem):
    found = found_in(book, entry)
    assert len(found) == 1 and problem in found[0]


def test_a_heading_that_stands_twice_is_no_place(book):
    path = written(book)[3]
    path.write_text(path.read_text(encoding="utf-8").replace("## Exercises", "## Why a square?"), "utf-8")
    found = found_in(book, {**MEAN, "section": "Why a square?"})
    assert len(found) == 1 and "found 2" in found[0]


def test_a_term_that_stands_twice_is_found(book):
    assert found_in(book, MEAN, {**MEAN, "term": "Mean"}) == ["mean: expected one entry, found 2"]


def test_an_object_without_entry_is_found():
    assert unlisted([MEAN], {"mmtutor.centre.mean", "mmtutor.centre.median"}) == ["mmtutor.centre.median"]


def build(source: Path, entries: str, **more) -> tuple[str, str, str]:
    """Build a book with an index of these entries; return the page, the chapter's page and the warnings."""
    (source / "concepts.yml").write_text(entries, encoding="utf-8")
    (source / "index.md").write_text("# Concepts\n\n```{toctree}\n03_means\n```\n\n```{concepts}\n```\n")
    (source / "mmtutor").mkdir()
    (source / "mmtutor" / "centre.py").write_text('def mean(z):\n    """Return the mean."""\n')
    settings = {"extensions": ["myst_nb", "book_concepts"], "myst_enable_extensions": ["dollarmath"]}
    settings |= {
        "nb_execution_mode": "off",
        "html_theme": "basic",
        "suppress_warnings": ["config.cache"],
        **more,
    }
    warnings, built = io.StringIO(), source / "_built"
    with docutils_namespace():
        app = Sphinx(source, None, built, source / "_trees", "html", settings, status=None, warning=warnings)
        app.build()
    pages = {path.stem: path.read_text(encoding="utf-8") for path in built.glob("*.html")}
    return pages["index"], pages.get("03_means", ""), warnings.getvalue()


def test_the_page_links_section_equation_check_widget_and_code(book):
    page, chapter, warnings = build(book, f"[{MEAN}, {{term: clock, zh: 时钟, chapter: tools}}]")
    assert warnings == ""
    assert '<span lang="zh">均值</span>' in page
    assert 'href="03_means.html#the-mean-or-a-centre">3.1 The mean, or: a centre</a>' in page
    assert 'href="03_means.html#equation-eq-mean">(1)</a>' in page
    assert 'href="03_means.html#check-eq-mean">check</a>' in page and 'id="check-eq-mean"' in chapter
    assert 'href="03_means.html#widget-mean">widget</a>' in page and 'id="widget-mean"' in chapter
    assert 'href="api.html#mmtutor.centre.mean"' in page
    assert page.index("<h2>M") < page.index("<h2>Tools") < page.index("时钟")


def test_a_broken_entry_is_a_warning_of_the_build(book):
    _, _, warnings = build(book, "[{term: mean, zh: 均值, chapter: 3, section: Gone}, {zh: 无}]")
    assert "concepts.yml: mean: section 'Gone': expected one heading in 03_means.ipynb, found 0" in warnings
    assert "concepts.yml: None: expected a key term, found none" in warnings


def test_the_page_leads_to_no_chapter_that_is_a_draft(book):
    page, _, warnings = build(book, f"[{MEAN}]", exclude_patterns=["03_means.ipynb"])
    assert "concepts.yml" not in warnings
    assert "chapter 3, not written yet" in page and 'href="03_means.html' not in page
