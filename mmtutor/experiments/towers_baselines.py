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
from .towers_tasks import RATE, damage

# Chosen with the validation items, of 0.0003, 0.003 and 0.03
C = {"digits": 0.003, "things": 0.003}
COPIES = 4  # of the training items, each damaged in its own way
POOLS = ("mean", "capped", "entropy", "agreement", "doubted", "linear")


def pool(log_p: Tensor, trust: Tensor, kind: str) -> Tensor:
    r"""Join the answers of several heads to one, :math:`\log p\propto\sum_m\alpha_m\log p_m`.

    Args:
        log_p: of each modality's head, ``(B, M, C)``.
        trust: how far each modality is trusted, ``(B, M)``; 1 without a gate, 0 for what is absent.
        kind: what :math:`\alpha_m` is in proportion to. ``"mean"``: the trust. ``"capped"``: the trust, after
            `cap`. ``"entropy"``: what is missing of the largest entropy, :math:`\log C-H(p_m)`.
            ``"agreement"``: 1 if :math:`p_m` has the answer of the majority (of equals, the surer), else 0.
            ``"doubted"``: 1, of :math:`tp_m+(1-t)/C` in place of :math:`p_m`, with the trust :math:`t`.
            ``"linear"``: the trust, of probabilities in place of their logarithms,
            :math:`p=\sum_m\alpha_mp_m`.

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
    if kind in ("mean", "capped", "linear"):
        alpha, log_p = trust, cap(log_p) if kind == "capped" else log_p
    elif kind == "doubted":
        alpha, log_p = valid.to(p.dtype), torch.lerp(torch.full_like(p, 1 / classes), p, trust[..., None])
        log_p = log_p.clamp(min=torch.finfo(p.dtype).tiny).log()
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
    alpha = alpha / alpha.sum(1, keepdim=True).clamp(min=1e-12)
    if kind == "linear":
        mixed = torch.where(valid[..., None], alpha[..., None] * p, 0).sum(1)
        return mixed.clamp(min=torch.finfo(p.dtype).tiny).log().log_softmax(1)
    return logarithmic_pool(log_p, alpha)


def cap(log_p: Tensor, foreign: float = RATE) -> Tensor:
    r"""Limit how far an answer can lead, as if its modality might be another item's, whatever it shows.

    .. math:: \bar p(c)=(1-\epsilon)\,p(c)+\frac\epsilon{C-1}\,(1-p(c))

    Args:
        log_p: what the modality shows, ``(..., C)``.
        foreign: :math:`\epsilon`, how often it is that of an item of another class.

    Returns:
        :math:`\log\bar p`; no class leads another by more than :math:`\log\frac{(1-\epsilon)(C-1)}\epsilon`.

    Example:
        >>> cap(torch.tensor([1.0, 0.0, 0.0]).log()).exp()
        tensor([0.9000, 0.0500, 0.0500])
    """
    p = log_p.exp()
    return ((1 - foreign) * p + foreign / (p.shape[-1] - 1) * (1 - p)).log()


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
