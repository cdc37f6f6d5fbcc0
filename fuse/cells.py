"""Runs that belong together in one folder, each found again by a digest of what it is made of.

Several processes may fill one folder at a time: the index is read anew before each training, and written under a lock.
What two of them train at the very same moment is trained twice; the run that is noted first counts.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.errors import MerError
from fuse.run import Run, load
from fuse.run_files import write_json
from fuse.train import Result

INDEX, LOCK = "cells.json", ".cells.lock"


class Cells:
    """A folder of runs; what is in it is not trained again.

    Args:
        folder: where; made if it is not there.

    Raises:
        MerError: its index cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._index()

    def run(self, key: str, train: Callable[[], Result]) -> Run:
        """The run of this key, trained if it is not there."""
        return load(self.folder / (self._index().get(key) or self.note(key, train().run.name)))

    def note(self, key: str, name: str) -> str:
        """Note that `name` is the run of this key, unless there is one; returns the one that is."""
        with self.locked():
            names = {key: name} | self._index()
            write_json(self.folder / INDEX, names)
        return names[key]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While no other process is within this for the same folder."""
        with (self.folder / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _index(self) -> dict[str, str]:
        """Key -> name of every run that is there."""
        try:
            names: dict[str, str] = json.loads((self.folder / INDEX).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            where = self.folder / INDEX
            raise MerError(f"{where} cannot be read: remove it, and every run is trained again.") from error
        return {key: name for key, name in names.items() if (self.folder / name / "metrics.json").is_file()}


def key_of(*facts: Any) -> str:
    """The digest of plain values."""
    return sha256_hex(canonical_bytes(facts))
