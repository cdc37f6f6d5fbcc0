"""Where a run's data live: on the training device once, whatever number of seeds, splits and folds read them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fuse.data import Dataset, Selection, Splits


class Mover:
    """Moves tensors to a device, each one once: data sets that share frames share them there too.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """`x` on the device."""
        # What was moved is kept beside its copy, so that no other tensor gets its id.
        return self._moved.setdefault(id(x), (x, x.to(self.device)))[1]


def resident(folds: Mapping[str, Selection], device: torch.device) -> dict[str, Selection]:
    """Every fold with its data on `device`, where each tensor lies once."""
    move = Mover(device)
    return {name: fold.to(move) for name, fold in folds.items()}


def bytes_of(folds: Mapping[str, Selection]) -> int:
    """Memory that the folds' tensors take, those that several splits share counted once."""
    return sum({x.data_ptr(): x.nbytes for fold in folds.values() for x in _tensors(fold)}.values())


def _tensors(fold: Selection) -> Iterator[Tensor]:
    for data in (fold.train, fold.val, *((fold.open_test(),) if isinstance(fold, Splits) else ())):
        yield from data_tensors(data)


def data_tensors(data: Dataset) -> Iterator[Tensor]:
    """Every tensor of a data set."""
    yield from (*data.frames.values(), *data.starts.values(), *data.lengths.values(), data.dialogues)
    for laid in data.companions.values():
        yield from (laid.values, laid.there)
    if data.labels is not None:
        yield data.labels


def prepare_cuda() -> None:
    """What must be set before CUDA starts, so that matrix products are the same every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def describe_device(device: torch.device) -> dict[str, Any]:
    """What a run records of a GPU: its name, memory, and the versions of CUDA and cuDNN; nothing of a CPU."""
    if device.type != "cuda":
        return {}
    found = torch.cuda.get_device_properties(device)
    backend: Any = torch.backends.cudnn
    return {
        "name": found.name,
        "memory_bytes": found.total_memory,
        "compute_capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
        "cudnn": backend.version(),
    }
