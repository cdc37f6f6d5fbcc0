"""Runs that belong together in one folder, each found again by a digest of what it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.errors import MerError
from fuse.run import Run, load
from fuse.run_files import write_json
from fuse.train import Result

INDEX = "cells.json"


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
        try:
            self._names: dict[str, str] = json.loads((folder / INDEX).read_text("utf-8"))
        except FileNotFoundError:
            self._names = {}
        except (OSError, ValueError) as error:
            raise MerError(f"{folder / INDEX} cannot be read: remove it, and every run is trained again.") from error

    def run(self, key: str, train: Callable[[], Result]) -> Run:
        """The run of this key, trained if it is not there."""
        name = self._names.get(key)
        if name is None or not (self.folder / name / "metrics.json").is_file():
            name = train().run.name
            self._names[key] = name
            write_json(self.folder / INDEX, self._names)
        return load(self.folder / name)


def key_of(*facts: Any) -> str:
    """The digest of plain values."""
    return sha256_hex(canonical_bytes(facts))
