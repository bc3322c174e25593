"""What a chapter shows: where it runs, real source code, figures with alternative text, questions."""

import ast
import base64
import hashlib
import inspect
import io
import json
import sys
import textwrap
from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from PIL import Image

from .ledger import NOT_RUN, results_folder
from .runtime import device, scale

SHORTEST_ALT = 20  # characters; less says "a plot", not what it shows
MODELS = {"cpu": "small models", "gpu": "larger models"}  # by scale


def here(chapter: str) -> None:
    """Say in one line where a chapter runs, at which scale, and how long that took when it was timed.

    The times are those of ``chapters.json`` among the recorded runs; `make execute` writes them.

    Args:
        chapter: name of the notebook, for example "12_gan".

    Raises:
        ValueError: if the book has no chapter of this name, as far as is known here, or if the file with the
            times is damaged; the message names the file.

    Example:
        >>> here("12_gan")  # doctest: +ELLIPSIS
        Chapter 12 on ..., ... models (scale "..."): ...
    """
    folder, times = results_folder(), _recorded_times()
    known = {*times, *(path.stem for path in folder.parent.glob("book/[0-9]*.ipynb"))}
    if known and chapter not in known:
        raise ValueError(f"chapter: expected one of {sorted(known)}, found {chapter!r}")
    kind, size = device().type, scale()
    place = torch.cuda.get_device_name() if kind == "cuda" else {"cpu": "the CPU"}.get(kind, kind.upper())
    timed = times.get(chapter, {}).get(size)
    time = f"{_about(timed['seconds'])} (timed on: {timed['device']})" if timed else "not timed at this scale"
    number = chapter.split("_")[0].lstrip("0")
    print(f'Chapter {number} on {place}, {MODELS[size]} (scale "{size}"): {time}.')


def show(*objects) -> None:
    """Show the source of functions, classes or methods as it is in the library, without docstrings.

    Args:
        *objects: what to show; several are shown one after the other.

    Raises:
        TypeError: if an object has no Python source (a number, a built-in function).

    Example:
        >>> show(show)  # doctest: +ELLIPSIS
        def show(*objects) -> None:
            sources = [...
    """
    sources = [_source_without_docstrings(item) for item in objects]
    text = "\n\n\n".join(sources)
    _display("Markdown", f"```python\n{text}\n```", text)


def figure(fig, caption: str, alt: str, dpi: int = 192) -> None:
    """Show a Matplotlib figure with caption and alternative text, then close it.

    The picture is a PNG on a transparent ground inside an HTML ``<figure>``, drawn at twice the density of
    the page, so it looks the same in JupyterLab, in Colab and on the built site.

    Args:
        fig: a Matplotlib figure; it is as wide on the page as its width in inches times 96 pixels.
        caption: plain text below the figure; its first sentence says what question the figure answers.
        alt: what a reader would see in it, at least 20 characters, for those who cannot see it.
        dpi: pixels per inch of the stored picture.

    Raises:
        ValueError: if ``alt`` is too short to say anything, or ``caption`` is empty.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> fig, ax = plt.subplots()
        >>> line, = ax.plot([1, 2, 4])
        >>> figure(fig, "Does it grow?", "A line that rises, steeper on the right.")
        Figure: Does it grow?
    """
    import matplotlib.pyplot as plt

    alt, caption = " ".join(alt.split()), " ".join(caption.split())
    if len(alt) < SHORTEST_ALT:
        raise ValueError(
            f"alt: expected at least {SHORTEST_ALT} characters that tell what is seen, found {alt!r}"
        )
    if not caption:
        raise ValueError("caption: expected text that says what the figure answers, found none")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, transparent=True)
    plt.close(fig)
    png = base64.b64encode(_smaller_png(buffer.getvalue())).decode()
    width = round(fig.get_figwidth() * 96)
    html = (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{png}" '
        f'style="width:{width}px;max-width:100%;height:auto">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
    _display("HTML", html, f"Figure: {caption}")


def intervals(comparisons, caption: str) -> None:
    """Draw differences and their 95 % intervals, a line each, and show them as a figure.

    Pale ones are unresolved: their interval holds zero, or there is none. What was not run has no mark.

    Args:
        comparisons: what `compare` returned, a mapping from labels.
        caption: plain text; its first sentence says what question the figure answers.

    Raises:
        ValueError: if there is no comparison.

    Example:
        >>> from mmtutor.results import Comparison
        >>> intervals({"with a second task": Comparison(0.05, 0.02, 0.09, "yes")}, "Does it help?")
        Figure: Does it help?
    """
    import matplotlib.pyplot as plt

    from .style import INK

    if not comparisons:
        raise ValueError("comparisons: expected at least one, found none")
    fig, ax = plt.subplots(figsize=(6.4, 0.5 + 0.27 * len(comparisons)))
    for y, found in enumerate(comparisons.values()):
        alpha = 1 if found.verdict in ("yes", "no") else 0.45
        ax.plot([found.low, found.high], [y, y], color=INK, lw=2, alpha=alpha)
        ax.plot(found.difference, y, "o", ms=6, color=INK, alpha=alpha)
    ax.axvline(0, color=INK, lw=1, ls=":")
    ax.set_yticks(range(len(comparisons)), comparisons)
    ax.invert_yaxis()
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("difference, with its 95 % interval")
    lines = [
        f"{label} {NOT_RUN if found.verdict == NOT_RUN else f'{found.difference:+.3f}, {found.verdict}'}"
        for label, found in comparisons.items()
    ]
    figure(fig, caption, "Differences: " + "; ".join(lines) + ".")


def predict(question: str, options: Sequence[str], answer: str) -> None:
    """Ask the reader for a guess; the answer unfolds below, with no kernel needed.

    Args:
        question: what to guess.
        options: two or more possible answers to choose from.
        answer: the recorded answer, usually text made from the ledger.

    Raises:
        ValueError: if there are fewer than two options or no answer.

    Example:
        >>> predict("Which loss wins?", ["InfoNCE", "margin"], "InfoNCE, by far.")
        Which loss wins? [InfoNCE / margin]
    """
    if len(options) < 2:
        raise ValueError(f"options: expected at least two, found {list(options)}")
    if not answer.strip():
        raise ValueError("answer: expected text, found none")
    name = "guess-" + hashlib.sha256(question.encode()).hexdigest()[:8]
    choices = " ".join(
        f'<label><input type="radio" name="{name}"> {escape(option)}</label>' for option in options
    )
    html = (
        f'<div class="predict"><fieldset><legend>Your guess: {escape(question)}</legend>{choices}</fieldset>'
        f"<details><summary>What happened</summary><p>{escape(answer)}</p></details></div>"
    )
    _display("HTML", html, f"{question} [{' / '.join(options)}]")


def get_ipython():
    """Return the running IPython shell, or None; importing IPython just to ask would be slow."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _recorded_times() -> dict[str, dict]:
    """Return what each chapter took when it was run: by its name and by scale."""
    path = results_folder() / "chapters.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected the times of chapters by name, found {error!r}") from error


def _about(seconds: float) -> str:
    """Return a time as it is said: "about 40 seconds", "about 2 minutes"."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    return f"about {seconds / 60:.0f} minutes"


def _display(kind: str, rich: str, plain: str) -> None:
    """Show the rich form, "HTML" or "Markdown", in a notebook and the plain one in a terminal."""
    if get_ipython() is None:
        print(plain)
        return
    from IPython import display

    display.display(getattr(display, kind)(rich))


def _source_without_docstrings(item) -> str:
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(item)))
    except (TypeError, OSError) as error:
        raise TypeError(f"show: expected a function, class or method, found {type(item).__name__}") from error
    lines = source.rstrip().splitlines()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    for node in sorted(nodes, key=lambda node: -node.lineno):  # from the end, so line numbers stay true
        if ast.get_docstring(node, clean=False) is None:
            continue
        text, end = node.body[0], node.body[0].end_lineno
        if len(node.body) == 1:
            lines[text.lineno - 1 : end] = [" " * text.col_offset + "..."]
            continue
        while not lines[end].strip():  # the blank lines below it
            end += 1
        del lines[text.lineno - 1 : end]
    return "\n".join(lines)


def _smaller_png(png: bytes) -> bytes:
    """Return the picture with 256 colours, where that saves a third and changes nothing visible."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    palette = picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    palette.save(buffer, format="PNG", optimize=True)
    difference = np.asarray(palette.convert("RGBA"), dtype=int) - np.asarray(picture, dtype=int)
    small = buffer.tell() < 0.67 * len(png) and np.abs(difference).mean() < 1
    return buffer.getvalue() if small else png
