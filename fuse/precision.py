"""In which type a training computes: float32, or bfloat16 where the processor multiplies matrices of it faster.

With bf16 the parameters, their gradients and the optimizer stay in float32. Matrix products and convolutions of the
forward and backward pass read bfloat16 and sum in float32 (torch's autocast); attention, recurrences and losses compute
in float32 all the same (`in_fp32`). Validation and test are always measured in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

Precision = Literal["auto", "fp32", "bf16"]
P = ParamSpec("P")
T = TypeVar("T")


def resolved(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """What `auto` means on a device: bf16 on a CPU that has units for it, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16: AVX-512 BF16 or AMX."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Within it a forward pass computes as `precision` says."""
    if resolved(precision, device) == "fp32":
        return nullcontext()
    # Weights are converted anew in every pass: a copy kept from one would be wrong in a CUDA graph.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=device.type == "cpu")


def in_fp32(function: Callable[P, T]) -> Callable[P, T]:
    """A function of tensors that computes in float32 within `computing`, too."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            wide: Any = function
            found: T = wide(*(widened(a) for a in args), **{k: widened(a) for k, a in kwargs.items()})
            return found

    return run


def widened(x: Any) -> Any:
    """Half floats as float32, also in tuples; anything else as it is."""
    if isinstance(x, tuple):
        return tuple(widened(part) for part in x)
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x
