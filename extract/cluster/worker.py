"""A run as a worker process of dask.distributed sees it: the store, the data root and the encoders, loaded once.

A task is one stretch of segments (`pipeline.stretches_of`): a clip is decoded once for all its encoders, and what
is in a batch does not depend on how many workers there are. A process is given one stretch at a time, however many
threads dask gave it: those are for decoding and for torch.
"""

from __future__ import annotations

import asyncio
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache_schema.errors import DataError, MerError, SettingsError, StoreError, first_line
from cache_schema.feature_spec import FeatureSpec
from cache_schema.plan import Segment
from cache_schema.store import FeatureStore
from compute.device import resolve_device
from extract import pipeline
from extract.decoding.quarantine import DecodeLimits
from extract.encoder import EncoderConfig
from extract.encoders import ENCODERS
from extract.pipeline import DECODE_THREADS, Job, SegmentWriter, wanted_rows
from extract.provenance import versions
from extract.weights.checkpoints import Checkpoint


@dataclass(frozen=True)
class Feature:
    """One feature of a run, as it was planned."""

    name: str
    config: EncoderConfig
    checkpoint: Checkpoint | None
    spec: FeatureSpec


@dataclass(frozen=True)
class Work:
    """What every worker of a run is told.

    Attributes:
        run: the run's own name, recorded with each segment.
        host: where it was planned.
        root: the data root.
        witness: a file below `root` that must be there, and its size in bytes; None where the corpus has no files.
        store: where the store lies.
        dataset: name in the store.
        parts: names of the dataset's parts, by which a worker sees that it has the same store.
        features: what is extracted.
        device: torch device; `auto`: a GPU where there is one, the workers of a host spread over its GPUs.
        threads: for torch and for decoding; None: as many as dask gave the worker.
        local: whether the workers are processes that the run itself started.
        limits: what decoding one clip may take.
        versions: of mer and of what it runs on, where it was planned.
    """

    run: str
    host: str
    root: Path
    witness: tuple[str, int] | None
    store: str
    dataset: str
    parts: tuple[str, ...]
    features: tuple[Feature, ...]
    device: str
    threads: int | None
    local: bool
    limits: DecodeLimits
    versions: Mapping[str, str]


Piece = tuple[int, Segment]
"""(number of the feature, one of its segments)."""


@dataclass(frozen=True)
class Done:
    """How far an attempt at a stretch has come.

    Attributes:
        stretch: number of the stretch.
        attempt: which attempt at it; another worker may have died over an earlier one.
        rows: rows encoded or found unreadable, a row being one utterance of one feature.
        failed: how many of them failed.
        encoded: by feature, utterances that the encoder ran on.
        worker, host, device, threads: who works on it.
        seconds: since it began.
        waited: seconds of these in which the encoders waited for decoded clips.
    """

    stretch: int
    attempt: str
    rows: int
    failed: int
    encoded: tuple[int, ...]
    worker: str
    host: str
    device: str
    threads: int
    seconds: float
    waited: float = 0.0


class Site:
    """A run in one process.

    Args:
        work: what the run told.
        worker: the worker's name.
        rank: its number among the workers of its host, which says which GPU it takes.
        threads: for torch and for decoding.
        before: the process's last run, whose encoders are kept where this one has the same.

    Raises:
        SettingsError: this process has another version of mer, lacks the weights, or has other ones.
        DataError: the data root is not visible here.
        StoreError: the store is not visible here, is another one, or cannot be written.
    """

    def __init__(self, work: Work, worker: str, rank: int, threads: int, before: Site | None = None) -> None:
        self.work, self.worker, self.rank, self.threads = work, worker, rank, threads
        self._require_version()
        self._require_root()
        store = self._open_store()
        self.device = device_for(work.device, rank)
        self.jobs = [self._job(feature, store) for feature in work.features]
        if before is not None and before.device == self.device:
            for job in self.jobs:
                job.take_encoder(before.jobs)

    def _require_version(self) -> None:
        mine, theirs = versions(), self.work.versions
        if mine["mer"] != theirs["mer"]:
            raise SettingsError(f"mer {mine['mer']} is installed there, and the run is one of mer {theirs['mer']}.")

    def _require_root(self) -> None:
        if not self.work.root.is_dir():
            raise DataError(f"the data root {self.work.root} is not visible there.")
        if self.work.witness is None:
            return
        name, size = self.work.witness
        try:
            found = (self.work.root / name).stat().st_size
        except OSError as error:
            raise DataError(f"{self.work.root / name} cannot be read there ({first_line(error)}).") from error
        if found != size:
            raise DataError(f"{self.work.root / name} has {found} bytes there and {size} bytes here.")

    def _open_store(self) -> FeatureStore:
        there = f"the store {self.work.store} is not visible there"
        try:
            parts = {part.name for part in FeatureStore.open(self.work.store).samples(self.work.dataset).parts}
        except StoreError as error:
            raise StoreError(f"{there} ({first_line(error)})") from error
        if not parts.issuperset(self.work.parts):
            raise StoreError(f"{there}: {self.work.store} is another one, without the samples of this run.")
        try:
            store = FeatureStore.open(self.work.store, mode="a")
            store.storage.prepare()
        except StoreError as error:
            raise StoreError(f"the store cannot be written there ({first_line(error)})") from error
        return store

    def _job(self, feature: Feature, store: FeatureStore) -> Job:
        module, checkpoint = ENCODERS.load(feature.name), feature.checkpoint
        if checkpoint is not None and platform.node() != self.work.host:
            if not checkpoint.folder.is_dir():
                raise SettingsError(
                    f"the weights of {feature.name} are not visible there, at {checkpoint.folder}; give --weights a "
                    "folder that all machines share."
                )
            checkpoint = replace(checkpoint)  # without the digests that were taken elsewhere
        if module.describe(feature.config, checkpoint).fingerprint() != feature.spec.fingerprint():
            raise SettingsError(f"{feature.name} has other weights, assets or code there; bring both to one state.")
        needs = module.needs(feature.config, checkpoint)
        writer = store.writer(self.work.dataset, feature.spec)
        return Job(feature.name, module, feature.config, checkpoint, feature.spec, needs, writer)

    def extract(self, stretch: int, pieces: Sequence[Piece], tell: Callable[[Done], None]) -> Done:
        """Extract a stretch and commit its segments, by the pipeline that one process runs.

        Args:
            stretch: its number.
            pieces: its segments.
            tell: called after every window.
        """
        self.limit_torch()
        count = _Counter(self, stretch, tell)
        todo = [(self.jobs[number], segment) for number, segment in pieces]
        threads = max(1, min(DECODE_THREADS, self.threads))
        facts = {"run": self.work.run}
        timing = pipeline.fill(todo, self.work.root, self.device, count, self.work.limits, threads, facts)
        return count.done(waited=timing.decode_wait)

    def extract_apart(self, stretch: int, pieces: Sequence[Piece], tell: Callable[[Done], None]) -> Done:
        """Extract a stretch over which workers have died: clip by clip, in a child that may die (`apart.py`)."""
        from extract.cluster import apart

        count = _Counter(self, stretch, tell)
        wanted = list(wanted_rows([(self.jobs[number], segment) for number, segment in pieces]))
        numbers = {id(job): number for number, job in enumerate(self.jobs)}
        requests = [(w.utterance, tuple(numbers[id(job)] for job, _, _ in w.takers)) for w in wanted]
        rows = failed = 0
        with SegmentWriter(self.device, {"run": self.work.run}) as sink:
            for want, answers in zip(wanted, apart.answers(self, requests), strict=True):
                for (job, segment, index), answer in zip(want.takers, answers, strict=True):
                    segment.put(index, answer.row, answer.source)
                    job.encoded += answer.encoded
                    rows, failed = rows + 1, failed + answer.failed
                    if segment.complete:
                        sink.put(job, segment)
                count(rows, rows, failed)
        return count.done()

    def limit_torch(self) -> None:
        """Torch takes its threads per thread that calls it, so each task says anew."""
        if any(feature.checkpoint is not None for feature in self.work.features):
            import torch

            torch.set_num_threads(self.threads)


class _Counter:
    """Progress of one attempt at a stretch."""

    def __init__(self, site: Site, stretch: int, tell: Callable[[Done], None]) -> None:
        self._site, self._stretch, self._tell = site, stretch, tell
        self._attempt = uuid.uuid4().hex
        self._encoded = [job.encoded for job in site.jobs]
        self._began = time.perf_counter()
        self._rows = self._failed = 0

    def __call__(self, rows: int, total: int, failed: int) -> None:
        self._rows, self._failed = rows, failed
        self._tell(self.done())

    def done(self, waited: float = 0.0) -> Done:
        site = self._site
        encoded = tuple(job.encoded - before for job, before in zip(site.jobs, self._encoded, strict=True))
        seconds = time.perf_counter() - self._began
        who = site.worker, platform.node(), site.device, site.threads
        return Done(self._stretch, self._attempt, self._rows, self._failed, encoded, *who, seconds, waited)


def device_for(asked: str, rank: int) -> str:
    """The torch device of the worker with this number among those of its host.

    Raises:
        SettingsError: there is no such device here.
    """
    device = resolve_device(asked)
    if asked != "auto" or device == "cpu":
        return device
    import torch

    return f"{device}:{rank % torch.cuda.device_count()}"


# ------------------------------------------------------------------------------------------------ tasks of dask

_site: Site | None = None
"""The run that this process worked on last, with its loaded encoders."""


async def unfit(work: Work, ranks: Mapping[str, int], dask_worker: Any = None) -> tuple[str | None, dict[str, str]]:
    """Why this worker cannot do the run, None where it can; and its versions. For `distributed.Client.run`."""
    if work.local and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the run, which ends its workers
    try:
        await asyncio.to_thread(_site_of, work, ranks[dask_worker.address], dask_worker)
    except MerError as error:
        return str(error), versions()
    return None, versions()


def extract_stretch(work: Work, rank: int, stretch: int, pieces: Sequence[Piece], alone: bool) -> Done:
    """The task: `Site.extract`, or with `alone` `Site.extract_apart`."""
    from distributed import get_worker

    worker = get_worker()

    def tell(done: Done) -> None:
        worker.log_event(topic(work.run), vars(done))

    site = _site_of(work, rank, worker)
    return (site.extract_apart if alone else site.extract)(stretch, pieces, tell)


def topic(run: str) -> str:
    """Under which dask's events the progress of a run is told."""
    return f"mer-{run}"


def _site_of(work: Work, rank: int, worker: Any) -> Site:
    """What this process has of the run, made at the first call."""
    global _site
    if _site is None or _site.work.run != work.run:
        try:
            _site = Site(work, str(worker.name), rank, work.threads or worker.state.nthreads, _site)
        except MerError as error:
            raise type(error)(f"{worker.address}: {error}") from error
    return _site
