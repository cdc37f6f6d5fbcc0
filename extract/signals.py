"""The physiological signals of one utterance, out of its recording."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from cache_schema.errors import first_line
from cache_schema.rows import Absent, Failed
from cache_schema.samples import Utterance
from extract.physiology import Recording, SignalRequest, Signals, named, on_clock

RECORDINGS_AT_HAND = 2
"""Whole recordings that are kept: a subject's utterances follow one another."""

_lock = threading.Lock()


def decode_signals(
    root: Path, utterance: Utterance, requests: Sequence[SignalRequest]
) -> tuple[dict[SignalRequest, Signals], str | None, Absent | Failed | None]:
    """The utterance's channels on each clock that is asked for, from `start` to `end` on its recording's own.

    Returns:
        The signals by request; the digest of the recording, where it could be read; and why there are none:
        `Absent` where nothing was measured, `Failed` where the recording is not what it must be. Never raises for what
        it finds in a file.
    """
    if utterance.signals is None:
        return {}, None, Absent("the sample has no physiological recording")
    try:
        digest = digest_of(root / utterance.signals)
        with _lock:  # threads that decode the utterances of one recording read it once
            recording = _read(root / utterance.signals, digest)
        start = utterance.start or 0.0
        end = recording.seconds if utterance.end is None else utterance.end
        if start >= recording.seconds:
            reason = f"begins at {start:g} s, and the recording ends at {recording.seconds:.2f} s"
            return {}, digest, Failed(f"{utterance.signals}: {reason}")
        found = {request: on_clock(recording, request, start, end) for request in requests}
    except Exception as error:  # noqa: BLE001 - a recording may be broken in any way; the run goes on without it
        reason = first_line(error).removeprefix(f"{root}/")
        known = reason.startswith(utterance.signals)
        return {}, None, Failed(reason if known else f"{utterance.signals}: {reason}")
    for request, signals in found.items():
        if not signals.measured.any():
            return {}, digest, Absent(f"none of {named(request.channels)} was measured during the utterance")
    return found, digest, None


def digest_of(path: Path) -> str:
    """sha256 of a file; of a folder, that of its files' names and digests."""
    if path.is_file():
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        whole.update(f"{file.name}\0{digest_of(file)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=RECORDINGS_AT_HAND)
def _read(path: Path, digest: str) -> Recording:
    """The recording whose content has this digest."""
    from extract import recordings

    return recordings.read(path)
