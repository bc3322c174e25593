"""What the pages of the built site weigh and load, beside nbconvert's page of the same chapter: bytes.

``make bench``, or, once the site is built, ``python -m bench.pages``.
"""

import gzip
import logging
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlparse

from nbconvert import HTMLExporter

from bench._measure import ROOT, SECONDS, row

TITLE = "Pages"
ABOUT = """\
Bytes as a server sends them, gzipped (fonts as they are: they are compressed already). The scripts,
styles and fonts are the same for all pages, so that a browser fetches them once. The peer is
nbconvert's page of the same chapter: it holds its styles, and loads its scripts from elsewhere, which
are not counted. So the page alone flatters ours, and the page with scripts and styles flatters the
peer."""

SITE = ROOT / "_build" / "html"
PEER, ALONE, WHOLE = "nbconvert", "this book, page alone", "this book, with scripts and styles"
FONT = re.compile(r"url\([\"']?([^\"')]+\.woff2?)")


class Linked(HTMLParser):
    """The addresses of the scripts and styles that a page names."""

    def __init__(self, html: str):
        super().__init__()
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "script" and given.get("src"):
            self.scripts.append(given["src"])
        if tag == "link" and given.get("rel") == "stylesheet":
            self.styles.append(given["href"])


@cache
def sizes(file: Path) -> tuple[float, float]:
    """Return the size of a file in KiB, as it is and gzipped (a font as it is: it is compressed already)."""
    data = file.read_bytes()
    sent = data if file.suffix in (".woff", ".woff2") else gzip.compress(data, mtime=0)
    return len(data) / 1024, len(sent) / 1024


def files(page: Path, addresses: list[str]) -> list[Path]:
    """Return the files that addresses of a page lead to, each once; those elsewhere are left out."""
    inside = [address for address in addresses if not urlparse(address).netloc]
    found = [(page.parent / urlparse(address).path).resolve() for address in inside]
    return [file for file in dict.fromkeys(found) if file.exists()]


def fonts(styles: list[Path]) -> list[Path]:
    """Return the fonts that styles name; a browser fetches those whose letters stand on the page."""
    return [font for style in styles for font in files(style, FONT.findall(style.read_text("utf-8")))]


def page_rows(page: Path) -> tuple[dict, dict[str, list[Path]]]:
    """Return what a page weighs, and the files that it names."""
    linked = Linked(page.read_text("utf-8"))
    named = {"scripts": files(page, linked.scripts), "styles": files(page, linked.styles)}
    named["fonts"] = fonts(named["styles"])
    addresses = [*linked.scripts, *linked.styles]
    raw, sent = sizes(page)
    whole = sent + sum(sizes(file)[1] for kind in ("scripts", "styles") for file in named[kind])
    figures = {
        "KiB": round(raw, 1),
        "gzipped": round(sent, 1),
        "with scripts and styles, gzipped": round(whole, 1),
        "files from elsewhere": sum(bool(urlparse(address).netloc) for address in addresses),
    }
    return {"table": "Every page", "of": "page", "case": page.stem, "figures": figures}, named


def nbconvert_page(notebook: Path) -> str:
    """Return the page that nbconvert makes of a chapter."""
    logging.getLogger("traitlets").setLevel(logging.ERROR)  # it warns of pictures without a text
    return HTMLExporter().from_filename(str(notebook))[0]


def rows(seconds: float = SECONDS) -> list[dict]:
    """Return all figures of this file, none if the site is not built; it measures no time."""
    if not (SITE / "index.html").exists():
        return []
    weights, compared, common = [], [], {}
    for page in sorted((SITE / "book").glob("*.html")):
        weight, named = page_rows(page)
        weights.append(weight)
        for kind, found in named.items():
            common.setdefault(kind, {}).update(dict.fromkeys(found))
        notebook = ROOT / "book" / f"{page.stem}.ipynb"
        if notebook.exists():
            figures = weight["figures"]
            peer = len(gzip.compress(nbconvert_page(notebook).encode(), mtime=0)) / 1024
            values = {PEER: [round(peer, 1)], ALONE: [figures["gzipped"]]}
            values[WHOLE] = [figures["with scripts and styles, gzipped"]]
            rivals = {ALONE: [PEER], WHOLE: [PEER]}
            compared.append(row("Chapters, gzipped", page.stem, "KiB", PEER, rivals, values))
    loaded = [
        {"table": "What the pages load", "of": "kind", "case": kind, "figures": totals(list(found))}
        for kind, found in common.items()
    ]
    return [*compared, *weights, *loaded]


def totals(found: list[Path]) -> dict:
    """Return the number of files and what they weigh together."""
    raw, sent = (sum(sizes(file)[i] for file in found) for i in (0, 1))
    return {"files": str(len(found)), "KiB": round(raw, 1), "gzipped": round(sent, 1)}


if __name__ == "__main__":
    from bench._table import show

    show(rows())
