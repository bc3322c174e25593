"""Chapter 07: do two modalities say the same about one thing? What shows it, and what optimises it?

Four parts. Two classifiers, one a modality, and how far their answers match. Two encoders of views of a
digit, trained by each objective with each optimiser. Families of models that match drawings with texts, or
views of digits. The same with few pairs known, or none.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from mmtutor import runtime
from mmtutor.contrastive import cosine, margin_contrastive, multi_positive_nce, unit
from mmtutor.encoders import ImageEncoder
from mmtutor.ledger import Figures
from mmtutor.matching import (
    ModalityDiscriminator,
    js_from_logits,
    kl_from_logits,
    matching_cross_entropy,
    matching_mse,
    reversal_strength,
)
from mmtutor.sharing import parameter_count
from mmtutor.training import autocast

from . import fusion
from . import matching_baselines as baselines
from .balancing_tasks import BUCKETS, NameEncoder
from .contrastive import varied
from .fusion import Numbers, labelled
from .matching_scores import classification, geometry, named, retrieval
from .matching_tasks import Examples, examples, false_pairs, some

# Chosen with the validation items and one seed. Rates outside of the comparison: 0.003 and 0.01 on digits
# (0.01 suits the contrastive objective better, but collapses beside an adversary), 0.002 and 0.004 on things;
# penalties 0.05, 0.3, 1; batches of 128 and 256; temperatures 0.05, 0.1, 0.2; margins 0.5 to 1.4; weights of
# what repels 0.3 to 10; of the adversary, strengths 0.03 to 30, rates 1, 3, 10, penalties 0.1, 1, 10.
DIM = {"digits": fusion.DIM, "things": 128}
SHARED = fusion.DIM  # dimensions where encoders are given what is computed of things, as CCA is
BATCH = {"digits": 128, "things": 192}
STEPS = {"cpu": {"digits": 400, "things": 200}, "gpu": {"digits": 2000, "things": 4000}}
WIDTH = {"cpu": 16, "gpu": 96}  # of the picture encoder
USUAL = {  # where optimisers are not compared
    "digits": {"optimiser": "Adam", "rate": 3e-3},
    "things": {"optimiser": "AdamW", "rate": 4e-3, "penalty": 0.3},
}
DROPOUT = 0.25
TEMPERATURE, MARGIN = 0.1, 1.0
REPEL = {
    "balance": 3.0,
    "variance": 3.0,
    "covariance": 1.0,
}  # weights of what keeps points, or classes, apart
JUDGED = 32  # points of each modality that the discriminator sees in a step
ADVERSARY = {"digits": 10.0, "things": 1.0}  # largest strength of the reversal
FASTER = 10.0  # rate of the discriminator, in those of the encoders
SMOOTH = 10.0  # weight of the penalty on a steep discriminator


# Models


class Matched(nn.Module):
    r"""Two encoders into one space; things are as close as the directions of their points.

    Args:
        encoders: :math:`f_m` by modality, into ``dim`` dimensions.
        dim: :math:`D` of the space.
        classes: how many classes the head on each encoder tells apart; 0 for no heads.

    Attributes:
        order: which column of the heads is which class, ``(C,)``; see `named`.
        losses: of each step of training.
    """

    def __init__(self, encoders: dict[str, nn.Module], dim: int, classes: int = 0):
        super().__init__()
        self.dim, self.encoders = dim, nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict({m: nn.Linear(dim, classes) for m in encoders} if classes else {})
        self.order = torch.arange(classes)
        self.discriminator = ModalityDiscriminator(encoders, dim)
        self.losses: list[float] = []

    def points(self, x: dict[str, Tensor]) -> list[Tensor]:
        """Map both modalities into the space, ``(B, D)`` each."""
        return [f(x[m]).float() for m, f in self.encoders.items()]

    def answers(self, x: dict[str, Tensor]) -> list[Tensor]:
        """Return the logits of the two classifiers, ``(B, C)`` each."""
        return [q(z)[:, self.order] for q, z in zip(self.heads.values(), self.points(x), strict=True)]

    def similarity(self, data: Examples) -> Tensor:
        """Compare the first modality of all items with the second of all, ``(N, N)``."""
        return cosine(*outputs(self, self.points, data))


class Guided(Matched):
    r"""Encoders from whose points one head says of which component of a mixture a thing is.

    Things are compared as the mixture compares them, :math:`q_k` being the head's answer:

    .. math:: s_{ij}=\log\sum_k\frac{q_k(x_i)\,q_k(y_j)}{\pi_k}

    Args:
        encoders, dim: as `Matched`.
        components: how many the mixture has.

    Attributes:
        weights: :math:`\pi`, ``(K,)``, to be set.
    """

    weights: Tensor

    def __init__(self, encoders: dict[str, nn.Module], dim: int, components: int):
        super().__init__(encoders, dim, components)
        self.heads = nn.ModuleDict(dict.fromkeys(encoders, nn.Linear(dim, components)))  # one for both

    def similarity(self, data: Examples) -> Tensor:
        log_q, log_r = (logits.log_softmax(1) for logits in outputs(self, self.answers, data))
        return torch.stack([(row + log_r - self.weights.log()).logsumexp(1) for row in log_q])


@torch.no_grad()
def outputs(model: Matched, function: Callable, data: Examples) -> list[Tensor]:
    """Return what ``model.points`` or ``model.answers`` makes of both modalities, in double precision."""
    where = next(model.parameters()).device
    parts = [data.at(rows) for rows in torch.arange(len(data.y)).split(512)]
    found = [function({m: x.to(where) for m, x in part.x.items()}) for part in parts]
    return [torch.cat(column).cpu().double() for column in zip(*found, strict=True)]


def answered(model, data: Examples) -> list[Tensor]:
    """Return the logits of both classifiers, networks or a baseline, ``(N, C)`` each."""
    return outputs(model, model.answers, data) if isinstance(model, Matched) else model.answers(data)


def encoder(x: Tensor, dim: int, width: int) -> nn.Module:
    """Return an untrained encoder for pictures, texts or numbers, as the examples of a modality are."""
    if x.ndim == 4:
        return nn.Sequential(ImageEncoder(dim, width), nn.Dropout(DROPOUT))
    if x.dtype == torch.long:
        return NameEncoder(dim, buckets=BUCKETS, dropout=DROPOUT)
    return Numbers(x.shape[1])


def build(s: dict, width: int) -> Matched:
    """Return the model of a row's settings, untrained; ``width`` is that of encoders of pictures."""
    data = pairs_of(s, "train")
    dim = SHARED if s.get("computed") else DIM[s["data"]]
    encoders = {m: encoder(x, dim, width) for m, x in data.x.items()}
    if s.get("guide"):
        return Guided(encoders, dim, baselines.SETTINGS[s["data"]]["mixture"]["components"])
    return Matched(encoders, dim, int(data.y.max()) + 1 if s["ask"] == "classify" else 0)


# Losses


def balance(logits: Tensor) -> Tensor:
    r"""Return by how much the mean distribution falls short of even, :math:`\log C-H(\bar p)`, in nats."""
    log_p = logits.softmax(1).mean(0).clamp(min=1e-8).log()
    return np.log(logits.shape[1]) + (log_p.exp() * log_p).sum()


def spread(z: Tensor) -> Tensor:
    r"""Return by how much dimensions vary too little, :math:`\frac1D\sum_d\max(0,1-\mathrm{sd}(z_d))`.

    Source: the variance term of Bardes, Ponce and LeCun (2022).
    """
    return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    r"""Return how much dimensions say the same, :math:`\frac1D\sum_{d\ne e}\mathrm{cov}(z_d,z_e)^2`.

    Source: the covariance term of Bardes, Ponce and LeCun (2022).
    """
    C = z.T.cov()
    return (C - C.diagonal().diag()).square().sum() / len(C)


def same_item(batch: Examples, where) -> Tensor:
    """Return which pairs of a batch are true, bool ``(B, B)``: two drawings of a thing are."""
    item = torch.tensor(batch.item, device=where)
    return item[:, None] == item


def margin(a: Tensor, b: Tensor, match: Tensor) -> Tensor:
    """Return the margin loss of directions, all pairs of an item summed."""
    return margin_contrastive(unit(a), unit(b), match, margin=MARGIN, reduction="sum") / len(a)


# Of points (or logits) of both modalities and which pairs are true
OBJECTIVES = {
    "cross-entropy": lambda a, b, match: matching_cross_entropy(a, b),
    "cross-entropy + balance": lambda a, b, match: (
        matching_cross_entropy(a, b) + REPEL["balance"] * (balance(a) + balance(b)) / 2
    ),
    "MSE": lambda a, b, match: matching_mse(a, b),
    "MSE + variance": lambda a, b, match: (
        matching_mse(a, b) + REPEL["variance"] * (spread(a) + spread(b)) / 2
    ),
    "MSE + variance + covariance": lambda a, b, match: (
        matching_mse(a, b) + REPEL["covariance"] * (spread(a) + spread(b) + covariance(a) + covariance(b)) / 2
    ),
    "margin": margin,
    "contrastive": lambda a, b, match: multi_positive_nce(a, b, match, TEMPERATURE),
    "JS": lambda a, b, match: js_from_logits(a, b).mean(),
    "KL": lambda a, b, match: (kl_from_logits(a, b) + kl_from_logits(b, a)).mean() / 2,
    "itself": lambda a, b, match: (matching_cross_entropy(a, a) + matching_cross_entropy(b, b)) / 2,
}


# Rows

PAIRS = (("fourier", "zernike"), CHIEF := ("fourier", "pixels"), ("pixels", "karhunen"))
AGAIN = ("fourier", "fourier again")
NAMED, TOLD = ("picture", "name"), ("picture", "words")
WEIGHTS, MORE_WEIGHTS = (0.3, 1.0, 3.0), (0.1, 0.3, 1.0, 3.0)  # of the matching term; with few labels
FEW = (5, 10)  # labels of each class
OPTIMISERS = {  # and rates to choose from
    "SGD": (0.03, 0.1, 0.3, 1.0, 3.0),
    "Adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "Adagrad": (0.003, 0.01, 0.03, 0.1, 0.3),
}
COMPARED = (
    "cross-entropy",
    "cross-entropy + balance",
    "MSE",
    "MSE + variance",
    "MSE + variance + covariance",
    "margin",
    "contrastive",
)
PENALTIES = (0.0001, 0.001, 0.01, 0.03, 0.1)
PENALISED = {  # at the rate that the validation items chose without a penalty, mean of five seeds
    "MSE + variance + covariance": {"SGD": 1.0, "Adam": 0.003, "Adagrad": 0.03},
    "margin": {"SGD": 0.1, "Adam": 0.01, "Adagrad": 0.01},
    "contrastive": {"SGD": 1.0, "Adam": 0.01, "Adagrad": 0.1},
}
SHARES = (0.02, 0.05, 0.2)
BRIEFLY = (0.125, 0.25, 0.5)  # parts of the usual steps: with few pairs fewer may be better


def classifying(data: str, inputs, **more) -> dict:
    """Return the settings of two classifiers."""
    return {"data": data, "inputs": inputs, "ask": "classify", **more}


def classifiers(name: str, data: str, inputs, kinds=("JS", "KL"), weights=WEIGHTS, **more) -> dict[str, dict]:
    """Return rows of two classifiers: each alone, and with a matching term of each kind and weight."""
    rows = {name: classifying(data, inputs, **more)}
    return rows | {
        f"{name}, {kind} {w:g}": rows[name] | {"agree": kind, "weight": w} for kind in kinds for w in weights
    }


def by_optimiser(objective: str) -> dict[str, dict]:
    """Return a row for each optimiser and rate, without a penalty."""
    s = {"data": "digits", "inputs": CHIEF, "ask": "match", "objective": objective}
    return {
        f"{objective}, {optimiser}, {rate:g}": s | {"optimiser": optimiser, "rate": rate}
        for optimiser, rates in OPTIMISERS.items()
        for rate in rates
    }


def penalised(objective: str) -> dict[str, dict]:
    """Return a row for each optimiser, at one rate, and each penalty."""
    rows = by_optimiser(objective)
    return {
        f"{name}, penalty {penalty:g}": rows[name] | {"penalty": penalty}
        for optimiser, rate in PENALISED[objective].items()
        for name in [f"{objective}, {optimiser}, {rate:g}"]
        for penalty in PENALTIES
    }


def families(data: str, inputs, **more) -> dict[str, dict]:
    """Return a row for each family of models that match two modalities."""
    s = {"data": data, "inputs": inputs, "ask": "match", **more}
    known = {
        "nearest": {"baseline": "nearest", "deterministic": True},
        "CCA": {"baseline": "CCA", "deterministic": True},
        "kernel CCA": {"baseline": "kernel CCA"},
        "mixture": {"baseline": "mixture"},
        "mixture, deep": {"guide": True},
        "mixture + adversarial": {"guide": True, "adversary": True},
        "adversarial only": {"adversary": True},
        "MSE": {"objective": "MSE"},
        "MSE + variance + covariance": {"objective": "MSE + variance + covariance"},
        "margin": {"objective": "margin"},
        "contrastive": {"objective": "contrastive"},
        "contrastive + adversarial": {"objective": "contrastive", "adversary": True},
        "contrastive, false pairs": {"objective": "contrastive", "false": True},
        "contrastive, longer": {"objective": "contrastive", "longer": 5},
    }
    return {f"{data}, {name}": s | family for name, family in known.items()}


def with_few_pairs() -> dict[str, dict]:
    """Return rows that know the partners of a share of the digits, and see all others unpaired."""
    everything = families("digits", CHIEF)
    kinds = ("nearest", "CCA", "kernel CCA", "mixture", "contrastive", "contrastive + adversarial")
    rows = {kind: everything[f"digits, {kind}"] for kind in kinds}
    rows["self-taught"] = rows["contrastive"] | {"taught": True}
    rows["contrastive, penalty"] = rows["contrastive"] | {"penalty": 0.01}
    rows["CCA, known only"] = rows["CCA"] | {"known only": True}
    rows["kernel CCA, known only"] = rows["kernel CCA"] | {"known only": True}
    for kind in ("contrastive", "contrastive + adversarial", "self-taught"):
        rows |= {f"{kind}, {part:g} of the steps": rows[kind] | {"longer": part} for part in BRIEFLY}
    return {"digits, self-taught": rows["self-taught"]} | {
        f"digits, {kind}, {share:.0%} of pairs".replace("%", " %"): {
            **s,
            "share": share,
            "deterministic": False,
        }
        for kind, s in rows.items()
        for share in SHARES
    }


ROWS = {
    # two classifiers, one a modality
    **{
        row: s for pair in (*PAIRS, AGAIN) for row, s in classifiers(" + ".join(pair), "digits", pair).items()
    },
    **{
        row: s
        for pair in PAIRS[:2]
        for few in FEW
        for row, s in classifiers(
            f"{' + '.join(pair)}, {few} of each",
            "digits",
            pair,
            ("JS", "KL", "itself"),
            MORE_WEIGHTS,
            few=few,
        ).items()
    },
    **{
        f"fourier + pixels, 5 of each, JS {w:g}, false pairs": classifying(
            "digits", CHIEF, few=5, agree="JS", weight=w, false=True
        )
        for w in (0.3, 1.0)
    },
    **{
        f"{' + '.join(pair)}, no labels, {kind}": classifying("digits", pair, few=0, agree=kind, weight=1.0)
        for pair in (*PAIRS[:2], AGAIN)
        for kind in ("JS", "cross-entropy", "cross-entropy + balance")
    },
    **{
        f"{' + '.join(pair)}, no labels, mixture": classifying("digits", pair, few=0, baseline="clusters")
        for pair in PAIRS[:2]
    },
    **{
        f"{' + '.join(pair)}, {few} of each, label spreading": classifying(
            "digits", pair, few=few, baseline="spreading"
        )
        for pair in PAIRS[:2]
        for few in FEW
    },
    **classifiers("picture + name", "things", NAMED, ("JS",)),
    **classifiers("picture + name, 10 of each", "things", NAMED, ("JS",), MORE_WEIGHTS, few=10),
    **classifiers("fourier + fourier again, 5 of each", "digits", AGAIN, ("JS",), few=5),
    "fourier + zernike, 5 of each, JS 10": classifying("digits", PAIRS[0], few=5, agree="JS", weight=10.0),
    "fourier + fourier again, no labels, mixture": classifying("digits", AGAIN, few=0, baseline="clusters"),
    # objectives, optimisers, rates and penalties
    "untrained": {
        "data": "digits",
        "inputs": CHIEF,
        "ask": "match",
        "objective": "MSE",
        "optimiser": "SGD",
        "rate": 0.0,
    },
    **{row: s for objective in COMPARED for row, s in by_optimiser(objective).items()},
    **{row: s for objective in PENALISED for row, s in penalised(objective).items()},
    # families of models
    **families("things", TOLD),
    "things, LDA": {"data": "things", "inputs": TOLD, "ask": "match", "baseline": "LDA"},
    **{
        f"things, contrastive, {more}": {
            "data": "things",
            "inputs": TOLD,
            "ask": "match",
            "objective": "contrastive",
            **settings,
        }
        for more, settings in {
            "computed": {"computed": True},
            "computed, longer": {"computed": True, "longer": 5},
        }.items()
    },
    **families("digits", CHIEF),
    "digits, CCA of 32": {
        "data": "digits",
        "inputs": CHIEF,
        "ask": "match",
        "baseline": "CCA",
        "instead": {"kept": {"numbers": 32, "texts": 0}},
        "deterministic": True,
    },
    "digits, adversarial only, longer": {
        "data": "digits",
        "inputs": CHIEF,
        "ask": "match",
        "adversary": True,
        "longer": 3,
    },
    **with_few_pairs(),
}


def settings(row: str) -> dict:
    """Return a row's settings; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return USUAL[ROWS[row]["data"]] | ROWS[row]


def pairs_of(s: dict, part: str) -> Examples:
    """Return a row's pairs on one side of the split, as they are or as what is computed of them."""
    data = examples(s["data"], part).of(s["inputs"])
    return baselines.computed(data, s["data"]) if s.get("computed") else data


def lesson(row: str, seed: int, shuffle_pairs: bool = False) -> tuple[Examples, Examples]:
    """Return the training pairs that a row knows, and all training items, whose pairs it does not know.

    ``shuffle_pairs`` deals the second modality out anew among all.
    """
    s = settings(row)
    everything = pairs_of(s, "train")
    if shuffle_pairs or (s.get("false") and s["ask"] == "match"):
        everything = false_pairs(everything, torch.Generator().manual_seed(seed))
    return some(everything, s["share"], seed) if "share" in s else everything, everything


# Training


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model, or fit its baseline, and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches, which labels are given and which pairs are known.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: items get each other's second modality before training.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, where = runtime.seed_everything(seed), runtime.device()
    known, everything = lesson(row, seed, shuffle_pairs)
    if "baseline" in s:
        known = labels(s, known, seed) if s["ask"] == "classify" else known
        everything = known if s.get("known only") else everything
        return baselines.fit(s["baseline"], s["data"], known, everything, generator, s.get("instead"))
    model = build(s, WIDTH[scale]).to(where)
    steps = max(1, round(STEPS[scale][s["data"]] * s.get("longer", 1)))
    if s.get("guide"):
        mixture = baselines.fit("mixture", s["data"], known, everything, generator)
        model.weights, known = mixture.model.weights, replace(known, y=mixture.posterior(known).float())

    def draw(data, size=BATCH[s["data"]]):
        rows = torch.randint(len(data.y), (size,), generator=generator)
        return seen(data.at(rows), generator, where)

    if s.get("taught"):
        descend(model, teaching(model, lambda: draw(everything), everything), steps, s, progress)
    parts = losses(model, s, seed, known, everything, draw, steps, generator)

    def batch_loss(step):
        return sum(part(step) for part in parts)

    descend(model, batch_loss, steps, s, progress)
    if s.get("few") == 0:
        model.order = named(outputs(model, model.answers, everything), everything.y)
    return model


def seen(batch: Examples, generator: torch.Generator, where) -> Examples:
    """Return a batch as training shows it, on the device: pictures turned, moved and recoloured a little."""
    x = {m: varied(x_m, generator) if x_m.ndim == 4 else x_m for m, x_m in batch.x.items()}
    return replace(batch, x={m: x_m.to(where) for m, x_m in x.items()}, y=batch.y.to(where))


def losses(model, s: dict, seed: int, known, everything, draw, steps: int, generator) -> list[Callable]:
    """Return the terms of a row's loss, each a function of the step.

    Each draws batches of its own, of what it may know: classifiers labels, a matching term and an objective
    pairs, the adversary neither: its batches of the two modalities are of different things.
    """
    parts = []
    if s["ask"] == "classify" or s.get("guide"):
        given = known if s.get("guide") else labels(s, known, seed)
        if given is not None:
            parts.append(lambda step: label_loss(model, draw(given)))
    if "agree" in s:
        pairs = false_pairs(known, generator) if s.get("false") else known
        parts.append(lambda step: s["weight"] * OBJECTIVES[s["agree"]](*model.answers(draw(pairs).x), None))
    if "objective" in s:
        parts.append(lambda step: pair_loss(model, s["objective"], draw(known)))
    if s.get("adversary"):
        alone = "objective" not in s and not s.get("guide")

        def against(step):
            batches = [draw(everything, JUDGED), draw(everything, JUDGED)]
            strength = ADVERSARY[s["data"]] * reversal_strength(step / steps)
            return adversary_loss(model, batches, strength, alone)

        parts.append(against)
    return parts


def labels(s: dict, data: Examples, seed: int) -> Examples | None:
    """Return the examples whose class a row is given: all, a few of each class, or None."""
    return None if s.get("few") == 0 else labelled(s, data, seed)


def label_loss(model: Matched, batch: Examples) -> Tensor:
    """Return the sum of the two classifiers' cross-entropies; they share only how gradients are cut."""
    return sum(F.cross_entropy(logits, batch.y) for logits in model.answers(batch.x))


def pair_loss(model: Matched, objective: str, batch: Examples) -> Tensor:
    """Return an objective's loss of a batch of pairs."""
    a, b = model.points(batch.x)
    return OBJECTIVES[objective](a, b, same_item(batch, a.device))


def adversary_loss(model: Matched, batches: list[Examples], strength: float, alone: bool) -> Tensor:
    """Return the discriminator's loss on directions, which the encoders raise with a strength.

    Two encoders that map everything to one point cannot be told apart either. Where nothing else forbids that
    (``alone``), points are to vary.
    """
    model.discriminator.reversal.strength = strength
    pairs = zip(model.encoders.items(), batches, strict=True)
    z = {m: direction(f(batch.x[m]).float()) for (m, f), batch in pairs}
    loss = model.discriminator.loss(z) + SMOOTH / 2 * steepness(model.discriminator, torch.cat([*z.values()]))
    return loss + sum(map(spread, z.values())) if alone else loss


def direction(z: Tensor) -> Tensor:
    """Return unit vectors, made longer: where they lie evenly each of their numbers has variance 1."""
    return z.shape[1] ** 0.5 * unit(z)


def steepness(discriminator: ModalityDiscriminator, z: Tensor) -> Tensor:
    r"""Return the mean of :math:`\lVert\nabla_zD(z)\rVert^2`, :math:`D` being the log-odds of two modalities.

    A steep discriminator drives the encoders round and round: without this penalty on it they never settle.

    Source: Mescheder, Geiger and Nowozin (2018), their penalty on both sides.
    """
    z = z.detach().requires_grad_()
    first, second = discriminator.guess(z).T
    (slope,) = torch.autograd.grad((first - second).sum(), z, create_graph=True)
    return slope.square().sum(1).mean()


def teaching(model: Matched, draw: Callable, data: Examples) -> Callable:
    """Return the loss by which each encoder and a linear decoder learn to keep what its own view holds."""
    model.decoders = nn.ModuleDict({m: nn.Linear(model.dim, x.shape[1]) for m, x in data.x.items()})
    model.decoders.to(next(model.parameters()).device)

    def batch_loss(step):
        batch = draw()
        z = dict(zip(model.encoders, model.points(batch.x), strict=True))
        return sum(F.mse_loss(model.decoders[m](z[m]), batch.x[m]) for m in z)

    return batch_loss


def descend(model: Matched, batch_loss: Callable, steps: int, s: dict, progress: bool) -> None:
    r"""Train with the optimiser of a row; its rate falls in a straight line to 0.

    The penalty is :math:`\frac\beta2\lVert\theta\rVert^2`: its gradient :math:`\beta\theta` is added to that
    of the loss, and Adam and Adagrad scale both alike. (AdamW does not scale it.) Gradients longer than 1 are
    cut to 1. A discriminator has to keep up with what it judges, so it learns faster.
    """
    rate, more = s["rate"], {"momentum": 0.9} if s["optimiser"] == "SGD" else {}
    groups = [
        {"params": [p for name, p in model.named_parameters() if not name.startswith("discriminator")]},
        {"params": model.discriminator.parameters(), "lr": FASTER * rate},
    ]
    make = getattr(torch.optim, s["optimiser"])
    optimiser = make(groups, lr=rate, weight_decay=s.get("penalty", 0.0), **more)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    model.train()
    for step in tqdm(range(steps), disable=not progress, leave=False):
        with autocast():
            loss = batch_loss(step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        model.losses.append(loss.item())
    model.eval()


# Scores


def score(model, row: str, seed: int, part: str = "test") -> Figures:
    """Return the figures of a trained model or baseline, and each item's outcome.

    Returns:
        Of two classifiers what `classification` returns, of all others what `retrieval` returns, with
        ``"validation"``: the mean accuracy of the two, or R@10, on the validation items; of networks also
        ``"parameters"`` and, of points, what `geometry` returns, and with an adversary ``"discriminator"``,
        see `guessed`.
    """
    s = settings(row)
    data, others = pairs_of(s, part), pairs_of(s, "validation")
    if s["ask"] == "classify":
        answers, chosen = (answered(model, items) for items in (data, others))
        figures, outcomes = classification(answers, data)
        figures["validation"] = np.mean([(z.argmax(1) == others.y).double().mean() for z in chosen])
    else:
        figures, outcomes = retrieval(model.similarity(data), data)
        figures["validation"] = retrieval(model.similarity(others), others)[1]["R@10"].mean()
    if s.get("adversary"):
        figures["discriminator"] = guessed(model, data)
    if isinstance(model, Matched):
        figures["parameters"] = parameter_count(model.encoders) + parameter_count(model.heads)
        if s["ask"] == "match":
            figures |= geometry(*(outputs(model, model.points, items) for items in (data, others)))
    return Figures(figures, outcomes=outcomes, groups=data.family)


def guessed(model: Matched, data: Examples) -> float:
    """Return how often the discriminator guesses from which modality a point comes, by chance half."""

    def guesses(x):
        return [model.discriminator(direction(z)) for z in model.points(x)]

    found = outputs(model, guesses, data)
    return np.mean([(logits.argmax(1) == k).double().mean() for k, logits in enumerate(found)])


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row, seed)
