"""A mode in which a step of training may not do what a CUDA graph cannot: wait for the device, or shape by numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "lift_fresh", "lift", "lift_fresh_copy"}
"""Read back from the device, or copied to it from the host's own memory, as `torch.tensor` does."""
SHAPED_BY_NUMBERS = {
    "nonzero",
    "nonzero_numpy",
    "argwhere",
    "unique_consecutive",
    "unique_dim",
    "unique_dim_consecutive",
    "_unique",
    "_unique2",
    "masked_select",
    "repeat_interleave",
    "bincount",
    "_pack_padded_sequence",
    "linalg_lstsq",
}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Refusing(TorchDispatchMode):
    """Raises where a step could not be captured; `seen` says how many operations there were."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.seen += 1
        if name in WAITS | SHAPED_BY_NUMBERS and not (name == "repeat_interleave" and func._overloadname != "Tensor"):
            raise AssertionError(f"{func} cannot be captured")
        if name in INDEXED and any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            raise AssertionError(f"{func} by a mask cannot be captured")
        return func(*args, **(kwargs or {}))


def captures(work: Callable[[], None]) -> int:
    """Do what is captured on a GPU; how many operations it has.

    Raises:
        AssertionError: something in it cannot be captured.
    """
    with Refusing() as refusing:
        work()
    return refusing.seen
