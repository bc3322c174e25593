"""Chapter 12: what codes are good for, of two views of a digit: probes, clusters, anomalies, filling in."""

from functools import cache

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score
from torch import nn

from mmtutor import runtime
from mmtutor.data import load_digits, split
from mmtutor.gan import DTLGAN, DTLDiscriminator, DTLEncoder, DTLGenerator, Rule, train_gan
from mmtutor.ledger import Figures

from .gan_baselines import flat
from .gan_tasks import Views, at

VIEWS = ("fourier", "pixels")
CODE, NOISE, HIDDEN = 32, 16, 128
BATCH, STEPS = 64, {"cpu": 2000, "gpu": 10000}
FEW = 10  # labels of each digit
LEFT_OUT = 2  # digits that a seed leaves out: 0 and 1, 2 and 3, ...
RIDGE = 300.0  # of 10, 100, 300 and 1000 the best at filling in, on validation
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # of a probe; validation chooses

DEFAULT = dict(model="DTL", judged=True, reconstruction=1.0, penalty=0.1, rate=2e-3, code=CODE)
ROWS = {
    "DTL": {},
    "autoencoder": dict(judged=False),  # what the discriminator says then reaches no code
    "no reconstruction": dict(reconstruction=0.0),
    "no penalty": dict(penalty=0.0),
    "untrained": dict(model="untrained"),
    "components": dict(model="components"),
    "components, 16": dict(model="components", code=16),
    "views themselves": dict(model="views"),
}


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, **ROWS[row]}


@cache
def digits(part: str) -> tuple[Views, np.ndarray]:
    """Return both views, scaled by the training items, and the digits."""
    data, rows = load_digits(), getattr(split("digits"), part)
    x = {}
    for m in VIEWS:
        known = data.views[m][split("digits").train]
        x[m] = torch.tensor((data.views[m][rows] - known.mean(0)) / (known.std(0) + 1e-6)).float()
    return x, data.labels[rows]


def left_out(seed: int) -> list[int]:
    """Return the digits that are unknown to a seed's second model."""
    return [(LEFT_OUT * seed + k) % 10 for k in range(LEFT_OUT)]


def layers(n_in: int, n_out: int) -> nn.Sequential:
    """Return two linear maps with a nonlinear one between them."""
    return nn.Sequential(nn.Linear(n_in, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, n_out))


def network(widths: dict[str, int], code: int = CODE) -> DTLGAN:
    """Return an untrained DTL GAN of views that are rows of numbers."""
    draws = nn.Sequential(layers(NOISE, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, sum(widths.values())))
    branches = {m: nn.Sequential(layers(d, HIDDEN), nn.LeakyReLU(0.2)) for m, d in widths.items()}
    return DTLGAN(
        DTLEncoder(branches, HIDDEN, code),
        {m: layers(code, d) for m, d in widths.items()},
        DTLGenerator(draws, {m: (d,) for m, d in widths.items()}, NOISE),
        DTLDiscriminator(code, HIDDEN),
    )


class Codes:
    """A trained GAN, asked for codes, for what it fills in, and for how odd things look."""

    def __init__(self, gan: DTLGAN):
        self.gan = gan

    @torch.no_grad()
    def codes(self, x: Views) -> np.ndarray:
        """Return codes ``(N, CODE)``."""
        return self.gan.encoder(x).numpy()

    @torch.no_grad()
    def fill_in(self, x: Views) -> Views:
        """Return both views."""
        return self.gan.fill_in(x)

    @torch.no_grad()
    def oddity(self, x: Views) -> dict[str, np.ndarray]:
        """Return scores, larger is odder: the decoders' error, minus the logit, error from the other view."""
        return {
            "error": missed(self.fill_in(x), x),
            "logit": -self.gan.judge(x).numpy(),
            "other": crossed(self, x),
        }


class Components:
    """Principal components of both views side by side, and what is linear between the two."""

    def __init__(self, x: Views, code: int = CODE):
        self.pca = PCA(code, random_state=0).fit(flat(x).numpy())
        self.normal = LedoitWolf().fit(flat(x).numpy())
        self.maps = {m: Ridge(RIDGE).fit(x[other(m)].numpy(), x[m].numpy()) for m in VIEWS}
        self.known = flat(x)

    def codes(self, x: Views) -> np.ndarray:
        """Return the components ``(N, CODE)``."""
        return self.pca.transform(flat(x).numpy())

    def fill_in(self, x: Views) -> Views:
        """Return what the components keep of both views, or the other view by ridge regression."""
        if len(x) == 1:
            ((m, view),) = x.items()
            return {other(m): torch.tensor(self.maps[other(m)].predict(view.numpy())).float()}
        told = torch.tensor(self.pca.inverse_transform(self.codes(x))).float()
        return dict(zip(x, told.split([view.shape[1] for view in x.values()], 1), strict=True))

    def oddity(self, x: Views) -> dict[str, np.ndarray]:
        """Return scores, larger is odder: what the components lose, the normal distribution's distance."""
        return {
            "error": missed(self.fill_in(x), x),
            "normal": self.normal.mahalanobis(flat(x).numpy()),
            "nearest": torch.cdist(flat(x), self.known).min(1).values.numpy(),
            "other": crossed(self, x),
        }


class ViewsThemselves(Components):
    """All numbers of both views: what a code could keep at most."""

    def codes(self, x: Views) -> np.ndarray:
        """Return both views side by side."""
        return flat(x).numpy()

    def fill_in(self, x: Views) -> Views:
        """Return both views as they are, or the other one by ridge regression."""
        return x if len(x) > 1 else super().fill_in(x)

    def oddity(self, x: Views) -> dict[str, np.ndarray]:
        """Return the scores that need no components."""
        scores = super().oddity(x)
        del scores["error"]
        return scores


def other(m: str) -> str:
    """Return the other view's name."""
    return VIEWS[1 - VIEWS.index(m)]


def missed(told: Views, x: Views) -> np.ndarray:
    """Return each item's mean squared error, both views with the same weight."""
    return torch.stack([(told[m] - x[m]).square().mean(1) for m in told]).mean(0).numpy()


def crossed(model, x: Views) -> np.ndarray:
    """Return how badly each view follows from the other."""
    return sum(missed({m: model.fill_in({other(m): x[other(m)]})[m]}, x) for m in VIEWS) / len(VIEWS)


def learn(x: Views, s: dict, seed: int, steps: int, progress: bool):
    """Train a model of some items, or leave it as it is."""
    if s["model"] in ("components", "views"):
        return {"components": Components, "views": ViewsThemselves}[s["model"]](x, s["code"])
    noise = runtime.seed_everything(seed)
    gan = network({m: view.shape[1] for m, view in x.items()}, s["code"])
    if s["model"] == "untrained":
        return Codes(gan)
    rule = Rule(**{k: s[k] for k in ("judged", "reconstruction", "penalty", "rate")})

    def batch() -> Views:
        return at(x, torch.randint(len(x[VIEWS[0]]), (BATCH,), generator=noise))

    gan.history = train_gan(gan, batch, steps, rule, progress=progress, generator=noise)
    return Codes(gan)


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's two models and return them: of all digits, and of those that are not left out.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches and noise; it also says which digits are left out.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: each view gets the partner of another item.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row.
    """
    s, steps = settings(row), STEPS[scale or runtime.scale()]
    x, y = digits("train")
    if shuffle_pairs:
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        x = x | {VIEWS[1]: x[VIEWS[1]][order]}
    known = torch.tensor(~np.isin(y, left_out(seed)))
    return tuple(learn(side, s, seed, steps, progress) for side in (x, at(x, known)))


def few(y: np.ndarray, seed: int) -> np.ndarray:
    """Return some labelled items, `FEW` of each digit."""
    draw = np.random.default_rng(seed)
    return np.concatenate([draw.choice(np.flatnonzero(y == c), FEW, replace=False) for c in range(10)])


def probes(codes: dict[str, np.ndarray], y: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Return which test digits logistic regression on codes gets right, from all labels and from few."""
    mean, sd = codes["train"].mean(0), codes["train"].std(0) + 1e-6
    z, right = {part: (c - mean) / sd for part, c in codes.items()}, {}
    for name, rows in (("probe", slice(None)), (f"probe, {FEW} of each", few(y["train"], seed))):
        fitted = [
            LogisticRegression(C=c, max_iter=2000).fit(z["train"][rows], y["train"][rows]) for c in STRENGTHS
        ]
        best = max(fitted, key=lambda probe: probe.score(z["validation"], y["validation"]))
        right[name] = (best.predict(z["test"]) == y["test"]).astype(float)
    return right


def kept(codes: dict[str, np.ndarray], x: dict[str, Views]) -> dict[str, float]:
    """Return the share of each view's variance that is linear in the code, on test items."""
    shares = {}
    for m in VIEWS:
        probe = Ridge(1.0).fit(codes["train"], x["train"][m])
        left = (x["test"][m].numpy() - probe.predict(codes["test"])) ** 2
        shares[f"kept, {m}"] = 1 - left.sum() / (x["test"][m].numpy() ** 2).sum()
    return shares


def clusters(codes: dict[str, np.ndarray], y: np.ndarray, seed: int) -> dict[str, float]:
    """Return how ten clusters of codes agree with the digits, on test items."""
    found = KMeans(10, n_init=10, random_state=seed).fit(codes["train"]).predict(codes["test"])
    return {"NMI": normalized_mutual_info_score(y, found), "ARI": adjusted_rand_score(y, found)}


def mismatched(x: Views, y: np.ndarray, seed: int) -> Views:
    """Return the first view of each item beside the second of one that is another digit."""
    draw = np.random.default_rng(seed)
    partner = [draw.choice(np.flatnonzero(y != c)) for c in y]
    return {VIEWS[0]: x[VIEWS[0]], VIEWS[1]: x[VIEWS[1]][torch.tensor(partner)]}


def anomalies(models, x: Views, y: np.ndarray, seed: int) -> dict[str, float]:
    """Return the area under the curve of each score: of digits never seen, and of mismatched pairs."""
    whole, partial = models
    unknown, areas = np.isin(y, left_out(seed)), {}
    for name, score in partial.oddity(x).items():
        areas[f"new digits, {name}"] = roc_auc_score(unknown, score)
    wrong = np.repeat([False, True], len(y))
    right_scores, wrong_scores = whole.oddity(x), whole.oddity(mismatched(x, y, seed))
    for name, score in right_scores.items():
        areas[f"mismatched, {name}"] = roc_auc_score(wrong, np.concatenate([score, wrong_scores[name]]))
    return areas


def score(models, row: str, seed: int = 0, part: str = "test") -> Figures:
    """Return the figures of a row's two models; see the functions above."""
    sides = {"train": digits("train"), "validation": digits("validation"), "test": digits(part)}
    x, y = ({side: both[k] for side, both in sides.items()} for k in (0, 1))
    codes = {side: models[0].codes(views) for side, views in x.items()}
    figures = kept(codes, x) | clusters(codes, y["test"], seed)
    figures |= anomalies(models, x["test"], y["test"], seed)
    for m in VIEWS:
        told = models[0].fill_in({other(m): x["test"][other(m)]})[m].numpy()
        left = ((told - x["test"][m].numpy()) ** 2).sum()
        figures[f"filled in, {m}"] = 1 - left / (x["test"][m].numpy() ** 2).sum()
    return Figures(figures, probes(codes, y, seed))


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row, seed)
