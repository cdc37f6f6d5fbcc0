"""LSTM mean: an LSTM per modality, and the mean of their last states over the modalities that are there.

Paper: none, this is the documentation's example; name yours, its sections, and your readings where it is silent.

    h_m = LSTM_m(x_m), its last state                         (1)
    h = sum_m a_m h_m / sum_m a_m, a_m = 1 where available    (2)
    y = W2 ReLU(W1 h + b1) + b2                               (3)

Axes: B utterances, d width of a state, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import nn

from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.recurrent import LSTM
from fuse.tables import Table
from fuse.training.config import TrainConfig

PREFERS = {
    "text": ("roberta", "bert", "koelectra"),
    "speech": ("hubert", "mfcc", "loudness"),
    "vision": ("resnet", "vit"),
}
INPUTS = {"text": (768,), "speech": (768,), "vision": (512,)}
TRAINING = TrainConfig(lr=1e-3, batch_size=32, max_epochs=50, patience=5)
ABLATIONS: dict[str, dict[str, object]] = {"without the hidden layer": {"hidden_layer": False}}
TABLES: tuple[Table, ...] = ()


class Config(Spec):
    """Settings of `lstm-mean`."""

    d: int = Field(default=64, ge=1)
    """Width of the LSTMs' states (1)."""
    hidden_layer: bool = True
    """false: (3) is one linear layer."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> LSTMMean:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that it does not take, or one whose frames are not vectors.
    """
    return LSTMMean(vector_widths("lstm-mean", PREFERS, tails), outputs(target), target.kind, **dict(config))


class LSTMMean(Architecture):
    """LSTMs, mean, classifier. The arguments are those of `Config`, flat.

    Args:
        widths: width of each modality's frames; its keys are the modalities, one or more.
        outputs: C, the number of classes, or 1 for regression.
        kind: the target's kind.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, kind: str, d: int, hidden_layer: bool) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.kind = kind
        self.lstm = nn.ModuleDict({m: LSTM(width, d) for m, width in widths.items()})
        hidden = (nn.Linear(d, d), nn.ReLU()) if hidden_layer else ()
        self.classifier = nn.Sequential(*hidden, nn.Linear(d, outputs))

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression."""
        last = [self.lstm[m](batch.sequences[m], batch.lengths[m])[1] for m in self.modalities]  # (1)
        there = batch.available.to(last[0].dtype)[..., None]
        mean = (torch.stack(last, dim=1) * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)  # (2)
        logits = self.classifier(mean)  # (3)
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits)
