"""What the book may say about its results: claims that must hold, and comparisons with an interval.

Chapters read recorded runs through `recorded` and `compare`, so no result is typed into prose.
"""

import math
from dataclasses import dataclass

import numpy as np

from .ledger import NOT_RUN, Figures, Ledger, decimals, ledger_path, number_text
from .runtime import scale as current_scale

__all__ = ["Comparison", "Figures", "Ledger", "bootstrap_interval", "claim", "compare", "recorded"]
RESAMPLES = 2000
Run = tuple[str, str]  # a row and one of its seeds


def claim(text: str, condition) -> None:
    """Print one line for a statement that holds on every run, and raise where it does not.

    Args:
        text: the statement, in words.
        condition: one truth value: a bool, or a NumPy or PyTorch scalar of boolean type.

    Raises:
        AssertionError: if the condition is false.
        TypeError: if the condition is not one truth value (a number or an array is no statement).

    Example:
        >>> claim("two and two are four", 2 + 2 == 4)
        ✓ two and two are four
    """
    if getattr(condition, "ndim", None) == 0:
        condition = condition.item()
    if not isinstance(condition, bool):
        raise TypeError(
            f"claim {text!r}: expected one truth value, found {type(condition).__name__}: {condition!r}"
        )
    if not condition:
        raise AssertionError(f"claim does not hold: {text}")
    print(f"✓ {text}")


_latest: Ledger | None = None


def recorded(name: str, scale: str | None = None) -> Ledger:
    """Open the ledger of a recipe; `compare` then reads it.

    Args:
        name: the recipe's name, as in ``mmtutor/experiments/<name>.py``.
        scale: "cpu" or "gpu". By default the scale at which this machine runs the book; where nothing was
            recorded at "gpu", the runs at "cpu" are opened and a line says so.

    Example:
        >>> recorded("nothing of this name", "cpu").text("a row", "R@1")
        'not run'
    """
    global _latest
    wanted = scale or current_scale()
    if scale is None and wanted == "gpu" and not ledger_path(name, "gpu").exists():
        wanted = "cpu"
        print(f'{name}: nothing is recorded at scale "gpu"; the runs shown are those at scale "cpu".')
    _latest = Ledger.load(ledger_path(name, wanted), name, wanted)
    return _latest


@dataclass(frozen=True)
class Comparison:
    """A difference of two rows and its 95 % interval; the verdict is "yes" above 0, "no" below 0,
    "unresolved" around 0, or "not run"."""

    difference: float
    low: float
    high: float
    verdict: str

    def _ipython_display_(self) -> None:
        """Show nothing: `compare` has printed its line."""


def bootstrap_interval(differences: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return the 95 % interval of a mean difference over seeds and items, by a two-way bootstrap.

    Each of 2,000 resamples draws groups of items with replacement, and, apart from that, seeds with
    replacement; the two shifts of the mean are added. A few seeds understate the spread over seeds, so their
    shift is widened by Student's correction ``t(S-1) / 1.96 * sqrt(S / (S-1))``.

    Args:
        differences: score of one row minus score of the other, ``(S, N)``: seeds by items.
        groups: ``(N,)`` integers; items of one group are drawn together. By default each item is its own.

    Example:
        >>> low, high = bootstrap_interval(np.ones((5, 20)))
        >>> low, high
        (1.0, 1.0)
    """
    from scipy.special import stdtrit  # here, because it is slow to import

    seeds, items = differences.shape
    _, group = np.unique(np.arange(items) if groups is None else groups, return_inverse=True)
    size, total = np.bincount(group), np.bincount(group, differences.mean(0))
    random = np.random.RandomState(0)  # a stream that no version of NumPy changes
    drawn = random.multinomial(
        len(size), np.full(len(size), 1 / len(size)), RESAMPLES
    )  # how often each group
    means = drawn @ total / (drawn @ size)
    if seeds > 1:
        per_seed = differences.mean(1)
        chosen = random.randint(seeds, size=(RESAMPLES, seeds))
        widening = stdtrit(seeds - 1, 0.975) / 1.96 * math.sqrt(seeds / (seeds - 1))
        means += widening * (per_seed[chosen].mean(1) - per_seed.mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def compare(row_a: str, row_b: str, metric: str, ledger: Ledger | None = None) -> Comparison:
    """Print how much higher row a scores than row b, with a 95 % interval, and return it.

    The rows are compared seed by seed and item by item. Where no item outcomes were recorded, over seeds
    only, and the line says so. One seed of a row that depends on it decides nothing.

    Args:
        row_a: name of the first row.
        row_b: name of the second; a deterministic row stands for every seed.
        metric: name of the metric.
        ledger: where to read; by default the ledger that `recorded` opened last.

    Raises:
        RuntimeError: if no ledger is given and none was opened.
        ValueError: if the two rows were scored on different items.

    Example:
        >>> ledger = Ledger("toy", "cpu")
        >>> for seed in range(5):
        ...     ledger.record("model", seed, Figures({"R@1": 0.5 + seed / 100}))
        ...     ledger.record("chance", seed, Figures({"R@1": 0.1 + seed / 100}))
        >>> compare("model", "chance", "R@1", ledger).verdict
        model − chance, R@1: +.400 [+.400, +.400] over 5 seeds, without item outcomes: yes
        'yes'
    """
    ledger = ledger or _latest
    if ledger is None:
        raise RuntimeError("compare: expected a ledger, or recorded(...) called before; found neither")
    start = f"{row_a} − {row_b}, {metric}: "
    pairs = _paired_runs(ledger, row_a, row_b, metric)
    if not pairs:
        print(start + NOT_RUN)
        return Comparison(math.nan, math.nan, math.nan, NOT_RUN)
    values = np.array([[ledger.seeds(row)[seed][metric] for row, seed in pair] for pair in pairs])  # (S, 2)
    difference = float((values[:, 0] - values[:, 1]).mean())
    over = f"{len(pairs)} seed{'s' if len(pairs) > 1 else ''}"
    differences, groups = _item_differences(ledger, pairs, metric)
    if differences is None:
        over += ", without item outcomes"
        differences = values[:, :1] - values[:, 1:]
    else:
        items, kind = (
            (differences.shape[1], "items") if groups is None else (len(np.unique(groups)), "groups")
        )
        over += f" × {items:,} {kind}"
    repeated = len(pairs) > 1 or all(ledger.rows[row]["deterministic"] for row in (row_a, row_b))
    if differences.size == 1 or not repeated:  # one seed says nothing about the next
        low, high, verdict, interval = math.nan, math.nan, "unresolved", ""
    else:
        low, high = bootstrap_interval(differences, groups)
        verdict = "yes" if low > 0 else "no" if high < 0 else "unresolved"
        interval = f" [{_signed(low)}, {_signed(high)}]"
    print(f"{start}{_signed(difference)}{interval} over {over}: {verdict}")
    return Comparison(difference, low, high, verdict)


def _paired_runs(ledger: Ledger, row_a: str, row_b: str, metric: str) -> list[tuple[Run, Run]]:
    """Runs to compare: of equal seeds, or a deterministic row's only run with each run of the other."""
    a, b = ([seed for seed, entry in ledger.seeds(row).items() if metric in entry] for row in (row_a, row_b))
    if a and ledger.rows[row_a]["deterministic"]:
        return [((row_a, a[0]), (row_b, seed)) for seed in b]
    if b and ledger.rows[row_b]["deterministic"]:
        return [((row_a, seed), (row_b, b[0])) for seed in a]
    return [((row_a, seed), (row_b, seed)) for seed in a if seed in b]


def _item_differences(ledger: Ledger, pairs: list[tuple[Run, Run]], metric: str):
    """Item scores of the first runs minus those of the second, ``(S, N)``, and the items' groups, ``(N,)``.

    Both are None where a run has no item outcomes.
    """
    runs = [run for pair in pairs for run in pair]
    scores = [ledger.outcomes(row, seed, metric) for row, seed in runs]
    groups = [ledger.groups(row, seed, metric) for row, seed in runs]
    if any(score is None for score in scores):
        return None, None
    lengths = sorted({len(score) for score in scores})
    names = " and ".join(row for row, _ in pairs[0])
    if len(lengths) > 1:
        raise ValueError(f"{names}, {metric}: expected the same items, found {lengths} of them")
    if not all(np.array_equal(group, groups[0]) for group in groups):
        raise ValueError(f"{names}, {metric}: expected the same items, found other groups of items")
    return np.array(scores[::2]) - np.array(scores[1::2]), groups[0]


def _signed(value: float) -> str:
    text = number_text(value, decimals(value))
    return text if text.startswith("−") else f"+{text}"
