"""What the comparisons share: time in turns, the memory of a fresh process, and rows of figures.

A *row* is a dictionary: the table it belongs to, a case, and the figures of each version. `bench._table`
shows rows, `tools.bench` keeps them.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
SECONDS = 4.0  # for one row, unless the fewest turns take longer
FEWEST, MOST = 5, 31  # turns
ONE_TURN = 0.005  # seconds at least, so that the clock's own error does not count
SEED = 0
# what glibc frees goes back at once; otherwise the peak varies from run to run by how its heap is cut up
GIVE_BACK = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}

Rivals = dict[str, list[str]]  # for each version of ours those that it is compared with


def compare(
    table: str,
    case: str,
    versions: Mapping[str, Callable],
    over: str,
    rivals: Rivals,
    seconds: float = SECONDS,
    same: Rivals | None = None,
) -> dict:
    """Check that versions agree, time them in turns, and return the row.

    Args:
        table: the title of the table that the row belongs to.
        case: what this row is about.
        versions: what to run, by name. Each call returns tensors, by which results are compared.
        over: the plain version, which ratios are over.
        rivals: for each version of ours the others that do the same.
        seconds: how long this may take, unless the fewest turns take longer.
        same: which results have to be equal; by default all.

    Raises:
        AssertionError: if two results differ; the message names the versions.
    """
    check_equal(versions, same if same is not None else {over: [name for name in versions if name != over]})
    return row(table, case, "ms", over, rivals, turns(versions, seconds))


def row(table: str, case: str, unit: str, over: str, rivals: Rivals, values: dict[str, list[float]]) -> dict:
    """Return figures of several versions as a row; each version has as many as there were turns."""
    return dict(table=table, case=case, unit=unit, over=over, rivals=rivals, values=values)


def check_equal(versions: Mapping[str, Callable], same: Rivals) -> None:
    """Compare what versions return at their second call: some keep a state from the first."""
    results = {}
    for name in {name for one, others in same.items() for name in (one, *others)}:
        torch.manual_seed(SEED)
        versions[name]()
        results[name] = versions[name]()
    for one, others in same.items():
        for other in others:
            said = f"{other!r} and {one!r} differ: "
            torch.testing.assert_close(
                results[other], results[one], rtol=1e-3, atol=1e-5, msg=lambda m, said=said: said + m
            )


def turns(versions: Mapping[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Return the milliseconds of a call of each version, turn by turn: A, B, A, B, ...

    Time is the processor's, so that what else the machine does hardly counts. The first turn is a warm-up;
    it tells how many calls make a turn long enough, and how many turns there is time for.
    """
    cost = {name: _seconds(run, 1) for name, run in versions.items()}
    calls = {name: max(1, math.ceil(ONE_TURN / max(cost[name], 1e-6))) for name in versions}
    count = int(seconds / max(sum(calls[name] * cost[name] for name in versions), 1e-6))
    times: dict[str, list[float]] = {name: [] for name in versions}
    for _ in range(min(max(count, FEWEST), MOST)):
        for name, run in versions.items():
            times[name].append(_rounded(1000 * _seconds(run, calls[name])))
    return times


def _seconds(run: Callable, calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - start) / calls


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def there_and_back(call: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], list[Tensor]]:
    """Return a call of a function and of its gradient; it returns the value and the gradients."""

    def run():
        value = call(*inputs)
        wanted = [x for x in inputs if x.requires_grad]
        return [value.detach(), *torch.autograd.grad(value.sum(), wanted)]

    return run


def memory(function: str, versions: Mapping[str, tuple], runs: int = 3) -> dict[str, list[float]]:
    """Return the MiB that a function says it needs, called in a fresh process each time.

    Args:
        function: its name, as ``bench.losses.memory_of``.
        versions: the arguments by the name of the version.
        runs: of each version.
    """
    module, name = function.rsplit(".", 1)

    def ask(arguments: tuple) -> float:
        code = f"from {module} import {name}; print({name}(*{arguments!r}))"
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=GIVE_BACK, check=True, stdout=subprocess.PIPE, text=True)
        return _rounded(float(done.stdout))

    with ThreadPoolExecutor(2) as pool:  # memory does not depend on what else the machine does
        asked = {
            version: [pool.submit(ask, given) for _ in range(runs)] for version, given in versions.items()
        }
        return {version: [answer.result() for answer in answers] for version, answers in asked.items()}


def growth(run: Callable, times: int = 1) -> float:
    """Return by how many MiB calls raise the peak memory of this process."""
    before = peak_mib()
    for _ in range(times):
        run()
    return peak_mib() - before


def peak_mib() -> float:
    """Return the most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # the other way, a process inherits the peak of the one that started it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource  # not on Windows

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / 2**20 if sys.platform == "darwin" else held / 2**10


def gathered(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """Return rows by the title of their table."""
    tables: dict[str, list[dict]] = {}
    for one in rows:
        tables.setdefault(one["table"], []).append(one)
    return tables
