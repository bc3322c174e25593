"""Executing a chapter leaves clean, repeatable outputs, or nothing at all."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import execute

CLAIM = "def claim(text, condition):\n    print(text)\n\nclaim('one is one', 1 == 1)"
PRINTS = "import os, sys\nprint('a')\nprint('empty folder:', os.listdir() == [])"


@pytest.fixture
def book(tmp_path, monkeypatch) -> Path:
    """A repository with one chapter, ``book/01_toy.ipynb``, in which an exercise raises."""
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    cells = [
        new_markdown_cell("# Toy"),
        new_code_cell(CLAIM),
        new_code_cell("raise NotImplementedError", metadata={"tags": ["exercise:one"]}),
        new_code_cell(PRINTS),
        new_code_cell("os.environ['MMTUTOR_SCALE']"),
    ]
    write(tmp_path, new_notebook(cells=cells))
    return tmp_path


def write(root: Path, nb, name: str = "01_toy") -> None:
    (root / "book").mkdir(exist_ok=True)
    nbformat.write(nb, root / "book" / f"{name}.ipynb")


def read(root: Path):
    return nbformat.read(root / "book" / "01_toy.ipynb", as_version=4)


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["execute.py", *arguments])
    execute.main()


def test_a_stale_chapter_is_run_once_and_is_then_fresh(book, monkeypatch, capsys):
    identities = [cell.id for cell in read(book).cells]
    run(monkeypatch)
    nb = read(book)
    assert [cell.id for cell in nb.cells] == identities
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert code[0].metadata.tags == ["nbval-check-output"]
    assert code[1].metadata.tags == ["exercise:one", "nbval-skip"] and code[1].outputs == []
    assert [output.text for output in code[2].outputs] == ["a\nempty folder: True\n"]
    assert code[3].outputs[0].data["text/plain"] == "'cpu'" and code[3].outputs[0].execution_count == 4
    assert set(nb.metadata.mmtutor) == {"stamp", "seconds", "device", "scale", "date"}
    assert "widgets" not in nb.metadata and all("execution" not in cell.metadata for cell in nb.cells)

    content = (book / "book" / "01_toy.ipynb").read_text()
    assert content == json.dumps(json.loads(content), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    capsys.readouterr()
    run(monkeypatch)
    assert capsys.readouterr().out == "01_toy.ipynb: fresh\n"

    nb.cells[1].source += "\nclaim('two is two', 2 == 2)"
    assert execute.is_stale(nb, "cpu")


def test_the_time_and_the_memory_of_a_run_are_kept_and_leave_no_trace_in_the_chapter(book, monkeypatch):
    kept = book / "results" / "chapters.json"
    kept.parent.mkdir()
    kept.write_text('{"00_gone": {"cpu": {"seconds": 1}}, "01_toy": {"gpu": {"seconds": 2.5}}}')
    run(monkeypatch)
    chapters, nb = json.loads(kept.read_text()), read(book)
    assert list(chapters) == ["01_toy"] and chapters["01_toy"]["gpu"] == {"seconds": 2.5}
    measured, noted = chapters["01_toy"]["cpu"], nb.metadata.mmtutor
    assert measured["seconds"] == noted.seconds and measured["device"] == noted.device
    if sys.platform == "linux":  # elsewhere it is left out
        # this kernel has no PyTorch, unlike the process that started it
        assert 20 < measured["memory_mib"] < 200
    assert "/proc" not in (book / "book" / "01_toy.ipynb").read_text()
    before = kept.read_bytes()
    run(monkeypatch)
    assert kept.read_bytes() == before


def test_the_first_cell_says_what_this_run_took_and_not_the_one_before(book, monkeypatch):
    (book / "results").mkdir()
    monkeypatch.setenv("MMTUTOR_RESULTS", str(book / "results"))
    old = {"01_toy": {"cpu": {"seconds": 99999.0, "device": "an abacus"}}}
    (book / "results" / "chapters.json").write_text(json.dumps(old))
    first = new_code_cell("from mmtutor import here\n\nhere('01_toy')")
    write(book, new_notebook(cells=[first, new_code_cell("print('more')")]))
    run(monkeypatch)
    (said,), (more,) = (cell.outputs for cell in read(book).cells)
    device = read(book).metadata.mmtutor.device
    assert said.text.endswith(f": about 10 seconds (timed on: {device}).\n") and more.text == "more\n"


def test_a_chapter_that_fails_leaves_its_time_as_it_was(book, monkeypatch):
    write(book, new_notebook(cells=[new_code_cell("1 / 0")]))
    with pytest.raises(SystemExit):
        run(monkeypatch)
    assert not (book / "results").exists()


def test_after_several_chapters_the_time_and_the_memory_of_each_and_of_all_are_printed(
    book, monkeypatch, capsys
):
    run(monkeypatch)
    assert "chapters" not in capsys.readouterr().out
    runs = {"01_toy": {"seconds": 1.5, "memory_mib": 300}, "02_toy": {"seconds": 2.0}}
    write(book, new_notebook(cells=[]), "02_toy")
    monkeypatch.setattr(execute, "execute", lambda path, scale: runs[path.stem])
    run(monkeypatch, "--force")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-3:] == [
        "01_toy 1.5 s 300 MiB at most",
        "02_toy 2.0 s memory not known",
        "2 chapters 3.5 s 300 MiB at most",
    ]


def test_a_process_that_is_gone_has_no_memory():
    assert execute.peak_memory_mib(2**30) is None


def test_a_guess_is_folded_on_the_page_and_in_jupyterlab_lest_its_source_tell(book, monkeypatch):
    asks = new_code_cell("def predict(question): ...\n\npredict('Which?')")
    write(book, new_notebook(cells=[new_code_cell("# predict"), asks]))
    run(monkeypatch)
    plain, folded = read(book).cells
    assert "tags" not in plain.metadata and "jupyter" not in plain.metadata
    assert folded.metadata.tags == ["hide-input"] and folded.metadata.jupyter.source_hidden


def test_what_the_page_folds_jupyterlab_folds_too(book, monkeypatch):
    cells = [new_code_cell("1 + 1", metadata={"tags": [tag]}) for tag in execute.IN_LAB]
    write(book, new_notebook(cells=cells))
    run(monkeypatch)
    assert [cell.metadata.jupyter for cell in read(book).cells] == [
        {"source_hidden": True},
        {"outputs_hidden": True},
        {"source_hidden": True, "outputs_hidden": True},
    ]


def test_at_another_scale_the_chapter_notes_the_time_and_keeps_its_outputs(book, monkeypatch):
    run(monkeypatch, "--scale", "gpu")
    nb = read(book)
    assert nb.metadata.mmtutor.gpu.scale == "gpu" and nb.metadata.mmtutor.gpu.seconds > 0
    assert all(cell.get("outputs", []) == [] for cell in nb.cells)
    copy = nbformat.read(book / "_build" / "gpu" / "01_toy.ipynb", as_version=4)
    assert copy.cells[-1].outputs[0].data["text/plain"] == "'gpu'"
    assert not execute.is_stale(nb, "gpu") and execute.is_stale(nb, "cpu")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nx / 0", r"cell 1 raised:\n\nx = 1\nx / 0"),
        ("print('/home/me/x')", "shows a path of this machine"),
    ],
    ids=["raises", "shows a path"],
)
def test_a_chapter_that_fails_is_not_written(book, monkeypatch, source, message):
    write(book, new_notebook(cells=[new_markdown_cell("# Toy"), new_code_cell(source)]))
    before = (book / "book" / "01_toy.ipynb").read_bytes()
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch)
    assert (book / "book" / "01_toy.ipynb").read_bytes() == before


def test_an_unknown_chapter_is_named_with_those_there_are(book, monkeypatch):
    with pytest.raises(SystemExit, match=r"chapter '07': expected one of \['01_toy'\]"):
        run(monkeypatch, "--chapter", "07")


@pytest.mark.parametrize("wanted", ["", "01", "toy", "01_toy"])
def test_a_chapter_is_found_by_number_or_name(book, wanted):
    assert [path.name for path in execute.chapters(wanted)] == ["01_toy.ipynb"]


def cell_with(*outputs):
    return new_notebook(cells=[new_code_cell("x", outputs=list(outputs))])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("saved to /home/me/file", "a path of this machine: '/home/me'"),
        ("/root/.cache: UserWarning", "a path of this machine: '/root/.cache'"),
        (r"C:\Users\me", "a path of this machine"),
        ("FutureWarning: soon", "a warning: 'FutureWarning:'"),
        ("Traceback (most recent call last):", "a traceback"),
        ("<object at 0x7f3a2b4c5d60>", "a memory address: 'at 0x7f3a2b4c5d60'"),
    ],
)
def test_what_no_reader_should_see_is_found_in_every_kind_of_output(text, problem):
    for output in (
        new_output("stream", name="stderr", text=text),
        new_output("display_data", data={"text/html": f"<p>{text}</p>"}),
        new_output("execute_result", data={"text/plain": text}),
    ):
        problems = execute.output_problems(cell_with(output))
        assert problems and all(found.startswith("cell 0 shows ") for found in problems)
        assert any(problem in found for found in problems)


@pytest.mark.parametrize(
    "text",
    [
        "a ratio a/tmp",
        "https://example.org/home/me",
        "data:image/png;base64," + "A" * 50 + "/tmp/" + "A" * 50,
    ],
)
def test_what_only_looks_like_a_path_is_left_alone(text):
    assert execute.output_problems(cell_with(new_output("stream", name="stdout", text=text))) == []


def test_progress_bars_and_views_without_a_page_are_dropped_and_streams_joined():
    view = {execute.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "0%|   |"}
    nb = cell_with(
        new_output("display_data", data=view),
        new_output("stream", name="stderr", text="\r 50%|█████     | 1/2"),
        new_output("stream", name="stdout", text="one\n"),
        new_output("stream", name="stdout", text="two\n"),
        new_output("display_data", data={**view, "text/html": "<p>widget</p>"}),
        new_output("stream", name="stderr", text="a message"),
    )
    execute.clean(nb)
    streams = [output.text for output in nb.cells[0].outputs if output.output_type == "stream"]
    pages = [output.data for output in nb.cells[0].outputs if output.output_type == "display_data"]
    assert streams == ["one\ntwo\n", "a message"]
    assert pages == [{"text/plain": "0%|   |", "text/html": "<p>widget</p>"}]
