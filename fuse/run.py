"""A run's folder: everything that a number in it came from, and the models themselves.

    run = fuse.run.load("runs/hff-meld-1")
    model = run.model(seed=0)

    run.json        settings, data with its digests, seeds, versions, command
    metrics.json    over the seeds and per seed, per class, confusion matrices
    README.md       the model card
    seed-0/         weights.safetensors, history.csv, predictions.parquet, confusion.csv, result.json
    seed-0/fold-1/  the same of each fold, where there are several; seed-0/ then has what they say together

It is written under a name of its settings and data and renamed when it is complete, and never written again. Until then
a training that was interrupted lies there, and the same command goes on with it.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import Field

from cache_schema.errors import DataError, MerError, SettingsError, first_line
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse import run_files
from fuse.archs import ARCHS
from fuse.model import Model
from fuse.prediction import DivergedError
from fuse.protocols import Protocol
from fuse.training.config import TrainConfig

FORMAT = 1
_LOCKS: dict[Path, IO[str]] = {}


class RunRecord(Spec):
    """What run.json holds."""

    format: int
    """Version of this layout."""
    created: str
    """When the run was finished: ISO 8601, UTC."""
    command: list[str]
    """The command line, or the program that called the library."""
    arch: str
    """The architecture."""
    config: dict[str, Any]
    """All its settings, defaults included."""
    training: dict[str, Any]
    """All settings of training, defaults included."""
    store: str
    """The feature store, as it was given."""
    dataset: str
    """The dataset."""
    corpora: list[dict[str, str]] = Field(default_factory=list)
    """What each dataset is: name, title, licence, language."""
    target: Target
    """What is predicted."""
    features: dict[str, dict[str, Any]]
    """Per modality: the feature's name, fingerprint, folder, digest of its data, frame shape, random_weights, its whole
    specification (`spec`), and how many samples of the dataset failed or have none."""
    store_digest: str
    """sha256 over the used rows of all features, the ids and the labels: the exact data."""
    random_weights: bool
    """Some feature came from an encoder with random weights: a trial, not a result."""
    splits: dict[str, dict[str, Any]]
    """Per split: how many utterances, and digests of their ids, labels and features; over folds, of what is tested."""
    protocol: dict[str, Any] = Field(default_factory=dict)
    """How the data were split: the fields of `Protocol`."""
    folds: list[dict[str, Any]] = Field(default_factory=list)
    """Per fold its name, and its splits as in `splits`."""
    companions: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Per companion, the feature that it was made from, as in `features`."""
    without: dict[str, str] = Field(default_factory=dict)
    """Companions that the architecture reads and that there were not, and why."""
    degraded: dict[str, Any] = Field(default_factory=dict)
    """What was taken from the data on purpose: modality, share of utterances, and how."""
    left_out: dict[str, Any]
    """How many utterances have no label or no split, and the ids of those without any modality."""
    seeds: list[int]
    """The seeds."""
    device: str
    """Where it was trained."""
    hardware: dict[str, Any] = Field(default_factory=dict)
    """On a GPU its name, memory and compute capability, and the versions of CUDA and cuDNN."""
    execution: dict[str, str] = Field(default_factory=dict)
    """How the first seed's steps were taken: `seeds` together, alone or apart, `step` a graph or eager, and to what
    `batches` are padded, and where the `data` were."""
    threads: int
    """CPU threads of each seed."""
    parameters: int
    """How many numbers were trained, per seed."""
    seconds: float
    """Wall-clock time of all seeds."""
    versions: dict[str, str]
    """Of Python, mer and what the numbers depend on."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        record: what it is.
        metrics: what it gave, as in metrics.json.
    """

    folder: Path
    record: RunRecord
    metrics: dict[str, Any]

    @property
    def training(self) -> TrainConfig:
        """The settings of training."""
        return TrainConfig.parse(self.record.training, f"{self.folder}/run.json: training")

    @property
    def tails(self) -> dict[str, tuple[int, ...]]:
        """Shape of one frame of each modality."""
        return {m: tuple(f["tail"]) for m, f in self.record.features.items()}

    @property
    def protocol(self) -> Protocol:
        """How the data were split."""
        return Protocol.parse(self.record.protocol, f"{self.folder}/run.json: protocol")

    def place(self, seed: int, fold: int = 1) -> Path:
        """The folder of one training; folds count from 1."""
        own = self.folder / f"seed-{seed}"
        return own / f"fold-{fold}" if len(self.record.folds) > 1 else own

    def model(
        self, seed: int | None = None, device: str = "cpu", fold: int = 1, changes: Mapping[str, Any] | None = None
    ) -> Model:
        """The trained model of a seed (None: the first) and, where there are several, a fold, ready to predict.

        `changes` are settings of the architecture that change nothing but what is drawn.

        Raises:
            MerError: the run has no such seed or fold, or its weights are missing.
        """
        seed = self.record.seeds[0] if seed is None else seed
        if seed not in self.record.seeds:
            raise MerError(f"{self.folder} has no seed {seed}; it has {', '.join(map(str, self.record.seeds))}.")
        if not 1 <= fold <= max(len(self.record.folds), 1):
            raise MerError(f"{self.folder} has no fold {fold}; it has {max(len(self.record.folds), 1)}.")
        arch = ARCHS.load(self.record.arch)
        config = arch.Config.parse({**self.record.config, **(changes or {})}, f"{self.folder}/run.json: config")
        network = arch.build(config, self.tails, self.record.target)
        model = Model.unscaled(network, self.tails)
        path = self.place(seed, fold) / run_files.WEIGHTS
        if not path.is_file():
            raise MerError(f"{path} is missing: the run's folder is not complete. Copy all of it, or train again.")
        run_files.read_weights(path, model)
        return model.eval().to(device)


def load(folder: str | Path) -> Run:
    """The run in `folder`.

    Raises:
        MerError: there is none, or it was written by a later version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MerError(f"{folder} is no run: there is no such folder. `mer fuse train` says where it put one.")
    if not (folder / "run.json").is_file():
        inner = sorted(path.parent.name for path in folder.glob("*/run.json"))
        raise MerError(
            f"{folder} is no run: it has no run.json."
            + (f" It holds runs: {', '.join(inner[:10])}." if inner else " `mer fuse train` writes runs.")
        )
    try:
        record = json.loads((folder / "run.json").read_text("utf-8"))
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MerError(
            f"{folder} is no run: run.json or metrics.json cannot be read ({first_line(error)}). Train again."
        ) from error
    if not isinstance(record, dict) or not isinstance(metrics, dict) or "per_seed" not in metrics:
        raise MerError(f"{folder} is no run: run.json or metrics.json does not hold what a run's does.")
    if record.get("format") != FORMAT:
        raise MerError(f"{folder} has format {record.get('format')}; this version of mer reads format {FORMAT}.")
    return Run(folder, RunRecord.parse(record, f"{folder}/run.json"), metrics)


@contextmanager
def new_folder(
    out: Path, arch: str, dataset: str, digest: str, fresh: bool = False
) -> Iterator[tuple[Path, list[Path]]]:
    """A folder to write a run into; renamed to the first free `<arch>-<dataset>-<n>` below `out` at the end.

    Yields the temporary folder and a list in which the final one stands after the block. If the block fails in a way
    that it would fail again, nothing is left; if it is interrupted, by want of memory or of disk too, the folder stays,
    and the next training with the same `digest` finds it.

    Args:
        out: where.
        arch: the architecture.
        dataset: the dataset.
        digest: of everything that the numbers depend on.
        fresh: begin anew.

    Raises:
        MerError: `out` cannot be written.
    """
    name = f"{arch}-{dataset.replace(',', '+')}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary, lock = _claim(out, f".{name}-{digest[:16]}", fresh)
    except OSError as error:
        raise MerError(f"{out}: a run cannot be written there ({error.strerror}).") from error
    final: list[Path] = []
    try:
        yield temporary, final
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        path = _reserve(out, name)
        temporary.rename(path)
        final.append(path)
    except Exception as error:
        again = isinstance(error, (DivergedError, SettingsError, DataError))
        if again or not any(path.is_file() for path in temporary.rglob("*")):
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        lock.unlink(missing_ok=True)
        _LOCKS.pop(lock).close()


def _claim(out: Path, name: str, fresh: bool) -> tuple[Path, Path]:
    """A folder that no other process writes into, and the file whose lock says so until this process ends.

    Another process that trains the same thing at the same time gets a folder of its own.

    Raises:
        MerError: the file system has no locks.
    """
    for number in itertools.count(1):
        folder = out / (f"{name}.partial" if number == 1 else f"{name}-{number}.partial")
        lock = folder.with_suffix(".lock")
        opened = lock.open("a")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the latter on SMB
            opened.close()
            continue
        except OSError as error:
            opened.close()
            lock.unlink(missing_ok=True)
            raise MerError(f"{out}: no file can be locked there ({error.strerror}): choose another --out.") from error
        if not lock.exists() or os.fstat(opened.fileno()).st_ino != lock.stat().st_ino:
            opened.close()  # its owner has just finished and removed it
            continue
        _LOCKS[lock] = opened
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        return folder, lock
    raise AssertionError


def _reserve(out: Path, name: str) -> Path:
    """An empty folder of a number that nobody else has."""
    for number in itertools.count(1):
        try:
            (out / f"{name}-{number}").mkdir()
        except FileExistsError:
            continue
        return out / f"{name}-{number}"
    raise AssertionError


def write_documents(folder: Path, record: RunRecord, metrics: dict[str, Any]) -> None:
    """run.json and metrics.json."""
    run_files.write_json(folder / "run.json", record.model_dump(mode="json"))
    run_files.write_json(folder / "metrics.json", metrics)
