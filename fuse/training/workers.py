"""Many seeds and folds: as one program, or side by side in processes.

Each training has a generator of its own and one CPU thread, so that its numbers depend neither on the others nor on how
many run at a time.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from cache_schema.errors import MerError, first_line
from compute.memory import keep_freed
from fuse.placement import on_device
from fuse.training.loop import Epoch
from fuse.training.seeds import ApartError, Job, Progress, Say, SeedResult, pool, train_seed, train_seeds, warn


class Workers:
    """Processes that train seeds side by side; with one job, this process itself.

    Started anew (spawned), so that no thread or device state is inherited; a context manager, so that they end with it.
    Several jobs may be trained with the same workers.

    Args:
        jobs: processes, which take turns where they are more than the cores; None: as many as leave the cores least
            idle (`at_once`).
        say: called with a line where seeds cannot be trained as was asked for.
    """

    def __init__(self, jobs: int | None = None, say: Say = warn) -> None:
        keep_freed()
        self.jobs, self.say = jobs, say
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

    def _together(self, job: Job, tasks: list[tuple[int, str]], progress: Progress | None) -> list[SeedResult]:
        """All seeds of a fold as one program, fold after fold."""
        seeds = list(dict.fromkeys(seed for seed, _ in tasks))
        found = {}
        for fold in job.folds:
            try:
                for result in train_seeds(job, seeds, fold, progress, self.say):
                    found[result.seed, fold] = result
            except torch.OutOfMemoryError:
                checkpoint = job.checkpoint(seeds, fold)
                if checkpoint is not None:
                    checkpoint.remove()  # each seed begins anew
                raise
        return [found[task] for task in tasks]

    def _results(self, job: Job, tasks: list[tuple[int, str]], progress: Progress | None) -> list[SeedResult]:
        if job.device != "cpu":
            job = replace(job, folds=on_device(job.folds, torch.device(job.device)))
        if job.seeds_together and len(tasks) > len(job.folds):
            try:
                return self._together(job, tasks, progress)
            except (ApartError, torch.OutOfMemoryError) as error:
                self.say(f"The seeds train one after the other ({first_line(error).rstrip('.')}).")
                job = replace(job, together=False)
        own = _cores()
        jobs = self.jobs or at_once(len(tasks), len(own))
        if min(jobs, len(tasks)) == 1 or job.device != "cpu":
            return [train_seed(job, seed, fold, progress, self.say) for seed, fold in tasks]
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._events = context.SimpleQueue()
            cores = context.SimpleQueue()
            for core in own[:jobs]:
                cores.put(core if jobs >= len(own) else None)
            self._pool = ProcessPoolExecutor(jobs, context, _begin, (self._events, cores))
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


def at_once(tasks: int, cores: int) -> int:
    """How many equal tasks to run at a time: in as many turns as they fill all cores, the last one not left half idle.

    Five seeds on four cores run as five, which take turns on them, and end in 5/4 of a seed's time instead of 2.
    """
    return math.ceil(tasks / max(1, tasks // cores))


def _cores() -> list[int]:
    """CPU cores that this process may use; where the system does not say, those that there are."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


_events: Any = None
_free: Any = None
"""The cores on which nobody trains. Without a number where there are fewer processes than cores: nothing is pinned
then, so that two runs do not share the same ones."""


def _begin(events: Any, cores: Any) -> None:
    global _events, _free
    _events, _free = events, cores
    keep_freed()
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
    """A training on a core that it leaves after each epoch to whoever waits: those that share cores are never in each
    other's way, and come to their ends together."""
    core = _on_a_core()

    def tell(epoch: Epoch) -> None:
        nonlocal core
        _events.put(epoch)
        _free.put(core)
        core = _on_a_core()

    try:
        return train_seed(_load_job(path), seed, fold, tell)
    finally:
        _free.put(core)


def _on_a_core() -> int | None:
    """Wait for a core, and stay on it: one that moves leaves its data in another core's cache."""
    core: int | None = _free.get()
    if core is not None and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # no longer this process's to choose: any core will do
            os.sched_setaffinity(0, {core})
    return core


@lru_cache(maxsize=1)
def _load_job(path: str) -> Job:
    job: Job = torch.load(path, mmap=True, weights_only=False)
    return job


def _drain(events: Any, progress: Progress | None) -> None:
    while (event := events.get()) is not None:
        if progress is not None:
            progress(event)
