"""A subject's recordings, and what is measured in all of them: what z-scores per subject are made of.

Who is measured in a recording is the speaker of its utterances. The moments of a channel are those of all recordings
that the dataset names for the speaker; a recording that cannot be read has none, and its own utterances are recorded
failures. (One that takes more time or memory than decoding may ends the process that reads it: all of its subject's
utterances are recorded failures then, rather than normalised now with it and now without.) A speaker of one recording,
and a recording whose utterances name no speaker, need nothing of this: there the recording's own moments are the
subject's.

What is recorded as an utterance's input is the digest of all its subject's recordings. So a recording that is added,
mended, replaced or found to be another subject's changes it. A run that extracts anything of a subject, or learns
that a recording is not the subject's, extracts that subject's other utterances again where their inputs are not those
of today: all of them are normalised alike, but for those whose own recording is lost, which keep what they have. (Two
runs at once that add recordings of one subject: the next such run puts it right.)

Moments are computed by each process that decodes, once for each recording: a recording is read twice there. They are
the same bits in whichever process, since recordings are taken in the order of their paths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from cache_schema.parts import Samples
from cache_schema.samples import Utterance
from extract.physiology import Moments, pooled
from extract.physiology.digests import State, digest_in, digest_of, digest_of_all, state_of

SUBJECTS_AT_HAND = 8
"""Subjects whose moments a process keeps together."""


def recordings_by_subject(samples: Samples) -> dict[str, tuple[str, ...]]:
    """Speaker -> the recordings of its samples, in the order of their paths."""
    found: dict[str, set[str]] = defaultdict(set)
    for speaker, recording in zip(samples.column("speaker"), samples.column("signals"), strict=True):
        if speaker is not None and recording is not None:
            found[speaker].add(recording)
    return {speaker: tuple(sorted(recordings)) for speaker, recordings in found.items()}


def without_subject(samples: Samples) -> list[str]:
    """The recordings that have samples which name no speaker, in the order of their paths."""
    pairs = zip(samples.column("speaker"), samples.column("signals"), strict=True)
    return sorted({recording for speaker, recording in pairs if speaker is None and recording is not None})


def bereft(before: Samples, utterances: Sequence[Utterance]) -> set[str | None]:
    """Speakers whose recordings are other speakers' now, or other recordings.

    Args:
        before: the dataset's samples as they are in the store.
        utterances: as the corpus has them now.
    """
    found: set[str | None] = set()
    for now in utterances:
        if now.signals is not None and now.id in before:
            was = before[now.id]
            if (was.speaker, was.signals) != (now.speaker, now.signals):
                found.add(was.speaker)
    return found - {None}


def subject_moments(root: Path, recordings: Sequence[str]) -> tuple[str, Mapping[str, Moments]]:
    """The digest of a subject's recordings, and each channel's moments over all of them.

    Raises:
        MemoryError: a recording takes more memory than there is.
    """
    paths = tuple(root / recording for recording in recordings)
    return _of_all(paths, tuple(_state(path) for path in paths))


@lru_cache(maxsize=SUBJECTS_AT_HAND)
def _of_all(paths: tuple[Path, ...], states: tuple[State | None, ...]) -> tuple[str, dict[str, Moments]]:
    """`subject_moments` of recordings in these states."""
    digests: list[str | None] = []
    parts: dict[str, list[Moments]] = defaultdict(list)
    for path, state in zip(paths, states, strict=True):
        digest, own = (None, {}) if state is None else _of_one(path, state)
        digests.append(digest)
        for channel, moments in own.items():
            parts[channel].append(moments)
    return digest_of_all(digests), {channel: pooled(own) for channel, own in parts.items()}


@lru_cache(maxsize=65536)
def _of_one(path: Path, state: State) -> tuple[str | None, dict[str, Moments]]:
    """The digest of a recording in this state, and its channels' moments; neither where it cannot be read."""
    from extract.physiology import recordings

    digest = None
    try:
        digest = digest_in(path, state)
        return digest, {name: channel.moments for name, channel in recordings.read(path).channels.items()}
    except (MemoryError, ImportError):
        raise
    except Exception:  # noqa: BLE001 - it may be broken in any way, which its own utterances tell
        return digest, {}


def _state(path: Path) -> State | None:
    try:
        return state_of(path)
    except (OSError, ValueError):
        return None


def outdated(samples: Samples, inputs: Mapping[str, str], subjects: Collection[str | None], root: Path) -> list[str]:
    """Samples of these subjects whose features were normalised by other recordings than they have today.

    Args:
        samples: the dataset's.
        inputs: what is recorded as each sample's input.
        subjects: speakers; their recordings are read, where anything was extracted of them.
        root: the data root.

    Returns:
        Their ids, in the dataset's order; but not of those whose own recording cannot be read now, which keep what
        they have.
    """
    recordings = recordings_by_subject(samples)
    digests: dict[str, str | None] = {}
    found = []
    for id_, speaker, own in zip(samples.ids, samples.column("speaker"), samples.column("signals"), strict=True):
        if id_ not in inputs or speaker not in subjects or speaker not in recordings or own is None:
            continue
        for recording in recordings[speaker]:
            if recording not in digests:
                digests[recording] = _digest(root / recording)
        if digests[own] is not None and inputs[id_] != input_of([digests[r] for r in recordings[speaker]]):
            found.append(id_)
    return found


def input_of(digests: Sequence[str | None]) -> str | None:
    """What is recorded as the input of utterances that are normalised by recordings of these digests."""
    return digest_of_all(digests) if len(digests) > 1 else digests[0]


def _digest(path: Path) -> str | None:
    try:
        return digest_of(path)
    except Exception:  # noqa: BLE001 - as above
        return None
