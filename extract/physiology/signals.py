"""The physiological signals of one utterance, out of its recording."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from cache_schema.errors import first_line
from cache_schema.rows import Absent, Failed
from cache_schema.samples import Utterance
from extract.decoding.containers import require_file
from extract.decoding.streams import is_short
from extract.physiology import Recording, SignalRequest, Signals, named, on_clock

RECORDINGS_AT_HAND = 1
"""Whole recordings that a process keeps: a subject's utterances follow one another. DEAP's take 100 MB each."""


def decode_signals(
    root: Path, utterance: Utterance, requests: Sequence[SignalRequest]
) -> tuple[dict[SignalRequest, Signals], str | None, Absent | Failed | None]:
    """The utterance's channels on each clock that is asked for, from `start` to `end` on its recording's own.

    Returns:
        The signals by request; the digest of the recording, where it could be read; and why there are none:
        `Absent` where nothing was measured, `Failed` where the recording is not what it must be, or ends before the
        utterance does by more than is tolerated of sound and pictures too. Never raises for what it finds in a file.

    Raises:
        MemoryError: the recording takes more memory than there is.
    """
    if utterance.signals is None:
        return {}, None, Absent("the sample has no physiological recording")
    try:
        path = root / utterance.signals
        digest = _digest(path, _state(path))
        recording = _read(path, digest)
        start = utterance.start or 0.0
        end = recording.seconds if utterance.end is None else utterance.end
        if start >= recording.seconds or is_short(recording.seconds, end):
            when = f"begins ({start:.2f} s)" if start >= recording.seconds else f"does ({end:.2f} s)"
            reason = f"the recording ends at {recording.seconds:.2f} s, before the utterance {when}"
            return {}, digest, Failed(f"{utterance.signals}: {reason}")
        found = {request: on_clock(recording, request, start, end) for request in requests}
    except MemoryError:
        raise  # this process may not survive the next clip
    except Exception as error:  # noqa: BLE001 - a recording may be broken in any way; the run goes on without it
        reason = first_line(error).removeprefix(f"{root}/").removeprefix(utterance.signals).lstrip("/:, ")
        return {}, None, Failed(f"{utterance.signals}: {reason}")
    for request, signals in found.items():
        if not signals.measured.any():
            return {}, digest, Absent(f"none of {named(request.channels)} was measured during the utterance")
    return found, digest, None


def digest_of(path: Path) -> str:
    """sha256 of a file; of a folder, that of its files' names and digests.

    Raises:
        StreamError: it is neither.
        OSError: there is nothing, or it cannot be read.
    """
    if not path.is_dir():
        require_file(path)
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        whole.update(f"{file.name}\0{digest_of(file)}\n".encode())
    return whole.hexdigest()


def _state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of each file of a recording."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return tuple((file.name, (facts := file.stat()).st_size, facts.st_mtime_ns) for file in files)


@lru_cache(maxsize=4096)
def _digest(path: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    """The digest of a recording in this state; its utterances read it once."""
    return digest_of(path)


@lru_cache(maxsize=RECORDINGS_AT_HAND)
def _read(path: Path, digest: str) -> Recording:
    """The recording whose content has this digest."""
    from extract.physiology import recordings

    return recordings.read(path)
