"""Gradients by hand that can be differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Iterable[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradient of each input that needs one, by torch's own derivative of `function`, and with a graph.

    For the backward pass of a `torch.autograd.Function` whose own gradients have no derivative, when one is asked for
    (`create_graph`): without, gradients of gradients would be zero, and nobody told.

    Args:
        function: what the Function computes, in torch's differentiable operations.
        inputs: of the Function, saved as they were given.
        needed: which need a gradient.
        gradient: of the output.
    """
    chosen = list(needed)
    output = function(*inputs)
    wanted = [x for x, want in zip(inputs, chosen, strict=True) if want]
    found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    return tuple(next(found) if want else None for want in chosen)
