"""Physiological signals: channels with rates of their own, brought to one clock and normalised per subject.

Gaps are told apart from measurements: a tick of the clock counts as measured where it lies between two samples that are
no further apart than `gap` sampling intervals, or within half an interval of a sample. What is not measured is zero and
masked, never filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from cache_schema.errors import DataError
from extract.dataset import LONGEST_SECONDS

SETTLE_SECONDS = 4.0
"""What is read before and after an utterance, so that the filter that precedes a lower rate has settled."""

FASTEST_HZ = 1e6
"""No device measures a body more often."""

LARGEST = 1e30
"""No unit makes a measured number larger; its square is still a number."""

Normalize = Literal["subject", "recording", "none"]
"""Whose mean and standard deviation make the z-scores of a channel."""


@dataclass(frozen=True)
class Moments:
    """A channel's level and scale over all that was measured.

    Attributes:
        mean: of the samples.
        sd: their standard deviation; 0 for a channel that never moves.
        seconds: how long it was measured: samples times their spacing.
    """

    mean: float
    sd: float
    seconds: float


@dataclass(frozen=True)
class Channel:
    """One channel of a recording.

    Attributes:
        times: of the samples, in seconds on the recording's clock, increasing (samples,).
        values: what was measured (samples,), all finite.
    """

    times: NDArray[np.float64]
    values: NDArray[np.float64]

    @cached_property
    def spacing(self) -> float:
        """Seconds from one sample to the next: their median."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1.0

    @cached_property
    def moments(self) -> Moments:
        """Over the whole recording."""
        return Moments(float(self.values.mean()), float(self.values.std()), len(self.values) * self.spacing)


@dataclass(frozen=True)
class Recording:
    """A session of one subject.

    Attributes:
        channels: name -> what was measured; a channel without any sample is left out.
        seconds: how long it lasts.
    """

    channels: dict[str, Channel]
    seconds: float


@dataclass(frozen=True)
class SignalRequest:
    """Channels on one clock: tick k is at k / clock_hz from the utterance's start.

    Attributes:
        channels: which, in this order.
        clock_hz: ticks per second.
        gap: a stretch without a sample that is longer than this many sampling intervals is a gap.
        normalize: minus the channel's mean over all recordings of its subject, or over its whole recording, over its
            standard deviation there; none: as measured.
        baseline_seconds: before the utterance; their mean is subtracted instead. 0: nothing is.
    """

    channels: tuple[str, ...]
    clock_hz: float
    gap: float
    normalize: Normalize
    baseline_seconds: float


@dataclass(frozen=True)
class Signals:
    """An utterance's channels on one clock.

    Attributes:
        values: (ticks, channels), 0 where nothing is measured.
        measured: (ticks, channels).
    """

    values: Float[NDArray[np.float32], "ticks channels"]
    measured: Bool[NDArray[np.bool_], "ticks channels"]


def make_channel(times: NDArray[np.float64], values: NDArray[np.float64], where: str) -> Channel | None:
    """A channel of the samples that are numbers, None where there is none.

    Raises:
        DataError: time does not increase, or times or values are none of a recording; names `where`.
    """
    there = np.isfinite(values) & np.isfinite(times)
    if not there.all():  # else channels of one clock share its times
        times, values = times[there], values[there]
    if not len(times):
        return None
    if (np.diff(times) <= 0).any():
        at = times[1:][np.diff(times) <= 0][0]
        raise DataError(f"{where}: time does not increase at {at:g} s.")
    if (largest := np.abs(values).max()) > LARGEST:
        raise DataError(f"{where}: it holds {largest:g}, larger than anything that is measured.")
    channel = Channel(times, values)
    if channel.spacing < 1 / FASTEST_HZ:
        raise DataError(f"{where}: a sample every {channel.spacing:g} s, more often than any device measures.")
    if times[-1] - times[0] > LONGEST_SECONDS:
        raise DataError(f"{where}: it lasts {times[-1] - times[0]:g} s, longer than any recording. Time is in seconds.")
    return channel


def pooled(parts: Sequence[Moments]) -> Moments:
    """The moments of several recordings as if they were one; each counts by the time that was measured."""
    seconds = sum(part.seconds for part in parts)
    mean = sum(part.seconds * part.mean for part in parts) / seconds
    variance = sum(part.seconds * (part.sd**2 + (part.mean - mean) ** 2) for part in parts) / seconds
    return Moments(mean, variance**0.5, seconds)


def on_clock(
    recording: Recording,
    request: SignalRequest,
    start: float,
    end: float,
    subject: Mapping[str, Moments] = MappingProxyType({}),
) -> Signals:
    """The channels that are asked for, between two times of the recording.

    Args:
        recording: which.
        request: what is asked for.
        start, end: in seconds on the recording's clock.
        subject: the subject's moments by channel, where `request.normalize` asks for them and there are more recordings
            than this one, by whose own moments a channel is normalised otherwise.
    """
    count = max(1, round((end - start) * request.clock_hz))
    ticks = start + np.arange(count, dtype=np.float64) / request.clock_hz
    values = np.zeros((len(ticks), len(request.channels)), np.float32)
    measured = np.zeros(values.shape, np.bool_)
    for column, name in enumerate(request.channels):
        channel = recording.channels.get(name)
        if channel is None:
            continue
        known = _measured(channel, ticks, request.gap)
        if not known.any():
            continue
        own = _at(channel, ticks, request.clock_hz)
        moments = subject.get(name, channel.moments)
        if request.baseline_seconds:
            own -= _baseline(channel, start, request, moments)
        elif request.normalize != "none":
            own -= moments.mean
        if request.normalize != "none" and moments.sd > 0:
            own /= moments.sd
        values[known, column], measured[:, column] = own[known], known
    return Signals(values, measured)


def _measured(channel: Channel, times: NDArray[np.float64], gap: float) -> NDArray[np.bool_]:
    """Whether the channel was measured around each time (n,)."""
    after = np.searchsorted(channel.times, times)
    before = channel.times[np.maximum(after - 1, 0)]
    until = channel.times[np.minimum(after, len(channel.times) - 1)]
    inside = (after > 0) & (after < len(channel.times))
    nearest = np.minimum(np.abs(times - before), np.abs(times - until))
    within = (until - before <= gap * channel.spacing) | (nearest <= channel.spacing / 2)
    return np.where(inside, within, nearest <= channel.spacing)


def _at(channel: Channel, times: NDArray[np.float64], clock_hz: float) -> NDArray[np.float64]:
    """The channel at these times (n,), freed of what is faster than half the clock, gaps bridged by straight lines."""
    first = np.searchsorted(channel.times, times[0] - SETTLE_SECONDS)
    last = np.searchsorted(channel.times, times[-1] + SETTLE_SECONDS)
    first, last = max(0, first - 1), min(len(channel.times), last + 1)
    own_times, own = channel.times[first:last], channel.values[first:last]
    rate = 1 / channel.spacing
    if rate <= clock_hz * 1.001 or len(own) < 4:
        return np.interp(times, own_times, own)
    from scipy.interpolate import CubicSpline

    grid = np.arange(own_times[0], own_times[-1], channel.spacing)
    smooth = CubicSpline(grid, _without_fast(np.interp(grid, own_times, own), rate, clock_hz))
    found: NDArray[np.float64] = smooth(np.clip(times, grid[0], grid[-1]))
    return found


def _without_fast(values: NDArray[np.float64], rate_hz: float, clock_hz: float) -> NDArray[np.float64]:
    """Values (n,) at `rate_hz` after a low pass at 0.4 of the clock, without delay; the ends are reflected."""
    from scipy.signal import butter, sosfiltfilt

    sections = butter(8, 0.4 * clock_hz, fs=rate_hz, output="sos")
    padding = min(len(values) - 1, int(rate_hz * SETTLE_SECONDS))
    filtered: NDArray[np.float64] = sosfiltfilt(sections, values, padlen=padding)
    return filtered


def _baseline(channel: Channel, start: float, request: SignalRequest, moments: Moments) -> float:
    """Mean of what was measured before `start`; that of the moments where nothing was."""
    first, last = np.searchsorted(channel.times, [start - request.baseline_seconds, start])
    return float(channel.values[first:last].mean()) if last > first else moments.mean


def named(channels: Sequence[str]) -> str:
    """A few channels in words."""
    return ", ".join(channels[:5]) + (f" and {len(channels) - 5} more" if len(channels) > 5 else "")
