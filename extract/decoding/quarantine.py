"""Clips, decoded in processes that may die: a file can crash its decoder, never the run.

FFmpeg reads what anybody may have written. A file of 50 kB that declares enormous sizes can take 12 GB, or all the
time that there is, or the process; so can a table of physiological signals. So clips and recordings are opened in child
processes: each lives for many clips, its memory is limited, an alarm ends it where a clip takes too long, and a clip
that it dies of is a recorded failure. What was decoded comes back in memory that both processes share; the numbers are
those of `media.decode`.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field

from cache_schema.errors import DataError, MerError, SettingsError, first_line
from cache_schema.samples import Utterance
from cache_schema.settings import Spec
from extract.decoding import media
from extract.encoder import Clip, Needs

LEAST_SECONDS = 60.0
"""For any file: a process that has just begun loads its libraries and models within this time too."""
TIMES_DURATION = 4.0
"""Seconds more for each second that the clip is to last."""
SECONDS_A_RECORDING = 10.0
"""Seconds more for each physiological recording of the utterance's subject that is read with its own."""
ALIGNMENT = 64
"""Bytes to whose multiples arrays are moved in the shared memory: a cache line."""
SMALL = 1 << 16
"""Arrays of fewer bytes are copied with the rest of an answer."""


class DecodeLimits(Spec):
    """What decoding one clip may take."""

    seconds: float | None = Field(default=None, gt=0)
    """Most seconds; None: 60, and four times the clip's duration. A clip that takes longer is a recorded failure."""
    gigabytes: float = Field(default=2.0, gt=0.2)
    """Most memory of a process that decodes, where the system can limit it (Linux); 8K video takes more than 2."""

    def seconds_for(self, root: Path, utterance: Utterance, subject: Sequence[str] = ()) -> float:
        """Most seconds for this utterance's files, and for all recordings of its subject where these are read."""
        if self.seconds is not None:
            return self.seconds
        credible = 0.0
        for path in (utterance.path, utterance.sound):
            try:
                credible += (root / path).stat().st_size / media.LEAST_BYTES_PER_SECOND if path else 0.0
            except (OSError, ValueError):
                continue
        there = utterance.end or (utterance.start or 0.0) + (utterance.duration or 0.0)
        least = LEAST_SECONDS + SECONDS_A_RECORDING * len(subject)
        return least + TIMES_DURATION * max(0.0, min(there, credible))


DEFAULT_LIMITS = DecodeLimits()


def decode(root: Path, utterance: Utterance, needs: Sequence[Needs], limits: DecodeLimits = DEFAULT_LIMITS) -> Clip:
    """`media.decode`, in another process; a transcript alone is read in this one.

    A clip that takes too long, too much memory, or its decoder's life (twice, for that may be another's fault) comes
    back as unreadable, with the reason.

    Raises:
        SettingsError: as `media.decode`, or no process can be started.
    """
    if all(stream == "text" for need in needs for stream in need.streams):
        return media.decode(root, utterance, needs)
    given = (root.absolute(), utterance, needs)  # a child may have begun in another folder
    subject = next((need.subject for need in needs if need.subject), ())
    try:
        answer = _ask(media.decode, given, limits.seconds_for(root, utterance, subject), limits)
    except DecoderDied as error:
        return media.failed_clip(utterance, needs, str(error))
    clip: Clip = replace(answer, utterance=utterance)
    return clip


def probe(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> float | None:
    """`media.probe`, in another process; None too where that dies of it."""
    try:
        seconds: float | None = _ask(media.probe, (path.absolute(),), limits.seconds or LEAST_SECONDS, limits)
    except DecoderDied:
        return None
    return seconds


def read_apart(read: Callable[[Path], Any], path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> Any:
    """What `read(path)` returns, in another process: for a file that an annotation stands in.

    Raises:
        DataError: the process died of it.
        MerError: what `read` raises.
    """
    try:
        return _ask(read, (path.absolute(),), limits.seconds or LEAST_SECONDS, limits)
    except DecoderDied as error:
        raise DataError(f"{path}: {error}.") from error


class DecoderDied(Exception):  # noqa: N818 - it says what happened
    """A child process ended over its work; the message says why."""


def _ask(work: Callable[..., Any], given: tuple[Any, ...], seconds: float, limits: DecodeLimits) -> Any:
    """What `work(*given)` returns in a child process; one that dies of it for no reason of its own is replaced once."""
    died = DecoderDied()
    for _ in range(2):
        child = _take(limits)
        try:
            answer = child.ask(work, given, seconds)
        except DecoderDied as error:
            died = error
            if child.timed_out:
                break
            continue
        except BaseException:
            child.close()
            raise
        if isinstance(answer, MemoryError):
            child.close()  # what it still holds would count against the next clip
            raise DecoderDied(f"takes more than {limits.gigabytes:g} GB of memory to decode (--decode-gb)")
        _idle.setdefault(limits.gigabytes, []).append(child)
        if isinstance(answer, Exception):
            raise answer
        return answer
    raise died


_idle: dict[float, list[_Child]] = {}
"""Children that nobody waits for now, by the memory that they may take."""


def _take(limits: DecodeLimits) -> _Child:
    """An idle child, or another one."""
    try:
        return _idle.setdefault(limits.gigabytes, []).pop()
    except IndexError:
        return _Child(limits.gigabytes)


@atexit.register
def close() -> None:
    """End the idle children; those at work end when they have nobody to answer to."""
    for children in _idle.values():
        while children:
            children.pop().close()


class _Child:
    """A process that works on one request at a time.

    Args:
        gigabytes: most memory that it may take.

    Raises:
        SettingsError: it cannot be started.
    """

    def __init__(self, gigabytes: float) -> None:
        ours, theirs = socket.socketpair()
        setting = "import json, sys; sys.path[:] = json.loads(sys.argv[1])"
        code = f"{setting}; from extract.decoding.quarantine import serve; serve()"
        command = [sys.executable, "-c", code, json.dumps(sys.path), str(theirs.fileno()), str(gigabytes)]
        self.timed_out = False
        self._socket = ours
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
                )
        except OSError as error:
            ours.close()
            raise SettingsError(f"No process to decode clips can be started: {first_line(error)}.") from error
        if not ours.recv(1):
            self.close()
            raise SettingsError("The process that decodes clips ended at its start; `mer doctor` tells more.")

    def ask(self, work: Callable[..., Any], given: tuple[Any, ...], seconds: float) -> Any:
        """What `work(*given)` returns or raises there, an error as a value.

        Raises:
            DecoderDied: the process has ended; this object is of no use any more.
        """
        try:
            self._socket.sendall(pickle.dumps((work, given, seconds, dict(os.environ)), 5))
            message, files, _, _ = socket.recv_fds(self._socket, 8, 1)
        except (BrokenPipeError, ConnectionResetError):
            message, files = b"", []
        if len(message) == 8 and files:
            return _unpack(files[0], int.from_bytes(message, "little"))
        code = self.close()
        self.timed_out = code == -signal.SIGALRM
        if self.timed_out:
            raise DecoderDied(f"took longer than {seconds:g} s to decode (--decode-seconds)")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        raise DecoderDied(f"the process that decoded it died of it twice ({name})")

    def close(self) -> int:
        """End the process; returns its exit code, minus the signal that it died of."""
        self._socket.close()
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _pack(answer: Any) -> tuple[int, int]:
    """(file, where in it the table begins): arrays of the answer lie in the file as they lay in memory."""
    big: list[memoryview] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        """Whether an array is pickled with the rest."""
        raw = buffer.raw()
        if raw.nbytes >= SMALL:
            big.append(raw)
        return raw.nbytes < SMALL

    head = pickle.dumps(answer, 5, buffer_callback=stays)
    memory = _new_memory()
    spans = []
    with open(memory, "wb", closefd=False) as file:
        for raw in big:
            file.write(bytes(-file.tell() % ALIGNMENT))
            spans.append((file.tell(), raw.nbytes))
            file.write(raw)
        table = file.tell()
        file.write(pickle.dumps((head, spans), 5))
    return memory, table


def _new_memory() -> int:
    """An open file without a name: in memory where the system has that (Linux)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("clip")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _unpack(memory: int, table: int) -> Any:
    """What `_pack` packed; its arrays are views of the shared memory, which goes when they go."""
    try:
        shared = memoryview(mmap.mmap(memory, 0))
    finally:
        os.close(memory)
    head, spans = pickle.loads(shared[table:])
    return pickle.loads(head, buffers=[shared[at : at + size] for at, size in spans])


# ------------------------------------------------------------------------------------------------- in the child


def serve() -> NoReturn:
    """Answer requests until nobody is there to ask."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)  # the run that is stopped closes the socket
    most = int(float(sys.argv[3]) * (1 << 30))
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = socket.socket(fileno=int(sys.argv[2]))
    channel.send(b".")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)  # libraries write there as they die
    with channel, channel.makefile("rb") as requests:
        while True:
            try:
                work, given, seconds, environment = pickle.load(requests)
            except (EOFError, ConnectionError):
                os._exit(0)
            _answer(channel, work, given, seconds, environment)


def _answer(
    channel: socket.socket,
    work: Callable[..., Any],
    given: tuple[Any, ...],
    seconds: float,
    environment: dict[str, str],
) -> None:
    """Do one request in the environment of who asks; the alarm that ends this process runs meanwhile."""
    if os.environ != environment:
        os.environ.clear()
        os.environ.update(environment)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        memory, table = _pack(work(*given))
    except MemoryError:
        memory, table = _pack(MemoryError())
    except MerError as error:
        memory, table = _pack(error)
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        socket.send_fds(channel, [table.to_bytes(8, "little")], [memory])
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    finally:
        os.close(memory)
