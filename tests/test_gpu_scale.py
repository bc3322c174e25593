"""Every recipe at the scale "gpu", at its real widths and in bfloat16, a few steps on the CPU.

What a machine with a GPU runs is the same code with larger numbers, and with `autocast`. That it works is
seen here; what it finds is recorded only where there is a GPU.
"""

import importlib
import math

import pytest
import torch

from mmtutor import training
from tools.sweep import recipes

FEW = 4
IN_FULL = ("gan", "gan_names", "gan_uses")  # two players in turn, by a loop of their own, in float32


def shortened(steps):
    """The same keys, and few steps each."""
    return {key: shortened(value) for key, value in steps.items()} if isinstance(steps, dict) else FEW


def trained_row(recipe) -> str:
    """The first row that learns by steps."""
    plain = ("baseline", "untrained", "deterministic")
    return next(row for row in recipe.ROWS if not any(recipe.settings(row).get(key) for key in plain))


@pytest.mark.parametrize("name", recipes())
def test_the_recipe_runs_at_the_large_scale_in_half_the_digits(name, monkeypatch):
    recipe = importlib.import_module(f"mmtutor.experiments.{name}")
    monkeypatch.setenv("MMTUTOR_SCALE", "gpu")

    used = []

    def half():
        used.append(name)
        return torch.autocast("cpu", dtype=torch.bfloat16)

    monkeypatch.setattr(training, "autocast", half)
    if hasattr(recipe, "autocast"):
        monkeypatch.setattr(recipe, "autocast", half)
    if name == "training":
        batch = recipe.DEFAULT["batch"]
        monkeypatch.setattr(recipe, "ITEMS", {"digits": {"gpu": FEW * batch}})
    else:
        monkeypatch.setattr(recipe, "STEPS", shortened(recipe.STEPS))
    if hasattr(recipe, "SEE"):
        monkeypatch.setattr(recipe, "SEE", {**recipe.SEE, "steps": shortened(recipe.SEE["steps"])})
    figures = recipe.run(trained_row(recipe), 0)
    assert figures and all(math.isfinite(value) for value in figures.values())
    assert used or name in IN_FULL
