"""What chapter 07 measures: retrieval, where points lie, how far the answers of two classifiers match."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from mmtutor.contrastive import cosine, unit
from mmtutor.matching import divergence_of_means, matching_degree
from mmtutor.metrics import hits_at_k, median_rank

from .fusion_tasks import Examples

NEIGHBOURS = 10  # that judge whether two clouds of points can be told apart


def retrieval(similarity: Tensor, data: Examples) -> tuple[dict, dict]:
    """Return how often, and at which rank, an item's other modality is found among those of all items.

    Returns:
        Figures, and the outcome of each item. ``"R@1"`` and ``"R@10"``, means of both directions, and
        of each ``"fourier→pixels R@1"``, ``"… R@10"`` and ``"… median rank"``. ``"class R@1"``: the nearest
        is of the right class. By chance they are 1 and 10 in ``"candidates"``, and ``"class R@1 by chance"``.
    """
    a, b = data.x
    same = data.y[:, None] == data.y
    outcomes, figures = {}, {"candidates": len(data.y), "class R@1 by chance": same.double().mean()}
    both = {f"{a}→{b}": similarity, f"{b}→{a}": similarity.T}
    for direction, s in both.items():
        outcomes |= {f"{direction} R@{k}": hits_at_k(s, k) for k in (1, 10)}
        outcomes[f"{direction} class R@1"] = hits_at_k(s, 1, same)
        figures[f"{direction} median rank"] = median_rank(s)
    for name in ("R@1", "R@10", "class R@1"):
        outcomes[name] = sum(outcomes[f"{direction} {name}"] for direction in both) / 2
    return figures, outcomes


def geometry(points: list[Tensor], others: list[Tensor]) -> dict[str, float]:
    r"""Return where the points lie.

    Returns:
        ``"cosine, true pairs"`` and ``"cosine, false pairs"``; ``"variance"`` of unit points,
        :math:`1-\lVert\bar z\rVert^2`, the mean of both modalities: 0 if all things are one point, 1 if they
        lie evenly; ``"dimensions"`` that they use, :math:`\exp H` of the shares of variance;
        ``"told apart"``: how often a point's nearest ``others`` tell from which modality it comes, by chance
        half.
    """
    unit_points = [unit(z) for z in points]
    s = cosine(*points)
    own = torch.eye(len(s), dtype=torch.bool)
    figures = {"cosine, true pairs": s[own].mean(), "cosine, false pairs": s[~own].mean()}
    figures["variance"] = np.mean([1 - z.mean(0).square().sum() for z in unit_points])
    shares = [torch.linalg.svdvals(z - z.mean(0)).square() for z in unit_points]
    figures["dimensions"] = np.mean([torch.special.entr(v / v.sum()).sum().exp() for v in shares])
    judge = KNeighborsClassifier(NEIGHBOURS).fit(*clouds([unit(z) for z in others]))
    figures["told apart"] = judge.score(*clouds(unit_points))
    return figures


def clouds(points: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of all modalities in one array, and the number of each one's modality."""
    return torch.cat(points).numpy(), np.repeat(range(len(points)), [len(z) for z in points])


def named(answers: list[Tensor], y: Tensor) -> Tensor:
    """Return which column is which class, ``(C,)``, so that as many answers as possible are right.

    Without labels a model numbers its classes as it likes. One numbering serves both modalities.
    """
    columns = torch.cat([logits.argmax(1) for logits in answers])
    count = torch.zeros(answers[0].shape[1], answers[0].shape[1])
    count.index_put_((torch.cat([y] * len(answers)), columns), torch.ones(len(columns)), accumulate=True)
    return torch.tensor(linear_sum_assignment(count, maximize=True)[1])


def classification(logits: list[Tensor], data: Examples) -> tuple[dict, dict]:
    """Return how good two classifiers are, each by itself, and how far their answers match.

    Returns:
        Figures, and the outcome of each item. Of each classifier ``"accuracy, fourier"``, and with equal
        weight for each class ``"precision, …"``, ``"recall, …"``, ``"F1, …"``; ``"accuracy, both"`` of the
        mean of the two distributions; ``"agreement"``: how often they answer the same; ``"cosine"``,
        ``"kl"``, ``"js"``: the mean matching degree of true pairs; of these four also what `within_classes`
        returns and, but for agreement, `true_and_false`. ``"divergence of means, js"`` and ``"mean
        divergence, js"`` in nats, and the same for kl.
    """
    y, p = data.y, [z.softmax(1) for z in logits]
    guess = [z.argmax(1) for z in logits]
    figures, outcomes = {}, {}
    for m, found in zip(data.x, guess, strict=True):
        outcomes[f"accuracy, {m}"] = found == y
        of_classes = precision_recall_fscore_support(y, found, average="macro", zero_division=0.0)
        figures |= {
            f"{name}, {m}": v for name, v in zip(("precision", "recall", "F1"), of_classes[:3], strict=True)
        }
    outcomes["accuracy, both"] = sum(p).argmax(1) == y
    outcomes["agreement"] = guess[0] == guess[1]
    agree = (guess[0][:, None] == guess[1]).double()
    figures |= within_classes("agreement", agree, y)
    for kind in ("cosine", "kl", "js"):
        D = degrees(*p, kind)
        outcomes[kind] = D.diagonal()
        figures |= within_classes(kind, D, y) | true_and_false(kind, D, y)
    for kind in ("kl", "js"):
        of_means, mean = divergence_of_means(*p, kind)
        figures |= {f"divergence of means, {kind}": of_means, f"mean divergence, {kind}": mean}
    return figures, outcomes


def true_and_false(kind: str, D: Tensor, y: Tensor) -> dict[str, float]:
    """Return the mean degree of false pairs, of those within a class, and how well degrees tell pairs apart.

    Returns:
        ``"js, false pairs"``, ``"js, false pairs of a class"`` and ``"js, told apart"``: how often a true
        pair has a larger degree than a false one, by chance half.
    """
    own = torch.eye(len(D), dtype=torch.bool)
    same = (y[:, None] == y) & ~own
    return {
        f"{kind}, false pairs": D[~own].mean(),
        f"{kind}, false pairs of a class": D[same].mean(),
        f"{kind}, told apart": roc_auc_score(own.flatten(), D.flatten()),
    }


def within_classes(kind: str, D: Tensor, y: Tensor) -> dict[str, float]:
    """Return what the mean degree could be if answers were dealt out anew among the items of each class.

    Precision, recall and F1 of both classifiers stay exactly what they are.

    Returns:
        ``"js, least"``, ``"js, dealt"`` (the mean over all ways to deal) and ``"js, most"``.
    """
    same = (y[:, None] == y).double()
    return {
        f"{kind}, least": D[range(len(y)), dealt(D, y, most=False)].mean(),
        f"{kind}, dealt": (same * D / same.sum(1)).sum(1).mean(),
        f"{kind}, most": D[range(len(y)), dealt(D, y, most=True)].mean(),
    }


def dealt(D: Tensor, y: Tensor, most: bool) -> Tensor:
    """Return for each item one of its class, ``(N,)``, so that the sum of degrees is largest or least.

    Example:
        >>> D = torch.tensor([[1.0, 0.0, 9.0], [0.0, 1.0, 9.0], [9.0, 9.0, 1.0]])
        >>> dealt(D, torch.tensor([0, 0, 1]), most=False)
        tensor([1, 0, 2])
    """
    partner = torch.empty_like(y)
    for c in y.unique():
        rows = (y == c).nonzero()[:, 0]
        one, other = linear_sum_assignment(D[rows][:, rows], maximize=most)
        partner[rows[one]] = rows[other]
    return partner


def degrees(p: Tensor, q: Tensor, kind: str) -> Tensor:
    """Return the matching degrees of all pairs as a matrix, true pairs on the diagonal, ``(N, N)``."""
    true, false = matching_degree(p, q, kind)
    own = torch.eye(len(p), dtype=torch.bool)
    return torch.empty(own.shape, dtype=true.dtype).masked_scatter(own, true).masked_scatter(~own, false)
