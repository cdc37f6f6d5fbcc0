"""Clips through a frozen model: in batches under a budget, one ahead of the host, smaller where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.rows import Failed
from extract.frozen import inference

if TYPE_CHECKING:
    from torch import Tensor

Arrays = dict[str, NDArray[np.float32]]


def budget_for(device: str, cpu: int, accelerator: int) -> int:
    """How much goes through a model at once: little on a CPU, where caches count, much on an accelerator."""
    return cpu if device == "cpu" else accelerator


def to_device(tensor: Tensor, device: str) -> Tensor:
    """The tensor on the device; on its way to a GPU the host does not wait for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if _is_cuda(device) else tensor.to(device)


class Batches:
    """Runs a model over items of different lengths, batch by batch, those of similar length together.

    What a batch gave is taken over when the next one has been handed to the device, so that a GPU never waits for the
    host to make a batch ready. A batch that the device's memory does not hold is halved, and so are those after it.

    Args:
        budget: most that a batch may hold, padding included (longest item times number); an item that is longer is a
            batch of its own.
        device: torch device of the model.
    """

    def __init__(self, budget: int, device: str) -> None:
        self.budget, self.device = budget, device

    def run(
        self, lengths: Sequence[int], forward: Callable[[list[int]], Mapping[str, Tensor]]
    ) -> Iterator[tuple[list[int], Arrays | Failed]]:
        """Every item once; the longest first, those of one length in order.

        Args:
            lengths: of the items.
            forward: the numbers of a batch's items -> tensors by name, on the device.

        Yields:
            The numbers of a batch's items with the arrays, float32, that `forward` gave for them; or, for an item that
            does not fit into the device's memory even alone, why it failed.
        """
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        running: _Running | None = None
        at = 0
        while at < len(order):
            most = max(1, self.budget // max(1, lengths[order[at]]))
            items = order[at : at + most]
            handed_over = self._hand_over(items, forward)
            if running is not None:
                yield running.finish()
            running = handed_over
            if running is not None:
                at += len(items)
            elif len(items) > 1:
                self.budget = lengths[items[0]] * (len(items) // 2)
            else:
                yield items, Failed(f"does not fit into the memory of {self.device}, even alone in a batch")
                at += 1
        if running is not None:
            yield running.finish()

    def _hand_over(self, items: list[int], forward: Callable[[list[int]], Mapping[str, Tensor]]) -> _Running | None:
        """Start a batch; None where the device's memory does not hold it."""
        import torch

        try:
            with inference():
                found = {
                    name: tensor.float().to("cpu", non_blocking=_is_cuda(self.device))
                    for name, tensor in forward(items).items()
                }
        except torch.OutOfMemoryError:
            found = None
        if found is None:  # only now, out of the handler, does nothing hold the batch's tensors any more
            if _is_cuda(self.device):
                torch.cuda.empty_cache()
            return None
        ready = torch.cuda.current_stream(self.device).record_event() if _is_cuda(self.device) else None
        return _Running(items, found, ready)


@dataclass(frozen=True)
class _Running:
    """A batch on its way: its results on the host are complete when the event `ready` has happened."""

    items: list[int]
    found: dict[str, Tensor]
    ready: Any

    def finish(self) -> tuple[list[int], Arrays]:
        """Wait for the results."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.items, {name: tensor.numpy() for name, tensor in self.found.items()}


def _is_cuda(device: str) -> bool:
    return device.startswith("cuda")
