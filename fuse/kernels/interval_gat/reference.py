"""Graph attention between tokens and the frames of their intervals in plain torch, forward and backward.

Edges are listed, once for each way; a node's edge to itself is not listed, since both of its ends are at hand.

Axes as in the package, and: N = B (M + T) nodes, tokens first, P pairs of a token and a frame, E = 2 P edges.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

SLOPE = 0.2
"""Of LeakyReLU for negative numbers (Velickovic et al. 2018, 2.1)."""


Pair = tuple[Tensor, Tensor]


class Nodes(NamedTuple):
    """Keys and queries of tokens (B, M, H, K) and of frames (B, T, H, K); values (B, M, H, W) and (B, T, H, W), None
    where they are the keys."""

    text_keys: Tensor
    speech_keys: Tensor
    text_queries: Tensor
    speech_queries: Tensor
    text_values: Tensor | None
    speech_values: Tensor | None

    def joined(self) -> tuple[Float[Tensor, "N H K"], Float[Tensor, "N H K"], Float[Tensor, "N H W"]]:
        """Keys, queries and values of all nodes, in float32 at least."""
        key, query = _join(self.text_keys, self.speech_keys), _join(self.text_queries, self.speech_queries)
        if self.text_values is None or self.speech_values is None:
            return key, query, key
        return key, query, _join(self.text_values, self.speech_values)


class Edges(NamedTuple):
    """Who reads whom.

    Attributes:
        utterance, token, frame: of each pair.
        source, target: the nodes read and reading: first the tokens that read frames, then the frames that read.
    """

    utterance: Int[Tensor, " P"]
    token: Int[Tensor, " P"]
    frame: Int[Tensor, " P"]
    source: Int[Tensor, " E"]
    target: Int[Tensor, " E"]


def interval_edges(first: Int[Tensor, "B M"], past: Int[Tensor, "B M"], frames: int) -> Edges:
    """The edges that the intervals mean; what lies outside of the frames is cut off."""
    batch, tokens = first.shape
    first, past = first.clamp(min=0).flatten(), past.clamp(max=frames).flatten()
    count = (past - first).clamp(min=0)
    node = torch.repeat_interleave(torch.arange(len(count), device=first.device), count)
    before = count.cumsum(dim=0) - count
    frame = (first - before)[node] + torch.arange(len(node), device=first.device)
    utterance = node // max(tokens, 1)
    heard = batch * tokens + utterance * frames + frame
    return Edges(utterance, node - utterance * tokens, frame, torch.cat([heard, node]), torch.cat([node, heard]))


def forward(
    nodes: Nodes, vector: Float[Tensor, "H K"], first: Int[Tensor, "B M"], past: Int[Tensor, "B M"], picture: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What tokens and frames read, the logarithms of their softmax's denominators, (B, M, H) and (B, T, H), and the
    mean weights (B, M, T), or (B, M, 0) without `picture`."""
    (batch, tokens), frames = first.shape, nodes.speech_keys.shape[1]
    key, query, value = nodes.joined()
    vector = vector.to(key.dtype)
    edges = interval_edges(first, past, frames)
    own = _score(key + query, vector)
    listed = _score(key.index_select(0, edges.source).add_(query.index_select(0, edges.target)), vector)
    most = own.scatter_reduce(0, edges.target[:, None].expand_as(listed), listed, "amax")
    own, listed = (own - most).exp_(), (listed - most[edges.target]).exp_()
    total = own.index_add(0, edges.target, listed)
    listed /= total[edges.target]
    read = (own / total)[..., None] * value
    read.index_add_(0, edges.target, value.index_select(0, edges.source).mul_(listed[..., None]))
    seen = own.new_zeros(batch, tokens, frames if picture else 0)
    if picture:
        seen.index_put_((edges.utterance, edges.token, edges.frame), listed[: len(edges.token)].mean(dim=1))
    kind = nodes.text_keys.dtype if nodes.text_values is None else nodes.text_values.dtype
    return *_apart(read.to(kind), first), *_apart(most + total.log_(), first), seen


def backward(
    grads: Pair, reads: Pair, bottoms: Pair, nodes: Nodes, vector: Float[Tensor, "H K"], first: Tensor, past: Tensor
) -> list[Tensor]:
    """Derivatives by keys and queries, by the vector, and by values where they are not the keys.

    Args:
        grads: derivatives by what tokens and frames read.
        reads: what they read.
        bottoms: the logarithms of their softmax's denominators.
        nodes, vector, first, past: as given to `forward`.
    """
    key, query, value = nodes.joined()
    grad, read, bottom = _join(*grads), _join(*reads), _join(*bottoms)
    source, target = interval_edges(first, past, nodes.speech_keys.shape[1])[3:]
    mean = (grad * read).sum(dim=-1)
    coming = grad.index_select(0, target)
    weights = vector.to(key.dtype)
    own, own_z, by_vector = _derive(key + query, grad, value, bottom, mean, weights)
    listed, listed_z, more = _derive(
        key.index_select(0, source).add_(query.index_select(0, target)),
        coming,
        value.index_select(0, source),
        bottom[target],
        mean[target],
        weights,
    )
    by_query = own_z.index_add(0, target, listed_z)
    by_key = own_z.index_add_(0, source, listed_z)
    by_value = (own[..., None] * grad).index_add_(0, source, coming.mul_(listed[..., None]))
    separate = [by_key.add_(by_value), by_query] if value is key else [by_key, by_query, by_value]
    kinds = [x.dtype for x in nodes[::2] if x is not None]
    found = [half for both, kind in zip(separate, kinds, strict=True) for half in _apart(both.to(kind), first)]
    return [*found[:4], (by_vector + more).to(vector.dtype), *found[4:]]


def _derive(
    z: Float[Tensor, "E H K"],
    grad: Float[Tensor, "E H W"],
    value: Float[Tensor, "E H W"],
    bottom: Float[Tensor, "E H"],
    mean: Float[Tensor, "E H"],
    vector: Float[Tensor, "H K"],
) -> tuple[Float[Tensor, "E H"], Float[Tensor, "E H K"], Float[Tensor, "H K"]]:
    """Of edges with key + query = z, whose targets have the other arguments: the weights, and what is to be added to
    the derivatives by z and by the vector. From Brody et al. 2022, equation 7, and the softmax's derivative."""
    leaky = F.leaky_relu_(z, SLOPE)
    weight = ((leaky * vector).sum(dim=-1) - bottom).exp_()
    by_score = weight * ((grad * value).sum(dim=-1) - mean)
    by_z = torch.ops.aten.leaky_relu_backward(by_score[..., None] * vector, leaky, SLOPE, True)
    return weight, by_z, leaky.mul_(by_score[..., None]).sum(dim=0)


def _score(z: Float[Tensor, "E H K"], vector: Float[Tensor, "H K"]) -> Float[Tensor, "E H"]:
    return (F.leaky_relu_(z, SLOPE) * vector).sum(dim=-1)


def _join(text: Float[Tensor, "B M *_"], speech: Float[Tensor, "B T *_"]) -> Float[Tensor, " N *_"]:
    """All nodes, in float32 at least."""
    both = torch.cat([text.flatten(0, 1), speech.flatten(0, 1)])
    return both if both.dtype == torch.float64 else both.float()


def _apart(x: Float[Tensor, " N *_"], first: Int[Tensor, "B M"]) -> tuple[Tensor, Tensor]:
    """Tokens and frames, neither of which shares memory with the other."""
    batch, tokens = first.shape
    text, speech = x[: batch * tokens].clone(), x[batch * tokens :].clone()
    frames = len(speech) // max(batch, 1)
    return text.view(batch, tokens, *x.shape[1:]), speech.view(batch, frames, *x.shape[1:])
