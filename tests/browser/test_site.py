"""The built site in a real browser, every page of it, with all outside requests refused."""

import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import axe_playwright_python
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
OF_THE_THEME = ("search", "genindex")  # pages that no source file stands for
HEAVIEST = 6e6  # bytes of one page with all that it loads, not compressed


def pages() -> list[str]:
    """Every page of the table of contents, or the one that CHAPTER asks for."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found = [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]
    if chapter := os.environ.get("CHAPTER"):
        return [page for page in found if Path(page).name.startswith(chapter + "_")]
    return [*found, *OF_THE_THEME]


@pytest.fixture(scope="session")
def site(serve) -> str:
    """The address of the built site; Sphinx builds what has changed since."""
    builder = Path(sys.executable).with_name("jupyter-book")
    command = [builder, "build", "-W", "-n", "--keep-going", "--quiet", "."]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]
    return serve(SITE).rstrip("/")


@pytest.fixture(scope="session")
def visit(site, chromium):
    """Opens a page, once for each theme, and notes what the browser says and asks for meanwhile."""

    @cache
    def open_page(name: str, theme: str):
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme=theme)
        page = context.new_page()
        page.errors, page.outside, page.weight = [], [], 0

        def guard(route):
            inside = urlparse(route.request.url).hostname == "127.0.0.1"
            page.outside += [] if inside else [route.request.url]
            route.continue_() if inside else route.abort()

        def weigh(response):
            page.weight += int(response.headers.get("content-length", 0))
            page.errors += [f"{response.status} {response.url}"] if response.status >= 400 else []

        page.route(re.compile("^http"), guard)
        page.on("response", weigh)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda said: page.errors.append(said.text) if said.type == "error" else None)
        page.goto(f"{site}/{name}.html", wait_until="networkidle")
        page.evaluate("window.MathJax?.startup?.promise")
        page.wait_for_function("!document.querySelector('.mmt-page > .mmt-fallback')", timeout=30_000)
        return page

    return open_page


@pytest.mark.parametrize("name", pages())
def test_page_has_no_console_error_and_asks_no_other_host(visit, name):
    for theme in ("light", "dark"):
        page = visit(name, theme)
        assert page.locator("html").get_attribute("data-theme") == theme
        assert page.errors == []
        assert page.outside == []


@pytest.mark.parametrize("theme", ("light", "dark"))
@pytest.mark.parametrize("name", pages())
def test_page_has_no_serious_accessibility_finding(visit, name, theme):
    page = visit(name, theme)
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    findings = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [
        f"{finding['id']}: {finding['help']}\n    "
        + "\n    ".join(node["html"][:200] for node in finding["nodes"])
        for finding in findings
        if finding["impact"] in ("serious", "critical")
    ]
    assert not serious, "\n".join(serious)


@pytest.mark.parametrize("name", pages())
def test_mathematics_is_typeset(visit, name):
    page = visit(name, "light")
    formulas, typeset = page.locator(".math"), page.locator(".math mjx-container")
    assert typeset.count() >= formulas.count()
    assert page.locator("mjx-merror").all_text_contents() == []
    assert not re.search(r"\$\$|\\\(|\\\[", page.locator("main").inner_text()), "TeX shown as text"


@pytest.mark.parametrize("name", pages())
def test_icons_are_drawn(visit, name):
    page = visit(name, "light")
    outlines = (
        "icons => icons.map(icon => [icon.dataset.icon, icon.querySelector('path')?.getAttribute('d')])"
    )
    icons = page.locator("svg[data-icon]").evaluate_all(outlines)
    assert len(icons) > 3
    assert [icon for icon, outline in icons if not outline] == []


@pytest.mark.parametrize("name", pages())
def test_widgets_are_drawn(visit, name):
    page = visit(name, "light")
    for widget in page.locator("[data-mmt-widget]").all():
        assert widget.locator("canvas, svg, button, input").count() > 0
        assert widget.bounding_box()["height"] > 100


@pytest.mark.parametrize("name", pages())
def test_page_fits_a_phone(visit, name):
    page = visit(name, "light")
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_timeout(150)
    width = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size({"width": 1280, "height": 900})
    assert width <= 360


@pytest.mark.parametrize("name", pages())
def test_page_weight(visit, name, record_property):
    page = visit(name, "light")
    record_property("bytes", page.weight)
    print(f"{name}: {page.weight / 1e6:.2f} MB, uncompressed")
    assert 0 < page.weight < HEAVIEST


class Links(HTMLParser):
    """What a page links to or loads, and the places in it that can be linked to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.ids = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes.get("id"), attributes.get("name")}
        address = attributes.get("src") or attributes.get("href")
        if address and tag != "use" and not address.startswith("data:"):
            self.links.add(address)


def test_links_within_the_site_are_alive(site):
    read = {path: Links(path) for path in SITE.rglob("*.html") if "_static" not in path.parts}
    dead = []
    for path, page in read.items():
        for link in page.links:
            address, place = urldefrag(urljoin(path.as_uri(), link))
            target = Path(unquote(urlparse(address).path))
            if not address.startswith("file:"):
                continue
            if not target.is_file() or (target in read and place and place not in read[target].ids):
                dead.append(f"{path.relative_to(SITE)}: {link}")
    assert not dead, "\n".join(sorted(dead))


def test_every_page_of_the_site_is_visited():
    if os.environ.get("CHAPTER"):
        pytest.skip("one chapter only")
    made = {str(path.relative_to(SITE).with_suffix("")) for path in SITE.rglob("*.html")}
    made = {name for name in made if not name.startswith("_")}
    assert made - set(pages()) <= {
        "index",
        "prf-prf",
    }  # a redirection to the cover, an empty list of theorems


def test_the_cover_draws_the_picture_and_lists_every_chapter(visit):
    page = visit("book/intro", "light")
    plan = yaml.safe_load((ROOT / "book" / "chapters.yml").read_text(encoding="utf-8"))
    planned = [chapter["title"] for part in plan for chapter in part["chapters"]]
    assert page.locator(".mm-chapter .mm-title").all_text_contents() == planned
    assert page.locator(".mm-chapter.ready a").count() == len(list((ROOT / "book").glob("[0-9]*_*.ipynb")))
    assert page.locator(".mm-maps svg.wide").is_visible()


# -- without storage, without scripts ------------------------------------------------------------------------

REFUSE = """for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, {
  configurable: true, get() { throw new DOMException("The operation is insecure.", "SecurityError"); } });"""
MISSING = 'delete window.localStorage; Object.defineProperty(window, "localStorage", {configurable: true});'
A_CHAPTER = next(iter(name for name in pages() if re.search(r"/\d\d_", name)), "book/intro")


@pytest.fixture
def page_without(site, chromium):
    """Opens pages in a browser that lacks something: ``page_without(name, before=script, **context)``."""
    contexts = []

    def open_page(name: str, before: str = "", **options):
        contexts.append(chromium.new_context(**options))
        page, errors = contexts[-1].new_page(), []
        page.add_init_script(before or "0")
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(f"{site}/{name}.html", wait_until="networkidle")
        return page, errors

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("before", [REFUSE, MISSING], ids=["refused", "missing"])
def test_everything_works_where_the_browser_keeps_nothing(page_without, before):
    page, errors = page_without(A_CHAPTER, before, color_scheme="dark")
    html = page.locator("html")
    assert html.get_attribute("data-theme") == "dark"
    seen = set()
    for _ in range(3):  # light, dark and what the system says, in turn
        page.locator(".theme-switch-button:visible").click()
        seen.add((html.get_attribute("data-mode"), html.get_attribute("data-theme")))
    assert seen == {("light", "light"), ("dark", "dark"), ("auto", "dark")}
    page.locator(".search-button:visible, .search-button-field:visible").first.click()
    assert page.locator("#pst-search-dialog").is_visible()
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('.mmt-page > .mmt-fallback')")
    assert page.locator(".math mjx-container").count() > 0
    assert page.locator(".cell_output .mm-claims").count() > 0  # what book.js does
    assert errors == []


def test_the_theme_is_kept_from_page_to_page_where_the_browser_keeps_it(page_without):
    page, errors = page_without(A_CHAPTER, color_scheme="light")
    while page.locator("html").get_attribute("data-theme") != "dark":
        page.locator(".theme-switch-button:visible").click()
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark" and errors == []


def test_every_page_can_be_read_without_scripts(page_without, site):
    page, _ = page_without(pages()[0], java_script_enabled=False, viewport={"width": 390, "height": 800})
    for name in [name for name in pages() if name not in OF_THE_THEME]:
        page.goto(f"{site}/{name}.html")
        assert page.locator("html").get_attribute("data-theme") == "light", name  # "auto" has no colours
        assert len(page.locator("article").inner_text()) > 500, name
        for figure in page.locator("article figure img").all():
            assert figure.is_visible(), name
        for widget in page.locator("[data-mmt-widget]").all():
            told = widget.locator(".mmt-fallback")
            assert told.is_visible() and told.locator("img").is_visible(), name
            assert len(told.locator("p").first.inner_text()) > 30, name
            assert "allow scripts" in told.inner_text(), name
        needs = page.locator(".math, [data-mmt-widget]").count() > 0
        assert page.locator(".mm-noscript:visible").count() == needs, name


def test_guesses_and_solutions_open_without_scripts(page_without):
    page, _ = page_without(A_CHAPTER, java_script_enabled=False)
    guess = page.locator(".predict details").first
    assert not guess.locator("p").is_visible()
    guess.locator("summary").click()
    assert guess.locator("p").is_visible()
    solution = page.locator('.cell[class*="tag_solution"] details').first
    solution.locator("summary").click()
    assert solution.locator("pre").first.is_visible()
