"""Families of chapter 07 without deep networks. Each has ``similarity(examples) -> (N, N)``.

Rows of a similarity are the first modality of the examples, columns the second; larger is closer.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA, LatentDirichletAllocation, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.kernel_approximation import Nystroem
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor

from mmtutor.contrastive import cosine, unit
from mmtutor.encoders import text_features
from mmtutor.mapping import CCA
from mmtutor.matching import PairedMixture

from .augmentation_baselines import picture_statistics
from .fusion_baselines import edge_statistics
from .fusion_tasks import Examples
from .matching_scores import degrees, named
from .matching_tasks import examples, texts

TEXTS = ("name", "words")
RARE = 1e-6  # least probability of an answer
SHARED = 32  # dimensions of CCA's space
PATCH, STRIDE = 8, 4


# What is computed of a modality


def edges_and_colours(pictures: Tensor) -> np.ndarray:
    """Return edges and colours of pictures ``(N, 3, 32, 32)`` from -1 to 1, ``(N, 195)``."""
    stored = ((pictures + 1) * 127.5).round().byte().movedim(1, -1)
    parts = stored.split(256)  # of all at once a histogram of colours would need gigabytes
    return np.concatenate([np.hstack([edge_statistics(x), picture_statistics(x)]) for x in parts])


def raw(data: Examples, modality: str):
    """Return what a baseline is given of a modality: numbers ``(N, D)``, or N texts."""
    if modality in TEXTS:
        return texts(data, modality)
    x = data.x[modality]
    return edges_and_colours(x) if x.ndim == 4 else x.numpy()


class Principal:
    r"""Principal components of each modality, of variance 1: of numbers, or of weighted counts of letters.

    Args:
        data: to learn from.
        kept: components of numbers and of texts.
        kernel: instead of principal components of numbers so many of a Gaussian kernel,
            :math:`\exp(-\text{kernel}\,\lVert x-x'\rVert^2/D)`, if it is not 0.
        seed: of the examples from which the kernel is measured.

    Attributes:
        maps: of each modality, by its name.
    """

    def __init__(self, data: Examples, kept: dict[str, int], kernel: float = 0.0, seed: int = 0):
        self.maps = {}
        for m in data.x:
            x = raw(data, m)
            if m in TEXTS:
                counts = TfidfVectorizer(analyzer=text_features, sublinear_tf=True)
                steps = [counts, TruncatedSVD(kept["texts"], random_state=0), StandardScaler()]
            else:
                (n, width), most = x.shape, kept["numbers"]
                principal = PCA(min(most, n, width), random_state=0)
                curved = Nystroem(gamma=kernel / width, n_components=min(most, n), random_state=seed)
                steps = [StandardScaler(), curved if kernel else principal]
            self.maps[m] = make_pipeline(*steps).fit(x)

    def __call__(self, data: Examples) -> list[Tensor]:
        """Return the components of both modalities, ``(N, D)`` each."""
        return [torch.tensor(self.maps[m].transform(raw(data, m))).double() for m in data.x]


def computed(data: Examples, which: str) -> Examples:
    """Return the examples with what CCA is given of each modality, components of variance 1, in its place."""
    x = _principal_of_training(which, tuple(data.x))(data)
    return replace(data, x={m: x_m.float() for m, x_m in zip(data.x, x, strict=True)})


@cache
def _principal_of_training(which: str, modalities: tuple[str, ...]) -> Principal:
    return Principal(examples(which, "train").of(modalities), SETTINGS[which]["CCA"]["kept"])


def patches(pictures: Tensor) -> Tensor:
    """Return the patches of pictures that are not blank, and of which picture each is.

    Args:
        pictures: ``(N, 3, 32, 32)``.

    Returns:
        Patches ``(P, 3 * PATCH ** 2)``, and the number of their picture ``(P,)``.
    """
    x = F.unfold(pictures, PATCH, stride=STRIDE).mT
    picture = torch.arange(len(x))[:, None].expand(x.shape[:2])
    drawn = x.std(2) > 0.05
    return x[drawn], picture[drawn]


class Words:
    """Counts of words in texts, and of *visual words* in pictures: the nearest of so many typical patches.

    Args:
        data: to learn from.
        seen: how many visual words there are.
        rare: words of fewer things are not counted.
    """

    def __init__(self, data: Examples, seen: int, rare: int):
        x, _ = patches(data.x["picture"])
        some = np.random.RandomState(0).permutation(len(x))[:20000]
        self.typical = MiniBatchKMeans(seen, n_init=1, random_state=0).fit(x[some].numpy())
        self.texts = CountVectorizer(min_df=rare).fit(texts(one_each(data), "words"))

    def __call__(self, data: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Return the counts in pictures ``(N, V)`` and in texts ``(N, W)``."""
        x, picture = patches(data.x["picture"])
        counts = np.zeros((len(data.y), self.typical.n_clusters))
        np.add.at(counts, (picture.numpy(), self.typical.predict(x.numpy())), 1)
        return counts, self.texts.transform(texts(data, "words")).toarray().astype(float)


def one_each(data: Examples) -> Examples:
    """Return the first example of each item."""
    return data.at(torch.tensor(np.unique(data.item, return_index=True)[1]))


def mean_of_each(data: Examples, numbers: np.ndarray) -> np.ndarray:
    """Return the mean over the examples of each thing, ``(things, D)``."""
    thing = np.unique(data.item, return_inverse=True)[1]
    total = np.zeros((thing.max() + 1, numbers.shape[1]))
    np.add.at(total, thing, numbers)
    return total / np.bincount(thing)[:, None]


# Families


class Nearest:
    """Look for the nearest known items in the first modality; their partners say what the second is like.

    Args:
        data: known pairs.
        neighbours: how many are asked.
    """

    def __init__(self, data: Examples, everything: Examples, neighbours: int, kept: dict[str, int]):
        self.principal = Principal(everything, kept)
        first, self.partners = map(unit, self.principal(data))
        self.near = NearestNeighbors(n_neighbors=neighbours).fit(first)

    def similarity(self, data: Examples) -> Tensor:
        first, second = map(unit, self.principal(data))
        found = torch.tensor(self.near.kneighbors(first, return_distance=False))
        return cosine(self.partners[found].mean(1), second)


class Canonical:
    """Canonical correlations of the principal components of both modalities, each weighted by its own.

    Args:
        data: known pairs.
        everything: to find the principal components of.
        ridge: see `mmtutor.mapping.CCA`.
        kept, kernel, seed: see `Principal`.
    """

    def __init__(self, data: Examples, everything: Examples, ridge: float, kept, kernel=0.0, seed: int = 0):
        self.principal = Principal(everything, kept, kernel, seed)
        x, y = self.principal(data)
        self.cca = CCA(x, y, min(SHARED, x.shape[1], y.shape[1]), ridge)

    def similarity(self, data: Examples) -> Tensor:
        x, y = self.principal(data)
        return cosine(self.cca.encode_x(x) * self.cca.rho, self.cca.encode_y(y) * self.cca.rho)


class Topics:
    """Latent Dirichlet allocation over words and visual words together.

    A thing is a text in two languages: each of its topics has words of both. Of a new thing the topics are
    inferred from either language alone; things are as close as their mixtures of topics.

    Args:
        data: known pairs.
        topics: how many.
        seed: the end depends on the start.
    """

    def __init__(self, data: Examples, words: Words, topics: int, text_weight: float, seed: int):
        self.words, self.text_weight = words, text_weight
        seen, read = (mean_of_each(data, counts) for counts in words(data))
        self.model = LatentDirichletAllocation(topics, max_iter=20, random_state=seed)
        self.model.fit(np.hstack([seen, text_weight * read]))

    def similarity(self, data: Examples) -> Tensor:
        seen, read = self.words(data)
        only_seen = np.hstack([seen, np.zeros_like(read)])
        only_read = np.hstack([np.zeros_like(seen), self.text_weight * read])
        p, q = (torch.tensor(self.model.transform(counts)) for counts in (only_seen, only_read))
        return degrees(p, q, "js")


class Mixture:
    """A mixture of Gaussians over the principal components of both modalities.

    Args:
        data: known pairs.
        everything: to find the principal components of.
        components: of the mixture; of few pairs half as many as there are.
        floor: the least variance.
        steps: of expectation and maximisation.
    """

    def __init__(self, data, everything, components: int, floor: float, steps: int, kept, generator):
        data, everything = one_each(data), one_each(everything)  # the drawings by the hand asked for
        self.principal, self.names = Principal(everything, kept), list(data.x)
        components = min(components, len(data.y) // 2)
        self.model = PairedMixture(dict.fromkeys(self.names, "gaussian"), components, floor=floor)
        self.model.fit(self.views(data), steps, generator)

    def views(self, data: Examples) -> dict[str, Tensor]:
        """Return the principal components by modality."""
        return dict(zip(self.names, self.principal(data), strict=True))

    def posterior(self, data: Examples) -> Tensor:
        """Return how probable each component is given both modalities, ``(N, K)``."""
        return self.model.posterior(self.views(data))

    def similarity(self, data: Examples) -> Tensor:
        first, second = ({m: x} for m, x in self.views(data).items())
        return self.model.similarity(first, second)


class Clusters(Mixture):
    """A mixture of as many components as there are classes, each named after the class that suits it best."""

    def __init__(self, data, everything, generator, **s):
        super().__init__(everything, everything, generator=generator, **s)
        self.order = torch.arange(s["components"])
        self.order = named(self.answers(everything), everything.y)

    def answers(self, data: Examples) -> list[Tensor]:
        """Return the log-probability of each class given either modality alone, ``(N, C)`` each."""
        views = self.views(data).items()
        return [self.model.posterior({m: x}).clamp(min=RARE).log()[:, self.order] for m, x in views]


class Spreading:
    """Spread the few labels from neighbour to neighbour, in each modality by itself.

    Args:
        data: examples with labels.
        everything: all examples; of those without a label only the modalities are used.
        neighbours: how many are joined.
        change: which part of a label may change, from 0 to 1.
    """

    def __init__(self, data: Examples, everything: Examples, neighbours: int, change: float):
        y = np.where(np.isin(everything.item, data.item), everything.y.numpy(), -1)
        self.models = {
            m: LabelSpreading(kernel="knn", n_neighbors=neighbours, alpha=change, max_iter=100).fit(
                x.numpy(), y
            )
            for m, x in everything.x.items()
        }

    def answers(self, data: Examples) -> list[Tensor]:
        """Return the log-probability of each class by each modality, ``(N, C)``; even where no label came."""
        found = [torch.tensor(model.predict_proba(data.x[m].numpy())) for m, model in self.models.items()]
        return [p.nan_to_num(1 / p.shape[1]).clamp(min=RARE).log() for p in found]


# Chosen with the validation items, of 3 to 30 neighbours, ridges of 0.01 to 1, kernels of 0.1 to 3, 50 to
# 200 components of the mixture, 20 to 80 topics, 7 and 12 neighbours of a label, and of two or three numbers
# of principal components or visual words each
SETTINGS = {
    "digits": {
        "nearest": {"neighbours": 10, "kept": {"numbers": 64, "texts": 0}},
        "CCA": {"ridge": 0.1, "kept": {"numbers": 240, "texts": 0}},
        "kernel CCA": {"ridge": 0.1, "kernel": 0.2, "kept": {"numbers": 500, "texts": 0}},
        "mixture": {"components": 50, "floor": 0.3, "steps": 20, "kept": {"numbers": 32, "texts": 0}},
        "clusters": {"components": 10, "floor": 0.3, "steps": 50, "kept": {"numbers": 32, "texts": 0}},
        "spreading": {"neighbours": 12, "change": 0.2},
    },
    "things": {
        "nearest": {"neighbours": 10, "kept": {"numbers": 64, "texts": 256}},
        "CCA": {"ridge": 1.0, "kept": {"numbers": 195, "texts": 512}},
        "kernel CCA": {"ridge": 0.1, "kernel": 0.1, "kept": {"numbers": 500, "texts": 512}},
        "mixture": {"components": 100, "floor": 1.0, "steps": 20, "kept": {"numbers": 16, "texts": 32}},
        "LDA": {"topics": 80, "text_weight": 1.0, "seen": 1000, "rare": 3},
    },
}


def fit(kind: str, which: str, data: Examples, everything: Examples, generator, instead: dict | None = None):
    """Return a baseline fitted to the known pairs of ``"digits"`` or ``"things"``.

    ``instead`` replaces some of its ``SETTINGS``.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in SETTINGS[which]:
        raise ValueError(f"baseline: expected one of {', '.join(SETTINGS[which])}; found {kind!r}")
    s = SETTINGS[which][kind] | (instead or {})
    if kind == "nearest":
        return Nearest(data, everything, **s)
    if kind in ("CCA", "kernel CCA"):
        return Canonical(data, everything, seed=generator.initial_seed(), **s)
    if kind == "spreading":
        return Spreading(data, everything, **s)
    if kind == "clusters":
        return Clusters(data, everything, generator, **s)
    if kind == "mixture":
        return Mixture(data, everything, generator=generator, **s)
    return Topics(
        data, Words(data, s["seen"], s["rare"]), s["topics"], s["text_weight"], generator.initial_seed()
    )
