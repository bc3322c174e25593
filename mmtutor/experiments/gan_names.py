"""Chapter 12: a picture and words about it from the same noise; words are points of a space of words."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.augment import random_affine, random_mirror
from mmtutor.data import load_emoji
from mmtutor.encoders import pixels
from mmtutor.gan import (
    DTLGAN,
    DTLDiscriminator,
    DTLEncoder,
    DTLGenerator,
    picture_branch,
    picture_maker,
    train_gan,
)
from mmtutor.generated import partner_rank
from mmtutor.ledger import Figures

from .gan import CODE, DRAWN, NOISE, SHUFFLED, draw, drawings, rule_of
from .gan import DEFAULT as OF_PICTURES
from .gan_tasks import MOVED, STYLES, Views, face_items
from .gan_uses import layers

DIM = 24  # of the space of words
OFTEN = 3  # a word counts if so many things to learn from have it
WIDTH, STEPS = {"cpu": 16, "gpu": 64}, {"cpu": 1200, "gpu": 12000}
PICTURE, WORDS = STYLES[0], "words"

ROWS = {
    "DTL": {},
    "shuffled pairs": dict(shuffled=True),
    "components": dict(model="components", deterministic=True),
}


@dataclass(frozen=True)
class Vocabulary:
    """Words, and the space in which a set of words is a point.

    Attributes:
        words: the words, in the order of the columns.
        pca: from bags of words to points.
        scale: standard deviation of each coordinate.
    """

    words: tuple[str, ...]
    pca: PCA
    scale: np.ndarray

    def bags(self, items: np.ndarray) -> np.ndarray:
        """Return for each thing which words its name and keywords have, ``(N, V)``."""
        return np.array([[word in said(i) for word in self.words] for i in items], dtype=float)

    def points(self, bags: np.ndarray) -> Tensor:
        """Return bags as points ``(N, DIM)`` of unit variance."""
        return torch.tensor(self.pca.transform(bags) / self.scale).float()

    def read(self, points: Tensor, k: int = 3) -> list[list[str]]:
        """Return the ``k`` words that a point most has."""
        bags = self.pca.inverse_transform(points.numpy() * self.scale)
        return [[self.words[j] for j in row[:k]] for row in (-bags).argsort(1)]


def said(item: int) -> set[str]:
    """Return the words of a thing's name and keywords."""
    emoji = load_emoji()
    return set(" ".join([emoji.names[item], *emoji.keywords[item]]).lower().replace("-", " ").split())


@cache
def vocabulary() -> Vocabulary:
    """Return the words that several of the things to learn from have, and their space."""
    items = face_items("train")
    counts = {}
    for item in items:
        for word in said(item):
            counts[word] = counts.get(word, 0) + 1
    words = tuple(sorted(word for word, n in counts.items() if n >= OFTEN))
    bags = np.array([[word in said(i) for word in words] for i in items], dtype=float)
    pca = PCA(DIM, random_state=0).fit(bags)
    return Vocabulary(words, pca, pca.transform(bags).std(0))


@cache
def pairs(part: str) -> Views:
    """Return pictures ``(N, 3, 32, 32)`` and points of their words ``(N, DIM)``."""
    items, known = face_items(part), vocabulary()
    return {PICTURE: pixels(load_emoji().pictures(PICTURE)[items]), WORDS: known.points(known.bags(items))}


class PictureAndWords(nn.Module):
    """A picture and a point of words from the same noise, side by side in one row."""

    def __init__(self, width: int):
        super().__init__()
        self.picture = picture_maker(NOISE, width, 3)
        self.words = layers(NOISE, DIM)

    def forward(self, noise: Tensor) -> Tensor:
        return torch.cat([self.picture(noise).flatten(1), self.words(noise)], 1)


class Components:
    """A normal distribution along the principal components of pixels and words, scaled to equal variance."""

    def __init__(self, components: int = 40):
        x = pairs("train")
        self.shapes = {m: view.shape[1:] for m, view in x.items()}
        self.spread = {m: view.flatten(1).var(0).sum().sqrt() for m, view in x.items()}
        rows = torch.cat([view.flatten(1) / self.spread[m] for m, view in x.items()], 1)
        self.pca = PCA(components, random_state=0).fit(rows.numpy())

    def generate(self, n: int, generator: torch.Generator | None = None) -> Views:
        """Draw the components from normal distributions."""
        z = torch.randn(n, self.pca.n_components_, generator=generator).numpy()
        rows = torch.tensor(self.pca.inverse_transform(z * np.sqrt(self.pca.explained_variance_))).float()
        parts = rows.split([shape.numel() for shape in self.shapes.values()], 1)
        return {
            m: (part * self.spread[m]).unflatten(1, shape)
            for (m, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**OF_PICTURES, **ROWS[row]}


def network(width: int) -> DTLGAN:
    """Return an untrained DTL GAN of a picture and words."""
    reads = nn.Sequential(layers(DIM, CODE), nn.LeakyReLU(0.2))
    gan = DTLGAN(
        DTLEncoder({PICTURE: picture_branch(CODE, width), WORDS: reads}, CODE, CODE),
        {PICTURE: picture_maker(CODE, width // 2, 3), WORDS: layers(CODE, DIM)},
        DTLGenerator(PictureAndWords(width), {PICTURE: (3, 32, 32), WORDS: (DIM,)}, NOISE),
        DTLDiscriminator(CODE, 2 * CODE),
    )
    return gan.to(runtime.device(), memory_format=torch.channels_last)


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches, noise and augmentation.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: each picture gets the words of another.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row.
    """
    s, scale = settings(row), scale or runtime.scale()
    if s["model"] == "components":
        return Components()
    noise, x = runtime.seed_everything(seed), pairs("train")
    if shuffle_pairs or s["shuffled"]:
        x = x | {WORDS: x[WORDS][torch.randperm(len(x[WORDS]), generator=noise)]}
    return learn(x, s, STEPS[scale], WIDTH[scale], noise, progress)


def learn(x: Views, s: dict, steps: int, width: int, noise: torch.Generator, progress: bool) -> DTLGAN:
    """Train a DTL GAN of pictures and points of words; pictures are moved, words are not."""
    gan = network(width)

    def change(views: Views) -> Views:
        moved = random_affine(views[PICTURE], **MOVED, generator=noise)
        return views | {PICTURE: random_mirror(moved, generator=noise)}

    gan.history = train_gan(
        gan,
        lambda: draw(x, noise),
        steps,
        rule_of(s),
        change=change,
        progress=progress,
        generator=noise,
    )
    return gan


def agreement(made: Views) -> dict[str, float]:
    """Return the median rank of the partner among the things learnt, both ways, of pairs and shuffled."""
    real, figures = [view.flatten(1) for view in pairs("train").values()], {}
    first, second = (made[m].flatten(1) for m in (PICTURE, WORDS))
    for name, words in (("", second), (", shuffled", second.roll(SHUFFLED, 0))):
        to_words = partner_rank(real, (first, words))
        to_picture = partner_rank(real[::-1], (words, first))
        figures[f"words' rank{name}"] = to_words.median().item()
        figures[f"picture's rank{name}"] = to_picture.median().item()
    return figures


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `agreement`."""
    model = fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs)
    return Figures(agreement(drawings(model, DRAWN)))
