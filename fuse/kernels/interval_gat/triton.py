"""Graph attention between tokens and the frames of their intervals in Triton.

A program has one head of some nodes of one utterance, tokens or frames, and walks along their neighbours: step n reads
the n-th neighbour of every node at once, so that no lane waits for a mask where intervals have about the same length.
A token's neighbours are the frames of its interval; a frame's lie between the first and the last token whose interval
has it, which the program finds by looking at all of the utterance's intervals, a few hundred integers. The backward
pass treats every node both as reading its neighbours and as read by them: each node is written by one program, once.

Only the vector's derivative is summed over programs: each writes its part, and torch sums the parts in a fixed order.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]


@triton.jit
def _neighbours(first, past, row, node, there, tokens, frames, of_tokens: tl.constexpr, scan: tl.constexpr):
    """Where the neighbours of the nodes begin and end on the other side; a frame's include strangers."""
    if of_tokens:
        low = tl.load(first + row * tokens + node, mask=there, other=0).to(tl.int32)
        high = tl.load(past + row * tokens + node, mask=there, other=0).to(tl.int32)
        return tl.maximum(low, 0), tl.where(there, tl.minimum(high, frames), 0)
    low = tl.full(node.shape, tokens, tl.int32)
    high = tl.zeros(node.shape, tl.int32)
    for start in range(0, tokens, scan):
        token = start + tl.arange(0, scan)
        begin = tl.load(first + row * tokens + token, mask=token < tokens, other=frames)
        end = tl.load(past + row * tokens + token, mask=token < tokens, other=0)
        joined = (begin[None, :] <= node[:, None]) & (node[:, None] < end[None, :]) & there[:, None]
        low = tl.minimum(low, tl.min(tl.where(joined, token[None, :], tokens), axis=1))
        high = tl.maximum(high, tl.max(tl.where(joined, token[None, :] + 1, 0), axis=1))
    return low, high


@triton.jit
def _near(first, past, row, node, other, high, tokens, of_tokens: tl.constexpr):
    """Whether `other` of the other side is a neighbour."""
    near = other < high
    if not of_tokens:
        begin = tl.load(first + row * tokens + other, mask=near, other=0)
        end = tl.load(past + row * tokens + other, mask=near, other=0)
        near = near & (begin <= node) & (node < end)
    return near


@triton.jit
def _rows(pointer, at, mask, wide: tl.constexpr, block: tl.constexpr):
    """Rows `at` of a matrix of width wide, in float32; 0 where masked."""
    column = tl.arange(0, block)
    inside = mask[:, None] & (column < wide)[None, :]
    return tl.load(pointer + at[:, None] * wide + column[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _write(pointer, value, at, mask, wide: tl.constexpr, block: tl.constexpr):
    column = tl.arange(0, block)
    inside = mask[:, None] & (column < wide)[None, :]
    tl.store(pointer + at[:, None] * wide + column[None, :], value.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _leaky(z, slope: tl.constexpr):
    return tl.where(z > 0, z, slope * z)


@triton.jit
def _attend(
    keys, queries, values, out, bottoms, other_keys, other_values, first, past,
    a, block, row, head, own_count, other_count, tokens, frames,
    heads: tl.constexpr, width: tl.constexpr, wide: tl.constexpr, block_k: tl.constexpr, block_w: tl.constexpr,
    nodes: tl.constexpr, scan: tl.constexpr, slope: tl.constexpr, shared: tl.constexpr, of_tokens: tl.constexpr,
):  # fmt: skip
    """Softmax and sum over the neighbours of a block of nodes, one at a time."""
    node = block * nodes + tl.arange(0, nodes)
    there = node < own_count
    at = (row * own_count + node).to(tl.int64) * heads + head
    low, high = _neighbours(first, past, row, node, there, tokens, frames, of_tokens, scan)
    query = _rows(queries, at, there, width, block_k)
    key = _rows(keys, at, there, width, block_k)
    read = key if shared else _rows(values, at, there, wide, block_w)
    most = tl.sum(_leaky(key + query, slope) * a[None, :], axis=1)
    total = tl.full((nodes,), 1.0, tl.float32)
    for step in range(0, tl.max(high - low, axis=0)):
        other = low + step
        near = _near(first, past, row, node, other, high, tokens, of_tokens)
        away = (row * other_count + other).to(tl.int64) * heads + head
        key = _rows(other_keys, away, near, width, block_k)
        value = key if shared else _rows(other_values, away, near, wide, block_w)
        score = tl.where(near, tl.sum(_leaky(key + query, slope) * a[None, :], axis=1), -float("inf"))
        higher = tl.maximum(most, score)
        shrunk = tl.exp(most - higher)
        weight = tl.exp(score - higher)
        read = read * shrunk[:, None] + value * weight[:, None]
        total = total * shrunk + weight
        most = higher
    _write(out, read / total[:, None], at, there, wide, block_w)
    tl.store(bottoms + at, most + tl.log(total), mask=there)


@triton.jit
def forward_kernel(
    text_keys, speech_keys, text_queries, speech_queries, text_values, speech_values, vector, first, past,
    text_out, speech_out, text_bottoms, speech_bottoms, rows_of_seed, text_blocks, blocks, tokens, frames,
    heads: tl.constexpr, width: tl.constexpr, wide: tl.constexpr, block_k: tl.constexpr, block_w: tl.constexpr,
    nodes: tl.constexpr, scan: tl.constexpr, slope: tl.constexpr, shared: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0) // blocks, tl.program_id(1)
    block = tl.program_id(0) % blocks
    column = tl.arange(0, block_k)
    at = (row // rows_of_seed * heads + head) * width + column
    a = tl.load(vector + at, mask=column < width, other=0.0).to(tl.float32)
    if block < text_blocks:
        _attend(
            text_keys, text_queries, text_values, text_out, text_bottoms, speech_keys, speech_values, first, past,
            a, block, row, head, tokens, frames, tokens, frames,
            heads, width, wide, block_k, block_w, nodes, scan, slope, shared, True,
        )  # fmt: skip
    else:
        _attend(
            speech_keys, speech_queries, speech_values, speech_out, speech_bottoms, text_keys, text_values, first, past,
            a, block - text_blocks, row, head, frames, tokens, tokens, frames,
            heads, width, wide, block_k, block_w, nodes, scan, slope, shared, False,
        )  # fmt: skip


@triton.jit
def _edge(z, a, grad, value, bottom, mean, near, slope: tl.constexpr):
    """Of an edge with key + query = z: its weight, and the derivatives by its score and by z."""
    weight = tl.where(near, tl.exp(tl.sum(_leaky(z, slope) * a[None, :], axis=1) - bottom), 0.0)
    by_score = weight * (tl.sum(grad * value, axis=1) - mean)
    return weight, by_score, by_score[:, None] * tl.where(z > 0, a[None, :], slope * a[None, :])


@triton.jit
def _derive(
    grads, reads, bottoms, keys, queries, values, other_grads, other_reads, other_bottoms,
    other_keys, other_queries, other_values, by_keys, by_queries, by_values, first, past,
    a, block, row, head, own_count, other_count, tokens, frames,
    heads: tl.constexpr, width: tl.constexpr, wide: tl.constexpr, block_k: tl.constexpr, block_w: tl.constexpr,
    nodes: tl.constexpr, scan: tl.constexpr, slope: tl.constexpr, shared: tl.constexpr, of_tokens: tl.constexpr,
):  # fmt: skip
    """Derivatives by a block of nodes, which read their neighbours and are read by them; returns their part of the
    vector's."""
    node = block * nodes + tl.arange(0, nodes)
    there = node < own_count
    at = (row * own_count + node).to(tl.int64) * heads + head
    low, high = _neighbours(first, past, row, node, there, tokens, frames, of_tokens, scan)
    query = _rows(queries, at, there, width, block_k)
    key = _rows(keys, at, there, width, block_k)
    value = key if shared else _rows(values, at, there, wide, block_w)
    grad = _rows(grads, at, there, wide, block_w)
    mean = tl.sum(grad * _rows(reads, at, there, wide, block_w), axis=1)
    bottom = tl.load(bottoms + at, mask=there, other=0.0)
    z = key + query
    weight, by_score, by_query = _edge(z, a, grad, value, bottom, mean, there, slope)
    by_value = weight[:, None] * grad
    by_key = by_query + by_value if shared else by_query
    by_vector = by_score[:, None] * _leaky(z, slope)
    for step in range(0, tl.max(high - low, axis=0)):
        other = low + step
        near = _near(first, past, row, node, other, high, tokens, of_tokens)
        away = (row * other_count + other).to(tl.int64) * heads + head
        other_key = _rows(other_keys, away, near, width, block_k)
        other_value = other_key if shared else _rows(other_values, away, near, wide, block_w)
        z = other_key + query
        _, by_score, by_z = _edge(z, a, grad, other_value, bottom, mean, near, slope)
        by_query += by_z
        by_vector += by_score[:, None] * _leaky(z, slope)
        other_grad = _rows(other_grads, away, near, wide, block_w)
        other_mean = tl.sum(other_grad * _rows(other_reads, away, near, wide, block_w), axis=1)
        other_bottom = tl.load(other_bottoms + away, mask=near, other=0.0)
        z = key + _rows(other_queries, away, near, width, block_k)
        weight, _, by_z = _edge(z, a, other_grad, value, other_bottom, other_mean, near, slope)
        if shared:
            by_key += by_z + weight[:, None] * other_grad
        else:
            by_key += by_z
            by_value += weight[:, None] * other_grad
    if not shared:
        _write(by_values, by_value, at, there, wide, block_w)
    _write(by_keys, by_key, at, there, width, block_k)
    _write(by_queries, by_query, at, there, width, block_k)
    return tl.sum(by_vector, axis=0)


@triton.jit
def backward_kernel(
    text_grads, speech_grads, text_reads, speech_reads, text_bottoms, speech_bottoms,
    text_keys, speech_keys, text_queries, speech_queries, text_values, speech_values, vector, first, past,
    by_text_keys, by_speech_keys, by_text_queries, by_speech_queries, by_text_values, by_speech_values, by_vector,
    rows_of_seed, text_blocks, blocks, tokens, frames,
    heads: tl.constexpr, width: tl.constexpr, wide: tl.constexpr, block_k: tl.constexpr, block_w: tl.constexpr,
    nodes: tl.constexpr, scan: tl.constexpr, slope: tl.constexpr, shared: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0) // blocks, tl.program_id(1)
    block = tl.program_id(0) % blocks
    column = tl.arange(0, block_k)
    at = (row // rows_of_seed * heads + head) * width + column
    a = tl.load(vector + at, mask=column < width, other=0.0).to(tl.float32)
    mine = (tl.program_id(0) * heads + head) * width + column
    if block < text_blocks:
        found = _derive(
            text_grads, text_reads, text_bottoms, text_keys, text_queries, text_values,
            speech_grads, speech_reads, speech_bottoms, speech_keys, speech_queries, speech_values,
            by_text_keys, by_text_queries, by_text_values, first, past, a, block, row, head,
            tokens, frames, tokens, frames,
            heads, width, wide, block_k, block_w, nodes, scan, slope, shared, True,
        )  # fmt: skip
        tl.store(by_vector + mine, found, mask=column < width)
    else:
        found = _derive(
            speech_grads, speech_reads, speech_bottoms, speech_keys, speech_queries, speech_values,
            text_grads, text_reads, text_bottoms, text_keys, text_queries, text_values,
            by_speech_keys, by_speech_queries, by_speech_values, first, past, a, block - text_blocks, row, head,
            frames, tokens, tokens, frames, heads, width, wide, block_k, block_w, nodes, scan, slope, shared, False,
        )  # fmt: skip
        tl.store(by_vector + mine, found, mask=column < width)


@triton.jit
def picture_kernel(
    speech_keys, text_queries, text_bottoms, vector, first, past, seen, rows_of_seed, blocks, tokens, frames,
    heads: tl.constexpr, width: tl.constexpr, block_k: tl.constexpr, nodes: tl.constexpr, slope: tl.constexpr,
):  # fmt: skip
    """How much of each frame a token reads, mean over the heads; what is no neighbour is not written."""
    row, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    node = block * nodes + tl.arange(0, nodes)
    there = node < tokens
    column = tl.arange(0, block_k)
    low, high = _neighbours(first, past, row, node, there, tokens, frames, True, 1)
    for step in range(0, tl.max(high - low, axis=0)):
        frame = low + step
        near = frame < high
        total = tl.zeros((nodes,), tl.float32)
        for head in range(heads):
            at = (row // rows_of_seed * heads + head) * width + column
            a = tl.load(vector + at, mask=column < width, other=0.0).to(tl.float32)
            own = (row * tokens + node).to(tl.int64) * heads + head
            away = (row * frames + frame).to(tl.int64) * heads + head
            z = _rows(speech_keys, away, near, width, block_k) + _rows(text_queries, own, near, width, block_k)
            bottom = tl.load(text_bottoms + own, mask=near, other=0.0)
            total += tl.exp(tl.sum(_leaky(z, slope) * a[None, :], axis=1) - bottom)
        tl.store(seen + (row * tokens + node).to(tl.int64) * frames + frame, total / heads, mask=near)
