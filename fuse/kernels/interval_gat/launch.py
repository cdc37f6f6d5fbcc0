"""Launches the kernels of `fuse.kernels.interval_gat.triton`; axes as in the package."""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from fuse.kernels.interval_gat import triton as kernels
from fuse.kernels.interval_gat.reference import SLOPE, Nodes, Pair

NUMBERS = 1024
"""Of each of its tensors that a program holds in registers: nodes times width."""
WARPS = 4
REGISTERS = 168
"""Of a thread in the backward pass: three programs share a multiprocessor, and nothing is spilled."""
SCAN = 64
"""Intervals that a program of frames looks at together."""


class Launch:
    """How many programs a kernel has and what it is told of the sizes.

    Args:
        nodes, vector: what it computes with.
    """

    def __init__(self, nodes: Nodes, vector: Tensor) -> None:
        rows, tokens, heads, width = nodes.text_keys.shape
        frames = nodes.speech_keys.shape[1]
        shared = nodes.text_values is None
        wide = width if nodes.text_values is None else nodes.text_values.shape[3]
        block_k, block_w = triton.next_power_of_2(width), triton.next_power_of_2(wide)
        each = max(1, min(16, NUMBERS // max(block_k, block_w)))
        self.text_blocks = triton.cdiv(tokens, each)
        self.blocks = self.text_blocks + triton.cdiv(frames, each)
        self.rows, self.heads = rows, heads
        self.rows_of_seed = rows // len(vector)
        self.counts = (self.rows_of_seed, self.text_blocks, self.blocks, tokens, frames)
        self.shape: dict[str, Any] = {"heads": heads, "width": width, "wide": wide}
        self.shape |= {"block_k": block_k, "block_w": block_w}
        self.shape |= {"nodes": each, "scan": SCAN, "slope": SLOPE, "shared": shared}


def forward(
    nodes: Nodes, vector: Tensor, first: Tensor, past: Tensor, picture: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As the reference's, but of all seeds: the vector is (S, H, K)."""
    nodes, (vector, first, past) = _ready(nodes), (x.contiguous() for x in (vector, first, past))
    launch = Launch(nodes, vector)
    values = [x for x in nodes[4:] if x is not None] or nodes[:2]
    out = [torch.empty_like(x) for x in values]
    bottoms = [x.new_empty(x.shape[:3], dtype=torch.float32) for x in values]
    seen = vector.new_zeros(*first.shape, values[1].shape[1] if picture else 0, dtype=torch.float32)
    if launch.rows * launch.blocks * launch.heads:
        kernels.forward_kernel[(launch.rows * launch.blocks, launch.heads)](
            *nodes[:4], *values, vector, first, past, *out, *bottoms, *launch.counts, **launch.shape, num_warps=WARPS
        )
    if seen.numel() and launch.heads:
        shape = {name: launch.shape[name] for name in ("heads", "width", "block_k", "nodes", "slope")}
        counts = (launch.rows_of_seed, launch.text_blocks, *launch.counts[3:])
        kernels.picture_kernel[(launch.rows * launch.text_blocks,)](
            nodes.speech_keys, nodes.text_queries, bottoms[0], vector, first, past, seen, *counts, **shape,
            num_warps=WARPS,
        )  # fmt: skip
    return out[0], out[1], bottoms[0], bottoms[1], seen


def backward(
    grads: Pair, reads: Pair, bottoms: Pair, nodes: Nodes, vector: Tensor, first: Tensor, past: Tensor
) -> list[Tensor]:
    """As the reference's, but of all seeds: the vector and its derivative are (S, H, K)."""
    nodes, (vector, first, past) = _ready(nodes), (x.contiguous() for x in (vector, first, past))
    launch = Launch(nodes, vector)
    values = [x for x in nodes[4:] if x is not None]
    by_nodes = [torch.empty_like(x) for x in nodes[:4]]
    by_values = [torch.empty_like(x) for x in values]
    programs = launch.rows * launch.blocks
    by_vector = vector.new_empty(programs, *vector.shape[1:], dtype=torch.float32)
    if by_vector.numel():
        kept = [x.contiguous() for pair in (grads, reads, bottoms) for x in pair]
        kernels.backward_kernel[(programs, launch.heads)](
            *kept, *nodes[:4], *(values or nodes[:2]), vector, first, past,
            *by_nodes, *(by_values or by_nodes[:2]), by_vector, *launch.counts, **launch.shape,
            num_warps=WARPS, maxnreg=REGISTERS,
        )  # fmt: skip
    summed = by_vector.view(len(vector), programs // len(vector), *vector.shape[1:]).sum(dim=1)
    return [*by_nodes, summed.to(vector.dtype), *by_values]


def _ready(nodes: Nodes) -> Nodes:
    values = (None if x is None else x.contiguous() for x in nodes[4:])
    return Nodes(*(x.contiguous() for x in nodes[:4]), *values)
