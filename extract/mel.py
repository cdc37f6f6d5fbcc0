"""Log-mel spectra of the speech, which `logmel` stores and `mfcc` transforms further.

    (1) X(t, f) = sum_n x(n) w(n - t) exp(-j 2 pi f n)      frames of a windowed signal
    (2) M(f) = 2595 log10(1 + f / 700)                      the mel scale of HTK
    (3) S_m = sum_k |X(t, f_k)|^2 H_m(f_k)                  triangles of peak 1, evenly spaced in mel
    (4) S'_m = log S_m                                      natural logarithm, S_m not below `floor`

The numbers are those of HFF's section on speech features. Frame k is centred on its own hop, [k, k + 1) / rate, with
silence beyond the ends, so every sample of a clip counts and a clip has ceil(samples / hop) frames. Deltas are HTK's
regression over 2 * delta_width + 1 frames (S. Young et al., The HTK Book 3.4, eq. 5.16), edges repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.rows import Failed, Row
from extract.encoder import Clip, EncoderConfig
from extract.frozen import rates, stored


class MelConfig(EncoderConfig):
    """Settings of the encoders over mel spectra; they always compute in float64."""

    compute_dtype: Literal["float32"] = "float32"
    """Fixed: the computation is in double precision, then rounded."""
    sample_rate_hz: int = Field(default=16000, ge=1000, le=192000)
    """Rate that the sound is resampled to."""
    n_mels: int = Field(default=64, ge=1)
    """Triangles of the mel filter bank."""
    window_ms: float = Field(default=25.0, gt=0)
    """Length of the Hamming window, in milliseconds."""
    hop_ms: float = Field(default=10.0, gt=0)
    """Distance between frames, in milliseconds."""
    pre_emphasis: float = Field(default=0.97, ge=0, lt=1)
    """y(n) = x(n) - pre_emphasis * x(n - 1); 0: none."""
    low_hz: float = Field(default=0.0, ge=0)
    """Lower edge of the filter bank."""
    high_hz: float | None = Field(default=None, gt=0)
    """Upper edge of the filter bank; None: half the sampling rate."""
    floor: float = Field(default=1e-10, gt=0)
    """Least mel energy that the logarithm sees."""
    delta: bool = False
    """Append the first time derivative."""
    delta_delta: bool = False
    """Append the second time derivative."""
    delta_width: int = Field(default=2, ge=1)
    """Frames on either side that a derivative is fitted over."""

    @model_validator(mode="after")
    def _filters_within_the_band(self) -> Self:
        top = self.high_hz or self.sample_rate_hz / 2
        if not self.low_hz < top <= self.sample_rate_hz / 2:
            raise ValueError(f"the filter bank must lie within 0 and {self.sample_rate_hz / 2} Hz, low below high")
        return self

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return max(1, round(self.sample_rate_hz * self.hop_ms / 1000))

    @property
    def window(self) -> int:
        """Samples in the window."""
        return max(2, round(self.sample_rate_hz * self.window_ms / 1000))

    @property
    def copies(self) -> int:
        """How many times the width of a frame: itself, its delta, its delta-delta."""
        return 1 + self.delta + self.delta_delta


def describe_frames(name: str, version: int, width: int, config: MelConfig) -> FeatureSpec:
    """What is stored for a clip: values (frames, width times 1, 2 or 3)."""
    per_second = config.sample_rate_hz / config.hop
    rate, nominal = rates(config, per_second, per_second)
    return FeatureSpec(
        feature=name,
        modality="speech",
        encoder=f"mer.{name}",
        version=version,
        arrays=(ArraySpec(name="values", dtype=config.output_dtype, tail=(width * config.copies,)),),
        rate_hz=rate,
        nominal_rate_hz=nominal,
        settings=config.non_default(),
        full_settings=config.model_dump(mode="json"),
    )


class MelEncoder:
    """Frames made of log-mel energies, clip by clip, on the CPU.

    Args:
        config: the encoder's settings.
        transform: log-mel energies (frames, n_mels) to what is stored (frames, width).
    """

    def __init__(self, config: MelConfig, transform: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
        self.config, self.transform = config, transform
        self.n_fft = 1 << (config.window - 1).bit_length()
        top = config.high_hz or config.sample_rate_hz / 2
        self.filters = mel_filters(config.n_mels, self.n_fft, config.sample_rate_hz, config.low_hz, top)

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order; `Failed` where the clip has no sample at all."""
        for clip in clips:
            sound = clip.audio[self.config.sample_rate_hz]
            if len(sound) == 0:
                yield Failed("the sound has no samples")
                continue
            frames = self._with_deltas(self.transform(self._log_mel(sound)))
            values = stored(frames.astype(np.float32), self.config)
            yield values if isinstance(values, Failed) else {"values": values}

    def _log_mel(self, sound: NDArray[np.float32]) -> NDArray[np.float64]:
        """S' of (4), (frames, n_mels)."""
        x = sound.astype(np.float64)
        x[1:] -= self.config.pre_emphasis * sound[:-1].astype(np.float64)
        energy = np.abs(np.fft.rfft(self._windows(x), self.n_fft)) ** 2 @ self.filters  # (1), (3)
        log_energy: NDArray[np.float64] = np.log(np.maximum(energy, self.config.floor))  # (4)
        return log_energy

    def _with_deltas(self, frames: NDArray[np.float64]) -> NDArray[np.float64]:
        columns: list[Any] = [frames]
        if self.config.delta or self.config.delta_delta:
            first = deltas(frames, self.config.delta_width)
            columns += [first] if self.config.delta else []
            columns += [deltas(first, self.config.delta_width)] if self.config.delta_delta else []
        return np.concatenate(columns, axis=1)

    def _windows(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Hamming-windowed frames (frames, window), each centred on its hop."""
        from scipy.signal.windows import hamming

        hop, window = self.config.hop, self.config.window
        frames = -(-len(x) // hop)
        before = (window - hop) // 2
        padded = np.pad(x, (max(0, before), frames * hop + window))[max(0, -before) :]
        views = np.lib.stride_tricks.sliding_window_view(padded, window)[: frames * hop : hop]
        taper: NDArray[np.float64] = hamming(window, sym=True)
        return views * taper


def mel_filters(count: int, n_fft: int, rate_hz: int, low_hz: float, high_hz: float) -> NDArray[np.float64]:
    """H of (3): triangles of peak 1 (n_fft / 2 + 1, count), their corners evenly spaced on the scale of (2)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (low_hz, high_hz))
    corners = 700 * (10 ** (np.linspace(low, high, count + 2) / 2595) - 1)
    bins = np.arange(n_fft // 2 + 1)[:, None] * rate_hz / n_fft
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def deltas(frames: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Slope of the line fitted to 2 * width + 1 frames (frames, coefficients), edges repeated."""
    from scipy.signal import savgol_filter

    padded = np.pad(frames, ((width, width), (0, 0)), mode="edge")
    slopes = savgol_filter(padded, 2 * width + 1, polyorder=1, deriv=1, axis=0)
    return np.asarray(slopes[width : len(slopes) - width])
