"""Chapter 11's models of films: what learnt to see is kept, and what joins starts from what is alike."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor.cross_modal import masked_mean
from mmtutor.data import load_emoji
from mmtutor.dtl import DTLNetwork, DTLOutput
from mmtutor.encoders import pixels

from . import dtl_models
from .dtl_tasks import MODALITIES, Things, clips, moving
from .films_tasks import FRAMES, Films, held
from .fusion_tasks import VENDORS

SEGMENT = 3  # frames that hierarchical attention takes together


class Frozen(nn.Module):
    """An extractor that learns no more. What is a sequence of tokens already passes it as it is."""

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.extractor = extractor.requires_grad_(False)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.ndim == 3:
            return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
        return self.extractor(x, valid)


class EachClip(nn.Module):
    r"""A baseline that is told where clips begin, and reads each clip by itself as in `learn_to_see`.

    Clips are weighted by how like they are to what is asked, :math:`\beta\cos+\lambda k` with the number
    :math:`k` of the clip, and a small network reads the weighted mean. Asked is the picture, or the single
    frame at the end, if there is one.
    """

    def __init__(self, model: nn.Module, dim: int, sharpness: float):
        super().__init__()
        self.extractors, self.rnns = model.extractors, model.rnns
        self.sharpness, self.recency = nn.Parameter(torch.tensor(sharpness)), nn.Parameter(torch.tensor(0.0))
        layers = [nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 2)]
        self.head = nn.Sequential(*layers)

    def forward(self, inputs: dict[str, Tensor], valid: dict[str, Tensor] | None = None) -> DTLOutput:
        asked, animation = (inputs[m] for m in MODALITIES)
        alone = animation.shape[1] % FRAMES  # frames at the end that belong to no clip
        asked = self.read(1, animation[:, -alone:]) if alone else self.read(0, asked)
        clips = animation[:, : animation.shape[1] - alone].unflatten(1, (-1, FRAMES))
        clips = self.read(1, clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        alike = F.cosine_similarity(asked[:, None], clips, dim=2)
        number = torch.arange(clips.shape[1], device=clips.device)
        weights = (self.sharpness * alike + self.recency * number).softmax(1)
        logits = self.head(torch.einsum("bk,bkd->bd", weights, clips))
        return DTLOutput(logits, {}, {}, asked, {}, {})

    def read(self, m: int, x: Tensor) -> Tensor:
        """Return the mean of the tokens of each picture (0) or clip (1)."""
        tokens, valid = self.extractors[m](x)
        return masked_mean(self.rnns[m](tokens, valid), valid)


def network(s: dict, dim: int, width: int, classes: int) -> nn.Module:
    """Return the untrained model of a row's settings; its segments are not the clips."""
    if s["kind"] == "pooled":
        return dtl_models.network(s, dim, width, classes)
    return DTLNetwork(
        dtl_models.extractors(dim, width, False),
        dict.fromkeys(MODALITIES, dim),
        dim,
        classes,
        cell=s["cell"],
        exchange=s["exchange"],
        parts=s["parts"],
        segment={"picture": 4, "animation": SEGMENT},
        window=s["window"],
        timed=["animation"],
    )


def start_alike(model: nn.Module, times: float) -> None:
    """Let everything that compares tokens begin with a multiple of their inner product.

    A map at random would first lose what makes a picture and a clip of one thing alike.
    """

    def identity(weight: Tensor, times: float) -> None:
        weight.data.copy_(times * torch.eye(len(weight)))

    def look(attention: nn.Module) -> None:
        for W in attention.in_proj_weight.chunk(3)[:2]:  # W_q and W_k
            identity(W, times**0.5)

    if isinstance(model, DTLNetwork):
        for W in model.exchange.project if model.exchange is not None else ():
            identity(W.weight, 1.0)
        if "inter" in model.dam.parts:
            for attention in model.dam.parts["inter"].looks:
                look(attention)
        if "composition" in model.dam.parts:
            for W in model.dam.parts["composition"].queries:
                identity(W.weight, times)
        if "short" in model.dam.parts:
            identity(model.dam.parts["short"].W_q.weight, times)
            identity(model.dam.parts["short"].W_k.weight, 1.0)
        if "long" in model.dam.parts:
            identity(model.dam.parts["long"].W_r.weight, times)
            identity(model.dam.parts["long"].W_v.weight, 1.0)
    elif model.cross is not None:
        for layer in model.cross.layers:
            for part in layer:
                look(part.cross_attention)


class Tokens:
    """What the extractors make of pictures and clips, each varied a few times, so that films cost little.

    Args:
        extractors: of pictures and of animations.
        items: whose.
        vary: changes pictures and clips a little.
        times: how often.
    """

    @torch.no_grad()
    def __init__(self, extractors: nn.ModuleList, items: np.ndarray, vary: Callable, times: int):
        emoji, where = load_emoji(), next(extractors.parameters()).device
        self.row = torch.full((len(emoji.names),), -1)
        self.row[items] = torch.arange(len(items))
        animation = clips(FRAMES)[moving()[0][items]]
        of_pictures, of_clips = [], []
        for _ in range(times):
            for vendor in VENDORS:
                x = {"picture": pixels(emoji.pictures(vendor)[items]), "animation": animation}
                x = vary(Things(x, {}, self.row[items], self.row[items])).x
                of_pictures.append(extractors[0](x["picture"].to(where))[0])
            of_clips += [extractors[1](y.to(where))[0] for y in (held(x["animation"]), x["animation"])]
        self.pictures = torch.stack(of_pictures).unflatten(0, (times, len(VENDORS)))
        self.clips, self.times = torch.stack(of_clips).unflatten(0, (times, 2)), times

    def seen(self, drawn: Films, generator: torch.Generator) -> Things:
        """Return films as sequences of tokens."""
        of_picture, of_film = torch.randint(self.times, (2, len(drawn.y)), generator=generator)
        picture = self.pictures[of_picture, drawn.vendor, self.row[drawn.item]]
        clips = self.clips[of_film[:, None], drawn.played.long(), self.row[drawn.items]]
        film = clips.flatten(1, 2)
        if drawn.again:
            film = torch.cat([film, self.clips[of_film, 0, self.row[drawn.item]][:, :1]], 1)
        x = {"picture": picture, "animation": film}
        valid = {m: torch.ones(y.shape[:2], dtype=torch.bool) for m, y in x.items()}
        return Things(x, valid, drawn.y, drawn.item)
