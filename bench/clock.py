"""Timing on a GPU or a CPU: medians with quantiles, turns, CUDA graphs, and the machine's own limits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fuse.training.graph import released

Work = Callable[[], object]
FLUSH_BYTES = 2**28
"""Written before each repetition on a GPU, so that nothing of the one before is left in its cache."""


@dataclass(frozen=True)
class Time:
    """Seconds of a piece of work: the median, and the 20% and 80% quantiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Time:
        """From repetitions."""
        ordered = sorted(seconds)
        last = len(ordered) - 1
        return cls(statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)])


@dataclass(frozen=True)
class Clock:
    """Times pieces of work on a device.

    Attributes:
        device: where they run.
        budget: seconds that the repetitions of one piece may take.
        most: repetitions at most.
    """

    device: torch.device
    budget: float = 0.15
    most: int = 100

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, work: Work) -> Time:
        """Of `work`, after it has run twice."""
        for _ in range(2):
            work()
        self.wait()
        begun = time.perf_counter()
        work()
        self.wait()
        once = time.perf_counter() - begun
        repetitions = max(3, min(self.most, int(self.budget / max(once, 1e-9))))
        return Time.of(self._on_gpu(work, repetitions) if self.device.type == "cuda" else _on_cpu(work, repetitions))

    def _on_gpu(self, work: Work, repetitions: int) -> list[float]:
        cache = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=self.device)
        marks: list[tuple[Any, Any]] = []
        for _ in range(repetitions):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            cache.zero_()
            begin.record()
            work()
            end.record()
            marks.append((begin, end))
        self.wait()
        return [begin.elapsed_time(end) / 1000 for begin, end in marks]

    def graph(self, work: Work) -> Work:
        """`work` captured as a CUDA graph; as it is where there is no GPU.

        Raises:
            RuntimeError: it cannot be captured.
        """
        if self.device.type != "cuda":
            return work
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        captured, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.stream(stream), torch.cuda.graph(captured, pool, stream):
                work()
        except Exception:
            released(self.device, (), pool)
            raise
        return captured.replay


def _on_cpu(work: Work, repetitions: int) -> list[float]:
    found = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return found


def in_turns(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round, in which they take turns, after a round that warms up and is not counted."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            seconds = _on_cpu(work, 1)
            if number:
                found[name] += seconds
    return found


@dataclass(frozen=True)
class Floor:
    """What the machine can do at most, measured.

    Attributes:
        bytes_per_second: of a large copy, read and written bytes together.
        flops: type -> floating-point operations per second of a large product of matrices.
    """

    bytes_per_second: float
    flops: dict[str, float]

    @classmethod
    def measure(cls, clock: Clock, small: bool) -> Floor:
        """On the clock's device."""
        size, side = (2**20, 128) if small else (2**30, 8192)
        source = torch.zeros(size, dtype=torch.int8, device=clock.device)
        target = torch.empty_like(source)
        copy = clock.time(lambda: target.copy_(source)).median
        flops = {}
        for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            a = torch.randn(side, side, device=clock.device, dtype=kind)
            flops[name] = 2 * side**3 / clock.time(lambda a=a: a @ a).median  # type: ignore[misc]
        return cls(2 * size / copy, flops)
