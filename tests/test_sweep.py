"""A sweep runs what is missing or stale, each run in a process of its own, and can be resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmtutor.ledger import Figures, Ledger
from tools import sweep
from tools.stamp import ROOT

RECIPE = """
import os
from mmtutor.ledger import Figures

ROWS = {"one, fixed": {"hit": 0.1, "deterministic": True}, "broken": {"hit": None}}


def run(row, seed, *, scale=None, shuffle_pairs=False):
    hit = ROWS[row]["hit"] + seed / 100
    facts = {"process": os.getpid(), "parameters": 7, "gpu": scale == "gpu"}
    return Figures(facts, outcomes={"hit": [hit, hit]})
"""
FIGURES = ("process", "parameters", "gpu", "hit")
COPIED = ("mmtutor/ledger.py", "mmtutor/runtime.py", "tools/stamp.py", "tools/sweep.py")


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository with one recipe, a helper of it, and the sweep that belongs to it."""
    files = {name: (ROOT / name).read_text() for name in COPIED}
    files |= {"mmtutor/__init__.py": '__version__ = "0"\n', "mmtutor/experiments/toy.py": RECIPE}
    files |= {"mmtutor/experiments/toy_helper.py": "", "book/01_toy.ipynb": "", "pyproject.toml": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_runs_are_processes_of_their_own_and_one_that_fails_leaves_the_others(root):
    command = [
        sys.executable,
        "-m",
        "tools.sweep",
        "--chapter",
        "01",
        "--scale",
        "gpu",
        "--seeds",
        "1",
        "--jobs",
        "2",
    ]
    setting = {"PATH": "", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, "--rows", "broken; one, fixed"], cwd=root, env=setting, capture_output=True, text=True
    )
    assert done.returncode != 0 and done.stdout.startswith("toy, gpu: 2 runs due, 2 rows, 2 at a time\n")
    assert "broken, seed 0:" in done.stderr and "unsupported operand" in done.stderr
    ledger = Ledger.load(root / "results" / "toy-gpu.json", "toy", "gpu")
    assert list(ledger.rows) == ["one, fixed"] and ledger.rows["one, fixed"]["deterministic"]
    (entry,) = ledger.seeds("one, fixed").values()
    assert set(entry) == {
        *FIGURES,
        "seconds",
        "peak_memory_mb",
        "device",
        "date",
        "code",
        "outcomes",
        "groups",
    }
    assert entry["hit"] == 0.1 and entry["gpu"] == 1 and entry["peak_memory_mb"] > 10
    assert entry["process"] != os.getpid()
    assert {"device", "torch", "python"} <= set(ledger.environment)


@pytest.fixture
def started(monkeypatch, tmp_path) -> list:
    """The runs that a sweep starts; each is recorded at once instead of being trained."""
    runs = []

    def start(name, row, seed, stamp, scale, folder):
        runs.append((row, seed))
        ledger = Ledger(name, scale)
        ledger.record(row, seed, Figures({"hit": len(runs)}), code=stamp)
        return ledger

    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    monkeypatch.setattr(sweep, "start_run", start)
    return runs


def use_rows(monkeypatch, rows: dict) -> None:
    """Give the recipe these rows, each with its settings for a stamp."""
    monkeypatch.setitem(sys.modules, "mmtutor.experiments.toy", SimpleNamespace(ROWS=rows))
    monkeypatch.setattr(sweep, "run_stamps", lambda name, rows: {row: str(rows[row]) for row in rows})


def test_a_sweep_repeats_only_what_changed_and_drops_rows_that_are_gone(started, monkeypatch, tmp_path):
    use_rows(monkeypatch, {"a": {"width": 1}, "b": {"width": 2}})
    assert sweep.sweep("toy", [], "cpu", jobs=1, seeds=2) == 0
    assert sorted(started) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    sweep.sweep("toy", [], "cpu", jobs=1, seeds=2)
    assert len(started) == 4
    use_rows(monkeypatch, {"a": {"width": 1}, "c": {"width": 3}})
    sweep.sweep("toy", [], "cpu", jobs=1, seeds=2)
    assert sorted(started[4:]) == [("c", 0), ("c", 1)]
    ledger = Ledger.load(tmp_path / "toy-cpu.json", "toy", "cpu")
    assert set(ledger.rows) == {"a", "c"} and ledger.n_seeds("a") == 2


def test_a_recipe_may_ask_for_more_seeds_of_a_row(started, monkeypatch):
    use_rows(monkeypatch, {"a": {}, "b": {}})
    sys.modules["mmtutor.experiments.toy"].MORE_SEEDS = {"b": sweep.SEEDS + 1}
    sweep.sweep("toy", [], "cpu", jobs=1)
    assert started.count(("b", sweep.SEEDS)) == 1 and ("a", sweep.SEEDS) not in started
    assert ("a", sweep.SEEDS - 1) in started


def test_stale_runs_are_accepted_if_repeated_ones_give_the_same(monkeypatch, tmp_path):
    figures = {"a": 0.5, "b": 0.25}
    repeated = []

    def start(name, row, seed, stamp, scale, folder):
        repeated.append((row, seed))
        ledger = Ledger(name, scale)
        ledger.record(row, seed, Figures({"hit": figures[row]}), code=stamp, seconds=len(repeated))
        return ledger

    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    monkeypatch.setattr(sweep, "start_run", start)
    use_rows(monkeypatch, {"a": {"old": 1}, "b": {"old": 1}})
    sweep.sweep("toy", [], "cpu", jobs=1, seeds=3)
    use_rows(monkeypatch, {"a": {"new": 1}, "b": {"new": 1}})
    repeated.clear()
    assert sweep.confirm("toy", "cpu", 1, count=2, seeds=3) == []
    assert len(repeated) == 2 and {row for row, _ in repeated} == {"a", "b"}
    ledger = Ledger.load(tmp_path / "toy-cpu.json", "toy", "cpu")
    said = [entry["confirmed"] for row in "ab" for entry in ledger.seeds(row).values()]
    assert said.count("repeated") == 2 and said.count("by 2 of 6 repeated") == 4
    repeated.clear()
    sweep.sweep("toy", [], "cpu", jobs=1, seeds=3)
    assert not repeated, "what was accepted is not due"


def test_one_run_that_differs_and_nothing_is_accepted(monkeypatch, tmp_path):
    figures = {"hit": 0.5}

    def start(name, row, seed, stamp, scale, folder):
        ledger = Ledger(name, scale)
        ledger.record(row, seed, Figures(figures), code=stamp)
        return ledger

    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    monkeypatch.setattr(sweep, "start_run", start)
    use_rows(monkeypatch, {"a": {"old": 1}})
    sweep.sweep("toy", [], "cpu", jobs=1, seeds=2)
    before = (tmp_path / "toy-cpu.json").read_text()
    use_rows(monkeypatch, {"a": {"new": 1}})
    figures["hit"] = 0.5 + 1e-12
    (line,) = sweep.confirm("toy", "cpu", 1, count=1, seeds=2)
    assert line.startswith("a, seed ") and "hit was 0.5, is 0.500000000001" in line
    assert (tmp_path / "toy-cpu.json").read_text() == before


def test_a_sweep_that_is_stopped_keeps_what_was_finished(started, monkeypatch, tmp_path):
    use_rows(monkeypatch, {"a": {}})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C
    finished = sweep.start_run

    def stop_at_seed_2(name, row, seed, *rest):
        if seed == 2:
            time.sleep(0.3)  # the first two are recorded meanwhile
            os.kill(os.getpid(), signal.SIGINT)  # what Ctrl-C does
            time.sleep(0.3)
            raise RuntimeError("killed")
        return finished(name, row, seed, *rest)

    monkeypatch.setattr(sweep, "start_run", stop_at_seed_2)
    with pytest.raises(SystemExit, match="the same command goes on from there"):
        sweep.sweep("toy", [], "cpu", jobs=1)
    assert started == [("a", 0), ("a", 1)]
    monkeypatch.setattr(sweep, "start_run", finished)
    sweep.sweep("toy", [], "cpu", jobs=1)
    assert Ledger.load(tmp_path / "toy-cpu.json", "toy", "cpu").n_seeds("a") == 5
    assert started == [("a", seed) for seed in range(5)]


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
    monkeypatch.setattr(
        sweep, "run_stamps", lambda name, rows: {r: f"code-{rows[r]['version']}" for r in rows}
    )
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
