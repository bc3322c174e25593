"""The concept index ``concepts.yml``: whether its entries lead somewhere, and their page ``{concepts}``."""

import re
from collections import Counter
from itertools import groupby
from pathlib import Path

import yaml
from book_chapters import notebook
from book_reference import public_names
from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

REQUIRED = {"term", "zh", "chapter"}
PLACES = {"section", "equation", "check", "widget"}  # what an entry may name of its chapter's notebook
KEYS = REQUIRED | PLACES | {"code", "covers"}
TOOLS = "tools"  # stands in the place of a chapter's number for what belongs to none
HAN = re.compile("[\u4e00-\u9fff]")
HEADING = re.compile(r"^(#{1,6})[ \t]+([\d.]*\d[ \t]+)?(.+?)[ \t]*$", re.M)
# An equation is labelled in one of two ways: a math directive with :label:, or $$ ... $$ (label)
EQUATION = re.compile(r"^[`:]{3,}\{math\}.*\n(?::\w+:.*\n)*?:label:\s*(\S+)|\$\$\s*\(([\w:-]+)\)\s*$", re.M)


def load(path: Path):
    """Read a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def several(entry: dict, key: str) -> list:
    """Return what an entry says under a key, which may be nothing, one thing or a list."""
    said = entry.get(key, [])
    return said if isinstance(said, list) else [said]


def written(folder: Path) -> dict[int, Path]:
    """Return the notebook of each chapter that exists, by its number."""
    return {int(path.name[:2]): path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}


def planned(folder: Path) -> set[int]:
    """Return the numbers of the chapters that the book will have."""
    return {chapter["number"] for part in load(folder / "chapters.yml") for chapter in part["chapters"]}


def prose(nb) -> str:
    """Return the text of all Markdown cells."""
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def equation_labels(nb) -> set[str]:
    """Return the labels of a chapter's equations."""
    return {label for groups in EQUATION.findall(prose(nb)) for label in groups if label}


def sections(nb, chapter: int) -> list[tuple[str, str]]:
    """Return the anchor of each heading, and how a reader is sent there: ``6.9 The modality gap``.

    A heading below a numbered one, without a number of its own, is known by the number above it.
    """
    found, number = [], str(chapter)
    for marks, own, text in HEADING.findall(prose(nb)):
        number = own.strip() or (number if len(marks) > 2 else str(chapter))
        found.append((nodes.make_id(text), f"{number} {text}"))
    return found


def problems(entries: list[dict], plan: set[int], chapters: dict[int, Path], names: set[str]) -> list[str]:
    """Return what is wrong with the entries of an index, in words; nothing if each leads somewhere.

    Args:
        entries: the content of ``concepts.yml``.
        plan: the numbers of all chapters.
        chapters: the notebooks of those that are written.
        names: the dotted names of the objects that the reference lists.
    """
    terms = Counter(str(entry.get("term")).casefold() for entry in entries)
    found = [f"{term}: expected one entry, found {n}" for term, n in terms.items() if n > 1]
    for entry in entries:
        wrong = entry_problems(entry, plan, chapters.get(entry.get("chapter")), names)
        found += [f"{entry.get('term')}: {problem}" for problem in wrong]
    return found


def entry_problems(entry: dict, plan: set[int], path: Path | None, names: set[str]) -> list[str]:
    """Return what is wrong with one entry; ``path`` is its chapter's notebook, if that is written."""
    found = [f"expected a key {key}, found none" for key in sorted(REQUIRED - set(entry))]
    found += [f"expected no key {key}" for key in sorted(set(entry) - KEYS)]
    chapter, zh = entry.get("chapter"), entry.get("zh", "")
    if "zh" in entry and not HAN.search(str(zh)):
        found.append(f"expected a Chinese term, found {zh!r}")
    if "chapter" in entry and chapter != TOOLS and chapter not in plan:
        found.append(f"expected a chapter of chapters.yml or {TOOLS!r}, found {chapter!r}")
    found += [
        f"{name} is not in the reference of mmtutor" for name in several(entry, "code") if name not in names
    ]
    if chapter == TOOLS:
        return found + [f"expected no {key} without a chapter" for key in sorted(PLACES & set(entry))]
    if path is None:
        return found
    nb = notebook(path)
    section = nodes.make_id(str(entry.get("section")))
    n = [anchor for anchor, _ in sections(nb, chapter)].count(section)
    if n != 1:
        found.append(f"section {entry.get('section')!r}: expected one heading in {path.name}, found {n}")
    tags = {tag for cell in nb.cells for tag in cell.metadata.get("tags", [])}
    for key, there in ("equation", equation_labels(nb)), ("check", tags), ("widget", tags):
        kind = "" if key == "equation" else f"{key}:"
        missing = [name for name in several(entry, key) if name not in there or not name.startswith(kind)]
        found += [f"{key} {name!r}: expected it in {path.name}, found none" for name in missing]
    return found


def unlisted(entries: list[dict], names: set[str]) -> list[str]:
    """Return the names that no entry has."""
    return sorted(names - {name for entry in entries for name in several(entry, "code")})


def link(shown: nodes.Node, address: str) -> nodes.reference:
    """Return a link to a page beside this one."""
    return nodes.reference("", "", shown, internal=True, refuri=address)


def joined(parts: list[nodes.Node]) -> nodes.paragraph:
    """Set parts in one line, with dots between them."""
    line = nodes.paragraph()
    for part in parts:
        line += [nodes.Text("\u00a0· "), part] if line.children else part
    return line


class Concepts(SphinxDirective):
    """List the entries of ``concepts.yml`` from A to Z, then those that belong to no chapter."""

    def run(self):
        self.env.note_reread()  # chapters and modules change
        folder = Path(self.env.doc2path(self.env.docname)).parent
        notebooks, pages = written(folder).items(), self.env.found_docs  # a draft is no page yet
        self.chapters = {n: path for n, path in notebooks if self.env.path2doc(str(path)) in pages}
        entries = load(folder / "concepts.yml")
        names = public_names(Path(self.env.srcdir) / "mmtutor")
        for problem in problems(entries, planned(folder), self.chapters, names):
            logger.warning("concepts.yml: %s", problem, location=self.get_location())
        entries = [entry for entry in entries if set(entry) >= REQUIRED]
        entries.sort(key=lambda entry: (entry["chapter"] == TOOLS, entry["term"].casefold()))
        groups = groupby(entries, lambda e: "Tools" if e["chapter"] == TOOLS else e["term"][0].upper())
        return [self.group(title, list(group)) for title, group in groups]

    def group(self, title: str, entries: list[dict]) -> nodes.section:
        """A heading and the entries below it."""
        name = f"concepts {title.lower()}"
        section = nodes.section("", nodes.title("", title), ids=[nodes.make_id(name)], names=[name])
        items = []
        for entry in entries:
            chinese = nodes.inline("", entry["zh"], classes=["language-zh"])  # becomes lang="zh"
            term = nodes.term("", "", nodes.inline("", entry["term"]), nodes.Text(" "), chinese)
            term["ids"] = [nodes.make_id("concept " + entry["term"])]
            lines = filter(lambda line: line.children, (self.places(entry), self.code(entry)))
            items.append(nodes.definition_list_item("", term, nodes.definition("", *lines)))
        section += nodes.definition_list("", *items, classes=["mm-concepts"])
        return section

    def places(self, entry: dict) -> nodes.paragraph:
        """Where the chapter has it: section, equations, the cells that check it, widgets."""
        chapter = entry["chapter"]
        path = self.chapters.get(chapter)
        if path is None:
            return joined([] if chapter == TOOLS else [nodes.Text(f"chapter {chapter}, not written yet")])
        titles = dict(sections(notebook(path), chapter))
        anchor = nodes.make_id(str(entry.get("section")))
        parts = [link(nodes.Text(titles.get(anchor, path.stem)), f"{path.stem}.html#{anchor}")]
        for label in several(entry, "equation"):
            target = addnodes.pending_xref("", nodes.Text(label), reftype="eq", reftarget=label, refwarn=True)
            target.update_all_atts({"refdomain": "math", "refdoc": self.env.docname, "refexplicit": False})
            parts.append(nodes.inline("", "equation ", target))
        for key in ("check", "widget"):
            anchors = map(nodes.make_id, several(entry, key))
            parts += [link(nodes.Text(key), f"{path.stem}.html#{anchor}") for anchor in anchors]
        return joined(parts)

    def code(self, entry: dict) -> nodes.paragraph:
        """The objects that compute it, each with a link to the reference."""
        short = [name.removeprefix("mmtutor.") for name in several(entry, "code")]
        return joined([link(nodes.literal("", s), f"api.html#mmtutor.{s}") for s in short])


def name_cells(app, doctree) -> None:
    """Give cells with a check or a widget an anchor: the tag ``check:eq-mean`` becomes ``#check-eq-mean``."""
    named = set()
    for cell in doctree.findall(nodes.container):
        for name in cell["classes"]:
            if name.startswith(("tag_check:", "tag_widget:")) and name not in named:
                named.add(name)
                cell["ids"].append(nodes.make_id(name.removeprefix("tag_")))


def setup(app):
    """Called by Sphinx."""
    app.connect("doctree-read", name_cells)
    app.add_directive("concepts", Concepts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
