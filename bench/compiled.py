"""A training step of the book's networks as it is, and through `torch.compile`: time, and when it pays.

``make bench``, or ``python -m bench.compiled``.
"""

import time
import warnings
from collections.abc import Callable
from statistics import median

import torch
import torch._inductor.config
from torch import Tensor, nn

from bench._measure import SECONDS, SEED, compare
from bench._table import LEAST, number, ratios
from mmtutor.attention import MultiHeadAttention
from mmtutor.encoders import ImageEncoder
from mmtutor.experiments.training import Views

TITLE = "torch.compile"
ABOUT = """\
Forward and backward of whole networks, as they are and compiled with `torch.compile` (its default mode),
which writes and builds code of its own at the first call. That call's time, on the clock, is in the second
table, and how many steps it takes to earn it back: *not seen* where the quartiles do not say that a compiled
step is faster. A compiler for C++ has to be there."""

NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple]]] = {
    "views of digits, batch 128": lambda: (
        Views(128),
        ({"fourier": torch.randn(128, 76), "pixels": torch.randn(128, 240)},),
    ),
    "picture encoder, batch 256": lambda: (ImageEncoder(width=48), (torch.randn(256, 3, 32, 32),)),
    "self-attention, 8 × 128": lambda: (Attending(64), (torch.randn(8, 128, 64),)),
}


class Attending(nn.Module):
    """Self-attention of four heads, a residual and a small network, as in chapter 9."""

    def __init__(self, dim: int):
        super().__init__()
        self.attend, self.norm = MultiHeadAttention(dim, 4), nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x, x)[0]
        return x + self.feed(self.norm(x))


def step(model: Callable, inputs: tuple, parameters: list[Tensor]) -> Callable[[], list[Tensor]]:
    """Return a call of a model and of the gradients of all its parameters."""

    def run() -> list[Tensor]:
        out = model(*inputs)
        value = sum(z.square().mean() for z in (out.values() if isinstance(out, dict) else [out]))
        return [value.detach(), *torch.autograd.grad(value, parameters)]

    return run


def rows(seconds: float = SECONDS) -> list[dict]:
    """Time every network both ways, and the first call of the compiled one."""
    found = []
    for case, make in NETWORKS.items():
        torch.manual_seed(SEED)
        model, inputs = make()
        parameters = [p for name, p in model.named_parameters() if "temperature" not in name]
        torch.compiler.reset()
        with warnings.catch_warnings(), torch._inductor.config.patch(force_disable_caches=True):
            warnings.simplefilter("ignore")  # the compiler's own, about its parts
            start = time.perf_counter()
            versions = {
                "as it is": step(model, inputs, parameters),
                "compiled": step(torch.compile(model), inputs, parameters),
            }
            versions["compiled"]()
            first = time.perf_counter() - start
            row = compare("A step", case, versions, "as it is", {}, seconds)
        plain, compiled = (median(row["values"][name]) for name in versions)
        pays = ratios(row, "compiled", "as it is")[2] < 1 - LEAST  # the upper quartile
        figures = {
            "first call, s": round(first, 1),
            "steps to earn it back": str(round(1000 * first / (plain - compiled))) if pays else "not seen",
        }
        found += [row, {"table": "When it pays", "of": "network", "case": case, "figures": figures}]
    return found


def summary(rows: list[dict]) -> str:
    """Say after how many steps it pays at best, and what the book does."""
    steps = [row["figures"]["steps to earn it back"] for row in rows if "figures" in row]
    earned = [int(n) for n in steps if n.isdigit()]
    best = (
        f"It pays after {number(min(earned))} steps at the earliest" if earned else "It was not seen to pay"
    )
    return (
        f"{best}, on one thread of this processor. The chapters train for some hundreds to a few thousand "
        "steps and do not compile; to try it elsewhere, call `model.compile()` before `train`. "
        "On a GPU this was not measured."
    )


if __name__ == "__main__":
    from bench._table import show

    show(rows())
