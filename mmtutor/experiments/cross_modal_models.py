"""Chapter 10's models: parts and words become tokens, something joins them, a linear map answers."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mmtutor import fusion
from mmtutor.contrastive import unit
from mmtutor.cross_modal import (
    CoAttention,
    CrossModalTransformer,
    GatedCrossAttention,
    InteractiveAttention,
    JointAttention,
    TemporalAttention,
    masked_mean,
)
from mmtutor.encoders import ImageEncoder
from mmtutor.seq2seq import PictureTokens, sinusoids

from .cross_modal_tasks import BUCKETS, Asked, Streams

MODALITIES = ("image", "text")


class WordTokens(nn.Module):
    """A token for each word: the mean of the rows that its hashed features pick, through a small network.

    Shapes: features ``(B, W, F)``, zero is padding -> tokens ``(B, W, D)`` and valid ``(B, W)``.
    """

    def __init__(self, dim: int, width: int = 48, dropout: float = 0.1):
        super().__init__()
        self.table = nn.Embedding(BUCKETS + 1, width, padding_idx=0)
        nn.init.normal_(self.table.weight[1:], std=0.25)  # as `TextEncoder`'s
        self.network = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )

    def forward(self, features: Int64[Tensor, "batch words features"]) -> tuple[Tensor, Tensor]:
        real = features > 0
        total, count = self.table(features).sum(2), real.sum(2, keepdim=True)
        tokens = self.network(total / count.clamp(min=1).sqrt())
        return tokens, real.any(2)


class SceneTokens(nn.Module):
    """The tokens of each part: a picture's four quarters, or the frames of a clip, which know their turn.

    Shapes: parts ``(B, P, 3, 32, 32)`` or ``(B, P, T, 6, 32, 32)`` -> ``(B, P, L, D)``.
    """

    def __init__(self, dim: int, width: int, clips: bool):
        super().__init__()
        self.see = ImageEncoder(dim, width, channels=6) if clips else PictureTokens(dim, width)
        self.norm = nn.LayerNorm(dim)

    def forward(self, parts: Tensor) -> Tensor:
        if isinstance(self.see, PictureTokens):
            patches = self.see(parts.flatten(0, 1))[0].mT.unflatten(2, (4, 4))
            return self.norm(F.avg_pool2d(patches, 2).flatten(2).mT.unflatten(0, parts.shape[:2]))
        frames = self.see(parts.flatten(0, 2)).unflatten(0, parts.shape[:3])
        return self.norm(frames + sinusoids(frames.shape[2], frames.shape[3]).to(frames))


class OfMeans(nn.Module):
    """A layer to which the other modality is one token, the mean of all: no weights are left to choose.

    With ``nothing`` the other modality is not there at all.
    """

    def __init__(self, layer: nn.Module, nothing: bool):
        super().__init__()
        self.layer, self.nothing = layer, nothing

    def forward(self, x: Tensor, y: Tensor, valid_x: Tensor, valid_y: Tensor, need_weights: bool = False):
        some = valid_y.any(1, keepdim=True) & (not self.nothing)
        return self.layer(x, masked_mean(y, valid_y)[:, None], valid_x, some, need_weights)


class Joined(nn.Module):
    """Tokens of two modalities go in; a point comes out, and weights on the tokens of the image.

    ``asleep``: only the words are read, by their mean.
    """

    def __init__(self, kind: str, dim: int):
        super().__init__()
        self.kind, dims, self.asleep = kind, dict.fromkeys(MODALITIES, dim), False
        family = kind.split(", ")[0]
        self.join = {
            "concat": lambda: fusion.ConcatFusion(dims, dim),
            "low-rank": lambda: fusion.LowRankFusion(dims, dim),
            "Transformer of two vectors": lambda: fusion.TransformerFusion(dims, dim),
            "interactive": lambda: InteractiveAttention(dim, MODALITIES),
            "joint": lambda: JointAttention(dim, MODALITIES),
            "co-attention": lambda: CoAttention(dim, MODALITIES),
            "cross-modal Transformer": lambda: CrossModalTransformer(dim, MODALITIES),
            "gated cross-attention": lambda: Gated(dim),
            "gates open": lambda: Gated(dim, start=1.0),
        }[family]()
        if family == "cross-modal Transformer":
            self.last = nn.Linear(2 * dim, dim)
        if kind != family:  # ", of means" or ", apart"
            for layer in self.join.layers:
                for n, part in enumerate(layer):
                    layer[n] = OfMeans(part, nothing=kind.endswith("apart"))

    def forward(self, tokens: dict[str, Tensor], valid: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the point, and weights of whoever asks the image, ``(B, N, W, L)``.

        There are N heads, of all layers, and W words that ask, or one that asks for all. A fuser of means has
        no weights.
        """
        if self.asleep:
            return masked_mean(tokens["text"], valid["text"]), None
        if isinstance(self.join, fusion.Fusion):
            means = {m: masked_mean(x, valid[m]) for m, x in tokens.items()}
            here = torch.stack([valid[m].any(1) for m in tokens], 1)
            return self.join(means, here)[0], None
        if isinstance(self.join, CrossModalTransformer):
            read, weights = self.join(tokens, valid, need_weights=True)
            z = self.last(torch.cat([masked_mean(x, valid[m]) for m, x in read.items()], 1))
            weights = weights["text", "image"].flatten(1, 2)
            return z, weights if weights.shape[3] > 1 else None
        z, weights = self.join(tokens, valid)
        if isinstance(self.join, Gated):
            return z, weights.flatten(1, 2)
        weights = weights["text", "image"] if self.kind == "interactive" else weights["image"]
        return z, weights[:, None, None]

    @torch.no_grad()
    def flatten(self, asks: str) -> None:
        """Make all weights alike with which one modality asks the other one, where it does."""
        join, pair = self.join, (asks, "image" if asks == "text" else "text")
        if isinstance(join, CrossModalTransformer):
            looks = [layer[join.pairs.index(pair)].cross_attention for layer in join.layers]
        elif isinstance(join, Gated):
            looks = [layer.cross_attention for layer in join.layers] if asks == "text" else []
        elif self.kind == "interactive":
            join.queries[join.pairs.index(pair)].weight.zero_()
            return
        elif self.kind == "joint":  # the words' weights are left: these are of the image alone
            join.query.zero_()
            return
        else:
            (join.w_a if asks == "text" else join.w_b).weight.zero_()
            return
        for look in looks:  # queries of zero
            look.in_proj_weight[: look.dim].zero_()
            look.in_proj_bias[: look.dim].zero_()


class Gated(nn.Module):
    """Words that read the image in two gated layers; their mean is the point."""

    def __init__(self, dim: int, start: float = 0.0, layers: int = 2, heads: int = 4):
        super().__init__()
        self.layers = nn.ModuleList(GatedCrossAttention(dim, heads) for _ in range(layers))
        for layer in self.layers:
            nn.init.constant_(layer.a, start)
            nn.init.constant_(layer.b, start)

    def forward(self, tokens: dict[str, Tensor], valid: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x, weights = tokens["text"], []
        for layer in self.layers:
            x, looked = layer(x, tokens["image"], valid["text"], valid["image"], need_weights=True)
            weights.append(looked)
        return masked_mean(x, valid["text"]), torch.stack(weights, 1)


class Answering(nn.Module):
    """Reads a scene once and answers each question about it.

    Args:
        kind: of `Joined`.
        dim: ``D``.
        width: of the encoder of pictures.
        classes: number of answers.
        clips: parts are clips, not pictures.
        hidden: a modality that is not shown, or None.
    """

    def __init__(self, kind: str, dim: int, width: int, classes: int, clips: bool, hidden: str | None = None):
        super().__init__()
        self.image, self.text = SceneTokens(dim, width, clips), WordTokens(dim)
        self.joined, self.head = Joined(kind, dim), nn.Sequential(nn.GELU(), nn.Linear(dim, classes))
        self.hidden = hidden

    def tokens(self, parts: Tensor, words: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tokens and masks of every question, ``(B * Q, L, D)`` each."""
        image, (text, real) = self.image(parts), self.text(words.flatten(0, 1))
        image = image.flatten(1, 2).repeat_interleave(words.shape[1], 0)
        valid = {"image": torch.ones(image.shape[:2], dtype=torch.bool, device=image.device), "text": real}
        if self.hidden:
            valid[self.hidden] = torch.zeros_like(valid[self.hidden])
        return {"image": image, "text": text}, valid

    def heads(self, parts: Tensor, words: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return logits ``(B, Q, C)``, weights ``(B, Q, N, W, L)``, and which of the words are real."""
        tokens, valid = self.tokens(parts, words)
        z, weights = self.joined(tokens, valid)
        shape = words.shape[:2]
        real = valid["text"].unflatten(0, shape)
        return (
            self.head(z).unflatten(0, shape),
            None if weights is None else weights.unflatten(0, shape),
            real,
        )

    def forward(self, parts: Tensor, words: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits ``(B, Q, C)`` and the weights of the words' mean, ``(B, Q, N, P, L)``, or none."""
        logits, weights, real = self.heads(parts, words)
        if weights is not None:
            if weights.shape[3] > 1:
                real = real[:, :, None, :, None] / real.sum(2).clamp(min=1)[:, :, None, None, None]
                weights = weights * real
            weights = weights.sum(3).unflatten(3, (parts.shape[1], -1))
        return logits, weights

    @torch.no_grad()
    def look(self, seen: Asked) -> Float[Tensor, "batch questions words tokens"] | None:
        """Return who looks where, the mean of all heads."""
        where = self.head[1].weight.device
        weights = self.heads(seen.parts.to(where), seen.words.to(where))[1]
        return None if weights is None else weights.mean(2)

    def answer(self, seen: Asked) -> tuple[Tensor, Tensor | None]:
        """Return logits and weights of `Asked`, wherever the model is."""
        where = self.head[1].weight.device
        return self(seen.parts.to(where), seen.words.to(where))


def means(
    model: Answering, parts: Tensor, words: Tensor
) -> tuple[Float[Tensor, "batch parts dim"], Float[Tensor, "batch questions dim"]]:
    """Return the mean of each part's tokens, and of each question's words."""
    text, real = model.text(words.flatten(0, 1))
    return model.image(parts).mean(2), masked_mean(text, real).unflatten(0, words.shape[:2])


class NearestPart(Answering):
    """Looks only at the part nearest to the question in a space of chapter 06; learns with the right one.

    `remember` keeps the encoders as they are after alignment, for choosing. ``told``: it is given the right
    one in the test, too.
    """

    def __init__(self, kind: str, *args, **settings):
        super().__init__("concat", *args, **settings)
        self.chooser, self.told = None, False

    def remember(self) -> None:
        """Keep a copy of the encoders, which is not trained on."""
        self.chooser = [copy.deepcopy(self.image).eval(), copy.deepcopy(self.text).eval()]

    @torch.no_grad()
    def choice(self, parts: Tensor, words: Tensor) -> Float[Tensor, "batch questions parts"]:
        """Return one for the part that is chosen, zero for the others."""
        if self.training or self.told:
            return torch.eye(parts.shape[1], device=parts.device).expand(len(parts), -1, -1)
        image, text = self.chooser
        words, real = text(words.flatten(0, 1))
        asks = masked_mean(words, real).unflatten(0, (len(parts), -1))
        near = unit(asks) @ unit(image(parts).mean(2)).mT
        return F.one_hot(near.argmax(2), parts.shape[1]).to(near)

    def tokens(self, parts: Tensor, words: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        tokens, valid = super().tokens(parts, words)
        chosen = self.choice(parts, words).flatten(0, 1).bool()
        seen = chosen.repeat_interleave(tokens["image"].shape[1] // parts.shape[1], 1)
        return tokens, valid | {"image": valid["image"] & seen}

    def forward(self, parts: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        tokens, valid = self.tokens(parts, words)
        z, _ = self.joined(tokens, valid)
        seen = valid["image"].unflatten(0, words.shape[:2]).unflatten(2, (parts.shape[1], -1))
        return self.head(z).unflatten(0, words.shape[:2]), seen[:, :, None, :, :1].to(z)


class Following(nn.Module):
    """Reads two streams of digits, and says which digit it read last.

    Args:
        kind: ``"temporal"``, `TemporalAttention`; ``"unasked"``, the same with a query that never changes;
            ``"concat"`` and ``"mean"``, a GRU that is given both at each step.
        dim: ``D``.
    """

    def __init__(self, kind: str, dim: int):
        super().__init__()
        self.kind = kind
        self.digit = nn.Sequential(nn.Linear(64, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        if kind in ("temporal", "unasked"):
            self.read = TemporalAttention(dim, ("upper", "lower"))
            if kind == "unasked":
                nn.init.zeros_(self.read.query.weight).requires_grad_(False)
        else:
            self.read = nn.GRU(dim * (2 if kind == "concat" else 1), dim, batch_first=True)
        self.head = nn.Linear(dim, 10)

    def forward(self, seen: Streams) -> tuple[Tensor, Tensor | None]:
        """Return logits ``(B, 10)`` and weights ``(B, T, 2)``, or none."""
        where = self.head.weight.device
        x = {m: self.digit(stream.to(where)) for m, stream in seen.x.items()}
        if isinstance(self.read, TemporalAttention):
            states, weights = self.read(x)
        else:
            both = torch.cat([*x.values()], 2) if self.kind == "concat" else sum(x.values()) / 2
            states, weights = self.read(both)[0], None
        return self.head(states[:, -1]), weights
