"""Chapter 04: how much should each task count, and what does each look at?

Two tasks of pictures (how is it drawn, what is it?), as they are and made unequal on purpose: in the units of
a loss, in the number of labels, in how hard they are. Four tasks of pictures of four natures, three tasks of
names. With weights that are equal, fixed, learnt or computed, and with attention to experts and features.
All networks see the same batches: one for all tasks, in which a task that has no label costs nothing.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.balancing import (
    DynamicWeightAverage,
    FixedWeights,
    GradNorm,
    LossWeighting,
    MMoE,
    PCGrad,
    SoftmaxWeights,
    TaskAttention,
    UncertaintyWeighting,
    effective_experts,
    expert_load,
    load_balancing_loss,
)
from mmtutor.ledger import Figures
from mmtutor.sharing import (
    HardSharing,
    Head,
    MultiTask,
    SoftSharing,
    gradient_cosines,
    matching_width,
    parameter_count,
    resnet_trunk,
    task_gradients,
)
from mmtutor.training import train

from . import balancing_baselines as baselines
from .balancing_tasks import (
    BUCKETS,
    NAME_TASKS,
    NameEncoder,
    dealt,
    examples,
    few_things,
    names,
    wrong_classes,
)
from .sharing import answers, judge
from .sharing_tasks import KINDS, Examples

DIM, BATCH, DECAY = 64, 64, 0.05
RATE = {"emoji": 3e-3, "names": 1e-2}
STEPS = {"cpu": {"emoji": 400, "names": 500}, "gpu": {"emoji": 4000, "names": 2000}}
WIDTH = {"cpu": {"emoji": 16, "names": 256}, "gpu": {"emoji": 64, "names": 512}}
LOOKS = 20  # how often a run is looked at on its way
EXPERTS = 4

METHODS = ("equal", "guess", "softmax", "DWA", "uncertainty", "GradNorm", "PCGrad")
LOOKED_AT = ("equal", "uncertainty", "GradNorm", "PCGrad")  # whose gradients are measured on their way
# Knobs of the methods, chosen with the validation things, seeds 0 and 1 of "balanced". All that was tried is
# within 0.03 of the mean figure, and of equal weights:
EPOCH, TEMPERATURE = 80, 2.0  # DWA: of 20, 80 steps (80 is once through the pictures) and 0.5, 1, 2
ALPHA, PACE = 0.5, 0.025  # GradNorm: of 0, 0.5, 1.5 and 0.025, 0.1
# The rate of learnt weights, of 0.003, 0.03, 0.1, 0.3. At the lowest, that of the network, uncertainty
# needs many more steps to undo "scale". The softmax goes to one task at each rate, the faster, the higher.
LEARNT_RATE = {"softmax": 0.03, "uncertainty": 0.1}
EVEN = 1.0  # times the loss of an uneven load; with 0.1 the load of "pixels to 16" is still uneven

PAIR = ("style", "group")
CONDITIONS = {
    "balanced": {},
    "scale": {"units": {"group": 30.0}},  # group's loss times 30: other units, the same task
    "data": {"few": {"style": 0.05}},  # style is known of a twentieth of the things
    "difficulty": {"wrong": {"group": 0.5}},  # half of group's labels are wrong
}
FIXED = (0.03, 0.1, 0.3, 3.0, 10.0, 30.0)  # style's weight for each unit of group's


def pictures(*tasks: str, **more) -> dict:
    """Return the settings of a row on pictures."""
    return dict(data="emoji", tasks=tasks, **more)


def named(*tasks: str, **more) -> dict:
    """Return the settings of a row on names."""
    return dict(data="names", tasks=tasks, **more)


def methods(name: str, s: dict) -> dict[str, dict]:
    """Return a row for each method."""
    return {f"{name}, {method}": {**s, "method": method} for method in METHODS}


def fixed(condition: str, *weights: float) -> dict[str, dict]:
    """Return the rows of fixed weights of the style, that of the group being 1."""
    s = pictures(*PAIR, **CONDITIONS[condition])
    return {f"{condition}, ω = {w:g}": {**s, "method": "fixed", "weights": (w, 1.0)} for w in weights}


def draws(name: str, s: dict, count: int) -> dict[str, dict]:
    """Return rows of fixed weights drawn at random, from a tenth of those of a guess to ten times as much."""
    factors = 10 ** np.random.RandomState(0).uniform(-1, 1, (count, len(s["tasks"])))
    rows = {f"{name}, draw {k}": tuple(drawn.tolist()) for k, drawn in enumerate(factors.round(2), start=1)}
    return {row: {**s, "method": "guess", "factors": drawn} for row, drawn in rows.items()}


def alone(name: str, s: dict, *tasks: str) -> dict[str, dict]:
    """Return a row for each task alone."""
    return {f"{name}, {task} alone": {**s, "tasks": (task,)} for task in tasks}


BALANCED, SCALE, DATA, DIFFICULTY = (pictures(*PAIR, **more) for more in CONDITIONS.values())
FOUR, NAMES = pictures("style", "group", "keywords", "sentiment"), named(*NAME_TASKS)
MIXED = {**BALANCED, "way": "MMoE"}

ROWS = {
    # two tasks, as they are and with an imbalance made on purpose
    **methods("balanced", BALANCED),
    **methods("scale", SCALE),
    **methods("data", DATA),
    **methods("difficulty", DIFFICULTY),
    **fixed("balanced", *FIXED),
    **fixed("scale", 30.0),
    **fixed("data", *FIXED),
    **fixed("difficulty", *FIXED),
    **alone("balanced", BALANCED, *PAIR),
    **alone("data", DATA, "style"),
    "data, style alone, labelled only": {**DATA, "tasks": ("style",), "labelled": True},
    **alone("difficulty", DIFFICULTY, "group"),
    # four tasks of four natures; in nats: the labels of a set count each, not their mean
    **methods("four", FOUR),
    "four, equal in nats": {**FOUR, "method": "equal", "nats": True},
    **draws("four", FOUR, 8),
    # fixed weights where GradNorm's settled, and their mean over its runs: the weights, or their course?
    "four, mean weights of GradNorm": {**FOUR, "method": "fixed", "weights": (0.46, 0.45, 2.85, 0.24)},
    "four, weights of GradNorm": {**FOUR, "method": "fixed", "weights": (0.21, 0.22, 3.45, 0.12)},
    **alone("four", FOUR, "keywords", "sentiment"),
    # attention to features, with as many parameters as "balanced, equal", but for the large experts
    "features, MMoE": MIXED,
    "features, MMoE, one gate for both": {**MIXED, "one gate": True},
    "features, MMoE, large experts": {**MIXED, "large": True},
    "features, hard, wide": {**BALANCED, "as_large_as": "features, MMoE, large experts"},
    "features, MTAN": {**BALANCED, "way": "MTAN"},
    "features, two trunks": {**BALANCED, "way": "two trunks"},
    # gates that see large numbers: the load collapses; from 0 to 255 no gradient is left to undo it
    "features, MMoE, pixels to 16": {**MIXED, "top": 16.0},
    "features, MMoE, pixels to 16, load balanced": {**MIXED, "top": 16.0, "even": True},
    "features, MMoE, raw pixels": {**MIXED, "top": 255.0},
    "features, MMoE, raw pixels, load balanced": {**MIXED, "top": 255.0, "even": True},
    # names
    **methods("names", NAMES),
    "names, equal in nats": {**NAMES, "method": "equal", "nats": True},
    **alone("names", NAMES, *NAME_TASKS),
    "names, n-grams": {**NAMES, "baseline": "n-grams", "deterministic": True},
    # pictures without a network
    "pictures, same answer": {**BALANCED, "baseline": "same answer", "deterministic": True},
    "pictures, nearest pixels": {**BALANCED, "baseline": "nearest pixels", "deterministic": True},
    "data, nearest pixels": {**DATA, "baseline": "nearest pixels"},
}


def settings(row: str) -> dict:
    """Return a row's settings; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return ROWS[row]


def lesson(row: str, seed: int, shuffle_pairs: bool = False) -> Examples:
    """Return what a row learns from: the training examples with the labels that it is given.

    Which are missing and which are wrong depends on the seed alone. ``shuffle_pairs`` deals out the answers
    of all tasks anew.
    """
    s = settings(row)
    data, generator = examples(s["data"], "train"), torch.Generator().manual_seed(seed)
    targets, known = ({task: found[task] for task in s["tasks"]} for found in (data.targets, data.known))
    for task in s["tasks"]:
        if task in s.get("few", {}):
            known[task] = few_things(data, s["few"][task], seed)
        if task in s.get("wrong", {}):
            targets[task] = wrong_classes(targets[task], data.size(task), s["wrong"][task], generator)
        if shuffle_pairs:
            targets[task] = dealt(targets[task], known[task], generator)
    return replace(data, targets=targets, known=known)


# Models


def trunk(width: int) -> nn.Sequential:
    """Return a trunk for pictures; in this layout of memory it is faster by a third."""
    return resnet_trunk(DIM, width).to(memory_format=torch.channels_last)


def build(s: dict, width: int) -> MultiTask:
    """Return the model of a row's settings, untrained; ``width`` is that of its trunk, trunks or experts."""
    way, data = s.get("way"), examples(s["data"], "train")
    shared = NameEncoder(DIM, BUCKETS, hidden=width, dropout=0.5) if s["data"] == "names" else trunk(width)
    heads = {task: Head(DIM, data.size(task), KINDS[task]) for task in s["tasks"]}
    if way == "MMoE":
        return mixture([shared, *(trunk(width) for _ in range(EXPERTS - 1))], heads, s)
    if way == "MTAN":
        return TaskAttention(shared, heads, [width, width, 2 * width, 4 * width, DIM])
    if way == "two trunks":
        return SoftSharing(shared, heads, strength=0.0)
    return HardSharing(shared, heads)


def mixture(experts: list[nn.Module], heads: dict[str, Head], s: dict) -> MMoE:
    """Return a mixture whose gates see the picture shrunk to 8 x 8, each pixel with mean 0 and variance 1.

    At full size the gates would have a quarter of all parameters. In settings, ``"one gate"`` lets all tasks
    use the same, and ``"top"`` shows the gates pixels from 0 to that number instead.
    """
    model = MMoE(experts, heads, inputs=3 * 32 * 32)
    for task in heads:
        small = [nn.Unflatten(1, (3, 32, 32)), nn.AvgPool2d(4), nn.Flatten()]
        scaled = UpTo(s["top"]) if "top" in s else nn.BatchNorm1d(3 * 8 * 8, affine=False)
        model.gates[task] = nn.Sequential(*small, scaled, nn.Linear(3 * 8 * 8, len(experts)))
    if s.get("one gate"):
        model.gates = nn.ModuleDict(dict.fromkeys(heads, model.gates[s["tasks"][0]]))
    return model


class UpTo(nn.Module):
    """Turn pixels from -1 to 1 into pixels from 0 to ``top``."""

    def __init__(self, top: float):
        super().__init__()
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) / 2 * self.top


def width_of(row: str, scale: str) -> int:
    """Return the width of a row's network: the usual one, or that of as many parameters as usual."""
    s = settings(row)
    usual = WIDTH[scale][s["data"]]
    if "as_large_as" in s:
        wanted = parameter_count(build(settings(s["as_large_as"]), usual))
        return matching_width(lambda width: build(s, width), wanted, range(2, 4 * usual + 1))
    if "way" not in s or s.get("large"):
        return usual
    wanted = parameter_count(build(settings("balanced, equal"), usual))
    return matching_width(lambda width: build(s, width), wanted, range(2, usual + 1, 1 + usual // 64))


# Weights


def units(s: dict, data: Examples) -> dict[str, float]:
    """Return by what each task's loss is multiplied before any weight: the units that somebody chose."""
    if s.get("nats"):  # a set of labels counts as often as there are labels
        return {task: float(data.size(task)) if KINDS[task] == "labels" else 1.0 for task in s["tasks"]}
    return {task: s.get("units", {}).get(task, 1.0) for task in s["tasks"]}


def guess_loss(data: Examples, task: str) -> float:
    """Return the loss of the best answer to a task that is the same for all examples.

    For classes that is the entropy of how frequent they are, for labels the mean of theirs, for numbers the
    variance.

    Example:
        >>> round(guess_loss(examples("emoji", "train"), "style"), 2)  # five hands: log 5 is 1.61
        1.6
    """
    y = data.targets[task][data.known[task]]
    if KINDS[task] == "classes":
        return torch.distributions.Categorical(y.bincount().float()).entropy().item()
    if KINDS[task] == "labels":
        return torch.distributions.Bernoulli(y.float().mean(0)).entropy().mean().item()
    return y.var(0, correction=0).mean().item()


def weighting_of(
    s: dict, model: MultiTask, unit: dict[str, float], data: Examples, seed: int
) -> LossWeighting:
    """Return how a row weights its losses, of which ``unit`` are the units."""
    tasks, method = s["tasks"], s.get("method", "equal")
    if method == "guess":
        factors = dict(zip(tasks, s.get("factors", [1.0] * len(tasks)), strict=True))
        inverse = {task: factors[task] / (unit[task] * guess_loss(data, task)) for task in tasks}
        mean = sum(inverse.values()) / len(tasks)
        return FixedWeights(tasks, {task: w / mean for task, w in inverse.items()})
    if method == "fixed":
        weights = dict(zip(tasks, s["weights"], strict=True))
        total = sum(weights[task] * unit[task] for task in tasks)  # in one unit the weights sum to T
        return FixedWeights(tasks, {task: len(tasks) * w / total for task, w in weights.items()})
    if method == "softmax":
        return SoftmaxWeights(tasks)
    if method == "DWA":
        return DynamicWeightAverage(tasks, EPOCH, TEMPERATURE)
    if method == "uncertainty":  # the mean of squares is twice the loss to which a half belongs
        return UncertaintyWeighting(tasks, {task: 1.0 if KINDS[task] == "numbers" else 0.5 for task in tasks})
    if method == "GradNorm":
        last = model.trunk.network[-1] if s["data"] == "names" else model.trunk[-1]
        return GradNorm(tasks, last.parameters(), ALPHA, PACE)
    if method == "PCGrad":
        return PCGrad(tasks, model, model.trunk.parameters(), torch.Generator().manual_seed(seed))
    return FixedWeights(tasks)


# Training


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model, or fit its baseline, and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches, and which labels are missing or wrong.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: examples get each other's answers before training.
        progress: show a progress bar.

    Returns:
        The model. Of a network, ``weights`` keeps the tasks' weights in each step, ``(steps, T)``, divided by
        their mean, and ``looks`` what was seen on its way, by step: see `look`.

    Raises:
        ValueError: for an unknown row, or pairs shuffled where nothing is trained.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, where = runtime.seed_everything(seed), runtime.device()
    if "baseline" in s:
        if shuffle_pairs:
            raise ValueError(f"shuffle_pairs: expected a row that is trained, found {row!r}")
        return baselines.fit(s["baseline"], lesson(row, seed))
    data, model = lesson(row, seed, shuffle_pairs), build(s, width_of(row, scale)).to(where)
    unit, steps = units(s, data), STEPS[scale][s["data"]]
    weighting = weighting_of(s, model, unit, data, seed).to(where)
    learnt = [*weighting.parameters()]
    descent = torch.optim.Adam(learnt, LEARNT_RATE[s["method"]]) if learnt else None
    pool = data.known[s["tasks"][0]].nonzero()[:, 0] if s.get("labelled") else torch.arange(len(data.x))
    planned = look_steps(steps) if s.get("method") in LOOKED_AT else []
    model.looks, model.weights = {}, []

    def batch_loss(step):
        if descent and step:  # weights that are learnt take their step here, by a rate of their own
            descent.step()
            descent.zero_grad()
        batch = pool[torch.randint(len(pool), (BATCH,), generator=generator)]
        losses, more = losses_of(model, data, batch, s)
        losses = {task: unit[task] * loss for task, loss in losses.items()}
        if not any(losses.values()):  # a task alone, without a label in this batch
            return sum(losses.values())
        with torch.autocast(where.type, enabled=False):  # products of gradients need all their digits
            if planned and step >= planned[0] and all(losses.values()):  # waits until all have labels
                model.looks[planned.pop(0)] = look(model, losses)
            before = weighting.omega.detach().clone()
            total = weighting(losses)
        omega = weighting.omega if s.get("method") == "PCGrad" else before  # those of this step
        model.weights.append(omega / omega.mean())
        return total + more

    model.history = train(
        model, batch_loss, steps, rate=RATE[s["data"]], weight_decay=DECAY, progress=progress
    )
    model.weights = torch.stack(model.weights).cpu()
    return model


def look_steps(steps: int) -> list[int]:
    """Return at which steps of so many a run is looked at.

    Example:
        >>> look_steps(400)[:3], len(look_steps(400))
        ([0, 20, 40], 20)
    """
    return [*range(0, steps, max(1, steps // LOOKS))]


def losses_of(
    model: MultiTask, data: Examples, batch: Tensor, s: dict
) -> tuple[dict[str, Tensor], Tensor | float]:
    """Return each task's loss on the examples of a batch, and what else is to be low: an uneven load."""
    where = next(model.parameters()).device
    targets = {task: y[batch].to(where) for task, y in data.targets.items()}
    known = {task: valid[batch].to(where) for task, valid in data.known.items()}
    x = data.x[batch].to(where)
    points, gates = model.attend(x) if isinstance(model, MMoE) else (model.features(x), None)
    found = {task: model.heads[task](z) for task, z in points.items()}
    uneven = EVEN * load_balancing_loss(gates) if s.get("even") else 0.0
    return model.losses(found, targets, known), uneven


def look(model: HardSharing, losses: dict[str, Tensor]) -> dict[str, float]:
    """Return each task's loss, the length of its gradient on the trunk, and the cosine of each two."""
    gradients = task_gradients(losses, model.trunk.parameters())
    lengths, cosines = gradients.norm(dim=1).tolist(), gradient_cosines(gradients).tolist()
    seen = {}
    for i, (task, loss) in enumerate(losses.items()):
        seen |= {f"loss, {task}": loss.item(), f"norm, {task}": lengths[i]}
        seen |= {f"cosine, {task} and {other}": cosines[i][j] for j, other in enumerate(losses) if j > i}
    return seen


# Scores


def score(model, row: str, seed: int, part: str = "test") -> Figures:
    """Return the figures of a trained model or baseline, and each example's outcome in each task.

    Returns:
        For each task its figure, see ``sharing_tasks.outcomes``. Of a network also the number of
        ``"parameters"`` and for each task ``"validation"`` and ``"training"``, the figure on those examples
        (in training with the labels that were given). Of several tasks ``"weight"``, its mean over the last
        tenth of the steps. Of a method its course, ``"weight, task @ step"``, and where the gradients were
        measured ``"loss"``, ``"norm"`` and ``"cosine"``, with the mean cosine of a pair and how often it was
        in ``"conflict"``. Of experts see `use_of_experts`.
    """
    s = settings(row)
    data = examples(s["data"], part)
    if "baseline" in s:
        shown = names(data) if s["baseline"] == "n-grams" else data.x
        found, groups = judge(model.answers(shown), data)
        return Figures(outcomes=found, groups=groups)
    found, groups = judge(answers(model, data.x), data)
    figures = {"parameters": parameter_count(model)}
    for what, others in (("validation", examples(s["data"], "validation")), ("training", lesson(row, seed))):
        for task, values in judge(answers(model, others.x), others)[0].items():
            figures[f"{what}, {task}"] = values.mean()
    if len(s["tasks"]) > 1:
        figures |= course(model, s)
    if isinstance(model, MMoE):
        figures |= use_of_experts(model, data)
    return Figures(figures, outcomes=found, groups=groups)


def course(model: MultiTask, s: dict) -> dict[str, float]:
    """Return the weights at the end and on the way, and what was seen of the gradients."""
    steps, figures = len(model.weights), {}
    for task, weights in zip(s["tasks"], model.weights.T.tolist(), strict=True):
        figures[f"weight, {task}"] = np.mean(weights[-max(1, steps // 10) :])
        if s.get("method", "fixed") != "fixed":
            figures |= {f"weight, {task} @ {step}": weights[step] for step in look_steps(steps)}
    for step, seen in model.looks.items():
        figures |= {f"{what} @ {step}": value for what, value in seen.items()}
    for pair in combinations(s["tasks"], 2) if model.looks else ():
        name = " and ".join(pair)
        cosines = np.array([seen[f"cosine, {name}"] for seen in model.looks.values()])
        figures |= {f"cosine, {name}": cosines.mean(), f"conflict, {name}": (cosines < 0).mean()}
    return figures


@torch.no_grad()
def use_of_experts(model: MMoE, data: Examples) -> dict[str, float]:
    """Return how much each task takes from each expert, how many are in use, and how far the tasks differ.

    ``"experts, task"`` is the effective number in a task's load, ``"experts"`` that in the mean load, and
    ``"difference of loads"`` how much of its load a task takes from other experts than the other task does.
    """
    where = next(model.parameters()).device
    load = expert_load(model.eval().attend(data.x.to(where))[1]).cpu()
    figures = {
        "experts": effective_experts(load.mean(0)),
        "difference of loads": (load[0] - load[1]).abs().sum() / 2,
    }
    for task, shares in zip(model.heads, load, strict=True):
        figures[f"experts, {task}"] = effective_experts(shares)
        figures |= {f"load, {task}, {e}": share for e, share in enumerate(shares)}
    return figures


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row, seed)
