"""What every chapter owes its readers: each function returns the problems found, in words, empty if none."""

import ast
import copy
import os
import re
import time
from html.parser import HTMLParser
from statistics import median

import nbformat
from book_concepts import equation_labels, prose
from nbclient import NotebookClient

from tools.execute import called_names, expected_tags, is_exercise, output_texts, tags
from tools.stamp import ROOT

LONGEST_CELL, LONGEST_MEDIAN = 25, 10
FEWEST_EXERCISES = 6
LARGEST_FILE = 1_500_000
SHORTEST_ALT = 20

EXERCISE = re.compile(r"^(?:[`:]{3,}\{exercise(?:-start)?\}|#{2,5}\s+Exercise\b)", re.M)
MINUTES = re.compile(r"\d+\s*min", re.I)
FENCE = re.compile(r"^\s*(`{3,}|~{3,}|:{3,})(\{[\w-]+\})?")
NOT_PROSE = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]*`|\]\([^)]*\)|<[^>]+>|https?://\S+", re.S)
SECTION = re.compile(r"^#+ .*$|\b(?:sections?|exercises?) [\d., and]*\d", re.M | re.I)
DECIMAL = re.compile(r"(?<![\w.])[+−-]?\d*\.\d+(?!\.?\w)")


def code_cells(nb) -> list:
    """Return the code cells."""
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def without_code(text: str) -> str:
    """Return Markdown without its code and math blocks; other directives keep their prose."""
    kept, inside = [], []  # inside: the fences that are open, each with whether it holds prose
    for line in text.splitlines():
        fence = FENCE.match(line)
        holds_prose = all(prose for _, prose in inside)
        if fence and inside and line.strip() == inside[-1][0]:
            inside.pop()
        elif fence and holds_prose:
            inside.append((fence.group(1), fence.group(2) not in (None, "{math}", "{code-block}")))
        elif holds_prose:
            kept.append(line)
    return "\n".join(kept)


def equation_problems(nb) -> list[str]:
    """Every labelled equation, definitions apart, has a cell tagged ``check:<label>`` that makes a claim."""
    labels = equation_labels(nb)
    checks: dict[str, list] = {}
    for cell in code_cells(nb):
        for tag in tags(cell):
            if tag.startswith("check:"):
                checks.setdefault(tag.removeprefix("check:"), []).append(cell)
    problems = []
    for label in sorted(labels):
        if label.startswith("def"):
            continue
        if label not in checks:
            problems.append(f"equation {label}: expected a cell tagged check:{label}, found none")
        elif not any("claim" in called_names(cell.source) for cell in checks[label]):
            problems.append(f"equation {label}: expected claim(...) in its check cell, found none")
    return problems + [f"tag check:{label}: no such equation" for label in sorted(set(checks) - labels)]


def figure_problems(nb) -> list[str]:
    """Every picture says in words what it shows."""
    problems = []
    for index, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            for alt in re.findall(r"!\[([^\]]*)\]\(", cell.source):
                if len(alt) < SHORTEST_ALT:
                    problems.append(
                        f"cell {index}: picture with alternative text {alt!r}, too short to say anything"
                    )
            continue
        images = [image for text in output_texts(cell) for image in _images(text)]
        if "figure" in called_names(cell.source) and not images:
            problems.append(f"cell {index}: figure(...) was called, but no picture is in the outputs")
        for in_figure, alt in images:
            if alt is None or (in_figure and len(alt) < SHORTEST_ALT):
                problems.append(f"cell {index}: picture with alternative text {alt!r}")
        for output in cell.get("outputs", []):
            kinds = set(output.get("data", {}))
            if kinds & {"image/png", "image/jpeg"} and "text/html" not in kinds:
                problems.append(f"cell {index}: picture without alternative text; show it with figure(...)")
    return problems


def exercise_problems(nb) -> list[str]:
    """There are enough exercises, each states its minutes, each stub is followed by its solution."""
    text = prose(nb)
    starts = [match.start() for match in EXERCISE.finditer(text)]
    problems = []
    if len(starts) < FEWEST_EXERCISES:
        problems.append(f"expected at least {FEWEST_EXERCISES} exercises, found {len(starts)}")
    for start, end in zip(starts, [*starts, len(text)][1:], strict=True):
        if not MINUTES.search(text[start:end]):
            problems.append(f"exercise {text[start:end].splitlines()[0]!r}: expected its minutes, found none")
    cells = code_cells(nb)
    for index, cell in enumerate(cells):
        for tag in tags(cell):
            later = [found for after in cells[index + 1 :] for found in tags(after)]
            if tag.startswith("exercise:") and tag.replace("exercise:", "solution:") not in later:
                problems.append(
                    f"{tag}: expected a later cell tagged {tag.replace('exercise:', 'solution:')}"
                )
    return problems


def tag_problems(nb) -> list[str]:
    """What nbval compares or skips is tagged, and holds no picture, whose bytes differ between runs."""
    problems = []
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        if missing := expected_tags(cell) - set(tags(cell)):
            problems.append(
                f"cell {index}: expected tag {missing.pop()} (python -m tools.execute --force sets it)"
            )
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if "nbval-check-output" in tags(cell) and kinds & {"text/html", "image/png"}:
            problems.append(
                f"cell {index}: claim(...) or compare(...) beside a picture; give each a cell of its own"
            )
        if cell.execution_count is None:
            problems.append(f"cell {index}: was not executed")
    return problems


def size_problems(nb) -> list[str]:
    """Cells are short, and the file is light."""
    lines = [len(cell.source.splitlines()) for cell in code_cells(nb)]
    size = len(nbformat.writes(nb).encode())
    problems = [
        f"a code cell has {n} lines, expected at most {LONGEST_CELL}" for n in lines if n > LONGEST_CELL
    ]
    if lines and median(lines) > LONGEST_MEDIAN:
        problems.append(f"the median code cell has {median(lines)} lines, expected at most {LONGEST_MEDIAN}")
    if size > LARGEST_FILE:
        problems.append(f"the file has {size:,} bytes, expected at most {LARGEST_FILE:,}")
    return problems


def typed_result_problems(nb) -> list[str]:
    """No measured number is typed into prose: a decimal of three digits or more belongs into an output."""
    text = NOT_PROSE.sub(" ", SECTION.sub(" ", without_code(prose(nb))))
    found = [match.group() for match in DECIMAL.finditer(text) if sum(map(str.isdigit, match.group())) >= 3]
    return [f"number {number} in prose: show it from the ledger, or write it as maths" for number in found]


def frame_problems(nb) -> list[str]:
    """The chapter says what it needs, how long it takes, and which path is the core."""
    text = prose(nb).lower()
    wanted = {
        "its prerequisites": r"prerequisite",
        "the minutes it takes": r"\d+[- ]min",
        "a core path": r"core path",
    }
    problems = [
        f"expected {what}, found none" for what, pattern in wanted.items() if not re.search(pattern, text)
    ]
    return (
        problems
        if nb.cells and nb.cells[0].source.startswith("# ")
        else [*problems, "expected a title first"]
    )


def second_run_problems(nb, folder, longest: float | None = None) -> list[str]:
    """Every cell run twice in a row prints the same, exercises apart. (Figures may hold measured times.)

    Args:
        nb: the notebook; it is left as it is.
        folder: where the kernel starts.
        longest: a cell that takes more seconds is run once.
    """
    nb, problems = copy.deepcopy(nb), []
    client = NotebookClient(nb, timeout=None, kernel_name="python3", allow_errors=True, record_timing=False)
    client.resources = {"metadata": {"path": folder}}
    setting = {"TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    with client.setup_kernel(env={**os.environ, **setting}):
        for index, cell in enumerate(nb.cells):
            if cell.cell_type != "code" or is_exercise(cell):
                continue
            printed = []
            for _ in range(2):
                cell.outputs, start = [], time.monotonic()
                client.execute_cell(cell, index)
                printed.append(_printed(cell))
                if longest is not None and time.monotonic() - start > longest:
                    break
            if printed[0] != printed[-1]:
                problems.append(f"cell {index}: printed {printed[0]!r}, run again {printed[-1]!r}")
    return problems


def _printed(cell) -> str:
    """What a cell printed and displayed as text, and the error it ended by."""
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts += [output.get("text", ""), data.get("text/markdown") or data.get("text/plain", "")]
        parts += [f"{output.ename}: {output.evalue}"] if output.output_type == "error" else []
    return "".join(parts)


def exercise_script(nb) -> str:
    """Return a program that shows each exercise's stub to fail and its solution to pass, and nothing else.

    It runs the cells tagged ``imports`` and, for an exercise, those tagged ``needs:<id>``, so no model of the
    chapter is trained again. A stub must raise AssertionError or NotImplementedError. The solution then
    replaces the stub's definitions, and the checks that the stub ends with must pass.
    """
    cells = code_cells(nb)
    imports = [cell for cell in cells if "imports" in tags(cell)]
    stubs = {
        tag.removeprefix("exercise:"): cell
        for cell in cells
        for tag in tags(cell)
        if tag.startswith("exercise:")
    }
    parts = ["import matplotlib", "matplotlib.use('agg')", "from IPython.display import display"]
    parts += [_program(cell.source) for cell in imports]
    for name, stub in stubs.items():
        parts += [_program(cell.source) for cell in cells if f"needs:{name}" in tags(cell)]
        solution = "\n".join(_program(cell.source) for cell in cells if f"solution:{name}" in tags(cell))
        parts.append(f"try:\n    exec({_program(stub.source)!r}, dict(globals()))")
        parts.append("except (AssertionError, NotImplementedError):\n    pass")
        parts.append(f"else:\n    raise SystemExit({f'exercise {name}: its stub passes its own check'!r})")
        parts.append(solution)
        parts.append(checks_of(_program(stub.source), solution))
        parts.append(f"print({f'exercise {name}: ok'!r})")
    return "\n".join(parts) + "\n"


def checks_of(stub: str, solution: str) -> str:
    """Return a stub without the definitions that its solution gives."""
    given = _defined(ast.parse(solution).body)
    return "\n".join(ast.unparse(part) for part in ast.parse(stub).body if not _defined([part]) & given)


def _defined(statements: list[ast.stmt]) -> set[str]:
    names = set()
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.add(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            stores = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            names |= {node.id for node in stores if isinstance(node.ctx, ast.Store)}
    return names


def _program(source: str) -> str:
    """A cell's code without the lines that only IPython understands."""
    return re.sub(r"(?m)^\s*[%!].*$", "", source)


def _images(html: str) -> list[tuple[bool, str | None]]:
    """For each ``<img>``: is it in a ``<figure>``, and its alternative text."""
    finder = _ImageFinder()
    finder.feed(html)
    return finder.images


class _ImageFinder(HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.depth = [], 0

    def handle_starttag(self, tag, attributes):
        self.depth += tag == "figure"
        if tag == "img":
            self.images.append((self.depth > 0, dict(attributes).get("alt")))

    def handle_endtag(self, tag):
        self.depth -= tag == "figure"
