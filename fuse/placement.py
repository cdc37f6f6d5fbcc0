"""Where a run's data are placed: on the training device once, whatever number of seeds, splits and folds read them.

Where they fit neither there nor into memory they are read in windows (`fuse/windows.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache_schema.window import WINDOW_BYTES
from compute.device import resolve_device
from fuse.data import Selection
from fuse.windows import Windowed

COPIES = 1.5
"""Memory that reading data takes, in multiples of them: frames that hold nothing are left out of a copy."""
SHARE = 0.8
"""Of a device's free memory, which data may take; the rest is for the models."""


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
        if id(x) not in self._moved:  # what was moved is kept beside its copy, so that no other tensor gets its id
            self._moved[id(x)] = (x, x.to(self.device))
        return self._moved[id(x)][1]


def on_device(folds: Mapping[str, Selection], device: torch.device) -> dict[str, Selection]:
    """Every fold with its data on `device`, where each tensor lies once."""
    move = Mover(device)
    return {name: fold.to(move) for name, fold in folds.items()}


def bytes_of(folds: Mapping[str, Selection]) -> int:
    """Memory that the folds' tensors take, those that several splits share counted once."""
    seen: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        seen[x.data_ptr()] = x.nbytes
        return x

    for fold in folds.values():
        fold.to(note)
    return sum(seen.values())


def window_for(needed: int, device: torch.device, asked: int | None) -> int | None:
    """Bytes of the windows in which data are read; None where they fit into memory, and onto the device.

    Args:
        needed: bytes of the data.
        device: where they are trained on.
        asked: windows of so many bytes are wanted, whatever fits.
    """
    if asked is not None:
        return asked
    free = free_memory()
    fits = free is None or needed * COPIES <= free
    if fits and device.type == "cuda":
        fits = needed <= SHARE * torch.cuda.mem_get_info(device)[0]
    return None if fits else WINDOW_BYTES


def free_memory() -> int | None:
    """Bytes of memory that could be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(found["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in found else None


def where(folds: Mapping[str, Selection], device: torch.device) -> str:
    """Where the data are, in a few words."""
    data = next(iter(folds.values())).train
    if isinstance(data, Windowed):
        return f"read in windows of {data.window_bytes / 1e6:.3g} MB, shuffled within them"
    return f"resident, {bytes_of(folds) / 1e6:.3g} MB on {device}"


def named_device(device: str) -> str:
    """`device` as it was given, or the one that `auto` means.

    Raises:
        SettingsError: it is unknown to torch, or absent.
    """
    if device == "auto" or device.startswith("cuda"):
        prepare_cuda()
    return resolve_device(device)


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
