"""Chapter 08: two towers, their interaction, a gate that says whom to trust, and a fuser, part by part.

Two views of a digit, all six, and things with a picture, an animation and a name. In training some
modalities are damaged (unless a row says "clean"): swapped with those of an item of another class, noisy, or
hidden. All networks of one question have the same towers, batches and steps, unless a row says "longer".
"""

from dataclasses import replace
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor import runtime
from mmtutor.contrastive import info_nce
from mmtutor.data.digits import VIEWS
from mmtutor.fusion import ConcatFusion, LateFusion
from mmtutor.ledger import Figures
from mmtutor.sharing import parameter_count
from mmtutor.towers import (
    CRFGate,
    ResidualInteraction,
    TowerOutput,
    TwoTower,
    corruption_loss,
    mean_field,
)
from mmtutor.training import train

from . import towers_baselines as baselines
from .fusion import DECAY, DIM, FUSERS, HIDDEN, KIND, RATE, Numbers, ece, encoder, look_steps, right
from .fusion import draw as draw_moved
from .fusion_tasks import LETTERS
from .towers_scores import accuracies, gate_figures, interaction_figures, trust
from .towers_tasks import DAMAGES, VERSIONS, Damaged, Examples, damage, examples, half_of, one_of, version

STEPS = {"cpu": {"digits": 600, "things": 300}, "gpu": {"digits": 2000, "things": 4000}}
WIDTH = {"cpu": 8, "gpu": 64}  # of the picture encoders
# Chosen with the validation items, of couplings from 0, 2, 4, slope and offset 1 and 0.5, 2 and 0.2, weight
# 0.3, 1, 3. One number alone moves by no more than about one in a run: it has to start where it is of use
START = 2.0  # of the couplings w
SLOPE, OFFSET = 2.0, 0.2  # of the interaction's gate
WEIGHT = {"digits": 3.0, "things": 0.3}  # of the corruption loss
ALIGNMENT, TEMPERATURE = 0.3, 0.1  # weight of the contrastive loss of rows that have one
FUSER = "attention"  # of the last stage
MANY = 4  # modalities of which half may be damaged


# Models


class Spelling(Numbers):
    """The encoder of a name's letters, ``(B, L)``: of which pairs of neighbours it has."""

    def __init__(self):
        super().__init__((len(LETTERS) + 1) ** 2)

    def forward(self, letters: Tensor) -> Tensor:
        return super().forward(baselines.letter_pairs(letters))


class SigmoidInteraction(ResidualInteraction):
    """An interaction whose gate is never quite closed, as steep and as open at first as the clamped one."""

    def gate(self, s: Tensor) -> Tensor:
        return torch.sigmoid(4 * (F.softplus(self.a) * s + self.beta - 0.5))  # a sigmoid's slope is 1/4


class MeanFieldGate(CRFGate):
    """A gate by mean field where the exact marginals could be had."""

    def forward(self, features: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
        return mean_field(*self.potentials(features, valid))


class DetachedGate(CRFGate):
    """A gate that learns from the points without changing the towers that send them."""

    def potentials(self, features: dict[str, Tensor], valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().potentials({m: h.detach() for m, h in features.items()}, valid)


class JointGate(CRFGate):
    """A gate without a field: one network sees the points of all modalities and answers for each."""

    def __init__(self, modalities, dim: int, **options):
        super().__init__(modalities, dim, **options)
        m = len(self.modalities)
        self.scores = nn.Sequential(nn.Linear(m * dim, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, m))
        self.coupling.requires_grad_(False).zero_()

    def potentials(self, features: dict[str, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
        theta = self.scores(torch.cat([features[m] for m in self.modalities], 1))
        return theta.masked_fill(~valid, -torch.inf), self.w.expand(len(theta), -1, -1)


GATES = {
    "field": CRFGate,
    "unused": CRFGate,
    "mean field": MeanFieldGate,
    "detached": DetachedGate,
    "joint": JointGate,
}


class MLPFusion(ConcatFusion):
    """Points side by side and a hidden layer: enough to learn without a gate whom to trust."""

    def __init__(self, dims: dict[str, int], out_dim: int):
        super().__init__(dims, HIDDEN)
        self.out = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, out_dim))

    def fuse(self, z: dict[str, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weights = super().fuse(z, valid)
        return self.out(hidden), weights


class Classifier(nn.Module):
    r"""Towers with all that is between them, and a linear head, :math:`q\circ\phi`.

    Args:
        towers: the model of :mod:`mmtutor.towers`.
        head: from the fused point to the classes.
        unused: a gate that is trained but weighs nothing.
        pool: of what the heads of a ``LateFusion`` say, see `towers_baselines.pool`.
    """

    def __init__(self, towers: TwoTower, head: nn.Module, unused: CRFGate | None = None, pool="mean"):
        super().__init__()
        self.towers, self.head, self.unused, self.pool = towers, head, unused, pool

    @property
    def gate(self) -> CRFGate | None:
        return self.unused or self.towers.gate

    def forward(self, x: dict[str, Tensor], valid: Tensor) -> tuple[Tensor, TowerOutput]:
        """Return logits ``(B, C)`` and what the towers found."""
        output = self.towers(x, valid)
        if isinstance(self.towers.fuser, LateFusion):
            log_p = torch.stack(self.own_logits(output, valid), 1).log_softmax(2)
            return baselines.pool(log_p, output.confidence, self.pool), output
        return self.head(output.fused), output

    def own_logits(self, output: TowerOutput, valid: Tensor) -> list[Tensor]:
        """Return what the head of each modality says, ``(B, C)``, of a ``LateFusion``."""
        return [*self.towers.fuser.modality_logits(output.features, valid).values()]

    def marginals(self, output: TowerOutput, valid: Tensor) -> Tensor:
        """Return how far each modality is trusted, ``(B, M)``."""
        return self.unused(output.features, valid) if self.unused else output.confidence


def build(s: dict, width: int) -> Classifier:
    """Return the model of a row's settings, untrained; ``width`` is that of encoders of pictures."""
    data = examples(s["data"], "train").of(s["inputs"])
    classes, dims = int(data.y.max()) + 1, dict.fromkeys(s["inputs"], DIM)
    towers = {m: Spelling() if m == "name" else encoder(x, s["data"], width) for m, x in data.x.items()}
    late = "pool" in s
    if late:
        fuser = LateFusion(dims, classes)
    else:
        fuser = {**FUSERS, "MLP": MLPFusion}[s.get("fuser", "mean")](dims, DIM)
    gate = GATES[s["gate"]](dims, DIM, coupling=s.get("start", START)) if "gate" in s else None
    if gate and "w_fixed" in s:
        gate.coupling.requires_grad_(False)
    unused = gate if s.get("gate") == "unused" else None
    model = TwoTower(
        towers,
        DIM,
        fuser,
        lead=s.get("lead"),
        gate=None if unused else gate,
        keep=s.get("keep"),
        interaction="interaction" in s,
        slope=SLOPE,
        offset=OFFSET,
    )
    if s.get("interaction") == "sigmoid":
        for m in model.interactions:
            model.interactions[m] = SigmoidInteraction(DIM, slope=SLOPE, offset=OFFSET)
    head = nn.Identity() if late else nn.Linear(DIM, classes)
    return Classifier(model, head, unused, s.get("pool", "mean"))


# Rows

QUESTIONS = {
    "two views": ("digits", ("fourier", "pixels")),
    "six views": ("digits", VIEWS),
    "things": ("things", ("picture", "animation", "name")),
}
LEADS = {  # the most informative modality by itself and the least, on the validation items
    "two views": ("pixels", "fourier"),
    "six views": ("pixels", "morphological"),
    "things": ("name", "animation"),
}
OTHER_FUSERS = {  # than the mean, without a gate and with one
    "two views": ("max", "concat", "gated", "attention", "MLP", "Transformer"),
    "six views": ("max", "concat", "gated", "attention", "MLP", "Transformer"),
    "things": ("max", "attention", "MLP", "Transformer"),
}
GATED_FUSERS = {
    "two views": ("MLP", "Transformer"),
    "six views": ("max", "concat", "gated", "MLP", "Transformer"),
    "things": ("Transformer",),
}
LATE = {  # of two there is no majority
    "two views": ("mean", "capped", "entropy"),
    "six views": ("mean", "capped", "entropy", "agreement"),
    "things": ("mean", "capped", "entropy", "agreement"),
}
LONGER = {  # twice as many steps
    "two views": ("towers", "+ gate", "Transformer"),
    "six views": ("towers", "+ gate", "Transformer"),
}
GATED = {"interaction": True, "gate": "field"}
STAGES = {
    "towers": {},
    "+ interaction": {"interaction": True},
    "+ gate": GATED,
    "+ fuser": {**GATED, "fuser": FUSER},
}


def for_question(name: str) -> dict[str, dict]:
    """Return the rows of one question: stages, what each part is good for, training, fusers, baselines."""
    data, inputs = QUESTIONS[name]
    rows = {}

    def add(what: str, **more) -> None:
        rows[f"{name}, {what}"] = {"data": data, "inputs": tuple(inputs)} | more

    for stage, parts in STAGES.items():
        add(stage, **parts)
        add(f"{stage}, clean", clean=True, **parts)
    add("gate alone", gate="field")
    add("all but the gate", interaction=True, fuser=FUSER)
    add("all but the interaction", gate="field", fuser=FUSER)
    # the gate
    add("no corruption loss", **GATED, weight=0.0)
    add("w = 0", **GATED, start=0.0, w_fixed=True)
    add("joint gate", interaction=True, gate="joint")
    add("one left out", **GATED, keep=len(inputs) - 1)
    add("gate unused", interaction=True, gate="unused")
    add("aligned", **GATED, aligned=True)
    add("aligned, no gate", interaction=True, aligned=True)
    if data == "digits":
        add("w from 0", **GATED, start=0.0)
        add("sigmoid interaction", interaction="sigmoid", gate="field")
    if len(inputs) >= MANY:
        add("swaps only", **GATED, damages=("swapped",))
        add("gate detached", interaction=True, gate="detached")
        add("gate unused, Transformer", gate="unused", fuser="Transformer")
        add("mean field", interaction=True, gate="mean field")
    # which tower leads
    for lead in LEADS[name]:
        add(f"lead {lead}", **GATED, lead=lead)
    # in which order parts are trained
    if len(inputs) >= MANY:
        add("pre-trained", **GATED, before="pre-trained")
    add("frozen, then trained", **GATED, before="frozen, then trained")
    add("frozen", **GATED, before="frozen")
    if len(inputs) >= MANY:
        add("frozen, no gate", before="frozen")
    add("frozen, Transformer", fuser="Transformer", before="frozen")
    # fusers, without a gate and with it
    for fuser in OTHER_FUSERS[name]:
        add(fuser, fuser=fuser)
    for fuser in GATED_FUSERS.get(name, ()):
        add(f"gate, {fuser}", gate="field", fuser=fuser)
    # what damage in training does by itself, and more training
    if data == "digits":
        add("Transformer, clean", fuser="Transformer", clean=True)
        for row in LONGER[name]:
            add(f"{row}, longer", **rows[f"{name}, {row}"], steps=2)
    # baselines
    for kind in LATE[name]:
        add(f"late, {kind}", pool=kind)
    add("late, gate", pool="mean", gate="field")
    add("late, gate caps", pool="doubted", gate="field")
    add("late, capped, clean", pool="capped", clean=True)
    if len(inputs) >= MANY:  # is it the losses, the damage or the cap that makes separate answers robust?
        add("late, mean, clean", pool="mean", clean=True)
        add("late, linear", pool="linear")
        add("late, linear, clean", pool="linear", clean=True)
        add("late, agreement, clean", pool="agreement", clean=True)
        add("one loss, mean", pool="mean", one_loss=True)
        add("one loss, capped", pool="capped", one_loss=True)
    add("oracle", oracle=True)
    for m in inputs:
        add(f"only {m}", only=m)
    add("linear", baseline="linear")
    if data == "things":
        add("presence", baseline="presence")
    return rows


ROWS = {row: s for name in QUESTIONS for row, s in for_question(name).items()}


def settings(row: str) -> dict:
    """Return a row's settings; an unknown row raises, naming the known ones."""
    if row not in ROWS:
        raise ValueError(f"row: expected one of {', '.join(ROWS)}; found {row!r}")
    return ROWS[row]


def lesson(row: str, seed: int, shuffle_pairs: bool = False) -> Examples:
    """Return the training examples of a row, before any damage; ``shuffle_pairs`` deals out answers anew."""
    s = settings(row)
    data = examples(s["data"], "train").of(s["inputs"])
    if shuffle_pairs:
        generator = torch.Generator().manual_seed(seed)
        data = replace(data, y=data.y[torch.randperm(len(data.y), generator=generator)])
    return data


def shown(s: dict, damaged: Damaged) -> Tensor:
    """Return which modalities a row sees, bool ``(B, M)``: an oracle is not shown what is corrupted."""
    valid = damaged.data.valid
    if s.get("oracle"):
        valid = valid & ~damaged.corrupted
    if "only" in s:
        valid = valid & torch.tensor([m == s["only"] for m in s["inputs"]])
    return valid


# Training


def fit(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False, progress=False):
    """Train one row's model, or fit its baseline, and return it.

    Args:
        row: a key of ``ROWS``.
        seed: seeds weights, batches and damage.
        scale: ``"cpu"`` or ``"gpu"``; by default what the machine has.
        shuffle_pairs: the control: items get each other's answers before training.
        progress: show a progress bar.

    Returns:
        The model. ``looks`` keeps the mean marginal of what is intact and of what is corrupted, by step of
        the last part of its training.

    Raises:
        ValueError: for an unknown row, or pairs shuffled where nothing is trained.
    """
    s, scale = settings(row), scale or runtime.scale()
    generator, where = runtime.seed_everything(seed), runtime.device()
    data = lesson(row, seed, shuffle_pairs)
    if "baseline" in s:
        if shuffle_pairs:
            raise ValueError(f"shuffle_pairs: expected a row that is trained, found {row!r}")
        return baselines.Linear(data, s["data"], seed, s["baseline"])
    model, steps = build(s, WIDTH[scale]).to(where), s.get("steps", 1) * STEPS[scale][s["data"]]
    more = dict(rate=RATE, weight_decay=DECAY[KIND[s["data"]]], progress=progress)
    model.looks, planned = {}, look_steps(steps)

    def batch_loss(step):
        batch = draw(data, s, generator)
        loss, marginals = loss_of(model, batch, s, where)
        if step in planned and model.gate:
            model.looks[step] = trust(marginals.detach().cpu(), batch)
        return loss

    # every encoder is trained for as many steps as end to end: those alone come off those together
    before, half = s.get("before"), steps // 2
    if before:
        train_alone(model, data, s, steps if before == "frozen" else steps - half, generator, **more)
    if before == "frozen, then trained":
        model.towers.freeze()
        train(model, batch_loss, half, **more)
        model.towers.unfreeze()
    if before == "frozen":
        model.towers.freeze()
    together = half if before in ("pre-trained", "frozen, then trained") else steps
    model.history = train(model, batch_loss, together, **more)
    return model


def draw(data: Examples, s: dict, generator: torch.Generator) -> Damaged:
    """Draw a batch as a row is to see it: pictures moved a little, and damaged."""
    batch = draw_moved(data, {"data": s["data"]}, generator, "cpu")
    if s.get("clean"):
        return Damaged(batch, torch.zeros_like(batch.valid))
    return damage(batch, generator, s.get("damages", DAMAGES))


def loss_of(model: Classifier, batch: Damaged, s: dict, where) -> tuple[Tensor, Tensor]:
    r"""Return :math:`L_{task}+\eta L_{corruption}` of a batch, and the marginals ``(B, M)``.

    Heads of a ``LateFusion`` learn from a loss each, unless a row says "one loss": of their pool.
    """
    x = {m: x_m.to(where) for m, x_m in batch.data.x.items()}
    valid, y = shown(s, batch).to(where), batch.data.y.to(where)
    logits, output = model(x, valid)
    marginals = model.marginals(output, valid)
    if isinstance(model.towers.fuser, LateFusion) and not s.get("one_loss"):
        loss = own_losses(model.own_logits(output, valid), valid, y)
    else:
        loss = F.cross_entropy(logits, y)
    if model.gate and not s.get("clean"):  # of clean items it would learn to trust everything
        loss = loss + s.get("weight", WEIGHT[s["data"]]) * corruption_loss(
            marginals, batch.corrupted.to(where), valid
        )
    if s.get("aligned"):
        loss = loss + ALIGNMENT * alignment(output.features, valid & ~batch.corrupted.to(where))
    return loss, marginals


def alignment(features: dict[str, Tensor], intact: Tensor) -> Tensor:
    """Return the mean contrastive loss of all pairs of modalities, where both are intact."""
    losses = []
    for (j, a), (k, b) in combinations(enumerate(features), 2):
        both = intact[:, j] & intact[:, k]
        losses.append(info_nce(features[a][both], features[b][both], TEMPERATURE))
    return torch.stack(losses).mean()


def own_losses(logits: list[Tensor], valid: Tensor, y: Tensor) -> Tensor:
    """Return the sum of the cross-entropies of each modality's own answers, over the items that have it."""
    here = valid.unbind(1)
    return sum(
        F.cross_entropy(own[there], y[there]) for own, there in zip(logits, here, strict=True) if there.any()
    )


def train_alone(model: Classifier, data: Examples, s: dict, steps: int, generator, **more) -> None:
    """Train each encoder by itself, with a head of its own that is then thrown away."""
    where = next(model.parameters()).device
    heads = LateFusion(dict.fromkeys(s["inputs"], DIM), int(data.y.max()) + 1).to(where)

    def batch_loss(step):
        batch = draw(data, s, generator)
        x = {m: x_m.to(where) for m, x_m in batch.data.x.items()}
        valid = batch.data.valid.to(where)
        logits = heads.modality_logits(model.towers.encode(x, valid), valid)
        return own_losses([*logits.values()], valid, batch.data.y.to(where))

    train(nn.ModuleList([model.towers.towers, heads]), batch_loss, steps, **more)


# Scores


def score(model, row: str, seed: int, part: str = "test") -> Figures:
    """Return the figures of a trained model or baseline, and each item's outcomes.

    Returns:
        Outcomes: ``"accuracy, clean"``; ``"accuracy, swapped"`` (``noisy 2``, ``noisy 4``, ``absent``): one
        modality damaged, the mean over which one; of six views ``"accuracy, half swapped"`` and so on: three
        of them; ``"accuracy, mixed"``: damaged as in training. Figures:
        ``"accuracy, swapped, pixels"``, ``"ece, clean"``, ``"parameters"``, ``"validation"`` and
        ``"validation, mixed"``. Of gates and interactions: see `towers_scores`.
    """
    s = settings(row)
    data = examples(s["data"], part).of(s["inputs"])
    versions = {(kind, m): version(kind, *one_of(data, m)) for kind in VERSIONS for m in data.x}
    if len(data.x) >= MANY:
        versions |= {f"half {kind}": version(kind, *half_of(data)) for kind in VERSIONS}
    versions["clean"], versions["mixed"] = untouched(data), mixed(data)
    others = examples(s["data"], "validation").of(s["inputs"])
    sides = {"validation": untouched(others), "validation, mixed": mixed(others)}
    if "baseline" in s:
        found = {name: model.right(damaged.data) for name, damaged in versions.items()}
        more = {name: model.right(side.data).mean() for name, side in sides.items()}
    else:
        answers = {name: answer(model, s, damaged) for name, damaged in versions.items()}
        found = {name: right(answers[name][0], damaged.data.y) for name, damaged in versions.items()}
        more = {name: right(answer(model, s, side)[0], others.y).mean() for name, side in sides.items()}
        more |= network_figures(model, s, versions, answers)
    figures = accuracies(found, data)
    return Figures({**figures, **more}, outcomes=figures.outcomes, groups=figures.groups)


def network_figures(model: Classifier, s: dict, versions: dict, answers: dict) -> dict[str, float]:
    """Return the figures of what only networks have: parameters, probabilities, gates, interactions."""
    figures = {"parameters": parameter_count(model)}
    for name in ("clean", "mixed"):
        figures[f"ece, {name}"] = ece(answers[name][0], versions[name].data.y)
    if model.gate:
        figures |= gate_figures(model, versions, {name: p for name, (_, p, _) in answers.items()})
    if "interaction" in s:
        figures |= interaction_figures({name: r for name, (*_, r) in answers.items()})
    return figures


def run(row: str, seed: int, *, scale: str | None = None, shuffle_pairs: bool = False) -> Figures:
    """Train and score one row; see `fit` and `score`."""
    return score(fit(row, seed, scale=scale, shuffle_pairs=shuffle_pairs), row, seed)


def untouched(data: Examples) -> Damaged:
    """Return the items as they are."""
    return Damaged(data, torch.zeros_like(data.valid))


def mixed(data: Examples) -> Damaged:
    """Return the items damaged as in training, the same on every call."""
    return damage(data, torch.Generator().manual_seed(0))


@torch.no_grad()
def answer(model: Classifier, s: dict, damaged: Damaged) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return logits ``(N, C)``, marginals ``(N, M)``, and how open each interaction was, ``(N,)`` by name."""
    where = next(model.parameters()).device
    valid = shown(s, damaged).to(where)
    logits, output = model({m: x.to(where) for m, x in damaged.data.x.items()}, valid)
    interaction = {m: r.cpu().double() for m, r in output.interaction.items()}
    return logits.cpu().double(), model.marginals(output, valid).cpu().double(), interaction
