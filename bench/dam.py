"""Chapter 11's network beside the same layers from PyTorch's fused modules: time of a training step.

``make bench``, or ``python -m bench.dam``.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench._measure import SECONDS, SEED, compare, there_and_back
from mmtutor.dam import InterAttention, ShortTermMemory
from mmtutor.dtl import BiRNN, DTLNetwork, Extractor, dual_task_loss, residual_body

TITLE = "Dual attention"
ABOUT = """\
A training step of chapter 11's network, and its parts alone. Where PyTorch has a module it stands in
ours' place (GRU, `nn.MultiheadAttention`, `scaled_dot_product_attention`), none of them asked for
weights and none given a mask. All else is the same."""

BATCH, DIM, WIDTH, CLASSES = 64, 64, 8, 8
FRAMES = (8, 32)
PEER = "PyTorch's modules"


class FusedGRU(nn.Module):
    """The same recurrent network without a mask."""

    def __init__(self, ours: BiRNN):
        super().__init__()
        self.rnn, self.hidden = ours.rnn, ours.hidden

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.rnn(x)[0]


class FusedInter(nn.Module):
    """The same looks by PyTorch's attention."""

    def __init__(self, ours: InterAttention):
        super().__init__()
        self.norms, self.pairs, self.modalities = ours.norms, ours.pairs, ours.modalities
        self.looks = nn.ModuleList(
            nn.MultiheadAttention(look.dim, look.heads, batch_first=True) for look in ours.looks
        )
        for look, of_ours in zip(self.looks, ours.looks, strict=True):
            look.load_state_dict(of_ours.state_dict())

    def forward(self, x: dict[str, Tensor], valid: dict[str, Tensor] | None = None):
        normed = {m: norm(x[m]) for m, norm in zip(self.modalities, self.norms, strict=True)}
        return {
            a: x[a] + look(normed[a], normed[b], normed[b], need_weights=False)[0]
            for (a, b), look in zip(self.pairs, self.looks, strict=True)
        }, {}


class FusedShort(nn.Module):
    """The same memory: scaled_dot_product_attention with its window and recency as a mask."""

    def __init__(self, ours: ShortTermMemory):
        super().__init__()
        self.ours = ours

    def forward(self, h: Tensor, valid: Tensor | None = None):
        ours, steps = self.ours, torch.arange(h.shape[1])
        back = steps[:, None] - steps
        mask = torch.where((back > 0) & (back <= ours.window), -ours.log_recency.exp() * back, -torch.inf)
        q, k = ours.W_q(h[:, 1:]), ours.W_k(h)  # the first step has nothing to look at
        return F.pad(F.scaled_dot_product_attention(q, k, h, mask[1:]), (0, 0, 1, 0)), {}


def fused(ours: DTLNetwork) -> DTLNetwork:
    """Return the same network, with the same weights, of PyTorch's modules where there are any."""
    peer = copy.deepcopy(ours)
    peer.rnns = nn.ModuleList(FusedGRU(rnn) for rnn in peer.rnns)
    peer.dam.parts["inter"] = FusedInter(peer.dam.parts["inter"])
    peer.dam.parts["short"] = FusedShort(peer.dam.parts["short"])
    return peer


def step(model: DTLNetwork, inputs: dict[str, Tensor], y: Tensor) -> Callable[[], list[Tensor]]:
    """Return a training step; its result is the loss and the gradients of the extractors."""

    def run() -> list[Tensor]:
        model.zero_grad()
        loss = dual_task_loss(model(inputs), y)
        loss.backward()
        return [loss.detach(), *(p.grad for p in model.extractors.parameters())]

    return run


def frames_rows(frames: int, seconds: float) -> list[dict]:
    """Time a step of the whole network and its parts, for animations of so many frames."""
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    extractors = {m: Extractor(DIM, residual_body(WIDTH)) for m in ("picture", "animation")}
    ours = DTLNetwork(extractors, dict.fromkeys(extractors, DIM), DIM, CLASSES, timed=["animation"])
    nets = {PEER: fused(ours), "mmtutor": ours}
    inputs = {"picture": torch.randn(BATCH, 3, 32, 32, generator=generator)}
    inputs["animation"] = torch.randn(BATCH, frames, 6, 32, 32, generator=generator)
    y = torch.randint(CLASSES, (BATCH,), generator=generator)
    tokens = {"picture": torch.randn(BATCH, 16, DIM, generator=generator)}
    h = torch.randn(BATCH, frames, DIM, generator=generator, requires_grad=True)
    state = torch.randn(BATCH, frames, DIM // 2, generator=generator, requires_grad=True)
    parts = {
        "Bi-GRU": (h, lambda net, h: net.rnns[1](h)),
        "inter": (h, lambda net, h: net.dam.parts["inter"](tokens | {"animation": h})[0]["animation"]),
        "short": (state, lambda net, h: net.dam.parts["short"](h)[0]),
    }
    versions = {"training step": {name: step(net, inputs, y) for name, net in nets.items()}}
    for part, (x, call) in parts.items():
        versions[part] = {name: there_and_back(partial(call, net), x) for name, net in nets.items()}
    return [
        compare(f"{frames} frames", part, runs, PEER, {"mmtutor": [PEER]}, seconds)
        for part, runs in versions.items()
    ]


def rows(seconds: float = SECONDS) -> list[dict]:
    """Return all figures of this file."""
    return [row for frames in FRAMES for row in frames_rows(frames, seconds)]


if __name__ == "__main__":
    from bench._table import show

    show(rows())
