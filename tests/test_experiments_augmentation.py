"""Chapter 02's recipe, with tiny models: each row keeps its contract, nothing leaks, the control fails."""

import dataclasses

import numpy as np
import pytest
import torch

from mmtutor.augment import AUGMENTATIONS
from mmtutor.data import load_emoji
from mmtutor.experiments import augmentation as recipe
from mmtutor.experiments import augmentation_baselines as baselines

TRAINED = [row for row, s in recipe.ROWS.items() if "baseline" not in s]
TASKS = ("group", "style", "motion")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on one thread; the function sets another number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other here

    def set_size(steps: int, width: int = 4):
        monkeypatch.setattr(recipe, "STEPS", {s: dict.fromkeys(TASKS, steps) for s in ("cpu", "gpu")})
        monkeypatch.setattr(recipe, "WIDTH", {"cpu": width, "gpu": width + 1})

    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    set_size(2)
    yield set_size
    torch.set_num_threads(threads)


# The contract


@pytest.mark.parametrize("row", TRAINED)
def test_every_trained_row_returns_accuracy_and_macro_f1_with_each_item_s_outcome(row):
    figures, task = recipe.run(row, 0), recipe.settings(row)["task"]
    metrics = {"accuracy"} | {"group": {"accuracy, other hands"}, "motion": {"axis"}}.get(task, set())
    assert set(figures) == metrics | {"macro-F1"}
    assert all(0 <= value <= 1 for value in figures.values())
    test = recipe.examples(task, "test")
    counts = {"accuracy": (test.style == 0).sum() if task == "group" else len(test.x)}
    counts |= {"accuracy, other hands": len(test.x) - counts["accuracy"], "axis": (test.label < 2).sum()}
    for metric in metrics:
        assert figures.outcomes[metric].shape == figures.groups[metric].shape == (counts[metric],)


@pytest.mark.parametrize("function", [recipe.run, recipe.fit, recipe.settings])
def test_an_unknown_row_is_named_with_the_known_ones(function):
    arguments = ("no such row",) if function is recipe.settings else ("no such row", 0)
    with pytest.raises(
        ValueError, match="row: expected one of group, largest class, .*; found 'no such row'"
    ):
        function(*arguments)


def test_every_change_is_known_and_is_tried_in_a_row():
    tried = {name for row in TRAINED for name in recipe.settings(row)["changes"]}
    assert tried == set(recipe.CHANGES) | {"balanced sample", "another hand"}
    assert tried - set(AUGMENTATIONS) == {"affine, frame by frame"}


def test_run_scores_what_fit_returns_which_repeats_by_seed_and_a_change_changes_it():
    def learnt(row, seed):
        return torch.cat([x.flatten() for x in recipe.fit(row, seed).state_dict().values()])

    first = learnt("style, none", 3)
    assert torch.equal(first, learnt("style, none", 3)) and not torch.equal(first, learnt("style, none", 4))
    for row in TRAINED:
        if recipe.settings(row)["task"] == "style" and not row.endswith("none"):
            assert not torch.equal(first, learnt(row, 3)), row
    assert recipe.score(recipe.fit("style, none", 3), "style") == recipe.run("style, none", 3)


def test_the_gpu_scale_runs_the_same_code_with_its_own_size(monkeypatch):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {"style": 9}, "gpu": {"style": 4}})
    for row, steps in (("style, none", 4), ("style, half the steps, none", 2)):
        model = recipe.fit(row, 0, scale="gpu")
        assert len(model.history.loss) == steps and model.encoder.blocks[0][0].out_channels == 5


# What the network is shown


def test_hidden_frames_show_the_mean_of_the_others_and_at_least_four_stay():
    x = torch.rand(200, 8, 1, 1, 1)
    shown = recipe.masked_frames(x, torch.Generator().manual_seed(0))
    kept = (shown == x)[:, :, 0, 0, 0]
    assert kept.sum(1).min() >= 4 and kept.double().mean() == pytest.approx(0.75, abs=0.05)
    mean = torch.where(kept, x[:, :, 0, 0, 0], 0).sum(1) / kept.sum(1)
    torch.testing.assert_close(shown[:, :, 0, 0, 0].mean(1), mean)


def test_sampled_frames_are_four_each_twice():
    x = torch.arange(8.0).reshape(1, 8, 1, 1, 1).expand(50, -1, -1, -1, -1)
    shown = recipe.sampled_frames(x, torch.Generator().manual_seed(0)).flatten(1)
    assert torch.equal(shown[:, ::2], shown[:, 1::2]) and (shown[:, ::2].diff() > 0).all()


def test_the_network_sees_the_order_of_the_frames():
    model, x = recipe.Classifier(4, width=4, frames=8).eval(), torch.rand(3, 8, 3, 32, 32)
    assert not torch.allclose(model(x), model(x.flip(1)))


# Nothing leaks


@pytest.mark.parametrize("task", TASKS)
def test_no_family_is_on_two_sides_and_the_group_is_learnt_from_one_hand(task):
    family = load_emoji().family
    sides = [set(family[recipe.examples(task, part).item]) for part in ("train", "validation", "test")]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert (recipe.examples(task, "test").label >= 0).all()
    if task == "group":
        assert set(recipe.examples(task, "train").style) == {load_emoji().styles.index(recipe.HAND)}


@pytest.mark.parametrize("row", ["group, another hand", "style, none", "motion, none"])
def test_things_outside_of_the_training_split_do_not_touch_what_is_learnt(monkeypatch, row):
    emoji, task = load_emoji(), recipe.settings(row)["task"]
    seen = recipe.examples(task, "train").item
    unseen = np.setdiff1d(np.arange(len(emoji.names)), seen)

    def learnt(items) -> list[torch.Tensor]:
        images, videos = emoji.images.copy(), emoji.videos.copy()
        images[:, items] = 255 - images[:, items]
        moved = np.isin(emoji.video_item, items)
        videos[moved] = 255 - videos[moved]
        changed = dataclasses.replace(emoji, images=images, videos=videos)
        monkeypatch.setattr(recipe, "load_emoji", lambda: changed)
        return list(recipe.fit(row, 0).state_dict().values())

    of_data, of_unseen, of_train = learnt([]), learnt(unseen), learnt(seen[::2])
    assert all(torch.equal(x, y) for x, y in zip(of_data, of_unseen, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(of_data, of_train, strict=True))


# The control


def test_with_shuffled_labels_accuracy_falls_to_that_of_guessing(tiny):
    tiny(steps=60, width=8)
    true, shuffled = (recipe.run("style, none", 0, shuffle_pairs=flag) for flag in (False, True))
    n = len(true.outcomes["accuracy"])
    guess = recipe.run("style, largest class", 0)["accuracy"]
    spread = (guess * (1 - guess) / n) ** 0.5
    assert true["accuracy"] > guess + 8 * spread
    assert shuffled["accuracy"] < guess + 4 * spread


@pytest.mark.parametrize("row", ["group, nearest pixels", "motion, statistics"])
def test_shuffled_pairs_are_refused_where_nothing_is_trained(row):
    with pytest.raises(ValueError, match=f"shuffle_pairs: expected a row that is trained, found '{row}'"):
        recipe.run(row, 0, shuffle_pairs=True)


# The baselines


def moved_clip(across: float, down: float) -> np.ndarray:
    """A soft dark spot that swings by so many pixels, as one clip ``(1, 8, 32, 32, 3)``."""
    y, x = np.mgrid[:32, :32] - 15.5
    swing = np.sin(2 * np.pi * np.arange(8) / 8)
    spots = [np.exp(-((x - across * s) ** 2 + (y - down * s) ** 2) / 40) for s in swing]
    return np.repeat((255 - 200 * np.stack(spots)).astype(np.uint8)[None, ..., None], 3, -1)


def test_motion_statistics_tell_across_from_up_and_down_in_pixels():
    for across, down, larger in ((2.0, 0.0, 0), (0.0, 2.0, 1)):
        spread = np.exp(baselines.motion_statistics(moved_clip(across, down)))[0, :4]
        assert spread[larger] == pytest.approx(2 * np.sin(2 * np.pi * np.arange(8) / 8).std(), rel=0.35)
        assert spread.argmax() == larger and np.delete(spread, larger).max() < 0.3


def test_picture_statistics_are_shares_of_colours_and_do_not_know_place():
    x = load_emoji().pictures("noto")[:20]
    found = baselines.picture_statistics(x)
    np.testing.assert_allclose((found[:, :64] ** 2).sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(baselines.picture_statistics(np.roll(x, 5, axis=2)), found, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_the_largest_class_is_what_it_says_and_the_others_beat_it(task):
    test, train = recipe.examples(task, "test"), recipe.examples(task, "train")
    chance = recipe.score(baselines.fit("largest class", train), task)
    known = test.style == 0 if task == "group" else slice(None)
    assert chance["accuracy"] == pytest.approx(
        (test.label[known] == np.bincount(train.label).argmax()).mean()
    )
    if task != "style":  # there pixels are close where things are alike, whoever drew them
        assert recipe.run(f"{task}, statistics", 0)["accuracy"] > chance["accuracy"] + 0.1


def test_an_unknown_baseline_is_named():
    with pytest.raises(ValueError, match="baseline: expected 'largest class', .*, found 'magic'"):
        baselines.fit("magic", recipe.examples("motion", "train"))
