"""Chapter 06's losses and recall against plain versions and other libraries: time, and peak memory.

``make bench``, or ``python -m bench.contrastive``. All versions of a line run in turns (A, B, A, B, ...);
their medians are compared. Time is the processor's, of one thread: what else the machine does hardly counts.
"""

import subprocess
import sys
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _measure import peak_mib, print_environment, print_times, seconds
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss, NTXentLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from mmtutor.contrastive import info_nce, margin_contrastive
from mmtutor.metrics import recall_at_k

DIM, TEMPERATURE, SEED = 128, 0.07, 0
REPEATS = {64: 101, 256: 51, 1024: 21, 4096: 5, 8192: 1}
MEMORY_BATCH, CHUNK = 8192, 256


def plain_info_nce(a: Tensor, b: Tensor) -> Tensor:
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    s = a @ b.T / TEMPERATURE
    partner = torch.arange(len(a))
    return (F.cross_entropy(s, partner) + F.cross_entropy(s.T, partner)) / 2


def two_products_info_nce(a: Tensor, b: Tensor) -> Tensor:
    """As open_clip words it: one product for each direction, the inverse temperature multiplied in."""
    a, b, sharpness = F.normalize(a, dim=1), F.normalize(b, dim=1), 1 / TEMPERATURE
    of_images, of_texts = sharpness * a @ b.T, sharpness * b @ a.T
    partner = torch.arange(len(a))
    return (F.cross_entropy(of_images, partner) + F.cross_entropy(of_texts, partner)) / 2


def chunked_info_nce(a: Tensor, b: Tensor) -> Tensor:
    return info_nce(a, b, TEMPERATURE, chunk_size=CHUNK)


def peer_info_nce(a: Tensor, b: Tensor) -> Tensor:
    loss, labels = NTXentLoss(TEMPERATURE), torch.arange(len(a))
    there = loss(a, labels, ref_emb=b, ref_labels=labels.clone())
    return (there + loss(b, labels, ref_emb=a, ref_labels=labels.clone())) / 2


def plain_margin(a: Tensor, b: Tensor) -> Tensor:
    match = torch.eye(len(a), dtype=torch.bool)
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    distance = squared.clamp(min=1e-12).sqrt()
    return torch.where(match, distance, (1 - distance).clamp(min=0)).mean()


def cdist_margin(a: Tensor, b: Tensor) -> Tensor:
    match, distance = torch.eye(len(a), dtype=torch.bool), torch.cdist(a, b)
    return torch.where(match, distance, (1 - distance).clamp(min=0)).mean()


def library_margin(a: Tensor, b: Tensor) -> Tensor:
    return margin_contrastive(a, b, torch.eye(len(a), dtype=torch.bool), squared=False)


def peer_margin(a: Tensor, b: Tensor) -> Tensor:
    loss = ContrastiveLoss(distance=LpDistance(normalize_embeddings=False), reducer=MeanReducer())
    labels = torch.arange(len(a))
    return loss(a, labels, ref_emb=b, ref_labels=labels.clone())


def plain_recall(similarity: Tensor, k: int) -> float:
    found = similarity.topk(k).indices == torch.arange(len(similarity))[:, None]
    return found.any(1).double().mean().item()


def peer_recall(similarity: Tensor, k: int) -> float:
    from torchmetrics.functional.retrieval import retrieval_recall  # once mmtutor has mended torchvision

    relevant = torch.eye(len(similarity), dtype=torch.bool)
    return torch.stack(
        [retrieval_recall(s, y, top_k=k) for s, y in zip(similarity, relevant, strict=True)]
    ).mean()


def embeddings(batch: int) -> tuple[Tensor, Tensor]:
    """Unit vectors with distances on both sides of the margin 1; partners are near, as after training."""
    generator = torch.Generator().manual_seed(SEED)
    common = torch.randn(1, DIM, generator=generator)
    a = common + torch.randn(batch, DIM, generator=generator)
    b = a + 0.5 * torch.randn(batch, DIM, generator=generator)
    return F.normalize(a, dim=1).requires_grad_(), F.normalize(b, dim=1).requires_grad_()


def forward_backward(loss: Callable, a: Tensor, b: Tensor) -> Callable:
    def run():
        a.grad = b.grad = None
        loss(a, b).backward()

    return run


def bench_losses(
    title: str, versions: dict[str, Callable], batches: tuple[int, ...], repeats: int = 0
) -> None:
    """Time the versions at each batch size."""
    for batch in batches:
        a, b = embeddings(batch)
        runs = {name: forward_backward(loss, a, b) for name, loss in versions.items()}
        print_times(f"{title}, batch {batch}", seconds(runs, repeats or REPEATS[batch]), "plain")


def memory_of(name: str) -> float:
    """Return by how many MiB one forward and backward pass raises the peak memory of this fresh process.

    A process inherits the peak of the one that started it, so this is measured before all else.
    """
    loss = {"plain": plain_info_nce, "chunked": chunked_info_nce}[name]
    forward_backward(loss, *embeddings(2))()
    run = forward_backward(loss, *embeddings(MEMORY_BATCH))
    before = peak_mib()
    run()
    return peak_mib() - before


def bench_memory() -> None:
    command = [sys.executable, __file__, "--memory"]
    peak = {
        name: float(subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout)
        for name in ("plain", "chunked")
    }
    cells = [f"{name} {mib:.0f} MiB ({mib / peak['plain']:.3f})" for name, mib in peak.items()]
    print(
        f"{f'InfoNCE peak memory, batch {MEMORY_BATCH}':<34}"
        + "  ".join(f"{cell:<34}" for cell in cells).rstrip()
    )


def main() -> None:
    peers = ("torch", "pytorch-metric-learning", "torchmetrics")
    print_environment(peers)
    print(f"D = {DIM}, float32, forward and backward; in brackets the ratio to the plain version\n")
    bench_memory()
    ours = {"mmtutor": lambda a, b: info_nce(a, b, TEMPERATURE), "plain": plain_info_nce}
    bench_losses("InfoNCE", {**ours, "two products": two_products_info_nce}, (256, 1024, 4096))
    bench_losses("InfoNCE", {"chunked": chunked_info_nce, "plain": plain_info_nce}, (MEMORY_BATCH,))
    bench_losses("InfoNCE", {**ours, "pytorch-metric-learning": peer_info_nce}, (256,), repeats=3)
    contenders = {"mmtutor": library_margin, "plain": plain_margin, "cdist": cdist_margin}
    contenders["pytorch-metric-learning"] = peer_margin
    bench_losses("margin", contenders, (64, 256, 1024, 4096))

    similarity = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(SEED))
    contenders = {"mmtutor": recall_at_k, "plain": plain_recall, "torchmetrics": peer_recall}
    runs = {name: lambda recall=recall: recall(similarity, 10) for name, recall in contenders.items()}
    print_times("recall at 10, 1000 x 1000", seconds(runs, 11), "plain")


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--memory"]:
        print(memory_of(sys.argv[2]))
    else:
        main()
