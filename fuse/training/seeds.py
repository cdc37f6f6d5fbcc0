"""The training of one seed, or of several as one program: data, model, steps, what is measured and what is written.

What is finished is kept in its folder, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cache_schema.errors import MerError, first_line
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse import run_files
from fuse.archs import ARCHS
from fuse.data import Dataset, Selection, Splits, scales
from fuse.model import Model
from fuse.prediction import DivergedError, Predictions, predict
from fuse.training.board import Board
from fuse.training.checkpoint import Checkpoint
from fuse.training.config import TrainConfig
from fuse.training.loop import Epoch, fit_seeds, reproducible
from fuse.training.losses import check
from fuse.training.program import Program
from fuse.training.steps import PlainSteps
from fuse.training.timing import NoTiming, Timing, total

THREADS = 1
RESULT, CHECKPOINT, BOARD = "result.json", "checkpoint.pt", "tensorboard"

Progress = Callable[[Epoch], None]
Say = Callable[[str], None]


class ApartError(MerError):
    """Several seeds cannot be trained as one program."""


def warn(line: str) -> None:
    """Say a line where nobody else does."""
    warnings.warn(line, RuntimeWarning, stacklevel=3)


@dataclass(frozen=True)
class Job:
    """What is trained, the same for every seed.

    Attributes:
        arch: the architecture's name.
        config: its settings.
        training: the settings of training.
        folds: the data, on the CPU, by the fold's name; without a test split where none may be opened.
        device: where it is trained, as "cpu" or "cuda".
        folder: where each seed writes its files, in a folder of its own; None: nowhere.
        tensorboard: write what TensorBoard shows, too.
        profile: measure where the time goes.
        together: train the seeds as one program; None: where there is a GPU.
    """

    arch: str
    config: Spec
    training: TrainConfig
    folds: dict[str, Selection]
    device: str
    folder: Path | None
    tensorboard: bool = False
    profile: bool = False
    together: bool | None = None

    @property
    def seeds_together(self) -> bool:
        """Whether the seeds are to be one program."""
        return self.device != "cpu" if self.together is None else self.together

    @property
    def one_program(self) -> bool:
        """Whether steps are, of however many seeds."""
        return self.device != "cpu" or self.seeds_together

    def checkpoint(self, seeds: Sequence[int], fold: str) -> Checkpoint | None:
        """Where a training of these seeds goes on: in the folder of the one, or in that of the run."""
        place = self.place(seeds[0], fold)
        if place is None or self.folder is None:
            return None
        name = f"together-{list(self.folds).index(fold) + 1}.pt"
        return Checkpoint(place / CHECKPOINT if len(seeds) == 1 else self.folder / name)

    def place(self, seed: int, fold: str) -> Path | None:
        """The folder of one training: the seed's, or one in it where there are several folds."""
        if self.folder is None:
            return None
        own = self.folder / f"seed-{seed}"
        return own if len(self.folds) == 1 else own / f"fold-{list(self.folds).index(fold) + 1}"


@dataclass(frozen=True)
class SeedResult:
    """What one seed gave, in one fold or over all of them.

    Attributes:
        seed: which.
        epochs: how many it trained, over all folds.
        best_epoch: the one that was kept; over several folds, the latest.
        seconds: wall-clock time of training; of seeds that train together, of all of them.
        parameters: how many numbers were trained.
        metrics: split -> metric -> value; over several folds test is measured on their utterances together, and val
            is the mean over the folds.
        tables: split -> confusion matrix and per-class figures (`run_files.tables`).
        folds: per fold its name, epochs, best_epoch and metrics; empty where there is one.
        profile: seconds of each of `fuse.training.timing.PARTS`, over all folds; empty where they were not measured.
        execution: how the steps were taken.
    """

    seed: int
    epochs: int
    best_epoch: int
    seconds: float
    parameters: int
    metrics: dict[str, dict[str, float]]
    tables: dict[str, dict[str, Any]]
    folds: list[dict[str, Any]] = field(default_factory=list)
    profile: dict[str, float] = field(default_factory=dict)
    execution: dict[str, str] = field(default_factory=dict)


def new_model(job: Job, train: Dataset, scale: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> Model:
    """An untrained model, its initial weights drawn from torch's generator; `scale` are the scales of `train`."""
    network = ARCHS.load(job.arch).build(job.config, train.tails, train.target)
    return Model(network, scale or scales(train, job.training.standardize))


def assess(model: Model, data: Dataset, batch_size: int, seed: int) -> Predictions:
    """Predictions that are the same every time on one machine and device, where draws are part of them too."""
    with reproducible(seed, THREADS):
        return predict(model, data, batch_size)


def train_seed(job: Job, seed: int, fold: str, progress: Progress | None = None, say: Say = warn) -> SeedResult:
    """As `train_seeds`, of one seed."""
    return train_seeds(job, [seed], fold, progress, say)[0]


def train_seeds(
    job: Job, seeds: Sequence[int], fold: str, progress: Progress | None = None, say: Say = warn
) -> list[SeedResult]:
    """Train on train, choose on val, then open test where there is one; write each seed's files. All at once.

    What an interrupted run had finished is read, and what it had begun goes on.

    Raises:
        ApartError: several seeds cannot be one program.
        DivergedError: see `fuse.training.loop.fit_seeds`.
    """
    places = [job.place(seed, fold) for seed in seeds]
    checkpoint = job.checkpoint(seeds, fold)
    finished = [place is not None and (place / RESULT).is_file() for place in places]
    if all(finished):
        if checkpoint is not None:
            checkpoint.remove()  # killed between the two
        texts = [(place / RESULT).read_text("utf-8") for place in places if place is not None]
        return [SeedResult(**json.loads(text)) for text in texts]
    boards = {}
    for seed, place in zip(seeds, places, strict=True):
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            if job.tensorboard:
                boards[seed] = Board(place / BOARD)

    def show(epoch: Epoch) -> None:
        if epoch.seed in boards:
            boards[epoch.seed].write(epoch)
        if progress is not None:
            progress(replace(epoch, folds=len(job.folds)))

    device, splits = torch.device(job.device), job.folds[fold]
    timing = Timing(device) if job.profile else NoTiming()
    begun = time.perf_counter()
    try:
        with reproducible(seeds[0], THREADS):
            with timing.part("load"):
                train, val = splits.train.to(device), splits.val.to(device)
                scale, models = scales(splits.train, job.training.standardize), []
                for seed in seeds:
                    torch.manual_seed(seed)
                    models.append(new_model(job, splits.train, scale).to(device))
            steps = steps_of(job, models, train, val, seeds, say, timing)
            histories = fit_seeds(steps, job.training, seeds, show, checkpoint)
            steps.release()
    except DivergedError as error:
        if len(job.folds) == 1:
            raise
        raise DivergedError(f"{fold}: {error}") from error
    finally:
        for board in boards.values():
            board.close()
    seconds = time.perf_counter() - begun
    results = []
    for seed, place, model, history in zip(seeds, places, models, histories, strict=True):
        with timing.part("evaluation"):
            seen = {"val": assess(model, val, job.training.batch_size, seed)}
            if isinstance(splits, Splits):
                seen["test"] = assess(model, splits.open_test().to(device), job.training.batch_size, seed)
        result = SeedResult(
            seed=seed,
            epochs=len(history),
            best_epoch=max(e.epoch for e in history if e.best),
            seconds=seconds,
            parameters=sum(p.numel() for p in model.parameters()),
            metrics={split: found.measure(train.target) for split, found in seen.items()},
            tables={split: run_files.tables(train.target, found) for split, found in seen.items()},
            profile=timing.seconds if seed == seeds[-1] else {},
            execution=dict(steps.execution),
        )
        if place is not None:
            write_files(place, model, history, seen, result, train.target)
        results.append(result)
    if checkpoint is not None:
        checkpoint.remove()
    return results


def steps_of(
    job: Job, models: list[Model], train: Dataset, val: Dataset, seeds: Sequence[int], say: Say, timing: NoTiming
) -> PlainSteps | Program:
    """How steps are taken: as one program on a GPU and for several seeds, else as they come.

    Raises:
        ApartError: several seeds cannot be one program.
        SettingsError: the settings do not fit the target.
    """
    check(job.training, train.target)
    if job.one_program:
        try:
            program = Program(models, train, val, job.training, seeds, say, timing)
            program.rehearse()
        except (MerError, RuntimeError, NotImplementedError, ValueError) as error:
            if len(seeds) > 1:
                raise ApartError(first_line(error).rstrip(".")) from error
            say(f"Steps are taken as they come, not as one program ({first_line(error).rstrip('.')}).")
        else:
            return program
    return PlainSteps(models[0], train, val, job.training, seeds[0], timing)


def write_files(
    place: Path,
    model: Model,
    history: Sequence[Epoch],
    seen: Mapping[str, Predictions],
    result: SeedResult,
    target: Target,
) -> None:
    """Everything that a finished training leaves; its result last, which says that it is finished."""
    run_files.write_weights(place / run_files.WEIGHTS, model)
    run_files.write_history(place / run_files.HISTORY, history)
    run_files.write_predictions(place / run_files.PREDICTIONS, target, seen)
    if "test" in seen:
        run_files.write_confusion(place, target, result.tables["test"])
    run_files.write_json(place / RESULT, asdict(result))


def pool(job: Job, target: Target, results: Sequence[SeedResult]) -> SeedResult:
    """One seed's folds together: its test predictions in one file, and measured as one."""
    first = results[0]
    own = job.place(first.seed, next(iter(job.folds)))
    if len(results) == 1 or own is None:
        return first
    folders = [job.place(first.seed, name) for name in job.folds]
    found = run_files.concatenated([run_files.read_seen(f, target, "test") for f in folders if f is not None])
    run_files.write_predictions(own.parent / run_files.PREDICTIONS, target, {"test": found})
    tables = {"test": run_files.tables(target, found)}
    run_files.write_confusion(own.parent, target, tables["test"])
    val = {m: fmean(r.metrics["val"][m] for r in results) for m in first.metrics["val"]}
    return SeedResult(
        seed=first.seed,
        epochs=sum(r.epochs for r in results),
        best_epoch=max(r.best_epoch for r in results),
        seconds=sum(r.seconds for r in results),
        parameters=first.parameters,
        metrics={"val": val, "test": found.measure(target)},
        tables=tables,
        folds=[
            {"name": name, "epochs": r.epochs, "best_epoch": r.best_epoch, "metrics": r.metrics}
            for name, r in zip(job.folds, results, strict=True)
        ],
        profile=total(r.profile for r in results),
        execution=first.execution,
    )
