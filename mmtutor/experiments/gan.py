"""Chapter 12: the DTL GAN on faces and hearts in two hands, its variants, and what else draws pairs.

All networks have the same generator, batches and number of steps, unless a row says otherwise.
"""

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from mmtutor import runtime
from mmtutor.augment import mask_present
from mmtutor.data import load_emoji
from mmtutor.gan import (
    DTLGAN,
    DTLDiscriminator,
    DTLEncoder,
    DTLGenerator,
    Rule,
    picture_branch,
    picture_maker,
    train_gan,
)
from mmtutor.generated import density_coverage, frechet_distance, kernel_distance, partner_rank
from mmtutor.ledger import Figures
from mmtutor.training import train

from . import gan_baselines as baselines
from .gan_tasks import STYLES, Views, at, face_items, faces, seen, varied

CODE, NOISE = 64, 32
WIDTH = {"cpu": 16, "gpu": 64}
BATCH, STEPS = 32, {"cpu": 1200, "gpu": 12000}
DRAWN = 500  # things that are drawn to be measured
COPIES = 100  # moved copies of each thing learnt among which a drawing's nearest is looked for
SHUFFLED = 7  # places by which views are moved to break pairs

DEFAULT = dict(
    model="DTL",
    views=STYLES,
    spectral=False,
    moved=True,
    longer=1,
    shuffled=False,
    penalty=0.3,
    rate=2e-3,
    hidden=0.25,
)
ROWS = {
    "DTL": {},
    # who is trained, and by what
    "codes only": dict(judged=False),
    "codes only, no penalty": dict(judged=False, penalty=0.0),
    "no reconstruction": dict(reconstruction=0.0),
    "no penalty": dict(penalty=0.0),
    "spectral norm": dict(penalty=0.0, spectral=True),
    "reconstruction × 10": dict(reconstruction=10.0),
    "not moved": dict(moved=False),
    "three times as long": dict(longer=3),
    "shuffled pairs": dict(shuffled=True),
    # other losses
    "minimax": dict(form="minimax"),
    "least squares": dict(form="least squares"),
    "matching": dict(generator=0.0, matching=1.0),
    "with matching": dict(matching=0.3),
    "weights 3 : 1": dict(weights=(3.0, 1.0)),
    # another optimiser
    "SGD": dict(optimiser="SGD", rate=0.1),  # of 0.02, 0.05, 0.1 and 0.3 on validation; 0.3 diverges
    "momentum": dict(momentum=0.5),
    # what else draws, or fills in
    "unpaired": dict(model="unpaired"),
    "VAE": dict(model="VAE", beta=1.0),  # of 0.01, 0.1, 0.3, 1 and 4: all alike
    "VAE, not moved": dict(model="VAE", beta=1.0, moved=False),
    "components": dict(model="components", deterministic=True),
    "components, not moved": dict(model="components", moved=False, deterministic=True),
    "things learnt": dict(model="learnt", moved=False, deterministic=True),
    "things learnt, moved": dict(model="learnt", deterministic=True),
    "linear": dict(model="linear", moved=False, deterministic=True),
    "nearest": dict(model="nearest", moved=False, deterministic=True),
}
SIMPLE = {
    "learnt": baselines.Learnt,
    "components": baselines.Components,
    "linear": baselines.Linear,
    "nearest": baselines.Nearest,
}


def settings(row: str) -> dict:
    """Return a row's settings, defaults filled in; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return {**DEFAULT, **ROWS[row]}


def generator_of(views, width: int) -> DTLGenerator:
    """Return an untrained generator of pictures, three channels a view."""
    network = picture_maker(NOISE, width, 3 * len(views))
    return DTLGenerator(network, {m: (3, 32, 32) for m in views}, NOISE)


def encoder_of(views, width: int, code: int = CODE) -> DTLEncoder:
    """Return an untrained encoder of pictures."""
    return DTLEncoder({m: picture_branch(CODE, width) for m in views}, CODE, code)


def network(views=STYLES, width: int = 16, spectral: bool = False) -> DTLGAN:
    """Return an untrained DTL GAN of pictures; its decoders have half of the generator's width."""
    gan = DTLGAN(
        encoder_of(views, width),
        {m: picture_maker(CODE, width // 2, 3) for m in views},
        generator_of(views, width),
        DTLDiscriminator(CODE, 2 * CODE, spectral),
    )
    return gan.to(runtime.device(), memory_format=torch.channels_last)  # twice as fast on a CPU


def rule_of(s: dict) -> Rule:
    """Return the part of a row's settings that says how it is trained."""
    return Rule(**{f.name: s[f.name] for f in fields(Rule) if f.name in s})


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches, noise and augmentation.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: each picture gets the partner of another.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row.
    """
    s, scale = settings(row), scale or runtime.scale()
    if s["model"] in SIMPLE:
        return SIMPLE[s["model"]](s["moved"])
    noise, x = runtime.seed_everything(seed), faces("train")
    if shuffle_pairs or s["shuffled"]:
        x = x | {STYLES[1]: x[STYLES[1]][torch.randperm(len(x[STYLES[1]]), generator=noise)]}
    steps, width = STEPS[scale] * s["longer"], WIDTH[scale]
    if s["model"] == "VAE":
        return fit_vae(x, s, steps, width, noise, progress)
    if s["model"] == "unpaired":
        gans = {m: fit_gan({m: x[m]}, s, steps, width, noise, progress) for m in x}
        return baselines.Unpaired(gans).eval()
    return fit_gan(x, s, steps, width, noise, progress)


def draw(x: Views, noise: torch.Generator) -> Views:
    """Return a batch of things, drawn with replacement."""
    return at(x, torch.randint(len(next(iter(x.values()))), (BATCH,), generator=noise))


def fit_gan(x: Views, s: dict, steps: int, width: int, noise: torch.Generator, progress: bool, **more):
    """Train a GAN on some views; ``more`` goes to `train_gan`."""
    gan = network([*x], width, s["spectral"])

    def change(views: Views) -> Views:
        return varied(views, noise) if s["moved"] else views

    gan.history = train_gan(
        gan,
        lambda: draw(x, noise),
        steps,
        rule_of(s),
        change=change,
        progress=progress,
        generator=noise,
        **more,
    )
    return gan


def fit_vae(x: Views, s: dict, steps: int, width: int, noise: torch.Generator, progress: bool):
    """Train a variational autoencoder."""
    vae = baselines.VAE(encoder_of([*x], width, 2 * NOISE), generator_of([*x], width), s["beta"])
    vae = vae.to(runtime.device(), memory_format=torch.channels_last)

    def batch_loss(step: int) -> Tensor:
        shown = varied(draw(x, noise), noise) if s["moved"] else draw(x, noise)
        valid = mask_present(torch.ones(BATCH, len(x)).bool(), rate=s["hidden"], generator=noise)
        where = next(vae.parameters()).device
        return vae.loss({m: view.to(where) for m, view in shown.items()}, valid.to(where), noise)

    vae.history = train(vae, batch_loss, steps, rate=s["rate"], weight_decay=0.0, progress=progress)
    return vae


@torch.no_grad()
def drawings(model, n: int = DRAWN, seed: int = 0) -> Views:
    """Let a model draw, each picture of numbers from -1 to 1."""
    made = model.generate(n, torch.Generator().manual_seed(seed))
    return {m: view.cpu().float() for m, view in made.items()}


def quality(made: Views, part: str = "test") -> dict[str, float]:
    """Return how drawings compare with real things, learnt and not; see `mmtutor.generated`."""
    learnt, real = seen(faces("train")), seen(faces(part))
    look, n = seen(made), len(real)
    samples = look.split(n)[: len(look) // n]  # as many as there are real ones, several times
    density, coverage = torch.tensor([density_coverage(real, some) for some in samples]).mean(0).tolist()
    return {
        "kernel distance": kernel_distance(real, look),
        "kernel distance, learnt": kernel_distance(learnt, look),
        "Fréchet distance": torch.tensor([frechet_distance(real, some) for some in samples]).mean().item(),
        "density": density,
        "coverage": coverage,
    }


def nearest_learnt(made: Views) -> tuple[Tensor, Tensor]:
    """Return of each drawing the distance to the nearest thing learnt, a pixel's mean, and which it is.

    A thing learnt may be mirrored for it, or moved as networks see it: `COPIES` such copies are looked at.
    """
    known = torch.cat([baselines.flat(baselines.learnt(copies)) for copies in (0, COPIES)])
    distance, row = torch.cdist(baselines.flat(made), known).min(1)
    return distance / known.shape[1] ** 0.5, row % len(faces("train")[STYLES[0]])


def agreement(made: Views) -> dict[str, float]:
    """Return the median rank of the partner among the things learnt, of pairs and of shuffled pairs."""
    figures, real = {}, [view.flatten(1) for view in faces("train").values()]
    first, second = (made[m].flatten(1) for m in faces("train"))
    for name, views in (("", (first, second)), (", shuffled", (first, second.roll(SHUFFLED, 0)))):
        both = [partner_rank(real, views), partner_rank(real[::-1], views[::-1])]
        figures[f"partner rank{name}"] = torch.cat(both).median().item()
    return figures


@torch.no_grad()
def filled(model, part: str = "test") -> dict[str, Tensor]:
    """Fill in each view from the other: squared error of a pixel, and whether it finds the real one."""
    x, where = faces(part), _device(model)
    found, errors = [], []
    for known in x:
        for m in x.keys() - {known}:
            told = model.fill_in({known: x[known].to(where)})[m].cpu().flatten(1)
            real = x[m].flatten(1)
            errors.append((told - real).square().mean(1))
            found.append((torch.cdist(told, real).argmin(1) == torch.arange(len(real))).double())
    return {"squared error": torch.cat(errors), "found": torch.cat(found)}


def _device(model) -> torch.device:
    weights = getattr(model, "parameters", list)()
    return next(iter(weights)).device if weights else torch.device("cpu")


def score(model, row: str, part: str = "test") -> Figures:
    """Return a model's figures: quality and agreement of what it draws, and of what it fills in."""
    figures, outcomes, groups = {}, {}, None
    if hasattr(model, "generate"):
        made = drawings(model)
        figures |= quality(made, part) | agreement(made)
        figures["nearest learnt"] = nearest_learnt(made)[0].median().item()
    if hasattr(model, "fill_in"):
        outcomes = {name: values.numpy() for name, values in filled(model, part).items()}
        groups = np.tile(load_emoji().family[face_items(part)], len(STYLES))
    if isinstance(model, torch.nn.Module):
        figures["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Figures(figures, outcomes, groups)


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row)
