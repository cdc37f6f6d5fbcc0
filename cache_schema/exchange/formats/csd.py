"""CMU-MultimodalSDK's computational sequences (`.csd`): HDF5 with features and time intervals per video or segment.

Layout as the SDK's `file_ops.py` writes it (https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK). Two kinds are
read. Segmented ones, as `align` leaves them, have entries `video[3]`: these are the samples. Whole ones have entries
`video`; with a sequence of labels, each of its intervals is a sample, and its frames are those that overlap it by more
than 10 microseconds, one that reaches into two segments being in both: the rule of the SDK's `align`. A sequence of
words gives the transcripts, pauses (`sp`) left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache_schema.errors import DataError, SettingsError, first_line
from cache_schema.exchange.foreign import (
    Description,
    Foreign,
    ForeignArray,
    ForeignFeature,
    feature_name,
    modality_of,
    sha256_of,
)
from cache_schema.exchange.hdf5_files import hdf5_explained, member, numbers, opened, texts
from cache_schema.registry import unknown_name
from cache_schema.rows import Absent, Row
from cache_schema.samples import Target, Utterance

SUMMARY = "computational sequences of CMU-MultimodalSDK, with the labels' intervals as samples (import)"
LAYOUT = """\
FILE.csd ... or a folder of them    HDF5: /NAME/data/ENTRY/features (frames, width), intervals (frames, 2) in seconds,
                                    /NAME/metadata; an entry is a video, or a segment video[3]
Say which sequence holds the labels (--set labels=NAME), and of which modality the others are (--set modalities=...)."""

OVERLAP_S = 1e-5
"""Seconds by which a frame must overlap a segment to be in it; the SDK's epsilon."""
_SEGMENT = re.compile(r"(.+)\[([0-9]{1,9})\]")


class ImportConfig(Description):
    """What the sequences are."""

    labels: str | None = None
    """The name of the sequence of labels; None: the segments of the features are the samples, without labels."""
    label_names: tuple[str, ...] = ()
    """What the columns of the labels are; empty: what the sequence's metadata say."""
    modalities: dict[str, str] = Field(default_factory=dict)
    """The modality of each sequence, by its name, where that does not tell it (text, audio, vision, ...)."""
    names: dict[str, str] = Field(default_factory=dict)
    """What the features are called in the store, by the sequence's name."""


@dataclass(frozen=True)
class _Segment:
    """A sample.

    Attributes:
        video: the entry of whole sequences that it lies in.
        start: seconds.
        end: seconds.
    """

    video: str
    start: float | None = None
    end: float | None = None


@dataclass
class _Sequence:
    """A computational sequence in an open file.

    Attributes:
        name: the root group's.
        path: of the file.
        data: the group of the entries.
        root: the root group.
        entries: their names.
    """

    name: str
    path: Path
    data: Any
    root: Any
    entries: list[str] = field(default_factory=list)

    @property
    def segmented(self) -> bool:
        """Whether the entries are segments of videos."""
        return all(_SEGMENT.fullmatch(entry) for entry in self.entries)

    def intervals(self, entry: str) -> NDArray[np.float64]:
        """Begin and end of each frame of an entry in seconds, (frames, 2)."""
        where = f"{self.path}, {entry}"
        found = numbers(member(self.data, entry, "group", where), "intervals", where)
        with hdf5_explained(where):
            values: NDArray[np.float64] = found[...].astype(np.float64)
        if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
            raise DataError(f"{where}: the intervals are not (frames, 2) in seconds.")
        return values

    def features(self, entry: str) -> NDArray[Any]:
        """The frames of an entry, (frames, ...); words are bytes."""
        where = f"{self.path}, {entry}"
        found = member(member(self.data, entry, "group", where), "features", "dataset", where)
        with hdf5_explained(where):
            values: NDArray[Any] = found.asstr()[...] if found.dtype.kind == "O" else found[...]
        if values.ndim < 1 or values.dtype.kind not in "biufSO":
            raise DataError(f"{where}: the features are of type {values.dtype}, neither numbers nor words.")
        return values if values.ndim > 1 else values[:, None]


@contextmanager
def read(sources: Sequence[Path], config: ImportConfig) -> Iterator[Foreign]:
    """The samples and features of computational sequences.

    Raises:
        DataError: a file is no computational sequence, or its entries do not fit the labels'.
        SettingsError: a sequence's modality is not said.
    """
    paths = [p for s in sources for p in (sorted(s.glob("*.csd")) if s.is_dir() else [s])]
    if not paths:
        raise DataError(f"{sources[0]} holds no .csd files.")
    with ExitStack() as stack:
        sequences: dict[str, _Sequence] = {}
        for path in paths:
            one = _sequence(stack.enter_context(opened(path)), path)
            if one.name in sequences:
                raise DataError(f"{path}: there is a sequence {one.name!r} in {sequences[one.name].path} already.")
            sequences[one.name] = one
        labels = None
        if config.labels is not None:
            if config.labels not in sequences:
                raise SettingsError(unknown_name("sequence", config.labels, list(sequences)))
            labels = sequences.pop(config.labels)
        spoken = {n: s for n, s in sequences.items() if s.features(s.entries[0]).dtype.kind in "SO"}
        given = {n: s for n, s in sequences.items() if n not in spoken}
        notes: list[str] = []
        segments, scores, names = _samples(labels, given, config, notes)
        words = {id_: _words(spoken, id_, one) for id_, one in segments.items()}
        utterances = [_utterance(id_, one, words[id_], scores.get(id_, {})) for id_, one in segments.items()]
        digests = {s.path.name: sha256_of(s.path) for s in (*given.values(), *([labels] if labels else []))}
        features = [_feature(s, segments, labels, config, digests) for s in given.values()]
        targets = tuple(Target(name=name, kind="regression") for name in names)
        yield Foreign(utterances, features, targets, notes=notes)


def _sequence(file: Any, path: Path) -> _Sequence:
    where = str(path)
    with hdf5_explained(where):
        roots = list(file)
    if len(roots) != 1:
        raise DataError(f"{where}: a computational sequence has one root, and this file has {len(roots)}.")
    root = member(file, roots[0], "group", where)
    data = member(root, "data", "group", where)
    with hdf5_explained(where):
        entries = list(data)
    if not entries:
        raise DataError(f"{where} has no entries.")
    return _Sequence(roots[0], path, data, root, entries)


def _samples(
    labels: _Sequence | None, given: Mapping[str, _Sequence], config: ImportConfig, notes: list[str]
) -> tuple[dict[str, _Segment], dict[str, dict[str, float]], tuple[str, ...]]:
    """The samples, their scores and what these are called."""
    segments: dict[str, _Segment] = {}
    scores: dict[str, dict[str, float]] = {}
    if labels is None:
        for entry in dict.fromkeys(e for s in given.values() for e in s.entries):
            match = _SEGMENT.fullmatch(entry)
            segments[entry] = _Segment(match[1] if match else entry)
        return dict(sorted(segments.items(), key=lambda kv: _in_order(kv[0]))), scores, ()
    names = config.label_names or _dimension_names(labels)
    short = 0
    for entry in labels.entries:
        intervals, values = labels.intervals(entry), labels.features(entry)
        if len(intervals) != len(values) or values.dtype.kind not in "biuf":
            raise DataError(f"{labels.path}, {entry}: {len(values)} labels for {len(intervals)} intervals.")
        values = values.reshape(len(values), -1)
        if len(names) != values.shape[1]:
            raise SettingsError(
                f"{labels.path}: {values.shape[1]} columns of labels, and {len(names)} names ({', '.join(names)}). "
                "Name them with --set 'label_names=[\"sentiment\"]'."
            )
        match = _SEGMENT.fullmatch(entry)
        if match is not None and len(values) != 1:
            raise DataError(f"{labels.path}, {entry}: a segment with {len(values)} labels.")
        for index, (start, end) in enumerate(intervals.tolist()):
            if match is None and end - start < OVERLAP_S:
                short += 1
                continue
            id_ = entry if match is not None else f"{entry}[{index}]"
            segments[id_] = _Segment(match[1] if match is not None else entry, start, end)
            row = values[index].astype(float).tolist()
            scores[id_] = {name: value for name, value in zip(names, row, strict=True) if np.isfinite(value)}
    if short:
        notes.append(f"{labels.name}: {short} intervals last no time and are no samples.")
    return dict(sorted(segments.items(), key=lambda kv: _in_order(kv[0]))), scores, tuple(names)


def _in_order(id_: str) -> tuple[str, int]:
    match = _SEGMENT.fullmatch(id_)
    return (match[1], int(match[2])) if match else (id_, -1)


def _dimension_names(labels: _Sequence) -> tuple[str, ...]:
    """What the metadata say that the columns are."""
    where = str(labels.path)
    metadata = member(labels.root, "metadata", "group", where)
    if "dimension names" not in metadata:
        return ()
    text = "".join(texts(metadata, "dimension names", where)[:1])
    try:
        names = json.loads(text)
        return tuple(str(name) for name in (names if isinstance(names, list) else [names]))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{where}: the dimension names cannot be read: {first_line(error)}.") from error


def _utterance(id_: str, segment: _Segment, text: str | None, scores: dict[str, float]) -> Utterance:
    match = _SEGMENT.fullmatch(id_)
    return Utterance(
        id=id_,
        start=segment.start,
        end=segment.end,
        duration=None if segment.start is None or segment.end is None else segment.end - segment.start,
        text=text,
        dialogue=segment.video if match else None,
        turn=int(match[2]) if match else None,
        scores=scores,
    )


def _words(spoken: Mapping[str, _Sequence], id_: str, segment: _Segment) -> str | None:
    for sequence in spoken.values():
        found = _frames(sequence, id_, segment)
        if found is not None:
            words = [
                w.decode("utf-8", "replace") if isinstance(w, bytes) else str(w) for w in found.reshape(-1).tolist()
            ]
            return " ".join(word for word in words if word and word != "sp") or None
    return None


def _frames(sequence: _Sequence, id_: str, segment: _Segment) -> NDArray[Any] | None:
    """What a sequence has of a sample; None: nothing."""
    if id_ in sequence.data:
        return sequence.features(id_)
    if sequence.segmented or segment.video not in sequence.data or segment.start is None or segment.end is None:
        return None
    intervals, values = sequence.intervals(segment.video), sequence.features(segment.video)
    if len(intervals) != len(values):
        raise DataError(f"{sequence.path}, {segment.video}: {len(values)} frames for {len(intervals)} intervals.")
    overlap = np.minimum(intervals[:, 1], segment.end) - np.maximum(intervals[:, 0], segment.start)
    found: NDArray[Any] = values[overlap > OVERLAP_S]
    return found if len(found) else None


def _feature(
    sequence: _Sequence,
    segments: Mapping[str, _Segment],
    labels: _Sequence | None,
    config: ImportConfig,
    digests: Mapping[str, str],
) -> ForeignFeature:
    if labels is not None and not sequence.segmented:
        sequence = _Cached(sequence)
    first = sequence.features(sequence.entries[0])

    def row(id_: str) -> Row:
        found = _frames(sequence, id_, segments[id_])
        return {"values": found} if found is not None else Absent(f"{sequence.name} has no frame of it")

    cut_by = [labels] if labels is not None and not sequence.segmented else []
    return ForeignFeature(
        name=feature_name(config.names.get(sequence.name, sequence.name)),
        modality=modality_of(sequence.name, config.modalities, str(sequence.path)),
        arrays={"values": ForeignArray(first.dtype, first.shape[1:])},
        ids=segments.keys(),
        row=row,
        files={s.path.name: digests[s.path.name] for s in (sequence, *cut_by)},
        settings={"sequence": sequence.name},
        aligned=sequence.segmented,
    )


class _Cached(_Sequence):
    """A whole sequence whose last entries stay in memory: a video has many segments."""

    def __init__(self, of: _Sequence) -> None:
        super().__init__(of.name, of.path, of.data, of.root, of.entries)
        self.intervals = lru_cache(maxsize=2)(of.intervals)  # type: ignore[method-assign]
        self.features = lru_cache(maxsize=2)(of.features)  # type: ignore[method-assign]
