"""Chapter 14: what a step holds in memory and how long it takes."""

import statistics
import time
import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors made inside of it that are still there, and their most.

    Views share their tensor's bytes, and what was there before, such as a model's weights, is not counted.

    Example:
        >>> with Held() as held:
        ...     x = torch.zeros(100) + torch.ones(100)
        >>> held.most
        1200
    """

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        self._meet((arguments, options), counts=False)
        found = function(*arguments, **options)
        self._meet(found, counts=True)
        return found

    def _meet(self, tensors: object, counts: bool) -> None:
        for x in tree_leaves(tensors):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in self._seen:
                storage = x.untyped_storage()
                size = storage.nbytes() if counts else 0
                self._seen.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most memory that the tensors made by a call hold at one time, in bytes."""
    with Held() as held:
        call()
    return held.most


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
