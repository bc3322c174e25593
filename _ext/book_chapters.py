"""What pages say about the chapters, read from the notebooks: measured times, live widgets, what exists."""

from functools import cache
from html import escape
from pathlib import Path

import nbformat
import yaml
from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


@cache
def read(path: Path, _modified: float):
    """Read a notebook, once per version of its file."""
    return nbformat.read(path, as_version=4)


def notebook(path: Path):
    """Return a notebook, or None if the file does not exist."""
    return read(path, path.stat().st_mtime) if path.exists() else None


def html(content: str) -> nodes.raw:
    """Wrap HTML for the page."""
    return nodes.raw("", content, format="html")


def times(nb) -> str:
    """Say how long a chapter took, as measured: on a CPU and on a GPU."""
    noted, said = nb.metadata.get("mmtutor", {}), []
    for name, run in (("CPU", noted), ("GPU", noted.get("gpu", {}))):
        figure = f"{run['seconds']:.0f} s on {run['device']}" if "seconds" in run else "not run"
        said.append(f"<strong>{name}</strong> {escape(figure)}")
    return " · ".join(said)


def add_times(app, doctree) -> None:
    """Put the measured times and the links that start a chapter elsewhere under its title."""
    docname, path = app.env.docname, Path(app.env.doc2path(app.env.docname))
    title = next(doctree.findall(nodes.title), None)
    if path.suffix != ".ipynb" or title is None:
        return
    options = app.config.html_theme_options
    place = options["repository_url"].removeprefix("https://github.com/"), options["repository_branch"]
    colab = "https://colab.research.google.com/github/{}/blob/{}/{}.ipynb".format(*place, docname)
    binder = "https://mybinder.org/v2/gh/{}/{}?urlpath=lab/tree/{}.ipynb".format(*place, docname)
    links = f'<a href="{colab}">Open in Colab</a> · <a href="{binder}">Open in Binder</a>'
    line = f'<p class="mm-times"><span>{times(notebook(path))}</span> <span>{links}</span></p>'
    title.parent.insert(title.parent.index(title) + 1, html(line))


class Widget(SphinxDirective):
    """Show the widget of a chapter on another page: ``{widget} 06_contrastive widget:search``.

    The first argument names the notebook beside this page, the second a tag of the cell with the widget.
    The content of the directive, if there is any, stands in as long as the chapter does not exist.
    """

    required_arguments = 2
    has_content = True

    def run(self):
        name, tag = self.arguments
        path = Path(self.env.doc2path(self.env.docname)).with_name(name + ".ipynb")
        self.env.note_dependency(str(path))
        nb = notebook(path)
        cells = [cell for cell in nb.cells if tag in cell.metadata.get("tags", [])] if nb else []
        outputs = [output for cell in cells for output in cell.get("outputs", []) if "data" in output]
        found = [output["data"]["text/html"] for output in outputs if "text/html" in output["data"]]
        if found:
            return [html(f'<div class="mm-widget">{"".join(found)}</div>')]
        if nb is not None or not self.content:
            logger.warning(
                "no HTML output in a cell tagged %r of %s", tag, path.name, location=self.get_location()
            )
        fallback = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, fallback)
        return [fallback]


class Maps(SphinxDirective):
    """Draw the book's recurring picture: ``{maps}``, or with an arrow lit, ``{maps} align``."""

    optional_arguments = 1

    def run(self):
        from mmtutor.picture import maps_picture  # needs the package, so only where it is asked for

        return [html(maps_picture(*self.arguments)._repr_html_())]


class Chapters(SphinxDirective):
    """List the chapters of ``chapters.yml``, with a link and the measured time for those that exist."""

    def run(self):
        folder = Path(self.env.doc2path(self.env.docname)).parent
        plan = folder / "chapters.yml"
        self.env.note_dependency(str(plan))
        self.env.note_reread()  # a chapter may have come since
        blocks = []
        for part in yaml.safe_load(plan.read_text(encoding="utf-8")):
            rows = "".join(self.row(folder, chapter) for chapter in part["chapters"])
            blocks.append(
                f'<section class="mm-part"><p class="mm-part-name">{escape(part["part"])}</p>{rows}</section>'
            )
        return [html(f'<div class="mm-chapters">{"".join(blocks)}</div>')]

    def row(self, folder: Path, chapter: dict) -> str:
        """One chapter: number, title, what it asks, and whether it can be read yet."""
        number, title = f"{chapter['number']:02}", escape(chapter["title"])
        path = next(folder.glob(f"{number}_*.ipynb"), None)
        link = f'<a href="{path.stem}.html">{title}</a>' if path else title
        status = times(notebook(path)) if path else "not written yet"
        state = "ready" if path else "planned"
        return (
            f'<div class="mm-chapter {state}"><span class="mm-number">{number}</span>'
            f'<p class="mm-title">{link}</p><p class="mm-question">{escape(chapter["question"])}</p>'
            f'<p class="mm-status">{status}</p></div>'
        )


def setup(app):
    """Called by Sphinx."""
    app.connect("doctree-read", add_times)
    app.add_directive("widget", Widget)
    app.add_directive("maps", Maps)
    app.add_directive("chapters", Chapters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
