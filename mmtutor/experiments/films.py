"""Chapter 11, films: questions that need a look from the picture at the film, or at what was earlier in it.

All networks first learn to see in the same way, from single pictures and clips; then extractors are kept as
they are, and everything after them learns from films that are drawn anew at each step.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.contrastive import info_nce
from mmtutor.cross_modal import masked_mean
from mmtutor.dam import PARTS
from mmtutor.data import load_emoji, split
from mmtutor.dtl import DTLNetwork, dual_task_loss
from mmtutor.ledger import Figures
from mmtutor.sharing import parameter_count
from mmtutor.training import train

from .dtl import DECAY, DEFAULT, DIM, SIMPLE, WIDTH, answers, shown, varied
from .dtl_models import network
from .dtl_tasks import MODALITIES, MOTIONS, Things, moving, things
from .films_models import EachClip, Frozen, Tokens, start_alike
from .films_tasks import CLIP, FILMS, films, held

RATES = {"see": 2e-3, "find": 2e-3, "recall": 3e-3}
BATCH = {"see": 64, "find": 32, "recall": 64}
STEPS = {
    "cpu": {"see": 600, "find": 600, "recall": 5000},
    "gpu": {"see": 4000, "find": 4000, "recall": 20000},
}
CLASSES = {"find": 2, "recall": FILMS["recall"] - 1}
TEMPERATURE, ALIKE = 0.1, 4.0
TIMES, TESTED = 4, 600  # how often what is seen is varied, films to test with

NOTHING = dict(parts=(), exchange=None)
LOOKS = ("inter", "composition", "hierarchical")
KINDS = {
    "each clip": dict(kind="each clip"),
    "Bi-GRU, mean": SIMPLE["Bi-GRU, concat"],
    "Bi-GRU, last": SIMPLE["Bi-GRU, concat"] | dict(pool="last"),
    "Bi-GRU, low-rank": SIMPLE["Bi-GRU, low-rank"],
    "cross-modal Transformer": SIMPLE["cross-modal Transformer"] | dict(cell="GRU"),
    "DTL": {},
    "DTL, at random": dict(alike=False),
    "DTL, without exchange": dict(exchange=None),
    "DTL, without memories": dict(parts=LOOKS),
    "DTL, without short": dict(parts=(*LOOKS, "long")),
    "DTL, without long": dict(parts=(*LOOKS, "short")),
    "DTL, only exchange": dict(parts=()),
    "DTL, only hard exchange": dict(parts=(), exchange="hard"),
} | {f"DTL, only {part}": NOTHING | dict(parts=(part,)) for part in PARTS}
ASKED = {
    "find": ("each clip", "Bi-GRU, mean", "Bi-GRU, low-rank", "cross-modal Transformer", "DTL")
    + ("DTL, at random", "DTL, without exchange", "DTL, only exchange", "DTL, only hard exchange")
    + tuple(f"DTL, only {part}" for part in LOOKS),
    "recall": ("each clip", "Bi-GRU, mean", "Bi-GRU, last", "cross-modal Transformer", "DTL")
    + ("DTL, without memories", "DTL, without short", "DTL, without long")
    + ("DTL, only short", "DTL, only long"),
}
ROWS = {
    f"{question}, {name}": dict(question=question, **KINDS[name])
    for question in ASKED
    for name in ASKED[question]
}


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, "own": 0.0, "alike": True, **ROWS[row]}


def fit(
    row: str,
    seed: int,
    *,
    scale: str | None = None,
    shuffle_pairs: bool = False,
    progress: bool = False,
    steps: dict[str, int] | None = None,
):
    """Train one row's model and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, films and augmentation.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: each film gets the answer of another.
        progress: show a progress bar.
        steps: to learn to see, ``"see"``, and to learn from films, by question; by default ``STEPS``.

    Raises:
        ValueError: for an unknown row.
    """
    s, scale = settings(row), scale or runtime.scale()
    question, steps = s["question"], steps or STEPS[scale]
    generator, where = runtime.seed_everything(seed), runtime.device()
    each_clip = s["kind"] == "each clip"
    kind = s | NOTHING | dict(kind="dtl") if each_clip else s
    model = network(kind, DIM, WIDTH[scale], CLASSES[question]).to(where)
    motion = nn.Linear(DIM, MOTIONS).to(where)
    learn_to_see(model, motion, steps["see"], generator, progress)
    if s["alike"]:
        start_alike(model, ALIKE)
    for m, extractor in enumerate(model.extractors):
        model.extractors[m] = Frozen(extractor)
    if each_clip:
        model = EachClip(model, motion, question, TEMPERATURE).to(where)
    tokens = Tokens(model.extractors, known("train"), lambda seen: varied(seen, generator), TIMES)

    def batch_loss(step: int) -> Tensor:
        drawn = films(question, "train", BATCH[question], generator)
        seen = tokens.seen(drawn, generator)
        y = seen.y.roll(1) if shuffle_pairs else seen.y
        return dual_task_loss(model(*shown(seen, s, where)), y.to(where), own=s["own"])

    model.history = train(
        model, batch_loss, steps[question], rate=RATES[question], weight_decay=DECAY, progress=progress
    )
    return model


def known(part: str) -> np.ndarray:
    """Return the things of one part of the split whose motion is known."""
    return np.array([i for i in getattr(split("emoji-things"), part) if moving()[1][i] >= 0])


def learn_to_see(
    model: nn.Module, motion: nn.Module, steps: int, generator: torch.Generator, progress: bool = False
) -> None:
    """Train extractors and recurrent networks on single pictures and clips, by the sum of two losses.

    Chapter 06's loss for a picture and a clip of one thing, each the mean of its tokens; half of the clips
    are held, so that it is the thing that counts. And the motion of those that play, from the same mean.
    """
    side, where = things("motion", "train", frames=CLIP), next(model.parameters()).device

    def batch_loss(step: int) -> Tensor:
        seen = varied(side.at(torch.randint(len(side.y), (BATCH["see"],), generator=generator)), generator)
        still = torch.rand(len(seen.y), generator=generator) < 0.5
        x = seen.x["animation"]
        seen.x["animation"] = torch.where(still[:, None, None, None, None], held(x), x)
        tokens, valid = model.tokens(*shown(seen, DEFAULT, where))
        picture, clip = (masked_mean(tokens[m], valid[m]) for m in MODALITIES)
        moves = F.cross_entropy(motion(clip[~still]), seen.y[~still].to(where))
        return info_nce(picture, clip, TEMPERATURE) + moves

    makers = nn.ModuleList([model.extractors, model.rnns, motion])
    train(makers, batch_loss, steps, rate=RATES["see"], weight_decay=DECAY, progress=progress)


def score(model: nn.Module, row: str) -> Figures:
    """Return a model's figures: accuracy on things never seen, and on training things in films never seen."""
    s, figures, outcomes, groups = settings(row), {"parameters": parameter_count(model)}, {}, {}
    for more, part in (("", "test"), (", known things", "train")):
        seen = films(s["question"], part, TESTED, torch.Generator().manual_seed(0)).seen()
        right = answers(model, seen, s)["both"].argmax(1) == seen.y
        outcomes[f"accuracy{more}"] = right.double().numpy()
        groups[f"accuracy{more}"] = load_emoji().family[seen.item]
        if getattr(model, "exchange", None) is not None and part == "test":
            figures |= redundancy(model, seen)
    return Figures(figures, outcomes=outcomes, groups=groups)


@torch.no_grad()
def redundancy(model: DTLNetwork, seen: Things) -> dict[str, float]:
    """Return how alike the means of pictures and of films lie, by `cka`, before and after the exchange."""
    tokens, valid = model.tokens(*shown(seen, DEFAULT, next(model.parameters()).device))
    versions = {
        "before": model.exchange.projected(tokens, valid)[0],
        "after": model.exchange(tokens, valid)[0],
    }
    return {
        f"CKA, {name}": cka(*(masked_mean(x[m], valid[m]) for m in MODALITIES)).item()
        for name, x in versions.items()
    }


def cka(x: Float[Tensor, "items a"], y: Float[Tensor, "items b"]) -> Float[Tensor, ""]:
    r"""How alike the same items lie in two spaces: linear centred kernel alignment.

    .. math:: \frac{\|X^\top Y\|^2}{\|X^\top X\|\,\|Y^\top Y\|}

    of Frobenius norms, with the mean taken from each column: 0 to 1, and 1 if one space is the other rotated.

    Source:
        Kornblith, Norouzi, Lee and Hinton (2019).

    Example:
        >>> x = torch.randn(50, 4)
        >>> cka(x, 3 * x.roll(1, 1) + 7)
        tensor(1.)
    """
    x, y = x - x.mean(0), y - y.mean(0)
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row)
