"""Chapter 09's attention against PyTorch's own: time there and back, with weights and without.

``make bench``, or ``python bench/attention.py``. All versions of a line run in turns (A, B, A, B, ...); their
medians are compared. Time is the processor's, of one thread.
"""

import torch
import torch.nn.functional as F
from _measure import print_environment, print_times, seconds, there_and_back
from torch import Tensor, nn

from mmtutor import attention
from mmtutor.attention import MultiHeadAttention

BATCH, DIM, HEADS, SEED = 8, 64, 4, 0
REPEATS = {32: 101, 128: 51, 512: 15, 2048: 3}
KINDS = {
    "dot": attention.DotAttention,
    "scaled dot": attention.ScaledDotAttention,
    "content": attention.ContentAttention,
    "additive": attention.AdditiveAttention,
    "hybrid": attention.HybridAttention,
    "local": attention.LocalAttention,
    "location": lambda dim: attention.LocationAttention(dim, max(REPEATS)),
}


def fused(ours: MultiHeadAttention, x: Tensor, valid: Tensor | None) -> Tensor:
    """The same layer by hand, around PyTorch's `scaled_dot_product_attention`."""
    q, k, v = (
        part.unflatten(2, (HEADS, -1)).transpose(1, 2)
        for part in F.linear(x, ours.in_proj_weight, ours.in_proj_bias).chunk(3, dim=2)
    )
    mask = None if valid is None else valid[:, None, None]
    return ours.out_proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


def bench_heads(length: int, padded: bool) -> None:
    """Time a self-attention of many heads, weights asked for or not."""
    ours, peer = MultiHeadAttention(DIM, HEADS), nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    ours.load_state_dict(peer.state_dict())
    x = torch.randn(BATCH, length, DIM, generator=torch.Generator().manual_seed(SEED), requires_grad=True)
    valid = torch.arange(length) < torch.arange(1, BATCH + 1)[:, None] * length // BATCH if padded else None
    padding = None if valid is None else ~valid
    title = f"{length} tokens" + (", padded" if padded else "")
    not_asked = {
        "mmtutor": lambda x: ours(x, x, valid=valid)[0],
        "scaled_dot_product_attention": lambda x: fused(ours, x, valid),
        "MultiheadAttention": lambda x: peer(x, x, x, key_padding_mask=padding, need_weights=False)[0],
    }
    asked = {
        "mmtutor": lambda x: ours(x, x, valid=valid, need_weights=True)[0],
        "MultiheadAttention": lambda x: peer(x, x, x, key_padding_mask=padding, average_attn_weights=False)[
            0
        ],
    }
    for name, versions, plain in (
        ("no weights", not_asked, "scaled_dot_product_attention"),
        ("weights", asked, "MultiheadAttention"),
    ):
        runs = {version: there_and_back(call, x) for version, call in versions.items()}
        print_times(f"{title}, {name}", seconds(runs, REPEATS[length]), plain)


def bench_kinds(length: int) -> None:
    """Time one query of each kind."""
    generator = torch.Generator().manual_seed(SEED)
    q = torch.randn(BATCH, DIM, generator=generator)
    k = torch.randn(BATCH, length, DIM, generator=generator, requires_grad=True)
    before = torch.full((BATCH, length), 1 / length)
    runs = {}
    for name, make in KINDS.items():
        kind = make(DIM)
        runs[name] = there_and_back(lambda k, kind=kind: kind(q, k, state=before)[0], k)
    print_times(f"{length} keys, one query", seconds(runs, REPEATS[length]), "dot")


def main() -> None:
    print_environment(("torch",))
    print(
        f"batch {BATCH}, width {DIM}, {HEADS} heads, float32; in brackets the ratio to PyTorch's or to dot\n"
    )
    for length in REPEATS:
        for padded in (False, True):
            bench_heads(length, padded)
    for length in REPEATS:
        bench_kinds(length)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
