"""Chapter 10: who asks whom, in scenes of four pictures, films of three clips, and two streams of digits.

All models of a question have the same encoders, batches and steps; only what joins the tokens differs. Scenes
are drawn anew at each step, from the training things; the test scenes are the same for all.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.augment import random_affine, random_mirror
from mmtutor.contrastive import info_nce
from mmtutor.data import load_emoji
from mmtutor.ledger import Figures
from mmtutor.sharing import parameter_count
from mmtutor.training import train

from .contrastive import varied
from .cross_modal_models import Answering, Following, Gated, NearestPart, means
from .cross_modal_scores import agreement, best_head, flat, pointing
from .cross_modal_tasks import SCENE, Asked, asked, streams, with_change
from .fusion import MOVED
from .fusion_tasks import examples

DIM, WIDTH = 64, {"cpu": 24, "gpu": 64}
BATCH = {"hand": 32, "motion": 16, "held": 16, "group": 128, "streams": 64}
RATES = {"align": 3e-3, "hand": 1e-3, "motion": 1e-3, "held": 1e-3, "group": 1e-3, "streams": 3e-3}
TEMPERATURE = 0.1
STEPS = {
    "cpu": {"align": 600, "hand": 1200, "motion": 800, "held": 800, "group": 400, "streams": 2000},
    "gpu": {"align": 4000, "hand": 6000, "motion": 4000, "held": 4000, "group": 2000, "streams": 6000},
}
CLASSES = {"hand": SCENE, "motion": 2, "held": 2, "group": 8}
TESTED = {"hand": 250, "motion": 300, "held": 300, "group": 1000, "streams": 2000}  # scenes

FUSERS = ("concat", "low-rank", "Transformer of two vectors")
JOINS = ("interactive", "joint", "co-attention", "cross-modal Transformer", "gated cross-attention")
FILMS = ("motion", "held")
LOOKED_AT = 4  # scenes and films whose weights are kept: of question n % Q about number n
SHORT = (2, 3, 4, 8)  # lengths of two streams
CONTROLS = ("cross-modal Transformer, of means", "cross-modal Transformer, apart", "gates open")
DEFAULT = dict(aligned=True, hidden=None, lengths="full", inserted=False, times=1, decay=0.05)
MORE = {"motion": dict(decay=0.5)}
ROWS = (
    {
        f"{question}, {kind}": dict(question=question, kind=kind) | MORE.get(question, {})
        for question, kinds in {
            "hand": (*FUSERS, *JOINS, *CONTROLS, "nearest part"),
            "motion": ("concat", "interactive", "cross-modal Transformer", "nearest part"),
            "held": ("concat", *JOINS, "nearest part"),
        }.items()
        for kind in kinds
    }
    | {"motion, interactive, less decay": dict(question="motion", kind="interactive")}
    | {  # as many steps as alignment and the question have together
        f"hand, {kind}, not aligned": dict(question="hand", kind=kind, aligned=False, times=1.5)
        for kind in ("interactive", "cross-modal Transformer")
    }
    | {
        f"{question}, only {shown}": dict(question=question, kind="concat", hidden=hidden)
        | MORE.get(question, {})
        for question in ("motion", "held")
        for shown, hidden in (("image", "text"), ("text", "image"))
    }
    | {
        f"group, {kind}": dict(question="group", kind=kind, aligned=False)
        for kind in ("concat", "co-attention", "cross-modal Transformer")
    }
    | {
        f"group, only {shown}": dict(question="group", kind="concat", hidden=hidden, aligned=False)
        for shown, hidden in (("image", "text"), ("text", "image"))
    }
    | {
        f"group, inserted, {gates}": dict(question="group", kind=kind, aligned=False, inserted=True)
        for gates, kind in (("gates shut", "gated cross-attention"), ("gates open", "gates open"))
    }
    | {
        f"streams, {kind}{more}": dict(question="streams", kind=kind, aligned=False, lengths=lengths)
        for kind, more, lengths in (
            ("temporal", "", "full"),
            ("temporal", ", short first", "short first"),
            ("temporal", ", mixed", "mixed"),
            ("unasked", "", "full"),
            ("unasked", ", short first", "short first"),
            ("concat", "", "full"),
            ("concat", ", short first", "short first"),
            ("mean", "", "full"),
        )
    }
)


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, **ROWS[row]}


def build(s: dict, width: int) -> nn.Module:
    """Return the untrained model of a row's settings."""
    if s["question"] == "streams":
        return Following(s["kind"], DIM)
    make = NearestPart if s["kind"] == "nearest part" else Answering
    return make(
        s["kind"],
        DIM,
        width,
        CLASSES[s["question"]],
        s["question"] in FILMS,
        hidden=s["hidden"],
    )


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, scenes and augmentation.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: each scene gets the answers of another.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, where = runtime.seed_everything(seed), runtime.device()
    model, steps = build(s, WIDTH[scale]).to(where), STEPS[scale]
    more = dict(weight_decay=s["decay"], progress=progress)
    count = round(s["times"] * steps[s["question"]])
    if s["aligned"]:
        align(model, s, steps["align"], generator, rate=RATES["align"], **more)
    if isinstance(model, NearestPart):
        model.remember()
    side = examples("digits", "train") if s["question"] == "streams" else None

    def batch_loss(step: int) -> Tensor:
        if side is not None:
            seen = streams(side, BATCH["streams"], generator, length(s["lengths"], step / count, generator))
            logits, answer = model(seen)[0], seen.answer
        else:
            seen = lesson(s, generator)
            logits, answer = model.answer(seen)[0].flatten(0, 1), seen.answer
        answer = answer.roll(1, 0) if shuffle_pairs else answer
        return F.cross_entropy(logits, answer.flatten().to(where))

    more["rate"] = RATES[s["question"]]
    if s["inserted"]:
        model.joined.asleep = True
        train(model, batch_loss, count, **more)
        insert(model, s["question"])
    model.history = train(model, batch_loss, count, **more)
    return model


def length(lengths: str, progress: float, generator: torch.Generator) -> int:
    """Return how long two streams are: always the longest, each for a quarter of the steps, or by lot."""
    if lengths == "full":
        return SHORT[-1]
    drawn = (
        torch.randint(len(SHORT), (), generator=generator) / len(SHORT) if lengths == "mixed" else progress
    )
    return SHORT[int(len(SHORT) * drawn)]


def insert(model: Answering, question: str) -> None:
    """Put the join into a model that has learnt to read, and keep how well it does on that day.

    What it has learnt stays as it is: only the join and the encoder of pictures are trained from now on.
    """
    model.first_day = {"accuracy, before": right(model, tested(question)).mean().item()}
    model.joined.asleep = False
    model.first_day["accuracy, inserted"] = right(model, tested(question)).mean().item()
    model.text.requires_grad_(False)
    model.head.requires_grad_(False)


def lesson(s: dict, generator: torch.Generator) -> Asked:
    """Draw scenes to learn from; pictures are varied, and all frames of a clip are in the same way."""
    seen = asked(s["question"], "train", BATCH[s["question"]], generator)
    parts = seen.parts.flatten(0, 1)
    if s["question"] in FILMS:
        frames = parts[:, :, :3]
        frames = random_affine(frames.flatten(1, 2), **MOVED["few"], generator=generator).view_as(frames)
        parts = with_change(random_mirror(frames, generator=generator))
    else:
        parts = varied(parts, generator)
    return replace(seen, parts=parts.unflatten(0, seen.parts.shape[:2]))


def align(model: Answering, s: dict, steps: int, generator: torch.Generator, **more) -> None:
    """Train the encoders by chapter 06's loss: a part's tokens and its question's words, each averaged."""
    where = next(model.parameters()).device

    def batch_loss(step: int) -> Tensor:
        seen = lesson(s, generator)
        part, text = means(model, seen.parts.to(where), seen.words.to(where))
        return info_nce(part.flatten(0, 1), text.flatten(0, 1), TEMPERATURE)

    train(nn.ModuleList([model.image, model.text]), batch_loss, steps, **more)


def tested(question: str, part: str = "test") -> Asked:
    """Return the scenes that every model of a question is tested on, of things of one part of the split."""
    return asked(question, part, TESTED[question], torch.Generator().manual_seed(0))


@torch.no_grad()
def right(model: Answering, seen: Asked) -> Tensor:
    """Return for each question whether it is answered right, 1 or 0, ``(B, Q)``."""
    training = model.training
    logits = model.eval().answer(seen)[0].cpu()
    model.train(training)
    return (logits.argmax(2) == seen.answer).double()


def score(model: nn.Module, row: str) -> Figures:
    """Return a model's figures: accuracy on things never seen, and on training things in scenes never seen.

    Of models of scenes and films, see also `cross_modal_scores.pointing`, and of those of single pictures
    `cross_modal_scores.agreement`. ``"look 0"`` and so on are the weights of a few, words by tokens, flat.
    """
    s, figures = settings(row), {"parameters": parameter_count(model)}
    if s["question"] == "streams":
        return followed(model, figures)
    sides = {"": tested(s["question"]), ", known things": tested(s["question"], "train")}
    outcomes = {f"accuracy{more}": right(model, seen) for more, seen in sides.items()}
    if s["question"] != "group":
        for more, seen in sides.items():
            found = pointing(model, seen, outcomes[f"accuracy{more}"].bool())
            figures |= {name + more: value for name, value in found.items()}
    if isinstance(model, NearestPart):
        model.told = True
        outcomes |= {f"told{more}": right(model, seen) for more, seen in sides.items()}
        model.told = False
    elif s["kind"] in (*JOINS, "gates open") and s["question"] != "group":
        figures |= best_head(model, *reversed(sides.values())) | flat(model, *reversed(sides.values()))
    elif s["question"] == "group" and not s["hidden"] and not s["inserted"]:
        figures |= agreement(model, *reversed(sides.values()))
    if isinstance(model.joined.join, Gated):
        gates = torch.stack([layer.gate for layer in model.joined.join.layers]).detach().abs().mean(0)
        figures |= {"gate, look": gates[0].item(), "gate, network": gates[1].item()}
        figures |= getattr(model, "first_day", {})
    family = load_emoji().family
    groups = {
        name: family[sides[name.removeprefix("accuracy").removeprefix("told")].item.flatten()]
        for name in outcomes
    }
    outcomes = {name: values.flatten().numpy() for name, values in outcomes.items()}
    if s["question"] != "group" and (weights := model.look(sides[""])) is not None:
        asks = [(n, n % weights.shape[1]) for n in range(LOOKED_AT)]
        outcomes |= {f"look {n}": weights[n, q].flatten().cpu().numpy() for n, q in asks}
    return Figures(figures, outcomes=outcomes, groups=groups)


@torch.no_grad()
def followed(model: Following, figures: dict[str, float]) -> Figures:
    """Return the figures of two streams: accuracy, and the weight on the stream where the reader is.

    The first step does not count in it: all readers begin in the same stream.
    ``"accuracy, longer"`` is that of streams twice as long as any in training.
    """
    side, outcomes = examples("digits", "test"), {}
    for suffix, length in ((", longer", 2 * SHORT[-1]), ("", SHORT[-1])):
        seen = streams(side, TESTED["streams"], torch.Generator().manual_seed(0), length)
        logits, weights = model(seen)
        outcomes[f"accuracy{suffix}"] = (logits.argmax(1).cpu() == seen.answer).double().numpy()
    if weights is not None:
        figures["weight"] = weights.cpu().gather(2, seen.follows[..., None])[:, 1:].mean().item()
    return Figures(figures, outcomes=outcomes)


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row)
