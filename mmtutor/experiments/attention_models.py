"""Chapter 09's readers of rows of digits: one for all kinds of attention, and two without any."""

import torch
from torch import Tensor, nn

from mmtutor.attention import (
    AdditiveAttention,
    Attention,
    ContentAttention,
    DotAttention,
    HybridAttention,
    LocalAttention,
    LocationAttention,
    ScaledDotAttention,
)
from mmtutor.seq2seq import sinusoids

from .attention_tasks import LONGEST, TAGS, Rows


class Everywhere(Attention):
    """No attention: the same weight for all that is there."""

    def scores(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Tensor:
        return torch.zeros_like(keys[..., 0])


class ProjectedDot(ScaledDotAttention):
    r"""The scaled product of maps of query and key, one head of a Transformer.

    .. math:: e_j=(W_qq)^\top W_kk_j/\sqrt D
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.W_q, self.W_k = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def scores(self, query: Tensor, keys: Tensor, state: Tensor | None) -> Tensor:
        return super().scores(self.W_q(query), self.W_k(keys), state)


KINDS = {
    "mean": Everywhere,
    "additive": AdditiveAttention,
    "cosine": ContentAttention,
    "dot": DotAttention,
    "scaled dot": ScaledDotAttention,
    "projected dot": ProjectedDot,
    "location": lambda dim: LocationAttention(dim, LONGEST),
    "local": LocalAttention,
    "hybrid": HybridAttention,
}


class Reader(nn.Module):
    r"""Keys are made of digits, values of their tags, the query of what is asked; attention between them.

    .. math:: c_t=\textstyle\sum_j\alpha_{tj}v_j,\qquad \mathrm{logits}_t=Wc_t+b,\qquad
              q_{t+1}=\mathrm{GRU}(c_t,q_t)

    One answer is made of one context and of nothing else: the query can only say where to look.

    Args:
        kind: a key of ``KINDS``.
        question: one of ``attention_tasks.QUESTIONS``.
        dim: width of queries, keys and values.
        placed: add :func:`~mmtutor.seq2seq.sinusoids` to the keys.

    Example:
        >>> from mmtutor.experiments.attention_tasks import rows
        >>> from mmtutor.experiments.fusion_tasks import examples
        >>> seen = rows("reading", examples("digits", "test"), 2, torch.Generator().manual_seed(0))
        >>> logits, weights = Reader("hybrid", "reading", dim=8)(seen)
        >>> logits.shape, weights.shape
        (torch.Size([2, 10, 10]), torch.Size([2, 10, 10]))
    """

    def __init__(self, kind: str, question: str, dim: int, placed: bool = False):
        super().__init__()
        self.question, self.placed = question, placed
        self.digit = nn.Sequential(nn.Linear(64, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.tag, self.place = nn.Embedding(TAGS, dim), nn.Embedding(LONGEST, dim)
        self.start = nn.Parameter(torch.zeros(dim))
        self.attention, self.turn = KINDS[kind](dim), nn.GRUCell(dim, dim)
        self.head = nn.Linear(dim, TAGS)

    def forward(self, seen: Rows) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, T, TAGS)`` and weights ``(B, T, L)``."""
        keys, values = self.digit(seen.digits), self.tag(seen.tags)
        if self.placed:
            keys = keys + sinusoids(keys.shape[1], keys.shape[2]).to(keys)
        query, weights, turns = self.query(seen), None, []
        for _ in range(seen.answer.shape[1]):
            context, weights = self.attention(query, keys, values, seen.valid, weights)
            turns.append((self.head(context), weights))
            query = self.turn(context, query)
        logits, weights = zip(*turns, strict=True)
        return torch.stack(logits, 1), torch.stack(weights, 1)

    def query(self, seen: Rows) -> Tensor:
        """Return the first query, ``(B, D)``."""
        if self.question == "reading":
            return self.start.expand(len(seen.tags), -1)
        return self.place(seen.asked) if self.question == "place" else self.digit(seen.asked)


class OneVector(nn.Module):
    """A GRU reads the row, question last, into one vector; a second GRU writes the answers from it.

    It has no attention, so weights are None. It is wider than `Reader`, since all that is asked must fit in.

    Args:
        question: one of ``attention_tasks.QUESTIONS``.
        dim: as of `Reader`, whose parts make digits, tags and questions.
    """

    WIDER = 4  # times as wide as the reader's vectors

    def __init__(self, question: str, dim: int):
        super().__init__()
        self.parts, width = Reader("mean", question, dim), self.WIDER * dim
        self.read, self.ask = nn.GRU(2 * dim, width, batch_first=True), nn.Linear(width + dim, width)
        self.write, self.head = nn.GRU(dim, width, batch_first=True), nn.Linear(width, TAGS)

    def forward(self, seen: Rows) -> tuple[Tensor, None]:
        row = torch.cat([self.parts.digit(seen.digits), self.parts.tag(seen.tags)], 2)
        states, last = self.read(row)[0], seen.valid.sum(1) - 1
        vector = states[torch.arange(len(row)), last]  # after the last real digit
        vector = self.ask(torch.cat([vector, self.parts.query(seen)], 1)).tanh()
        turns = self.parts.start.expand(len(row), seen.answer.shape[1], -1)
        return self.head(self.write(turns, vector[None])[0]), None
