"""The contrastive playground in a real browser: its losses and gradients, and how it answers."""

import math

import numpy as np
import pytest
import torch

from mmtutor.contrastive import info_nce, margin_contrastive
from mmtutor.widgets import ContrastivePlayground


@pytest.fixture(scope="module")
def widgets():
    return {"info_nce": ContrastivePlayground(), "margin": ContrastivePlayground("margin")}


def angles(seed, count=4):
    return (
        torch.rand(2, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 * math.pi
    )


def in_python(loss, a, b):
    """Loss and gradients with respect to the angles, by automatic differentiation."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    value = loss(*(torch.stack([t.cos(), t.sin()], 1) for t in (a, b)))
    return value.item(), *torch.autograd.grad(value, (a, b))


def in_page(page, address, function, a, b, *options):
    result = page.evaluate(
        f"""async (inputs) => {{
          const module = await import("{address}/ContrastivePlayground.js");
          const {{loss, gradA, gradB}} = module.{function}(...inputs);
          return [loss, gradA, gradB]; }}""",
        [a.tolist(), b.tolist(), *options],
    )
    return result[0], *(torch.tensor(gradient, dtype=torch.float64) for gradient in result[1:])


def assert_equal(found, expected):
    for x, y in zip(found, expected, strict=True):
        assert torch.as_tensor(x).sub(torch.as_tensor(y)).abs().max() < 1e-6


def test_info_nce_in_the_page_equals_torch(show, address):
    page = show("info_nce")
    for seed, temperature in enumerate((0.02, 0.05, 0.07, 0.2, 0.5, 1.0, 2.0)):
        a, b = angles(seed)
        expected = in_python(lambda x, y: info_nce(x, y, temperature), a, b)  # noqa: B023
        assert_equal(in_page(page, address, "infoNce", a, b, temperature), expected)


@pytest.mark.parametrize("squared", [False, True])
def test_margin_loss_in_the_page_equals_torch(show, address, squared):
    page, match = show("margin"), torch.eye(4, dtype=torch.bool)
    for seed, margin in enumerate((1.0, 0.3, 0.7, 1.5, 2.0)):
        a, b = angles(seed)
        if seed == 0:
            b[0] = a[0]  # a true pair at distance 0, where the gradient is defined as 0
            b[2] = a[1]  # and a wrong one
        expected = in_python(
            lambda x, y: margin_contrastive(x, y, match, margin=margin, squared=squared),  # noqa: B023
            a,
            b,
        )
        assert_equal(in_page(page, address, "marginLoss", a, b, margin, squared), expected)


@pytest.mark.parametrize("name", ["info_nce", "margin"])
def test_opening_loss_is_the_library_s(show, widgets, name):
    assert show(name).locator(".mmt-loss").inner_text() == f"{widgets[name].value():.3f}"


def number(locator):
    return float(locator.inner_text())


def test_points_answer_mouse_and_arrow_keys(show):
    page = show("info_nce")
    loss, point = page.locator(".mmt-loss"), page.get_by_role("slider", name="picture cat")
    before = number(loss)
    point.focus()
    page.keyboard.press("ArrowRight")
    assert point.get_attribute("aria-valuetext") == "116 degrees"
    assert number(loss) < before  # towards its word
    handle, ring = point.locator(".mmt-handle").bounding_box(), page.locator(".mmt-ring").bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] + 20, steps=4)
    page.mouse.up()
    assert point.get_attribute("aria-valuetext") == "270 degrees"


def test_steps_go_downhill_and_start_again_returns(show):
    page = show("info_nce", reduced_motion="reduce")
    loss = page.locator(".mmt-loss")
    start = number(loss)
    page.get_by_role("button", name="One step downhill").click()
    after_one = number(loss)
    page.get_by_role("button", name="Run 80 steps").click()
    assert number(loss) < after_one < start
    assert number(loss) < 0.05  # every pair has found itself
    page.get_by_role("button", name="Start again").click()
    assert number(loss) == start


def test_run_is_drawn_step_by_step_and_can_be_stopped(show, stop_the_clock):
    page = show("info_nce")
    stop_the_clock(page)
    loss = page.locator(".mmt-loss")
    losses = [number(loss)]
    page.get_by_role("button", name="Run 80 steps").click()
    for _ in range(3):
        page.clock.run_for(200)  # five steps
        losses.append(number(loss))
    assert sorted(set(losses), reverse=True) == losses
    page.get_by_role("button", name="Stop").click()
    page.clock.run_for(1000)
    assert number(loss) == losses[-1]


ARROWS = "els => els.map(e => e.getAttribute('d') ? e.getTotalLength() : 0)"


def test_low_temperature_moves_the_confused_only_high_temperature_all(show):
    page = show("info_nce")
    knob = page.get_by_label("temperature")
    cold = page.locator(".mmt-arrow").evaluate_all(ARROWS)
    assert min(cold[i] for i in (0, 1, 4, 5)) > 10 and max(cold[i] for i in (2, 3, 6, 7)) == 0
    knob.fill("0")  # log10 of the temperature
    assert min(page.locator(".mmt-arrow").evaluate_all(ARROWS)[i] for i in (2, 3, 6, 7)) > 0


def test_wrong_pairs_beyond_the_margin_are_not_pushed(show):
    page = show("margin")
    page.get_by_label("margin").fill("0.1")
    shades = page.locator(".mmt-matrix td:not(.mmt-true):not(:empty)")
    assert set(shades.evaluate_all("tds => tds.map(td => td.style.getPropertyValue('--mmt-shade'))")) == {
        "0%"
    }
    before = number(page.locator(".mmt-loss"))
    page.get_by_label("squared").uncheck()
    assert number(page.locator(".mmt-loss")) != before


def test_matrix_rows_and_columns_sum_to_one(show):
    tables = show("info_nce").locator("table.mmt-matrix")
    tables = [
        np.array(tables.nth(i).locator("td:not(:empty)").all_inner_texts(), float).reshape(4, 4)
        for i in range(2)
    ]
    assert tables[0].sum(1) == pytest.approx(np.ones(4), abs=0.021)
    assert tables[1].sum(0) == pytest.approx(np.ones(4), abs=0.021)
