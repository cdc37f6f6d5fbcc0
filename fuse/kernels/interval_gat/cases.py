"""Shapes on which interval attention is tested and measured, and what it is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from fuse.kernels.interval_gat import interval_gat, reference

TARGETS, COMPILED = ("padded", "real lengths"), ("dense mask",)
"""The cases that the targets are about, and the rivals that torch.compile is asked for on them."""
Inputs = tuple[Tensor | None, ...]
"""The arguments of `interval_gat`, in order; what can have a gradient asks for it."""


def hostile(device: torch.device, dtype: torch.dtype, seeds: int) -> Iterator[tuple[str, Inputs]]:
    """No token, no frame, one of each; intervals that are empty, overlap, cover all or lie outside; odd widths."""
    random = torch.Generator().manual_seed(0)
    for name, (rows, tokens, frames, heads, width, wide) in {
        "no token": (1, 0, 3, 2, 4, None),
        "no frame": (1, 3, 0, 2, 4, None),
        "one of each": (2, 1, 1, 1, 3, None),
        "odd sizes": (1, 17, 5, 2, 6, None),
        "separate values": (2, 5, 7, 2, 1, 5),
    }.items():
        first = torch.randint(-1, frames + 1, (seeds * rows, tokens), generator=random)
        past = first + torch.randint(-1, frames + 2, (seeds * rows, tokens), generator=random)
        yield name, _inputs(first, past, frames, heads, width, wide, device, dtype, seeds)
    # Two tokens read one frame, one reads all, one is empty between others: a row of two utterances, 4 + 3 frames.
    first, past = torch.tensor([[0, 0, 2, 2, 0, 4, 6]]), torch.tensor([[2, 2, 2, 4, 4, 7, 7]])
    first, past = first.expand(seeds, -1), past.expand(seeds, -1)
    yield "two utterances in a row", _inputs(first, past, 7, 1, 5, None, device, dtype, seeds)


def realistic(device: torch.device, dtype: torch.dtype, seeds: int) -> Iterator[tuple[str, Inputs]]:
    """Words one after another over all frames; subword tokens share the interval of their word."""
    random = torch.Generator().manual_seed(1)
    for name, ragged, wide in (("padded", False, None), ("real lengths", True, None), ("v1", True, 64)):
        tokens = torch.full((32 * seeds,), 128)
        frames = torch.full((32 * seeds,), 128)
        if ragged:
            seconds = (2.5 * torch.exp(0.75 * torch.randn(32 * seeds, generator=random))).clamp(0.3, 15)
            tokens = (4.5 * seconds).ceil().long().clamp(max=128) + 2
            frames = (50 * seconds).ceil().long().clamp(max=128)
        first, past = words(tokens, frames)
        yield name, _inputs(first, past, int(frames.max()), 4, 1 if wide else 64, wide, device, dtype, seeds)


def words(tokens: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Intervals of utterances whose first and last token have none and whose others share words in pairs."""
    place = torch.arange(int(tokens.max()))
    count = ((tokens - 1) // 2).clamp(min=1)[:, None]
    word = ((place[None] - 1) // 2).clamp(min=0)
    there = (place >= 1) & (place < tokens[:, None] - 1)
    first, past = (word * frames[:, None] // count, (word + 1) * frames[:, None] // count)
    return torch.where(there, first, 0), torch.where(there, torch.minimum(past, frames[:, None]), 0)


def _inputs(
    first: Tensor,
    past: Tensor,
    frames: int,
    heads: int,
    width: int,
    wide: int | None,
    device: torch.device,
    dtype: torch.dtype,
    seeds: int,
) -> Inputs:
    random = torch.Generator(device).manual_seed(2)  # of 16 seeds they are 200 million numbers

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=device).to(dtype).requires_grad_()

    rows, tokens = first.shape
    both = (tokens, frames)
    nodes = [drawn(rows, count, heads, width) for count in both * 2]
    values = [None if wide is None else drawn(rows, count, heads, wide) for count in both]
    return (*nodes, drawn(seeds, heads, width), first.to(device), past.to(device), *values)


def rivals() -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    """What does the same, with the same arguments: torch's operators over a list of edges, and under a dense mask."""
    return {"edges": edge_list, "dense mask": dense_mask}


def edge_list(
    text_keys: Tensor,
    speech_keys: Tensor,
    text_queries: Tensor,
    speech_queries: Tensor,
    vector: Tensor,
    first: Tensor,
    past: Tensor,
    text_values: Tensor | None = None,
    speech_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As graph libraries do it: gather, softmax by scatter, scatter. Waits for the device to count the edges."""
    nodes = reference.Nodes(text_keys, speech_keys, text_queries, speech_queries, text_values, speech_values)
    key, query, value = nodes.joined()
    (batch, tokens), frames = first.shape, speech_keys.shape[1]
    edges = reference.interval_edges(first, past, frames)
    everyone = torch.arange(len(key), device=key.device)
    source, target = torch.cat([edges.source, everyone]), torch.cat([edges.target, everyone])
    row = torch.where(
        everyone < batch * tokens, everyone // max(tokens, 1), (everyone - batch * tokens) // max(frames, 1)
    )
    a = vector.to(key.dtype)[row // (batch // len(vector))][target]
    scores = (F.leaky_relu(key[source] + query[target], reference.SLOPE) * a).sum(dim=-1)
    index = target[:, None].expand_as(scores)
    most = scores.new_full(key.shape[:2], -torch.inf).scatter_reduce(0, index, scores.detach(), "amax")
    weights = (scores - most[target]).exp()
    weights = weights / torch.zeros_like(most).index_add(0, target, weights)[target]
    read = torch.zeros_like(value).index_add(0, target, weights[..., None] * value[source]).to(text_keys.dtype)
    text, speech = read[: batch * tokens], read[batch * tokens :]
    return text.view(batch, tokens, *read.shape[1:]), speech.view(batch, frames, *read.shape[1:])


def dense_mask(
    text_keys: Tensor,
    speech_keys: Tensor,
    text_queries: Tensor,
    speech_queries: Tensor,
    vector: Tensor,
    first: Tensor,
    past: Tensor,
    text_values: Tensor | None = None,
    speech_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Every token with every frame under a mask: what torch.compile can fuse into few kernels, and a graph can hold."""
    text_values = text_keys if text_values is None else text_values
    speech_values = speech_keys if speech_values is None else speech_values
    a = vector.repeat_interleave(len(first) // len(vector), dim=0)[:, None]
    frame = torch.arange(speech_keys.shape[1], device=first.device)
    joined = ((frame >= first[..., None]) & (frame < past[..., None]))[..., None]

    def own(keys: Tensor, queries: Tensor) -> Tensor:
        return (F.leaky_relu(keys + queries, reference.SLOPE) * a).sum(dim=-1)[..., None]

    def others(keys: Tensor, queries: Tensor) -> Tensor:
        scores = (F.leaky_relu(keys + queries, reference.SLOPE) * a[:, None]).sum(dim=-1)
        return scores.masked_fill(~joined, -torch.inf)

    heard = others(speech_keys[:, None], text_queries[:, :, None]).permute(0, 1, 3, 2)
    said = others(text_keys[:, :, None], speech_queries[:, None]).permute(0, 2, 3, 1)
    by_text = torch.cat([own(text_keys, text_queries), heard], dim=-1).softmax(dim=-1)
    by_speech = torch.cat([own(speech_keys, speech_queries), said], dim=-1).softmax(dim=-1)
    text = by_text[..., :1] * text_values + torch.einsum("bmht,bthw->bmhw", by_text[..., 1:], speech_values)
    speech = by_speech[..., :1] * speech_values + torch.einsum("bthm,bmhw->bthw", by_speech[..., 1:], text_values)
    return text, speech


OPERATOR = interval_gat
"""What `cases` has arguments for."""
