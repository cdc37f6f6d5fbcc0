"""MLP: the graph of tokens and frames alone, through graph attention, the mean of its nodes and a perceptron.

Paper: M.-H. Yi, K.-C. Kwak, J.-H. Shin, "A Complementary Fusion Framework for Robust Multimodal Emotion Recognition",
2025, whose comparisons have it as the unimodal model of its third, auxiliary modality, the graph embedding, and say no
more; the graph is that of its Algorithm 3, the attention S. Brody, U. Alon, E. Yahav, "How attentive are graph
attention networks?", 2022, equation 7.

    n_i = W_m x_i of every token and frame of modality m                                   (1)
    n_i <- sum_j alpha_ij W n_j, alpha_ij = softmax_j a . LeakyReLU(W n_j + W' n_i), over
           j = i, the frames within a token's interval, and the tokens around a frame       (2)
    y = W2 ReLU(W1 mean_i n_i + b1) + b2                                                   (3)

Axes: B utterances, M text tokens, T speech frames, d width of a node, C outputs.

Readings, where the paper is silent:
- A token has the interval of its word and is joined to the frames whose middle lies within, both ways. Without
  intervals, or with one of the two modalities, every node reads itself alone: (3) is then a perceptron over what is as
  good as the mean of the features.
- Speech longer than `frames` is adaptively pooled, and the times of its frames with it; tokens beyond as many are cut.
- Widths, dropout and training are ours; batch size, epochs and patience are those of the paper's own branches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Companion, Output, outputs, vector_widths
from fuse.nn.interval_gat import IntervalGAT, frames_within
from fuse.nn.lengths import frame_mask, shorten
from fuse.tables import Table
from fuse.training.config import TrainConfig

PREFERS = {"text": ("koelectra", "roberta", "bert"), "speech": ("hubert", "logmel", "mfcc")}
INPUTS = {"text": (768,), "speech": (768,)}
COMPANIONS = {
    "intervals": Companion(
        modality="text",
        features=("words",),
        join="words",
        tail=(2,),
        needs=("speech",),
        without="every token and frame stands alone in the graph",
    )
}
TRAINING = TrainConfig(lr=1e-3, batch_size=32, max_epochs=100, patience=5)
ABLATIONS: dict[str, dict[str, object]] = {}
TABLES: tuple[Table, ...] = ()


class Config(Spec):
    """Settings of the MLP."""

    d: int = Field(default=128, ge=1)
    """Width of a node."""
    layers: int = Field(default=2, ge=1)
    """Layers of graph attention."""
    heads: int = Field(default=4, ge=1)
    """Heads of graph attention; they share d."""
    frames: int = Field(default=128, ge=1)
    """Speech frames to which longer utterances are pooled, and tokens at which text is cut off."""
    hidden: int = Field(default=128, ge=1)
    """Width of the perceptron's hidden layer."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout of the nodes and within the perceptron."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> MLP:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that it does not take or whose frames are not vectors; heads that do not divide d.
    """
    widths = vector_widths("mlp", PREFERS, tails)
    if config.d % config.heads:
        raise SettingsError(f"mlp: heads = {config.heads} must divide d = {config.d}.")
    return MLP(widths, outputs(target), target.kind, **dict(config))


class MLP(Architecture):
    """Graph attention, mean, perceptron. The arguments are those of `Config`, flat.

    Args:
        widths: width of each modality's frames; its keys are the modalities, text or speech or both.
        outputs: C, the number of classes, or 1 for regression.
        kind: the target's kind.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: int,
        kind: str,
        d: int,
        layers: int,
        heads: int,
        frames: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        if len(widths) == 2:
            self.companions = {"intervals": "text"}
        self.kind, self.frames, self.d = kind, frames, d
        self.project = nn.ModuleDict({m: nn.Linear(width, d) for m, width in widths.items()})
        self.gat = nn.ModuleList(IntervalGAT(d, heads, "v2") for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.perceptron = nn.Sequential(
            nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
        )

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression.

        Drawn: `graph`, how much of each frame a token reads in the first layer (B, M, T).
        """
        streams, lengths, first, past = self.nodes(batch)
        inside = {m: frame_mask(lengths[m], x.shape[1])[..., None] for m, x in streams.items()}
        drawn: dict[str, Tensor] = {}
        text, speech = (self.dropout(streams[m]) for m in ("text", "speech"))  # (1)
        for number, layer in enumerate(self.gat):
            if number:
                text, speech = self.dropout(F.elu(text)), self.dropout(F.elu(speech))
            text, speech, seen = layer(text, speech, first, past)  # (2)
            if not number:
                drawn["graph"] = seen
        total = (text * inside["text"]).sum(dim=1) + (speech * inside["speech"]).sum(dim=1)
        count = (lengths["text"] + lengths["speech"]).clamp(min=1)[:, None]
        logits = self.perceptron(total / count.to(total.dtype))  # (3)
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits, drawn=drawn)

    def nodes(
        self, batch: Batch
    ) -> tuple[dict[str, Float[Tensor, "B _ d"]], dict[str, Int[Tensor, " B"]], Int[Tensor, "B M"], Int[Tensor, "B M"]]:
        """Tokens and frames, how many there are, and each token's first and past-last frame. Of a modality that the
        model does not take there are none."""
        of_any = batch.sequences[self.modalities[0]]
        nobody, none = of_any.new_zeros(len(of_any), 0, self.d), torch.zeros_like(batch.lengths[self.modalities[0]])
        streams, lengths = {"text": nobody, "speech": nobody}, {"text": none, "speech": none}
        if "text" in self.project:
            streams["text"] = self.project["text"](batch.sequences["text"][:, : self.frames])
            lengths["text"] = batch.lengths["text"].clamp(max=self.frames)
        first = past = none[:, None].expand(-1, streams["text"].shape[1])
        if "speech" in self.project:
            short, lengths["speech"], times = shorten(batch.sequences["speech"], batch.lengths["speech"], self.frames)
            streams["speech"] = self.project["speech"](short)
            intervals, there = batch.companions.get("intervals"), batch.companions_there.get("intervals")
            if "text" in self.project and intervals is not None and there is not None:
                within = intervals[:, : self.frames], there[:, : self.frames]
                first, past = frames_within(*within, times, lengths["speech"])
        return streams, lengths, first, past
