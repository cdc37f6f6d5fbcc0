"""Where an interrupted training goes on: one file, replaced as a whole, never half-written."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from cache_schema.errors import DamagedError, MerError, first_line

EVERY_SECONDS = 2.0
"""At least so long between two checkpoints."""
SHARE = 0.05
"""Share of the time that writing them may take, where the model is large."""


class Checkpoint:
    """A training's state on disk.

    Args:
        path: the file.
        every: least number of seconds between two writings; None: EVERY_SECONDS.
    """

    def __init__(self, path: Path, every: float | None = None) -> None:
        self.path, self.every = path, EVERY_SECONDS if every is None else every
        self._due = time.monotonic() + self.every

    @property
    def due(self) -> bool:
        """Whether it is time to write one again."""
        return time.monotonic() >= self._due

    def load(self) -> dict[str, Any] | None:
        """What was written last; None: nothing was.

        Raises:
            DamagedError: the file cannot be read.
        """
        if not self.path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise DamagedError(
                f"{self.path} cannot be read ({first_line(error)}): the training cannot go on from it. Train anew "
                "with --fresh."
            ) from error
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write tensors and plain values in place of what was there.

        Raises:
            MerError: they cannot be written, as on a full disk; what was there stays.
        """
        begun = time.monotonic()
        temporary = self.path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch has an error of its own for a disk that is full
            temporary.unlink(missing_ok=True)
            free = f"{shutil.disk_usage(self.path.parent).free / 1e6:.1f} MB"
            raise MerError(
                f"{self.path} cannot be written ({first_line(error)}; {free} are free there). Free some, and give the "
                "same command again to go on; or another --out."
            ) from error
        ended = time.monotonic()
        self._due = ended + max(self.every, (ended - begun) / SHARE)

    def remove(self) -> None:
        """The training is finished."""
        for path in (self.path, self.path.with_suffix(".new")):
            path.unlink(missing_ok=True)
