"""MulT: every modality reads every other through its own crossmodal transformer, without alignment.

Paper: Y.-H. H. Tsai, S. Bai, P. P. Liang, J. Z. Kolter, L.-P. Morency, R. Salakhutdinov, "Multimodal Transformer for
Unaligned Multimodal Language Sequences", 2019, section 3. Equation numbers in the margin are the paper's.

    X^_m = Conv1D_m(X_m)                                                                        (1)
    Z^[0]_m = X^_m + PE                                                                         (2)
    CM_{b->a}(Z_a, Z_b) = softmax(Z_a W_Q W_K' Z_b' / sqrt(d_k)) Z_b W_V, multi-head            (3)
    Z^[i] = CM^[i](LN(Z^[i-1]_{b->a}), LN(Z^[0]_b)) + LN(Z^[i-1]_{b->a}), Z^[0]_{b->a} = Z^[0]_a
    Z^[i]_{b->a} = f^[i](LN(Z^[i])) + LN(Z^[i]), i = 1 .. D                                      (4)
    Z_a = [Z^[D]_{b->a}; Z^[D]_{c->a}; ..] through a self-attention transformer, its last element   (3.2)
    y: a residual block over the last elements of all modalities, then a linear map             (3.2)

Axes: B utterances, T_m frames or tokens of modality m, M modalities, d model width, H heads, C outputs; a target, b
source of a crossmodal transformer, S frames of its source.

Readings:
- Sequences end where they end: padding is no key, and the last element is the last of the utterance's own.
- A source that is absent is read as zero, so that the target goes on through the residuals of (4) alone; the last
  element of an absent target is zero. One modality alone is its own Z_a, without crossmodal transformers.
- Attention sees the whole source. The authors' code hides what lies later, which the paper does not.
- Settings are those of the paper's Table 5 for CMU-MOSI (d 40, 4 blocks, 10 heads, kernels 1, 3, 3, dropout 0.2 of text
  and of the blocks' parts, 0.1 at the output, clip 0.8, 1e-3, batch 128, 100 epochs); three layers of self-attention,
  and an f of four times the width, are the code's. Early stopping, its schedule and AdamW for Adam are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.attention import MultiHeadAttention
from fuse.nn.convolution import Convolution
from fuse.nn.lengths import frame_mask
from fuse.tables import Table
from fuse.training.config import TrainConfig

PREFERS = {
    "text": ("roberta", "bert", "koelectra"),
    "speech": ("mfcc", "logmel", "hubert"),
    "vision": ("resnet", "vit"),
}
INPUTS = {"text": (300,), "speech": (74,), "vision": (35,)}
TRAINING = TrainConfig(lr=1e-3, clip=0.8, batch_size=128, max_epochs=100, patience=10)
ABLATIONS: dict[str, dict[str, object]] = {}
TABLES: tuple[Table, ...] = ()


class Config(Spec):
    """Settings of MulT."""

    d: int = Field(default=40, ge=2, multiple_of=2)
    """Width of every modality in the transformers."""
    blocks: int = Field(default=4, ge=1)
    """D, the blocks of each crossmodal transformer."""
    self_layers: int = Field(default=3, ge=1)
    """Layers of each self-attention transformer."""
    heads: int = Field(default=10, ge=1)
    """Attention heads, each d / heads wide."""
    text_kernel: int = Field(default=1, ge=1)
    """Tokens that the convolution of text sees (1), an odd number."""
    speech_kernel: int = Field(default=3, ge=1)
    """Frames that the convolution of speech sees (1), an odd number."""
    vision_kernel: int = Field(default=3, ge=1)
    """Frames that the convolution of vision sees (1), an odd number."""
    text_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout of text before its convolution."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout of what attention and f give, before it is added."""
    output_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout within the residual block."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> MulT:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that MulT does not take, one whose frames are not vectors, heads that do not divide d,
            or an even kernel.
    """
    widths = vector_widths("mult", PREFERS, tails)
    if config.d % config.heads:
        raise SettingsError(f"mult: heads = {config.heads} must divide d = {config.d}.")
    even = [name for name in ("text_kernel", "speech_kernel", "vision_kernel") if getattr(config, name) % 2 == 0]
    if even:
        raise SettingsError(f"mult: {even[0]} is even and has no middle frame: choose an odd number.")
    return MulT(widths, outputs(target), target.kind, **dict(config))


class MulT(Architecture):
    """Convolutions, crossmodal and self-attention transformers, residual block. Arguments as in `Config`, flat.

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
        d: int,
        blocks: int,
        self_layers: int,
        heads: int,
        text_kernel: int,
        speech_kernel: int,
        vision_kernel: int,
        text_dropout: float,
        dropout: float,
        output_dropout: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.kind = kind
        kernels = {"text": text_kernel, "speech": speech_kernel, "vision": vision_kernel}
        self.convolutions = nn.ModuleDict({m: Convolution(w, d, kernels[m], bias=False) for m, w in widths.items()})
        self.text_dropout = nn.Dropout(text_dropout)
        sources = {a: [b for b in widths if b != a] for a in widths}
        self.crossmodal = nn.ModuleDict(
            {f"{b}_to_{a}": Transformer(d, blocks, heads, dropout, True) for a in widths for b in sources[a]}
        )
        joined = d * max(len(widths) - 1, 1)
        self.own = nn.ModuleDict({a: Transformer(joined, self_layers, heads, dropout, False) for a in widths})
        whole = joined * len(widths)
        self.residual = nn.Sequential(
            nn.Linear(whole, whole), nn.ReLU(), nn.Dropout(output_dropout), nn.Linear(whole, whole)
        )
        self.classifier = nn.Linear(whole, outputs)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression.

        Drawn, after training: `attention_speech_to_text` etc., what the first block of each crossmodal transformer
        reads, mean over the heads (B, T_a, S); zero where either modality is absent, and in the padding.
        """
        lengths = batch.lengths
        start = {m: self.embedded(batch, m) for m in self.modalities}  # (1-2)
        inside = {m: frame_mask(lengths[m], start[m].shape[1]) for m in self.modalities}
        drawn, last = {}, []
        for column, a in enumerate(self.modalities):
            streams = []
            for b in self.modalities:
                if b != a:
                    stream, weights = self.crossmodal[f"{b}_to_{a}"](start[a], start[b], inside[b])  # (3-4)
                    streams.append(stream)
                    if weights is not None:
                        drawn[f"attention_{b}_to_{a}"] = weights * inside[a][..., None]
            z = torch.cat(streams, dim=2) if streams else start[a]
            z, _ = self.own[a](z, None, inside[a])
            end = (lengths[a] - 1).clamp(min=0)[:, None, None].expand(-1, 1, z.shape[2])
            last.append(z.gather(1, end).squeeze(1) * batch.available[:, column, None])
        h = torch.cat(last, dim=1)
        logits = self.classifier(h + self.residual(h))
        return Output(logits.squeeze(-1) if self.kind == "regression" else logits, drawn=drawn)

    def embedded(self, batch: Batch, modality: str) -> Float[Tensor, "B T d"]:
        """One modality's sequence at width d, its frames' positions added (1-2)."""
        x = batch.sequences[modality]
        x = self.text_dropout(x) if modality == "text" else x
        x = self.convolutions[modality](x)
        placed: Tensor = x + positions(x.shape[1], x.shape[2], x.device).to(x.dtype)
        return placed


class Transformer(nn.Module):
    """The blocks of (4), then a LayerNorm, as the authors' code has it; crossmodal, or of a sequence over itself.

    Args:
        d: width.
        blocks: how many.
        heads: attention heads; they divide d.
        dropout: of what attention and f give.
        crossmodal: whether the source is another sequence.
    """

    def __init__(self, d: int, blocks: int, heads: int, dropout: float, crossmodal: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(d, heads, dropout, crossmodal) for _ in range(blocks))
        self.norm = nn.LayerNorm(d)

    def forward(
        self, z: Float[Tensor, "B T d"], source: Float[Tensor, "B S d"] | None, inside: Bool[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B T d"], Float[Tensor, "B T S"] | None]:
        """The last block's output and, after training, the first one's attention, mean over the heads; `inside` is of
        the source."""
        maps = []
        for block in self.blocks:
            z, weights = block(z, source, inside)
            maps.append(weights)
        return self.norm(z), None if maps[0] is None else maps[0].mean(dim=1)


class Block(nn.Module):
    """Attention and f, each over a LayerNorm and added to it (4).

    Args:
        d: width.
        heads: attention heads.
        dropout: of what attention and f give.
        crossmodal: whether the source is another sequence, with a LayerNorm of its own; else it is the target.
    """

    def __init__(self, d: int, heads: int, dropout: float, crossmodal: bool) -> None:
        super().__init__()
        self.norm_target, self.norm_between = nn.LayerNorm(d), nn.LayerNorm(d)
        self.norm_source = nn.LayerNorm(d) if crossmodal else None
        self.attend = MultiHeadAttention(d, heads, d // heads)
        self.f = nn.Sequential(nn.Linear(d, 4 * d), nn.ReLU(), nn.Linear(4 * d, d))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, z: Float[Tensor, "B T d"], source: Float[Tensor, "B S d"] | None, inside: Bool[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B T d"], Float[Tensor, "B H T S"] | None]:
        """The block's output and, after training, its attention: both zero for an utterance whose source has no
        frames."""
        target = self.norm_target(z)
        memory = target if source is None or self.norm_source is None else self.norm_source(source)
        some = inside.any(dim=1)[:, None, None]
        read, weights = self.attend(target, memory, inside[:, None] | ~some)  # (3)
        between = self.norm_between(self.dropout(read) * some + target)
        return self.dropout(self.f(between)) + between, None if weights is None else weights * some[..., None]


def positions(frames: int, d: int, device: torch.device | None = None) -> Float[Tensor, "{frames} {d}"]:
    """Sines and cosines of the position at wavelengths from 2 pi to 10000 2 pi (Vaswani et al. 2017, 3.5)."""
    rate = torch.exp(torch.arange(0, d, 2, device=device) * (-math.log(10000.0) / d))
    angle = torch.arange(frames, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
