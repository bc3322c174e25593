"""The DTL GAN: losses as written, each for its own networks, training that says when it fails."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor.fusion import GatedFusion
from mmtutor.gan import (
    DTLGAN,
    FORMS,
    DTLDiscriminator,
    DTLEncoder,
    DTLGenerator,
    Rule,
    dtl_losses,
    generator_losses,
    gradient_penalty,
    judge_losses,
    picture_branch,
    picture_maker,
    reconstruction_loss,
    train_gan,
    weighted_cross_entropy,
)

WIDTHS = {"a": 3, "b": 5}
PARTS = ("encoder", "decoders", "generator", "discriminator")


def gan(spectral=False, seed=0):
    torch.manual_seed(seed)
    branches = {m: nn.Sequential(nn.Linear(d, 8), nn.LeakyReLU(0.2)) for m, d in WIDTHS.items()}
    decoders = {m: nn.Linear(4, d) for m, d in WIDTHS.items()}
    draws = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 8))
    generator = DTLGenerator(draws, {m: (d,) for m, d in WIDTHS.items()}, noise=2)
    return DTLGAN(DTLEncoder(branches, 8, 4), decoders, generator, DTLDiscriminator(4, 16, spectral))


def views(n=16, seed=0):
    """Real things: the second view repeats the first."""
    a = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) + 2
    return {"a": a, "b": torch.cat([a, a[:, :2]], 1)}


def weights(model, part):
    return {name: p.clone() for name, p in getattr(model, part).state_dict().items()}


# Losses


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=6),
    st.lists(st.floats(-30, 30), min_size=1, max_size=6),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_losses_are_the_loops(real, fake, w_r, w_g):
    found = dtl_losses(torch.tensor(real).double(), torch.tensor(fake).double(), (w_r, w_g))

    def log_sigmoid(x):
        return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))

    said = -w_r * sum(map(log_sigmoid, real)) / len(real)
    said -= w_g * sum(log_sigmoid(-x) for x in fake) / len(fake)
    assert found["discriminator"].item() == pytest.approx(said / (w_r + w_g), abs=1e-6)
    assert found["generator"].item() == pytest.approx(-sum(map(log_sigmoid, fake)) / len(fake), abs=1e-6)
    assert found["matching"].item() == pytest.approx(-sum(fake) / len(fake) + math.log(w_r / w_g), abs=1e-5)


def test_equal_weights_are_pytorch_s_cross_entropy_if_there_are_as_many_of_each():
    logits, labels = torch.randn(12), torch.tensor([1.0, 0.0] * 6)
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(weighted_cross_entropy(logits, labels), expected)


def test_how_many_there_are_of_a_class_does_not_matter():
    real, fake = torch.randn(3), torch.randn(5)
    once, twice = dtl_losses(real, fake, (2, 1)), dtl_losses(real, fake.repeat(4), (2, 1))
    torch.testing.assert_close(once, twice)


def test_other_forms_are_as_written():
    real, fake = torch.randn(5), torch.randn(7)
    minimax = dtl_losses(real, fake, form="minimax")
    torch.testing.assert_close(minimax["generator"], (1 - fake.sigmoid()).log().mean())
    squares = dtl_losses(real, fake, (3.0, 1.0), form="least squares")
    expected = (3 * (real - 1).square().mean() + fake.square().mean()) / 4
    torch.testing.assert_close(squares["discriminator"], expected)
    torch.testing.assert_close(squares["generator"], (fake - 1).square().mean())
    assert set(squares) == {"discriminator", "generator"}


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.5, 2.0)])
def test_at_the_best_judge_matching_is_the_divergence_of_two_normal_distributions(weights):
    real, made = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(1.0, 0.5)
    x = made.icdf((torch.arange(200_000) + 0.5) / 200_000)
    best = real.log_prob(x) - made.log_prob(x) + math.log(weights[0] / weights[1])
    expected = torch.distributions.kl_divergence(made, real).item()
    assert dtl_losses(best, best, weights)["matching"].item() == pytest.approx(expected, abs=2e-3)


def test_losses_stay_finite_for_a_judge_who_is_sure():
    for form in FORMS:
        losses = dtl_losses(torch.tensor([300.0]), torch.tensor([-300.0]), form=form)
        assert all(loss.isfinite() for loss in losses.values())
    fake = torch.tensor([-300.0], requires_grad=True)
    slopes = {}
    for form in FORMS[:2]:
        (slopes[form],) = torch.autograd.grad(dtl_losses(fake, fake, form=form)["generator"], fake)
    assert slopes["non-saturating"].item() == -1 and slopes["minimax"].item() == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(0), torch.zeros(2)), r"real_logits: expected at least one logit, \(n,\); found \(0,\)"),
        (
            (torch.zeros(2), torch.zeros(2, 1)),
            r"fake_logits: expected at least one logit, \(n,\); found \(2, 1",
        ),
        ((torch.zeros(2), torch.zeros(2), (1.0, 0.0)), "w_g"),
        ((torch.zeros(2), torch.zeros(2), (math.nan, 1.0)), "w_r"),
    ],
)
def test_names_what_is_wrong_with_logits_and_weights(given, message):
    with pytest.raises(ValueError, match=message):
        dtl_losses(*given)


def test_names_an_unknown_form():
    with pytest.raises(
        ValueError, match="form: expected one of non-saturating, minimax, least squares; found"
    ):
        dtl_losses(torch.zeros(2), torch.zeros(2), form="hinge")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2]), "labels: expected 1 for real and 0 for generated, found 2"),
        (torch.tensor([0.0, 1.0, 0.5]), "labels: expected 1 for real and 0 for generated, found 0.5"),
        (torch.tensor([0, 1]), r"labels: expected one for each logit of \(B,\), found \(2,\) for \(3,\)"),
        (torch.tensor([1, 1, 1]), "fake_logits: expected at least one logit"),
    ],
)
def test_names_what_is_wrong_with_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        weighted_cross_entropy(torch.zeros(3), labels)


def test_penalty_is_half_the_mean_squared_slope_over_all_views():
    x = {"a": torch.randn(6, 3, requires_grad=True), "b": torch.randn(6, 5, requires_grad=True)}
    logits = (x["a"] ** 2).sum(1) + 3 * x["b"].sum(1)
    expected = ((2 * x["a"]).square().sum(1) + 9 * 5).mean() / 2
    torch.testing.assert_close(gradient_penalty(logits, x.values()), expected)


# Networks


def test_generator_cuts_its_row_into_views():
    made = gan().generator(torch.randn(7, 2))
    assert {m: view.shape for m, view in made.items()} == {"a": (7, 3), "b": (7, 5)}
    row = gan().generator.network(torch.ones(1, 2))
    one = gan().generator(torch.ones(1, 2))
    torch.testing.assert_close(torch.cat([one["a"], one["b"]], 1), row)


def test_two_pictures_are_six_channels():
    network = picture_maker(dim=4, width=4)
    generator = DTLGenerator(network, {"noto": (3, 32, 32), "fluent": (3, 32, 32)}, noise=4)
    noise = torch.randn(2, 4)
    made = generator(noise)
    torch.testing.assert_close(torch.cat([made["noto"], made["fluent"]], 1), network(noise))
    assert made["noto"].abs().max() <= 1 and picture_branch(8, width=4)(made["noto"]).shape == (2, 8)


def test_code_of_a_thing_does_not_depend_on_what_stands_for_an_absent_view():
    encoder, x = gan().encoder, views(4)
    alone = encoder({"b": x["b"]})
    here = torch.tensor([[False, True]] * 4)
    torch.testing.assert_close(encoder(x, here), alone)
    torch.testing.assert_close(encoder(x | {"a": torch.full((4, 3), 1e6)}, here), alone)
    assert not torch.allclose(encoder(x), alone)


def test_order_of_views_does_not_matter_and_another_fuser_can_be_put_in():
    model, x = gan(), views(4)
    torch.testing.assert_close(model.encoder({"b": x["b"], "a": x["a"]}), model.encoder(x))
    gated = DTLEncoder(dict(model.encoder.branches), 8, 4, GatedFusion({"a": 8, "b": 8}, 4))
    assert gated(x).shape == (4, 4)


def test_spectral_norm_bounds_how_far_a_logit_can_move():
    model = gan(spectral=True)
    for _ in range(30):  # the power iteration settles
        model.discriminator(torch.randn(8, 4))
    model.eval()
    z, step = torch.randn(200, 4), torch.randn(200, 4)
    moved = (model.discriminator(z + step) - model.discriminator(z)).abs()
    assert (moved <= step.norm(dim=1) * 1.01).all()


def test_averaged_generator_draws_and_is_not_trained():
    model = gan()
    assert not any(p.requires_grad for p in model.averaged.parameters())
    a, b = (model.generate(5, torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(a, b)
    assert not a["a"].requires_grad and a["b"].shape == (5, 5)


def test_fills_in_every_view_from_one():
    told = gan().fill_in({"a": views(4)["a"]})
    assert {m: view.shape for m, view in told.items()} == {"a": (4, 3), "b": (4, 5)}


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({}, "views: expected some of a, b; found none"),
        ({"c": torch.zeros(2, 3)}, "views: expected some of a, b; found c"),
        (
            {"a": torch.zeros(2, 3), "b": torch.zeros(3, 5)},
            "views: expected as many items of each modality, found",
        ),
    ],
)
def test_encoder_names_what_is_wrong_with_views(x, message):
    with pytest.raises(ValueError, match=message):
        gan().judge(x)


def test_networks_that_do_not_fit_are_named():
    model = gan()
    with pytest.raises(ValueError, match=r"noise: expected \(B, 2\), found \(4, 3\)"):
        model.generator(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="network: expected 9 numbers an item, found 8"):
        DTLGenerator(model.generator.network, {"a": (3,), "b": (6,)}, 2)(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="expected the same modalities, found"):
        DTLGAN(model.encoder, {"a": nn.Linear(4, 3)}, model.generator, model.discriminator)


# Who is trained by what


def test_generator_s_step_does_not_even_move_what_spectral_norm_estimates():
    model = gan(spectral=True).train()
    before = weights(model, "discriminator")
    generator_losses(model, model.generator(model.noise(16)), Rule())
    assert all(torch.equal(p, before[name]) for name, p in weights(model, "discriminator").items())
    assert model.discriminator.training
    judge_losses(model, views(), model.generator(model.noise(16)), Rule())
    assert not all(torch.equal(p, before[name]) for name, p in weights(model, "discriminator").items())


def test_feature_maps_are_no_codes():
    for wrong in (torch.zeros(8, 4, 4, 4), torch.zeros(8, 5), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"codes: expected shape \(B, 4\), found"):
            gan().discriminator(wrong)


@pytest.mark.parametrize("judged", [True, False])
def test_judge_s_loss_reaches_discriminator_and_decoders_and_the_encoder_by_the_rule(judged):
    model = gan()
    for reconstruction in (0.0, 1.0):
        rule = Rule(judged=judged, reconstruction=reconstruction)
        loss = judge_losses(model, views(), model.generator(model.noise(16)), rule)["loss"]
        reached = {}
        for part in PARTS:
            found = torch.autograd.grad(
                loss, [*getattr(model, part).parameters()], allow_unused=True, retain_graph=True
            )
            reached[part] = any(slope is not None and bool(slope.any()) for slope in found)
        assert reached["discriminator"] and not reached["generator"]
        assert reached["decoders"] == (reconstruction > 0)
        assert reached["encoder"] == (judged or reconstruction > 0)


def test_a_step_of_each_side_leaves_the_other_bitwise_unchanged():
    model, rule = gan(), Rule()
    sides = [
        (
            judge_losses(model, views(), model.generator(model.noise(16)), rule),
            {"encoder", "decoders", "discriminator"},
        ),
        (generator_losses(model, model.generator(model.noise(16)), rule), {"generator"}),
    ]
    for said, own in sides:
        before = {part: weights(model, part) for part in PARTS}
        optimiser = rule.optimise(*(getattr(model, part) for part in own))
        optimiser.zero_grad()
        said["loss"].backward(retain_graph=True)
        optimiser.step()
        for part in PARTS:
            after = weights(model, part)
            same = all(torch.equal(p, after[name]) for name, p in before[part].items())
            assert same == (part not in own)
        sides[1] = (generator_losses(model, model.generator(model.noise(16)), rule), {"generator"})


def test_parts_of_the_judge_s_loss_are_as_written():
    model, x, rule = gan(), views(), Rule(penalty=0.5, reconstruction=2.0, hidden=0.0, weights=(3.0, 1.0))
    made = model.generator(model.noise(16))
    said = judge_losses(model, x, made, rule)
    known = dtl_losses(model.judge(x), model.judge(made), (3.0, 1.0))["discriminator"]
    torch.testing.assert_close(said["discriminator"], known)
    real = {m: view.clone().requires_grad_() for m, view in x.items()}
    torch.testing.assert_close(said["penalty"], gradient_penalty(model.judge(real), real.values()))
    told = model.decode(model.encoder(x))
    expected = ((told["a"] - x["a"]).square().mean() + (told["b"] - x["b"]).square().mean()) / 2
    torch.testing.assert_close(said["reconstruction"], expected)
    total = known + 0.5 * said["penalty"] + 2 * said["reconstruction"]
    torch.testing.assert_close(said["loss"], total)
    without = judge_losses(model, x, made, rule, penalise=0)
    assert "penalty" not in without
    torch.testing.assert_close(without["loss"], known + 2 * without["reconstruction"])


def test_hidden_views_are_told_from_the_other_and_never_all_hidden():
    model, x = gan(), views(2000)
    found = model.encoder.features(x)
    without = reconstruction_loss(model, x, found, 0.0)
    always = reconstruction_loss(model, x, found, 1.0, torch.Generator().manual_seed(0))
    alone = [model.fill_in({m: x[m]}) for m in x]
    each = [sum((told[m] - x[m]).square().mean() for m in x) / 2 for told in alone]
    assert (
        min(each) - 0.1 < always < max(each) + 0.1 and always.isfinite() and not torch.equal(without, always)
    )


@pytest.mark.parametrize("form", FORMS)
def test_generator_minimises_its_own_loss_and_as_much_matching_as_the_rule_says(form):
    model = gan()
    made = model.generator(torch.randn(8, 2))
    logits = model.judge(made)
    known = dtl_losses(logits, logits, form=form)
    said = generator_losses(model, made, Rule(form=form, generator=2.0))
    torch.testing.assert_close(said["loss"], 2 * known["generator"])
    if form != "least squares":
        said = generator_losses(model, made, Rule(form=form, generator=0.0, matching=3.0))
        torch.testing.assert_close(said["loss"], 3 * known["matching"])


def test_rules_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="optimiser: expected Adam or SGD, found 'LBFGS'"):
        Rule(optimiser="LBFGS")
    with pytest.raises(ValueError, match="matching: expected 0 for least squares"):
        Rule(form="least squares", matching=1.0)


# Training


def test_generator_learns_where_real_things_are_and_that_views_agree():
    model, generator = gan(), torch.Generator().manual_seed(0)
    history = train_gan(
        model, lambda: views(64, int(torch.randint(1000, (1,), generator=generator))), 800,
        Rule(rate=5e-3, penalty=0.1), progress=False, generator=generator,
    )  # fmt: skip
    made = model.generate(500, generator)
    assert (made["a"].mean(0) - 2).abs().max() < 0.7
    apart = (made["a"] - made["b"][:, :3]).square().mean()
    assert apart < (made["a"] - made["b"][:, :3].roll(1, 0)).square().mean() / 2
    assert history.stopped == "finished" and history.best_step == 800
    assert len(history.losses["loss"]) == 800 and 0 < history.losses["real"][-1] < 1


@pytest.mark.parametrize(
    "rule", [Rule(optimiser="SGD"), Rule(form="least squares"), Rule(judged=False, penalty=0)]
)
def test_every_rule_takes_a_step(rule):
    model = gan()
    before = weights(model, "generator")
    train_gan(model, views, 5, rule, progress=False)
    assert not torch.equal(weights(model, "generator")["network.0.weight"], before["network.0.weight"])


def test_encoder_is_left_alone_where_nothing_trains_it():
    model = gan()
    before = weights(model, "encoder")
    train_gan(model, views, 8, Rule(judged=False, reconstruction=0.0), progress=False)
    assert all(torch.equal(p, before[name]) for name, p in weights(model, "encoder").items())


def test_best_scored_weights_are_kept_and_looks_are_asked_for():
    model, scores, looks = gan(), iter([1.0, 3.0, 2.0]), []
    kept = {}

    def score():
        kept[len(kept)] = model.averaged.network[0].weight.clone()
        return next(scores)

    history = train_gan(model, views, 30, score=score, watch=looks.append, every=10, progress=False)
    assert history.scores == {10: 1.0, 20: 3.0, 30: 2.0} and history.best_step == 20
    assert torch.equal(model.averaged.network[0].weight, kept[1]) and looks == [0, 10, 20, 30]
    assert not model.training


@pytest.mark.parametrize("optimiser", ["SGD", "Adam"])
def test_a_rate_that_diverges_stops_with_a_message_and_the_best_model_stays(optimiser):
    model, looks = gan(), []

    def score():
        looks.append({name: p.clone() for name, p in model.state_dict().items()})
        return -float(len(looks))  # the first is the best

    train_gan(model, views, 5, score=score, every=5, progress=False)
    rule = Rule(optimiser=optimiser, rate=1e4, penalty=0.0)
    message = r"step \d+: the (discriminator|generator)'s loss is .*the model has its weights of step \d+"
    with pytest.raises(FloatingPointError, match=message):
        train_gan(model, views, 500, rule, score=score, every=1000, progress=False)
    assert all(torch.equal(p, looks[0][name]) for name, p in model.state_dict().items())


def test_nan_in_real_things_stops_at_once():
    model = gan()
    before = weights(model, "encoder")
    bad = views()
    bad["a"][0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="step 1: the discriminator's loss is nan"):
        train_gan(model, lambda: bad, 10, progress=False)
    assert all(torch.equal(p, before[name]) for name, p in weights(model, "encoder").items())


def test_interrupting_keeps_what_was_best():
    model, calls = gan(), iter(range(100))

    def batch():
        if next(calls) == 25:
            raise KeyboardInterrupt
        return views()

    scores = iter([1.0, 3.0, 2.0])
    history = train_gan(model, batch, 100, score=lambda: next(scores), every=8, progress=False)
    assert history.stopped == "interrupted" and history.best_step == 16


def test_interrupting_without_a_score_keeps_the_last_step():
    model, calls, before = gan(), iter(range(100)), []

    def batch():
        before.append(model.generator.network[0].weight.clone())
        if next(calls) == 5:
            raise KeyboardInterrupt
        return views()

    history = train_gan(model, batch, 100, every=50, progress=False)
    assert history.stopped == "interrupted" and history.best_step == 5
    assert torch.equal(model.generator.network[0].weight, before[-1])
    assert len(history.losses["penalty"]) == 1 and len(history.losses["made"]) == 5


def test_divergence_in_mid_run_leaves_the_best_of_that_run():
    model, kept, scores = gan(), [], iter([1.0, 2.0, 0.0])

    def score():
        kept.append(model.averaged.network[0].weight.clone())
        return next(scores)

    def batch():
        return views() if len(kept) < 3 else {m: view * torch.nan for m, view in views().items()}

    with pytest.raises(FloatingPointError, match="step 16: .* the model has its weights of step 10"):
        train_gan(model, batch, 100, score=score, every=5, progress=False)
    assert torch.equal(model.averaged.network[0].weight, kept[1])


def test_a_score_that_is_no_number_stops():
    with pytest.raises(FloatingPointError, match="step 5: the score is nan"):
        train_gan(gan(), views, 20, score=lambda: math.nan, every=5, progress=False)


def test_views_of_different_sizes_and_no_steps_are_named():
    with pytest.raises(ValueError, match="views: expected as many items of each modality"):
        train_gan(gan(), lambda: views() | {"b": torch.zeros(3, 5)}, 5, progress=False)
    with pytest.raises(ValueError, match="batch: expected every modality, found no b"):
        train_gan(gan(), lambda: {"a": views()["a"]}, 5, progress=False)
    with pytest.raises(ValueError, match="steps: expected at least 1, found 0"):
        train_gan(gan(), views, 0)


def test_one_modality_alone_can_be_learnt():
    draws = DTLGenerator(nn.Linear(2, 3), {"a": (3,)}, noise=2)
    model = DTLGAN(
        DTLEncoder({"a": nn.Linear(3, 8)}, 8, 4), {"a": nn.Linear(4, 3)}, draws, DTLDiscriminator(4)
    )
    train_gan(model, lambda: {"a": views()["a"]}, 5, progress=False)
    assert model.generate(2)["a"].shape == (2, 3)


def test_same_seed_gives_the_same_model():
    def trained():
        model = gan()
        train_gan(model, views, 10, progress=False, generator=torch.Generator().manual_seed(0))
        return model.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(p, second[name]) for name, p in first.items())
