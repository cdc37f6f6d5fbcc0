"""OF-CMAER-CAT: CNN encoders aligned by cross-modal attention, weighed by their statistics, read by a Transformer.

Paper: M. Sharma D, S. Sharma D, Mohanish B M et al., "Robust Emotion Recognition Multimodal Using an Optimized
Cross-Modal Data Fusion Framework", JESA 59(1), 2026, section 3. Equation numbers in the margin are the paper's.

Axes: B utterances, T_m frames or tokens of modality m, D its width, T_i steps of the encoded modality i, M modalities,
S shared steps, d model width, H and W pixels of a face crop, C outputs.

Differs from the paper in that its vision CNN reads cached frame vectors, as the other modalities' do, and without
augmentation. Where the vision feature is cached face crops, frames of shape (H, W, 3), a small 2-D CNN over the pixels
comes first, with the paper's augmentations (4.1): mirroring, random crops, changes of illumination, drawn once per
utterance. Of the preprocessing in 4.1, resampling, pre-emphasis, deltas, resizing and trimming of silence are settings
of the encoders, and standardisation is one of training; stop words stay and nothing is lemmatised, as the text encoder
is a contextual one. Readings:
- Encoders (1): two convolutions over time, ReLU between them. Speech and physiology, whose frames are many, are
  averaged to T_i = T / pool.
- W_Q, W_K, W_V (3), W_phi (6) and MLP_w (8) have no index: one for all modalities. d_k = d. G_i (7) is an MLP over a
  step's F_i and F~_i, one per modality.
- One modality available: F~ = 0, its weight is 1, the contrastive term is 0.
- (8): the variance is over time, per channel; 0 for a single frame.
- (9-10): the softmax is over the available modalities, so that (10) has nothing to renormalise.
- (15-17): (16) prints a sum within one sample, the text has negatives and a batch: q runs over the utterances of the
  batch that have modality j. Positives are all ordered pairs (i, j) of a sample's modalities; those of an anchor i are
  averaged, the anchors of a sample summed as printed.
- (18-19): (18) is the entropy, which minimising (19) as printed would lower; the text wants no modality to dominate. It
  is subtracted; a negative `entropy_weight` has the printed sign.
- Reconstruction, which the paper does not define: a linear map from F_i^a to what the encoder read, averaged to T_i
  steps (face crops: to 8 x 8 pixels also); squared error, mean over an utterance, the batch, the modalities.
- (11-13) and (20-22) are two heads. The Transformer reads sum_i w_i F_i^a on S shared steps, with learned positions;
  its mean over time is concatenated with the weighted embeddings w_i Pool(F_i^a) of the modalities (20), then (21-22).
  Without the Transformer, h_fused of (11) takes its place.
- lambda_1 is 1 and lambda_5 the optimizer's weight decay.
- Table 4: without CMAA F~ = 0; without AWOM the available modalities weigh alike. Reconstruction stays in every row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs
from fuse.nn.contrastive import info_nce
from fuse.nn.convolution import Convolution
from fuse.nn.face_crops import FaceCropCNN
from fuse.nn.lengths import average_pool, frame_mask, resample
from fuse.nn.transformer import EncoderLayer
from fuse.tables import Column, Row, Table
from fuse.training.config import TrainConfig

PREFERS = {
    "vision": ("resnet", "vit", "face-crops"),
    "speech": ("logmel", "mfcc", "hubert"),
    "text": ("roberta", "bert", "koelectra"),
    "physiology": ("physio",),
}
INPUTS = {"vision": (512,), "speech": (80,), "text": (768,), "physiology": (40,)}
TRAINING = TrainConfig(
    optimizer="adam", lr=1e-4, weight_decay=1e-4, scheduler="constant", batch_size=32, max_epochs=100
)
ABLATIONS: dict[str, dict[str, object]] = {
    "CNN encoders only": {"cmaa": False, "awom": False, "contrastive": False, "transformer": False},
    "+ CMAA": {"awom": False, "contrastive": False, "transformer": False},
    "+ AWOM": {"contrastive": False, "transformer": False},
    "+ contrastive loss": {"transformer": False},
}
"""Table 4's ladder; the Transformer makes it the full model."""
TABLES = (
    Table(
        key="4",
        title="Table 4, IEMOCAP 4-way, accuracy",
        columns=(Column("Accuracy", "accuracy"),),
        rows=(
            Row("CNN encoders only", ABLATIONS["CNN encoders only"], (0.812,)),
            Row("+ CMAA", ABLATIONS["+ CMAA"], (0.869,)),
            Row("+ AWOM", ABLATIONS["+ AWOM"], (0.897,)),
            Row("+ contrastive loss", ABLATIONS["+ contrastive loss"], (0.918,)),
            Row("+ Transformer (OF-CMAER-CAT)", {}, (0.932,)),
        ),
    ),
)
THUMBNAIL = 8
"""Pixels of the side to which face crops are averaged before they are reconstructed."""


class Config(Spec):
    """Settings of OF-CMAER-CAT."""

    d: int = Field(default=128, ge=1)
    """Width into which every modality is encoded (1)."""
    convolutions: int = Field(default=2, ge=1)
    """Convolutions over time of each modality's encoder."""
    kernel: int = Field(default=3, ge=1)
    """Frames that each of them sees, an odd number."""
    speech_pool: int = Field(default=4, ge=1)
    """Encoded speech frames that are averaged to one step."""
    physiology_pool: int = Field(default=4, ge=1)
    """Encoded physiological frames that are averaged to one step."""
    crop_channels: tuple[int, ...] = Field(default=(16, 32, 64), min_length=1)
    """Channels of the 2-D CNN's layers, for face crops."""
    crop: float = Field(default=0.9, gt=0, le=1)
    """Share of a face crop's sides that the 2-D CNN sees: at a random place in training, else in the middle."""
    illumination: float = Field(default=0.2, ge=0)
    """Greatest change of a face crop's contrast and brightness in training."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability that training mirrors an utterance's face crops."""
    cmaa: bool = True
    """Cross-modal attention alignment (3-6); false: the modalities do not see one another."""
    awom: bool = True
    """Adaptive weights (8-10); false: the available modalities weigh alike."""
    contrastive: bool = True
    """Whether the contrastive loss (15-17) is part of training."""
    transformer: bool = True
    """Transformer over the weighted sequence; false: the weighted sum (11) takes its place."""
    steps: int = Field(default=8, ge=1)
    """Shared steps of the sequence that the Transformer reads."""
    layers: int = Field(default=2, ge=1)
    """Layers of the Transformer."""
    heads: int = Field(default=4, ge=1)
    """Attention heads of each layer; they divide d."""
    ffn_factor: int = Field(default=4, ge=1)
    """Width of its feed-forward part, in multiples of d."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in encoders and Transformer."""
    classifier_dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout before the output layer (22)."""
    temperature: float = Field(default=0.07, gt=0)
    """tau of (15-16)."""
    contrastive_weight: float = Field(default=0.1, ge=0)
    """lambda_2 of (19)."""
    reconstruction_weight: float = Field(default=0.1, ge=0)
    """lambda_3 of (19)."""
    entropy_weight: float = 0.01
    """lambda_4 of (19), with which the entropy of the weights is rewarded; negative: punished, as printed."""
    epsilon: float = Field(default=1e-8, gt=0)
    """What keeps the logarithm of (18) finite."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> OFCMAERCAT:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: heads that do not divide d, an even kernel, a modality that OF-CMAER-CAT does not take, or one
            whose frames are neither vectors nor face crops.
    """
    for modality, tail in tails.items():
        crops = modality == "vision" and len(tail) == 3 and tail[-1] == 3
        if modality not in PREFERS or not (len(tail) == 1 or crops):
            raise SettingsError(
                f"of-cmaer-cat reads one vector per frame of {', '.join(PREFERS)}, or face crops (height, width, 3) as "
                f"vision; {modality} has {tail}: choose another feature with --features."
            )
    if config.d % config.heads:
        raise SettingsError(f"of-cmaer-cat: {config.heads} heads do not divide d = {config.d}.")
    if config.kernel % 2 == 0:
        raise SettingsError(f"of-cmaer-cat: kernel = {config.kernel} has no middle: choose an odd number.")
    return OFCMAERCAT(tails=dict(tails), outputs=outputs(target), kind=target.kind, **dict(config))


def canonical(config: Config, modalities: tuple[str, ...]) -> Config:
    """Without the settings that change nothing: see `fuse/arch.py`."""
    idle: set[str] = set()
    if len(modalities) == 1:
        idle |= {"cmaa", "awom", "contrastive"}
    if not config.transformer:
        idle |= {"steps", "layers", "heads", "ffn_factor"}
    if not config.contrastive or len(modalities) == 1:
        idle |= {"contrastive_weight", "temperature"}
    if not config.awom or len(modalities) == 1:
        idle |= {"entropy_weight", "epsilon"}
    if "speech" not in modalities:
        idle |= {"speech_pool"}
    if "physiology" not in modalities:
        idle |= {"physiology_pool"}
    if "vision" not in modalities:
        idle |= {"crop_channels", "crop", "illumination", "flip"}
    return config.at_default(idle)


class OFCMAERCAT(Architecture):
    """Section 3. The arguments are those of `Config`, flat.

    Args:
        tails: shape of one frame of each modality; its keys are the modalities, one or more.
        outputs: C, the number of classes, or 1 for regression.
        kind: the target's kind.
    """

    def __init__(
        self,
        tails: Mapping[str, tuple[int, ...]],
        outputs: int,
        kind: str,
        d: int,
        convolutions: int,
        kernel: int,
        speech_pool: int,
        physiology_pool: int,
        crop_channels: tuple[int, ...],
        crop: float,
        illumination: float,
        flip: float,
        cmaa: bool,
        awom: bool,
        contrastive: bool,
        transformer: bool,
        steps: int,
        layers: int,
        heads: int,
        ffn_factor: int,
        dropout: float,
        classifier_dropout: float,
        temperature: float,
        contrastive_weight: float,
        reconstruction_weight: float,
        entropy_weight: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(tails)
        several = len(tails) > 1
        self.kind, self.temperature, self.epsilon = kind, temperature, epsilon
        self.contrastive_weight = contrastive_weight if contrastive and several else 0.0
        self.reconstruction_weight, self.entropy_weight = reconstruction_weight, entropy_weight
        self.pools = dict.fromkeys(tails, 1) | {"speech": speech_pool, "physiology": physiology_pool}
        self.crops = nn.ModuleDict(
            {m: FaceCropCNN(crop_channels, crop, illumination, flip) for m, tail in tails.items() if len(tail) == 3}
        )
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for m, tail in tails.items():
            read, shown = (tail[0], tail[0]) if len(tail) == 1 else (crop_channels[-1], THUMBNAIL**2 * 3)
            self.encoders[m] = Encoder(read, d, convolutions, kernel, self.pools[m], dropout)
            if reconstruction_weight:
                self.decoders[m] = nn.Linear(d, shown)
        self.align = CrossModalAlignment(self.modalities, d) if cmaa and several else None
        self.norms = nn.ModuleDict({m: nn.LayerNorm(d) for m in tails})
        # The bias of the last layer of MLP_w would cancel in the softmax of (9).
        weighs = awom and several
        self.weigh = nn.Sequential(nn.Linear(2 * d, d), nn.ReLU(), nn.Linear(d, 1, bias=False)) if weighs else None
        self.context = Context(d, steps, layers, heads, ffn_factor * d, dropout) if transformer else None
        fused = d * (1 + len(tails))
        self.project = nn.Sequential(
            nn.LayerNorm(fused), nn.Linear(fused, d), nn.ReLU(), nn.Dropout(classifier_dropout)
        )
        self.classify = nn.Linear(d, outputs)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression; in training the further losses of (19).

        Drawn, after training: `weights` of (10) (B, M), each also as `weight_text` etc. (B,); with alignment, `alpha`
        of (6) (B, M, M), the attention of (4) from i to j as `attention_text_speech` etc. (B, T_i, T_j), and the mean
        gate of (7) as `gate_text` etc. (B,). Where a modality is not available they are zero.
        """
        frames = [self.frames(batch, m) for m in self.modalities]
        encoded = [self.encoders[m](x, batch.lengths[m]) for m, x in zip(self.modalities, frames, strict=True)]  # (1)
        f = [each for each, _ in encoded]
        lengths = [length for _, length in encoded]
        pooled = torch.stack([mean_over_time(x, n) for x, n in zip(f, lengths, strict=True)], dim=1)  # (2)

        drawn: dict[str, Tensor] = {}
        aligned = f
        if self.align is not None:
            aligned, drawn = self.align(f, lengths, pooled, batch.available)  # (3-6) and the sum of (7)
        aligned = [
            self.norms[m](x) * frame_mask(n, x.shape[1])[..., None]  # (7)
            for m, x, n in zip(self.modalities, aligned, lengths, strict=True)
        ]
        weights = self.weights(f, lengths, pooled, batch.available)  # (8-10)

        parts = [mean_over_time(x, n) for x, n in zip(aligned, lengths, strict=True)]
        z = weights[..., None] * torch.stack(parts, dim=1)
        context = z.sum(dim=1) if self.context is None else self.context(aligned, lengths, weights)  # (11)
        h = self.project(torch.cat([context, z.flatten(1)], dim=1))  # (20-21)
        logits = self.classify(h)  # (22)
        logits = logits.squeeze(-1) if self.kind == "regression" else logits
        if self.training:
            return Output(logits, self.losses(batch, frames, aligned, lengths, pooled, weights))
        drawn["weights"] = weights
        drawn |= {f"weight_{m}": weights[:, i] for i, m in enumerate(self.modalities)}
        return Output(logits, drawn=drawn)

    def frames(self, batch: Batch, modality: str) -> Float[Tensor, "B _ D"]:
        """What a modality's encoder reads: its frames, or what the 2-D CNN makes of its face crops."""
        x = batch.sequences[modality]
        if modality not in self.crops:
            return x
        vectors: Tensor = self.crops[modality](x, frame_mask(batch.lengths[modality], x.shape[1]))
        return vectors

    def weights(
        self,
        f: list[Float[Tensor, "B _ d"]],
        lengths: list[Int[Tensor, " B"]],
        pooled: Float[Tensor, "B M d"],
        available: Bool[Tensor, "B M"],
    ) -> Float[Tensor, "B M"]:
        """How much each modality counts (8-10); the available ones alike where that is switched off."""
        scores = pooled.new_zeros(available.shape)
        if self.weigh is not None:
            deviations = [
                (x - pooled[:, i, None]) * frame_mask(n, x.shape[1])[..., None]
                for i, (x, n) in enumerate(zip(f, lengths, strict=True))
            ]
            squares = [mean_over_time(x.square(), n) for x, n in zip(deviations, lengths, strict=True)]
            scores = self.weigh(torch.cat([pooled, torch.stack(squares, dim=1)], dim=-1)).squeeze(-1)  # (8)
        return scores.masked_fill(~available, float("-inf")).softmax(dim=1)  # (9-10)

    def losses(
        self,
        batch: Batch,
        frames: list[Float[Tensor, "B _ _"]],
        aligned: list[Float[Tensor, "B _ d"]],
        lengths: list[Int[Tensor, " B"]],
        pooled: Float[Tensor, "B M d"],
        weights: Float[Tensor, "B M"],
    ) -> dict[str, Float[Tensor, ""]]:
        """The terms of (19) beside the classification loss and weight decay."""
        found = {}
        if self.contrastive_weight:
            found["contrastive"] = self.contrastive_weight * self.contrast(pooled, batch.available)
        if self.decoders:
            each = [
                self.reconstruction(m, batch, x, frames[i], lengths[i])
                for i, (m, x) in enumerate(zip(self.modalities, aligned, strict=True))
            ]
            found["reconstruction"] = self.reconstruction_weight * torch.stack(each).mean()
        if self.weigh is not None and self.entropy_weight:
            entropy = -(weights * (weights + self.epsilon).log()).sum(dim=1)  # (18)
            found["entropy"] = -self.entropy_weight * entropy.mean()
        return found

    def contrast(self, pooled: Float[Tensor, "B M d"], available: Bool[Tensor, "B M"]) -> Float[Tensor, ""]:
        """(17), over all ordered pairs of modalities."""
        total = pooled.new_zeros(len(pooled))
        partners = (available.sum(dim=1) - 1).clamp(min=1)
        for i in range(len(self.modalities)):
            for j in range(len(self.modalities)):
                if i != j:
                    both = available[:, i] & available[:, j]
                    each = info_nce(pooled[:, i], pooled[:, j], both, available[:, j], self.temperature)  # (15-16)
                    total = total + each / partners
        return total.mean()

    def reconstruction(
        self,
        modality: str,
        batch: Batch,
        aligned: Float[Tensor, "B T_i d"],
        frames: Float[Tensor, "B T_m _"],
        lengths: Int[Tensor, " B"],
    ) -> Float[Tensor, ""]:
        """Mean squared error of a modality's reconstruction, over the utterances that have it; 0 where none has."""
        shown = frames if modality not in self.crops else thumbnails(batch.sequences[modality])
        wanted, _ = average_pool(shown, batch.lengths[modality], self.pools[modality])
        inside = frame_mask(lengths, aligned.shape[1])
        errors: Tensor = (self.decoders[modality](aligned) - wanted).square().mean(dim=-1) * inside
        own = errors.sum(dim=1) / lengths.clamp(min=1)
        return own.sum() / (lengths > 0).sum().clamp(min=1)


class Encoder(nn.Module):
    """Convolutions over time with ReLU between them, then means of `pool` steps (1).

    Args:
        width: D, width of a frame.
        d: width of what comes out.
        convolutions: how many.
        kernel: frames that each sees, an odd number.
        pool: encoded frames that are averaged to one step.
        dropout: before each convolution but the first.
    """

    def __init__(self, width: int, d: int, convolutions: int, kernel: int, pool: int, dropout: float) -> None:
        super().__init__()
        widths = [width] + [d] * (convolutions - 1)
        self.convolutions = nn.ModuleList(Convolution(w, d, kernel) for w in widths)
        self.pool, self.dropout = pool, nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B _ d"], Int[Tensor, " B"]]:
        """The steps, zero in the padding, and how many each utterance has. Every convolution finds zeros there too."""
        inside = frame_mask(lengths, x.shape[1])[..., None]
        for i, convolution in enumerate(self.convolutions):
            x = convolution(x if i == 0 else self.dropout(F.relu(x))) * inside
        return average_pool(x, lengths, self.pool)


class CrossModalAlignment(nn.Module):
    """What each modality reads in the others, added through a gate (3-7, without the LayerNorm).

    Args:
        modalities: names, two or more.
        d: model width.
    """

    def __init__(self, modalities: tuple[str, ...], d: int) -> None:
        super().__init__()
        self.modalities, self.scale = modalities, d**-0.5
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        # Of two modalities each has one partner, whose weight is 1 whatever W_phi holds.
        self.compatibility = nn.Linear(d, d, bias=False) if len(modalities) > 2 else None
        self.gates = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(2 * d, d), nn.ReLU(), nn.Linear(d, d)) for m in modalities}
        )

    def forward(
        self,
        f: list[Float[Tensor, "B _ d"]],
        lengths: list[Int[Tensor, " B"]],
        pooled: Float[Tensor, "B M d"],
        available: Bool[Tensor, "B M"],
    ) -> tuple[list[Float[Tensor, "B _ d"]], dict[str, Float[Tensor, " B *_"]]]:
        """F_i + sigmoid(G_i) * F~_i of each modality, and what is drawn."""
        alpha = self.alpha(pooled, available)
        drawn = {"alpha": alpha}
        queries, keys, values = ([project(x) for x in f] for project in (self.query, self.key, self.value))  # (3)
        found = []
        for i, name in enumerate(self.modalities):
            own = frame_mask(lengths[i], f[i].shape[1])[..., None]
            read = torch.zeros_like(f[i])
            for j, other in enumerate(self.modalities):
                if i == j:
                    continue
                # A partner that is not available is seen as zeros, so that no softmax is empty, and weighs nothing.
                visible = frame_mask(lengths[j], f[j].shape[1]) | ~available[:, j, None]
                scores = (queries[i] @ keys[j].transpose(1, 2) * self.scale).masked_fill(
                    ~visible[:, None], float("-inf")
                )
                attention = scores.softmax(dim=-1)
                read = read + alpha[:, i, j, None, None] * (attention @ values[j])  # (4-5)
                drawn[f"attention_{name}_{other}"] = attention * own * available[:, j, None, None]
            gate = torch.sigmoid(self.gates[name](torch.cat([f[i], read], dim=-1)))
            drawn[f"gate_{name}"] = mean_over_time(gate * own, lengths[i]).mean(dim=1)
            found.append(f[i] + gate * read)  # (7)
        return found, drawn

    def alpha(self, pooled: Float[Tensor, "B M d"], available: Bool[Tensor, "B M"]) -> Float[Tensor, "B M M"]:
        """The weight of modality j for modality i (6); zero where either is not available."""
        itself = torch.eye(len(self.modalities), dtype=torch.bool, device=pooled.device)
        partner = available[:, None] & available[:, :, None] & ~itself
        phi: Tensor = pooled.new_zeros(partner.shape)
        if self.compatibility is not None:
            phi = self.compatibility(pooled) @ pooled.transpose(1, 2)
        lonely = ~partner.any(dim=-1, keepdim=True)
        return phi.masked_fill(~(partner | lonely), float("-inf")).softmax(dim=-1) * partner


class Context(nn.Module):
    """A Transformer over the weighted modalities on shared steps, with learned positions, and its mean over time.

    Args:
        d: model width.
        steps: S.
        layers: Transformer layers.
        heads: attention heads of each, which divide d.
        hidden: width of the feed-forward part.
        dropout: of each sublayer's output.
    """

    def __init__(self, d: int, steps: int, layers: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.steps, self.positions = steps, nn.Parameter(0.02 * torch.randn(steps, d))
        self.layers = nn.ModuleList(EncoderLayer(d, heads, d // heads, hidden, dropout) for _ in range(layers))

    def forward(
        self, aligned: list[Float[Tensor, "B _ d"]], lengths: list[Int[Tensor, " B"]], weights: Float[Tensor, "B M"]
    ) -> Float[Tensor, "B d"]:
        """One vector per utterance."""
        shared = torch.stack([resample(x, n, self.steps) for x, n in zip(aligned, lengths, strict=True)], dim=-1)
        x = (shared * weights[:, None, None]).sum(dim=-1) + self.positions
        for layer in self.layers:
            x, _ = layer(x, x, x, None)
        return x.mean(dim=1)


def mean_over_time(x: Float[Tensor, "B T d"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B d"]:
    """Mean over each sequence's own steps, of steps that are zero in the padding; zero for an empty sequence."""
    return x.sum(dim=1) / lengths.clamp(min=1)[:, None].to(x.dtype)


def thumbnails(x: Float[Tensor, "B T H W 3"]) -> Float[Tensor, "B T _"]:
    """Face crops averaged to few pixels, flat."""
    pixels = x.flatten(0, 1).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(pixels, THUMBNAIL).reshape(*x.shape[:2], -1)
