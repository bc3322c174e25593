"""Chapter 14's recipe, with tiny models: each row keeps its contract, each change does what it is for."""

import math
from types import SimpleNamespace

import pytest
import torch

from mmtutor.contrastive import info_nce
from mmtutor.data import load_emoji
from mmtutor.experiments import training as recipe
from mmtutor.experiments import training_costs as costs
from mmtutor.experiments import training_processes as program


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A very small model and few items seen, on one thread; the function sets another number of items."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def set_items(items: int):
        sizes = {"cpu": items, "gpu": 2 * items}
        monkeypatch.setattr(recipe, "ITEMS", {"digits": sizes, "pictures": sizes})

    sizes = {"cpu": 16, "gpu": 24}
    monkeypatch.setattr(recipe, "WIDTH", {"digits": sizes, "pictures": {"cpu": 4, "gpu": 6}})
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    set_items(2048)
    yield set_items
    torch.set_num_threads(threads)


def above_chance(figures, k: int) -> float:
    """By how many standard deviations of a binomial R@k lies above that of guessing."""
    n = figures["candidates"]
    return (figures[f"R@{k}"] - k / n) / math.sqrt(k / n * (1 - k / n) / n)


@pytest.mark.parametrize("row", recipe.ROWS)
def test_every_row_returns_its_figures_with_each_item_s_outcome(row):
    figures = recipe.run(row, 0)
    assert {"R@1", "R@10", "R@1, validation", "R@10, validation", "candidates"} <= set(figures)
    assert figures.outcomes["R@1"].shape == figures.groups["R@1"].shape == (int(figures["candidates"]),)
    assert 0 <= figures["R@1"] <= figures["R@10"] <= 1


@pytest.mark.parametrize("function", [recipe.run, recipe.fit, recipe.settings])
def test_an_unknown_row_is_named_with_the_known_ones(function):
    arguments = ("no such row",) if function is recipe.settings else ("no such row", 0)
    with pytest.raises(ValueError, match=r"row: expected one of whole, .*; found 'no such row'"):
        function(*arguments)


def test_a_run_repeats_by_seed_and_every_row_sees_as_many_items():
    assert recipe.run("whole", 3) == recipe.run("whole", 3) != recipe.run("whole", 4)
    for row, batch in (("batch of 32", 32), ("whole", 128), ("batch of 512", 512), ("pictures", 256)):
        assert len(recipe.fit(row, 0).history.loss) == 2048 // batch


def test_the_gpu_scale_runs_the_same_code_with_its_own_size(monkeypatch):
    seen = recipe.fit("pictures, batch of 512", 0, scale="gpu")
    assert seen.image.blocks[0][0].out_channels == 6 and len(seen.history.loss) == 2 * 2048 // 512
    model = recipe.fit("width × 2", 0, scale="gpu")
    assert model.encoders["pixels"][0].out_features == 48 and len(model.history.loss) == 2 * 2048 // 128
    monkeypatch.setenv("MMTUTOR_SCALE", "gpu")
    assert recipe.run("whole", 0) == recipe.run("whole", 0, scale="gpu")


def test_with_shuffled_pairs_retrieval_falls_to_chance(tiny):
    tiny(40_000)
    for row in ("whole", "CCA"):
        true, shuffled = (recipe.run(row, 0, shuffle_pairs=flag) for flag in (False, True))
        assert above_chance(true, 10) > 10
        assert abs(above_chance(shuffled, 10)) < 4


def test_pictures_with_shuffled_names_find_nothing(tiny):
    tiny(30_000)
    true, shuffled = (recipe.run("pictures", 0, shuffle_pairs=flag) for flag in (False, True))
    assert above_chance(true, 10) > 10
    assert abs(above_chance(shuffled, 10)) < 4


def test_pictures_are_learnt_judged_and_tested_in_styles_of_their_own():
    styles = [style for part in recipe.STYLES.values() for style in part]
    assert sorted(styles) == sorted(load_emoji().styles)


def test_every_picture_drawn_exists_and_things_do_not_repeat(monkeypatch):
    """A batch's pictures are looked up among all that exist: none is an empty square."""
    seen, names = [], []
    monkeypatch.setattr(recipe, "varied", lambda x, generator: x)
    model = SimpleNamespace(image=seen.append, text=names.append)
    recipe.picture_pairs(model, recipe.settings("pictures"), torch.Generator().manual_seed(0), False)()
    assert len(set(names[0])) == len(seen[0]) == 256
    emoji = load_emoji()
    for x, name in zip(seen[0], names[0], strict=True):
        i = emoji.names.index(name)
        known = [k for k, style in enumerate(emoji.styles) if style in recipe.STYLES["train"]]
        drawn = torch.stack([recipe.pixels(emoji.images[k, i]) for k in known if emoji.present[k, i]])
        assert (drawn == x).flatten(1).all(1).any()


def test_part_of_the_data_is_part_of_the_data():
    whole, part = (
        recipe.known(recipe.settings(row), torch.Generator(), False) for row in ("whole", "data / 4")
    )
    for m, view in part.items():
        assert len(view) == round(len(whole[m]) / 4)
        assert (view[:, None] == whole[m]).all(2).any(1).all()


def test_negatives_without_gradient_leave_the_value_and_change_the_slope():
    a, b = torch.randn(2, 16, 4, dtype=torch.float64, requires_grad=True)
    a, b = (z.detach().requires_grad_() for z in (a, b))
    right = info_nce(a, b, 0.1)
    found = recipe.detached_info_nce(a, b, 0.1, parts=4)
    assert torch.isclose(found, right)
    wanted, lost = (torch.autograd.grad(loss, (a, b)) for loss in (right, found))
    assert not torch.allclose(lost[0], wanted[0], atol=1e-3)
    one = recipe.detached_info_nce(a, b, 0.1, parts=1)  # everything is its own
    assert all(torch.allclose(x, y) for x, y in zip(torch.autograd.grad(one, (a, b)), wanted, strict=True))


def test_negatives_without_gradient_lack_what_rows_of_other_parts_say():
    """By hand: each part's loss, with the other parts' embeddings held fixed, and their mean."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 3, dtype=torch.float64)
    found = []
    for own in (slice(0, 3), slice(3, 6)):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        every_x, every_y = a.clone(), b.clone()
        every_x[own], every_y[own] = x[own], y[own]
        s = torch.nn.functional.normalize(every_x) @ torch.nn.functional.normalize(every_y).T / 0.2
        rows = s.log_softmax(1).diagonal()[own] + s.log_softmax(0).diagonal()[own]
        # a row of s whose query is another part's is no part of this loss
        slope = torch.autograd.grad(-rows.mean() / 2, (x, y))
        found.append([g[own] / 2 for g in slope])
    by_hand = [torch.cat(parts) for parts in zip(*found, strict=True)]
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    slopes = torch.autograd.grad(recipe.detached_info_nce(x, y, 0.2, parts=2), (x, y))
    assert all(torch.allclose(g, hand) for g, hand in zip(slopes, by_hand, strict=True))


# The program of several processes


def test_one_process_and_two_take_the_same_step(monkeypatch):
    one, two = program.in_processes(1), program.in_processes(2)
    assert (one["processes"], two["processes"]) == (1, 2)
    for found in (one, two):
        assert abs(found["loss"] - one["whole loss"]) < 1e-5
        assert found["gradient apart"] < 1e-6 and found["largest slope"] > 1e-3
    if two["bytes"] is not None:
        assert two["bytes"] > 4 * two["parameters"] > one["bytes"]


def test_a_process_that_fails_is_reported_with_its_words(monkeypatch):
    monkeypatch.setattr(program, "__name__", "mmtutor.experiments.no_such_program")
    with pytest.raises(RuntimeError, match="2 processes: one has failed(.|\n)*no_such_program"):
        program.in_processes(2)


def test_the_most_bytes_held_are_those_alive_together_not_all_that_were_made():
    def chain(keep: bool):
        kept = []
        x = torch.zeros(1000)
        for _ in range(5):
            x = x + 1
            kept.append(x if keep else None)

    assert costs.peak_bytes(lambda: chain(keep=False)) == 2 * 4000  # a sum beside what it is the sum of
    assert costs.peak_bytes(lambda: chain(keep=True)) == 5 * 4000


def test_a_view_holds_nothing_of_its_own_and_what_was_there_before_is_not_counted():
    before = torch.zeros(1000)
    assert costs.peak_bytes(lambda: before.add_(1)) == 0
    assert costs.peak_bytes(lambda: before[:10].view(2, 5)) == 0
    assert costs.peak_bytes(lambda: before.double()[:10]) == 8000


def test_what_the_way_back_needs_is_held():
    x = torch.zeros(1000, requires_grad=True)

    def forward():
        return x.sin().sin().sin()

    with torch.no_grad():
        assert costs.peak_bytes(forward) == 2 * 4000
    assert costs.peak_bytes(forward) == 3 * 4000


def test_the_time_of_a_call_is_a_median_without_the_first_call(monkeypatch):
    ticks = iter([0, 100, 100, 101, 101, 104, 104, 106])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(ticks))
    calls = []
    assert costs.seconds(lambda: calls.append(1), repeats=3) == 2
    assert len(calls) == 4
