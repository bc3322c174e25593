"""The checks that every chapter must pass, tried on small chapters in which one thing is wrong."""

import subprocess
import sys

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests import chapters

ALT = "Two curves that cross near the middle"
EQUATION = "$$\nE = mc^2\n$$ (eq-energy)"
CHECK = "from mmtutor import claim\nclaim('energy', True)"


def code(source: str, *tags: str, html: str = "", **data: str):
    """A code cell with tags and one output."""
    data = {
        **({"text/html": html} if html else {}),
        **{key.replace("_", "/"): text for key, text in data.items()},
    }
    outputs = [new_output("display_data", data=data)] if data else []
    return new_code_cell(source, metadata={"tags": list(tags)}, outputs=outputs, execution_count=1)


def chapter(*cells):
    """A notebook of cells; text becomes Markdown."""
    return new_notebook(cells=[new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells])


@pytest.mark.parametrize(
    "equation",
    [
        EQUATION,
        "$$E = mc^2$$ (eq-energy)",
        "```{math}\n:label: eq-energy\nE = mc^2\n```",
        ":::{math}\n:nowrap: true\n:label: eq-energy\nE = mc^2\n:::",
    ],
)
def test_a_labelled_equation_needs_a_check_cell(equation):
    assert chapters.equation_problems(chapter(equation, code(CHECK, "check:eq-energy"))) == []
    assert chapters.equation_problems(chapter(equation, code(CHECK))) == [
        "equation eq-energy: expected a cell tagged check:eq-energy, found none"
    ]


def test_a_check_cell_makes_a_claim():
    problems = chapters.equation_problems(chapter(EQUATION, code("print('claim()')", "check:eq-energy")))
    assert problems == ["equation eq-energy: expected claim(...) in its check cell, found none"]


def test_a_check_tag_names_an_equation():
    problems = chapters.equation_problems(chapter("$$x$$", code(CHECK, "check:eq-gone")))
    assert problems == ["tag check:eq-gone: no such equation"]


def test_definitions_need_no_check():
    assert chapters.equation_problems(chapter("$$\nD = 2\n$$ (def-distance)")) == []


FIGURE = f'<figure><img alt="{ALT}" src="data:image/png;base64,AA"><figcaption>c</figcaption></figure>'


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (code("figure(fig, 'c', a)"), "no picture is in the outputs"),
        (code("figure(fig, 'c', a)", html=FIGURE.replace(ALT, "a plot")), "alternative text 'a plot'"),
        (code("show_it()", html="<img src='x.png'>"), "alternative text None"),
        (code("ax.plot()", image_png="AA"), "picture without alternative text"),
        ("![plot](x.png)", "alternative text 'plot'"),
    ],
)
def test_a_picture_without_words_is_found(cell, problem):
    problems = chapters.figure_problems(chapter(cell))
    assert len(problems) == 1 and problem in problems[0]


@pytest.mark.parametrize(
    "cell",
    [
        code("figure(fig, 'c', a)", html=FIGURE),
        code("widget", html="<script>const html = `<img src='x'>`</script>"),
        f"![{ALT}](x.png)",
    ],
)
def test_a_picture_with_words_passes(cell):
    assert chapters.figure_problems(chapter(cell)) == []


STUB = "def double(x):\n    raise NotImplementedError  # your code\n\nassert double(2) == 4"
SOLUTION = "def double(x):\n    return 2 * x"
DIRECTIVE = "```{exercise} Double\n:label: ex-double\n(4 minutes) Write it.\n```"


@pytest.mark.parametrize("statement", ["### Exercise 1 · Double (4 min)\nWrite it.", DIRECTIVE])
def test_six_exercises_with_minutes_pass(statement):
    assert chapters.exercise_problems(chapter(*[statement] * 6)) == []
    assert chapters.exercise_problems(chapter(*[statement] * 5)) == ["expected at least 6 exercises, found 5"]
    assert len(chapters.exercise_problems(chapter(*[statement] * 5, "### Exercise 6\nNo time."))) == 1


def test_a_chapter_without_exercises_is_told():
    assert chapters.exercise_problems(chapter("# Text")) == ["expected at least 6 exercises, found 0"]


def test_a_stub_without_a_later_solution_is_found():
    statements = [DIRECTIVE] * 6
    stub, solution = code(STUB, "exercise:double"), code(SOLUTION, "solution:double")
    assert chapters.exercise_problems(chapter(*statements, stub, solution)) == []
    for cells in ([stub], [solution, stub]):
        problems = chapters.exercise_problems(chapter(*statements, *cells))
        assert problems == ["exercise:double: expected a later cell tagged solution:double"]


def run_exercises(*cells) -> subprocess.CompletedProcess:
    script = chapters.exercise_script(chapter(*cells))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


IMPORTS = code("import math\n%matplotlib inline", "imports")
TRAINING = code("raise SystemExit('trained again')")


def test_a_stub_fails_and_its_solution_passes_without_running_the_chapter():
    needed = code("half = 0.5", "needs:double")
    solution = code("def double(x):\n    return math.floor(x / half)", "solution:double")
    done = run_exercises(IMPORTS, TRAINING, needed, code(STUB, "exercise:double"), solution)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "exercise double: ok\n"


@pytest.mark.parametrize(
    ("stub", "solution", "message"),
    [
        (
            STUB.replace("raise NotImplementedError", "return 2 * x"),
            SOLUTION,
            "double: its stub passes its own check",
        ),
        (STUB, SOLUTION.replace("2 * x", "3 * x"), "AssertionError"),
        (STUB.replace("def double", "def other"), SOLUTION, "NotImplementedError|NameError"),
    ],
    ids=["solved stub", "wrong solution", "another name"],
)
def test_wrong_exercises_fail(stub, solution, message):
    done = run_exercises(code(stub, "exercise:double"), code(solution, "solution:double"))
    assert done.returncode != 0
    assert any(word in done.stderr for word in message.split("|")), done.stderr


def test_an_answer_is_checked_like_a_function():
    stub = "answer = ...  # your number\nassert answer == 42"
    done = run_exercises(code(stub, "exercise:number"), code("answer = 6 * 7", "solution:number"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (code("claim('a', True)"), "expected tag nbval-check-output"),
        (code("mmtutor.compare('a', 'b', 'c')"), "expected tag nbval-check-output"),
        (code("predict('a', ['b', 'c'], 'b')"), "expected tag hide-input"),
        (code(STUB, "exercise:double"), "expected tag nbval-skip"),
        (code("claim('a', True)", "nbval-check-output", html="<p>"), "beside a picture"),
        (new_code_cell("1 + 1"), "was not executed"),
    ],
)
def test_a_cell_without_the_tag_it_needs_is_found(cell, problem):
    problems = chapters.tag_problems(chapter(cell))
    assert len(problems) == 1 and problem in problems[0]


def test_tagged_cells_and_mere_mentions_of_claim_pass():
    cells = [
        code("claim('a', True)", "nbval-check-output"),
        code("# claim(...)"),
        code(STUB, "exercise:a", "nbval-skip"),
    ]
    assert chapters.tag_problems(chapter(*cells)) == []


def test_long_cells_and_heavy_files_are_found():
    assert chapters.size_problems(chapter(code("x = 1\n" * 10))) == []
    assert chapters.size_problems(chapter(code("x = 1\n" * 26), code(""), code(""))) == [
        "a code cell has 26 lines, expected at most 25"
    ]
    assert "median" in chapters.size_problems(chapter(code("x = 1\n" * 11)))[0]
    assert "expected at most 1,500,000" in chapters.size_problems(chapter(code("x", html="x" * 1_500_000)))[0]


@pytest.mark.parametrize(
    "text", ["R@1 is 0.594 here", "R@1 is .594", "(12.4 ± 1)", "```{note}\nIt scores 0.594.\n```"]
)
def test_a_typed_result_is_found(text):
    assert len(chapters.typed_result_problems(chapter(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "temperature $\\tau = 0.07$",
        "`0.594`",
        "```python\nx = 0.594\n```",
        "```{math}\n:label: eq-a\n0.594\n```",
        "$$\nx = 0.594\n$$",
        "version 0.1.0, section 5.4, 2020",
        "[paper](https://example.org/1234.567)",
        "```{exercise}\nText.\n```\n\nThen `0.594`.\n\n```python\n0.594\n```",
    ],
)
def test_numbers_in_maths_code_and_links_are_no_results(text):
    assert chapters.typed_result_problems(chapter(text)) == []


def test_a_chapter_says_what_it_needs_and_how_long_it_takes():
    whole = "# Title\n\n**Prerequisites**: chapter 01. The core path takes 45 minutes."
    assert chapters.frame_problems(chapter(whole)) == []
    for part, missing in {
        "# Title": "expected a title first",
        "Prerequisites": "expected its prerequisites, found none",
        "45 minutes": "expected the minutes it takes, found none",
        "core path": "expected a core path, found none",
    }.items():
        assert chapters.frame_problems(chapter(whole.replace(part, ""))) == [missing]
