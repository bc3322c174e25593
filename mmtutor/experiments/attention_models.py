"""Chapter 09's readers of rows of digits: one for all kinds of attention, and one without any."""

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
        asked_by_clock: ask for a place by its row of the sinusoids, not by a vector learnt for its number.
        start: keys, and queries made of digits, start so many times as large as usual.

    Example:
        >>> from mmtutor.experiments.attention_tasks import rows
        >>> from mmtutor.experiments.fusion_tasks import examples
        >>> seen = rows("reading", examples("digits", "test"), 2, torch.Generator().manual_seed(0))
        >>> logits, weights = Reader("hybrid", "reading", dim=8)(seen)
        >>> logits.shape, weights.shape
        (torch.Size([2, 10, 10]), torch.Size([2, 10, 10]))
    """

    def __init__(
        self,
        kind: str,
        question: str,
        dim: int,
        placed: bool = False,
        asked_by_clock: bool = False,
        start: float = 1.0,
    ):
        super().__init__()
        self.question, self.placed, self.asked_by_clock = question, placed, asked_by_clock
        self.digit = nn.Sequential(nn.Linear(64, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.tag, self.place = nn.Embedding(TAGS, dim), nn.Embedding(LONGEST, dim)
        self.start = nn.Parameter(torch.zeros(dim))
        self.attention, self.turn = KINDS[kind](dim), nn.GRUCell(dim, dim)
        self.head = nn.Linear(dim, TAGS)
        with torch.no_grad():
            for parameter in self.digit[2].parameters():
                parameter *= start

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
        if self.question == "content":
            return self.digit(seen.asked)
        return (
            sinusoids(LONGEST, len(self.start))[seen.asked] if self.asked_by_clock else self.place(seen.asked)
        )


class OneVector(nn.Module):
    """A GRU reads the row into one vector; a second GRU writes the answers from it.

    It has no attention, so weights are None. It is wider than `Reader`, since the whole row must fit in.

    Args:
        question: one of ``attention_tasks.QUESTIONS``.
        dim: as of `Reader`, whose parts make digits, tags and questions.
        asked_first: the first GRU begins with the question as its state. Otherwise the question only joins
            the vector when all has been read.
    """

    WIDER = 4  # times as wide as the reader's vectors

    def __init__(self, question: str, dim: int, asked_first: bool = False):
        super().__init__()
        self.parts, width = Reader("mean", question, dim), self.WIDER * dim
        self.read, self.ask = nn.GRU(2 * dim, width, batch_first=True), nn.Linear(width + dim, width)
        self.write, self.head = nn.GRU(dim, width, batch_first=True), nn.Linear(width, TAGS)
        self.first = nn.Linear(dim, width) if asked_first else None

    def forward(self, seen: Rows) -> tuple[Tensor, None]:
        row = torch.cat([self.parts.digit(seen.digits), self.parts.tag(seen.tags)], 2)
        question, last = self.parts.query(seen), seen.valid.sum(1) - 1
        first = None if self.first is None else self.first(question).tanh()[None]
        vector = self.read(row, first)[0][torch.arange(len(row)), last]  # after the last real digit
        vector = self.ask(torch.cat([vector, question], 1)).tanh()
        turns = self.parts.start.expand(len(row), seen.answer.shape[1], -1)
        return self.head(self.write(turns, vector[None])[0]), None
