"""Chapter 14: what more data, a larger batch, a wider model and a batch in several parts do to one contrast.

Two contrasts. Views of a digit, 76 Fourier coefficients of its outline and 240 pixels, learn to find each
other; so do pictures and English names of 1,562 things, learnt in three drawing styles, judged in a fourth
and tested in a fifth. All rows of a contrast see as many items in training, unless they say otherwise, so
a batch twice as large takes half as many steps.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.contrastive import cosine, info_nce
from mmtutor.data import load_emoji
from mmtutor.encoders import pixels
from mmtutor.ledger import Figures
from mmtutor.mapping import CCA
from mmtutor.metrics import hits_at_k
from mmtutor.training import train

from .contrastive import SharedSpace, varied
from .gan_uses import VIEWS, digits

ITEMS = {  # seen in training, one item many times
    "digits": {"cpu": 128_000, "gpu": 1_024_000},
    "pictures": {"cpu": 64_000, "gpu": 1_024_000},
}
WIDTH, DIM = {"digits": {"cpu": 128, "gpu": 1024}, "pictures": {"cpu": 48, "gpu": 96}}, 32
STYLES = {"train": ("fluent", "fluent3d", "blob"), "validation": ("twemoji",), "test": ("noto",)}
RIDGE = 0.3  # of CCA

# the rate of each batch is the best of several on validation
DEFAULT = dict(
    contrast="digits",
    batch=128,
    share=1.0,  # of the training items
    width=1.0,  # times the scale's
    items=1.0,  # times those seen by the other rows
    rate=2e-2,
    noise=0.3,
    dropout=0.2,
    negatives="all",
    parts=4,  # of a batch that processes share
    joined_until=0.0,  # the share of steps before which all candidates have a gradient
    held=False,  # whether the temperature stays where it starts
)
PICTURES = dict(contrast="pictures", batch=256, rate=1e-2)
DETACHED = dict(negatives="detached")
PICTURES_DETACHED = PICTURES | DETACHED
ROWS = {
    "whole": {},
    "data / 8": dict(share=1 / 8),
    "data / 4": dict(share=1 / 4),
    "data / 2": dict(share=1 / 2),
    "batch of 16": dict(batch=16, rate=5e-3),
    "batch of 32": dict(batch=32, rate=1e-2),
    "batch of 64": dict(batch=64, rate=1e-2),
    "batch of 256": dict(batch=256),
    "batch of 512": dict(batch=512),
    "batch of 1024": dict(batch=1024, rate=4e-2),
    "width / 8": dict(width=1 / 8),
    "width / 4": dict(width=1 / 4),
    "width / 2": dict(width=1 / 2),
    "width × 2": dict(width=2.0),
    "width × 4": dict(width=4.0),
    # no network: 32 components, ridge .3, of 8 to 64 and .01 to 3 the best on validation
    "CCA": dict(deterministic=True, baseline=True),
    "CCA, data / 8": dict(baseline=True, share=1 / 8),
    "CCA, data / 4": dict(baseline=True, share=1 / 4),
    "CCA, data / 2": dict(baseline=True, share=1 / 2),
    "four parts, own negatives": dict(negatives="own"),  # four processes, or gradients added up
    "four parts, negatives without gradient": DETACHED,
    "temperature held": dict(held=True),
    "negatives without gradient, temperature held": DETACHED | dict(held=True),
    "pictures": PICTURES,
    "pictures, batch of 32": PICTURES | dict(batch=32, rate=2.5e-3),
    "pictures, batch of 64": PICTURES | dict(batch=64, rate=5e-3),
    "pictures, batch of 128": PICTURES | dict(batch=128, rate=5e-3),
    "pictures, batch of 512": PICTURES | dict(batch=512),
    "pictures, four parts, own negatives": PICTURES | dict(negatives="own"),
    "pictures, four parts, negatives without gradient": PICTURES_DETACHED,
    "pictures, negatives without gradient, two parts": PICTURES_DETACHED | dict(parts=2),
    "pictures, negatives without gradient after an eighth": PICTURES_DETACHED | dict(joined_until=1 / 8),
    "pictures, negatives without gradient after a half": PICTURES_DETACHED | dict(joined_until=1 / 2),
    "pictures, temperature held": PICTURES | dict(held=True),
    "pictures, negatives without gradient, temperature held": PICTURES_DETACHED | dict(held=True),
    "pictures, four times the items": PICTURES | dict(items=4.0),
    "pictures, negatives without gradient, four times the items": PICTURES_DETACHED | dict(items=4.0),
}


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, **ROWS[row]}


class Views(nn.Module):
    """An encoder for each view of a digit, and the temperature of their contrast.

    Example:
        >>> z = Views(width=8)({"pixels": torch.zeros(5, 240)})
        >>> z["pixels"].shape
        torch.Size([5, 32])
    """

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        sizes = {m: view.shape[1] for m, view in digits("train")[0].items()}
        self.encoders = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(d, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, DIM))
                for m, d in sizes.items()
            }
        )
        self.log_temperature = nn.Parameter(torch.tensor(math.log(0.1)))

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: self.encoders[m](view) for m, view in x.items()}

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp()


def detached_info_nce(a: Tensor, b: Tensor, temperature: float | Tensor, parts: int) -> Tensor:
    """Return InfoNCE as processes compute it that receive the others' candidates without a gradient.

    The value is that of `info_nce`. The gradient lacks what each part's rows do to the others' sums.

    Example:
        >>> a, b = torch.randn(2, 8, 3)
        >>> bool(torch.isclose(detached_info_nce(a, b, 0.1, 4), info_nce(a, b, 0.1)))
        True
    """
    own = torch.arange(len(a), device=a.device).chunk(parts)
    losses = []
    for i in own:
        near = torch.zeros(len(a), 1, dtype=torch.bool, device=a.device).index_fill(0, i, True)
        every_a, every_b = (torch.where(near, z, z.detach()) for z in (a, b))
        rows, columns = cosine(a[i], every_b) / temperature, cosine(b[i], every_a) / temperature
        losses.append((F.cross_entropy(rows, i) + F.cross_entropy(columns, i)) / 2)
    return torch.stack(losses).mean()


def contrast(a: Tensor, b: Tensor, temperature: Tensor, negatives: str, parts: int = 4) -> Tensor:
    """Return a batch's loss: among all its candidates, in parts of it, or without gradient between parts."""
    if negatives == "detached":
        return detached_info_nce(a, b, temperature, parts)
    pairs = zip(a.chunk(parts), b.chunk(parts), strict=True) if negatives == "own" else [(a, b)]
    return torch.stack([info_nce(one, other, temperature) for one, other in pairs]).mean()


class Canonical:
    """Canonical components of both views, in place of their encoders.

    Example:
        >>> z = Canonical(digits("train")[0])(digits("test")[0])
        >>> z["pixels"].shape[1]
        32
    """

    def __init__(self, x: dict[str, Tensor]):
        self.cca = CCA(*(x[m].double() for m in VIEWS), components=DIM, ridge=RIDGE)

    def __call__(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        first, second = (x[m].double().cpu() for m in VIEWS)
        return dict(zip(VIEWS, (self.cca.encode_x(first), self.cca.encode_y(second)), strict=True))


def known(s: dict, generator: torch.Generator, shuffle_pairs: bool) -> dict[str, Tensor]:
    """Return the digits that a row learns from: a share of the training items, at random."""
    x, _ = digits("train")
    chosen = torch.randperm(len(x[VIEWS[0]]), generator=generator)
    chosen = chosen[: round(s["share"] * len(chosen))]
    x = {m: view[chosen] for m, view in x.items()}
    if shuffle_pairs:
        x[VIEWS[1]] = x[VIEWS[1]][torch.randperm(len(chosen), generator=generator)]
    return x


def digit_pairs(model: Views, s: dict, generator: torch.Generator, shuffle_pairs: bool) -> Callable:
    """Return a function that draws a batch of digits, noise added, and embeds both views."""
    x, where = known(s, generator, shuffle_pairs), runtime.device()

    def draw() -> tuple[Tensor, Tensor]:
        drawn = torch.randperm(len(x[VIEWS[0]]), generator=generator)[: s["batch"]]
        shown = {m: view[drawn] for m, view in x.items()}
        shown = {m: v + s["noise"] * torch.randn(v.shape, generator=generator) for m, v in shown.items()}
        z = model({m: v.to(where) for m, v in shown.items()})
        return tuple(z[m] for m in VIEWS)

    return draw


def picture_pairs(model: SharedSpace, s: dict, generator: torch.Generator, shuffle_pairs: bool) -> Callable:
    """Return a function that draws a batch of things, each in some style, and embeds pictures and names."""
    emoji, where = load_emoji(), runtime.device()
    styles = [emoji.styles.index(name) for name in STYLES["train"]]
    images, present = torch.tensor(emoji.images[styles]), torch.tensor(emoji.present[styles]).double()
    count = len(emoji.names)
    named = torch.randperm(count, generator=generator) if shuffle_pairs else torch.arange(count)

    def draw() -> tuple[Tensor, Tensor]:
        thing = torch.randperm(count, generator=generator)[: s["batch"]]
        style = torch.multinomial(present[:, thing].T, 1, generator=generator)[:, 0]
        x = varied(pixels(images[style, thing]), generator).to(where)
        return model.image(x), model.text([emoji.names[i] for i in named[thing]])

    return draw


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs=False, progress=False):
    """Train one row.

    Returns:
        The model: `Views` or `Canonical` of digits, a `SharedSpace` of pictures and names.

    Raises:
        ValueError: for an unknown row.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator = runtime.seed_everything(seed)
    if s.get("baseline"):
        return Canonical(known(s, generator, shuffle_pairs))
    width = round(s["width"] * WIDTH[s["contrast"]][scale])
    if s["contrast"] == "digits":
        model, pairs = Views(width, s["dropout"]), digit_pairs
    else:
        model, pairs = SharedSpace(width), picture_pairs
    model = model.to(runtime.device())
    model.log_temperature.requires_grad_(not s["held"])
    draw = pairs(model, s, generator, shuffle_pairs)
    steps = int(s["items"] * ITEMS[s["contrast"]][scale]) // s["batch"]

    def loss(step: int) -> Tensor:
        negatives = "all" if step < s["joined_until"] * steps else s["negatives"]
        return contrast(*draw(), model.temperature, negatives, s["parts"])

    model.history = train(model, loss, steps, rate=s["rate"], progress=progress)
    return model


def embeddings(model, part: str) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return both embeddings of every item of a part, row by row, and the groups of items that are alike."""
    if isinstance(model, SharedSpace):
        emoji = load_emoji()
        (style,) = STYLES[part]
        return model.encode_images(emoji.pictures(style)), model.encode_texts(list(emoji.names)), emoji.family
    x, _ = digits(part)
    z = model({m: v.to(runtime.device()) for m, v in x.items()})
    return *(z[m].float().cpu() for m in VIEWS), np.arange(len(x[VIEWS[0]]))


@torch.no_grad()
def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row.

    Returns:
        Recall at 1 and 10, the mean of both directions, on test and validation items; and the mean
        similarity of test items of both kinds, which is near one where a model has collapsed.
    """
    with torch.enable_grad():
        model = fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs)
    figures, outcomes = {}, {}
    for part, after in (("test", ""), ("validation", ", validation")):
        a, b, groups = embeddings(model, part)
        s = cosine(a, b)
        for k in (1, 10):
            hits = (hits_at_k(s, k) + hits_at_k(s.T, k)) / 2
            figures[f"R@{k}{after}"] = hits.mean().item()
            if part == "test":
                outcomes[f"R@{k}"], of_items = hits.numpy(), groups
                figures["mean similarity"] = s.mean().item()  # of all pairs, nearly none of them true
    figures["candidates"] = float(len(of_items))
    if isinstance(model, nn.Module):
        figures["temperature"] = model.temperature.item()
        figures["parameters"] = float(sum(p.numel() for p in model.parameters()))
    return Figures(figures, outcomes=outcomes, groups=of_items)
