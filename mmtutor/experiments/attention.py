"""Chapter 09: kinds of attention on rows of digits, asked for by content, by place or in turn.

Each row of ``ROWS`` is one reader and one question. A row of digits is drawn anew at each step, its digits
from the training side; the test rows are the same for all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.ledger import Figures
from mmtutor.sharing import parameter_count
from mmtutor.training import train

from . import attention_baselines as baselines
from .attention_models import KINDS, OneVector, Reader
from .attention_tasks import QUESTIONS, Rows, rows
from .fusion_tasks import examples

STEPS = {"cpu": 1000, "gpu": 5000}
DIM, BATCH, RATE, DECAY = 32, 64, 3e-3, 0.01
TESTED = 2000  # rows of digits

DEFAULT = dict(
    dim=DIM, placed=False, asked_by_clock=False, start=1.0, asked_first=False, rate=RATE, times=1
)  # times as many steps
ROWS = (
    {f"{question}, {kind}": dict(question=question, kind=kind) for question in QUESTIONS for kind in KINDS}
    | {
        f"{question}, {kind}, positions": dict(question=question, kind=kind, placed=True)
        for question in QUESTIONS
        for kind in ("additive", "cosine", "dot", "scaled dot", "projected dot", "hybrid")
    }
    | {f"{question}, one vector": dict(question=question, kind="one vector") for question in QUESTIONS}
    | {
        f"{question}, one vector, 5 × steps": dict(question=question, kind="one vector", times=5)
        for question in QUESTIONS
    }
    | {
        f"content, {kind}, {dim} wide": dict(question="content", kind=kind, dim=dim)
        for kind in ("dot", "scaled dot")
        for dim in (128, 512)
    }
    | {
        f"content, {kind}, 512 wide, slower": dict(question="content", kind=kind, dim=512, rate=RATE / 10)
        for kind in ("dot", "scaled dot")
    }
    | {
        f"content, {kind}, 512 wide, start of the {other}": dict(
            question="content", kind=kind, dim=512, start=512**power
        )
        for kind, other, power in (("dot", "scaled dot", -1 / 4), ("scaled dot", "dot", 1 / 4))
    }
    | {
        f"place, {kind}, asked by a clock": dict(
            question="place", kind=kind, placed=True, asked_by_clock=True
        )
        for kind in ("additive", "cosine", "projected dot")
    }
    | {
        f"content, one vector, asked first{more}": dict(
            question="content", kind="one vector", asked_first=True, times=times
        )
        for more, times in (("", 1), (", 5 × steps", 5))
    }
    | {
        f"content, {name}": dict(question="content", baseline=name, deterministic=True)
        for name in baselines.NAMES
    }
)


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, **ROWS[row]}


def build(s: dict) -> nn.Module:
    """Return the untrained reader of a row's settings."""
    if s["kind"] == "one vector":
        return OneVector(s["question"], s["dim"], s["asked_first"])
    return Reader(s["kind"], s["question"], s["dim"], s["placed"], s["asked_by_clock"], s["start"])


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's reader and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights and the rows of digits.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: each row of digits gets the answers of another.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row, or answers shuffled where nothing is trained on them.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, side = runtime.seed_everything(seed), examples("digits", "train")
    if "baseline" in s:
        if shuffle_pairs:
            raise ValueError(f"shuffle_pairs: expected a row that is trained on answers, found {row!r}")
        return baselines.fit(s["baseline"])
    model = build(s)

    def batch_loss(step: int) -> Tensor:
        seen = rows(s["question"], side, BATCH, generator)
        answer = seen.answer.roll(1, 0) if shuffle_pairs else seen.answer
        return F.cross_entropy(model(seen)[0][seen.answered], answer[seen.answered])

    model.history = train(
        model, batch_loss, s["times"] * STEPS[scale], rate=s["rate"], weight_decay=DECAY, progress=progress
    )
    return model


def tested(question: str, lengths: str = "test", part: str = "test") -> Rows:
    """Return the rows of digits that every reader of a question is tested on."""
    return rows(question, examples("digits", part), TESTED, torch.Generator().manual_seed(0), lengths)


@torch.no_grad()
def score(model, row: str, part: str = "test") -> Figures:
    """Return a reader's figures: accuracy, and how much weight lies on the place of the answer.

    Accuracy is that of a row of digits: the share of its answers that are right. The questions of place and
    turn are also asked of rows twice as long as any in training, and then by length.
    """
    question = settings(row)["question"]
    figures, outcomes = {"parameters": parameter_count(model)}, {}
    for lengths in ("test",) if question == "content" else ("test", "longer"):
        seen, suffix = tested(question, lengths, part), "" if lengths == "test" else ", longer"
        logits, weights = model(seen)
        count = seen.answered.sum(1)
        right = (seen.answered & (logits.argmax(2) == seen.answer)).sum(1) / count
        outcomes[f"accuracy{suffix}"] = right.numpy()
        n = seen.valid.sum(1)
        for length in n.unique().tolist():
            figures[f"accuracy, {length} digits"] = right[n == length].mean().item()
        if weights is not None:
            there = torch.where(seen.answered, weights.gather(2, seen.place[..., None])[..., 0], 0)
            figures[f"weight{suffix}"] = (there.sum(1) / count).double().mean().item()
    wanted = seen.item.gather(1, seen.place)[:, 0]  # rows that ask for one drawing belong together
    return Figures(figures, outcomes=outcomes, groups=wanted if question == "content" else None)


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row)
