"""What the theme needs: MathJax from the site itself, no live-kernel script, the name by the logo, and that
pages can be read where a browser runs no scripts or keeps nothing.
"""

import re
import shutil
from pathlib import Path

import mathjax  # the package django-static-mathjax, which carries MathJax 3 and its fonts

MATHJAX = Path(mathjax.__file__).parent / "static" / "mathjax" / "es5"
# TeX in, HTML out; what `\require` and the menu's speech add is loaded on demand, and in English
WANTED = (
    "tex-chtml.js",
    "output/chtml/fonts/woff-v2",
    "input/tex/extensions",
    "a11y",
    "sre/mathmaps/en.json",
)
# one icon in the theme's script: its name, width, height, other names, code point, one outline or two
ICON = re.compile(r'"?([a-z0-9-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\["[^"]*","[^"]*"\])\],?')
# what does not work without scripts, said where it matters
NOTE = (
    '<noscript><p class="mm-noscript">Scripts are off here: formulas stand as TeX, and each widget as a '
    'picture and a sentence. Everything else is on the page; the <a href="{cover}">cover</a> lists the '
    "chapters.</p></noscript>"
)
NEEDS_SCRIPTS = ('class="math', "data-mmt-widget")


def leave_thebe_out(app, _config) -> None:
    """Jupyter Book always loads sphinx-thebe, whose script is emitted twice and fails on every page."""
    for listeners in list(app.events.listeners.values()):
        for listener in list(listeners):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)
    app.registry.css_files = [file for file in app.registry.css_files if "thebe" not in file[0]]


def name_the_logo(_app, config) -> None:
    """Write the title beside the logo (Jupyter Book has no setting for it)."""
    config.html_theme_options["logo"] = {"text": config.html_title, "alt_text": ""}
    config.html_theme_options["navbar_persistent"] = []  # one search field is enough


def copy_mathjax(app) -> None:
    """Copy the wanted part of MathJax to ``_static/mathjax``, once."""
    target = Path(app.outdir) / "_static" / "mathjax"
    for name in WANTED:
        source, copy = MATHJAX / name, target / name
        if copy.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)


def keep_used_icons(app, error) -> None:
    """Keep the icons that the pages name: the theme brings two thousand, half of a page's weight."""
    script = Path(app.outdir) / "_static" / "scripts" / "fontawesome.js"
    if error or not script.exists():
        return
    sources = [*Path(app.outdir).rglob("*.html"), *script.parent.glob("*theme.js")]
    named = {name for source in sources for name in re.findall(r"fa-([a-z0-9-]+)", source.read_text("utf-8"))}

    def keep(icon: re.Match) -> str:
        names = {icon[1], *re.findall(r'"([a-z0-9-]+)"', icon[2])}
        return icon[0] if names & named else ""

    script.write_text(ICON.sub(keep, script.read_text("utf-8")), "utf-8")


def stand_without_scripts(_app, _pagename, _templatename, context, _doctree) -> None:
    """Before the theme asks for ``localStorage``, load what stands in for it; say what needs scripts."""
    address = context["pathto"]("_static/storage.js", 1)
    context["metatags"] = f'{context.get("metatags", "")}<script src="{address}"></script>'
    if any(mark in context.get("body", "") for mark in NEEDS_SCRIPTS):
        context["body"] = NOTE.format(cover=context["pathto"](context["root_doc"])) + context["body"]


def light_without_scripts(app, error) -> None:
    """Begin every page in light colours: what the theme calls "auto" has none until its script runs."""
    for page in [] if error else Path(app.outdir).rglob("*.html"):
        text = page.read_text("utf-8")
        if (light := text.replace(' data-theme="auto"', ' data-theme="light"', 1)) != text:
            page.write_text(light, "utf-8")


def setup(app):
    """Called by Sphinx."""
    app.connect("config-inited", leave_thebe_out)
    app.connect("config-inited", name_the_logo)
    app.connect("builder-inited", copy_mathjax)
    app.connect("html-page-context", stand_without_scripts)
    app.connect("build-finished", keep_used_icons)
    app.connect("build-finished", light_without_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
