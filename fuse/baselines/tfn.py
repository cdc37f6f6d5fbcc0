"""TFN: the outer product of the modalities' embeddings, every interaction of them explicit.

Paper: A. Zadeh, M. Chen, S. Poria, E. Cambria, L.-P. Morency, "Tensor Fusion Network for Multimodal Sentiment
Analysis", 2017, section 4.

    z_m = [h_m; 1], h_m the embedding of modality m (`fuse/nn/modality_embedding.py`)     (4.1)
    z = z_1 x z_2 x .. x z_M, the outer product                                           (4.2)
    y = W3 ReLU(W2 ReLU(W1 z + b1) + b2) + b3                                             (4.3)

Axes: B utterances, M modalities, C outputs; d_m width of the embedding of modality m.

Speech and vision are means over time in the paper, so the order of their frames does not matter. Differs from it in
that regression ends in a linear unit instead of a scaled sigmoid. Readings:
- An absent modality has h_m = 0. Its 1 is left, and z holds the interactions of the others.
- Text: the state of the LSTM after the last token, instead of all states side by side, whose number is that of tokens.
- Widths: the paper's (text 128, speech and vision 32, inference 128 and 128) give W1 18 million weights, to learn from
  some thousand utterances. Ours are text 64, as in the TFN of LMF's authors, whose dropout of 0.3 we take too, speech
  and vision 16, inference 64; `--set text_width=128` and so on give the paper's. Its decay of 0.01 is our default too.
- Start: W1 begins at the scale of a layer over the embeddings side by side, which z contains; torch's own, made for as
  many inputs of size 1 as z has numbers, would begin with next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.modality_embedding import ModalityEmbeddings
from fuse.tables import Table
from fuse.training.config import TrainConfig

PREFERS = {
    "text": ("roberta", "bert", "koelectra"),
    "speech": ("mfcc", "logmel", "hubert"),
    "vision": ("resnet", "vit"),
}
INPUTS = {"text": (300,), "speech": (74,), "vision": (35,)}
TRAINING = TrainConfig(lr=1e-3, batch_size=32)
ABLATIONS: dict[str, dict[str, object]] = {}
TABLES: tuple[Table, ...] = ()


class Config(Spec):
    """Settings of TFN."""

    text_hidden: int = Field(default=128, ge=1)
    """Width of the LSTM that reads text."""
    text_width: int = Field(default=64, ge=1)
    """Width of the embedding of text."""
    speech_width: int = Field(default=16, ge=1)
    """Width of the embedding of speech."""
    vision_width: int = Field(default=16, ge=1)
    """Width of the embedding of vision."""
    hidden: int = Field(default=64, ge=1)
    """Width of both layers of the inference subnetwork."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout of what each part reads."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> TFN:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that TFN does not take, or one whose frames are not vectors.
    """
    widths = vector_widths("tfn", PREFERS, tails)
    return TFN(widths, outputs(target), target.kind, **dict(config))


class TFN(Architecture):
    """Embeddings, their outer product, inference. The arguments are those of `Config`, flat.

    Args:
        widths: width of each modality's frames; its keys are the modalities, one or more.
        outputs: C, the number of classes, or 1 for regression.
        kind: the target's kind.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: int,
        kind: str,
        text_hidden: int,
        text_width: int,
        speech_width: int,
        vision_width: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.kind = kind
        d = {"text": text_width, "speech": speech_width, "vision": vision_width}
        self.embed = ModalityEmbeddings(widths, text_hidden, d, dict.fromkeys(widths, dropout))
        sizes = [d[modality] + 1 for modality in widths]
        first = nn.Linear(math.prod(sizes), hidden)
        nn.init.uniform_(first.weight, -(sum(sizes) ** -0.5), sum(sizes) ** -0.5)
        self.inference = nn.Sequential(
            nn.Dropout(dropout),
            first,
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression."""
        logits = self.inference(outer_product(self.embed(batch)))  # (4.1-4.3)
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits)


def outer_product(vectors: Sequence[Float[Tensor, "B _"]]) -> Float[Tensor, "B _"]:
    """Every product of one number of each vector, the last vector's index running fastest (4.2)."""
    z = vectors[0]
    for vector in vectors[1:]:
        z = torch.einsum("bi,bj->bij", z, vector).flatten(1)
    return z
