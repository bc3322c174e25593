"""Chapter 14: one training step on two views of a digit, in as many processes as ``torchrun`` has started.

``python -m torch.distributed.run --standalone --nproc-per-node 2 -m mmtutor.experiments.training_processes``
prints what process 0 has found, as one line of JSON. Without ``torch.distributed.run`` it runs alone.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmtutor import runtime
from mmtutor.contrastive import info_nce
from mmtutor.training import gathered_info_nce, own_share, process_group

from .gan_uses import VIEWS, digits
from .training import Views

BATCH, STEPS, WARM_UP = 512, 12, 3
WIDTH = 2048  # wide, so that there is something to compute


class OwnLoss(nn.Module):
    """The loss of this process's share of a batch, as a module: what DistributedDataParallel wraps."""

    def __init__(self, model: Views):
        super().__init__()
        self.model = model

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        z = self.model(x)
        return gathered_info_nce(*(z[m] for m in VIEWS), self.model.temperature)


def batch() -> dict[str, Tensor]:
    """Return one batch, the same in every process."""
    return {m: view[:BATCH].to(runtime.device()) for m, view in digits("train")[0].items()}


def step_seconds(model: nn.Module, x: dict[str, Tensor]) -> float:
    """Return the median time of a step: forward, backward with its exchange of gradients, update."""
    optimiser, seconds = torch.optim.SGD(model.parameters(), lr=1e-3), []
    for _ in range(WARM_UP + STEPS):
        start = time.perf_counter()
        optimiser.zero_grad()
        model(x).backward()
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def loopback_bytes() -> int | None:
    """Return what this machine has sent to itself, in bytes; None where Linux's counter is missing."""
    counter = Path("/sys/class/net/lo/statistics/tx_bytes")
    return int(counter.read_text()) if counter.exists() else None


def main() -> dict[str, float | None]:
    """Take steps, and return what they took and how far the gradient is from that of the whole batch."""
    with process_group() as (rank, count):
        runtime.seed_everything(0)
        model = Views(WIDTH).to(runtime.device())
        loss = OwnLoss(model)
        several = DistributedDataParallel(loss) if count > 1 else loss
        x = batch()
        own = {m: own_share(view) for m, view in x.items()}
        told = several(own)
        told.backward()
        shared = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        z = model(x)
        whole = info_nce(*(z[m] for m in VIEWS), model.temperature)
        whole.backward()
        apart = max((a - p.grad).abs().max().item() for a, p in zip(shared, model.parameters(), strict=True))
        mean = told.detach().clone()
        if count > 1:
            dist.all_reduce(mean)
        before = loopback_bytes()
        seconds = step_seconds(several, own)
        after = loopback_bytes()
        sent = None if before is None else (after - before) / (WARM_UP + STEPS)
        figures = {
            "processes": count,
            "loss": (mean / count).item(),
            "whole loss": whole.item(),
            "gradient apart": apart,
            "largest slope": max(p.grad.abs().max().item() for p in model.parameters()),
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": seconds,
            "bytes": sent,
        }
        if rank == 0:
            print(json.dumps(figures), flush=True)
        return figures


def in_processes(count: int, threads: int = 1) -> dict[str, float | None]:
    """Start this program in processes of their own, and return what the first of them has found.

    Args:
        count: processes; each runs on as many cores as ``threads`` says, and on a GPU of its own if there
            are enough.

    Raises:
        RuntimeError: if a process fails; with the last of what it said.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    setting = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    if torch.cuda.device_count() < count:  # a process each, or none
        setting["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run([*command, "-m", __name__], env=setting, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{count} processes: one has failed and ended all\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
