"""Baselines of chapter 08: pools of separate answers, and logistic regression."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mmtutor.fusion import logarithmic_pool

from .fusion_baselines import edge_statistics
from .fusion_tasks import LETTERS, Examples
from .towers_tasks import damage

# Chosen with the validation items, of 0.0003, 0.003 and 0.03
C = {"digits": 0.003, "things": 0.003}
COPIES = 4  # of the training items, each damaged in its own way
POOLS = ("mean", "entropy", "agreement")


def pool(log_p: Tensor, trust: Tensor, kind: str) -> Tensor:
    r"""Join the answers of several heads to one, :math:`\log p\propto\sum_m\alpha_m\log p_m`.

    Args:
        log_p: of each modality's head, ``(B, M, C)``.
        trust: how far each modality is trusted, ``(B, M)``; 1 without a gate, 0 for what is absent.
        kind: what :math:`\alpha_m` is in proportion to. ``"mean"``: the trust. ``"entropy"``: what is missing
            of the largest entropy, :math:`\log C-H(p_m)`. ``"agreement"``: 1 if :math:`p_m` has the answer of
            the majority (of equals, the surer), else 0.

    Returns:
        :math:`\log p`, ``(B, C)``.

    Raises:
        ValueError: for another kind.

    Example:
        >>> log_p = torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.01, 0.99]]]).log()
        >>> everything = torch.ones(1, 3)
        >>> pool(log_p, everything, "mean").argmax(), pool(log_p, everything, "agreement").argmax()
        (tensor(1), tensor(0))
    """
    p, classes, valid = log_p.exp(), log_p.shape[2], trust > 0
    if kind == "mean":
        alpha = trust
    elif kind == "entropy":
        alpha = np.log(classes) + (p * log_p).sum(2)
    elif kind == "agreement":
        answers = log_p.argmax(2)
        votes = F.one_hot(answers, classes) + p / len(valid[0])  # all p together: less than one vote more
        majority = torch.where(valid[..., None], votes, 0).sum(1).argmax(1)
        alpha = (answers == majority[:, None]).to(p.dtype)
    else:
        raise ValueError(f"kind: expected one of {', '.join(POOLS)}; found {kind!r}")
    alpha = torch.where(valid, alpha, 0)
    return logarithmic_pool(log_p, alpha / alpha.sum(1, keepdim=True).clamp(min=1e-12))


def numbers(data: Examples) -> np.ndarray:
    """Return what a linear map is to see of each item, side by side, zeros where a modality is absent.

    Views of digits as they are, the edges of pictures, how often a name has each letter and each pair.
    """
    found = []
    for k, x_m in enumerate(data.x.values()):
        if x_m.dtype == torch.long:
            seen = letter_pairs(x_m)
        elif x_m.ndim == 4:
            seen = torch.cat([torch.tensor(edge_statistics(x)) for x in as_pictures(x_m)], 1)
        else:
            seen = x_m
        found.append(torch.where(data.valid[:, k, None], seen, 0))
    return torch.cat(found, 1).numpy()


def as_pictures(x: Tensor) -> list[Tensor]:
    """Return what has channels of three, ``(N, 3 k, H, W)``, as ``k`` times uint8 ``(N, H, W, 3)``."""
    return [((part + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1) for part in x.split(3, dim=1)]


def letter_pairs(letters: Tensor) -> Tensor:
    """Return how often a name has each pair of neighbouring letters, as log(1 + n), ``(N, 38 * 38)``."""
    size = len(LETTERS) + 1
    pairs = F.pad(letters, (1, 0))[:, :-1] * size + letters
    empty = torch.zeros(len(letters), size * size, device=letters.device)
    return empty.scatter_add(1, pairs, (letters > 0).float()).log1p()


def presence(data: Examples) -> np.ndarray:
    """Return which modalities each item has, and nothing of what they hold."""
    return data.valid.double().numpy()


SEEN = {"linear": numbers, "presence": presence}


class Linear:
    """Logistic regression on what is seen of damaged items.

    Args:
        data: the training examples.
        kind: ``"digits"`` or ``"things"``, for the penalty.
        seed: of the damage.
        seen: a key of ``SEEN``: all modalities side by side, or only which there are.
    """

    def __init__(self, data: Examples, kind: str, seed: int, seen: str = "linear"):
        self.see, generator = SEEN[seen], torch.Generator().manual_seed(seed)
        x = np.concatenate([self.see(damage(data, generator).data) for _ in range(COPIES)])
        line = make_pipeline(StandardScaler(), LogisticRegression(C=C[kind], max_iter=300))
        self.model = line.fit(x, np.tile(data.y.numpy(), COPIES))

    def right(self, data: Examples) -> Tensor:
        """Return whether each answer is right, 0 or 1, ``(N,)``."""
        return torch.tensor(self.model.predict(self.see(data)) == data.y.numpy()).double()
