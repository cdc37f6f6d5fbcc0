"""Many processes and machines: the stretches of a run as tasks of dask.distributed.

    this process plans -> one stretch per worker at a time -> each worker decodes, encodes and commits it (`worker.py`)

Nothing but progress comes back: the store is where results meet, and its commits make whatever is done twice be there
once. A stretch whose worker dies is given to another; one over which workers die again and again is run utterance by
utterance in a child (`apart.py`), so that the guilty one becomes a recorded failure. Who loses the scheduler runs the
same command again.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cache_schema.errors import DataError, SettingsError, first_line
from cache_schema.plan import Segment
from cache_schema.storage.location import absolute_location
from cache_schema.store import FeatureStore
from extract.cluster.dispatch import Dispatch
from extract.cluster.worker import Done, Feature, Work, topic
from extract.decoding.quarantine import DecodeLimits
from extract.pipeline import Job, Progress, stretches_of, unfinished
from extract.provenance import versions

SILENT = {"distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical"}
CONNECT_SECONDS = 10.0
"""How long a scheduler may take to answer at first."""


@dataclass(frozen=True)
class WorkerReport:
    """What one worker did.

    Attributes:
        worker: its name in the cluster.
        host, device, threads: where it ran.
        stretches: finished ones.
        rows: utterances of single features that it went through, in attempts that somebody else ended included.
        seconds: in which it worked.
        waited: seconds of these in which its encoders waited for decoded clips.
    """

    worker: str
    host: str
    device: str
    threads: int
    stretches: int
    rows: int
    seconds: float
    waited: float


def run(
    store: FeatureStore,
    dataset: str,
    jobs: Sequence[Job],
    root: Path,
    device: str,
    workers: int,
    address: str | None,
    limits: DecodeLimits,
    *,
    only: set[str] | None = None,
    progress: Progress = lambda done, total, failed: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[WorkerReport, ...]:
    """Extract every segment that is planned and not committed, on many processes; fills the jobs' counts.

    Args:
        store: open for writing; the workers open it themselves, at the same location.
        dataset: name in the store.
        jobs: the features.
        root: the data root, which the workers see at the same path.
        device: torch device of the encoders; `auto`: a GPU where there is one, a host's workers spread over its GPUs.
        workers: processes on this machine, where there is no address.
        address: a running scheduler's, as tcp://host:8786, or the file that it wrote with `--scheduler-file`.
        limits: what decoding one clip may take.
        only: extract only segments that hold one of these utterance ids; None: all.
        progress: called as windows are done, in another thread.
        say: called with what is worth knowing about the workers.

    Returns:
        What each worker did; none where nothing was to be done.

    Raises:
        SettingsError: no scheduler answers, or a worker cannot do this work: it has another version, or does not see
            the data root, the store or the weights, or cannot write.
        DataError: the scheduler was lost, or workers die again and again.
        MerError: what ended a worker's work.
    """
    numbers = {id(job): number for number, job in enumerate(jobs)}
    todo = unfinished(jobs, only)
    stretches = [[(numbers[id(job)], segment) for job, segment in stretch] for stretch in stretches_of(todo)]
    if not stretches:
        progress(0, 0, 0)
        return ()
    workers = min(workers, len(stretches))
    work = Work(
        run=uuid.uuid4().hex,
        host=platform.node(),
        root=root.absolute(),
        witness=_witness(root, todo),
        store=absolute_location(store.location),
        dataset=dataset,
        parts=tuple(part.name for part in store.samples(dataset).parts),
        features=tuple(Feature(job.name, job.config, job.checkpoint, job.spec) for job in jobs),
        device=device,
        threads=None if address else _threads(workers),
        local=address is None,
        limits=limits,
        versions=versions(),
    )
    total = sum(sum(job.writer.current(segment)) for job, segment in todo)
    tally = _Tally(total, progress)
    with _client(workers, address) as client:
        client.subscribe_topic(topic(work.run), lambda event: tally.take(Done(**event[1])))
        try:
            Dispatch(client, work, address, partial(tally.take, finished=True), say).run(stretches)
        except CancelledError as error:
            left = len(unfinished(jobs, only))
            raise DataError(
                f"The scheduler{f' at {address}' if address else ''} was lost. What was finished is kept, {left} of "
                f"{len(todo)} segments are left; start a scheduler and run the same command again to go on."
            ) from error
    _count(store, dataset, jobs, work.run, tally)
    return tally.by_worker()


def _threads(workers: int) -> int:
    """Threads of each of the workers of this machine: OMP_NUM_THREADS, or a share of the cores that there are."""
    from dask.system import CPU_COUNT

    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(said) if said.isdecimal() and int(said) else max(1, CPU_COUNT // workers)


def _witness(root: Path, todo: Sequence[tuple[Job, Segment]]) -> tuple[str, int] | None:
    """A file of the corpus that is there, and its size."""
    for job, segment in todo:
        for utterance in job.writer.utterances(segment):
            for path in (utterance.path, utterance.sound):
                if path is not None and (root / path).is_file():
                    return path, (root / path).stat().st_size
    return None


def _count(store: FeatureStore, dataset: str, jobs: Sequence[Job], run: str, tally: _Tally) -> None:
    """Count what the run's own commits hold, whoever lived to tell; and what its encoders ran on, by what was told."""
    encoded = tally.encoded()
    for number, job in enumerate(jobs):
        job.encoded += encoded[number]
        for commit in store.feature(dataset, job.spec.feature, job.spec.fingerprint()).commits.values():
            if commit.provenance.get("run") == run:
                job.committed_rows += sum(job.writer.current(commit.segment))
                job.written += len(commit.lengths) - len(commit.failed) - len(commit.absent)


# ---------------------------------------------------------------------------------------------------- the cluster


@contextmanager
def _client(workers: int, address: str | None) -> Iterator[Any]:
    """A client of the scheduler at `address`, or of one in this process with workers of its own.

    dask's own log, which tells of every worker that goes, is silenced meanwhile.
    """
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import silence_logging_cmgr

    with silence_logging_cmgr(logging.CRITICAL), dask.config.set(SILENT):
        if address is not None:
            client = _connected(address)
            try:
                yield client
            finally:
                client.close(timeout=1)
            return
        # No limit of memory: dask would pause or kill a worker at a share of it; the pipeline bounds what it takes.
        with _without_ctrl_c():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster) as client:
            yield client


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that are started here do not hear a terminal's Ctrl-C: this one does, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _connected(address: str) -> Any:
    from distributed import Client

    place = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        return Client(**place, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SettingsError(
            f"--cluster {address}: no dask scheduler answers there ({first_line(error)}). Start one with "
            "`dask scheduler`, and give the address that it prints or the file of its --scheduler-file."
        ) from error


class _Tally:
    """What the workers have told, by attempts; the last attempt at a stretch is its progress."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress = total, progress
        self._last: dict[int, Done] = {}
        self._attempts: dict[str, Done] = {}
        self._finished: set[str] = set()
        progress(0, total, 0)

    def take(self, done: Done, finished: bool = False) -> None:
        """Take note, in whatever order it arrives."""
        known = self._attempts.get(done.attempt)
        if finished:
            self._finished.add(done.attempt)
        elif known is not None and known.seconds >= done.seconds:
            return
        self._attempts[done.attempt] = self._last[done.stretch] = done
        latest = list(self._last.values())
        self._progress(sum(d.rows for d in latest), self._total, sum(d.failed for d in latest))

    def encoded(self) -> dict[int, int]:
        """By number of the feature, the utterances that its encoder ran on, in whatever attempt."""
        found: dict[int, int] = defaultdict(int)
        for done in self._attempts.values():
            for number, count in enumerate(done.encoded):
                found[number] += count
        return found

    def by_worker(self) -> tuple[WorkerReport, ...]:
        """What each worker did, by name."""
        groups: dict[tuple[str, str, str, int], list[Done]] = defaultdict(list)
        for done in self._attempts.values():
            groups[done.worker, done.host, done.device, done.threads].append(done)
        return tuple(
            WorkerReport(
                *who,
                stretches=sum(d.attempt in self._finished for d in attempts),
                rows=sum(d.rows for d in attempts),
                seconds=round(sum(d.seconds for d in attempts), 3),
                waited=round(sum(d.waited for d in attempts), 3),
            )
            for who, attempts in sorted(groups.items())
        )
