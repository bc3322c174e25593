"""The stamp changes with what a result depends on, and with nothing else."""

import ast
from pathlib import Path

import pytest

from tools.stamp import canonical, chapter_stamp, reached, run_stamps

PACKAGE = {
    "mmtutor/__init__.py": '"""A package."""\nfrom .loss import loss\n',
    "mmtutor/loss.py": '''"""Losses."""
import math
from .scale import SCALE as FACTOR

MARGIN = 1.0
UNUSED = 2.0


def loss(x):
    """Say what it does."""
    return FACTOR * helper(x)  # a comment


def helper(x):
    return math.sqrt(x) + MARGIN


def unrelated():
    return UNUSED
''',
    "mmtutor/scale.py": "SCALE = 3\nOTHER = 4\n",
    "mmtutor/model.py": """import mmtutor.loss as losses


class Base:
    size = 1


class Model(Base):
    def step(self, x):
        return losses.loss(x)
""",
    "mmtutor/data/__init__.py": "from .files import load\n",
    "mmtutor/data/files.py": """from pathlib import Path


def load():
    return Path(__file__).with_name("array.npz")
""",
    "mmtutor/data/array.npz": "numbers",
    "mmtutor/data/other.npz": "numbers",
    "mmtutor/experiments/toy.py": """from mmtutor.data import load
from mmtutor.model import Model

ROWS = {"a": {"width": 1}, "b": {"width": 2}}


def run(row, seed, *, scale=None):
    return Model().step(load()) * ROWS[row]["width"]
""",
    "results/toy-cpu.json": "{}",
}
CELLS = ["from mmtutor import loss", "%matplotlib inline\nprint(loss(2))"]


@pytest.fixture
def root(tmp_path) -> Path:
    for name, content in PACKAGE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def run_stamp_of_a(root: Path) -> str:
    return run_stamps("toy", {"a": {"width": 1}}, root)["a"]


def test_a_run_reaches_functions_classes_constants_and_files_but_not_their_neighbours(root):
    assert set(reached({"mmtutor.experiments.toy.run"}, root)) == {
        "mmtutor.experiments.toy.run",
        "mmtutor.experiments.toy.ROWS",
        "mmtutor.model.Model",
        "mmtutor.model.Base",
        "mmtutor.loss.loss",
        "mmtutor.loss.helper",
        "mmtutor.loss.MARGIN",
        "mmtutor.scale.SCALE",
        "mmtutor.data.files.load",
        "mmtutor/data/array.npz",
    }


CHANGES = [
    ("mmtutor/loss.py", "MARGIN = 1.0", "MARGIN = 1.5"),
    ("mmtutor/loss.py", "math.sqrt(x)", "math.exp(x)"),
    ("mmtutor/scale.py", "SCALE = 3", "SCALE = 5"),
    ("mmtutor/model.py", "size = 1", "size = 2"),
    ("mmtutor/data/array.npz", "numbers", "other numbers"),
    ("mmtutor/experiments/toy.py", "Model()", "Model(1)"),
]
NO_CHANGES = [
    ("mmtutor/loss.py", "Say what it does.", "Say it better."),
    ("mmtutor/loss.py", "  # a comment", ""),
    ("mmtutor/loss.py", "UNUSED = 2.0", "UNUSED = 3.0"),
    ("mmtutor/loss.py", "def unrelated", "def another():\n    pass\n\n\ndef unrelated"),
    ("mmtutor/loss.py", "FACTOR * helper(x)", "(\n        FACTOR * helper(x)\n    )"),
    ("mmtutor/scale.py", "OTHER = 4", "OTHER = 5"),
    ("mmtutor/data/other.npz", "numbers", "other numbers"),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[2])
def test_what_a_run_depends_on_changes_its_stamp(root, change):
    before = run_stamp_of_a(root)
    edit(root, *change)
    assert run_stamp_of_a(root) != before


@pytest.mark.parametrize("change", NO_CHANGES, ids=lambda change: change[2][:20])
def test_words_layout_and_neighbours_leave_the_stamp(root, change):
    before = run_stamp_of_a(root)
    edit(root, *change)
    assert run_stamp_of_a(root) == before


def test_a_row_s_stamp_depends_on_its_own_settings_and_not_on_other_rows(root):
    before = run_stamp_of_a(root)
    edit(root, "mmtutor/experiments/toy.py", '"b": {"width": 2}', '"b": {"width": 3}')
    assert run_stamp_of_a(root) == before
    assert run_stamps("toy", {"a": {"width": 2}}, root)["a"] != before


def test_settings_that_name_a_function_depend_on_its_code_and_have_a_stable_stamp(root):
    edit(root, "mmtutor/experiments/toy.py", '"width": 1', '"width": unrelated')
    edit(
        root,
        "mmtutor/experiments/toy.py",
        "from mmtutor.data",
        "from mmtutor.loss import unrelated\nfrom mmtutor.data",
    )
    before = run_stamps("toy", {"a": {"width": edit}}, root)
    assert run_stamps("toy", {"a": {"width": edit}}, root) == before
    edit(root, "mmtutor/loss.py", "return UNUSED", "return -UNUSED")
    assert run_stamps("toy", {"a": {"width": edit}}, root) != before


@pytest.mark.parametrize(
    "cells",
    [
        ["from mmtutor import loss", "loss(1)"],
        ["import mmtutor", "mmtutor.loss(1)"],
        ["import mmtutor.loss as l", "l.loss(1)"],
        ["from mmtutor import loss as f", "def g(x):\n    return f(x)"],
        ["from mmtutor.loss import loss", "loss(1)"],
        ["def g(x):\n    from mmtutor import loss\n    return loss(x)"],
    ],
)
def test_a_chapter_follows_every_way_to_import(root, cells):
    before = chapter_stamp(cells, "cpu", root)
    edit(root, "mmtutor/loss.py", "MARGIN = 1.0", "MARGIN = 1.5")
    assert chapter_stamp(cells, "cpu", root) != before


def test_a_chapter_s_stamp_changes_with_its_cells_and_not_with_their_layout(root):
    before = chapter_stamp(CELLS, "cpu", root)
    assert chapter_stamp([CELLS[0] + "  # import", CELLS[1].replace("(2)", "( 2 )")], "cpu", root) == before
    assert chapter_stamp([CELLS[0], CELLS[1].replace("2", "3")], "cpu", root) != before


def test_a_chapter_is_stale_when_a_ledger_that_it_reads_changes(root):
    cells = ["from mmtutor import results", "ledger = results.recorded('toy')"]
    before, other = chapter_stamp(cells, "cpu", root), chapter_stamp(CELLS, "cpu", root)
    edit(root, "results/toy-cpu.json", "{}", '{"rows": {}}')
    assert chapter_stamp(cells, "cpu", root) != before
    assert chapter_stamp(CELLS, "cpu", root) == other
    assert chapter_stamp(cells, "gpu", root) == chapter_stamp(cells, "cpu", root)  # for want of its own
    (root / "results/toy-gpu.json").write_text("{}")
    assert chapter_stamp(cells, "gpu", root) != chapter_stamp(cells, "cpu", root)


def test_statements_that_define_nothing_belong_to_every_definition_of_their_module(root):
    before = run_stamp_of_a(root)
    edit(root, "mmtutor/scale.py", "OTHER = 4", "OTHER = 4\nprint('side effect')")
    assert run_stamp_of_a(root) != before


def test_definitions_that_refer_to_each_other_end(root):
    edit(root, "mmtutor/loss.py", "math.sqrt(x)", "loss(x)")
    assert "mmtutor.loss.helper" in reached({"mmtutor.loss.loss"}, root)


def test_the_stamp_does_not_depend_on_which_characters_a_python_version_can_print():
    tree = ast.parse("'\u9fff'")
    assert canonical(tree).isascii()
    assert canonical(tree) != canonical(ast.parse("'\u9ffe'"))
