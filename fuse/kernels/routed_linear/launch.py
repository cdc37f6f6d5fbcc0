"""Launches the kernels of `fuse.kernels.routed_linear.triton`; the functions and their axes are those of `reference`,
which has no need of `chosen`."""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from fuse.kernels.dispatch import dot_precision
from fuse.kernels.routed_linear import triton as kernels


def tiles(x: Tensor, experts: int, inner: int, outputs: int) -> dict[str, Any]:
    """Tile sizes, warps and stages: as many rows as an expert has on average, 16 at least."""
    single = x.dtype == torch.float32
    return {
        "block_m": max(16, min(64, triton.next_power_of_2(x.shape[1] // max(experts, 1)))),
        "block_n": max(16, min(32, triton.next_power_of_2(outputs))),
        "block_k": max(16, min(32 if single else 64, triton.next_power_of_2(inner))),
        "precision": dot_precision(x.dtype),
        "num_warps": 4,
        "num_stages": 3,
    }


def forward(x: Tensor, chosen: Tensor, order: Tensor, starts: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `reference.forward`."""
    out = x.new_empty(*x.shape[:2], weight.shape[3])
    routes = tuple(part.contiguous() for part in (chosen, order, starts))
    _rows(x.contiguous(), routes, weight.contiguous(), bias.contiguous(), out, transposed=False)
    return out


def backward(
    grad: Tensor, x: Tensor, chosen: Tensor, order: Tensor, starts: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    chosen, order, starts = (part.contiguous() for part in (chosen, order, starts))
    seeds, experts, inputs, outputs = weight.shape
    by_x, by_weight = torch.empty_like(x), torch.empty_like(weight)
    by_bias = weight.new_empty(seeds, experts, outputs)
    _rows(grad, (chosen, order, starts), weight, None, by_x, transposed=True)
    if by_weight.numel():
        shape = tiles(x, experts, inputs, outputs)
        each = triton.cdiv(inputs, shape["block_k"]) * triton.cdiv(outputs, shape["block_n"])
        kernels.by_weight_kernel[(seeds * experts, each)](
            grad, x, order, starts, by_weight, by_bias, x.shape[1], experts, inputs, outputs, **shape
        )
    return by_x, by_weight, by_bias


def _rows(
    x: Tensor, routes: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None, out: Tensor, transposed: bool
) -> None:
    """Each row of x times the weights of its expert, or times their transposes, into `out`."""
    seeds, rows, inputs = x.shape
    experts, outputs = weight.shape[1], out.shape[2]
    if not out.numel():
        return
    shape = tiles(x, experts, inputs, outputs)
    along = (1, inputs) if transposed else (outputs, 1)
    kernels.rows_kernel[(rows, seeds, triton.cdiv(outputs, shape["block_n"]))](
        x, *routes, weight, x if bias is None else bias, out, rows, experts, inputs, outputs, *along,
        **shape, with_bias=bias is not None,
    )  # fmt: skip
