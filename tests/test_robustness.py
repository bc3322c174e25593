"""What goes wrong around a reader: Ctrl-C, cells run twice, full disks, no network, damage, an old torch."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

import mmtutor.widgets
from mmtutor._torch_version import OLDEST, check_version
from mmtutor.data import load_emoji
from mmtutor.encoders import TextEncoder
from mmtutor.ledger import Figures, Ledger, write_whole
from mmtutor.results import compare, recorded
from mmtutor.widgets import ContrastivePlayground, SearchBox
from mmtutor.widgets.base import BookWidget
from tests import chapters
from tests.test_sweep import use_rows
from tools import execute, sweep
from tools.stamp import ROOT

QUIET = {"TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT), "MMTUTOR_SCALE": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}

# -- Ctrl-C in the middle of a training cell -----------------------------------------------------------------

# whatever trains takes its steps by an optimiser: at one of them the kernel waits for the interrupt
WAIT_AT = """
import time, torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
stop_at, taken = 0, 0

def wait(*_):
    global taken
    taken += 1
    if taken == stop_at:
        print("half way", flush=True)
        time.sleep(60)

register_optimizer_step_pre_hook(wait)
"""
# imports; the cell; what the reader does next, and what that says after a whole run and after half of one
TRAINING_CELLS = {
    "train": (
        "from mmtutor import seed_everything\nfrom mmtutor.training import train",
        """
seed_everything(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 1))
history = train(model, lambda step: model(torch.randn(32, 3)).square().mean(), 40)
""",
        "print(model.training, history.stopped, model(torch.ones(3)).isfinite().all().item())",
        {True: "False finished True", False: "False interrupted True"},
    ),
    "a recipe by train": (
        "from mmtutor.experiments import sharing as recipe\n"
        "recipe.STEPS['cpu'] = dict.fromkeys(recipe.STEPS['cpu'], 40)",
        "model = recipe.fit('digits + morphological', seed=0)",
        "print(model.training, model.history.stopped, len(model.history.loss))",
        {True: "False finished 40", False: "False interrupted 19"},
    ),
    "a recipe with a loop of its own": (
        "from mmtutor.experiments import matching as recipe\nrecipe.STEPS['cpu']['digits'] = 40",
        "model = recipe.fit('fourier + zernike', seed=0)",
        "print(model.training, len(model.losses))",
        {True: "False 40", False: "False 40"},
    ),
    "train_gan": (
        "from mmtutor import seed_everything\nfrom mmtutor.gan import train_gan\n"
        "from mmtutor.experiments import gan_uses as uses",
        """
seed_everything(0)
gan = model = uses.network({"fourier": 4, "pixels": 6})
batch = lambda: {"fourier": torch.randn(16, 4), "pixels": torch.randn(16, 6)}
history = train_gan(gan, batch, 20, progress=False)
""",
        "print(gan.training, history.stopped, gan.generate(2)['pixels'].isfinite().all().item())",
        {True: "False finished True", False: "False interrupted True"},
    ),
}
WEIGHTS = "print(sum(p.double().abs().sum() for p in model.parameters()).item())"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel as JupyterLab starts one; it waits for Ctrl-C where it is told to."""
    folder = tmp_path_factory.mktemp("kernel")
    manager, client = start_new_kernel(kernel_name="python3", cwd=folder, env={**os.environ, **QUIET})
    yield Notebook(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


class Notebook:
    """Runs cells; presses Ctrl-C when one prints "half way"."""

    def __init__(self, manager, client):
        self.manager, self.client = manager, client
        self.run(WAIT_AT)

    def run(self, source: str, stop_at: int = 0) -> tuple[str, str]:
        """Return what a cell printed, and the name of the error that ended it ("" for none)."""
        if stop_at or "stop_at" not in source:
            self.client.execute_interactive(f"taken, stop_at = 0, {stop_at}", timeout=60)
        printed = []

        def hear(message):
            if message["header"]["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                printed.append(message["content"]["text"])
                if "half way" in printed[-1]:
                    self.manager.interrupt_kernel()

        answer = self.client.execute_interactive(source, timeout=120, output_hook=hear)
        return "".join(printed).strip(), answer["content"].get("ename", "")


@pytest.mark.parametrize("kind", TRAINING_CELLS)
def test_after_ctrl_c_the_model_can_be_used_and_the_cell_run_again_gives_what_it_gives(kernel, kind):
    imports, cell, after, said = TRAINING_CELLS[kind]
    assert kernel.run(imports) == ("", "")
    assert kernel.run(cell) == ("", "")
    whole = kernel.run(WEIGHTS)
    assert kernel.run(after) == (said[True], "")
    # that recipe computes the rates of its 40 steps by 40 steps of an optimiser of nothing, before it trains
    printed, error = kernel.run(cell, stop_at=60 if kind == "a recipe by train" else 20)
    assert "half way" in printed and error in ("", "KeyboardInterrupt")
    assert kernel.run(after) == (said[False], "")
    if error:  # nothing was put into the place of what there was
        assert kernel.run(WEIGHTS) == whole
    assert kernel.run(cell) == ("", "")
    assert kernel.run(after) == (said[True], "") and kernel.run(WEIGHTS) == whole


# -- a cell run twice ----------------------------------------------------------------------------------------


def test_every_cell_of_a_chapter_run_twice_shows_the_same(tmp_path):
    """One cheap chapter, its long trainings once; ``CHAPTER=06`` tries another."""
    (path,) = execute.chapters(os.environ.get("CHAPTER") or "08")
    nb = nbformat.read(path, as_version=4)
    assert chapters.second_run_problems(nb, tmp_path, longest=5) == []


def test_what_a_second_run_would_change_is_found(tmp_path):
    lines = ["x = [1]", "x = [*x, 2]\nprint(x)", "print(len([*x]))", "it = iter('ab')", "print(next(it))"]
    nb = new_notebook(cells=[new_code_cell(line) for line in lines])
    found = chapters.second_run_problems(nb, tmp_path)
    assert [problem.split(":")[0] for problem in found] == ["cell 1", "cell 4"]
    assert "[1, 2, 2]" in found[0]


# -- a full disk, a folder that may not be written -----------------------------------------------------------


def fill_the_disk(monkeypatch, number: int = errno.ENOSPC) -> None:
    """From now on a file takes ten characters, then writing fails as a real write does: without its name."""

    def write_text(path, text, encoding=None):
        with open(path, "w", encoding=encoding) as file:
            file.write(text[:10])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", write_text)


def toy_ledger(*hits: float) -> Ledger:
    ledger = Ledger("toy", "cpu")
    ledger.record("a", 0, Figures(outcomes={"hit": [*hits]}))
    ledger.record("b", 0, Figures(outcomes={"hit": [*hits]}))
    return ledger


NOTEBOOK = new_notebook(cells=[new_code_cell("x = 1")])
KEPT = {
    "a ledger": ("toy-cpu.json", lambda path: toy_ledger(1, 0).save(path)),
    "a chapter": ("01_toy.ipynb", lambda path: execute.write(NOTEBOOK, path)),
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=os.strerror)
@pytest.mark.parametrize("kind", KEPT)
def test_what_cannot_be_written_is_named_and_stays_as_it_was(tmp_path, monkeypatch, kind, number):
    name, write = KEPT[kind]
    path = tmp_path / name
    path.write_text("as it was")
    fill_the_disk(monkeypatch, number)
    with pytest.raises(OSError, match=rf"left as it was: {os.strerror(number)}: .*{name}") as caught:
        write(path)
    assert caught.value.errno == number
    assert [file.read_text() for file in tmp_path.iterdir()] == ["as it was"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "results").write_text("a file where the folder would be")
    with pytest.raises(OSError, match="left as it was: .*toy-cpu.json"):
        write_whole(tmp_path / "results" / "toy-cpu.json", "{}")


def test_a_sweep_stops_at_a_full_disk_instead_of_computing_what_it_cannot_keep(monkeypatch, tmp_path):
    started = []

    def start(name, row, seed, stamp, scale, folder):
        started.append(seed)
        if len(started) == 3:
            fill_the_disk(monkeypatch)
        ledger = Ledger(name, scale)
        ledger.record(row, seed, Figures({"hit": 1.0}), code=stamp)
        time.sleep(0.1)
        return ledger

    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    monkeypatch.setattr(sweep, "start_run", start)
    use_rows(monkeypatch, {"a": {}})
    with pytest.raises(SystemExit, match="stopped: .*No space left.*toy-cpu.json.*goes on from there"):
        sweep.sweep("toy", [], "cpu", jobs=1, seeds=20)
    assert len(started) < 10
    assert 1 <= Ledger.load(tmp_path / "toy-cpu.json", "toy", "cpu").n_seeds("a") <= 3


# refuses every write outside of the folder for temporary files, and every connection
LOCKED = """
import os, sys, tempfile
allowed = (tempfile.gettempdir(), "/dev/")

def refuse(event, details):
    path = None
    if event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = details[0]
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir"):
        path = details[0]
    if isinstance(path, str) and not path.startswith(allowed):
        raise OSError(30, "Read-only file system", path)
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise OSError(f"no network, and asked for {details}")

sys.addaudithook(refuse)
"""
A_READER = """
import torch
from mmtutor import compare, recorded, seed_everything
from mmtutor.data import load_digits, load_emoji, load_sentiment, load_tweets
from mmtutor.training import train
from mmtutor.widgets import ContrastivePlayground

digits, emoji = load_digits(), load_emoji()
assert len(load_tweets().texts) and len(load_sentiment().item)
x, y = torch.tensor(digits.views["zernike"]), torch.tensor(digits.labels)
model = torch.nn.Linear(47, 10)
assert train(model, lambda step: torch.nn.functional.cross_entropy(model(x), y), 3).stopped == "finished"
assert recorded("towers", "cpu").n_seeds("six views, + gate") == 5
assert "<script" in ContrastivePlayground().to_html()
for cell in CELLS:
    exec(cell, globals())
import socket
for attempt in (lambda: open("here.txt", "w"), lambda: socket.create_connection(("192.0.2.1", 80))):
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit("something was not refused")
"""


def test_a_chapter_begins_and_a_model_trains_without_network_home_or_a_folder_to_write_in(tmp_path):
    nb = nbformat.read(ROOT / "book" / "08_towers.ipynb", as_version=4)
    cells = [cell.source for cell in chapters.code_cells(nb)][:8]
    setting = {**os.environ, **QUIET, "HOME": "/nowhere", "TMPDIR": str(tmp_path)}
    for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME", "MMTUTOR_RESULTS"):
        setting.pop(name, None)
    program = f"{LOCKED}\nCELLS = {cells!r}\n{A_READER}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd="/", env=setting, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


# -- damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"\xff" + b, lambda b: b""])
def test_a_ledger_that_was_cut_or_overwritten_is_named_with_what_to_do(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    path = tmp_path / "toy-cpu.json"
    toy_ledger(1, 0).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"toy-cpu\.json: expected a ledger .*found .*Restore the file"):
        recorded("toy", "cpu")


@pytest.mark.parametrize("packed", ["outcomes", "groups"])
def test_damaged_outcomes_are_named_with_their_run(tmp_path, monkeypatch, packed):
    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    ledger = Ledger("toy", "cpu")
    for row in "ab":
        ledger.record(row, 0, Figures(outcomes={"hit": [1, 0, 1]}, groups=[0, 0, 1]))
    ledger.save(tmp_path / "toy-cpu.json")
    content = json.loads((tmp_path / "toy-cpu.json").read_text())
    if packed == "outcomes":
        content["rows"]["a"]["seeds"]["0"]["outcomes"]["hit"] = "AAAA"
    else:
        content["groups"] = {}
    (tmp_path / "toy-cpu.json").write_text(json.dumps(content))
    recorded("toy", "cpu")
    with pytest.raises(ValueError, match=r"toy-cpu\.json: a, seed 0: expected packed numbers, found"):
        compare("a", "b", "hit")


# -- an old torch --------------------------------------------------------------------------------------------


def test_an_old_torch_is_named_before_anything_else_fails():
    code = "import torch; torch.__version__ = '2.3.1+cu121'; import mmtutor"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "ImportError: torch: expected version 2.4 or newer, found 2.3.1+cu121" in done.stderr
    assert "pip install --upgrade torch" in done.stderr


@pytest.mark.parametrize("version", ["1.13.1", "2.0.0", "2.3.9+cpu"])
def test_versions_before_the_oldest_are_refused(version):
    with pytest.raises(ImportError, match=rf"expected version 2\.4 or newer, found {re.escape(version)}"):
        check_version(version)


@pytest.mark.parametrize(
    "version", ["2.4.0", "2.4.0a0+git1234", "2.9.0+cu128", "2.10.0", "3.0", "local build"]
)
def test_newer_versions_and_builds_of_one_s_own_pass(version):
    check_version(version)


def test_the_oldest_torch_is_that_of_the_package():
    oldest = ".".join(map(str, OLDEST))
    assert f'"torch>={oldest}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# -- no scripts ----------------------------------------------------------------------------------------------


def test_every_widget_has_a_picture_and_words_for_where_no_script_runs():
    kinds = [kind for kind in vars(mmtutor.widgets).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, BookWidget) and kind is not BookWidget]
    assert len(kinds) > 10
    for kind in kinds:
        assert kind.picture is not BookWidget.picture and kind.summary is not BookWidget.summary, kind


def test_the_two_oldest_widgets_draw_what_they_tell():
    emoji, encoder = load_emoji(), TextEncoder(dim=8).eval()
    names = list(emoji.names[:30])
    search = SearchBox(encoder, encoder(names).detach(), emoji.images[0, :30], names, ["red apple"])
    for widget in (ContrastivePlayground(), ContrastivePlayground("margin"), search):
        drawn = Image.open(io.BytesIO(widget.picture())).convert("L")
        assert len(widget.picture()) < 6000 and drawn.getextrema()[0] < 128
        assert "allow scripts" in widget.to_html() and "data:image/webp" in widget.to_html()
    assert SearchBox(encoder, torch.randn(2, 8), emoji.images[0, :2], names[:2], ["?"]).picture()
