"""Scale, device and seeds: what is found, what overrides it, and what repeats."""

import random

import numpy as np
import pytest
import torch

from mmtutor import runtime


@pytest.fixture
def machine(monkeypatch):
    """Pretend to run on a machine with or without CUDA and MPS, with MMTUTOR_SCALE unset."""
    monkeypatch.delenv("MMTUTOR_SCALE", raising=False)

    def pretend(cuda: bool = False, mps: bool = False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    "cuda, mps, device, scale",
    [
        (False, False, "cpu", "cpu"),
        (False, True, "mps", "cpu"),
        (True, False, "cuda", "gpu"),
        (True, True, "cuda", "gpu"),
    ],
)
def test_the_fastest_device_is_taken_and_only_cuda_runs_the_large_scale(machine, cuda, mps, device, scale):
    machine(cuda, mps)
    assert runtime.device() == torch.device(device)
    assert runtime.scale() == scale


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("wanted", ["cpu", "gpu"])
def test_the_environment_overrides_the_scale_but_not_the_device(machine, monkeypatch, cuda, wanted):
    machine(cuda)
    monkeypatch.setenv("MMTUTOR_SCALE", wanted)
    assert runtime.scale() == wanted
    assert runtime.device().type == ("cuda" if cuda else "cpu")


def test_an_empty_override_is_none(machine, monkeypatch):
    machine(cuda=True)
    monkeypatch.setenv("MMTUTOR_SCALE", "")
    assert runtime.scale() == "gpu"


@pytest.mark.parametrize("wrong", ["GPU", "smoke", "cuda"])
def test_an_unknown_scale_is_named_with_the_known_ones(monkeypatch, wrong):
    monkeypatch.setenv("MMTUTOR_SCALE", wrong)
    with pytest.raises(ValueError, match=f"MMTUTOR_SCALE: expected 'cpu' or 'gpu', found '{wrong}'"):
        runtime.scale()


def draw(seed: int) -> tuple:
    generator = runtime.seed_everything(seed)
    return (
        random.random(),
        np.random.rand(),
        torch.rand(1).item(),
        torch.rand(1, generator=generator).item(),
    )


def test_equal_seeds_repeat_every_stream_and_other_seeds_change_every_stream():
    first, again, other = draw(3), draw(3), draw(4)
    assert first == again
    assert all(x != y for x, y in zip(first, other, strict=True))


def test_the_generator_is_a_stream_of_its_own():
    runtime.seed_everything(5)
    alone = torch.rand(4)
    generator = runtime.seed_everything(5)
    torch.rand(10, generator=generator)
    assert torch.equal(torch.rand(4), alone)
