"""What the whole book takes to run: seconds and memory of each chapter, as `make execute` recorded them.

``make bench``, or ``python -m bench.chapters``.
"""

import json

import nbformat

from bench._measure import ROOT, SECONDS
from bench._table import number

TITLE = "The whole book"
ABOUT = """\
Each chapter's last run by `make execute` in a fresh kernel, one after the other: wall-clock time, and
the most memory that the kernel held."""

RECORD = ROOT / "results" / "chapters.json"
MINUTES, GIB = 25, 4  # all chapters together; any one of them


def rows(seconds: float = SECONDS) -> list[dict]:
    """Return the recorded time and memory of each chapter; it measures nothing."""
    recorded = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    found = []
    for path in sorted((ROOT / "book").glob("[0-9]*.ipynb")):
        noted = nbformat.read(path, as_version=4).metadata.get("mmtutor", {})
        run = {**noted, **recorded.get(path.stem, {}).get("cpu", {})}
        figures = {"seconds": run.get("seconds"), "MiB": run.get("memory_mib"), "on": run.get("device")}
        found.append({"table": "Chapters", "of": "chapter", "case": path.stem, "figures": figures})
    return found


def problems(rows: list[dict]) -> list[str]:
    """Return which limits a record exceeds; nothing if it keeps all of them."""
    total, largest = sum(_known(rows, "seconds")), max(_known(rows, "MiB"), default=0)
    found = [f"expected at most {MINUTES} minutes, found {total / 60:.1f}"] if total > 60 * MINUTES else []
    found += [f"expected at most {GIB} GiB, found {largest / 2**10:.2f}"] if largest > GIB * 2**10 else []
    return found


def summary(rows: list[dict]) -> str:
    """Say what all chapters take together, beside the limits."""
    seconds, memory = _known(rows, "seconds"), _known(rows, "MiB")
    minutes, known = number(sum(seconds) / 60), f"{len(seconds)} of {len(rows)} chapters"
    peak = f"at most {number(max(memory) / 2**10)} GiB" if memory else "memory not measured"
    of = f" (of {len(memory)} chapters)" if 0 < len(memory) < len(rows) else ""
    return (
        f"Together {minutes} minutes ({known}), {peak}{of}. "
        f"The limits are {MINUTES} minutes for the book on two cores and {GIB} GiB for a chapter."
    )


def _known(rows: list[dict], column: str) -> list[float]:
    return [row["figures"][column] for row in rows if row["figures"].get(column) is not None]


if __name__ == "__main__":
    from bench._table import show

    show(rows())
    print(summary(rows()))
