"""Chapter 11, films: questions that need a look from the picture at the film, or at what was earlier in it.

All networks first learn to see in the same way, from single pictures and clips; then extractors are kept as
they are, and everything after them learns from films that are drawn anew at each step.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.contrastive import info_nce
from mmtutor.cross_modal import masked_mean
from mmtutor.dam import PARTS
from mmtutor.data import load_emoji
from mmtutor.dtl import DTLNetwork, dual_task_loss
from mmtutor.ledger import Figures
from mmtutor.training import train

from .dtl import DECAY, DEFAULT, DIM, SIMPLE, WIDTH, answers, shown, varied
from .dtl_tasks import MODALITIES, Things, things
from .films_baselines import Colours
from .films_models import EachClip, Frozen, Tokens, network, start_alike
from .films_tasks import CLIPS, FRAMES, draw_films, held, moving_things

RATE = 4e-3  # on validation, two seeds, no kind of model is better by more than .01 at 0.001, 0.002 or 0.008
BATCH = {"find": 32, "recall": 64}
HIDDEN = {"find": None, "recall": "picture"}  # what a row does not see, unless it says otherwise
STEPS = {"cpu": {"find": 600, "recall": 2000}, "gpu": {"find": 4000, "recall": 10000}}
SEE = dict(steps={"cpu": 600, "gpu": 4000}, batch=64, rate=2e-3)  # before films
ANSWERS, TEMPERATURE, ALIKE, WINDOW = 2, 0.1, 4.0, 4
WIDE = FRAMES * CLIPS["recall"] + 1  # a window over the whole film
TIMES, TESTED = 4, 600  # how often what is seen is varied, films to test with

NOTHING = dict(parts=(), exchange=None)
LOOKS = ("inter", "composition", "hierarchical")
TRANSFORMER = SIMPLE["cross-modal Transformer"] | dict(cell="GRU")
KINDS = {
    "colours": dict(kind="colours", deterministic=True),
    "each clip": dict(kind="each clip"),
    "Bi-GRU, mean": SIMPLE["Bi-GRU, concat"],
    "Bi-GRU, last": SIMPLE["Bi-GRU, concat"] | dict(pool="last"),
    "GRU, last": SIMPLE["Bi-GRU, concat"] | dict(pool="last", bidirectional=False),
    "cross-modal Transformer": TRANSFORMER,
    "cross-modal Transformer, at random": TRANSFORMER | dict(alike=False),
    "DTL": {},
    "DTL, at random": dict(alike=False),
    "DTL, no picture": dict(hidden="picture"),
    "DTL, with picture": dict(hidden=None),
    "DTL, with picture, without memories": dict(hidden=None, parts=LOOKS),
    "DTL, without exchange": dict(exchange=None),
    "DTL, wide": dict(window=WIDE),
    "DTL, without memories": dict(parts=LOOKS),
    "DTL, without short": dict(parts=(*LOOKS, "long")),
    "DTL, without long": dict(parts=(*LOOKS, "short")),
    "DTL, only exchange": dict(parts=()),
    "DTL, only hard exchange": dict(parts=(), exchange="hard"),
    "DTL, only short, wide": NOTHING | dict(parts=("short",), window=WIDE),
    "DTL, only short, wide, no recurrence": NOTHING | dict(parts=("short",), window=WIDE, cell=None),
    "DTL, only long, no recurrence": NOTHING | dict(parts=("long",), cell=None),
} | {f"DTL, only {part}": NOTHING | dict(parts=(part,)) for part in PARTS}
BOTH = ("colours", "each clip", "Bi-GRU, mean", "cross-modal Transformer", "DTL", "DTL, at random")
ASKED = {
    "find": (*BOTH, "cross-modal Transformer, at random", "DTL, no picture", "DTL, without exchange")
    + ("DTL, only exchange", "DTL, only hard exchange")
    + ("DTL, only inter", "DTL, only composition", "DTL, only hierarchical"),
    "recall": (*BOTH, "Bi-GRU, last", "GRU, last", "DTL, wide")
    + ("DTL, without memories", "DTL, without short", "DTL, without long")
    + ("DTL, only short", "DTL, only short, wide", "DTL, only short, wide, no recurrence")
    + ("DTL, only long", "DTL, only long, no recurrence")
    + ("DTL, with picture", "DTL, with picture, without memories"),
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
    s = ROWS[row]
    return {**DEFAULT, "own": 0.0, "alike": True, "window": WINDOW, "hidden": HIDDEN[s["question"]], **s}


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
    if s["kind"] == "colours":
        return Colours()
    question, steps = s["question"], steps or {"see": SEE["steps"][scale], **STEPS[scale]}
    generator, where = runtime.seed_everything(seed), runtime.device()
    each_clip = s["kind"] == "each clip"
    plays = nn.Linear(DIM, 2).to(where)
    model = network(s | NOTHING if each_clip else s, DIM, WIDTH[scale], ANSWERS).to(where)
    learn_to_see(model, plays, steps["see"], generator, progress)
    if s["alike"]:
        start_alike(model, ALIKE)
    for m, extractor in enumerate(model.extractors):
        model.extractors[m] = Frozen(extractor)
    if each_clip:
        model = EachClip(model, DIM, 1 / TEMPERATURE).to(where)
    vary = partial(varied, generator=generator)
    tokens = Tokens(model.extractors, moving_things("train"), vary, TIMES)

    def batch_loss(step: int) -> Tensor:
        drawn = draw_films(question, "train", BATCH[question], generator)
        seen = tokens.seen(drawn, generator)
        y = seen.y.roll(1) if shuffle_pairs else seen.y
        return dual_task_loss(model(*shown(seen, s, where)), y.to(where), own=s["own"])

    model.history = train(
        model, batch_loss, steps[question], rate=RATE, weight_decay=DECAY, progress=progress
    )
    return model


def learn_to_see(
    model: nn.Module,
    plays: nn.Module,
    steps: int,
    generator: torch.Generator,
    progress: bool = False,
) -> None:
    """Train extractors and recurrent networks on single pictures and clips, each the mean of its tokens.

    Half of the clips are held. The loss is chapter 06's between a picture and a clip of one thing, so that
    they know things, and the cross-entropy of ``plays``, so that they do not forget what plays.
    """
    side, where = things("motion", "train", frames=FRAMES), next(model.parameters()).device

    def batch_loss(step: int) -> Tensor:
        seen = varied(side.at(torch.randint(len(side.y), (SEE["batch"],), generator=generator)), generator)
        still, x = torch.rand(len(seen.y), generator=generator) < 0.5, seen.x["animation"]
        seen.x["animation"] = torch.where(still[:, None, None, None, None], held(x), x)
        tokens, valid = model.tokens(*shown(seen, DEFAULT, where))
        picture, clip = (masked_mean(tokens[m], valid[m]) for m in MODALITIES)
        return info_nce(picture, clip, TEMPERATURE) + F.cross_entropy(plays(clip), (~still).long().to(where))

    makers = nn.ModuleList([model.extractors, model.rnns, plays])
    train(makers, batch_loss, steps, rate=SEE["rate"], weight_decay=DECAY, progress=progress)


def score(model: nn.Module, row: str, part: str = "test") -> Figures:
    """Return a model's figures: accuracy on things never seen, and on training things in films never seen.

    Parameters are those that were trained. Of networks with an exchange, see also `redundancy`. In recall,
    also accuracy where both clips of the thing are alike and where they differ: who cannot tell which of them
    came later gets half of the latter.
    """
    s, figures, outcomes, groups = settings(row), {}, {}, {}
    for more, of in (("", part), (", known things", "train")):
        drawn = draw_films(s["question"], of, TESTED, torch.Generator().manual_seed(0))
        if isinstance(model, nn.Module):
            said = answers(model, drawn.seen(), s)["both"].argmax(1).numpy()
        else:
            said = model.answers(drawn)
        outcomes[f"accuracy{more}"] = (said == drawn.y.numpy()).astype(float)
        groups[f"accuracy{more}"] = load_emoji().family[drawn.item]
        if drawn.again and not more:
            earlier, later = drawn.played[drawn.items == drawn.item[:, None]].view(-1, 2).T
            for name, some in (("agree", earlier == later), ("differ", earlier != later)):
                figures[f"accuracy, clips {name}"] = outcomes["accuracy"][some.numpy()].mean()
    if isinstance(model, nn.Module):
        figures["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if getattr(model, "exchange", None) is not None:
        figures |= redundancy(model, things("motion", part, frames=FRAMES))
    return Figures(figures, outcomes=outcomes, groups=groups)


@torch.no_grad()
def redundancy(model: DTLNetwork, seen: Things) -> dict[str, float]:
    """Return how alike the means of pictures and of animations lie, by `cka`, before and after the exchange.

    As a measure of what the exchange does by itself the same with strangers, the animation of another thing.
    """
    tokens, valid = model.tokens(*shown(seen, DEFAULT, next(model.parameters()).device))
    order = torch.randperm(len(seen.y), generator=torch.Generator().manual_seed(0))
    figures = {}
    for who in ("", ", strangers"):
        before, _ = model.exchange.projected(tokens, valid)
        after, _ = model.exchange(tokens, valid)
        for when, x in (("before", before), ("after", after)):
            figures[f"CKA {when}{who}"] = cka(*(masked_mean(x[m], valid[m]) for m in MODALITIES)).item()
        tokens = tokens | {"animation": tokens["animation"][order]}
    return figures


def cka(x: Float[Tensor, "items a"], y: Float[Tensor, "items b"]) -> Float[Tensor, ""]:
    r"""How alike the same items lie in two spaces: linear centred kernel alignment.

    .. math:: \frac{\|X^\top Y\|^2}{\|X^\top X\|\,\|Y^\top Y\|}

    of Frobenius norms, with the mean taken from each column: 0 to 1, and 1 if one space is the other rotated.

    Source:
        Kornblith, Norouzi, Lee and Hinton (2019).

    Example:
        >>> x = torch.randn(50, 4)
        >>> torch.testing.assert_close(cka(x, 3 * x.roll(1, 1) + 7), torch.tensor(1.0))
    """
    x, y = x - x.mean(0), y - y.mean(0)
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row)
