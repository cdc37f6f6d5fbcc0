"""Shapes on which the active experts' optimizer is tested and measured, and what it is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fuse.kernels.active_adamw import reference

BETA1 = 0.9
TARGETS, COMPILED = ("28 of 1000 experts",), ()
"""The cases that the targets are about, and the rivals that torch.compile is asked for on them."""
Inputs = tuple[Any, ...]
"""The arguments of `active_adamw`, in order; it writes to them."""


def hostile(device: torch.device, dtype: torch.dtype, seeds: int = 1) -> Iterator[tuple[str, Inputs]]:
    """Nobody active, everybody, one expert alone; sizes that fill no block and such that need two."""
    for name, (experts, active, width, hidden, outputs, decay, decoupled) in {
        "one expert": (1, 1, 3, 5, 1, 0.01, True),
        "nobody active": (5, 0, 7, 5, 3, 0.01, True),
        "everybody active": (3, 3, 30, 70, 1, 0.1, False),
        "some active": (21, 5, 30, 70, 3, 0.0, True),
    }.items():
        yield name, _inputs(seeds * experts, seeds * active, width, hidden, outputs, decay, decoupled, device, dtype)


def realistic(device: torch.device, dtype: torch.dtype, seeds: int = 1) -> Iterator[tuple[str, Inputs]]:
    """A branch of 1000 experts and seven classes, whose 32 utterances go to 28 of them, or to all, and one of five."""
    for name, (experts, active) in {
        "28 of 1000 experts": (1000, 28),
        "1000 of 1000 experts": (1000, 1000),
        "5 of 5 experts": (5, 5),
    }.items():
        yield name, _inputs(seeds * experts, seeds * active, 768, 256, 7, 0.01, True, device, dtype)


def moved_bytes(inputs: Inputs) -> int:
    """What must be read and written for the active experts: 28 bytes per parameter in single precision."""
    parameters, grads = inputs[0], inputs[1]
    each: int = sum(p[0].numel() * p.element_size() for p in parameters)
    return 7 * each * int(reference.active(grads).sum())


def rivals() -> dict[str, Callable[..., None]]:
    """What moves all experts with the same arguments, torch's fused AdamW; and the reference, which waits for the
    device. Only where everybody is active is the first the same."""
    return {"fused AdamW": dense, "eager": reference.step}


def dense(
    parameters: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    count: Tensor,
    lr: Tensor,
    _: Tensor,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """Every expert, by torch's fused kernel; the count of the first is everybody's."""
    steps = [count[0].clone() for _ in parameters]
    reference.adam(parameters, grads, means, squares, steps, lr, BETA1, beta2, epsilon, weight_decay, decoupled)
    count += 1


def _inputs(
    experts: int,
    active: int,
    width: int,
    hidden: int,
    outputs: int,
    weight_decay: float,
    decoupled: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> Inputs:
    random = torch.Generator().manual_seed(0)
    shapes = ((experts, width, hidden), (experts, hidden), (experts, hidden, outputs), (experts, outputs))
    chosen = torch.randperm(experts, generator=random)[:active]
    parameters, grads, means, squares = [], [], [], []
    for shape in shapes:
        # Drawn for a few experts and repeated: a thousand of them are 200 million numbers.
        few = torch.randn(min(8, experts), *shape[1:], generator=random).to(device, dtype)
        parameters.append(few.repeat(-(-experts // len(few)), *(1,) * (len(shape) - 1))[:experts].clone())
        grads.append(torch.zeros(shape, device=device, dtype=dtype))
        grads[-1][chosen.to(device)] = 1e-3 * parameters[-1][chosen.to(device)].flip(0)
        means.append(torch.zeros(shape, device=device, dtype=dtype))
        squares.append(torch.zeros(shape, device=device, dtype=dtype))
    count = torch.zeros(experts, device=device)
    lr, beta1 = (torch.tensor(x, device=device) for x in (1e-2, BETA1))
    return parameters, grads, means, squares, count, lr, beta1, 0.999, 1e-8, weight_decay, decoupled
