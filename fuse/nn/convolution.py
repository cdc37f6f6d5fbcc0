"""Convolutions over sequences with lengths.

Axes: B sequences, T frames of the longest, D width of a frame, C channels of the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fuse.nn.lengths import frame_mask


class Convolutions(nn.Module):
    """Convolutions in time, each followed by ReLU, then the maximum over time (Kim 2014, section 2).

    Args:
        width: D.
        channels: of each layer.
        kernel: frames that each layer sees, an odd number.
        dropout: between the layers. None before the maximum, which would see what dropout has scaled up, and
            in evaluation would find less than in training.
    """

    def __init__(self, width: int, channels: Sequence[int], kernel: int, dropout: float) -> None:
        super().__init__()
        pairs = zip((width, *channels), channels, strict=False)
        self.layers = nn.ModuleList(nn.Conv1d(i, o, kernel, padding=kernel // 2) for i, o in pairs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """One vector per sequence, zero for an empty one. Every layer finds zeros in the padding."""
        inside = frame_mask(lengths, x.shape[1])[:, None]
        x = x.transpose(1, 2)
        for number, layer in enumerate(self.layers):
            x = F.relu(layer(self.dropout(x) if number else x)) * inside
        # After ReLU no frame is below the padding's zero.
        return torch.amax(x, dim=2)
