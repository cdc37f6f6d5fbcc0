"""GRU and LSTM over time, many seeds in one launch, sequences of different lengths, one direction or both.

What does not depend on the state before, the projections of all frames, is one matrix product ahead (`recurrent`) of
the scan over time (`gru_scan`, `lstm_scan`). Sources: Cho et al. 2014 (arXiv:1406.1078), with the reset gate after the
recurrent product as torch and cuDNN have it; Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000.

Under `torch.func.vmap` the mapped dimension becomes part of the seeds; gradients are taken outside of it, with
`backward` or `torch.autograd.grad`, as torch knows no `torch.func.grad` of operators like these. Nothing here waits for
the device.

Axes: S seeds, D directions (the second runs from the last frame to the first), T frames of the longest, B sequences,
W width of a frame, H hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fuse.kernels.dispatch import computed, kernel_runs, seeds_mapped
from fuse.kernels.recurrent import reference

WIDEST = 256
"""Hidden units beyond which the kernels would need more registers than there are."""

Pair = tuple[Tensor, Tensor]


def recurrent(
    x: Float[Tensor, "S T B W"],
    w_in: Float[Tensor, "S D G*H W"],
    w_rec: Float[Tensor, "S D G*H H"],
    b_in: Float[Tensor, "S D G*H"],
    b_rec: Float[Tensor, "S D G*H"],
    lengths: Int[Tensor, "S B"],
) -> Float[Tensor, "S D T B H"]:
    """States of a GRU (G = 3) or an LSTM (G = 4) that starts at zero, zero in the padding.

    Args:
        x: the frames; numbers in the padding, whichever.
        w_in, w_rec, b_in, b_rec: of each seed and direction torch's `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0` and
            `bias_hh_l0`.
        lengths: frames of each sequence, 0 to T.

    Raises:
        ValueError: the shapes do not fit together.
    """
    hidden = w_rec.shape[-1]
    lstm = w_rec.shape[-2] == 4 * hidden
    # Both biases are added outside, but for the third of a GRU's b_rec that r multiplies.
    bias = b_in + b_rec if lstm else b_in + F.pad(b_rec[..., : 2 * hidden], (0, hidden))
    gates = x.flatten(1, 2)[:, None] @ w_in.mT + bias[:, :, None]
    gates = gates.reshape(*gates.shape[:2], *x.shape[1:3], -1).to(w_rec.dtype)  # the scan is not for autocast
    return lstm_scan(gates, w_rec, lengths) if lstm else gru_scan(gates, w_rec, b_rec[..., 2 * hidden :], lengths)


def gru_scan(
    gates: Float[Tensor, "S D T B 3*H"],
    weight: Float[Tensor, "S D 3*H H"],
    bias: Float[Tensor, "S D H"],
    lengths: Int[Tensor, "S B"],
) -> Float[Tensor, "S D T B H"]:
    """States of a GRU that starts at zero, zero in the padding.

    Args:
        gates: the inputs' part of the gates r, z, n, with all biases but `bias`; anything in the padding, also nan.
        weight: recurrent weights of r, z, n, one below the other, as torch's `weight_hh_l0`.
        bias: of the recurrent product of n, which r multiplies: the last third of torch's `bias_hh_l0`.
        lengths: frames of each sequence, 0 to T.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(gates, weight, lengths, 3)
    if bias.shape != weight.shape[:2] + weight.shape[3:]:
        raise ValueError(f"gru_scan: a bias of {tuple(bias.shape)} does not fit weights of {tuple(weight.shape)}.")
    states: Tensor = _gru(gates, weight.to(gates.dtype), bias.to(gates.dtype), lengths)[0]
    return states


def lstm_scan(
    gates: Float[Tensor, "S D T B 4*H"], weight: Float[Tensor, "S D 4*H H"], lengths: Int[Tensor, "S B"]
) -> Float[Tensor, "S D T B H"]:
    """States of an LSTM that starts at zero, zero in the padding.

    Args:
        gates: the inputs' part of the gates i, f, g, o, with all biases; anything in the padding, also nan.
        weight: recurrent weights of i, f, g, o, one below the other, as torch's `weight_hh_l0`.
        lengths: frames of each sequence, 0 to T.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(gates, weight, lengths, 4)
    states: Tensor = _lstm(gates, weight.to(gates.dtype), lengths)[0]
    return states


def scan_runs(hidden: int, *tensors: Tensor) -> bool:
    """Whether a scan of these tensors is a kernel's, not the reference's."""
    return hidden <= WIDEST and kernel_runs("recurrent", *tensors)


def _check(gates: Tensor, weight: Tensor, lengths: Tensor, each: int) -> None:
    seeds, directions, _, sequences, width = gates.shape
    hidden = weight.shape[-1]
    wanted = (seeds, directions, each * hidden, hidden)
    if directions not in (1, 2) or width != each * hidden or weight.shape != wanted:
        raise ValueError(f"Gates of {tuple(gates.shape)} do not fit recurrent weights of {tuple(weight.shape)}.")
    if lengths.shape != (seeds, sequences):
        raise ValueError(f"Lengths of {tuple(lengths.shape)}, but gates of {seeds} seeds and {sequences} sequences.")


def _run(name: str, hidden: int, *inputs: Tensor) -> Any:
    """What the kernels' function of this name makes of the inputs, or the reference's."""
    return computed(
        "recurrent",
        scan_runs(hidden, *inputs),
        inputs[0],
        lambda launch: getattr(launch, name)(*inputs),
        lambda: getattr(reference, name)(*inputs),
    )


@torch.library.custom_op("mer::gru_scan", mutates_args=())
def _gru(gates: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor) -> Pair:
    found: Pair = _run("gru_forward", weight.shape[-1], gates, weight, bias, lengths)
    return found


@torch.library.custom_op("mer::gru_scan_backward", mutates_args=())
def _gru_backward(grad: Tensor, states: Tensor, kept: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    found: Tensor = _run("gru_backward", weight.shape[-1], grad, states, kept, weight, lengths)
    return found


@torch.library.custom_op("mer::lstm_scan", mutates_args=())
def _lstm(gates: Tensor, weight: Tensor, lengths: Tensor) -> Pair:
    found: Pair = _run("lstm_forward", weight.shape[-1], gates, weight, lengths)
    return found


@torch.library.custom_op("mer::lstm_scan_backward", mutates_args=())
def _lstm_backward(grad: Tensor, kept: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    found: Tensor = _run("lstm_backward", weight.shape[-1], grad, kept, weight, lengths)
    return found


@_gru.register_fake
def _(gates: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor) -> Pair:
    return _wide(gates, weight, 1), _wide(gates, weight, 4)


@_lstm.register_fake
def _(gates: Tensor, weight: Tensor, lengths: Tensor) -> Pair:
    return _wide(gates, weight, 1), _wide(gates, weight, 5)


@_gru_backward.register_fake
def _(grad: Tensor, states: Tensor, kept: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    return _wide(grad, weight, 4)


@_lstm_backward.register_fake
def _(grad: Tensor, kept: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    return _wide(grad, weight, 4)


def _wide(like: Tensor, weight: Tensor, each: int) -> Tensor:
    """Room for `each` vectors as wide as the state, of each frame."""
    return like.new_empty(*like.shape[:-1], each * weight.shape[-1])


def _keep_gru(ctx: Any, inputs: tuple[Tensor, ...], output: Pair) -> None:
    _, weight, _, lengths = inputs
    _keep(ctx, output, weight, lengths)


def _keep_lstm(ctx: Any, inputs: tuple[Tensor, ...], output: Pair) -> None:
    _, weight, lengths = inputs
    _keep(ctx, output, weight, lengths)


def _keep(ctx: Any, output: Pair, weight: Tensor, lengths: Tensor) -> None:
    ctx.save_for_backward(*output, weight, lengths)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _derive_gru(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    states, kept, weight, lengths = ctx.saved_tensors
    each = _gru_backward(grad, states, kept, weight, lengths)
    wide = 2 * weight.shape[-1]
    r_and_z, u = each[..., :wide], each[..., 3 * wide // 2 :]
    by_weight = torch.cat([_by_weight(r_and_z, states), _by_weight(u, states)], dim=2)
    return each[..., : 3 * wide // 2], by_weight, u.sum(dim=(2, 3)), None


def _derive_lstm(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    states, kept, weight, lengths = ctx.saved_tensors
    each = _lstm_backward(grad, kept, weight, lengths)
    return each, _by_weight(each, states), None


def _by_weight(each: Float[Tensor, "S D T B G"], states: Float[Tensor, "S D T B H"]) -> Float[Tensor, "S D G H"]:
    """The derivative by recurrent weights: each gate's times the state before it, summed over frames and sequences."""
    found = []
    for direction in range(each.shape[1]):
        later, before = each[:, direction], states[:, direction]
        later, before = (later[:, 1:], before[:, :-1]) if direction == 0 else (later[:, :-1], before[:, 1:])
        found.append(later.flatten(1, 2).mT @ before.flatten(1, 2))
    return torch.stack(found, dim=1)


for _op in (_gru, _gru_backward, _lstm, _lstm_backward):
    _op.register_vmap(seeds_mapped(_op))
_gru.register_autograd(_derive_gru, setup_context=_keep_gru)
_lstm.register_autograd(_derive_lstm, setup_context=_keep_lstm)
