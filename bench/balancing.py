"""A training step of chapter 04's methods against the number of tasks: time, and peak memory.

``make bench``, or ``python -m bench.balancing``. All versions of a line run in turns (A, B, A, B, ...); their
medians are compared. Time is the processor's, of one thread: what else the machine does hardly counts.
A step is forward and backward of a residual trunk with a head for each task, without the optimiser.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch
from _measure import peak_mib, print_environment, seconds
from torch import Tensor, nn

from mmtutor.balancing import FixedWeights, GradNorm, LossWeighting, PCGrad
from mmtutor.sharing import HardSharing, Head, resnet_trunk

DIM, CLASSES, BATCH, SEED = 64, 10, 64, 0
TASKS, REPEATS, MEMORY_BATCH = (2, 4, 8, 16), 15, 256
PEER = find_spec("torchjd") is not None
# what glibc frees goes back at once; otherwise the peak varies from run to run by how its heap is cut up
GIVE_BACK = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}


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
    """GradNorm as its paper words it: its loss is differentiated through the norms of the gradients."""
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
        omega.data -= 0.025 * gradient
        omega.data *= len(omega) / omega.data.sum()

    return step


def torchjd_pcgrad(chunk: int | None) -> Callable:
    """Its step for several tasks: all tasks at once through ``torch.vmap``, or one after the other."""

    def prepare(model: HardSharing, x: Tensor, targets: dict[str, Tensor]) -> Callable:
        from torchjd.aggregation import PCGrad as Aggregator
        from torchjd.autojac import jac_to_grad, mtl_backward

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
    "GradNorm": weighted(lambda m: GradNorm(list(m.heads), m.trunk[-1].parameters())),
    "GradNorm, twice": gradnorm_twice,
}
if PEER:
    VERSIONS |= {"torchjd": torchjd_pcgrad(None), "torchjd, in turn": torchjd_pcgrad(1)}


def prepared(name: str, tasks: int, batch: int) -> Callable:
    """Return the step of a version, on the same weights and pictures as all others."""
    torch.manual_seed(SEED)
    names = [str(t) for t in range(tasks)]
    model = HardSharing(resnet_trunk(DIM), {task: Head(DIM, CLASSES) for task in names})
    targets = {task: torch.randint(CLASSES, (batch,)) for task in names}
    return VERSIONS[name](model, torch.randn(batch, 3, 32, 32), targets)


def memory_of(name: str, tasks: int) -> float:
    """Return by how many MiB two steps raise the peak memory of this fresh process.

    A process inherits the peak of the one that started it, so this is measured before all else.
    """
    prepared(name, tasks, 2)()
    step = prepared(name, tasks, MEMORY_BATCH)
    before = peak_mib()
    step()
    step()
    return peak_mib() - before


def print_line(title: str, figures: dict[str, float], unit: str) -> None:
    """Print each version's figure and, in brackets, its ratio to the plain sum."""
    plain = figures["plain sum"]
    cells = [f"{name} {figure:.3g} {unit} ({figure / plain:.2f})" for name, figure in figures.items()]
    print(f"{title:<20}" + "  ".join(f"{cell:<34}" for cell in cells).rstrip(), flush=True)


def main() -> None:
    peers = ("torch", "torchjd") if PEER else ("torch",)
    print_environment(peers)
    print(f"residual trunk, D = {DIM}, {CLASSES} classes a task; in brackets the ratio to the plain sum")
    if not PEER:
        print("torchjd is not installed, so it is not compared (pip install torchjd)")
    print()
    for tasks in TASKS:
        figures = {}
        for name in VERSIONS:
            command = [sys.executable, __file__, "--memory", name, str(tasks)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=GIVE_BACK)
            figures[name] = float(done.stdout)
        print_line(f"memory, {tasks} tasks", figures, "MiB")
    for tasks in TASKS:
        runs = {name: prepared(name, tasks, BATCH) for name in VERSIONS}
        times = seconds(runs, REPEATS)
        print_line(f"time, {tasks} tasks", {name: 1000 * t for name, t in times.items()}, "ms")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--memory"]:
        print(memory_of(sys.argv[2], int(sys.argv[3])))
    else:
        main()
