"""A step of `fuse.kernels.active_adamw` in plain torch: its own AdamW over the slices of those who are active.

Axes: E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim.adam import adam as adam_of_torch
from torch.optim.adamw import adamw as adamw_of_torch


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
    """In place. What belongs to idle experts is neither read nor written; on a GPU this waits for who is active."""
    chosen = active(grads).nonzero().flatten().tolist()
    if not chosen:
        return
    mine, gradients, firsts, seconds = (
        [x[e] for x in each for e in chosen] for each in (parameters, grads, means, squares)
    )
    steps = [count[e].clone() for _ in parameters for e in chosen]
    adam(mine, gradients, firsts, seconds, steps, float(lr), float(beta1), beta2, epsilon, weight_decay, decoupled)
    count[chosen] += 1


def adam(
    parameters: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    lr: Tensor | float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """torch's fused AdamW, or Adam, in place; each parameter has a count of its own."""
    run: Any = adamw_of_torch if decoupled else adam_of_torch
    run(
        parameters,
        grads,
        means,
        squares,
        max_exp_avg_sqs=[],
        state_steps=steps,
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=weight_decay,
        eps=epsilon,
        maximize=False,
    )


def active(grads: Sequence[Float[Tensor, "E ..."]]) -> Bool[Tensor, " E"]:
    """Who has a gradient, by all parameters but the first: see `active_adamw`."""
    return torch.stack([grad.flatten(1).ne(0).any(dim=1) for grad in grads[1:]]).any(dim=0)
