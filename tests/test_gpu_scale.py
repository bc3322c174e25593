"""Every recipe at the scale "gpu", at its real widths and in bfloat16, a few steps on the CPU.

What a machine with a GPU runs is the same code with larger numbers, and with `autocast`. That it works is
seen here; what it finds is recorded only where there is a GPU. The cells of the chapters that tell of
recorded runs are tried at that scale, too.
"""

import ast
import builtins
import importlib
import math

import nbformat
import pytest
import torch

from mmtutor import training
from mmtutor.ledger import Ledger
from tools.execute import called_names, chapters, is_exercise, tags
from tools.stamp import ROOT
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


def free_names(source: str) -> set[str]:
    """Names that a cell takes from the cells before it."""
    tree = ast.parse(source)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | set(vars(builtins))
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return {node.id for node in names} - bound


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_cells_that_tell_of_recorded_runs_work_where_only_the_small_scale_was_run(
    path, monkeypatch, capsys, tmp_path
):
    """Those cells that need the record alone, and no run of their own."""
    for ledger in (ROOT / "results").glob("*-cpu.json"):
        (tmp_path / ledger.name).symlink_to(ledger)
    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    monkeypatch.setenv("MMTUTOR_SCALE", "gpu")
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    code = [cell for cell in code if not is_exercise(cell) and "run" not in called_names(cell.source)]
    names, ledgers, ran = {"__name__": "chapter"}, set(), 0
    for cell in code:
        opens = "recorded" in called_names(cell.source)
        used = free_names(cell.source)
        tells = "compare" in called_names(cell.source) or used & ledgers
        if "imports" in tags(cell) or opens or (tells and used <= set(names)):
            exec(compile(cell.source, f"{path.name}, {cell.id}", "exec"), names)
            if opens:
                ledgers |= {name for name, value in names.items() if isinstance(value, Ledger)}
            ran += bool(tells)
    assert ran >= 3
    assert 'the runs shown are those at scale "cpu"' in capsys.readouterr().out
