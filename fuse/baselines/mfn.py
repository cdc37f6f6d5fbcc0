"""MFN: an LSTM per modality, attention over what their memories have just changed, and a memory of its own above them.

Paper: A. Zadeh, P. P. Liang, N. Mazumder, S. Poria, E. Cambria, L.-P. Morency, "Memory Fusion Network for Multi-view
Sequential Learning", 2018, section 3.

    h_{m,t}, c_{m,t} = LSTM_m(x_{m,t}, h_{m,t-1}, c_{m,t-1})                        (system of LSTMs)
    a_t = softmax(D_a(c_{t-1,t})), c_{t-1,t} = [c_{1,t-1}; ..; c_{M,t-1}; c_{1,t}; ..; c_{M,t}]
    c^_t = c_{t-1,t} * a_t                                                          (delta-memory attention)
    u^_t = tanh(D_u(c^_t)), g1_t = sigmoid(D_g1(c^_t)), g2_t = sigmoid(D_g2(c^_t))
    u_t = g1_t * u_{t-1} + g2_t * u^_t, u_0 = 0                                     (multi-view gated memory)
    y = D_out([h_{1,T}; ..; h_{M,T}; u_T])

Axes: B utterances, T steps, M modalities, H_m width of the memory of modality m, U width of the gated memory, H sum of
the H_m, C outputs.

Each D is linear, ReLU, dropout, linear. Readings:
- The paper's sequences are aligned to words. Here each modality is resampled to the same T steps by adaptive average
  pooling over its own length, as in `hff`.
- The gates read c^_t alone, as printed; the authors' code gives them u_{t-1} too.
- An absent modality has no memory: its part of c is zero and takes no share of the softmax, and its h_T is zero.
- Widths and dropout are from the ranges that the authors' code searches (text 128, speech and vision 32, memory 128,
  every D 64 wide with dropout 0.5), the rate of 1e-3 too; AdamW is ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.arch import Architecture, Batch, Output, outputs, vector_widths
from fuse.nn.lengths import resample
from fuse.tables import Table
from fuse.training.config import TrainConfig

PREFERS = {
    "text": ("roberta", "bert", "koelectra"),
    "speech": ("mfcc", "logmel", "hubert"),
    "vision": ("resnet", "vit"),
}
INPUTS = {"text": (300,), "speech": (74,), "vision": (35,)}
TRAINING = TrainConfig(lr=1e-3)
ABLATIONS: dict[str, dict[str, object]] = {}
TABLES: tuple[Table, ...] = ()


class Config(Spec):
    """Settings of MFN."""

    steps: int = Field(default=8, ge=1)
    """Steps that every modality is resampled to."""
    text_width: int = Field(default=128, ge=1)
    """Width of the memory of text."""
    speech_width: int = Field(default=32, ge=1)
    """Width of the memory of speech."""
    vision_width: int = Field(default=32, ge=1)
    """Width of the memory of vision."""
    memory: int = Field(default=128, ge=1)
    """Width of the gated memory u."""
    hidden: int = Field(default=64, ge=1)
    """Width of the hidden layer of every D."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout within every D."""


def build(config: Config, tails: Mapping[str, tuple[int, ...]], target: Target) -> MFN:
    """The module for these modalities and this target; `tails` is the shape of one frame of each modality.

    Raises:
        SettingsError: a modality that MFN does not take, or one whose frames are not vectors.
    """
    widths = vector_widths("mfn", PREFERS, tails)
    return MFN(widths, outputs(target), target.kind, **dict(config))


class MFN(Architecture):
    """The three parts of section 3. The arguments are those of `Config`, flat.

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
        steps: int,
        text_width: int,
        speech_width: int,
        vision_width: int,
        memory: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.kind, self.steps = kind, steps
        d = {"text": text_width, "speech": speech_width, "vision": vision_width}
        self.sizes = tuple(d[m] for m in widths)
        self.lstms = nn.ModuleDict({m: nn.LSTMCell(width, d[m]) for m, width in widths.items()})
        self.memory = DeltaMemory(sum(self.sizes), memory, hidden, dropout)
        self.classifier = two_layers(sum(self.sizes) + memory, hidden, outputs, dropout)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, C), or predictions (B,) for regression.

        Drawn: `attention`, a_t (B, T, 2 sum H_m), and each modality's share of it, mean over the steps,
        `attention_text` etc. (B,).
        """
        states = [self.states(batch, m) for m in self.modalities]
        there = torch.cat([batch.available[:, i : i + 1].expand(-1, size) for i, size in enumerate(self.sizes)], dim=1)
        final = torch.cat([h for h, _ in states], dim=1) * there
        cells = torch.cat([c for _, c in states], dim=2) * there[:, None]
        u, attention = self.memory(cells, there)
        logits = self.classifier(torch.cat([final, u], dim=1))
        shares = attention.mean(dim=1).unflatten(1, (2, -1)).sum(dim=1).split(self.sizes, dim=1)
        drawn = {f"attention_{m}": share.sum(dim=1) for m, share in zip(self.modalities, shares, strict=True)}
        return Output(
            logits.squeeze(-1) if self.kind == "regression" else logits, drawn={"attention": attention, **drawn}
        )

    def states(self, batch: Batch, modality: str) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B T H"]]:
        """h after the last step, and c after each, of one modality's LSTM."""
        x = resample(batch.sequences[modality], batch.lengths[modality], self.steps)
        cell = self.lstms[modality]
        h, c = cell(x[:, 0])
        cells = [c]
        for t in range(1, self.steps):
            h, c = cell(x[:, t], (h, c))
            cells.append(c)
        return h, torch.stack(cells, dim=1)


class DeltaMemory(nn.Module):
    """Delta-memory attention and the multi-view gated memory (3.2-3.3).

    What the steps read does not depend on the memory, so that all of them are computed at once, and only u in turn.

    Args:
        width: sum of the H_m.
        memory: U.
        hidden: width of the hidden layer of each D.
        dropout: within each D.
    """

    def __init__(self, width: int, memory: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attend = two_layers(2 * width, hidden, 2 * width, dropout)
        self.update = two_layers(2 * width, hidden, memory, dropout)
        self.keep = two_layers(2 * width, hidden, memory, dropout)
        self.write = two_layers(2 * width, hidden, memory, dropout)

    def forward(
        self, cells: Float[Tensor, "B T H"], there: Bool[Tensor, "B H"]
    ) -> tuple[Float[Tensor, "B U"], Float[Tensor, "B T H2"]]:
        """u after the last step, and a of each step; `there` says which memories belong to available modalities."""
        before = torch.cat([torch.zeros_like(cells[:, :1]), cells[:, :-1]], dim=1)
        both = torch.cat([before, cells], dim=2)
        visible = torch.cat([there, there], dim=1)[:, None]
        attention = self.attend(both).masked_fill(~visible, float("-inf")).softmax(dim=2)
        attended = both * attention
        update, keep, write = (
            torch.tanh(self.update(attended)),
            torch.sigmoid(self.keep(attended)),
            torch.sigmoid(self.write(attended)),
        )
        u = torch.zeros_like(update[:, 0])
        for t in range(cells.shape[1]):
            u = keep[:, t] * u + write[:, t] * update[:, t]
        return u, attention


def two_layers(width: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    """A network D of the paper."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out))
