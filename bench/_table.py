"""How rows become a page: one table for each title, and a sentence that says where ours is behind.

A row of a comparison has ``values``, several figures of each version; a row of facts has ``figures``, one of
each column, and says in ``of`` what its case is.
"""

from collections.abc import Iterable
from statistics import median

import numpy as np

from bench._measure import gathered

# for each unit what is said of more, of the same, of less, and of the least
WORDS = {
    "ms": ("slower", "as fast", "faster", "fastest"),
    "MiB": ("larger", "as large", "smaller", "smallest"),
    "KiB": ("larger", "as large", "smaller", "smallest"),
}
LEAST = 0.01  # what a ratio differs from 1 if it is to count, beside what its quartiles say


def number(value: float) -> str:
    """Return a number with three significant digits, whole from 100 on.

    Example:
        >>> number(0.01234), number(1.5), number(12345.6)
        ('0.0123', '1.50', '12,346')
    """
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def ratios(row: dict, version: str, over: str) -> tuple[float, float, float]:
    """Return the quartiles of a version's ratio to another, turn by turn: lower, median, upper."""
    found = np.divide(row["values"][version], row["values"][over])
    return tuple(np.quantile(found, (0.25, 0.5, 0.75)).tolist())


def ratio_text(ratio: float) -> str:
    """Return a ratio with two decimals, whole from 100 on."""
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def cell(row: dict, version: str) -> str:
    """Return the median of a version and its ratio to the plain one, with quartiles."""
    values = row["values"].get(version)
    if values is None:
        return "not run"
    if version == row["over"]:
        return number(median(values))
    low, middle, high = map(ratio_text, ratios(row, version, row["over"]))
    return f"{number(median(values))} · **{middle}**" + (f" ({low}–{high})" if low != high else "")


def markdown(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a table, its first column to the left and all others to the right."""
    headings = [*headings]
    rule = [":--", *["--:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, rule, *lines))


def comparison_table(rows: list[dict]) -> str:
    """Return a table of rows that share a title: a line for each case, a column for each version."""
    versions = list(dict.fromkeys(version for row in rows for version in row["values"]))
    unit, over = rows[0]["unit"], rows[0]["over"]
    versions.sort(key=lambda version: version != over)  # the plain one first
    headings = [unit, *versions]
    lines = [[row["case"], *(cell(row, version) for version in versions)] for row in rows]
    spread = any(len(values) > 1 for row in rows for values in row["values"].values())
    said = f"In {unit}; after the dot, in bold, the ratio to *{over}*" + (
        ", in brackets its quartiles." if spread else "."
    )
    return "\n\n".join([markdown(headings, lines), said, *(verdict(rows, ours) for ours in rivals(rows))])


def rivals(rows: list[dict]) -> list[str]:
    """Return the versions of ours that rows compare with others."""
    return list(dict.fromkeys(ours for row in rows for ours in row["rivals"]))


def standing(row: dict, ours: str) -> tuple[int, str, float]:
    """Compare one of ours with the fastest (or smallest) of its rivals.

    Returns:
        0 if ours is slower, 2 if it is faster, 1 if the quartiles of the ratio do not say; which rival that
        is; the ratio.
    """
    best = min(row["rivals"][ours], key=lambda version: median(row["values"][version]))
    low, middle, high = ratios(row, ours, best)
    return 0 if low > 1 + LEAST else 2 if high < 1 - LEAST else 1, best, middle


def verdict(rows: list[dict], ours: str) -> str:
    """Say where one of ours is slower than its fastest rival, where it is faster, and by how much."""
    rows = [row for row in rows if ours in row["rivals"]]
    found = [(row["case"], *standing(row, ours)) for row in rows]
    more, same, less, least = WORDS[rows[0]["unit"]]
    names = {name for row in rows for name in row["rivals"][ours]}
    peer = names.pop() if len(names) == 1 else f"the {least} peer"
    behind = [
        f"{case} ({ratio_text(ratio)} times" + (f" {best})" if peer.startswith("the ") else ")")
        for case, at, best, ratio in found
        if at == 0
    ]
    even, ahead = ([ratio for _, at, _, ratio in found if at == wanted] for wanted in (1, 2))
    of, said = f"of {len(found)}", []
    if behind:
        said.append(f"{more} than {peer} in {len(behind)} {of}: {', '.join(behind)}")
    if even:
        said.append(f"{same} as {peer}, as far as the quartiles tell, in {len(even)} {of}")
    if ahead:
        span = " to ".join(dict.fromkeys(ratio_text(end) for end in (min(ahead), max(ahead))))
        said.append(f"{less} than {peer} in {len(ahead)} {of} ({span} times)")
    return f"*{ours}*: " + "; ".join(said) + "."


def facts_table(rows: list[dict]) -> str:
    """Return a table of rows of facts: a line for each case, a column for each figure."""
    columns = list(dict.fromkeys(column for row in rows for column in row["figures"]))

    def text(value) -> str:
        return "not measured" if value is None else value if isinstance(value, str) else number(value)

    lines = [[row["case"], *(text(row["figures"].get(column)) for column in columns)] for row in rows]
    return markdown([rows[0]["of"], *columns], lines)


def section(rows: list[dict], level: int = 3) -> str:
    """Return all tables of rows, each below its title."""
    if not rows:
        return "Not measured."
    parts = []
    for title, of_table in gathered(rows).items():
        table = comparison_table(of_table) if "values" in of_table[0] else facts_table(of_table)
        parts += [f"{'#' * level} {title}", table]
    return "\n\n".join(parts)


def overview(sections: dict[str, list[dict]]) -> str:
    """Return a table: in how many comparisons of each section ours is behind the best peer, even or ahead."""
    lines = []
    for title, rows in sections.items():
        found = [(row, ours, *standing(row, ours)) for row in rows for ours in row.get("rivals", {})]
        if not found:
            continue
        counts = [str(sum(where == wanted for _, _, where, *_ in found)) for wanted in range(3)]
        row, ours, _, best, ratio = max(found, key=lambda one: one[-1])
        worst = f"{row['table']}, {row['case']}: {ours} {ratio_text(ratio)} times {best}"
        lines.append([title, *counts, worst])
    return markdown(["section", "behind", "even", "ahead", "the largest ratio"], lines)


def show(rows: list[dict]) -> None:
    """Print rows as they stand on the page."""
    print(section(rows))
