"""What was measured: claims that must hold, figures of the recorded runs, and comparisons with intervals.

A *recipe* (one file of ``mmtutor/experiments``) trains one *row*, that is one model, baseline or ablation,
with one seed and returns its `Figures`. The *ledger* is the file ``results/<name>-<scale>.json`` in which
``make results`` keeps them. Chapters read it with `recorded` and `compare`, so no result is typed into prose.
"""

import base64
import hashlib
import json
import math
import os
import platform
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from scipy.special import stdtrit

from mmtutor.runtime import device
from mmtutor.runtime import scale as current_scale

NOT_RUN = "not run"
RESAMPLES = 2000


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


class Figures(dict):
    """What one run of a recipe measured: a dictionary from the metric's name to a number.

    Args:
        metrics: numbers by name. Where a metric has outcomes, it may be left out: it is their mean.
        outcomes: for a metric that is a mean over test items, the score of each item, ``(N,)``.
            They make comparisons sharper, because two rows can then be compared item by item.
        groups: which items belong together (variants of one thing), ``(N,)`` integers, for all outcomes,
            or one such array per metric.

    Raises:
        ValueError: if a metric is not finite, is not the mean of its outcomes, or the lengths differ.

    Example:
        >>> Figures(outcomes={"R@1": [1, 0, 1, 1]}, groups=[0, 0, 1, 2])
        {'R@1': 0.75}
    """

    def __init__(self, metrics: Mapping = (), outcomes: Mapping | None = None, groups=None):
        super().__init__({name: float(value) for name, value in dict(metrics).items()})
        self.outcomes = {name: np.asarray(score, dtype=float) for name, score in (outcomes or {}).items()}
        if groups is not None and not isinstance(groups, Mapping):
            groups = dict.fromkeys(self.outcomes, groups)
        self.groups = {name: np.asarray(group, dtype=np.int32) for name, group in (groups or {}).items()}
        for name, score in self.outcomes.items():
            mean = self.setdefault(name, float(score.mean()))
            if score.ndim != 1 or abs(score.mean() - mean) > 1e-3 * max(1.0, abs(mean)):
                raise ValueError(f"outcomes of {name!r}: expected (N,) with mean {mean}, found {score.shape}")
            if name in self.groups and self.groups[name].shape != score.shape:
                raise ValueError(
                    f"groups of {name!r}: expected shape {score.shape}, found {self.groups[name].shape}"
                )
        for name, value in self.items():
            if not math.isfinite(value):
                raise ValueError(f"metric {name!r}: expected a finite number, found {value}")


class Ledger:
    """Recorded runs of one recipe at one scale: rows, and for each row its seeds' figures.

    A row or a metric that was never run is no error: its text is "not run".

    Example:
        >>> ledger = Ledger("toy", "cpu")
        >>> ledger.record("model", 0, Figures({"R@1": 0.50}))
        >>> ledger.record("model", 1, Figures({"R@1": 0.54}))
        >>> ledger.text("model", "R@1"), ledger.text("another", "R@1")
        ('.520 ± .028', 'not run')
    """

    def __init__(self, name: str, scale: str):
        self.name, self.scale = name, scale
        self.rows: dict[str, dict] = {}
        self.environment: dict[str, str] = {}
        self._groups: dict[str, str] = {}

    def seeds(self, row: str) -> dict[str, dict]:
        """Return the recorded entries of a row by seed (empty if it was never run)."""
        return self.rows.get(row, {}).get("seeds", {})

    def n_seeds(self, row: str) -> int:
        """Return the number of recorded seeds of a row."""
        return len(self.seeds(row))

    def values(self, row: str, metric: str) -> np.ndarray:
        """Return a metric's values over the seeds, ``(S,)``, empty where it was not run."""
        return np.array([entry[metric] for entry in self.seeds(row).values() if metric in entry], dtype=float)

    def mean(self, row: str, metric: str) -> float:
        """Return the mean over the seeds, NaN where it was not run."""
        values = self.values(row, metric)
        return float(values.mean()) if len(values) else math.nan

    def text(self, row: str, metric: str, digits: int = 3) -> str:
        """Return mean ± standard deviation over the seeds, for example ``.594 ± .012``, or "not run"."""
        values = self.values(row, metric)
        if not len(values):
            return NOT_RUN
        decimals = _decimals(values.mean(), digits)
        mean = _number(values.mean(), decimals)
        return mean if len(values) == 1 else f"{mean} ± {_number(values.std(ddof=1), decimals)}"

    def table(
        self,
        rows: Sequence[str],
        metrics: Sequence[str] | Mapping[str, str],
        labels: Mapping[str, str] | None = None,
        baseline: str | None = None,
        digits: int = 3,
    ) -> "Table":
        """Return a table of mean ± standard deviation, one line per row, the baseline first.

        Args:
            rows: names of rows, in the order wanted.
            metrics: names of metrics, or a dictionary from the name to the heading.
            labels: what to call a row, where its name does not say enough.
            baseline: the row to put first; by default the first of ``rows``.
            digits: significant digits of the mean.
        """
        rows = sorted(rows, key=lambda row: row != (baseline or rows[0]))
        headings = dict(metrics) if isinstance(metrics, Mapping) else {metric: metric for metric in metrics}
        cells = [
            [(labels or {}).get(row, row)] + [self.text(row, metric, digits) for metric in headings]
            for row in rows
        ]
        counts = {row: self.n_seeds(row) for row in rows if self.n_seeds(row) > 1}
        numbers = sorted(set(counts.values()))
        seeds = f" over {' or '.join(map(str, numbers))} seeds" if numbers else ""
        caption = f"Mean ± standard deviation{seeds}; without ±: one run; scale: {self.scale}."
        return Table(["", *headings.values()], cells, caption)

    def outcomes(self, row: str, seed: str, metric: str) -> np.ndarray | None:
        """Return the score of each test item, ``(N,)``, or None where none were recorded."""
        packed = self.seeds(row).get(seed, {}).get("outcomes", {}).get(metric)
        return None if packed is None else _unpack(packed, "<f2").astype(float)

    def groups(self, row: str, seed: str, metric: str) -> np.ndarray | None:
        """Return the group of each test item, ``(N,)`` integers, or None where none were recorded."""
        key = self.seeds(row).get(seed, {}).get("groups", {}).get(metric)
        return None if key is None else _unpack(self._groups[key], "<i4")

    def record(self, row: str, seed: int, figures: Figures, *, deterministic: bool = False, **facts) -> None:
        """Keep one run's figures, replacing what was there.

        Args:
            row: name of the row.
            seed: its seed.
            figures: what the recipe returned.
            deterministic: the row does not depend on the seed, so this run stands for all of them.
            **facts: what else is known of the run: seconds, peak_memory_mb, device, date, code.
        """
        entry = {**figures, **facts}
        if isinstance(figures, Figures) and figures.outcomes:
            entry["outcomes"] = {name: _pack(score, "<f2") for name, score in figures.outcomes.items()}
            entry["groups"] = {name: self._keep_groups(group) for name, group in figures.groups.items()}
        kept = {} if deterministic else {"seeds": self.seeds(row)}
        self.rows[row] = {
            "deterministic": deterministic,
            "seeds": {**kept.get("seeds", {}), str(seed): entry},
        }

    def merge(self, other: "Ledger") -> None:
        """Add the runs of another ledger of the same recipe and scale; its runs replace those kept here."""
        for row, kept in other.rows.items():
            seeds = {} if kept["deterministic"] else self.seeds(row)
            self.rows[row] = {**kept, "seeds": {**seeds, **kept["seeds"]}}
        self.environment = {**self.environment, **other.environment}
        self._groups |= other._groups

    def _keep_groups(self, group: np.ndarray) -> str:
        packed = _pack(group, "<i4")
        key = hashlib.sha256(packed.encode()).hexdigest()[:8]
        self._groups[key] = packed
        return key

    def save(self, path: Path) -> None:
        """Write the ledger as JSON, one line per run, in one step (a reader never sees half a file)."""
        used = {
            key for row in self.rows for e in self.seeds(row).values() for key in e.get("groups", {}).values()
        }
        head = {"chapter": self.name, "scale": self.scale, "environment": self.environment}
        head["groups"] = {key: self._groups[key] for key in sorted(used)}
        lines = [f" {_json(key)}: {_json(value)}," for key, value in head.items()]
        rows = []
        for row, kept in sorted(self.rows.items()):
            entries = sorted(kept["seeds"].items(), key=lambda item: int(item[0]))
            seeds = ",\n".join(f"   {_json(seed)}: {_json(entry)}" for seed, entry in entries)
            deterministic = _json(kept["deterministic"])
            rows.append(f'  {_json(row)}: {{"deterministic": {deterministic}, "seeds": {{\n{seeds}\n  }}}}')
        text = "\n".join(["{", *lines, ' "rows": {', ",\n".join(rows), " }", "}", ""])
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)

    @classmethod
    def load(cls, path: Path, name: str, scale: str) -> "Ledger":
        """Read a ledger file; a missing one is an empty ledger.

        Raises:
            ValueError: if the file is damaged; the message names the file.
        """
        ledger = cls(name, scale)
        if not path.exists():
            return ledger
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            ledger.rows = {
                row: {"deterministic": bool(kept.get("deterministic")), "seeds": dict(kept["seeds"])}
                for row, kept in content["rows"].items()
            }
            ledger.environment = dict(content["environment"])
            ledger._groups = dict(content.get("groups", {}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: expected a ledger with rows, seeds and environment, found {error!r}"
            ) from error
        return ledger


@dataclass(frozen=True)
class Table:
    """A small table that shows as HTML in a notebook and as Markdown in print."""

    headings: list[str]
    cells: list[list[str]]
    caption: str

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{escape(text)}</th>' for text in self.headings)
        body = "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
            + "</tr>"
            for row in self.cells
        )
        return (
            f'<table class="ledger"><caption>{escape(self.caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def __repr__(self) -> str:
        rule = ["---"] * len(self.headings)
        lines = ["| " + " | ".join(row) + " |" for row in (self.headings, rule, *self.cells)]
        return "\n".join([*lines, "", self.caption])


def ledger_path(name: str, scale: str) -> Path:
    """Return where a recipe's ledger lies: in ``$MMTUTOR_RESULTS``, a checkout's ``results/`` or the wheel.

    Example:
        >>> ledger_path("contrastive", "cpu").name
        'contrastive-cpu.json'
    """
    package = Path(__file__).parent
    checkout = package.parent / "results"
    folder = checkout if (package.parent / "pyproject.toml").exists() else package / "_results"
    return Path(os.environ.get("MMTUTOR_RESULTS") or folder) / f"{name}-{scale}.json"


def environment() -> dict[str, str]:
    """Return what runs are measured on: device, cores, and the versions that matter.

    Example:
        >>> sorted(environment())
        ['cores', 'device', 'mmtutor', 'numpy', 'python', 'torch']
    """
    import mmtutor

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = device().type
    name = (
        torch.cuda.get_device_name()
        if kind == "cuda"
        else {"cpu": f"{cores}-core CPU"}.get(kind, kind.upper())
    )
    versions = {"numpy": np.__version__, "torch": torch.__version__, "mmtutor": mmtutor.__version__}
    return {"device": name, "cores": str(cores), "python": platform.python_version(), **versions}


_latest: Ledger | None = None


def recorded(name: str, scale: str | None = None) -> Ledger:
    """Open the ledger of a recipe; `compare` then reads it.

    Args:
        name: the recipe's name, as in ``mmtutor/experiments/<name>.py``.
        scale: "cpu" or "gpu"; by default the scale at which this machine runs the book.

    Example:
        >>> recorded("nothing of this name", "cpu").text("a row", "R@1")
        'not run'
    """
    global _latest
    scale = scale or current_scale()
    _latest = Ledger.load(ledger_path(name, scale), name, scale)
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
    only, and the line says so.

    Args:
        row_a: name of the first row.
        row_b: name of the second; a deterministic row stands for every seed.
        metric: name of the metric.
        ledger: where to read; by default the ledger that `recorded` opened last.

    Raises:
        RuntimeError: if no ledger is given and none was opened.
        ValueError: if the two rows were scored on different numbers of items.

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
    pairs = _paired_seeds(ledger, row_a, row_b, metric)
    if not pairs:
        print(start + NOT_RUN)
        return Comparison(math.nan, math.nan, math.nan, NOT_RUN)
    metrics = np.array(
        [[ledger.seeds(r)[s][metric] for r, s in zip((row_a, row_b), pair, strict=True)] for pair in pairs]
    )
    difference = float((metrics[:, 0] - metrics[:, 1]).mean())
    over = f"{len(pairs)} seed{'s' if len(pairs) > 1 else ''}"
    scores = [
        [ledger.outcomes(r, s, metric) for r, s in zip((row_a, row_b), pair, strict=True)] for pair in pairs
    ]
    lengths = {None if score is None else len(score) for pair in scores for score in pair}
    if None in lengths:
        over += ", without item outcomes"
        differences, groups = metrics[:, :1] - metrics[:, 1:], None
    elif len(lengths) > 1:
        raise ValueError(f"{row_a} and {row_b}, {metric}: expected the same items, found {sorted(lengths)}")
    else:
        differences = np.array([a - b for a, b in scores])
        groups = ledger.groups(row_a, pairs[0][0], metric)
        over += f" × {differences.shape[1] if groups is None else len(np.unique(groups)):,}"
        over += " items" if groups is None else " groups"
    if differences.size == 1:
        print(f"{start}{_signed(difference)} over {over}: unresolved")
        return Comparison(difference, math.nan, math.nan, "unresolved")
    low, high = bootstrap_interval(differences, groups)
    verdict = "yes" if low > 0 else "no" if high < 0 else "unresolved"
    print(f"{start}{_signed(difference)} [{_signed(low)}, {_signed(high)}] over {over}: {verdict}")
    return Comparison(difference, low, high, verdict)


def _paired_seeds(ledger: Ledger, row_a: str, row_b: str, metric: str) -> list[tuple[str, str]]:
    """Pairs of seeds to compare: equal seeds, or a deterministic row's only seed with each of the other's."""
    a, b = ([s for s, entry in ledger.seeds(row).items() if metric in entry] for row in (row_a, row_b))
    if ledger.rows.get(row_a, {}).get("deterministic"):
        return [(a[0], seed) for seed in b] if a else []
    if ledger.rows.get(row_b, {}).get("deterministic"):
        return [(seed, b[0]) for seed in a] if b else []
    return [(seed, seed) for seed in a if seed in b]


def _decimals(value: float, digits: int) -> int:
    """Decimals that give so many significant digits: .594, 1.23, 12.4, 234."""
    return digits if abs(value) < 1 else max(0, digits - len(str(int(abs(value)))))


def _number(value: float, decimals: int) -> str:
    """Format without the zero before the point, with a real minus sign."""
    text = f"{value:.{decimals}f}"
    return (
        text.replace("0.", ".", 1).replace("-", "−")
        if abs(value) < 1 and decimals
        else text.replace("-", "−")
    )


def _signed(value: float) -> str:
    text = _number(value, _decimals(value, 3))
    return text if text.startswith("−") else f"+{text}"


def _json(value) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _pack(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(zlib.compress(np.asarray(array).astype(kind).tobytes(), 9)).decode()


def _unpack(packed: str, kind: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype=kind)
