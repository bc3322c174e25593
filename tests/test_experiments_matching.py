"""Chapter 07's recipe, with tiny models: each row keeps its contract, each term does what it is for."""

import dataclasses
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from mmtutor.contrastive import info_nce
from mmtutor.data import load_emoji
from mmtutor.experiments import matching as recipe
from mmtutor.experiments import matching_baselines as baselines
from mmtutor.experiments import matching_scores as scores
from mmtutor.experiments import matching_tasks as tasks
from mmtutor.sharing import parameter_count

REAL = recipe.examples
PARTS = ("train", "validation", "test")
PART = 40  # a fortieth of the drawings is enough to see that a row runs
GRID = [row for row, s in recipe.ROWS.items() if "optimiser" in s]
OTHERS = [row for row in recipe.ROWS if row not in GRID]  # of the grid one row for each kind is run
ONE_OF_EACH = {
    tuple(recipe.ROWS[row].get(k) for k in ("objective", "optimiser", "penalty")): row for row in GRID
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on one thread; the function sets another number of steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other here

    def set_steps(steps: int):
        sizes = dict.fromkeys(("digits", "things"), steps)
        monkeypatch.setattr(recipe, "STEPS", dict.fromkeys(("cpu", "gpu"), sizes))

    monkeypatch.setattr(recipe, "WIDTH", {"cpu": 4, "gpu": 6})
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    set_steps(2)
    yield set_steps
    torch.set_num_threads(threads)


@pytest.fixture
def few(monkeypatch):
    """Few drawings, few digits, and baselines of few components."""

    def examples(data, part):
        real = REAL(data, part)
        return real.at(torch.arange(0, len(real.y), PART if part == "train" and data == "things" else 2))

    small = {
        data: {
            kind: s | {name: min(n, 12) for name, n in s.items() if isinstance(n, int)}
            for kind, s in kinds.items()
        }
        for data, kinds in baselines.SETTINGS.items()
    }
    monkeypatch.setattr(baselines, "SETTINGS", small)
    monkeypatch.setattr(recipe, "examples", examples)


def above_chance(figures, k: int) -> float:
    """By how many standard deviations of a binomial R@k lies above that of guessing."""
    n = figures["candidates"]
    chance = k / n
    return (figures[f"R@{k}"] - chance) / math.sqrt(chance * (1 - chance) / n)


# The contract


@pytest.mark.parametrize("row", [*OTHERS, *ONE_OF_EACH.values()])
def test_every_row_returns_its_figures_with_each_item_s_outcome(row, few):
    s = recipe.settings(row)
    model = recipe.fit(row, 0)
    figures, data = recipe.score(model, row, 0), recipe.examples(s["data"], "test")
    first, second = s["inputs"]
    if s["ask"] == "classify":
        wanted = {f"accuracy, {first}", f"accuracy, {second}", "agreement", "cosine", "kl", "js"}
        assert {f"F1, {first}", f"recall, {second}", "js, false pairs", "js, dealt"} <= set(figures)
    else:
        wanted = {"R@1", "R@10", "class R@1", f"{first}→{second} R@1", f"{second}→{first} R@10"}
        assert figures["candidates"] == len(data.y)
        assert 1 <= figures[f"{first}→{second} median rank"] <= len(data.y)
    for name in wanted:
        assert figures.outcomes[name].shape == figures.groups[name].shape == data.y.shape
    assert 0 <= figures["validation"] <= 1
    if "baseline" not in s:
        assert figures["parameters"] == parameter_count(model.encoders) + parameter_count(model.heads)


@pytest.mark.parametrize("function", [recipe.run, recipe.fit, recipe.settings])
def test_an_unknown_row_is_named_with_the_known_ones(function):
    arguments = ("no such row",) if function is recipe.settings else ("no such row", 0)
    with pytest.raises(ValueError, match=r"row: expected one of fourier \+ zernike, .*; found 'no such row'"):
        function(*arguments)


def test_there_are_no_more_rows_than_a_night_of_one_laptop_can_run():
    assert len(recipe.ROWS) <= 380


@pytest.mark.parametrize(
    "row", ["digits, contrastive + adversarial", "contrastive, SGD, 0.1", "fourier + pixels, JS 1"]
)
def test_run_scores_what_fit_returns_which_repeats_by_seed(row):
    def learnt(seed):
        return torch.cat([x.flatten() for x in recipe.fit(row, seed).state_dict().values()])

    assert torch.equal(learnt(3), learnt(3)) and not torch.equal(learnt(3), learnt(4))
    assert recipe.score(recipe.fit(row, 3), row, 3) == recipe.run(row, 3)


def test_the_gpu_scale_runs_the_same_code_with_its_own_size(monkeypatch, few):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {}, "gpu": {"things": 4}})
    model = recipe.fit("things, contrastive", 0, scale="gpu")
    assert len(model.losses) == 4 and model.encoders["picture"][0].blocks[0][0].out_channels == 6


# What is learnt from what


def test_the_control_rows_are_the_control():
    assert recipe.run("digits, contrastive, false pairs", 0) == recipe.run(
        "digits, contrastive", 0, shuffle_pairs=True
    )


def test_with_shuffled_pairs_retrieval_falls_to_chance(tiny):
    tiny(100)
    for row in ("digits, contrastive", "digits, CCA"):
        true, shuffled = (recipe.run(row, 0, shuffle_pairs=flag) for flag in (False, True))
        assert above_chance(true, 10) > 15 and above_chance(true, 1) > 10
        assert abs(above_chance(shuffled, 10)) < 4 and abs(above_chance(shuffled, 1)) < 4


def test_with_shuffled_pairs_the_second_classifier_and_the_match_fall_to_chance(tiny):
    tiny(100)
    figures = recipe.run("fourier + pixels", 0, shuffle_pairs=True)
    assert figures["accuracy, fourier"] > 0.7 and figures["accuracy, pixels"] < 0.2
    assert figures["agreement"] < 0.2 and figures["js, told apart"] < 0.6


def test_false_pairs_have_each_others_second_modality_and_nothing_else():
    data = REAL("digits", "train").of(("fourier", "pixels"))
    false = tasks.false_pairs(data, torch.Generator().manual_seed(0))
    assert torch.equal(false.x["fourier"], data.x["fourier"]) and torch.equal(false.y, data.y)
    assert not torch.equal(false.x["pixels"], data.x["pixels"])
    assert torch.equal(false.x["pixels"].sort(0).values, data.x["pixels"].sort(0).values)


def test_of_a_share_of_pairs_a_smaller_one_is_part_and_the_rest_does_not_touch_what_is_learnt(monkeypatch):
    row = "digits, contrastive, 5 % of pairs"
    known, everything = recipe.lesson(row, 2)
    fewer, _ = recipe.lesson("digits, contrastive, 2 % of pairs", 2)
    assert (len(known.y), len(fewer.y), len(everything.y)) == (70, 28, 1400)
    assert set(fewer.item) <= set(known.item)

    def learnt():
        return list(recipe.fit(row, 2).encoders.state_dict().values())

    before = learnt()
    unknown = torch.tensor(~np.isin(everything.item, known.item))
    x = everything.x | {"pixels": torch.where(unknown[:, None], 7.0, everything.x["pixels"])}
    hidden = dataclasses.replace(everything, x=x)
    monkeypatch.setattr(recipe, "lesson", lambda *a: (known, hidden))
    assert all(map(torch.equal, before, learnt()))
    row = "digits, contrastive + adversarial, 5 % of pairs"  # which does see them
    with_hidden = learnt()
    monkeypatch.setattr(recipe, "lesson", lambda *a: (known, everything))
    assert not all(map(torch.equal, with_hidden, learnt()))


def test_few_labels_are_so_many_of_each_class_and_no_others_are_used(monkeypatch):
    s = recipe.settings("fourier + pixels, 5 of each, JS 1")
    data = recipe.lesson("fourier + pixels, 5 of each, JS 1", 0)[0]
    given = recipe.labels(s, data, 0)
    assert given.y.bincount().tolist() == [5] * 10

    def learnt():
        return list(recipe.fit("fourier + pixels, 5 of each, JS 1", 0).state_dict().values())

    before = learnt()
    hidden = dataclasses.replace(data, y=torch.full_like(data.y, 3))
    monkeypatch.setattr(recipe, "lesson", lambda *a: (hidden, hidden))
    monkeypatch.setattr(recipe, "labels", lambda *a: given)
    assert all(map(torch.equal, before, learnt()))


def test_without_labels_the_classes_do_not_matter_but_for_their_names(monkeypatch):
    def learnt():
        return list(recipe.fit("fourier + pixels, no labels, cross-entropy", 0).state_dict().values())

    before, data = learnt(), recipe.lesson("fourier + pixels", 0)[0]
    turned = dataclasses.replace(data, y=9 - data.y)
    monkeypatch.setattr(recipe, "lesson", lambda *a: (turned, turned))
    assert all(map(torch.equal, before, learnt()))


def test_the_adversary_sees_no_pairs():
    model, data = recipe.build(recipe.settings("digits, adversarial only"), 4).eval(), REAL("digits", "test")
    first, other = data.at(torch.arange(100)), data.at(torch.randperm(100))
    of_pairs, of_others = (
        recipe.adversary_loss(model, [first, second], 1.0, True) for second in (first, other)
    )
    torch.testing.assert_close(of_pairs, of_others)


def test_the_discriminator_lowers_its_loss_and_the_encoders_raise_it():
    model, data = recipe.build(recipe.settings("digits, adversarial only"), 4).eval(), REAL("digits", "test")

    def loss():
        points = map(recipe.direction, model.points(data.x))
        return model.discriminator.loss(dict(zip(model.encoders, points, strict=True)))

    recipe.adversary_loss(model, [data, data], 1.0, False).backward()
    before = loss()
    for part, sign in ((model.encoders, 1), (model.discriminator, -1)):
        weights = [p.detach().clone() for p in part.parameters()]
        with torch.no_grad():
            for p in part.parameters():
                p -= 1e-4 * p.grad
            assert sign * (loss() - before) > 0
            for p, old in zip(part.parameters(), weights, strict=True):
                p.copy_(old)


def test_steepness_is_the_mean_squared_slope_of_the_log_odds():
    discriminator = recipe.ModalityDiscriminator(["a", "b"], 3)
    z, step = torch.randn(5, 3), 1e-3 * torch.eye(3)

    def log_odds(z):
        return discriminator.double().guess(z.double()) @ torch.tensor([1.0, -1.0]).double()

    slope = torch.stack([(log_odds(z + e) - log_odds(z - e)) / 2e-3 for e in step], 1)
    found = recipe.steepness(discriminator.float(), z).item()
    assert found == pytest.approx(slope.square().sum(1).mean().item(), rel=1e-3)


# Terms


def test_with_one_drawing_of_each_thing_the_contrastive_objective_is_info_nce():
    a, b = torch.randn(2, 9, 5)
    found = recipe.OBJECTIVES["contrastive"](a, b, torch.eye(9, dtype=torch.bool))
    torch.testing.assert_close(found, info_nce(a, b, recipe.TEMPERATURE))


def test_two_drawings_of_a_thing_are_a_true_pair():
    batch = dataclasses.replace(REAL("things", "test").at(torch.arange(3)), item=np.array([4, 9, 4]))
    expected = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()
    assert torch.equal(recipe.same_item(batch, "cpu"), expected)


def test_balance_is_zero_for_even_classes_and_log_C_for_one():
    assert recipe.balance(100 * torch.eye(4)).item() == pytest.approx(0, abs=1e-5)
    assert recipe.balance(torch.tensor([[100.0, 0, 0, 0]] * 3)).item() == pytest.approx(math.log(4), abs=1e-4)


def test_spread_and_covariance_are_those_of_their_formulas():
    z = torch.randn(50, 3) * torch.tensor([0.1, 1.0, 3.0])
    short = (1 - z.std(0)).clamp(min=0).mean().item()
    assert recipe.spread(z).item() == pytest.approx(short, abs=0.01)
    C = np.cov(z.numpy().T)
    assert recipe.covariance(z).item() == pytest.approx(
        (C**2).sum() / 3 - (np.diag(C) ** 2).sum() / 3, rel=1e-4
    )


def no_loss(model, step):
    """Zero, with a gradient of zero for every weight of the encoders."""
    return 0 * sum(z.sum() for z in model.points(REAL("digits", "test").at(torch.arange(4)).x))


def test_a_penalty_pulls_weights_to_zero_where_the_loss_says_nothing():
    for optimiser in recipe.OPTIMISERS:
        lengths = []
        for penalty in (0.0, 0.1):
            torch.manual_seed(0)
            model = recipe.build(recipe.settings("digits, contrastive"), 4)
            s = {"optimiser": optimiser, "rate": 0.01, "penalty": penalty}
            recipe.descend(model, partial(no_loss, model), 5, s, progress=False)
            lengths.append(model.encoders["fourier"][0].weight.norm().item())
        assert lengths[1] < lengths[0], optimiser


def test_mse_collapses_and_terms_that_repel_do_not_let_it(tiny):
    tiny(120)
    rows = ("MSE", "MSE + variance", "MSE + variance + covariance", "contrastive")
    found = {row: recipe.run(f"{row}, Adam, 0.01", 0) for row in rows}
    assert found["MSE"]["variance"] < 0.2 and found["MSE"]["cosine, false pairs"] > 0.8
    assert min(found[row]["variance"] for row in rows[1:]) > 0.6
    assert found["MSE + variance"]["dimensions"] < found["MSE + variance + covariance"]["dimensions"]
    assert found["MSE"]["R@10"] < found["MSE + variance"]["R@10"] < found["contrastive"]["R@10"]


def test_answers_get_the_names_that_suit_most():
    y = torch.tensor([0, 0, 1, 2, 2])
    logits = torch.nn.functional.one_hot(torch.tensor([2, 2, 0, 1, 1]), 3).float()
    order = recipe.named([logits, logits], y)
    assert torch.equal(logits[:, order].argmax(1), y)


def test_a_guided_model_compares_as_the_mixture_would(few):
    model = recipe.fit("digits, mixture, deep", 0)
    data = recipe.examples("digits", "test").of(("fourier", "pixels"))
    q, r = (z.softmax(1) for z in recipe.outputs(model, model.answers, data))
    expected = (q[3] * r[5] / model.weights).sum().log()
    assert model.similarity(data)[3, 5].item() == pytest.approx(expected.item(), rel=1e-5)


# Scores


def test_dealing_answers_out_within_classes_leaves_f1_and_changes_the_match():
    logits = [3 * torch.randn(60, 4) for _ in range(2)]
    y = torch.arange(60) % 4
    answers = [z.argmax(1) for z in logits]
    agree = (answers[0][:, None] == answers[1]).double()
    kept, shares = [], []
    for most in (False, True):
        second = answers[1][scores.dealt(agree, y, most)]
        kept.append(precision_recall_fscore_support(y, second, zero_division=0.0)[:3])
        shares.append((answers[0] == second).double().mean().item())
    before = precision_recall_fscore_support(y, answers[1], zero_division=0.0)[:3]
    assert np.array_equal(kept[0], before) and np.array_equal(kept[1], before)
    assert shares[1] > shares[0] + 0.3


def test_least_dealt_and_most_are_the_extremes_and_the_mean_over_all_ways_to_deal():
    D, y = torch.rand(6, 6).double(), torch.tensor([0, 1, 0, 1, 1, 2])
    ways = []
    for zeros in itertools.permutations([0, 2]):
        for ones in itertools.permutations([1, 3, 4]):
            partner = dict(zip([0, 2, 1, 3, 4, 5], [*zeros, *ones, 5], strict=True))
            ways.append(np.mean([D[i, j] for i, j in partner.items()]))
    found = scores.within_classes("js", D, y)
    expected = [min(ways), np.mean(ways), max(ways)]
    assert [found[f"js, {name}"].item() for name in ("least", "dealt", "most")] == pytest.approx(expected)


def test_degrees_are_a_matrix_of_all_pairs():
    p, q = (torch.rand(5, 3).double().softmax(1) for _ in range(2))
    found = scores.degrees(p, q, "kl")
    for i, j in itertools.product(range(5), repeat=2):
        assert found[i, j].item() == pytest.approx(-(p[i] * (p[i] / q[j]).log()).sum().item())


def test_classifiers_that_answer_alike_match_and_those_that_always_say_the_same_match_for_nothing():
    data = REAL("digits", "test").of(("fourier", "pixels"))
    right, same = (20 * torch.nn.functional.one_hot(c, 10).double() for c in (data.y, 0 * data.y))
    good, _ = scores.classification([right, right], data)
    empty, outcomes = scores.classification([same, same], data)
    assert good["js, told apart"] > 0.9 and empty["js, told apart"] == 0.5
    assert outcomes["agreement"].all() and empty["F1, pixels"] < 0.03
    assert good["js, false pairs"] < 0.2 and empty["js, false pairs"] == pytest.approx(1)


def test_retrieval_finds_everything_by_the_identity_and_by_a_constant_what_chance_finds():
    data = REAL("digits", "test").of(("fourier", "pixels"))
    n = len(data.y)
    perfect, constant = (scores.retrieval(s, data) for s in (torch.eye(n), torch.zeros(n, n)))
    assert perfect[1]["R@1"].mean() == 1 and perfect[0]["fourier→pixels median rank"] == 1
    assert constant[1]["R@10"].mean().item() == pytest.approx(10 / n)
    assert constant[1]["class R@1"].mean().item() == pytest.approx(constant[0]["class R@1 by chance"].item())


def test_rows_of_a_similarity_are_the_first_modality():
    data = REAL("digits", "test").of(("fourier", "pixels")).at(torch.arange(3))
    similarity = torch.tensor([[1.0, 2.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    outcomes = scores.retrieval(similarity, data)[1]
    assert outcomes["fourier→pixels R@1"].tolist() == [0, 1, 1]
    assert outcomes["pixels→fourier R@1"].tolist() == [1, 1, 1] and outcomes["R@1"].tolist() == [0.5, 1, 1]


def test_geometry_sees_collapse_and_separate_clouds():
    z = torch.randn(200, 8).double()
    even, one = scores.geometry([z, z + 0.1 * torch.randn(200, 8)], [z, z]), torch.ones(8)
    collapsed = scores.geometry([z * 1e-4 + one] * 2, [z * 1e-4 + one] * 2)
    apart = scores.geometry([z + 9 * one, z - 9 * one], [z + 9 * one, z - 9 * one])
    assert even["variance"] > 0.95 and collapsed["variance"] < 1e-6 and even["dimensions"] > 7
    assert collapsed["cosine, false pairs"] > 0.999 > 0.9 > even["cosine, true pairs"] - 0.1
    assert apart["told apart"] == 1 and even["told apart"] < 0.8


# Things


def test_to_test_on_there_is_one_drawing_by_the_hand_asked_for_and_no_family_on_two_sides():
    emoji, sides = load_emoji(), [REAL("things", part) for part in PARTS]
    for data in sides[1:]:
        assert len(set(data.item)) == len(data.item)
        stored = ((data.x["picture"] + 1) * 127.5).round().byte().movedim(1, -1).numpy()
        assert np.array_equal(stored, emoji.pictures(tasks.QUERY)[data.item])
    families = [set(data.family) for data in sides]
    assert not families[0] & families[1] and not families[0] & families[2] and not families[1] & families[2]
    assert len(sides[0].y) == emoji.present[:, np.unique(sides[0].item)].sum()


def test_words_are_the_name_and_the_keywords():
    data, emoji = REAL("things", "test"), load_emoji()
    i = data.item[0]
    assert tasks.texts(data, "name")[0] == emoji.names[i]
    assert tasks.texts(data, "words")[0] == f"{emoji.names[i]} {' '.join(emoji.keywords[i])}"


# Baselines


@pytest.mark.parametrize("kind", ["nearest", "CCA", "mixture"])
def test_baselines_find_digits_better_than_chance(kind):
    assert above_chance(recipe.run(f"digits, {kind}", 0), 10) > 10


def test_patches_of_blank_pictures_are_left_out():
    pictures = torch.ones(3, 3, 32, 32)
    pictures[1] = torch.rand(3, 32, 32)
    x, picture = baselines.patches(pictures)
    assert x.shape == (49, 3 * baselines.PATCH**2) and set(picture.tolist()) == {1}


def test_each_thing_counts_once_however_many_drawings_it_has():
    data = dataclasses.replace(REAL("things", "test").at(torch.arange(3)), item=np.array([7, 2, 7]))
    found = baselines.mean_of_each(data, np.array([[1.0], [5.0], [3.0]]))
    assert found.tolist() == [[5.0], [2.0]] and baselines.one_each(data).item.tolist() == [2, 7]


def test_the_first_drawing_of_a_thing_is_by_the_hand_that_is_asked_for():
    data, emoji = baselines.one_each(REAL("things", "train")), load_emoji()
    stored = ((data.x["picture"] + 1) * 127.5).round().byte().movedim(1, -1).numpy()
    assert np.array_equal(stored, emoji.pictures(tasks.QUERY)[data.item])


def test_topics_are_found_from_either_modality_alone():
    """Two kinds of things, of which pictures and texts have nothing in common."""

    def words(data):
        kind = np.eye(2)[data.item % 2]
        return np.repeat(20 * kind, 3, 1), np.repeat(5 * kind, 4, 1)

    data = dataclasses.replace(REAL("things", "test").at(torch.arange(20)), item=np.arange(20))
    similarity = baselines.Topics(data, words, topics=2, text_weight=1.0, seed=0).similarity(data)
    same = torch.arange(20)[:, None] % 2 == torch.arange(20) % 2
    assert similarity[same].min() > similarity[~same].max() + 0.3


def test_a_kernel_s_components_give_back_the_kernel():
    data = REAL("digits", "test").of(("fourier", "pixels")).at(torch.arange(60))
    first, _ = baselines.Principal(data, {"numbers": 60, "texts": 0}, kernel=0.2)(data)
    x = torch.tensor(baselines.StandardScaler().fit_transform(data.x["fourier"].numpy())).double()
    torch.testing.assert_close(
        first @ first.T, (-0.2 / 76 * torch.cdist(x, x).square()).exp(), atol=1e-4, rtol=0
    )


def test_labels_spread_in_each_view_by_itself_and_only_from_those_given():
    everything = REAL("digits", "train").of(("fourier", "pixels"))
    given = recipe.labelled({"few": 5}, everything, 0)
    hidden = dataclasses.replace(
        everything, y=torch.where(torch.tensor(np.isin(everything.item, given.item)), everything.y, 3)
    )
    models = [baselines.Spreading(given, data, neighbours=12, change=0.2) for data in (everything, hidden)]
    test = REAL("digits", "test").of(("fourier", "pixels"))
    (fourier, pixels), again = (model.answers(test) for model in models)
    assert torch.equal(fourier, again[0]) and torch.equal(pixels, again[1])
    right = [(logits.argmax(1) == test.y).double().mean() for logits in (fourier, pixels)]
    assert right[0] > 0.5 and right[1] > 0.8
    assert all(logits.isfinite().all() for logits in (fourier, pixels))


def test_clusters_find_digits_without_labels_which_only_name_them():
    everything = REAL("digits", "train").of(("fourier", "pixels"))
    test, settings = (
        REAL("digits", "test").of(("fourier", "pixels")),
        baselines.SETTINGS["digits"]["clusters"],
    )
    turned = dataclasses.replace(everything, y=9 - everything.y)
    found, other = (
        baselines.Clusters(data, data, torch.Generator().manual_seed(0), **settings).answers(test)
        for data in (everything, turned)
    )
    assert (found[1].argmax(1) == test.y).double().mean() > 0.6
    torch.testing.assert_close(found[1], other[1].flip(1))


def test_computed_things_are_numbers_in_the_place_of_pictures_and_texts():
    s = recipe.settings("things, contrastive, computed")
    data, plain = recipe.pairs_of(s, "test"), REAL("things", "test").of(recipe.TOLD)
    assert {m: x.shape[1] for m, x in data.x.items()} == {"picture": 195, "words": 512}
    assert np.array_equal(data.item, plain.item) and torch.equal(data.y, plain.y)
    train = recipe.pairs_of(s, "train").x["picture"]
    assert train.std(0).median() == pytest.approx(1, abs=0.5)


def test_the_control_matches_each_view_with_itself():
    a, b = torch.randn(2, 9, 5)
    entropies = [torch.special.entr(logits.softmax(1)).sum(1).mean() for logits in (a, b)]
    torch.testing.assert_close(recipe.OBJECTIVES["itself"](a, b, None), sum(entropies) / 2)


def test_what_is_known_only_is_computed_from_the_known_pairs_alone(monkeypatch):
    known, everything = recipe.lesson("digits, CCA, 5 % of pairs", 0)
    seen = []
    monkeypatch.setattr(baselines, "fit", lambda kind, which, data, others, *rest: seen.append(len(others.y)))
    for row in ("digits, CCA, 5 % of pairs", "digits, CCA, known only, 5 % of pairs"):
        recipe.fit(row, 0)
    assert seen == [len(everything.y), len(known.y)]


def test_a_row_may_train_for_a_part_of_the_steps_and_replace_settings(tiny):
    tiny(8)
    assert len(recipe.fit("digits, contrastive, 0.25 of the steps, 5 % of pairs", 0).losses) == 2
    assert len(recipe.fit("digits, contrastive, longer", 0).losses) == 40
    assert recipe.fit("digits, CCA of 32", 0).principal.maps["pixels"][-1].n_components_ == 32


def test_an_unknown_baseline_is_named():
    known, everything = recipe.lesson("digits, CCA", 0)
    with pytest.raises(ValueError, match="baseline: expected one of nearest, .*; found 'magic'"):
        baselines.fit("magic", "digits", known, everything, torch.Generator())
