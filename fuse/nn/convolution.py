"""Convolutions over sequences with lengths.

Axes: B sequences, T frames of the longest, D width of a frame, C channels of the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fuse.nn.lengths import frame_mask


class Convolution(nn.Conv1d):
    """`nn.Conv1d` of frames as they lie in (B, T, D), zeros around them so that as many come out.

    On a CPU as a picture one row high, which torch convolves in that layout; `nn.Conv1d` copies what it is given, what
    comes out and the gradients into another one, for which a step of the CNN takes a sixth longer.

    Args:
        width: D.
        channels: C.
        kernel: frames that it sees, an odd number.
        bias: whether one is added.
    """

    def __init__(self, width: int, channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__(width, channels, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T C"]:
        """What `nn.Conv1d` makes of (B, D, T), as (B, T, C)."""
        x = x.transpose(1, 2)
        if x.is_cuda:
            return super().forward(x).transpose(1, 2)
        padding = (0, self.kernel_size[0] // 2)
        y = F.conv2d(x.unsqueeze(2), self.weight.unsqueeze(2), self.bias, padding=padding)
        return y.squeeze(2).transpose(1, 2)


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
        self.layers = nn.ModuleList(Convolution(i, o, kernel) for i, o in pairs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """One vector per sequence, zero for an empty one. Every layer finds zeros in the padding."""
        inside = frame_mask(lengths, x.shape[1])[..., None]
        for number, layer in enumerate(self.layers):
            x = layer(self.dropout(F.relu(x)) if number else x) * inside
        # The padding's zeros are no greater than what ReLU leaves.
        return F.relu(x.amax(dim=1))
