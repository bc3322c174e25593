"""The benchmarks: versions agree at small sizes, the page is the record's, the book keeps its limits."""

import json
import shutil

import pytest
import torch

from bench import (
    _table,
    attention,
    balancing,
    chapters,
    compiled,
    dam,
    fusers,
    losses,
    metrics,
    pages,
    widgets,
)
from bench._measure import check_equal, compare, gathered, growth, memory, row, there_and_back, turns
from tools import bench

SMALL = {
    "losses": (losses, {"BATCHES": (12,), "DIM": 6, "CHUNK": 5}, losses.time_rows),
    "fusers": (fusers, {"BATCHES": (5,), "WIDTH": 6, "PAIR_WIDTH": 4}, fusers.rows),
    "attention": (attention, {"LENGTHS": (7,), "BATCH": 3, "DIM": 8}, attention.rows),
    "balancing": (balancing, {"TASKS": (3,), "BATCH": 4, "DIM": 8}, balancing.time_rows),
    "dam": (dam, {"FRAMES": (3,), "BATCH": 4, "DIM": 16}, dam.rows),
    "metrics": (metrics, {"SIZES": (20,), "K": 3}, metrics.rows),
}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("bench._measure.ONE_TURN", 0)
    monkeypatch.setattr("bench._measure.FEWEST", 1)


@pytest.mark.parametrize("name", SMALL)
def test_the_versions_of_every_benchmark_agree(name, quick, monkeypatch):
    module, sizes, rows = SMALL[name]
    for constant, value in sizes.items():
        monkeypatch.setattr(module, constant, value)
    found = rows(seconds=0.0)  # raises where two versions differ
    assert found and all(len(values) == 1 for one in found for values in one["values"].values())
    for one in found:
        compared = {
            one["over"],
            *one["rivals"],
            *(name for names in one["rivals"].values() for name in names),
        }
        assert compared <= set(one["values"])
    assert json.loads(json.dumps(found)) == found
    assert gathered(found).keys() == {one["table"] for one in found} and _table.section(found)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler for C++")
def test_a_compiled_step_returns_what_the_plain_one_does_and_when_it_pays_is_said(quick, monkeypatch):
    small = {"small": lambda: (torch.nn.Linear(3, 2), (torch.randn(4, 3),))}
    monkeypatch.setattr(compiled, "NETWORKS", small)
    step, pays = compiled.rows(seconds=0.0)  # raises where the two differ
    assert step["values"].keys() == {"as it is", "compiled"} and pays["figures"]["first call, s"] > 0
    pays["figures"]["steps to earn it back"] = "1200"
    assert compiled.summary([step, pays]).startswith("It pays after 1,200 steps at the earliest")
    pays["figures"]["steps to earn it back"] = "not seen"
    assert compiled.summary([step, pays]).startswith("It was not seen to pay")


def test_versions_that_differ_are_named():
    versions = {"plain": lambda: torch.ones(2), "ours": lambda: torch.tensor([1.0, 1.1])}
    with pytest.raises(AssertionError, match="'ours' and 'plain' differ"):
        compare("a", "b", versions, "plain", {"ours": ["plain"]}, seconds=0)
    check_equal(versions, same={})  # unless nobody says that they do the same


def test_a_call_returns_the_value_and_every_gradient():
    x, y = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0])
    value, gradient = there_and_back(lambda x, y: x * y, x, y)()
    assert value.tolist() == [3, 8] and gradient.tolist() == [3, 4]


def test_versions_take_turns(monkeypatch):
    monkeypatch.setattr("bench._measure.ONE_TURN", 0)
    calls = []
    versions = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = turns(versions, seconds=0)
    assert [len(times[name]) for name in "ab"] == [5, 5]
    assert "".join(calls) == "ab" * 6  # the first of them to warm up


def test_memory_is_that_of_a_fresh_process():
    assert growth(lambda: None) >= 0
    (peak,) = memory("bench.losses.memory_of", {"plain": ("plain",)}, runs=1)["plain"]
    matrix = 4 * losses.MEMORY_BATCH**2 / 2**20
    assert matrix < peak < 10 * matrix


ROWS = [
    row("Loss", "small", "ms", "plain", {"ours": ["plain", "peer"]}, {"plain": [2, 2, 4], "ours": [3, 3, 6]})
    | {"rivals": {"ours": ["plain"]}},
    row(
        "Loss", "large", "ms", "plain", {"ours": ["plain", "peer"]}, {"ours": [1], "plain": [4], "peer": [2]}
    ),
    row("Loss", "noisy", "ms", "plain", {"ours": ["plain"]}, {"ours": [1, 2, 3], "plain": [2, 2, 2]}),
    {
        "table": "Weight",
        "of": "file",
        "case": "page",
        "figures": {"KiB": 1234.5, "gzipped": None, "on": "this"},
    },
]


def test_a_table_shows_medians_and_ratios_and_says_where_ours_is_slower():
    assert _table.section(ROWS) == (
        "### Loss\n\n"
        "| ms | plain | ours | peer |\n| :-- | --: | --: | --: |\n"
        "| small | 2.00 | 3.00 · **1.50** | not run |\n"
        "| large | 4.00 | 1.00 · **0.25** | 2.00 · **0.50** |\n"
        "| noisy | 2.00 | 2.00 · **1.00** (0.75–1.25) | not run |\n\n"
        "In ms; after the dot, in bold, the ratio to *plain*, in brackets its quartiles.\n\n"
        "*ours*: slower than the fastest peer in 1 of 3: small (1.50 times plain); "
        "as fast as the fastest peer, as far as the quartiles tell, in 1 of 3; "
        "faster than the fastest peer in 1 of 3 (0.50 times).\n\n"
        "### Weight\n\n"
        "| file | KiB | gzipped | on |\n| :-- | --: | --: | --: |\n| page | 1,234 | not measured | this |"
    )
    assert _table.overview({"Losses": ROWS}).splitlines()[2:] == [
        "| Losses | 1 | 1 | 1 | Loss, small: ours 1.50 times plain |"
    ]
    assert _table.section([]) == "Not measured."


def test_the_page_is_made_of_the_record_and_not_edited_by_hand():
    assert bench.PAGE.read_text(encoding="utf-8") == bench.page(bench.load()), (
        "run python -m tools.bench --render"
    )


def test_a_section_measured_later_says_the_day_and_the_place_only_if_it_is_another():
    rest = "2026-11-23, a processor, 2 cores"
    same = bench.apart("2026-11-24, a processor, 2 cores", rest)
    assert same == "2026-11-24, with the same processor and versions."
    assert bench.apart("2026-11-24, another, 2 cores", rest) == "2026-11-24, another, 2 cores"


def test_the_record_survives_being_saved(monkeypatch, tmp_path):
    record = bench.load()
    monkeypatch.setattr(bench, "RECORD", tmp_path / "record.json")
    assert bench.load() == {}
    bench.save(record)
    assert bench.load() == record


def test_the_record_holds_every_section():
    assert set(bench.load()) == set(bench.SECTIONS)
    assert all(kept["rows"] for kept in bench.load().values())


def test_the_whole_book_keeps_its_limits():
    assert chapters.problems(chapters.rows()) == []
    assert chapters.problems(bench.load()["chapters"]["rows"]) == []


def test_a_book_that_takes_too_much_is_found():
    figures = ({"seconds": 900.0, "MiB": 5000}, {"seconds": 700.0, "MiB": None})
    rows = [{"table": "Chapters", "case": "x", "figures": one} for one in figures]
    assert chapters.problems(rows) == [
        "expected at most 25 minutes, found 26.7",
        "expected at most 4 GiB, found 4.88",
    ]
    assert "26.7 minutes (2 of 2 chapters), at most 4.88 GiB (of 1 chapters)" in chapters.summary(rows)


def test_seconds_and_memory_of_a_chapter_are_those_of_its_last_run(monkeypatch, tmp_path):
    file = tmp_path / "chapters.json"
    run = {"seconds": 1.5, "memory_mib": 7, "device": "a CPU"}
    file.write_text(json.dumps({"01_mapping": {"cpu": run, "gpu": {"seconds": 9}}}))
    monkeypatch.setattr(chapters, "RECORD", file)
    first, second, *_ = chapters.rows()
    assert first["figures"] == {"seconds": 1.5, "MiB": 7, "on": "a CPU"}
    assert second["figures"]["seconds"] > 0  # from the notebook itself


def test_widgets_of_the_chapters_are_light_and_embedded_with_the_same_state():
    stored = widgets.stored()
    assert stored and all(widgets.kib(page, False) <= widgets.LIMIT for page in stored.values())
    name, page = min(stored.items(), key=lambda item: len(item[1]))
    embedded = widgets.embedded(page)
    assert name[:2].isdigit() and '"_esm"' in embedded and '"_css"' in embedded
    assert all(f'"{key}"' in embedded for key in widgets.state_of(page))


def test_a_page_is_weighed_with_the_files_that_it_names(tmp_path):
    page, static = tmp_path / "book" / "a.html", tmp_path / "_static"
    page.parent.mkdir()
    static.mkdir()
    (static / "a.js").write_text("x" * 2048)
    (static / "a.css").write_text("@font-face { src: url('a.woff2') }")
    (static / "a.woff2").write_bytes(b"f" * 3072)
    linked = '<link rel="stylesheet" href="../_static/a.css?v=1"><script src="../_static/a.js"></script>'
    page.write_text(linked * 2 + '<script src="https://example.org/b.js"></script>' + "y" * 1024)
    row, named = pages.page_rows(page)
    assert {kind: [file.name for file in files] for kind, files in named.items()} == {
        "scripts": ["a.js"],
        "styles": ["a.css"],
        "fonts": ["a.woff2"],
    }
    figures = row["figures"]
    assert figures["files from elsewhere"] == 1 and figures["KiB"] > 1 > figures["gzipped"]
    assert pages.totals(named["fonts"]) == {"files": "1", "KiB": 3.0, "gzipped": 3.0}
