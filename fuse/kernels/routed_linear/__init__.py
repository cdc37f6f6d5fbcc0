"""A linear layer of its own for every input's expert: rows of an expert together, nobody padded, idle experts unread.

`by_expert` sorts the rows once; forward, backward and the layers of an expert share what it found. On a GPU the shapes
do not depend on who was chosen and nothing waits for the device; nothing is summed by atomics. Shazeer et al. 2017
(arXiv:1701.06538).

Under `torch.func.vmap` the mapped dimension becomes part of the seeds; gradients are taken outside of it.

Axes: S seeds, each with experts of its own, R rows of each, E experts, D inputs and C outputs of a layer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fuse.kernels.dispatch import autocast_to, computed, kernel_runs, seeds_mapped
from fuse.kernels.routed_linear import reference


class Routes(NamedTuple):
    """Rows by expert.

    Attributes:
        chosen: each row's expert (S, R).
        order: the rows, those of expert 0 first; of an expert in their order (S, R).
        starts: where each expert's rows begin in `order`, and R (S, E + 1).
    """

    chosen: Int[Tensor, "S R"]
    order: Int[Tensor, "S R"]
    starts: Int[Tensor, "S E+1"]


def by_expert(chosen: Int[Tensor, "S R"], experts: int) -> Routes:
    """Sort rows by their experts, which are 0, ..., experts - 1."""
    everyone = torch.arange(experts + 1, device=chosen.device)
    starts = (chosen[:, :, None] < everyone).sum(dim=1)
    return Routes(chosen, torch.argsort(chosen, dim=1, stable=True), starts)


def routed_linear(
    x: Float[Tensor, "S R D"], routes: Routes, weight: Float[Tensor, "S E D C"], bias: Float[Tensor, "S E C"]
) -> Float[Tensor, "S R C"]:
    """x_r weight_e + bias_e with e = chosen_r. Within autocast it computes in the type of that.

    Raises:
        ValueError: the shapes do not fit together.
    """
    seeds, rows, width = x.shape
    experts = routes.starts.shape[1] - 1
    if (
        routes.chosen.shape != (seeds, rows)
        or weight.shape[:3] != (seeds, experts, width)
        or bias.shape != (seeds, experts, weight.shape[3])
    ):
        raise ValueError(
            f"routed_linear: x {tuple(x.shape)}, {experts} experts for {tuple(routes.chosen.shape)} rows, weight "
            f"{tuple(weight.shape)} and bias {tuple(bias.shape)} do not fit together."
        )
    x, weight, bias = autocast_to(x, weight, bias)
    found: Tensor = _forward(x, *routes, weight, bias)
    return found


@torch.library.custom_op("mer::routed_linear", mutates_args=())
def _forward(x: Tensor, chosen: Tensor, order: Tensor, starts: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return computed(
        "routed_linear",
        kernel_runs("routed_linear", x, chosen, order, starts, weight, bias),
        x,
        lambda launch: launch.forward(x, chosen, order, starts, weight, bias),
        lambda: reference.forward(x, order, starts, weight, bias),
    )


@torch.library.custom_op("mer::routed_linear_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, chosen: Tensor, order: Tensor, starts: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return computed(
        "routed_linear",
        kernel_runs("routed_linear", grad, x, chosen, order, starts, weight),
        x,
        lambda launch: launch.backward(grad, x, chosen, order, starts, weight),
        lambda: reference.backward(grad, x, order, starts, weight),
    )


@_forward.register_fake
def _(x: Tensor, chosen: Tensor, order: Tensor, starts: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], weight.shape[3])


@_backward.register_fake
def _(
    grad: Tensor, x: Tensor, chosen: Tensor, order: Tensor, starts: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    by_bias = weight.new_empty(*weight.shape[:2], weight.shape[3])
    return x.new_empty(x.shape), weight.new_empty(weight.shape), by_bias


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])


def _derive(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    by_x, by_weight, by_bias = _backward(grad, *ctx.saved_tensors)
    return by_x, None, None, None, by_weight, by_bias


for _op in (_forward, _backward):
    _op.register_vmap(seeds_mapped(_op))
_forward.register_autograd(_derive, setup_context=_keep)
