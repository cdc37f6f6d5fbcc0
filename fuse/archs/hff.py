"""HFF: hierarchical feature fusion in three levels, weighted by Bayesian uncertainty.

Paper: Y.-G. Xie, N.-N. Zhou, S.-Y. Zhu, "Multimodal Emotion Recognition Based on Hierarchical Feature Fusion", 2025,
sections 3 and 4.1. Equation numbers in the margin are the paper's.

Axes: B utterances, T_m frames or tokens of modality m, T steps, M modalities, d model width, C outputs, K draws;
G sequences of T steps (G = B with time="frames", G = dialogues with time="dialogue").

Differs from the paper in that its encoders are frozen and their features cached; what it trains below the fusion, the
CNN over MFCC frames, is trained here. Readings, each a field of `Config` where there is a choice:
- Time. Equations 21-28 need a time axis, 16-20 speak of vectors. time="frames": each modality is resampled to the same
  T steps by adaptive average pooling over its own length, and every equation runs per step. time="dialogue": a step is
  an utterance (the means of its frames and tokens), which sees its predecessors in the dialogue and nothing later:
  attention is causal, the GRU runs forward, and the pooling of (28) covers the steps so far.
- Speech (6-8): two convolutions, each with ReLU and max pooling in time, then the fully connected layer to 128.
- Text (10-12): a step holds [CLS], the first token, beside the mean of the step's share of all stored tokens, so that
  the mean over the steps is that of (11). `text_pool` chooses both, the mean or [CLS] alone.
- Vision (15): "global average pooling" pools space and keeps the channels, as the cached frame vectors do.
- W_dyn (17) gives one logit per modality; absent modalities enter as zeros and take no part in the softmax.
- Bayesian network (19-20): each modality has a mean and a log-variance head; mu is the precision-weighted mean over
  the modalities, sigma^2 = 1 / sum of the precisions. One sample is drawn in training, the mean is used afterwards;
  `mc_samples` draws that many and averages their probabilities. The paper names no prior, so there is no KL term.
- (21-23): attention of the fused stream over its own steps, as printed, or over the weighted modality streams
  (attention="modalities"), in each of the four layers. The residual of (23) enters the first layer, which is followed
  by LayerNorm and the feed-forward part like the others. The width of a head does not depend on d (Table 5).
- (24-27): torch's GRU, which applies the reset gate after the recurrent product instead of before it.
- (28): beta is additive attention whose query is the state of the last step (of the utterance's own, in a dialogue).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.attention import AdditivePooling
from fuse.nn.lengths import frame_mask, resample
from fuse.nn.monte_carlo import average_draws, noise_like
from fuse.nn.recurrent import GRU
from fuse.nn.transformer import EncoderLayer
from fuse.tables import Column, Row, Table
from fuse.training.config import TrainConfig

PREFERS = {
    "speech": ("mfcc", "logmel", "hubert"),
    "text": ("roberta", "bert", "koelectra"),
    "vision": ("resnet", "vit"),
}
INPUTS = {"speech": (40,), "text": (768,), "vision": (512,)}
TRAINING = TrainConfig()
ABLATIONS: dict[str, dict[str, object]] = {
    "without attention": {"attention": "off"},
    "without dynamic weighting": {"dynamic_weighting": False},
    "without temporal modelling": {"temporal": False},
    "without alignment": {"alignment": False},
    "4 heads": {"heads": 4},
    "6 heads": {"heads": 6},
    "10 heads": {"heads": 10},
}
"""Table 4, and Table 5, whose 8 heads are the full model; with time=dialogue, "without alignment" is that too."""
SUBSETS = (
    ("speech",),
    ("text",),
    ("vision",),
    ("speech", "text"),
    ("speech", "vision"),
    ("text", "vision"),
    ("speech", "text", "vision"),
)
TABLES = (
    Table(
        key="4",
        title="Table 4, IEMOCAP 6-way, weighted F1",
        columns=tuple(Column("+".join(m[0].upper() for m in subset), "weighted_f1", subset) for subset in SUBSETS),
        rows=(
            Row("HFF (full model)", {}, (0.628, 0.655, 0.604, 0.676, 0.662, 0.681, 0.697)),
            Row(
                "without attention mechanism",
                ABLATIONS["without attention"],
                (0.602, 0.637, 0.575, 0.646, 0.632, 0.654, 0.659),
            ),
            Row(
                "without dynamic weighting",
                ABLATIONS["without dynamic weighting"],
                (0.613, 0.643, 0.583, 0.654, 0.640, 0.662, 0.675),
            ),
            Row(
                "without temporal modelling",
                ABLATIONS["without temporal modelling"],
                (0.615, 0.650, 0.598, 0.668, 0.655, 0.672, 0.675),
            ),
            Row(
                "without cross-modality alignment",
                ABLATIONS["without alignment"],
                (0.617, 0.648, 0.585, 0.663, 0.649, 0.670, 0.685),
            ),
        ),
    ),
    Table(
        key="5",
        title="Table 5, attention heads",
        columns=(
            Column("MOSEI-ACC", "accuracy"),
            Column("MOSEI-F1", "weighted_f1"),
            Column("IEMOCAP-ACC", "accuracy"),
            Column("IEMOCAP-F1", "weighted_f1"),
        ),
        rows=(
            Row("4 heads", {"heads": 4}, (0.813, 0.807, 0.676, 0.663)),
            Row("6 heads", {"heads": 6}, (0.820, 0.813, 0.682, 0.671)),
            Row("8 heads (full model)", {"heads": 8}, (0.844, 0.823, 0.690, 0.695)),
            Row("10 heads", {"heads": 10}, (0.830, 0.821, 0.689, 0.692)),
        ),
    ),
)


class Config(Spec):
    """Settings of HFF."""

    d: int = Field(default=128, ge=1)
    """Width into which every modality is projected (16)."""
    time: Literal["frames", "dialogue"] = "frames"
    """frames: a step is a stretch of the utterance; dialogue: a step is an utterance, its predecessors the context."""
    steps: int = Field(default=8, ge=1)
    """Steps that each utterance is resampled to, with time=frames (8: about one per word of a MELD utterance)."""
    text_pool: Literal["cls+mean", "mean", "cls"] = "cls+mean"
    """What text gives a step: [CLS] beside the mean of its tokens (12), or one of them."""
    speech_channels: tuple[int, ...] = Field(default=(32, 64), min_length=1)
    """Channels of the speech CNN's layers (6)."""
    speech_pool: int = Field(default=4, ge=1)
    """Frames over which each of its layers takes the maximum (7)."""
    speech_width: int = Field(default=128, ge=1)
    """Width of the speech feature after the fully connected layer (8)."""
    attention: Literal["fused", "modalities", "off"] = "fused"
    """What level 2 attends over: the fused stream, or the weighted modality streams; off: level 2 is dropped."""
    dynamic_weighting: bool = True
    """false: the weights of (17) and (19) are uniform and the variance heads removed."""
    temporal: bool = True
    """false: level 3 is the mean over time (in a dialogue over the utterance and its predecessors)."""
    alignment: bool = True
    """false: each modality's mean over time is repeated at every step (with time=dialogue this is so anyway)."""
    layers: int = Field(default=4, ge=1)
    """Encoder layers of level 2."""
    heads: int = Field(default=8, ge=1)
    """Attention heads (Table 5: 4, 6, 8, 10)."""
    head_width: int = Field(default=16, ge=1)
    """Width of an attention head."""
    ffn_factor: int = Field(default=4, ge=1)
    """Width of the feed-forward part, in multiples of d."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout everywhere but in the classifier."""
    classifier_dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout in the classifier."""
    epsilon: float = Field(default=1e-6, gt=0)
    """What keeps the precision of (19) finite."""
    initial_log_variance: float = -4.0
    """Bias with which the log-variance heads start, so that the noise of (20) does not drown an untrained mean."""
    mc_samples: int = Field(default=0, ge=0)
    """Draws of (20) at evaluation, whose probabilities are averaged; 0: the mean is used."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> HFF:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: draws are asked for without variance heads, a modality that HFF does not take, or one whose
            frames are not vectors.
    """
    widths = vector_widths("hff", PREFERS, tails)
    if config.mc_samples and not config.dynamic_weighting:
        raise SettingsError("hff: mc_samples draws from the variance heads, which dynamic_weighting=false removes.")
    return HFF(
        widths=widths,
        outputs=outputs(target),
        kind=target.kind,
        **dict(config),
    )


def canonical(config: Config, modalities: tuple[str, ...]) -> Config:
    """Without the settings that change nothing: see `fuse/arch.py`."""
    idle: set[str] = set()
    if config.time == "dialogue":
        idle |= {"alignment", "steps"}
    if config.attention == "off":
        idle |= {"layers", "heads", "head_width", "ffn_factor"}
    if not config.dynamic_weighting:
        idle |= {"initial_log_variance", "epsilon"}
    if "text" not in modalities:
        idle |= {"text_pool"}
    if "speech" not in modalities:
        idle |= {"speech_channels", "speech_pool", "speech_width"}
    return config.at_default(idle)


class HFF(Architecture):
    """The three levels of section 3.2 and the classifier of 3.3. The arguments are those of `Config`, flat.

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
        time: Literal["frames", "dialogue"],
        steps: int,
        text_pool: Literal["cls+mean", "mean", "cls"],
        speech_channels: tuple[int, ...],
        speech_pool: int,
        speech_width: int,
        attention: Literal["fused", "modalities", "off"],
        dynamic_weighting: bool,
        temporal: bool,
        alignment: bool,
        layers: int,
        heads: int,
        head_width: int,
        ffn_factor: int,
        dropout: float,
        classifier_dropout: float,
        epsilon: float,
        initial_log_variance: float,
        mc_samples: int,
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.unit = "dialogue" if time == "dialogue" else "utterance"
        self.kind, self.steps, self.alignment, self.attention, self.mc_samples = (
            kind,
            steps,
            alignment,
            attention,
            mc_samples,
        )
        self.encoders = nn.ModuleDict(
            {
                modality: SpeechEncoder(width, speech_channels, speech_pool, speech_width, d)
                if modality == "speech"
                else StepEncoder(width, text_pool if modality == "text" else "mean", d)
                for modality, width in widths.items()
            }
        )
        weighs = dynamic_weighting and attention != "off" and len(widths) > 1
        self.weigh = nn.Linear(d * len(widths), len(widths)) if weighs else None
        self.bayes = BayesianFusion(len(widths), d, dynamic_weighting, epsilon, initial_log_variance)
        self.level2 = nn.ModuleList(
            EncoderLayer(d, heads, head_width, ffn_factor * d, dropout)
            for _ in range(layers if attention != "off" else 0)
        )
        self.gru = GRU(d, d) if temporal else None
        self.pool = AdditivePooling(d) if temporal else None
        self.classifier = nn.Sequential(
            nn.Dropout(classifier_dropout),
            nn.Linear(d, d),
            nn.ReLU(),
            nn.Dropout(classifier_dropout),
            nn.Linear(d, outputs),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression.

        Drawn, after training: `alpha` of (17), unless attention is off and f0 reaches nothing, and `precision`, each
        modality's share of the weights of (19), at the utterance's own steps (B, T, M), in a dialogue (B, 1, M), and
        their means as `alpha_text` etc. (B,); `sigma` of (20), mean over d and steps (B,); `attention` of the first
        layer (B, H, T, T), over modality streams (B, H, T, T M); `beta` (B, T). With mc_samples `average_draws` too.
        """
        streams, available, causal = self.on_shared_steps(batch)
        alpha = self.alpha(streams, available)  # (17)
        weighted = alpha[..., None] * streams
        f0 = weighted.sum(dim=2)  # (18)
        mu, sigma, precision = self.bayes(streams, available)  # (19)

        memory, visible = self.memory(weighted, available, causal)
        rows = torch.arange(len(batch), device=mu.device)
        group, place = (rows, torch.zeros_like(rows)) if causal is None else (batch.dialogue, batch.position)

        def upper(f1: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            f2, maps = self.interact(f0, f1, memory, visible)  # (21-23)
            final, beta = self.over_time(f2, causal)  # (24-28)
            logits: Tensor = self.classifier(final[group, place])  # (29-30)
            drawn = {"beta": beta[group, place]} | ({} if maps is None else {"attention": maps[group]})
            return logits.squeeze(-1) if self.kind == "regression" else logits, drawn

        if self.training:
            return Output(upper(mu if sigma is None else mu + noise_like(sigma))[0])  # (20)
        logits, drawn = upper(mu)
        if sigma is not None and self.mc_samples:
            draws = torch.stack([upper(mu + noise_like(sigma))[0] for _ in range(self.mc_samples)])  # (20)
            logits, uncertainty = average_draws(draws, self.kind)
            drawn |= uncertainty
        shares = {"precision": precision} | ({} if self.attention == "off" else {"alpha": alpha})
        for name, weights in shares.items():
            own = weights[group] if causal is None else weights[group, place, None]
            drawn |= {name: own} | {f"{name}_{m}": own[..., i].mean(dim=1) for i, m in enumerate(self.modalities)}
        if sigma is not None:
            spread = sigma.mean(dim=-1)
            drawn["sigma"] = spread[group].mean(dim=-1) if causal is None else spread[group, place]
        return Output(logits, drawn=drawn)

    def on_shared_steps(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "G T M d"], Bool[Tensor, "G T M"], Bool[Tensor, "1 T T"] | None]:
        """The projected modalities on shared steps, zero where absent; which are there; which steps a step may see."""
        resampled = self.alignment and self.unit == "utterance"
        steps = self.steps if resampled else 1
        each = [self.encoders[m](batch.sequences[m], batch.lengths[m], steps) for m in self.modalities]
        streams = self.dropout(torch.stack(each, dim=2)) * batch.available[:, None, :, None]  # (16)
        available = batch.available[:, None]
        if self.unit == "utterance":
            return streams.expand(-1, self.steps, -1, -1), available.expand(-1, self.steps, -1), None
        groups, turns = int(batch.dialogue.max()) + 1, int(batch.position.max()) + 1
        at = batch.dialogue, batch.position
        dialogues = streams.new_zeros(groups, turns, *streams.shape[2:]).index_put(at, streams[:, 0])
        # A turn after a dialogue's end is seen by no real one; it counts as available so that no softmax is empty.
        there = available.new_ones(groups, turns, available.shape[2]).index_put(at, available[:, 0])
        return dialogues, there, torch.ones(1, turns, turns, dtype=torch.bool, device=streams.device).tril()

    def alpha(self, streams: Float[Tensor, "G T M d"], available: Bool[Tensor, "G T M"]) -> Float[Tensor, "G T M"]:
        """Dynamic weights (17) over the available modalities; uniform where they are switched off."""
        logits = streams.new_zeros(available.shape) if self.weigh is None else self.weigh(streams.flatten(2))
        return logits.masked_fill(~available, float("-inf")).softmax(dim=-1)

    def memory(
        self, weighted: Float[Tensor, "G T M d"], available: Bool[Tensor, "G T M"], causal: Bool[Tensor, "1 T T"] | None
    ) -> tuple[Float[Tensor, "G S d"] | None, Bool[Tensor, "_ _ S"] | None]:
        """What level 2 attends over beside its own steps, if anything, and which of it a step may see."""
        if self.attention != "modalities":
            return None, causal
        visible = available[:, None] if causal is None else available[:, None] & causal[..., None]
        return weighted.flatten(1, 2), visible.flatten(2)

    def interact(
        self,
        f0: Float[Tensor, "G T d"],
        f1: Float[Tensor, "G T d"],
        memory: Float[Tensor, "G S d"] | None,
        visible: Bool[Tensor, "_ _ S"] | None,
    ) -> tuple[Float[Tensor, "G T d"], Float[Tensor, "G H T S"] | None]:
        """Level 2: f1 joined by what f0 attends to (23), through the encoder layers; and the first layer's weights."""
        x, residual, first = f0, f1, None
        for layer in self.level2:
            x, weights = layer(x, x if memory is None else memory, residual, visible)  # (21-23)
            first = weights if first is None else first
            residual = x
        return residual, first

    def over_time(
        self, f2: Float[Tensor, "G T d"], causal: Bool[Tensor, "1 T T"] | None
    ) -> tuple[Float[Tensor, "G Q d"], Float[Tensor, "G Q T"]]:
        """Level 3: one vector per utterance (Q = 1), or one per turn (Q = T), and the weights beta over the steps."""
        if self.gru is None or self.pool is None:
            steps = f2.new_ones(1, 1, f2.shape[1]) if causal is None else causal.to(f2.dtype)
            beta = (steps / steps.sum(dim=-1, keepdim=True)).expand(len(f2), -1, -1)
            return beta @ f2, beta
        h = self.gru(f2)  # (24-27)
        final: tuple[Tensor, Tensor] = self.pool(h, h[:, -1:] if causal is None else h, causal)  # (28)
        return final


class SpeechEncoder(nn.Module):
    """Frames through a CNN with max pooling, resampled, fully connected (6-8), then projected (16).

    Args:
        width: D, width of a frame.
        channels: of each convolution, kernel 3.
        pool: frames that each max pooling joins.
        full: width of the fully connected layer.
        d: model width.
    """

    def __init__(self, width: int, channels: tuple[int, ...], pool: int, full: int, d: int) -> None:
        super().__init__()
        pairs = zip((width, *channels), channels, strict=False)
        # As pictures one row high, which torch convolves and pools in the layout that (B, T, D) has: twice as fast.
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, kernel_size=(1, 3), padding=(0, 1)) for i, o in pairs)
        self.full, self.project = nn.Linear(channels[-1], full), nn.Linear(full, d)
        self.pool = pool

    def forward(
        self, x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"], steps: int
    ) -> Float[Tensor, "B {steps} d"]:
        """One vector per step. The padding is zero before every layer, as it is around a sequence without padding."""
        x = x.transpose(1, 2).unsqueeze(2)
        for convolution in self.convolutions:
            x = convolution(x) * frame_mask(lengths, x.shape[-1])[:, None, None]  # (6), its ReLU after the maximum
            x = F.relu(F.max_pool2d(x, (1, self.pool), ceil_mode=True))  # (7)
            lengths = (lengths + self.pool - 1) // self.pool
        f: Tensor = self.project(self.full(resample(x.squeeze(2).transpose(1, 2), lengths, steps)))  # (8), (16)
        return f


class StepEncoder(nn.Module):
    """Frames or tokens resampled to steps, the first token beside each step's mean (10-12), projected (16).

    The projection of the concatenation is the sum of the two parts' projections.

    Args:
        width: D, width of a frame.
        pool: what a step holds; mean for a modality that has no [CLS].
        d: model width.
    """

    def __init__(self, width: int, pool: Literal["cls+mean", "mean", "cls"], d: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, d) if pool != "cls" else None
        self.cls = nn.Linear(width, d, bias=pool == "cls") if pool != "mean" else None

    def forward(
        self, x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"], steps: int
    ) -> Float[Tensor, "B {steps} d"]:
        """One vector per step."""
        parts: list[Tensor] = []
        if self.cls is not None:
            parts.append(self.cls(x[:, :1]).expand(-1, steps, -1))  # (10)
        if self.mean is not None:
            parts.append(self.mean(resample(x, lengths, steps)))  # (11)
        return torch.stack(parts).sum(dim=0)  # (12), (16)


class BayesianFusion(nn.Module):
    """Precision-weighted mean of the modalities' means, and its deviation (19-20).

    Args:
        modalities: M.
        d: model width.
        variance: whether there are log-variance heads; without them all modalities weigh alike and nothing is drawn.
        epsilon: added to each variance.
        initial_log_variance: bias with which the log-variance heads start.
    """

    def __init__(self, modalities: int, d: int, variance: bool, epsilon: float, initial_log_variance: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.mean = nn.ModuleList(nn.Linear(d, d) for _ in range(modalities))
        heads = [nn.Linear(d, d) for _ in range(modalities if variance else 0)]
        self.log_variance = nn.ModuleList(heads)
        for head in heads:
            nn.init.constant_(head.bias, initial_log_variance)

    def forward(
        self, streams: Float[Tensor, "G T M d"], available: Bool[Tensor, "G T M"]
    ) -> tuple[Float[Tensor, "G T d"], Float[Tensor, "G T d"] | None, Float[Tensor, "G T M"]]:
        """mu, sigma (None without variance heads), and each modality's share of the precision, mean over d."""
        each = streams.unbind(dim=2)
        means = torch.stack([head(f) for head, f in zip(self.mean, each, strict=True)], dim=2)
        # Precisions in logarithms: no variance, however large, makes their sum zero.
        log_weights = torch.zeros_like(means)
        if self.log_variance:
            log_variance = torch.stack([head(f) for head, f in zip(self.log_variance, each, strict=True)], dim=2)
            floor = torch.full_like(log_variance, math.log(self.epsilon))
            log_weights = -torch.logaddexp(log_variance, floor)  # (19)
        log_weights = log_weights.masked_fill(~available[..., None], -torch.inf)
        share = log_weights.softmax(dim=2)
        sigma = (-0.5 * log_weights.logsumexp(dim=2)).exp() if self.log_variance else None
        return (share * means).sum(dim=2), sigma, share.mean(dim=-1)
