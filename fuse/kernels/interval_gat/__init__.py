"""Graph attention (GATv2) between tokens and the frames that they last, without a list of edges.

Token i is joined to the frames first_i, ..., past_i - 1, both ways, and every node to itself. A node's neighbours are
found from these two integers per token; nothing is summed by atomics, so that results are the same bit by bit from run
to run, and nothing waits for the device. Brody et al. 2022 (arXiv:2105.14491), equations 6 and 7; with keys of one
number it is the attention of Velickovic et al. 2018 (arXiv:1710.10903).

Several utterances may lie one after another in one row, without padding between them: positions are those in the row.

Under `torch.func.vmap` the mapped dimension becomes part of the seeds; gradients are taken outside of it.

Axes: S seeds, B rows (utterances) of all seeds together, those of a seed next to one another, M tokens, T frames,
H heads, K numbers that an edge is scored by, W width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fuse.kernels.dispatch import computed, kernel_runs, seeds_mapped, unfolded
from fuse.kernels.interval_gat import reference
from fuse.kernels.interval_gat.reference import Nodes

WIDEST = 512
"""K and W up to which there is a kernel: a node's numbers stay in the registers of its block."""


def interval_gat(
    text_keys: Float[Tensor, "B M H K"],
    speech_keys: Float[Tensor, "B T H K"],
    text_queries: Float[Tensor, "B M H K"],
    speech_queries: Float[Tensor, "B T H K"],
    vector: Float[Tensor, "S H K"],
    first: Int[Tensor, "B M"],
    past: Int[Tensor, "B M"],
    text_values: Float[Tensor, "B M H W"] | None = None,
    speech_values: Float[Tensor, "B T H W"] | None = None,
    picture: bool = False,
) -> tuple[Float[Tensor, "B M H W"], Float[Tensor, "B T H W"], Float[Tensor, "B M T"] | None]:
    """What every node reads from its neighbours j and itself: sum_j alpha_ij value_j, where
    alpha_ij = softmax_j vector . LeakyReLU(key_j + query_i), with slope 0.2.

    Args:
        text_keys, speech_keys, text_queries, speech_queries: of tokens and of frames.
        vector: a of the paper, per seed and head; rows b of seed b // (B / S).
        first, past: the frames of token i are first_i <= j < past_i; none where past_i <= first_i. What lies outside
            of 0, ..., T - 1 is cut off.
        text_values, speech_values: None where the values are the keys, as in GATv2.
        picture: whether it is asked how much of each frame a token reads.

    Returns:
        What tokens read, what frames read, and with `picture` how much of each frame a token reads, mean over the
        heads, without gradient.

    Raises:
        ValueError: the shapes do not fit together.
    """
    rows, tokens, heads, _ = text_keys.shape
    fits = (
        text_queries.shape == text_keys.shape
        and speech_queries.shape == speech_keys.shape
        and speech_keys.shape[::2] == (rows, heads)
        and vector.shape[1:] == text_keys.shape[2:] == speech_keys.shape[2:]
        and first.shape == past.shape == (rows, tokens)
        and (text_values is None) == (speech_values is None)
        and (text_values is None or text_values.shape[:3] == text_keys.shape[:3])
        and (speech_values is None or speech_values.shape[:3] == speech_keys.shape[:3])
    )
    if not fits or len(vector) == 0 or rows % len(vector):
        raise ValueError(
            f"interval_gat: keys {tuple(text_keys.shape)} and {tuple(speech_keys.shape)}, queries "
            f"{tuple(text_queries.shape)} and {tuple(speech_queries.shape)}, vector {tuple(vector.shape)}, intervals "
            f"{tuple(first.shape)} do not fit together."
        )
    nodes = text_keys, speech_keys, text_queries, speech_queries, text_values, speech_values
    text, speech, _, _, seen = _forward(*nodes, vector, first, past, picture)
    return text, speech, seen.detach() if picture else None


_INPUTS = (
    "Tensor text_keys, Tensor speech_keys, Tensor text_queries, Tensor speech_queries, "
    "Tensor? text_values, Tensor? speech_values, Tensor vector, Tensor first, Tensor past"
)
_OUTPUTS = (
    "Tensor text_grad, Tensor speech_grad, Tensor text_read, Tensor speech_read, "
    "Tensor text_bottom, Tensor speech_bottom"
)


@torch.library.custom_op(
    "mer::interval_gat",
    mutates_args=(),
    schema=f"({_INPUTS}, bool picture) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    *given, picture = inputs
    nodes, rest = Nodes(*given[:6]), (*given[6:], picture)

    def by_reference() -> tuple[Tensor, ...]:
        seeds = _seeds(given, len(given[6]))
        each = [reference.forward(Nodes(*mine[:6]), mine[6], mine[7], mine[8], picture) for mine in seeds]
        return each[0] if len(each) == 1 else tuple(map(torch.cat, zip(*each, strict=True)))

    runs = _kernel_runs(given)
    return computed("interval_gat", runs, given[0], lambda launch: launch.forward(nodes, *rest), by_reference)


@torch.library.custom_op("mer::interval_gat_backward", mutates_args=(), schema=f"({_OUTPUTS}, {_INPUTS}) -> Tensor[]")
def _backward(*inputs: Any) -> list[Tensor]:
    given = inputs[6:]
    kept, nodes = (inputs[:2], inputs[2:4], inputs[4:6]), Nodes(*given[:6])

    def by_reference() -> list[Tensor]:
        each = [
            reference.backward(mine[:2], mine[2:4], mine[4:6], Nodes(*mine[6:12]), *mine[12:])
            for mine in _seeds(inputs, len(given[6]))
        ]
        for found in each:
            found[4] = found[4][None]
        return each[0] if len(each) == 1 else list(map(torch.cat, zip(*each, strict=True)))

    runs = _kernel_runs(given)
    return computed(
        "interval_gat", runs, given[0], lambda launch: launch.backward(*kept, nodes, *given[6:]), by_reference
    )


def _seeds(inputs: Sequence[Tensor | None], seeds: int) -> list[tuple[Any, ...]]:
    """The inputs of each seed, of which the vector, third from the end, is a row."""
    parts: list[Any] = [(None,) * seeds if x is None else unfolded(x, seeds).unbind() for x in inputs]
    parts[-3] = [row.squeeze(0) for row in parts[-3]]
    return list(zip(*parts, strict=True))


def _kernel_runs(given: Sequence[Tensor | None]) -> bool:
    there = [x for x in given if x is not None]
    return max(there[0].shape[-1], there[-4].shape[-1]) <= WIDEST and kernel_runs("interval_gat", *there)


@_forward.register_fake
def _(*inputs: Any) -> tuple[Tensor, ...]:
    text, speech = inputs[:2] if inputs[4] is None else inputs[4:6]
    wide = torch.promote_types(text.dtype, torch.float32)
    shapes = text.shape[:3], speech.shape[:3], (*text.shape[:2], speech.shape[1] if inputs[-1] else 0)
    return torch.empty_like(text), torch.empty_like(speech), *(text.new_empty(s, dtype=wide) for s in shapes)


@_backward.register_fake
def _(*inputs: Any) -> list[Tensor]:
    keys, values, vector = inputs[6:10], inputs[10:12], inputs[12]
    return [torch.empty_like(x) for x in (*keys, vector, *values) if x is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[:4], *inputs[:9])
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)


def _derive(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    kept = ctx.saved_tensors
    outer = [torch.zeros_like(read) if grad is None else grad for grad, read in zip(grads, kept[:2], strict=False)]
    found = [*_backward(*outer, *kept), None, None]
    return *found[:4], *found[5:7], found[4], None, None, None


for _op in (_forward, _backward):
    _op.register_vmap(seeds_mapped(_op))
_forward.register_autograd(_derive, setup_context=_keep)
