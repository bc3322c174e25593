"""Chapter 11's models: the DTL network with parts on and off, and what is simpler."""

import torch
from torch import Tensor, nn

from mmtutor import fusion
from mmtutor.cross_modal import CrossModalTransformer, masked_mean
from mmtutor.dam import last_real
from mmtutor.dtl import BiRNN, DTLNetwork, DTLOutput, Extractor, Reading, residual_body

from .dtl_tasks import MODALITIES

POOLS = ("mean", "max", "last")


def extractors(dim: int, width: int, shared: bool) -> dict[str, nn.Module]:
    """Return what makes tokens of each modality; one module for both if they share it."""
    made = [Extractor(dim, residual_body(width)) for _ in MODALITIES[: 1 if shared else 2]]
    return dict(zip(MODALITIES, made * 2 if shared else made, strict=True))


def masked_max(x: Tensor, valid: Tensor) -> Tensor:
    """Return the largest value of each column over the real tokens; zeros if there are none.

    Example:
        >>> x = torch.tensor([[[1.0, -3.0], [9.0, 9.0]], [[1.0, 2.0], [3.0, 4.0]]])
        >>> masked_max(x, torch.tensor([[True, False], [False, False]]))
        tensor([[ 1., -3.],
                [ 0.,  0.]])
    """
    largest = torch.where(valid[..., None], x, -torch.inf).amax(1)
    return torch.where(valid.any(1, keepdim=True), largest, 0)


class Pooled(nn.Module):
    """Tokens of each modality become one vector, by a pool; a fuser joins the two, and a predictor answers.

    Args:
        dim: ``D``.
        width: of the extractors.
        classes: number of answers.
        cell: of a recurrent network over the tokens, see `BiRNN`, or None.
        pool: one of ``POOLS``.
        join: ``"concat"`` or ``"low-rank"`` of the two vectors, ``"cross-modal Transformer"`` of the tokens.
        bidirectional: see `BiRNN`.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        classes: int,
        *,
        cell: str | None = None,
        pool: str = "mean",
        join: str = "concat",
        bidirectional: bool = True,
    ):
        super().__init__()
        self.pool, dims = pool, dict.fromkeys(MODALITIES, dim)
        self.extractors = nn.ModuleList(extractors(dim, width, False).values())
        make = Reading if cell is None else BiRNN
        self.rnns = nn.ModuleList(make(dim, dim, cell, bidirectional) for _ in MODALITIES)
        fuse = fusion.LowRankFusion if join == "low-rank" else fusion.ConcatFusion
        self.fuser = fuse(dims, dim)
        crosses = join == "cross-modal Transformer"
        self.cross = CrossModalTransformer(dim, MODALITIES) if crosses else None
        self.own = nn.ModuleDict({m: nn.Linear(dim, dim) for m in MODALITIES})
        self.predictor = nn.Sequential(nn.LayerNorm(dim), nn.GELU(), nn.Linear(dim, classes))

    def forward(self, inputs: dict[str, Tensor], valid: dict[str, Tensor] | None = None) -> DTLOutput:
        h, here = self.tokens(inputs, valid)
        codes = {m: self.own[m](self.summary(h[m], here[m])) for m in MODALITIES}
        if self.cross is not None:
            h, _ = self.cross(h, here)
        present = torch.stack([here[m].any(1) for m in MODALITIES], 1)
        code, _ = self.fuser({m: self.summary(h[m], here[m]) for m in MODALITIES}, present)
        own_logits = {m: self.predictor(z) for m, z in codes.items()}
        present = dict(zip(MODALITIES, present.T, strict=True))
        return DTLOutput(self.predictor(code), own_logits, {}, code, codes, present)

    def tokens(self, inputs: dict[str, Tensor], valid: dict[str, Tensor] | None = None):
        """Return what the recurrent networks make of each modality, and which steps are real."""
        h, here = {}, {}
        for m, extract, rnn in zip(MODALITIES, self.extractors, self.rnns, strict=True):
            x, here[m] = extract(inputs[m], (valid or {}).get(m))
            h[m] = rnn(x, here[m])
        return h, here

    def summary(self, h: Tensor, valid: Tensor) -> Tensor:
        """Return one vector of the tokens."""
        return {"mean": masked_mean, "max": masked_max, "last": last_real}[self.pool](h, valid)


def network(s: dict, dim: int, width: int, classes: int) -> nn.Module:
    """Return the untrained model of a row's settings."""
    if s["kind"] == "pooled":
        more = {name: s[name] for name in ("cell", "pool", "join", "bidirectional")}
        return Pooled(dim, width, classes, **more)
    more = {
        name: s[name]
        for name in ("cell", "bidirectional", "exchange", "parts", "share_rnn", "share_predictor")
    }
    return DTLNetwork(
        extractors(dim, width, s["share_extractor"]),
        dict.fromkeys(MODALITIES, dim),
        dim,
        classes,
        segment=4,
        timed=["animation"],
        **more,
    )


class Ensemble(nn.Module):
    """Several models; the mean of their logarithms of probabilities."""

    def __init__(self, models: list[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, inputs: dict[str, Tensor], valid: dict[str, Tensor] | None = None) -> DTLOutput:
        outs = [model(inputs, valid) for model in self.models]
        logits = torch.stack([out.logits.log_softmax(1) for out in outs]).mean(0)
        own = {
            m: torch.stack([out.modality_logits[m].log_softmax(1) for out in outs]).mean(0)
            for m in MODALITIES
        }
        return DTLOutput(logits, own, {}, outs[0].code, outs[0].codes, outs[0].here)
