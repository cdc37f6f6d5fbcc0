"""Utterances encoded one by one in a child process that may die of one of them.

A stretch over which workers have died is run so: the utterance that ends the child (a crash in a library, the kernel's
hunt for memory) is a recorded failure, the child is started again after it, and everything else is encoded.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NoReturn

from cache_schema.errors import DataError
from cache_schema.rows import Failed, Row
from cache_schema.samples import Utterance
from extract.decoding.quarantine import decode
from extract.encoder import Clip
from extract.pipeline import Job

if TYPE_CHECKING:
    from extract.cluster.worker import Site

MOST_IN_A_ROW = 5
"""Children that die in a row over as many utterances: then it is not the utterances' fault."""

Request = tuple[Utterance, tuple[int, ...]]
"""(utterance, numbers of the features that want it)."""


@dataclass(frozen=True)
class Answer:
    """What became of one utterance for one feature.

    Attributes:
        row: its arrays, or why there are none.
        source: digest of the file that was read.
        encoded: whether the encoder ran on it.
    """

    row: Row
    source: str | None
    encoded: bool

    @property
    def failed(self) -> bool:
        return isinstance(self.row, Failed)


def answers(site: Site, requests: Sequence[Request]) -> Iterator[list[Answer]]:
    """Yield for each request one answer per feature, in order.

    Raises:
        DataError: the child dies whatever it is given.
        MerError: what an encoder raised there.
    """
    position = 0
    died: list[list[Answer]] = []  # said when the next utterance is encoded: until then the fault may be another
    while position < len(requests):
        with _child(site, requests[position:]) as child:
            assert child.stdout is not None
            for answered in _received(child.stdout):
                if isinstance(answered, BaseException):
                    raise answered
                yield from died
                died.clear()
                yield answered
                position += 1
        if position == len(requests):
            break
        died_of = _said(child.returncode)
        if len(died) + 1 == MOST_IN_A_ROW:
            raise DataError(
                f"The process that encodes died over {MOST_IN_A_ROW} utterances in a row ({died_of}), the last one "
                f"{requests[position][0].id!r}: that is not the clips' fault. `mer doctor` tells more."
            )
        utterance, numbers = requests[position]
        where = utterance.path or utterance.sound or utterance.signals
        reason = f"{f'{where}: ' if where else ''}the process that read it died ({died_of})"
        died.append([Answer(Failed(reason), None, encoded=False)] * len(numbers))
        position += 1
    yield from died


def _child(site: Site, requests: Sequence[Request]) -> subprocess.Popen[bytes]:
    code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from extract.cluster.apart import serve; serve()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    try:
        with child.stdin as pipe:
            pickle.dump((site.work, site.worker, site.rank, site.threads, list(requests)), pipe)
    except BrokenPipeError:
        pass  # it has died already, which the reader finds
    return child


def _received(pipe: IO[bytes]) -> Iterator[list[Answer] | BaseException]:
    while True:
        try:
            yield pickle.load(pipe)
        except (EOFError, pickle.UnpicklingError):
            return


def _said(code: int | None) -> str:
    """What an exit code says."""
    if code is not None and -code in set(signal.Signals):
        return signal.Signals(-code).name
    return f"exit code {code}"


# ------------------------------------------------------------------------------------------------- in the child


def serve() -> NoReturn:
    """Answer what stands in stdin, on what was stdout."""
    from extract.cluster.worker import Site

    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what libraries print must not get between the answers
        work, worker, rank, threads, requests = pickle.load(sys.stdin.buffer)
        try:
            site = Site(work, worker, rank, threads)
            site.limit_torch()
            for utterance, numbers in requests:
                jobs = [site.jobs[number] for number in numbers]
                clip = decode(work.root, utterance, [job.needs_of(utterance) for job in jobs], work.limits)
                pickle.dump([_answer(job, clip, site.device) for job in jobs], out)
                out.flush()
        except Exception as error:  # noqa: BLE001 - told to whoever asked, who raises it
            pickle.dump(error, out)
    sys.exit(0)


def _answer(job: Job, clip: Clip, device: str) -> Answer:
    unreadable = clip.lacks(job.needs)
    if unreadable is not None:
        return Answer(unreadable, job.source(clip), encoded=False)
    (row,) = job.encoder(device).encode([clip])
    return Answer(row, job.source(clip), encoded=True)
