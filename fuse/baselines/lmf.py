"""LMF: tensor fusion whose weights have rank R, so that the tensor is never formed.

Paper: Z. Liu, Y. Shen, V. B. Lakshminarasimhan, P. P. Liang, A. Zadeh, L.-P. Morency, "Efficient Low-rank Multimodal
Fusion with Modality-Specific Factors", 2018, section 3.

    z_m = [h_m; 1], h_m the embedding of modality m (`fuse/nn/modality_embedding.py`), as in TFN     (3.1)
    W = sum_r lambda_r w_1^(r) x w_2^(r) x .. x w_M^(r), the weights of a linear map of TFN's tensor     (3.2)
    y = sum_r lambda_r prod_m (w_m^(r) . z_m) + b, elementwise in the outputs                        (3.3)

Axes: B utterances, M modalities, R rank, C outputs; d_m width of the embedding of modality m.

The lambda_r are the fusion weights of the authors' code, which the paper has not; they are trained like all else.
Speech and vision are means over time, so the order of their frames does not matter. Readings:
- An absent modality has h_m = 0. Its 1 is left, and (3.3) holds the interactions of the others.
- Widths, rank, dropout, rate and decay are from the ranges that the authors' code searches (text 128, speech and vision
  16, rank 4, dropout 0.2, 1e-3, 1e-2); its batch normalisation of speech and vision is the standardisation of inputs.
- Start: Xavier's for the factors, as the code has it, but the row of the 1 starts at 1. So each product begins at 1
  plus what each modality says alone, instead of at the product of M small numbers.
"""

from __future__ import annotations

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
    """Settings of LMF."""

    rank: int = Field(default=4, ge=1)
    """R, the rank of the weights (3.2)."""
    text_hidden: int = Field(default=128, ge=1)
    """Width of the LSTM that reads text."""
    text_width: int = Field(default=64, ge=1)
    """Width of the embedding of text."""
    speech_width: int = Field(default=16, ge=1)
    """Width of the embedding of speech."""
    vision_width: int = Field(default=16, ge=1)
    """Width of the embedding of vision."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout of what each subnetwork reads."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> LMF:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that LMF does not take, or one whose frames are not vectors.
    """
    widths = vector_widths("lmf", PREFERS, tails)
    return LMF(widths, outputs(target), target.kind, **dict(config))


class LMF(Architecture):
    """Embeddings and their low-rank fusion. The arguments are those of `Config`, flat.

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
        rank: int,
        text_hidden: int,
        text_width: int,
        speech_width: int,
        vision_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.kind = kind
        d = {"text": text_width, "speech": speech_width, "vision": vision_width}
        self.embed = ModalityEmbeddings(widths, text_hidden, d, dict.fromkeys(widths, dropout))
        self.fusion = LowRankFusion([d[m] for m in widths], rank, outputs)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression."""
        logits = self.fusion(self.embed(batch))  # (3.1-3.3)
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits)


class LowRankFusion(nn.Module):
    """A linear map of the outer product of [h_m; 1], its weights of rank R (3.2-3.3).

    Args:
        widths: d_m of each modality.
        rank: R.
        outputs: C.
    """

    def __init__(self, widths: Sequence[int], rank: int, outputs: int) -> None:
        super().__init__()
        self.factors = nn.ParameterList(torch.empty(rank, d + 1, outputs) for d in widths)
        self.rank_weights = nn.Parameter(torch.empty(1, rank))
        self.bias = nn.Parameter(torch.zeros(outputs))
        for factor in self.factors:
            nn.init.xavier_normal_(factor)
            nn.init.ones_(factor.data[:, -1])
        nn.init.xavier_normal_(self.rank_weights)

    def forward(self, z: Sequence[Float[Tensor, "B _"]]) -> Float[Tensor, "B C"]:
        """The fused outputs, of z_m (B, d_m + 1) of each modality."""
        each = [torch.einsum("bd,rdc->brc", v, factor) for v, factor in zip(z, self.factors, strict=True)]
        product = torch.stack(each).prod(dim=0)
        return torch.einsum("r,brc->bc", self.rank_weights[0], product) + self.bias
