"""Chapter 05: every fuser, beside each modality alone and beside alignment.

Views of a digit that say the same, or different things; two digits of which only both together tell the
answer; a picture and an animation; a picture and a name. With modalities missing, noisy, and starved. All
networks of one question have the same encoders, batches and steps; only the fuser differs.
"""

from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from mmtutor import fusion, runtime
from mmtutor.augment import mask_present, random_affine, random_mirror
from mmtutor.contrastive import info_nce, unit
from mmtutor.data.digits import VIEWS
from mmtutor.encoders import ImageEncoder
from mmtutor.ledger import Figures
from mmtutor.sharing import parameter_count, resnet_trunk
from mmtutor.training import train

from . import fusion_baselines as baselines
from .fusion_tasks import LETTERS, Examples, examples

DIM, HIDDEN = 32, 128  # of the space, of the encoders of numbers
BATCH, RATE, TEMPERATURE = 64, 3e-3, 0.1
# Chosen with the validation items, of decay 0.05, 0.2, 0.5, dropout 0, 0.3, 0.5, usual and wide augmentation:
# the few things that move want more of all
KIND = {"digits": "numbers", "parity": "numbers", "moving things": "few", "things": "many", "names": "many"}
DECAY = {"numbers": 0.05, "few": 0.5, "many": 0.05}
DROPOUT = {"numbers": 0.3, "few": 0.5, "many": 0.1, "letters": 0.3}
MOVED = {"few": {"degrees": 20.0, "shift": 0.12, "scale": 0.25, "shear": 0.2}, "many": {}}
STEPS = {
    "cpu": {"numbers": 600, "few": 400, "many": 400},
    "gpu": {"numbers": 2000, "few": 2000, "many": 4000},
}
WIDTH = {"cpu": 16, "gpu": 64}  # of the picture encoders
SGD_RATE, STRENGTHS = 0.05, (0.3, 1.0, 3.0)
RIDGE = 30.0
RARELY = 0.1  # of a group that hardly ever moves, fewer things have an animation
ABSENT = 0.5  # modality dropout: how often a modality is hidden in training
NOISE = (0.5, 1.0, 2.0, 4.0)  # standard deviations; that of a digit's feature is 1, pixels are -1 to 1
LOOKS = 20  # how often a run is looked at on its way

FUSERS = {
    "concat": fusion.ConcatFusion,
    "sum": fusion.SumFusion,
    "mean": fusion.MeanFusion,
    "max": fusion.MaxFusion,
    "gated": fusion.GatedFusion,
    "attention": fusion.AttentionFusion,
    "Transformer": fusion.TransformerFusion,
    "bilinear": fusion.BilinearFusion,
    "low-rank": fusion.LowRankFusion,
}
LATE = {"late mean": "mean", "late learnt": "learnt", "stacking": "stacking"}
NEEDS_MORE = ("late learnt", "stacking")  # they learn from the heads' answers to items not learnt
WAYS = (*FUSERS, "concat, hidden layer", *LATE)


# Models


class Numbers(nn.Sequential):
    """Two linear maps with a ReLU between them: the encoder of a digit's view."""

    def __init__(self, width: int):
        super().__init__(
            nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT["numbers"]), nn.Linear(HIDDEN, DIM)
        )


class Letters(nn.Module):
    """An LSTM that reads a name letter by letter, both ways; what it holds at either end is the name's point.

    Shapes: int64 ``(B, L)``, zero is padding at the end -> ``(B, DIM)``.
    """

    def __init__(self, hidden: int = 64):
        super().__init__()
        self.letter = nn.Embedding(len(LETTERS) + 1, 24)
        self.dropout = nn.Dropout(DROPOUT["letters"])
        self.lstm = nn.LSTM(24, hidden, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * hidden, DIM)

    def forward(self, letters: Tensor) -> Tensor:
        lengths = (letters > 0).sum(1).clamp(min=1).cpu()
        read = self.dropout(self.letter(letters))
        packed = pack_padded_sequence(read, lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return self.project(self.dropout(torch.cat([last[0], last[1]], 1)))


def encoder(x: Tensor, data: str, width: int) -> nn.Module:
    """Return an untrained encoder into the space for what a modality looks like."""
    if x.dtype == torch.long:
        return Letters()
    if x.ndim == 2:
        return Numbers(x.shape[1])
    see = resnet_trunk(DIM, width) if data == "names" else ImageEncoder(DIM, width, channels=x.shape[1])
    return nn.Sequential(see, nn.Dropout(DROPOUT[KIND[data]]))


class UnitMean(fusion.Fusion):
    """The mean of the unit vectors of what is present: where they are aligned, that needs no map."""

    def fuse(self, z, valid):
        weights = valid.float() / valid.sum(1, keepdim=True).clamp(min=1)
        return torch.einsum("bm,bmd->bd", weights, torch.stack([*map(unit, z.values())], 1)), weights


class Fused(nn.Module):
    r"""Encoders, a fuser and a linear head, :math:`q\circ\phi(f_1,\dots,f_M)`.

    Args:
        encoders: :math:`f_m` by modality, into ``DIM`` dimensions.
        fuser: one whose point has ``DIM`` dimensions, or whose point is the answer (``LateFusion``).
        head: from the point to the classes.
    """

    def __init__(self, encoders: dict[str, nn.Module], fuser: fusion.Fusion, head: nn.Module):
        super().__init__()
        self.encoders, self.fuser, self.head = nn.ModuleDict(encoders), fuser, head
        self.frozen, self.slow = False, {}

    def train(self, mode: bool = True) -> "Fused":
        """Go into training mode, but for encoders that are frozen."""
        super().train(mode)
        self.encoders.train(mode and not self.frozen)
        self.encoders.requires_grad_(not self.frozen)
        return self

    def encode(self, x: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        """Map what is present into the space, ``(B, DIM)`` each; zeros elsewhere."""
        z = {}
        for k, (m, f) in enumerate(self.encoders.items()):
            here = valid[:, k]
            z[m] = torch.zeros(len(valid), DIM, device=valid.device)
            if here.any():  # what is absent must not reach a batch normalisation either
                z[m] = z[m].index_put((here.nonzero()[:, 0],), f(x[m][here]).to(z[m].dtype))
        return z

    def answer(self, z: dict[str, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, C)`` and weights ``(B, M)`` of points."""
        point, weights = self.fuser(z, valid)
        return self.head(point), weights

    def forward(self, x: dict[str, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
        return self.answer(self.encode(x, valid), valid)


def build(s: dict, width: int) -> Fused:
    """Return the model of a row's settings, untrained; ``width`` is that of encoders of pictures."""
    data = examples(s["data"], "train").of(s["inputs"])
    classes, way = int(data.y.max()) + 1, s.get("way", "concat")
    encoders = {m: encoder(x, s["data"], width) for m, x in data.x.items()}
    dims = dict.fromkeys(s["inputs"], DIM)
    if way in LATE:
        return Fused(encoders, fusion.LateFusion(dims, classes, kind=LATE[way]), nn.Identity())
    head = nn.Linear(DIM, classes)
    if way == "concat, hidden layer":
        return Fused(encoders, fusion.ConcatFusion(dims, DIM), nn.Sequential(nn.ReLU(), head))
    return Fused(encoders, UnitMean(dims, DIM) if way == "unit mean" else FUSERS[way](dims, DIM), head)


# Rows

PAIRS = (("fourier", "zernike"), ("fourier", "pixels"), ("pixels", "karhunen"))
CHIEF = ("fourier", "pixels")
MOVING, THINGS, NAMES = ("picture", "animation"), ("picture", "animation"), ("picture", "name")
FEW = 10  # labels of each digit


def row(data: str, inputs, way: str | None = None, **more) -> dict:
    """Return a row's settings."""
    return {"data": data, "inputs": tuple(inputs), **({"way": way} if way else {}), **more}


def by_way(name: str, data: str, inputs, ways=WAYS, **more) -> dict[str, dict]:
    """Return a row for each fuser."""
    suffix = "".join(f", {what}" for what in more)
    return {f"{name}, {way}{suffix}": row(data, inputs, way, **more) for way in ways}


def aligned(name: str, data: str, inputs, suffix: str = "", **more) -> dict[str, dict]:
    """Return rows of encoders that are aligned first, then frozen under a linear head, or trained on."""
    return {
        f"{name}, alignment{suffix}": row(data, inputs, align="frozen", **more),
        f"{name}, alignment, unit mean{suffix}": row(data, inputs, "unit mean", align="frozen", **more),
        f"{name}, alignment, trained on{suffix}": row(data, inputs, align="trained on", **more),
    }


def for_pair(pair) -> dict[str, dict]:
    """Return the rows of two views: fusers, alignment, baselines, with all labels and with few."""
    name, few = " + ".join(pair), f", {FEW} of each"
    rows = by_way(name, "digits", pair) | aligned(name, "digits", pair)
    rows[f"{name}, linear"] = row("digits", pair, baseline="linear", deterministic=True)
    rows |= {f"{view}{few}": row("digits", (view,), few=FEW) for view in pair}
    rows |= {f"{name}, {way}{few}": row("digits", pair, way, few=FEW) for way in ("concat", "late mean")}
    rows |= aligned(name, "digits", pair, few, few=FEW)
    for kind in ("linear", "label spreading"):
        rows[f"{name}, {kind}{few}"] = row("digits", pair, baseline=kind, few=FEW)
    return rows


ROWS = {
    # digits: views alone, two of them, all of them
    **{view: row("digits", (view,), probe=True) for view in VIEWS},
    **{f"{a} + {b}, concat": row("digits", (a, b)) for a, b in combinations(VIEWS, 2)},
    **{name: s for pair in PAIRS for name, s in for_pair(pair).items()},
    **by_way("six views", "digits", VIEWS, ("concat", "mean", "gated", "attention")),
    **by_way("six views", "digits", VIEWS, ("concat", "mean", "gated", "attention"), dropout=True),
    **by_way("six views", "digits", VIEWS, ("gated", "attention"), dropout=True, noise=True),
    # one view missing or noisy, and trained for it
    **by_way("fourier + pixels", "digits", CHIEF, FUSERS, dropout=True),
    **by_way("fourier + pixels", "digits", CHIEF, (*FUSERS, "late mean"), noise=True),
    "fourier + pixels, concat, dropout, longer": row("digits", CHIEF, "concat", dropout=True, longer=2),
    # one view starving the other
    "fourier + pixels, concat": row("digits", CHIEF, "concat", probe=True),
    "fourier + pixels, concat, dropout": row("digits", CHIEF, "concat", dropout=True, probe=True),
    "fourier + pixels, concat, own losses": row("digits", CHIEF, "concat", own=True, probe=True),
    "fourier, SGD": row("digits", ("fourier",), sgd=True, probe=True),
    "fourier + pixels, concat, SGD": row("digits", CHIEF, "concat", sgd=True, probe=True),
    **{
        f"fourier + pixels, concat, SGD, modulated {strength:g}": row(
            "digits", CHIEF, sgd=True, modulate=strength, probe=True
        )
        for strength in STRENGTHS
    },
    # a second network for the same modality: what is the gain of two networks, not of two modalities?
    **by_way("pixels + pixels again", "digits", ("pixels", "pixels again"), ("concat", "late mean")),
    **by_way("fourier + fourier again", "digits", ("fourier", "fourier again"), ("concat", "late mean")),
    # two digits: only both together tell
    **by_way("parity", "parity", ("first", "second")),
    **{f"parity, {m} alone": row("parity", (m,)) for m in ("first", "second")},
    # pictures and animations
    **{f"moving, {m}": row("moving things", (m,)) for m in MOVING},
    **by_way("moving", "moving things", MOVING),
    "moving, concat, dropout": row("moving things", MOVING, dropout=True),
    "moving, concat, own losses": row("moving things", MOVING, own=True),
    **by_way(
        "moving, animation twice", "moving things", ("animation", "animation again"), ("concat", "late mean")
    ),
    **aligned("moving", "moving things", MOVING),
    **{f"moving, {m}, statistics": row("moving things", (m,), baseline="statistics") for m in MOVING},
    "moving, statistics": row("moving things", MOVING, baseline="statistics"),
    "moving, same answer": row("moving things", MOVING, baseline="same answer"),
    # things of which fewer than half have an animation
    "things, picture": row("things", ("picture",)),
    "things, only those that move": row("things", THINGS, complete=True),
    "things, all": row("things", THINGS),
    "things, all, dropout": row("things", THINGS, dropout=True),
    "things, presence": row("things", THINGS, baseline="presence"),
    # pictures and names
    **{f"names, {m}": row("names", (m,)) for m in NAMES},
    **by_way("names", "names", NAMES, ("concat", "gated", "attention", "low-rank", "late mean")),
    "names, n-grams": row("names", NAMES, baseline="n-grams"),
}


# Controls. Twice as many steps: as many as alignment and then the head have.
ROWS |= {
    "fourier + zernike, concat, longer": row("digits", PAIRS[0], longer=2),
    "fourier + pixels, concat, longer": row("digits", PAIRS[1], longer=2),
    "pixels + karhunen, concat, longer": row("digits", PAIRS[2], longer=2),
    "fourier + zernike, concat, longer, 10 of each": row("digits", PAIRS[0], few=FEW, longer=2),
    "fourier + pixels, concat, longer, 10 of each": row("digits", PAIRS[1], few=FEW, longer=2),
    "pixels + karhunen, concat, longer, 10 of each": row("digits", PAIRS[2], few=FEW, longer=2),
    "moving, concat, longer": row("moving things", MOVING, longer=2),
    "moving, animation, longer": row("moving things", MOVING[1:], longer=2),
    # a loss for each modality, as the late mean has it
    "fourier + pixels, sum, own losses": row("digits", CHIEF, "sum", own=True),
    "fourier + pixels, gated, own losses": row("digits", CHIEF, "gated", own=True),
    "fourier + pixels, attention, own losses": row("digits", CHIEF, "attention", own=True),
    "fourier + pixels, Transformer, own losses": row("digits", CHIEF, "Transformer", own=True),
    "fourier + zernike, concat, own losses": row("digits", PAIRS[0], own=True),
    # who starves beside whom
    "fourier + morphological, concat": row("digits", ("fourier", "morphological"), probe=True),
    "fourier + fourier again, concat": row("digits", ("fourier", "fourier again"), "concat", probe=True),
    "fourier + pixels, gated": row("digits", CHIEF, "gated", probe=True),
    # a partner that cannot tell a six from a nine; one view that has seen noise; names at length, and twice
    "pixels + zernike, alignment": row("digits", ("pixels", "zernike"), align="frozen"),
    "fourier, noise": row("digits", ("fourier",), noise=True),
    "names, name, longer": row("names", NAMES[1:], longer=4),
    "names, picture twice, late mean": row("names", ("picture", "picture again"), "late mean"),
}


def settings(row: str) -> dict:
    """Return a row's settings; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return ROWS[row]


def lesson(row: str, seed: int, shuffle_pairs: bool = False) -> Examples:
    """Return the training examples of a row, with all that it may see of them.

    ``shuffle_pairs`` deals out the answers anew; the modalities of an item stay together.
    """
    s = settings(row)
    data = examples(s["data"], "train").of(s["inputs"])
    if s.get("complete"):
        data = data.at(data.valid.all(1))
    if shuffle_pairs:
        generator = torch.Generator().manual_seed(seed)
        data = replace(data, y=data.y[torch.randperm(len(data.y), generator=generator)])
    return data


def labelled(s: dict, data: Examples, seed: int) -> Examples:
    """Return those training examples whose answer a row is given: all, or a few of each class."""
    if "few" not in s:
        return data
    order = torch.tensor(np.random.RandomState(seed).permutation(len(data.y)))
    chosen = [order[data.y[order] == c][: s["few"]] for c in data.y.unique()]
    return data.at(torch.cat(chosen))


# Training


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model, or fit its baseline, and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches, which modalities are hidden and which labels are given.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: items get each other's answers before training.
        progress: show a progress bar.

    Returns:
        The model. Of two modalities ``looks`` keeps the lengths of the gradients of the encoders, by step.

    Raises:
        ValueError: for an unknown row, or pairs shuffled where nothing is trained.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, where = runtime.seed_everything(seed), runtime.device()
    data = lesson(row, seed, shuffle_pairs)
    if "baseline" in s:
        if shuffle_pairs:
            raise ValueError(f"shuffle_pairs: expected a row that is trained, found {row!r}")
        return baselines.fit(s["baseline"], data, labelled(s, data, seed))
    kind = KIND[s["data"]]
    model, steps = build(s, WIDTH[scale]).to(where), int(STEPS[scale][kind] * s.get("longer", 1))
    more = dict(rate=RATE, weight_decay=DECAY[kind], progress=progress)
    model.looks = {}
    if "align" in s:
        align(model, data, s, steps, generator, **more)
        model.frozen = s["align"] == "frozen"
    data, planned = labelled(s, data, seed), look_steps(steps)
    data, rest = held_out(data, seed) if s.get("way") in NEEDS_MORE else (data, None)

    def batch_loss(step):
        batch = draw(data, s, generator, where)
        loss = loss_of(model, batch, s)
        if step in planned and len(model.encoders) == 2 and "align" not in s:
            model.looks[step] = gradient_lengths(model, loss)
        if s.get("modulate"):
            model.slow = fusion.gradient_modulation(confidence(model, batch), s["modulate"])
        return loss

    if s.get("sgd"):
        descend(model, batch_loss, steps)
    else:
        model.history = train(model, batch_loss, steps, **more)
    if rest is not None:
        combine(model, rest, generator, steps, **more)
    return model


def look_steps(steps: int) -> list[int]:
    """Return at which steps of so many a run is looked at.

    Example:
        >>> look_steps(300)[:3], len(look_steps(300))
        ([0, 15, 30], 20)
    """
    return [*range(0, steps, max(1, steps // LOOKS))]


def draw(data: Examples, s: dict, generator: torch.Generator, where) -> Examples:
    """Draw a batch as a row is to see it: pictures moved a little, some modalities hidden or made noisy."""
    batch = data.at(torch.randint(len(data.y), (BATCH,), generator=generator))
    x, valid = {}, batch.valid
    for m, x_m in batch.x.items():
        x[m] = x_m
        if x_m.ndim == 4:
            moved = random_affine(x_m, generator=generator, **MOVED[KIND[s["data"]]])
            x[m] = random_mirror(moved, generator=generator)
        if s.get("noise"):  # of half of the items, each as noisy as it happens
            size = torch.tensor((0.0,) * len(NOISE) + NOISE)
            size = size[torch.randint(len(size), (BATCH, 1), generator=generator)]
            x[m] = x[m] + size * torch.randn(x_m.shape, generator=generator)
    if s.get("dropout"):
        valid = mask_present(valid, rate=ABSENT, generator=generator)
    return Examples(
        {m: x_m.to(where) for m, x_m in x.items()},
        valid.to(where),
        batch.y.to(where),
        batch.item,
        batch.family,
    )


def loss_of(model: Fused, batch: Examples, s: dict) -> Tensor:
    """Return the loss of a batch: of the joint answer, of each modality's own, or (``own``) of both."""
    z = model.encode(batch.x, batch.valid)
    loss = 0.0
    if s.get("way") not in LATE:
        loss = F.cross_entropy(model.answer(z, batch.valid)[0], batch.y)
        if not s.get("own"):
            return loss
    for k, logits in enumerate(own_logits(model, z)):
        here = batch.valid[:, k]
        loss = loss + F.cross_entropy(logits[here], batch.y[here]) if here.any() else loss
    return loss


def own_logits(model: Fused, z: dict[str, Tensor]) -> list[Tensor]:
    """Return what each modality answers alone, ``(B, C)``: by its own head, or with the others absent."""
    if isinstance(model.fuser, fusion.LateFusion):
        return [*model.fuser.modality_logits(z).values()]
    alone = torch.eye(len(z), dtype=torch.bool, device=next(iter(z.values())).device)
    return [model.answer(z, only.expand(len(z[m]), -1))[0] for m, only in zip(z, alone, strict=True)]


def align(model: Fused, data: Examples, s: dict, steps: int, generator: torch.Generator, **more) -> None:
    """Train two encoders by the contrastive loss on what belongs together, without any label."""
    first, second = model.encoders
    where = next(model.parameters()).device

    def batch_loss(step):
        batch = draw(data, {"data": s["data"]}, generator, where)
        z = model.encode(batch.x, batch.valid)
        return info_nce(z[first], z[second], TEMPERATURE)

    train(model.encoders, batch_loss, steps, **more)


def held_out(data: Examples, seed: int) -> tuple[Examples, Examples]:
    """Split training examples by families: four fifths to learn from, a fifth to learn to combine."""
    families = np.unique(data.family)
    rest = np.random.RandomState(seed).permutation(families)[: len(families) // 5]
    held = torch.tensor(np.isin(data.family, rest))
    return data.at(~held), data.at(held)


def combine(model: Fused, data: Examples, generator: torch.Generator, steps: int, **more) -> None:
    """Train what joins the answers of the heads, on examples that these have not seen."""
    where = next(model.parameters()).device
    late = model.fuser
    joins = late.stack if late.kind == "stacking" else nn.ParameterList([late.scores])
    x = {m: x_m.to(where) for m, x_m in data.x.items()}
    with torch.no_grad():
        z = model.encode(x, data.valid.to(where))

    def batch_loss(step):
        return F.cross_entropy(late(z, data.valid.to(where))[0], data.y.to(where))

    train(joins, batch_loss, steps, **more)


def gradient_lengths(model: Fused, loss: Tensor) -> dict[str, float]:
    """Return the length of the loss's gradient on each encoder."""
    lengths = {}
    for m, f in model.encoders.items():
        gradients = torch.autograd.grad(loss, [*f.parameters()], retain_graph=True)
        lengths[m] = sum(g.square().sum() for g in gradients).sqrt().item()
    return lengths


@torch.no_grad()
def confidence(model: Fused, batch: Examples) -> dict[str, float]:
    """Return the mean probability of the right class by each modality alone."""
    z = model.encode(batch.x, batch.valid)
    found = [logits.softmax(1).gather(1, batch.y[:, None]).mean().item() for logits in own_logits(model, z)]
    return dict(zip(z, found, strict=True))


def descend(model: Fused, batch_loss, steps: int) -> None:
    """Train by plain stochastic descent with momentum, encoders as slow as ``model.slow`` says."""
    optimiser = torch.optim.SGD(model.parameters(), lr=SGD_RATE, momentum=0.9, weight_decay=1e-4)
    model.train()
    for step in range(steps):
        optimiser.zero_grad()
        batch_loss(step).backward()
        for m, k in model.slow.items():
            for p in model.encoders[m].parameters():
                p.grad *= k
        optimiser.step()
    model.eval()


# Scores


def score(model, row: str, seed: int, part: str = "test") -> Figures:
    """Return the figures of a trained model or baseline, and each item's outcome.

    Returns:
        ``"accuracy"``. Of networks also ``"nats"``: by how much the log-probability of the right class is
        above that of its share in training; its mean is what the answer tells of the class. For it the logits
        are divided by the ``"temperature"`` that suits the validation items. ``"ece"`` is before that,
        ``"ece, scaled"`` after. ``"validation"`` and ``"training"`` are accuracies on those items. Each
        modality has its mean ``"weight"``. Further figures: see `told`, `robustness`, `contributions`,
        `presence`, `probe`, and ``"gradient, 15 @ fourier"``, the length of an encoder's gradient at a step.
    """
    s = settings(row)
    data, others = (examples(s["data"], p).of(s["inputs"]) for p in (part, "validation"))
    if "baseline" in s:
        return Figures(outcomes={"accuracy": model.answers(data) == data.y.numpy()}, groups=data.family)
    prior = examples(s["data"], "train").y.bincount().double()
    prior = (prior / prior.sum()).log()
    logits, weights = answers(model, data)
    chosen = answers(model, others)[0]
    T = temperature(chosen, others.y)
    outcomes = {"accuracy": right(logits, data.y), "nats": nats(logits / T, data.y, prior)}
    figures = {"temperature": T, "parameters": parameter_count(model)}
    figures |= {"ece": ece(logits, data.y), "ece, scaled": ece(logits / T, data.y)}
    learnt = lesson(row, seed)
    figures["training"] = right(answers(model, learnt)[0], learnt.y).mean()
    figures["validation"] = right(chosen, others.y).mean()
    figures |= {f"weight, {m}": share for m, share in zip(data.x, weights.mean(0), strict=True)}
    for step, lengths in model.looks.items():
        figures |= {f"gradient, {step} @ {m}": length for m, length in lengths.items()}
    if len(data.x) <= 2:
        more, only = robustness(model, data)
        figures, outcomes = figures | more, outcomes | only
    if len(data.x) == 2 and s["data"] == "digits":
        outcomes |= imputed(model, learnt, data)
    if len(data.x) == 1:
        figures |= told(nats(chosen / T, others.y, prior), others.y)
    if len(data.x) > 2:
        figures |= contributions(model, data, prior)
    if s["data"] == "things":
        outcomes |= presence(model, data, examples("things", part).valid.all(1))
    if s.get("probe"):
        outcomes |= {f"probe, {m}": probe(model, m, learnt, data) for m in data.x}
    if outcomes["nats"].isnan().any():  # in the others NaN says that an item was not asked
        raise FloatingPointError(f"{row}, seed {seed}: expected finite answers, found NaN")
    asked = {name: ~values.isnan() for name, values in outcomes.items()}
    outcomes = {name: values[asked[name]] for name, values in outcomes.items()}
    groups = {name: data.family[rows.numpy()] for name, rows in asked.items()}
    return Figures(figures, outcomes=outcomes, groups=groups)


@torch.no_grad()
def answers(model: Fused, data: Examples, shown=None) -> tuple[Tensor, Tensor]:
    """Return logits ``(N, C)`` and weights ``(N, M)``, with all modalities or only those ``shown``."""
    where = next(model.parameters()).device
    valid = data.valid if shown is None else data.valid & torch.tensor([m in shown for m in data.x])
    logits, weights = model({m: x.to(where) for m, x in data.x.items()}, valid.to(where))
    return logits.cpu().double(), weights.cpu().double()


def right(logits: Tensor, y: Tensor) -> Tensor:
    """Return whether the highest score is that of the right class, 0 or 1, ``(N,)``."""
    return (logits.argmax(1) == y).double()


def nats(logits: Tensor, y: Tensor, prior: Tensor) -> Tensor:
    r"""Return :math:`\log p(y_i\mid x_i)-\log p(y_i)`, ``(N,)``."""
    return logits.log_softmax(1).gather(1, y[:, None])[:, 0] - prior[y]


def ece(logits: Tensor, y: Tensor) -> float:
    """Return the expected calibration error of softmax probabilities."""
    return fusion.expected_calibration_error(logits.softmax(1), y)


def temperature(logits: Tensor, y: Tensor) -> float:
    """Return the number by which to divide logits for the smallest cross-entropy (Guo et al. 2017)."""
    found = minimize_scalar(lambda t: F.cross_entropy(logits / np.exp(t), y).item(), bounds=(-3, 3))
    return float(np.exp(found.x))


def told(gained: Tensor, y: Tensor) -> dict[str, float]:
    """Return what a modality tells of each class, in nats: the mean over (validation) items of that class."""
    return {f"told, {c}": gained[y == c].mean() for c in y.unique().tolist()}


def robustness(model: Fused, data: Examples) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return what remains with one modality only, and with noise in one.

    Returns:
        Figures: ``"confidence, only fourier"``, the mean of the largest probability, and ``"ece, only
        fourier"``; with noise of standard deviation 2 ``"accuracy, pixels at 2"``, ``"confidence, pixels at
        2"`` and ``"weight, pixels at 2"``. Outcomes: ``"accuracy, only fourier"``.
    """
    figures, outcomes = {}, {}
    for k, m in enumerate(data.x):
        here = data.valid[:, k]
        logits, y = answers(model, data.at(here), [m])[0], data.y[here]
        outcomes[f"accuracy, only {m}"] = among(here, right(logits, y))
        figures[f"confidence, only {m}"] = logits.softmax(1).amax(1).mean()
        figures[f"ece, only {m}"] = ece(logits, y)
        for size in NOISE if data.x[m].is_floating_point() else ():
            logits, weights = answers(model, noisy(data, m, size))
            figures[f"accuracy, {m} at {size:g}"] = right(logits, data.y).mean()
            figures[f"confidence, {m} at {size:g}"] = logits.softmax(1).amax(1).mean()
            figures[f"weight, {m} at {size:g}"] = weights[:, k].mean()
    return figures, outcomes


def imputed(model: Fused, learnt: Examples, data: Examples) -> dict[str, Tensor]:
    """Return how good answers are if one view is guessed from the other, by ridge regression.

    That is the usual remedy if a model cannot do without: ``"accuracy, only fourier, rest guessed"``.
    """
    found = {}
    for m, other in (list(data.x), list(data.x)[::-1]):
        guess = Ridge(RIDGE).fit(learnt.x[m].numpy(), learnt.x[other].numpy()).predict(data.x[m].numpy())
        filled = replace(data, x={**data.x, other: torch.tensor(guess).float()})
        found[f"accuracy, only {m}, rest guessed"] = right(answers(model, filled)[0], data.y)
    return found


def noisy(data: Examples, m: str, size: float) -> Examples:
    """Return the items with noise of a standard deviation in one modality, the same noise on every call."""
    noise = torch.randn(data.x[m].shape, generator=torch.Generator().manual_seed(0))
    return replace(data, x={**data.x, m: data.x[m] + size * noise})


def contributions(model: Fused, data: Examples, prior: Tensor) -> dict[str, float]:
    """Return each modality's Shapley value in nats, what it achieves alone, what is lost without it."""

    @cache
    def value(shown: frozenset) -> float:
        return nats(answers(model, data, shown)[0], data.y, prior).mean().item()

    everything, figures = frozenset(data.x), {}
    for m, share in fusion.shapley_values(value, [*data.x]).items():
        figures[f"shapley, {m}"] = share
        figures[f"alone, {m}"] = value(frozenset([m]))
        figures[f"lost, {m}"] = value(everything) - value(everything - {m})
    return figures | {"all": value(everything), "none": value(frozenset())}


def presence(model: Fused, data: Examples, moves: Tensor) -> dict[str, Tensor]:
    """Return how good answers are for things that move, and what they are if their animation is hidden.

    Objects, symbols and the like hardly ever have an animation. ``"still"`` is how often the answer is one of
    those groups, for things that do have one: with the animation (``"shown"``) and without (``"hidden"``).
    """
    learnt = examples("things", "train")
    share = torch.stack([learnt.valid[learnt.y == c, 1].double().mean() for c in learnt.y.unique()])
    here, found = data.at(moves), {}
    for name, shown in (("shown", None), ("hidden", ["picture"])):
        logits = answers(model, here, shown)[0]
        found[f"accuracy, {name}"] = among(moves, right(logits, here.y))
        found[f"still, {name}"] = among(moves, (share[logits.argmax(1)] < RARELY).double())
    found["accuracy, none"] = among(~moves, right(answers(model, data.at(~moves))[0], data.y[~moves]))
    return found


def among(rows: Tensor, values: Tensor) -> Tensor:
    """Return the values of some items at their places among all, ``(N,)``, NaN for those not asked.

    Example:
        >>> among(torch.tensor([False, True]), torch.tensor([1.0]))
        tensor([nan, 1.])
    """
    return torch.full((len(rows),), torch.nan, dtype=values.dtype).masked_scatter(rows, values)


def probe(model: Fused, m: str, learnt: Examples, data: Examples) -> Tensor:
    """Return whether a linear map of one encoder's points, trained on them as they are, finds the class."""
    z, y = points(model, m, learnt), learnt.y
    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(z, y)
    return torch.tensor(line.predict(points(model, m, data)) == data.y.numpy()).double()


@torch.no_grad()
def points(model: Fused, m: str, data: Examples) -> np.ndarray:
    """Return one modality's points, ``(N, DIM)``."""
    where = next(model.parameters()).device
    return model.encoders[m](data.x[m].to(where)).cpu().numpy()


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row, seed)
