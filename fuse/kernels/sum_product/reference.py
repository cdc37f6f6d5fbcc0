"""The linear layer of two vectors, their sum and their product in plain torch; axes as in the package."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def forward(
    t: Float[Tensor, "S B D"],
    s: Float[Tensor, "S B D"],
    rest: Float[Tensor, "S B R"],
    weight: Float[Tensor, "S N 4*D+R"],
    bias: Float[Tensor, "S N"],
) -> Float[Tensor, "S B N"]:
    """As the paper writes it. The sums of weights, W1 + W3 and W2 + W3, pay where there are many inputs to one set of
    weights; on a CPU, with batches of some dozens, making them takes longer than what they save."""
    return _product(_joined(t, s, rest), weight.mT).add_(bias[:, None])


def backward(
    grad: Float[Tensor, "S B N"],
    t: Float[Tensor, "S B D"],
    s: Float[Tensor, "S B D"],
    rest: Float[Tensor, "S B R"],
    weight: Float[Tensor, "S N 4*D+R"],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Derivatives by t, s, the rest, the weight and the bias."""
    width = t.shape[2]
    by_t, by_s, by_sum, by_product, by_rest = _product(grad, weight).tensor_split(
        [n * width for n in (1, 2, 3, 4)], dim=2
    )
    return (
        torch.addcmul(by_t + by_sum, by_product, s),
        torch.addcmul(by_s + by_sum, by_product, t),
        by_rest.contiguous(),
        _product(grad.mT, _joined(t, s, rest)),
        grad.sum(dim=1),
    )


def _joined(t: Tensor, s: Tensor, rest: Tensor) -> Float[Tensor, "S B 4*D+R"]:
    return torch.cat([t, s, t + s, t * s, rest], dim=2)


def _product(a: Float[Tensor, "S I J"], b: Float[Tensor, "S J K"]) -> Float[Tensor, "S I K"]:
    """Seed by seed; the product of two matrices is faster on a CPU than that of two stacks of one."""
    return (a[0] @ b[0])[None] if len(a) == 1 else a @ b
