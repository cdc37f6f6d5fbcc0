"""Physiological signals in windows: EEG, skin conductance, pulse, temperature, whatever the recordings measure.

Channels with rates of their own are brought to one clock, freed of their subject's offset and scale (z-scores by mean
and standard deviation over all recordings of the utterance's speaker), and described window by window, each centred on
its frame and cut at the utterance's ends. A subject's only recording, as one of nobody known, is normalised by itself.
No weights; what a recording is: `extract/physiology/recordings/`.

No leak of labels: the mean and standard deviation see none. They see all of a subject's signals, those of its test
trials included, and nothing of other subjects. A model that is to judge trials as they come, before the recordings are
whole, needs `normalize=none`.

    values     (frames, channels x (statistics + bands)), by channel, statistics first; 0 where not measured
    there      (frames,), whether any channel was measured in at least half of the frame's window
    measured   (frames, channels), which

With bands, the logarithm of a channel's power in each: for EEG that is differential entropy but for a constant
(R.-N. Duan, J.-Y. Zhu, B.-L. Lu: Differential entropy feature for EEG-based emotion classification, NER 2013).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cache_schema.feature_spec import MASK, ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Failed, Row
from extract.encoder import Clip, EncoderConfig, Languages, Needs
from extract.frozen import rates, stored
from extract.physiology import Normalize, SignalRequest, Signals

SUMMARY = "physiological signals: every channel on one clock, normalised, described in windows; no weights"
MODALITY: Modality = "physiology"
DEFAULT_FOR: Languages = "any"
HUB = None
VERSION = 2
MEASURED_SHARE = 0.5
"""Of a window that must be measured of a channel for the frame to tell of it."""
FLOOR = 1e-6
"""Least power that the logarithm sees, in units of the normalised signal."""

Statistic = Literal["mean", "sd", "min", "max", "slope"]


class Config(EncoderConfig):
    """Settings of `physio`; it always computes in float64."""

    compute_dtype: Literal["float32"] = "float32"
    """Fixed: the computation is in double precision, then rounded."""
    channels: tuple[str, ...] = Field(min_length=1)
    """Which channels, in which order; those of the corpus, where it is not set."""
    clock_hz: float = Field(default=128.0, gt=0, le=10000)
    """Ticks per second that channels are brought to: slower ones by straight lines, faster ones after a low pass."""
    rate_hz: float = Field(default=2.0, gt=0)
    """Frames per second."""
    window_seconds: float = Field(default=2.0, gt=0)
    """Length of a frame's window."""
    statistics: tuple[Statistic, ...] = ("mean", "sd")
    """Of each channel in a window; slope: of the fitted line, per second."""
    bands_hz: tuple[tuple[float, float], ...] = ()
    """Bands whose log power is given, as [[4,8],[8,14],[14,31],[31,45]] for theta to gamma of EEG."""
    normalize: Normalize = "subject"
    """subject: z-scores by the channel's mean and standard deviation over all recordings of the utterance's speaker;
    recording: over its own whole recording; none: as measured."""
    baseline_seconds: float = Field(default=0.0, ge=0)
    """Seconds before the utterance whose mean is subtracted instead of that of `normalize` (3 for DEAP); 0: none."""
    gap: float = Field(default=2.5, gt=1)
    """A stretch without a sample that is longer than this many sampling intervals is a gap, and masked."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("a channel stands twice")
        if not self.statistics and not self.bands_hz:
            raise ValueError("neither statistics nor bands: there would be nothing to store")
        if len(set(self.statistics)) < len(self.statistics):
            raise ValueError("a statistic stands twice")
        if any(not 0 < low < high < self.clock_hz / 2 for low, high in self.bands_hz):
            raise ValueError(f"a band must be [low, high] within 0 and half the clock, {self.clock_hz / 2:g} Hz")
        if self.rate_hz > self.clock_hz or self.window_seconds * self.clock_hz < 1:
            raise ValueError("a window must hold at least one tick of the clock, and a frame too")
        return self

    @property
    def request(self) -> SignalRequest:
        """What is to be decoded."""
        return SignalRequest(self.channels, self.clock_hz, self.gap, self.normalize, self.baseline_seconds)


def describe(config: Config, checkpoint: None) -> FeatureSpec:
    """What is stored for an utterance: values (frames, channels x (statistics + bands)), and what was measured."""
    count = len(config.channels)
    width = count * (len(config.statistics) + len(config.bands_hz))
    values = ArraySpec(name="values", dtype=config.output_dtype, tail=(width,))
    masks = (ArraySpec(name=MASK, dtype="bool", tail=()), ArraySpec(name="measured", dtype="bool", tail=(count,)))
    rate, nominal = rates(config, config.rate_hz, config.rate_hz)
    return FeatureSpec(
        feature="physio",
        modality=MODALITY,
        encoder="mer.physio",
        version=VERSION,
        arrays=(values, *masks) if config.pool == "none" else (values,),
        rate_hz=rate,
        nominal_rate_hz=nominal,
        settings=config.non_default(),
        full_settings=config.model_dump(mode="json"),
    )


def needs(config: Config, checkpoint: None) -> Needs:
    """The channels on the clock."""
    return Needs(signals=config.request)


class Encoder:
    """Windows over the signals, utterance by utterance, on the CPU.

    Args:
        config: its settings.
        checkpoint, device, budget: what other encoders need.
    """

    def __init__(self, config: Config, checkpoint: None, device: str, budget: int | None = None) -> None:
        self.config = config

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order; `Failed` where too little of it is measured for any window."""
        for clip in clips:
            yield self._row(clip.signals[self.config.request])

    def _row(self, signals: Signals) -> Row:
        config = self.config
        windows = self._windows(len(signals.values))
        shares = np.stack([signals.measured[ticks].mean(axis=0) for ticks in windows])
        measured = shares >= MEASURED_SHARE
        there: NDArray[np.bool_] = np.asarray(measured.any(axis=1))
        if not there.any():
            return Failed("no window has a channel that was measured for half of it")
        values, known = signals.values, signals.measured
        bands = [self._power(values, known, band) for band in config.bands_hz]
        frames = np.zeros((len(windows), values.shape[1], len(config.statistics) + len(bands)))
        for frame, ticks in enumerate(windows):
            seen, own = known[ticks], values[ticks].astype(np.float64)
            seconds = np.arange(len(own))[:, None] / config.clock_hz
            numbers = [STATISTICS[name](own, seen, seconds) for name in config.statistics]
            numbers += [np.log(_mean(band[ticks], seen) + FLOOR) for band in bands]
            frames[frame] = np.where(measured[frame, :, None], np.stack(numbers, axis=1), 0.0)
        flat = frames.reshape(len(frames), -1).astype(np.float32)
        row = stored(flat if config.pool == "none" else flat[there], config)
        if isinstance(row, Failed):
            return row
        return {"values": row} if config.pool != "none" else {"values": row, MASK: there, "measured": measured}

    def _windows(self, ticks: int) -> list[slice]:
        """The ticks of each frame's window: centred on the frame, cut at the utterance's ends."""
        config = self.config
        count = max(1, int(np.ceil(round(ticks / config.clock_hz * config.rate_hz, 6))))
        found = []
        for frame in range(count):
            middle, half = (frame + 0.5) / config.rate_hz, config.window_seconds / 2
            first = min(max(0, round((middle - half) * config.clock_hz)), ticks - 1)
            found.append(slice(first, max(first + 1, min(ticks, round((middle + half) * config.clock_hz)))))
        return found

    def _power(
        self, values: NDArray[np.float32], known: NDArray[np.bool_], band: tuple[float, float]
    ) -> NDArray[np.float64]:
        """Power of each channel in a band, tick by tick (ticks, channels); gaps are bridged by straight lines first."""
        from scipy.signal import butter, sosfiltfilt

        sections = butter(4, band, btype="bandpass", fs=self.config.clock_hz, output="sos")
        bridged = values.astype(np.float64)
        ticks = np.arange(len(values))
        for channel in range(values.shape[1]):
            there = known[:, channel]
            if there.any() and not there.all():
                bridged[:, channel] = np.interp(ticks, ticks[there], values[there, channel])
        padding = min(len(values) - 1, int(self.config.clock_hz))
        power: NDArray[np.float64] = sosfiltfilt(sections, bridged, axis=0, padlen=padding) ** 2
        return power


def _mean(values: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of each channel (ticks, channels) over what is seen of it (channels,); 0 where nothing is."""
    mean: NDArray[np.float64] = np.where(seen, values, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    return mean


def _sd(values: NDArray[np.float64], seen: NDArray[np.bool_], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(_mean((values - _mean(values, seen)) ** 2, seen))


def _slope(values: NDArray[np.float64], seen: NDArray[np.bool_], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slope of the line fitted to each channel, per second; 0 where one tick alone is seen."""
    apart = seconds - _mean(np.broadcast_to(seconds, values.shape), seen)
    spread = _mean(apart**2, seen)
    slope: NDArray[np.float64] = _mean(apart * values, seen) / np.where(spread > 0, spread, 1.0)
    return slope


STATISTICS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "mean": lambda values, seen, seconds: _mean(values, seen),
    "sd": _sd,
    "min": lambda values, seen, seconds: np.where(seen, values, np.inf).min(axis=0),
    "max": lambda values, seen, seconds: np.where(seen, values, -np.inf).max(axis=0),
    "slope": _slope,
}
"""Of each channel: (values, seen, both (ticks, channels), seconds (ticks, 1)) -> (channels,)."""
