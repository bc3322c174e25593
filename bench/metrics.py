"""The metrics beside plain versions, torchmetrics, scikit-learn and SciPy: time.

``make bench``, or ``python -m bench.metrics``.
"""

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor

from bench._measure import SECONDS, SEED, compare
from mmtutor.fusion import expected_calibration_error
from mmtutor.metrics import median_rank, recall_at_k

TITLE = "Metrics"
ABOUT = """\
Similarities of all queries with all candidates; the right candidate of a query is its partner. *Plain*
is what one writes first, with `topk` or `argsort`. Ours also counts ties fairly and refuses NaN, which
the plain version does not. torchmetrics takes one query at a time."""

SIZES, K, CLASSES, BINS = (200, 1000), 10, 10, 15
PEER = "torchmetrics"


def plain_recall(similarity: Tensor) -> float:
    found = similarity.topk(K).indices == torch.arange(len(similarity))[:, None]
    return found.any(1).double().mean().item()


def peer_recall(similarity: Tensor) -> float:
    from torchmetrics.functional.retrieval import retrieval_recall  # once mmtutor has mended torchvision

    relevant = torch.eye(len(similarity), dtype=torch.bool)
    pairs = zip(similarity, relevant, strict=True)
    return torch.stack([retrieval_recall(s, y, top_k=K) for s, y in pairs]).mean().item()


def sklearn_recall(similarity: Tensor) -> float:
    return top_k_accuracy_score(np.arange(len(similarity)), similarity.numpy(), k=K)


def plain_rank(similarity: Tensor) -> float:
    order = similarity.argsort(1, descending=True)
    place = (order == torch.arange(len(order))[:, None]).int().argmax(1) + 1
    return place.double().quantile(0.5).item()


def scipy_rank(similarity: Tensor) -> float:
    return float(np.median(rankdata(-similarity.numpy(), axis=1).diagonal()))


def peer_rank(similarity: Tensor) -> float:
    from torchmetrics.functional.retrieval import retrieval_reciprocal_rank

    relevant = torch.eye(len(similarity), dtype=torch.bool)
    pairs = zip(similarity, relevant, strict=True)
    ranks = torch.stack([1 / retrieval_reciprocal_rank(s, y) for s, y in pairs])
    return ranks.double().quantile(0.5).item()


def plain_calibration(p: Tensor, labels: Tensor) -> float:
    confidence, answer = p.max(1)
    place, error = (confidence * BINS).ceil(), 0.0
    for b in range(1, BINS + 1):
        inside = place == b
        if inside.any():
            gap = confidence[inside].mean() - (answer[inside] == labels[inside]).float().mean()
            error += inside.float().mean().item() * abs(gap.item())
    return error


def peer_calibration(p: Tensor, labels: Tensor) -> float:
    from torchmetrics.functional.classification import multiclass_calibration_error

    return multiclass_calibration_error(p, labels, num_classes=CLASSES, n_bins=BINS).item()


TABLES = {
    f"Recall at {K}": {
        "plain": plain_recall,
        "mmtutor": lambda similarity: recall_at_k(similarity, K),
        "scikit-learn": sklearn_recall,
        PEER: peer_recall,
    },
    "Median rank": {"plain": plain_rank, "mmtutor": median_rank, "SciPy": scipy_rank, PEER: peer_rank},
    "Expected calibration error": {
        "plain": plain_calibration,
        "mmtutor": lambda p, labels: expected_calibration_error(p, labels, BINS),
        PEER: peer_calibration,
    },
}


def inputs(table: str, size: int) -> tuple[str, tuple[Tensor, ...]]:
    """Return the name of a case and what its versions are called with."""
    generator = torch.Generator().manual_seed(SEED)
    if "calibration" in table:
        items = 10 * size
        p = torch.randn(items, CLASSES, generator=generator).mul(2).softmax(1)
        return f"{items} items, {CLASSES} classes", (p, torch.multinomial(p, 1, generator=generator)[:, 0])
    # positive, because torchmetrics leaves out what scores 0 or less
    scores = torch.rand(size, size, generator=generator).double() + 1e-3
    return f"{size} × {size}", (scores + 0.9 * torch.eye(size) * torch.rand(size, generator=generator),)


def rows(seconds: float = SECONDS) -> list[dict]:
    """Return all figures of this file."""
    found = []
    for table, versions in TABLES.items():
        for size in SIZES:
            case, given = inputs(table, size)
            runs = {
                name: lambda metric=metric, given=given: metric(*given) for name, metric in versions.items()
            }
            rivals = {"mmtutor": [name for name in runs if name != "mmtutor"]}
            found.append(compare(table, case, runs, "plain", rivals, seconds))
    return found


if __name__ == "__main__":
    from bench._table import show

    show(rows())
