"""The scans of `fuse.kernels.recurrent` in Triton: a program per seed, direction and eight sequences.

A program runs through the frames of its sequences by itself; nothing waits for another program. The state stays in
registers, transposed, so that the recurrent weights are the matrix units' left operand and eight sequences fill the
right one. Units beyond the hidden width and sequences beyond the last have weights and inputs of zero, hence states of
zero.

Single precision on the matrix units: a number is two of half precision, the second what the first has rounded away, up
to 22 bits together, and three products of halves, summed in single precision, replace one. Of a gradient, whose size is
not known beforehand, each sequence's largest number is divided out; weights of 65504 and more become infinite. With one
part the first halves alone count, as many bits as TF32 keeps: so for tensors of half precision, and where
`torch.set_float32_matmul_precision` allows it.

`resident` weights are read once and stay in shared memory. Where they do not fit, every step reads them anew, `chunk`
columns at a time, and with them the state before, which the program itself has stored.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

SEQUENCES = 8
"""Sequences of one program: the narrowest right operand of the matrix units."""
CHUNK = 16
"""Columns of the weights read at a time: the shortest sum of the matrix units."""
WARPS = 8
REGISTERS = 255
"""What a thread may have, all there are: left to itself the compiler spills some to fit two programs side by side."""


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -y, y)


@triton.jit
def _halves(x, parts: tl.constexpr):
    first = x.to(tl.float16)
    second = first
    if parts == 2:
        second = (x - first.to(tl.float32)).to(tl.float16)
    return first, second


@triton.jit
def _weights(first, second, at, mask, parts: tl.constexpr):
    a = tl.load(first + at, mask=mask, other=0.0)
    b = a
    if parts == 2:
        b = tl.load(second + at, mask=mask, other=0.0)
    return a, b


@triton.jit
def _times(a, b, x, y, total, parts: tl.constexpr):
    """total + (a + b)(x + y), without b y."""
    total = tl.dot(a, x, total)
    if parts == 2:
        total = tl.dot(b, x, total)
        total = tl.dot(a, y, total)
    return total


@triton.jit
def _frame(step, steps, run, directions: tl.constexpr):
    """The frame of a step: the second direction begins with the last one."""
    t = step
    if directions == 2:
        t = tl.where(run % 2 == 0, step, steps - 1 - step)
    return t


@triton.jit
def _read(at, mask):
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _scaled(x, largest, parts: tl.constexpr):
    return _halves(x / largest, parts)


@triton.jit
def gru_forward_kernel(
    gates, first, second, bias, lengths, states, kept, frames, sequences,
    directions: tl.constexpr, hidden: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
    chunk: tl.constexpr, parts: tl.constexpr, resident: tl.constexpr,
):  # fmt: skip
    run = tl.program_id(0).to(tl.int64)
    b = tl.program_id(1) * tile + tl.arange(0, tile)
    j = tl.arange(0, block)
    unit = (j < hidden)[:, None]
    there = unit & (b < sequences)[None, :]
    length = tl.load(lengths + (run // directions) * sequences + b, mask=b < sequences, other=0)
    steps = tl.minimum(tl.max(length, 0).to(tl.int32), frames)
    matrix: tl.constexpr = hidden * hidden
    w = run * 3 * matrix + j[:, None] * hidden
    c = tl.arange(0, chunk)
    if resident:
        square = unit & (j < hidden)[None, :]
        r_a, r_b = _weights(first, second, w + j[None, :], square, parts)
        z_a, z_b = _weights(first, second, w + matrix + j[None, :], square, parts)
        n_a, n_b = _weights(first, second, w + 2 * matrix + j[None, :], square, parts)
    b_n = _read(bias + run * hidden + j, j < hidden)[:, None]
    h = tl.zeros((block, tile), tl.float32)
    for step in tl.range(steps, num_stages=1):
        t = _frame(step, steps, run, directions)
        row = ((run * frames + t) * sequences + b)[None, :]
        here = there & (t < length)[None, :]
        x = gates + row * 3 * hidden + j[:, None]
        x_r, x_z, x_n = _read(x, here), _read(x + hidden, here), _read(x + 2 * hidden, here)
        r = tl.zeros((block, tile), tl.float32)
        z = tl.zeros((block, tile), tl.float32)
        u = tl.zeros((block, tile), tl.float32)
        if resident:
            h_a, h_b = _halves(h, parts)
            r = _times(r_a, r_b, h_a, h_b, r, parts)
            z = _times(z_a, z_b, h_a, h_b, z, parts)
            u = _times(n_a, n_b, h_a, h_b, u, parts)
        else:
            tl.debug_barrier()
            last = _frame(step - 1, steps, run, directions)
            before = ((run * frames + last) * sequences + b)[None, :]
            known = (step > 0) & (last < length)[None, :]
            for k in tl.range(0, hidden, chunk):
                inside = (k + c) < hidden
                h_a, h_b = _halves(_read(states + before * hidden + (k + c)[:, None], inside[:, None] & known), parts)
                part = w + (k + c)[None, :]
                a, s = _weights(first, second, part, unit & inside[None, :], parts)
                r = _times(a, s, h_a, h_b, r, parts)
                a, s = _weights(first, second, part + matrix, unit & inside[None, :], parts)
                z = _times(a, s, h_a, h_b, z, parts)
                a, s = _weights(first, second, part + 2 * matrix, unit & inside[None, :], parts)
                u = _times(a, s, h_a, h_b, u, parts)
        r, z, u = _sigmoid(x_r + r), _sigmoid(x_z + z), u + b_n
        n = _tanh(x_n + r * u)
        h = tl.where(here, (1.0 - z) * n + z * h, 0.0)
        tl.store(states + row * hidden + j[:, None], h, mask=there)
        keep = kept + row * 4 * hidden + j[:, None]
        tl.store(keep, r, mask=there)
        tl.store(keep + hidden, z, mask=there)
        tl.store(keep + 2 * hidden, n, mask=there)
        tl.store(keep + 3 * hidden, u, mask=there)
    for t in tl.range(steps, frames):
        row = ((run * frames + t) * sequences + b)[None, :]
        tl.store(states + row * hidden + j[:, None], tl.zeros((block, tile), tl.float32), mask=there)


@triton.jit
def gru_backward_kernel(
    grad, states, kept, first, second, lengths, grads, frames, sequences,
    directions: tl.constexpr, hidden: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
    chunk: tl.constexpr, parts: tl.constexpr, resident: tl.constexpr,
):  # fmt: skip
    run = tl.program_id(0).to(tl.int64)
    b = tl.program_id(1) * tile + tl.arange(0, tile)
    j = tl.arange(0, block)
    unit = (j < hidden)[:, None]
    there = unit & (b < sequences)[None, :]
    length = tl.load(lengths + (run // directions) * sequences + b, mask=b < sequences, other=0)
    steps = tl.minimum(tl.max(length, 0).to(tl.int32), frames)
    matrix: tl.constexpr = hidden * hidden
    w = run * 3 * matrix + j[:, None]  # transposed: a row is the state's unit, a column the gate's
    c = tl.arange(0, chunk)
    if resident:
        square = unit & (j < hidden)[None, :]
        r_a, r_b = _weights(first, second, w + j[None, :] * hidden, square, parts)
        z_a, z_b = _weights(first, second, w + matrix + j[None, :] * hidden, square, parts)
        n_a, n_b = _weights(first, second, w + 2 * matrix + j[None, :] * hidden, square, parts)
    carried = tl.zeros((block, tile), tl.float32)
    for back in tl.range(steps, num_stages=1):
        step = steps - 1 - back
        t = _frame(step, steps, run, directions)
        last = _frame(step - 1, steps, run, directions)
        row = ((run * frames + t) * sequences + b)[None, :]
        before = ((run * frames + last) * sequences + b)[None, :]
        here = there & (t < length)[None, :]
        keep = kept + row * 4 * hidden + j[:, None]
        r, z = _read(keep, here), _read(keep + hidden, here)
        n, u = _read(keep + 2 * hidden, here), _read(keep + 3 * hidden, here)
        h = _read(states + before * hidden + j[:, None], here & (step > 0))
        dh = tl.where(here, _read(grad + row * hidden + j[:, None], here) + carried, 0.0)
        dn = dh * (1.0 - z) * (1.0 - n * n)
        dr = dn * u * r * (1.0 - r)
        dz = dh * (h - n) * z * (1.0 - z)
        du = dn * r
        to = grads + row * 4 * hidden + j[:, None]
        tl.store(to, dr, mask=there)
        tl.store(to + hidden, dz, mask=there)
        tl.store(to + 2 * hidden, dn, mask=there)
        tl.store(to + 3 * hidden, du, mask=there)
        largest = tl.max(tl.maximum(tl.maximum(tl.abs(dr), tl.abs(dz)), tl.abs(du)), 0)[None, :]
        largest = tl.where(largest > 1e-30, largest, 1.0)
        total = tl.zeros((block, tile), tl.float32)
        if resident:
            x, y = _scaled(dr, largest, parts)
            total = _times(r_a, r_b, x, y, total, parts)
            x, y = _scaled(dz, largest, parts)
            total = _times(z_a, z_b, x, y, total, parts)
            x, y = _scaled(du, largest, parts)
            total = _times(n_a, n_b, x, y, total, parts)
        else:
            tl.debug_barrier()
            for k in tl.range(0, hidden, chunk):
                inside = (k + c) < hidden
                part = w + (k + c)[None, :] * hidden
                each = grads + row * 4 * hidden + (k + c)[:, None]
                mask = inside[:, None] & (b < sequences)[None, :]
                a, s = _weights(first, second, part, unit & inside[None, :], parts)
                x, y = _scaled(_read(each, mask), largest, parts)
                total = _times(a, s, x, y, total, parts)
                a, s = _weights(first, second, part + matrix, unit & inside[None, :], parts)
                x, y = _scaled(_read(each + hidden, mask), largest, parts)
                total = _times(a, s, x, y, total, parts)
                a, s = _weights(first, second, part + 2 * matrix, unit & inside[None, :], parts)
                x, y = _scaled(_read(each + 3 * hidden, mask), largest, parts)
                total = _times(a, s, x, y, total, parts)
        carried = dh * z + total * largest
    for t in tl.range(steps, frames):
        row = ((run * frames + t) * sequences + b)[None, :]
        for gate in tl.static_range(4):
            to = grads + row * 4 * hidden + gate * hidden + j[:, None]
            tl.store(to, tl.zeros((block, tile), tl.float32), mask=there)


@triton.jit
def lstm_forward_kernel(
    gates, first, second, lengths, states, kept, frames, sequences,
    directions: tl.constexpr, hidden: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
    chunk: tl.constexpr, parts: tl.constexpr, resident: tl.constexpr,
):  # fmt: skip
    run = tl.program_id(0).to(tl.int64)
    b = tl.program_id(1) * tile + tl.arange(0, tile)
    j = tl.arange(0, block)
    unit = (j < hidden)[:, None]
    there = unit & (b < sequences)[None, :]
    length = tl.load(lengths + (run // directions) * sequences + b, mask=b < sequences, other=0)
    steps = tl.minimum(tl.max(length, 0).to(tl.int32), frames)
    matrix: tl.constexpr = hidden * hidden
    w = run * 4 * matrix + j[:, None] * hidden
    c = tl.arange(0, chunk)
    if resident:
        square = unit & (j < hidden)[None, :]
        i_a, i_b = _weights(first, second, w + j[None, :], square, parts)
        f_a, f_b = _weights(first, second, w + matrix + j[None, :], square, parts)
        g_a, g_b = _weights(first, second, w + 2 * matrix + j[None, :], square, parts)
        o_a, o_b = _weights(first, second, w + 3 * matrix + j[None, :], square, parts)
    h = tl.zeros((block, tile), tl.float32)
    cell = tl.zeros((block, tile), tl.float32)
    for step in tl.range(steps, num_stages=1):
        t = _frame(step, steps, run, directions)
        row = ((run * frames + t) * sequences + b)[None, :]
        here = there & (t < length)[None, :]
        x = gates + row * 4 * hidden + j[:, None]
        i, f = _read(x, here), _read(x + hidden, here)
        g, o = _read(x + 2 * hidden, here), _read(x + 3 * hidden, here)
        if resident:
            h_a, h_b = _halves(h, parts)
            i = _times(i_a, i_b, h_a, h_b, i, parts)
            f = _times(f_a, f_b, h_a, h_b, f, parts)
            g = _times(g_a, g_b, h_a, h_b, g, parts)
            o = _times(o_a, o_b, h_a, h_b, o, parts)
        else:
            tl.debug_barrier()
            last = _frame(step - 1, steps, run, directions)
            before = ((run * frames + last) * sequences + b)[None, :]
            known = (step > 0) & (last < length)[None, :]
            for k in tl.range(0, hidden, chunk):
                inside = (k + c) < hidden
                h_a, h_b = _halves(_read(states + before * hidden + (k + c)[:, None], inside[:, None] & known), parts)
                part = w + (k + c)[None, :]
                a, s = _weights(first, second, part, unit & inside[None, :], parts)
                i = _times(a, s, h_a, h_b, i, parts)
                a, s = _weights(first, second, part + matrix, unit & inside[None, :], parts)
                f = _times(a, s, h_a, h_b, f, parts)
                a, s = _weights(first, second, part + 2 * matrix, unit & inside[None, :], parts)
                g = _times(a, s, h_a, h_b, g, parts)
                a, s = _weights(first, second, part + 3 * matrix, unit & inside[None, :], parts)
                o = _times(a, s, h_a, h_b, o, parts)
        i, f, g, o = _sigmoid(i), _sigmoid(f), _tanh(g), _sigmoid(o)
        cell = tl.where(here, f * cell + i * g, 0.0)
        h = tl.where(here, o * _tanh(cell), 0.0)
        tl.store(states + row * hidden + j[:, None], h, mask=there)
        keep = kept + row * 5 * hidden + j[:, None]
        tl.store(keep, i, mask=there)
        tl.store(keep + hidden, f, mask=there)
        tl.store(keep + 2 * hidden, g, mask=there)
        tl.store(keep + 3 * hidden, o, mask=there)
        tl.store(keep + 4 * hidden, cell, mask=there)
    for t in tl.range(steps, frames):
        row = ((run * frames + t) * sequences + b)[None, :]
        tl.store(states + row * hidden + j[:, None], tl.zeros((block, tile), tl.float32), mask=there)


@triton.jit
def lstm_backward_kernel(
    grad, kept, first, second, lengths, grads, frames, sequences,
    directions: tl.constexpr, hidden: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
    chunk: tl.constexpr, parts: tl.constexpr, resident: tl.constexpr,
):  # fmt: skip
    run = tl.program_id(0).to(tl.int64)
    b = tl.program_id(1) * tile + tl.arange(0, tile)
    j = tl.arange(0, block)
    unit = (j < hidden)[:, None]
    there = unit & (b < sequences)[None, :]
    length = tl.load(lengths + (run // directions) * sequences + b, mask=b < sequences, other=0)
    steps = tl.minimum(tl.max(length, 0).to(tl.int32), frames)
    matrix: tl.constexpr = hidden * hidden
    w = run * 4 * matrix + j[:, None]  # transposed: a row is the state's unit, a column the gate's
    c = tl.arange(0, chunk)
    if resident:
        square = unit & (j < hidden)[None, :]
        i_a, i_b = _weights(first, second, w + j[None, :] * hidden, square, parts)
        f_a, f_b = _weights(first, second, w + matrix + j[None, :] * hidden, square, parts)
        g_a, g_b = _weights(first, second, w + 2 * matrix + j[None, :] * hidden, square, parts)
        o_a, o_b = _weights(first, second, w + 3 * matrix + j[None, :] * hidden, square, parts)
    carried = tl.zeros((block, tile), tl.float32)
    dcell = tl.zeros((block, tile), tl.float32)
    for back in tl.range(steps, num_stages=1):
        step = steps - 1 - back
        t = _frame(step, steps, run, directions)
        last = _frame(step - 1, steps, run, directions)
        row = ((run * frames + t) * sequences + b)[None, :]
        before = ((run * frames + last) * sequences + b)[None, :]
        here = there & (t < length)[None, :]
        keep = kept + row * 5 * hidden + j[:, None]
        i, f = _read(keep, here), _read(keep + hidden, here)
        g, o = _read(keep + 2 * hidden, here), _read(keep + 3 * hidden, here)
        tanh = _tanh(_read(keep + 4 * hidden, here))
        known = here & (step > 0) & (last < length)[None, :]
        cell = _read(kept + before * 5 * hidden + 4 * hidden + j[:, None], known)
        dh = tl.where(here, _read(grad + row * hidden + j[:, None], here) + carried, 0.0)
        dcell = tl.where(here, dcell, 0.0) + dh * o * (1.0 - tanh * tanh)
        di = dcell * g * i * (1.0 - i)
        df = dcell * cell * f * (1.0 - f)
        dg = dcell * i * (1.0 - g * g)
        do = dh * tanh * o * (1.0 - o)
        dcell = dcell * f
        to = grads + row * 4 * hidden + j[:, None]
        tl.store(to, di, mask=there)
        tl.store(to + hidden, df, mask=there)
        tl.store(to + 2 * hidden, dg, mask=there)
        tl.store(to + 3 * hidden, do, mask=there)
        largest = tl.maximum(tl.maximum(tl.abs(di), tl.abs(df)), tl.maximum(tl.abs(dg), tl.abs(do)))
        largest = tl.max(largest, 0)[None, :]
        largest = tl.where(largest > 1e-30, largest, 1.0)
        total = tl.zeros((block, tile), tl.float32)
        if resident:
            x, y = _scaled(di, largest, parts)
            total = _times(i_a, i_b, x, y, total, parts)
            x, y = _scaled(df, largest, parts)
            total = _times(f_a, f_b, x, y, total, parts)
            x, y = _scaled(dg, largest, parts)
            total = _times(g_a, g_b, x, y, total, parts)
            x, y = _scaled(do, largest, parts)
            total = _times(o_a, o_b, x, y, total, parts)
        else:
            tl.debug_barrier()
            for k in tl.range(0, hidden, chunk):
                inside = (k + c) < hidden
                mask = inside[:, None] & (b < sequences)[None, :]
                for gate in tl.static_range(4):
                    part = w + gate * matrix + (k + c)[None, :] * hidden
                    a, s = _weights(first, second, part, unit & inside[None, :], parts)
                    each = _read(grads + row * 4 * hidden + gate * hidden + (k + c)[:, None], mask)
                    x, y = _scaled(each, largest, parts)
                    total = _times(a, s, x, y, total, parts)
        carried = total * largest
    for t in tl.range(steps, frames):
        row = ((run * frames + t) * sequences + b)[None, :]
        for gate in tl.static_range(4):
            to = grads + row * 4 * hidden + gate * hidden + j[:, None]
            tl.store(to, tl.zeros((block, tile), tl.float32), mask=there)
