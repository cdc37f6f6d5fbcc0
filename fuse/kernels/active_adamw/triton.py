"""A step of `fuse.kernels.active_adamw` in Triton: `mark_kernel` finds who is active, `move_kernel` moves them.

Neither needs the host to know how many are active: as many programs as the GPU takes share the active experts' blocks
of parameters, expert after expert, among themselves.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

WARPS = 4
BLOCK = 2048
"""Numbers that a program moves at a time."""


@triton.jit
def _any(grads, expert, size: tl.constexpr, block: tl.constexpr):
    """1 where one of the expert's gradients is not zero."""
    i = tl.arange(0, block)
    found = tl.zeros((block,), tl.int32)
    for start in range(0, size, block):
        g = tl.load(grads + expert * size + start + i, mask=start + i < size, other=0.0)
        found = found | (g != 0.0).to(tl.int32)
    return tl.max(found, 0)


@triton.jit
def mark_kernel(
    grads_1, grads_2, grads_3, count, lr, beta1, active, scales,
    size_1: tl.constexpr, size_2: tl.constexpr, size_3: tl.constexpr,
    log_beta2: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """active (E,), count one more where it is, and scales (E, 2): lr and the root, corrected for the bias."""
    expert = tl.program_id(0).to(tl.int64)
    found = _any(grads_1, expert, size_1, block)
    found = found | _any(grads_2, expert, size_2, block)
    found = found | _any(grads_3, expert, size_3, block)
    steps = tl.load(count + expert) + found
    tl.store(count + expert, steps)
    tl.store(active + expert, found)
    # 1 - beta ** steps loses its digits in single precision; an expert that was never active has no need of it.
    steps = tl.maximum(steps, 1.0).to(tl.float64)
    first = 1.0 - tl.exp(steps * tl.log(tl.load(beta1).to(tl.float64)))
    second = 1.0 - tl.exp(steps * log_beta2)
    tl.store(scales + 2 * expert, (tl.load(lr).to(tl.float64) / first).to(tl.float32))
    tl.store(scales + 2 * expert + 1, tl.sqrt(second).to(tl.float32))


@triton.jit
def _move(
    p, grads, means, squares, expert, part, rate, root, b1, shrink, beta2: tl.constexpr, rest2: tl.constexpr,
    epsilon: tl.constexpr, decay: tl.constexpr, size: tl.constexpr, decoupled: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    inner = part * block + tl.arange(0, block)
    at = expert * size + inner
    mask = inner < size
    x = tl.load(p + at, mask=mask, other=0.0)
    g = tl.load(grads + at, mask=mask, other=0.0)
    if decoupled:
        x = x * shrink
    else:
        g = g + decay * x
    m = b1 * tl.load(means + at, mask=mask, other=0.0) + (1.0 - b1) * g
    v = beta2 * tl.load(squares + at, mask=mask, other=0.0) + rest2 * g * g
    tl.store(means + at, m, mask=mask)
    tl.store(squares + at, v, mask=mask)
    tl.store(p + at, x - rate * (m / (tl.sqrt(v) / root + epsilon)), mask=mask)


@triton.jit
def move_kernel(
    p_0, p_1, p_2, p_3, grads_0, grads_1, grads_2, grads_3, means_0, means_1, means_2, means_3,
    squares_0, squares_1, squares_2, squares_3, active, scales, lr, beta1,
    size_0: tl.constexpr, size_1: tl.constexpr, size_2: tl.constexpr, size_3: tl.constexpr,
    beta2: tl.constexpr, rest2: tl.constexpr, epsilon: tl.constexpr, decay: tl.constexpr, decoupled: tl.constexpr,
    experts: tl.constexpr, power: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    e = tl.arange(0, power)
    ordinal = tl.cumsum(tl.load(active + e, mask=e < experts, other=0), 0)
    past_0: tl.constexpr = (size_0 + block - 1) // block
    past_1: tl.constexpr = past_0 + (size_1 + block - 1) // block
    past_2: tl.constexpr = past_1 + (size_2 + block - 1) // block
    past_3: tl.constexpr = past_2 + (size_3 + block - 1) // block
    b1 = tl.load(beta1)
    shrink = 1.0 - tl.load(lr) * decay
    for item in range(tl.program_id(0), tl.max(ordinal, 0) * past_3, tl.num_programs(0)):
        expert = tl.sum((ordinal <= item // past_3).to(tl.int32), 0).to(tl.int64)
        part = item % past_3
        rate, root = tl.load(scales + 2 * expert), tl.load(scales + 2 * expert + 1)
        if part < past_0:
            _move(
                p_0, grads_0, means_0, squares_0, expert, part, rate, root, b1, shrink, beta2, rest2, epsilon, decay,
                size_0, decoupled, block,
            )  # fmt: skip
        elif part < past_1:
            _move(
                p_1, grads_1, means_1, squares_1, expert, part - past_0, rate, root, b1, shrink, beta2, rest2, epsilon,
                decay, size_1, decoupled, block,
            )  # fmt: skip
        elif part < past_2:
            _move(
                p_2, grads_2, means_2, squares_2, expert, part - past_1, rate, root, b1, shrink, beta2, rest2, epsilon,
                decay, size_2, decoupled, block,
            )  # fmt: skip
        else:
            _move(
                p_3, grads_3, means_3, squares_3, expert, part - past_2, rate, root, b1, shrink, beta2, rest2, epsilon,
                decay, size_3, decoupled, block,
            )  # fmt: skip
