"""Chapter 11, small cases: one part of DAM at a time, on handwritten digits, beside what lacks it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.cross_modal import masked_mean
from mmtutor.dam import (
    KINDS,
    CompositionAttention,
    HierarchicalAttention,
    InterAttention,
    LongTermMemory,
    Pool,
    ShortTermMemory,
)
from mmtutor.dtl import BiRNN
from mmtutor.ledger import Figures
from mmtutor.sharing import parameter_count
from mmtutor.training import train

from .attention_tasks import TAGS
from .dam_tasks import CARDS, PAGES, RECENT, Case, case
from .fusion_tasks import examples

DIM, BATCH, RATE, DECAY, TESTED = 64, 64, 3e-3, 0.01, 2000
STEPS = {"cpu": 1500, "gpu": 6000}
CLASSES = {"partner": TAGS, "either": TAGS, "page": 10, "recent": 2, "latest": 10, "neighbours": 2}
KINDS_ASKED = ("content", "place")  # of the case "either"
READERS = {
    "partner": ("mean", "inter"),
    "either": ("additive", "location", "composition"),
    "page": ("mean", "flat", "GRU, flat", "hierarchical"),
    "recent": ("nothing", "short", "long", "GRU"),
    "latest": ("nothing", "short", "long", "GRU"),
    "neighbours": ("forward", "backward", "both"),
}
ROWS = {f"{name}, {kind}": dict(case=name, kind=kind) for name, kinds in READERS.items() for kind in kinds}


def settings(row: str) -> dict:
    """Return a row's settings; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return ROWS[row]


class CardReader(nn.Module):
    """Cards become tokens, a part of DAM or what stands in its place reads them, a small network answers.

    Args:
        name: of the case.
        kind: one of ``READERS[name]``.
        widths: numbers of a digit, by modality.
        dim: ``D``.
    """

    def __init__(self, name: str, kind: str, widths: dict[str, int], dim: int):
        super().__init__()
        self.kind, self.modalities = kind, list(widths)
        self.digit = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
            for width in widths.values()
        )
        self.tag = nn.ModuleList(nn.Embedding(TAGS + 1, dim) for _ in widths)
        make = {
            "inter": lambda: InterAttention(dim, self.modalities),
            "additive": lambda: CompositionAttention(dim, self.modalities, {kind: KINDS[kind]}),
            "location": lambda: CompositionAttention(dim, self.modalities, {kind: KINDS[kind]}),
            "composition": lambda: CompositionAttention(dim, self.modalities),
            "hierarchical": lambda: HierarchicalAttention(dim, self.modalities, CARDS),
            "flat": lambda: Pool(dim),
            "GRU, flat": lambda: nn.ModuleList([BiRNN(dim, dim), Pool(dim)]),
            "short": lambda: ShortTermMemory(dim, RECENT),
            "long": lambda: LongTermMemory(dim),
            "GRU": lambda: BiRNN(dim, dim, bidirectional=False),
            "forward": lambda: BiRNN(dim, dim, bidirectional=False),
            "backward": lambda: BiRNN(dim, dim, bidirectional=False),
            "both": lambda: BiRNN(dim, dim),
        }
        self.part = make[kind]() if kind in make else None
        both = name in ("partner", "recent", "latest")
        self.head = nn.Sequential(
            nn.Linear((1 + both) * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, CLASSES[name])
        )

    def forward(self, seen: Case) -> tuple[Tensor, Tensor | None]:
        """Return logits ``(B, T, C)`` and the weights of the part, if it has any."""
        where = self.head[0].weight.device
        x = {
            m: digit(seen.digits[m].to(where)) + tag(seen.tags[m].to(where))
            for m, digit, tag in zip(self.modalities, self.digit, self.tag, strict=True)
        }
        z, weights = self.read(x)
        return self.head(z if z.ndim == 3 else z[:, None]), weights

    def read(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return what the head reads, ``(B, T, _)`` or ``(B, _)``."""
        first, part = x[self.modalities[0]], self.part
        if self.modalities == ["upper", "lower"]:
            if self.kind == "mean":
                return torch.cat([x["lower"], first.mean(1, keepdim=True).expand_as(x["lower"])], 2), None
            read, weights = part(x)
            return torch.cat([x["lower"], read["lower"]], 2), weights["lower", "upper"]
        if isinstance(part, CompositionAttention):
            contexts, _, mix = part(x)
            return contexts["upper"], mix["upper"]
        if self.modalities == list(PAGES):
            if isinstance(part, HierarchicalAttention):
                return part(x)
            every = torch.cat([*x.values()], 1)
            if self.kind == "mean":
                return masked_mean(every), None
            rnn, pool = part if self.kind == "GRU, flat" else (nn.Identity(), part)
            return pool(rnn(every), torch.ones_like(every[..., 0], dtype=torch.bool))
        if self.kind == "backward":
            return part(first.flip(1)).flip(1), None
        if self.kind in ("forward", "both"):
            return part(first), None
        remembered, weights = torch.zeros_like(first), None
        if self.kind == "GRU":
            remembered = part(first)
        elif part is not None:
            remembered, weights = part(first)
        return torch.cat([first, remembered], 2), weights


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's reader and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights and cards.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: each item gets the answers of another.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, side = runtime.seed_everything(seed), examples("digits", "train")
    widths = {m: x.shape[2] for m, x in case(s["case"], side, 1, generator).digits.items()}
    model = CardReader(s["case"], s["kind"], widths, DIM).to(runtime.device())

    def batch_loss(step: int) -> Tensor:
        seen = case(s["case"], side, BATCH, generator)
        answer = seen.answer.roll(1, 0) if shuffle_pairs else seen.answer
        logits = answers(model, seen)
        return F.cross_entropy(logits[seen.answered], answer[seen.answered].to(logits.device))

    model.history = train(model, batch_loss, STEPS[scale], rate=RATE, weight_decay=DECAY, progress=progress)
    return model


def answers(model: CardReader, seen: Case) -> Tensor:
    """Return logits for each answer, ``(B, T, C)``."""
    logits, turns = model(seen)[0], seen.answer.shape[1]
    return logits if logits.shape[1] == turns else logits[:, -turns:]


def tested(name: str) -> Case:
    """Return what every reader of a case is tested on."""
    return case(name, examples("digits", "test"), TESTED, torch.Generator().manual_seed(0))


@torch.no_grad()
def score(model: CardReader, row: str) -> Figures:
    """Return the accuracy of an item, the share of its answers that are right, and the parameters."""
    name = settings(row)["case"]
    seen = tested(name)
    right = (answers(model, seen).argmax(2).cpu() == seen.answer) & seen.answered
    right = right.sum(1) / seen.answered.sum(1)
    figures = {"parameters": parameter_count(model)}
    if name == "either":
        figures |= {
            f"accuracy, by {k}": right[seen.kind == n].mean().item() for n, k in enumerate(KINDS_ASKED)
        }
    return Figures(figures, outcomes={"accuracy": right.numpy()})


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row)
