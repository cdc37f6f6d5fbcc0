"""LSTMs over sequences with lengths.

Axes: B sequences, T frames of the longest, D width of a frame, H hidden width, both directions together.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fuse.nn.lengths import frame_mask


class LSTM(nn.Module):
    """An LSTM that sees each sequence's own frames only.

    Args:
        width: D.
        hidden: width of each direction's state.
        bidirectional: whether a second LSTM runs from the last frame to the first.
        layers: one above the other.
        dropout: between the layers.
    """

    def __init__(
        self, width: int, hidden: int, bidirectional: bool = False, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            width,
            hidden,
            layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.directions = 2 if bidirectional else 1

    def forward(
        self, x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H"]]:
        """The top layer's states, zero in the padding; and where each direction ended, zero for an empty sequence."""
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        states, (last, _) = self.lstm(packed)
        padded, _ = pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])
        final = torch.cat(list(last[-self.directions :]), dim=1)
        return padded * frame_mask(lengths, x.shape[1])[..., None], final * (lengths > 0)[:, None]
