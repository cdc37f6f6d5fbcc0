"""Interval attention against a dense masked adjacency and a loop over edges, and which frames a token has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fuse.kernels.interval_gat.reference import SLOPE, interval_edges
from fuse.nn.interval_gat import IntervalGAT, frames_within, interval_attention

B, M, T, H, K, W = 3, 5, 7, 2, 4, 3

Inputs = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor, Tensor, Tensor]


def inputs(seed: int = 0) -> Inputs:
    """Random nodes; intervals that are empty, overlap, or cover all."""
    random = torch.Generator().manual_seed(seed)

    def pair(width: int) -> tuple[Tensor, Tensor]:
        return tuple(  # type: ignore[return-value]
            torch.randn(B, n, H, width, generator=random, dtype=torch.float64, requires_grad=True) for n in (M, T)
        )

    vector = torch.randn(H, K, generator=random, dtype=torch.float64, requires_grad=True)
    first = torch.randint(0, T + 1, (B, M), generator=random)
    past = (first + torch.randint(-1, T, (B, M), generator=random)).clamp(max=T)
    first[0], past[0] = torch.tensor([0, 0, 2, 2, 7]), torch.tensor([0, 7, 5, 4, 7])
    first[2], past[2] = 3, 3
    return pair(K), pair(K), pair(W), vector, first, past


def adjacency(first: Tensor, past: Tensor) -> Tensor:
    """(B, M + T, M + T): whether a node, in rows, reads another."""
    frame = torch.arange(T)
    joined = (frame >= first[..., None]) & (frame < past[..., None])
    seen = torch.eye(M + T, dtype=torch.bool).expand(B, -1, -1).clone()
    seen[:, :M, M:] = joined
    seen[:, M:, :M] = joined.transpose(1, 2)
    return seen


def dense(keys: tuple, queries: tuple, values: tuple, vector: Tensor, first: Tensor, past: Tensor) -> Tensor:
    key, query, value = (torch.cat(sides, dim=1) for sides in (keys, queries, values))
    scores = torch.einsum("bijhk,hk->bhij", F.leaky_relu(key[:, None] + query[:, :, None], SLOPE), vector)
    scores = scores.masked_fill(~adjacency(first, past)[:, None], -torch.inf)
    return torch.einsum("bhij,bjhw->bihw", scores.softmax(dim=-1), value)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_attention_under_a_dense_mask(seed: int) -> None:
    given = inputs(seed)
    leaves = [t for part in given[:3] for t in part] + [given[3]]  # type: ignore[union-attr]
    read = interval_attention(*given)
    expected = dense(*given)
    torch.testing.assert_close(torch.cat(read[:2], dim=1), expected)
    weight = torch.randn_like(expected)
    mine = torch.autograd.grad((torch.cat(read[:2], dim=1) * weight).sum(), leaves)
    theirs = torch.autograd.grad((expected * weight).sum(), leaves)
    torch.testing.assert_close(mine, theirs)


def test_it_is_the_loop_over_the_edges() -> None:
    keys, queries, values, vector, first, past = inputs()
    texts, speeches, seen = interval_attention(keys, queries, values, vector, first, past)
    key, query, value = (torch.cat(sides, dim=1) for sides in (keys, queries, values))
    for b in range(B):
        neighbours = {i: [i] for i in range(M + T)}
        for i in range(M):
            for j in range(int(first[b, i]), int(past[b, i])):
                neighbours[i].append(M + j)
                neighbours[M + j].append(i)
        for h in range(H):
            for i, mine in neighbours.items():
                scores = [(F.leaky_relu(key[b, j, h] + query[b, i, h], SLOPE) * vector[h]).sum() for j in mine]
                alpha = torch.stack(scores).softmax(dim=0)
                read = sum((a * value[b, j, h] for a, j in zip(alpha, mine, strict=True)), torch.zeros(()))
                torch.testing.assert_close((texts[b, i] if i < M else speeches[b, i - M])[h], read)
        for i in range(M):
            assert (seen[b, i] > 0).tolist() == [int(first[b, i]) <= j < int(past[b, i]) for j in range(T)]


def test_nodes_without_neighbours_read_themselves() -> None:
    keys, queries, values, vector, first, past = inputs()
    texts, speeches, seen = interval_attention(keys, queries, values, vector, first, past)
    torch.testing.assert_close(texts[2], values[0][2])
    torch.testing.assert_close(speeches[2], values[1][2])
    assert not seen[2].any()
    nobody = [(text[:, :0], speech) for text, speech in (keys, queries, values)]
    texts, speeches, _ = interval_attention(nobody[0], nobody[1], nobody[2], vector, first[:, :0], past[:, :0])
    assert texts.shape == (B, 0, H, W)
    torch.testing.assert_close(speeches, values[1])


def test_scores_however_large_stay_finite() -> None:
    keys, queries, values, vector, first, past = inputs()
    read = interval_attention(tuple(1e6 * k for k in keys), queries, values, vector, first, past)  # type: ignore[arg-type]
    assert all(torch.isfinite(part).all() for part in read)


def test_gradients_are_those_of_finite_differences() -> None:
    keys, queries, values, vector, first, past = inputs()

    def run(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        text, speech, _ = interval_attention(leaves[:2], leaves[2:4], leaves[4:6], leaves[6], first, past)  # type: ignore[arg-type]
        return text, speech

    assert torch.autograd.gradcheck(run, (*keys, *queries, *values, vector), fast_mode=True)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_layer_is_its_equation(version: str) -> None:
    torch.manual_seed(0)
    layer = IntervalGAT(6, 2, version).double()  # type: ignore[arg-type]
    torch.nn.init.normal_(layer.bias)
    *_, first, past = inputs()
    text, speech = torch.randn(B, M, 6, dtype=torch.float64), torch.randn(B, T, 6, dtype=torch.float64)
    x = torch.cat([text, speech], dim=1)
    wx = (x @ layer.value.weight.T).unflatten(-1, (2, 3))
    if version == "v2":
        assert layer.query is not None
        wr = layer.query(x).unflatten(-1, (2, 3))
        scores = torch.einsum("bijhk,hk->bhij", F.leaky_relu(wx[:, None] + wr[:, :, None], SLOPE), layer.vector[0])
    else:
        pairs = torch.cat([wx[:, :, None].expand(-1, -1, M + T, -1, -1), wx[:, None].expand(-1, M + T, -1, -1, -1)], -1)
        a = torch.cat([layer.vector[0], layer.vector[1]], dim=-1)
        scores = F.leaky_relu(torch.einsum("bijhk,hk->bhij", pairs, a), SLOPE)
    alpha = scores.masked_fill(~adjacency(first, past)[:, None], -torch.inf).softmax(dim=-1)
    expected = torch.einsum("bhij,bjhw->bihw", alpha, wx).flatten(2) + layer.bias
    torch.testing.assert_close(torch.cat(layer(text, speech, first, past)[:2], dim=1), expected)


def test_an_attention_that_only_v2_can_have() -> None:
    """In v1 all queries rank their keys alike (Brody et al. 2022, theorem 1); in v2 they need not."""
    ranks = {}
    for version in ("v1", "v2"):
        torch.manual_seed(2)
        layer = IntervalGAT(8, 1, version)  # type: ignore[arg-type]
        first, past = torch.zeros(1, 6, dtype=torch.long), torch.full((1, 6), 4)
        *_, seen = layer(3 * torch.randn(1, 6, 8), 3 * torch.randn(1, 4, 8), first, past)
        ranks[version] = {tuple(row.argsort().tolist()) for row in seen[0]}
    assert len(ranks["v1"]) == 1 and len(ranks["v2"]) > 1


def test_a_token_has_the_frames_whose_time_lies_within() -> None:
    times = torch.tensor([[0.5, 1.5, 2.5, 3.5, 4.5], [0.5, 1.5, 2.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    lengths = torch.tensor([5, 3, 0])
    bounds = [[0.0, 2.0], [1.5, 2.5], [2.6, 3.4], [2.0, 99.0], [0.0, 5.0], [4.0, 1.0]]
    intervals = torch.tensor([bounds] * 3)
    there = torch.tensor([True, True, True, True, False, True]).expand(3, -1)
    first, past = frames_within(intervals, there, times, lengths)
    edges = {b: [[] for _ in bounds] for b in range(3)}
    for b, i, j in zip(*(e.tolist() for e in interval_edges(first, past, 5)[:3]), strict=True):
        edges[b][i].append(j)
    for b in range(3):
        for i, (start, end) in enumerate(bounds):
            inside = [j for j in range(int(lengths[b])) if start <= times[b, j] <= end and there[b, i]]
            assert edges[b][i] == inside
