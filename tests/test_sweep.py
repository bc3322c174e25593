"""A sweep runs what is missing or stale, each run in a process of its own, and can be resumed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmtutor.ledger import Figures, Ledger
from tools import sweep
from tools.stamp import ROOT

RECIPE = """
import os
from mmtutor.ledger import Figures

ROWS = {"model": {"hit": 0.5}, "chance": {"hit": 0.1, "deterministic": True}, "broken": {"hit": None}}


def run(row, seed, *, scale=None, shuffle_pairs=False):
    hit = ROWS[row]["hit"] + seed / 100
    facts = {"process": os.getpid(), "parameters": 7, "gpu": scale == "gpu"}
    return Figures(facts, outcomes={"hit": [hit, hit]})
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A repository with one recipe, and the sweep that belongs to it."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("mmtutor/ledger.py", "mmtutor/runtime.py", "tools/stamp.py", "tools/sweep.py"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name in ("mmtutor/experiments/toy.py", "book/01_toy.ipynb", "pyproject.toml"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / "mmtutor/__init__.py").write_text('__version__ = "0"\n')
    (root / "mmtutor/experiments/toy.py").write_text(RECIPE)
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "tools.sweep",
        "--chapter",
        "01",
        "--seeds",
        "2",
        "--jobs",
        "2",
        *arguments,
    ]
    return subprocess.run(
        command, cwd=root, env={"PATH": "", "PYTHONPATH": str(root)}, capture_output=True, text=True
    )


def ledger(root: Path, scale: str = "cpu") -> Ledger:
    return Ledger.load(root / "results" / f"toy-{scale}.json", "toy", scale)


def test_a_sweep_records_every_run_once_and_repeats_only_what_changed(root):
    done = run(root, "--seeds", "1", "--rows", "model,chance")
    assert done.returncode == 0 and done.stdout.startswith("toy, cpu: 2 runs due"), done.stderr
    first = ledger(root)
    assert first.values("model", "hit").tolist() == [0.5]
    assert first.n_seeds("chance") == 1 and first.rows["chance"]["deterministic"]
    entry = first.seeds("model")["0"]
    facts = {
        "seconds",
        "peak_memory_mb",
        "device",
        "date",
        "code",
        "parameters",
        "outcomes",
        "process",
        "gpu",
        "hit",
    }
    assert set(entry) - {"groups"} == facts and entry["peak_memory_mb"] > 10
    processes = {e["process"] for row in ("model", "chance") for e in first.seeds(row).values()}
    assert len(processes) == 2
    assert {"device", "torch", "python"} <= set(
        json.loads((root / "results/toy-cpu.json").read_text())["environment"]
    )

    recipe = root / "mmtutor/experiments/toy.py"
    recipe.write_text(RECIPE.replace('"hit": 0.1', '"hit": 0.2'))
    done = run(root, "--seeds", "1", "--rows", "model,chance")
    recipe.write_text(RECIPE)
    assert done.stdout.startswith("toy, cpu: 1 runs due"), done.stdout + done.stderr
    again = ledger(root)
    assert again.mean("chance", "hit") == 0.2
    assert again.rows["model"] == first.rows["model"]


def test_a_run_that_fails_is_told_and_the_others_are_kept(root):
    done = run(root, "--seeds", "1", "--scale", "gpu", "--rows", "broken,chance")
    assert done.returncode != 0
    assert "broken, seed 0:" in done.stderr and "unsupported operand" in done.stderr
    assert ledger(root, "gpu").mean("chance", "gpu") == 1 and ledger(root, "gpu").n_seeds("broken") == 0


def test_unknown_rows_are_named_with_those_there_are(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "mmtutor.experiments.toy", SimpleNamespace(ROWS={"model": {}, "chance": {}})
    )
    with pytest.raises(SystemExit, match=r"rows \['nothing'\]: expected some of \['model', 'chance'\]"):
        sweep.sweep("toy", ["model", "nothing"], "cpu", jobs=1)


@pytest.mark.parametrize("wanted", ["01", "toy", "01_toy"])
def test_a_recipe_is_found_by_the_number_or_name_of_its_chapter(wanted, root, monkeypatch):
    monkeypatch.setattr(sweep, "ROOT", root)
    assert sweep.recipe_name(wanted) == "toy"


def test_an_unknown_chapter_is_named_with_those_there_are(root, monkeypatch):
    monkeypatch.setattr(sweep, "ROOT", root)
    with pytest.raises(SystemExit, match=r"chapter '07': expected one with a recipe, \['toy'\], found none"):
        sweep.recipe_name("07")


def test_missing_and_stale_runs_are_due_seed_by_seed(monkeypatch):
    monkeypatch.setattr(sweep, "run_stamp", lambda name, settings: f"code-{settings['version']}")
    rows = {"a": {"version": 1}, "b": {"version": 2}, "fixed": {"version": 3, "deterministic": True}}
    ledger = Ledger("toy", "cpu")
    assert [due[:2] for due in sweep.due_runs("toy", rows, ledger, 2)] == [
        ("a", 0), ("b", 0), ("fixed", 0), ("a", 1), ("b", 1)
    ]  # fmt: skip
    ledger.record("a", 0, Figures({"x": 1}), code="code-1")
    ledger.record("b", 1, Figures({"x": 1}), code="code-of-old")
    ledger.record("fixed", 0, Figures({"x": 1}), code="code-3", deterministic=True)
    assert sweep.due_runs("toy", rows, ledger, 2) == [
        ("b", 0, "code-2"),
        ("a", 1, "code-1"),
        ("b", 1, "code-2"),
    ]
