"""The gradient compass: the plane keeps what the gradients are, surgery there is PCGrad, gaps are named."""

import io
import json
import re
from math import isfinite

import numpy as np
import pytest
import torch
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmtutor.balancing import pcgrad
from mmtutor.ledger import Ledger
from mmtutor.sharing import gradient_cosines
from mmtutor.widgets import GradientCompass
from mmtutor.widgets.gradient_compass import CONDITIONS, Condition, plane_gradients, plane_surgery

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"
STEPS = tuple(range(0, 800, 40))
TASKS = ("style", "group")


def record(ledger, row, seed, lengths, cosines, tasks=TASKS, steps=STEPS):
    """Keep a run that never was: at each step the lengths of both gradients and their cosine."""
    figures = {}
    for step, (a, b), cosine in zip(steps, lengths, cosines, strict=False):
        figures |= {f"norm, {tasks[0]} @ {step}": float(a), f"norm, {tasks[1]} @ {step}": float(b)}
        figures["cosine, {} and {} @ {}".format(*tasks, step)] = float(cosine)
    ledger.record(row, seed, figures)


def toy_ledger(rows=CONDITIONS, seeds=3, tasks=TASKS):
    ledger, generator = Ledger("balancing", "cpu"), np.random.default_rng(0)
    for given_row in rows.values():
        for seed in range(seeds):
            lengths = generator.random((len(STEPS), 2)) + 0.5
            lengths[:, 1] *= 30 if given_row.row.startswith("scale") else 1
            record(ledger, given_row.row, seed, lengths, generator.normal(0, 0.05, len(STEPS)), tasks)
    return ledger


def one_look(a, b, cosine, then=(1, 1, 0)):
    """A compass that shows gradients of these lengths and cosine."""
    ledger = Ledger("balancing", "cpu")
    record(ledger, "balanced, equal", 0, [(a, b), then[:2]], [cosine, then[2]])
    return GradientCompass(ledger, {"balanced": CONDITIONS["balanced"]})


@pytest.fixture(scope="module")
def ledger():
    return toy_ledger()


def state_of(compass):
    state = re.search(r'<script type="application/json">(.*?)</script>', compass.to_html(), re.S).group(1)
    return json.loads(state)["values"]


def cosine_of(u, v):
    return float(u @ v / (u.norm() * v.norm()))


# --- the plane ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_plane_keeps_lengths_and_cosine_and_its_surgery_is_pcgrad(seed):
    g = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    g[1] -= g[0] * (seed % 4)  # most pairs in conflict, some far from equally long
    cosine = gradient_cosines(g)[0, 1].item()
    plane = plane_gradients(g.norm(dim=1).numpy(), cosine)
    np.testing.assert_allclose(plane @ plane.T, (g @ g.T).numpy(), atol=1e-9)
    whole, flat = pcgrad(g), plane_surgery(plane)
    assert np.linalg.norm(flat) == pytest.approx(whole.norm().item())
    np.testing.assert_allclose(
        plane @ flat, (g @ whole).numpy(), atol=1e-9
    )  # one vector of the plane has these


def test_the_first_gradient_is_on_the_left_and_equal_lengths_point_up():
    g = plane_gradients(np.array([0.3, 7.0]), -0.4)
    assert g[0, 0] < 0 < g[1, 0]
    up = (g / np.linalg.norm(g, axis=1, keepdims=True)).sum(0)
    assert abs(up[0]) < 1e-12 < up[1]


def test_surgery_without_conflict_is_the_sum_and_with_it_contradicts_neither():
    for cosine in (0.0, 0.3, 1.0):
        g = plane_gradients(np.array([1.0, 3.0]), cosine)
        np.testing.assert_allclose(plane_surgery(g), g.sum(0), atol=1e-12)
    for cosine in (-0.01, -0.5, -0.99):
        g = plane_gradients(np.array([1.0, 30.0]), cosine)
        assert (g @ plane_surgery(g) > 0).all()
        assert (g @ g.sum(0) > 0).all() == (cosine > -1 / 30)  # the plain sum may contradict the shorter one


# --- the figures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_values_are_those_of_whole_gradients(seed):
    g = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    g[1] = 5 * (g[1] - g[0] * (seed % 3))
    units = g / g.norm(dim=1, keepdim=True)
    values = one_look(*g.norm(dim=1).tolist(), gradient_cosines(g)[0, 1].item()).values()
    ways = {"sum": g.sum(0), "PCGrad": pcgrad(g), "equal lengths": units.sum(0)}
    for name, way in ways.items():
        for task, u in zip(TASKS, units, strict=True):
            assert values[f"{name}, {task}"] == pytest.approx(cosine_of(way, u), abs=1e-4)  # six digits kept
        if name != "sum":
            turn = np.degrees(np.arccos(min(1, cosine_of(way, ways["sum"]))))
            assert values[f"turn, {name}"] == pytest.approx(turn, abs=0.01)
    assert values["angle"] == pytest.approx(np.degrees(np.arccos(cosine_of(*g))), abs=1e-3)
    assert values["length, style"] == pytest.approx(g[0].norm().item(), rel=1e-5)


def test_known_angles_give_known_figures():
    values = one_look(1, 2, -0.5).values()
    assert values["angle"] == pytest.approx(120) and values["conflict"] == 0.5
    assert values["sum, style"] == pytest.approx(0, abs=1e-9)  # 1 - 2/2: the sum does nothing for style
    assert values["turn, equal lengths"] == pytest.approx(30)
    assert values["equal lengths, style"] == pytest.approx(0.5) == values["equal lengths, group"]


def test_a_loss_in_other_units_takes_the_sum_over_and_surgery_hardly_helps():
    values = one_look(1, 30, -0.02).values()
    assert values["sum, group"] > 0.999 and abs(values["sum, style"]) < 0.02
    assert values["turn, PCGrad"] < 1.5 and values["PCGrad, style"] < 0.04
    assert min(values["equal lengths, style"], values["equal lengths, group"]) > 0.69


def test_choosing_anew_gives_the_figures_of_that_run_and_look(ledger):
    compass = GradientCompass(ledger)
    assert (compass.condition, compass.seed, compass.look) == ("balanced", 0, 0)
    compass.condition, compass.seed, compass.look = "scale", 2, 7
    entry = ledger.seeds("scale, equal")["2"]
    cosine = entry["cosine, style and group @ 280"]
    assert compass.values()["length, group"] == pytest.approx(entry["norm, group @ 280"], rel=1e-5)
    assert compass.values()["angle"] == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-3)
    below = [x < 0 for name, x in entry.items() if name.startswith("cosine")]
    assert compass.values()["conflict"] == np.mean(below)
    assert compass.values() == GradientCompass(ledger, row="scale", seed=2, look=7).values()


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1e4) | st.just(0.0), st.floats(0, 1e4) | st.just(0.0), st.floats(-1, 1) | st.just(-1.0))
def test_everything_said_is_finite(a, b, cosine):
    compass = one_look(a, b, cosine)
    values = compass.values()
    assert all(isfinite(x) for x in values.values()) and "nan" not in compass.summary()
    assert all(
        -1.001 <= x <= 1.001 for name, x in values.items() if name.endswith(", style") and name[0] != "l"
    )


def test_without_a_gradient_the_ways_are_the_other_task_s():
    compass = one_look(0, 2, 0)
    values = compass.values()
    assert "no gradient of style" in compass.summary()
    for way in ("sum", "PCGrad", "equal lengths"):
        assert values[f"{way}, style"] == 0 and values[f"{way}, group"] == pytest.approx(1)
    assert values["turn, PCGrad"] == values["turn, equal lengths"] == 0
    assert "no gradient of style and group" in one_look(0, 0, 0).summary()


def test_of_opposed_gradients_surgery_and_equal_lengths_leave_nothing():
    values = one_look(3, 1, -1).values()
    assert values["sum, style"] == pytest.approx(1) and values["sum, group"] == pytest.approx(-1)
    assert values["PCGrad, style"] == values["equal lengths, style"] == values["turn, PCGrad"] == 0


# --- the page -------------------------------------------------------------------------------------------


def test_page_gets_every_look_of_every_run(ledger):
    state = state_of(GradientCompass(ledger))
    assert state["steps"] == list(STEPS) and state["seeds"] == [0, 1, 2]
    for condition in state["conditions"]:
        row = CONDITIONS[condition["name"]].row
        for seed, run in zip(state["seeds"], condition["runs"], strict=True):
            entry = ledger.seeds(row)[str(seed)]
            for step, lengths, cosine in zip(STEPS, run["lengths"], run["cosines"], strict=True):
                recorded = [entry[f"norm, {task} @ {step}"] for task in TASKS]
                assert lengths == pytest.approx(recorded, rel=1e-5)
                assert cosine == pytest.approx(entry[f"cosine, style and group @ {step}"], rel=1e-5)


def test_only_seeds_that_all_rows_have_can_be_chosen():
    ledger = toy_ledger()
    del ledger.rows["data, equal"]["seeds"]["1"]
    compass = GradientCompass(ledger)
    assert compass.seeds == [0, 2]
    compass.condition, compass.seed = "balanced", 2
    length = ledger.seeds("balanced, equal")["2"]["norm, style @ 0"]
    assert compass.values()["length, style"] == pytest.approx(length, rel=1e-5)
    for seed in ("0", "2"):
        del ledger.rows["data, equal"]["seeds"][seed]
    ledger.record("data, equal", 9, {})
    with pytest.raises(
        ValueError, match=r"rows: expected a seed recorded for all, found .*'data, equal': \[9\]"
    ):
        GradientCompass(ledger)


def test_output_holds_the_live_view_a_picture_and_a_page_that_needs_no_kernel(ledger):
    compass = GradientCompass(ledger, row="scale")
    data, _ = compass._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)
    assert data["text/plain"] == repr(compass) == "GradientCompass('scale', seed=0, look=0)"
    html = data["text/html"]
    assert "To use the widget" in html and "data:image/webp" in html
    assert not re.search(r"""(src|href|import|from)\s*[=(]?\s*["'](https?:)?//""", html)
    assert GradientCompass(ledger, row="scale").to_html() == html  # the same every time
    assert Image.open(io.BytesIO(compass.picture())).size == (480, 150)


def test_summary_says_angle_conflict_turn_and_effects():
    said = one_look(1, 2, -0.5).summary()
    assert "120.0° apart, in conflict. PCGrad turns their sum by 19.1°" in said
    assert "sum: style 0%, group 87%" in said and "equal lengths: style 50%, group 50%" in said
    assert "In conflict at 50% of the looks" in said
    assert "90.0° apart, not in conflict" in one_look(1, 2, 0).summary()


def test_page_of_five_seeds_stays_under_100_kb():
    assert len(GradientCompass(toy_ledger(seeds=5)).to_html().encode()) <= 100 * 1024


def test_other_tasks_and_hostile_names_are_text():
    rows, tasks = {HOSTILE: Condition("a row", HOSTILE)}, (HOSTILE, "b")
    compass = GradientCompass(toy_ledger(rows, tasks=tasks), rows, tasks=tasks)
    html = compass.to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html and "<!--" not in html
    assert state_of(compass)["tasks"][0]["name"] == HOSTILE
    assert set(compass.values()) > {"length, b", f"PCGrad, {HOSTILE}"}


# --- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [condition.row for condition in CONDITIONS.values()])
def test_names_a_row_that_was_never_recorded(row):
    ledger = toy_ledger()
    del ledger.rows[row]
    with pytest.raises(ValueError, match=f"ledger balancing-cpu: expected row '{row}', found none"):
        GradientCompass(ledger)


@pytest.mark.parametrize("figure", ["norm, style @ 40", "norm, group @ 0", "cosine, style and group @ 760"])
def test_names_a_figure_that_was_never_recorded(figure):
    ledger = toy_ledger()
    del ledger.seeds("data, equal")["1"][figure]
    message = f"row 'data, equal', seed 1: expected the figure '{figure}', found none"
    with pytest.raises(ValueError, match=message):
        GradientCompass(ledger)


def test_names_what_is_wrong(ledger):
    with pytest.raises(ValueError, match="rows: expected at least one, found none"):
        GradientCompass(ledger, {})
    with pytest.raises(ValueError, match="tasks: expected two, found 3"):
        GradientCompass(ledger, tasks=("a", "b", "c"))
    with pytest.raises(ValueError, match="expected 'cosine, a and b @ …' at two steps or more, found 0"):
        GradientCompass(ledger, tasks=("a", "b"))
    with pytest.raises(traitlets.TraitError, match="condition: expected one of balanced, .*; found 'x'"):
        GradientCompass(ledger, row="x")
    with pytest.raises(traitlets.TraitError, match="seed: expected one of 0, 1, 2; found 3"):
        GradientCompass(ledger, seed=3)
    compass = GradientCompass(ledger)
    with pytest.raises(traitlets.TraitError, match="look: expected one of 0, .*, 19; found 20"):
        compass.look = 20
