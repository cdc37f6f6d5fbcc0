"""The scans of `fuse.kernels.recurrent` in plain torch: a loop over time, its derivative by hand.

Axes: S seeds, D directions (the second runs from the last frame to the first), T frames of the longest, B sequences,
H hidden width. What is kept for the backward pass is K H wide, and anything in the padding: K = 4 (r, z, n and
U_n h + b) of a GRU, 5 (i, f, g, o and c) of an LSTM.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def gru_forward(
    gates: Float[Tensor, "S D T B 3*H"],
    weight: Float[Tensor, "S D 3*H H"],
    bias: Float[Tensor, "S D H"],
    lengths: Int[Tensor, "S B"],
) -> tuple[Float[Tensor, "S D T B H"], Float[Tensor, "S D T B 4*H"]]:
    """States, zero in the padding, and what `gru_backward` needs."""
    x, w, b = (_wide(t) for t in (gates, weight, bias))
    x, inside = _in_order(x), _in_order(_inside(gates, lengths))
    h = x.new_zeros(*x.shape[:2], *x.shape[3:-1], w.shape[-1])
    states, kept = [], []
    for here, gate in zip(inside.unbind(2), x.unbind(2), strict=True):
        recurrent = (h @ w.mT).chunk(3, dim=-1)
        given = gate.chunk(3, dim=-1)
        r = torch.sigmoid(given[0] + recurrent[0])
        z = torch.sigmoid(given[1] + recurrent[1])
        u = recurrent[2] + b[:, :, None]
        n = torch.tanh(given[2] + r * u)
        h = torch.where(here, (1 - z) * n + z * h, 0.0)
        states.append(h)
        kept.append(torch.where(here, torch.cat([r, z, n, u], dim=-1), 0.0))
    return _stacked(states, gates.dtype), _stacked(kept, gates.dtype)


def gru_backward(
    grad: Float[Tensor, "S D T B H"],
    states: Float[Tensor, "S D T B H"],
    kept: Float[Tensor, "S D T B 4*H"],
    weight: Float[Tensor, "S D 3*H H"],
    lengths: Int[Tensor, "S B"],
) -> Float[Tensor, "S D T B 4*H"]:
    """The loss's derivative by each gate's input (r, z, n) and by U_n h + b, zero in the padding."""
    w, kept = _wide(weight), torch.where(_inside(kept, lengths), kept, 0.0)
    carried = torch.zeros_like(w[..., :1, :])
    grads = []
    for here, dh, h, own in _backwards(grad, states, kept, lengths):
        r, z, n, u = own.chunk(4, dim=-1)
        dh = torch.where(here, dh + carried, 0.0)
        dn = dh * (1 - z) * (1 - n * n)
        dr = dn * u * r * (1 - r)
        dz = dh * (h - n) * z * (1 - z)
        du = dn * r
        carried = dh * z + torch.cat([dr, dz, du], dim=-1) @ w
        grads.append(torch.cat([dr, dz, dn, du], dim=-1))
    return _stacked(grads[::-1], grad.dtype)


def lstm_forward(
    gates: Float[Tensor, "S D T B 4*H"], weight: Float[Tensor, "S D 4*H H"], lengths: Int[Tensor, "S B"]
) -> tuple[Float[Tensor, "S D T B H"], Float[Tensor, "S D T B 5*H"]]:
    """States, zero in the padding, and what `lstm_backward` needs."""
    x, w = _wide(gates), _wide(weight)
    x, inside = _in_order(x), _in_order(_inside(gates, lengths))
    h = c = x.new_zeros(*x.shape[:2], *x.shape[3:-1], w.shape[-1])
    states, kept = [], []
    for here, gate in zip(inside.unbind(2), x.unbind(2), strict=True):
        i, f, g, o = (gate + h @ w.mT).chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = torch.where(here, f * c + i * g, 0.0)
        h = torch.where(here, o * torch.tanh(c), 0.0)
        states.append(h)
        kept.append(torch.where(here, torch.cat([i, f, g, o, c], dim=-1), 0.0))
    return _stacked(states, gates.dtype), _stacked(kept, gates.dtype)


def lstm_backward(
    grad: Float[Tensor, "S D T B H"],
    kept: Float[Tensor, "S D T B 5*H"],
    weight: Float[Tensor, "S D 4*H H"],
    lengths: Int[Tensor, "S B"],
) -> Float[Tensor, "S D T B 4*H"]:
    """The loss's derivative by each gate's input (i, f, g, o), zero in the padding."""
    w, kept = _wide(weight), torch.where(_inside(kept, lengths), kept, 0.0)
    carried = dc = torch.zeros_like(w[..., :1, :])
    grads = []
    cells = kept[..., 4 * grad.shape[-1] :]
    for here, dh, c_before, own in _backwards(grad, cells, kept, lengths):
        i, f, g, o, c = own.chunk(5, dim=-1)
        dh = torch.where(here, dh + carried, 0.0)
        tanh = torch.tanh(c)
        dc = torch.where(here, dc, 0.0) + dh * o * (1 - tanh * tanh)
        di, df = dc * g * i * (1 - i), dc * c_before * f * (1 - f)
        dg, do = dc * i * (1 - g * g), dh * tanh * o * (1 - o)
        dc = dc * f
        each = torch.cat([di, df, dg, do], dim=-1)
        carried = each @ w
        grads.append(each)
    return _stacked(grads[::-1], grad.dtype)


def _backwards(
    grad: Float[Tensor, "S D T B H"],
    states: Float[Tensor, "S D T B H"],
    kept: Float[Tensor, "S D T B _"],
    lengths: Int[Tensor, "S B"],
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of each step, the last first: whether it is its sequence's, its gradient, the state before it, what was kept."""
    h = _in_order(_wide(states))
    before = torch.cat([torch.zeros_like(h[:, :, :1]), h[:, :, :-1]], dim=2)
    each = (_in_order(_inside(grad, lengths)), _in_order(_wide(grad)), before, _in_order(_wide(kept)))
    return list(zip(*(x.flip(2).unbind(2) for x in each), strict=True))


def _inside(x: Float[Tensor, "S D T B _"], lengths: Int[Tensor, "S B"]) -> Bool[Tensor, "S D T B 1"]:
    """True where a frame belongs to its sequence."""
    times = torch.arange(x.shape[2], device=x.device)
    inside = times[:, None] < lengths[:, None]
    return inside[:, None, ..., None].expand(-1, x.shape[1], -1, -1, -1)


def _in_order(x: Tensor) -> Tensor:
    """Each direction's frames in the order in which it reads them; of what is in that order, as it was."""
    return x if x.shape[1] == 1 else torch.cat([x[:, :1], x[:, 1:].flip(2)], dim=1)


def _stacked(steps: list[Tensor], dtype: torch.dtype) -> Tensor:
    return _in_order(torch.stack(steps, dim=2)).to(dtype)


def _wide(x: Tensor) -> Tensor:
    """Half precision in single, in which the state is kept."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
