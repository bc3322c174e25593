"""One training loop for the whole book, short enough to read before you trust it."""

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

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
