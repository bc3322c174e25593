"""One training loop for the whole book, and what it takes to share a batch between processes.

The loop is short enough to read before you trust it. Several processes are PyTorch's own: ``torchrun`` starts
them, ``DistributedDataParallel`` averages their gradients. Added here is what a contrast needs and a mean
over items does not: candidates from every process, with gradients.
"""

import contextlib
import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from .contrastive import check_pair, check_positive, in_full_precision, unit
from .runtime import device


@dataclass
class History:
    """What happened in a training run, and what is needed to go on with it.

    Attributes:
        loss: one value per step.
        scores: ``{step: validation score}``; larger is better.
        best_step: the step whose weights the model has now.
        seconds: time spent in steps (validation included).
        stopped: ``"finished"``, ``"early"`` or ``"interrupted"``.
        state: optimiser, scheduler and last weights, for ``train(..., resume=history)``.
    """

    loss: list[float] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    best_step: int = 0
    seconds: float = 0.0
    stopped: str = ""
    state: dict = field(default_factory=dict, repr=False)


def autocast():
    """Return a context of bfloat16 arithmetic on CUDA, and one that changes nothing elsewhere."""
    if device().type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def train(
    model: nn.Module,
    batch_loss: Callable[[int], Tensor],
    steps: int,
    *,
    rate: float = 3e-3,
    weight_decay: float = 0.05,
    clip: float = 1.0,
    score: Callable[[], float] | None = None,
    every: int = 100,
    patience: int | None = None,
    progress: bool = True,
    resume: History | None = None,
) -> History:
    """Minimise a loss by AdamW with a one-cycle rate, and leave the model at its best weights.

    The loop of every chapter: loss, gradient, clip, step. With ``score`` the model is judged every
    ``every`` steps and ends with the weights that scored best; without, with the last. Interrupting the
    kernel (Ctrl-C) ends it early and keeps the best; ``resume=history`` goes on.

    Args:
        model: its parameters are trained; it is in training mode during steps, in evaluation mode after.
        batch_loss: called with the step number, returns a scalar loss of ``model`` on some batch.
        steps: number of steps in all (a resumed run counts its earlier ones).
        rate: peak of the one-cycle learning rate.
        weight_decay: AdamW's, on matrices and filters only: pulling a bias, a gain or a learnt temperature
            towards zero makes nothing simpler.
        clip: largest norm of the gradient.
        score: validation figure, larger is better; called in evaluation mode without gradients.
        patience: stop after this many judgements without a new best.
        progress: show loss, score, steps a second and time left.

    Returns:
        The :class:`History`.

    Raises:
        FloatingPointError: if the loss is NaN or infinite; names the step, keeps the last good weights.
        ValueError: if there is nothing to do: fewer than one step.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> x = torch.linspace(-1, 1, 20)[:, None]
        >>> loss = lambda step: (model(x) - 3 * x).square().mean()
        >>> history = train(model, loss, 300, rate=0.1, progress=False)
        >>> history.stopped, bool(history.loss[-1] < 0.01)
        ('finished', True)
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, found {steps}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    history = resume or History()
    if resume:
        optimiser.load_state_dict(history.state["optimiser"])
        schedule.load_state_dict(history.state["schedule"])
        model.load_state_dict(history.state["last"])
    best = history.state.get("best", copy.deepcopy(model.state_dict()))
    history.stopped, since_best, start = "finished", 0, time.perf_counter()
    bar = tqdm(range(len(history.loss), steps), disable=not progress, unit="step", leave=False)
    try:
        for step in bar:
            model.train()
            with autocast():
                loss = batch_loss(step)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"step {step}: the loss is {loss.item()}, so training stopped before this step changed "
                    "the weights; look for a zero norm, an empty batch or too high a rate"
                )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            schedule.step()
            history.loss.append(loss.item())
            if score is not None and ((step + 1) % every == 0 or step + 1 == steps):
                model.eval()
                with torch.no_grad():
                    history.scores[step + 1] = value = score()
                since_best += 1
                if value >= max(history.scores.values()):
                    best, history.best_step, since_best = copy.deepcopy(model.state_dict()), step + 1, 0
                if patience is not None and since_best >= patience:
                    history.stopped = "early"
                    break
            shown = {"loss": f"{history.loss[-1]:.3f}"}
            if history.scores:
                shown["score"] = f"{list(history.scores.values())[-1]:.3f}"
            bar.set_postfix(shown, refresh=False)
    except KeyboardInterrupt:
        history.stopped = "interrupted"
    finally:
        history.seconds += time.perf_counter() - start
        history.state = {
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "last": copy.deepcopy(model.state_dict()),
            "best": best,
        }
        model.eval()
    if history.scores:
        model.load_state_dict(best)
    else:
        history.best_step = len(history.loss)
    return history


def processes() -> tuple[int, int]:
    """Return this process's number and how many there are: ``(0, 1)`` unless `process_group` has joined more.

    Example:
        >>> processes()
        (0, 1)
    """
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@contextlib.contextmanager
def process_group():
    """Join the processes that ``torchrun`` has started, and leave them at the end; alone, do nothing.

    So one program runs both ways::

        python program.py                                          # alone
        torchrun --standalone --nproc-per-node 2 program.py        # two processes of one machine

    Processes talk by NCCL where there is CUDA, each with a GPU of its own, else by Gloo.

    Yields:
        This process's number and how many there are.

    Raises:
        RuntimeError: if there are fewer GPUs than processes on this machine.

    Example:
        >>> with process_group() as (rank, count):
        ...     print(f"process {rank} of {count}")
        process 0 of 1
    """
    if "RANK" not in os.environ:
        yield 0, 1
        return
    cuda = torch.cuda.is_available()
    if cuda:
        local, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= here:
            raise RuntimeError(
                f"process_group: expected a GPU for each process, found {here} for {local + 1}"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield processes()
    finally:
        dist.destroy_process_group()


def own_share(batch: Float[Tensor, "whole *any"]) -> Float[Tensor, "own *any"]:
    """Return this process's equal part of a batch that all of them have drawn alike, in order of processes.

    Raises:
        ValueError: if the batch cannot be divided equally: a mean of unequal means is another mean.

    Example:
        >>> own_share(torch.arange(4))
        tensor([0, 1, 2, 3])
    """
    rank, count = processes()
    if len(batch) % count:
        raise ValueError(f"batch: expected a multiple of {count} processes, found {len(batch)} items")
    return batch.chunk(count)[rank]


def gather(z: Float[Tensor, "own dim"]) -> Float[Tensor, "whole dim"]:
    r"""Return the rows of all processes, one process after another, with a gradient to each.

    On the way back each process receives the sum of all processes' gradients for its rows,
    :math:`\sum_r\partial L_r/\partial z`. ``dist.all_gather`` itself has no way back.

    Args:
        z: ``(B, D)``, as many rows in each process.

    Returns:
        ``(R B, D)`` for ``R`` processes; alone, ``z``.

    Raises:
        ValueError: in all processes, if their numbers of rows differ.

    Example:
        >>> gather(torch.eye(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    if processes()[1] == 1:
        return z
    sizes = [torch.zeros(1, dtype=torch.long, device=z.device) for _ in range(processes()[1])]
    dist.all_gather(sizes, torch.tensor([len(z)], device=z.device))
    if len(set(map(int, sizes))) > 1:
        raise ValueError(f"z: expected as many rows in each process, found {[*map(int, sizes)]}")
    return _Gather.apply(z)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        parts = [torch.empty_like(z) for _ in range(processes()[1])]
        dist.all_gather(parts, z.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        summed = upstream.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return own_share(summed)


@in_full_precision
def gathered_info_nce(
    a: Float[Tensor, "own dim"],
    b: Float[Tensor, "own dim"],
    temperature: float | Tensor = 0.07,
) -> Float[Tensor, ""]:
    r"""InfoNCE of this process's pairs among the candidates of all processes.

    .. math:: L_r=\frac1{2B}\sum_{i\in r}\Big[-\log\frac{e^{s_{ii}/\tau}}{\sum_je^{s_{ij}/\tau}}
              -\log\frac{e^{s_{ii}/\tau}}{\sum_je^{s_{ji}/\tau}}\Big]

    The sums run over the things :math:`j` of every process. The mean of :math:`L_r` over processes is
    :func:`~mmtutor.contrastive.info_nce` of the whole batch, and the mean of their gradients, which
    ``DistributedDataParallel`` takes, its gradient. Each process holds ``B x R B`` similarities, twice.

    Args:
        a, b: this process's embeddings ``(B, D)``; normalised here. Row ``i`` of both is one thing.
        temperature: :math:`\tau>0`; a tensor may be learnt.

    Raises:
        ValueError: as ``info_nce``, or if processes have different numbers of rows.

    Example:
        >>> from mmtutor.contrastive import info_nce
        >>> a, b = torch.eye(4), torch.eye(4).flip(0)
        >>> bool(gathered_info_nce(a, b) == info_nce(a, b))
        True
    """
    check_pair(a, b)
    check_positive("temperature", temperature)
    a, b = unit(a), unit(b)
    partner = processes()[0] * len(a) + torch.arange(len(a), device=a.device)
    every_a, every_b = gather(torch.cat([a, b], 1)).chunk(2, 1)
    rows, columns = a / temperature @ every_b.T, b / temperature @ every_a.T
    return (F.cross_entropy(rows, partner) + F.cross_entropy(columns, partner)) / 2


def in_chunks(encode: Callable[..., Tensor], *x: Tensor, chunk_size: int) -> Tensor:
    r"""Encode a batch a few items at a time, and again on the way back, to keep only the embeddings.

    The result and its gradient are those of ``encode(*x)``, if ``encode`` treats items one by one (batch
    normalisation does not). Activations of one chunk exist at a time; the price is a second pass forward.
    What a loss of all embeddings says of each of them, :math:`\partial L/\partial z_i`, is all that a chunk
    needs to know of the others: the cached gradient.

    Args:
        encode: maps ``B`` rows of each of ``x`` to ``B`` embeddings. Its dropout is repeated on the way back.
        x: tensors with one row for each item.
        chunk_size: items at a time.

    Raises:
        ValueError: if the tensors differ in length, or the chunk size is not positive.

    Source:
        Gao et al. (2021); the second pass is PyTorch's ``checkpoint``.

    Example:
        >>> encode, x = nn.Linear(3, 2), torch.randn(8, 3)
        >>> bool(torch.allclose(in_chunks(encode, x, chunk_size=3), encode(x)))
        True
    """
    check_positive("chunk_size", chunk_size)
    if len({len(part) for part in x}) != 1:
        raise ValueError(f"x: expected tensors of one length, found lengths {[len(part) for part in x]}")
    chunks = zip(*(part.split(chunk_size) for part in x), strict=True)
    return torch.cat([checkpoint(encode, *chunk, use_reentrant=False) for chunk in chunks])
