"""Chapter 01: maps into one space and maps out of it, each trained alone, or all together.

In: a picture, an animation, a name. Out: the group of a thing, the hand that drew it, how it moves, a word of
its name; and which name belongs to which picture. Everything is tested on things never seen.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.augment import random_affine
from mmtutor.contrastive import info_nce, unit
from mmtutor.data import load_emoji, split
from mmtutor.encoders import ImageEncoder, TextEncoder, pixels
from mmtutor.ledger import Figures
from mmtutor.metrics import hits_at_k
from mmtutor.training import train

from . import mapping_baselines as baselines

DIM, BATCH, TEMPERATURE = 128, 128, 0.1
STEPS = {"cpu": 800, "gpu": 4000}
WIDTH = {"cpu": 32, "gpu": 96}
RATE, DECAY, DROPOUT = 4e-3, 0.1, 0.3  # steps, rate and dropout were chosen on the validation things
PRESENT = 0.6  # in training each modality reaches the heads this often, so that they learn to do without

MODALITIES = {"image": "picture", "video": "animation", "text": "name"}
TASKS = ("group", "style", "motion", "word")
SUBSETS = (("image",), ("video",), ("text",), ("image", "text"), ("image", "video"), ("video", "text"))
SUBSETS += (("image", "video", "text"),)

ROWS = {
    "all maps": dict(inputs=tuple(MODALITIES), tasks=TASKS, partner=True),
    "all maps, longer": dict(inputs=tuple(MODALITIES), tasks=TASKS, partner=True, longer=2.5),
    # one field of the two at a time
    "one modality, many tasks": dict(inputs=("image",), tasks=("group", "style", "word")),
    "many modalities, one task": dict(inputs=tuple(MODALITIES), tasks=("group",)),
    # each map alone, as many steps
    "picture → group": dict(inputs=("image",), tasks=("group",)),
    "picture → style": dict(inputs=("image",), tasks=("style",)),
    "picture → word": dict(inputs=("image",), tasks=("word",)),
    "animation → motion": dict(inputs=("video",), tasks=("motion",)),
    "name → group": dict(inputs=("text",), tasks=("group",)),
    "picture → name": dict(inputs=("image", "text"), tasks=(), partner=True),
    # what needs no deep map, and the control
    "largest class": dict(deterministic=True, baseline="largest"),
    "linear": dict(deterministic=True, baseline="linear"),
    "all maps, shuffled": dict(inputs=tuple(MODALITIES), tasks=TASKS, partner=True, shuffle=True),
}


def settings(row: str) -> dict:
    """Return a row's settings; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return ROWS[row]


def moving_pixels(videos) -> Tensor:
    """Return each pixel's mean and stillness over time: ``(N, L, 32, 32, 3)`` uint8 to ``(N, 6, 32, 32)``."""
    x = pixels(videos)
    return torch.cat([x.mean(1), 1 - 4 * x.std(1)], 1)


def words_of(name: str) -> set[str]:
    """Return the words of a name, in small letters."""
    return set(name.lower().replace(":", " ").replace("-", " ").split())


def vocabulary() -> list[str]:
    """Return the words that the names of three families or more of the training things have."""
    emoji, families = load_emoji(), {}
    for i in split("emoji-things").train:
        for word in words_of(emoji.names[i]):
            families.setdefault(word, set()).add(emoji.family[i])
    return sorted(word for word, found in families.items() if len(found) >= 3)


class Drawings:
    """All drawings of some things: what there is to see of each, and what is true of it.

    Args:
        items: indices of things; ``"style"`` and which thing it is follow from the drawing.

    Attributes:
        item, style: of each of the B drawings, ``(B,)``.
        targets: task to right answers, ``(B,)`` with -1 where none is known; ``"word"``: ``(B, W)``, 0 or 1.
    """

    def __init__(self, items: np.ndarray):
        emoji, words = load_emoji(), vocabulary()
        self.style, k = np.nonzero(emoji.present[:, items])
        self.item = items[k]
        video = np.full(len(emoji.names), -1)
        video[emoji.video_item] = np.arange(len(emoji.video_item))
        self.video = torch.tensor(video[self.item])
        self.names = [emoji.names[i] for i in self.item]
        self.images = torch.tensor(emoji.images[self.style, self.item])
        self.videos = moving_pixels(emoji.videos)
        self.targets = {
            "group": torch.tensor(emoji.group[self.item]),
            "style": torch.tensor(self.style),
            "motion": torch.where(self.video >= 0, torch.tensor(emoji.motion)[self.video], -1),
            "word": torch.tensor([[w in words_of(name) for w in words] for name in self.names]).float(),
        }

    def known(self, task: str) -> Tensor:
        """Return of which drawings the answer is known, bool ``(B,)``."""
        target = self.targets[task]
        return target.any(1) if task == "word" else target >= 0

    def inputs(self, rows: Tensor, modalities) -> tuple[dict, Tensor]:
        """Return what the maps are given of some drawings, and which modalities those have, ``(B, M)``."""
        x, valid = {}, torch.ones(len(rows), len(modalities), dtype=torch.bool)
        for k, m in enumerate(modalities):
            if m == "image":
                x[m] = pixels(self.images[rows])
            elif m == "text":
                x[m] = [self.names[i] for i in rows]
            else:  # not everything moves
                x[m], valid[:, k] = self.videos[self.video[rows]], self.video[rows] >= 0
        return x, valid


class OneSpace(nn.Module):
    r"""Maps into one space, maps out of it, :math:`q_t\circ\phi(f_1,\dots,f_M)`.

    Fusion is the plainest there is: :math:`\phi` is the mean of the unit vectors of what is present.

    Args:
        inputs: the modalities, among image, video and text.
        tasks: the tasks, among group, style, motion and word.
        width: of the picture encoders.

    Example:
        >>> model = OneSpace(("image", "text"), ("group",), width=8)
        >>> z = model.points({"image": torch.zeros(2, 3, 32, 32), "text": ["red apple", "snow"]})
        >>> model.answers(z, torch.ones(2, 2, dtype=torch.bool))["group"].shape
        torch.Size([2, 8])
    """

    def __init__(self, inputs, tasks, width: int = 32):
        super().__init__()
        emoji = load_emoji()
        make = {
            "image": lambda: ImageEncoder(DIM, width),
            "video": lambda: ImageEncoder(DIM, width, channels=6),
            "text": lambda: TextEncoder(DIM, dropout=DROPOUT),
        }
        classes = {"group": len(emoji.group_names), "style": len(emoji.styles)}
        classes |= {"motion": len(emoji.motion_names), "word": len(vocabulary())}
        self.f = nn.ModuleDict({m: make[m]() for m in inputs})
        self.q = nn.ModuleDict({t: nn.Linear(DIM, classes[t]) for t in tasks})

    def points(self, x: dict) -> dict[str, Tensor]:
        """Map each modality into the space: unit vectors ``(B, D)``."""
        return {m: unit(self.f[m](x[m])) for m in self.f}

    def answers(self, z: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        """Fuse the points of the modalities that are ``valid`` ``(B, M)`` and ask each task: ``(B, C)``."""
        stacked = torch.where(valid[:, :, None], torch.stack([*z.values()], 1), 0)
        phi = stacked.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        return {t: q(phi / TEMPERATURE) for t, q in self.q.items()}


def task_loss(task: str, scores: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return a task's loss over the drawings whose answer is known; zero where none is."""
    if not known.any():
        return 0 * scores.sum()
    if task == "word":  # several words may be right: each is a yes or no; ten of them weigh like one choice
        return 10 * F.binary_cross_entropy_with_logits(scores[known], target[known])
    return F.cross_entropy(scores[known], target[known])


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's maps together and return them.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches and augmentation.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: drawings get each other's names and answers before training.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row, or pairs shuffled where nothing is trained.
    """
    s, scale = settings(row), scale or runtime.scale()
    drawings, where = Drawings(split("emoji-things").train), runtime.device()
    if s.get("baseline"):
        if shuffle_pairs:
            raise ValueError(f"shuffle_pairs: expected a row that is trained, found {row!r}")
        return baselines.fit(s["baseline"], drawings)
    generator = runtime.seed_everything(seed)
    if shuffle_pairs or s.get("shuffle"):
        mixed = torch.randperm(len(drawings.item), generator=generator)
        drawings.names = [drawings.names[i] for i in mixed]
        drawings.targets = {t: y[mixed] for t, y in drawings.targets.items()}
    known = {t: drawings.known(t) for t in s["tasks"]}
    model = OneSpace(s["inputs"], s["tasks"], WIDTH[scale]).to(where)
    steps = int(STEPS[scale] * s.get("longer", 1))

    def loss(step):
        rows = torch.randint(len(drawings.item), (BATCH,), generator=generator)
        x, valid = drawings.inputs(rows, s["inputs"])
        x = {m: v if m == "text" else random_affine(v, generator=generator).to(where) for m, v in x.items()}
        z = model.points(x)
        total = info_nce(z["image"], z["text"], TEMPERATURE) if s.get("partner") else 0
        present = valid & (torch.rand(valid.shape, generator=generator) < PRESENT)
        present = torch.where(present.any(1, keepdim=True), present, valid)
        for t, scores in model.answers(z, present.to(where)).items():
            seen = (known[t][rows] & present.any(1)).to(where)
            total = total + task_loss(t, scores, drawings.targets[t][rows].to(where), seen)
        return total

    model.history = train(model, loss, steps, rate=RATE, weight_decay=DECAY, progress=progress)
    return model


@torch.no_grad()
def answer(model: OneSpace, drawings: Drawings) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Map drawings all the way.

    Returns:
        The points of each modality ``(B, D)``; and for each subset of modalities and each task, as in
        ``"picture, name → group"``, the scores ``(B, C)``.
    """
    x, valid = drawings.inputs(torch.arange(len(drawings.item)), tuple(model.f))
    where = next(model.parameters()).device
    z = model.points({m: v if m == "text" else v.to(where) for m, v in x.items()})
    scores = {}
    for subset in SUBSETS:
        if set(subset) <= set(model.f):
            given = ", ".join(MODALITIES[m] for m in subset)
            kept = valid & torch.tensor([m in subset for m in model.f])
            for t, found in model.answers(z, kept.to(where)).items():
                scores[f"{given} → {t}"] = found.cpu()
    return {m: points.cpu() for m, points in z.items()}, scores


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train one row and test it on the drawings of things never seen.

    Returns:
        The accuracy of each map, such as ``"picture, name → group"``, over the drawings that have those
        modalities and a known answer (``word``: the word with the highest score is in the name); recall at 1
        of the names of all test things, for their Noto drawings; with the outcome of every drawing.
    """
    model = fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs)
    drawings = Drawings(split("emoji-things").test)
    z, scores = answer(model, drawings) if isinstance(model, OneSpace) else ({}, model.scores(drawings))
    family, outcomes, groups = load_emoji().family[drawings.item], {}, {}
    for name, found in scores.items():
        given, task = name.split(" → ")
        asked = drawings.known(task)
        if "animation" in given or task == "motion":
            asked &= drawings.video >= 0
        best, target = found.argmax(1), drawings.targets[task]
        hit = target.gather(1, best[:, None])[:, 0] > 0 if task == "word" else best == target
        outcomes[name], groups[name] = hit[asked].double().numpy(), family[asked]
    if settings(row).get("partner"):
        noto = torch.tensor(drawings.style == load_emoji().styles.index("noto"))
        name = "picture → name R@1"
        outcomes[name] = hits_at_k(z["image"][noto] @ z["text"][noto].T, 1).numpy()
        groups[name] = family[noto]
    figures = {name: float(hits.mean()) for name, hits in outcomes.items()}
    if isinstance(model, OneSpace):
        figures["parameters"] = float(sum(p.numel() for p in model.parameters()))
    return Figures(figures, outcomes=outcomes, groups=groups)
