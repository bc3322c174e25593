"""A training step of chapter 04's methods against the number of tasks: time, and peak memory.

``make bench``, or ``python -m bench.balancing``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchjd.aggregation import PCGrad as Aggregator
from torchjd.autojac import jac_to_grad, mtl_backward

from bench._measure import SECONDS, SEED, compare, growth, memory, row
from mmtutor.balancing import FixedWeights, GradNorm, LossWeighting, PCGrad
from mmtutor.sharing import HardSharing, Head, resnet_trunk

TITLE = "Balancing"
ABOUT = """\
One training step of a residual trunk with a head for each task: forward and backward, without the
optimiser. The ratios are over the plain sum of the losses, which balances nothing: they say what
balancing costs. The peer of PCGrad is torchjd, with all tasks at once or one after the other (*in
turn*). The peer of GradNorm is the same step as its paper words it, with the gradient of a gradient
(*twice*)."""

DIM, CLASSES, BATCH = 64, 10, 64
TASKS, MEMORY_TASKS, MEMORY_BATCH = (2, 4, 8, 16), (2, 16), 256


def weighted(make: Callable[[HardSharing], LossWeighting]) -> Callable:
    """A step with one of the book's weightings: it keeps its state from step to step."""

    def prepare(model: HardSharing, x: Tensor, targets: dict[str, Tensor]) -> Callable:
        weighting = make(model)

        def step():
            model.zero_grad()
            weighting(model.losses(model(x), targets)).backward()

        return step

    return prepare


def gradnorm_twice(model: HardSharing, x: Tensor, targets: dict[str, Tensor]) -> Callable:
    """GradNorm with its loss differentiated through the norms; the step that follows is the book's."""
    omega, shared = nn.Parameter(torch.ones(len(model.heads))), list(model.trunk[-1].parameters())
    first = []

    def step():
        model.zero_grad()
        losses = torch.stack([*model.losses(model(x), targets).values()])
        first.append(losses.detach())
        norms = []
        for weighted_loss in omega * losses:
            g = torch.autograd.grad(weighted_loss, shared, retain_graph=True, create_graph=True)
            norms.append(torch.cat([p.flatten() for p in g]).norm())
        G, pace = torch.stack(norms), losses.detach() / first[0]
        target = (G.mean() * (pace / pace.mean()) ** 1.5).detach()
        (gradient,) = torch.autograd.grad((G - target).abs().sum(), omega, retain_graph=True)
        (omega.detach() * losses).sum().backward()
        omega.data *= (-0.025 * omega.data * gradient / G.detach().mean()).exp()
        omega.data *= len(omega) / omega.data.sum()

    return step


def torchjd_pcgrad(chunk: int | None) -> Callable:
    """Its step for several tasks: all tasks at once through ``torch.vmap``, or one after the other."""

    def prepare(model: HardSharing, x: Tensor, targets: dict[str, Tensor]) -> Callable:
        aggregator = Aggregator()

        def step():
            model.zero_grad()
            z = model.trunk(x)
            outputs = {task: head(z) for task, head in model.heads.items()}
            losses = list(model.losses(outputs, targets).values())
            mtl_backward(losses, z, parallel_chunk_size=chunk)
            jac_to_grad(model.trunk.parameters(), aggregator)

        return step

    return prepare


VERSIONS = {
    "plain sum": weighted(lambda m: FixedWeights(list(m.heads))),
    "PCGrad": weighted(lambda m: PCGrad(list(m.heads), m, m.trunk.parameters())),
    "torchjd": torchjd_pcgrad(None),
    "torchjd, in turn": torchjd_pcgrad(1),
    "GradNorm": weighted(lambda m: GradNorm(list(m.heads), m.trunk[-1].parameters())),
    "GradNorm, twice": gradnorm_twice,
}
RIVALS = {"PCGrad": ["torchjd", "torchjd, in turn"], "GradNorm": ["GradNorm, twice"]}


def prepared(name: str, tasks: int, batch: int) -> Callable[[], list[Tensor]]:
    """Return the step of a version, on the same weights and pictures as all others."""
    torch.manual_seed(SEED)
    names = [str(t) for t in range(tasks)]
    model = HardSharing(resnet_trunk(DIM), {task: Head(DIM, CLASSES) for task in names})
    targets = {task: torch.randint(CLASSES, (batch,)) for task in names}
    step = VERSIONS[name](model, torch.randn(batch, 3, 32, 32), targets)

    def run() -> list[Tensor]:
        step()
        return [p.grad for p in model.parameters()]

    return run


def memory_of(name: str, tasks: int) -> float:
    """Return by how many MiB two steps raise the peak memory of this process."""
    torch.set_num_threads(1)
    prepared(name, tasks, 2)()
    return growth(prepared(name, tasks, MEMORY_BATCH), times=2)


def time_rows(seconds: float = SECONDS) -> list[dict]:
    """Time a step for every number of tasks."""
    return [
        compare(
            f"Training step, batch {BATCH}",
            f"{tasks} tasks",
            {name: prepared(name, tasks, BATCH) for name in VERSIONS},
            "plain sum",
            RIVALS,
            seconds,
            same=RIVALS,
        )
        for tasks in TASKS
    ]


def rows(seconds: float = SECONDS) -> list[dict]:
    """Return all figures of this file."""
    found = time_rows(seconds)
    for tasks in MEMORY_TASKS:
        peak = memory("bench.balancing.memory_of", {name: (name, tasks) for name in VERSIONS})
        table = f"Training step, batch {MEMORY_BATCH}, peak memory"
        found.append(row(table, f"{tasks} tasks", "MiB", "plain sum", RIVALS, peak))
    return found


if __name__ == "__main__":
    from bench._table import show

    show(rows())
