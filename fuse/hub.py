"""A trained model outside its run: a folder of two files, or a repository on the Hugging Face hub.

config.json         the architecture, its settings, the shape of its inputs, the target, the features it reads
model.safetensors   every parameter and buffer
README.md           what it is, what it was trained on, and its numbers
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schema.errors import MerError, first_line
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse import run_files
from fuse.archs import ARCHS
from fuse.card import CARD, model_card
from fuse.model import Model
from fuse.run import Run

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


class ModelCard(Spec):
    """What config.json holds."""

    format: int = FORMAT
    """Version of this layout."""
    library_name: str = "mer"
    """What reads it."""
    arch: str
    """The architecture."""
    config: dict[str, Any]
    """All its settings, defaults included."""
    tails: dict[str, tuple[int, ...]]
    """Per modality, the shape of one frame."""
    target: Target
    """What it predicts."""
    features: dict[str, dict[str, Any]]
    """Per modality and companion, the feature's name, fingerprint, rate, whether its weights were random, and its whole
    specification."""
    dataset: str
    """What it was trained on."""
    seed: int
    """Which of the run's seeds."""
    test: dict[str, float]
    """The seed's metrics on the test split."""


@dataclass(frozen=True)
class Pretrained:
    """A model that was saved outside its run, and what it is."""

    model: Model
    card: ModelCard


def save_pretrained(run: Run, folder: str | Path, seed: int | None = None, address: str | None = None) -> Path:
    """Write a run's model into `folder`, which is made.

    Args:
        run: a finished run.
        folder: where; an earlier model there is replaced.
        seed: which; None: the first.
        address: from where its card says that it is loaded; None: the folder.

    Raises:
        MerError: the run has several folds or no such seed, or its files are missing.
    """
    record = run.record
    if len(record.folds) > 1:
        raise MerError(f"{run.folder} has a model per fold, none of which saw all data: train on the official splits.")
    seed = record.seeds[0] if seed is None else seed
    model = run.model(seed)
    kept = ("name", "fingerprint", "rate_hz", "random_weights", "spec")
    card = ModelCard(
        arch=record.arch,
        config=record.config,
        tails=run.tails,
        target=record.target,
        features={m: {k: f[k] for k in kept if k in f} for m, f in {**record.features, **record.companions}.items()},
        dataset=record.dataset,
        seed=seed,
        test=next(r["metrics"]["test"] for r in run.metrics["per_seed"] if r["seed"] == seed),
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run_files.write_weights(folder / WEIGHTS, model)
    (folder / CARD).write_text(model_card(record, run.metrics, _use(address or str(folder), seed)), "utf-8")
    run_files.write_json(folder / CONFIG, card.model_dump(mode="json"))
    return folder


def from_pretrained(source: str | Path, device: str = "cpu") -> Pretrained:
    """The model in a folder, or on the hub as `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`.

    Raises:
        MerError: there is none, it cannot be downloaded, or it was written by a later version.
    """
    folder = _downloaded(str(source)) if str(source).startswith("hf:") else Path(source)
    try:
        document = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MerError(f"{source} holds no model: {CONFIG} cannot be read ({first_line(error)}).") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise MerError(f"{source}: {CONFIG} is not of format {FORMAT}, which this version of mer reads.")
    card = ModelCard.parse(document, f"{source}/{CONFIG}")
    module = ARCHS.load(card.arch)
    config = module.Config.parse(card.config, f"{source}/{CONFIG}: config")
    model = Model.unscaled(module.build(config, card.tails, card.target), card.tails)
    run_files.read_weights(folder / WEIGHTS, model)
    return Pretrained(model.eval().to(device), card)


def push_to_hub(run: Run, repo: str, seed: int | None = None, private: bool = True) -> str:
    """Put a run's model on the hub, and return its address.

    Args:
        run: a finished run.
        repo: ORG/NAME; made if it does not exist.
        seed: which; None: the first.
        private: whether a new repository is.

    Raises:
        MerError: the hub refused, or cannot be reached.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory(prefix="mer-model-") as folder:
        save_pretrained(run, folder, seed, f"hf:{repo}")
        try:
            api = HfApi()
            address = api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{run.record.arch} trained with mer")
        except Exception as error:  # what its client raises without a connection depends on its version
            raise MerError(f"The model could not be put on the hub as {repo} ({first_line(error)}).") from error
    return str(address)


def _downloaded(source: str) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = source.removeprefix("hf:").partition("@")
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # what its client raises without a connection depends on its version
        raise MerError(f"{source} could not be downloaded ({first_line(error)}).") from error


def _use(address: str, seed: int) -> str:
    return f'import fuse\n\nmodel = fuse.load("{address}")  # seed {seed} of those below'
