"""Chapter 06's recipe, with tiny models: each row keeps its contract, nothing leaks, controls fail."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmtutor.contrastive import cosine, info_nce, multi_positive_nce
from mmtutor.data import held_out_style, load_emoji, split
from mmtutor.experiments import contrastive as recipe
from mmtutor.experiments import contrastive_baselines as baselines
from mmtutor.metrics import recall_at_k

STYLE_DIRECTIONS = {"image→text", "text→image", "Chinese→image"}
DIRECTIONS = {
    "style": STYLE_DIRECTIONS,
    "things": STYLE_DIRECTIONS | {"four styles→text"},
    "animation": {"image→animation", "animation→image"},
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on one thread; the function sets other numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other here

    def set_size(steps: int, width: int = 4):
        monkeypatch.setattr(
            recipe, "STEPS", {s: dict.fromkeys(("full", "live", "short"), steps) for s in ("cpu", "gpu")}
        )
        monkeypatch.setattr(recipe, "WIDTH", {"cpu": width, "gpu": width + 1})

    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    set_size(2)
    yield set_size
    torch.set_num_threads(threads)


# The contract


@pytest.mark.parametrize("row", recipe.ROWS)
def test_every_row_returns_recall_and_rank_of_each_direction_with_each_items_outcome(row):
    s = recipe.settings(row)
    figures = recipe.run(row, 0)
    count = int(figures["candidates"])
    assert count == {"style": 1562, "things": len(split("emoji-things").test)}.get(s["question"], count)
    for direction in DIRECTIONS[s["question"]]:
        assert 0 <= figures[f"{direction} R@1"] <= figures[f"{direction} R@10"] <= 1
        assert 1 <= figures[f"{direction} median rank"] <= count
        for k in (1, 10):
            assert figures.outcomes[f"{direction} R@{k}"].shape == (count,)
            assert figures.groups[f"{direction} R@{k}"].shape == (count,)
    extra = {"temperature", "parameters"} if "baseline" not in s else set()
    names = {f"{d} {m}" for d in DIRECTIONS[s["question"]] for m in ("R@1", "R@10", "median rank")}
    assert set(figures) == names | {"candidates"} | extra


@pytest.mark.parametrize("function", [recipe.run, recipe.fit])
def test_an_unknown_row_is_named_with_the_known_ones(function):
    with pytest.raises(ValueError, match="row: expected one of all names, .*; found 'no such row'"):
        function("no such row", 0)


@pytest.mark.parametrize("row", ["short", "unseen things", "untrained", "CCA, unseen things"])
def test_what_fit_returns_encodes_pictures_and_texts_into_one_space_of_unit_vectors(row):
    model = recipe.fit(row, 0)
    z, names = (
        model.encode_images(load_emoji().images[0, :5]),
        model.encode_texts(["red apple", "红苹果", "cat"]),
    )
    assert z.shape == (5, names.shape[1]) and names.shape == (3, z.shape[1])
    torch.testing.assert_close(torch.cat([z, names]).norm(dim=1), torch.ones(8))
    with pytest.raises(TypeError, match="expected dtype uint8"):
        model.encode_images(np.zeros((2, 32, 32, 3), dtype=np.float32))


def test_run_scores_what_fit_returns_and_repeats_by_seed():
    figures, again, other = recipe.run("short", 3), recipe.run("short", 3), recipe.run("short", 4)
    assert figures == again and figures != other
    similarity = recipe.similarities(recipe.fit("short", 3), recipe.settings("short"))
    assert figures["image→text R@10"] == pytest.approx(recall_at_k(similarity["image→text"], 10))
    assert figures["text→image R@10"] == pytest.approx(recall_at_k(similarity["text→image"], 10))


def test_the_gpu_scale_runs_the_same_code_with_its_own_size(monkeypatch, tiny):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {"full": 9, "short": 9}, "gpu": {"full": 3, "short": 2}})
    for row, steps in (("short", 2), ("animation", 3)):
        seen = []
        model = recipe.fit(row, 0, scale="gpu", watch=lambda model, step, seen=seen: seen.append(step))
        assert seen == list(range(steps)) and len(model.history.loss) == steps
        assert model.image.blocks[0][0].out_channels == 5  # width of "cpu" is 4
    monkeypatch.setenv("MMTUTOR_SCALE", "gpu")
    assert recipe.fit("short", 0).image.blocks[0][0].out_channels == 5
    assert recipe.run("short", 0) == recipe.run("short", 0, scale="gpu")


@pytest.mark.parametrize(
    "row", ["short", "short, τ = 1", "short, margin", "short, not normalised", "animation"]
)
def test_a_fixed_temperature_stays_and_a_learnt_one_moves(row):
    temperature, fixed = recipe.fit(row, 0).temperature.item(), recipe.settings(row).get("temperature")
    free = recipe.settings(row)["loss"] not in ("margin", "dot")  # these two do not use it
    assert (temperature == pytest.approx(fixed or 0.07, rel=1e-6)) == (fixed is not None or not free)


def test_small_losses_kept_drops_the_pairs_that_surprise_most_once_the_model_knows_something():
    s = recipe.settings("short, 60 % wrong, small losses kept") | {"sift_from": 80}
    model, target = recipe.SharedSpace(width=4), torch.arange(10)
    z, names = torch.randn(10, 192), torch.randn(12, 192)
    match = target[:, None] == torch.arange(12)
    surprise = -(cosine(z, names) / model.temperature).log_softmax(1)[range(10), range(10)]
    kept = surprise.argsort()[:4]
    everything, few = (recipe.pair_loss(model, s, step, z, target, names) for step in (0, 81))
    torch.testing.assert_close(everything, multi_positive_nce(z, names, match, model.temperature))
    torch.testing.assert_close(few, multi_positive_nce(z[kept], names, match[kept], model.temperature))


# Nothing leaks


@pytest.mark.parametrize("row", ["pixels", "untrained"])
def test_shuffled_pairs_are_refused_where_nothing_is_trained(row):
    with pytest.raises(ValueError, match=f"shuffle_pairs: expected a row that is trained, found '{row}'"):
        recipe.run(row, 0, shuffle_pairs=True)


def test_fewer_items_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="batches: expected at least 8 items for a batch, found 5"):
        next(recipe.batches(5, 8, torch.Generator()))


def test_among_32_is_the_mean_of_the_losses_of_groups_of_32():
    model, target = recipe.SharedSpace(width=4), torch.arange(8)
    z, names = torch.randn(8, 192), torch.randn(12, 192)
    s = recipe.settings("short, InfoNCE among 32") | {"among": 4}
    halves = [info_nce(z[part], names[target[part]], model.temperature) for part in (range(4), range(4, 8))]
    torch.testing.assert_close(recipe.pair_loss(model, s, 0, z, target, names), sum(halves) / 2)


@pytest.mark.parametrize("row", recipe.ROWS)
def test_things_of_the_test_share_no_family_with_things_of_training_unless_the_row_leaks_on_purpose(row):
    s, family = recipe.settings(row), load_emoji().family
    learnt, tested = recipe.training_items(s), recipe.test_items(s)
    if s["question"] == "style":
        assert list(learnt) == list(tested) == list(range(1562))
        styles = {load_emoji().styles[i] for i in recipe.training_styles(s)}
        assert styles == set(held_out_style(s["test"], s["relatives"])[0])
    else:
        assert not set(learnt) & set(tested)
        assert bool(set(family[learnt]) & set(family[tested])) == bool(s.get("leak"))


def unlike(emoji, styles=(), items=()):
    """The same data with other pictures in some styles, and others (texts, animations too) of some things."""
    images, videos = emoji.images.copy(), emoji.videos.copy()
    for place in (styles, (slice(None), items)):
        images[place] = 255 - images[place]
    moved = np.isin(emoji.video_item, items)
    videos[moved] = 255 - videos[moved]
    changed = {"images": images, "videos": videos}
    for texts, other in (("names", "unlike"), ("names_zh", "别的"), ("keywords", ("unlike",))):
        changed[texts] = tuple(other if i in set(items) else t for i, t in enumerate(getattr(emoji, texts)))
    return dataclasses.replace(emoji, **changed)


def what_is_learnt(monkeypatch, row: str, emoji) -> list[torch.Tensor]:
    for module in (recipe, baselines):
        monkeypatch.setattr(module, "load_emoji", lambda: emoji)
    model = recipe.fit(row, 0)
    if isinstance(model, baselines.LinearCCA):
        return [torch.tensor(model.u), torch.tensor(model.v)]
    return list(model.state_dict().values())


@pytest.mark.parametrize(
    "row, hidden, shown",
    [
        ("short", ["noto"], ["twemoji"]),
        ("all names, no relative", ["noto", "blob"], ["fluent"]),
        ("classifier", ["noto"], ["blob"]),
    ],
)
def test_the_style_that_is_tested_does_not_touch_what_is_learnt(monkeypatch, row, hidden, shown):
    emoji = load_emoji()
    of_data, of_hidden, of_shown = (
        what_is_learnt(monkeypatch, row, unlike(emoji, [emoji.styles.index(name) for name in styles]))
        for styles in ([], hidden, shown)
    )
    assert all(torch.equal(x, y) for x, y in zip(of_data, of_hidden, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(of_data, of_shown, strict=True))


@pytest.mark.parametrize("row", ["unseen things", "animation", "CCA, unseen things"])
def test_things_outside_of_the_training_split_do_not_touch_what_is_learnt(monkeypatch, row):
    emoji, things = load_emoji(), split("emoji-things")
    unseen = np.concatenate([things.validation, things.test])
    of_data, of_unseen, of_train = (
        what_is_learnt(monkeypatch, row, unlike(emoji, items=items))
        for items in ([], unseen, things.train[::2])
    )
    assert all(torch.equal(x, y) for x, y in zip(of_data, of_unseen, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(of_data, of_train, strict=True))


# The control


def above_chance(figures, direction: str, k: int) -> float:
    """By how many standard deviations of a binomial a recall lies above that of guessing."""
    n = figures["candidates"]
    chance = k / n
    return (figures[f"{direction} R@{k}"] - chance) / math.sqrt(chance * (1 - chance) / n)


def test_the_rows_of_the_control_are_the_control():
    assert recipe.run("short, shuffled pairs", 0) == recipe.run("short", 0, shuffle_pairs=True)


@pytest.mark.parametrize("row", ["short, English only", "classifier", "unseen things"])
def test_with_shuffled_pairs_recall_falls_to_chance(tiny, row):
    tiny(steps=40, width=8)
    true, shuffled = recipe.run(row, 0), recipe.run(row, 0, shuffle_pairs=True)
    for direction in ("image→text", "text→image"):
        assert above_chance(true, direction, 10) > 8
        assert abs(above_chance(shuffled, direction, 10)) < 4
        assert abs(above_chance(shuffled, direction, 1)) < 4


def test_a_few_steps_teach_pictures_and_animations_more_than_shuffled_pairs_do(tiny):
    """The control is not chance here: one encoder reads both sides, and a thing looks alike in both."""
    tiny(steps=40, width=8)
    true, shuffled = recipe.run("animation", 0), recipe.run("animation", 0, shuffle_pairs=True)
    for direction in ("image→animation", "animation→image"):
        assert true[f"{direction} R@1"] > shuffled[f"{direction} R@1"] + 0.1
        assert true[f"{direction} R@10"] > shuffled[f"{direction} R@10"] + 0.2


# The baselines


def test_small_centred_pictures_are_unit_vectors_without_a_mean_colour():
    x = baselines.small_centred(load_emoji().images[1, :6])
    assert x.shape == (6, 768)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(x.reshape(6, 3, 256).mean(2), torch.zeros(6, 3), atol=1e-6, rtol=0)


def test_nearest_pixels_scores_a_picture_and_a_name_by_the_most_similar_known_drawing():
    emoji, styles = load_emoji(), [1, 4]
    model, items = baselines.NearestPixels(styles), [3, 700, 1500]
    found = (
        model.encode_images(emoji.images[0, items]) @ model.encode_texts([emoji.names[i] for i in items]).T
    )
    assert emoji.present[4, items].any() and not emoji.present[4, items].all()
    for row, i in enumerate(items):
        for column, j in enumerate(items):
            picture = baselines.small_centred(emoji.images[0, [i]])[0]
            known = [baselines.small_centred(emoji.images[k, [j]])[0] for k in styles if emoji.present[k, j]]
            assert found[row, column].item() == pytest.approx(
                max((picture @ x).item() for x in known), abs=1e-5
            )


def test_baselines_without_deep_training_are_well_above_chance():
    for row, direction in (
        ("pixels", "image→text"),
        ("CCA", "image→text"),
        ("pixels, animation", "image→animation"),
    ):
        assert above_chance(recipe.run(row, 0), direction, 10) > 8


def test_a_shared_space_maps_animations_to_the_normalised_mean_of_their_frames():
    model, videos = recipe.SharedSpace(width=4).eval(), load_emoji().videos[:3]
    frames = torch.stack([model.image(recipe.pixels(frames)).mean(0) for frames in videos])
    torch.testing.assert_close(model.encode_videos(videos), F.normalize(frames, dim=1))
