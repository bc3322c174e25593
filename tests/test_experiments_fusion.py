"""Chapter 05's recipe, with tiny models: each row keeps its contract; nothing absent or held out leaks."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmtutor.contrastive import unit
from mmtutor.data import load_digits, load_emoji, split
from mmtutor.data.splits import ONE_DRAWING, Split, digit_twins
from mmtutor.experiments import fusion as recipe
from mmtutor.experiments import fusion_baselines as baselines
from mmtutor.experiments import fusion_tasks as tasks
from mmtutor.experiments.mapping import moving_pixels
from mmtutor.fusion import ConcatFusion, LateFusion
from mmtutor.sharing import parameter_count

TRAINED = [row for row, s in recipe.ROWS.items() if "baseline" not in s]
BASELINES = [row for row, s in recipe.ROWS.items() if "baseline" in s]
DATA = ("digits", "parity", "moving things", "things", "names")
PARTS = ("train", "validation", "test")
KEPT = 5  # every fifth item is enough to see that a row runs
DIM, CHIEF = recipe.DIM, recipe.CHIEF


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on one thread; the function sets another number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other here

    def set_steps(steps: int):
        sizes = dict.fromkeys(("numbers", "few", "many"), steps)
        monkeypatch.setattr(recipe, "STEPS", {"cpu": sizes, "gpu": sizes})

    monkeypatch.setattr(recipe, "WIDTH", {"cpu": 4, "gpu": 5})
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    set_steps(2)
    yield set_steps
    torch.set_num_threads(threads)


def all_examples(**stand_ins) -> dict:
    """All five sets of examples, by name and part, with some of the module's functions replaced."""
    with pytest.MonkeyPatch.context() as patch:
        for name, function in stand_ins.items():
            patch.setattr(tasks, name, function)
        return {(data, part): tasks.examples.__wrapped__(data, part) for data in DATA for part in PARTS}


@pytest.fixture(scope="module")
def whole():
    """All examples; animations are one number, for their pixels take seconds."""
    return all_examples(moving_pixels=lambda clips: torch.ones(len(clips), 1, 1, 1))


@pytest.fixture(scope="module")
def thinned():
    """Examples of every fifth item."""
    return all_examples(
        split=lambda name: Split(*(getattr(split(name), part)[::KEPT] for part in PARTS)),
    )


@pytest.fixture
def few_items(monkeypatch, thinned):
    """The recipe learns from every fifth item and is tested on such; the function returns them."""

    def examples(data, part):
        return thinned[data, part]

    monkeypatch.setattr(recipe, "examples", examples)
    return examples


# The contract


def promised(s: dict, classes) -> set[str]:
    """Return the figures that the docstrings of `score` and of what it calls promise for a row."""
    inputs, steps = s["inputs"], int(2 * s.get("longer", 1))
    names = {"accuracy", "nats", "temperature", "parameters", "ece", "ece, scaled", "training", "validation"}
    names |= {f"weight, {m}" for m in inputs}
    if len(inputs) == 1:
        names |= {f"told, {c}" for c in classes}
    if len(inputs) == 2 and "align" not in s:
        names |= {f"gradient, {step} @ {m}" for m in inputs for step in range(steps)}
    if len(inputs) == 2 and s["data"] == "digits":
        names |= {f"accuracy, only {m}, rest guessed" for m in inputs}
    if len(inputs) <= 2:
        names |= {f"{what}, only {m}" for m in inputs for what in ("accuracy", "confidence", "ece")}
        noisy = [f"{m} at {size}" for m in inputs if m != "name" for size in ("0.5", "1", "2", "4")]
        names |= {f"{what}, {where}" for where in noisy for what in ("accuracy", "confidence", "weight")}
    else:
        names |= {f"{what}, {m}" for m in inputs for what in ("shapley", "alone", "lost")} | {"all", "none"}
    if s["data"] == "things":
        names |= {"accuracy, shown", "accuracy, hidden", "still, shown", "still, hidden", "accuracy, none"}
    if s.get("probe"):
        names |= {f"probe, {m}" for m in inputs}
    return names


@pytest.mark.parametrize("row", TRAINED)
def test_every_trained_row_returns_the_figures_it_promises_with_each_item_s_outcome(row, few_items):
    s, figures = recipe.settings(row), recipe.run(row, 0)
    test = few_items(s["data"], "test")
    assert set(figures) == promised(s, few_items(s["data"], "validation").y.unique().tolist())
    per_item = {name for name in figures if name.startswith(("accuracy", "still", "probe"))}
    assert set(figures.outcomes) == {name for name in per_item if " at " not in name} | {"nats"}
    for name, values in figures.outcomes.items():
        assert values.shape == figures.groups[name].shape and np.isfinite(values).all()
    for name in ("accuracy", "nats"):
        assert np.array_equal(figures.groups[name], test.family)
    weights = [figures[f"weight, {m}"] for m in s["inputs"]]
    assert all(0 <= w <= 1 + 1e-6 for w in weights)


@pytest.mark.parametrize("row", BASELINES)
def test_every_baseline_row_returns_accuracy_with_each_item_s_outcome(row, few_items):
    s, figures = recipe.settings(row), recipe.run(row, 0)
    assert set(figures) == set(figures.outcomes) == {"accuracy"}
    assert np.array_equal(figures.groups["accuracy"], few_items(s["data"], "test").family)
    assert set(figures.outcomes["accuracy"]) <= {0.0, 1.0}


@pytest.mark.parametrize("function", [recipe.run, recipe.fit, recipe.settings])
def test_an_unknown_row_is_named_with_the_known_ones(function):
    arguments = ("no such row",) if function is recipe.settings else ("no such row", 0)
    with pytest.raises(ValueError, match="row: expected one of fourier, profile, .*; found 'no such row'"):
        function(*arguments)


def test_an_unknown_baseline_is_named(few_items):
    data = recipe.lesson("fourier + pixels, linear", 0)
    with pytest.raises(ValueError, match="baseline: expected one of same answer, .*; found 'magic'"):
        baselines.fit("magic", data, data)


@pytest.mark.parametrize("row", BASELINES)
def test_shuffled_pairs_are_refused_where_nothing_is_trained(row, few_items):
    with pytest.raises(ValueError) as refusal:
        recipe.run(row, 0, shuffle_pairs=True)
    assert str(refusal.value) == f"shuffle_pairs: expected a row that is trained, found {row!r}"


def test_with_shuffled_pairs_a_row_falls_to_chance(tiny):
    tiny(200)
    true, shuffled = (recipe.run("fourier + pixels, mean", 0, shuffle_pairs=flag) for flag in (False, True))
    assert true["accuracy"] > 0.9 and true["nats"] > 1.5
    assert shuffled["accuracy"] < 0.2 and shuffled["nats"] < 0.1


def test_run_scores_what_fit_returns_which_repeats_by_seed(few_items):
    row = "fourier + pixels, gated"
    model, figures = recipe.fit(row, 3), recipe.run(row, 3)
    assert recipe.score(model, row, 3) == figures == recipe.run(row, 3) != recipe.run(row, 4)
    again = recipe.fit(row, 3).state_dict()
    assert all(torch.equal(p, again[name]) for name, p in model.state_dict().items())


def test_the_gpu_scale_runs_the_same_code_with_its_own_size(monkeypatch, few_items):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {}, "gpu": {"numbers": 3, "few": 4, "many": 5}})
    for row, steps in (("fourier", 3), ("moving, picture", 4), ("things, picture", 5)):
        assert len(recipe.fit(row, 0, scale="gpu").history.loss) == steps
    see = recipe.fit("moving, picture", 0, scale="gpu").encoders["picture"][0]
    assert see.blocks[0][0].out_channels == 5  # 4 at the scale of "cpu"
    monkeypatch.setenv("MMTUTOR_SCALE", "gpu")
    assert recipe.run("fourier", 0) == recipe.run("fourier", 0, scale="gpu")


def test_a_longer_row_trains_longer(few_items):
    assert len(recipe.fit("fourier + pixels, concat, dropout, longer", 0).history.loss) == 4


def test_the_name_of_a_row_says_its_settings():
    for row, s in recipe.ROWS.items():
        words = row.split(", ")
        said = {
            "dropout": "dropout" in s,
            "noise": "noise" in s,
            "SGD": "sgd" in s,
            "own losses": "own" in s,
            "longer": "longer" in s,
            "alignment": "align" in s,
            "trained on": s.get("align") == "trained on",
            "only those that move": "complete" in s,
            f"{recipe.FEW} of each": s.get("few") == recipe.FEW,
            f"modulated {s.get('modulate', 0):g}": "modulate" in s,
        }
        assert all((word in words) == holds for word, holds in said.items()), row
        assert s.get("way", "concat") in row or "align" in s or "way" not in s, row
        kind = recipe.KIND[s["data"]]
        assert kind in recipe.DECAY and kind in recipe.DROPOUT and kind in recipe.STEPS["cpu"], row


@pytest.mark.parametrize("inputs", [CHIEF, recipe.MOVING, recipe.NAMES])
def test_rows_of_one_question_differ_in_the_fuser_only(inputs, few_items, monkeypatch):
    rows = {row: s for row, s in recipe.ROWS.items() if s["inputs"] == inputs and s.get("way") in recipe.WAYS}
    rows = {
        row: s
        for row, s in rows.items()
        if not {"dropout", "noise", "few"} & set(s) and s["way"] not in recipe.NEEDS_MORE
    }
    assert len(rows) >= 5
    encoders, batches, loss_of = [], [], recipe.loss_of

    def seen(model, batch, s):
        batches.append(batch.item)
        if len(batches) % 2:  # before the first step
            encoders.append(torch.cat([p.flatten() for p in model.encoders.state_dict().values()]))
        return loss_of(model, batch, s)

    monkeypatch.setattr(recipe, "loss_of", seen)
    for row in rows:
        recipe.fit(row, 0)
    assert len(batches) == 2 * len(rows)
    assert all(np.array_equal(batch, batches[i % 2]) for i, batch in enumerate(batches))
    assert all(torch.equal(weights, encoders[0]) for weights in encoders)


# The data


@pytest.mark.parametrize("data", DATA)
def test_the_sides_of_the_split_share_no_item_no_family_and_no_twin(data, whole):
    sides = [whole[data, part] for part in PARTS]
    found = [set(side.item) for side in sides], [set(side.family) for side in sides]
    if data in ("digits", "parity"):
        found += ([set(digit_twins()[side.item]) for side in sides],)
    for train, validation, test in found:
        assert not train & validation and not train & test and not validation & test


def test_each_modality_has_one_row_an_item(whole):
    for data in whole.values():
        n = len(data.y)
        assert all(len(x) == n for x in data.x.values()) and data.valid.shape == (n, len(data.x))
        assert data.item.shape == data.family.shape == (n,) and data.y.dtype == torch.int64


def test_views_are_standardised_on_the_training_digits_alone(whole):
    sides = split("digits")
    train, test = whole["digits", "train"], whole["digits", "test"]
    both = tasks._digits(np.concatenate([sides.validation, sides.test]), sides.train)
    for view, x in train.x.items():
        assert x.mean(0).abs().max() < 1e-3
        spread = x.std(0, correction=0)
        assert ((spread - 1).abs() < 1e-3).logical_or(spread == 0).all()
        assert torch.equal(both.x[view][-len(sides.test) :], test.x[view])  # whoever else is asked about
        assert test.x[view].mean(0).abs().max() > 0.01  # and not on their own
    assert np.array_equal(test.y.numpy(), load_digits().labels[test.item])


def digits_of_parity(whole, part: str) -> tuple[tasks.Examples, np.ndarray, np.ndarray]:
    """Return the examples, and which digit is the first and which the second of each, by what is seen."""
    data, digits = whole["parity", part], whole["digits", part]
    found = []
    for m, view in (("first", "karhunen"), ("second", "profile")):
        known = {row.tobytes(): y for row, y in zip(digits.x[view].numpy(), digits.y.tolist(), strict=True)}
        found.append(
            np.array([known[row.tobytes()] for row in data.x[m].numpy()])
        )  # of this part, or KeyError
    return data, *found


@pytest.mark.parametrize("part", PARTS)
def test_of_two_digits_of_one_side_the_question_is_whether_their_parities_differ(part, whole):
    data, first, second = digits_of_parity(whole, part)
    assert np.array_equal(data.y.numpy(), first % 2 != second % 2)
    assert len(data.y) == 3 * len(whole["digits", part].y)
    assert data.y.double().mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("part", PARTS)
def test_neither_digit_alone_tells_the_answer(part, whole):
    data, *digits = digits_of_parity(whole, part)
    for digit in digits:
        often = np.array([data.y.numpy()[digit == c].mean() for c in range(10)])
        assert (abs(often - 0.5) < (0.1 if part == "train" else 0.2)).all()


@pytest.mark.parametrize("part", PARTS)
def test_every_moving_thing_has_a_picture_and_an_animation_and_one_of_eight_answers(part, whole):
    data, emoji = whole["moving things", part], load_emoji()
    assert data.valid.all() and data.y.unique().tolist() == list(range(8))
    clip = np.searchsorted(emoji.video_item, data.item)
    groups = np.array(tasks.GROUPS)[data.y // 2]
    assert np.array_equal(groups, np.array(emoji.group_names)[emoji.group[data.item]])
    motion = np.array(emoji.motion_names)[emoji.motion[clip]]
    assert (emoji.motion[clip] >= 0).all()  # the kinds of motion that have a name
    assert np.array_equal(data.y.numpy() % 2 == 1, motion == "in place")


def test_animations_are_drawn_by_another_hand_than_pictures(thinned):
    data, emoji = thinned["moving things", "test"], load_emoji()
    drawings = torch.stack([tasks.pixels(emoji.pictures(style)[data.item]) for style in emoji.styles])
    own = (drawings == data.x["picture"]).flatten(2).all(2)  # style, item
    hands = {style for style, found in zip(emoji.styles, own, strict=True) if found.any()}
    assert hands == set(tasks.VENDORS) and own.any(0).all()
    away = (drawings - data.x["animation"][:, :3]).abs().flatten(2).mean(2)
    nearest = away.argmin(0).bincount()
    hand = emoji.styles[nearest.argmax()]  # that of the animations
    assert nearest.max() > 0.9 * len(data.y) and not {hand, ONE_DRAWING[hand]} & set(tasks.VENDORS)


@pytest.mark.parametrize("part", PARTS)
def test_an_animation_is_valid_exactly_where_a_thing_has_one_and_zero_elsewhere(part, whole):
    data, emoji = whole["things", part], load_emoji()
    assert data.valid[:, 0].all() and data.valid[:, 1].double().mean() < 0.5
    assert np.array_equal(data.valid[:, 1].numpy(), np.isin(data.item, emoji.video_item))
    assert torch.equal(data.x["animation"].flatten() != 0, data.valid[:, 1])
    assert np.array_equal(data.y.numpy(), emoji.group[data.item])


def test_an_animation_is_that_of_the_thing(thinned):
    emoji = load_emoji()
    for name in ("things", "moving things"):
        data = thinned[name, "test"]
        data = data.at(data.valid[:, 1])
        clips = emoji.videos[[list(emoji.video_item).index(i) for i in data.item]]
        assert torch.equal(data.x["animation"], moving_pixels(clips))


@pytest.mark.parametrize("part", PARTS)
def test_letters_are_the_known_signs_among_the_first_32_of_a_name(part, whole):
    data, emoji = whole["names", part], load_emoji()
    for letters, thing in zip(data.x["name"].tolist(), data.item, strict=True):
        length = sum(c > 0 for c in letters)
        read = "".join(tasks.LETTERS[c - 1] for c in letters[:length])
        assert read == "".join(c for c in emoji.names[thing].lower()[:32] if c in tasks.LETTERS)
        assert not any(letters[length:])


def test_modalities_come_in_the_order_asked_for_and_again(whole):
    data = whole["things", "test"]
    turned = data.of(("animation", "picture"))
    assert list(turned.x) == ["animation", "picture"] and torch.equal(turned.valid, data.valid.flip(1))
    twice = data.of(("animation", "animation again"))
    assert list(twice.x) == ["animation", "animation again"]
    assert torch.equal(twice.x["animation again"], data.x["animation"])
    assert torch.equal(twice.valid, data.valid[:, [1, 1]]) and torch.equal(twice.y, data.y)
    with pytest.raises(ValueError, match="sound"):
        data.of(("picture", "sound"))


@pytest.mark.parametrize("rows", [[7, 3], [7]])
def test_at_returns_the_same_items_of_everything(rows, whole):
    data = whole["things", "test"]
    some = data.at(torch.tensor(rows))
    assert all(torch.equal(x, data.x[m][rows]) for m, x in some.x.items())
    assert torch.equal(some.valid, data.valid[rows]) and torch.equal(some.y, data.y[rows])
    assert some.item.tolist() == data.item[rows].tolist()
    assert some.family.tolist() == data.family[rows].tolist()


def test_only_those_that_move_are_learnt_from_where_a_row_says_so(few_items):
    data, everything = recipe.lesson("things, only those that move", 0), recipe.lesson("things, all", 0)
    assert data.valid.all() and len(data.y) == everything.valid.all(1).sum() < len(everything.y)


# Batches


def test_a_batch_of_digits_is_drawn_as_it_is(few_items):
    data = few_items("digits", "train").of(CHIEF)
    batch = recipe.draw(data, {"data": "digits"}, torch.Generator().manual_seed(0), "cpu")
    rows = torch.tensor(np.searchsorted(data.item, batch.item))
    assert len(batch.y) == recipe.BATCH and torch.equal(batch.y, data.y[rows]) and batch.valid.all()
    assert all(torch.equal(x, data.x[m][rows]) for m, x in batch.x.items())


def test_pictures_are_moved_and_names_are_not(few_items):
    data = few_items("names", "train")
    data = data.at(torch.tensor([0, 0]))  # one thing is every item of the batch
    batch = recipe.draw(data, {"data": "names"}, torch.Generator().manual_seed(0), "cpu")
    assert len(batch.x["picture"].unique(dim=0)) == recipe.BATCH
    assert len(batch.x["name"].unique(dim=0)) == 1


def test_modality_dropout_hides_some_but_never_the_last(few_items):
    data, generator = few_items("digits", "train"), torch.Generator().manual_seed(0)
    s = {"data": "digits", "dropout": True}
    for inputs, all_present in ((CHIEF, 0.25), (recipe.VIEWS, 0.5**6)):
        batches = [recipe.draw(data.of(inputs), s, generator, "cpu") for _ in range(20)]
        valid = torch.cat([batch.valid for batch in batches])
        assert valid.any(1).all() and valid.all(1).double().mean() == pytest.approx(all_present, abs=0.05)


def test_noise_is_added_to_half_of_the_items_each_as_noisy_as_it_happens(few_items):
    data, generator = few_items("digits", "train").of(CHIEF), torch.Generator().manual_seed(0)
    empty = replace(data, x={m: torch.zeros_like(x) for m, x in data.x.items()})
    s = {"data": "digits", "noise": True}
    batches = [recipe.draw(empty, s, generator, "cpu") for _ in range(20)]
    for m in CHIEF:
        size = torch.cat([batch.x[m].std(1) for batch in batches])
        assert (size == 0).double().mean() == pytest.approx(0.5, abs=0.05)
        nearest = (size[size > 0, None] / torch.tensor(recipe.NOISE)).log().abs().argmin(1)
        shares = nearest.bincount() / len(nearest)
        assert shares == pytest.approx(torch.full((4,), 0.25), abs=0.06)


# Encoders and what is absent


def little(fuser=None, classes: int = 4) -> recipe.Fused:
    """Two linear encoders, a fuser and a linear head; without an own fuser a concatenation."""
    encoders = {"a": nn.Linear(3, DIM), "b": nn.Linear(5, DIM)}
    fuser = fuser or ConcatFusion({"a": DIM, "b": DIM}, DIM)
    return recipe.Fused(encoders, fuser, nn.Linear(fuser.out_dim, classes))


def made_up(n: int = 24, classes: int = 4) -> tasks.Examples:
    """Items of nothing but noise, of which some lack the one, the other, or both."""
    generator = torch.Generator().manual_seed(0)
    x = {m: torch.randn(n, width, generator=generator) for m, width in (("a", 3), ("b", 5))}
    valid = torch.tensor([[True, True], [True, False], [False, True], [False, False]]).repeat(n // 4, 1)
    y = torch.randint(classes, (n,), generator=generator)
    return tasks.Examples(x, valid, y, np.arange(n), np.arange(n))


def test_absent_items_never_reach_the_encoder_nor_its_batch_normalisation():
    norm = nn.BatchNorm1d(3, momentum=1.0)
    encoder = nn.Sequential(norm, nn.Linear(3, DIM))
    model = recipe.Fused({"a": encoder}, ConcatFusion({"a": DIM}, DIM), nn.Identity()).train()
    x = torch.randn(8, 3)
    x[[1, 4]] = 100.0
    here = torch.ones(8, dtype=torch.bool)
    here[[1, 4]] = False
    z = model.encode({"a": x}, here[:, None])["a"]
    assert torch.allclose(norm.running_mean, x[here].mean(0), atol=1e-5)
    assert (z[~here] == 0).all() and torch.allclose(z[here], encoder(x[here]))
    before = norm.running_mean.clone()
    z = model.encode({"a": x}, torch.zeros(8, 1, dtype=torch.bool))["a"]
    assert torch.equal(norm.running_mean, before) and z.shape == (8, DIM) and (z == 0).all()


@pytest.mark.parametrize("way", [*recipe.WAYS, "unit mean"])
def test_what_stands_in_place_of_an_absent_modality_changes_nothing_even_nan(way, few_items):
    data = few_items("digits", "train").of(CHIEF).at(torch.arange(0, 280, 10))
    valid = made_up(len(data.y)).valid
    broken = {m: torch.where(valid[:, k, None], x, torch.nan) for k, (m, x) in enumerate(data.x.items())}
    data, broken = replace(data, valid=valid), replace(data, valid=valid, x=broken)
    model = recipe.build({"data": "digits", "inputs": CHIEF, "way": way}, 4).eval()  # no dropout
    loss, same = (recipe.loss_of(model, d, {"way": way}) for d in (data, broken))
    assert torch.equal(loss, same)
    same.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    logits, weights = model(broken.x, valid)
    assert logits.isfinite().all() and weights.isfinite().all() and (weights[~valid] == 0).all()


def test_the_unit_mean_is_the_mean_of_the_directions_of_what_is_present():
    fuser = recipe.UnitMean({"a": DIM, "b": DIM}, DIM)
    a, b = torch.randn(3, DIM), 10 * torch.randn(3, DIM)
    point, weights = fuser({"a": a, "b": b}, torch.tensor([[True, True], [False, True], [False, False]]))
    assert torch.allclose(point[0], (unit(a) + unit(b))[0] / 2, atol=1e-6)
    assert torch.allclose(point[1], unit(b)[1], atol=1e-6) and (point[2] == 0).all()
    assert weights.tolist() == [[0.5, 0.5], [0, 1], [0, 0]]
    assert parameter_count(fuser) == 0


def test_padding_does_not_change_the_point_of_a_name(few_items):
    encoder, letters = recipe.Letters().eval(), few_items("names", "test").x["name"]
    longer = F.pad(letters, (0, 7))
    assert torch.allclose(encoder(letters), encoder(longer), atol=1e-6)
    with torch.no_grad():
        encoder.letter.weight[0] = 100.0
    assert torch.allclose(encoder(letters), encoder(longer), atol=1e-6)
    assert encoder(torch.zeros(2, 5, dtype=torch.long)).isfinite().all()  # a name without a known sign


@pytest.mark.parametrize(
    "question", ["fourier + pixels", "moving"]
)  # of the second, encoders keep statistics
@pytest.mark.parametrize("kind", ["alignment", "alignment, unit mean", "alignment, trained on"])
def test_only_encoders_that_are_trained_on_move_after_alignment(question, kind, few_items, monkeypatch):
    aligned, modes, loss_of = [], [], recipe.loss_of

    def seen(model, batch, s):
        aligned.append(copy.deepcopy(model.encoders.state_dict()))
        modes.append((model.encoders.training, model.head.training))
        return loss_of(model, batch, s)

    monkeypatch.setattr(recipe, "loss_of", seen)
    model = recipe.fit(f"{question}, {kind}", 0)
    same = [torch.equal(p, aligned[0][name]) for name, p in model.encoders.state_dict().items()]
    trained_on = kind == "alignment, trained on"
    assert modes == [(trained_on, True)] * 2  # frozen ones have no dropout, and statistics that stay
    assert not any(same) if trained_on else all(same)
    assert not model.training and not any(module.training for module in model.modules())


def test_alignment_sees_no_answers_and_all_items(few_items, monkeypatch):
    row = f"fourier + pixels, alignment, {recipe.FEW} of each"
    first, second = (recipe.fit(row, 0, shuffle_pairs=flag).encoders.state_dict() for flag in (False, True))
    assert all(torch.equal(p, second[name]) for name, p in first.items())
    given, draw = [], recipe.draw
    monkeypatch.setattr(recipe, "draw", lambda data, *more: given.append(len(data.y)) or draw(data, *more))
    recipe.fit(row, 0)
    assert given == 2 * [len(few_items("digits", "train").y)] + 2 * [10 * recipe.FEW]


# Losses and heads


def test_each_modality_answers_alone_by_its_own_head_or_with_the_others_absent():
    data = made_up()
    late = recipe.Fused(
        {"a": nn.Linear(3, DIM), "b": nn.Linear(5, DIM)}, LateFusion({"a": DIM, "b": DIM}, 4), nn.Identity()
    )
    z = late.encode(data.x, data.valid)
    for (m, z_m), logits in zip(z.items(), recipe.own_logits(late, z), strict=True):
        assert torch.equal(logits, late.fuser.heads[m](z_m))
    model, everywhere = little(), torch.ones_like(data.valid)
    found = recipe.own_logits(model, model.encode(data.x, everywhere))
    for k, logits in enumerate(found):
        only = torch.zeros_like(data.valid)
        only[:, k] = True
        assert torch.allclose(logits, model(data.x, only)[0], atol=1e-6)


def test_own_losses_come_on_top_of_the_joint_one_and_late_fusion_has_them_only():
    data, model = made_up(), little()
    joint = F.cross_entropy(model(data.x, data.valid)[0], data.y)
    z = model.encode(data.x, data.valid)
    alone = sum(
        F.cross_entropy(logits[here], data.y[here])
        for logits, here in zip(recipe.own_logits(model, z), data.valid.T, strict=True)
    )
    assert torch.allclose(recipe.loss_of(model, data, {}), joint)
    assert torch.allclose(recipe.loss_of(model, data, {"own": True}), joint + alone)
    assert torch.allclose(recipe.loss_of(model, data, {"way": "late mean"}), alone)


def test_late_mean_answers_with_the_renormalised_product_of_the_heads(few_items):
    model = recipe.fit("fourier + pixels, late mean", 0)
    data = few_items("digits", "test").of(CHIEF)
    logits, weights = recipe.answers(model, data)
    with torch.no_grad():
        p, q = (own.double().softmax(1) for own in recipe.own_logits(model, model.encode(data.x, data.valid)))
    product = (p * q).sqrt()
    assert torch.allclose(logits.exp(), product / product.sum(1, keepdim=True), atol=1e-5)
    assert (weights == 0.5).all()


@pytest.mark.parametrize("data", [d for d in DATA if d != "parity"])
def test_held_out_items_are_a_fifth_of_the_families_and_share_none(data, few_items):
    train = few_items(data, "train")
    learnt, rest = recipe.held_out(train, 0)
    assert not set(learnt.family) & set(rest.family) and len(learnt.y) + len(rest.y) == len(train.y)
    assert len(set(rest.family)) == len(set(train.family)) // 5
    assert set(recipe.held_out(train, 1)[1].family) != set(rest.family)


@pytest.mark.parametrize("way", recipe.NEEDS_MORE)
def test_what_joins_the_heads_learns_from_items_that_these_have_not_seen(way, tiny, few_items, monkeypatch):
    tiny(20)
    learnt, joined, moved = set(), set(), set()
    loss_of, combine = recipe.loss_of, recipe.combine

    def seen_loss(model, batch, s):
        learnt.update(batch.item)
        return loss_of(model, batch, s)

    def seen_combine(model, data, *arguments, **more):
        joined.update(data.item)
        before = copy.deepcopy(model.state_dict())
        combine(model, data, *arguments, **more)
        moved.update(name for name, p in model.state_dict().items() if not torch.equal(p, before[name]))

    monkeypatch.setattr(recipe, "loss_of", seen_loss)
    monkeypatch.setattr(recipe, "combine", seen_combine)
    recipe.fit(f"fourier + pixels, {way}", 0)
    everything = set(few_items("digits", "train").item)
    assert len(joined) == len(everything) // 5 and len(learnt) > 0.9 * len(everything - joined)
    assert learnt <= everything - joined
    assert (
        moved
        == {"late learnt": {"fuser.scores"}, "stacking": {"fuser.stack.weight", "fuser.stack.bias"}}[way]
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_few_labels_are_so_many_of_each_class(seed, few_items):
    s, data = {"few": 7}, few_items("digits", "train")
    given = recipe.labelled(s, data, seed)
    assert given.y.bincount().tolist() == [7] * 10 and len(set(given.item)) == 70
    assert np.array_equal(given.y.numpy(), load_digits().labels[given.item])
    assert np.array_equal(given.item, recipe.labelled(s, data, seed).item)
    assert not np.array_equal(given.item, recipe.labelled(s, data, seed + 2).item)
    assert recipe.labelled({}, data, seed) is data


@pytest.mark.parametrize("kind", ["concat", "late mean", "alignment"])
def test_a_few_labels_are_all_that_the_loss_sees(kind, tiny, few_items, monkeypatch):
    tiny(20)
    row, seen, loss_of = f"fourier + pixels, {kind}, {recipe.FEW} of each", set(), recipe.loss_of

    def listen(model, batch, s):
        seen.update(zip(batch.item, batch.y.tolist(), strict=True))
        return loss_of(model, batch, s)

    monkeypatch.setattr(recipe, "loss_of", listen)
    recipe.fit(row, 2)
    given = recipe.labelled(recipe.settings(row), recipe.lesson(row, 2), 2)
    assert seen == set(zip(given.item, given.y.tolist(), strict=True))


# The course of a run


def test_gradient_lengths_are_those_of_each_encoder_s_weights():
    data, model = made_up(), little()
    loss = recipe.loss_of(model, data, {})
    found = recipe.gradient_lengths(model, loss)
    loss.backward()  # the graph is still there
    for m, f in model.encoders.items():
        by_hand = torch.cat([p.grad.flatten() for p in f.parameters()]).norm().item()
        assert found[m] == pytest.approx(by_hand, rel=1e-5) and by_hand > 0


def test_looking_at_gradients_twenty_times_changes_no_weight(tiny, few_items, monkeypatch):
    tiny(40)
    looked = recipe.fit("fourier + pixels, concat", 0)
    assert list(looked.looks) == list(range(0, 40, 2))
    assert all(lengths.keys() == set(CHIEF) for lengths in looked.looks.values())
    monkeypatch.setattr(recipe, "look_steps", lambda steps: [])
    unseen = recipe.fit("fourier + pixels, concat", 0).state_dict()
    assert all(torch.equal(p, unseen[name]) for name, p in looked.state_dict().items())


def test_the_name_of_a_gradient_s_length_says_whose_it_is_and_when(few_items):
    row = "fourier + pixels, concat"
    model = recipe.fit(row, 0)
    figures = recipe.score(model, row, 0)
    for step, lengths in model.looks.items():
        assert all(figures[f"gradient, {step} @ {m}"] == length for m, length in lengths.items())


def test_descent_multiplies_an_encoder_s_gradient_by_what_slow_says():
    data, model = made_up(), little()
    by_hand = copy.deepcopy(model)
    model.slow = {"a": 0.25, "b": 1.0}
    recipe.descend(model, lambda step: recipe.loss_of(model, data, {}), 1)
    recipe.loss_of(by_hand, data, {}).backward()
    for (name, p), found in zip(by_hand.named_parameters(), model.parameters(), strict=True):
        k = 0.25 if name.startswith("encoders.a") else 1.0
        step = recipe.SGD_RATE * (k * p.grad + 1e-4 * p)
        assert torch.allclose(found, p - step, atol=1e-7) and not torch.equal(found, p), name
    assert not model.training


@pytest.mark.parametrize("strength", recipe.STRENGTHS)
def test_modulation_slows_one_of_the_two_encoders(strength, few_items):
    slow = recipe.fit(f"fourier + pixels, concat, SGD, modulated {strength:g}", 0).slow
    assert set(slow) == set(CHIEF) and max(slow.values()) == 1 > min(slow.values())
    assert recipe.fit("fourier + pixels, concat, SGD", 0).slow == {}


def test_confidence_is_the_mean_probability_of_the_right_class_by_each_alone():
    data, model = made_up(), little()
    data = replace(data, valid=torch.ones_like(data.valid))
    for k, (m, sure) in enumerate(recipe.confidence(model, data).items()):
        only = torch.zeros_like(data.valid)
        only[:, k] = True
        p = model(data.x, only)[0].softmax(1)
        assert sure == pytest.approx(np.mean([p[i, y].item() for i, y in enumerate(data.y)])), m


# Figures


def test_temperature_finds_by_how_much_logits_are_too_large():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.double)
    y = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)  # just as often as p says
    for too_large in (0.4, 1.0, 3.0):
        logits = (too_large * p.log()).expand(10, -1)
        assert recipe.temperature(logits, y) == pytest.approx(too_large, rel=1e-3)


def test_nats_are_counted_from_what_the_shares_of_the_classes_tell():
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.double).log()
    y = torch.arange(3)
    assert torch.allclose(recipe.nats(prior.expand(3, -1) + 7, y, prior), torch.zeros(3).double())
    sure = recipe.nats(1000 * torch.eye(3).double(), y, prior)
    assert torch.allclose(sure, -prior)  # all that there is to tell
    assert recipe.right(torch.eye(3), torch.tensor([0, 1, 0])).tolist() == [1, 1, 0]


def test_nats_of_a_row_use_the_scaled_logits_and_the_shares_in_training(few_items):
    row = "fourier + pixels, concat"
    model, data = recipe.fit(row, 0), few_items("digits", "test").of(CHIEF)
    figures, logits = recipe.score(model, row, 0), recipe.answers(model, data)[0]
    share = few_items("digits", "train").y.bincount().double() / len(few_items("digits", "train").y)
    log_p = (logits / figures["temperature"]).log_softmax(1)
    by_hand = [(log_p[i, y] - share[y].log()).item() for i, y in enumerate(data.y)]
    assert figures.outcomes["nats"] == pytest.approx(np.array(by_hand))
    assert np.array_equal(figures.outcomes["accuracy"], (logits.argmax(1) == data.y).numpy())


def test_answers_with_some_modalities_are_those_of_the_others_absent():
    data, model = made_up(), little().eval()
    shown = recipe.answers(model, data, ["b"])[0]
    only = data.valid & torch.tensor([False, True])
    assert torch.allclose(shown, model(data.x, only)[0].double())
    assert torch.allclose(recipe.answers(model, data)[0], model(data.x, data.valid)[0].double())


def test_what_a_modality_tells_of_a_class_is_the_mean_over_its_items():
    told = recipe.told(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([3, 5, 5]))
    assert {name: value.item() for name, value in told.items()} == {"told, 3": 1.0, "told, 5": 4.0}


def test_robustness_asks_with_one_modality_the_items_that_have_it():
    data, model = made_up(), little().eval()
    figures, outcomes = recipe.robustness(model, data)
    for k, m in enumerate(data.x):
        here = data.valid[:, k]
        logits = recipe.answers(model, data, [m])[0][here]
        found = outcomes[f"accuracy, only {m}"]
        assert torch.equal(found[here], recipe.right(logits, data.y[here])) and found[~here].isnan().all()
        assert figures[f"confidence, only {m}"] == pytest.approx(logits.softmax(1).amax(1).mean().item())
    noisy = recipe.noisy(data, "b", 2.0)
    assert figures["accuracy, b at 2"] == recipe.right(recipe.answers(model, noisy)[0], data.y).mean()


def test_noise_touches_one_modality_and_is_the_same_on_every_call(few_items):
    data = few_items("digits", "test").of(CHIEF)
    noisy, again, twice = (recipe.noisy(data, "pixels", size) for size in (2.0, 2.0, 4.0))
    assert torch.equal(noisy.x["fourier"], data.x["fourier"]) and torch.equal(noisy.valid, data.valid)
    assert torch.equal(noisy.x["pixels"], again.x["pixels"])
    noise, double = (changed.x["pixels"] - data.x["pixels"] for changed in (noisy, twice))
    assert noise.std() == pytest.approx(2.0, rel=0.05) and torch.allclose(double, 2 * noise, atol=1e-4)


def test_a_view_is_guessed_from_the_other_one_alone(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2000, 4, generator=generator)
    b = a @ torch.randn(4, 3, generator=generator)  # so a tells b
    data = replace(made_up(2000), x={"a": a, "b": b}, y=b.argmax(1), valid=torch.ones(2000, 2).bool())
    learnt, test = data.at(torch.arange(1000)), data.at(torch.arange(1000, 2000))
    monkeypatch.setattr(recipe, "answers", lambda model, data: (data.x["b"], None))  # who reads b
    guessed = recipe.imputed(None, learnt, test)
    assert guessed["accuracy, only a, rest guessed"].mean() > 0.95
    assert guessed["accuracy, only b, rest guessed"].all()
    hidden = replace(test, x={"a": test.x["a"], "b": torch.zeros_like(test.x["b"])})
    name = "accuracy, only a, rest guessed"
    assert torch.equal(recipe.imputed(None, learnt, hidden)[name], guessed[name])


def test_shapley_values_sum_to_what_all_views_tell_less_what_none_tells(few_items):
    row = "six views, gated"
    model, data = recipe.fit(row, 0), few_items("digits", "test")
    prior = torch.full((10,), 0.1).double().log()
    figures = recipe.contributions(model, data, prior)
    total = sum(figures[f"shapley, {view}"] for view in data.x)
    assert total == pytest.approx(figures["all"] - figures["none"])

    def value(shown):
        return recipe.nats(recipe.answers(model, data, shown)[0], data.y, prior).mean().item()

    views = list(data.x)
    assert figures["all"] == pytest.approx(value(views)) and figures["none"] == pytest.approx(value([]))
    assert figures["alone, pixels"] == pytest.approx(value(["pixels"]))
    assert figures["lost, pixels"] == pytest.approx(value(views) - value([v for v in views if v != "pixels"]))


def test_a_probe_reads_the_points_of_one_encoder_only(few_items):
    model = recipe.build({"data": "digits", "inputs": CHIEF}, 4).eval()
    learnt, data = (few_items("digits", part).of(CHIEF) for part in ("train", "test"))
    found = recipe.probe(model, "pixels", learnt, data)
    assert found.shape == data.y.shape and found.mean() > 0.5  # of an encoder that is not trained
    blind = [replace(d, x=d.x | {"fourier": torch.zeros_like(d.x["fourier"])}) for d in (learnt, data)]
    assert torch.equal(recipe.probe(model, "pixels", *blind), found)


def test_hardly_any_symbol_moves_and_most_smileys_do(whole):
    data, names = whole["things", "train"], load_emoji().group_names
    share = {names[c]: data.valid[data.y == c, 1].double().mean() for c in data.y.unique()}
    assert {"objects", "symbols"} <= {name for name, often in share.items() if often < recipe.RARELY}
    assert share["smileys & emotion"] > 0.5


def test_presence_compares_answers_with_the_animation_and_without(few_items, monkeypatch):
    data, symbols = few_items("things", "test"), load_emoji().group_names.index("symbols")

    def answers(model, data, shown=None):
        """The right group of what is seen to move, else symbols."""
        seen = data.valid[:, 1] & torch.tensor(shown is None)
        return F.one_hot(torch.where(seen, data.y, symbols), 8).double(), None

    monkeypatch.setattr(recipe, "answers", answers)
    moves = data.valid[:, 1]
    found = recipe.presence(None, data, moves)
    of_those = {name: values[moves] for name, values in found.items() if name != "accuracy, none"}
    assert not any(values.isnan().any() for values in of_those.values())
    assert of_those["accuracy, shown"].all() and of_those["still, hidden"].all()
    assert of_those["still, shown"].mean() < 0.5  # those groups hardly ever move
    assert torch.equal(of_those["accuracy, hidden"], (data.y[moves] == symbols).double())
    assert torch.equal(found["accuracy, none"][~moves], (data.y[~moves] == symbols).double())
    assert found["accuracy, none"][moves].isnan().all() and found["accuracy, shown"][~moves].isnan().all()


@pytest.mark.parametrize("row", ["things, all", "things, picture"])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_outcomes_of_some_items_have_the_families_of_those_items(row, part, few_items):
    figures = recipe.score(recipe.fit(row, 0), row, 0, part=part)
    data = few_items("things", part)
    moves = data.valid[:, 1].numpy()
    for name, families in figures.groups.items():
        if name == "accuracy, none":
            asked = ~moves
        elif name.endswith(("shown", "hidden", "only animation")):
            asked = moves
        else:
            asked = np.ones_like(moves)
        assert np.array_equal(families, data.family[asked]), name


# The baselines


def test_label_spreading_sees_unlabelled_items_but_not_their_labels(few_items):
    row = f"fourier + pixels, label spreading, {recipe.FEW} of each"
    data, test = recipe.lesson(row, 0), few_items("digits", "test").of(CHIEF)
    given = recipe.labelled(recipe.settings(row), data, 0)
    known = torch.tensor(np.isin(data.item, given.item))
    wrong = replace(data, y=torch.where(known, data.y, (data.y + 1) % 10))
    found, same, alone = (baselines.spreading(d, given).answers(test) for d in (data, wrong, given))
    assert np.array_equal(found, same) and not np.array_equal(found, alone)
    assert (found == test.y.numpy()).mean() > 0.6


def test_a_linear_map_of_all_labels_beats_one_of_few(few_items):
    few, all_labels = (
        recipe.run(row, 0)["accuracy"]
        for row in (f"fourier + pixels, linear, {recipe.FEW} of each", "fourier + pixels, linear")
    )
    assert 0.6 < few <= all_labels and all_labels > 0.8


def test_the_same_answer_is_the_largest_class_of_training(few_items):
    train, test = (few_items("moving things", part).y for part in ("train", "test"))
    found = recipe.run("moving, same answer", 0)["accuracy"]
    assert found == (test == train.bincount().argmax()).double().mean()


def test_presence_as_a_baseline_knows_only_whether_there_is_an_animation(few_items):
    model, data = recipe.fit("things, presence", 0), few_items("things", "test")
    answers, moves = model.answers(data), data.valid[:, 1].numpy()
    assert len(set(answers[moves])) == len(set(answers[~moves])) == 1


def test_statistics_and_n_grams_answer_better_than_chance(few_items):
    same = recipe.run("moving, same answer", 0)["accuracy"]
    assert recipe.run("moving, statistics", 0)["accuracy"] > same + 0.1
    names = few_items("names", "test").y
    assert recipe.run("names, n-grams", 0)["accuracy"] > (names.bincount().max() / len(names)).item() + 0.2


def test_edges_have_the_direction_of_their_gradient_in_the_cells_where_they_are():
    across = np.zeros((32, 32, 3), dtype=np.uint8)
    across[:, 16:] = 255  # the gradient is in columns 15 and 16, of the second and third cell
    flat = np.zeros_like(across)
    found = baselines.edge_statistics(np.stack([across, across.swapaxes(0, 1), flat])).reshape(3, 4, 4, 8)
    wanted = np.zeros((4, 4, 8))
    wanted[:, 1:3, 0] = 1
    assert found[0] == pytest.approx(wanted, abs=1e-6)
    wanted = np.zeros((4, 4, 8))
    wanted[1:3, :, 4] = 1  # a quarter turn: four of eight directions further
    assert found[1] == pytest.approx(wanted, abs=1e-6)
    assert not found[2].any()


def test_statistics_are_computed_from_the_very_pictures_and_the_first_frames(few_items, monkeypatch):
    seen, emoji = [], load_emoji()
    edges = baselines.edge_statistics
    monkeypatch.setattr(
        baselines, "edge_statistics", lambda pictures: seen.append(pictures) or edges(pictures)
    )
    data = few_items("moving things", "test")
    both = baselines.statistics(data)
    pictures, frames = seen
    half = len(data.y) // 2  # first all by one hand, then all by the other
    for part, vendor in ((slice(half), tasks.VENDORS[0]), (slice(half, None), tasks.VENDORS[1])):
        assert np.array_equal(pictures[part].numpy(), emoji.pictures(vendor)[data.item[part]])
    assert np.array_equal(frames, emoji.videos[[list(emoji.video_item).index(i) for i in data.item], 0])
    alone = [baselines.statistics(data.of((m,))) for m in data.x]
    assert np.array_equal(np.hstack(alone), both) and len(both) == len(data.y)
