"""From a corpus to committed segments: decode each clip once, encode by windows, write behind.

    decode threads -> window of clips -> every encoder that still wants them -> writer thread -> store

Three things overlap: while a window is encoded, the next one is decoded and finished segments are written.
Memory is bounded by the decode budget (two windows) and by one open segment per feature, not by the corpus.
What is already committed is never touched, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from cache_schema.feature_spec import FeatureSpec
from cache_schema.plan import Segment
from cache_schema.rows import Absent, Failed, Row
from cache_schema.samples import Utterance
from cache_schema.writer import FeatureWriter
from compute.device import resolve_device
from extract.decoding.quarantine import DEFAULT_LIMITS, DecodeLimits, decode
from extract.encoder import Clip, Encoder, EncoderConfig, Needs
from extract.physiology.subjects import recordings_by_subject
from extract.provenance import provenance
from extract.weights.checkpoints import Checkpoint

DECODE_BUDGET_BYTES = 192 << 20
"""Decoded sound and pictures in one window; two windows are held at a time."""

DECODE_THREADS = max(4, min(16, os.cpu_count() or 4))
"""Clips decoded at once, each in a process of its own; a GPU takes as many as a machine's cores can decode."""

LEAST_CLIP_BYTES = 256 << 10
"""What any clip counts for in a window, however short it says that it is."""

FACE_SIDE = 224
"""A face that is followed and not cut counts as a picture of this side: it takes time, so windows stay small."""

Progress = Callable[[int, int, int], None]
"""Called with (rows done, rows to do, rows failed), a row being one utterance of one feature."""


@dataclass
class Job:
    """One feature to be extracted: an encoder, its settings and where its rows go."""

    name: str
    module: ModuleType
    config: EncoderConfig
    checkpoint: Checkpoint | None
    spec: FeatureSpec
    needs: Needs
    writer: FeatureWriter
    encoded: int = 0
    """Utterances that the encoder really ran on."""
    written: int = 0
    """Utterances whose arrays this run committed."""
    committed_rows: int = 0
    """Utterances, failed and absent ones included, that this run committed."""
    _encoder: Encoder | None = None

    def source(self, clip: Clip) -> str | None:
        """Digest of the file that the feature was read from; a transcript stands in the samples."""
        digests = {"audio": clip.sound_sha256, "video": clip.media_sha256, "face": clip.media_sha256}
        digests["signals"] = clip.signals_sha256
        return next((digests[stream] for stream in self.needs.streams if stream in digests), None)

    @cached_property
    def _subjects(self) -> dict[str, tuple[str, ...]]:
        """Speaker -> recordings, where signals are normalised by those of their subject."""
        asked = self.needs.signals
        return {} if asked is None or asked.normalize != "subject" else recordings_by_subject(self.writer.samples)

    def needs_of(self, utterance: Utterance) -> Needs:
        """What is to be decoded of one utterance."""
        recordings = self._subjects.get(utterance.speaker or "", ())
        return replace(self.needs, subject=recordings) if len(recordings) > 1 else self.needs

    def encoder(self, device: str) -> Encoder:
        """The loaded encoder; weights are read at the first call."""
        if self._encoder is None:
            self._encoder = self.module.Encoder(self.config, self.checkpoint, device)
        return self._encoder

    def take_encoder(self, others: Sequence[Job]) -> None:
        """Go on with the loaded encoder of another job, where one has the same settings and weights."""
        mine = self.spec.fingerprint()
        self._encoder = next((j._encoder for j in others if j.spec.fingerprint() == mine), self._encoder)


@dataclass(frozen=True)
class Wanted:
    """One utterance with the open segments that want it."""

    utterance: Utterance
    stretch: int
    """Number of the stretch that it belongs to (`wanted_rows`)."""
    takers: tuple[tuple[Job, _OpenSegment, int], ...]
    """(job, segment, row in the segment)."""

    @property
    def needs(self) -> list[Needs]:
        return [job.needs_of(self.utterance) for job, _, _ in self.takers]


@dataclass
class _OpenSegment:
    """A segment being filled."""

    segment: Segment
    rows: list[Row | None]
    inputs: list[str | None]
    current: list[bool]
    """Whether a row is read at all; one that a later part replaces is not, and is not extracted."""
    filled: int = 0

    @classmethod
    def of(cls, writer: FeatureWriter, segment: Segment) -> _OpenSegment:
        current = writer.current(segment)
        opened = cls(segment, [None] * len(current), [None] * len(current), current)
        for index in (i for i, is_current in enumerate(current) if not is_current):
            opened.put(index, Absent("a later part of the samples replaces this row"), None)
        return opened

    def put(self, index: int, row: Row, media_sha256: str | None) -> None:
        self.rows[index] = row
        self.inputs[index] = media_sha256
        self.filled += 1

    @property
    def complete(self) -> bool:
        return self.filled == len(self.rows)


@dataclass
class Timing:
    """Where the time of a run went, in seconds of the main thread."""

    decode_wait: float = 0.0
    encode: float = 0.0
    write_wait: float = 0.0
    per_encoder: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def run(
    jobs: Sequence[Job],
    root: Path,
    device: str,
    only: set[str] | None = None,
    progress: Progress = lambda done, total, failed: None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> Timing:
    """Extract every segment that is planned and not committed.

    Args:
        jobs: the features; those with nothing to do load no weights.
        root: the data root that the utterances' paths start from.
        device: torch device of the encoders; `auto`: a GPU where there is one.
        only: extract only segments that hold one of these utterance ids; None: all.
        progress: called after every window.
        limits: what decoding one clip may take.

    Returns:
        Where the time went.
    """
    return fill(unfinished(jobs, only), root, device, progress, limits)


def unfinished(jobs: Sequence[Job], only: set[str] | None = None) -> list[tuple[Job, Segment]]:
    """The segments that are planned and not committed; with `only`, those that hold one of these utterance ids."""
    return [(job, segment) for job in jobs for segment in job.writer.todo() if _touches(job, segment, only)]


def fill(
    todo: Sequence[tuple[Job, Segment]],
    root: Path,
    device: str,
    progress: Progress = lambda done, total, failed: None,
    limits: DecodeLimits = DEFAULT_LIMITS,
    decode_threads: int = DECODE_THREADS,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> Timing:
    """Extract these segments; what somebody else has committed by the time of their turn is passed over.

    Args:
        todo: the segments, in any order: they are shuffled in stretches.
        root, device, progress, limits: as `run` has them.
        decode_threads: clips decoded at once.
        facts: what is recorded with each segment, beside what `provenance` says.
    """
    jobs = list({id(job): job for job, _ in todo}.values())
    total = sum(sum(job.writer.current(segment)) for job, segment in todo)
    timing, done, failed = Timing(), 0, 0
    progress(done, total, failed)
    if not todo:
        return timing
    device = resolve_device(device)
    with SegmentWriter(device, facts) as sink, _decode_pool(decode_threads) as pool:
        for window in _decoded_windows(wanted_rows(todo), root, pool, timing, limits):
            for job in jobs:
                rows, bad = _encode(job, window, device, timing)
                done, failed = done + rows, failed + bad
            progress(done, total, failed)
            started = time.perf_counter()
            for job, open_segment in _completed(window):
                sink.put(job, open_segment)
            timing.write_wait += time.perf_counter() - started
    return timing


@contextmanager
def _decode_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that decode; a run that is stopped does not wait for clips that nobody will read."""
    pool = ThreadPoolExecutor(threads, "decode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _touches(job: Job, segment: Segment, only: set[str] | None) -> bool:
    return only is None or any(u.id in only for u in job.writer.utterances(segment))


def wanted_rows(todo: Sequence[tuple[Job, Segment]]) -> Iterator[Wanted]:
    """Each utterance once, with all the segments that want it.

    Segments that overlap form a stretch. The stretches are shuffled, so that machines working on one corpus
    start in different places, and a stretch that somebody else has committed by then is passed over.
    """
    stretches = stretches_of(todo)
    random.shuffle(stretches)
    for number, stretch in enumerate(stretches):
        takers: dict[int, list[tuple[Job, _OpenSegment, int]]] = defaultdict(list)
        utterances: dict[int, Utterance] = {}
        for job, segment in stretch:
            if job.writer.is_committed(segment):
                continue
            open_segment = _OpenSegment.of(job.writer, segment)
            for index, utterance in enumerate(job.writer.utterances(segment)):
                if not open_segment.current[index]:
                    continue
                utterances[segment.start + index] = utterance
                takers[segment.start + index].append((job, open_segment, index))
        for row in sorted(takers):
            yield Wanted(utterances[row], number, tuple(takers[row]))


def stretches_of(todo: Sequence[tuple[Job, Segment]]) -> list[list[tuple[Job, Segment]]]:
    """The segments grouped so that no two groups share a row."""
    groups: list[list[tuple[Job, Segment]]] = []
    part, stop = "", 0
    for job, segment in sorted(todo, key=lambda pair: (pair[1].part, pair[1].start)):
        if not groups or segment.part != part or segment.start >= stop:
            groups.append([])
            part, stop = segment.part, segment.stop
        groups[-1].append((job, segment))
        stop = max(stop, segment.stop)
    return groups


Window = list[tuple[Wanted, Clip]]


_Submitted = list[tuple[Wanted, "Future[Clip | None]"]]


def _decoded_windows(
    wanted: Iterable[Wanted], root: Path, pool: ThreadPoolExecutor, timing: Timing, limits: DecodeLimits
) -> Iterator[Window]:
    """Windows of decoded clips, the next one being decoded while the caller works on the last."""
    ahead: _Submitted | None = None
    for group in _by_budget(wanted):
        submitted: _Submitted = [(w, pool.submit(_decode_expected, root, w, limits)) for w in group]
        if ahead is not None:
            yield from _windows(ahead, root, timing, limits)
        ahead = submitted
    if ahead is not None:
        yield from _windows(ahead, root, timing, limits)


def _decode_expected(root: Path, wanted: Wanted, limits: DecodeLimits) -> Clip | None:
    """A clip; None where it holds far more than its nominal duration says, which its window has no room for."""
    clip = decode(root, wanted.utterance, wanted.needs, limits)
    held = sum(array.nbytes for arrays in (clip.audio, clip.frames) for array in arrays.values())
    held += sum(signals.values.nbytes + signals.measured.nbytes for signals in clip.signals.values())
    return clip if held <= 4 * _nominal_bytes(wanted) else None


def _windows(submitted: _Submitted, root: Path, timing: Timing, limits: DecodeLimits) -> Iterator[Window]:
    """The window, and each clip that it has no room for alone, decoded again."""
    decoded = _collect(submitted, timing)
    larger = [wanted for wanted, clip in decoded if clip is None]
    yield [(wanted, clip) for wanted, clip in decoded if clip is not None]
    del decoded, submitted[:]
    for wanted in larger:
        started = time.perf_counter()
        clip = decode(root, wanted.utterance, wanted.needs, limits)
        timing.decode_wait += time.perf_counter() - started
        yield [(wanted, clip)]


def _collect(submitted: _Submitted, timing: Timing) -> list[tuple[Wanted, Clip | None]]:
    started = time.perf_counter()
    window = [(wanted, future.result()) for wanted, future in submitted]
    timing.decode_wait += time.perf_counter() - started
    return window


def _by_budget(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Rows that are decoded together, of one stretch each: what is in a batch does not depend on the shuffle."""
    group: list[Wanted] = []
    size = 0
    for row in wanted:
        cost = _nominal_bytes(row)
        if group and (size + cost > DECODE_BUDGET_BYTES or row.stretch != group[-1].stretch):
            yield group
            group, size = [], 0
        group.append(row)
        size += cost
    if group:
        yield group


def _nominal_bytes(wanted: Wanted) -> int:
    """What decoding the utterance will take, by its nominal duration."""
    duration = wanted.utterance.duration or 5.0
    rates = {n.audio_hz for n in wanted.needs if n.audio_hz is not None}
    pictures = {n.frames for n in wanted.needs if n.frames is not None}
    signals = {n.signals for n in wanted.needs if n.signals is not None}
    per_second = (
        5 * sum(s.clock_hz * len(s.channels) for s in signals)
        + 4 * sum(rates)
        + sum(p.fps * 3 * (p.size or FACE_SIDE) ** 2 for p in pictures)
    )
    return max(4096 if per_second == 0 else LEAST_CLIP_BYTES, int(duration * per_second))


def _encode(job: Job, window: Window, device: str, timing: Timing) -> tuple[int, int]:
    """Fill the job's rows of this window; returns (rows, failed rows)."""
    readable: list[tuple[Clip, _OpenSegment, int]] = []
    rows = failed = 0
    for wanted, clip in window:
        for taker, open_segment, index in wanted.takers:
            if taker is not job:
                continue
            rows += 1
            unreadable = clip.lacks(job.needs)
            if unreadable is None:
                readable.append((clip, open_segment, index))
            else:
                failed += isinstance(unreadable, Failed)
                open_segment.put(index, unreadable, job.source(clip))
    if not readable:
        return rows, failed
    started = time.perf_counter()
    outcomes = job.encoder(device).encode([clip for clip, _, _ in readable])
    for (clip, open_segment, index), outcome in zip(readable, outcomes, strict=True):
        failed += isinstance(outcome, Failed)
        open_segment.put(index, outcome, job.source(clip))
    job.encoded += len(readable)
    elapsed = time.perf_counter() - started
    timing.encode += elapsed
    timing.per_encoder[job.name] += elapsed
    return rows, failed


def _completed(window: Window) -> list[tuple[Job, _OpenSegment]]:
    """The segments whose last row was in this window."""
    found = {id(o): (job, o) for wanted, _ in window for job, o, _ in wanted.takers if o.complete}
    return list(found.values())


class SegmentWriter:
    """Commits finished segments on a thread of its own; an error there ends the run."""

    def __init__(self, device: str, facts: Mapping[str, Any]) -> None:
        self._device = device
        self._facts = dict(facts)
        self._pool = ThreadPoolExecutor(1, "write")
        self._slots = threading.Semaphore(2)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """Wait for what was handed over: a finished segment is committed even when the run is interrupted."""
        self._pool.shutdown(wait=True)
        if kind is None:
            self._raise_errors()

    def put(self, job: Job, open_segment: _OpenSegment) -> None:
        """Hand a finished segment over; waits while two are being written."""
        self._slots.acquire()
        self._raise_errors()
        self._pending.append(self._pool.submit(self._commit, job, open_segment))

    def _commit(self, job: Job, open_segment: _OpenSegment) -> None:
        try:
            rows = [row for row in open_segment.rows if row is not None]
            facts = provenance(self._device) | self._facts
            if job.writer.commit(open_segment.segment, rows, open_segment.inputs, facts):
                job.committed_rows += sum(open_segment.current)
                job.written += sum(not isinstance(row, (Failed, Absent)) for row in rows)
        finally:
            self._slots.release()

    def _raise_errors(self) -> None:
        for future in [f for f in self._pending if f.done()]:
            self._pending.remove(future)
            future.result()
