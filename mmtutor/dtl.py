r"""The DTL network: two modalities as sequences, a bidirectional network over each, DAM, one predictor.

A picture becomes the tokens of a grid, an animation one token for each frame (:class:`Extractor`); a
recurrent network reads them from both sides (:class:`BiRNN`); the modalities exchange what is redundant and
attend to each other; one predictor reads the picture's code, the animation's and that of both
(:class:`DTLNetwork`).
"""

import copy
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from mmtutor.contrastive import check_positive, info_nce
from mmtutor.cross_modal import Masks, Tokens, _clean, masked_mean
from mmtutor.dam import DAM, PARTS, FeatureExchange

CELLS = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


# What each modality is made of


def residual_body(width: int = 16, channels: int = 6) -> nn.Sequential:
    r"""A small ResNet of torchvision's blocks: ``(N, channels, 32, 32)`` -> ``(N, 4 * width, 4, 4)``.

    Each block adds what it has found to what it was given, :math:`y=\mathrm{relu}(x+f(x))`. Norms are over
    groups of channels, so that no picture has an influence on another one.

    Args:
        width: channels of the first layer, a multiple of 4.
        channels: of a picture.

    Source:
        He, Zhang, Ren and Sun (2016); Wu and He (2018) for the norm.

    Example:
        >>> residual_body(width=4)(torch.zeros(2, 6, 32, 32)).shape
        torch.Size([2, 16, 4, 4])
    """

    def norm(channels: int) -> nn.GroupNorm:
        return nn.GroupNorm(4, channels)

    def block(n_in: int, n_out: int) -> BasicBlock:
        shorter = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=2, bias=False), norm(n_out))
        return BasicBlock(n_in, n_out, stride=2, downsample=shorter, norm_layer=norm)

    first = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(first, norm(width), nn.ReLU(), block(width, 2 * width), block(2 * width, 4 * width))


def pretrained_body(name: str = "resnet18") -> nn.Sequential:
    r"""A network of torchvision that has learnt from photographs: ``(N, C, 32, 32)`` -> ``(N, F, 4, 4)``.

    The first three channels are enlarged twice, put on the scale that it learnt with, and read by its stem
    and the first three of its stages. Weights are loaded from the network where torch keeps no copy of them.

    Args:
        name: of a ResNet in torchvision.

    Raises:
        ValueError: for another name.
        OSError: if the weights are not here and cannot be loaded; it says where they were looked for.

    Source:
        He, Zhang, Ren and Sun (2016).
    """
    if not name.startswith("resnet") or name not in torchvision.models.list_models():
        known = [model for model in torchvision.models.list_models() if model.startswith("resnet")]
        raise ValueError(f"name: expected one of {', '.join(known)}; found {name!r}")
    try:
        net = torchvision.models.get_model(name, weights="DEFAULT")
    except (OSError, RuntimeError) as error:  # no network; a file that is not what it should be
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise OSError(f"weights of {name}: not in {folder}, and loading them failed: {error}") from error
    stem = [net.conv1, net.bn1, net.relu, net.maxpool]
    return nn.Sequential(AsPhotograph(), *stem, net.layer1, net.layer2, net.layer3)


class AsPhotograph(nn.Module):
    """The first three channels of a picture, from -1 to 1, as networks of torchvision expect a photograph."""

    MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def forward(self, x: Float[Tensor, "batch channels 32 32"]) -> Float[Tensor, "batch 3 64 64"]:
        mean, spread = (x.new_tensor(values)[:, None, None] for values in (self.MEAN, self.SPREAD))
        x = F.interpolate(x[:, :3], scale_factor=2, mode="bilinear")
        return ((x + 1) / 2 - mean) / spread


class Extractor(nn.Module):
    r"""Tokens of a picture, one for each place of a grid, or of an animation, one for each frame.

    A convolutional body makes maps; a linear map reads each place of a picture's map, and another one the
    whole map of a frame. A learnt vector for each place is added to a picture's tokens. Only what is real
    passes the body: padding costs nothing and changes nothing, not even a norm over the batch.

    Args:
        dim: ``D``, width of a token.
        body: ``(N, C, 32, 32)`` -> ``(N, F, h, w)``.
        channels: ``C``. A picture of three channels is filled up with zeros: nothing changes in it.

    Shapes: a picture ``(B, C, 32, 32)`` -> tokens ``(B, h * w, D)`` and valid ``(B, h * w)``; an animation
    ``(B, L, C, 32, 32)`` -> tokens ``(B, L, D)`` and valid ``(B, L)``. ``valid``, bool ``(B,)`` or ``(B, L)``
    (by default all): which are real; the tokens of others are zero.

    Raises:
        ValueError: (the call) for other shapes, or a mask that is not bool.
        TypeError: (the call) for pictures that are not floats.

    Example:
        >>> extract = Extractor(8, residual_body(width=4))
        >>> tokens, valid = extract(torch.zeros(2, 3, 32, 32))
        >>> frames, real = extract(torch.zeros(2, 8, 6, 32, 32))
        >>> tokens.shape, frames.shape
        (torch.Size([2, 16, 8]), torch.Size([2, 8, 8]))
    """

    def __init__(self, dim: int, body: nn.Module, channels: int = 6):
        super().__init__()
        check_positive("dim", dim)
        with torch.no_grad():
            probe = copy.deepcopy(body).eval().cpu().float()  # the body stays in the mode it is in
            features, *grid = probe(torch.zeros(1, channels, 32, 32)).shape[1:]
        self.dim, self.body, self.channels, self.grid = dim, body, channels, grid
        self.place, self.whole = nn.Linear(features, dim), nn.Linear(features * grid[0] * grid[1], dim)
        self.positions = nn.Parameter(0.02 * torch.randn(grid[0] * grid[1], dim))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if (
            x.ndim not in (4, 5)
            or x.shape[-3] not in (min(3, self.channels), self.channels)
            or x.shape[-2:] != (32, 32)
        ):
            shape = f"(B, {self.channels}, 32, 32) or (B, L, {self.channels}, 32, 32)"
            raise ValueError(f"picture or animation: expected shape {shape}, found {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"picture or animation: expected floats, found {x.dtype}")
        shape = x.shape[:-3]
        valid = torch.ones(shape, dtype=torch.bool, device=x.device) if valid is None else valid
        if valid.dtype != torch.bool or valid.shape != shape:
            raise ValueError(
                f"valid: expected bool of shape {tuple(shape)}, found {valid.dtype} of {tuple(valid.shape)}"
            )
        real = x.flatten(0, -4) if valid.all() else x[valid]
        real = F.pad(real, (0, 0, 0, 0, 0, self.channels - x.shape[-3]))
        if x.ndim == 5:
            found = self.whole(self._maps(real).flatten(1))
        else:
            found = self.place(self._maps(real).flatten(2).mT) + self.positions
            valid = valid[:, None].expand(-1, len(self.positions))
        tokens = found.new_zeros(*valid.shape, self.dim)
        tokens[valid] = found.flatten(0, -2)
        return tokens, valid

    def _maps(self, real: Tensor) -> Tensor:
        if len(real):
            return self.body(real)
        return real.new_zeros(0, self.place.in_features, *self.grid)


# From both sides


class BiRNN(nn.Module):
    r"""A recurrent network that reads a sequence from both sides.

    .. math:: \overrightarrow h_t=f(\overrightarrow h_{t-1},x_t),\qquad
              \overleftarrow h_t=\overleftarrow f(\overleftarrow h_{t+1},x_t),\qquad
              h_t=[\overrightarrow h_t;\overleftarrow h_t]

    The forward half knows nothing of what comes later, the backward half nothing of what came before. Padding
    is passed over, wherever it stands: results are those of the real steps alone.

    Args:
        in_dim: width of a step.
        dim: ``2H``, width of what comes out; with one direction ``H``.
        cell: a key of ``CELLS``.
        bidirectional: whether it reads from both sides.

    Shapes: x ``(B, L, in_dim)``, valid, bool ``(B, L)`` -> ``(B, L, dim)``, zero at padding. The first ``H``
    columns are the forward half.

    Raises:
        ValueError: for an unknown cell, or an odd width with two directions; (the call) for other shapes.

    Source:
        Schuster and Paliwal (1997); Hochreiter and Schmidhuber (1997) for the LSTM, Cho et al. (2014) for the
        GRU.

    Example:
        >>> rnn, x = BiRNN(4, 6), torch.randn(2, 5, 4)
        >>> later = torch.cat([x[:, :3], torch.randn(2, 2, 4)], 1)
        >>> same = rnn(x)[:, :3] == rnn(later)[:, :3]
        >>> same[..., :3].all(), same[..., 3:].any()
        (tensor(True), tensor(False))
    """

    def __init__(self, in_dim: int, dim: int, cell: str = "GRU", bidirectional: bool = True):
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell: expected one of {', '.join(CELLS)}; found {cell!r}")
        if bidirectional and dim % 2:
            raise ValueError(f"dim: expected an even number for two directions, found {dim}")
        self.in_dim, self.dim = in_dim, dim
        self.hidden = dim // 2 if bidirectional else dim
        self.rnn = CELLS[cell](in_dim, self.hidden, batch_first=True, bidirectional=bidirectional)

    def forward(
        self, x: Float[Tensor, "batch length in_dim"], valid: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        x, valid = _clean("x", x, valid, self.in_dim)
        if valid.all() and x.shape[1] > 0:
            return self.rnn(x)[0]
        if not valid.any():
            return x.new_zeros(*x.shape[:2], self.dim)
        order = valid.argsort(dim=1, descending=True, stable=True)[..., None]  # real steps first
        count = valid.sum(1).clamp(min=1).cpu()  # an empty sequence reads one step of zeros, which is dropped
        packed = nn.utils.rnn.pack_padded_sequence(
            x.gather(1, order.expand_as(x)), count, batch_first=True, enforce_sorted=False
        )
        read, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], True, total_length=x.shape[1])
        back = torch.empty_like(read).scatter(1, order.expand_as(read), read)
        return torch.where(valid[..., None], back, 0)


# The whole


@dataclass
class DTLOutput:
    """What a :class:`DTLNetwork` says of a batch.

    Attributes:
        logits: of both modalities together, ``(B, C)``.
        modality_logits: of each by itself, by the same predictor, ``(B, C)``.
        weights: of the exchange (``"exchange"``) and of each part of DAM.
        code: what the predictor reads of both, ``(B, D)``.
        codes: what it reads of each, ``(B, D)``.
        here: which items have the modality at all, bool ``(B,)``.
    """

    logits: Float[Tensor, "batch classes"]
    modality_logits: dict[str, Float[Tensor, "batch classes"]]
    weights: dict
    code: Float[Tensor, "batch dim"]
    codes: dict[str, Float[Tensor, "batch dim"]]
    here: dict[str, Bool[Tensor, "batch"]]


class DTLNetwork(nn.Module):
    r"""Two modalities, a recurrent network over each, exchange, DAM, and one predictor for all codes.

    .. math:: h_m=\mathrm{BiRNN}_m(\mathrm{extract}_m(x_m)),\qquad
              z=\mathrm{DAM}(\mathrm{exchange}(h_1,h_2),\overrightarrow h_1,\overrightarrow h_2),\qquad
              z_m=W_m\bar h_m+w_m

    with the mean :math:`\bar h_m` of the real tokens; the predictor gives logits of :math:`z`, :math:`z_1`
    and :math:`z_2`. Memories read forward states from before the exchange, which mixes in later steps.

    Args:
        extractors: for each modality what makes tokens ``(B, L, D_in)`` and their mask of it, and of a mask.
            One module may stand for both.
        in_dims: width of the tokens of each.
        dim: ``D``.
        classes: number of answers.
        cell: see :class:`BiRNN`; None leaves the recurrent networks out.
        bidirectional: see :class:`BiRNN`.
        exchange: ``"soft"``, ``"hard"`` or None, see :class:`~mmtutor.dam.FeatureExchange`.
        parts: of :class:`~mmtutor.dam.DAM`.
        share_rnn: one recurrent network for both modalities; their tokens must have one width.
        share_predictor: one predictor for all three codes.
        **dam: further settings of :class:`~mmtutor.dam.DAM`.

    Shapes: inputs by modality, as its extractor expects; valid, by modality, as its extractor expects (a
    modality left out: all are real); off: see :class:`~mmtutor.dam.DAM` -> :class:`DTLOutput`.

    Raises:
        ValueError: for other than two modalities, or widths that cannot be shared; (the call) for modalities
            that are missing or unknown.

    Example:
        >>> extractors = {m: Extractor(8, residual_body(4)) for m in ("picture", "animation")}
        >>> model = DTLNetwork(extractors, {"picture": 8, "animation": 8}, dim=8, classes=4)
        >>> out = model({"picture": torch.zeros(2, 3, 32, 32), "animation": torch.zeros(2, 8, 6, 32, 32)})
        >>> out.logits.shape, list(out.modality_logits)
        (torch.Size([2, 4]), ['picture', 'animation'])
        >>> list(out.weights)
        ['exchange', 'inter', 'composition', 'mix', 'hierarchical', 'short', 'long']
    """

    def __init__(
        self,
        extractors: dict[str, nn.Module],
        in_dims: dict[str, int],
        dim: int,
        classes: int,
        *,
        cell: str | None = "GRU",
        bidirectional: bool = True,
        exchange: str | None = "soft",
        parts: Collection[str] = PARTS,
        share_rnn: bool = False,
        share_predictor: bool = True,
        **dam,
    ):
        super().__init__()
        self.modalities, self.classes = list(extractors), classes
        if len(extractors) != 2 or list(in_dims) != self.modalities:
            raise ValueError(f"extractors: expected two, as in_dims {in_dims}; found {self.modalities}")
        if exchange not in ("soft", "hard", None):
            raise ValueError(f"exchange: expected soft, hard or None; found {exchange!r}")
        widths = list(in_dims.values())
        if share_rnn and widths[0] != widths[1]:
            raise ValueError(f"share_rnn: expected tokens of one width, found {in_dims}")
        self.extractors = nn.ModuleList(extractors.values())
        make = Reading if cell is None else BiRNN
        rnns = [make(n, dim, cell, bidirectional) for n in widths[: 1 if share_rnn else 2]]
        self.rnns = nn.ModuleList(rnns * 2 if share_rnn else rnns)
        both = dict.fromkeys(self.modalities, dim)
        self.exchange = FeatureExchange(both, dim, hard=exchange == "hard") if exchange else None
        self.dam = DAM(dim, self.modalities, state_dim=self.rnns[0].hidden, parts=parts, **dam)
        self.own = nn.ModuleList(nn.Linear(dim, dim) for _ in self.modalities)
        head = nn.Sequential(nn.LayerNorm(dim), nn.GELU(), nn.Linear(dim, classes))
        self.predictors = nn.ModuleList(head if share_predictor else copy.deepcopy(head) for _ in range(3))

    def tokens(
        self, inputs: dict[str, Tensor], valid: dict[str, Tensor] | None = None
    ) -> tuple[Tokens, Masks]:
        """Return what the recurrent networks make of each modality, and which steps are real."""
        valid = {} if valid is None else valid
        if sorted(inputs) != sorted(self.modalities):
            raise ValueError(f"inputs: expected the modalities {self.modalities}, found {list(inputs)}")
        if unknown := [m for m in valid if m not in self.modalities]:
            raise ValueError(f"valid: expected some of {self.modalities}, found {unknown}")
        found, here = {}, {}
        for m, extract, rnn in zip(self.modalities, self.extractors, self.rnns, strict=True):
            x, here[m] = extract(inputs[m], valid.get(m))
            found[m] = rnn(x, here[m])
        return found, here

    def forward(
        self,
        inputs: dict[str, Tensor],
        valid: dict[str, Tensor] | None = None,
        off: Collection[str] = (),
    ) -> DTLOutput:
        h, valid = self.tokens(inputs, valid)
        states = {m: h_m[..., : self.rnns[0].hidden] for m, h_m in h.items()}
        codes = {m: own(masked_mean(h[m], valid[m])) for m, own in zip(h, self.own, strict=True)}
        weights = {}
        if self.exchange is not None:
            h, weights["exchange"] = self.exchange(h, valid)
        code, found = self.dam(h, valid, states, off)
        logits, *own_logits = (
            head(z) for head, z in zip(self.predictors, [code, *codes.values()], strict=True)
        )
        here = {m: valid_m.any(1) for m, valid_m in valid.items()}
        modality_logits = dict(zip(codes, own_logits, strict=True))
        return DTLOutput(logits, modality_logits, weights | found, code, codes, here)


class Reading(nn.Linear):
    """In place of a recurrent network: each token for itself."""

    def __init__(self, in_dim: int, dim: int, *_):
        super().__init__(in_dim, dim)
        self.hidden = dim

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x, valid = _clean("x", x, valid, self.in_features)
        return torch.where(valid[..., None], super().forward(x), 0)


def dual_task_loss(
    output: DTLOutput,
    y: Int64[Tensor, "batch"],
    *,
    own: float = 0.3,
    align: float = 0.0,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    r"""The loss of a network with one predictor for two modalities.

    .. math:: L=L_{12}+\eta(L_1+L_2)+\lambda L_{\text{align}}

    with the cross-entropies of the logits of both together and of each, over the items that have it, and
    chapter 06's loss between the codes of both.

    Args:
        output: of a :class:`DTLNetwork`.
        y: the right class, ``(B,)``.
        own: :math:`\eta`.
        align: :math:`\lambda`.
        temperature: of the last term.

    Example:
        >>> code, here = torch.zeros(2, 4), torch.ones(2, dtype=torch.bool)
        >>> logits = torch.zeros(2, 8)
        >>> out = DTLOutput(logits, {"a": logits}, {}, code, {"a": code}, {"a": here})
        >>> dual_task_loss(out, torch.tensor([1, 2]), own=1.0)  # twice the logarithm of 8
        tensor(4.1589)
    """
    loss = F.cross_entropy(output.logits, y)
    for m, logits in output.modality_logits.items():
        if own and output.here[m].any():
            loss = loss + own * F.cross_entropy(logits[output.here[m]], y[output.here[m]])
    if align:
        both = torch.stack([*output.here.values()]).all(0)
        if both.sum() > 1:
            loss = loss + align * info_nce(*(z[both] for z in output.codes.values()), temperature)
    return loss
