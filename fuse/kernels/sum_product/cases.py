"""Shapes on which the sum-product layer is tested and measured, and what it is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fuse.kernels.sum_product import reference, sum_product_linear

TARGETS, COMPILED = ("complementary", "4096 x 768 x 768"), ("concatenated",)
"""The cases that the targets are about, and the rivals that torch.compile is asked for on them."""
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""The arguments of `sum_product_linear`, all of which have a gradient."""


def hostile(device: torch.device, dtype: torch.dtype, seeds: int) -> Iterator[tuple[str, Inputs]]:
    """No input, one, nothing beside the two vectors, sizes just beyond a block."""
    yield "no input", _inputs(0, 4, 3, 5, device, dtype, seeds)
    yield "one of each", _inputs(1, 1, 1, 1, device, dtype, seeds)
    yield "no rest", _inputs(3, 6, 0, 2, device, dtype, seeds)
    yield "beyond a block", _inputs(65, 17, 33, 70, device, dtype, seeds)


def realistic(device: torch.device, dtype: torch.dtype, seeds: int) -> Iterator[tuple[str, Inputs]]:
    """Batch 32 at the architecture's widths, and 4096 x 768 x 768."""
    yield "complementary", _inputs(32, 256, 256, 768, device, dtype, seeds)
    yield "4096 x 768 x 768", _inputs(4096, 768, 0, 768, device, dtype, seeds)


def _inputs(
    rows: int, width: int, more: int, outputs: int, device: torch.device, dtype: torch.dtype, seeds: int
) -> Inputs:
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(seeds, *shape, generator=random)).to(device, dtype).requires_grad_()

    wide = 4 * width + more
    vectors = drawn(rows, width), drawn(rows, width), drawn(rows, more)
    return (*vectors, drawn(outputs, wide, scale=wide**-0.5), drawn(outputs))


def rivals() -> dict[str, Callable[..., Tensor]]:
    """What does the same, with the same arguments: one product of matrices over everything side by side, as the paper
    writes it, and the sums of weights that the kernel uses, in torch's products of matrices."""
    return {"concatenated": reference.forward, "sums of weights": summed_weights}


def summed_weights(t: Tensor, s: Tensor, rest: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(W1 + W3) t + (W2 + W3) s + [W4, W5] [t * s; rest] + b."""
    width = t.shape[2]
    w1, w2, w3, w45 = weight.tensor_split((width, 2 * width, 3 * width), dim=2)
    found = torch.baddbmm(bias[:, None], torch.cat([t * s, rest], dim=2), w45.mT)
    return found.baddbmm(t, (w1 + w3).mT).baddbmm(s, (w2 + w3).mT)


OPERATOR = sum_product_linear
"""What `cases` has arguments for."""
