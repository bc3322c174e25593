"""What chapters show: source code, figures, questions."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from mmtutor import notebook
from mmtutor.notebook import figure, intervals, predict, show
from mmtutor.results import Comparison

ALT = "A line that rises, steeper on the right."


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would be given to show."""
    rich = []
    monkeypatch.setattr(notebook, "get_ipython", InteractiveShell)
    monkeypatch.setattr("IPython.display.display", rich.append)
    return rich


class Example:
    """A class with documentation."""

    size = 3

    def first(self):
        """Say something.

        At length.
        """

        def inner():
            """Inner words."""
            return "kept"

        return inner()  # a comment stays

    def second(self):
        """Nothing but words."""

    def third(self):
        return "a string stays"


EXAMPLE = """class Example:
    size = 3

    def first(self):
        def inner():
            return "kept"

        return inner()  # a comment stays

    def second(self):
        ...

    def third(self):
        return "a string stays"
"""


def test_show_prints_the_source_without_docstrings(capsys):
    show(Example)
    assert capsys.readouterr().out == EXAMPLE


def test_show_takes_methods_and_several_objects(capsys):
    show(Example.third, Example.second)
    text = capsys.readouterr().out
    assert text == 'def third(self):\n    return "a string stays"\n\n\ndef second(self):\n    ...\n'


def test_show_is_highlighted_python_in_a_notebook(shown):
    show(Example)
    assert shown[0].data == f"```python\n{EXAMPLE}```"


def test_what_show_shows_of_the_library_is_valid_python(capsys):
    for item in (show, figure, predict, notebook._smaller_png):
        show(item)
    compile(capsys.readouterr().out, "shown", "exec")


@pytest.mark.parametrize("nothing", [3, len, "text"])
def test_show_refuses_what_has_no_source(nothing):
    with pytest.raises(TypeError, match="expected a function, class or method, found"):
        show(nothing)


def line_figure(**options):
    fig, ax = plt.subplots(figsize=(5, 2.5), **options)
    ax.plot([0, 1, 4, 9])
    return fig


def test_a_figure_is_a_described_picture_of_twice_the_page_s_density_and_is_closed(shown):
    fig = line_figure()
    figure(fig, "Does it grow?  Yes & no.", 'A "line" that rises <steeply>.')
    html = shown[0].data
    assert 'alt="A &quot;line&quot; that rises &lt;steeply&gt;."' in html
    assert "<figcaption>Does it grow? Yes &amp; no.</figcaption>" in html
    assert "width:480px;max-width:100%" in html
    picture = picture_of(html)
    assert picture.size == (960, 480)
    assert np.asarray(picture.convert("RGBA"))[0, 0, 3] == 0  # the ground is transparent
    assert not plt.fignum_exists(fig.number)


def picture_of(html: str) -> Image.Image:
    encoded = re.search(r"base64,([^\"]+)", html).group(1)
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def png_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array, "RGBA").save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_line_drawing_is_stored_with_a_palette_and_looks_the_same(shown):
    fig = line_figure()
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=192, transparent=True)
    figure(fig, "Does it grow?", ALT)
    stored = picture_of(shown[0].data)
    original = np.asarray(Image.open(buffer).convert("RGBA"), dtype=int)
    assert stored.mode == "P"
    assert np.abs(np.asarray(stored.convert("RGBA"), dtype=int) - original).mean() < 1


def test_a_picture_that_a_palette_would_spoil_is_stored_as_it_is():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    assert notebook._smaller_png(png_of(noise)) == png_of(noise)


@pytest.mark.parametrize("alt", ["", "   ", "plot of the loss", "  plot    of    loss  "])
def test_a_figure_without_telling_words_is_refused(alt):
    with pytest.raises(ValueError, match="alt: expected at least 20 characters"):
        figure(line_figure(), "Does it grow?", alt)
    plt.close("all")


def test_a_figure_without_caption_is_refused():
    with pytest.raises(ValueError, match="caption: expected text"):
        figure(line_figure(), " ", ALT)
    plt.close("all")


def test_a_question_shows_its_options_and_folds_its_answer(shown):
    predict("Which <loss> wins?", ["InfoNCE", "margin & more"], "InfoNCE: .3 > .2")
    html = shown[0].data
    assert "<legend>Your guess: Which &lt;loss&gt; wins?</legend>" in html
    assert html.count('type="radio"') == 2 and "margin &amp; more" in html
    assert "<details><summary>What happened</summary><p>InfoNCE: .3 &gt; .2</p></details>" in html


def test_options_of_one_question_exclude_each_other_and_leave_other_questions_alone(shown):
    predict("One?", ["a", "b"], "a")
    predict("Two?", ["a", "b"], "b")
    first, second = (set(re.findall(r'name="([^"]+)"', html.data)) for html in shown)
    assert len(first) == len(second) == 1 and first != second


def test_a_question_needs_options_and_an_answer():
    with pytest.raises(ValueError, match="options: expected at least two"):
        predict("Why?", ["because"], "because")
    with pytest.raises(ValueError, match="answer: expected text"):
        predict("Why?", ["a", "b"], " ")


def test_intervals_are_drawn_one_line_each_and_told_in_the_alternative_text(shown):
    found = {"a & b": Comparison(0.05, 0.02, 0.09, "yes"), "c": Comparison(-0.01, -0.03, 0.02, "unresolved")}
    intervals(found, "Does it help?")
    assert "Differences: a &amp; b +0.050, yes; c -0.010, unresolved." in shown[0].data


def test_a_comparison_that_was_not_run_is_told_and_has_no_mark(shown):
    intervals({"a": Comparison(np.nan, np.nan, np.nan, "not run")}, "Does it help?")
    assert "Differences: a not run." in shown[0].data


def test_intervals_of_nothing_are_refused():
    with pytest.raises(ValueError, match="comparisons: expected at least one, found none"):
        intervals({}, "Does it help?")
