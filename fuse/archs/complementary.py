"""Complementary dual fusion: a cross-attention transformer and a sum-product layer, each before sparse experts.

Paper: M.-H. Yi, K.-C. Kwak, J.-H. Shin, "A Complementary Fusion Framework for Robust Multimodal Emotion Recognition",
Electronics 14, 4444, 2025, section 3. The margin says which of its algorithms a line is.

Axes: B utterances, T_m frames or tokens of modality m, M text tokens, T speech frames, d model width, E experts,
C outputs, H heads.

What we have of the paper are its headings, algorithms and tables, hardly any prose; so much here is a reading, each a
field of `Config` where there is a choice. Its encoders are frozen and their features cached.
- Graph (3). Whisper's words are not the text encoder's tokens: a token has the interval of its word (`COMPANIONS`), and
  is joined to the frames whose middle lies within it, both ways; every node is joined to itself. A token without
  frames ([CLS], a word shorter than a hop) reads itself alone, and so does every node where there are no intervals,
  where one of the two modalities is missing, or where the features are one vector per utterance: the graph embedding
  is then the mean of nodes that went through the layers one by one. It is the mean over all nodes.
- Speech of more than 128 frames is adaptively pooled (2), and the times of its frames with it. Tokens beyond the
  128th are cut off (1). Shorter ones need no padding here: what is not there is masked.
- Cross-attention (4): text reads speech and speech reads text, then LayerNorm and a feed-forward part as in any
  transformer layer. Head, scale and residual are as in Vaswani et al. 2017; `scale="model"` divides by sqrt(d) as
  printed. A modality whose partner is missing reads itself: with one modality this is a transformer encoder. There
  are no position encodings: the order of frames enters through the intervals and the encoders' own context.
- The pooled result (means over time) and the graph embedding are concatenated and routed.
- Sum-product (5): t and s are the means of the projected tokens and frames; the graph embedding joins the
  concatenation as a third vector, and takes no part in the sum and the product. What is missing is 0 in it. The
  projection is as wide as what the other branch routes, since the paper's two branches have experts of about the
  same size. With one modality there is neither sum nor product: [t; graph].
- Experts: Linear-ReLU-Linear to the C outputs. Routing as in `fuse/nn/experts.py`: softmax, top-1 or top-2,
  renormalised, Switch's balancing loss with weight 0.01.
- Each branch has projections and a graph of its own. They train apart, one after the other, each to its own best epoch
  and with its own schedule, or jointly (`joint`) on the fused prediction.
- Late fusion joins the branches' class probabilities (regression: their numbers). `scalar` and `per_class` weights are
  fitted on the validation split, when the branches are done, with a weak pull towards one half, so that few utterances
  give no branch up altogether.

Parameters with 1000 experts and seven classes, widths not tuned to the paper's; its test counts them:

    branch                              ours           paper
    Cross-Attention Transformer     201,667,392     210,892,911
    Sum-Product Linear              201,073,216     206,525,935
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Companion, Output, outputs, probabilities, vector_widths
from fuse.kernels.sum_product import sum_product_linear
from fuse.nn.attention import MultiHeadAttention
from fuse.nn.experts import MixtureOfExperts, Routed
from fuse.nn.fixed import shapes_are_fixed
from fuse.nn.interval_gat import IntervalGAT, frames_within
from fuse.nn.late_fusion import fit_fusion, fused
from fuse.nn.lengths import frame_mask, resample, shorten
from fuse.tables import Column, Row, Table
from fuse.training.config import Group, TrainConfig

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
TRAINING = TrainConfig(
    optimizer="adam",
    lr=1e-4,
    weight_decay=0.0,
    scheduler="constant",
    groups={"cross": Group(scheduler="onecycle")},
    clip=None,
    batch_size=32,
    max_epochs=100,
    patience=5,
)
CROSS_ALONE: dict[str, object] = {"branches": "cross"}
SUM_PRODUCT_ALONE: dict[str, object] = {"branches": "sum_product"}
ABLATIONS: dict[str, dict[str, object]] = {
    "cross-attention branch alone": CROSS_ALONE,
    "sum-product branch alone": SUM_PRODUCT_ALONE,
    "top-2 routing": {"top": 2},
    "without graph embedding": {"graph": False},
    "one expert": {"experts": 1},
    "GAT as first published": {"gat": "v1"},
    "attention scaled as printed": {"scale": "model"},
}
"""The paper's rows (branches, top-k), and switches for what it describes without a row."""
SCORES = (
    Column("Accuracy", "accuracy"),
    Column("Precision", "precision"),
    Column("Recall", "recall"),
    Column("F1-Score", "macro_f1"),
)
TABLES = (
    Table(
        key="6",
        title="Proposed models, AI-Hub",
        columns=SCORES,
        rows=(
            Row("Cross-Attention Transformer MoE", CROSS_ALONE, (0.7940, 0.7961, 0.7804, 0.7865)),
            Row("Sum-Product Linear MoE", SUM_PRODUCT_ALONE, (0.7851, 0.7918, 0.7624, 0.7721)),
            Row("Proposed model", {}, (0.8073, 0.8139, 0.7898, 0.7997)),
        ),
    ),
    Table(
        key="8",
        title="Experts per utterance, AI-Hub",
        columns=SCORES,
        rows=(
            Row("Top-1", {}, (0.8071, 0.8064, 0.7953, 0.7997)),
            Row("Top-2", {"top": 2}, (0.8113, 0.8122, 0.7985, 0.8043)),
        ),
    ),
    Table(
        key="10",
        title="Proposed models, IEMOCAP",
        columns=SCORES,
        rows=(
            Row("Cross-Attention Transformer MoE", CROSS_ALONE, (0.7768, 0.7773, 0.7880, 0.7803)),
            Row("Sum-Product Linear MoE", SUM_PRODUCT_ALONE, (0.7757, 0.7802, 0.7773, 0.7766)),
            Row("Proposed model", {}, (0.7823, 0.7832, 0.7870, 0.7843)),
        ),
    ),
)
"""Tables are numbered in their order in the paper; its other models are baselines of ours or not built."""

Streams = dict[str, Float[Tensor, "B _ _"]]
Lengths = dict[str, Int[Tensor, " B"]]
Edges = tuple[Int[Tensor, "B M"], Int[Tensor, "B M"]]


class Config(Spec):
    """Settings of the dual-fusion framework."""

    branches: Literal["both", "cross", "sum_product"] = "both"
    """Both branches and their late fusion, or one of them alone."""
    joint: bool = False
    """Train both branches at once on the fused prediction, instead of one after the other."""
    late_fusion: Literal["mean", "scalar", "per_class"] = "mean"
    """How the branches' probabilities are joined: their mean, one learned weight, or one per class."""
    graph: bool = True
    """false: no graph embedding."""
    gat: Literal["v2", "v1"] = "v2"
    """Graph attention: v2, whose ranking of neighbours depends on the node (Brody et al. 2022), or the first one."""
    gat_layers: int = Field(default=2, ge=1)
    """Layers of graph attention."""
    gat_heads: int = Field(default=4, ge=1)
    """Heads of graph attention; they share d."""
    experts: int = Field(default=5, ge=1, le=1000)
    """Experts of each branch."""
    top: Literal[1, 2] = 1
    """Experts that each utterance is sent to."""
    balance: float = Field(default=0.01, ge=0)
    """Weight of the loss that spreads the utterances over the experts (Fedus et al. 2021, equation 4)."""
    expert_width: int = Field(default=256, ge=1)
    """Width of an expert's hidden layer."""
    d: int = Field(default=256, ge=1)
    """Width into which tokens and frames are projected."""
    layers: int = Field(default=1, ge=1)
    """Layers of cross-attention; Algorithm 4 is one."""
    heads: int = Field(default=8, ge=1)
    """Heads of cross-attention; they share d."""
    ffn_factor: int = Field(default=4, ge=1)
    """Width of the feed-forward part, in multiples of d."""
    scale: Literal["head", "model"] = "head"
    """What attention divides by: the root of a head's width, or of d as Algorithm 4 prints it."""
    frames: int = Field(default=128, ge=1)
    """Speech frames to which longer utterances are pooled, and tokens at which text is cut off."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout everywhere."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> Complementary:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that it does not take, or one whose frames are not vectors; heads that do not divide
            d; more experts per utterance than there are.
    """
    widths = vector_widths("complementary", PREFERS, tails)
    for name, heads in (("heads", config.heads), ("gat_heads", config.gat_heads)):
        if config.d % heads:
            raise SettingsError(f"complementary: d = {config.d} is not a multiple of {name} = {heads}.")
    if config.top > config.experts:
        raise SettingsError(f"complementary: top = {config.top} of experts = {config.experts} is not possible.")
    return Complementary(
        widths=widths,
        outputs=outputs(target),
        kind=target.kind,
        **dict(config),
    )


def canonical(config: Config, modalities: tuple[str, ...]) -> Config:
    """Without the settings that change nothing: see `fuse/arch.py`."""
    idle: set[str] = set()
    if config.branches != "both":
        idle |= {"joint", "late_fusion"}
    if config.branches == "sum_product":
        idle |= {"layers", "heads", "ffn_factor", "scale"}
    if not config.graph:
        idle |= {"gat_layers"}
    if not config.graph or len(modalities) == 1:
        idle |= {"gat", "gat_heads"}
    if config.experts == 1:
        idle |= {"balance"}
    return config.at_default(idle)


class Complementary(Architecture):
    """Two branches over the same tokens, frames and intervals, and their late fusion. The arguments are those of
    `Config`, flat.

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
        branches: Literal["both", "cross", "sum_product"],
        joint: bool,
        late_fusion: Literal["mean", "scalar", "per_class"],
        graph: bool,
        gat: Literal["v1", "v2"],
        gat_layers: int,
        gat_heads: int,
        experts: int,
        top: int,
        balance: float,
        expert_width: int,
        d: int,
        layers: int,
        heads: int,
        ffn_factor: int,
        scale: Literal["head", "model"],
        frames: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.kind, self.late_fusion, self.frames, self.balance = kind, late_fusion, frames, balance
        if graph and set(widths) == {"text", "speech"}:
            self.companions = {"intervals": "text"}
        routed = d * (len(widths) + graph)

        def nodes() -> Nodes:
            return Nodes(widths, d, gat if graph else None, gat_layers, gat_heads, dropout)

        def mixture() -> MixtureOfExperts:
            return MixtureOfExperts(routed, expert_width, outputs, experts, top)

        self.cross: CrossBranch | None = None
        self.sum_product: SumProductBranch | None = None
        if branches != "sum_product":
            factor = (d if scale == "model" else d // heads) ** -0.5
            blocks = [CrossLayer(tuple(widths), d, heads, ffn_factor * d, factor, dropout) for _ in range(layers)]
            self.cross = CrossBranch(nodes(), blocks, mixture(), dropout)
        if branches != "cross":
            self.sum_product = SumProductBranch(nodes(), len(widths), d, graph, routed, mixture(), dropout)
        self.fusion: Tensor
        self.register_buffer("fusion", torch.full((outputs if late_fusion == "per_class" else 1,), 0.5))
        if branches == "both" and not joint:
            self.stages = ("cross", "sum_product")

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression.

        Drawn, after training, of each branch: `NAME_gate`, the router's probabilities (B, E), `NAME_expert`, the
        likeliest expert (B,), and `NAME_probability` (B, C), or `NAME_prediction` (B,); `NAME_graph`, how much of each
        frame a token reads in the graph's first layer (B, M, T). Of cross-attention `attention_text` and
        `attention_speech`, what each reads of the other in the first layer (B, H, T_m, T_o). With both branches
        `fusion`, what the cross-attention branch counts (B, 1), or per class (B, C).
        """
        streams, lengths, edges = self.prepare(batch)
        said: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        drawn: dict[str, Tensor] = {}
        for name, branch in (("cross", self.cross), ("sum_product", self.sum_product)):
            if branch is None or self.stage not in (None, name):
                continue
            routed, pictures = branch(streams, lengths, edges)
            said[name] = routed.outputs.squeeze(-1) if self.kind == "regression" else routed.outputs
            if self.training:
                losses[f"{name}_balance"] = self.balance * routed.balance
                continue
            drawn |= pictures | {f"{name}_gate": routed.gate, f"{name}_expert": routed.chosen[:, 0]}
            if self.kind == "regression":
                drawn[f"{name}_prediction"] = said[name]
            else:
                drawn[f"{name}_probability"] = probabilities(said[name], self.kind)
        if len(said) == 1:
            return Output(next(iter(said.values())), losses, drawn)
        logits = fused(said["cross"], said["sum_product"], self.fusion, self.kind)
        if not self.training:
            drawn["fusion"] = self.fusion.expand(len(logits), -1)
        return Output(logits, losses, drawn)

    def prepare(self, batch: Batch) -> tuple[Streams, Lengths, Edges]:
        """The inputs at the length at which they are read (1-2), and the first and past-last frame of each token."""
        streams, lengths = dict(batch.sequences), dict(batch.lengths)
        if "text" in streams:
            streams["text"] = streams["text"][:, : self.frames]
            lengths["text"] = lengths["text"].clamp(max=self.frames)
        if "speech" in streams:
            streams["speech"], lengths["speech"], times = shorten(streams["speech"], lengths["speech"], self.frames)
            if "text" in streams and "intervals" in batch.companions:
                intervals, there = batch.companions["intervals"], batch.companions_there["intervals"]
                within = intervals[:, : self.frames], there[:, : self.frames]
                return streams, lengths, frames_within(*within, times, lengths["speech"])  # (3)
        tokens = streams["text"].shape[1] if "text" in streams else 0
        none = torch.zeros(len(batch), tokens, dtype=torch.int64, device=batch.available.device)
        return streams, lengths, (none, none)

    def fit_late_fusion(self, batches: Iterator[Batch]) -> None:
        """Fit the weights of the late fusion on labelled utterances, where it has any."""
        if self.cross is None or self.sum_product is None or self.late_fusion == "mean":
            return
        mine: list[Tensor] = []
        theirs: list[Tensor] = []
        truth: list[Tensor] = []
        for batch in batches:
            prepared = self.prepare(batch)
            for branch, found in ((self.cross, mine), (self.sum_product, theirs)):
                found.append(branch(*prepared)[0].outputs)
            assert batch.target is not None
            truth.append(batch.target)
        both = [torch.cat(found) for found in (mine, theirs)]
        if self.kind == "regression":
            both = [numbers.squeeze(-1) for numbers in both]
        self.fusion.copy_(fit_fusion(both[0], both[1], torch.cat(truth), len(self.fusion), self.kind))


class Nodes(nn.Module):
    """Tokens and frames projected to d, and the graph over them (3).

    Args:
        widths: width of each modality's frames.
        d: model width.
        gat: which graph attention; None: no graph.
        layers: of it.
        heads: of it.
        dropout: of the projected nodes and between the layers.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        d: int,
        gat: Literal["v1", "v2"] | None,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.project = nn.ModuleDict({modality: nn.Linear(width, d) for modality, width in widths.items()})
        # One modality has no edges: each node reads itself alone, which leaves the layer's linear map.
        alone = len(widths) == 1
        self.gat = nn.ModuleList(
            nn.Linear(d, d) if alone else IntervalGAT(d, heads, gat) for _ in range(layers if gat else 0) if gat
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, streams: Streams, lengths: Lengths, edges: Edges
    ) -> tuple[Streams, Float[Tensor, "B d"] | None, Float[Tensor, "B _ _"] | None]:
        """Projected tokens and frames, zero in their padding; the graph embedding; after training, what tokens read in
        the graph's first layer."""
        masks = {m: frame_mask(lengths[m], x.shape[1])[..., None] for m, x in streams.items()}
        nodes = {m: self.dropout(self.project[m](x)) * masks[m] for m, x in streams.items()}
        if not self.gat:
            return nodes, None, None
        after, picture = nodes, None
        for number, layer in enumerate(self.gat):
            if number:
                after = {m: self.dropout(F.elu(x)) for m, x in after.items()}
            if len(nodes) == 1:
                after = {m: layer(x) for m, x in after.items()}
                continue
            text, speech, seen = layer(after["text"], after["speech"], *edges, picture=not (self.training or number))
            after, picture = {"text": text, "speech": speech}, seen if picture is None else picture
        total = torch.stack([(after[m] * masks[m]).sum(dim=1) for m in nodes]).sum(dim=0)
        count = torch.stack([lengths[m] for m in nodes]).sum(dim=0).clamp(min=1)
        return nodes, total / count[:, None].to(total.dtype), picture


class CrossBranch(nn.Module):
    """Cross-attention over tokens and frames, pooled and routed (3.2 of the paper).

    Args:
        nodes: projections and graph.
        blocks: the layers of cross-attention.
        experts: where the pooled result goes.
        dropout: of what is routed.
    """

    def __init__(self, nodes: Nodes, blocks: list[CrossLayer], experts: MixtureOfExperts, dropout: float) -> None:
        super().__init__()
        self.nodes, self.blocks, self.experts = nodes, nn.ModuleList(blocks), experts
        self.dropout = nn.Dropout(dropout)

    def forward(self, streams: Streams, lengths: Lengths, edges: Edges) -> tuple[Routed, dict[str, Tensor]]:
        """What the experts say, and what is drawn."""
        x, graph, seen = self.nodes(streams, lengths, edges)
        drawn = {} if seen is None else {"cross_graph": seen}
        for number, block in enumerate(self.blocks):
            x, weights = block(x, lengths)
            drawn |= {} if number else {f"attention_{m}": w for m, w in weights.items()}
        pooled = [resample(h, lengths[m], 1).squeeze(1) for m, h in x.items()]
        return self.experts(self.dropout(torch.cat([*pooled, *([] if graph is None else [graph])], dim=1))), drawn


class CrossLayer(nn.Module):
    """Each modality reads the other (4), then a feed-forward part; residuals and LayerNorm after each.

    Args:
        modalities: one or two.
        d: model width.
        heads: attention heads, which share d.
        hidden: width of the feed-forward part.
        scale: factor of the products of queries and keys.
        dropout: of each part's output.
    """

    def __init__(
        self, modalities: tuple[str, ...], d: int, heads: int, hidden: int, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.attend = nn.ModuleDict({m: MultiHeadAttention(d, heads, d // heads, scale) for m in modalities})
        self.norm_attention = nn.ModuleDict({m: nn.LayerNorm(d) for m in modalities})
        self.feed_forward = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, d)) for m in modalities}
        )
        self.norm_feed_forward = nn.ModuleDict({m: nn.LayerNorm(d) for m in modalities})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Streams, lengths: Lengths) -> tuple[Streams, dict[str, Float[Tensor, "B H _ _"]]]:
        """The layer's tokens and frames and, after training, what each reads of its partner; zero in their padding."""
        masks = {m: frame_mask(lengths[m], h.shape[1]) for m, h in x.items()}
        out, drawn = {}, {}
        for m, h in x.items():
            partner = next((o for o in x if o != m), m)
            memory, visible = with_itself(h, masks[m], x[partner], masks[partner]) if partner != m else (h, masks[m])
            # A sequence without a frame has no key to see: its softmax, cut off below, may see the padding.
            visible = visible | ~visible.any(dim=1, keepdim=True)
            read, weights = self.attend[m](h, memory, visible[:, None])
            y = self.norm_attention[m](h + self.dropout(read))
            out[m] = self.norm_feed_forward[m](y + self.dropout(self.feed_forward[m](y))) * masks[m][..., None]
            if weights is not None:
                drawn[m] = weights[..., : x[partner].shape[1]] * masks[m][:, None, :, None]
        return out, drawn


def with_itself(
    h: Float[Tensor, "B T d"], own: Bool[Tensor, "B T"], partner: Float[Tensor, "B S d"], seen: Bool[Tensor, "B S"]
) -> tuple[Float[Tensor, "B _ d"], Bool[Tensor, "B _"]]:
    """What a modality reads: its partner's frames, or its own in utterances that have none of the partner."""
    lonely = ~seen.any(dim=1, keepdim=True)
    if not shapes_are_fixed(h) and not lonely.any():
        return partner, seen
    return torch.cat([partner, h], dim=1), torch.cat([seen, own & lonely], dim=1)


class SumProductBranch(nn.Module):
    """Linear([t; s; t + s; t * s; graph]), routed (5).

    Args:
        nodes: projections and graph.
        modalities: how many there are.
        d: model width.
        graph: whether there is a graph embedding.
        routed: width of the projection.
        experts: where it goes.
        dropout: of what is routed.
    """

    def __init__(
        self, nodes: Nodes, modalities: int, d: int, graph: bool, routed: int, experts: MixtureOfExperts, dropout: float
    ) -> None:
        super().__init__()
        vectors = modalities + (2 if modalities == 2 else 0) + graph
        self.nodes, self.project, self.experts = nodes, nn.Linear(vectors * d, routed), experts
        self.dropout = nn.Dropout(dropout)

    def forward(self, streams: Streams, lengths: Lengths, edges: Edges) -> tuple[Routed, dict[str, Tensor]]:
        """What the experts say, and what is drawn."""
        x, graph, seen = self.nodes(streams, lengths, edges)
        vectors = [resample(h, lengths[m], 1).squeeze(1) for m, h in x.items()]
        if len(vectors) == 2:
            t, s = vectors
            rest = t[:, :0] if graph is None else graph
            weight, bias = self.project.weight, self.project.bias
            projected = sum_product_linear(*(part[None] for part in (t, s, rest, weight, bias))).squeeze(0)
        else:
            projected = self.project(torch.cat([*vectors, *([] if graph is None else [graph])], dim=1))
        return self.experts(self.dropout(projected)), {} if seen is None else {"sum_product_graph": seen}
