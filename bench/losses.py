"""The losses of chapters 06 and 07 beside plain versions and pytorch-metric-learning: time and memory.

``make bench``, or ``python -m bench.losses``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss, NTXentLoss
from pytorch_metric_learning.reducers import SumReducer
from torch import Tensor

from bench._measure import SECONDS, SEED, compare, growth, memory, row, there_and_back
from mmtutor.contrastive import info_nce, margin_contrastive, sigmoid_contrastive
from mmtutor.matching import js_from_logits, kl_from_logits

TITLE = "Losses"
ABOUT = """\
Forward and backward, one scalar of two batches of embeddings. *Plain* is the formula in a few lines of
PyTorch. *Two products* multiplies the embeddings once for each direction, as open_clip does. *Chunked*
is `info_nce` with `chunk_size`, which never holds the whole matrix of similarities and computes parts
of it twice instead. The peer, pytorch-metric-learning, makes a row of all pairs for each pair in its
NT-Xent, so that its memory grows with the cube of the batch: it is timed up to batch 256."""

DIM, TEMPERATURE, BIAS, MARGIN = 128, 0.07, -10.0, 1.0
BATCHES, LARGEST_CUBE, PAIRED = (64, 256, 1024, 4096), 256, "pytorch-metric-learning"
MEMORY_BATCH, CHUNK = 8192, 256


def plain_info_nce(a: Tensor, b: Tensor) -> Tensor:
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    s = a @ b.T / TEMPERATURE
    partner = torch.arange(len(a))
    return (F.cross_entropy(s, partner) + F.cross_entropy(s.T, partner)) / 2


def two_products_info_nce(a: Tensor, b: Tensor) -> Tensor:
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
    return torch.where(match, distance, (MARGIN - distance).clamp(min=0)).mean()


def cdist_margin(a: Tensor, b: Tensor) -> Tensor:
    match, distance = torch.eye(len(a), dtype=torch.bool), torch.cdist(a, b)
    return torch.where(match, distance, (MARGIN - distance).clamp(min=0)).mean()


def library_margin(a: Tensor, b: Tensor) -> Tensor:
    return margin_contrastive(a, b, torch.eye(len(a), dtype=torch.bool), margin=MARGIN, squared=False)


def peer_margin(a: Tensor, b: Tensor) -> Tensor:
    distance, labels = LpDistance(normalize_embeddings=False), torch.arange(len(a))
    loss = ContrastiveLoss(neg_margin=MARGIN, distance=distance, reducer=SumReducer())
    # its mean would be that of the true pairs plus that of the others
    return loss(a, labels, ref_emb=b, ref_labels=labels.clone()) / len(a) ** 2


def plain_sigmoid(a: Tensor, b: Tensor) -> Tensor:
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / TEMPERATURE + BIAS
    truth = torch.eye(len(a))
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(a)


def plain_kl(a: Tensor, b: Tensor) -> Tensor:
    return F.kl_div(b.log_softmax(1), a.log_softmax(1), log_target=True, reduction="batchmean")


def plain_js(a: Tensor, b: Tensor) -> Tensor:
    p, q = a.softmax(1), b.softmax(1)
    log_m = ((p + q) / 2).log()
    there, back = (F.kl_div(log_m, x, reduction="batchmean") for x in (p, q))
    return (there + back) / 2


TABLES = {
    "InfoNCE": {
        "plain": plain_info_nce,
        "mmtutor": lambda a, b: info_nce(a, b, TEMPERATURE),
        "mmtutor, chunked": chunked_info_nce,
        "two products": two_products_info_nce,
        PAIRED: peer_info_nce,
    },
    "Margin loss": {
        "plain": plain_margin,
        "mmtutor": library_margin,
        "cdist": cdist_margin,
        PAIRED: peer_margin,
    },
    "Sigmoid loss": {
        "plain": plain_sigmoid,
        "mmtutor": lambda a, b: sigmoid_contrastive(a, b, TEMPERATURE, BIAS),
    },
    "KL divergence, from logits": {
        "plain": plain_kl,
        "mmtutor": lambda a, b: kl_from_logits(a, b).mean(),
    },
    "JS divergence, from logits": {
        "plain": plain_js,
        "mmtutor": lambda a, b: js_from_logits(a, b).mean(),
    },
}


def embeddings(batch: int) -> tuple[Tensor, Tensor]:
    """Unit vectors with distances on both sides of the margin; partners are near, as after training."""
    generator = torch.Generator().manual_seed(SEED)
    common = torch.randn(1, DIM, generator=generator)
    a = common + torch.randn(batch, DIM, generator=generator)
    b = a + 0.5 * torch.randn(batch, DIM, generator=generator)
    return F.normalize(a, dim=1).requires_grad_(), F.normalize(b, dim=1).requires_grad_()


def time_rows(seconds: float = SECONDS) -> list[dict]:
    """Time every loss at every batch size."""
    rows = []
    for table, versions in TABLES.items():
        for batch in BATCHES:
            left_out = PAIRED if table == "InfoNCE" and batch > LARGEST_CUBE else ""
            runs = {
                name: there_and_back(loss, *embeddings(batch))
                for name, loss in versions.items()
                if name != left_out
            }
            rivals = {"mmtutor": [name for name in runs if not name.startswith("mmtutor")]}
            rows.append(compare(table, f"batch {batch}", runs, "plain", rivals, seconds))
    return rows


def memory_of(name: str) -> float:
    """Return by how many MiB one forward and backward pass raises the peak memory of this process."""
    torch.set_num_threads(1)
    loss: Callable = TABLES["InfoNCE"][name]
    there_and_back(loss, *embeddings(2))()
    return growth(there_and_back(loss, *embeddings(MEMORY_BATCH)))


def rows(seconds: float = SECONDS) -> list[dict]:
    """Return all figures of this file."""
    names = ("plain", "mmtutor", "mmtutor, chunked", "two products")
    found = memory("bench.losses.memory_of", {name: (name,) for name in names})
    rivals = {"mmtutor": ["plain", "two products"], "mmtutor, chunked": ["plain", "two products"]}
    peak = row("InfoNCE, peak memory", f"batch {MEMORY_BATCH}", "MiB", "plain", rivals, found)
    return [*time_rows(seconds), peak]


if __name__ == "__main__":
    from bench._table import show

    show(rows())
