"""Every chapter is run and read: `make test CHAPTER=06` narrows this to one."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tests import chapters
from tests.wheels import build_wheel
from tools.execute import chapters as chapter_files
from tools.execute import is_exercise, is_stale, output_problems

CHAPTERS = chapter_files(os.environ.get("CHAPTER", ""))
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
NO_NETWORK = """
import socket

def refuse(self, address, connect=socket.socket.connect):
    leaves = self.family in (socket.AF_INET, socket.AF_INET6)
    if leaves and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the network is off while chapters are tested; found a connection to {address}")
    return connect(self, address)

socket.socket.connect = refuse
"""
FROM_WHEEL = """
import os, pathlib, mmtutor
assert pathlib.Path(mmtutor.__file__).is_relative_to({folder!r}), mmtutor.__file__
assert os.listdir() == ["chapter.ipynb"], os.listdir()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel, built now, from which no connection leaves the machine."""
    built, folder = build_wheel(tmp_path_factory.mktemp("wheel")), tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(built) as wheel:  # pure Python: to unpack it is to install it
        wheel.extractall(folder)
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    return folder


def run_python(installed: Path, cwd: Path, scale: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python away from the repository, with the installed wheel first and the network off."""
    setting = {**os.environ, "PYTHONPATH": str(installed), "MMTUTOR_SCALE": scale}
    setting |= {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",
    }  # the machine is shared with other tests
    setting["TQDM_MININTERVAL"] = "5"  # nbval reads after the cell; thousands of waiting bar updates are lost
    setting = {
        key: value for key, value in setting.items() if not key.startswith(("MMTUTOR_RESULTS", "PYTEST_"))
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=setting, capture_output=True, text=True, encoding="utf-8"
    )


def run_nbval(nb, installed: Path, folder: Path) -> subprocess.CompletedProcess:
    """Run a chapter once with nbval, in a folder that holds nothing else."""
    first = new_code_cell(FROM_WHEEL.format(folder=str(installed)))
    copy = new_notebook(cells=[first, *nb.cells], metadata=nb.metadata)
    nbformat.write(copy, folder / "chapter.ipynb")
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", "--nbval-lax", "--nbval-cell-timeout", "600"]
    scale = nb.metadata.get("mmtutor", {}).get("scale", "cpu")
    return run_python(installed, folder, scale, "-m", "pytest", *options, "chapter.ipynb")


def read(path: Path):
    return nbformat.read(path, as_version=4)


def expect_none(path: Path, problems: list[str]) -> None:
    assert not problems, f"{path.name}:\n  " + "\n  ".join(problems)


@every_chapter
def test_chapter_runs_from_the_wheel_offline_and_prints_the_recorded_claims(path, installed, tmp_path):
    done = run_nbval(read(path), installed, tmp_path)
    assert done.returncode == 0, f"{path.name}:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


@every_chapter
def test_exercise_stubs_fail_and_their_solutions_pass(path, installed, tmp_path):
    nb = read(path)
    script = tmp_path / "exercises.py"
    script.write_text(chapters.exercise_script(nb), encoding="utf-8")
    done = run_python(installed, tmp_path, "cpu", script.name)
    expected = sum(is_exercise(cell) for cell in chapters.code_cells(nb))
    assert done.returncode == 0, f"{path.name}:\n{done.stdout}\n{done.stderr[-4000:]}"
    assert done.stdout.count(": ok\n") == expected


@every_chapter
def test_outputs_are_those_of_the_code(path):
    number = path.stem.split("_")[0]
    assert not is_stale(read(path), "cpu"), f"{path.name} is stale: run `make execute CHAPTER={number}`"


@every_chapter
def test_outputs_show_no_path_warning_or_traceback(path):
    expect_none(path, output_problems(read(path)))


@every_chapter
def test_every_labelled_equation_is_checked(path):
    expect_none(path, chapters.equation_problems(read(path)))


@every_chapter
def test_every_picture_has_alternative_text(path):
    expect_none(path, chapters.figure_problems(read(path)))


@every_chapter
def test_exercises_have_minutes_and_solutions(path):
    expect_none(path, chapters.exercise_problems(read(path)))


@every_chapter
def test_cells_are_tagged_for_nbval(path):
    expect_none(path, chapters.tag_problems(read(path)))


@every_chapter
def test_cells_are_short_and_the_file_is_light(path):
    expect_none(path, chapters.size_problems(read(path)))


@every_chapter
def test_no_result_is_typed_into_prose(path):
    expect_none(path, chapters.typed_result_problems(read(path)))


@every_chapter
def test_chapter_states_prerequisites_minutes_and_core_path(path):
    expect_none(path, chapters.frame_problems(read(path)))


def claim_cell(printed: str):
    """A cell that claims, with what it is recorded to have printed."""
    source = "import mmtutor\nmmtutor.claim('one is one', 1 == 1)"
    output = new_output("stream", name="stdout", text=printed)
    return new_code_cell(
        source, outputs=[output], metadata={"tags": ["nbval-check-output"]}, execution_count=1
    )


@pytest.mark.parametrize(
    ("printed", "passes"), [("✓ one is one\n", True), ("✓ one is two\n", False)], ids=["equal", "other"]
)
def test_the_run_fails_where_a_recorded_line_differs(printed, passes, installed, tmp_path):
    done = run_nbval(new_notebook(cells=[claim_cell(printed)]), installed, tmp_path)
    assert (done.returncode == 0) is passes, done.stdout


def test_the_run_fails_where_a_chapter_asks_the_network(installed, tmp_path):
    asks = new_code_cell("import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=2)")
    done = run_nbval(new_notebook(cells=[asks]), installed, tmp_path)
    assert done.returncode != 0
    assert "the network is off while chapters are tested" in done.stdout
