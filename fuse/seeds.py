"""One seed's training, and many seeds and folds side by side.

Each training has a generator of its own and one CPU thread, so that its numbers depend neither on the others nor on how
many run at a time. What is finished is kept in its folder, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Self

import torch

from cache_schema.errors import MerError
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse import run_files
from fuse.archs import ARCHS
from fuse.board import Board
from fuse.checkpoint import Checkpoint
from fuse.data import Dataset, Selection, Splits, scales
from fuse.loop import Epoch, fit, reproducible
from fuse.model import Model
from fuse.prediction import DivergedError, Predictions, predict
from fuse.residence import resident
from fuse.timing import NoTiming, Timing, total
from fuse.train_config import TrainConfig

THREADS = 1
RESULT, CHECKPOINT, BOARD = "result.json", "checkpoint.pt", "tensorboard"

Progress = Callable[[Epoch], None]


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
    """

    arch: str
    config: Spec
    training: TrainConfig
    folds: dict[str, Selection]
    device: str
    folder: Path | None
    tensorboard: bool = False
    profile: bool = False

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
        seconds: wall-clock time of training.
        parameters: how many numbers were trained.
        metrics: split -> metric -> value; over several folds test is measured on their utterances together, and val
            is the mean over the folds.
        tables: split -> confusion matrix and per-class figures (`run_files.tables`).
        folds: per fold its name, epochs, best_epoch and metrics; empty where there is one.
        profile: seconds of each of `fuse.timing.PARTS`, over all folds; empty where they were not measured.
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


def new_model(job: Job, train: Dataset) -> Model:
    """An untrained model, its initial weights drawn from torch's generator."""
    network = ARCHS.load(job.arch).build(job.config, train.tails, train.target)
    return Model(network, scales(train, job.training.standardize))


def assess(model: Model, data: Dataset, batch_size: int, seed: int) -> Predictions:
    """Predictions that are the same every time on one machine and device, where draws are part of them too."""
    with reproducible(seed, THREADS):
        return predict(model, data, batch_size)


def train_seed(job: Job, seed: int, fold: str, progress: Progress | None = None) -> SeedResult:
    """Train on train, choose on val, then open test where there is one; write the training's files.

    What an interrupted run had finished is read, and what it had begun goes on.

    Raises:
        DivergedError: see `fuse.loop.fit`.
    """
    folder = job.place(seed, fold)
    if folder is not None and (folder / RESULT).is_file():
        Checkpoint(folder / CHECKPOINT).remove()  # killed between the two
        return SeedResult(**json.loads((folder / RESULT).read_text("utf-8")))
    checkpoint, board = None, None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = Checkpoint(folder / CHECKPOINT)
        board = Board(folder / BOARD) if job.tensorboard else None

    def show(epoch: Epoch) -> None:
        if board is not None:
            board.write(epoch)
        if progress is not None:
            progress(replace(epoch, folds=len(job.folds)))

    device, splits = torch.device(job.device), job.folds[fold]
    timing = Timing(device) if job.profile else NoTiming()
    begun = time.perf_counter()
    try:
        with reproducible(seed, THREADS):
            with timing.part("load"):
                model = new_model(job, splits.train).to(device)
                train, val = splits.train.to(device), splits.val.to(device)
            history = fit(model, train, val, job.training, seed, show, checkpoint, timing)
    except DivergedError as error:
        if len(job.folds) == 1:
            raise
        raise DivergedError(f"{fold}: {error}") from error
    finally:
        if board is not None:
            board.close()
    seconds = time.perf_counter() - begun
    with timing.part("evaluation"):
        seen = {"val": assess(model, val, job.training.batch_size, seed)}
        if isinstance(splits, Splits):
            seen["test"] = assess(model, splits.open_test().to(device), job.training.batch_size, seed)
    target = train.target
    result = SeedResult(
        seed=seed,
        epochs=len(history),
        best_epoch=max(e.epoch for e in history if e.best),
        seconds=seconds,
        parameters=sum(p.numel() for p in model.parameters()),
        metrics={split: found.measure(target) for split, found in seen.items()},
        tables={split: run_files.tables(target, found) for split, found in seen.items()},
        profile=timing.seconds,
    )
    if folder is not None and checkpoint is not None:
        run_files.write_weights(folder / run_files.WEIGHTS, model)
        run_files.write_history(folder / run_files.HISTORY, history)
        run_files.write_predictions(folder / run_files.PREDICTIONS, target, seen)
        if "test" in seen:
            run_files.write_confusion(folder, target, result.tables["test"])
        run_files.write_json(folder / RESULT, asdict(result))
        checkpoint.remove()
    return result


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
    )


class Workers:
    """Processes that train seeds side by side; with one job, this process itself.

    Started anew (spawned), so that no thread or device state is inherited; a context manager, so that they end with it.
    Several jobs may be trained with the same workers.

    Args:
        jobs: how many at a time; None: one per CPU core.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs or _cores()
        self._pool: ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())
        self._events: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:
            started = set(multiprocessing.active_children()) - self._others
            for process in started:
                process.terminate()
            for process in started:
                process.join(timeout=5)

    def train(self, job: Job, seeds: Sequence[int], progress: Progress | None = None) -> list[SeedResult]:
        """Train every seed in every fold; a result per seed, in the order of `seeds`, whatever the number of jobs.

        Raises:
            MerError: a worker ended without a result (out of memory, or killed).
        """
        tasks = [(seed, fold) for seed in seeds for fold in job.folds]
        results = self._results(job, tasks, progress)
        folds, target = len(job.folds), next(iter(job.folds.values())).train.target
        return [pool(job, target, results[i : i + folds]) for i in range(0, len(results), folds)]

    def _results(self, job: Job, tasks: list[tuple[int, str]], progress: Progress | None) -> list[SeedResult]:
        if job.device != "cpu":
            job = replace(job, folds=resident(job.folds, torch.device(job.device)))
        if min(self.jobs, len(tasks)) == 1 or job.device != "cpu":
            return [train_seed(job, seed, fold, progress) for seed, fold in tasks]
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._events = context.SimpleQueue()
            self._pool = ProcessPoolExecutor(self.jobs, context, _begin, (self._events,))
        drain = threading.Thread(target=_drain, args=(self._events, progress), daemon=True)
        drain.start()
        try:
            with tempfile.TemporaryDirectory(prefix="mer-job-") as folder:
                # Saved once and mapped by every worker: the features are in memory once.
                path = Path(folder, "job.pt")
                torch.save(job, path)
                return list(self._pool.map(_work, [str(path)] * len(tasks), *zip(*tasks, strict=True)))
        except BrokenProcessPool as error:
            raise MerError(
                "A training process ended without a result: out of memory? Try again with fewer --jobs: what was "
                "finished is kept."
            ) from error
        finally:
            self._events.put(None)
            drain.join(timeout=5)


def _cores() -> int:
    """CPU cores that this process may use; where the system does not say, those that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_events: Any = None


def _begin(events: Any) -> None:
    global _events
    _events = events
    # Ctrl-C reaches the whole process group; the parent says what there is to say.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Nobody writes into a run's folder any more when the process that locked it is gone, killed perhaps."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(path: str, seed: int, fold: str) -> SeedResult:
    return train_seed(_load_job(path), seed, fold, _events.put)


@lru_cache(maxsize=1)
def _load_job(path: str) -> Job:
    job: Job = torch.load(path, mmap=True, weights_only=False)
    return job


def _drain(events: Any, progress: Progress | None) -> None:
    while (event := events.get()) is not None:
        if progress is not None:
            progress(event)
