r"""Chapter 10: which patch of a picture made a model write a word, asked in several ways.

*Attention* says which tokens the decoder read, *occlusion* what changes without a patch, *gradients* what
would change if a patch faded a little. All are about the word's log-probability, given what stands before it.
"""

import copy
import re

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from scipy.stats import rankdata
from torch import Tensor

from mmtutor.seq2seq import START, AttentionDecoder, Seq2Seq

from .attention_models import Everywhere

GRID, PATCH = 4, 8  # patches a side, pixels a patch
WHITE = 1.0  # of `encoders.pixels`
ERASED = 4  # patches, a quarter of the picture

Pictures = Float[Tensor, "batch 3 32 32"]


def word_spans(text: str) -> list[slice]:
    """Return where each word of a text stands.

    Example:
        >>> word_spans("red apple")
        [slice(0, 3, None), slice(4, 9, None)]
    """
    return [slice(*found.span()) for found in re.finditer(r"\S+", text)]


def erase(pictures: Pictures, patches: Bool[Tensor, "batch 16"]) -> Pictures:
    """Return the pictures with some patches white, as the background is.

    Example:
        >>> black = torch.full((1, 3, 32, 32), -1.0)
        >>> erase(black, torch.arange(16)[None] == 0)[0, 0, 0, 6:10]
        tensor([ 1.,  1., -1., -1.])
    """
    grid = patches.view(-1, 1, GRID, GRID).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    return torch.where(grid, WHITE, pictures)


def characters_log_probability(
    model: Seq2Seq, pictures: Pictures, tokens: Int64[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    r"""Return :math:`\log p(y_t\mid y_{<t},x)` of each character."""
    return model(pictures, tokens)[0].log_softmax(2).gather(2, tokens[..., None])[..., 0]


@torch.no_grad()
def occlusion(
    model: Seq2Seq, pictures: Pictures, tokens: Int64[Tensor, "batch time"]
) -> Float[Tensor, "batch time 16"]:
    r"""Return what each character loses without a patch, :math:`\log p(y_t\mid x)-\log p(y_t\mid x_{-j})`."""
    whole = characters_log_probability(model, pictures, tokens)
    each = torch.eye(GRID**2, dtype=torch.bool, device=pictures.device)
    without = [erase(pictures, one.expand(len(pictures), -1)) for one in each]
    return torch.stack([whole - characters_log_probability(model, x, tokens) for x in without], 2)


@torch.no_grad()
def token_occlusion(
    model: Seq2Seq, pictures: Pictures, tokens: Int64[Tensor, "batch time"]
) -> Float[Tensor, "batch time 16"]:
    """Return what each character loses if the decoder must not look at a token, the picture being whole."""
    memory, valid = model.encoder(pictures)
    before = F.pad(tokens[:, :-1], (1, 0), value=START)

    def log_p(here: Tensor) -> Tensor:
        return model.decoder(memory, here, before)[0].log_softmax(2).gather(2, tokens[..., None])[..., 0]

    whole, each = log_p(valid), torch.eye(GRID**2, dtype=torch.bool, device=valid.device)
    return torch.stack([whole - log_p(valid & ~one) for one in each], 2)


def gradients(
    model: Seq2Seq, pictures: Pictures, tokens: Int64[Tensor, "batch time"], words: list[list[slice]]
) -> list[Float[Tensor, "words 16"]]:
    r"""Return the first-order guess of what each word loses without a patch.

    .. math:: \log p(x)-\log p(x_{-j})\approx\sum_{i\in\text{patch }j}
              \frac{\partial\log p}{\partial x_i}\,(x_i-1)

    since erasing changes the pixel :math:`x_i` by :math:`1-x_i`.
    """
    x, found = pictures.clone().requires_grad_(), [[] for _ in words]
    log_p = characters_log_probability(model, x, tokens)
    for k in range(max(map(len, words))):
        total = sum(log_p[b, spans[k]].sum() for b, spans in enumerate(words) if k < len(spans))
        (slope,) = torch.autograd.grad(total, x, retain_graph=True)
        lost = (slope * (x.detach() - WHITE)).sum(1)
        patches = lost.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).sum((3, 4)).flatten(1)
        for b, spans in enumerate(words):
            if k < len(spans):
                found[b].append(patches[b])
    return [torch.stack(rows) for rows in found]


def ink(pictures: Pictures) -> Float[Tensor, "batch 16"]:
    """Return how far each patch is from white: a guess at what matters that asks no model."""
    far = (WHITE - pictures).mean(1)
    return far.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).mean((3, 4)).flatten(1)


def flattened(model: Seq2Seq) -> Seq2Seq:
    """Return a copy of a model whose cross-attention gives the same weight to all patches."""
    model = copy.deepcopy(model)
    if isinstance(model.decoder, AttentionDecoder):
        model.decoder.attention = Everywhere(model.decoder.dim)
    else:
        for layer in model.decoder.layers:  # queries of zeros score all keys alike
            for joined in (layer.cross_attention.in_proj_weight, layer.cross_attention.in_proj_bias):
                torch.nn.init.zeros_(joined.chunk(3)[0])
    return model


def evidence(
    model: Seq2Seq, pictures: Pictures, texts: list[str], tokens: Int64[Tensor, "batch time"], seed: int = 0
) -> dict[str, Float[Tensor, "words 16"]]:
    """Return what each way says of each word of the texts, all words of all pictures one after the other.

    Returns:
        ``"attention"``, the mean of a word's characters, layers and heads; ``"occlusion"``, ``"gradient"``
        and ``"tokens"``, in nats; ``"ink"`` and ``"chance"``, which know nothing of the model.
    """
    words = [word_spans(text) for text in texts]
    with torch.no_grad():
        weights = model(pictures, tokens)[1]
    weights = weights.flatten(1, -3).mean(1) if weights.ndim > 3 else weights
    lost, dark = occlusion(model, pictures, tokens), ink(pictures)
    unread = token_occlusion(model, pictures, tokens)
    each = [(b, span) for b, spans in enumerate(words) for span in spans]
    chance = torch.rand(len(each), GRID**2, generator=torch.Generator().manual_seed(seed))
    return {
        "attention": torch.stack([weights[b, span].mean(0) for b, span in each]),
        "occlusion": torch.stack([lost[b, span].sum(0) for b, span in each]),
        "tokens": torch.stack([unread[b, span].sum(0) for b, span in each]),
        "gradient": torch.cat(gradients(model, pictures, tokens, words)),
        "ink": torch.stack([dark[b] for b, _ in each]),
        "chance": chance.to(pictures.device),
    }


def rank_correlation(a: Float[Tensor, "words 16"], b: Float[Tensor, "words 16"]) -> np.ndarray:
    """Return Spearman's correlation of each row, NaN where all values of one are the same.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 3.0]])
        >>> rank_correlation(a, a**3), rank_correlation(a, -a)
        (array([1.]), array([-1.]))
    """
    ranks = [rankdata(x.cpu().numpy(), axis=1) for x in (a, b)]
    ranks = [r - r.mean(1, keepdims=True) for r in ranks]
    norms = np.sqrt(np.prod([(r**2).sum(1) for r in ranks], axis=0))
    return (ranks[0] * ranks[1]).sum(1) / np.where(norms > 0, norms, np.nan)


@torch.no_grad()
def without_the_best(
    model: Seq2Seq,
    pictures: Pictures,
    texts: list[str],
    tokens: Int64[Tensor, "batch time"],
    importance: Float[Tensor, "words 16"],
) -> Float[Tensor, "words"]:
    """Return what each word loses, in nats, if the four patches that matter most for it are erased."""
    each = [(b, span) for b, text in enumerate(texts) for span in word_spans(text)]
    item = torch.tensor([b for b, _ in each], device=pictures.device)
    best = importance.topk(ERASED, 1).indices
    erased = torch.zeros_like(importance, dtype=torch.bool).scatter(1, best, True)
    whole = characters_log_probability(model, pictures, tokens)[item]
    left = torch.cat(
        [
            characters_log_probability(model, erase(pictures[i], e), tokens[i])
            for i, e in zip(item.split(256), erased.split(256), strict=True)
        ]
    )
    return torch.stack([(whole - left)[row, span].sum() for row, (_, span) in enumerate(each)])


def figures(model: Seq2Seq, pictures: Pictures, texts: list[str], tokens: Tensor) -> dict[str, float]:
    """Return how far the ways agree, and how much each finds.

    Returns:
        ``"rank, gradient"`` and so on: the mean rank correlation with occlusion over the patches;
        ``"rank of tokens, attention"``: the same with what is lost if a token, not a patch, is missing;
        ``"erased, gradient"`` and so on: the nats that a word loses without its four best patches;
        ``"blank, letter 1"`` to ``"blank, letter 6"``: the nats that this letter of a word loses if the
        picture is white.
    """
    said, found = evidence(model, pictures, texts, tokens), {}
    for way, importance in said.items():
        found[f"rank, {way}"] = float(np.nanmean(rank_correlation(importance, said["occlusion"])))
        found[f"erased, {way}"] = without_the_best(model, pictures, texts, tokens, importance).mean().item()
    found["rank of tokens, attention"] = float(
        np.nanmean(rank_correlation(said["attention"], said["tokens"]))
    )
    with torch.no_grad():
        blank = characters_log_probability(model, torch.full_like(pictures, WHITE), tokens)
        lost = characters_log_probability(model, pictures, tokens) - blank
    for letter in range(6):
        at = [
            lost[b, span.start + letter].item()
            for b, text in enumerate(texts)
            for span in word_spans(text)
            if span.start + letter < span.stop
        ]
        if at:
            found[f"blank, letter {letter + 1}"] = float(np.mean(at))
    return found
