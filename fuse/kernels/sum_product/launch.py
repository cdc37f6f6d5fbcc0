"""Launches the kernels of `fuse.kernels.sum_product.triton`; the functions and their axes are those of `reference`."""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from fuse.kernels.dispatch import dot_precision
from fuse.kernels.sum_product import triton as kernels


def tiles(dtype: torch.dtype, down: int, inner: int) -> dict[str, Any]:
    """Tile sizes, warps and stages of a product of matrices with `down` rows that sums over `inner`."""
    single = dtype == torch.float32
    block_m = max(16, min(64 if single else 128, triton.next_power_of_2(down)))
    return {
        "block_m": block_m,
        "block_n": 32 if single else 64,
        "block_k": max(16, min(16 if single else 64, triton.next_power_of_2(inner))),
        "precision": dot_precision(dtype),
        "num_warps": 8 if block_m == 128 or single else 4,
        "num_stages": 2 if single else 3,
    }


def forward(t: Tensor, s: Tensor, rest: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `reference.forward`."""
    t, s, rest, weight, bias = (x.contiguous() for x in (t, s, rest, weight, bias))
    (seeds, rows, width), outputs = t.shape, weight.shape[1]
    out = t.new_empty(seeds, rows, outputs)
    if out.numel():
        shape = tiles(t.dtype, rows, max(width, rest.shape[2]))
        grid = (triton.cdiv(rows, shape["block_m"]) * triton.cdiv(outputs, shape["block_n"]), seeds)
        kernels.forward_kernel[grid](
            t, s, rest, _sums(weight, width), weight, bias, out, rows, outputs, width, rest.shape[2], **shape
        )
    return out


def backward(
    grad: Tensor, t: Tensor, s: Tensor, rest: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`; the part of the rest is an ordinary product of matrices, and torch's."""
    grad, t, s, rest, weight = (x.contiguous() for x in (grad, t, s, rest, weight))
    (seeds, rows, width), outputs = t.shape, weight.shape[1]
    by_t, by_s, by_weight = torch.empty_like(t), torch.empty_like(s), torch.empty_like(weight)
    sizes = (rows, outputs, width, rest.shape[2])
    if t.numel():
        shape = tiles(t.dtype, rows, outputs)
        grid = (triton.cdiv(rows, shape["block_m"]) * triton.cdiv(width, shape["block_n"]), seeds)
        kernels.by_vectors_kernel[grid](grad, t, s, _sums(weight, width), weight, by_t, by_s, *sizes, **shape)
    if by_weight.numel() and width:
        shape = tiles(t.dtype, outputs, rows)
        grid = (triton.cdiv(outputs, shape["block_m"]) * triton.cdiv(width, shape["block_n"]), seeds)
        kernels.by_weight_kernel[grid](grad, t, s, by_weight, *sizes, **shape)
    by_weight[..., 4 * width :] = grad.mT @ rest
    return by_t, by_s, grad @ weight[..., 4 * width :], by_weight, grad.sum(dim=1)


def _sums(weight: Tensor, width: int) -> Tensor:
    """W1 + W3 and W2 + W3 (S, N, 2, D), rounded once."""
    alone = weight[..., : 2 * width].unflatten(2, (2, width))  # type: ignore[no-untyped-call]
    found: Tensor = alone + weight[..., None, 2 * width : 3 * width]
    return found
