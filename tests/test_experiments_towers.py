"""Chapter 08's recipe, with tiny models: each row keeps its contract, damage is what it is called."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmtutor.data import load_emoji
from mmtutor.data.splits import digit_twins
from mmtutor.experiments import towers as recipe
from mmtutor.experiments import towers_baselines as baselines
from mmtutor.experiments import towers_scores as scores
from mmtutor.experiments import towers_tasks as tasks
from mmtutor.experiments.fusion import look_steps
from mmtutor.experiments.mapping import moving_pixels
from mmtutor.fusion import LateFusion
from mmtutor.sharing import parameter_count

TRAINED = [row for row, s in recipe.ROWS.items() if "baseline" not in s]
PARTS = ("train", "validation", "test")
PART = {"digits": 4, "things": 20}  # so many times fewer items are enough to see that a row runs
REAL = tasks.examples


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on one thread; the function sets other numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other here

    def set_size(steps: int, width: int = 4):
        monkeypatch.setattr(recipe, "STEPS", dict.fromkeys(("cpu", "gpu"), dict.fromkeys(PART, steps)))
        monkeypatch.setattr(recipe, "WIDTH", {"cpu": width, "gpu": width + 1})

    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    set_size(2)
    yield set_size
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def thinned():
    return {
        (data, part): REAL(data, part).at(torch.arange(0, len(REAL(data, part).y), every))
        for data, every in PART.items()
        for part in PARTS
    }


@pytest.fixture
def few_items(monkeypatch, thinned):
    """Few items, of both kinds of data."""
    monkeypatch.setattr(recipe, "examples", lambda data, part: thinned[data, part])
    monkeypatch.setattr(baselines, "COPIES", 1)


def items(thinned, row: str) -> tasks.Examples:
    """Return the few test items of a row, with its modalities."""
    s = recipe.settings(row)
    return thinned[s["data"], "test"].of(s["inputs"])


# The contract


@pytest.mark.parametrize("row", recipe.ROWS)
def test_every_row_returns_the_accuracies_of_all_versions_with_each_item_s_outcome(row, few_items, thinned):
    s, model = recipe.settings(row), recipe.fit(row, 0)
    figures, data = recipe.score(model, row, 0), items(thinned, row)
    for name in ("clean", "mixed", *recipe.VERSIONS):
        outcome = figures.outcomes[f"accuracy, {name}"]
        assert outcome.shape == figures.groups[f"accuracy, {name}"].shape == (len(data.y),)
        assert ((outcome >= 0) & (outcome <= 1)).all()
    assert {f"accuracy, {kind}, {m}" for kind in recipe.VERSIONS for m in s["inputs"]} <= set(figures)
    assert {"validation", "validation, mixed"} <= set(figures)
    assert ("AUC, gate" in figures) == ("ece, gate" in figures) == ("gate" in s)
    assert ("accuracy, half swapped" in figures) == (len(s["inputs"]) == 6)
    assert ("interaction, agreeing" in figures) == ("interaction" in s)


@pytest.mark.parametrize("function", [recipe.run, recipe.fit, recipe.settings])
def test_an_unknown_row_is_named_with_the_known_ones(function):
    arguments = ("no such row",) if function is recipe.settings else ("no such row", 0)
    with pytest.raises(ValueError, match="row: expected one of two views, towers, .*; found 'no such row'"):
        function(*arguments)


def test_there_are_no_more_rows_than_a_night_of_one_laptop_can_run():
    assert len(recipe.ROWS) <= 160
    assert len({str(sorted(s.items(), key=str)) for s in recipe.ROWS.values()}) == len(recipe.ROWS), (
        "no twins"
    )


def test_run_scores_what_fit_returns_which_repeats_by_seed(few_items):
    def learnt(seed):
        return torch.cat([x.flatten() for x in recipe.fit("two views, + gate", seed).state_dict().values()])

    assert torch.equal(learnt(3), learnt(3)) and not torch.equal(learnt(3), learnt(4))
    model = recipe.fit("two views, + gate", 3)
    assert recipe.score(model, "two views, + gate", 3) == recipe.run("two views, + gate", 3)


def test_the_gpu_scale_runs_the_same_code_with_its_own_size(monkeypatch, few_items):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {}, "gpu": {"things": 4}})
    model = recipe.fit("things, towers", 0, scale="gpu")
    assert len(model.history.loss) == 4
    cpu, gpu = (recipe.build(recipe.settings("things, towers"), recipe.WIDTH[k]) for k in ("cpu", "gpu"))
    assert parameter_count(cpu) < parameter_count(gpu) == parameter_count(model)


def test_shuffled_pairs_are_refused_where_nothing_is_trained():
    with pytest.raises(
        ValueError, match="shuffle_pairs: expected a row that is trained, found 'two views, li"
    ):
        recipe.run("two views, linear", 0, shuffle_pairs=True)


def test_with_shuffled_pairs_answers_fall_to_chance(tiny):
    tiny(steps=100)
    true, shuffled = (recipe.run("two views, + gate", 0, shuffle_pairs=flag) for flag in (False, True))
    assert true["accuracy, clean"] > 0.7 and shuffled["accuracy, clean"] < 0.2


# Things


def test_things_are_chapter_05_s_with_the_animation_of_the_same_thing():
    data, emoji = REAL("things", "test"), load_emoji()
    assert [*data.x] == ["picture", "animation", "name"] and data.valid[:, [0, 2]].all()
    assert np.array_equal(data.valid[:, 1].numpy(), np.isin(data.item, emoji.video_item))
    k = int(data.valid[:, 1].nonzero()[3])
    own = emoji.videos[list(emoji.video_item).index(data.item[k])]
    assert torch.allclose(data.x["animation"][k], moving_pixels(own[None])[0])
    assert not data.x["animation"][~data.valid[:, 1]].any()


def test_scans_of_the_same_digit_are_one_family_and_count_once():
    data = REAL("digits", "test")
    assert np.array_equal(data.family, digit_twins()[data.item])
    assert len(set(data.family)) < len(data.y)


# Damage


def marked(n: int = 4000, m: int = 3) -> tasks.Examples:
    """Return items whose numbers say whose they are: items 0, 1, 2, ... of ten classes."""
    x = {f"m{k}": torch.arange(n)[:, None].float().expand(n, 4) for k in range(m)}
    item = np.arange(n)
    return tasks.Examples(x, torch.ones(n, m, dtype=torch.bool), torch.arange(n) % 10, item, item)


def test_each_kind_of_damage_befalls_each_modality_as_often():
    data = marked()
    damaged = tasks.damage(data, torch.Generator().manual_seed(0))
    for k, (m, x) in enumerate(damaged.data.x.items()):
        noisy = (x != x.round()).any(1)  # whole numbers are somebody's own
        swapped = ~noisy & (x[:, 0] != data.x[m][:, 0])
        shares = [kind.double().mean().item() for kind in (swapped, noisy, ~damaged.data.valid[:, k])]
        assert shares == pytest.approx([tasks.RATE] * 3, abs=0.02)


def test_corrupted_is_what_is_noisy_or_another_item_s_and_that_is_of_another_class():
    data = marked()
    damaged = tasks.damage(data, torch.Generator().manual_seed(1))
    for k, (m, x) in enumerate(damaged.data.x.items()):
        noisy = (x != x.round()).any(1)
        swapped = ~noisy & (x[:, 0] != torch.arange(4000))
        assert (x[swapped, 0] % 10 != data.y[swapped]).all()
        assert torch.equal(damaged.corrupted[:, k], (noisy | swapped) & damaged.data.valid[:, k]), m
    assert damaged.data.valid.any(1).all() and torch.equal(damaged.data.y, data.y)
    assert all((x == torch.arange(4000)[:, None]).all() for x in data.x.values()), "the items are not changed"


def test_what_an_item_lacks_is_neither_swapped_nor_given():
    data = marked(m=2)
    data = replace(
        data, valid=data.valid & torch.tensor([True, False]).logical_or(torch.arange(4000)[:, None] % 2 == 0)
    )
    damaged = tasks.damage(data, torch.Generator().manual_seed(0), kinds=("swapped",))
    lacking = ~data.valid[:, 1]
    assert torch.equal(damaged.data.valid, data.valid) and not damaged.corrupted[lacking, 1].any()
    swapped = damaged.data.x["m1"][damaged.corrupted[:, 1], 0]
    assert len(swapped) > 100 and (swapped % 2 == 0).all(), "only those that have it are put there"


@pytest.mark.parametrize("kind", tasks.VERSIONS)
def test_a_version_damages_one_modality_of_the_items_that_have_it_and_repeats(kind):
    data = REAL("things", "test")
    first, again = (tasks.version(kind, *tasks.one_of(data, "animation")) for _ in range(2))
    own = data.at(data.valid[:, 1])
    assert len(first.data.y) == len(own.y) < len(data.y)
    assert all(torch.equal(first.data.x[m], again.data.x[m]) for m in data.x)
    assert all(torch.equal(first.data.x[m], own.x[m]) for m in ("picture", "name"))
    if kind == "absent":
        assert first.data.valid.tolist() == [[True, False, True]] * len(own.y) and not first.corrupted.any()
    else:
        assert first.corrupted.tolist() == [[False, True, False]] * len(own.y) and first.data.valid.all()
        assert (first.data.x["animation"] != own.x["animation"]).flatten(1).any(1).all()


def test_a_version_swaps_with_another_class_among_those_that_have_it():
    y, there = REAL("digits", "test").y, torch.arange(301) % 3 == 0
    for seed in range(2):
        other = tasks.another_class(y, there, seed)
        assert (y[other] != y).all() and there[other].all()
    assert not torch.equal(other, tasks.another_class(y, there, 0)), "each modality is from another item"


def test_half_of_the_modalities_of_every_item_are_damaged_others_for_each():
    data = REAL("digits", "test")
    damaged = tasks.version("swapped", *tasks.half_of(data))
    assert (damaged.corrupted.sum(1) == 3).all() and 0.4 < damaged.corrupted.double().mean(0).min() < 0.5
    x = damaged.data.x["pixels"] != data.x["pixels"]
    assert torch.equal(x.any(1), damaged.corrupted[:, 3])


def test_noise_replaces_letters_and_leaves_the_padding():
    letters = torch.tensor([[1, 2, 3, 0]]).repeat(2000, 1)
    size = torch.tensor([0.0, 1.0, 2.0, 4.0]).repeat(500)
    noisy = tasks.noisy(letters, size, torch.Generator().manual_seed(0))
    assert (noisy[:, 3] == 0).all() and (noisy[:, :3] > 0).all()
    for step, share in ((0, 0.0), (1, 0.25), (2, 0.5), (3, 1.0)):
        changed = (noisy[step::4, :3] != letters[step::4, :3]).double().mean()
        assert changed == pytest.approx(share * 36 / 37, abs=0.03)


# Models


def test_interactions_are_only_where_a_row_says_so_and_start_as_the_recipe_says():
    for row, s in recipe.ROWS.items():
        if "baseline" not in s and s["data"] == "digits":
            interactions = recipe.build(s, 4).towers.interactions
            takers = [s["lead"]] if "lead" in s else s["inputs"]
            assert [*interactions] == ([*takers] if "interaction" in s else []), row
            for interaction in interactions.values():
                assert interaction.beta.item() == pytest.approx(recipe.OFFSET)
                assert isinstance(interaction, recipe.SigmoidInteraction) == (s["interaction"] == "sigmoid")


def test_a_sigmoid_gate_starts_as_open_and_as_steep_as_the_clamped_one_and_never_closes():
    start = {"slope": recipe.SLOPE, "offset": recipe.OFFSET}
    clamped, sigmoid = recipe.ResidualInteraction(4, **start), recipe.SigmoidInteraction(4, **start)
    s = torch.full((2,), (0.5 - recipe.OFFSET) / recipe.SLOPE, requires_grad=True)  # where both are half open
    found = [gate(s) for gate in (clamped.gate, sigmoid.gate)]
    slopes = [torch.autograd.grad(r.sum(), s)[0] for r in found]
    assert torch.allclose(found[0], found[1]) and torch.allclose(slopes[0], slopes[1])
    assert clamped.gate(torch.tensor(-1.0)) == 0 < sigmoid.gate(torch.tensor(-1.0))


def test_each_stage_adds_its_own_parameters(few_items):
    sizes = [recipe.run(f"two views, {stage}", 0)["parameters"] for stage in recipe.STAGES]
    parts = recipe.build(recipe.settings("two views, + fuser"), 4)
    plain = recipe.build(recipe.settings("two views, towers"), 4)
    assert sizes[1] - sizes[0] == parameter_count(parts.towers.interactions)
    assert sizes[2] - sizes[1] == parameter_count(parts.towers.gate)
    assert sizes[3] - sizes[2] == parameter_count(parts.towers.fuser) - parameter_count(plain.towers.fuser)


def test_with_w_at_0_marginals_are_sigmoids_and_mean_field_makes_no_error(few_items):
    model = recipe.fit("six views, w = 0", 0)
    assert not model.gate.coupling.any()
    figures = recipe.score(model, "six views, w = 0", 0)
    assert figures["mean field, largest error"] < 1e-5
    assert recipe.fit("six views, w from 0", 0).gate.coupling.any()
    assert recipe.fit("six views, + gate", 0).gate.coupling.mean().item() == pytest.approx(
        recipe.START, abs=0.1
    )


def test_a_detached_gate_does_not_change_the_towers(few_items, thinned):
    data = items(thinned, "six views, + gate")
    for row, reached in (("+ gate", True), ("gate detached", False)):
        model = recipe.build(recipe.settings(f"six views, {row}"), 4)
        h = model.towers.encode(data.x, data.valid)
        tower = model.towers.towers["pixels"][0].weight
        p = model.gate(h, data.valid).sum()
        gradient = torch.autograd.grad(p, [tower, model.gate.coupling], allow_unused=True)
        assert (gradient[0] is not None) == reached and gradient[1].any()


def test_the_contrastive_loss_of_aligned_rows_leaves_out_what_is_corrupted():
    h = {"a": torch.randn(6, 4), "b": torch.randn(6, 4)}
    intact = torch.ones(6, 2, dtype=torch.bool)
    intact[2, 0] = False
    kept = [0, 1, 3, 4, 5]
    wanted = recipe.info_nce(h["a"][kept], h["b"][kept], recipe.TEMPERATURE)
    assert torch.allclose(recipe.alignment(h, intact), wanted)


def test_the_mean_field_row_gates_by_mean_field(few_items, thinned):
    model, data = recipe.fit("six views, mean field", 0), items(thinned, "six views, mean field")
    with torch.no_grad():
        model.gate.coupling.fill_(2.0)
        output = model(data.x, data.valid)[1]
        potentials = model.gate.potentials(output.features, data.valid)
    assert torch.allclose(output.confidence, recipe.mean_field(*potentials))
    error = (output.confidence - scores.crf_marginals(*potentials)).abs()
    found = scores.mean_field_error(model, recipe.untouched(data))
    assert (
        found["mean field, largest error"] == pytest.approx(error.max().item(), abs=1e-6)
        and error.max() > 1e-3
    )


def test_an_unused_gate_learns_but_weighs_nothing(few_items, thinned):
    row = "two views, gate unused"
    model, data = recipe.fit(row, 0), items(thinned, row)
    before = model(data.x, data.valid)[0]
    fresh = recipe.build(recipe.settings(row), 4)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(model.unused.parameters(), fresh.unused.parameters(), strict=True)
    ]
    assert any(moved)
    with torch.no_grad():
        model.unused.scores[0][2].bias.add_(5)
    assert torch.equal(model(data.x, data.valid)[0], before)


def test_a_joint_gate_is_no_field_but_lets_every_modality_speak_about_every_other(few_items, thinned):
    row = "six views, joint gate"
    model, data = recipe.fit(row, 0), items(thinned, row)
    h = model.towers.encode(data.x, data.valid)
    theta, pairwise = model.gate.potentials(h, data.valid)
    assert not pairwise.any()
    torch.testing.assert_close(model.gate(h, data.valid), theta.sigmoid())
    changed = {**h, "pixels": h["pixels"] + 1}
    assert (model.gate(changed, data.valid) != model.gate(h, data.valid)).any(0).all()


def test_an_mlp_fuser_ignores_what_is_absent_and_is_not_linear():
    fuser, h = recipe.MLPFusion({"a": 4, "b": 4}, 3), torch.randn(5, 4)
    there = torch.tensor([True, False]).expand(5, 2)
    found = [fuser({"a": h, "b": other}, there)[0] for other in (torch.zeros(5, 4), torch.randn(5, 4))]
    assert torch.equal(*found)
    point = [fuser({"a": k * h, "b": h})[0] for k in (0, 1, 2)]
    assert not torch.allclose(point[0] + point[2], 2 * point[1], atol=1e-3)


def test_a_longer_row_takes_twice_the_steps(tiny, few_items):
    tiny(steps=3)
    short, longer = (recipe.fit(f"two views, towers{more}", 0) for more in ("", ", longer"))
    assert len(longer.history.loss) == 2 * len(short.history.loss) == 6


def test_presence_sees_nothing_of_what_modalities_hold(thinned):
    data = items(thinned, "things, presence")
    model = baselines.Linear(data, "things", 0, "presence")
    other = replace(data, x={m: torch.zeros_like(x) for m, x in data.x.items()})
    assert torch.equal(model.right(data), model.right(other))
    assert set(model.model.predict(baselines.presence(data))) <= set(data.y.tolist())


def test_one_left_out_gives_one_modality_no_weight(few_items, thinned):
    for row in ("two views, one left out", "six views, one left out"):
        model, data = recipe.fit(row, 0), items(thinned, row)
        weights = model(data.x, data.valid)[1].weights
        assert ((weights == 0).sum(1) == 1).all()


def test_an_oracle_does_not_see_what_is_corrupted_and_only_sees_its_own(thinned):
    data = items(thinned, "two views, oracle")
    damaged = tasks.version("noisy 2", *tasks.one_of(data, "pixels"))
    for row, seen in (("oracle", [True, False]), ("only pixels", [False, True]), ("towers", [True, True])):
        assert recipe.shown(recipe.settings(f"two views, {row}"), damaged)[0].tolist() == seen


def test_frozen_towers_are_trained_alone_first_and_then_no_more(few_items, monkeypatch):
    taught = {}

    def keep(model, *arguments, **more):
        recipe_train_alone(model, *arguments, **more)
        taught.update({k: x.clone() for k, x in model.towers.towers.state_dict().items()})

    recipe_train_alone = recipe.train_alone
    monkeypatch.setattr(recipe, "train_alone", keep)
    for before in ("frozen", "frozen, then trained"):
        model = recipe.fit(f"two views, {before}", 0)
        same = [torch.equal(x, taught[k]) for k, x in model.towers.towers.state_dict().items()]
        assert all(same) == (before == "frozen"), before


def test_every_encoder_is_trained_for_as_many_steps_however_it_is_trained(tiny, few_items, monkeypatch):
    tiny(steps=6)
    steps = []

    def count(model, batch_loss, n, train=recipe.train, **more):
        tower = next(iter((model.towers.towers if hasattr(model, "towers") else model[0]).values()))
        steps.append(n if next(tower.parameters()).requires_grad else 0)
        return train(model, batch_loss, n, **more)

    monkeypatch.setattr(recipe, "train", count)
    for row in ("+ gate", "pre-trained", "frozen, then trained", "frozen", "frozen, Transformer"):
        steps.clear()
        recipe.fit(f"six views, {row}", 0)
        assert sum(steps) == 6, row


def test_the_gate_is_looked_at_on_its_way(tiny, few_items):
    tiny(steps=40)
    figures = recipe.run("six views, + gate", 0)
    assert {f"marginal, intact @ {step}" for step in look_steps(40)} <= set(figures)
    clean = recipe.run("six views, + gate, clean", 0)
    assert "marginal, intact @ 0" in clean and "marginal, corrupted @ 0" not in clean


# What is found of a gate


def test_a_gate_that_knows_everything_has_the_best_figures_and_its_opposite_the_worst():
    data = marked(50)
    versions = {
        (kind, m): tasks.version(kind, *tasks.one_of(data, m)) for kind in tasks.VERSIONS for m in data.x
    }
    for name, known in (("best", 1.0), ("worst", 0.0)):
        for kind in ("swapped", "noisy 2"):
            damaged = versions[kind, "m1"]
            p = torch.where(damaged.corrupted, 1 - known, known)
            assert scores.least_trusted(damaged, p).mean() == pytest.approx(known if name == "best" else 0)
            assert scores.auc(p[damaged.corrupted], p[~damaged.corrupted]) == known
    undecided = torch.full((50, 3), 0.5)
    assert scores.least_trusted(versions["swapped", "m0"], undecided).mean() == pytest.approx(1 / 3)


def test_marginals_that_are_frequencies_are_calibrated_and_surer_ones_are_not():
    intact = torch.arange(100) < 80
    honest = scores.reliability(torch.full((100,), 0.8), intact)
    assert honest["ece, gate"] == pytest.approx(0, abs=1e-6) and honest["reliable, items @ 8"] == 100
    sure = scores.reliability(torch.full((100,), 0.95), intact)
    assert sure["ece, gate"] == pytest.approx(0.15, abs=1e-6)
    assert sure["reliable, share @ 9"] == pytest.approx(0.8)


def test_interaction_figures_are_those_of_the_taker_that_was_swapped():
    gates = {"clean": {"a": torch.tensor([0.8, 0.6])}, ("swapped", "a"): {"a": torch.tensor([0.0, 0.2])}}
    found = scores.interaction_figures(gates)
    assert found["interaction, agreeing"] == pytest.approx(0.7)
    assert found["interaction, disagreeing"] == pytest.approx(0.1) and found["closed, disagreeing"] == 0.5


# Baselines


def test_the_mean_pool_is_late_fusion_s_own(thinned):
    late = LateFusion({"a": 3, "b": 5}, 4)
    features = {"a": torch.randn(6, 3), "b": torch.randn(6, 5)}
    valid = torch.tensor([[True, True], [True, False], [False, True]] * 2)
    log_p = torch.stack([*late.modality_logits(features, valid).values()], 1).log_softmax(2)
    assert torch.allclose(baselines.pool(log_p, valid.float(), "mean"), late(features, valid)[0], atol=1e-6)


@pytest.mark.parametrize("kind", baselines.POOLS)
def test_an_absent_modality_has_no_influence_on_a_pool(kind):
    log_p = torch.randn(5, 3, 4).log_softmax(2)
    valid = torch.tensor([1.0, 0, 1]).expand(5, 3)
    other = log_p.clone()
    other[:, 1] = torch.randn(5, 4).log_softmax(1)
    assert torch.equal(baselines.pool(log_p, valid, kind), baselines.pool(other, valid, kind))
    nothing = baselines.pool(log_p, torch.zeros_like(valid), kind)
    assert torch.allclose(nothing.exp(), torch.full((5, 4), 0.25))


def test_a_pool_by_entropy_leans_to_the_surer_head_and_one_by_agreement_to_the_majority():
    log_p = torch.tensor([[[0.98, 0.02], [0.4, 0.6], [0.4, 0.6]]]).log()
    valid = torch.ones(1, 3)
    p = {kind: baselines.pool(log_p, valid, kind).exp()[0, 0] for kind in baselines.POOLS}
    assert p["agreement"] < 0.5 < p["mean"] < p["entropy"]
    assert baselines.pool(log_p, torch.tensor([[0.1, 1, 1]]), "mean").exp()[0, 0] < 0.5
    with pytest.raises(ValueError, match="kind: expected one of mean, .*; found 'loudest'"):
        baselines.pool(log_p, valid, "loudest")


def test_a_capped_answer_is_that_of_a_view_that_may_be_foreign_and_leads_by_no_more_than_it_may():
    p, foreign = torch.randn(50, 4).mul(9).double().softmax(1), 0.2
    capped = baselines.cap(p.log(), foreign).exp()
    for right in range(4):
        by_loop = sum(p[:, c] * (1 - foreign if c == right else foreign / 3) for c in range(4))
        assert torch.allclose(capped[:, right], by_loop)
    assert torch.allclose(capped.sum(1), torch.ones(50).double())
    lead = (capped.amax(1) / capped.amin(1)).log()
    assert lead.max() <= np.log(0.8 * 3 / 0.2) + 1e-9 and lead.max() > np.log(0.8 * 3 / 0.2) - 0.1
    assert torch.isfinite(baselines.cap(torch.tensor([0.0, -torch.inf]))).all()


def test_a_doubted_answer_is_mixed_with_knowing_nothing_as_far_as_it_is_not_trusted():
    log_p, trust = torch.randn(5, 3, 4).mul(99).log_softmax(2), torch.tensor([1.0, 0.5, 1e-6]).expand(5, 3)
    mixed = [t * log_p[:, m].exp() + (1 - t) / 4 for m, t in enumerate(trust[0])]
    expected = torch.stack(mixed, 1).clamp(min=torch.finfo(torch.float32).tiny).log().mean(1).log_softmax(1)
    assert torch.allclose(baselines.pool(log_p, trust, "doubted"), expected, atol=1e-4)
    assert torch.isfinite(baselines.pool(log_p, torch.zeros(5, 3), "doubted")).all()


def test_a_linear_pool_is_the_mean_of_the_probabilities_of_what_is_there():
    log_p, trust = torch.randn(5, 3, 4).log_softmax(2), torch.tensor([1.0, 0, 1]).expand(5, 3)
    expected = (log_p[:, 0].exp() + log_p[:, 2].exp()) / 2
    assert torch.allclose(baselines.pool(log_p, trust, "linear").exp(), expected, atol=1e-6)


def test_one_loss_is_that_of_the_pool_and_not_of_each_head(thinned):
    row = "six views, one loss, capped"
    s, data = recipe.settings(row), items(thinned, row)
    model = recipe.build(s, 4).eval()
    loss, _ = recipe.loss_of(model, recipe.untouched(data), s, "cpu")
    logits, output = model(data.x, data.valid)
    assert torch.equal(loss, torch.nn.functional.cross_entropy(logits, data.y))
    heads = torch.stack(model.own_logits(output, data.valid), 1).log_softmax(2)
    assert torch.equal(logits, baselines.pool(heads, data.valid.float(), "capped"))


def test_heads_of_late_rows_learn_from_a_loss_each(thinned):
    s, data = recipe.settings("two views, late, mean"), items(thinned, "two views, late, mean")
    model = recipe.build(s, 4).eval()  # without dropout
    only_pixels = replace(data, valid=data.valid & torch.tensor([False, True]))
    loss, _ = recipe.loss_of(model, recipe.untouched(only_pixels), s, "cpu")
    heads = [head.weight for head in model.towers.fuser.heads.values()]
    first, second = torch.autograd.grad(loss, heads, allow_unused=True)
    assert second.any() and (first is None or not first.any())
    both, _ = recipe.loss_of(model, recipe.untouched(data), s, "cpu")
    other, _ = recipe.loss_of(model, recipe.untouched(replace(data, valid=~only_pixels.valid)), s, "cpu")
    assert both.item() == pytest.approx(loss.item() + other.item(), rel=1e-5)


def test_a_gate_over_separate_heads_learns_from_corruption_and_weights_their_pool(thinned):
    row = "two views, late, gate"
    s, data = recipe.settings(row), items(thinned, row)
    model = recipe.build(s, 4).eval()  # without dropout
    batch = recipe.damage(data, torch.Generator().manual_seed(0))
    loss, marginals = recipe.loss_of(model, batch, s, "cpu")
    assert torch.autograd.grad(loss, model.gate.coupling, retain_graph=True)[0].any()
    own = recipe.corruption_loss(marginals, batch.corrupted, batch.data.valid)
    without, _ = recipe.loss_of(model, batch, s | {"weight": 0.0}, "cpu")
    assert loss.item() == pytest.approx(without.item() + recipe.WEIGHT["digits"] * own.item(), rel=1e-5)
    with torch.no_grad():
        logits, output = model(data.x, data.valid)
        heads = torch.stack(model.own_logits(output, data.valid), 1).log_softmax(2)
    assert torch.equal(logits, baselines.pool(heads, output.confidence, "mean"))


def test_the_linear_baseline_answers_digits_and_things_above_chance(few_items):
    assert recipe.run("two views, linear", 0)["accuracy, clean"] > 0.7
    things = REAL("things", "test").y
    assert recipe.run("things, linear", 0)["accuracy, clean"] > things.bincount().max() / len(things)


def test_letter_pairs_count_each_letter_with_the_one_before_it():
    pairs = baselines.letter_pairs(torch.tensor([[1, 2, 1, 2, 0]]))[0].expm1().view(38, 38)
    assert pairs[0, 1] == 1 and pairs[1, 2] == 2 and pairs[2, 1] == 1 and pairs.sum() == 4
