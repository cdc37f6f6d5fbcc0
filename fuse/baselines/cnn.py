"""CNN: speech alone, through convolutions in time and the maximum over it.

Paper: M.-H. Yi, K.-C. Kwak, J.-H. Shin, "A Complementary Fusion Framework for Robust Multimodal Emotion Recognition",
2025, whose comparisons have it as the unimodal model of speech and say no more; convolution and max-over-time pooling
after Y. Kim, "Convolutional neural networks for sentence classification", 2014, section 2.

    x^l_t = ReLU(W^l x^{l-1}_{t-k/2 : t+k/2} + b^l), l = 1 .. L     (1)
    h = max_t x^L_t                                                 (2)
    y = W2 ReLU(W1 h + b1) + b2                                     (3)

Axes: B utterances, T frames, C outputs.

Widths, dropout and training are ours; batch size, epochs and patience are those of the paper's own branches.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import nn

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.convolution import Convolutions
from fuse.tables import Table
from fuse.training.config import TrainConfig

PREFERS = {"speech": ("hubert", "logmel", "mfcc")}
INPUTS = {"speech": (768,)}
TRAINING = TrainConfig(lr=1e-3, batch_size=32, max_epochs=100, patience=5)
ABLATIONS: dict[str, dict[str, object]] = {}
TABLES: tuple[Table, ...] = ()


class Config(Spec):
    """Settings of the CNN."""

    channels: tuple[int, ...] = Field(default=(128, 128), min_length=1)
    """Channels of the convolutions (1)."""
    kernel: int = Field(default=5, ge=1)
    """Frames that each convolution sees, an odd number."""
    hidden: int = Field(default=128, ge=1)
    """Width of the classifier's hidden layer (3)."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout between the convolutions, before and within the classifier."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> CNN:
    """The module for this modality and this target; `tails` is the shape of one frame.

    Raises:
        SettingsError: it is not speech, its frames are not vectors, or the kernel is even.
    """
    widths = vector_widths("cnn", PREFERS, tails)
    if config.kernel % 2 == 0:
        raise SettingsError(f"cnn: kernel = {config.kernel} has no middle frame: choose an odd number.")
    return CNN(width=widths["speech"], outputs=outputs(target), kind=target.kind, **dict(config))


class CNN(Architecture):
    """The unimodal model of speech. The arguments are those of `Config`, flat.

    Args:
        width: of a frame.
        outputs: C, the number of classes, or 1 for regression.
        kind: the target's kind.
    """

    modalities = ("speech",)

    def __init__(
        self,
        width: int,
        outputs: int,
        kind: str,
        channels: tuple[int, ...],
        kernel: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.convolutions = Convolutions(width, channels, kernel, dropout)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels[-1], hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression."""
        h = self.convolutions(batch.sequences["speech"], batch.lengths["speech"])  # (1-2)
        logits = self.classifier(h)  # (3)
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits)
