"""Late fusion: a classifier per modality, and a gated mixture, the mean or the vote of what they say.

Paper: M.-H. Yi, K.-C. Kwak, J.-H. Shin, "A Complementary Fusion Framework for Robust Multimodal Emotion Recognition",
2025, whose comparisons have late fusion and say no more; the mean (sum) and vote rules after J. Kittler et al., "On
combining classifiers", 1998, section 2; the gate after R. A. Jacobs et al., "Adaptive mixtures of local experts", 1991.

    h_m = text: BiLSTM(x_m); else: max over time of CNN(x_m)                         (1)
    p_m = softmax(W2_m ReLU(W1_m h_m + b1_m) + b2_m)                                 (2)
    mean:  p = 1/n sum_m p_m over the n available modalities                         (3)
    vote:  p = (v + 1/n sum_m p_m) / (n + 1), v_c = how many p_m are greatest at c    (4)
    gated: p = sum_m g_m p_m, g = softmax(W_g [a_1 h_1; a_1; ..; a_M h_M; a_M] + b_g) (5)

Axes: B utterances, M modalities, C outputs.

Readings, where the papers are silent:
- A vote has no gradient. With the mean and the vote each classifier is trained by itself, with its own loss, early
  stopping and best epoch (a stage each), and they meet in the prediction only. The gate is trained with them, jointly.
- (4) gives the mean of the probabilities one vote in all: it breaks ties and overrules nothing.
- Absent modalities have no vote, weigh nothing and teach their classifier nothing; a_m = 1 where one is available.
- Multilabel: each class is a decision of its own, p_m a sigmoid. Regression: the numbers themselves are averaged, or
  mixed; their vote is the median.
- The classifiers are those of `bilstm` and `cnn`; widths, dropout and training are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.convolution import Convolutions
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
    """Settings of late fusion."""

    fusion: Literal["mean", "vote", "gated"] = "gated"
    """How the classifiers' predictions are joined: (3), (4) or (5), which alone learns what a modality is worth."""
    hidden: int = Field(default=128, ge=1)
    """Width of each direction of the BiLSTM, and of every classifier's hidden layer."""
    channels: tuple[int, ...] = Field(default=(128, 128), min_length=1)
    """Channels of the convolutions."""
    kernel: int = Field(default=5, ge=1)
    """Frames that each convolution sees, an odd number."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout between the convolutions, before and within the classifiers."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> LateFusion:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that it does not take, one whose frames are not vectors, or an even kernel.
    """
    widths = vector_widths("late-fusion", PREFERS, tails)
    if config.kernel % 2 == 0:
        raise SettingsError(f"late-fusion: kernel = {config.kernel} has no middle frame: choose an odd number.")
    return LateFusion(widths, outputs(target), target.kind, **dict(config))


class LateFusion(Architecture):
    """A classifier per modality, a submodule called after it each, and what joins them. Arguments as in `Config`, flat.

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
        fusion: Literal["mean", "vote", "gated"],
        hidden: int,
        channels: tuple[int, ...],
        kernel: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.kind, self.fusion = kind, fusion
        self.stages = () if fusion == "gated" or len(widths) == 1 else self.modalities
        read = 0
        for modality, width in widths.items():
            encoder: LSTM | Convolutions
            if modality == "text":
                encoder, wide = LSTM(width, hidden, bidirectional=True), 2 * hidden
            else:
                encoder, wide = Convolutions(width, channels, kernel, dropout), channels[-1]
            self.add_module(modality, Classifier(encoder, wide, hidden, outputs, dropout))
            read += wide + 1
        self.gate = nn.Linear(read, len(widths)) if fusion == "gated" and len(widths) > 1 else None

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression.

        Drawn: `weights` of (3) or (5) (B, M), for each modality `weight_text` etc. (B,), and `unimodal`, what each
        classifier says by itself: probabilities (B, M, C), for regression numbers (B, M, 1).
        """
        if self.stage is not None:
            return self.alone(batch, self.stage)
        read, said = [], []
        for column, modality in enumerate(self.modalities):
            h, logits = self.get_submodule(modality)(batch.sequences[modality], batch.lengths[modality])  # (1-2)
            there = batch.available[:, column, None].to(h.dtype)
            read += [h * there, there]
            said.append(logits)
        each, available = torch.stack(said, dim=1), batch.available
        scores = each.new_zeros(available.shape) if self.gate is None else self.gate(torch.cat(read, dim=1))
        shares = scores.masked_fill(~available, float("-inf")).log_softmax(dim=1)  # (3), (5)
        if self.fusion == "vote" and not self.training:
            logits = vote(each, available, self.kind)  # (4)
        else:
            logits = mixture(each, shares, self.kind)
        weights = shares.exp()
        drawn = {"weights": weights, "unimodal": said_alone(each, self.kind)}
        drawn |= {f"weight_{m}": weights[:, i] for i, m in enumerate(self.modalities)}
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits, drawn=drawn)

    def alone(self, batch: Batch, modality: str) -> Output:
        """One modality's classifier by itself, which learns nothing from utterances without the modality."""
        _, logits = self.get_submodule(modality)(batch.sequences[modality], batch.lengths[modality])
        there = batch.available[:, self.modalities.index(modality), None]
        logits = torch.where(there, logits, logits.detach())
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits)


class Classifier(nn.Module):
    """An encoder of one modality, and what it says by itself (1-2).

    Args:
        encoder: a `LSTM` or `Convolutions`.
        width: of what it gives.
        hidden: width of the hidden layer.
        outputs: C.
        dropout: before and after the hidden layer.
    """

    def __init__(self, encoder: LSTM | Convolutions, width: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
        )

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Float[Tensor, "B _"], Float[Tensor, "B C"]]:
        """h_m and the logits of p_m, of frames (B, T_m, D_m)."""
        found = self.encoder(x, lengths)
        h: Tensor = found[1] if isinstance(found, tuple) else found
        return h, self.head(h)


def said_alone(each: Float[Tensor, "B M C"], kind: str) -> Float[Tensor, "B M C"]:
    """Probabilities, or the numbers of regression."""
    if kind == "regression":
        return each
    return torch.sigmoid(each) if kind == "multilabel" else each.softmax(dim=-1)


def mixture(each: Float[Tensor, "B M C"], shares: Float[Tensor, "B M"], kind: str) -> Float[Tensor, "B C"]:
    """Logits of the weighted mean of the probabilities, or the weighted mean of the numbers (3), (5); of the logarithms
    of the weights."""
    shares = shares[..., None]
    if kind == "regression":
        return (shares.exp() * each).sum(dim=1)
    if kind == "classification":
        return (shares + each.log_softmax(dim=-1)).logsumexp(dim=1)
    yes, no = ((shares + F.logsigmoid(side)).logsumexp(dim=1) for side in (each, -each))
    return yes - no


def vote(each: Float[Tensor, "B M C"], available: Bool[Tensor, "B M"], kind: str) -> Float[Tensor, "B C"]:
    """Logits of the votes and the mean, one vote for itself; for regression the median (4)."""
    there = available[..., None]
    count = available.sum(dim=1, keepdim=True)
    if kind == "regression":
        ordered = each.masked_fill(~there, float("inf")).sort(dim=1).values
        middle = [ordered.gather(1, place[..., None]) for place in ((count - 1) // 2, count // 2)]
        return ((middle[0] + middle[1]) / 2).squeeze(1)
    mean = mixture(each, (available / count.to(each.dtype)).log(), kind)
    if kind == "classification":
        votes = (F.one_hot(each.argmax(dim=-1), each.shape[-1]) * there).sum(dim=1)
        return torch.logaddexp(votes.to(each.dtype).log(), mean) - (count + 1).to(each.dtype).log()
    votes = ((each > 0) & there).sum(dim=1).to(each.dtype)
    against = count - votes
    return torch.logaddexp(votes.log(), F.logsigmoid(mean)) - torch.logaddexp(against.log(), F.logsigmoid(-mean))
