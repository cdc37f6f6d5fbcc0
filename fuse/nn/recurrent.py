"""GRUs and LSTMs over sequences with lengths.

One seed on a CPU runs torch's modules but for what is slow in them: sequences of different lengths (`padded`) and the
training of GRUs (`TrainedGRU`). Where `torch.func` maps over seeds, which torch's modules do not allow, and on a GPU
where a kernel can, the same mathematics runs as `fuse.kernels.recurrent`. The parameters are torch's, and so are their
names.

Axes: B sequences, T frames of the longest, D width of a frame, H hidden width, both directions together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from compute.products import product, suits
from fuse.kernels.recurrent import recurrent, scan_runs
from fuse.nn.lengths import frame_mask
from fuse.nn.twice import gradients
from fuse.precision import in_fp32


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
        if scans(x, self.hidden_size):
            lengths = torch.full((1, len(x)), x.shape[1], device=x.device)
            return scanned(self, x.transpose(0, 1), lengths, 0)[0].transpose(0, 1)
        if trains(x):
            return trained_gru(x.transpose(0, 1).contiguous(), *of_layer(self, 0)).transpose(0, 1)
        states: Tensor = super().forward(x)[0]
        return states


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

    def forward(
        self, x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H"]]:
        """The top layer's states, zero in the padding; and where each direction ended, zero for an empty sequence."""
        x = x.transpose(0, 1)
        run = scanned if scans(x, self.lstm.hidden_size) else padded
        for layer in range(self.lstm.num_layers):
            states = run(self.lstm, x, lengths[None], layer)
            x = torch.cat(tuple(states), dim=-1)
            if layer + 1 < self.lstm.num_layers:
                x = F.dropout(x, self.lstm.dropout, self.training)
        last = torch.arange(x.shape[0], device=x.device)[:, None] == lengths - 1
        ends = [torch.where(last[..., None], states[0], 0.0).sum(dim=0), *(backward[0] for backward in states[1:])]
        return x.transpose(0, 1), torch.cat(ends, dim=-1)


def scans(x: Tensor, hidden: int) -> bool:
    """Whether the seeds' own scan runs instead of torch's module: under `torch.func`, and where its kernel does."""
    return torch._C._are_functorch_transforms_active() or scan_runs(hidden, x)


def trains(x: Tensor) -> bool:
    """Whether gradients are wanted on a CPU, of what is neither compiled, traced, exported nor empty."""
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and x.numel() > 0
    )


def of_layer(module: nn.RNNBase, layer: int, way: str = "") -> tuple[Tensor, ...]:
    """Of one direction of torch's GRU or LSTM: weights of the input and of the state, and their biases."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return tuple(getattr(module, f"{name}_l{layer}{way}") for name in names)


def ways(module: nn.RNNBase) -> tuple[str, ...]:
    """What the names of each direction's parameters end in."""
    return ("", "_reverse") if module.bidirectional else ("",)


def scanned(module: nn.RNNBase, x: Float[Tensor, "T B D"], lengths: Int[Tensor, "1 B"], layer: int) -> Sequence[Tensor]:
    """Each direction's states (T, B, H) of one layer of torch's GRU or LSTM, zero in the padding. No device is waited
    for."""
    each = zip(*(of_layer(module, layer, way) for way in ways(module)), strict=True)
    w_in, w_rec, b_in, b_rec = (torch.stack(own)[None] for own in each)
    return recurrent(x[None], w_in, w_rec, b_in, b_rec, lengths)[0].unbind()


@in_fp32
def padded(module: nn.LSTM, x: Float[Tensor, "T B D"], lengths: Int[Tensor, "1 B"], layer: int) -> Sequence[Tensor]:
    """As `scanned`, by torch's LSTM: it runs on through the padding behind a sequence's end, in either direction.

    On a CPU that is one call of oneDNN, whereas torch runs packed sequences as a loop of many small operations. Forward
    and backward on one core take 0.45 of its time for 64 sequences of 12 to 75 frames, 256 wide, and 0.34 to 0.67 for
    batches of similar lengths, as training makes them; as long where all lengths are equal, and 1.1 of it where padding
    is two thirds of a batch.
    """
    inside = frame_mask(lengths[0], x.shape[0]).T[..., None]
    times = torch.arange(x.shape[0], device=x.device)[:, None]
    turned = torch.where(times < lengths, lengths - 1 - times, times)[..., None]
    x = x.masked_fill(~inside, 0.0)  # else the gradient of a weight may be 0 times nan
    start = x.new_zeros(1, x.shape[1], module.hidden_size)
    found = []
    for way in ways(module):
        read = x.gather(0, turned.expand_as(x)) if way else x
        states, _, _ = torch.lstm(
            read, (start, start), of_layer(module, layer, way), True, 1, 0.0, module.training, False, False
        )
        states = states.gather(0, turned.expand_as(states)) if way else states
        found.append(states.masked_fill(~inside, 0.0))
    return found


class TrainedGRU(torch.autograd.Function):
    """The states of a GRU that starts at zero, over sequences of one length, and their gradients.

    torch's GRU on a CPU is a dozen operations per step, two dozen backwards, a product for the recurrent weights'
    gradient among them. Here a step is a few in place, all that does not depend on the step before is computed of all
    steps at once, and products are those of `compute/products.py`. Forward and backward on one core take 0.7 of its
    time for 64 sequences of 8 steps, 128 wide, and 0.6 for 256. Without gradients there is little to gain.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "T B D"],
        w_in: Float[Tensor, "G D"],
        w_rec: Float[Tensor, "G H"],
        b_in: Float[Tensor, " G"],
        b_rec: Float[Tensor, " G"],
    ) -> Float[Tensor, "T B H"]:
        """What torch's GRU computes."""
        hidden = w_rec.shape[1]
        both = 2 * hidden
        gates = faster(x, w_in)(x, w_in, torch.cat([b_in[:both] + b_rec[:both], b_in[both:]]))
        reset = b_rec[both:].repeat(*x.shape[:2], 1)  # U_n h + b of each step, which r multiplies
        before = torch.zeros_like(reset[0])
        states = torch.empty_like(reset)
        product_of = faster(before, w_rec)
        parts = (gates[..., :both], *gates.chunk(3, dim=-1), reset, states)
        for t, (r_and_z, r, z, n, u, h) in enumerate(zip(*(part.unbind() for part in parts), strict=True)):
            if t:
                recurrent = product_of(before, w_rec)
                r_and_z += recurrent[:, :both]
                u += recurrent[:, both:]
            r_and_z.sigmoid_()
            n.addcmul_(r, u).mul_(2).sigmoid_().mul_(2).sub_(1)  # tanh, in half of its time
            before = torch.lerp(n, before, z, out=h)
        ctx.save_for_backward(x, w_in, w_rec, b_in, b_rec, gates, reset, states)
        return states

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, the weights and the biases."""
        *given, gates, reset, states = ctx.saved_tensors
        if torch.is_grad_enabled():
            return gradients(torchs_gru, given, ctx.needs_input_grad, gradient)
        x, w_in, w_rec, _, _ = given
        hidden = w_rec.shape[1]
        r, z, n = gates.chunk(3, dim=-1)
        before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
        # Of each gate all of its derivative but the state's, which the loop finds.
        of_n = (1 - z).mul_(1 - n * n)
        each = (1 - gates).mul_(gates)
        of_r, of_z, of_u = each.chunk(3, dim=-1)
        of_r *= of_n * reset
        of_z *= before - n
        torch.mul(of_n, r, out=of_u)
        of_state, parts = gradient.clone(memory_format=torch.contiguous_format), each.view(*each.shape[:2], 3, hidden)
        back = w_rec.t().contiguous()
        product_of = faster(each[0], back)
        for t in reversed(range(len(x))):
            parts[t].mul_(of_state[t, :, None])
            if t:
                of_state[t - 1].add_(product_of(each[t], back).addcmul_(of_state[t], z[t]))
        rows, states_before, inputs = each.flatten(0, 1), before.flatten(0, 1).t(), x.flatten(0, 1).t()
        weighs = faster(inputs, rows.t())
        by_w_rec, by_b_rec = weighs(states_before, rows.t()).t(), rows.sum(dim=0)
        torch.mul(of_n, of_state, out=of_u)  # from here on n's own input instead of U_n h + b
        by_w_in, by_b_in = weighs(inputs, rows.t()).t(), rows.sum(dim=0)
        return faster(each, w_in.t())(each, w_in.t()), by_w_in, by_w_rec, by_b_in, by_b_rec


@in_fp32
def trained_gru(x: Float[Tensor, "T B D"], *parameters: Tensor) -> Float[Tensor, "T B H"]:
    """States of `TrainedGRU`."""
    states: Tensor = TrainedGRU.apply(x, *parameters)  # type: ignore[no-untyped-call]
    return states


def torchs_gru(x: Float[Tensor, "T B D"], *parameters: Tensor) -> Float[Tensor, "T B H"]:
    """What `TrainedGRU` computes, by torch's operations."""
    start = x.new_zeros(1, x.shape[1], parameters[1].shape[1])
    states: Tensor = torch.gru(x, start, parameters, True, 1, 0.0, True, False, False)[0]
    return states


def faster(x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"]) -> Callable[..., Tensor]:
    """What multiplies tensors of these shapes: oneDNN's product or torch's."""
    return product if suits(x, weight) else F.linear
