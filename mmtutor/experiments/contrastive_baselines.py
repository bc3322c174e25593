"""Baselines of chapter 06: answers to the same questions that need little or no training.

Each object encodes pictures, texts and animations into unit vectors, as the trained model does, so the same
lines score it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from torch import Tensor

from mmtutor.contrastive import unit
from mmtutor.data import load_emoji
from mmtutor.encoders import pixels, text_features


def small_centred(images) -> Tensor:
    """Shrink pictures to 16 x 16, subtract each one's mean colour, make unit vectors: ``(N, 768)``."""
    x = F.avg_pool2d(pixels(images), 2)
    return unit((x - x.mean((2, 3), keepdim=True)).flatten(1))


class NearestPixels:
    """A picture is as close to a name as to that thing's most similar picture in a known style. No training.

    A name stands for the thing's known pictures; the similarity of a new picture to a name is the largest of
    their cosines. To fit the common scorer, which multiplies embeddings, the "embedding" of a new picture
    holds its similarity to all things, and that of a name is the thing's one-hot vector.
    """

    def __init__(self, styles: list[int]):
        emoji = load_emoji()
        self.things = {name: i for i, name in [*enumerate(emoji.names_zh), *enumerate(emoji.names)]}
        self.known = [(small_centred(emoji.images[s]), torch.tensor(emoji.present[s])) for s in styles]

    def encode_images(self, images) -> Tensor:
        z = small_centred(images)
        similar = [(z @ known.T).masked_fill(~present, -1) for known, present in self.known]
        return torch.stack(similar).amax(0)

    def encode_texts(self, texts: list[str]) -> Tensor:
        return F.one_hot(torch.tensor([self.things[text] for text in texts]), len(self.known[0][0])).float()


class PixelsToFrames:
    """A picture and an animation are as close as their small centred pixels, frames averaged. No training."""

    def encode_images(self, images) -> Tensor:
        return small_centred(images)

    def encode_videos(self, videos) -> Tensor:
        return unit(torch.stack([small_centred(frames).mean(0) for frames in np.asarray(videos)]))


class LinearCCA:
    """Canonical correlation analysis of pixels and word counts, both first reduced to a few components.

    Both sides are whitened; the singular vectors of their cross-covariance are the canonical directions and
    its singular values, the correlations, weight them.
    """

    def __init__(self, items: np.ndarray, styles: list[int], pixels_kept: int = 128, words_kept: int = 1000):
        emoji = load_emoji()
        drawn = [(s, i) for s in styles for i in items if emoji.present[s, i]]
        pictures = emoji.images[tuple(np.array(drawn).T)]
        self.words = TfidfVectorizer(analyzer=text_features, sublinear_tf=True)
        counts = self.words.fit_transform([emoji.names[i] for _, i in drawn])
        self.pca = PCA(pixels_kept, whiten=True, random_state=0)
        self.svd = make_pipeline(TruncatedSVD(words_kept, random_state=0), PCA(whiten=True, random_state=0))
        x = self.pca.fit_transform(small_centred(pictures).numpy())
        y = self.svd.fit_transform(counts)
        u, correlation, v = np.linalg.svd(x.T @ y / len(x), full_matrices=False)
        self.u, self.v = u * correlation, v.T * correlation

    def encode_images(self, images) -> Tensor:
        x = self.pca.transform(small_centred(images).numpy()) @ self.u
        return unit(torch.as_tensor(x).float())

    def encode_texts(self, texts: list[str]) -> Tensor:
        y = self.svd.transform(self.words.transform(texts)) @ self.v
        return unit(torch.as_tensor(y).float())


def fit(s: dict, items: np.ndarray, styles: list[int]):
    """Return the baseline that a row asks for, fitted to the row's training things and styles."""
    if s["baseline"] == "pixels":
        return PixelsToFrames() if s["question"] == "animation" else NearestPixels(styles)
    if s["baseline"] == "cca":
        return LinearCCA(items, styles, words_kept=s["words"])
    raise ValueError(f"baseline: expected 'pixels' or 'cca', found {s['baseline']!r}")
