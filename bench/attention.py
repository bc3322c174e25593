"""The attention of chapter 09 beside PyTorch's own: time there and back, with weights and without.

``make bench``, or ``python -m bench.attention``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench._measure import SECONDS, SEED, compare, there_and_back
from mmtutor import attention
from mmtutor.attention import MultiHeadAttention

TITLE = "Attention"
ABOUT = """\
Forward and backward of self-attention with several heads. *By hand* is the same layer around PyTorch's
`scaled_dot_product_attention`, which never hands out the weights; where they are asked for,
`nn.MultiheadAttention` is the plain version. The last table has no peer: it puts the book's kinds of
attention side by side, one query to many keys."""

BATCH, DIM, HEADS = 8, 64, 4
LENGTHS = (32, 128, 512, 2048)
KINDS = {
    "dot": attention.DotAttention,
    "scaled dot": attention.ScaledDotAttention,
    "content": attention.ContentAttention,
    "additive": attention.AdditiveAttention,
    "hybrid": attention.HybridAttention,
    "local": attention.LocalAttention,
    "location": lambda dim: attention.LocationAttention(dim, max(LENGTHS)),
}


def fused(ours: MultiHeadAttention, x: Tensor, valid: Tensor | None) -> Tensor:
    """The same layer by hand, around PyTorch's `scaled_dot_product_attention`."""
    q, k, v = (
        part.unflatten(2, (HEADS, -1)).transpose(1, 2)
        for part in F.linear(x, ours.in_proj_weight, ours.in_proj_bias).chunk(3, dim=2)
    )
    mask = None if valid is None else valid[:, None, None]
    return ours.out_proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


def heads_rows(length: int, padded: bool, seconds: float) -> list[dict]:
    """Time a self-attention of many heads, weights asked for or not."""
    torch.manual_seed(SEED)
    ours, peer = MultiHeadAttention(DIM, HEADS), nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    ours.load_state_dict(peer.state_dict())
    x = torch.randn(BATCH, length, DIM, generator=torch.Generator().manual_seed(SEED), requires_grad=True)
    valid = torch.arange(length) < torch.arange(1, BATCH + 1)[:, None] * length // BATCH if padded else None
    padding = None if valid is None else ~valid

    def library(x: Tensor, asked: bool) -> Tensor:
        out, weights = ours(x, x, valid=valid, need_weights=asked)
        return out if not asked else torch.cat([out.flatten(), weights.flatten()])

    def theirs(x: Tensor, asked: bool) -> Tensor:
        more = {"need_weights": asked, "average_attn_weights": False}
        out, weights = peer(x, x, x, key_padding_mask=padding, **more)
        return out if not asked else torch.cat([out.flatten(), weights.flatten()])

    without = {
        "by hand": lambda x: fused(ours, x, valid),
        "mmtutor": lambda x: library(x, False),
        "nn.MultiheadAttention": lambda x: theirs(x, False),
    }
    asked = {"nn.MultiheadAttention": lambda x: theirs(x, True), "mmtutor": lambda x: library(x, True)}
    case, found = f"{length} tokens" + (", padded" if padded else ""), []
    for table, versions in (("Output alone", without), ("Output and weights", asked)):
        runs = {name: there_and_back(call, x) for name, call in versions.items()}
        over, rivals = next(iter(versions)), {"mmtutor": [name for name in versions if name != "mmtutor"]}
        found.append(compare(table, case, runs, over, rivals, seconds))
    return found


def kinds_row(length: int, seconds: float) -> dict:
    """Time one query of each kind."""
    generator = torch.Generator().manual_seed(SEED)
    q = torch.randn(BATCH, DIM, generator=generator)
    k = torch.randn(BATCH, length, DIM, generator=generator, requires_grad=True)
    before = torch.full((BATCH, length), 1 / length)
    runs = {}
    for name, make in KINDS.items():
        kind = make(DIM)
        runs[name] = there_and_back(lambda k, kind=kind: kind(q, k, state=before)[0], k)
    return compare("Kinds of attention, one query", f"{length} keys", runs, "dot", {}, seconds, same={})


def rows(seconds: float = SECONDS) -> list[dict]:
    """Return all figures of this file."""
    found = [
        row for length in LENGTHS for padded in (False, True) for row in heads_rows(length, padded, seconds)
    ]
    return [*found, *(kinds_row(length, seconds) for length in LENGTHS)]


if __name__ == "__main__":
    from bench._table import show

    show(rows())
