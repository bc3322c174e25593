"""Chapter 12's recipes, with tiny models: what is learnt from, what each row changes, what is measured."""

import numpy as np
import pytest
import torch

from mmtutor.data import load_emoji, split
from mmtutor.experiments import gan, gan_baselines, gan_names, gan_tasks, gan_uses
from mmtutor.experiments.gan_tasks import at, face_items, faces, varied
from mmtutor.gan import Rule


def seed(n=0):
    return torch.Generator().manual_seed(n)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of very small models, an eye that learnt nothing, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    monkeypatch.setattr(gan_tasks, "EYE", dict(dim=8, width=4, steps=2, batch=4, rate=1e-3))
    for recipe in (gan, gan_names):
        monkeypatch.setattr(recipe, "STEPS", {"cpu": 2})
        monkeypatch.setattr(recipe, "WIDTH", {"cpu": 8})
        monkeypatch.setattr(recipe, "DRAWN", 60)
    monkeypatch.setattr(gan_uses, "STEPS", {"cpu": 2})
    monkeypatch.setattr(gan_baselines, "COPIES", 1)
    monkeypatch.setattr(gan, "COPIES", 1)
    for cached in (gan_tasks.eye, gan_baselines.learnt):
        cached.cache_clear()
    yield
    for cached in (gan_tasks.eye, gan_baselines.learnt):
        cached.cache_clear()
    torch.set_num_threads(threads)


# Faces


def test_faces_are_of_one_group_without_signs_and_tested_ones_are_never_learnt():
    emoji = load_emoji()
    parts = {part: face_items(part) for part in ("train", "validation", "test")}
    families = {part: {*emoji.family[items]} for part, items in parts.items()}
    assert not families["train"] & (families["validation"] | families["test"])
    for items in parts.values():
        assert {emoji.group_names[g] for g in emoji.group[items]} == {"smileys & emotion"}
        assert "emotion" not in {emoji.subgroup_names[s] for s in emoji.subgroup[items]}
    assert len(parts["train"]) == 109 and len(parts["test"]) == 24


def test_both_hands_are_moved_alike():
    one = faces("train")["noto"][:40]
    moved = varied({"a": one, "b": one}, seed())
    torch.testing.assert_close(moved["a"], moved["b"])
    assert not torch.allclose(moved["a"], one)


def test_eye_is_deterministic_and_sees_all_views_side_by_side():
    x = at(faces("test"), torch.arange(3))
    assert gan_tasks.seen(x).shape == (3, 16)
    first = gan_tasks.seen(x)
    gan_tasks.eye.cache_clear()
    torch.testing.assert_close(gan_tasks.seen(x), first)


# Rows


@pytest.mark.parametrize("row", gan.ROWS)
def test_every_row_of_pictures_runs(row, monkeypatch):
    monkeypatch.setattr(gan_baselines, "COMPONENTS", {True: 5, False: 5})
    figures = gan.run(row, 0)
    assert all(np.isfinite(value) for value in figures.values())
    drawn = row not in ("linear", "nearest")
    assert ("partner rank" in figures) == drawn and ("coverage" in figures) == drawn
    assert ("found" in figures) == (row not in ("unpaired", "things learnt", "things learnt, moved"))


def test_unknown_rows_are_named():
    for recipe in (gan, gan_names, gan_uses):
        with pytest.raises(ValueError, match="row: expected one of DTL, .*; found 'nothing'"):
            recipe.fit("nothing", 0)


def test_same_seed_gives_the_same_drawings_and_another_seed_others():
    a, b, c = (gan.drawings(gan.fit("DTL", n), 4)["noto"] for n in (0, 0, 1))
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, c)


def test_rows_change_what_they_say():
    rule = {row: gan.rule_of(gan.settings(row)) for row in gan.ROWS}
    assert rule["DTL"] == Rule(penalty=0.3, rate=2e-3)
    assert not rule["codes only"].judged and rule["no penalty"].penalty == 0
    assert rule["matching"].generator == 0 and rule["matching"].matching == 1
    assert rule["weights 3 : 1"].weights == (3.0, 1.0) and rule["SGD"].optimiser == "SGD"
    names = [name for name, _ in gan.network(width=8, spectral=True).discriminator.named_parameters()]
    assert any("parametrizations" in name for name in names)


def test_shuffled_pairs_are_learnt_as_they_are_shuffled(monkeypatch):
    seen = []
    monkeypatch.setattr(gan, "fit_gan", lambda x, *args: seen.append(x))
    for row, shuffle in (("DTL", False), ("DTL", True), ("shuffled pairs", False)):
        gan.fit(row, 0, shuffle_pairs=shuffle)
    plain, *shuffled = seen
    torch.testing.assert_close(plain["fluent"], faces("train")["fluent"])
    for x in shuffled:
        torch.testing.assert_close(x["noto"], plain["noto"])
        assert (x["fluent"] == plain["fluent"]).flatten(1).all(1).float().mean() < 0.1


def test_two_generators_draw_from_noise_of_their_own():
    model = gan.fit("unpaired", 0)
    assert [*model.gans] == ["noto", "fluent"]
    made = model.generate(3, seed())
    again = model.gans["noto"].generate(3, seed())["noto"]
    torch.testing.assert_close(made["noto"], again)
    assert not torch.allclose(model.gans["fluent"].generate(3, seed())["fluent"], made["fluent"])


# What is measured


def test_things_learnt_are_perfect_copies():
    figures = gan.run("things learnt", 0)
    assert figures["partner rank"] == 1 and figures["nearest learnt"] < 1e-3
    assert figures["partner rank, shuffled"] > 30
    distance, row = gan.nearest_learnt({m: view.flip(-1) for m, view in faces("train").items()})
    assert distance.max() < 1e-3  # mirror images count as learnt
    same = (row == torch.arange(len(row))).float().mean()
    assert same > 0.9  # but for the few that are one another's mirror image


def test_moved_copies_of_what_was_learnt_are_nearer_to_it_than_things_never_learnt(monkeypatch):
    monkeypatch.setattr(gan, "COPIES", 30)
    never = varied(faces("test"), seed(1))
    copies = varied(faces("train"), seed(1))
    assert gan.nearest_learnt(copies)[0].median() < 0.85 * gan.nearest_learnt(never)[0].median()
    assert (gan.nearest_learnt(copies)[1] == torch.arange(109)).float().mean() > 0.6


def test_real_pairs_agree_and_shuffled_ones_do_not():
    figures = gan.agreement(faces("test"))
    assert figures["partner rank"] < 10 < 30 < figures["partner rank, shuffled"]


def test_filled_in_truth_is_found_and_has_no_error():
    class Truth:
        def fill_in(self, x):
            ((m, view),) = x.items()
            return faces("test")

    figures = gan.filled(Truth())
    assert figures["found"].mean() == 1 and figures["squared error"].max() == 0
    assert len(figures["found"]) == 2 * 24
    mean = {m: view.mean(0, keepdim=True).expand_as(view) for m, view in faces("test").items()}

    class Mean:
        def fill_in(self, x):
            return mean

    assert gan.filled(Mean())["found"].mean() == pytest.approx(1 / 24)


def test_components_fill_in_what_a_normal_distribution_expects():
    model = gan_baselines.Components(True, 5)
    x = at(faces("test"), torch.arange(4))
    flat = gan_baselines.flat(x).double()
    mean, axes = model.mean.double(), model.axes.double()
    covariance = axes.T @ torch.diag(model.scale.double()) @ axes + model.left * torch.eye(len(mean))
    known, asked = slice(0, 3072), slice(3072, 6144)
    gain = torch.linalg.solve(covariance[known, known], covariance[known, asked]).T
    expected = (mean[asked] + (flat[:, known] - mean[known]) @ gain.T).clamp(-1, 1)
    told = model.fill_in({"noto": x["noto"]})["fluent"].flatten(1).double()
    torch.testing.assert_close(told, expected, atol=2e-3, rtol=0)


def test_nearest_brings_the_partner_of_the_nearest_thing_mirrored_if_need_be():
    x = at(faces("train"), torch.tensor([3, 50]))
    told = gan_baselines.Nearest(False).fill_in({"noto": x["noto"].flip(-1)})["fluent"]
    torch.testing.assert_close(told, x["fluent"].flip(-1))


# Uses of codes


@pytest.mark.parametrize("row", gan_uses.ROWS)
def test_every_row_of_codes_runs(row):
    figures = gan_uses.run(row, 1)
    assert all(np.isfinite(value) for value in figures.values())
    assert {"probe", "NMI", "kept, pixels", "filled in, fourier", "new digits, other"} <= set(figures)


def test_digits_left_out_are_not_learnt_and_five_seeds_leave_out_all(monkeypatch):
    assert sorted(c for n in range(5) for c in gan_uses.left_out(n)) == [*range(10)]
    sides = []
    monkeypatch.setattr(gan_uses, "learn", lambda x, *args: sides.append(len(x["pixels"])))
    gan_uses.fit("DTL", 2)
    labels = gan_uses.digits("train")[1]
    assert sides == [len(labels), int((~np.isin(labels, [4, 5])).sum())]


def test_views_are_scaled_by_the_training_items_alone():
    x, y = gan_uses.digits("train")
    for view in x.values():
        assert view.mean(0).abs().max() < 1e-3 and len(view) == len(y) == len(split("digits").train)
    assert gan_uses.digits("test")[0]["pixels"].mean(0).abs().max() > 1e-2


def test_mismatched_pairs_are_never_of_one_digit():
    x, y = gan_uses.digits("test")
    wrong = gan_uses.mismatched(x, y, 0)
    torch.testing.assert_close(wrong["fourier"], x["fourier"])
    first = torch.cdist(wrong["pixels"], x["pixels"]).argmin(1).numpy()
    assert (y[first] != y).all()


def test_few_labels_are_ten_of_each_and_change_with_the_seed():
    y = gan_uses.digits("train")[1]
    rows = gan_uses.few(y, 0)
    assert np.bincount(y[rows]).tolist() == [10] * 10
    assert {*rows} != {*gan_uses.few(y, 1)}


def test_a_code_that_is_a_view_keeps_all_of_it():
    sides = {part: gan_uses.digits(part)[0] for part in ("train", "test")}
    codes = {part: x["pixels"].numpy() for part, x in sides.items()}
    kept = gan_uses.kept(codes, sides)
    assert kept["kept, pixels"] > 0.99 and kept["kept, fourier"] < 0.6


# Words


@pytest.mark.parametrize("row", gan_names.ROWS)
def test_every_row_of_words_runs(row):
    figures = gan_names.run(row, 0)
    assert all(np.isfinite(value) for value in figures.values()) and len(figures) == 4


def test_words_come_from_things_learnt_and_can_be_read_off_their_points():
    known, items = gan_names.vocabulary(), face_items("train")
    counts = sum(word in gan_names.said(i) for i in items for word in ("happy",))
    assert ("happy" in known.words) == (counts >= gan_names.OFTEN)
    bags = known.bags(items)
    told = known.read(known.points(bags), k=1)
    right = [word[0] in gan_names.said(i) for word, i in zip(told, items, strict=True)]
    assert np.mean(right) > 0.95
    points = gan_names.pairs("train")["words"]
    torch.testing.assert_close(points.std(0, correction=0), torch.ones(gan_names.DIM), atol=1e-3, rtol=0)
