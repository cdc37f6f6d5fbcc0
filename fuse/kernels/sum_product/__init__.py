"""A linear layer of two vectors, their sum, their product and what else there is, without joining them:

    W [t; s; t + s; t * s; rest] + b = (W1 + W3) t + (W2 + W3) s + W4 (t * s) + W5 rest + b,

a fourth fewer multiplications without `rest`. The paper is that of `fuse/archs/complementary.py`, algorithm 5.

Under `torch.func.vmap` the mapped dimension becomes part of the seeds; gradients are taken outside of it. Nothing waits
for the device, and nothing is summed by atomics.

Axes: S seeds, each with weights of its own, B inputs of each, D width of t and s, R width of the rest, N outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fuse.kernels.dispatch import autocast_to, computed, kernel_runs, seeds_mapped
from fuse.kernels.sum_product import reference


def sum_product_linear(
    t: Float[Tensor, "S B D"],
    s: Float[Tensor, "S B D"],
    rest: Float[Tensor, "S B R"],
    weight: Float[Tensor, "S N 4*D+R"],
    bias: Float[Tensor, "S N"],
) -> Float[Tensor, "S B N"]:
    """W [t; s; t + s; t * s; rest] + b. Within autocast it computes in the type of that.

    Args:
        t, s: the two vectors.
        rest: what else there is; of width 0 where there is nothing.
        weight, bias: W and b of each seed.

    Raises:
        ValueError: the shapes do not fit together.
    """
    seeds, rows, width = t.shape
    if (
        s.shape != t.shape
        or rest.shape[:2] != (seeds, rows)
        or weight.shape[::2] != (seeds, 4 * width + rest.shape[2])
        or bias.shape != weight.shape[:2]
    ):
        raise ValueError(
            f"sum_product_linear: t {tuple(t.shape)}, s {tuple(s.shape)}, rest {tuple(rest.shape)}, weight "
            f"{tuple(weight.shape)} and bias {tuple(bias.shape)} do not fit together."
        )
    found: Tensor = _forward(*autocast_to(t, s, rest, weight, bias))
    return found


@torch.library.custom_op("mer::sum_product_linear", mutates_args=())
def _forward(t: Tensor, s: Tensor, rest: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    given = (t, s, rest, weight, bias)
    runs = kernel_runs("sum_product", *given)
    return computed("sum_product", runs, t, lambda launch: launch.forward(*given), lambda: reference.forward(*given))


@torch.library.custom_op("mer::sum_product_linear_backward", mutates_args=())
def _backward(
    grad: Tensor, t: Tensor, s: Tensor, rest: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = (grad, t, s, rest, weight)
    runs = kernel_runs("sum_product", *given)
    return computed("sum_product", runs, t, lambda launch: launch.backward(*given), lambda: reference.backward(*given))


@_forward.register_fake
def _(t: Tensor, s: Tensor, rest: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return t.new_empty(*t.shape[:2], weight.shape[1])


@_backward.register_fake
def _(
    grad: Tensor, t: Tensor, s: Tensor, rest: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    by_t, by_s, by_rest, by_weight = (x.new_empty(x.shape) for x in (t, s, rest, weight))
    return by_t, by_s, by_rest, by_weight, weight.new_empty(weight.shape[:2])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _derive(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = _backward(grad, *ctx.saved_tensors)
    return found


for _op in (_forward, _backward):
    _op.register_vmap(seeds_mapped(_op))
_forward.register_autograd(_derive, setup_context=_keep)
