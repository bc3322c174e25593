"""Run a chapter's rows over five seeds and record their figures in ``results/`` (`make results`).

    python -m tools.sweep --chapter 06 --rows "pixels; short, margin" --jobs 2

Every run is a process of its own, forked from one that has already imported the recipe. The ledger is
written after each, so a sweep that is stopped goes on where it was. A run is repeated only where the code
that it reaches, its settings or its data have changed.
"""

import argparse
import datetime
import hashlib
import importlib
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from mmtutor.ledger import Ledger, environment, ledger_path
from mmtutor.runtime import device, seed_everything
from tools.stamp import ROOT, run_stamps

SEEDS = 5
NO_RESULTS = {"seconds", "peak_memory_mb", "device", "date", "code", "confirmed"}  # of a run


def recipe_name(wanted: str) -> str:
    """Return the recipe of a chapter given by number or name: ``06`` gives ``contrastive``.

    Raises:
        SystemExit: if there is no such recipe.
    """
    known = recipes()
    named = {
        path.stem.split("_", 1)[0]: path.stem.split("_", 1)[1]
        for path in (ROOT / "book").glob("[0-9]*_*.ipynb")
    }
    name = named.get(wanted, wanted.split("_", 1)[1] if wanted[:1].isdigit() and "_" in wanted else wanted)
    if name not in known:
        raise SystemExit(f"chapter {wanted!r}: expected one with a recipe, {known}, found none")
    return name


def recipes() -> list[str]:
    """Return the names of all recipes: the modules of ``mmtutor/experiments`` that have rows to run."""
    files = sorted((ROOT / "mmtutor" / "experiments").glob("[a-z]*.py"))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in files}
    return [name for name, text in texts.items() if re.search(r"^ROWS\b(.|\n)*^def run\b", text, re.M)]


def due_runs(
    name: str, rows: dict[str, dict], ledger: Ledger, seeds: int = SEEDS, more: Mapping[str, int] = {}
) -> list[tuple[str, int, str]]:
    """Return row, seed and stamp of each run that is missing or stale, all rows of one seed before the next.

    Args:
        name: the recipe.
        rows: settings by row; ``"deterministic": True`` among them means that seed 0 stands for all.
        ledger: what was recorded so far.
        seeds: how many seeds a row has.
        more: rows that have another number of them.
    """
    stamps = run_stamps(name, rows)
    wanted = {row: more.get(row, seeds) for row in rows}
    return [
        (row, seed, stamps[row])
        for seed in range(max(wanted.values(), default=0))
        for row, settings in rows.items()
        if seed < wanted[row]
        and not (seed and settings.get("deterministic"))
        and ledger.seeds(row).get(str(seed), {}).get("code") != stamps[row]
    ]


def run_one(name: str, row: str, seed: int, stamp: str, scale: str, path: Path) -> None:
    """Run one row with one seed in this process and save its figures as a ledger of a single run."""
    recipe = importlib.import_module(f"mmtutor.experiments.{name}")
    seed_everything(seed)
    start = time.monotonic()
    figures = recipe.run(row, seed, scale=scale)
    ledger = Ledger(name, scale)
    ledger.environment = environment()
    ledger.record(
        row,
        seed,
        figures,
        deterministic=bool(recipe.ROWS[row].get("deterministic")),
        seconds=round(time.monotonic() - start, 1),
        peak_memory_mb=peak_memory_mb(),
        device=ledger.environment["device"],
        date=datetime.date.today().isoformat(),
        code=stamp,
    )
    ledger.save(path)


def peak_memory_mb() -> int:
    """Return the most memory this process has held, in MiB: the GPU's where it computes on one."""
    if device().type == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))  # bytes there, KiB elsewhere


def start_run(name: str, row: str, seed: int, stamp: str, scale: str, folder: Path) -> Ledger:
    """Run one row with one seed in a process of its own and return its ledger.

    Raises:
        RuntimeError: if the process fails; the message ends with what went wrong.
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    path, error = place / "run.json", place / "error.txt"
    process = multiprocessing.Process(target=_run_aside, args=(error, name, row, seed, stamp, scale, path))
    process.start()
    process.join()
    if not path.exists():  # it is written in one step, at the end
        said = error.read_text(encoding="utf-8") if error.exists() else f"exit status {process.exitcode}"
        raise RuntimeError(f"{row}, seed {seed}:\n" + "\n".join(said.strip().splitlines()[-12:]))
    return Ledger.load(path, name, scale)


def _run_aside(error: Path, *run) -> None:
    """Do `run_one`; what goes wrong is written to a file, for the process that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep: what has begun is finished
    try:
        run_one(*run)
    except Exception:
        error.write_text(traceback.format_exc(), encoding="utf-8")
        raise SystemExit(1) from None


def prepare_processes(name: str, scale: str, jobs: int) -> None:
    """Set what the processes of runs inherit; where that is possible they are forked after the imports."""
    cores = int(environment()["cores"])
    os.environ |= {"MMTUTOR_SCALE": scale, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": f"{max(1, cores // jobs)}"}
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("forkserver", force=True)
        multiprocessing.set_forkserver_preload([f"mmtutor.experiments.{name}"])


def sweep(name: str, wanted_rows: list[str], scale: str, jobs: int, seeds: int | None = None) -> int:
    """Bring a recipe's ledger up to date; return how many runs failed."""
    recipe = importlib.import_module(f"mmtutor.experiments.{name}")
    rows, more = recipe.ROWS, {} if seeds else getattr(recipe, "MORE_SEEDS", {})
    if unknown := [row for row in wanted_rows if row not in rows]:
        raise SystemExit(f"rows {unknown}: expected some of {list(rows)}")
    path = ledger_path(name, scale)
    chosen = {row: rows[row] for row in wanted_rows or rows}
    due = due_runs(name, chosen, Ledger.load(path, name, scale), seeds or SEEDS, more)
    print(f"{name}, {scale}: {len(due)} runs due, {len(chosen)} rows, {jobs} at a time")
    failures = []
    prepare_processes(name, scale, jobs)
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(due), unit="run") as progress,
    ):
        running = {pool.submit(start_run, name, *run, scale, Path(folder)): run for run in due}
        try:
            for future in as_completed(running):
                row, seed, _ = running[future]
                progress.set_postfix_str(f"{row}, seed {seed}")
                progress.update()
                if future.exception():
                    failures.append(str(future.exception()))
                    progress.write(f"failed: {failures[-1]}", file=sys.stderr)
                    continue
                ledger = Ledger.load(path, name, scale)  # read again: another sweep may have added rows
                ledger.merge(future.result())
                ledger.rows = {row: ledger.rows[row] for row in ledger.rows if row in rows}
                ledger.save(path)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise SystemExit(
                "\nstopped; what was finished is recorded, the same command goes on from there"
            ) from None
        except OSError as error:  # a full disk: further runs could not be kept either
            pool.shutdown(cancel_futures=True)
            raise SystemExit(f"\nstopped: {error}; the same command goes on from there") from error
    return len(failures)


def confirm(name: str, scale: str, jobs: int, count: int, seeds: int | None = None) -> list[str]:
    """Repeat some stale runs; if all give what was recorded, to the last bit, accept the others too.

    For a change that is meant to alter no result: a function in two, another data set's loader. Which runs
    are repeated is drawn by the new stamps, each of another row, so it cannot be chosen. What was accepted
    says so in the ledger.

    Args:
        name: the recipe.
        scale: "cpu" or "gpu".
        jobs: runs at a time.
        count: how many to repeat.
        seeds: see `sweep`.

    Returns:
        What differs, as lines; nothing was accepted unless it is empty.
    """
    recipe, path = importlib.import_module(f"mmtutor.experiments.{name}"), ledger_path(name, scale)
    ledger, more = Ledger.load(path, name, scale), {} if seeds else getattr(recipe, "MORE_SEEDS", {})
    due = due_runs(name, recipe.ROWS, ledger, seeds or SEEDS, more)
    stale = [run for run in due if str(run[1]) in ledger.seeds(run[0])]
    by_row = {run[0]: run for run in sorted(stale, key=_shuffled)}
    drawn = sorted(by_row.values(), key=_shuffled)[:count]
    print(f"{name}, {scale}: {len(stale)} stale runs, {len(drawn)} to repeat, {jobs} at a time")
    prepare_processes(name, scale, jobs)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        again = pool.map(lambda run: start_run(name, *run, scale, Path(folder)), drawn)
        different = [
            f"{row}, seed {seed}: {key} was {old.get(key)!r:.60}, is {new.get(key)!r:.60}"
            for (row, seed, _), repeated in zip(drawn, again, strict=True)
            for old, new in [(ledger.seeds(row)[str(seed)], repeated.seeds(row)[str(seed)])]
            for key in sorted({*old, *new} - NO_RESULTS)
            if old.get(key) != new.get(key)
        ]
    if drawn and not different:
        for run in stale:
            row, seed, stamp = run
            said = "repeated" if run in drawn else f"by {len(drawn)} of {len(stale)} repeated"
            ledger.rows[row]["seeds"][str(seed)] |= {"code": stamp, "confirmed": said}
        ledger.save(path)
    return different


def _shuffled(run: tuple[str, int, str]) -> bytes:
    return hashlib.sha256(repr(run).encode()).digest()


def main() -> None:
    """Sweep what the command line and the variables of `make` ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--chapter", default=os.environ.get("CHAPTER", ""), help="number or name; default: all"
    )
    parser.add_argument("--scale", default=os.environ.get("SCALE") or "cpu", choices=("cpu", "gpu"))
    parser.add_argument(
        "--rows", default=os.environ.get("ROWS", ""), help="names, separated by semicolons; default: all"
    )
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("JOBS") or 1), help="runs at a time")
    parser.add_argument("--seeds", type=int, help=f"for each row; default: {SEEDS}, or what the recipe says")
    parser.add_argument("--confirm", type=int, default=0, help=confirm.__doc__.splitlines()[0])
    options = parser.parse_args()
    names = [recipe_name(options.chapter)] if options.chapter else recipes()
    if options.confirm:
        found = [confirm(n, options.scale, options.jobs, options.confirm, options.seeds) for n in names]
        if different := sum(found, []):
            raise SystemExit("\n".join(["nothing accepted:", *different]))
        return
    rows = [row.strip() for row in options.rows.split(";") if row.strip()]
    failed = sum(sweep(name, rows, options.scale, options.jobs, options.seeds) for name in names)
    if failed:
        raise SystemExit(f"{failed} runs failed")


if __name__ == "__main__":
    main()
