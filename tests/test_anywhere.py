"""The book away from its repository: on Colab, on Binder, in a container, as a download, in a course."""

import ast
import json
import os
import re
import subprocess
import sys
import types
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import mmtutor
from mmtutor import here
from mmtutor.widgets import ContrastivePlayground, base
from tests.wheels import build_wheel
from tools.execute import chapters, tags

ROOT = Path(__file__).parents[1]
ADDRESS = "https://github.com/mmtutor/everything-is-a-mapping"
# what Colab has of the things that the book needs, beside what these need themselves
COLAB = ("pip", "setuptools", "torch", "torchvision", "numpy", "matplotlib", "pillow", "scikit-learn")
COLAB += ("tqdm", "ipywidgets", "ipykernel")
COLAB_LACKS = ("anywidget", "jaxtyping", "sacrebleu")
FIRST = """import importlib.util

if importlib.util.find_spec("mmtutor") is None:  # on Colab, say
    book = "git+{address}"
    get_ipython().run_line_magic("pip", f"install -q {{book}}")

from mmtutor import here

here("{name}")"""
# stands in for the notebook's shell: notes what it is asked, and installs the wheel in place of the address
SHELL = """
import subprocess, sys
asked = []

class Shell:
    def run_line_magic(self, name, line):
        asked.append((name, line))
        line = line.replace("git+{address}", {wheel!r})
        subprocess.run([sys.executable, "-m", name, *line.split()], check=True)

get_ipython = Shell
"""
NO_SHELL = "def get_ipython(): raise AssertionError('the first cell was not to install anything')"
REPORT = """
import json, os, sys, mmtutor
from mmtutor.widgets import ContrastivePlayground
page = len(ContrastivePlayground().to_html())
places = dict(package=mmtutor.__file__, torch=torch.__file__, files=os.listdir())
print(json.dumps(dict(asked=asked, page=page, **places)))
"""
every_chapter = pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)


def cells(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


def first_cell(path: Path):
    return next(cell for cell in cells(path) if cell.cell_type == "code")


def needed(names) -> dict[str, metadata.Distribution]:
    """The installed packages of these names, and all that they need."""
    found, waiting = {}, [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = metadata.distribution(name)
            asks = map(Requirement, found[name].requires or [])
            asks = [ask for ask in asks if not ask.marker or ask.marker.evaluate({"extra": ""})]
            waiting += [canonicalize_name(ask.name) for ask in asks]
    return found


# -- the first cell


@every_chapter
def test_every_chapter_starts_with_the_same_cell_and_its_own_name(path):
    cell = first_cell(path)
    assert cell.source == FIRST.format(address=ADDRESS, name=path.stem)
    assert tags(cell) == ["imports", "hide-input"] and cell.metadata.jupyter.source_hidden


@pytest.fixture
def recorded_times(tmp_path, monkeypatch):
    """A folder of recorded runs beside a book of two chapters; sets the content of ``chapters.json``."""
    (tmp_path / "book").mkdir()
    for name in ("01_mapping", "12_gan"):
        (tmp_path / "book" / f"{name}.ipynb").touch()
    results = tmp_path / "results"
    results.mkdir()
    monkeypatch.setenv("MMTUTOR_RESULTS", str(results))
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return lambda times: (results / "chapters.json").write_text(json.dumps(times))


@pytest.mark.parametrize(
    ("seconds", "said"), [(3, "10 seconds"), (34.6, "30 seconds"), (113.2, "2 minutes"), (290, "5 minutes")]
)
def test_the_line_says_device_scale_and_time(recorded_times, capsys, seconds, said):
    recorded_times({"12_gan": {"cpu": {"seconds": seconds, "device": "2-core CPU", "memory_mib": 900}}})
    here("12_gan")
    expected = f'Chapter 12 on the CPU, small models (scale "cpu"): about {said} (timed on: 2-core CPU).\n'
    assert capsys.readouterr().out == expected


def test_the_line_names_the_gpu_and_says_what_was_not_timed(recorded_times, monkeypatch, capsys):
    recorded_times({"12_gan": {"cpu": {"seconds": 113.2, "device": "2-core CPU"}}})
    monkeypatch.delenv("MMTUTOR_SCALE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    here("12_gan")
    here("01_mapping")
    assert capsys.readouterr().out.splitlines() == [
        'Chapter 12 on Tesla T4, larger models (scale "gpu"): not timed at this scale.',
        'Chapter 1 on Tesla T4, larger models (scale "gpu"): not timed at this scale.',
    ]


def test_without_recorded_times_a_chapter_still_starts(recorded_times, tmp_path, monkeypatch, capsys):
    here("12_gan")
    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path / "empty" / "results"))
    here("99_unknown")  # no book and no times: there is nothing to know it by
    assert capsys.readouterr().out.count("not timed at this scale") == 2


@pytest.mark.parametrize("content", ["{", "3"])
def test_a_damaged_file_of_times_is_named(recorded_times, tmp_path, content):
    (tmp_path / "results" / "chapters.json").write_text(content)
    with pytest.raises(ValueError, match=r"chapters\.json: expected the times of chapters by name, found"):
        here("12_gan")


@pytest.mark.parametrize("wrong", ["gan", "12", "12_GAN", ""])
def test_a_wrong_name_is_named_with_the_known_ones(recorded_times, wrong):
    recorded_times({"06_contrastive": {}})
    known = r"\['01_mapping', '06_contrastive', '12_gan'\]"
    with pytest.raises(ValueError, match=rf"chapter: expected one of {known}, found '{wrong}'"):
        here(wrong)


def test_recorded_times_are_of_chapters_that_exist_and_every_run_chapter_has_one(monkeypatch):
    monkeypatch.delenv("MMTUTOR_RESULTS", raising=False)
    times = json.loads((ROOT / "results" / "chapters.json").read_text(encoding="utf-8"))
    noted = {path.stem: nbformat.read(path, as_version=4).metadata.get("mmtutor", {}) for path in chapters()}
    assert set(times) <= set(noted)
    for name, run in noted.items():
        if "seconds" in run:
            assert times[name]["cpu"]["seconds"] == run["seconds"], name
            assert times[name]["cpu"]["device"] == run["device"], name


@every_chapter
def test_the_stored_line_says_the_recorded_time(path, monkeypatch, capsys):
    """As a reader without a GPU sees it."""
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    here(path.stem)
    (stored,) = first_cell(path).outputs
    assert stored.text == capsys.readouterr().out


# -- Colab


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    """The Python of a new environment that has what Colab has, as links to what is installed here."""
    place = tmp_path_factory.mktemp("colab") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = next(path for path in (place / "bin/python", place / "Scripts/python.exe") if path.exists())
    asks = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([str(python), "-c", asks], text=True).strip())
    for package in needed(COLAB).values():
        tops = {file.parts[0] for file in package.files} - {"..", "__pycache__"}
        for name in tops:
            if not (site / name).exists():
                (site / name).symlink_to(package.locate_file(name))
    return python


def clean_environment(**more: str) -> dict[str, str]:
    """The variables of this process without those that lead back to the repository."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MMTUTOR", "PYTHON"))}
    return {**kept, "MMTUTOR_SCALE": "cpu", "TQDM_DISABLE": "1", **more}


@pytest.fixture(scope="module")
def to_install(colab, wheel, tmp_path_factory) -> dict[str, str]:
    """Names and versions of what pip would install for the wheel; nothing is installed yet."""
    report = tmp_path_factory.mktemp("report") / "report.json"
    options = ["-q", "--dry-run", "--report", str(report), "--retries", "1"]
    command = [str(colab), "-m", "pip", "install", *options, str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    if "(from versions: none)" in done.stderr:
        pytest.skip("what Colab lacks has to be fetched, and there is no network")
    assert done.returncode == 0, done.stdout + done.stderr
    items = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return {canonicalize_name(item["name"]): item["version"] for item in items}


def state(python: Path) -> dict:
    """What an environment holds that came by a link: where it leads, and when that was last changed."""
    site = next(python.parents[1].rglob("torch")).parent
    return {
        path.name: (path.resolve(), path.stat().st_mtime_ns) for path in site.iterdir() if path.is_symlink()
    }


def run_in(python: Path, folder: Path, sources: list[str]) -> list[str]:
    """Run cells in the kernel of an environment; return what each printed."""
    spec = folder / "jupyter" / "kernels" / "anywhere" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "anywhere", "language": "python"}))
    empty = folder / "empty"
    empty.mkdir()
    nb = new_notebook(cells=[new_code_cell(source) for source in sources])
    client = NotebookClient(nb, timeout=300, kernel_name="anywhere", extra_arguments=["--log-level=40"])
    client.resources = {"metadata": {"path": str(empty)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        client.execute(env=clean_environment())
    printed = [[out.text for out in cell.outputs if out.get("name") == "stdout"] for cell in nb.cells]
    return ["".join(texts) for texts in printed]


def test_on_colab_pip_brings_the_package_and_the_few_that_are_missing(to_install):
    there = set(needed(COLAB))
    missing = set(needed(COLAB_LACKS)) - there
    assert set(COLAB_LACKS) <= set(to_install)
    assert not there & set(to_install), "pip would replace what is installed"
    assert set(to_install) <= {"mmtutor", *missing}


def test_on_colab_the_first_cell_installs_the_package_and_the_chapter_starts(
    colab, wheel, to_install, tmp_path
):
    assert not set(needed(COLAB)) & set(to_install)  # or the next lines would try it out
    before = state(colab)
    path = chapters("01")[0]
    code = [cell for cell in cells(path) if cell.cell_type == "code"]
    n = next(i for i, cell in enumerate(code) if "nbval-check-output" in tags(cell)) + 1
    shell = SHELL.format(address=ADDRESS, wheel=str(wheel))
    again = [NO_SHELL, code[0].source]  # now that it is there
    printed = run_in(colab, tmp_path, [shell, *(cell.source for cell in code[:n]), REPORT, *again])
    assert re.fullmatch(
        r'Chapter 1 on .+, small models \(scale "cpu"\): about .+ \(timed on: .+\)\.', printed[1].strip()
    )
    assert printed[n].startswith("✓ ")
    found = json.loads(printed[-3])
    assert found["asked"] == [["pip", f"install -q git+{ADDRESS}"]]
    assert Path(found["package"]).is_relative_to(colab.parents[1]) and found["page"] > 1000
    assert Path(found["torch"]).is_relative_to(colab.parents[1]) and found["files"] == []
    assert printed[-1] == printed[1]
    assert state(colab) == before, "what was there has changed"


def test_the_ranges_admit_what_is_installed_and_have_no_upper_end(wheel):
    inside = zipfile.ZipFile(wheel)
    name = next(name for name in inside.namelist() if name.endswith(".dist-info/METADATA"))
    lines = inside.read(name).decode().splitlines()
    asks = [Requirement(line.split(": ", 1)[1]) for line in lines if line.startswith("Requires-Dist: ")]
    assert {"torch", "torchvision", *COLAB_LACKS} <= {ask.name for ask in asks}
    for ask in asks:
        assert ask.specifier.contains(metadata.version(ask.name), prereleases=True), str(ask)
        assert {part.operator for part in ask.specifier} == {">="}, str(ask)


@pytest.fixture
def in_colab(monkeypatch):
    """Pretend to be in Colab; collects what its widget manager is asked."""
    calls = []
    colab, output = types.ModuleType("google.colab"), types.ModuleType("google.colab.output")
    output._widgets = types.SimpleNamespace(_installed_url=None)

    def enable_custom_widget_manager():
        calls.append("enabled")
        output._widgets._installed_url = "address of the manager"

    output.enable_custom_widget_manager = enable_custom_widget_manager
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    base._announce.cache_clear()
    yield calls
    base._announce.cache_clear()


def test_the_first_widget_asks_colab_for_its_widget_manager_and_the_next_do_not(in_colab):
    widget = ContrastivePlayground()
    asked = len(in_colab)
    assert asked >= 1
    ContrastivePlayground()
    assert len(in_colab) == asked
    data, more = widget._repr_mimebundle_()
    view = "application/vnd.jupyter.widget-view+json"
    assert view in data and more[view]["colab"]["custom_widget_manager"]["url"] == "address of the manager"


@pytest.mark.parametrize(
    "module", [None, types.ModuleType("google.colab")], ids=["elsewhere", "an imitation"]
)
def test_widgets_work_where_there_is_no_such_manager(module, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab.output", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    if module:
        monkeypatch.setitem(sys.modules, "google.colab", module)
    base._announce.cache_clear()
    assert ContrastivePlayground().to_html()
    base._announce.cache_clear()


# -- buttons, Binder, a container


def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def test_pages_have_buttons_to_download_a_chapter_and_to_open_it_in_colab_and_binder():
    settings = config()
    assert settings["repository"]["url"] == ADDRESS and settings["repository"]["branch"] == "main"
    assert settings["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert settings["launch_buttons"]["binderhub_url"] == "https://mybinder.org"
    html, sphinx = settings["html"], settings["sphinx"]["config"]
    assert html.get("use_download_button", True)  # the theme's default
    assert sphinx.get("html_copy_source", True)  # the button leads to this copy
    assert settings["execute"]["execute_notebooks"] == "off"  # so that it is the committed notebook
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'Repository = "{ADDRESS}"' in project


@every_chapter
def test_a_downloaded_chapter_needs_no_file_beside_it(path):
    text = "\n".join(cell.source for cell in cells(path) if cell.cell_type == "markdown")
    pictures = re.findall(
        r"!\[[^\]]*\]\(([^)]*)\)|```\{(?:image|figure|include|literalinclude)\}\s*(\S+)", text
    )
    assert not [name for name in map("".join, pictures) if not name.startswith(("data:", "https:"))]


def python_range() -> SpecifierSet:
    """The versions of Python that the package accepts, and that `make` knows."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    known = re.search(r"\(3, (\d+)\) <= sys.version_info < \(3, (\d+)\)", (ROOT / "Makefile").read_text())
    asked = re.search(r'requires-python = "(.*)"', project)[1]
    return SpecifierSet(asked) & SpecifierSet(f">=3.{known[1]},<3.{known[2]}")


def test_binder_installs_the_package_and_the_pinned_lab_on_a_python_in_range():
    lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").split("\n")
    assert "-e ." in lines
    lab = next(line for line in lines if line.startswith("jupyterlab"))
    assert lab in (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n")
    runtime = (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    assert python_range().contains(runtime.removeprefix("python-"))


def test_the_container_is_a_plain_python_that_sets_itself_up():
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert python_range().contains(settings["image"].split(":")[1])
    assert not {"build", "dockerFile"} & set(settings)
    assert settings["postCreateCommand"] == "make setup" and settings["forwardPorts"] == [8888]
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


# -- the page for teachers


def blocks(language: str) -> list[str]:
    """The code blocks of the page in a language."""
    page = (ROOT / "book" / "course.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)


def solutions(path: Path) -> list[str]:
    return [tag for cell in cells(path) for tag in tags(cell) if tag.startswith("solution:")]


def test_the_script_for_teachers_takes_the_solutions_out_and_leaves_the_exercises(tmp_path):
    (tmp_path / "book").mkdir()
    for path in chapters()[:2]:
        (tmp_path / "book" / path.name).write_bytes(path.read_bytes())
    (script,) = blocks("python")
    ast.parse(script)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in chapters()[:2]:
        copy = tmp_path / "class" / path.name
        kept = [cell.source for cell in cells(path) if not any(t.startswith("solution:") for t in tags(cell))]
        assert solutions(path) and not solutions(copy)
        assert [cell.source for cell in cells(copy)] == kept


def test_nbconvert_takes_out_the_solution_that_is_named(tmp_path):
    command = next(line for text in blocks("bash") for line in text.splitlines() if "nbconvert" in line)
    name = re.search(r"book/(\d\d)_", command)[1]
    path = chapters(name)[0]
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / path.name).write_bytes(path.read_bytes())
    words = command.split()
    assert words[:2] == ["jupyter", "nbconvert"]
    done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken = re.search(r"solution:\w+", command)[0]
    left = solutions(tmp_path / "class" / path.name)
    assert taken in solutions(path) and left == [tag for tag in solutions(path) if tag != taken]


def test_what_is_collected_for_a_room_without_a_network_installs_there(wheel, tmp_path):
    page = (ROOT / "book" / "course.md").read_text(encoding="utf-8")
    assert (
        f'\npip wheel -w stick jupyterlab "git+{ADDRESS}"\n' in page
    )  # `pip download` leaves no wheel of ours
    words = re.search(r"^pip install --no-index .* mmtutor jupyterlab$", page, re.M)[0].split()
    words = [str(wheel.parent) if word == "stick" else word for word in words if word != "jupyterlab"]
    command = [sys.executable, "-m", *words, "-q", "--no-deps", "--target", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mmtutor" / "data" / "manifest.json").exists()


def test_the_page_for_teachers_links_to_the_book_and_names_the_scale_that_there_is():
    page = (ROOT / "book" / "course.md").read_text(encoding="utf-8")
    assert f"git+{ADDRESS}" in page and ADDRESS.replace(":", "%3A").replace("/", "%2F") in page
    assert "MMTUTOR_SCALE" in page and "{include} bench.md" in page
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert "file: book/course" in toc and "book/course.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert mmtutor.__version__ in page  # in the name of the wheel
