r"""Sequence to sequence: an encoder makes a memory of tokens, a decoder writes a text from it.

A text :math:`y=(y_1,\dots,y_T)` is written one character after another, and each may depend on all before it:

.. math:: p(y\mid x)=\prod_{t=1}^Tp(y_t\mid y_{<t},H),\qquad H=f(x)\in\mathbb R^{L\times D}

The three decoders differ in how they look at the memory :math:`H`:

=========================== =========================================== =========================
decoder                     reads the memory                            reads what is written
=========================== =========================================== =========================
:class:`VanillaDecoder`     once: its mean is the first state           through the state of a GRU
:class:`AttentionDecoder`   at each step, with the state as the query   through the state of a GRU
:class:`TransformerDecoder` at each step, in each layer, with heads     by self-attention
=========================== =========================================== =========================

All keep one contract, that of :class:`Decoder`. An encoder is a module that gives ``(memory, valid)``:
:class:`PictureTokens`, :class:`TextTokens`, or your own.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mmtutor.attention import AdditiveAttention, Attention, MultiHeadAttention
from mmtutor.contrastive import check_positive
from mmtutor.cross_modal import masked_mean
from mmtutor.encoders import stride_block

PADDING, START, END, UNKNOWN = range(4)

Memory = tuple[Float[Tensor, "batch length dim"], Bool[Tensor, "batch length"]]
State = tuple[Tensor, ...]
Step = tuple[Tensor, Tensor | None, State]


def _check_ids(name: str, ids: Tensor, size: int) -> None:
    if ids.ndim != 2 or ids.dtype != torch.int64 or ids.numel() == 0:
        found = f"{ids.dtype} of shape {tuple(ids.shape)}"
        raise ValueError(f"{name}: expected int64 of shape (B, T), neither of them 0; found {found}")
    lowest, highest = ids.min().item(), ids.max().item()
    if lowest < 0 or highest >= size:
        raise ValueError(f"{name}: expected ids from 0 to {size - 1}, found {lowest} to {highest}")


# Characters


class Vocabulary:
    r"""The characters of some texts, numbered from 4 in the order of their code points.

    Before them stand padding 0, start 1, end 2 and unknown 3. A character is a Unicode code point, of any
    script; nothing is normalised, so that a text of known characters comes back as it was.

    Args:
        texts: their characters make the table; order and repetition do not matter.

    Raises:
        TypeError: for anything but a list of strings.

    Example:
        >>> vocabulary = Vocabulary(["cat", "猫"])
        >>> len(vocabulary), vocabulary.encode(["猫", "cut"])
        (8, tensor([[7, 2, 0, 0],
                [5, 3, 6, 2]]))
        >>> vocabulary.decode(vocabulary.encode(["猫", "cut"]))
        ['猫', 'c�t']
    """

    def __init__(self, texts: list[str]):
        _check_texts(texts)
        self.characters = sorted(set().union(*texts))
        self._ids = {character: i for i, character in enumerate(self.characters, start=4)}

    def __len__(self) -> int:
        return 4 + len(self.characters)

    def encode(self, texts: list[str]) -> Int64[Tensor, "batch length"]:
        """Number the characters, ``(B, L)``: each text, its end, and padding up to the longest."""
        _check_texts(texts)
        ids = torch.full((len(texts), max(map(len, texts), default=0) + 1), PADDING)
        for row, text in zip(ids, texts, strict=True):
            numbers = [self._ids.get(character, UNKNOWN) for character in text]
            row[: len(text) + 1] = torch.tensor([*numbers, END])
        return ids

    def decode(self, ids: Int64[Tensor, "batch length"]) -> list[str]:
        """Write the texts up to their ends; unknown becomes the replacement character U+FFFD."""
        if len(ids):
            _check_ids("ids", ids, len(self))
        written = ["", "", "", "\N{REPLACEMENT CHARACTER}", *self.characters]
        rows = [[*row, END] for row in ids.tolist()]
        return ["".join(written[i] for i in row[: row.index(END)]) for row in rows]


def _check_texts(texts: list[str]) -> None:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts: expected a list of strings, found {texts!r:.60}")


# Encoders


class PictureTokens(nn.Module):
    r"""Convolutions, three of them strided: a picture becomes a grid of 4 x 4 tokens that know their places.

    .. math:: h_j=Wg_j(x)+p_j,\qquad j=1,\dots,16

    with the features :math:`g_j` of place :math:`j`, row by row from the top left, and learnt :math:`p_j`.
    The last convolution keeps the grid and lets a token see a window of 31 x 31 pixels, of which between a
    quarter and nearly a half lie in the picture: more than its own patch of 8 x 8.

    Args:
        dim: ``D``, width of a token.
        width: channels of the first block; the later ones have 2, 4 and 4 times as many.

    Shapes: ``(B, 3, 32, 32)``, see :func:`mmtutor.encoders.pixels`, -> memory ``(B, 16, D)`` and valid
    ``(B, 16)``, all True.

    Raises:
        ValueError: (the call) for any other shape.
        TypeError: (the call) for pictures that are not floats.

    Source:
        Xu et al. (2015) for places of a convolutional map as what a decoder attends to.

    Example:
        >>> memory, valid = PictureTokens(dim=8, width=4)(torch.zeros(2, 3, 32, 32))
        >>> memory.shape, valid.all()
        (torch.Size([2, 16, 8]), tensor(True))
    """

    def __init__(self, dim: int, width: int = 32):
        super().__init__()
        check_positive("dim", dim)
        check_positive("width", width)
        self.blocks = nn.Sequential(
            stride_block(3, width),
            stride_block(width, 2 * width),
            stride_block(2 * width, 4 * width),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.GELU(),
        )
        self.project = nn.Linear(4 * width, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(16, dim))

    def forward(self, pictures: Float[Tensor, "batch 3 32 32"]) -> Memory:
        if pictures.ndim != 4 or pictures.shape[1:] != (3, 32, 32):
            raise ValueError(f"pictures: expected shape (B, 3, 32, 32), found {tuple(pictures.shape)}")
        if not pictures.is_floating_point():
            raise TypeError(f"pictures: expected floats, as encoders.pixels gives; found {pictures.dtype}")
        memory = self.project(self.blocks(pictures).flatten(2).mT) + self.positions
        return memory, torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)


class TextTokens(nn.Module):
    r"""A bidirectional GRU: each character of a text, as what stands before and after it makes it.

    .. math:: h_j=[\overrightarrow{\mathrm{GRU}}(E_{x_1},\dots,E_{x_j});\,
              \overleftarrow{\mathrm{GRU}}(E_{x_n},\dots,E_{x_j})]

    The way back starts at the last real character :math:`x_n`: padding is not read. A text that is all
    padding gives zeros.

    Args:
        vocabulary_size: ``V``, see :class:`Vocabulary`.
        dim: ``D``, an even number; each direction has half of it.

    Shapes: ids ``(B, L)``, int64, padding 0 at the end -> memory ``(B, L, D)``, zero at padding, and valid
    ``(B, L)``.

    Raises:
        ValueError: for an odd width; (the call) for ids of another shape, type or range, or none, and for
            padding before the last character.

    Source:
        Schuster and Paliwal (1997); as an encoder for attention, Bahdanau, Cho and Bengio (2015).

    Example:
        >>> vocabulary = Vocabulary(["cat", "a"])
        >>> memory, valid = TextTokens(len(vocabulary), dim=8)(vocabulary.encode(["cat", "a"]))
        >>> memory.shape, valid.sum(1)
        (torch.Size([2, 4, 8]), tensor([4, 2]))
    """

    def __init__(self, vocabulary_size: int, dim: int):
        super().__init__()
        check_positive("dim", dim)
        if dim % 2:
            raise ValueError(f"dim: expected an even number, found {dim}")
        self.embed = nn.Embedding(vocabulary_size, dim)
        self.gru = nn.GRU(dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, ids: Int64[Tensor, "batch length"]) -> Memory:
        _check_ids("ids", ids, self.embed.num_embeddings)
        valid = ids != PADDING
        if (valid[:, 1:] & ~valid[:, :-1]).any():
            raise ValueError("ids: expected padding at the end only, found a character after padding")
        lengths = valid.sum(1).clamp(min=1).cpu()  # PyTorch refuses to pack nothing
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embed(ids), lengths, batch_first=True, enforce_sorted=False
        )
        memory, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=ids.shape[1]
        )
        return torch.where(valid[..., None], memory, 0), valid


# Decoders


class Decoder(nn.Module):
    r"""What follows a beginning of a text, given a memory: what all decoders have in common.

    .. math:: p(y_t\mid y_{<t},H)=\mathrm{softmax}(Ws_t+b),\qquad s_t=s(E_{y_0},\dots,E_{y_{t-1}},H)

    with :math:`y_0` the start. A kind says how it makes the features :math:`s_t`. What stands in place of
    padding in the memory has no influence; a memory of nothing but padding, or of length 0, is read as
    zeros. No later character has any influence on an earlier position.

    Under *teacher forcing* the whole text is known, and one call gives all positions. To write a text, take
    one step after another; the numbers are the same::

        state = None
        for token in tokens.unbind(1):
            logits, weights, state = decoder.step(memory, valid, token, state)

    A state is a tuple of tensors whose first axis is the batch.

    Args:
        vocabulary_size: ``V``, see :class:`Vocabulary`.
        dim: ``D``, width of memory, characters and features.

    Shapes: memory ``(B, L, D)``, valid, bool ``(B, L)``, tokens, int64 ``(B, T)``, of which the first is the
    start -> logits ``(B, T, V)``, at ``t`` for what follows token ``t``, and attention weights: none, or
    ``(B, ..., T, L)``. A step takes tokens ``(B,)`` and leaves the axis ``T`` out.

    Raises:
        ValueError: for a width below 1; (the call) for any other shape, a mask that is not bool, tokens
            that are not int64 or outside of the vocabulary, or none.
        TypeError: (the call) for a memory that is not floats.

    Source:
        Sutskever, Vinyals and Le (2014); Cho et al. (2014).

    Example:
        >>> decoder = VanillaDecoder(vocabulary_size=9, dim=8)
        >>> memory, valid = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
        >>> tokens = torch.tensor([[START, 4, 5], [START, 6, END]])
        >>> logits, _ = decoder(memory, valid, tokens)
        >>> first, _, state = decoder.step(memory, valid, tokens[:, 0])
        >>> logits.shape, torch.allclose(first, logits[:, 0], atol=1e-6)
        (torch.Size([2, 3, 9]), True)
    """

    def __init__(self, vocabulary_size: int, dim: int):
        super().__init__()
        check_positive("dim", dim)
        self.dim = dim
        self.embed = nn.Embedding(vocabulary_size, dim)
        self.out = nn.Linear(dim, vocabulary_size)

    def forward(
        self,
        memory: Float[Tensor, "batch length dim"],
        valid: Bool[Tensor, "batch length"],
        tokens: Int64[Tensor, "batch time"],
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Float[Tensor, "batch *layers time length"] | None]:
        self._check(memory, valid, tokens)
        features, weights, _ = self.read(memory, valid, self.embed(tokens), None)
        return self.out(features), weights

    def step(
        self,
        memory: Float[Tensor, "batch length dim"],
        valid: Bool[Tensor, "batch length"],
        token: Int64[Tensor, "batch"],
        state: State | None = None,
    ) -> Step:
        """Read one more token: logits ``(B, V)``, weights ``(B, ..., L)`` or none, and the next state."""
        self._check(memory, valid, token.unsqueeze(-1))
        features, weights, state = self.read(memory, valid, self.embed(token.unsqueeze(-1)), state)
        return self.out(features[:, 0]), weights if weights is None else weights.select(-2, 0), state

    def read(self, memory: Tensor, valid: Tensor, x: Tensor, state: State | None) -> Step:
        """Make features ``(B, T, D)`` and weights of embedded tokens ``x``: all, or one after a state."""
        raise NotImplementedError

    def _check(self, memory: Tensor, valid: Tensor, tokens: Tensor) -> None:
        _check_ids("tokens", tokens, self.embed.num_embeddings)
        if memory.ndim != 3 or (memory.shape[0], memory.shape[2]) != (len(tokens), self.dim):
            expected = f"({len(tokens)}, L, {self.dim})"
            raise ValueError(f"memory: expected shape {expected}, found {tuple(memory.shape)}")
        if not memory.is_floating_point():
            raise TypeError(f"memory: expected floats, found {memory.dtype}")
        if valid.dtype != torch.bool or valid.shape != memory.shape[:2]:
            raise ValueError(
                f"valid: expected bool of shape {tuple(memory.shape[:2])}, "
                f"found {valid.dtype} of shape {tuple(valid.shape)}"
            )


class VanillaDecoder(Decoder):
    r"""A GRU that sees the memory once, as one vector: all that is to be said must pass through it.

    .. math:: s_0=\tanh(W_0\bar h+b_0),\qquad s_t=\mathrm{GRU}(E_{y_{t-1}},s_{t-1})

    with the mean :math:`\bar h` of the real tokens of the memory, zero if there is none. There are no
    attention weights.

    Args:
        vocabulary_size, dim: see :class:`Decoder`.

    Source:
        Sutskever, Vinyals and Le (2014), who have an LSTM of four layers and begin with the last state of the
        encoder; Cho et al. (2014), who brought the GRU and show the vector again at each step. The mean fits
        any memory, a grid of a picture too.

    Example:
        >>> decoder, token = VanillaDecoder(vocabulary_size=9, dim=8), torch.tensor([START])
        >>> memory, valid = torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.bool)
        >>> one = decoder.step(memory, valid, token)[0]
        >>> torch.allclose(one, decoder.step(memory.flip(1), valid, token)[0], atol=1e-6)  # order is lost
        True
    """

    def __init__(self, vocabulary_size: int, dim: int):
        super().__init__(vocabulary_size, dim)
        self.first = nn.Linear(dim, dim)
        self.gru = nn.GRU(dim, dim, batch_first=True)

    def read(self, memory: Tensor, valid: Tensor, x: Tensor, state: State | None) -> Step:
        states, last = self.gru(x, (self.begin(memory, valid) if state is None else state[0])[None])
        return states, None, (last[0],)

    def begin(
        self, memory: Float[Tensor, "batch length dim"], valid: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        """Return the state :math:`s_0` before anything is written."""
        return self.first(masked_mean(memory, valid)).tanh()


class AttentionDecoder(VanillaDecoder):
    r"""The same GRU, and its state asks the memory before each character.

    .. math:: c_t=\sum_j\alpha_{tj}h_j,\qquad\tilde s_t=\tanh\big(W_c[c_t;s_t]+b_c\big)

    with weights :math:`\alpha_t` of any kind of :mod:`mmtutor.attention` for the query :math:`s_t`; a kind
    with a past gets :math:`\alpha_{t-1}`. Logits are made of :math:`\tilde s_t`. It has all of
    :class:`VanillaDecoder`, so that what it does better is due to attention. Weights are ``(B, T, L)``.

    Args:
        vocabulary_size, dim: see :class:`Decoder`.
        attention: a kind of width ``dim``; by default :class:`~mmtutor.attention.AdditiveAttention`.

    Raises:
        ValueError: for a kind of another width.

    Source:
        Luong, Pham and Manning (2015): the state *after* reading :math:`y_{t-1}` asks, and
        :math:`\tilde s_t` is their attentional vector; without input feeding (theirs also enters the next
        step), so the GRU never sees what was read. In Bahdanau, Cho and Bengio (2015) the state *before* asks
        and the GRU takes in the context.

    Example:
        >>> decoder = AttentionDecoder(vocabulary_size=9, dim=8)
        >>> memory, valid = torch.randn(1, 3, 8), torch.tensor([[True, True, False]])
        >>> _, weights = decoder(memory, valid, torch.tensor([[START, 4, 5, 6]]))
        >>> weights.shape, weights[0, :, 2].detach()
        (torch.Size([1, 4, 3]), tensor([0., 0., 0., 0.]))
    """

    def __init__(self, vocabulary_size: int, dim: int, attention: Attention | None = None):
        super().__init__(vocabulary_size, dim)
        self.attention = AdditiveAttention(dim) if attention is None else attention
        if self.attention.dim != dim:
            raise ValueError(f"attention: expected a kind of width {dim}, found {self.attention.dim}")
        self.join = nn.Linear(2 * dim, dim)

    def read(self, memory: Tensor, valid: Tensor, x: Tensor, state: State | None) -> Step:
        states, _, (last,) = super().read(memory, valid, x, state)
        before, contexts, weights = None if state is None else state[1], [], []
        for query in states.unbind(1):
            context, before = self.attention(query, memory, valid=valid, state=before)
            contexts.append(context)
            weights.append(before)
        joined = torch.cat([torch.stack(contexts, 1), states], 2)
        return self.join(joined).tanh(), torch.stack(weights, 1), (last, before)


def sinusoids(length: int, dim: int) -> Float[Tensor, "length dim"]:
    r"""Positions as sines and cosines of wavelengths from :math:`2\pi` to about :math:`10^4\cdot2\pi`.

    .. math:: p_{t,2i}=\sin\big(t\,/\,10000^{2i/D}\big),\qquad p_{t,2i+1}=\cos\big(t\,/\,10000^{2i/D}\big)

    with positions :math:`t` from 0. There is no longest text.

    Args:
        length: ``T``, number of positions.
        dim: ``D``.

    Returns:
        Floats ``(T, D)``.

    Source:
        Vaswani et al. (2017).

    Example:
        >>> sinusoids(2, 4)
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :dim]


class DecoderLayer(nn.Module):
    r"""One layer of a Transformer's decoder: look at what is written, at the memory, and think.

    .. math:: x\leftarrow x+\mathrm{self}(N_1x),\quad x\leftarrow x+\mathrm{cross}(N_2x,H),\quad
              x\leftarrow x+\mathrm{MLP}(N_3x)

    with layer norms :math:`N_i` and :class:`~mmtutor.attention.MultiHeadAttention`, causal in the first.

    Args:
        dim: ``D``.
        heads: ``H``; they divide ``D``.

    Shapes: x ``(B, T, D)``, past ``(B, S, D)`` or none, memory ``(B, L, D)``, valid ``(B, L)`` -> x
    ``(B, T, D)``, weights of the cross-attention ``(B, H, T, L)``, and the past of the next step
    ``(B, S + T, D)``. After a past comes one position, ``T = 1``.

    Source:
        Vaswani et al. (2017); the norms stand before the parts, as in Xiong et al. (2020), not after.

    Example:
        >>> layer, valid = DecoderLayer(dim=8, heads=2), torch.ones(1, 5, dtype=torch.bool)
        >>> x, weights, past = layer(torch.randn(1, 3, 8), None, torch.randn(1, 5, 8), valid)
        >>> x.shape, weights.shape, past.shape
        (torch.Size([1, 3, 8]), torch.Size([1, 2, 3, 5]), torch.Size([1, 3, 8]))
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.self_attention = MultiHeadAttention(dim, heads)
        self.cross_attention = MultiHeadAttention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        past: Float[Tensor, "batch before dim"] | None,
        memory: Float[Tensor, "batch length dim"],
        valid: Bool[Tensor, "batch length"],
    ) -> tuple[Tensor, Float[Tensor, "batch heads time length"], Float[Tensor, "batch after dim"]]:
        y = self.norms[0](x)
        seen = y if past is None else torch.cat([past, y], 1)
        x = x + self.self_attention(y, seen, causal=past is None)[0]
        found, weights = self.cross_attention(self.norms[1](x), memory, valid=valid, need_weights=True)
        x = x + found
        return x + self.mlp(self.norms[2](x)), weights, seen


class TransformerDecoder(Decoder):
    r"""Layers that look at what is written so far and at the memory, without a recurrence.

    :math:`x_t=E_{y_{t-1}}+p_t` goes through the layers (:class:`DecoderLayer`) and a last norm. All positions
    are computed at once under teacher forcing. The state holds what each layer has seen, so that a step does
    not compute the past again. Weights are those of the cross-attention, ``(B, layers, heads, T, L)``.

    Args:
        vocabulary_size, dim: see :class:`Decoder`.
        layers: number of layers.
        heads: heads of each attention; they divide ``dim``.

    Raises:
        ValueError: for less than one layer, or heads that do not divide the width.

    Source:
        Vaswani et al. (2017). Three things differ: the norms come first, input and output do not share their
        table, and the table is not multiplied by :math:`\sqrt D`: PyTorch's starts with variance one already.

    Example:
        >>> decoder = TransformerDecoder(vocabulary_size=9, dim=8, layers=2, heads=4)
        >>> memory, valid = torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
        >>> logits, weights = decoder(memory, valid, torch.tensor([[START, 4, 5, 6]]))
        >>> logits.shape, weights.shape
        (torch.Size([1, 4, 9]), torch.Size([1, 2, 4, 4, 3]))
    """

    def __init__(self, vocabulary_size: int, dim: int, layers: int = 2, heads: int = 4):
        super().__init__(vocabulary_size, dim)
        check_positive("layers", layers)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def read(self, memory: Tensor, valid: Tensor, x: Tensor, state: State | None) -> Step:
        pasts = [None] * len(self.layers) if state is None else state
        before = 0 if state is None else state[0].shape[1]
        x = x + sinusoids(before + x.shape[1], self.dim)[before:].to(x)
        weights, seen = [], []
        for layer, past in zip(self.layers, pasts, strict=True):
            x, looked, now = layer(x, past, memory, valid)
            weights.append(looked)
            seen.append(now)
        return self.norm(x), torch.stack(weights, 1), tuple(seen)


# Both together


@dataclass(frozen=True)
class Generated:
    """Texts that a model wrote, and how sure it was.

    Attributes:
        ids: int64 ``(B, T)``, without the start, with the end where there is one, then padding.
        log_probability: ``(B,)``, of the ids up to and with the end, in nats.
        ended: bool ``(B,)``; False: cut at the longest length allowed, and the log-probability is that of a
            beginning.
        weights: of the attention, ``(B, ..., T, L)`` as the decoder gives them, zero at padding; or none.

    Example:
        >>> model = Seq2Seq(TextTokens(9, dim=8), VanillaDecoder(9, dim=8))
        >>> written = model.generate(torch.tensor([[4, 5, END]]), max_length=3)
        >>> bool(written.ended[0]) == (END in written.ids[0])
        True
    """

    ids: Int64[Tensor, "batch time"]
    log_probability: Float[Tensor, "batch"]
    ended: Bool[Tensor, "batch"]
    weights: Float[Tensor, "batch *layers time length"] | None


class Seq2Seq(nn.Module):
    r"""An encoder and a decoder, trained by the likelihood of each next character.

    Args:
        encoder: gives ``(memory, valid)`` of its inputs.
        decoder: any :class:`Decoder` of the memory's width.

    Shapes: inputs of the encoder and tokens, int64 ``(B, T)``, as :meth:`Vocabulary.encode` gives them
    (without the start, with the end) -> logits ``(B, T, V)``, at ``t`` for token ``t``, and the decoder's
    weights.

    Raises:
        ValueError: (the call) see :class:`Decoder`.

    Source:
        Sutskever, Vinyals and Le (2014).

    Example:
        >>> vocabulary = Vocabulary(["red apple", "红苹果"])
        >>> model = Seq2Seq(TextTokens(len(vocabulary), 8), AttentionDecoder(len(vocabulary), 8)).eval()
        >>> english, chinese = vocabulary.encode(["red apple"]), vocabulary.encode(["红苹果"])
        >>> bool(model.loss(english, chinese) > 0)
        True
        >>> written = model.generate(english, max_length=6, beam=3)
        >>> written.ids.shape[1] <= 6, len(vocabulary.decode(written.ids))
        (True, 1)
    """

    def __init__(self, encoder: nn.Module, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(
        self, inputs: Tensor, tokens: Int64[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Float[Tensor, "batch *layers time length"] | None]:
        _check_ids("tokens", tokens, self.decoder.embed.num_embeddings)
        return self.decoder(*self.encoder(inputs), F.pad(tokens[:, :-1], (1, 0), value=START))

    def log_probability(self, inputs: Tensor, tokens: Int64[Tensor, "batch time"]) -> Float[Tensor, "batch"]:
        r"""How likely each text is, :math:`\sum_t\log p(y_t\mid y_{<t},x)` over its real characters."""
        logits, _ = self(inputs, tokens)
        return -F.cross_entropy(logits.mT, tokens, ignore_index=PADDING, reduction="none").sum(1)

    def loss(self, inputs: Tensor, tokens: Int64[Tensor, "batch time"]) -> Float[Tensor, ""]:
        """Mean cross-entropy over the real characters of all texts, ends included, in nats per character.

        Raises:
            ValueError: for tokens that are all padding: a mean over nothing.
        """
        real = (tokens != PADDING).sum()
        if real == 0:
            raise ValueError(f"tokens: expected a real character, found none in {tuple(tokens.shape)}")
        return -self.log_probability(inputs, tokens).sum() / real

    @torch.no_grad()
    def generate(
        self, inputs: Tensor, max_length: int = 32, beam: int = 1, *, length_penalty: float = 1.0
    ) -> Generated:
        r"""Write a text for each input: greedy, or the best that a beam search finds.

        Of all continuations of the ``beam`` best beginnings, the ``beam`` best are kept, by

        .. math:: \frac1{n^\lambda}\sum_{t\le n}\log p(y_t\mid y_{<t},x)

        A text that has ended stays as it is and goes on competing; at last the best of those that have ended
        is taken, or the best of all if none has. A beam of one is greedy search. A wider one mostly finds a
        better text, but need not: what looks good early may crowd out what would have been better. Padding,
        start and unknown are never written. Call it in evaluation mode.

        Args:
            inputs: of the encoder.
            max_length: most characters of a text, the end included.
            beam: number of beginnings kept.
            length_penalty: :math:`\lambda`; 0 ranks by the log-probability, which favours short texts.

        Returns:
            One text for each input, see :class:`Generated`.

        Raises:
            ValueError: for a length or beam below 1, a negative penalty, no inputs, or NaN in the logits.

        Source:
            Wu et al. (2016), whose penalty is :math:`((5+n)/6)^\lambda`.
        """
        check_positive("max_length", max_length)
        check_positive("beam", beam)
        if not length_penalty >= 0:
            raise ValueError(f"length_penalty: expected at least 0, found {length_penalty}")
        memory, valid = self.encoder(inputs)
        batch, size, device = len(memory), self.decoder.embed.num_embeddings, memory.device
        wide = memory.repeat_interleave(beam, 0), valid.repeat_interleave(beam, 0)
        item = torch.arange(batch, device=device)[:, None]

        ids = torch.full((batch, beam, 1), START, device=device)
        log_p = torch.full((batch, beam), -math.inf, device=device, dtype=memory.dtype)
        log_p[:, 0] = 0  # all beginnings are alike: one is enough
        lengths = torch.zeros(batch, beam, dtype=torch.int64, device=device)
        ended = torch.zeros(batch, beam, dtype=torch.bool, device=device)
        padded = torch.full((size,), -math.inf, device=device, dtype=memory.dtype)
        padded[PADDING] = 0
        state = None
        for _ in range(max_length):
            logits, _, state = self.decoder.step(*wide, ids[..., -1].flatten(), state)
            next_log_p = logits.log_softmax(1).unflatten(0, (batch, beam))
            next_log_p[..., [PADDING, START, UNKNOWN]] = -math.inf
            next_log_p = torch.where(ended[..., None], padded, next_log_p)
            all_log_p = log_p[..., None] + next_log_p  # (B, beam, V)
            lengths = lengths + ~ended
            scores = all_log_p / lengths[..., None] ** length_penalty
            best = scores.flatten(1).topk(beam).indices
            parent, token = best // size, best % size
            ids = torch.cat([ids[item, parent], token[..., None]], 2)
            log_p, lengths = all_log_p.flatten(1).gather(1, best), lengths.gather(1, parent)
            ended = ended.gather(1, parent) | (token == END)
            state = tuple(x[(parent + beam * item).flatten()] for x in state)
            if ended.all():
                break
        if log_p.isnan().any():
            raise ValueError("logits: expected numbers, found NaN; look at the inputs and the weights")

        # best first, so: the first that has ended, or the first if none has
        best = (ended & (log_p > -math.inf)).long().argmax(1, keepdim=True)
        ids = ids[item, best][:, 0]
        real = ids != PADDING
        ids, real = ids[:, real.any(0)], real[:, real.any(0)][:, 1:]
        _, weights = self.decoder(memory, valid, ids[:, :-1])
        if weights is not None:
            weights = torch.where(real.view(batch, *[1] * (weights.ndim - 3), -1, 1), weights, 0)
        return Generated(ids[:, 1:], log_p.gather(1, best)[:, 0], ended.gather(1, best)[:, 0], weights)
