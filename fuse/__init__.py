"""Stage two: from the feature store to trained fusion models.

What a program of one's own uses stands here, and is loaded when it is first asked for:

    FeatureDataset, FeatureStream, BucketSampler, pad, pack    stored features in a torch training loop of one's own
    train_run, evaluate_run, compare_runs                      what `mer fuse train`, `eval` and `compare` do
    load_run, load                                             a finished run, and its trained model
    open_trained, answer                                       the model, or all of a run's seeds, on stored features
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuse.answers import answer, open_trained
    from fuse.compare import compare_runs
    from fuse.evaluate import evaluate_run
    from fuse.model import Model
    from fuse.run import load as load_run
    from fuse.torch_data import BucketSampler, FeatureDataset, FeatureStream, pack, pad
    from fuse.train import train_run

__all__ = [
    "BucketSampler",
    "FeatureDataset",
    "FeatureStream",
    "answer",
    "compare_runs",
    "evaluate_run",
    "load",
    "load_run",
    "open_trained",
    "pack",
    "pad",
    "train_run",
]

_PLACES = {
    "BucketSampler": ("fuse.torch_data", "BucketSampler"),
    "FeatureDataset": ("fuse.torch_data", "FeatureDataset"),
    "FeatureStream": ("fuse.torch_data", "FeatureStream"),
    "answer": ("fuse.answers", "answer"),
    "compare_runs": ("fuse.compare", "compare_runs"),
    "evaluate_run": ("fuse.evaluate", "evaluate_run"),
    "load_run": ("fuse.run", "load"),
    "open_trained": ("fuse.answers", "open_trained"),
    "pack": ("fuse.torch_data", "pack"),
    "pad": ("fuse.torch_data", "pad"),
    "train_run": ("fuse.train", "train_run"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)


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
