"""What `test_training.py` starts by ``torchrun``: each process writes down what its tasks found."""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmtutor.contrastive import info_nce
from mmtutor.training import gather, gathered_info_nce, in_chunks, own_share, process_group, processes, train

B, RATE, STEPS = 8, 0.01, 6


class Pair(nn.Module):
    """Two encoders and a learnt temperature; calling it gives the loss of this process's pairs."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))
        self.other = nn.Linear(7, 4)
        self.temperature = nn.Parameter(torch.tensor(0.2))

    def forward(self, x, y, chunk_size=None):
        if chunk_size is None:
            return gathered_info_nce(self.one(x), self.other(y), self.temperature)
        a, b = in_chunks(self.one, x, chunk_size=chunk_size), in_chunks(self.other, y, chunk_size=chunk_size)
        return gathered_info_nce(a, b, self.temperature)


def pair(*, count: int):
    """The same model in every process; with several, wrapped so that gradients are averaged."""
    torch.manual_seed(0)
    model = Pair().double()
    return DistributedDataParallel(model) if count > 1 else model


def batch(step: int):
    """The whole batch of a step, drawn alike in every process."""
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randn(B, n, generator=generator).double() for n in (5, 7))


def gradients(model) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters()]


def losses(rank: int, count: int) -> dict:
    """Loss and gradients of this process's share, whole and in chunks, beside those of the whole batch."""
    found, x = {}, batch(0)
    for name, chunk_size in (("at once", None), ("in chunks", 3)):
        model = pair(count=count)
        loss = model(*map(own_share, x), chunk_size=chunk_size)
        loss.backward()
        found[name] = {"loss": loss.item(), "gradients": gradients(model)}
    model = pair(count=1)
    whole = info_nce(model.one(x[0]), model.other(x[1]), model.temperature)
    whole.backward()
    return found | {"whole": {"loss": whole.item(), "gradients": gradients(model)}}


def gathered(rank: int, count: int) -> dict:
    """Two rows of each process, and their gradient where the processes weigh them differently."""
    z = torch.arange(8.0).reshape(4, 2)[2 * rank : 2 * rank + 2].requires_grad_()
    everywhere = gather(z)
    ((rank + 1) * everywhere).sum().backward()
    return {"rows": everywhere.detach(), "gradient": z.grad}


def trained(rank: int, count: int) -> dict:
    """Weights after a training of several steps by the book's own loop."""
    model = pair(count=count)
    history = train(model, lambda step: model(*map(own_share, batch(step))), STEPS, rate=RATE, progress=False)
    return {"weights": list(model.parameters()), "loss": history.loss}


def unequal(rank: int, count: int) -> dict:
    """What a process is told whose rows are more than another's."""
    try:
        gather(torch.ones(rank + 1, 2))
    except ValueError as problem:
        return {"problem": str(problem)}
    return {}


def nan(rank: int, count: int) -> dict:
    """One process meets a NaN; the other waits for its gradient, and must not wait for ever."""
    x, y = batch(0)
    model = pair(count=count)
    train(model, lambda step: model(*map(own_share, (x / 0 if rank else x, y))), 2, progress=False)
    return {}


def main(folder: str, *tasks: str) -> None:
    with process_group() as (rank, count):
        assert processes() == (rank, count)
        found = {name: globals()[name](rank, count) for name in tasks}
        torch.save(found, Path(folder) / f"{rank} of {count}.pt")
        if count > 1:
            dist.barrier()
    assert processes() == (0, 1)


if __name__ == "__main__":
    start = time.perf_counter()
    main(*sys.argv[1:])
    print(f"{time.perf_counter() - start:.1f} s")
