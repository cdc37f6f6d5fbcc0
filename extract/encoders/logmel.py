"""Log-mel energies of the speech: S' of (1-4) in `extract/mel.py`. No weights."""

from __future__ import annotations

from cache_schema.feature_spec import FeatureSpec, Modality
from extract.encoder import Languages, Needs
from extract.mel import MelConfig, MelEncoder, describe_frames

SUMMARY = "log-mel: logarithms of the mel energies of the speech, no weights"
MODALITY: Modality = "speech"
DEFAULT_FOR: Languages = ()
HUB = None
VERSION = 1


class Config(MelConfig):
    """Settings of `logmel`."""


def describe(config: Config, checkpoint: None) -> FeatureSpec:
    """What is stored for a clip: values (frames, n_mels times 1, 2 or 3)."""
    return describe_frames("logmel", VERSION, config.n_mels, config)


def needs(config: Config, checkpoint: None) -> Needs:
    """Sound at `sample_rate_hz`."""
    return Needs(audio_hz=config.sample_rate_hz)


class Encoder(MelEncoder):
    """Log-mel energies over clips, one by one, on the CPU.

    Args:
        config: its settings.
        checkpoint, device, budget: what other encoders need.
    """

    def __init__(self, config: Config, checkpoint: None, device: str, budget: int | None = None) -> None:
        super().__init__(config, lambda log_mel: log_mel)
