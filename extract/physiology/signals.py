"""The physiological signals of one utterance, out of its recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from cache_schema.errors import DataError, SettingsError, first_line
from cache_schema.rows import Absent, Failed
from cache_schema.samples import Utterance
from extract.dataset import LONGEST_SECONDS
from extract.decoding.streams import is_short
from extract.physiology import Moments, Recording, SignalRequest, Signals, named, on_clock
from extract.physiology.digests import digest_in, state_of
from extract.physiology.subjects import subject_moments

LONGEST_REASON = 300
"""Characters of a reason that are shown."""
RECORDINGS_AT_HAND = 1
"""Whole recordings that a process keeps: a subject's utterances follow one another. DEAP's take 100 MB each."""


def decode_signals(
    root: Path, utterance: Utterance, requests: Sequence[SignalRequest], subject: Sequence[str] = ()
) -> tuple[dict[SignalRequest, Signals], str | None, Absent | Failed | None]:
    """The utterance's channels on each clock that is asked for, from `start` to `end` on its recording's own.

    Args:
        root: the data root.
        utterance: which one.
        requests: what is asked for.
        subject: all recordings of its subject, where there are several, for requests that are normalised by these.

    Returns:
        The signals by request; the digest of the recording, or of all the subject's, where it could be read; and why
        there are none: `Absent` where nothing was measured, `Failed` where the recording is not what it must be, or
        ends before the utterance does by more than is tolerated of sound and pictures too. Never raises for what it
        finds in a file.

    Raises:
        MemoryError: the recording takes more memory than there is.
        SettingsError: what reads it is not installed.
    """
    if utterance.signals is None:
        return {}, None, Absent("the sample has no physiological recording")
    try:
        path = root / utterance.signals
        digest = digest_in(path, state_of(path))
        recording = _read(path, digest)
        if isinstance(recording, str):
            raise DataError(recording)
        moments: Mapping[str, Moments] = {}
        if subject:
            digest, moments = subject_moments(root, subject)
        start = utterance.start or 0.0
        end = recording.seconds if utterance.end is None else utterance.end
        if (reason := _why_not(recording, start, end)) is not None:
            return {}, digest, Failed(f"{utterance.signals}: {reason}")
        found = {
            request: on_clock(recording, request, start, end, moments if request.normalize == "subject" else {})
            for request in requests
        }
    except MemoryError:
        raise  # this process may not survive the next clip
    except ImportError as error:  # no fault of the recording: scipy is missing, or there is no memory to load it
        if "failed to map segment" in str(error):
            raise MemoryError(str(error)) from error
        raise SettingsError(f"Recordings cannot be read ({first_line(error)}); `mer doctor` tells more.") from error
    except Exception as error:  # noqa: BLE001 - a recording may be broken in any way; the run goes on without it
        reason = first_line(error).removeprefix(f"{root}/").removeprefix(utterance.signals).lstrip("/:, ")
        return {}, None, Failed(f"{utterance.signals}: {_shown(reason)}")
    for request, signals in found.items():
        if not signals.measured.any():
            return {}, digest, Absent(f"none of {named(request.channels)} was measured during the utterance")
    return found, digest, None


def _why_not(recording: Recording, start: float, end: float) -> str | None:
    """Why nothing from `start` to `end` can be had of the recording; None where it can."""
    if start >= recording.seconds or is_short(recording.seconds, end):
        when = f"begins ({start:.2f} s)" if start >= recording.seconds else f"does ({end:.2f} s)"
        return f"the recording ends at {recording.seconds:.2f} s, before the utterance {when}"
    if end - start > LONGEST_SECONDS:
        return f"from second {start:g} to {end:g}, longer than any recording: give start and end, or other times"
    return None


def _shown(reason: str) -> str:
    """A reason that may quote what stands in a file, for people: not all of it, and no control characters."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in reason[:LONGEST_REASON])
    return shown + ("..." if len(reason) > LONGEST_REASON else "")


@lru_cache(maxsize=RECORDINGS_AT_HAND)
def _read(path: Path, digest: str) -> Recording | str:
    """The recording whose content has this digest, or what is wrong with it, which is found out once too."""
    from extract.physiology import recordings

    try:
        return recordings.read(path)
    except DataError as error:
        return str(error)
