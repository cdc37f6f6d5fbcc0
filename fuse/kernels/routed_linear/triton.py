"""The routed linear layer in Triton: a program for every place where an expert's rows could begin.

The grid has a program for each row in the order of experts, whoever was chosen; one whose place is not the first of a
tile of its expert's rows ends at once. So a step's shapes are always the same, every weight of an active expert is read
once, or once per tile of rows, and those of idle experts never. Axes as in the package.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]


@triton.jit
def rows_kernel(
    x, chosen, order, starts, weight, bias, out, rows, experts, inputs, outputs, along_inputs, along_outputs,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, precision: tl.constexpr,
    with_bias: tl.constexpr,
):  # fmt: skip
    """A tile of an expert's rows times its weights, whose strides are given: as they are, or transposed."""
    seed, place = tl.program_id(1), tl.program_id(0)
    order += seed * rows
    expert = tl.load(chosen + seed * rows + tl.load(order + place)).to(tl.int32)
    starts += seed * (experts + 1) + expert
    start, end = tl.load(starts).to(tl.int32), tl.load(starts + 1).to(tl.int32)
    if (place - start) % block_m == 0:
        slot = place + tl.arange(0, block_m)
        mine = slot < end
        row = (seed * rows + tl.load(order + slot, mask=mine, other=0)).to(tl.int64)
        output = tl.program_id(2) * block_n + tl.arange(0, block_n)
        own = (seed * experts + expert).to(tl.int64)
        weight += own * inputs * outputs
        total = tl.zeros((block_m, block_n), tl.float32)
        for begin in range(0, inputs, block_k):
            k = begin + tl.arange(0, block_k)
            inside = k < inputs
            a = tl.load(x + row[:, None] * inputs + k[None, :], mask=mine[:, None] & inside[None, :], other=0.0)
            cell = k[:, None] * along_inputs + output[None, :] * along_outputs
            b = tl.load(weight + cell, mask=inside[:, None] & (output < outputs)[None, :], other=0.0)
            total = tl.dot(a, b, total, input_precision=precision)
        if with_bias:
            total += tl.load(bias + own * outputs + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
        at = out + row[:, None] * outputs + output[None, :]
        tl.store(at, total.to(out.dtype.element_ty), mask=mine[:, None] & (output < outputs)[None, :])


@triton.jit
def by_weight_kernel(
    grad, x, order, starts, by_weight, by_bias, rows, experts, inputs, outputs,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """A tile of the derivative by an expert's weights, and by its bias: zero where it has no row."""
    tiles = tl.cdiv(outputs, block_n)
    own = tl.program_id(0)
    seed, expert = own // experts, own % experts
    order += seed * rows
    starts += seed * (experts + 1) + expert
    start, end = tl.load(starts).to(tl.int32), tl.load(starts + 1).to(tl.int32)
    k = tl.program_id(1) // tiles * block_k + tl.arange(0, block_k)
    output = tl.program_id(1) % tiles * block_n + tl.arange(0, block_n)
    total = tl.zeros((block_k, block_n), tl.float32)
    alone = tl.zeros((block_n,), tl.float32)
    for begin in range(start, end, block_m):
        slot = begin + tl.arange(0, block_m)
        mine = slot < end
        row = (seed * rows + tl.load(order + slot, mask=mine, other=0)).to(tl.int64)
        a = tl.load(x + row[:, None] * inputs + k[None, :], mask=mine[:, None] & (k < inputs)[None, :], other=0.0)
        there = grad + row[:, None] * outputs + output[None, :]
        g = tl.load(there, mask=mine[:, None] & (output < outputs)[None, :], other=0.0)
        total = tl.dot(a.T, g, total, input_precision=precision)
        alone += tl.sum(g.to(tl.float32), axis=0)
    cell = by_weight + own.to(tl.int64) * inputs * outputs + k[:, None] * outputs + output[None, :]
    inside = (k < inputs)[:, None] & (output < outputs)[None, :]
    tl.store(cell, total.to(by_weight.dtype.element_ty), mask=inside)
    if tl.program_id(1) < tiles:
        column = by_bias + own.to(tl.int64) * outputs + output
        tl.store(column, alone.to(by_bias.dtype.element_ty), mask=output < outputs)
