"""AdamW for experts of whom few are chosen: an expert that no input was sent to in a step stands still.

Dense AdamW moves 28 bytes per parameter and step (parameter, gradient and two moments read, all but the gradient
written), chosen or not. Here only the parameters and moments of active experts are read and written. Each expert is
trained by AdamW over the steps in which it was active, as if there were no others: its bias correction counts those
steps. That is "lazy" or "sparse" Adam, with the count of each expert in place of a common one. It is not dense AdamW:

- A dense step also moves idle experts, by the momentum of earlier gradients; here they wait.
- Dense moments fade in idle steps, since a gradient of zero counts; here they average over the expert's own gradients.
  An expert that is seldom chosen has a second moment that is larger by the inverse of its share of the steps, and so
  moves less, by up to the root of that, where it is chosen.
- Dense weight decay (Loshchilov & Hutter 2019, or as part of the gradient) shrinks idle experts, too; here decay is
  proportional to how often an expert is active.

Where every expert is active in every step, both are the same.

Axes: E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fuse.kernels.active_adamw import reference
from fuse.kernels.dispatch import computed, kernel_runs


def active_adamw(
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
    """Move the active experts, in place.

    An expert is active where any number of its gradients is not zero, not finite included. The first parameter, the
    largest by far, is not asked: what reaches an expert's weights reaches its biases.

    Args:
        parameters: weights of the experts' hidden layers, then their biases, and weights and biases of the layers
            above; contiguous.
        grads: of each; zero where an expert is idle.
        means, squares: first and second moments of each, zero at first.
        count: steps in which each expert was active, zero at first.
        lr, beta1: as tensors, since schedules move both.
        beta2, epsilon: as in Kingma & Ba 2015.
        weight_decay: of every parameter.
        decoupled: AdamW; else the decay is part of the gradient (Adam).

    Raises:
        ValueError: there are not four contiguous parameters of as many experts each.
    """
    fits = len(parameters) == 4 and all(len(p) == len(count) and p.is_contiguous() for p in parameters)
    if not fits:
        shapes = ", ".join(str(tuple(p.shape)) for p in parameters)
        raise ValueError(f"active_adamw: four contiguous parameters of {len(count)} experts each, not {shapes}.")
    lists = (list(each) for each in (parameters, grads, means, squares))
    _step(*lists, count, lr, beta1, beta2, epsilon, weight_decay, decoupled)


@torch.library.custom_op("mer::active_adamw", mutates_args=("parameters", "means", "squares", "count"))
def _step(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    count: Tensor,
    lr: Tensor,
    beta1: Tensor,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    tensors = (*parameters, *grads, *means, *squares, count, lr, beta1)
    runs = kernel_runs("active_adamw", *tensors, dtypes=(torch.float32,))
    given = (parameters, grads, means, squares, count, lr, beta1, beta2, epsilon, weight_decay, decoupled)
    computed("active_adamw", runs, count, lambda launch: launch.step(*given), lambda: reference.step(*given))


@_step.register_fake
def _(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    count: Tensor,
    lr: Tensor,
    beta1: Tensor,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    return None
