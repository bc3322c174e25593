"""Chapter 03's recipe, with tiny models: each row keeps its contract, controls control, nothing leaks."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch

from mmtutor.data import load_emoji
from mmtutor.experiments import sharing as recipe
from mmtutor.experiments import sharing_baselines as baselines
from mmtutor.experiments import sharing_tasks as tasks
from mmtutor.sharing import (
    CrossStitch,
    HardSharing,
    SoftSharing,
    parameter_count,
    task_gradients,
    weight_distance,
)

TRAINED = [row for row, s in recipe.ROWS.items() if "baseline" not in s]
EQUAL = [row for row, s in recipe.ROWS.items() if "as_large_as" in s]
PART = 40  # a fortieth of the pictures is enough to see that a row runs
REAL = tasks.examples


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on one thread; the function sets another number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other here

    def set_size(steps: int, width: int = 4):
        sizes = {
            "cpu": {"emoji": width, "digits": 8 * width},
            "gpu": {"emoji": width + 1, "digits": 9 * width},
        }
        monkeypatch.setattr(recipe, "STEPS", dict.fromkeys(sizes, dict.fromkeys(("emoji", "digits"), steps)))
        monkeypatch.setattr(recipe, "WIDTH", sizes)

    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    set_size(2)
    yield set_size
    torch.set_num_threads(threads)


def thinned(data: tasks.Examples, step: int) -> tasks.Examples:
    """Every ``step``-th picture; the digits as they are."""
    if data.x.ndim == 2:
        return data
    keep = slice(None, None, step)
    parts = {name: {t: y[keep] for t, y in getattr(data, name).items()} for name in ("targets", "known")}
    return tasks.Examples(data.x[keep], thing=data.thing[keep], family=data.family[keep], **parts)


@pytest.fixture
def few_pictures(monkeypatch):
    """Few pictures, of which the training ones still have every class."""
    sides = {}

    def examples(data, part):
        if (data, part) not in sides:
            sides[data, part] = thinned(REAL(data, part), PART)
        return sides[data, part]

    monkeypatch.setattr(recipe, "examples", examples)
    monkeypatch.setattr(tasks.Examples, "size", lambda self, task: SIZES[task])


SIZES = {t: REAL(d, "train").size(t) for d in ("emoji", "digits") for t in REAL(d, "train").targets}


# The contract


@pytest.mark.parametrize("row", TRAINED)
def test_every_trained_row_returns_its_tasks_figures_with_each_item_s_outcome(row, few_pictures):
    s = recipe.settings(row)
    model = recipe.fit(row, 0)
    figures, test = recipe.score(model, row, 0), recipe.examples(s["data"], "test")
    for task in s["tasks"]:
        asked = tasks.asked(test, task).sum()
        assert figures.outcomes[task].shape == figures.groups[task].shape == (asked,)
        assert {f"gap, {task}", f"validation, {task}"} <= set(figures)
        assert (f"steps, {task}" in figures) == (task in recipe.GOALS)
    pairs = len(s["tasks"]) * (len(s["tasks"]) - 1) // 2
    cosines = [name for name in figures if name.startswith("cosine") and "@" not in name]
    assert len(cosines) == pairs and all(-1.001 <= figures[name] <= 1.001 for name in cosines)
    assert figures["parameters"] == parameter_count(model)
    probes = {t for t in tasks.EMOJI if t not in s["tasks"]}
    hard = s["data"] == "emoji" and isinstance(model, HardSharing)
    found = {
        name.removeprefix("probe, ") for name in figures if name.startswith("probe") and "side" not in name
    }
    assert found == (probes if hard else set())
    kind = {"soft": SoftSharing, "stitch": CrossStitch}.get(s.get("way"), HardSharing)
    assert type(model) is kind and ("distance" in figures) == (kind is SoftSharing)


@pytest.mark.parametrize("function", [recipe.run, recipe.fit, recipe.settings])
def test_an_unknown_row_is_named_with_the_known_ones(function):
    arguments = ("no such row",) if function is recipe.settings else ("no such row", 0)
    with pytest.raises(ValueError, match="row: expected one of digits, alone, .*; found 'no such row'"):
        function(*arguments)


def test_each_pair_of_tasks_and_each_helper_is_tried():
    tried = {s["tasks"] for s in recipe.ROWS.values()}
    assert set(combinations(tasks.EMOJI, 2)) <= tried
    assert {("digit", helper) for helper in tasks.HELPERS} <= tried


def test_run_scores_what_fit_returns_which_repeats_by_seed():
    def learnt(seed):
        return torch.cat([x.flatten() for x in recipe.fit("digits + fourier", seed).state_dict().values()])

    assert torch.equal(learnt(3), learnt(3)) and not torch.equal(learnt(3), learnt(4))
    model = recipe.fit("digits + fourier", 3)
    assert recipe.score(model, "digits + fourier", 3) == recipe.run("digits + fourier", 3)


def test_the_gpu_scale_runs_the_same_code_with_its_own_size(monkeypatch, few_pictures):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {}, "gpu": {"emoji": 4}})
    for row, steps in (("style, alone", 4), ("style, alone, twice the steps", 8)):
        model = recipe.fit(row, 0, scale="gpu")
        assert len(model.history.loss) == steps and model.trunk[0][0].out_channels == 5


def test_soft_sharing_leaves_its_course_for_the_slider(tiny):
    tiny(steps=16)
    figures = recipe.run("digits + morphological, soft, λ = 1", 0)
    for what in ("digit", "morphological", "distance"):
        assert {f"{what} @ {step}" for step in range(0, 17, 2)} <= set(figures)
    assert "cosine, digit and morphological @ 14" in figures
    assert figures["distance @ 0"] == 0 < figures["distance @ 2"]
    assert figures["distance"] == figures["distance @ 16"]
    course = [figures[f"cosine, digit and morphological @ {step}"] for step in range(0, 16, 2)]
    assert figures["cosine, digit and morphological"] == pytest.approx(np.mean(course))


def test_a_score_that_never_reaches_its_goal_counts_all_steps(monkeypatch):
    monkeypatch.setattr(recipe, "GOALS", {"digit": 2.0})
    assert recipe.run("digits, alone", 0)["steps, digit"] == 2
    monkeypatch.setattr(recipe, "GOALS", {"digit": 0.0})
    assert recipe.run("digits, alone", 0)["steps, digit"] == 0


# Ways of sharing


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
@pytest.mark.parametrize("row", EQUAL)
def test_rows_of_equal_size_have_as_many_parameters_within_five_per_cent(row, scale, monkeypatch):
    monkeypatch.undo()  # the sizes that are swept
    other, share = recipe.settings(row)["as_large_as"]
    with torch.device("meta"):
        found, wanted = (
            parameter_count(recipe.build(recipe.settings(r), recipe.width_of(r, scale))) for r in (row, other)
        )
    assert found == pytest.approx(share * wanted, rel=0.05)


def test_the_stronger_the_pull_the_closer_the_trunks(tiny):
    tiny(steps=30)
    pulled = [row for row in TRAINED if row.startswith("digits + morphological, soft")]
    strengths = [recipe.settings(row)["strength"] for row in pulled]
    assert strengths == sorted(strengths) and strengths[0] == 0 and strengths[-1] == float("inf")
    distances = [recipe.run(row, 0)["distance"] for row in pulled]
    assert distances == sorted(distances, reverse=True) and distances[0] > 0.1 and distances[-1] == 0


def test_without_a_pull_soft_sharing_is_a_network_for_each_task():
    model = recipe.fit("digits + morphological, soft, λ = 0", 0)
    answer = {"digit": model(REAL("digits", "train").x[:5])["digit"].sum()}
    assert task_gradients(answer, model.trunks["digit"].parameters()).any()
    assert not task_gradients(answer, model.trunks["morphological"].parameters()).any()
    assert weight_distance(*model.trunks.values()) > 0


def test_the_loss_of_a_set_of_labels_is_that_of_all_its_labels():
    data, output = REAL("emoji", "train"), torch.randn(len(REAL("emoji", "train").x), SIZES["keywords"])
    y = data.targets["keywords"]
    mean = recipe.Head(4, SIZES["keywords"], "labels").loss(output, y)
    signed = torch.where(y, output, -output)
    assert recipe.weight({}, data, "keywords") * mean == pytest.approx(
        float(-signed.sigmoid().log().sum(1).mean()), rel=1e-4
    )


# What is learnt from


@pytest.mark.parametrize("seed", [0, 1])
def test_the_labels_of_a_seed_are_the_same_in_all_rows_and_few_are_among_many(seed):
    chosen = {}
    for row, s in recipe.ROWS.items():
        for task, count in s.get("few", {}).items() if "pseudo" not in s else ():
            known = recipe.lesson(row, seed).known[task]
            assert torch.equal(chosen.setdefault((task, count), known), known), row
    for task in ("digit", "group"):
        counts = sorted(count for name, count in chosen if name == task)
        assert all(
            (chosen[task, a] <= chosen[task, b]).all() for a, b in zip(counts, counts[1:], strict=False)
        )
    label = REAL("digits", "train").targets["digit"][chosen["digit", 5]]
    assert torch.equal(label.bincount(), torch.full((10,), 5))
    pictures = REAL("emoji", "train")
    things = np.unique(pictures.thing[chosen["group", 10].numpy()])
    assert (np.bincount(load_emoji().group[things]) == 10).all()


def test_another_seed_labels_others():
    known = [recipe.lesson("digits, alone", seed).known["digit"] for seed in (0, 1)]
    assert not torch.equal(*known)


def test_controls_change_the_helper_alone_and_do_what_they_say():
    plain = recipe.lesson("digits + morphological", 0)
    rows = {name: f"digits + morphological, {name}" for name in ("labelled items only", "shuffled", "random")}
    found = {name: recipe.lesson(row, 0) for name, row in rows.items()}
    for data in found.values():
        assert torch.equal(data.targets["digit"], plain.targets["digit"])
        assert torch.equal(data.known["digit"], plain.known["digit"])
    assert plain.known["morphological"].all()
    assert torch.equal(found["labelled items only"].known["morphological"], plain.known["digit"])
    own, mixed, random = (d.targets["morphological"] for d in (plain, found["shuffled"], found["random"]))
    assert (
        torch.equal(own.sort(0).values, mixed.sort(0).values) and (own != mixed).any(1).double().mean() > 0.99
    )
    for other in (mixed, random):
        assert np.abs(np.corrcoef(own.T, other.T)[:6, 6:]).max() < 0.15


@pytest.mark.parametrize(
    ("row", "helper"), [("style + group, hard", "group"), ("style + subgroup, hard", "subgroup")]
)
def test_shuffled_classes_are_as_many_of_each_and_say_nothing(row, helper):
    own, mixed = (recipe.lesson(r, 0).targets[helper] for r in (row, f"{row}, shuffled"))
    assert torch.equal(own.bincount(), mixed.bincount())
    share = own.bincount().double() / len(own)
    assert (own == mixed).double().mean() == pytest.approx(float(share.square().sum()), abs=0.03)


@pytest.mark.parametrize("task", ["group", "keywords", "sentiment"])
def test_random_targets_are_of_the_same_kind(task):
    data = REAL("emoji", "train")
    y, random = data.targets[task], recipe.at_random(data, task, torch.Generator().manual_seed(0))
    assert y.shape == random.shape and y.dtype == random.dtype
    if task == "keywords":
        assert random.double().mean() == pytest.approx(float(y.double().mean()), rel=0.05)


def test_with_shuffled_pairs_the_digits_fall_to_chance(tiny):
    tiny(steps=100, width=32)
    true, shuffled = (
        recipe.run("digits, 100 of each, alone", 0, shuffle_pairs=flag) for flag in (False, True)
    )
    assert true["digit"] > 0.8 and shuffled["digit"] < 0.1 + 4 * (0.09 / 300) ** 0.5


@pytest.mark.parametrize("row", ["digits, label spreading", "emoji, nearest pixels"])
def test_shuffled_pairs_are_refused_where_nothing_is_trained(row):
    with pytest.raises(ValueError, match=f"shuffle_pairs: expected a row that is trained, found '{row}'"):
        recipe.run(row, 0, shuffle_pairs=True)


def test_shuffled_by_thing_all_pictures_of_a_thing_have_one_label():
    data, plain = (recipe.lesson(f"style + group, hard{c}", 0) for c in (", shuffled by thing", ""))
    label, own = data.targets["group"].numpy(), plain.targets["group"].numpy()
    assert all(len(np.unique(label[data.thing == thing])) == 1 for thing in np.unique(data.thing)[:200])
    assert (label == own).mean() < 0.3
    assert torch.equal(data.targets["style"], plain.targets["style"])


def test_pseudo_labels_are_guessed_from_the_labelled_things_and_their_keywords_alone():
    given = recipe.lesson("group, 10 of each, + keywords", 0)
    y, known, keywords = given.targets["group"], given.known["group"], given.targets["keywords"]
    guessed = recipe.lesson("group, 10 of each, pseudo-labels, network", 0)
    assert guessed.known["group"].all() and set(guessed.targets) == {"group"}
    assert torch.equal(guessed.targets["group"][known], y[known])
    hidden = torch.where(known, y, -1)
    assert torch.equal(guessed.targets["group"], baselines.pseudo_labels(hidden, known, keywords))
    assert 0.5 < (guessed.targets["group"] == y)[~known].double().mean() < 0.9


# Nothing leaks


@pytest.mark.parametrize("data", ["emoji", "digits"])
def test_no_family_is_on_two_sides(data):
    sides = [set(REAL(data, part).family) for part in ("train", "validation", "test")]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]


@pytest.mark.parametrize("row", ["digits + morphological", "digits + components", "digits, label spreading"])
def test_test_items_do_not_touch_what_is_learnt(row, monkeypatch):
    def answers():
        model = recipe.fit(row, 0)
        x = REAL("digits", "train").x[:20]
        return recipe.answers(model, x)["digit"] if hasattr(model, "history") else model.answers(x)["digit"]

    before = answers()

    def changed(data, part):
        found = REAL(data, part)
        return dataclasses.replace(found, x=-found.x) if part == "test" else found

    monkeypatch.setattr(recipe, "examples", changed)
    assert torch.equal(before, answers())


def test_labels_that_are_not_given_do_not_touch_what_is_learnt(monkeypatch):
    def learnt(row):
        return list(recipe.fit(row, 0).state_dict().values())

    before = learnt("digits + morphological")
    monkeypatch.setattr(recipe, "lesson", lambda *a, lesson=recipe.lesson: hide(lesson(*a)))
    assert all(map(torch.equal, before, learnt("digits + morphological")))


def hide(data: tasks.Examples) -> tasks.Examples:
    """The same with -1 in place of the digits that are not labelled."""
    digit = torch.where(data.known["digit"], data.targets["digit"], -1)
    return dataclasses.replace(data, targets=data.targets | {"digit": digit})


# Figures


def test_outcomes_are_hits_average_precision_and_explained_variance():
    from sklearn.metrics import label_ranking_average_precision_score, r2_score

    random = np.random.RandomState(0)
    output, y = torch.tensor(random.normal(size=(50, 6))), torch.tensor(random.normal(size=(50, 6)))
    assert (
        tasks.outcomes("digit", output, y.argmax(1))["digit"].mean()
        == (output.argmax(1) == y.argmax(1)).double().mean()
    )
    labels = y > 0.5
    labels[:, 0] = True
    found = tasks.outcomes("keywords", output, labels)["keywords"].mean()
    assert found == pytest.approx(label_ranking_average_precision_score(labels, output))
    found = tasks.outcomes("morphological", output, y)
    assert found["morphological"].mean() == pytest.approx(r2_score(y, output))
    assert found["morphological, side"].mean() == pytest.approx(
        ((output > 0) == (y > 0)).double().mean().item()
    )


# The baselines


@pytest.mark.parametrize(
    ("row", "least"),
    [
        ("digits, logistic regression", 0.8),
        ("digits, nearest pixels", 0.8),
        ("digits, components", 0.7),
        ("digits, morphological predicted first", 0.85),
        ("digits, label spreading", 0.9),
        ("digits, 100 of each, label spreading", 0.95),
    ],
)
def test_digits_baselines_answer_well_with_five_labels_a_class(row, least):
    assert recipe.run(row, 0)["digit"] > least


def test_picture_baselines_answer_all_tasks(few_pictures):
    constant = recipe.run("emoji, same answer", 0)
    y = recipe.examples("emoji", "train").targets["group"]
    most = (recipe.examples("emoji", "test").targets["group"] == y.bincount().argmax()).double().mean()
    assert constant["group"] == pytest.approx(most)
    assert constant["sentiment"] == pytest.approx(0, abs=0.2)
    for row in ("emoji, nearest pixels", "emoji, statistics", "emoji, untrained trunk"):
        assert set(recipe.run(row, 0)) == {*tasks.EMOJI, "sentiment, side"}


def test_stored_pictures_come_back():
    found = baselines.stored(REAL("emoji", "test").x[:9]).numpy()
    style, thing = REAL("emoji", "test").targets["style"][:9], REAL("emoji", "test").thing[:9]
    assert np.array_equal(found, load_emoji().images[style, thing])


def test_an_unknown_baseline_is_named():
    with pytest.raises(ValueError, match="baseline: expected one of same answer, .*; found 'magic'"):
        baselines.fit("magic", recipe.lesson("digits, alone", 0))
