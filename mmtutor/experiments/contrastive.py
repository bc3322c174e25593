"""Chapter 06: one space for pictures, names and animations, with baselines, ablations and a control.

Three questions, each by retrieval. ``style``: a drawing style never seen, all 1,562 things known.
``things``: things never seen, all styles known. ``animation``: the picture and the animation of things never
seen, the picture by another vendor. Every row is one answer: a model, a baseline or a model with one change.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.augment import random_affine, random_ink
from mmtutor.contrastive import (
    cosine,
    info_nce,
    margin_contrastive,
    multi_positive_nce,
    sigmoid_contrastive,
    unit,
)
from mmtutor.data import held_out_style, load_emoji, split
from mmtutor.encoders import ImageEncoder, TextEncoder, VideoEncoder, pixels
from mmtutor.ledger import Figures
from mmtutor.metrics import hits_at_k, median_rank
from mmtutor.training import train

from . import contrastive_baselines as baselines

STEPS = {
    "cpu": {"full": 1000, "live": 500, "short": 250},  # "live" is the run on the chapter's page
    "gpu": {"full": 6000, "live": 3000, "short": 1500},
}
WIDTH = {"cpu": 48, "gpu": 96}
BATCH = 256
VIEWS = {"english": 1.0, "chinese": 0.5, "keywords": 0.25}  # a thing's texts, their weights in the loss
RELATED = ("fluent", "fluent3d")  # the animations move this drawing, so their partners are the other styles

DEFAULT = dict(
    question="style",
    test="noto",
    relatives=True,
    steps="full",
    loss="all names",
    batch=BATCH,
    rate=5e-3,
    decay=0.05,
)
UNSEEN = dict(dropout=0.25, decay=0.3, temperature=0.05)  # tuned on the validation things
ROWS = {
    # the four questions, at full length
    "all names": {},
    "all names, Twemoji": dict(test="twemoji"),  # a hand that the recipe was not tuned on
    "all names, no relative": dict(relatives=False),
    "unseen things": dict(question="things", **UNSEEN),
    "animation": dict(question="animation", loss="info_nce"),
    "live": dict(steps="live"),  # "all names" as the chapter trains it
    # what needs no training, or another kind of it
    "pixels": dict(deterministic=True, baseline="pixels"),
    "pixels, Twemoji": dict(deterministic=True, baseline="pixels", test="twemoji"),
    "pixels, no relative": dict(deterministic=True, baseline="pixels", relatives=False),
    "pixels, animation": dict(deterministic=True, baseline="pixels", question="animation"),
    "untrained": dict(untrained=True),
    "untrained, animation": dict(untrained=True, question="animation"),
    # how many components of the word counts: the best of 128 to 1,000, with Twemoji or validation held out
    "CCA": dict(deterministic=True, baseline="cca", words=1000),
    "CCA, unseen things": dict(deterministic=True, baseline="cca", words=256, question="things"),
    "classifier": dict(loss="classifier"),
    # one change at a time, all short
    "short": dict(steps="short"),
    "short, InfoNCE in the batch": dict(steps="short", loss="info_nce"),
    "short, InfoNCE among 32": dict(steps="short", loss="info_nce", among=32),
    "short, batch of 32": dict(steps="short", loss="info_nce", batch=32),
    # margin and rate: the best of eleven forms and settings, chosen with Twemoji held out instead of Noto
    "short, margin": dict(steps="short", loss="margin", margin=1.4, rate=2e-3),
    "short, sigmoid": dict(steps="short", loss="sigmoid"),
    "short, τ = 1": dict(steps="short", temperature=1.0),
    "short, τ = 0.01": dict(steps="short", temperature=0.01),
    "short, not normalised": dict(steps="short", loss="dot"),
    "short, no augmentation": dict(steps="short", augment=False),
    "short, English only": dict(steps="short", texts=("english",)),
    "short, 60 % of pairs wrong": dict(steps="short", wrong=0.6),
    "short, 60 % wrong, small losses kept": dict(steps="short", wrong=0.6, sift=True),
    "short, shuffled pairs": dict(steps="short", shuffle=True),
    "short, animation": dict(question="animation", loss="info_nce", steps="short"),
    "short, animation, shuffled pairs": dict(
        question="animation", loss="info_nce", steps="short", shuffle=True
    ),
    "short, unseen things": dict(question="things", **UNSEEN, steps="short"),
    "short, unseen things, leaking split": dict(question="things", **UNSEEN, steps="short", leak=True),
}


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, **ROWS[row]}


class SharedSpace(nn.Module):
    """Three encoders into one space, and the temperature that the loss reads it with.

    Pictures and frames share one encoder: a frame is a picture. ``log_temperature`` is learnt unless fixed;
    ``bias`` is the sigmoid loss's. With ``normalised=False`` embeddings keep their length.

    Example:
        >>> model = SharedSpace(width=8).eval()
        >>> model.encode_texts(["red apple"]).shape
        torch.Size([1, 192])
    """

    def __init__(
        self, width: int = 48, temperature: float | None = None, dropout: float = 0.0, normalised=True
    ):
        super().__init__()
        self.image, self.text = ImageEncoder(width=width), TextEncoder(dropout=dropout)
        self.video = VideoEncoder(self.image)
        start = torch.tensor(math.log(temperature or 0.07))
        self.log_temperature = nn.Parameter(start, requires_grad=temperature is None)
        self.bias = nn.Parameter(torch.tensor(-10.0))
        self.finish = unit if normalised else nn.Identity()

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp().clamp(min=0.01)

    @torch.no_grad()
    def encode_images(self, images) -> Tensor:
        """Pictures ``(N, 32, 32, 3)`` uint8 to unit vectors ``(N, D)``."""
        where = self.log_temperature.device
        parts = pixels(images).split(512)
        return self.finish(torch.cat([self.image(part.to(where)) for part in parts])).cpu()

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Texts in English or Chinese to unit vectors ``(N, D)``."""
        return self.finish(self.text(texts)).cpu()

    @torch.no_grad()
    def encode_videos(self, videos) -> Tensor:
        """Animations ``(N, L, 32, 32, 3)`` uint8 to unit vectors ``(N, D)``."""
        where = self.log_temperature.device
        parts = pixels(videos).split(64)
        return self.finish(torch.cat([self.video(part.to(where)) for part in parts])).cpu()


def training_items(s: dict) -> np.ndarray:
    """Return the things that a row may learn from (all of them where only the style is new)."""
    emoji, things = load_emoji(), split("emoji-things")
    if s["question"] == "style":
        return np.arange(len(emoji.names))
    if s.get("leak"):  # the wrong way: variants of one thing fall on both sides
        order = np.random.default_rng(0).permutation(len(emoji.names))
        return np.sort(order[: len(things.train)])
    return things.train


def test_items(s: dict) -> np.ndarray:
    """Return the things that a row is tested on."""
    if s["question"] == "style":
        return np.arange(len(load_emoji().names))
    things = split("emoji-things")
    if s.get("leak"):
        order = np.random.default_rng(0).permutation(len(load_emoji().names))
        return np.sort(order[-len(things.test) :])
    return things.test


def training_styles(s: dict) -> list[int]:
    """Return the indices of the styles that a row may learn from."""
    styles = load_emoji().styles
    known = held_out_style(s["test"], s["relatives"])[0] if s["question"] == "style" else styles
    return [styles.index(name) for name in known]


def text_views(emoji, items: np.ndarray) -> dict[str, list[list[str]]]:
    """Return the texts of the things by kind; of each kind one list or more, from which a step draws one.

    A thing's English keywords come all six together, or one at a time: so the model learns each on its own.
    """
    words = [emoji.keywords[i][:6] or [emoji.names[i]] for i in items]
    one_by_one = [[of_thing[k % len(of_thing)] for of_thing in words] for k in range(6)]
    return {
        "english": [[emoji.names[i] for i in items]],
        "chinese": [[emoji.names_zh[i] for i in items]],
        "keywords": [[" ".join(of_thing) for of_thing in words], *one_by_one],
    }


def fit(
    row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, watch=None, progress=False
):
    """Train one row's model and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches and augmentation.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: things get each other's names (or animations) before training.
        watch: called as ``watch(model, step)`` before each step (to take snapshots).
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row, or pairs shuffled where nothing is trained.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator = runtime.seed_everything(seed)
    if shuffle_pairs and (s.get("baseline") or s.get("untrained")):
        raise ValueError(f"shuffle_pairs: expected a row that is trained, found {row!r}")
    if s.get("baseline"):
        return baselines.fit(s, training_items(s), training_styles(s))
    model = SharedSpace(WIDTH[scale], s.get("temperature"), s.get("dropout", 0.0), s["loss"] != "dot")
    model = model.to(runtime.device())
    if s.get("untrained"):
        return model.eval()
    steps = STEPS[scale][s["steps"]]
    if s["loss"] == "classifier":
        model.classes = nn.Linear(192, len(load_emoji().names), bias=False, device=runtime.device())
    make = animation_loss if s["question"] == "animation" else name_loss
    loss = make(model, s | {"sift_from": 0.3 * steps}, generator, shuffle_pairs or s.get("shuffle", False))

    def step_loss(step):
        if watch is not None:
            with torch.autocast(runtime.device().type, enabled=False):  # as in testing
                watch(model, step)
        return loss(step)

    rate, decay = s["rate"], s["decay"]
    model.history = train(model, step_loss, steps, rate=rate, weight_decay=decay, progress=progress)
    return model


def varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, move, stretch and recolour each picture a little."""
    return random_ink(random_affine(x, generator=generator), generator=generator)


def batches(count: int, size: int, generator: torch.Generator):
    """Yield batches of indices for ever, each epoch in a new order; incomplete ones are dropped.

    Raises:
        ValueError: if there are fewer than one batch's.
    """
    if count < size:
        raise ValueError(f"batches: expected at least {size} items for a batch, found {count}")
    while True:
        yield from torch.randperm(count, generator=generator)[: count // size * size].split(size)


def name_loss(model: SharedSpace, s: dict, generator: torch.Generator, shuffle_pairs: bool):
    """Return the loss of one step for pictures and names."""
    emoji, items, where = load_emoji(), training_items(s), runtime.device()
    drawn = [
        (style, k)
        for style in training_styles(s)
        for k in range(len(items))
        if emoji.present[style, items[k]]
    ]
    style, thing = torch.tensor(drawn).T
    pictures = torch.tensor(emoji.images[style, items[thing]])
    named = thing.clone()  # the thing whose name a picture is given in training
    if shuffle_pairs:
        named = torch.randperm(len(items), generator=generator)[thing]
    if wrong := s.get("wrong"):
        swap = torch.rand(len(named), generator=generator) < wrong
        named[swap] = named[swap][torch.randperm(int(swap.sum()), generator=generator)]
    weights = {kind: VIEWS[kind] for kind in s.get("texts", VIEWS)}
    views = {kind: [*map(model.text.prepare, lists)] for kind, lists in text_views(emoji, items).items()}
    draw = batches(len(pictures), s["batch"], generator)

    def loss(step):
        index = next(draw)
        x = pixels(pictures[index])
        x = (varied(x, generator) if s.get("augment", True) else x).to(where)
        target = named[index].to(where)
        z = model.image(x)
        if s["loss"] == "classifier":
            return F.cross_entropy(cosine(z, model.classes.weight) / model.temperature, target)
        each = []
        for kind, weight in weights.items():
            texts = views[kind][torch.randint(len(views[kind]), (), generator=generator)]
            each.append(weight * pair_loss(model, s, step, z, target, model.text(texts)))
        return sum(each) / sum(weights.values())

    return loss


def pair_loss(model: SharedSpace, s: dict, step: int, z: Tensor, target: Tensor, names: Tensor) -> Tensor:
    """Return the row's loss of pictures ``z`` against the embeddings of all names."""
    match = target[:, None] == torch.arange(len(names), device=z.device)
    if s.get("sift") and step > s["sift_from"]:  # keep the pairs that the model finds least surprising
        surprise = F.cross_entropy(cosine(z, names) / model.temperature, target, reduction="none")
        keep = surprise <= surprise.quantile(1 - s["wrong"])
        z, match, target = z[keep], match[keep], target[keep]
    if s["loss"] == "all names":
        return multi_positive_nce(z, names, match, model.temperature)
    if s["loss"] == "dot":  # the same without unit vectors, and so without a temperature
        logits, own = z.float() @ names.float().T, torch.arange(len(z), device=z.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T[target], own)) / 2
    own_names = names[target]
    if s["loss"] == "info_nce":
        size = s.get("among", len(z))  # candidates that a picture chooses from
        parts = zip(z.split(size), own_names.split(size), strict=True)
        return torch.stack([info_nce(a, b, model.temperature) for a, b in parts]).mean()
    if s["loss"] == "sigmoid":
        return sigmoid_contrastive(z, own_names, model.temperature, model.bias)
    same = target[:, None] == target
    return margin_contrastive(unit(z), unit(own_names), same, margin=s["margin"], reduction="sum") / len(z)


def animation_loss(model: SharedSpace, s: dict, generator: torch.Generator, shuffle_pairs: bool):
    """Return the loss of one step for pictures and animations (of all training things; some do not move)."""
    emoji, items, where = load_emoji(), training_items(s), runtime.device()
    moving = {item: v for v, item in enumerate(emoji.video_item)}
    others = [k for k, name in enumerate(emoji.styles) if name not in RELATED]
    still = torch.tensor(emoji.images[emoji.styles.index("fluent")])
    partner = torch.randperm(len(items), generator=generator) if shuffle_pairs else torch.arange(len(items))
    draw = batches(len(items), min(s["batch"], len(items)), generator)
    videos, images = torch.tensor(emoji.videos), torch.tensor(emoji.images)

    def loss(step):
        index = next(draw)
        chosen, moved = items[index], items[partner[index]]
        style = torch.randint(len(others), (len(index),), generator=generator)
        style = [others[k] if emoji.present[others[k], i] else 0 for k, i in zip(style, chosen, strict=True)]
        frame = torch.randint(8, (len(index),), generator=generator)
        drawings = [
            videos[moving[i], t] if i in moving else still[i] for i, t in zip(moved, frame, strict=True)
        ]
        a = varied(pixels(images[style, chosen]), generator)
        b = varied(pixels(torch.stack(drawings)), generator)
        return info_nce(model.image(a.to(where)), model.image(b.to(where)), model.temperature)

    return loss


def similarities(model, s: dict) -> dict[str, Tensor]:
    """Return a row's test similarities: queries on rows, candidates on columns, true pairs diagonal."""
    emoji, items = load_emoji(), test_items(s)
    if s["question"] == "animation":
        moving = {item: v for v, item in enumerate(emoji.video_item)}
        items = np.array([i for i in items if i in moving])
        video = model.encode_videos(emoji.videos[[moving[i] for i in items]])
        noto = model.encode_images(emoji.pictures("noto")[items])
        return {"image→animation": noto @ video.T, "animation→image": video @ noto.T}
    names = model.encode_texts([emoji.names[i] for i in items])
    chinese = model.encode_texts([emoji.names_zh[i] for i in items])
    z = model.encode_images(emoji.pictures(s["test"])[items])
    if hasattr(model, "classes"):
        names = chinese = unit(model.classes.weight.detach().cpu())[items]
    result = {"image→text": z @ names.T, "text→image": names @ z.T, "Chinese→image": chinese @ z.T}
    if s["question"] == "things":
        four = [model.encode_images(emoji.pictures(style)[items]) for style in emoji.styles[:4]]
        result["four styles→text"] = unit(sum(four)) @ names.T
    return result


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row.

    Returns:
        Recall at 1 and 10 and the median rank of each direction, the number of candidates, the temperature
        and the parameters; with the outcome of every test item, for paired comparisons.
    """
    s = settings(row)
    model = fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs)
    figures, outcomes, groups = {}, {}, {}
    for direction, similarity in similarities(model, s).items():
        for k in (1, 10):
            outcomes[f"{direction} R@{k}"] = hits_at_k(similarity, k).numpy()
        figures[f"{direction} median rank"] = median_rank(similarity)
        figures["candidates"] = float(similarity.shape[1])
    figures |= {name: float(hits.mean()) for name, hits in outcomes.items()}
    items = test_items(s)
    if s["question"] == "animation":
        items = items[np.isin(items, load_emoji().video_item)]
    groups = load_emoji().family[items]
    if isinstance(model, SharedSpace):
        figures["temperature"] = model.temperature.item()
        figures["parameters"] = float(sum(p.numel() for p in model.parameters()))
    return Figures(figures, outcomes=outcomes, groups=groups)
