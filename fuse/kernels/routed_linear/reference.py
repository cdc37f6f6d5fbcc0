"""The routed linear layer in plain torch, a product of matrices for each expert that has rows.

It asks the device who was chosen: for CPUs, and for GPUs only where no graph is captured. Axes as in the package.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor


def forward(
    x: Float[Tensor, "S R D"],
    order: Int[Tensor, "S R"],
    starts: Int[Tensor, "S E+1"],
    weight: Float[Tensor, "S E D C"],
    bias: Float[Tensor, "S E C"],
) -> Float[Tensor, "S R C"]:
    """x_r weight_e + bias_e, e being the expert of r."""
    out = x.new_empty(*x.shape[:2], weight.shape[3])
    for seed, expert, rows in groups(order, starts):
        out[seed].index_copy_(0, rows, torch.addmm(bias[seed, expert], x[seed, rows], weight[seed, expert]))
    return out


def backward(
    grad: Float[Tensor, "S R C"],
    x: Float[Tensor, "S R D"],
    order: Int[Tensor, "S R"],
    starts: Int[Tensor, "S E+1"],
    weight: Float[Tensor, "S E D C"],
) -> tuple[Float[Tensor, "S R D"], Float[Tensor, "S E D C"], Float[Tensor, "S E C"]]:
    """Derivatives by x, the weight and the bias; zero where an expert has no row."""
    by_x, by_weight = torch.empty_like(x), torch.zeros_like(weight)
    by_bias = weight.new_zeros(*weight.shape[:2], weight.shape[3])
    for seed, expert, rows in groups(order, starts):
        mine = grad[seed, rows]
        by_x[seed].index_copy_(0, rows, mine @ weight[seed, expert].T)
        torch.mm(x[seed, rows].T, mine, out=by_weight[seed, expert])
        torch.sum(mine, dim=0, out=by_bias[seed, expert])
    return by_x, by_weight, by_bias


def groups(order: Int[Tensor, "S R"], starts: Int[Tensor, "S E+1"]) -> Iterator[tuple[int, int, Int[Tensor, " _"]]]:
    """Every expert that has rows, with its seed and its rows."""
    for seed, bounds in enumerate(starts.tolist()):
        for expert, (start, end) in enumerate(pairwise(bounds)):
            if end > start:
                yield seed, expert, order[seed, start:end]
