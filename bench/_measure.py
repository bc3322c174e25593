"""What the comparisons share: where they ran, how long a step takes, how much memory a process has held."""

import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version

from torch import Tensor


def print_environment(packages: Iterable[str]) -> None:
    """Print date, machine and the versions of Python and of these packages."""
    print(f"{datetime.date.today()}, {platform.platform()}, one thread")
    versions = [f"{name} {version(name)}" for name in packages]
    print(", ".join([f"Python {platform.python_version()}", *versions]))


def seconds(versions: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Return each version's median time, the versions taking turns; the first turn, a warm-up, is dropped."""
    times: dict[str, list[float]] = {name: [] for name in versions}
    for turn in range(repeats + 1):
        for name, run in versions.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(of_version) for name, of_version in times.items()}


def there_and_back(call: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    """Return a call of a function of ``x`` and of its gradient."""

    def run():
        x.grad = None
        call(x).sum().backward()

    return run


def print_times(title: str, times: dict[str, float], plain: str) -> None:
    """Print one line: milliseconds of each version and, in brackets, its ratio to the plain one."""
    cells = [f"{name} {1000 * t:.3g} ms ({t / times[plain]:.2f})" for name, t in times.items()]
    print(f"{title:<34}" + "  ".join(f"{cell:<34}" for cell in cells).rstrip(), flush=True)


def peak_mib() -> float:
    """Return the most memory that this process has held."""
    import resource  # not on Windows

    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2**20 if sys.platform == "darwin" else kib / 2**10
