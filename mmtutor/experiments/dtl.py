"""Chapter 11: the DTL network on pictures and animations, with each part on and off, beside what is simpler.

All networks have the same extractors, batches and number of steps, unless a row says otherwise.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.augment import random_affine, random_mirror
from mmtutor.dam import PARTS
from mmtutor.data import load_emoji
from mmtutor.dtl import dual_task_loss
from mmtutor.ledger import Figures
from mmtutor.sharing import parameter_count
from mmtutor.training import train

from . import dtl_baselines as baselines
from .cross_modal_tasks import with_change
from .dtl_models import Ensemble, network
from .dtl_tasks import MODALITIES, MOTIONS, QUESTIONS, Things, things
from .fusion import MOVED
from .fusion_tasks import GROUPS

DIM, WIDTH = 64, {"cpu": 8, "gpu": 32}
BATCH, STEPS = 64, {"cpu": 600, "gpu": 4000}
RATES = {
    "dtl": 8e-3,
    "pooled": 4e-3,
}  # the best of 0.002, 0.004 and 0.008 on the validation things, two seeds; for "dtl" 0.016 is worse
DECAY = 0.1
REFERENCE = dict(rate=1e-3, epochs=20)  # the protocol that the published network was trained by
CLASSES = {"group × moves": 2 * len(GROUPS), "group": len(GROUPS), "motion": MOTIONS}
MEMBERS = 3  # of an ensemble

DEFAULT = dict(
    kind="dtl",
    cell="GRU",
    bidirectional=True,
    exchange="soft",
    parts=PARTS,
    share_extractor=False,
    share_rnn=False,
    share_predictor=True,
    pool="mean",
    join="concat",
    hidden=None,
    plain=False,
    own=0.3,
    align=0.0,
    reference=False,
    members=1,
)
SIMPLE = {
    "picture, mean": dict(kind="pooled", cell=None, hidden="animation"),
    "animation, mean": dict(kind="pooled", cell=None, hidden="picture"),
    "animation, max": dict(kind="pooled", cell=None, pool="max", hidden="picture"),
    "animation, Bi-GRU": dict(kind="pooled", hidden="picture"),
    "animation, Bi-LSTM": dict(kind="pooled", cell="LSTM", hidden="picture"),
    "animation, Bi-GRU, plain frames": dict(kind="pooled", hidden="picture", plain=True),
    "concat": dict(kind="pooled", cell=None),
    "Bi-GRU, concat": dict(kind="pooled"),
    "Bi-GRU, low-rank": dict(kind="pooled", join="low-rank"),
    "cross-modal Transformer": dict(kind="pooled", cell=None, join="cross-modal Transformer"),
}
OFF = {f"without {part}": dict(parts=tuple(p for p in PARTS if p != part)) for part in PARTS}
ALONE = {f"only {part}": dict(parts=(part,), exchange=None) for part in PARTS}
CHANGED = {
    "no parts": dict(parts=(), exchange=None),
    "no exchange": dict(exchange=None),
    "hard exchange": dict(exchange="hard"),
    "one direction": dict(bidirectional=False),
    "no recurrence": dict(cell=None),
    "separate predictors": dict(share_predictor=False),
    "no own losses": dict(own=0.0),
    "aligned": dict(align=0.1),
    "shared extractor": dict(share_extractor=True),
    "shared Bi-RNN": dict(share_rnn=True),
    "reference protocol": dict(reference=True),
    "ensemble": dict(members=MEMBERS),
}
ROWS = (
    {f"group × moves, {name}": dict(question="group × moves", **s) for name, s in SIMPLE.items()}
    | {
        f"group × moves, DTL{', ' if name else ''}{name}": dict(question="group × moves", **s)
        for name, s in ({"": {}} | CHANGED | OFF | ALONE).items()
    }
    | {"group × moves, concat, ensemble": dict(question="group × moves", **SIMPLE["concat"], members=MEMBERS)}
    | {
        f"{question}, {name}": dict(question=question, **SIMPLE.get(name, {}))
        for question in ("group", "motion")
        for name in ("picture, mean", "animation, mean", "animation, Bi-GRU", "concat", "DTL")
    }
    | {
        "motion, animation, Bi-GRU, plain frames": dict(
            question="motion", **SIMPLE["animation, Bi-GRU, plain frames"]
        )
    }
    | {
        f"{question}, {name}": dict(question=question, baseline=name, deterministic=True)
        for question in QUESTIONS
        for name in baselines.NAMES
    }
)
# A statement of its own: the text of the first one counts for the runs that are recorded
ROWS |= {
    "group × moves, Bi-GRU, cross-modal Transformer": dict(
        question="group × moves", kind="pooled", join="cross-modal Transformer"
    ),
    "group × moves, animation, mean, plain frames": dict(
        question="group × moves", kind="pooled", cell=None, hidden="picture", plain=True
    ),
    "motion, animation, mean, plain frames": dict(
        question="motion", kind="pooled", cell=None, hidden="picture", plain=True
    ),
}


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, **ROWS[row]}


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches and augmentation.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: each item gets the answer of another.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row.
    """
    s, scale = settings(row), scale or runtime.scale()
    side = things(s["question"], "train")
    if "baseline" in s:
        return baselines.fit(s["baseline"], side, seed if shuffle_pairs else None)
    if s["members"] > 1:
        one = row.removesuffix(", ensemble")
        seeds = range(MEMBERS * seed, MEMBERS * (seed + 1))
        return Ensemble([fit(one, n, scale=scale, shuffle_pairs=shuffle_pairs) for n in seeds]).eval()
    generator, where = runtime.seed_everything(seed), runtime.device()
    model = network(s, DIM, WIDTH[scale], CLASSES[s["question"]]).to(where)
    if shuffle_pairs:
        side = replace(side, y=side.y[torch.randperm(len(side.y), generator=generator)])

    def batch_loss(step: int) -> Tensor:
        seen = side.at(torch.randint(len(side.y), (BATCH,), generator=generator))
        seen = seen if s["reference"] else varied(seen, generator)
        return dual_task_loss(model(*shown(seen, s, where)), seen.y.to(where), own=s["own"], align=s["align"])

    steps, rate, decay = STEPS[scale], RATES[s["kind"]], DECAY
    if s["reference"]:
        steps, rate, decay = round(REFERENCE["epochs"] * len(side.y) / BATCH), REFERENCE["rate"], 0.0
    model.history = train(model, batch_loss, steps, rate=rate, weight_decay=decay, progress=progress)
    return model


def varied(seen: Things, generator: torch.Generator) -> Things:
    """Move each picture a little, and all frames of an animation alike; mirror half of them."""
    frames = seen.x["animation"][:, :, :3]
    moved = {
        m: random_mirror(random_affine(x, **MOVED["few"], generator=generator), generator=generator)
        for m, x in (("picture", seen.x["picture"]), ("animation", frames.flatten(1, 2)))
    }
    return replace(seen, x=moved | {"animation": with_change(moved["animation"].view_as(frames))})


def shown(seen: Things, s: dict, where) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return inputs and masks as a row is to see them: one modality hidden, or frames without change."""
    x, valid = ({m: t.to(where) for m, t in d.items()} for d in (seen.x, seen.valid))
    if s["hidden"]:
        valid = valid | {s["hidden"]: torch.zeros_like(valid[s["hidden"]])}
    if s["plain"]:
        x = x | {"animation": x["animation"] * x["animation"].new_tensor([1, 1, 1, 0, 0, 0])[:, None, None]}
    return x, valid


@torch.no_grad()
def answers(model: nn.Module, seen: Things, s: dict) -> dict[str, Tensor]:
    """Return logits ``(N, C)``, of both modalities and by name of each alone."""
    where, found = next(model.parameters()).device, []
    for rows in torch.arange(len(seen.y)).split(128):
        out = model(*shown(seen.at(rows), s, where))
        found.append({"both": out.logits} | out.modality_logits)
    return {name: torch.cat([part[name] for part in found]).cpu() for name in found[0]}


def score(model, row: str, part: str = "test") -> Figures:
    """Return a model's figures: accuracy, of its joint answer and of each modality's own."""
    s = settings(row)
    seen = things(s["question"], part)
    family = load_emoji().family[seen.item]
    if "baseline" in s:
        return Figures(outcomes={"accuracy": model.answers(seen) == seen.y.numpy()}, groups=family)
    logits, figures = answers(model, seen, s), {"parameters": parameter_count(model)}
    right = {name: (values.argmax(1) == seen.y).double().numpy() for name, values in logits.items()}
    if s["own"] and not s["hidden"]:
        figures |= {f"accuracy, {m} alone": right[m].mean() for m in MODALITIES}
    return Figures(figures, outcomes={"accuracy": right["both"]}, groups=family)


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row)
