"""A piece of work on a GPU as a CUDA graph: captured once, replayed as one launch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from cache_schema.errors import first_line

WARM_UP = 2
"""Times that a piece of work runs as it is before it is captured: what is made on first use must be there by then."""


class Graphs:
    """Pieces of work that are replayed as graphs where there is a GPU, and run as they are everywhere else.

    A piece reads and writes tensors that stay where they are, waits for nothing and has no shape that depends on a
    number. One that cannot be captured is said, and from then on everything runs as it is, to the same results.

    Args:
        device: where the work is done.
        generators: what the pieces draw from.
        say: called with a line where a piece cannot be captured.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator], say: Callable[[str], None]) -> None:
        self.device, self.enabled, self.say = device, device.type == "cuda", say
        self.generators = tuple(generators)
        self.captured = 0
        """How many graphs there have been."""
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._runs: dict[Hashable, int] = {}
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._pool: Any = None

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Work within it is ordered by one stream, the one that graphs are captured on."""
        if self._stream is None:
            yield
            return
        outer = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outer)
        with torch.cuda.stream(self._stream):
            yield
        outer.wait_stream(self._stream)

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do a piece of work; `key` names it, and all that is fixed in it."""
        if key not in self._graphs and self.enabled and self._runs.get(key, 0) >= WARM_UP:
            self._capture(key, work)
        if key in self._graphs:
            self._graphs[key].replay()
            return
        self._runs[key] = self._runs.get(key, 0) + 1
        work()

    def forget(self) -> None:
        """Capture everything anew: what the pieces read and write has moved."""
        self._graphs.clear()
        self._runs.clear()
        self._pool = None

    def _capture(self, key: Hashable, work: Callable[[], None]) -> None:
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            for generator in self.generators:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                work()
        except Exception as error:  # noqa: BLE001 - what is at fault in the work itself shows when it runs as it is
            self.enabled, self.captured = False, 0
            self._graphs.clear()
            released(self.device, self.generators, self._pool)
            # The first error invalidates the capture, and ending it is the second, which says no more than that.
            why = first_line(error.__context__ or error).rstrip(".")
            self.say(
                f"A step could not be captured as a CUDA graph ({why}): training goes on without graphs, more slowly "
                "and to the same results."
            )
            return
        self._graphs[key] = graph
        self.captured += 1


def released(device: torch.device, generators: Sequence[torch.Generator], pool: Any) -> None:
    """Leave nothing in the state of a capture that failed, which torch does not see to in all of its versions.

    Its memory counts as captured into until the allocator is told otherwise, and so long none is given back:
    `torch.cuda.empty_cache` raises, and with it the next capture. Generators that it drew from would refuse to draw:
    they, and the device's default one, which every capture registers, get states of their own with the same numbers to
    come.

    Args:
        device: where it was.
        generators: what it drew from.
        pool: its memory (`torch.cuda.graph_pool_handle`); None: it had none yet.
    """
    if pool is not None:
        with suppress(RuntimeError, AttributeError):  # it knows; or torch is older than 2.8, which calls this otherwise
            torch._C._cuda_endAllocateToPool(device.index or 0, pool)
    for generator in (*generators, *torch.cuda.default_generators[device.index or 0 :][:1]):
        if generator.device.type == "cuda":
            generator.graphsafe_set_state(generator.clone_state())
