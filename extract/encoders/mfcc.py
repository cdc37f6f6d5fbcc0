"""Mel-frequency cepstral coefficients, after the equations of HFF (its section on speech features).

    (5) c_n = sum_{m=1..M} S'_m cos((m - 0.5) n pi / M)     n = 0 .. n_mfcc - 1, without a scale, as printed

of the log-mel energies S' of (1-4), which `extract/mel.py` computes. No weights.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cache_schema.feature_spec import FeatureSpec, Modality
from extract.encoder import Languages, Needs
from extract.mel import MelConfig, MelEncoder, describe_frames

SUMMARY = "MFCC: cepstral coefficients of the speech, no weights"
MODALITY: Modality = "speech"
DEFAULT_FOR: Languages = "any"
HUB = None
VERSION = 1


class Config(MelConfig):
    """Settings of `mfcc`."""

    n_mfcc: int = Field(default=40, ge=1)
    """Coefficients a frame, the zeroth (log energy) included."""

    @model_validator(mode="after")
    def _no_more_than_filters(self) -> Self:
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc = {self.n_mfcc} exceeds n_mels = {self.n_mels}")
        return self


def describe(config: Config, checkpoint: None) -> FeatureSpec:
    """What is stored for a clip: values (frames, n_mfcc times 1, 2 or 3)."""
    return describe_frames("mfcc", VERSION, config.n_mfcc, config)


def needs(config: Config, checkpoint: None) -> Needs:
    """Sound at `sample_rate_hz`."""
    return Needs(audio_hz=config.sample_rate_hz)


class Encoder(MelEncoder):
    """MFCC over clips, one by one, on the CPU.

    Args:
        config: its settings.
        checkpoint, device, budget: what other encoders need.
    """

    def __init__(self, config: Config, checkpoint: None, device: str, budget: int | None = None) -> None:
        super().__init__(config, lambda log_mel: cepstra(log_mel, config.n_mfcc))


def cepstra(log_mel: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """c of (5), (frames, count)."""
    from scipy.fft import dct

    coefficients: NDArray[np.float64] = dct(log_mel, type=2)[:, :count] / 2  # (5); scipy's DCT-II is twice the sum
    return coefficients
