"""The fusers of chapter 05 beside their equations written by hand, a loop, and PyTorch's modules: time.

``make bench``, or ``python -m bench.fusers``.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench._measure import SECONDS, SEED, compare, there_and_back
from mmtutor import fusion

TITLE = "Fusers"
ABOUT = """\
Forward and backward to the features, all modalities present. *By hand* is the equation in plain PyTorch
with the same weights: no mask, no check of shapes, so its ratio says what our contract costs (any
modality may be absent, wrong shapes are refused by name). In the table of products, *einsum* is the
equation in one line, *loop* takes the dimensions of the point one by one, and `nn.Bilinear` is
PyTorch's own."""

MODALITIES, BATCHES, WIDTH, PAIR_WIDTH, RANK = ("image", "audio", "text"), (64, 1024), 64, 32, 4

Features = dict[str, Tensor]


def tokens(ours: fusion.TokenFusion, z: Features) -> Tensor:
    return torch.stack([ours.projections[m](z_m) for m, z_m in z.items()], 1)


def weighed(ours: fusion.AttentionFusion, h: Tensor) -> Tensor:
    weights = (h @ ours.query / math.sqrt(h.shape[2])).softmax(1)
    return (weights[..., None] * h).sum(1)


def gated(ours: fusion.GatedFusion, z: Features) -> Tensor:
    h = tokens(ours, z)
    return (ours.gate(torch.cat([*z.values()], 1)).sigmoid().view_as(h) * h.tanh()).sum(1)


def low_rank(ours: fusion.LowRankFusion, z: Features) -> Tensor:
    factors = [ours.factors[m](z_m) for m, z_m in z.items()]
    return math.prod(factors).view(-1, ours.rank, ours.out_dim).sum(1)


def late(ours: fusion.LateFusion, z: Features) -> Tensor:
    log_p = [ours.heads[m](z_m).log_softmax(1) for m, z_m in z.items()]
    return (sum(log_p) / len(log_p)).log_softmax(1)


BY_HAND: dict[str, tuple[Callable, Callable]] = {
    "concatenation": (fusion.ConcatFusion, lambda f, z: f.join(torch.cat([*z.values()], 1))),
    "sum": (fusion.SumFusion, lambda f, z: sum(f.projections[m](z_m) for m, z_m in z.items())),
    "mean": (fusion.MeanFusion, lambda f, z: tokens(f, z).mean(1)),
    "maximum": (fusion.MaxFusion, lambda f, z: tokens(f, z).amax(1)),
    "gated": (fusion.GatedFusion, gated),
    "attention": (fusion.AttentionFusion, lambda f, z: weighed(f, tokens(f, z))),
    "Transformer": (fusion.TransformerFusion, lambda f, z: weighed(f, f.encoder(tokens(f, z)))),
    "low rank": (fusion.LowRankFusion, low_rank),
    "late": (fusion.LateFusion, late),
}


def one_line(W: Tensor, z: Features) -> Tensor:
    a, b = (F.pad(z_m, (0, 1), value=1.0) for z_m in z.values())
    return torch.einsum("ni,nj,kij->nk", a, b, W)


def loop(W: Tensor, z: Features) -> Tensor:
    a, b = (F.pad(z_m, (0, 1), value=1.0) for z_m in z.values())
    return torch.stack([((a @ W_k) * b).sum(1) for W_k in W], 1)


def products(W: Tensor) -> dict[str, Callable[[Features], Tensor]]:
    """Return the versions of a bilinear map with weights ``(D, d_1 + 1, d_2 + 1)``."""
    ours = fusion.BilinearFusion(dict.fromkeys(MODALITIES[:2], PAIR_WIDTH), len(W))
    ours.join.weight.data = W.flatten(1)
    theirs = nn.Bilinear(W.shape[1], W.shape[2], len(W), bias=False)
    theirs.weight.data = W
    return {
        "einsum": lambda z: one_line(W, z),
        "mmtutor": lambda z: ours(z)[0],
        "loop": lambda z: loop(W, z),
        "nn.Bilinear": lambda z: theirs(*(F.pad(z_m, (0, 1), value=1.0) for z_m in z.values())),
    }


def features(batch: int, width: int, modalities: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randn(batch, width, generator=generator).requires_grad_() for _ in range(modalities)]


def called(fuser: Callable[[Features], Tensor]) -> Callable[..., Tensor]:
    """Return a fuser as a function of tensors instead of a dictionary."""
    return lambda *z: fuser(dict(zip(MODALITIES, z, strict=False)))


def rows(seconds: float = SECONDS) -> list[dict]:
    """Return all figures of this file."""
    found = []
    for batch in BATCHES:
        z = features(batch, WIDTH, len(MODALITIES))
        for name, (make, by_hand) in BY_HAND.items():
            torch.manual_seed(SEED)
            ours = make(dict.fromkeys(MODALITIES, WIDTH), WIDTH)
            versions = {"by hand": lambda z, f=ours, g=by_hand: g(f, z), "mmtutor": lambda z, f=ours: f(z)[0]}
            runs = {version: there_and_back(called(fuser), *z) for version, fuser in versions.items()}
            table, rivals = f"Three modalities, batch {batch}", {"mmtutor": ["by hand"]}
            found.append(compare(table, name, runs, "by hand", rivals, seconds))
    W = torch.randn(WIDTH, PAIR_WIDTH + 1, PAIR_WIDTH + 1, generator=torch.Generator().manual_seed(SEED))
    for batch in BATCHES:
        z = features(batch, PAIR_WIDTH, 2)
        runs = {name: there_and_back(called(fuser), *z) for name, fuser in products(W / PAIR_WIDTH).items()}
        rivals = {"mmtutor": [name for name in runs if name != "mmtutor"]}
        found.append(
            compare("All products of two modalities", f"batch {batch}", runs, "einsum", rivals, seconds)
        )
    return found


if __name__ == "__main__":
    from bench._table import show

    show(rows())
