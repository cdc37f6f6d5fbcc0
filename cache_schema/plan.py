"""How a part's rows are cut into segments: a pure function of (part, spec), so that writers agree without talking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.samples import Utterance
from cache_schema.settings import Spec
from cache_schema.table import UtteranceTable


@dataclass(frozen=True, order=True)
class Segment:
    """Rows [start, stop) of a part: what is extracted, committed and recomputed as one.

    Attributes:
        part: the part's name, as "part-00000-0123456789abcdef".
        start: first row.
        stop: one past the last row.
    """

    part: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Its name in the store, as "00000-0123456789abcdef-0000000"."""
        return f"{self.part.removeprefix('part-')}-{self.start:07d}"

    def __len__(self) -> int:
        return self.stop - self.start


class SegmentPlan(Spec):
    """The rule by which segments are sized; stored with the feature, and the stored one is used."""

    target_bytes: int = Field(default=24_000_000, ge=1)
    """A segment's values and siblings take at most about this many bytes."""
    max_rows: int = Field(default=256, ge=1)
    """A segment has at most this many rows, so that a kill loses little work."""
    unknown_seconds: float = Field(default=5.0, gt=0)
    """Duration assumed of an utterance that has none."""

    def rows_per_segment(self, utterances: Sequence[Utterance], spec: FeatureSpec) -> int:
        """The largest power of two, at most `max_rows`, whose mean nominal size is within `target_bytes`; at least 1.

        Powers of two nest: every boundary of a feature with long segments is one of a feature with short ones.
        """
        frames = self._nominal_frames_of(utterances, spec)
        nominal_bytes = frames * sum(frame_bytes(array) for array in spec.arrays)
        rows = 1
        while rows * 2 <= self.max_rows and nominal_bytes * rows * 2 <= self.target_bytes * len(utterances):
            rows *= 2
        return rows

    def segments(self, part: str, utterances: Sequence[Utterance], spec: FeatureSpec) -> list[Segment]:
        """The segments of the part called `part`, in row order."""
        rows = self.rows_per_segment(utterances, spec)
        count = len(utterances)
        return [Segment(part, start, min(start + rows, count)) for start in range(0, count, rows)]

    def _nominal_frames_of(self, utterances: Sequence[Utterance], spec: FeatureSpec) -> int:
        """Exact, as a writer in another language counts: float sums only while they stay whole numbers."""
        if isinstance(utterances, UtteranceTable):
            seconds = np.where(np.isnan(utterances.durations), self.unknown_seconds, utterances.durations)
            with np.errstate(over="ignore"):
                frames = np.maximum(1.0, np.ceil(seconds * spec.nominal_rate_hz))
                total = float(frames.sum())
            if total < 2**53:
                return int(total)
        return sum(self._nominal_frames(u, spec) for u in utterances)

    def _nominal_frames(self, utterance: Utterance, spec: FeatureSpec) -> int:
        seconds = self.unknown_seconds if utterance.duration is None else utterance.duration
        return max(1, math.ceil(seconds * spec.nominal_rate_hz))


def frame_bytes(array: ArraySpec) -> int:
    """Bytes of one frame of an array."""
    return math.prod(array.tail) * np.dtype(array.dtype).itemsize
