"""Stage two: from the feature store to trained fusion models.

import fuse
model = fuse.load("runs/hff-meld-1")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuse.model import Model

__all__ = ["load"]


def load(run: str | Path, seed: int | None = None, device: str = "cpu", fold: int = 1) -> Model:
    """A trained model, ready to predict: of a run's folder, of an exported model's, or of one on the Hugging Face hub.

    Args:
        run: the folder, or `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`.
        seed: which of a run's models; None: its first seed.
        device: where it predicts.
        fold: which of the seed's folds, where the run has several.

    Raises:
        MerError: there is no such run or model.
    """
    from fuse import hub
    from fuse.run import load as load_run

    if str(run).startswith("hf:") or (Path(run) / hub.CONFIG).is_file():
        return hub.from_pretrained(str(run), device).model
    return load_run(run).model(seed, device, fold)
