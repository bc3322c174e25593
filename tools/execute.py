"""Re-run the chapters whose outputs are stale, and keep clean outputs (`make execute`).

    python -m tools.execute                       stale chapters
    python -m tools.execute --chapter 06 --force  this one, stale or not
    python -m tools.execute --scale gpu           the larger models

At "cpu", the scale that the tests compare, the outputs go into the chapter itself. At another scale the
executed copy goes to ``_build/<scale>/``, and the chapter notes the seconds and the device only.
A chapter that fails is not written. ``results/chapters.json`` keeps the seconds and the memory of each.
"""

import argparse
import ast
import contextlib
import copy
import datetime
import io
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from mmtutor import here
from mmtutor.ledger import environment, write_whole
from tools.stamp import ROOT, chapter_stamp

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
COMPARED = ("claim", "compare")  # calls that print a line which is the same on every run
FOLDED = "hide-input"  # a cell whose source unfolds on demand
IN_LAB = {  # what the tags that fold a cell on the page are to JupyterLab
    FOLDED: {"source_hidden": True},
    "hide-output": {"outputs_hidden": True},
    "hide-cell": {"source_hidden": True, "outputs_hidden": True},
}
LONG_DATA = re.compile(r"[A-Za-z0-9+/=_-]{80,}")  # base64, in which anything may turn up by chance
PROGRESS = re.compile(r"\d+%\|")
PROBLEMS = {
    "a path of this machine": re.compile(
        r"(?<![\w.])(?:/(?:home|root|tmp|Users|var/folders)/|[A-Z]:\\+Users\\+)[\w.-]+"
    ),
    "a warning": re.compile(r"\b\w*Warning:"),
    "a traceback": re.compile(r"Traceback \(most recent call last\)"),
    "a memory address": re.compile(r"\bat 0x[0-9a-f]{8,}"),
}


def chapters(wanted: str = "") -> list[Path]:
    """Return the chapters of the book in order, or the one with a number or name, for example ``06``.

    Raises:
        SystemExit: if there is no such chapter.
    """
    found = sorted((ROOT / "book").glob("[0-9]*.ipynb"))
    chosen = [path for path in found if wanted in ("", path.stem, *path.stem.split("_", 1))]
    if wanted and not chosen:
        raise SystemExit(f"chapter {wanted!r}: expected one of {[path.stem for path in found]}")
    return chosen


def tags(cell) -> list[str]:
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def is_exercise(cell) -> bool:
    """Tell whether a cell is an exercise: a stub that raises until the reader has solved it."""
    return any(tag.startswith("exercise:") for tag in tags(cell))


def called_names(source: str) -> set[str]:
    """Return the names of the functions and methods that a code cell calls (lines with magics apart)."""
    tree = ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", source))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def expected_tags(cell) -> set[str]:
    """Return the tags by which nbval knows what to skip and compare, and the page what to fold."""
    if is_exercise(cell):
        return {"nbval-skip"}
    called = called_names(cell.source)
    wanted = {"nbval-check-output"} if called & set(COMPARED) else set()
    return wanted | ({FOLDED} if "predict" in called else set())  # its source gives the answer away


def stamp_of(nb, scale: str) -> str:
    """Return the stamp of a chapter's code and of all that it reaches."""
    return chapter_stamp([cell.source for cell in nb.cells if cell.cell_type == "code"], scale)


def is_stale(nb, scale: str) -> bool:
    """Tell whether a chapter has to be run again for its outputs to be those of its code."""
    noted = nb.metadata.get("mmtutor", {})
    return (noted if scale == "cpu" else noted.get(scale, {})).get("stamp") != stamp_of(nb, scale)


def output_problems(nb) -> list[str]:
    """Return what no reader should see in outputs: local paths, warnings, tracebacks, addresses."""
    problems = []
    for index, cell in enumerate(nb.cells):
        for text in output_texts(cell):
            for name, pattern in PROBLEMS.items():
                if match := pattern.search(LONG_DATA.sub("", text)):
                    problems.append(f"cell {index} shows {name}: {match.group()!r}")
    return problems


def output_texts(cell) -> list[str]:
    """Return every text that the outputs of a cell show."""
    texts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        texts += [text for kind, text in data.items() if kind.startswith("text/") or kind == "image/svg+xml"]
        texts += [output.get("text", ""), "\n".join(output.get("traceback", []))]
    return [text for text in texts if text]


def clean(nb) -> None:
    """Keep of a notebook's outputs what every reader can see, in the same form on every run."""
    count = 0
    nb.metadata.pop("widgets", None)
    nb.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb.metadata["language_info"] = {"name": "python"}
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        if wanted := expected_tags(cell):
            cell.metadata["tags"] = sorted({*tags(cell), *wanted})
        for tag in IN_LAB.keys() & {*tags(cell)}:
            cell.metadata["jupyter"] = IN_LAB[tag]
        shown = [output for output in cell.outputs if not is_progress_bar(output)]
        cell.outputs = [] if is_exercise(cell) else merge_streams(shown)
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET_VIEW, None)
            if "execution_count" in output:
                output["execution_count"] = count


def is_progress_bar(output) -> bool:
    """Tell whether an output is tqdm's bar: a widget without a page of its own, or text on stderr."""
    data = output.get("data", {})
    is_bare_widget = WIDGET_VIEW in data and "text/html" not in data
    return is_bare_widget or (output.get("name") == "stderr" and PROGRESS.search(output.text) is not None)


def merge_streams(outputs: list) -> list:
    """Join what was printed in several pieces into one output."""
    merged = []
    for output in outputs:
        before = merged[-1] if merged else {}
        if output.output_type == "stream" and output.name == before.get("name"):
            before["text"] += output.text
        else:
            merged.append(output)
    return merged


def run(nb, scale: str) -> tuple[float, int | None]:
    """Execute a notebook in a fresh kernel in an empty folder, exercises apart.

    Returns:
        The seconds that it took, and the most memory that its kernel held, in MiB (None if not known).

    Raises:
        SystemExit: if a cell raises; the message shows the cell.
    """
    code = [(index, cell) for index, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    setting = {**os.environ, "MMTUTOR_SCALE": scale, "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"}
    setting["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            nb,
            timeout=None,
            kernel_name="python3",
            extra_arguments=["--log-level=40"],
            record_timing=False,
            store_widget_state=False,
        )
        client.resources = {"metadata": {"path": folder}}
        start = time.monotonic()
        with client.setup_kernel(env=setting):
            for number, (index, cell) in enumerate(code, 1):
                cell.outputs = []
                if is_exercise(cell):
                    continue
                began = time.monotonic()
                first = (cell.source.strip().splitlines() or [""])[0][:60]
                print(f"  cell {number:2} of {len(code)}  {first:60}", end="", flush=True)
                try:
                    client.execute_cell(cell, index)
                except CellExecutionError as error:
                    raise SystemExit(f"\ncell {index} raised:\n\n{cell.source}\n\n{error}") from None
                print(f" {time.monotonic() - began:6.1f} s", flush=True)
            memory = peak_memory_mib(client.km.provisioner.pid)
        return time.monotonic() - start, memory


def peak_memory_mib(process: int) -> int | None:
    """Return the most memory that a running process has held, in MiB; None where the system does not tell.

    ``ru_maxrss`` would not do: a new process starts with that of its parent, which has imported PyTorch.
    """
    status = Path(f"/proc/{process}/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else "", re.M)
    return round(int(found[1]) / 2**10) if found else None


def execute(path: Path, scale: str) -> dict:
    """Run one chapter and write it, unless a cell raises or its outputs show what they should not.

    Returns:
        What was measured: seconds, device, and memory_mib where it is known.
    """
    nb = nbformat.read(path, as_version=4)
    stamp = stamp_of(nb, scale)
    before = copy.deepcopy(nb)
    seconds, memory = run(nb, scale)
    clean(nb)
    if problems := output_problems(nb):
        raise SystemExit(f"{path.name} is not written:\n  " + "\n  ".join(problems))
    noted = {"stamp": stamp, "seconds": round(seconds, 1), "device": environment()["device"], "scale": scale}
    measured = {"seconds": noted["seconds"], "device": noted["device"], "memory_mib": memory}
    measured = {key: value for key, value in measured.items() if value is not None}
    keep_times(path.stem, scale, measured)
    say_time(nb, path.stem, scale)
    noted["date"] = datetime.date.today().isoformat()
    others = {key: value for key, value in nb.metadata.get("mmtutor", {}).items() if isinstance(value, dict)}
    if scale == "cpu":
        nb.metadata["mmtutor"] = {**others, **noted}
        write(nb, path)
    else:
        write(nb, ROOT / "_build" / scale / path.name)
        before.metadata["mmtutor"] = {**before.metadata.get("mmtutor", {}), scale: noted}
        write(before, path)
    print(f"{path.name}: {seconds:.1f} s on {noted['device']}")
    return measured


def keep_times(chapter: str, scale: str, measured: dict) -> None:
    """Write what a run of a chapter took to ``results/chapters.json``, a line for each chapter there is."""
    file = ROOT / "results" / "chapters.json"
    times = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    times[chapter] = {**times.get(chapter, {}), scale: measured}
    there = sorted(path.stem for path in chapters() if path.stem in times)
    lines = [
        f" {json.dumps(name)}: {json.dumps(times[name], sort_keys=True, ensure_ascii=False)}"
        for name in there
    ]
    write_whole(file, "{\n" + ",\n".join(lines) + "\n}\n")


def say_time(nb, chapter: str, scale: str) -> None:
    """Let the first cell say what this run took: while it ran, only the run before was known."""
    first = next(cell for cell in nb.cells if cell.cell_type == "code")
    if "here" not in called_names(first.source):
        return
    os.environ["MMTUTOR_SCALE"] = scale
    with contextlib.redirect_stdout(io.StringIO()) as said:
        here(chapter)
    first.outputs = [nbformat.v4.new_output("stream", name="stdout", text=said.getvalue())]


def summary(runs: dict[str, dict]) -> str:
    """Return the time and the memory of each chapter that was run, and of all of them."""
    memories = [run["memory_mib"] for run in runs.values() if "memory_mib" in run]
    total = {"seconds": sum(run["seconds"] for run in runs.values())}
    total |= {"memory_mib": max(memories)} if memories else {}
    lines = []
    for name, run in [*runs.items(), (f"{len(runs)} chapters", total)]:
        memory = f"{run['memory_mib']} MiB at most" if "memory_mib" in run else "memory not known"
        lines.append(f"{name:20} {run['seconds']:8.1f} s {memory:>20}")
    return "\n".join(lines)


def write(nb, path: Path) -> None:
    """Write a notebook in a form that depends on its content only."""
    nbformat.validate(nb)
    write_whole(path, nbformat.writes(nb, version=4).rstrip("\n") + "\n")


def main() -> None:
    """Execute what the command line and the variables of `make` ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--chapter", default=os.environ.get("CHAPTER", ""), help="number or name, for example 06"
    )
    parser.add_argument("--scale", default=os.environ.get("SCALE") or "cpu", choices=("cpu", "gpu"))
    parser.add_argument("--force", action="store_true", help="run chapters that are fresh, too")
    options = parser.parse_args()
    found, runs = chapters(options.chapter), {}
    for path in found:
        if not options.force and not is_stale(nbformat.read(path, as_version=4), options.scale):
            print(f"{path.name}: fresh")
            continue
        print(f"{path.name}: running")
        runs[path.stem] = execute(path, options.scale)
    if len(runs) > 1:
        print(summary(runs))
    if not found:
        print("no chapters in book/", file=sys.stderr)


if __name__ == "__main__":
    main()
