"""Chapter 03: when does a second task help the first, and when does it hurt?

On digits of which few are labelled: alone, or with a helper, the prediction of another view of all of them.
On pictures of emoji: five tasks (three of classes, one of sets of labels, one of numbers), alone, in pairs
and all together. With one trunk for all tasks, with trunks that are pulled together, and with trunks that are
stitched. Everything is tested on things never seen.
"""

from dataclasses import replace
from itertools import combinations
from math import inf

import numpy as np
import torch
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.ledger import Figures
from mmtutor.sharing import (
    CrossStitch,
    HardSharing,
    Head,
    MultiTask,
    SoftSharing,
    gradient_cosines,
    matching_width,
    parameter_count,
    resnet_trunk,
    task_gradients,
    weight_distance,
)
from mmtutor.training import train

from . import sharing_baselines as baselines
from .sharing_tasks import EMOJI, HELPERS, KINDS, Examples, asked, examples, labelled, outcomes

DIM, BATCH, RATE, DECAY = 64, 64, 3e-3, 0.05
STEPS = {"cpu": {"emoji": 400, "digits": 600}, "gpu": {"emoji": 4000, "digits": 3000}}
WIDTH = {"cpu": {"emoji": 16, "digits": 256}, "gpu": {"emoji": 64, "digits": 1024}}
LOOKS = 8  # how often a run is looked at on its way
HELPER_WEIGHT = 10.0  # for the digits; 1 and 3 have rows of their own, to choose from with validation items
GOALS = {"style": 0.70, "group": 0.53, "subgroup": 0.25, "keywords": 0.40, "digit": 0.85}


def digits(*helpers: str, labels: int = 5, **more) -> dict:
    """Return the settings of a row on digits, so many of each class labelled."""
    return dict(data="digits", tasks=("digit", *helpers), few={"digit": labels}, **more)


def emoji(*tasks: str, **more) -> dict:
    """Return the settings of a row on pictures."""
    return dict(data="emoji", tasks=tasks, **more)


def lighter(helper: str) -> dict[str, dict]:
    """Return the rows in which a helper's loss counts for less than ``HELPER_WEIGHT``."""
    return {f"digits + {helper}, weight {w:g}": digits(helper, weights={helper: w}) for w in (1.0, 3.0)}


def few_digits(count: int) -> dict[str, dict]:
    """Return the rows of so many labelled digits of each class."""
    return {
        f"digits, {count} of each, alone": digits(labels=count),
        f"digits, {count} of each, + morphological": digits("morphological", labels=count),
        f"digits, {count} of each, label spreading": digits(labels=count, baseline="label spreading"),
    }


def few_things(count: int) -> dict[str, dict]:
    """Return the rows of so many labelled things of each group."""
    few = {"group": count}
    guessed = emoji("group", few=few, pseudo="keywords")
    return {
        f"group, {count} of each, alone": emoji("group", few=few),
        f"group, {count} of each, + keywords": emoji("group", "keywords", few=few),
        f"group, {count} of each, nearest pixels": emoji("group", few=few, baseline="nearest pixels"),
        f"group, {count} of each, pseudo-labels": {**guessed, "baseline": "nearest pixels"},
        f"group, {count} of each, pseudo-labels, network": guessed,
    }


def soft(name: str, s: dict, *strengths: float) -> dict[str, dict]:
    """Return the rows of soft sharing, from trunks apart to trunks that are one."""
    text = {strength: "∞" if strength == inf else format(strength, "g") for strength in strengths}
    return {f"{name}, soft, λ = {text[x]}": {**s, "way": "soft", "strength": x} for x in strengths}


ROWS = {
    # digits with five labels of each class: with a helper known of all items; what else may explain the gain
    "digits, alone": digits(),
    "digits + morphological": digits("morphological"),
    "digits + morphological, labelled items only": digits("morphological", control="labelled"),
    "digits + morphological, shuffled": digits("morphological", control="shuffled"),
    "digits + morphological, random": digits("morphological", control="random"),
    "digits, alone, batches of 128": digits(batch=128),
    "digits + random map": digits("random map"),
    "digits + components": digits("components"),
    "digits + fourier": digits("fourier"),
    "digits + profile": digits("profile"),
    "digits + karhunen": digits("karhunen"),
    "digits + zernike": digits("zernike"),
    **lighter("morphological"),
    **lighter("random map"),
    **lighter("components"),
    **lighter("fourier"),
    **lighter("profile"),
    **lighter("karhunen"),
    **lighter("zernike"),
    "digits + morphological, shuffled, weight 1": digits(
        "morphological", control="shuffled", weights={"morphological": 1.0}
    ),
    # other ways of sharing; the narrow one has as many parameters in two trunks as "digits + morphological"
    "digits + morphological, cross-stitch": digits("morphological", way="stitch"),
    "digits + morphological, cross-stitch, narrow": digits(
        "morphological", way="stitch", as_large_as=("digits + morphological", 1)
    ),
    **soft("digits + morphological", digits("morphological"), 0, 0.1, 0.3, 1, 3, 10, inf),
    # fewer and more labels
    **few_digits(1),
    **few_digits(2),
    **few_digits(10),
    **few_digits(20),
    **few_digits(100),
    # the digits without a network
    "digits, label spreading": digits(baseline="label spreading"),
    "digits, logistic regression": digits(baseline="logistic regression"),
    "digits, nearest pixels": digits(baseline="nearest pixels"),
    "digits, components": digits(baseline="components"),
    "digits, morphological predicted first": digits("morphological", baseline="helper predicted first"),
    # pictures: each task alone, each pair, and more than two
    "style, alone": emoji("style"),
    "group, alone": emoji("group"),
    "subgroup, alone": emoji("subgroup"),
    "keywords, alone": emoji("keywords"),
    "sentiment, alone": emoji("sentiment"),
    "style + group, hard": emoji("style", "group"),
    "style + subgroup, hard": emoji("style", "subgroup"),
    "style + keywords, hard": emoji("style", "keywords"),
    "style + sentiment, hard": emoji("style", "sentiment"),
    "group + subgroup, hard": emoji("group", "subgroup"),
    "group + keywords, hard": emoji("group", "keywords"),
    "group + sentiment, hard": emoji("group", "sentiment"),
    "subgroup + keywords, hard": emoji("subgroup", "keywords"),
    "subgroup + sentiment, hard": emoji("subgroup", "sentiment"),
    "keywords + sentiment, hard": emoji("keywords", "sentiment"),
    "style + group + keywords, hard": emoji("style", "group", "keywords"),
    "all five, hard": emoji("style", "group", "subgroup", "keywords", "sentiment"),
    "all five, hard, wide": emoji(*EMOJI, as_large_as=("all five, hard", 4.5)),  # as the five alone
    # one pair in all ways; narrow: half of the parameters of "hard"; wide: as many as two trunks have
    "style, alone, narrow": emoji("style", as_large_as=("style + group, hard", 0.5)),
    "group, alone, narrow": emoji("group", as_large_as=("style + group, hard", 0.5)),
    "style, alone, wide": emoji("style", as_large_as=("style + group, soft, λ = 0", 1)),
    "group, alone, wide": emoji("group", as_large_as=("style + group, soft, λ = 0", 1)),
    "style + group, hard, wide": emoji("style", "group", as_large_as=("style + group, soft, λ = 0", 1)),
    "style + group, hard, twice the steps": emoji("style", "group", longer=2),
    "style, alone, twice the steps": emoji("style", longer=2),
    "group, alone, twice the steps": emoji("group", longer=2),
    "style + group, cross-stitch": emoji("style", "group", way="stitch"),
    **soft("style + group", emoji("style", "group"), 0, 0.1, 0.3, 1, 3, 10, inf),
    # what hurts the style: the controls
    "style + group, hard, shuffled": emoji("style", "group", control="shuffled"),
    "style + group, hard, random": emoji("style", "group", control="random"),
    "style + group, hard, shuffled by thing": emoji("style", "group", control="shuffled by thing"),
    "style + keywords, hard, weight 7": emoji("style", "keywords", weights={"keywords": 7.0}),
    "style + subgroup, hard, shuffled": emoji("style", "subgroup", control="shuffled"),
    "style + subgroup, hard, wide": emoji("style", "subgroup", as_large_as=("style + group, soft, λ = 0", 1)),
    # few things of each group labelled, and the controls
    **few_things(5),
    **few_things(10),
    **few_things(20),
    **few_things(40),
    "group, 10 of each, + style": emoji("group", "style", few={"group": 10}),
    "group, 10 of each, + keywords, labelled items only": emoji(
        "group", "keywords", few={"group": 10}, control="labelled"
    ),
    "group, 10 of each, + keywords, shuffled": emoji(
        "group", "keywords", few={"group": 10}, control="shuffled"
    ),
    # the pictures without a trained network
    "emoji, same answer": emoji(*EMOJI, baseline="same answer", deterministic=True),
    "emoji, nearest pixels": emoji(*EMOJI, baseline="nearest pixels", deterministic=True),
    "emoji, statistics": emoji(*EMOJI, baseline="statistics", deterministic=True),
    "emoji, untrained trunk": emoji(*EMOJI, baseline="untrained trunk"),
}


def settings(row: str) -> dict:
    """Return a row's settings; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return ROWS[row]


def lesson(row: str, seed: int, shuffle_pairs: bool = False) -> Examples:
    """Return what a row learns from: the training examples, with the answers that it is given.

    The labels are those of the seed, the same in all rows. Controls change the helpers, which are all tasks
    but the first: ``"labelled"`` keeps their targets where the first task has one, ``"shuffled"`` deals them
    out anew, ``"shuffled by thing"`` those of whole things, ``"random"`` draws others. ``"pseudo"`` is a task
    from whose answers the missing labels of the first are guessed. ``shuffle_pairs`` deals out those of all
    tasks.
    """
    s = settings(row)
    data, generator = examples(s["data"], "train"), torch.Generator().manual_seed(seed)
    targets, known = ({task: found[task] for task in s["tasks"]} for found in (data.targets, data.known))
    for task, count in s.get("few", {}).items():
        known[task] = labelled(data, task, count, seed)
    main, *helpers = s["tasks"]
    control = s.get("control")
    if "pseudo" in s:
        targets[main] = baselines.pseudo_labels(targets[main], known[main], data.targets[s["pseudo"]])
        known[main] = torch.ones_like(known[main])
    for task in helpers:
        if control == "labelled":
            known[task] = known[task] & known[main]
        if control == "random":
            targets[task] = at_random(data, task, generator)
        if control == "shuffled by thing":
            _, first, number = np.unique(data.thing, return_index=True, return_inverse=True)
            mixed = torch.tensor(first)[torch.randperm(len(first), generator=generator)]
            targets[task] = targets[task][mixed[number]]
    for task in s["tasks"] if shuffle_pairs else helpers if control == "shuffled" else ():
        index = known[task].nonzero()[:, 0]
        mixed = index[torch.randperm(len(index), generator=generator)]
        targets[task] = targets[task].index_copy(0, index, targets[task][mixed])
    return replace(data, targets=targets, known=known)


def at_random(data: Examples, task: str, generator: torch.Generator) -> Tensor:
    """Return targets that have nothing to do with what is shown, of the kind and shape of a task's own."""
    y, kind = data.targets[task], KINDS[task]
    if kind == "classes":
        return torch.randint(data.size(task), y.shape, generator=generator)
    if kind == "labels":
        return torch.rand(y.shape, generator=generator) < y.float().mean(0)
    return torch.randn(y.shape, generator=generator)


def build(s: dict, width: int) -> MultiTask:
    """Return the model of a row's settings, untrained; ``width`` is that of its trunk or trunks."""
    data = examples(s["data"], "train")
    heads = {task: Head(DIM, data.size(task), KINDS[task]) for task in s["tasks"]}
    if s["data"] == "emoji":
        trunk = resnet_trunk(DIM, width).to(memory_format=torch.channels_last)  # faster by a third
    else:
        inner = nn.Sequential(nn.Linear(data.x.shape[1], width), nn.ReLU())
        trunk = nn.Sequential(inner, nn.Sequential(nn.Linear(width, DIM), nn.ReLU()))
    if s.get("way") == "soft":
        return SoftSharing(trunk, heads, s["strength"])
    if s.get("way") == "stitch":
        return CrossStitch(trunk, heads, own=0.9)
    return HardSharing(trunk, heads)


def width_of(row: str, scale: str) -> int:
    """Return the width of a row's trunks: the usual one, or that of as many parameters as it is to have."""
    s = settings(row)
    usual = WIDTH[scale][s["data"]]
    if "as_large_as" not in s:
        return usual
    other, share = s["as_large_as"]
    wanted = share * parameter_count(build(settings(other), usual))
    widths = range(2, 4 * usual, 1 + usual // 128)
    return matching_width(lambda width: build(s, width), wanted, widths)


def weight(s: dict, data: Examples, task: str) -> float:
    """Return the weight of a task's loss; labels count as often as there are, so that all are in nats."""
    usual = {"labels": float(data.size(task)), "classes": 1.0, "numbers": 1.0}[KINDS[task]]
    return s.get("weights", {}).get(task, HELPER_WEIGHT if task in HELPERS else usual)


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model, or fit its baseline, and return it.

    In each step each task is shown as many examples whose answer is known; they are the same examples for
    tasks that are known of the same ones.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches, and which examples are labelled.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: examples get each other's answers before training.
        progress: show a progress bar.

    Returns:
        The model. In ``looks`` it keeps what was seen on its way, by step: the score of each task with the
        validation things; of two tasks the cosine of their gradients; how far apart their trunks are.

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
    steps = STEPS[scale][s["data"]] * s.get("longer", 1)
    pools = {known.numpy().tobytes(): known.nonzero()[:, 0] for known in data.known.values()}
    number = {task: list(pools).index(known.numpy().tobytes()) for task, known in data.known.items()}
    model.looks = {}

    rates, batch = rates_of(steps), s.get("batch", BATCH)

    def batch_loss(step):
        if step:
            settle(model, rates[step - 1])
        index = torch.cat([p[torch.randint(len(p), (batch,), generator=generator)] for p in pools.values()])
        pool = torch.arange(len(index)) // batch
        targets = {task: y[index].to(where) for task, y in data.targets.items()}
        valid = {task: (pool == k).to(where) for task, k in number.items()}
        losses = model.losses(model(data.x[index].to(where)), targets, valid)
        if step % max(1, steps // LOOKS) == 0:
            model.looks[step] = {**look(model, s["data"]), **conflicts(model, losses)}
            model.train()
        return sum(weight(s, data, task) * loss for task, loss in losses.items())

    model.history = train(model, batch_loss, steps, rate=RATE, weight_decay=DECAY, progress=progress)
    settle(model, rates[-1])
    model.looks[steps] = look(model, s["data"])
    return model


def rates_of(steps: int) -> list[float]:
    """Return the rate of each step, as `train` schedules it: up to ``RATE``, and down to nearly 0.

    Example:
        >>> rates = rates_of(100)
        >>> max(rates) == RATE, rates[0] < RATE / 10, rates[-1] < RATE / 1000
        (True, True, True)
    """
    optimiser, rates = torch.optim.SGD([nn.Parameter(torch.zeros(1))]), []
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for _ in range(steps):
        rates += schedule.get_last_lr()
        optimiser.step()
        schedule.step()
    return rates


def settle(model: MultiTask, rate: float) -> None:
    """End a step of soft sharing: pull the trunks together at the rate of that step.

    At the peak rate instead the spring would go on pulling at full strength while the losses, at the end of
    the schedule, hardly pull at all.
    """
    if isinstance(model, SoftSharing):
        model.pull_together(rate)


@torch.no_grad()
def answers(model: MultiTask, x: Tensor) -> dict[str, Tensor]:
    """Return a trained model's answers by task, ``(N, C)``."""
    where = next(model.parameters()).device
    parts = [model.eval()(part.to(where)) for part in x.split(512)]
    return {task: torch.cat([part[task] for part in parts]).float().cpu() for task in parts[0]}


def judge(found: dict[str, Tensor], data: Examples) -> tuple[dict, dict]:
    """Return the outcomes of answers by the name of the figure, and the families of those examples."""
    scores, groups = {}, {}
    for task, output in found.items():
        chosen = asked(data, task)
        of_task = outcomes(task, output[chosen], data.targets[task][chosen])
        scores |= of_task
        groups |= dict.fromkeys(of_task, data.family[chosen.numpy()])
    return scores, groups


def look(model: MultiTask, name: str) -> dict[str, float]:
    """Return each task's score with the validation things and, of two trunks, their weights' distance."""
    data = examples(name, "validation")
    seen = {task: float(score.mean()) for task, score in judge(answers(model, data.x), data)[0].items()}
    if isinstance(model, SoftSharing):
        seen["distance"] = weight_distance(*model.trunks.values())
    return seen


def conflicts(model: MultiTask, losses: dict[str, Tensor]) -> dict[str, float]:
    """Return the cosine of each two tasks' gradients on the trunk; of soft sharing, each on its own."""
    if isinstance(model, SoftSharing):
        own = [task_gradients({t: loss}, model.trunks[t].parameters()) for t, loss in losses.items()]
        gradients = torch.cat(own)
    else:
        trunks = model.trunk if isinstance(model, HardSharing) else model.trunks
        gradients = task_gradients(losses, trunks.parameters())
    cosines = gradient_cosines(gradients).tolist()
    pairs = combinations(enumerate(losses), 2)
    return {f"cosine, {one} and {other}": cosines[i][j] for (i, one), (j, other) in pairs}


def score(model, row: str, seed: int, part: str = "test") -> Figures:
    """Return the figures of a trained model or baseline, and each example's outcome in each task.

    Returns:
        For each task its figure, see ``sharing_tasks.outcomes``. Of a network also the number of parameters;
        for each task ``"gap"``, how much higher it is with the examples it learnt from, ``"validation"``, the
        figure with the validation things, and ``"steps"``, those until that reached its goal (all, if it
        never did); the mean ``"cosine"`` of two tasks' gradients; of one trunk for all, ``"probe"`` of each
        task that it was not trained for; of soft sharing, the course of all that is looked at.
    """
    s, name = settings(row), settings(row)["data"]
    data = examples(name, part)
    if "baseline" in s:
        found, groups = judge(model.answers(data.x), data)
        return Figures(outcomes=found, groups=groups)
    found, groups = judge(answers(model, data.x), data)
    learnt = lesson(row, seed)
    figures = {"parameters": parameter_count(model)}
    for task, values in judge(answers(model, learnt.x), learnt)[0].items():
        figures[f"gap, {task}"] = values.mean() - found[task].mean()
    steps, looks = list(model.looks), list(model.looks.values())
    for what in looks[-1]:
        figures["distance" if what == "distance" else f"validation, {what}"] = looks[-1][what]
    for task in set(GOALS) & set(s["tasks"]):
        reached = [step for step, seen in model.looks.items() if seen[task] >= GOALS[task]]
        figures[f"steps, {task}"] = min(reached, default=steps[-1])
    for what in set(looks[0]) - set(looks[-1]):
        figures[what] = np.mean([seen[what] for seen in looks[:-1]])
    if isinstance(model, SoftSharing):
        figures |= {f"{what} @ {step}": x for step, seen in model.looks.items() for what, x in seen.items()}
    if isinstance(model, HardSharing) and name == "emoji":
        probed, its_groups = judge(probe(model, s["tasks"]).answers(data.x), data)
        found |= {f"probe, {task}": values for task, values in probed.items()}
        groups |= {f"probe, {task}": group for task, group in its_groups.items()}
    return Figures(figures, outcomes=found, groups=groups)


def probe(model: HardSharing, trained: tuple[str, ...]) -> baselines.Linear:
    """Return linear maps from a trained trunk's points to the tasks that it was not trained for."""

    @torch.no_grad()
    def points(x):
        where = next(model.parameters()).device
        return torch.cat([model.trunk(part.to(where)).float().cpu() for part in x.split(512)])

    return baselines.Linear(points, examples("emoji", "train"), set(EMOJI) - set(trained))


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row, seed)
