"""The linear layer of two vectors, their sum and their product in Triton: products of matrices in tiles.

The sums of weights, W1 + W3 and W2 + W3, are made before, once for all tiles; the products of vectors, t * s, are made
in registers on their way to the matrix units. Axes as in the package; `sums` is (S, N, 2, D).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]


@triton.jit
def _tile(pointer, row, column, rows, columns, stride):
    """A tile of a matrix with rows `stride` apart; zero outside of it."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(pointer + row[:, None].to(tl.int64) * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _write(pointer, value, row, column, rows, columns, stride):
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    at = pointer + row[:, None].to(tl.int64) * stride + column[None, :]
    tl.store(at, value.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def forward_kernel(
    t, s, rest, sums, weight, bias, out, rows, outputs, width, more,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """A tile of the outputs."""
    seed = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(outputs, block_n)
    row = tl.program_id(0) // tiles * block_m + tl.arange(0, block_m)
    output = tl.program_id(0) % tiles * block_n + tl.arange(0, block_n)
    wide = 4 * width + more
    t += seed * rows * width
    s += seed * rows * width
    rest += seed * rows * more
    sums += seed * outputs * 2 * width
    weight += seed * outputs * wide
    inner = tl.arange(0, block_k)
    total = tl.zeros((block_m, block_n), tl.float32)
    for start in range(0, width, block_k):
        k = start + inner
        a = _tile(t, row, k, rows, width, width)
        b = _tile(s, row, k, rows, width, width)
        total = tl.dot(a, _tile(sums, output, k, outputs, width, 2 * width).T, total, input_precision=precision)
        total = tl.dot(b, _tile(sums + width, output, k, outputs, width, 2 * width).T, total, input_precision=precision)
        product = _tile(weight + 3 * width, output, k, outputs, width, wide)
        total = tl.dot(a * b, product.T, total, input_precision=precision)
    for start in range(0, more, block_k):
        k = start + inner
        a = _tile(rest, row, k, rows, more, more)
        last = _tile(weight + 4 * width, output, k, outputs, more, wide)
        total = tl.dot(a, last.T, total, input_precision=precision)
    total += tl.load(bias + seed * outputs + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    _write(out + seed * rows * outputs, total, row, output, rows, outputs, outputs)


@triton.jit
def by_vectors_kernel(
    grad, t, s, sums, weight, by_t, by_s, rows, outputs, width, more,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """A tile of the derivatives by t and by s."""
    seed = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(width, block_n)
    row = tl.program_id(0) // tiles * block_m + tl.arange(0, block_m)
    column = tl.program_id(0) % tiles * block_n + tl.arange(0, block_n)
    wide = 4 * width + more
    grad += seed * rows * outputs
    sums += seed * outputs * 2 * width
    weight += seed * outputs * wide + 3 * width
    inner = tl.arange(0, block_k)
    alone_t = tl.zeros((block_m, block_n), tl.float32)
    alone_s = tl.zeros((block_m, block_n), tl.float32)
    product = tl.zeros((block_m, block_n), tl.float32)
    for start in range(0, outputs, block_k):
        k = start + inner
        g = _tile(grad, row, k, rows, outputs, outputs)
        alone_t = tl.dot(g, _tile(sums, k, column, outputs, width, 2 * width), alone_t, input_precision=precision)
        second = _tile(sums + width, k, column, outputs, width, 2 * width)
        alone_s = tl.dot(g, second, alone_s, input_precision=precision)
        product = tl.dot(g, _tile(weight, k, column, outputs, width, wide), product, input_precision=precision)
    at = seed * rows * width
    a = _tile(t + at, row, column, rows, width, width).to(tl.float32)
    b = _tile(s + at, row, column, rows, width, width).to(tl.float32)
    _write(by_t + at, alone_t + product * b, row, column, rows, width, width)
    _write(by_s + at, alone_s + product * a, row, column, rows, width, width)


@triton.jit
def by_weight_kernel(
    grad, t, s, by_weight, rows, outputs, width, more,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """A tile of the derivatives by W1 to W4; that by W3 is the sum of those by W1 and W2."""
    seed = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(width, block_n)
    output = tl.program_id(0) // tiles * block_m + tl.arange(0, block_m)
    column = tl.program_id(0) % tiles * block_n + tl.arange(0, block_n)
    wide = 4 * width + more
    grad += seed * rows * outputs
    t += seed * rows * width
    s += seed * rows * width
    by_weight += seed * outputs * wide
    inner = tl.arange(0, block_k)
    first = tl.zeros((block_m, block_n), tl.float32)
    second = tl.zeros((block_m, block_n), tl.float32)
    product = tl.zeros((block_m, block_n), tl.float32)
    for start in range(0, rows, block_k):
        row = start + inner
        g = _tile(grad, row, output, rows, outputs, outputs).T
        a = _tile(t, row, column, rows, width, width)
        b = _tile(s, row, column, rows, width, width)
        first = tl.dot(g, a, first, input_precision=precision)
        second = tl.dot(g, b, second, input_precision=precision)
        product = tl.dot(g, a * b, product, input_precision=precision)
    _write(by_weight, first, output, column, outputs, width, wide)
    _write(by_weight + width, second, output, column, outputs, width, wide)
    _write(by_weight + 2 * width, first + second, output, column, outputs, width, wide)
    _write(by_weight + 3 * width, product, output, column, outputs, width, wide)
