"""Matrix products in float32 on a CPU, through oneDNN where torch's own way is slow.

On x86 torch multiplies float32 matrices with MKL, which keeps AVX-512 for Intel's processors: on an AMD EPYC with
AVX-512 it reaches 106 GFLOP/s on one core, oneDNN, which torch carries as well, 230 (`python -m bench.products`).
So a model's linear layers become this `Linear` (`compute.modules.recast`); both compute in IEEE float32, and differ by
rounding alone. Whatever oneDNN is not meant for here (other types, autocast, GPUs, `torch.func`, subclasses of tensors,
small products, what is compiled, traced or exported) stays torch's, and all of it does where `torch.backends.mkldnn` is
switched off.

Axes: ... stands for any axes, I inputs, O outputs.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

LEAST = 2**21
"""Multiplications from which on a product gains more than the detour costs."""
PLAIN = (Tensor, nn.Parameter)


class Linear(nn.Linear):
    """`nn.Linear` with the products of this file."""

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        """x W' + b."""
        if not suits(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        if torch.is_grad_enabled():
            y: Tensor = Product.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return y
        return product(x, self.weight, self.bias)


class Product(torch.autograd.Function):
    """x W' + b and its gradients, each of them one product; gradients of gradients are by torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What `nn.Linear` computes."""
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of x, the weight and the bias, where they are needed."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        times = F.linear if torch.is_grad_enabled() else product
        rows = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        by_weight = None
        if of_weight:
            read = x.reshape(-1, x.shape[-1]).contiguous()
            narrow = rows.shape[1] <= read.shape[1]  # the first operand is turned around: the smaller one
            by_weight = times(rows.t(), read.t()) if narrow else times(read.t(), rows.t()).t()
        return (
            times(rows, weight.t()).view(*gradient.shape[:-1], -1) if of_x else None,
            by_weight,
            rows.sum(dim=0) if of_bias else None,
        )


def product(x: Float[Tensor, "... I"], weight: Float[Tensor, "O I"], bias: Tensor | None = None) -> Tensor:
    """x W' + b by oneDNN, which would take hundreds of times as long for an operand that is not dense, as a slice."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(dense(x), dense(weight), bias, "none", [], "")
    return y


def dense(x: Tensor) -> Tensor:
    """The tensor without gaps, as a matrix the other way round too."""
    return x if x.ndim == 2 and x.t().is_contiguous() else x.contiguous()


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether this product is one that oneDNN does faster; shapes that do not fit are for torch to refuse."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and x.dtype is weight.dtype is torch.float32
        and x.numel() * len(weight) >= LEAST
        and x.shape[-1] == weight.shape[1]
        and type(x) in PLAIN
        and type(weight) in PLAIN
        and pays()
        and not torch._C._is_tracing()
        and torch._C._get_mkldnn_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


@functools.cache
def pays() -> bool:
    """Whether torch's own products are the slow ones here: MKL on a processor with AVX-512 that is not Intel's."""
    return (
        torch._C.has_mkl
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and vendor() == "AuthenticAMD"
    )


def vendor() -> str:
    """Who made the processor, as it says itself: GenuineIntel, AuthenticAMD, ...; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor().rpartition(", ")[2]  # Windows: "AMD64 Family 25 Model 33 Stepping 2, AuthenticAMD"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
