"""Chapter 11's network against the same layers from PyTorch's fused modules: time of a training step.

``make bench``, or ``python bench/dam.py``. Where PyTorch has a module it stands in ours' place: GRU,
MultiheadAttention and scaled_dot_product_attention, none of them asked for weights. All else is the same. All
versions of a line run in turns (A, B, A, B, ...); their medians are compared. Time is the processor's, of one
thread.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _measure import print_environment, print_times, seconds, there_and_back
from torch import Tensor, nn

from mmtutor.dam import InterAttention, ShortTermMemory
from mmtutor.dtl import BiRNN, DTLNetwork, Extractor, dual_task_loss, residual_body

BATCH, DIM, WIDTH, CLASSES, SEED = 64, 64, 8, 8, 0
REPEATS = {8: 21, 32: 11}  # by the number of frames


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


def step(model: DTLNetwork, inputs: dict[str, Tensor], y: Tensor) -> Callable:
    def run():
        model.zero_grad()
        dual_task_loss(model(inputs), y).backward()

    return run


def main() -> None:
    print_environment(("torch",))
    print(f"batch {BATCH}, width {DIM}, float32; in brackets the ratio to PyTorch's\n")
    generator = torch.Generator().manual_seed(SEED)
    tokens = {"picture": torch.randn(BATCH, 16, DIM, generator=generator)}
    for frames, repeats in REPEATS.items():
        torch.manual_seed(SEED)
        extractors = {m: Extractor(DIM, residual_body(WIDTH)) for m in ("picture", "animation")}
        ours = DTLNetwork(extractors, dict.fromkeys(extractors, DIM), DIM, CLASSES, timed=["animation"])
        peer = fused(ours)
        x = {"picture": torch.randn(BATCH, 3, 32, 32, generator=generator)}
        x["animation"] = torch.randn(BATCH, frames, 6, 32, 32, generator=generator)
        y = torch.randint(CLASSES, (BATCH,), generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(ours(x).logits, peer(x).logits)
        runs = {"mmtutor": step(ours, x, y), "PyTorch's modules": step(peer, x, y)}
        print_times(f"{frames} frames, training step", seconds(runs, repeats), "PyTorch's modules")
        h = torch.randn(BATCH, frames, DIM, generator=generator, requires_grad=True)
        state = torch.randn(BATCH, frames, DIM // 2, generator=generator, requires_grad=True)
        parts = {
            "Bi-GRU": (h, lambda net, h: net.rnns[1](h)),
            "inter": (h, lambda net, h: net.dam.parts["inter"](tokens | {"animation": h})[0]["animation"]),
            "short": (state, lambda net, h: net.dam.parts["short"](h)[0]),
        }
        for name, (x, part) in parts.items():
            runs = {
                version: there_and_back(partial(part, net), x)
                for version, net in (("mmtutor", ours), ("PyTorch's modules", peer))
            }
            print_times(f"{frames} frames, {name}", seconds(runs, 5 * repeats), "PyTorch's modules")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
