"""Where to cut a long clip: at the pauses of speech, by the loudness of its sound.

A frame of 20 ms is speech where its level is above a lower threshold, in a stretch that passes an upper one somewhere
(hysteresis). Both lie between the sound's own floor and its loud frames, so that a quiet recording is cut as a loud one
is. Stretches that are still too long are cut where they are quietest, as WhisperX does (Bain et al., Interspeech 2023,
arXiv:2303.00747, section 3.2, which has a trained detector instead).

Axes: S samples, F frames of 20 ms.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cache_schema.settings import Spec

RATE_HZ = 16000
FRAMES_PER_SECOND = 50
_SAMPLES = RATE_HZ // FRAMES_PER_SECOND
SILENT_DB = -60.0
"""A sound whose loud frames are below this, in dB of full scale, has no speech."""
EVEN_DB = 8.0
"""A sound that varies less than this has no pauses that loudness could tell."""
RANGE_DB = 40.0
"""The floor is taken to be at most so far below the loud frames: digital silence says nothing about pauses."""
UPPER, LOWER = 0.45, 0.3
"""The two thresholds, as shares of the way from the floor to the loud frames."""
CLICK, MARGIN = 0.1, 0.2
"""Seconds: what is shorter is no speech; what is kept of the pause on each side."""

Stretch = tuple[float, float]
"""Begin and end, in seconds from the clip's begin."""


class Cutting(Spec):
    """How a clip without a timed transcript is cut into windows."""

    longest: float = Field(default=15.0, gt=0)
    """Seconds; a clip that is no longer is one window, and no window is longer."""
    shortest: float = Field(default=1.0, ge=0)
    """Seconds; a shorter window is joined to the nearer neighbour, where both together are not too long."""
    pause: float = Field(default=0.5, ge=0)
    """Seconds; speech is cut at every pause that is as long."""

    @model_validator(mode="after")
    def _there_is_room(self) -> Self:
        if 2 * self.shortest > self.longest:
            raise ValueError(f"{self.shortest:g} s is more than half of longest, {self.longest:g} s")
        return self


def windows_of_speech(level: NDArray[np.float64], cutting: Cutting) -> list[Stretch]:
    """Windows of speech, in order; none where there is no speech.

    Args:
        level: of each frame of the sound, in dB of full scale (F,).
        cutting: the bounds.
    """
    stretches = _joined(speech(level), round(cutting.pause * FRAMES_PER_SECOND))
    wide = _widened(stretches, round(MARGIN * FRAMES_PER_SECOND), len(level))
    most, least = (round(seconds * FRAMES_PER_SECOND) for seconds in (cutting.longest, cutting.shortest))
    pieces = [piece for stretch in wide for piece in _cut(stretch, level, max(most, 1), least)]
    return [(a / FRAMES_PER_SECOND, b / FRAMES_PER_SECOND) for a, b in _not_too_short(pieces, max(most, 1), least)]


def even_windows(seconds: float, longest: float) -> list[Stretch]:
    """As few windows of one length as are not too long: what is left where no sound tells more."""
    count = max(1, int(np.ceil(seconds / longest - 1e-9)))
    edges = np.linspace(0, seconds, count + 1).tolist()
    return list(pairwise(edges))


def levels(sound: NDArray[np.float32]) -> NDArray[np.float64]:
    """The level of each frame of mono sound at 16 kHz, in dB of full scale: of (S,) samples (F,), F = S // 320."""
    frames = sound[: len(sound) // _SAMPLES * _SAMPLES].reshape(-1, _SAMPLES)
    power: NDArray[np.float64] = np.mean(np.square(frames, dtype=np.float64), axis=1)
    return 10 * np.log10(power + 1e-10)


def speech(level: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Stretches of frames [begin, end) that are speech by their level."""
    if not len(level):
        return []
    loud = float(np.percentile(level, 95))
    if loud < SILENT_DB:
        return []
    floor = max(float(np.percentile(level, 10)), loud - RANGE_DB)
    if loud - floor < EVEN_DB:
        return [(0, len(level))]
    above = level > floor + LOWER * (loud - floor)
    certain = level > floor + UPPER * (loud - floor)
    steps = np.flatnonzero(np.diff(np.pad(above.astype(np.int8), 1))).reshape(-1, 2)
    return [(a, b) for a, b in steps.tolist() if certain[a:b].any() and b - a >= CLICK * FRAMES_PER_SECOND]


def _joined(stretches: list[tuple[int, int]], pause: int) -> list[tuple[int, int]]:
    """Without the pauses that are shorter than `pause`."""
    found: list[tuple[int, int]] = []
    for begin, end in stretches:
        if found and begin - found[-1][1] < pause:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def _widened(stretches: list[tuple[int, int]], margin: int, frames: int) -> list[tuple[int, int]]:
    """With some of the pause on each side, at most half of it."""
    edges = [0, *((a[1] + b[0]) // 2 for a, b in pairwise(stretches)), frames]
    return [
        (max(begin - margin, low), min(end + margin, high))
        for (begin, end), low, high in zip(stretches, edges, edges[1:], strict=False)
    ]


def _cut(stretch: tuple[int, int], level: NDArray[np.float64], most: int, least: int) -> list[tuple[int, int]]:
    """Pieces of at most `most` frames, cut where it is quietest over a fifth of a second."""
    begin, end = stretch
    around = np.convolve(level, np.full(11, 1 / 11), mode="same")
    pieces = []
    while end - begin > most:
        low, high = begin + max(most // 2, 1), max(min(begin + most, end - least), begin + max(most // 2, 1)) + 1
        cut = low + int(np.argmin(around[low:high]))
        pieces.append((begin, cut))
        begin = cut
    return [*pieces, (begin, end)]


def _not_too_short(pieces: list[tuple[int, int]], most: int, least: int) -> list[tuple[int, int]]:
    """Pieces below `least` frames joined to the nearer neighbour, where both together have at most `most`."""
    found = list(pieces)
    place = 0
    while place < len(found):
        begin, end = found[place]
        beside = [n for n in (place - 1, place + 1) if 0 <= n < len(found)]
        fitting = [n for n in beside if max(found[n][1], end) - min(found[n][0], begin) <= most]
        if end - begin >= least or not fitting:
            place += 1
            continue
        nearest = min(fitting, key=lambda n: max(found[n][0] - end, begin - found[n][1]))
        first = min(place, nearest)
        found[first : first + 2] = [(found[first][0], found[first + 1][1])]
        place = first
    return found
