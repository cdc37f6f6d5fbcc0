"""GRUs and LSTMs over sequences with lengths.

One seed on a CPU runs torch's own modules. Where `torch.func` maps over seeds, which those do not allow, and on a GPU,
where they wait for the lengths, the same mathematics runs as `fuse.kernels.recurrent`. The parameters are torch's, and
so are their names.

Axes: B sequences, T frames of the longest, D width of a frame, H hidden width, both directions together.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fuse.kernels.recurrent import recurrent, scan_runs
from fuse.nn.lengths import frame_mask


class GRU(nn.GRU):
    """A GRU of one layer and one direction over sequences without padding.

    Args:
        width: D.
        hidden: width of the state.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, batch_first=True)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:  # type: ignore[override]
        """The states."""
        if not scans(x, self.hidden_size):
            states: Tensor = super().forward(x)[0]
            return states
        lengths = torch.full((1, len(x)), x.shape[1], device=x.device)
        return scanned(self, x.transpose(0, 1), lengths, 0).squeeze(0).transpose(0, 1)


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
        if scans(x, self.lstm.hidden_size):
            return self.scanned(x, lengths)
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        states, (last, _) = self.lstm(packed)
        padded, _ = pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])
        final = torch.cat(list(last[-self.directions :]), dim=1)
        return padded * frame_mask(lengths, x.shape[1])[..., None], final * (lengths > 0)[:, None]

    def scanned(
        self, x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H"]]:
        """As `forward`, without a wait for the device."""
        x = x.transpose(0, 1)
        for layer in range(self.lstm.num_layers):
            states = scanned(self.lstm, x, lengths[None], layer)
            x = torch.cat(states.unbind(0), dim=-1)
            if layer + 1 < self.lstm.num_layers:
                x = F.dropout(x, self.lstm.dropout, self.training)
        last = torch.arange(len(x), device=x.device)[:, None] == lengths - 1
        ends = [torch.where(last[..., None], states[0], 0.0).sum(dim=0), *(backward[0] for backward in states[1:])]
        return x.transpose(0, 1), torch.cat(ends, dim=-1)


def scans(x: Tensor, hidden: int) -> bool:
    """Whether the seeds' own scan runs instead of torch's module: under `torch.func`, and where its kernel does."""
    return torch._C._are_functorch_transforms_active() or scan_runs(hidden, x)


def scanned(module: nn.RNNBase, x: Float[Tensor, "T B D"], lengths: Int[Tensor, "1 B"], layer: int) -> Tensor:
    """States (directions, T, B, width of one direction's state) of one layer of torch's GRU or LSTM."""
    suffixes = [f"_l{layer}{way}" for way in ("", "_reverse")[: 2 if module.bidirectional else 1]]
    w_in, w_rec, b_in, b_rec = (
        torch.stack([getattr(module, name + suffix) for suffix in suffixes])[None]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    return recurrent(x[None], w_in, w_rec, b_in, b_rec, lengths).squeeze(0)
