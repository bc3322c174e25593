"""The training loop: what it keeps when it ends, is stopped, interrupted, resumed or fails."""

import contextlib
import io
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmtutor import training
from mmtutor.contrastive import info_nce
from mmtutor.training import (
    History,
    gather,
    gathered_info_nce,
    in_chunks,
    own_share,
    process_group,
    processes,
    train,
)

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


# -- several processes --------------------------------------------------------------------------------------

PROGRAM = Path(__file__).with_name("two_processes.py")


def start(count: int, folder: Path, *tasks: str) -> subprocess.CompletedProcess:
    """Run tasks of the program in processes that ``torchrun`` starts; alone for a count of one."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [sys.executable, *(several if count > 1 else []), PROGRAM, folder, *tasks]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[1])}
    return subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[tuple[int, int], dict]:
    """What process ``rank`` of ``count`` found, for (0, 1), (0, 2) and (1, 2)."""
    folder = tmp_path_factory.mktemp("processes")
    for count, tasks in ((1, ["losses", "trained"]), (2, ["losses", "trained", "gathered", "unequal"])):
        done = start(count, folder, *tasks)
        assert done.returncode == 0, done.stderr[-3000:]
    keys = (0, 1), (0, 2), (1, 2)
    return {key: torch.load(folder / "{} of {}.pt".format(*key), weights_only=True) for key in keys}


def close(one: list[Tensor], other: list[Tensor], atol: float = 1e-6) -> bool:
    return all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("way", ["at once", "in chunks"])
def test_two_processes_have_the_loss_and_the_gradients_of_one(runs, way):
    whole = runs[0, 1]["losses"]["whole"]
    found = [runs[rank, 2]["losses"][way] for rank in (0, 1)]
    assert found[0]["loss"] != found[1]["loss"]  # each has its own pairs
    assert math.isclose(sum(each["loss"] for each in found) / 2, whole["loss"], abs_tol=1e-6)
    assert min(slope.abs().max() for slope in whole["gradients"]) > 1e-3
    for each in found:
        assert close(each["gradients"], whole["gradients"])
    alone = runs[0, 1]["losses"][way]
    assert math.isclose(alone["loss"], whole["loss"], abs_tol=1e-6)
    assert close(alone["gradients"], whole["gradients"])


def test_two_processes_train_to_the_weights_of_one_and_stay_bitwise_alike(runs):
    one, first, second = (runs[key]["trained"] for key in ((0, 1), (0, 2), (1, 2)))
    assert close(first["weights"], one["weights"])
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    mean = (torch.tensor(first["loss"]) + torch.tensor(second["loss"])) / 2
    assert torch.allclose(mean, torch.tensor(one["loss"]), atol=1e-6)


def test_gathering_keeps_the_order_of_processes_and_sums_their_gradients(runs):
    for rank in (0, 1):
        found = runs[rank, 2]["gathered"]
        assert torch.equal(found["rows"], torch.arange(8.0).reshape(4, 2))
        assert torch.equal(found["gradient"], torch.full((2, 2), 3.0))  # 1 from process 0, 2 from process 1


def test_unequal_numbers_of_rows_are_refused_in_every_process(runs):
    expected = "z: expected as many rows in each process, found [1, 2]"
    assert [runs[rank, 2]["unequal"]["problem"] for rank in (0, 1)] == [expected, expected]


def test_a_nan_in_one_process_ends_them_all_with_a_message(tmp_path):
    done = start(2, tmp_path, "nan")
    assert done.returncode != 0 and not list(tmp_path.iterdir())
    assert "expected finite embeddings, found NaN" in done.stderr


def test_alone_nothing_is_gathered_and_the_whole_batch_is_the_own_share():
    z = torch.randn(3, 2)
    with process_group() as found:
        assert found == processes() == (0, 1)
        assert gather(z) is z and torch.equal(own_share(z), z)


def test_a_batch_that_cannot_be_divided_equally_is_refused(monkeypatch):
    monkeypatch.setattr(training, "processes", lambda: (1, 3))
    assert own_share(torch.arange(6)).tolist() == [2, 3]
    with pytest.raises(ValueError, match="batch: expected a multiple of 3 processes, found 8 items"):
        own_share(torch.arange(8))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RuntimeError, match="expected a GPU for each process, found 1 for 2"), process_group():
        pass


def test_the_gathered_loss_computes_in_full_precision_and_refuses_what_info_nce_refuses():
    a, b = torch.randn(2, 6, 4).bfloat16()
    assert torch.isclose(gathered_info_nce(a, b), info_nce(a, b))
    assert gathered_info_nce(a, b).dtype == torch.float32
    for bad, message in (((a, b[:5]), "one shape"), ((a * math.nan, b), "NaN"), ((a, b, 0.0), "temperature")):
        with pytest.raises(ValueError, match=message):
            gathered_info_nce(*bad)


# -- a batch in chunks --------------------------------------------------------------------------------------


def encoder() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Dropout(0.5), nn.Linear(64, 2)).double()


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 100])
def test_chunks_give_the_embeddings_and_gradients_of_the_whole(chunk_size):
    x, y = torch.randn(2, 8, 3).double()
    found = []
    for encode in (lambda net, x: net(x), partial(in_chunks, chunk_size=chunk_size)):
        net = encoder().eval()
        loss = info_nce(encode(net, x), encode(net, y))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in net.parameters())])
    assert close(*found, atol=1e-12)


def test_dropout_is_the_same_on_the_way_back():
    x, net, seen = torch.ones(4, 3).double(), encoder(), []
    net[2].register_forward_hook(lambda layer, given, made: seen.append(made.detach()))
    in_chunks(net, x, chunk_size=2).sum().backward()
    assert len(seen) == 4  # two chunks, each forth and back
    back = sorted(range(2), key=lambda k: not torch.equal(seen[k], seen[2]))  # in either order
    assert torch.equal(seen[back[0]], seen[2]) and torch.equal(seen[back[1]], seen[3])
    assert not torch.equal(seen[0], seen[1])


def test_chunks_keep_embeddings_and_not_activations():
    x, net = torch.randn(512, 3).double(), encoder()

    def kept(encode) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            encode(net, x)
        return sum(sizes)

    assert kept(partial(in_chunks, chunk_size=16)) < kept(lambda net, x: net(x)) / 10


def test_chunks_of_no_size_and_tensors_of_different_lengths_are_refused():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="chunk_size: expected a positive number, found 0"):
        in_chunks(encoder(), x, chunk_size=0)
    with pytest.raises(ValueError, match=r"expected tensors of one length, found lengths \[4, 3\]"):
        in_chunks(encoder(), x, x[:3], chunk_size=2)
