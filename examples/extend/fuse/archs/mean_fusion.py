"""Mean fusion: each modality's mean over time in a common space, averaged over the modalities that are there.

    h_m = ReLU(W_m mean_t x_{m,t} + b_m)                      (1)
    h = sum_m a_m h_m / sum_m a_m, a_m = 1 where available    (2)
    y = W h + b                                               (3)

An example for the documentation, after no paper: open yours with the paper, its sections, and your readings.

Axes: B utterances, d model width, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import nn

from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.lengths import resample
from fuse.tables import Table
from fuse.train_config import TrainConfig

PREFERS = {
    "text": ("roberta", "bert", "koelectra"),
    "speech": ("loudness", "hubert", "mfcc"),
    "vision": ("resnet", "vit"),
}
INPUTS = {"text": (768,), "speech": (1,), "vision": (512,)}
TRAINING = TrainConfig(lr=1e-3, batch_size=32, max_epochs=50, patience=5)
ABLATIONS: dict[str, dict[str, object]] = {"without the hidden layer's ReLU": {"relu": False}}
TABLES: tuple[Table, ...] = ()


class Config(Spec):
    """Settings of mean fusion."""

    d: int = Field(default=64, ge=1)
    """Width of the common space (1)."""
    relu: bool = True
    """false: (1) is linear."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> MeanFusion:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that it does not take, or one whose frames are not vectors.
    """
    return MeanFusion(vector_widths("mean-fusion", PREFERS, tails), outputs(target), target.kind, **dict(config))


class MeanFusion(Architecture):
    """Means, projections, one linear layer. The arguments are those of `Config`, flat.

    Args:
        widths: width of each modality's frames; its keys are the modalities, one or more.
        outputs: C, the number of classes, or 1 for regression.
        kind: the target's kind.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, kind: str, d: int, relu: bool) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.kind = kind
        self.project = nn.ModuleDict({m: nn.Linear(width, d) for m, width in widths.items()})
        self.activation = nn.ReLU() if relu else nn.Identity()
        self.classifier = nn.Linear(d, outputs)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression."""
        means = [resample(batch.sequences[m], batch.lengths[m], 1)[:, 0] for m in self.modalities]
        hidden = torch.stack(
            [self.activation(self.project[m](x)) for m, x in zip(self.modalities, means, strict=True)], dim=1
        )  # (1)
        there = batch.available.to(hidden.dtype)[..., None]
        logits = self.classifier((hidden * there).sum(dim=1) / there.sum(dim=1).clamp(min=1))  # (2), (3)
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits)
