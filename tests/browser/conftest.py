"""A real browser for the tests: the system's Chromium, reaching this machine and nothing else."""

import functools
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@dataclass
class Visit:
    """A page opened in the browser, and what went wrong on it so far."""

    page: Page
    errors: list[str] = field(default_factory=list)  # console errors and uncaught exceptions
    outside: list[str] = field(default_factory=list)  # addresses asked for outside of this machine; blocked


@pytest.fixture(scope="session")
def chromium() -> Browser:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.fail("no Chromium found: install one, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium) -> Callable[..., Visit]:
    """Open an address in a fresh context: ``open_page(url, color_scheme="dark", viewport=...)``."""
    contexts = []

    def visit(url: str, **options) -> Visit:
        context = chromium.new_context(**options)
        contexts.append(context)
        seen = Visit(context.new_page())

        def route(request):
            if request.request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
                request.continue_()
            else:
                seen.outside.append(request.request.url)
                request.abort()

        def console(message):
            if message.type in ("error", "warning"):
                seen.errors.append(message.text)

        context.route("**/*", route)
        seen.page.on("console", console)
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.goto(url)
        return seen

    yield visit
    for context in contexts:
        context.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def serve() -> Callable[[Path], str]:
    """Serve a folder on the loopback and return its address: ``serve(folder) -> "http://127.0.0.1:<port>"``."""
    servers = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


PLAIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>widgets</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>@media (prefers-color-scheme: dark) {{ html {{ background: #121212; color: #ced6dd }} }}</style>
<main><h1>Widgets</h1>{}</main></html>"""
INK = """canvas => { const {width, height} = canvas;
  const copy = new OffscreenCanvas(width, height).getContext('2d');
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(0, 0, width, height).data.filter((x, i) => i % 4 === 3 && x > 0).length; }"""
DRAWN = """document.querySelector('.mmt-try')
  && [...document.querySelectorAll('.mmt-stage canvas')].every(canvas => canvas.style.height)"""


@pytest.fixture(scope="session")
def publish(serve, tmp_path_factory) -> Callable[[dict], str]:
    """Put widgets on plain pages: ``publish({"name": widget})`` serves ``name.html``, ``<Class>.js``."""

    def pages(widgets: dict) -> str:
        folder = tmp_path_factory.mktemp("widgets")
        for name, widget in widgets.items():
            (folder / f"{name}.html").write_text(PLAIN_PAGE.format(widget.to_html()), "utf-8")
            (folder / f"{type(widget).__name__}.js").write_text(widget._esm, "utf-8")
        together = "".join(widget.to_html() for widget in [*widgets.values(), *widgets.values()])
        (folder / "all twice.html").write_text(PLAIN_PAGE.format(together), "utf-8")
        return serve(folder)

    return pages


@pytest.fixture(scope="module")
def address(widgets, publish) -> str:
    """Where the module's ``widgets`` are served."""
    return publish(widgets)


@pytest.fixture(scope="session")
def ink() -> Callable[[Locator], int]:
    """Count the pixels of a canvas that are drawn on."""
    return lambda canvas: canvas.evaluate(INK)


@pytest.fixture(scope="session")
def boxes_apart() -> Callable[..., bool]:
    """Say whether no two of some boxes (or of what locators find) overlap by more than ``slack`` pixels."""

    def apart(found: list, slack: float = 1.0) -> bool:
        boxes = [place.bounding_box() if isinstance(place, Locator) else place for place in found]
        for a, b in itertools.combinations(boxes, 2):
            across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
            down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
            if across > slack and down > slack:
                return False
        return True

    return apart


@pytest.fixture
def show(address, open_page) -> Callable[..., Page]:
    """Open a page of the module's ``address``, wait until its widget is drawn; nothing may go wrong."""
    visits = []

    def page_of(name: str, **options) -> Page:
        visits.append(open_page(f"{address}/{name}.html", **options))
        visits[-1].page.wait_for_function(DRAWN)
        return visits[-1].page

    yield page_of
    for visit in visits:
        assert visit.errors == [] and visit.outside == []


@pytest.fixture
def stop_the_clock() -> Callable[[Page], None]:
    """From then on the page's time passes only in ``page.clock.run_for(milliseconds)``."""

    def stop(page: Page) -> None:
        page.clock.install(time=0)
        page.clock.pause_at(10_000)

    return stop
