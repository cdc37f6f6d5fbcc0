"""Shapes on which routed linear layers are tested and measured, and what they are measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from fuse.kernels.routed_linear import by_expert, routed_linear

TARGETS, COMPILED = ("4096 rows, 5 experts, 768 x 256", "32 rows, 1000 experts, 768 x 256"), ("grouped_mm",)
"""The cases that the targets are about, and the rivals that torch.compile is asked for on them."""
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""x (S, R, D), chosen (S, R), weight (S, E, D, C), bias (S, E, C): the arguments of `routed`."""


def hostile(device: torch.device, dtype: torch.dtype, seeds: int) -> Iterator[tuple[str, Inputs]]:
    """No row, one of each, experts that are idle or have everything, sizes just beyond a block."""
    random = torch.Generator().manual_seed(0)
    yield "no row", _inputs(torch.zeros(seeds, 0, dtype=torch.long), 4, 3, 5, device, dtype)
    yield "one of each", _inputs(torch.zeros(seeds, 1, dtype=torch.long), 1, 1, 1, device, dtype)
    yield "most are idle", _inputs(torch.randint(0, 9, (seeds, 5), generator=random), 9, 6, 7, device, dtype)
    yield "one has all", _inputs(torch.full((seeds, 17), 2), 4, 17, 33, device, dtype)
    yield "beyond a block", _inputs(torch.randint(0, 2, (seeds, 67), generator=random), 2, 33, 17, device, dtype)


def realistic(device: torch.device, dtype: torch.dtype, seeds: int) -> Iterator[tuple[str, Inputs]]:
    """An expert's layers for 32 utterances a seed, the hidden one for 4096, and for 32 with 1000 experts: 0.8 GB a seed
    in float32."""
    random = torch.Generator().manual_seed(1)
    sizes = ((32, 5, 768, 256), (32, 5, 256, 7), (4096, 5, 768, 256), (32, 1000, 768, 256))
    for rows, experts, width, outputs in sizes:
        chosen = torch.randint(0, experts, (seeds, rows), generator=random)
        name = f"{rows} rows, {experts} experts, {width} x {outputs}"
        yield name, _inputs(chosen, experts, width, outputs, device, dtype)


def _inputs(chosen: Tensor, experts: int, width: int, outputs: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    random = torch.Generator(device).manual_seed(2)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        made = torch.randn(shape, generator=random, device=device, dtype=dtype)
        return made.mul_(scale).requires_grad_()

    seeds, rows = chosen.shape
    weight = drawn(seeds, experts, width, outputs, scale=width**-0.5)
    return drawn(seeds, rows, width), chosen.to(device), weight, drawn(seeds, experts, outputs)


def routed(x: Tensor, chosen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The operator with the sorting that it needs."""
    return routed_linear(x, by_expert(chosen, weight.shape[1]), weight, bias)


def moved_bytes(inputs: Inputs) -> int:
    """What a forward pass reads and writes at least: the weights of the experts that were chosen, and the rows."""
    x, chosen, weight, bias = inputs
    active = sum(len(row.unique()) for row in chosen)
    each = weight[0, 0].nbytes + bias[0, 0].nbytes
    return active * each + x.nbytes + chosen.nbytes + chosen.numel() * weight.shape[3] * weight.element_size()


OPERATOR = routed
"""What `cases` has arguments for."""


def rivals() -> dict[str, Callable[..., Tensor]]:
    """What does the same, with the same arguments: all experts on every row, a copy of its expert for every row, and
    torch's product of groups of rows (no float64; needs compute capability 8.0 or more on a GPU)."""
    return {"every expert": every_expert, "gathered": gathered, "grouped_mm": grouped_mm}


def every_expert(x: Tensor, chosen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Products for all experts, of which one is taken."""
    every = torch.matmul(x[:, None], weight) + bias[:, :, None]
    own = chosen[:, None, :, None].expand(-1, -1, -1, weight.shape[3])
    return every.gather(1, own).squeeze(1)


def gathered(x: Tensor, chosen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A batch of products of a row and its expert."""
    own = (torch.arange(len(x), device=x.device)[:, None] * weight.shape[1] + chosen).flatten()
    products = torch.bmm(x.flatten(0, 1)[:, None], weight.flatten(0, 1)[own]).squeeze(1)
    return (products + bias.flatten(0, 1)[own]).view(*chosen.shape, weight.shape[3])


def grouped_mm(x: Tensor, chosen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Rows sorted by expert, multiplied by `torch.nn.functional.grouped_mm`; outputs are padded to its 16 bytes."""
    experts, outputs = weight.shape[1], weight.shape[3]
    own = (torch.arange(len(x), device=x.device)[:, None] * experts + chosen).flatten()
    order = torch.argsort(own, stable=True)
    ends = torch.searchsorted(own[order], torch.arange(len(x) * experts, device=x.device), right=True)
    wide = F.pad(weight.flatten(0, 1), (0, -outputs % (16 // weight.element_size())))
    products = F.grouped_mm(x.flatten(0, 1)[order], wide, offs=ends.int())[:, :outputs]
    back = torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=x.device))
    return (products[back] + bias.flatten(0, 1)[own]).view(*chosen.shape, outputs)
