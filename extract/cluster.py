"""Many processes and machines: the stretches of a run as tasks of dask.distributed.

    this process plans -> one stretch per worker at a time -> each worker decodes, encodes and commits it (`worker.py`)

Nothing but progress comes back: the store is where results meet, and its commits make whatever is done twice be there
once. A stretch whose worker dies is given to another; one over which workers die again and again is run utterance by
utterance in a child, so that the guilty one becomes a recorded failure. Who loses the scheduler runs the same command
again.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schema.errors import DataError, MerError, SettingsError, first_line
from cache_schema.plan import Segment
from cache_schema.storage.location import absolute_location
from cache_schema.store import FeatureStore
from extract.pipeline import Job, Progress, stretches_of, unfinished
from extract.provenance import versions
from extract.quarantine import DecodeLimits
from extract.worker import ONE_AT_A_TIME, Done, Feature, Piece, Work, extract_stretch, topic, unfit

TOLERATED_DEATHS = 1
"""Workers of this machine that may die over a stretch before it is run utterance by utterance; on a cluster of its own
this is the scheduler's `allowed-failures`."""
CONNECT_SECONDS = 20.0
"""How long a scheduler may take to answer at first."""
TICK_SECONDS = 1.0
"""How often workers that came or went are looked for."""


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
        SettingsError: no scheduler answers, or a worker cannot do this work: another version, no weights.
        DataError: a worker does not see the data root, or the scheduler was lost.
        StoreError: a worker does not see the store, or cannot write there.
    """
    numbers = {id(job): number for number, job in enumerate(jobs)}
    todo = unfinished(jobs, only)
    stretches = [[(numbers[id(job)], segment) for job, segment in stretch] for stretch in stretches_of(todo)]
    if not stretches:
        progress(0, 0, 0)
        return ()
    workers = min(workers, len(stretches))
    threads = None if address else int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, _cores() // workers)
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
        threads=threads,
        limits=limits,
        versions=versions(),
    )
    total = sum(sum(job.writer.current(segment)) for job, segment in todo)
    tally = _Tally(total, progress)
    with _quiet(), _client(workers, address) as client:
        client.subscribe_topic(topic(work.run), lambda event: tally.take(Done(**event[1])))
        try:
            _Dispatch(client, work, address, tally, say).run(stretches)
        except CancelledError as error:
            left = len(unfinished(jobs, only))
            raise DataError(
                f"The scheduler{f' at {address}' if address else ''} was lost. What was finished is kept, {left} of "
                f"{len(todo)} segments are left; start a scheduler and run the same command again to go on."
            ) from error
    _count(store, dataset, jobs, work.run, tally)
    return tally.by_worker()


def _cores() -> int:
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


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
def _quiet() -> Iterator[None]:
    """dask without its own log, which tells of every worker that goes; mer says what matters."""
    import dask

    silent = dict.fromkeys(("distributed", "distributed.client", "distributed.worker", "tornado"), "critical")
    with dask.config.set({"logging": silent, "distributed.scheduler.allowed-failures": TOLERATED_DEATHS}):
        yield


@contextmanager
def _client(workers: int, address: str | None) -> Iterator[Any]:
    """A client of the scheduler at `address`, or of one in this process with workers of its own."""
    from distributed import Client, LocalCluster

    if address is not None:
        client = _connected(address)
        try:
            yield client
        finally:
            client.close(timeout=1)
        return
    # No limit of memory: dask would pause or kill a worker at a share of it; the pipeline bounds its own.
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


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


class _Dispatch:
    """Gives stretches out, one per worker at a time.

    Not all at once: dask would fix each stretch's worker then, leaving none for workers that come later, and blame all
    of a dead worker's stretches for its death.
    """

    def __init__(self, client: Any, work: Work, address: str | None, tally: _Tally, say: Callable[[str], None]) -> None:
        self.client, self.work, self.address = client, work, address
        self.tally, self.say = tally, say
        self.known: set[str] = set()
        """Workers that have been asked whether they are fit."""
        self.running: dict[Any, tuple[int, Sequence[Piece], bool]] = {}

    def run(self, stretches: Sequence[Sequence[Piece]]) -> None:
        """Return when every stretch is committed; errors as `cluster.run`, and `CancelledError` without a scheduler."""
        import random

        from distributed import TimeoutError as Late
        from distributed import wait

        self._one_at_a_time()
        queue = [(number, pieces, False) for number, pieces in enumerate(stretches)]
        random.shuffle(queue)
        try:
            while queue or self.running:
                places = max(1, len(self._workers()))
                while queue and len(self.running) < places:
                    self._submit(*queue.pop())
                try:
                    finished = wait(list(self.running), timeout=TICK_SECONDS, return_when="FIRST_COMPLETED").done
                except Late:
                    continue
                for future in finished:
                    queue += self._finished(future)
        finally:
            if self.client.status == "running":
                self.client.cancel(list(self.running))

    def _one_at_a_time(self) -> None:
        from distributed import WorkerPlugin

        class OneAtATime(WorkerPlugin):
            """Gives each worker, also one that comes later, one place for a stretch."""

            name = ONE_AT_A_TIME

            async def setup(self, worker: Any) -> None:
                await worker.set_resources(**{ONE_AT_A_TIME: 1})

        self.client.register_plugin(OneAtATime())

    def _workers(self) -> set[str]:
        """Addresses of the workers; those that are new are asked whether they are fit.

        Raises:
            CancelledError: there is no scheduler any more.
        """
        if self.client.status != "running":
            raise CancelledError
        try:
            there = set(self.client.scheduler_info()["workers"])
            new = there - self.known
            answers = self.client.run(unfit, self.work, workers=list(new), on_error="return") if new else {}
        except OSError as error:
            raise CancelledError from error
        for worker, answer in answers.items():
            self._require_fit(worker, answer)
        self.known |= new
        if not there and not self.known:
            self.say(f"No worker is there yet: waiting. `dask worker {self.address}` starts one.")
            self.known.add("")
        return there

    def _require_fit(self, worker: str, answer: Any) -> None:
        if isinstance(answer, OSError):
            return  # it has gone again
        if isinstance(answer, Exception):
            raise SettingsError(
                f"The worker {worker} cannot run mer ({type(answer).__name__}: {first_line(answer)}); install the same "
                "version of mer there."
            )
        reason, theirs = answer
        if reason is not None:
            raise SettingsError(f"The worker {reason}")
        other = [name for name, version in versions().items() if theirs[name] != version]
        if other:
            told = ", ".join(f"{name} {theirs[name]} ({versions()[name]} here)" for name in other)
            self.say(f"The worker {worker} has {told}: the last digits of its features may differ.")

    def _submit(self, number: int, pieces: Sequence[Piece], alone: bool) -> None:
        future = self.client.submit(
            extract_stretch,
            self.work,
            number,
            pieces,
            alone,
            key=f"mer-{self.work.run}-{number}-{'alone' if alone else 'whole'}",
            resources={ONE_AT_A_TIME: 1},
            pure=False,
        )
        self.running[future] = (number, pieces, alone)

    def _finished(self, future: Any) -> list[tuple[int, Sequence[Piece], bool]]:
        """What is to be done yet of a stretch whose task is over."""
        from distributed import KilledWorker

        number, pieces, alone = self.running.pop(future)
        try:
            self.tally.take(future.result(), finished=True)
        except KilledWorker as error:
            if alone:
                raise DataError(
                    f"Workers died again and again over utterances {pieces[0][1].start} and on of the dataset, even "
                    "with each in a process of its own: is there memory enough? What was finished is kept; run the "
                    "same command again to go on."
                ) from error
            self.say("Workers died over one stretch: its utterances are encoded one by one, to find the guilty one.")
            return [(number, pieces, True)]
        except MerError:
            raise
        return []


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
