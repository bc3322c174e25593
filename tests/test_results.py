"""Claims, the ledger, and comparisons with an interval."""

import math
import time

import numpy as np
import pytest
import torch

from mmtutor import results
from mmtutor.ledger import Figures, Ledger, ledger_path
from mmtutor.results import bootstrap_interval, claim, compare, recorded


def ledger_with(rows: dict[str, np.ndarray], groups=None) -> Ledger:
    """A ledger of item scores ``(S, N)`` by row, under the metric "hit"."""
    ledger = Ledger("toy", "cpu")
    for row, scores in rows.items():
        for seed, score in enumerate(scores):
            ledger.record(row, seed, Figures(outcomes={"hit": score}, groups=groups))
    return ledger


@pytest.mark.parametrize("true", [True, np.bool_(True), np.array(True), torch.tensor(True)])
def test_claim_prints_one_line_for_every_kind_of_truth_value(true, capsys):
    claim("it holds", true)
    assert capsys.readouterr().out == "✓ it holds\n"


@pytest.mark.parametrize("false", [False, np.bool_(False), torch.tensor(False)])
def test_a_claim_that_does_not_hold_raises_and_prints_nothing(false, capsys):
    with pytest.raises(AssertionError, match="claim does not hold: it holds"):
        claim("it holds", false)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [1, 0.5, None, "yes", np.ones(1, bool), torch.ones(2), np.float64(1)])
def test_claim_refuses_what_is_no_truth_value(number):
    with pytest.raises(TypeError, match="expected one truth value, found"):
        claim("it holds", number)


def test_a_metric_is_the_mean_of_its_outcomes():
    assert Figures({"loss": 2}, outcomes={"hit": [1, 0, 0, 1]}) == {"loss": 2.0, "hit": 0.5}
    with pytest.raises(ValueError, match="with mean 0.9"):
        Figures({"hit": 0.9}, outcomes={"hit": [1, 0, 0, 1]})


def test_figures_refuse_groups_of_another_length_and_numbers_that_are_not_finite():
    with pytest.raises(ValueError, match=r"expected shape \(3,\), found \(2,\)"):
        Figures(outcomes={"hit": [1, 0, 0]}, groups=[0, 1])
    with pytest.raises(ValueError, match="'loss': expected a finite number, found nan"):
        Figures({"loss": math.nan})


def test_a_saved_ledger_reads_back_and_is_written_the_same_again(tmp_path):
    scores = np.random.default_rng(0).random((3, 40)) < 0.5
    ledger = ledger_with({"b": scores, "a": ~scores}, groups=np.arange(40) // 2)
    ledger.record("chance", 0, Figures({"hit": 0.1}), deterministic=True, seconds=1.5)
    ledger.environment = {"device": "CPU"}
    path = tmp_path / "toy-cpu.json"
    ledger.save(path)
    again = Ledger.load(path, "toy", "cpu")
    assert again.rows == ledger.rows and again.environment == ledger.environment
    assert np.array_equal(again.outcomes("b", "2", "hit"), scores[2])
    assert np.array_equal(again.groups("b", "2", "hit"), np.arange(40) // 2)
    first = path.read_text()
    again.save(path)
    assert path.read_text() == first


def test_a_ledger_has_one_line_per_run(tmp_path):
    path = tmp_path / "toy-cpu.json"
    ledger_with({"a": np.ones((5, 9))}).save(path)
    assert sum('"outcomes"' in line for line in path.read_text().splitlines()) == 5


def test_merging_replaces_runs_of_the_same_row_and_seed_and_keeps_the_rest():
    kept, new = ledger_with({"a": np.zeros((3, 4))}), Ledger("toy", "cpu")
    new.record("a", 1, Figures(outcomes={"hit": np.ones(4)}, groups=np.arange(4)))
    kept.merge(new)
    assert kept.values("a", "hit").tolist() == [0, 1, 0]
    assert kept.groups("a", "1", "hit").tolist() == [0, 1, 2, 3]


def test_merging_drops_the_runs_of_a_row_that_were_made_by_other_code():
    kept, new = Ledger("toy", "cpu"), Ledger("toy", "cpu")
    for seed, code in enumerate(["old", "old", "new"]):
        kept.record("a", seed, Figures({"hit": seed}), code=code)
    kept.record("b", 0, Figures({"hit": 7}), code="old")
    new.record("a", 3, Figures({"hit": 3}), code="new")
    kept.merge(new)
    assert kept.values("a", "hit").tolist() == [2, 3] and kept.values("b", "hit").tolist() == [7]


def test_what_was_never_run_is_no_error(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    ledger = recorded("nothing", "cpu")
    assert ledger.text("a", "hit") == "not run" and ledger.n_seeds("a") == 0
    assert math.isnan(ledger.mean("a", "hit")) and ledger.values("a", "hit").size == 0
    assert compare("a", "b", "hit").verdict == "not run"
    assert capsys.readouterr().out == "a − b, hit: not run\n"
    assert "not run" in repr(ledger.table(["a"], ["hit"]))


def test_where_nothing_is_recorded_at_the_large_scale_the_small_one_is_shown_and_named(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    monkeypatch.setenv("MMTUTOR_SCALE", "gpu")
    ledger_with({"a": np.ones((5, 4))}).save(tmp_path / "toy-cpu.json")
    ledger = recorded("toy")
    assert ledger.scale == "cpu" and ledger.mean("a", "hit") == 1
    said = 'toy: nothing is recorded at scale "gpu"; the runs shown are those at scale "cpu".\n'
    assert capsys.readouterr().out == said
    assert recorded("toy", "gpu").text("a", "hit") == "not run" and not capsys.readouterr().out
    ledger_with({"a": np.zeros((5, 4))}).save(tmp_path / "toy-gpu.json")
    ledger = recorded("toy")
    assert ledger.scale == "gpu" and ledger.mean("a", "hit") == 0 and not capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"rows": {"a": 3}, "environment": {}}', '{"environment": {}}']
)
def test_a_damaged_ledger_is_named(content, tmp_path, monkeypatch):
    monkeypatch.setenv("MMTUTOR_RESULTS", str(tmp_path))
    (tmp_path / "toy-cpu.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"toy-cpu\.json: expected a ledger with rows, seeds and environment"
    ):
        recorded("toy", "cpu")


def test_the_checkout_is_read_before_the_copy_in_the_wheel(monkeypatch):
    monkeypatch.delenv("MMTUTOR_RESULTS", raising=False)
    assert ledger_path("toy", "gpu").parts[-2:] == ("results", "toy-gpu.json")


def test_a_table_puts_the_baseline_first_and_shows_the_spread():
    ledger = ledger_with({"model": np.array([[0.5], [0.7]]), "baseline": np.array([[0.1], [0.3]])})
    table = ledger.table(
        ["model", "baseline", "other"], {"hit": "hits"}, {"model": "ours"}, baseline="baseline"
    )
    assert table.headings == ["", "hits"]
    assert table.cells == [["baseline", ".200 ± .141"], ["ours", ".600 ± .141"], ["other", "not run"]]
    assert "over 2 seeds" in table.caption
    assert '<th scope="row">ours</th><td>.600 ± .141</td>' in table._repr_html_()


def test_runs_that_all_agree_show_no_spread():
    ledger = ledger_with({"model": np.array([[0.5], [0.5]])})
    assert ledger.text("model", "hit") == ".500"


@pytest.mark.parametrize(
    ("value", "text"), [(0.5942, ".594"), (12.43, "12.4"), (1.5, "1.50"), (-0.25, "−.250"), (431, "431")]
)
def test_numbers_are_shown_with_three_digits(value, text):
    ledger = Ledger("toy", "cpu")
    ledger.record("a", 0, Figures({"x": value}))
    assert ledger.text("a", "x") == text


def loop_bootstrap(differences: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The interval's definition, resample by resample, with the same draws as `bootstrap_interval`."""
    seeds, names = len(differences), np.unique(groups)
    random = np.random.RandomState(0)
    often = random.multinomial(len(names), np.full(len(names), 1 / len(names)), results.RESAMPLES)
    chosen = random.randint(seeds, size=(results.RESAMPLES, seeds))
    widening = {2: 12.7062, 3: 4.30265}[seeds] / 1.96 * math.sqrt(seeds / (seeds - 1))  # Student's t, table
    means = []
    for times, picks in zip(often, chosen, strict=True):
        scores = [
            d
            for name, n in zip(names, times, strict=True)
            for d in differences[:, groups == name].T.tolist() * n
        ]
        shift = np.mean([differences[seed].mean() for seed in picks]) - differences.mean()
        means.append(np.mean(scores) + widening * shift)
    return np.quantile(means, 0.025), np.quantile(means, 0.975)


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_interval_equals_a_bootstrap_written_as_a_loop(seeds, monkeypatch):
    monkeypatch.setattr(results, "RESAMPLES", 200)
    differences = np.random.default_rng(seeds).normal(size=(seeds, 7))
    groups = np.array([3, 3, 5, 9, 9, 9, 4])
    assert bootstrap_interval(differences, groups) == pytest.approx(
        loop_bootstrap(differences, groups), rel=1e-5
    )


SPREADS = {"items differ": (0, 0.4, 0), "seeds differ": (0.02, 0, 0), "both": (0.02, 0.2, 0.1)}


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("effect", [0.0, 0.1])
def test_the_interval_covers_the_true_difference_in_about_95_of_100_experiments(effect, spread, monkeypatch):
    monkeypatch.setattr(results, "RESAMPLES", 400)
    rng, covered, experiments = np.random.default_rng(2), 0, 300
    for _ in range(experiments):
        seed, item, both = (rng.normal(size=size) for size in ((5, 1), (1, 100), (5, 100)))
        low, high = bootstrap_interval(effect + spread[0] * seed + spread[1] * item + spread[2] * both)
        covered += low <= effect <= high
    assert 0.92 <= covered / experiments <= 0.99


def test_items_of_one_group_count_as_one_observation():
    scores = np.repeat(np.random.default_rng(0).normal(size=(1, 50)), 4, axis=1)  # four copies of each thing
    low, high = bootstrap_interval(scores, np.repeat(np.arange(50), 4))
    alone_low, alone_high = bootstrap_interval(scores)
    assert high - low > 1.7 * (alone_high - alone_low)


def test_pairing_by_item_resolves_what_unpaired_scores_do_not(capsys):
    rng = np.random.default_rng(0)
    easy = rng.random((5, 200))  # how easy each item is, shared by both rows
    paired = ledger_with({"a": easy + 0.02 + 0.01 * rng.random((5, 200)), "b": easy})
    unpaired = ledger_with({"a": easy[:, rng.permutation(200)] + 0.025, "b": easy})
    assert compare("a", "b", "hit", paired).verdict == "yes"
    assert compare("b", "a", "hit", paired).verdict == "no"
    assert compare("a", "b", "hit", unpaired).verdict == "unresolved"


def test_the_line_names_rows_metric_interval_seeds_and_groups(capsys):
    rng = np.random.default_rng(0)
    ledger = ledger_with(
        {"a": rng.random((5, 2000)) < 0.6, "b": rng.random((5, 2000)) < 0.5}, np.arange(2000) // 2
    )
    result = compare("a", "b", "hit", ledger)
    line = capsys.readouterr().out
    assert line.startswith("a − b, hit: +.1") and line.endswith("] over 5 seeds × 1,000 groups: yes\n")
    assert result.low < result.difference < result.high


def test_a_deterministic_row_is_compared_with_every_seed(capsys):
    ledger = ledger_with({"model": np.full((5, 9), 0.5) + np.arange(9) / 100})
    ledger.record("chance", 0, Figures(outcomes={"hit": np.full(9, 0.25)}), deterministic=True)
    compare("model", "chance", "hit", ledger)
    compare("chance", "model", "hit", ledger)
    lines = capsys.readouterr().out.splitlines()
    assert all("over 5 seeds × 9 items" in line for line in lines)
    assert lines[0].endswith("yes") and lines[1].endswith("no")


def test_without_item_outcomes_the_interval_is_over_seeds_and_the_line_says_so(capsys):
    ledger = Ledger("toy", "cpu")
    for seed in range(5):
        ledger.record("a", seed, Figures({"rank": 10 + seed}))
        ledger.record("b", seed, Figures({"rank": 3}))
    assert compare("a", "b", "rank", ledger).verdict == "yes"
    assert "over 5 seeds, without item outcomes: yes" in capsys.readouterr().out


def test_one_seed_without_outcomes_settles_nothing(capsys):
    ledger = Ledger("toy", "cpu")
    ledger.record("a", 0, Figures({"rank": 10}))
    ledger.record("b", 0, Figures({"rank": 3}))
    assert compare("a", "b", "rank", ledger).verdict == "unresolved"
    assert "over 1 seed, without item outcomes: unresolved" in capsys.readouterr().out


def test_one_seed_settles_nothing_unless_both_rows_are_deterministic(capsys):
    ledger = ledger_with({"a": np.ones((1, 50)), "b": np.zeros((1, 50))})
    assert compare("a", "b", "hit", ledger).verdict == "unresolved"
    for row in "ab":
        ledger.rows[row]["deterministic"] = True
    assert compare("a", "b", "hit", ledger).verdict == "yes"


def test_rows_scored_on_other_items_are_refused():
    ledger = ledger_with({"a": np.ones((2, 5)), "b": np.ones((2, 6))})
    with pytest.raises(ValueError, match=r"a and b, hit: expected the same items, found \[5, 6\] of them"):
        compare("a", "b", "hit", ledger)


def test_rows_whose_items_are_grouped_otherwise_are_refused():
    ledger = ledger_with({"a": np.ones((2, 4))}, groups=[0, 0, 1, 1])
    ledger.merge(ledger_with({"b": np.ones((2, 4))}, groups=[0, 1, 1, 1]))
    with pytest.raises(ValueError, match="expected the same items, found other groups"):
        compare("a", "b", "hit", ledger)


def test_compare_needs_a_ledger(monkeypatch):
    monkeypatch.setattr(results, "_latest", None)
    with pytest.raises(RuntimeError, match="expected a ledger"):
        compare("a", "b", "hit")


def test_a_comparison_of_the_book_s_size_is_quick():
    rng = np.random.default_rng(0)
    ledger = ledger_with(
        {"a": rng.random((5, 1562)), "b": rng.random((5, 1562))}, rng.integers(0, 1398, 1562)
    )
    start = time.process_time()
    compare("a", "b", "hit", ledger)
    assert time.process_time() - start < 1.0  # about 0.1 s of the processor's time
