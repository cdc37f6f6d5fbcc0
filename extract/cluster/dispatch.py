"""Who of a cluster's workers gets which stretch of a run, and what becomes of a stretch whose worker dies."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, Queue
from typing import Any

from cache_schema.errors import DataError, SettingsError, first_line
from extract.cluster.worker import Done, Piece, Work, extract_stretch, unfit

TOLERATED_DEATHS = 2
"""Workers that may die over a stretch and leave it as it is; after one more it is run utterance by utterance."""
RESTART_SECONDS = 120.0
"""How long workers of this machine that died may take to be there again."""
TICK_SECONDS = 1.0
"""How often workers that came or went are looked for."""


@dataclass
class _Stretch:
    """A stretch that is not committed yet.

    Attributes:
        number: which one.
        pieces: its segments.
        alone: whether it is run utterance by utterance in a child.
        deaths: workers that went over it as it is run now.
    """

    number: int
    pieces: Sequence[Piece]
    alone: bool = False
    deaths: int = 0


class Dispatch:
    """Gives stretches out, each to a worker that has none.

    Were they given to dask all at once, it would fix each one's worker then, leave none for workers that come later,
    and blame all that wait for a worker for its death.

    Args:
        client: of the scheduler.
        work: what the workers are told.
        address: the scheduler's; None where the workers are this machine's own.
        take: called with what a finished stretch was.
        say: called with what is worth knowing about the workers.
    """

    def __init__(
        self,
        client: Any,
        work: Work,
        address: str | None,
        take: Callable[[Done], None],
        say: Callable[[str], None],
    ) -> None:
        self.client, self.work, self.address = client, work, address
        self.take, self.say = take, say
        self.known: set[str] = set()
        """Addresses of workers that are fit for this run."""
        self.ranks: dict[str, int] = {}
        """Number of each worker that is there among those of its host."""
        self.running: dict[str, tuple[Any, _Stretch]] = {}
        """By the worker's address, its task and the stretch."""
        self.alone_since: float | None = None
        """Since when there has been no worker, where there is none."""
        self.over: Queue[Any] = Queue()
        """Tasks that are over, as dask's threads find them."""

    def run(self, stretches: Sequence[Sequence[Piece]]) -> None:
        """Return when every stretch is committed; errors as `cluster.run`, and `CancelledError` without a scheduler."""
        queue = [_Stretch(number, pieces) for number, pieces in enumerate(stretches)]
        random.shuffle(queue)
        try:
            while queue or self.running:
                there = self._workers()
                for address in self.running.keys() - there:
                    future, stretch = self.running.pop(address)
                    self._give_up([future])
                    queue.append(self._after_a_death(stretch))
                for address in there - self.running.keys():
                    if queue:
                        self._submit(address, queue.pop())
                with suppress(Empty):
                    self._finished(self.over.get(timeout=TICK_SECONDS), queue)
        finally:
            self._give_up([future for future, _ in self.running.values()])

    def _workers(self) -> set[str]:
        """Addresses of the workers; those that are new are asked whether they are fit.

        Raises:
            CancelledError: there is no scheduler any more.
        """
        if self.client.status != "running":
            raise CancelledError
        try:
            # `scheduler_info` would do, were its answer not replaced now and then by one without workers
            workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
            hosts = {address: facts["host"] for address, facts in workers.items()}
            self.ranks = ranked(hosts, self.ranks)
            new = hosts.keys() - self.known
            ask = partial(self.client.run, unfit, self.work, self.ranks, on_error="return")
            answers = ask(workers=list(new)) if new else {}
        except OSError as error:
            raise CancelledError from error
        self._wait_for_workers(bool(hosts))
        self.known |= {worker for worker, answer in answers.items() if self._fit(worker, answer)}
        return hosts.keys() & self.known

    def _wait_for_workers(self, there: bool) -> None:
        """Say once when there is none.

        Raises:
            DataError: those of this machine do not come back.
        """
        if there:
            self.alone_since = None
        elif self.alone_since is None:
            self.alone_since = time.monotonic()
            if self.address is not None:
                self.say(f"No worker is there: waiting. `dask worker {self.address}` starts one.")
        elif self.address is None and time.monotonic() - self.alone_since > RESTART_SECONDS:
            raise DataError(
                "The workers died and could not be started again: is there memory enough? What was finished is kept; "
                "run the same command again, with fewer --workers, to go on."
            )

    def _fit(self, worker: str, answer: Any) -> bool:
        """Whether a worker has answered that it can do the run; one that has gone again has not.

        Raises:
            SettingsError: it cannot.
        """
        if isinstance(answer, OSError):
            return False
        if isinstance(answer, Exception):
            raise SettingsError(
                f"The worker {worker} cannot run mer ({first_line(answer)}); install the same version of mer there."
            )
        reason, theirs = answer
        if reason is not None:
            raise SettingsError(f"The worker {reason}")
        other = [name for name, version in self.work.versions.items() if theirs[name] != version]
        if other:
            told = ", ".join(f"{name} {theirs[name]} ({self.work.versions[name]} here)" for name in other)
            self.say(f"The worker {worker} has {told}: the last digits of its features may differ.")
        return True

    def _submit(self, address: str, stretch: _Stretch) -> None:
        key = f"mer-{self.work.run}-{stretch.number}-{uuid.uuid4().hex}"
        task = self.work, self.ranks[address], stretch.number, stretch.pieces, stretch.alone
        future = self.client.submit(extract_stretch, *task, key=key, workers=[address], pure=False)
        self.running[address] = (future, stretch)
        future.add_done_callback(self.over.put)

    def _give_up(self, futures: list[Any]) -> None:
        if self.client.status == "running":
            with suppress(OSError):
                self.client.cancel(futures)

    def _finished(self, future: Any, queue: list[_Stretch]) -> None:
        """Take what a task returned; a stretch that it did not finish is put back."""
        from distributed import KilledWorker

        address = next((address for address, (own, _) in self.running.items() if own is future), None)
        if address is None:
            return  # it was given up
        _, stretch = self.running.pop(address)
        try:
            self.take(future.result())
        except KilledWorker:
            queue.append(self._after_a_death(stretch))

    def _after_a_death(self, stretch: _Stretch) -> _Stretch:
        """How the stretch is run next.

        Raises:
            DataError: workers die over it in any case.
        """
        if stretch.deaths < TOLERATED_DEATHS:
            return replace(stretch, deaths=stretch.deaths + 1)
        if not stretch.alone:
            self.say("Workers died over one stretch: its utterances are encoded one by one, to find the guilty one.")
            return replace(stretch, alone=True, deaths=0)
        raise DataError(
            "Workers died over one stretch again and again, even with each utterance in a process of its own: is there "
            "memory enough? What was finished is kept; run the same command again to go on."
        )


def ranked(hosts: Mapping[str, str], before: Mapping[str, int]) -> dict[str, int]:
    """Each worker's number among those of its host: it keeps what it had, and a new one takes the lowest that is free.

    Args:
        hosts: host of each worker that is there, by its address.
        before: the numbers until now, some of workers that are gone.
    """
    ranks = {address: before[address] for address in hosts if address in before}
    for address in hosts.keys() - ranks.keys():
        taken = {ranks[other] for other in ranks if hosts[other] == hosts[address]}
        ranks[address] = next(rank for rank in range(len(taken) + 1) if rank not in taken)
    return ranks
