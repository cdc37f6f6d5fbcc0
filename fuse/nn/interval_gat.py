"""Graph attention between tokens and the frames that they last: a graph of two numbers per token.

Token i is joined to the frames first_i, ..., past_i - 1, both ways, and every node to itself. So the graph is stored
and handed on as two integers per token.

Axes: B utterances, M tokens, T frames, H heads, K numbers that an edge is scored by, W width of a head, d = H W.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fuse.kernels.interval_gat import interval_gat


def frames_within(
    intervals: Float[Tensor, "B M 2"],
    there: Bool[Tensor, "B M"],
    times: Float[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
) -> tuple[Int[Tensor, "B M"], Int[Tensor, "B M"]]:
    """The frames whose time lies within each token's [start, end]: the first, and the one past the last.

    Args:
        intervals: start and end of each token, in the unit of `times`.
        there: which tokens have an interval; the others have no frame.
        times: of the frames, ascending within each utterance.
        lengths: how many frames each utterance has.
    """
    frame = torch.arange(times.shape[1], device=times.device)
    times = times.masked_fill(frame >= lengths[:, None], torch.inf).contiguous()
    start, end = (bound.to(times.dtype).contiguous() for bound in intervals.unbind(dim=2))
    first = torch.searchsorted(times, start)
    past = torch.searchsorted(times, end, right=True)
    return first, torch.where(there, torch.maximum(first, past), first)


def interval_attention(
    keys: tuple[Float[Tensor, "B M H K"], Float[Tensor, "B T H K"]],
    queries: tuple[Float[Tensor, "B M H K"], Float[Tensor, "B T H K"]],
    values: tuple[Float[Tensor, "B M H W"], Float[Tensor, "B T H W"]],
    vector: Float[Tensor, "H K"],
    first: Int[Tensor, "B M"],
    past: Int[Tensor, "B M"],
    picture: bool = True,
) -> tuple[Float[Tensor, "B M H W"], Float[Tensor, "B T H W"], Float[Tensor, "B M T"] | None]:
    """What every node reads from its neighbours j and itself: sum_j alpha_ij value_j, where
    alpha_ij = softmax_j vector . LeakyReLU(key_j + query_i). Half floats are summed in float32.

    Args:
        keys, queries, values: of tokens and of frames; values that are the keys are named twice.
        vector: a of the paper, per head.
        first, past: the frames of token i are first_i <= j < past_i; none where past_i <= first_i.
        picture: whether it is asked how much of each frame a token reads.

    Returns:
        What tokens read, what frames read, and with `picture` how much of each frame a token reads, mean over the
        heads, without gradient.
    """
    texts, speeches = (None, None) if values is keys else values
    return interval_gat(*keys, *queries, vector[None], first, past, texts, speeches, picture)


class IntervalGAT(nn.Module):
    """A layer of graph attention over tokens and frames, heads concatenated.

    v2: e_ij = a . LeakyReLU(W_l x_j + W_r x_i), value W_l x_j (Brody et al. 2022, equation 7, with a bias).
    v1: e_ij = LeakyReLU(a . [W x_i ; W x_j]), value W x_j (Velickovic et al. 2018, equations 1-5).

    Args:
        d: width of a node, in and out.
        heads: attention heads, which share d.
        version: which attention.
    """

    def __init__(self, d: int, heads: int, version: Literal["v1", "v2"]) -> None:
        super().__init__()
        self.heads = heads
        self.value = nn.Linear(d, d, bias=False)
        self.query = nn.Linear(d, d) if version == "v2" else None
        self.vector = nn.Parameter(torch.empty(2 if version == "v1" else 1, heads, d // heads))
        self.bias = nn.Parameter(torch.zeros(d))
        nn.init.xavier_uniform_(self.vector)

    def forward(
        self,
        text: Float[Tensor, "B M d"],
        speech: Float[Tensor, "B T d"],
        first: Int[Tensor, "B M"],
        past: Int[Tensor, "B M"],
        picture: bool = True,
    ) -> tuple[Float[Tensor, "B M d"], Float[Tensor, "B T d"], Float[Tensor, "B M T"] | None]:
        """The layer's tokens and frames, and with `picture` how much of each frame a token reads."""
        values = self._split(self.value(text)), self._split(self.value(speech))
        if self.query is not None:
            queries = self._split(self.query(text)), self._split(self.query(speech))
            read = interval_attention(values, queries, values, self.vector[0], first, past, picture)
        else:
            of_target, of_source = self.vector
            keys, queries = (
                ((values[0] * a).sum(dim=-1, keepdim=True), (values[1] * a).sum(dim=-1, keepdim=True))
                for a in (of_source, of_target)
            )
            ones = values[0].new_ones(self.heads, 1)
            read = interval_attention((keys[0], keys[1]), queries, values, ones, first, past, picture)
        return read[0].flatten(2) + self.bias, read[1].flatten(2) + self.bias, read[2]

    def _split(self, x: Float[Tensor, "B T d"]) -> Float[Tensor, "B T H W"]:
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads)
