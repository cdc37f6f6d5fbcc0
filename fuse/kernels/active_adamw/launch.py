"""Launches the kernels of `fuse.kernels.active_adamw.triton`; the function and its axes are those of `reference`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from fuse.kernels.active_adamw import triton as kernels

PER_PROCESSOR = 8
"""Programs that share the work, on each of the GPU's processors."""


def step(
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
    programs: int | None = None,
) -> None:
    """See `reference.step`; nothing waits for the device.

    Args:
        programs: how many share the work; None: as many as the GPU takes.
    """
    experts = len(count)
    sizes = {f"size_{i}": p[0].numel() for i, p in enumerate(parameters)}
    given = [grad.contiguous() for grad in grads]
    active = torch.empty(experts, dtype=torch.int32, device=count.device)
    scales = torch.empty(experts, 2, dtype=torch.float32, device=count.device)
    below = {name: size for name, size in sizes.items() if name != "size_0"}
    kernels.mark_kernel[(experts,)](
        *given[1:], count, lr, beta1, active, scales, **below, log_beta2=math.log(beta2), block=kernels.BLOCK
    )
    if programs is None:
        programs = PER_PROCESSOR * torch.cuda.get_device_properties(count.device).multi_processor_count
    tensors = (*parameters, *given, *means, *squares, active, scales, lr, beta1)
    try:
        kernels.move_kernel[(programs,)](
            *tensors,
            **sizes,
            beta2=beta2,
            rest2=1 - beta2,
            epsilon=epsilon,
            decay=weight_decay,
            decoupled=decoupled,
            experts=experts,
            power=triton.next_power_of_2(experts),
            block=kernels.BLOCK,
            num_warps=kernels.WARPS,
        )
    except Exception:
        count -= active  # nobody has moved
        raise
