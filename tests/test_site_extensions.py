"""What Sphinx is taught for this book, tried on a book of two pages."""

import ast
import io
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbformat.v4 import writes as write_notebook
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

EXTENSIONS = Path(__file__).parents[1] / "_ext"
RECORDED = {"seconds": 93.1, "device": "2-core CPU", "scale": "cpu"}
SOURCE = '''
class Box:
    """Hold <things>."""

    def __init__(self, size: int = 2): ...

def _hidden():
    """Not for readers."""
'''
PLAN = """
- part: I
  chapters:
    - {number: 6, title: Alignment, question: "Near <what>?"}
    - {number: 7, title: Matching, question: "How close?"}
"""


def build(folder: Path, page: str, recorded=RECORDED) -> tuple[Path, str]:
    """Build a book with one chapter, 06_align, and one page; return its folder of pages and the warnings."""
    source = folder / "source"
    source.mkdir()
    shown = new_output("display_data", data={"text/html": "<b>the widget itself</b>"})
    cells = [
        new_markdown_cell("# Alignment"),
        new_code_cell("box", outputs=[shown], metadata={"tags": ["widget:search"]}),
    ]
    noted = {"mmtutor": recorded} if recorded else {}
    chapter = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}, **noted})
    (source / "06_align.ipynb").write_text(write_notebook(chapter))
    (source / "chapters.yml").write_text(PLAN)
    (source / "index.md").write_text(f"# Cover\n\n```{{toctree}}\n06_align\n```\n\n{page}\n")
    settings = {
        "extensions": ["myst_nb", "book_chapters"],
        "nb_execution_mode": "off",
        "html_theme": "basic",
        "html_theme_options": {"repository_url": "https://github.com/a/b", "repository_branch": "main"},
        "suppress_warnings": ["config.cache"],
    }
    warnings, built = io.StringIO(), folder / "built"
    with docutils_namespace():
        app = Sphinx(source, None, built, folder / "trees", "html", settings, status=None, warning=warnings)
        app.build()
    return built, "\n".join(line for line in warnings.getvalue().splitlines() if "theme option" not in line)


@pytest.fixture(autouse=True)
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    yield
    sys.modules.pop("book_chapters", None)


def test_a_chapter_states_its_measured_times_and_where_it_can_be_run(tmp_path):
    built, _ = build(tmp_path, "")
    page = (built / "06_align.html").read_text()
    assert "<strong>CPU</strong> 93 s on 2-core CPU" in page
    assert "<strong>GPU</strong> not run" in page
    assert "colab.research.google.com/github/a/b/blob/main/06_align.ipynb" in page
    assert (
        page.index("Alignment</h1>") < page.index("mm-times")
        if "Alignment</h1>" in page
        else "mm-times" in page
    )


def test_a_chapter_never_run_says_so(tmp_path):
    built, _ = build(tmp_path, "", recorded=None)
    assert "<strong>CPU</strong> not run" in (built / "06_align.html").read_text()


def test_a_time_measured_on_a_gpu_is_stated(tmp_path):
    built, _ = build(tmp_path, "", {**RECORDED, "gpu": {"seconds": 41.6, "device": "one card"}})
    assert "<strong>GPU</strong> 42 s on one card" in (built / "06_align.html").read_text()


def test_a_widget_of_a_chapter_is_shown_on_another_page(tmp_path):
    built, warnings = build(tmp_path, "```{widget} 06_align widget:search\nlater\n```")
    page = (built / "index.html").read_text()
    assert "<b>the widget itself</b>" in page and "later" not in page
    assert warnings == ""


def test_a_tag_that_no_cell_has_is_a_warning(tmp_path):
    _, warnings = build(tmp_path, "```{widget} 06_align widget:gone\nlater\n```")
    assert "no HTML output in a cell tagged 'widget:gone' of 06_align.ipynb" in warnings


def test_a_chapter_that_does_not_exist_leaves_its_place_to_the_content(tmp_path):
    built, warnings = build(tmp_path, "```{widget} 99_none widget:search\nlater\n```")
    assert "later" in (built / "index.html").read_text()
    assert warnings == ""


def test_the_list_of_chapters_links_those_that_exist(tmp_path):
    built, _ = build(tmp_path, "```{chapters}\n```")
    page = (built / "index.html").read_text()
    assert '<a href="06_align.html">Alignment</a>' in page
    assert "Near &lt;what&gt;?" in page
    assert '<p class="mm-title">Matching</p>' in page and page.count("not written yet") == 1


def test_the_reference_reads_signatures_without_importing():
    from book_reference import entry, public

    found = public(ast.parse(SOURCE))
    assert [item.name for item in found] == ["Box"]
    assert "Box(size: int=2)" in entry("shelf", found[0]) and "Hold &lt;things&gt;." in entry(
        "shelf", found[0]
    )
