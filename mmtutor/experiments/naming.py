"""Chapter 10: naming pictures and translating names, one character after the other, by three decoders.

All decoders of a question have the same encoder, width, batches, steps and rate. They differ in how they
look at what the encoder made.
"""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.cross_modal import masked_mean
from mmtutor.data import load_emoji
from mmtutor.ledger import Figures
from mmtutor.seq2seq import (
    PADDING,
    AttentionDecoder,
    Generated,
    PictureTokens,
    Seq2Seq,
    TextTokens,
    TransformerDecoder,
    VanillaDecoder,
)
from mmtutor.sharing import parameter_count
from mmtutor.training import train

from . import naming_baselines as baselines
from . import naming_evidence as evidence
from .attention_models import Everywhere
from .contrastive import varied
from .naming_tasks import QUESTIONS, Named, named, vocabulary

STEPS = {
    "cpu": {"picture": 1500, "text": 400, "animals": 400},
    "gpu": {"picture": 8000, "text": 1600, "animals": 2000},
}
DIM, WIDTH, BATCH, DECAY = 128, {"cpu": 48, "gpu": 96}, 128, 0.05
RATE, FASTER = 3e-3, 1e-2  # chosen by Twemoji's names, learnt from Fluent and blobs: 1e-3 is worse for all
EXAMINED = (
    "English, attention",
    "English, Transformer",
    "English, Transformer, own patches",
    "animals, Transformer",
)
LOOKED_AT = 200  # pictures that are named right
POOL = 8  # batches that are sorted by length together
LENGTHS = {"English": (8, 11, 15), "Chinese": (2, 3, 4)}  # a name of up to so many characters, or more

DECODERS = {
    "vanilla": VanillaDecoder,
    "mean": lambda size, dim: AttentionDecoder(size, dim, Everywhere(dim)),
    "attention": AttentionDecoder,
    "Transformer": TransformerDecoder,
    "Transformer, one vector": TransformerDecoder,
}
DEFAULT = dict(rate=RATE, times=1, tags=False, apart=False, narrow=False)
ROWS = (
    {
        f"{question}, {decoder}": dict(question=question, decoder=decoder)
        for question, decoders in {
            "English": DECODERS,
            "Chinese": ("vanilla", "attention", "Transformer"),
            "unseen things": ("Transformer",),
            "translation": ("vanilla", "attention", "Transformer"),
        }.items()
        for decoder in decoders
    }
    | {
        "English, vanilla, rate 0.01": dict(question="English", decoder="vanilla", rate=FASTER),
        "animals, Transformer": dict(question="animals", decoder="Transformer", narrow=True),
        "English, Transformer, own patches": dict(question="English", decoder="Transformer", apart=True),
        "translation, Transformer, tags": dict(question="translation", decoder="Transformer", tags=True),
    }
    | {
        f"English, {decoder}, 3 × steps": dict(question="English", decoder=decoder, times=3)
        for decoder in ("vanilla", "attention", "Transformer")
    }
    | {
        f"{question}, {name}": dict(question=question, baseline=name, deterministic=True)
        for question in QUESTIONS
        for name in baselines.NAMES
    }
)
MORE_SEEDS = {"English, attention, 3 × steps": 2, "English, Transformer, 3 × steps": 2}  # slow


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones.

    ``rate`` of learning; ``times`` as many steps; ``tags``: the group of a thing as a second task; ``apart``:
    tokens made by `OwnPatches`; ``narrow``: an encoder of half the width.
    """
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, **ROWS[row]}


class OneToken(nn.Module):
    """An encoder whose tokens are averaged to a single one: whatever looks at it finds one vector."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        memory, valid = self.encoder(inputs)
        return masked_mean(memory, valid)[:, None], valid.any(1, keepdim=True)


class OwnPatches(PictureTokens):
    """Tokens that see nothing but their own patches of 8 x 8: the strided blocks, on each patch alone."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        patches = pictures.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3).transpose(1, 2)  # (B, 16, 3, 8, 8)
        features = self.blocks(patches.flatten(0, 1)).unflatten(0, patches.shape[:2]).flatten(2)
        memory = self.project(features) + self.positions
        return memory, torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)


def language(question: str) -> str:
    """Return the language that a question is answered in."""
    return "Chinese" if question in ("Chinese", "translation") else "English"


def build(s: dict, width: int) -> Seq2Seq:
    """Return the untrained model of a row's settings."""
    texts = s["question"] == "translation"
    see, width = OwnPatches if s["apart"] else PictureTokens, width // 2 if s["narrow"] else width
    encoder = TextTokens(len(vocabulary("English")), DIM) if texts else see(DIM, width)
    encoder = OneToken(encoder) if s["decoder"].endswith("one vector") else encoder
    model = Seq2Seq(encoder, DECODERS[s["decoder"]](len(vocabulary(language(s["question"]))), DIM))
    model.tag = nn.Linear(DIM, len(load_emoji().group_names)) if s["tags"] else None
    return model


def batches(length: Tensor, generator: torch.Generator):
    """Yield batches of indices for ever, texts of about the same length together: less padding to compute."""
    size = BATCH * POOL if len(length) >= BATCH * POOL else len(length) // BATCH * BATCH
    while True:
        order = torch.randperm(len(length), generator=generator)
        for pool in order[: len(order) // size * size].split(size):
            parts = pool[length[pool].argsort(stable=True)].split(BATCH)
            for k in torch.randperm(len(parts), generator=generator).tolist():
                yield parts[k]


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches and augmentation.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: things get each other's names before training.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row, or names shuffled where nothing is trained.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, where = runtime.seed_everything(seed), runtime.device()
    if "baseline" in s:
        if shuffle_pairs:
            raise ValueError(f"shuffle_pairs: expected a row that is trained, found {row!r}")
        return baselines.fit(s["baseline"], s["question"])
    side, characters = named(s["question"], "train"), vocabulary(language(s["question"]))
    thing = torch.tensor(side.thing)
    if shuffle_pairs:  # of things, so that all pictures of one get the same wrong name
        thing = torch.randperm(int(thing.max()) + 1, generator=generator)[thing]
    known = dict(zip(side.thing.tolist(), side.names, strict=True))
    names = [known.get(int(i), side.names[0]) for i in thing] if shuffle_pairs else side.names
    tokens = characters.encode(names)
    length = (tokens != PADDING).sum(1)
    model = build(s, WIDTH[scale]).to(where)
    group = torch.tensor(load_emoji().group[side.thing]).long()
    draw, pictures = batches(length, generator), side.inputs.dtype == torch.uint8

    def batch_loss(step: int) -> Tensor:
        index = next(draw)
        x = varied(side.at(index), generator) if pictures else side.at(index)
        x = x.to(where)
        loss = model.loss(x, tokens[index, : length[index].max()].to(where))
        if model.tag is None:
            return loss
        tags = model.tag(masked_mean(*model.encoder(x)))
        return loss + F.cross_entropy(tags, group[index].to(where))

    kind = "text" if not pictures else "animals" if s["question"] == "animals" else "picture"

    def validation() -> float:
        held_out = named(s["question"], "validation")
        return -model.loss(held_out.inputs.to(where), characters.encode(held_out.names).to(where)).item()

    model.history = train(
        model,
        batch_loss,
        s["times"] * STEPS[scale][kind],
        rate=s["rate"],
        weight_decay=DECAY,
        score=None if pictures else validation,
        every=25,
        progress=progress,
    )
    return model


@torch.no_grad()
def write(model: Seq2Seq, things: Named, question: str, beam: int = 1) -> tuple[list[str], list[Generated]]:
    """Let a model name things: the texts, and all that `Seq2Seq.generate` says of each part of 256."""
    characters, where = vocabulary(language(question)), next(model.parameters()).device
    parts = torch.arange(len(things.names)).split(256)
    written = [model.generate(things.at(part).to(where), max_length=48, beam=beam) for part in parts]
    return [text for part in written for text in characters.decode(part.ids.cpu())], written


def chrf(texts: list[str], names: list[str]) -> np.ndarray:
    """Return how much each text has in common with its name, from 0 to 1: chrF by sacrebleu.

    An F score of runs of up to six characters, recall counted twice. Spaces do not count.

    Source:
        Popović (2015).

    Example:
        >>> chrf(["red apple", "dog"], ["red apple", "cat"]).round(2)
        array([1., 0.])
    """
    from sacrebleu.metrics import CHRF  # here, because it is slow to import

    metric = CHRF()
    pairs = zip(texts, names, strict=True)
    return np.array([metric.sentence_score(text, [name]).score / 100 for text, name in pairs])


def score(model, row: str) -> Figures:
    """Return a model's figures on the test: exact names and chrF, in all and by length, and its loss.

    The loss is that of the right name, in nats per character, each character given those before it.
    """
    question, things = settings(row)["question"], named(settings(row)["question"], "test")
    texts = model.write(things) if "baseline" in settings(row) else write(model, things, question)[0]
    exact = np.array([text == name for text, name in zip(texts, things.names, strict=True)], dtype=float)
    figures, n = {}, np.array([*map(len, things.names)])
    for low, high in pairwise((0, *LENGTHS[language(question)], 99)):
        some = (n > low) & (n <= high)
        figures[f"exact, {low + 1} to {high} characters"] = exact[some].mean()
    figures["chrF"] = chrf(texts, things.names).mean()
    if "baseline" not in settings(row):
        figures |= {"parameters": parameter_count(model), "nats": nats(model, things, question)}
    if row in EXAMINED:
        figures |= examined(model, things, exact)
    return Figures(figures, outcomes={"exact": exact}, groups=load_emoji().family[things.thing])


def examined(model: Seq2Seq, things: Named, exact: np.ndarray) -> dict[str, float]:
    """Return what is found about pictures that a model names right, and how it names all with flat weights.

    See `naming_evidence.figures`; ``"exact, flat weights"`` is of the same model when its decoder gives the
    same weight to every patch.
    """
    rows = torch.tensor(exact.nonzero()[0])
    if not len(rows):
        return {}
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:LOOKED_AT]]
    texts, where = [things.names[i] for i in rows], next(model.parameters()).device
    tokens = vocabulary("English").encode(texts).to(where)
    found = evidence.figures(model, things.at(rows).to(where), texts, tokens)
    flat = write(evidence.flattened(model), things, "English")[0]
    found["exact, flat weights"] = np.mean([a == b for a, b in zip(flat, things.names, strict=True)])
    return found


@torch.no_grad()
def nats(model: Seq2Seq, things: Named, question: str) -> float:
    """Return the mean loss per character of the right names, in nats."""
    tokens, where = vocabulary(language(question)).encode(things.names), next(model.parameters()).device
    parts = torch.arange(len(tokens)).split(256)
    total = sum(
        model.log_probability(things.at(part).to(where), tokens[part].to(where)).sum() for part in parts
    )
    return -total.item() / (tokens != PADDING).sum().item()


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row)
