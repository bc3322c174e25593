"""Arithmetic on lists of numbers, so that loops over an equation share no code with what they test."""

import math
from dataclasses import is_dataclass

from torch import Tensor, nn

Vector = list[float]


def random_weights(module: nn.Module) -> nn.Module:
    """Double precision, and no parameter at a special value."""
    for p in module.double().parameters():
        nn.init.normal_(p, std=0.6)
    return module


def tensors(results) -> list[Tensor]:
    """All tensors in nested tuples, lists, dictionaries and dataclasses, in order."""
    results = vars(results) if is_dataclass(results) else results
    if isinstance(results, Tensor):
        return [results]
    return [t for r in (results.values() if isinstance(results, dict) else results) for t in tensors(r)]


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def add(*vectors: Vector) -> Vector:
    return [sum(numbers) for numbers in zip(*vectors, strict=True)]


def scale(factor: float, x: Vector) -> Vector:
    return [factor * value for value in x]


def tanh(x: Vector) -> Vector:
    return [math.tanh(value) for value in x]


def linear(layer: nn.Linear, x: Vector) -> Vector:
    product = [dot(row, x) for row in layer.weight.tolist()]
    return product if layer.bias is None else add(product, layer.bias.tolist())


def norm(layer: nn.LayerNorm, x: Vector) -> Vector:
    centre = sum(x) / len(x)
    spread = math.sqrt(sum((v - centre) ** 2 for v in x) / len(x) + layer.eps)
    scaled = [(v - centre) / spread for v in x]
    return add([w * v for w, v in zip(layer.weight.tolist(), scaled, strict=True)], layer.bias.tolist())
