"""Chapter 02: which augmentation helps which task, with baselines and changes that break a task on purpose.

Three tasks, all tested on things never seen. ``group``: which of eight groups a thing belongs to, from its
picture (learnt from one hand's drawings). ``style``: whose hand drew it. ``motion``: how an animation moves.
A row is a task and what is changed in its training data; the same network, the same number of steps.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor, nn

from mmtutor import augment, runtime
from mmtutor.data import load_emoji, split
from mmtutor.encoders import ImageEncoder, pixels
from mmtutor.ledger import Figures
from mmtutor.training import train

from . import augmentation_baselines as baselines

STEPS = {  # the same for all rows of a task; style has the most pictures to learn from
    "cpu": {"group": 600, "style": 1200, "motion": 600},
    "gpu": {"group": 3000, "style": 6000, "motion": 3000},
}
WIDTH = {"cpu": 16, "gpu": 64}
BATCH, DIM, RATE, DECAY = 64, 64, 3e-3, 0.05  # chosen with the validation things, one choice for all rows
HAND = "noto"  # whose drawings the task "group" is learnt from


def affine(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move each picture, or each clip as a whole."""
    if x.ndim == 5:
        return augment.frames_alike(augment.random_affine, x, generator=generator)
    return augment.random_affine(x, generator=generator)


def affine_each_frame(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move each frame by its own amount: the classic bug, since the clip then moves as it never did."""
    return augment.random_affine(x.flatten(0, 1), generator=generator).unflatten(0, x.shape[:2])


def ink(x: Tensor, generator: torch.Generator) -> Tensor:
    """Recolour each picture, or each clip as a whole."""
    if x.ndim == 5:
        return augment.frames_alike(augment.random_ink, x, generator=generator)
    return augment.random_ink(x, generator=generator)


def masked_frames(x: Tensor, generator: torch.Generator) -> Tensor:
    """Hide frames: where one is hidden, the mean of the others stands, which tells of no motion."""
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    kept = augment.mask_present(valid, at_least=4, generator=generator)[:, :, None, None, None]
    mean = torch.where(kept, x, 0).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
    return torch.where(kept, x, mean)


def sampled_frames(x: Tensor, generator: torch.Generator) -> Tensor:
    """Keep four of eight frames in their order, each shown twice."""
    return augment.sample_frames(x, 4, generator=generator).repeat_interleave(2, 1)


# What is done to the pictures or clips of a batch; "balanced sample" and "another hand" choose what is in it.
CHANGES = {
    "mirror": augment.random_mirror,
    "affine": affine,
    "ink": ink,
    "crop": augment.random_crop,
    "masked patches": augment.mask_patches,
    "quarter turn": augment.random_quarter_turn,
    "masked frames": masked_frames,
    "sampled frames": sampled_frames,
    "reversed time": augment.reverse_time,
    "affine, frame by frame": affine_each_frame,
}
ROWS = {  # "best together": of two to four combinations of what helped alone, the best with validation things
    # which group, learnt from one hand's drawings
    "group, largest class": dict(task="group", baseline="largest class", deterministic=True),
    "group, nearest pixels": dict(task="group", baseline="nearest pixels", deterministic=True),
    "group, statistics": dict(task="group", baseline="statistics", deterministic=True),
    "group, none": dict(task="group", changes=()),
    "group, mirror": dict(task="group", changes=("mirror",)),
    "group, affine": dict(task="group", changes=("affine",)),
    "group, ink": dict(task="group", changes=("ink",)),
    "group, crop": dict(task="group", changes=("crop",)),
    "group, masked patches": dict(task="group", changes=("masked patches",)),
    "group, quarter turn": dict(task="group", changes=("quarter turn",)),
    "group, balanced sample": dict(task="group", changes=("balanced sample",)),
    "group, another hand": dict(task="group", changes=("another hand",)),
    "group, best together": dict(task="group", changes=("mirror", "affine", "another hand")),
    # whose hand; another's drawing under the same label is a deliberate break
    "style, largest class": dict(task="style", baseline="largest class", deterministic=True),
    "style, nearest pixels": dict(task="style", baseline="nearest pixels", deterministic=True),
    "style, statistics": dict(task="style", baseline="statistics", deterministic=True),
    "style, none": dict(task="style", changes=()),
    "style, mirror": dict(task="style", changes=("mirror",)),
    "style, affine": dict(task="style", changes=("affine",)),
    "style, ink": dict(task="style", changes=("ink",)),
    "style, crop": dict(task="style", changes=("crop",)),
    "style, masked patches": dict(task="style", changes=("masked patches",)),
    "style, quarter turn": dict(task="style", changes=("quarter turn",)),
    "style, balanced sample": dict(task="style", changes=("balanced sample",)),
    "style, another hand": dict(task="style", changes=("another hand",)),
    "style, best together": dict(task="style", changes=("mirror", "quarter turn")),
    "style, half the steps, none": dict(task="style", changes=(), half=True),
    "style, half the steps, affine": dict(task="style", changes=("affine",), half=True),
    "style, half the steps, crop": dict(task="style", changes=("crop",), half=True),
    "style, half the steps, mirror": dict(task="style", changes=("mirror",), half=True),
    "style, half the steps, quarter turn": dict(task="style", changes=("quarter turn",), half=True),
    "style, half the steps, masked patches": dict(task="style", changes=("masked patches",), half=True),
    # how it moves; quarter turns and frames moved one by one are deliberate breaks
    "motion, largest class": dict(task="motion", baseline="largest class", deterministic=True),
    "motion, nearest pixels": dict(task="motion", baseline="nearest pixels", deterministic=True),
    "motion, statistics": dict(task="motion", baseline="statistics", deterministic=True),
    "motion, none": dict(task="motion", changes=()),
    "motion, mirror": dict(task="motion", changes=("mirror",)),
    "motion, affine": dict(task="motion", changes=("affine",)),
    "motion, ink": dict(task="motion", changes=("ink",)),
    "motion, crop": dict(task="motion", changes=("crop",)),
    "motion, masked patches": dict(task="motion", changes=("masked patches",)),
    "motion, quarter turn": dict(task="motion", changes=("quarter turn",)),
    "motion, balanced sample": dict(task="motion", changes=("balanced sample",)),
    "motion, masked frames": dict(task="motion", changes=("masked frames",)),
    "motion, sampled frames": dict(task="motion", changes=("sampled frames",)),
    "motion, reversed time": dict(task="motion", changes=("reversed time",)),
    "motion, affine, frame by frame": dict(task="motion", changes=("affine, frame by frame",)),
    "motion, affine and quarter turn": dict(task="motion", changes=("affine", "quarter turn")),
    "motion, best together": dict(task="motion", changes=("mirror", "affine")),
}
MORE_SEEDS = {
    motion_row: 10 for motion_row in ROWS if motion_row.startswith("motion, ")
}  # its test has 106 clips only


def settings(row: str) -> dict:
    """Return a row's settings; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return ROWS[row]


@dataclass
class Examples:
    """Pictures ``(N, 32, 32, 3)`` or clips ``(N, 8, 32, 32, 3)``, uint8; each one's label, hand and thing."""

    x: np.ndarray
    label: np.ndarray
    style: np.ndarray
    item: np.ndarray


def examples(task: str, part: str) -> Examples:
    """Return the examples of a task; ``part`` is "train", "validation" or "test".

    Example:
        >>> examples("motion", "test").x.shape[1:]
        (8, 32, 32, 3)
    """
    emoji = load_emoji()
    if task == "motion":
        clips = getattr(split("emoji-videos"), part)
        clips = clips[emoji.motion[clips] >= 0]
        hand = np.full(len(clips), emoji.styles.index("fluent"))
        return Examples(emoji.videos[clips], emoji.motion[clips], hand, emoji.video_item[clips])
    items = getattr(split("emoji-things"), part)
    style, k = np.nonzero(emoji.present[:, items])
    if task == "group" and part == "train":
        own = style == emoji.styles.index(HAND)
        style, k = style[own], k[own]
    item = items[k]
    return Examples(emoji.images[style, item], emoji.group[item] if task == "group" else style, style, item)


class Classifier(nn.Module):
    """An image encoder and a linear map; a clip is read as its mean frame and each frame's deviation from it.

    Shapes: ``(B, 3, 32, 32)`` or ``(B, 8, 3, 32, 32) -> (B, classes)``.

    Example:
        >>> Classifier(4, width=4, frames=8)(torch.zeros(2, 8, 3, 32, 32)).shape
        torch.Size([2, 4])
    """

    def __init__(self, classes: int, width: int, frames: int = 0):
        super().__init__()
        self.encoder = ImageEncoder(DIM, width, channels=frames + 1 if frames else 3)
        self.head = nn.Linear(DIM, classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 5:
            grey = x.mean(2)
            mean = grey.mean(1, keepdim=True)
            x = torch.cat([mean, 3 * (grey - mean)], 1)
        return self.head(F.gelu(self.encoder(x)))

    @torch.no_grad()
    def scores(self, found: Examples) -> np.ndarray:
        """Return a score of each class for each example, ``(N, classes)``."""
        where = self.head.weight.device
        return torch.cat([self(part.to(where)).cpu() for part in pixels(found.x).split(512)]).numpy()


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model, or fit its baseline, and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches and augmentation.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: examples get each other's labels before training.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown row, or pairs shuffled where nothing is trained.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, where = runtime.seed_everything(seed), runtime.device()
    data = examples(s["task"], "train")
    if "baseline" in s:
        if shuffle_pairs:
            raise ValueError(f"shuffle_pairs: expected a row that is trained, found {row!r}")
        return baselines.fit(s["baseline"], data)
    labels, style, item = map(torch.tensor, (data.label, data.style, data.item))
    x = pixels(data.x).contiguous()  # channels first in memory too, which is faster to change
    images, present = load_emoji().images, torch.tensor(load_emoji().present)
    if shuffle_pairs:
        labels = labels[torch.randperm(len(labels), generator=generator)]
    model = Classifier(int(labels.max()) + 1, WIDTH[scale], x.shape[1] if x.ndim == 5 else 0).to(where)

    steps = STEPS[scale][s["task"]] // (2 if s.get("half") else 1)

    def batch_loss(step):
        if "balanced sample" in s["changes"]:
            index = augment.balanced_sample(labels, BATCH, generator=generator)
        else:
            index = torch.randint(len(x), (BATCH,), generator=generator)
        batch = x[index]
        if "another hand" in s["changes"]:  # for about half of the pictures
            other = augment.another_hand(present, style[index], item[index], generator=generator)
            half = torch.rand(BATCH, generator=generator) < 0.5
            batch = pixels(images[torch.where(half, other, style[index]), item[index]])
        for name in s["changes"]:
            if name in CHANGES:
                batch = CHANGES[name](batch, generator=generator)
        return F.cross_entropy(model(batch.to(where)), labels[index].to(where))

    model.history = train(model, batch_loss, steps, rate=RATE, weight_decay=DECAY, progress=progress)
    return model


def score(model, task: str, part: str = "test") -> Figures:
    """Return accuracy and macro-F1, for "group" and "motion" one figure more, and each example's outcome.

    For "group" they are those of the hand that was learnt from, "accuracy, other hands" is of all others.
    For "motion", "axis" says how often the right one of across and up and down scores above the other.
    """
    data, family = examples(task, part), load_emoji().family
    scores = model.scores(data)
    answer = scores.argmax(1)
    known, hit = np.ones(len(answer), dtype=bool), answer == data.label
    if task == "group":
        known = data.style == load_emoji().styles.index(HAND)
    judged = {"accuracy": (known, hit)}
    if task == "group":
        judged["accuracy, other hands"] = (~known, hit)
    if task == "motion":
        judged["axis"] = (data.label < 2, scores[:, :2].argmax(1) == data.label)
    outcomes = {name: right[chosen] for name, (chosen, right) in judged.items()}
    groups = {name: family[data.item[chosen]] for name, (chosen, _) in judged.items()}
    macro = f1_score(data.label[known], answer[known], average="macro", zero_division=0)
    return Figures({"macro-F1": macro}, outcomes=outcomes, groups=groups)


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), settings(row)["task"])
