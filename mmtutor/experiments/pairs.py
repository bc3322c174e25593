"""Chapter 11: the same network on other modalities, an animation and its name, two views of a digit."""

from functools import cache

import torch
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.dam import PARTS
from mmtutor.data import load_emoji
from mmtutor.dtl import DTLNetwork, Extractor, dual_task_loss, residual_body
from mmtutor.ledger import Figures
from mmtutor.sharing import parameter_count
from mmtutor.training import train

from .cross_modal_models import WordTokens
from .cross_modal_tasks import hashed
from .dtl import answers, shown
from .dtl_tasks import Things, things
from .fusion_tasks import GROUPS, examples

DIM, WIDTH = 64, {"cpu": 8, "gpu": 32}
BATCH, DECAY, STEPS = 64, 0.1, {"cpu": 600, "gpu": 4000}
RATE = 2e-3  # the best of 0.001, 0.002, 0.004 and 0.008 for each kind with names, on validation, one seed
CLASSES = {"named": 2 * len(GROUPS), "digits": 10}
VIEWS = {"fourier": 4, "pixels": 15}  # numbers of a step: shapes are read by frequency, pictures by row
MODALITIES = {"named": ("name", "animation"), "digits": tuple(VIEWS)}
DEFAULT = dict(parts=PARTS, exchange="soft", cell="GRU", hidden=None, plain=False, own=0.3)
NOTHING = dict(parts=(), exchange=None)
ROWS = {
    f"{question}, {name}": dict(question=question, **s)
    for question, (a, b) in MODALITIES.items()
    for name, s in {
        f"only {a}": NOTHING | dict(hidden=b),
        f"only {b}": NOTHING | dict(hidden=a),
        "concat": NOTHING | dict(cell=None),
        "Bi-GRU, concat": NOTHING,
        "DTL": {},
    }.items()
}


class Words(WordTokens):
    """A token for each word of a name, with a mask of names as an extractor has it."""

    def forward(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        tokens, real = super().forward(features)
        return tokens, real & valid[:, None]


class Steps(nn.Linear):
    """A token for each step of a sequence of numbers, by one linear map."""

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), valid[:, None].expand(x.shape[:2])


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, **ROWS[row]}


@cache
def pairs(question: str, part: str) -> Things:
    """Return both modalities of each item of one side of the split, and what is asked.

    Args:
        question: ``"named"``, group × moves of an animation and its English name, or ``"digits"``: which
            digit is it, by its Fourier coefficients, four to a step, and its pixels, a row to a step.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        ValueError: for another question.

    Example:
        >>> {m: tuple(x.shape) for m, x in pairs("digits", "test").x.items()}
        {'fourier': (301, 19, 4), 'pixels': (301, 16, 15)}
    """
    if question not in MODALITIES:
        raise ValueError(f"question: expected one of {', '.join(MODALITIES)}; found {question!r}")
    if question == "digits":
        side = examples("digits", part)
        x = {m: side.x[m].unflatten(1, (-1, size)) for m, size in VIEWS.items()}
        return Things(x, {m: torch.ones(len(side.y)).bool() for m in x}, side.y, torch.tensor(side.item))
    seen = things("group × moves", part)
    seen = seen.at(torch.arange(len(seen.y) // 2))  # the second half is the same things by another vendor
    names = torch.stack([hashed(load_emoji().names[i]) for i in seen.item.tolist()])
    x = {"name": names, "animation": seen.x["animation"]}
    return Things(
        x, {"name": torch.ones(len(names)).bool(), "animation": seen.valid["animation"]}, seen.y, seen.item
    )


def network(s: dict, width: int) -> DTLNetwork:
    """Return the untrained network of a row's settings."""
    if s["question"] == "digits":
        makers = {m: Steps(size, DIM) for m, size in VIEWS.items()}
    else:
        makers = {"name": Words(DIM), "animation": Extractor(DIM, residual_body(width))}
    return DTLNetwork(
        makers,
        dict.fromkeys(makers, DIM),
        DIM,
        CLASSES[s["question"]],
        parts=s["parts"],
        exchange=s["exchange"],
        cell=s["cell"],
        timed=MODALITIES[s["question"]],
    )


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights and batches.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: each item gets the answer of another.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, where = runtime.seed_everything(seed), runtime.device()
    model, side = network(s, WIDTH[scale]).to(where), pairs(s["question"], "train")

    def batch_loss(step: int) -> Tensor:
        seen = side.at(torch.randint(len(side.y), (BATCH,), generator=generator))
        y = seen.y.roll(1) if shuffle_pairs else seen.y
        return dual_task_loss(model(*shown(seen, s, where)), y.to(where), own=s["own"])

    model.history = train(model, batch_loss, STEPS[scale], rate=RATE, weight_decay=DECAY, progress=progress)
    return model


def score(model: nn.Module, row: str, part: str = "test") -> Figures:
    """Return a model's figures: accuracy, and how many parameters it has."""
    s = settings(row)
    seen = pairs(s["question"], part)
    right = answers(model, seen, s)["both"].argmax(1) == seen.y
    groups = load_emoji().family[seen.item] if s["question"] == "named" else None
    return Figures(
        {"parameters": parameter_count(model)}, outcomes={"accuracy": right.double().numpy()}, groups=groups
    )


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row)
