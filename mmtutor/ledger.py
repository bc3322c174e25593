"""The ledger: what each recorded run measured, one JSON file per recipe and scale.

A *recipe* (one file of ``mmtutor/experiments``) trains one *row*, that is one model, baseline or ablation,
with one seed and returns its `Figures`. ``make results`` keeps them in ``results/<name>-<scale>.json``.
"""

import base64
import contextlib
import hashlib
import json
import math
import os
import platform
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch

from .runtime import device

NOT_RUN = "not run"


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
        """Return mean ± standard deviation over the seeds, for example ``.594 ± .012``, or "not run".

        One run, or runs that all agree, give the mean alone.
        """
        values = self.values(row, metric)
        if not len(values):
            return NOT_RUN
        places = decimals(values.mean(), digits)
        mean = number_text(values.mean(), places)
        return mean if np.ptp(values) == 0 else f"{mean} ± {number_text(values.std(ddof=1), places)}"

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
        caption = f"Mean ± standard deviation{seeds}; without ±: one run, or no spread; scale: {self.scale}."
        return Table(["", *headings.values()], cells, caption)

    def outcomes(self, row: str, seed: str, metric: str) -> np.ndarray | None:
        """Return the score of each test item, ``(N,)``, or None where none were recorded."""
        packed = self.seeds(row).get(seed, {}).get("outcomes", {}).get(metric)
        return None if packed is None else self._unpack(packed, "<f2", row, seed).astype(float)

    def groups(self, row: str, seed: str, metric: str) -> np.ndarray | None:
        """Return the group of each test item, ``(N,)`` integers, or None where none were recorded."""
        key = self.seeds(row).get(seed, {}).get("groups", {}).get(metric)
        return None if key is None else self._unpack(self._groups.get(key, ""), "<i4", row, seed)

    def _unpack(self, packed: str, kind: str, row: str, seed: str) -> np.ndarray:
        try:
            return _unpack(packed, kind)
        except (ValueError, zlib.error) as error:
            raise ValueError(
                f"{self.name}-{self.scale}.json: {row}, seed {seed}: expected packed numbers, found {error}"
            ) from error

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
        """Add the runs of another ledger of the same recipe and scale; its runs replace those kept here.

        The seeds of a row are runs of one and the same code: those of another are dropped.
        """
        for row, kept in other.rows.items():
            codes = {entry.get("code") for entry in kept["seeds"].values()}
            seeds = {seed: entry for seed, entry in self.seeds(row).items() if entry.get("code") in codes}
            seeds = {} if kept["deterministic"] else seeds
            self.rows[row] = {**kept, "seeds": {**seeds, **kept["seeds"]}}
        self.environment = {**self.environment, **other.environment}
        self._groups |= other._groups

    def _keep_groups(self, group: np.ndarray) -> str:
        packed = _pack(group, "<i4")
        key = hashlib.sha256(packed.encode()).hexdigest()[:8]
        self._groups[key] = packed
        return key

    def save(self, path: Path) -> None:
        """Write the ledger as JSON, one line per run, by `write_whole`."""
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
        write_whole(path, text)

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
                f"{path}: expected a ledger with rows, seeds and environment, found {error!r}. Restore the "
                "file from where the book came from, or delete it and run what it held again"
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
    """Return where a recipe's ledger lies, in `results_folder`.

    Example:
        >>> ledger_path("contrastive", "cpu").name
        'contrastive-cpu.json'
    """
    return results_folder() / f"{name}-{scale}.json"


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step: a reader, or a disk that is full, never leaves half of it.

    Args:
        path: the file, replaced if there is one; its folder is made if there is none.
        text: all that it shall hold.

    Raises:
        OSError: if the disk is full or may not be written; names the file, which is as it was before.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "new" / "file.txt", "whole")
        ...     print((Path(folder) / "new" / "file.txt").read_text())
        whole
    """
    draft = path.with_suffix(".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise OSError(error.errno, f"not written, left as it was: {error.strerror}", str(path)) from error


def results_folder() -> Path:
    """Return where recorded runs lie: in ``$MMTUTOR_RESULTS``, a checkout's ``results/`` or the wheel.

    Example:
        >>> results_folder() == ledger_path("contrastive", "cpu").parent
        True
    """
    package = Path(__file__).parent
    checkout = package.parent / "results"
    folder = checkout if (package.parent / "pyproject.toml").exists() else package / "_results"
    return Path(os.environ.get("MMTUTOR_RESULTS") or folder)


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


def decimals(value: float, digits: int = 3) -> int:
    """Return how many decimals show so many significant digits: 0.594, 1.23, 12.4, 234.

    Example:
        >>> decimals(0.594), decimals(12.4)
        (3, 1)
    """
    return digits if abs(value) < 1 else max(0, digits - len(str(int(abs(value)))))


def number_text(value: float, places: int) -> str:
    """Return a number without the zero before its point, and with a real minus sign.

    Example:
        >>> number_text(-0.5942, 3)
        '−.594'
    """
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{places}f}").replace("-", "−")


def _json(value) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _pack(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(zlib.compress(np.asarray(array).astype(kind).tobytes(), 9)).decode()


def _unpack(packed: str, kind: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype=kind)
