"""A step of `fuse.kernels.active_adamw` in plain torch.

Axes: E experts, A of them active.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def step(
    parameters: Sequence[Float[Tensor, "E ..."]],
    grads: Sequence[Float[Tensor, "E ..."]],
    means: Sequence[Float[Tensor, "E ..."]],
    squares: Sequence[Float[Tensor, "E ..."]],
    count: Float[Tensor, " E"],
    lr: Float[Tensor, ""],
    beta1: Float[Tensor, ""],
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """In place. Only what belongs to active experts is read and written; on a GPU this waits for their number."""
    rows = active(grads).nonzero().squeeze(1)
    count[rows] += 1
    steps = count[rows].double()
    rate = lr / (1 - beta1.double() ** steps)
    root = (1 - beta2**steps).sqrt()
    for p, grad, mean, square in zip(parameters, grads, means, squares, strict=True):
        own, g = p[rows], grad[rows]
        per_expert = (-1, *(1,) * (p.ndim - 1))
        if decoupled:
            own = own * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * own
        m = beta1 * mean[rows] + (1 - beta1) * g
        v = beta2 * square[rows] + (1 - beta2) * g * g
        moved = m / (v.sqrt() / root.to(p.dtype).view(per_expert) + epsilon)
        p[rows] = own - rate.to(p.dtype).view(per_expert) * moved
        mean[rows], square[rows] = m, v


def active(grads: Sequence[Float[Tensor, "E ..."]]) -> Bool[Tensor, " E"]:
    """Who has a gradient, by all parameters but the first: see `active_adamw`."""
    return torch.stack([grad.flatten(1).ne(0).any(dim=1) for grad in grads[1:]]).any(dim=0)
