"""Which form of an operator runs: its Triton kernel or its plain torch reference.

A kernel runs where all of its tensors lie on a CUDA device of compute capability 8.0 or newer, triton can be imported,
their types are among those that it was written for, and the environment variable MER_KERNELS does not say otherwise:

    MER_KERNELS=auto    kernels wherever they can run (default)
    MER_KERNELS=off     references everywhere

A kernel that cannot be compiled or launched is said once, and its reference runs from then on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from cache_schema.errors import SettingsError, first_line

T = TypeVar("T")
VARIABLE = "MER_KERNELS"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""What kernels compute with, summing in float32."""
CAPABILITY = (8, 0)
failed: dict[str, str] = {}
"""Operators, by their folders, whose kernels could not be compiled or launched, and why."""


def kernels_wanted() -> bool:
    """What MER_KERNELS says.

    Raises:
        SettingsError: it says something else.
    """
    said = os.environ.get(VARIABLE, "auto")
    if said not in ("auto", "off"):
        raise SettingsError(f"{VARIABLE}={said!r}: it is auto or off.")
    return said == "auto"


def kernel_runs(operator: str, *tensors: Tensor, dtypes: Collection[torch.dtype] = FLOATS) -> bool:
    """Whether the operator's kernel is to be launched on these tensors; those of integers may have any type."""
    return (
        kernels_wanted()
        and operator not in failed
        and all(x.is_cuda and (x.dtype in dtypes or not x.is_floating_point()) for x in tensors)
        and _device_can(tensors[0].device)
    )


def computed(operator: str, runs: bool, on: Tensor, kernel: Callable[[Any], Any], reference: Callable[[], T]) -> T:
    """What the kernel gives where it runs; else, or where it cannot be compiled or launched, what the reference gives.

    Args:
        operator: the folder in `fuse/kernels/`.
        runs: what `kernel_runs` says.
        on: a tensor on the device.
        kernel: is given the operator's module `launch`; must leave its arguments as they were where it fails.
        reference: the same in plain torch.
    """
    if runs:
        try:
            with launching_on(on):
                found: T = kernel(import_module(f"fuse.kernels.{operator}.launch"))
                return found
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # triton's compiler, its C compiler and the driver raise errors of many types
            if on.is_cuda and torch.cuda.is_current_stream_capturing():
                raise  # what cannot be captured is not the kernel's fault
            failed[operator] = f"{type(error).__name__}: {first_line(error)}"
            warnings.warn(
                f"The kernel of {operator} cannot run here ({failed[operator].rstrip('.:')}): plain torch takes its "
                f"place, more slowly. {VARIABLE}=off does so from the start, and does not try.",
                RuntimeWarning,
                stacklevel=2,
            )
    return reference()


def launching_on(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: inside this, that is the tensor's."""
    return torch.cuda.device(tensor.device)


@lru_cache
def _device_can(device: torch.device) -> bool:
    return (
        torch.version.cuda is not None
        and find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= CAPABILITY
    )


def dot_precision(dtype: torch.dtype) -> str:
    """How matrix units multiply numbers of this type: float32 as three products of TF32, of about its own precision, or
    as one where `torch.set_float32_matmul_precision` allows it."""
    return "tf32x3" if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest" else "tf32"


def autocast_to(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Floats in the type that autocast asks of products of matrices; as they are outside of it."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in tensors)


def folded(x: Tensor, dim: int | None, mapped: int) -> Tensor:
    """For rules of vmap: the mapped dimension joined with the first one, (mapped * x.shape[0], ...)."""
    x = x.expand(mapped, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def unfolded(x: Tensor, mapped: int) -> Tensor:
    """The inverse: (mapped, x.shape[0] / mapped, ...)."""
    return x.reshape(mapped, len(x) // mapped, *x.shape[1:])


def seeds_mapped(op: Callable[..., Any]) -> Callable[..., Any]:
    """An operator's rule for vmap: what is mapped becomes part of the first dimension of every tensor, the seeds' or
    that of rows of all seeds."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        size = info.batch_size
        given = (folded(x, dim, size) if isinstance(x, Tensor) else x for x, dim in zip(inputs, in_dims, strict=True))
        found = op(*given)
        if isinstance(found, Tensor):
            return unfolded(found, size), 0
        return type(found)(unfolded(x, size) for x in found), type(found)(0 for _ in found)

    return rule
