"""The slider of soft sharing: what the page is given is what the ledger holds, and gaps are named."""

import io
import json
import re

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from mmtutor.experiments import sharing as recipe
from mmtutor.ledger import Ledger
from mmtutor.widgets import SharingSlider
from mmtutor.widgets.sharing_slider import PAIRS, STRENGTHS, TiedPair

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"
STEPS = (0, 50, 100, 150)


def invented(tasks, generator, distance, steps=STEPS):
    """The figures of a run that never was, with the names that the recipe gives them."""
    looked = {**{task: generator.random() for task in tasks}, "distance": distance}
    cosine = "cosine, {} and {}".format(*tasks)
    figures = {**looked, cosine: generator.normal() / 20}
    for step in steps:
        figures |= {f"{name} @ {step}": x * step / steps[-1] for name, x in looked.items()}
        if step < steps[-1]:
            figures[f"{cosine} @ {step}"] = generator.normal() / 20
    return figures


def toy_ledger(pairs=PAIRS, seeds=3, lacking=()):
    """Runs of every row that pairs need, and of a lacking one the first seed only."""
    ledger, generator = Ledger("sharing", "cpu"), np.random.default_rng(0)
    for name, pair in pairs.items():
        for strength, distance in zip(STRENGTHS, (13.2, 8.81, 4.4, 0.99, 0.0799, 0.00238, 0), strict=True):
            row = f"{name}, soft, λ = {strength}"
            for seed in range(1 if row in lacking else seeds):
                ledger.record(row, seed, invented(list(pair.tasks), generator, distance * (1 + seed / 100)))
        for row in {pair.hard, *pair.alone.values()} - {None}:
            for seed in range(seeds):
                ledger.record(row, seed, {task: generator.random() for task in pair.tasks})
    return ledger


@pytest.fixture(scope="module")
def ledger():
    return toy_ledger()


def state_of(slider):
    state = re.search(r'<script type="application/json">(.*?)</script>', slider.to_html(), re.S).group(1)
    return json.loads(state)["values"]


# --- the figures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", PAIRS)
def test_values_are_the_ledger_s_means(ledger, name, strength):
    slider, row = SharingSlider(ledger, pair=name, strength=strength), f"{name}, soft, λ = {strength}"
    first, second = PAIRS[name].tasks
    expected = {metric: ledger.mean(row, metric) for metric in (first, second, "distance")}
    expected["cosine"] = ledger.mean(row, f"cosine, {first} and {second}")
    assert slider.values() == pytest.approx(expected, rel=1e-5)
    assert list(slider.values()) == [first, second, "distance", "cosine"]


def test_choosing_anew_gives_the_figures_of_that_stop(ledger):
    slider = SharingSlider(ledger)
    assert (slider.pair, slider.strength) == ("digits + morphological", "1")
    slider.pair, slider.strength = "style + group", "∞"
    assert slider.values() == SharingSlider(ledger, pair="style + group", strength="∞").values()
    assert slider.values()["distance"] == 0


def test_page_gets_each_seed_the_spread_and_the_ledger_s_text(ledger):
    for pair in state_of(SharingSlider(ledger))["pairs"]:
        for task in pair["tasks"]:
            for strength, score in zip(STRENGTHS, task["scores"], strict=True):
                row = f"{pair['name']}, soft, λ = {strength}"
                values = ledger.values(row, task["name"])
                assert score["seeds"] == pytest.approx(values, rel=1e-5)
                assert score["spread"] == pytest.approx(np.std(values, ddof=1), rel=1e-5)
                assert score["text"] == ledger.text(row, task["name"])
    digit, morphological = state_of(SharingSlider(ledger))["pairs"][0]["tasks"]
    assert digit["alone"]["text"] == ledger.text("digits, alone", "digit")
    assert morphological["hard"]["text"] == ledger.text("digits + morphological", "morphological")
    assert morphological["alone"] is None  # it was never trained alone


def test_courses_are_means_by_step_and_end_without_a_cosine(ledger):
    pair = SharingSlider(ledger).pairs[1]
    assert pair["steps"] == list(STEPS)
    courses = {task["name"]: task["course"] for task in pair["tasks"]}
    courses |= {"distance": pair["distance"]["course"], "cosine, style and group": pair["cosine"]["course"]}
    for metric, course in courses.items():
        steps = STEPS[:-1] if metric.startswith("cosine") else STEPS
        for strength, found in zip(STRENGTHS, course, strict=True):
            runs = ledger.seeds(f"style + group, soft, λ = {strength}").values()
            for mean, spread, step in zip(found["mean"], found["spread"], steps, strict=True):
                values = [run[f"{metric} @ {step}"] for run in runs]
                assert mean == pytest.approx(sum(values) / 3, rel=1e-5)
                assert spread == pytest.approx(np.std(values, ddof=1), rel=1e-5)


def test_distances_are_said_with_two_digits_whatever_their_size(ledger):
    texts = [figure["text"] for figure in SharingSlider(ledger).pairs[0]["distance"]["end"]]
    assert texts == ["13", "8.9", "4.4", "1.0", ".081", ".0024", "0"]


def test_where_seeds_lack_the_figures_are_those_of_the_others():
    row = "style + group, soft, λ = 3"
    slider = SharingSlider(toy_ledger(lacking=[row]), pair="style + group", strength="3")
    score = slider.pairs[1]["tasks"][0]["scores"][4]
    assert len(score["seeds"]) == 1 and score["spread"] == 0 and score["mean"] == score["seeds"][0]
    assert slider.values()["style"] == score["mean"] and "±" not in score["text"]


# --- the recipe -----------------------------------------------------------------------------------------


def test_every_row_that_the_book_s_pairs_name_is_one_of_the_recipe():
    for name, pair in PAIRS.items():
        strengths = {
            format(s["strength"], "g") for row, s in recipe.ROWS.items() if row.startswith(f"{name}, soft")
        }
        assert strengths == {"inf" if strength == "∞" else strength for strength in STRENGTHS}
        soft = [f"{name}, soft, λ = {strength}" for strength in STRENGTHS]
        for row in (*soft, pair.hard):
            assert recipe.settings(row)["tasks"] == tuple(pair.tasks)
        assert all(recipe.settings(row)["tasks"] == (task,) for task, row in pair.alone.items())


def test_runs_of_the_recipe_have_all_that_the_slider_shows(monkeypatch):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {"digits": 16}})
    monkeypatch.setattr(recipe, "WIDTH", {"cpu": {"digits": 8}})
    threads, ledger = torch.get_num_threads(), Ledger("sharing", "cpu")
    torch.set_num_threads(1)
    rows = [f"digits + morphological, soft, λ = {strength}" for strength in STRENGTHS]
    for row in (*rows, "digits, alone", "digits + morphological"):
        ledger.record(row, 0, recipe.run(row, 0, scale="cpu"))
    torch.set_num_threads(threads)
    name = "digits + morphological"
    slider = SharingSlider(ledger, {name: PAIRS[name]}, strength="∞")
    assert slider.pairs[0]["steps"] == list(range(0, 17, 2))
    assert slider.values()["distance"] == 0 and -1 <= slider.values()["cosine"] <= 1
    slider.strength = "0"
    assert slider.values()["distance"] > 0


# --- the page -------------------------------------------------------------------------------------------


def test_output_holds_the_live_view_a_picture_and_a_page_that_needs_no_kernel(ledger):
    slider = SharingSlider(ledger)
    data, _ = slider._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert data["text/plain"] == repr(slider) == "SharingSlider('digits + morphological', λ = 1)"
    html = data["text/html"]
    assert "To use the widget" in html and "data:image/webp" in html
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert SharingSlider(ledger).to_html() == html  # the same every time
    assert Image.open(io.BytesIO(slider.picture())).size == (480, 120)


def test_summary_says_the_present_figures_and_where_each_task_is_best(ledger):
    slider = SharingSlider(ledger, pair="style + group", strength="0.3")
    row = "style + group, soft, λ = 0.3"
    assert f"At λ = 0.3: style {ledger.text(row, 'style')}, group {ledger.text(row, 'group')}" in (
        slider.summary()
    )
    for task in ("style", "group"):
        best = max(STRENGTHS, key=lambda s: ledger.mean(f"style + group, soft, λ = {s}", task))  # noqa: B023
        assert f"{task} at λ = {best}" in slider.summary()


def test_page_of_five_seeds_and_two_pairs_stays_under_100_kb():
    assert len(SharingSlider(toy_ledger(seeds=5)).to_html().encode()) <= 100 * 1024


def test_hostile_names_cannot_leave_their_script_element():
    pairs = {HOSTILE: TiedPair({HOSTILE: HOSTILE, "b": "R²"}, about=HOSTILE)}
    slider = SharingSlider(toy_ledger(pairs), pairs)
    html = slider.to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html and "<!--" not in html
    assert state_of(slider)["pairs"][0]["about"] == HOSTILE


# --- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", ["style + group, soft, λ = ∞", "style + group, hard", "group, alone", "digits + morphological"]
)
def test_names_a_row_that_was_never_recorded(row):
    ledger = toy_ledger()
    del ledger.rows[row]
    message = f"ledger sharing-cpu: expected row '{re.escape(row)}', found none"
    with pytest.raises(ValueError, match=message):
        SharingSlider(ledger)


@pytest.mark.parametrize("metric", ["group", "distance", "cosine, style and group", "style @ 50"])
def test_names_a_figure_that_was_never_recorded(metric):
    ledger, row = toy_ledger(), "style + group, soft, λ = 0.3"
    for run in ledger.seeds(row).values():
        del run[metric]
    with pytest.raises(ValueError, match=f"row '{re.escape(row)}': expected the figure '{metric}', found"):
        SharingSlider(ledger)


def test_names_what_is_wrong(ledger):
    with pytest.raises(ValueError, match="pairs: expected at least one, found none"):
        SharingSlider(ledger, {})
    with pytest.raises(ValueError, match="expected two tasks, found 1"):
        SharingSlider(ledger, {"style + group": TiedPair({"style": "accuracy"})})
    with pytest.raises(traitlets.TraitError, match="pair: expected one of digits .*, style .*; found 'x'"):
        SharingSlider(ledger, pair="x")
    with pytest.raises(traitlets.TraitError, match="strength.*'2'"):
        SharingSlider(ledger, strength="2")
    without_course = toy_ledger()
    for run in without_course.seeds("style + group, soft, λ = 0").values():
        for key in [key for key in run if "@" in key]:
            del run[key]
    with pytest.raises(ValueError, match="expected 'distance @ …' at two steps or more, found 0"):
        SharingSlider(without_course)
