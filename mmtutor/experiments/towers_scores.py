"""What chapter 08 measures: who is right under which damage, and whether a gate may be believed."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from mmtutor.ledger import Figures
from mmtutor.towers import crf_marginals, mean_field

from .towers_tasks import VERSIONS, Damaged, Examples

BINS = 10  # of a marginal


def trust(marginals: Tensor, batch: Damaged) -> dict[str, float]:
    """Return the mean marginal of what is intact, and of what is corrupted if anything is."""
    parts = {"intact": batch.data.valid & ~batch.corrupted, "corrupted": batch.corrupted}
    return {name: marginals[which].mean().item() for name, which in parts.items() if which.any()}


def accuracies(found: dict, data: Examples) -> Figures:
    """Return accuracies of what was right in each version: by item, and by which modality was damaged."""
    figures, outcomes = {}, {name: hit for name, hit in found.items() if isinstance(name, str)}
    for kind in VERSIONS:
        by_modality = torch.full(data.valid.shape, torch.nan, dtype=torch.double)
        for k, m in enumerate(data.x):
            by_modality[data.valid[:, k], k] = found[kind, m]
            figures[f"accuracy, {kind}, {m}"] = found[kind, m].mean()
        outcomes[kind] = by_modality.nanmean(1)  # over the modalities that the item has
    return Figures(
        figures, outcomes={f"accuracy, {name}": hit for name, hit in outcomes.items()}, groups=data.family
    )


def gate_figures(model: nn.Module, versions: dict, marginals: dict) -> dict[str, float]:
    """Return whether marginals tell what is corrupted, and whether they may be believed.

    Returns:
        ``"marginal, clean"``; ``"marginal, swapped"`` of the damaged modality and ``"marginal, beside
        swapped"`` of the others; ``"found, swapped"``: how often the damaged modality is the least trusted;
        ``"AUC, swapped"``: whether its marginal is below that of a modality of a clean item. On items damaged
        as in training ``"AUC, gate"``, ``"marginal, intact"``, ``"marginal, corrupted"``, calibration
        (see `reliability`), and the error of mean field. ``"w, a × b"`` are couplings, ``"marginal, intact
        @ 30"`` what the gate said in training.
    """
    clean = marginals["clean"][versions["clean"].data.valid]
    figures = {"marginal, clean": clean.mean()}
    for kind in VERSIONS:
        if kind == "absent":
            continue
        ones = [(versions[kind, m], marginals[kind, m]) for m in versions["clean"].data.x]
        damaged = torch.cat([p[d.corrupted] for d, p in ones])
        beside = torch.cat([p[d.data.valid & ~d.corrupted] for d, p in ones])
        figures[f"marginal, {kind}"], figures[f"marginal, beside {kind}"] = damaged.mean(), beside.mean()
        figures[f"AUC, {kind}"] = auc(damaged, clean)
        figures[f"found, {kind}"] = torch.cat([least_trusted(d, p) for d, p in ones]).mean()
    d, p = versions["mixed"], marginals["mixed"]
    intact = ~d.corrupted[d.data.valid]
    figures["AUC, gate"] = auc(p[d.corrupted], p[d.data.valid & ~d.corrupted])
    figures |= {f"marginal, {name}": value for name, value in trust(p, d).items()}
    figures |= reliability(p[d.data.valid], intact)
    figures |= mean_field_error(model, d)
    names = model.gate.modalities
    for k, (a, b) in enumerate(model.gate.pairs.T.tolist()):
        figures[f"w, {names[a]} × {names[b]}"] = model.gate.coupling[k].item()
    for step, seen in model.looks.items():
        figures |= {f"marginal, {name} @ {step}": value for name, value in seen.items()}
    return figures


def auc(corrupted: Tensor, intact: Tensor) -> float:
    """Return how often what is corrupted has the smaller marginal of the two; of equals every other time.

    Example:
        >>> auc(torch.tensor([0.1, 0.5]), torch.tensor([0.5, 0.9]))
        0.875
    """
    is_intact = np.r_[np.zeros(len(corrupted)), np.ones(len(intact))]
    return float(roc_auc_score(is_intact, torch.cat([corrupted, intact]).numpy()))


def least_trusted(damaged: Damaged, marginals: Tensor) -> Tensor:
    """Return whether the one corrupted modality is the least trusted, ``(N,)``; of equals, its share."""
    p = torch.where(damaged.data.valid, marginals, 2)
    least = p == p.amin(1, keepdim=True)
    return (least & damaged.corrupted).any(1) / least.sum(1).double()


def reliability(p: Tensor, intact: Tensor) -> dict[str, float]:
    r"""Return how often a modality is intact where its marginal says so.

    .. math:: \mathrm{ECE}=\sum_b\frac{n_b}n\,|\text{share intact}_b-\text{mean marginal}_b|

    Returns:
        ``"ece, gate"``, and for each bin that has entries ``"reliable, share @ 3"``, ``"reliable, confidence
        @ 3"`` and ``"reliable, items @ 3"``.
    """
    place, figures, error = (p * BINS).long().clamp(max=BINS - 1), {}, 0.0
    for b in place.unique().tolist():
        here = place == b
        share, confidence = intact[here].double().mean().item(), p[here].mean().item()
        figures[f"reliable, share @ {b}"], figures[f"reliable, confidence @ {b}"] = share, confidence
        figures[f"reliable, items @ {b}"] = here.sum()
        error += here.double().mean().item() * abs(share - confidence)
    return {"ece, gate": error, **figures}


@torch.no_grad()
def mean_field_error(model: nn.Module, damaged: Damaged) -> dict[str, float]:
    """Return how far mean field is from the exact marginals, in the mean and at most."""
    where = next(model.parameters()).device
    valid = damaged.data.valid.to(where)
    h = model.towers.encode({m: x.to(where) for m, x in damaged.data.x.items()}, valid)
    potentials = model.gate.potentials(h, valid)
    error = (mean_field(*potentials) - crf_marginals(*potentials)).abs()[valid]
    return {"mean field, error": error.mean().item(), "mean field, largest error": error.max().item()}


def interaction_figures(gates: dict) -> dict[str, float]:
    """Return how open interactions are between what belongs together, and if the taker is another item's.

    Returns:
        ``"interaction, agreeing"`` and ``"interaction, disagreeing"``; ``"closed, agreeing"`` and ``"closed,
        disagreeing"``, the share of gates that are exactly 0.
    """
    takers = gates["clean"]
    parts = {
        "agreeing": torch.cat([*takers.values()]),
        "disagreeing": torch.cat([gates["swapped", m][m] for m in takers]),
    }
    figures = {f"interaction, {name}": r.mean() for name, r in parts.items()}
    return figures | {f"closed, {name}": (r == 0).double().mean() for name, r in parts.items()}
