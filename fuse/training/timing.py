"""Where the time of a training goes: load, batch, forward, backward, optimiser, evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch

PARTS = ("load", "batch", "forward", "backward", "optimiser", "step", "evaluation")
"""In the order in which they are shown; `step` is a whole step, where it runs as one graph that has no parts."""
PENDING = 4096
"""Marks on a CUDA stream that are kept before they are read."""

T = TypeVar("T")


class NoTiming:
    """Measures nothing."""

    def part(self, name: str) -> AbstractContextManager[None]:
        """What happens within it belongs to `name`."""
        return nullcontext()

    def over(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """`items`; what making each takes belongs to `name`."""
        return iter(items)

    @property
    def seconds(self) -> dict[str, float]:
        """Part -> seconds, in the order of PARTS."""
        return {}


class Timing(NoTiming):
    """Seconds of each part, added up.

    On CUDA a part lies between two events of the current stream: launching is not waited for, and the parts' times are
    those at which the device has come to them. Reading `seconds` waits for the device.

    Args:
        device: where the training runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens within it belongs to `name`."""
        if not self.cuda:
            begun = time.perf_counter()
            try:
                yield
            finally:
                self.add(name, time.perf_counter() - begun)
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        try:
            yield
        finally:
            end.record()
            self._pending.append((name, begin, end))
            if len(self._pending) >= PENDING:
                self._settle()

    def over(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """`items`; what making each takes belongs to `name`."""
        iterator, end = iter(items), object()
        while True:
            with self.part(name):
                item = next(iterator, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    def add(self, name: str, seconds: float) -> None:
        """Count `seconds` to `name`."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def _settle(self) -> None:
        if self._pending:
            torch.cuda.synchronize()
        for name, begin, end in self._pending:
            self.add(name, begin.elapsed_time(end) / 1000)
        self._pending.clear()

    @property
    def seconds(self) -> dict[str, float]:
        """Part -> seconds, in the order of PARTS."""
        self._settle()
        return {name: self._seconds[name] for name in PARTS if name in self._seconds}


def total(profiles: Iterable[dict[str, float]]) -> dict[str, float]:
    """Part -> seconds of several trainings together."""
    found = list(profiles)
    return {name: sum(p.get(name, 0.0) for p in found) for name in PARTS if any(name in p for p in found)}
