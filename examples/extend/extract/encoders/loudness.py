"""Loudness of the speech: the root mean square of every hop, in decibels relative to full scale.

    L_k = 20 log10 max(rms(x[k h] .. x[(k + 1) h - 1]), floor)

One number a frame, no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Failed, Row
from extract.encoder import Clip, EncoderConfig, Languages, Needs
from extract.frozen import rates, stored

SUMMARY = "loudness of the speech, one number a frame, no weights"
MODALITY: Modality = "speech"
DEFAULT_FOR: Languages = ()  # only when it is asked for
HUB = None
VERSION = 1
SAMPLE_RATE_HZ = 16000


class Config(EncoderConfig):
    """Settings of `loudness`."""

    compute_dtype: Literal["float32"] = "float32"
    """Fixed: the computation is in double precision, then rounded."""
    hop_ms: float = Field(default=20.0, gt=0)
    """Length of a frame, in milliseconds."""
    floor: float = Field(default=1e-5, gt=0)
    """Least root mean square that the logarithm sees: -100 dB."""


def describe(config: Config, checkpoint: None) -> FeatureSpec:
    """What is stored for a clip: values (frames, 1)."""
    rate, nominal = rates(config, 1000 / config.hop_ms, 1000 / config.hop_ms)
    return FeatureSpec(
        feature="loudness",
        modality=MODALITY,
        encoder="mer.loudness",
        version=VERSION,
        arrays=(ArraySpec(name="values", dtype=config.output_dtype, tail=(1,)),),
        rate_hz=rate,
        nominal_rate_hz=nominal,
        settings=config.non_default(),
        full_settings=config.model_dump(mode="json"),
    )


def needs(config: Config, checkpoint: None) -> Needs:
    """Mono sound at 16 kHz."""
    return Needs(audio_hz=SAMPLE_RATE_HZ)


class Encoder:
    """Loudness over clips, one by one, on the CPU.

    Args:
        config: its settings.
        checkpoint, device, budget: what other encoders need.
    """

    def __init__(self, config: Config, checkpoint: None, device: str, budget: int | None = None) -> None:
        self.config = config

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order; `Failed` where the clip has no sample at all."""
        hop = max(1, round(SAMPLE_RATE_HZ * self.config.hop_ms / 1000))
        for clip in clips:
            sound = clip.audio[SAMPLE_RATE_HZ].astype(np.float64)
            if len(sound) == 0:
                yield Failed("the sound has no samples")
                continue
            begins = np.arange(0, len(sound), hop)
            counts = np.diff(np.append(begins, len(sound)))
            rms = np.sqrt(np.add.reduceat(sound**2, begins) / counts)
            level = 20 * np.log10(np.maximum(rms, self.config.floor))
            values = stored(level[:, None].astype(np.float32), self.config)
            yield values if isinstance(values, Failed) else {"values": values}
