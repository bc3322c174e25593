"""Chapter 10's figures: where models look, what they need, and whether modalities agree."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mmtutor.cross_modal import CoAttention, CrossModalTransformer, masked_mean
from mmtutor.matching import js_divergence

from .cross_modal_models import Answering, NearestPart
from .cross_modal_tasks import Asked

WHITE = 1.0
Importance = Float[Tensor, "batch questions parts"]


def blank(parts: Tensor) -> Tensor:
    """Return what stands for nothing: white pictures, or clips that are white and never change.

    Example:
        >>> blank(torch.zeros(1, 3, 4, 6, 32, 32))[0, 0, 0, :, 0, 0]
        tensor([1., 1., 1., 0., 0., 0.])
    """
    nothing = torch.full_like(parts, WHITE)
    nothing[..., 3:, :, :] = 0
    return nothing


def log_p(model: Answering, parts: Tensor, words: Tensor, answer: Tensor) -> Float[Tensor, "batch questions"]:
    """Return the log-probability of an answer to each question."""
    return model(parts, words)[0].log_softmax(2).gather(2, answer[..., None])[..., 0]


@torch.no_grad()
def occlusion(model: Answering, parts: Tensor, words: Tensor, answer: Tensor) -> Importance:
    """Return what an answer's log-probability loses without each part."""
    whole, nothing = log_p(model, parts, words, answer), blank(parts)
    lost = []
    for p in range(parts.shape[1]):
        without = parts.clone()
        without[:, p] = nothing[:, p]
        lost.append(whole - log_p(model, without, words, answer))
    return torch.stack(lost, 2)


def gradient(model: Answering, parts: Tensor, words: Tensor, answer: Tensor) -> Importance:
    r"""Return the first-order guess of `occlusion`, :math:`\sum_{i\in p}\partial_i\log p\,(x_i-x^0_i)`."""
    x, found = parts.clone().requires_grad_(), []
    change = parts - blank(parts)
    for log_p_q in log_p(model, x, words, answer).unbind(1):
        (slope,) = torch.autograd.grad(log_p_q.sum(), x, retain_graph=True)
        found.append((slope * change).flatten(2).sum(2))
    return torch.stack(found, 1)


def evidence(model: Answering, seen: Asked) -> dict[str, Importance]:
    """Return how much each part matters for the answer given, by attention, occlusion and gradients."""
    logits, weights = model.answer(seen)
    where = logits.device
    given, parts, words = logits.argmax(2), seen.parts.to(where), seen.words.to(where)
    found = {name: way(model, parts, words, given) for name, way in WAYS.items()}
    if weights is not None:
        weights = weights.detach().mean(2).sum(3)  # of all heads; on the tokens of each part together
        found = {"attention": weights / weights.sum(2, keepdim=True).clamp(min=1e-9)} | found
    return {name: values.detach().cpu() for name, values in found.items()}


WAYS: dict[str, Callable] = {"occlusion": occlusion, "gradient": gradient}


@torch.no_grad()
def answer_from_one(model: Answering, seen: Asked, chosen: Tensor) -> Tensor:
    """Return whether the answer stays what it was if all parts but the chosen one are blank, ``(B, Q)``."""
    where = next(model.parameters()).device
    parts, words, nothing = seen.parts.to(where), seen.words.to(where), blank(seen.parts).to(where)
    before, same = model(parts, words)[0].argmax(2), []
    for q in range(words.shape[1]):
        only, rows = nothing.clone(), torch.arange(len(parts))
        only[rows, chosen[:, q]] = parts[rows, chosen[:, q]]
        same.append(model(only, words[:, q : q + 1])[0].argmax(2)[:, 0] == before[:, q])
    return torch.stack(same, 1).cpu()


def pointing(model: Answering, seen: Asked, right: Tensor) -> dict[str, float]:
    """Return how well each way points at the part that is asked about.

    Returns:
        ``"points, occlusion"``: how often the part that matters most is the one asked about; ``"points if
        right, occlusion"``: among right answers; ``"alone, occlusion"``: how often the answer stays the same
        if that part is all there is, and, to compare, ``"alone, asked"`` and ``"alone, chance"`` for the part
        asked about and one by lot. Of attention also ``"share"``, its weight on the part asked about, and
        ``"share if right"``.
    """
    said, place = evidence(model, seen), torch.arange(seen.words.shape[1])
    found, chosen = {}, {way: values.argmax(2) for way, values in said.items()}
    for way, most in chosen.items():
        points = (most == place).double()
        found[f"points, {way}"] = points.mean().item()
        if right.any():
            found[f"points if right, {way}"] = points[right].mean().item()
    if "attention" in said:
        share = said["attention"][:, place, place]
        found["share"] = share.mean().item()
        if right.any():
            found["share if right"] = share[right].mean().item()
    if not isinstance(model, NearestPart):
        lot = torch.randint(seen.parts.shape[1], right.shape, generator=torch.Generator().manual_seed(0))
        for way, most in (chosen | {"asked": place.expand_as(right), "chance": lot}).items():
            found[f"alone, {way}"] = answer_from_one(model, seen, most).double().mean().item()
    return found


@torch.no_grad()
def best_head(model: Answering, learnt: Asked, seen: Asked) -> dict[str, float]:
    """Return the weight on the part asked about of that head that has most of it on training things."""
    shares = []
    for asked in (learnt, seen):
        weights, place = model.answer(asked)[1].sum(4), torch.arange(asked.words.shape[1])
        weights = weights / weights.sum(3, keepdim=True).clamp(min=1e-9)
        shares.append(weights[:, place, :, place].mean((0, 1)))
    return {"share, best head": shares[1][shares[0].argmax()].item()}


@torch.no_grad()
def flat(model: Answering, learnt: Asked, seen: Asked) -> dict[str, float]:
    """Return accuracies of the trained model with all weights alike: of words that ask the image, or of both.

    ``"flat"`` and ``"flat, known things"``, and where the image asks the words too ``"all flat"`` and so on.
    """
    found, without = {}, copy.deepcopy(model)
    for name, asks in (("flat", "text"), ("all flat", "image")):
        without.joined.flatten(asks)
        for more, asked in (("", seen), (", known things", learnt)):
            right = without.answer(asked)[0].cpu().argmax(2) == asked.answer
            found[name + more] = right.double().mean().item()
    return found


# Do two modalities agree?


@torch.no_grad()
def points(model: Answering, seen: Asked) -> dict[str, dict[str, np.ndarray]]:
    """Return each modality's point before it knows of the other, and after, where there is an after.

    Before: the mean of its tokens. After: of a `CrossModalTransformer` the mean of its tokens again, which
    have read the other's, and ``"untrained"`` the same of one that has learnt nothing; of `CoAttention` the
    context, its own tokens weighted by the other's.
    """
    where = next(model.parameters()).device
    tokens, valid = model.tokens(seen.parts.to(where), seen.words.to(where))
    stages = {"before": {m: masked_mean(x, valid[m]) for m, x in tokens.items()}}
    join = model.joined.join
    if isinstance(join, CrossModalTransformer):
        torch.manual_seed(0)
        fresh = CrossModalTransformer(join.dim, join.modalities).to(where).eval()
        for name, reader in (("after", join), ("untrained", fresh)):
            stages[name] = {m: masked_mean(x, valid[m]) for m, x in reader(tokens, valid)[0].items()}
    elif isinstance(join, CoAttention):
        weights = join(tokens, valid)[1]
        stages["after"] = {m: torch.einsum("bl,bld->bd", weights[m], x) for m, x in tokens.items()}
    return {name: {m: x.cpu().numpy() for m, x in stage.items()} for name, stage in stages.items()}


def swapped(seen: Asked) -> Asked:
    """Return the same pictures, each with the name of the one before it."""
    return Asked(seen.parts, seen.words.roll(1, 0), seen.answer, seen.item, seen.texts[-1:] + seen.texts[:-1])


def agreement(model: Answering, learnt: Asked, seen: Asked) -> dict[str, float]:
    """Return how often what the modalities say, by a linear classifier of each, differs.

    Each classifier learns from training things, in the state it is later asked in. "Swapped" are things with
    the name of a thing of another group: there the modalities *should* differ.

    Returns:
        For each stage of `points`: ``"disagree, before"``, ``"disagree, before, swapped"``, ``"disagree,
        before, by lot"``: the same if within each group answers were dealt out anew, ``"right, before,
        image"`` and so on, and ``"found, before"``: the area under the curve of telling swapped from whole
        things by how far the two answers are apart (Jensen and Shannon).
    """
    wrong = swapped(seen)
    apart = (seen.answer != seen.answer.roll(1, 0))[:, 0].numpy()
    y, figures = learnt.answer[:, 0].numpy(), {}
    states = {name: points(model, x) for name, x in (("learnt", learnt), ("whole", seen), ("swapped", wrong))}
    for stage in states["learnt"]:
        p = {"whole": {}, "swapped": {}}
        for m, x in states["learnt"][stage].items():
            line = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300)).fit(x, y)
            for name in p:
                p[name][m] = line.predict_proba(states[name][stage][m])
            told = line.classes_[p["whole"][m].argmax(1)]
            figures[f"right, {stage}, {m}"] = np.mean(told == seen.answer[:, 0].numpy())
        differ = {name: q["image"].argmax(1) != q["text"].argmax(1) for name, q in p.items()}
        figures[f"disagree, {stage}"] = differ["whole"].mean()
        figures[f"disagree, {stage}, swapped"] = differ["swapped"][apart].mean()
        told = {m: q.argmax(1) for m, q in p["whole"].items()}
        figures[f"disagree, {stage}, by lot"] = 1 - by_lot(told, seen.answer[:, 0].numpy())
        far = {name: js_divergence(*map(torch.tensor, q.values())).numpy() for name, q in p.items()}
        both = np.concatenate([far["swapped"][apart], far["whole"]])
        figures[f"found, {stage}"] = roc_auc_score(np.arange(len(both)) < apart.sum(), both)
    return figures


def by_lot(told: dict[str, np.ndarray], y: np.ndarray) -> float:
    """Return how often two answers agree if each is drawn anew from those given to things of one class.

    Example:
        >>> by_lot({"a": np.array([0, 0, 1, 1]), "b": np.array([0, 1, 1, 1])}, np.array([0, 0, 1, 1]))
        0.75
    """
    a, b = told.values()
    same = [np.mean(a[y == c][:, None] == b[y == c]) * np.mean(y == c) for c in np.unique(y)]
    return float(np.sum(same))
