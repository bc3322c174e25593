"""Chapter 04's recipe, with tiny models: each row keeps its contract, each imbalance is the one it says."""

import dataclasses

import numpy as np
import pytest
import torch

from mmtutor.balancing import MMoE, TaskAttention
from mmtutor.data import load_emoji
from mmtutor.experiments import balancing as recipe
from mmtutor.experiments import balancing_baselines as baselines
from mmtutor.experiments import balancing_tasks as tasks
from mmtutor.experiments.sharing_tasks import asked, vocabulary
from mmtutor.sharing import HardSharing, SoftSharing, parameter_count

TRAINED = [row for row, s in recipe.ROWS.items() if "baseline" not in s]
WAYS = [row for row, s in recipe.ROWS.items() if "way" in s and "top" not in s]  # "top" changes no size
PART = 40  # a fortieth of the pictures is enough to see that a row runs
REAL = recipe.examples
SIZES = {t: REAL("emoji", "train").size(t) for t in REAL("emoji", "train").targets}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on one thread; the function sets other numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other here

    def set_size(steps: int, width: int = 8):
        sizes = {"emoji": width, "names": 4 * width}
        monkeypatch.setattr(recipe, "STEPS", dict.fromkeys(("cpu", "gpu"), dict.fromkeys(sizes, steps)))
        monkeypatch.setattr(recipe, "WIDTH", {"cpu": sizes, "gpu": {k: n + 1 for k, n in sizes.items()}})

    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    set_size(2)
    yield set_size
    torch.set_num_threads(threads)


def thinned(data: tasks.Examples) -> tasks.Examples:
    """Every so-many-th picture; the names as they are."""
    if data.x.ndim == 2:
        return data
    keep = slice(None, None, PART)
    parts = {name: {t: y[keep] for t, y in getattr(data, name).items()} for name in ("targets", "known")}
    return tasks.Examples(data.x[keep], thing=data.thing[keep], family=data.family[keep], **parts)


@pytest.fixture
def few_pictures(monkeypatch):
    """Few pictures, of tasks that have as many classes as before."""
    sides = {(data, part): thinned(REAL(data, part)) for data in ("emoji", "names") for part in PARTS}
    monkeypatch.setattr(recipe, "examples", lambda data, part: sides[data, part])
    monkeypatch.setattr(tasks.Examples, "size", lambda self, task: SIZES[task])


PARTS = ("train", "validation", "test")


# The contract


@pytest.mark.parametrize("row", TRAINED)
def test_every_trained_row_returns_its_tasks_figures_with_each_item_s_outcome(row, few_pictures):
    s = recipe.settings(row)
    model = recipe.fit(row, 0)
    figures, test = recipe.score(model, row, 0), recipe.examples(s["data"], "test")
    for task in s["tasks"]:
        judged = asked(test, task).sum()
        assert figures.outcomes[task].shape == figures.groups[task].shape == (judged,)
        assert {f"training, {task}", f"validation, {task}"} <= set(figures)
    assert figures["parameters"] == parameter_count(model)
    kind = {"MMoE": MMoE, "MTAN": TaskAttention, "two trunks": SoftSharing}.get(s.get("way"), HardSharing)
    assert type(model) is kind
    several = len(s["tasks"]) if len(s["tasks"]) > 1 else 0
    weights = [figures[name] for name in figures if name.startswith("weight,") and "@" not in name]
    assert len(weights) == several and sum(weights) == pytest.approx(several)


@pytest.mark.parametrize("function", [recipe.run, recipe.fit, recipe.settings])
def test_an_unknown_row_is_named_with_the_known_ones(function):
    arguments = ("no such row",) if function is recipe.settings else ("no such row", 0)
    with pytest.raises(ValueError, match="row: expected one of balanced, equal, .*; found 'no such row'"):
        function(*arguments)


def test_there_are_no_more_rows_than_a_night_of_one_laptop_can_run():
    assert len(recipe.ROWS) <= 120


def test_run_scores_what_fit_returns_which_repeats_by_seed():
    def learnt(seed):
        return torch.cat([x.flatten() for x in recipe.fit("names, PCGrad", seed).state_dict().values()])

    assert torch.equal(learnt(3), learnt(3)) and not torch.equal(learnt(3), learnt(4))
    model = recipe.fit("names, PCGrad", 3)
    assert recipe.score(model, "names, PCGrad", 3) == recipe.run("names, PCGrad", 3)


def test_the_gpu_scale_runs_the_same_code_with_its_own_size(monkeypatch, few_pictures):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {}, "gpu": {"emoji": 4}})
    model = recipe.fit("balanced, equal", 0, scale="gpu")
    assert len(model.history.loss) == 4 and model.trunk[0][0].out_channels == 9


@pytest.mark.parametrize("row", ["names, n-grams", "pictures, nearest pixels"])
def test_shuffled_pairs_are_refused_where_nothing_is_trained(row):
    with pytest.raises(ValueError, match=f"shuffle_pairs: expected a row that is trained, found '{row}'"):
        recipe.run(row, 0, shuffle_pairs=True)


def test_with_shuffled_pairs_the_names_fall_to_chance(tiny):
    tiny(steps=200, width=16)
    true, shuffled = (recipe.run("names, equal in nats", 0, shuffle_pairs=flag) for flag in (False, True))
    most = REAL("names", "test").targets["group"].bincount().max() / len(REAL("names", "test").x)
    assert true["group"] > most + 0.2 and shuffled["group"] < most + 0.05
    assert true["keywords"] > 0.4 and shuffled["keywords"] < 0.25


# The course of a run


def test_the_compass_finds_its_figures_at_every_look(tiny, few_pictures):
    tiny(steps=40)
    for method in recipe.LOOKED_AT:
        figures = recipe.run(f"balanced, {method}", 0)
        names = ("loss, style", "norm, style", "norm, group", "cosine, style and group", "weight, style")
        assert {f"{name} @ {step}" for name in names for step in range(0, 40, 2)} <= set(figures)
        cosines = [figures[f"cosine, style and group @ {step}"] for step in range(0, 40, 2)]
        assert figures["cosine, style and group"] == pytest.approx(np.mean(cosines))
        assert figures["conflict, style and group"] == np.mean(np.array(cosines) < 0)
        assert min(figures[f"norm, style @ {step}"] for step in range(0, 40, 2)) > 0
    assert {f"weight, style @ {step}" for step in range(0, 40, 2)} <= set(recipe.run("balanced, DWA", 0))


def test_a_look_waits_for_a_batch_in_which_all_tasks_have_labels(tiny, monkeypatch):
    tiny(steps=40)
    hidden = REAL("names", "train")
    few = hidden.known["sentiment"].nonzero()[::100, 0]  # in a third of the batches
    sparse = hidden.known | {
        "sentiment": torch.zeros(len(hidden.x), dtype=torch.bool).index_fill(0, few, True)
    }
    monkeypatch.setattr(recipe, "lesson", lambda *a: dataclasses.replace(hidden, known=sparse))
    looks = recipe.fit("names, equal", 0).looks
    assert list(looks) == list(range(0, 40, 2))[: len(looks)] and len(looks) >= 10
    assert all(seen["loss, sentiment"] > 0 and seen["norm, sentiment"] > 0 for seen in looks.values())


def test_methods_move_the_weights_and_equal_does_not(tiny):
    tiny(steps=2 * recipe.EPOCH + 1)
    for method in recipe.METHODS:
        spread = recipe.fit(f"names, {method}", 0).weights.std(0).max()
        assert (spread == 0) == (method in ("equal", "guess")), method


def test_divided_by_the_loss_of_a_guess_units_do_not_matter(few_pictures):
    def weighted(row):
        s, data = recipe.settings(row), recipe.lesson(row, 0)
        unit = recipe.units(s, data)
        weighting = recipe.weighting_of(s, None, unit, data, 0)
        return torch.tensor([weighting.weights()[task] * unit[task] for task in s["tasks"]])

    balanced, scaled = weighted("balanced, guess"), weighted("scale, guess")
    assert balanced / balanced.sum() == pytest.approx(scaled / scaled.sum())
    data = recipe.lesson("four, guess", 0)
    products = weighted("four, guess") * torch.tensor([recipe.guess_loss(data, t) for t in data.targets])
    assert products == pytest.approx(products.mean().expand(4))


def test_the_loss_of_a_guess_is_that_of_the_best_constant_answer():
    data = recipe.lesson("names, equal", 0)
    for task in recipe.NAME_TASKS:
        y = data.targets[task][data.known[task]]
        head = recipe.Head(1, data.size(task), recipe.KINDS[task])
        q = torch.zeros(data.size(task), requires_grad=True)
        descent = torch.optim.LBFGS([q], max_iter=200, line_search_fn="strong_wolfe")

        def loss(q=q, y=y, head=head):
            value = head.loss(q.expand(len(y), -1), y)
            (q.grad,) = torch.autograd.grad(value, q)
            return value

        descent.step(loss)
        assert recipe.guess_loss(data, task) == pytest.approx(loss().item(), rel=1e-3), task


def test_softmax_weights_go_to_the_task_with_the_smallest_loss(tiny):
    tiny(steps=200)
    weights = recipe.fit("names, softmax", 0).weights[-1]
    assert weights[recipe.NAME_TASKS.index("keywords")] > 2.5  # of 3


# Imbalance


def test_the_weight_that_undoes_the_factor_trains_as_if_there_were_none(tiny, few_pictures):
    tiny(steps=5)
    undone, balanced, scaled = (
        recipe.fit(row, 0).history.loss for row in ("scale, ω = 30", "balanced, equal", "scale, equal")
    )
    assert undone == pytest.approx(balanced, rel=1e-3) and scaled[0] > 10 * balanced[0]


def test_fixed_weights_have_the_ratio_of_their_name_and_sum_to_the_number_of_tasks():
    for row, s in recipe.ROWS.items():
        if s.get("method") == "fixed" and row.startswith(("balanced", "data", "difficulty")):
            weighting = recipe.weighting_of(s, None, dict.fromkeys(s["tasks"], 1.0), None, 0)
            style, group = weighting.omega.tolist()
            assert style / group == pytest.approx(
                float(row.split(" = ")[1])
            ) and style + group == pytest.approx(2)


@pytest.mark.parametrize("seed", [0, 1])
def test_style_is_known_of_all_pictures_of_a_twentieth_of_the_things(seed):
    plain, few = (recipe.lesson(row, seed) for row in ("balanced, equal", "data, equal"))
    assert plain.known["style"].all() and few.known["group"].all()
    chosen = set(few.thing[few.known["style"].numpy()])
    assert len(chosen) == round(len(set(few.thing)) / 20)
    assert (np.isin(few.thing, list(chosen)) == few.known["style"].numpy()).all()
    fewer, more = (tasks.few_things(few, share, seed) for share in (0.05, 0.1))
    assert (fewer <= more).all() and more.sum() > fewer.sum()


def test_half_of_the_group_s_training_labels_are_wrong_and_no_others():
    plain, wrong = (recipe.lesson(row, 0).targets for row in ("balanced, equal", "difficulty, equal"))
    assert torch.equal(plain["style"], wrong["style"])
    assert (plain["group"] != wrong["group"]).double().mean() == pytest.approx(0.5, abs=1e-3)
    shift = (wrong["group"] - plain["group"]) % 8
    counts = shift.bincount()[1:].double()
    assert counts / counts.sum() == pytest.approx(torch.full((7,), 1 / 7).double(), abs=0.03)
    other = recipe.lesson("difficulty, equal", 1).targets["group"]
    assert not torch.equal(other, wrong["group"])


def test_all_rows_of_a_condition_learn_from_the_same_labels():
    for condition in ("data", "difficulty"):
        rows = [row for row in recipe.ROWS if row.startswith(f"{condition},")]
        lessons = [recipe.lesson(row, 2) for row in rows]
        for task in recipe.PAIR:
            found = [lesson for lesson in lessons if task in lesson.targets]
            assert all(torch.equal(found[0].targets[task], other.targets[task]) for other in found)
            assert all(torch.equal(found[0].known[task], other.known[task]) for other in found)


def test_labels_that_are_not_given_do_not_touch_what_is_learnt(monkeypatch, few_pictures):
    def learnt():
        return list(recipe.fit("data, equal", 0).state_dict().values())

    def hide(data):
        style = torch.where(data.known["style"], data.targets["style"], -1)
        return dataclasses.replace(data, targets=data.targets | {"style": style})

    before = learnt()
    monkeypatch.setattr(recipe, "lesson", lambda *a, lesson=recipe.lesson: hide(lesson(*a)))
    assert all(map(torch.equal, before, learnt()))


def test_in_nats_a_set_of_labels_counts_as_often_as_there_are_labels():
    for row in ("four, equal in nats", "names, equal in nats"):
        s = recipe.settings(row)
        unit = recipe.units(s, REAL(s["data"], "train"))
        assert unit["keywords"] == len(vocabulary()) > 50
        assert {unit[task] for task in s["tasks"] if task != "keywords"} == {1.0}


# Attention to features


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
@pytest.mark.parametrize("row", WAYS)
def test_attention_to_features_has_as_many_parameters_as_hard_sharing(row, scale, monkeypatch):
    monkeypatch.undo()  # the sizes that are swept
    with torch.device("meta"):
        found, wanted = (
            parameter_count(recipe.build(recipe.settings(r), recipe.width_of(r, scale)))
            for r in (row, "balanced, equal")
        )
    if recipe.settings(row).get("large"):
        assert found > 3.9 * wanted
    else:
        assert found == pytest.approx(wanted, rel=0.1)


def test_experts_figures_are_those_of_the_gates(few_pictures):
    model = recipe.fit("features, MMoE", 0)
    data = recipe.examples("emoji", "test")
    figures = recipe.use_of_experts(model, data)
    gates = model.attend(data.x)[1]
    assert figures["load, group, 2"] == pytest.approx(gates["group"][:, 2].mean().item())
    for task in recipe.PAIR:
        load = [float(figures[f"load, {task}, {e}"]) for e in range(recipe.EXPERTS)]
        assert sum(load) == pytest.approx(1, abs=1e-4) and 1 <= figures[f"experts, {task}"] <= recipe.EXPERTS
    assert 0 < figures["difference of loads"] < 1


def test_one_gate_for_both_tasks_gives_both_the_same_load(few_pictures):
    figures = recipe.run("features, MMoE, one gate for both", 0)
    assert figures["difference of loads"] == 0 and figures["experts, style"] == figures["experts, group"]


# Names


def test_a_name_is_one_example_a_thing_with_the_thing_s_own_answers():
    for part in PARTS:
        data, drawn = REAL("names", part), REAL("emoji", part)
        assert np.array_equal(data.thing, np.unique(drawn.thing))
        assert np.array_equal(data.targets["group"].numpy(), load_emoji().group[data.thing])
        assert np.array_equal(data.family, load_emoji().family[data.thing])
    sides = [set(REAL("names", part).family) for part in PARTS]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]


def test_the_encoder_reads_rows_as_it_reads_the_names_themselves():
    data = REAL("names", "test")
    encoder = tasks.NameEncoder(dim=8, buckets=tasks.BUCKETS).eval()
    again = tasks.TextEncoder(dim=8, buckets=tasks.BUCKETS).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.allclose(encoder(data.x[:20]), again(tasks.names(data)[:20]), atol=1e-6)


# The baselines


def test_n_grams_answer_all_tasks_of_names_better_than_chance():
    figures = recipe.run("names, n-grams", 0)
    assert figures["group"] > 0.6 and figures["keywords"] > 0.6 and figures["sentiment"] > 0


def test_picture_baselines_answer_both_tasks_and_know_less_with_fewer_labels():
    near, few = (recipe.run(row, 0) for row in ("pictures, nearest pixels", "data, nearest pixels"))
    constant = recipe.run("pictures, same answer", 0)
    assert set(near) == set(few) == set(constant) == set(recipe.PAIR)
    assert constant["style"] < few["style"] < near["style"] and few["group"] == near["group"]


def test_an_unknown_baseline_is_named():
    with pytest.raises(ValueError, match="baseline: expected one of same answer, .*; found 'magic'"):
        baselines.fit("magic", recipe.lesson("names, equal", 0))
