"""BiLSTM: text alone, through an LSTM in both directions.

Paper: M.-H. Yi, K.-C. Kwak, J.-H. Shin, "A Complementary Fusion Framework for Robust Multimodal Emotion Recognition",
2025, whose comparisons have it as the unimodal model of text and say no more; bidirectional LSTM after A. Graves,
J. Schmidhuber, "Framewise phoneme classification with bidirectional LSTM and other neural network architectures", 2005.

    h_t = LSTM(x_t, h_{t-1}) from the first token to the last, and from the last to the first     (1)
    h = [h_T forwards; h_1 backwards]                                                             (2)
    y = W2 ReLU(W1 h + b1) + b2                                                                   (3)

Axes: B utterances, T tokens, H hidden width, C outputs.

Widths, dropout and training are ours; batch size, epochs and patience are those of the paper's own branches. A
recurrent model of another modality alone is `early-fusion` with --modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import nn

from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.recurrent import LSTM
from fuse.tables import Table
from fuse.training.config import TrainConfig

PREFERS = {"text": ("roberta", "bert", "koelectra")}
INPUTS = {"text": (768,)}
TRAINING = TrainConfig(lr=1e-3, batch_size=32, max_epochs=100, patience=5)
ABLATIONS: dict[str, dict[str, object]] = {}
TABLES: tuple[Table, ...] = ()


class Config(Spec):
    """Settings of the BiLSTM."""

    hidden: int = Field(default=128, ge=1)
    """Width of each direction's state."""
    layers: int = Field(default=1, ge=1)
    """LSTM layers, one above the other."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout between the layers, before and within the classifier."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> BiLSTM:
    """The module for this modality and this target; `tails` is the shape of one frame.

    Raises:
        SettingsError: it is not text, or its tokens are not vectors.
    """
    widths = vector_widths("bilstm", PREFERS, tails)
    return BiLSTM(width=widths["text"], outputs=outputs(target), kind=target.kind, **dict(config))


class BiLSTM(Architecture):
    """The unimodal model of text. The arguments are those of `Config`, flat.

    Args:
        width: of a token.
        outputs: C, the number of classes, or 1 for regression.
        kind: the target's kind.
    """

    modalities = ("text",)

    def __init__(self, width: int, outputs: int, kind: str, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.kind = kind
        self.lstm = LSTM(width, hidden, bidirectional=True, layers=layers, dropout=dropout)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression."""
        _, h = self.lstm(batch.sequences["text"], batch.lengths["text"])  # (1-2)
        logits = self.classifier(h)  # (3)
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits)
