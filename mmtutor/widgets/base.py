"""What the book's widgets share: one class, alive in Jupyter and Colab, and alive on the built site too."""

import base64
import importlib
import json
import sys
import zlib
from contextlib import suppress
from functools import cache
from html import escape
from pathlib import Path

import anywidget

from ..style import INK, MODALITY

FOLDER = Path(__file__).parent
FRAMEWORK_TRAITS = set(anywidget.AnyWidget.class_trait_names())


def script(*names: str) -> str:
    """Return a widget's JavaScript: the shared helpers followed by its own files ``<name>.js``."""
    return "".join((FOLDER / f"{name}.js").read_text("utf-8") for name in ("shared", *names))


def style(name: str) -> str:
    """Return a widget's style: the book's colours as variables, the shared rules, the file ``<name>.css``."""
    colours = "".join(f"--mmt-{modality}:{colour};" for modality, colour in MODALITY.items())
    files = [(FOLDER / f"{file}.css").read_text("utf-8") for file in ("shared", name)]
    return f".mmt{{{colours}--mmt-ink:{INK}}}\n" + "".join(files)


class BookWidget(anywidget.AnyWidget):
    """A widget that lives twice: driven by Python in a notebook, by its stored state on a static page.

    A subclass names its files (``_esm = script(...)``, ``_css = style(...)``), keeps its state in traitlets
    tagged ``sync=True`` (arrays as ``Bytes``), and says in :meth:`summary` what a reader would see. Its
    JavaScript defines ``render({model, el})``; both lives call it.

    Example:
        >>> from mmtutor.widgets import ContrastivePlayground
        >>> ContrastivePlayground()
        ContrastivePlayground(loss='info_nce')
    """

    def __init__(self, *args, **kwargs):
        _announce()
        super().__init__(*args, **kwargs)

    def summary(self) -> str:
        """Say in plain words what the widget shows; stands in its place where no script may run."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method summary(), found none")

    def picture(self) -> bytes | None:
        """Return a small WebP picture of the widget to stand above the summary, or None."""
        return None

    def to_html(self) -> str:
        """Return the widget as self-contained HTML: no kernel, no library and no network needed.

        Example:
            >>> from mmtutor.widgets import ContrastivePlayground
            >>> "<script" in ContrastivePlayground().to_html()
            True
        """
        kind = type(self).__name__
        code = f"const WIDGET = {kind!r};\n{self._esm}{(FOLDER / 'page.js').read_text('utf-8')}"
        image = self.picture()
        drawing = f'<img alt="" src="data:image/webp;base64,{_base64(image)}">' if image else ""
        return (
            f'<div class="mmt-page tex2jax_ignore mathjax_ignore" data-mmt-widget="{kind}">'
            f"<style>{self._css}</style>"
            f'<div class="mmt mmt-fallback">{drawing}<p>{escape(self.summary())}</p>'
            f"<p>To use the widget, allow scripts on this page, or run the cell in a notebook.</p></div>"
            f'<script type="application/json">{self._state_as_json()}</script>'
            f'<script type="module">{code}</script></div>'
        )

    def _state_as_json(self) -> str:
        values, packed = {}, {}
        for name in sorted(set(self.trait_names(sync=True)) - FRAMEWORK_TRAITS):
            value = getattr(self, name)
            if name.startswith("_"):
                continue
            if isinstance(value, bytes):
                packed[name] = _base64(_deflate(value))
            else:
                values[name] = value
        state = json.dumps({"values": values, "bytes": packed}, ensure_ascii=False, allow_nan=False)
        return state.replace("<", "\\u003c")  # so that no label can end the script element

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        return {**data, "text/html": self.to_html()}, metadata


@cache
def _announce() -> None:
    """Once, ask Colab for the manager that shows widgets other than its own; elsewhere do nothing."""
    if "google.colab" in sys.modules:
        with suppress(ImportError, AttributeError):  # an imitation of Colab may lack it
            importlib.import_module("google.colab.output").enable_custom_widget_manager()


def _deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, strategy=zlib.Z_FILTERED)  # for small random numbers: they hardly repeat
    return compressor.compress(data) + compressor.flush()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
