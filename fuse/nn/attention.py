"""Attention with heads of a width of their own, and additive attention pooling.

Axes: G sequences, Q queries, S keys, H heads, W width of a head, d model width.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from fuse.nn.fixed import shapes_are_fixed
from fuse.nn.twice import gradients
from fuse.precision import in_fp32

FEW = 16
"""Keys below which torch's attention for CPUs does not vectorise, nor its softmax over the last axis."""


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017, 3.2.2), the width of a head free of d and of the head count.

    The query, key and value maps have no bias (a key's bias would cancel in the softmax).

    Args:
        d: model width.
        heads: number of heads.
        head_width: width of a head.
        scale: what the products of queries and keys are multiplied by; None: 1 / sqrt(head_width).
    """

    def __init__(self, d: int, heads: int, head_width: int, scale: float | None = None) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.scale = head_width**-0.5 if scale is None else scale
        self.query = nn.Linear(d, heads * head_width, bias=False)
        self.key = nn.Linear(d, heads * head_width, bias=False)
        self.value = nn.Linear(d, heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, d)

    def forward(
        self,
        x: Float[Tensor, "G Q d"],
        memory: Float[Tensor, "G S d"],
        visible: Bool[Tensor, "#G #Q S"] | None = None,
    ) -> tuple[Float[Tensor, "G Q d"], Float[Tensor, "G H Q S"] | None]:
        """What each position of `x` reads from `memory`, and, after training, the attention weights.

        Args:
            x: where the queries come from.
            memory: where the keys and values come from.
            visible: which keys a query may see, at least one each; None: all.
        """
        q, k, v = (
            project(source).unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)
            for project, source in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        seen = None if visible is None else visible[:, None]
        read, weights = attention(q, k, v, seen, self.scale, not self.training)
        out: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return out, weights


@in_fp32
def attention(
    q: Float[Tensor, "G H Q W"],
    k: Float[Tensor, "G H S W"],
    v: Float[Tensor, "G H S W"],
    visible: Bool[Tensor, "_ _ _ S"] | None,
    scale: float,
    weighed: bool,
) -> tuple[Float[Tensor, "G H Q W"], Float[Tensor, "G H Q S"] | None]:
    """softmax(scale * q k') v, and the softmax if it is asked for. Without, a CPU does all of it in one pass."""
    if not weighed and not shapes_are_fixed(q):
        if k.shape[2] < FEW:
            q, k, v = (x.contiguous() for x in (q, k, v))
            read: Tensor = FewKeys.apply(q, k, v, visible, scale)  # type: ignore[no-untyped-call]
            return read, None
        return F.scaled_dot_product_attention(q, k, v, visible, scale=scale), None
    read, weights = in_steps(q, k, v, visible, scale)
    return read, weights if weighed else None


def in_steps(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale * q k') v, and the softmax, one operation after the other."""
    scores = (q * scale) @ k.transpose(-1, -2)
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


class FewKeys(torch.autograd.Function):
    """softmax(scale * q k') v and its gradients, a few operations over all heads of all sequences at once."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, scale: float) -> Tensor:
        """What `attention` reads."""
        weights = (q @ k.mT).mul_(scale)
        if visible is not None:
            weights.masked_fill_(~visible, float("-inf"))
        weights.sub_(weights.amax(dim=-1, keepdim=True)).exp_()
        weights /= weights.sum(dim=-1, keepdim=True)
        ctx.save_for_backward(q, k, v, visible, weights)
        ctx.scale = scale
        return weights @ v

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of q, k and v."""
        q, k, v, visible, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            needed = ctx.needs_input_grad[:3]
            return (
                *gradients(lambda q, k, v: in_steps(q, k, v, visible, ctx.scale)[0], (q, k, v), needed, gradient),
                None,
                None,
            )
        gradient = gradient.contiguous()
        of_weights = gradient @ v.mT
        of_scores = of_weights - (of_weights * weights).sum(dim=-1, keepdim=True)
        of_scores.mul_(weights).mul_(ctx.scale)
        return of_scores @ k, of_scores.mT @ q, weights.mT @ gradient, None, None


class AdditivePooling(nn.Module):
    """sum_s beta_s h_s with beta = softmax_s v . tanh(W h_s + U q) (Bahdanau et al. 2015).

    Args:
        d: model width.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.state = nn.Linear(d, d)
        self.query = nn.Linear(d, d, bias=False)
        self.score = nn.Linear(d, 1, bias=False)

    @in_fp32
    def forward(
        self,
        h: Float[Tensor, "G S d"],
        query: Float[Tensor, "G Q d"],
        visible: Bool[Tensor, "#G Q S"] | None = None,
    ) -> tuple[Float[Tensor, "G Q d"], Float[Tensor, "G Q S"]]:
        """The pooled states of each query, and the weights beta; `visible` says which states a query may see."""
        scores = self.score(torch.tanh(self.state(h)[:, None] + self.query(query)[:, :, None])).squeeze(-1)
        if visible is not None:
            scores = scores.masked_fill(~visible, float("-inf"))
        beta: Tensor = scores.softmax(dim=-1)
        return beta @ h, beta
