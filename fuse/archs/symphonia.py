"""SYMPHONIA: face and text attend to each other, and their fusion is gated over three levels.

Paper: A. Abdusalomov, M. Mukhiddinov, K. Abdurashidova et al., "SYMPHONIA-Enhanced Multimodal Emotion Recognition with
Dual-Branch Dynamic Attention and Hierarchical Adaptive Fusion", 2026, section 3. Equation numbers in the margin are the
paper's.

Axes: B utterances, T frames, M tokens, D width of a cached token, g side of the grid of patches, G = g * g, K heads of
the graph attention, H heads of the Transformer, d model width, L tokens of the head, C outputs.

Differs from the paper in that ViT and RoBERTa (1-4, 14) are frozen and their tokens cached. Readings, each a field of
`Config` where there is a choice:
- Landmarks (5-7). As printed, the mask scales the patch tokens and x_t is the class token, which it leaves untouched;
  nor can it act inside a ViT whose tokens are cached. x_t = W [e_cls ; sum_i a_i e_i / sum_i a_i]: the class token
  joined by the patches' mean, weighed by the mask pooled to the grid. Without landmarks in a frame the heatmap is empty
  and all patches weigh alike. landmarks=false, or a vision feature without patches, (D,): the class token alone.
- The heatmap (5) is binary, drawn from the landmarks of eyes, brows and mouth at `heatmap_scale` pixels per patch. Conv
  is one convolution from one channel to one.
- Neighbours N_i (16-17): all tokens, or those at most `window` tokens away. Heads are averaged (17); sigma is ELU. With
  all tokens as neighbours the branch sees their order in RoBERTa's embeddings alone. b_beta (18) is left out: it would
  cancel in the softmax.
- (19) prints "yanh": tanh. D_a = d. The LSTM's state and the text's nodes are d wide, so that c_ft and c_tf have one
  width, as (26-27) need.
- (26): the candidates are the c_tf of the batch's utterances that have both modalities; mean over them.
- (29): b_a has one number per level; one for all would cancel in the softmax.
- (32-37): L = 6, as many tokens as Fig. 9 shows; the encoder's layers are post-norm.
- lambda, tau, d and the optimizer's settings are not given: 0.1, 0.07, 256, AdamW with 1e-4.
- An utterance without text or without a face: its gates (22, 25) are those of the modality that is left, (27) is that
  modality's alone, its query (19) is empty, and it has no part in (26).
- Table 5. One branch alone: its embedding, h_T or (18), is f_high; there is nothing to attend to nor to fuse. Without
  dynamic attention: h_T and (18) stand for c_tf and c_ft, and f_fusion is a linear map of them side by side. Without
  hierarchical fusion: f_high is f_fusion, and (26), which belongs to the middle level, is not part of the loss.
- Its F1 is the mean over classes: its recall, of the same average, is not its accuracy (Table 3), which weighted by
  class it would be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Companion, Output, outputs, probabilities
from fuse.nn.attention import AdditivePooling
from fuse.nn.contrastive import info_nce
from fuse.nn.fixed import shapes_are_fixed
from fuse.nn.landmarks import BROWS, EYES, FACE_POINTS, MOUTH, heatmaps
from fuse.nn.lengths import frame_mask
from fuse.nn.recurrent import LSTM
from fuse.nn.transformer import EncoderLayer
from fuse.precision import in_fp32
from fuse.tables import Column, Row, Table
from fuse.training.config import TrainConfig

PREFERS = {"vision": ("vit", "resnet"), "text": ("roberta", "bert", "koelectra")}
INPUTS = {"vision": (1 + 7 * 7, 768), "text": (768,)}
COMPANIONS = {
    "landmarks": Companion(
        modality="vision",
        features=("landmarks",),
        join="time",
        tail=(FACE_POINTS, 3),
        without="the patches of a frame weigh alike",
    )
}
TRAINING = TrainConfig(lr=1e-4)
ABLATIONS: dict[str, dict[str, object]] = {
    "without dynamic attention": {"dynamic_attention": False},
    "without hierarchical fusion": {"hierarchical": False},
}
"""Table 5, whose other rows are the branches alone: `--modalities vision` or `text`."""
TABLES = (
    Table(
        key="5",
        title="Table 5, IEMOCAP 6-way",
        columns=(Column("Accuracy", "accuracy"), Column("F1-Score", "macro_f1")),
        rows=(
            Row("facial branch only", {}, (0.671, 0.668), ("vision",)),
            Row("textual branch only", {}, (0.695, 0.691), ("text",)),
            Row("without dynamic attention", ABLATIONS["without dynamic attention"], (0.743, 0.740)),
            Row("without hierarchical fusion", ABLATIONS["without hierarchical fusion"], (0.756, 0.753)),
            Row("full SYMPHONIA model", {}, (0.809, 0.801)),
        ),
    ),
)
LEVELS = ("low", "mid", "fusion")


class Config(Spec):
    """Settings of SYMPHONIA."""

    d: int = Field(default=256, ge=1)
    """Width of the LSTM's state, of the text's nodes and of everything after them."""
    landmarks: bool = True
    """Patches weighed by the landmarks' mask (5-6) beside the class token, where there are patches; false: without."""
    heatmap_scale: int = Field(default=4, ge=1)
    """Pixels of the heatmap along the side of a patch of the grid."""
    landmark_kernel: int = Field(default=5, ge=1)
    """Side of the convolution over the heatmap (5), an odd number."""
    graph_heads: int = Field(default=4, ge=1)
    """K of (17); they divide d."""
    window: int | None = Field(default=None, ge=1)
    """How many tokens away a neighbour may be in the token graph; null: all tokens are neighbours."""
    dynamic_attention: bool = True
    """false: h_T and the text embedding are concatenated instead of attending (19-23)."""
    hierarchical: bool = True
    """false: f_high is f_fusion (24-30 are dropped)."""
    tokens: int = Field(default=6, ge=1)
    """L of (32): tokens that the head reads."""
    layers: int = Field(default=2, ge=1)
    """Layers of the head's Transformer."""
    heads: int = Field(default=4, ge=1)
    """Attention heads of each layer; they divide d."""
    ffn_factor: int = Field(default=4, ge=1)
    """Width of its feed-forward part, in multiples of d."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of x_t, of the text's tokens, and in the head."""
    temperature: float = Field(default=0.07, gt=0)
    """tau of (26)."""
    contrastive_weight: float = Field(default=0.1, ge=0)
    """lambda of (31)."""
    activation: bool = False
    """Draw, at evaluation, what the head makes of each single state of the LSTM (Fig. 3): a pass of it per frame."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> Symphonia:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: heads that do not divide d, an even kernel, a modality that SYMPHONIA does not take, or one whose
            frames are neither vectors nor, of vision, a class token and the patches of a square grid.
    """
    for modality, tail in tails.items():
        grid = modality == "vision" and len(tail) == 2 and tail[0] > 1 and math.isqrt(tail[0] - 1) ** 2 == tail[0] - 1
        if modality not in PREFERS or not (len(tail) == 1 or grid):
            raise SettingsError(
                "symphonia reads one vector per token of text, and of vision one per frame or the class token with the "
                f"patches of a square grid, (1 + g * g, D); {modality} has {tail}: choose another with --features."
            )
    for heads in (config.heads, config.graph_heads):
        if config.d % heads:
            raise SettingsError(f"symphonia: {heads} heads do not divide d = {config.d}.")
    if config.landmark_kernel % 2 == 0:
        raise SettingsError(
            f"symphonia: landmark_kernel = {config.landmark_kernel} has no middle: choose an odd number."
        )
    return Symphonia(tails=dict(tails), outputs=outputs(target), kind=target.kind, **dict(config))


def canonical(config: Config, modalities: tuple[str, ...]) -> Config:
    """Without the settings that change nothing: see `fuse/arch.py`."""
    idle = {"activation"}
    if len(modalities) == 1:
        idle |= {"dynamic_attention", "hierarchical"}
    if len(modalities) == 1 or not config.hierarchical:
        idle |= {"temperature", "contrastive_weight"}
    if "vision" not in modalities:
        idle |= {"landmarks"}
    if "vision" not in modalities or not config.landmarks:
        idle |= {"heatmap_scale", "landmark_kernel"}
    if "text" not in modalities:
        idle |= {"graph_heads", "window"}
    return config.at_default(idle)


class Symphonia(Architecture):
    """Section 3. The arguments are those of `Config`, flat.

    Args:
        tails: shape of one frame of each modality; its keys are the modalities, one or both.
        outputs: C, the number of classes, or 1 for regression.
        kind: the target's kind.
    """

    def __init__(
        self,
        tails: Mapping[str, tuple[int, ...]],
        outputs: int,
        kind: str,
        d: int,
        landmarks: bool,
        heatmap_scale: int,
        landmark_kernel: int,
        graph_heads: int,
        window: int | None,
        dynamic_attention: bool,
        hierarchical: bool,
        tokens: int,
        layers: int,
        heads: int,
        ffn_factor: int,
        dropout: float,
        temperature: float,
        contrastive_weight: float,
        activation: bool,
    ) -> None:
        super().__init__()
        self.modalities = tuple(tails)
        self.kind, self.temperature, self.activation = kind, temperature, activation
        vision = tails.get("vision")
        looks = vision is not None and len(vision) == 2 and landmarks
        self.companions = {"landmarks": "vision"} if looks else {}
        self.mask = (
            LandmarkMask(math.isqrt(vision[0] - 1), heatmap_scale, landmark_kernel) if vision and looks else None
        )
        self.face = FaceBranch(vision[-1], self.mask is not None, d, dropout) if vision else None
        self.text = TextBranch(tails["text"][0], graph_heads, window, d, dropout) if "text" in tails else None
        both = self.face is not None and self.text is not None
        self.attend = (DynamicAttention(d) if dynamic_attention else Concatenation(d)) if both else None
        self.fuse = HierarchicalFusion(d) if both and hierarchical else None
        self.contrastive_weight = contrastive_weight if self.fuse is not None else 0.0
        self.head = Head(d, tokens, layers, heads, ffn_factor * d, dropout, outputs)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression; in training the contrastive loss.

        Drawn, after training, what the branches see: `mask` of (6) (B, T, g * g); `graph` of (15), mean over heads,
        `similarity_before` and `similarity_after` it (B, M, M), `beta` of (18) (B, M). Of the fusion: `gamma_text` of
        (20) (B, M) and `gamma_face` (B, T); `face`, `text`, `c_ft`, `c_tf` (B, d), the embeddings before and after
        attention; `levels` of (29) (B, 3), each also as `level_low` etc. (B,). Of the head: `head_attention`
        (B, heads, L, L) of its first layer. With `activation`, `activation` (B, T, C): probabilities, or predictions
        for regression (B, T).
        """
        drawn: dict[str, Tensor] = {}
        if self.face is not None:
            frames, faces = batch.sequences["vision"], batch.lengths["vision"]
            states, h_last, shown = self.face(frames, faces, None if self.mask is None else self.mask(batch))  # (5-13)
            drawn |= shown
        if self.text is not None:
            nodes, e_final, shown = self.text(batch.sequences["text"], batch.lengths["text"])  # (15-18)
            drawn |= shown

        losses: dict[str, Tensor] = {}
        if self.attend is None:
            f_high = h_last if self.face is not None else e_final
        else:
            f_high, shown = self.fused(
                self.attend, states, h_last, faces, nodes, e_final, batch.lengths["text"]
            )  # (19-30)
            drawn |= shown
            if self.training and self.contrastive_weight:
                complete = batch.available.all(dim=1)
                each = info_nce(shown["c_ft"], shown["c_tf"], complete, complete, self.temperature)  # (26)
                losses["contrastive"] = self.contrastive_weight * each.sum() / complete.sum().clamp(min=1)
        logits, weights = self.head(f_high)  # (32-38)
        if weights is None:
            return Output(self.answer(logits), losses)
        drawn["head_attention"] = weights
        if self.activation and self.face is not None:
            drawn["activation"] = self.activations(states, faces)
        return Output(self.answer(logits), drawn=drawn)

    def answer(self, logits: Float[Tensor, "_ C"]) -> Float[Tensor, " _ *C"]:
        """The head's outputs as the target's kind has them."""
        return logits.squeeze(-1) if self.kind == "regression" else logits

    def fused(
        self,
        attend: nn.Module,
        states: Float[Tensor, "B T d"],
        h_last: Float[Tensor, "B d"],
        faces: Int[Tensor, " B"],
        nodes: Float[Tensor, "B M d"],
        e_final: Float[Tensor, "B d"],
        words: Int[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B d"], dict[str, Float[Tensor, " B *_"]]]:
        """f_high, and what is drawn; `faces` and `words` say how many states and nodes an utterance has."""
        has_text, has_face = words > 0, faces > 0
        c_ft, c_tf, f_fusion, drawn = attend(nodes, e_final, words, states, h_last, faces)  # (19-23)
        drawn = {"face": h_last, "text": e_final, "c_ft": c_ft, "c_tf": c_tf} | drawn
        if self.fuse is None:
            return f_fusion, drawn
        f_high, levels = self.fuse(h_last, e_final, c_ft, c_tf, f_fusion, has_face, has_text)  # (24-30)
        drawn["levels"] = levels
        return f_high, drawn | {f"level_{name}": levels[:, i] for i, name in enumerate(LEVELS)}

    def activations(self, states: Float[Tensor, "B T d"], faces: Int[Tensor, " B"]) -> Float[Tensor, "B T *C"]:
        """What the model makes of each state alone, as of one frame without text; zero in the padding."""
        inside = frame_mask(faces, states.shape[1])
        fixed = shapes_are_fixed(states)
        h = states.flatten(0, 1) if fixed else states[inside]
        f_high = h
        if self.attend is not None:
            one, nothing = torch.ones_like(h[:, 0]).long(), torch.zeros_like(h)
            f_high, _ = self.fused(self.attend, h[:, None], h, one, nothing[:, None], nothing, 0 * one)
        each = self.answer(self.head(f_high)[0])
        if self.kind != "regression":
            each = probabilities(each, self.kind)
        if fixed:
            every = each.view(*inside.shape, *each.shape[1:])
            return every.masked_fill(~inside.view(*inside.shape, *[1] * (every.ndim - 2)), 0.0)
        return each.new_zeros(*inside.shape, *each.shape[1:]).index_put((inside,), each)


class LandmarkMask(nn.Module):
    """How much each patch counts, from where the landmarks lie (5), pooled to the grid (6).

    Args:
        grid: g.
        scale: pixels of the heatmap along the side of a patch.
        kernel: side of the convolution, an odd number.
    """

    def __init__(self, grid: int, scale: int, kernel: int) -> None:
        super().__init__()
        self.grid, self.scale = grid, scale
        self.convolution = nn.Conv2d(1, 1, kernel, padding=kernel // 2)
        self.register_buffer("points", torch.tensor(EYES + BROWS + MOUTH), persistent=False)

    def forward(self, batch: Batch) -> Float[Tensor, "B T G"]:
        """A number from 0 to 1 for each patch, row by row; the same for all patches of a frame without landmarks."""
        side = self.grid * self.scale
        frames = batch.sequences["vision"]
        shape = frames.shape[:2]
        if "landmarks" in batch.companions:
            points = batch.companions["landmarks"][:, :, self.get_buffer("points")].flatten(0, 1)
            maps = heatmaps(points, batch.companions_there["landmarks"].flatten(), side)
        else:
            maps = frames.new_zeros(math.prod(shape), side, side)
        a = torch.sigmoid(
            one_filter(maps[:, None].to(frames.dtype), self.convolution.weight, self.convolution.bias)
        )  # (5)
        return F.avg_pool2d(a, self.scale).reshape(*shape, -1)


@in_fp32
def one_filter(
    maps: Float[Tensor, "n 1 S S"], weight: Float[Tensor, "1 1 k k"], bias: Float[Tensor, " 1"] | None
) -> Float[Tensor, "n 1 S S"]:
    """A convolution with one filter over many pictures of one channel, padded so that they keep their size.

    A CPU does it three times as fast with the pictures as the channels of a single one, each with the same filter.
    """
    padding = weight.shape[-1] // 2
    if maps.is_cuda or not len(maps) or torch._C._are_functorch_transforms_active():
        return F.conv2d(maps, weight, bias, padding=padding)
    pictures = maps.transpose(0, 1)
    own = weight.expand(len(maps), -1, -1, -1), None if bias is None else bias.expand(len(maps))
    return F.conv2d(pictures, *own, padding=padding, groups=len(maps)).transpose(0, 1)


class FaceBranch(nn.Module):
    """The class token of each frame joined by its weighed patches, through an LSTM (6-13).

    Args:
        width: D.
        patches: whether the patches are read, beside the class token.
        d: width of the LSTM's state.
        dropout: of what it reads.
    """

    def __init__(self, width: int, patches: bool, d: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(2 * width if patches else width, d)
        self.lstm = LSTM(d, d)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, frames: Float[Tensor, "B T *_"], lengths: Int[Tensor, " B"], mask: Float[Tensor, "B T G"] | None
    ) -> tuple[Float[Tensor, "B T d"], Float[Tensor, "B d"], dict[str, Float[Tensor, "B T G"]]]:
        """H and h_T, zero where there are no frames; and what is drawn."""
        x = frames if frames.ndim == 3 else frames[:, :, 0]
        drawn = {}
        if mask is not None:
            weighed = (mask[:, :, None] @ frames[:, :, 1:]).squeeze(2) / mask.sum(dim=2, keepdim=True)  # (6)
            x = torch.cat([x, weighed], dim=2)
            drawn["mask"] = mask * frame_mask(lengths, mask.shape[1])[..., None]
        states, last = self.lstm(self.dropout(self.project(x)), lengths)  # (7-13)
        return states, last, drawn


class TextBranch(nn.Module):
    """Graph attention over the tokens (15-17) and pooling by salience (18).

    Args:
        width: D.
        heads: K, which divide d.
        window: how many tokens away a neighbour may be; None: any number.
        d: width of a node.
        dropout: of the nodes.
    """

    def __init__(self, width: int, heads: int, window: int | None, d: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query, self.key = nn.Linear(width, d, bias=False), nn.Linear(width, d, bias=False)
        self.value = nn.Linear(width, heads * d, bias=False)
        self.salience = nn.Linear(d, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, e: Float[Tensor, "B M D"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B M d"], Float[Tensor, "B d"], dict[str, Float[Tensor, "B M *_"]]]:
        """The nodes e'' and their pooled embedding, zero where there are no tokens; and what is drawn."""
        inside = frame_mask(lengths, e.shape[1])
        q, k, v = (
            project(e).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        place = torch.arange(e.shape[1], device=e.device)
        near = (place - place[:, None]).abs() <= (e.shape[1] if self.window is None else self.window)
        # A token of the padding is its own neighbour, so that no softmax is empty.
        neighbour = (inside[:, None] & near) | torch.eye(len(place), dtype=torch.bool, device=e.device)
        scores = (q @ k.transpose(-1, -2) * k.shape[-1] ** -0.5).masked_fill(~neighbour[:, None], float("-inf"))
        alpha = scores.softmax(dim=-1)  # (15)
        nodes = self.dropout(F.elu((alpha @ v).mean(dim=1))) * inside[..., None]  # (17)
        beta = masked_softmax(self.salience(nodes).squeeze(-1), inside)
        pooled = (beta[:, None] @ nodes).squeeze(1)  # (18)
        both = inside[:, None] & inside[..., None]
        drawn = (
            {"beta": beta}
            if self.training
            else {
                "beta": beta,
                "graph": alpha.mean(dim=1) * both,
                "similarity_before": cosines(e),
                "similarity_after": cosines(nodes),
            }
        )
        return nodes, pooled, drawn


class DynamicAttention(nn.Module):
    """Each branch's summary attends to the other's sequence (19-21), and a gate joins what both find (22-23).

    Args:
        d: model width.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.to_text, self.to_face = AdditivePooling(d), AdditivePooling(d)
        self.gate = GatedSum(d)

    def forward(
        self,
        nodes: Float[Tensor, "B M d"],
        e_final: Float[Tensor, "B d"],
        words: Int[Tensor, " B"],
        states: Float[Tensor, "B T d"],
        h_last: Float[Tensor, "B d"],
        faces: Int[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"], Float[Tensor, "B d"], dict[str, Float[Tensor, "B _"]]]:
        """c_ft, c_tf, f_fusion, and the attention weights; c is zero where its modality is absent."""
        c_ft, gamma_text = attended(self.to_text, nodes, words, h_last)  # (19-21)
        c_tf, gamma_face = attended(self.to_face, states, faces, e_final)
        f_fusion = self.gate(c_ft, c_tf, words > 0, faces > 0)  # (22-23)
        return c_ft, c_tf, f_fusion, {"gamma_text": gamma_text, "gamma_face": gamma_face}


class Concatenation(nn.Module):
    """Instead of dynamic attention: the branches' summaries side by side, through a linear map (Table 5).

    Args:
        d: model width.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.join = nn.Linear(2 * d, d)

    def forward(
        self,
        nodes: Float[Tensor, "B M d"],
        e_final: Float[Tensor, "B d"],
        words: Int[Tensor, " B"],
        states: Float[Tensor, "B T d"],
        h_last: Float[Tensor, "B d"],
        faces: Int[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"], Float[Tensor, "B d"], dict[str, Float[Tensor, "B _"]]]:
        """The summaries in place of c_ft and c_tf, and f_fusion; nothing is drawn."""
        return e_final, h_last, self.join(torch.cat([h_last, e_final], dim=1)), {}


class HierarchicalFusion(nn.Module):
    """The low and middle levels, and the gating over all three (24-30).

    Args:
        d: model width.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.low = GatedSum(d)
        self.state, self.score = nn.Linear(d, d), nn.Linear(d, 1, bias=False)
        self.prior = nn.Parameter(torch.zeros(len(LEVELS)))

    def forward(
        self,
        h_last: Float[Tensor, "B d"],
        e_final: Float[Tensor, "B d"],
        c_ft: Float[Tensor, "B d"],
        c_tf: Float[Tensor, "B d"],
        f_fusion: Float[Tensor, "B d"],
        has_face: Bool[Tensor, " B"],
        has_text: Bool[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B 3"]]:
        """f_high, and how much each level counts."""
        f_low = self.low(h_last, e_final, has_face, has_text)  # (24-25)
        there = (has_face.long() + has_text.long()).clamp(min=1)
        f_mid = (c_ft + c_tf) / there[:, None]  # (27)
        levels = torch.stack([f_low, f_mid, f_fusion], dim=1)  # (28)
        alpha = (self.score(torch.tanh(self.state(levels))).squeeze(-1) + self.prior).softmax(dim=1)  # (29)
        return (alpha[:, None] @ levels).squeeze(1), alpha  # (30)


class GatedSum(nn.Module):
    """g * W1 a + (1 - g) * W2 b with g = sigmoid(W [a; b] + bias) (22-23, 24-25).

    Args:
        d: width of a, of b and of the sum.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * d, d)
        self.first, self.second = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)

    def forward(
        self, a: Float[Tensor, "B d"], b: Float[Tensor, "B d"], has_a: Bool[Tensor, " B"], has_b: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B d"]:
        """The sum; where one of the two is absent, the other's part alone."""
        g = torch.sigmoid(self.gate(torch.cat([a, b], dim=1)))
        g = torch.where(has_a[:, None], torch.where(has_b[:, None], g, 1.0), 0.0)
        total: Tensor = g * self.first(a) + (1 - g) * self.second(b)
        return total


class Head(nn.Module):
    """f_high as L tokens through a Transformer, their mean classified (32-38).

    Args:
        d: model width.
        tokens: L.
        layers: of the Transformer.
        heads: of each layer, which divide d.
        hidden: width of the feed-forward part.
        dropout: in the Transformer.
        outputs: C.
    """

    def __init__(self, d: int, tokens: int, layers: int, heads: int, hidden: int, dropout: float, outputs: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.project = nn.Linear(d, tokens * d)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, d))
        self.layers = nn.ModuleList(EncoderLayer(d, heads, d // heads, hidden, dropout) for _ in range(layers))
        self.classify = nn.Linear(d, outputs)

    def forward(self, f_high: Float[Tensor, "B d"]) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B H L L"] | None]:
        """Logits, and the attention of the first layer, after training."""
        z = self.project(f_high).unflatten(1, (self.tokens, -1)) + self.positions  # (32-34)
        maps = []
        for layer in self.layers:
            z, weights = layer(z, z, z, None)  # (35-36)
            maps.append(weights)
        logits: Tensor = self.classify(z.mean(dim=1))
        return logits, maps[0]  # (37-38)


def attended(
    pooling: AdditivePooling, x: Float[Tensor, "B S d"], lengths: Int[Tensor, " B"], query: Float[Tensor, "B d"]
) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B S"]]:
    """What one query per utterance finds among its own elements, and the weights; zero where it has none."""
    inside = frame_mask(lengths, x.shape[1])
    found, weights = pooling(x, query[:, None], (inside | (lengths == 0)[:, None])[:, None])
    return found.squeeze(1) * (lengths > 0)[:, None], weights.squeeze(1) * inside


def masked_softmax(scores: Float[Tensor, "B S"], inside: Bool[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Softmax over what is inside; zero outside, and everywhere if nothing is."""
    visible = inside | ~inside.any(dim=1, keepdim=True)
    weights: Tensor = scores.masked_fill(~visible, float("-inf")).softmax(dim=1)
    return weights * inside


def cosines(x: Float[Tensor, "B M _"]) -> Float[Tensor, "B M M"]:
    """Similarity of each two tokens of an utterance."""
    unit: Tensor = F.normalize(x, dim=2)
    return unit @ unit.transpose(1, 2)
