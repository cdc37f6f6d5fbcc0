"""Small random checkpoints, a folder per encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from extract.encoders import ENCODERS
from extract.weights.checkpoints import Checkpoint, resolve
from extract.weights.random_weights import make_random_checkpoint


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Gives an encoder's small random checkpoint, made once."""
    folder: Path = tmp_path_factory.mktemp("small")

    def checkpoint(name: str) -> Checkpoint:
        make_random_checkpoint(name, folder / name, "small", seed=0)
        return resolve(name, ENCODERS.load(name).HUB, str(folder))

    return checkpoint
