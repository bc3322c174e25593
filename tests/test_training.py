"""The training loop: what it keeps when it ends, is stopped, interrupted, resumed or fails."""

import contextlib
import io
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmtutor import training
from mmtutor.training import History, train

X = torch.linspace(-1, 1, 20)[:, None]


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))


def regression(model: nn.Module, fail_at: int | None = None, error: type[BaseException] = KeyboardInterrupt):
    """The loss of a step on a batch that depends on the step alone; at one step it may fail instead."""

    def batch_loss(step: int) -> Tensor:
        if step == fail_at:
            raise error
        x = X[torch.randperm(20, generator=torch.Generator().manual_seed(step))[:10]]
        return (model(x) - x**2).square().mean()

    return batch_loss


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def run(model, loss, steps=40, **options) -> History:
    return train(model, loss, steps, rate=0.03, progress=False, **options)


def test_training_lowers_the_loss_counts_the_steps_and_ends_in_evaluation_mode():
    model, seen = small_model(), []
    loss = regression(model)
    history = run(model, lambda step: seen.append((step, model.training)) or loss(step), 200)
    assert seen == [(step, True) for step in range(200)]
    assert history.stopped == "finished" and history.best_step == len(history.loss) == 200
    assert sum(history.loss[-20:]) < 0.2 * sum(history.loss[:20])
    assert history.seconds > 0 and not model.training


def test_the_same_seed_gives_the_same_run():
    first, second = small_model(), small_model()
    assert run(first, regression(first)).loss == run(second, regression(second)).loss
    assert same(weights(first), weights(second))


def test_the_weights_that_scored_best_are_restored():
    model, at_judgement = small_model(), {}
    scores = iter([0.1, 0.7, 0.3, 0.7, 0.2])  # of two equal scores the later counts

    def score():
        assert not model.training and not torch.is_grad_enabled()
        at_judgement[10 * (len(at_judgement) + 1)] = weights(model)
        return next(scores)

    history = run(model, regression(model), 50, score=score, every=10)
    assert history.scores == {10: 0.1, 20: 0.7, 30: 0.3, 40: 0.7, 50: 0.2}
    assert history.best_step == 40 and same(weights(model), at_judgement[40])
    assert not same(weights(model), at_judgement[50]) and same(history.state["last"], at_judgement[50])


def test_the_last_step_is_judged_even_if_it_is_not_due():
    model = small_model()
    assert list(run(model, regression(model), 25, score=lambda: 1.0, every=10).scores) == [10, 20, 25]


def test_training_stops_early_once_patience_is_spent():
    model, at_judgement = small_model(), []
    scores = iter([1.0, 3.0, 2.0, 2.5, 0.0, 9.0])

    def score():
        at_judgement.append(weights(model))
        return next(scores)

    history = run(model, regression(model), 60, score=score, every=10, patience=3)
    assert history.stopped == "early" and len(history.loss) == 50
    assert history.best_step == 20 and same(weights(model), at_judgement[1])


def test_an_interrupt_keeps_the_best_weights_judged_so_far():
    model, at_judgement = small_model(), []
    scores = iter([2.0, 1.0])

    def score():
        at_judgement.append(weights(model))
        return next(scores)

    history = run(model, regression(model, fail_at=25), score=score, every=10)
    assert history.stopped == "interrupted" and len(history.loss) == 25
    assert history.best_step == 10 and same(weights(model), at_judgement[0]) and not model.training


def test_an_interrupt_without_scores_keeps_the_last_weights():
    model, kept = small_model(), {}
    loss = regression(model, fail_at=12)
    history = run(model, lambda step: kept.update(weights(model)) or loss(step))
    assert (history.stopped, history.best_step) == ("interrupted", 12) and same(weights(model), kept)


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("stops", [[0], [1], [17], [10, 25]])
def test_a_resumed_run_ends_as_an_uninterrupted_one(scored, stops):
    def options(model):
        return dict(score=lambda: -(model(X) - X**2).square().mean().item(), every=10) if scored else {}

    straight = small_model()
    expected = run(straight, regression(straight), **options(straight))
    model, history = small_model(), None
    for stop in stops:
        history = run(model, regression(model, fail_at=stop), resume=history, **options(model))
        assert history.stopped == "interrupted" and len(history.loss) == stop
    history = run(model, regression(model), resume=history, **options(model))
    assert history.stopped == "finished" and history.loss == expected.loss
    assert history.scores == expected.scores and history.best_step == expected.best_step
    assert same(weights(model), weights(straight))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_at_its_step_and_leaves_the_weights_of_the_step_before(bad):
    model, kept = small_model(), {}
    loss = regression(model)

    def batch_loss(step):
        kept.update({name: p.detach().clone() for name, p in model.named_parameters()})
        return loss(step) * (bad if step == 7 else 1)

    with pytest.raises(FloatingPointError, match=f"step 7: the loss is {bad}"):
        run(model, batch_loss)
    assert same(kept, weights(model)) and not model.training


def test_any_other_error_is_passed_on():
    model = small_model()
    with pytest.raises(ZeroDivisionError):
        run(model, regression(model, fail_at=3, error=ZeroDivisionError))


def test_weight_decay_shrinks_matrices_and_leaves_vectors_alone():
    model = small_model()
    nn.init.ones_(model[0].bias)
    before = weights(model)
    train(
        model,
        lambda step: 0 * sum(p.sum() for p in model.parameters()),
        20,
        rate=0.1,
        weight_decay=0.5,
        progress=False,
    )
    after = weights(model)
    assert (after["0.weight"].abs() < 0.9 * before["0.weight"].abs()).all()
    assert torch.equal(after["0.bias"], before["0.bias"]) and torch.equal(
        after["1.weight"], before["1.weight"]
    )


def test_weights_that_are_frozen_stay():
    model = small_model()
    model[0].requires_grad_(False)
    before = weights(model)
    run(model, regression(model))
    after = weights(model)
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert not torch.equal(after["3.weight"], before["3.weight"])


def test_a_gradient_is_clipped_to_the_given_norm(monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(optimiser, *args, **kwargs):
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"]]
        norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
        return step(optimiser, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    model = small_model()
    loss = regression(model)
    run(model, lambda step: 1000 * loss(step), 10, clip=0.5)
    assert norms == pytest.approx([0.5] * 10, rel=1e-3)


def test_the_rate_rises_to_its_peak_and_falls_again(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def spy(optimiser, *args, **kwargs):
        rates.append(optimiser.param_groups[0]["lr"])
        return step(optimiser, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    model = small_model()
    run(model, regression(model), 100)
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.03, rel=1e-2) and 20 < peak < 40
    assert rates[0] < 0.002 and rates[-1] < 1e-4
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(
        rates[peak:], reverse=True
    )


@pytest.mark.parametrize("steps", [0, -3])
def test_fewer_than_one_step_is_refused(steps):
    model = small_model()
    with pytest.raises(ValueError, match=f"steps: expected at least 1, found {steps}"):
        run(model, regression(model), steps)


@pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:User provided device_type")
def test_arithmetic_is_bfloat16_on_cuda_alone(monkeypatch):
    monkeypatch.setattr(training, "device", lambda: torch.device("cpu"))
    assert isinstance(training.autocast(), contextlib.nullcontext)
    monkeypatch.setattr(training, "device", lambda: torch.device("cuda"))
    context = training.autocast()
    assert isinstance(context, torch.autocast)
    assert (context.device, context.fast_dtype) == ("cuda", torch.bfloat16)


def test_the_progress_bar_shows_loss_score_steps_a_second_and_time_left(monkeypatch):
    screen, model = io.StringIO(), small_model()
    monkeypatch.setattr(training, "tqdm", partial(tqdm, file=screen, mininterval=0, miniters=1))
    loss = regression(model)
    history = train(model, loss, 20, rate=0.03, score=lambda: 0.25, every=10, progress=True)
    line = screen.getvalue().split("\r")[15]
    assert f"loss={history.loss[13]:.3f}" in line and "score=0.250" in line
    assert "/20 [" in line and "step/s" in line and "<00:00" in line
    assert screen.getvalue().split("\r")[-2].isspace()  # at the end it clears itself away
