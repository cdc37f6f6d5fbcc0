"""Early fusion: the modalities' features concatenated at every step, then one LSTM.

Paper: M.-H. Yi, K.-C. Kwak, J.-H. Shin, "A Complementary Fusion Framework for Robust Multimodal Emotion Recognition",
2025, whose comparisons have early fusion and say no more; the concatenation under an LSTM is EF-LSTM, as in the tables
of Y.-H. H. Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", 2019, section 4.2.

    x_t = [a_1 x_{1,t}; a_1; ..; a_M x_{M,t}; a_M], a_m = 1 where modality m is available, else 0     (1)
    h_t = LSTM(x_t, h_{t-1})                                                                          (2)
    y = W2 ReLU(W1 h_T + b1) + b2                                                                     (3)

Axes: B utterances, T steps, M modalities, C outputs.

Readings, where the papers are silent:
- (1) needs one time axis: each modality is resampled to the same T steps by adaptive average pooling over its own
  length, as in `hff`. steps=1 concatenates the means over time.
- The flags a_m tell an absent modality from one whose features are zero. With one modality there is nothing to tell.
- Widths, dropout and training are ours; batch size, epochs and patience are those of the paper's own branches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.lengths import resample
from fuse.nn.recurrent import LSTM
from fuse.tables import Table
from fuse.training.config import TrainConfig

PREFERS = {
    "text": ("roberta", "bert", "koelectra"),
    "speech": ("hubert", "logmel", "mfcc"),
    "vision": ("resnet", "vit"),
    "physiology": ("physio",),
}
INPUTS = {"text": (768,), "speech": (768,), "vision": (512,), "physiology": (40,)}
TRAINING = TrainConfig(lr=1e-3, batch_size=32, max_epochs=100, patience=5)
ABLATIONS: dict[str, dict[str, object]] = {}
TABLES: tuple[Table, ...] = ()


class Config(Spec):
    """Settings of early fusion."""

    steps: int = Field(default=8, ge=1)
    """Steps that every modality is resampled to."""
    hidden: int = Field(default=128, ge=1)
    """Width of the LSTM's state (2)."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout of the concatenated features, before and within the classifier."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> EarlyFusion:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that it does not take, or one whose frames are not vectors.
    """
    widths = vector_widths("early-fusion", PREFERS, tails)
    return EarlyFusion(widths, outputs(target), target.kind, **dict(config))


class EarlyFusion(Architecture):
    """Concatenation, LSTM, classifier. The arguments are those of `Config`, flat.

    Args:
        widths: width of each modality's frames; its keys are the modalities, one or more.
        outputs: C, the number of classes, or 1 for regression.
        kind: the target's kind.
    """

    def __init__(
        self, widths: Mapping[str, int], outputs: int, kind: str, steps: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.kind, self.steps = kind, steps
        self.flagged = len(widths) > 1
        self.dropout = nn.Dropout(dropout)
        self.lstm = LSTM(sum(widths.values()) + (len(widths) if self.flagged else 0), hidden)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
        )

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression."""
        x = self.concatenated(batch)  # (1)
        _, h = self.lstm(x, torch.full((len(x),), self.steps, device=x.device))  # (2)
        logits = self.classifier(h)  # (3)
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits)

    def concatenated(self, batch: Batch) -> Tensor:
        """The modalities on shared steps, and which are there (B, T, sum of widths + M)."""
        parts = [self.dropout(resample(batch.sequences[m], batch.lengths[m], self.steps)) for m in self.modalities]
        if self.flagged:
            flags = batch.available.to(parts[0].dtype)
            parts.append(flags[:, None].expand(-1, self.steps, -1))
        return torch.cat(parts, dim=2)
