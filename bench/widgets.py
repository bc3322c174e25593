"""What the book's widgets weigh on a page, beside ipywidgets' own embedding of the same state: bytes.

``make bench``, or ``python -m bench.widgets``. The widgets are those that the chapters' outputs hold.
"""

import base64
import gzip
import json
import re
import zlib
from functools import cache

import anywidget
import nbformat
import traitlets
from ipywidgets.embed import dependency_state, embed_snippet

import mmtutor.widgets
from bench._measure import ROOT, SECONDS, row
from bench._table import number

TITLE = "Widgets"
ABOUT = """\
A widget stands on its page with its state, its code and its style, and asks nothing of anyone.
*ipywidgets* is what its `embed_snippet` writes for a widget of the same state, code and style. It is
not all that such a page needs: it loads the widgets' manager, a module loader and anywidget from
elsewhere, and their bytes are not counted here."""

LIMIT, PEER = 300, "ipywidgets"  # KiB
STATE = re.compile(r'<script type="application/json">(.*?)</script>', re.S)
KIND = re.compile(r'data-mmt-widget="(\w+)"')


@cache
def stored() -> dict[str, str]:
    """Return the page of each widget that stands in a chapter's outputs."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "book").glob("[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            pages = [output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])]
            for page in filter(KIND.search, pages):
                name = f"{path.stem[:2]} {KIND.search(page)[1]}"
                again = sum(other.split(", ")[0] == name for other in found)
                found[f"{name}, {again + 1}" if again else name] = page
    return found


def state_of(page: str) -> dict:
    """Return the state that a widget's page carries; arrays as bytes."""
    state = json.loads(STATE.search(page)[1])
    return state["values"] | {k: zlib.decompress(base64.b64decode(v)) for k, v in state["bytes"].items()}


def embedded(page: str) -> str:
    """Return the same state, code and style as ipywidgets embeds them."""
    kind, values = getattr(mmtutor.widgets, KIND.search(page)[1]), state_of(page)
    traits = {name: traitlets.Any().tag(sync=True) for name in values}
    same = type("Same", (anywidget.AnyWidget,), {"_esm": kind._esm, "_css": kind._css, **traits})
    widget = same(**values)
    state = dependency_state([widget], drop_defaults=False)  # its code is one of them
    html = embed_snippet(views=[widget], state=state)
    widget.close()
    return html


def kib(text: str, compressed: bool) -> float:
    """Return the size of a text in KiB."""
    data = text.encode()
    return round(len(gzip.compress(data, mtime=0) if compressed else data) / 1024, 1)


def rows(seconds: float = SECONDS) -> list[dict]:
    """Return all figures of this file; it measures no time."""
    pages = {name: {PEER: embedded(page), "mmtutor": page} for name, page in stored().items()}
    return [
        row(
            table, name, "KiB", PEER, {"mmtutor": [PEER]}, {v: [kib(t, compressed)] for v, t in texts.items()}
        )
        for table, compressed in (("As it stands", False), ("As a server sends it, gzipped", True))
        for name, texts in pages.items()
    ]


def summary(rows: list[dict]) -> str:
    """Say how near the heaviest widget is to the limit."""
    plain = [row for row in rows if row["table"] == "As it stands"]
    heaviest = max(plain, key=lambda row: row["values"]["mmtutor"][0])
    size = number(heaviest["values"]["mmtutor"][0])
    return f"The heaviest is {heaviest['case']} with {size} KiB; the limit is {LIMIT} KiB."


if __name__ == "__main__":
    from bench._table import show

    show(rows())
