"""Two classifiers joined by weights that are fitted on labelled utterances.

Axes: B utterances, C outputs, W weights, 1 or C.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def fused(
    first: Float[Tensor, " B *C"], second: Float[Tensor, " B *C"], weight: Float[Tensor, " W"], kind: str
) -> Float[Tensor, " B *C"]:
    """Logits of weight * p_first + (1 - weight) * p_second, classes renormalised; of numbers the same mean.

    Args:
        first, second: each branch's logits, or numbers.
        weight: in [0, 1], one, or one per class.
        kind: the target's kind.
    """
    if kind == "regression":
        return weight * first + (1 - weight) * second
    yes, no = weight.log(), torch.log1p(-weight)

    def mixed(one: Tensor, other: Tensor) -> Tensor:
        return torch.logaddexp(yes + one, no + other)

    if kind == "multilabel":
        positive = mixed(F.logsigmoid(first), F.logsigmoid(second))
        return positive - mixed(F.logsigmoid(-first), F.logsigmoid(-second))
    return mixed(first.log_softmax(dim=-1), second.log_softmax(dim=-1))


def fit_fusion(
    first: Float[Tensor, " B *C"], second: Float[Tensor, " B *C"], truth: Tensor, weights: int, kind: str
) -> Float[Tensor, " {weights}"]:
    """The weights that `fused` predicts `truth` best with: the least cross-entropy, or squared error.

    The weights are sigmoids, whose arguments are pulled to 0 by 0.001 of their square.
    """
    first, second = first.detach().double(), second.detach().double()
    theta = torch.zeros(weights, dtype=torch.float64, device=first.device, requires_grad=True)
    optimizer: Any = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        predicted = fused(first, second, theta.sigmoid(), kind)
        if kind == "classification":
            wrong = F.cross_entropy(predicted, truth)
        elif kind == "multilabel":
            wrong = F.binary_cross_entropy_with_logits(predicted, truth.double())
        else:
            wrong = F.mse_loss(predicted, truth.double())
        value = wrong + 1e-3 * theta.square().sum()
        torch.autograd.backward(value)
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return theta.detach().sigmoid().float()
