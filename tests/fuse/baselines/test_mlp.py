"""The MLP's graph attention against every pair of nodes, masked by the edges."""

from __future__ import annotations

import pytest
import torch
from batches import CLASSES, TAILS, batch, make, without_gradient
from torch import Tensor
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from fuse.arch import Batch
from fuse.baselines import mlp

SMALL = {"d": 8, "heads": 2, "hidden": 6}


def with_intervals() -> Batch:
    """Token i lasts from frame i up to frame i + 2, the first and the last token have no interval."""
    b = batch()
    start = torch.arange(7).double().expand(5, -1)
    place, length = torch.arange(7), b.lengths["text"][:, None]
    there = (place > 0) & (place < length - 1)
    return b.replace(
        companions={"intervals": torch.stack([start, start + 2], 2)}, companions_there={"intervals": there}
    )


def densely(network: mlp.MLP, text: Tensor, speech: Tensor, joined: Tensor) -> Tensor:
    """The logits of one utterance, of its tokens (M, D), its frames (T, D) and which of them are joined (M, T)."""
    nodes = torch.cat([network.project["text"](text), network.project["speech"](speech)])
    edges = torch.eye(len(nodes), dtype=torch.bool)
    edges[: len(text), len(text) :] = joined
    edges[len(text) :, : len(text)] = joined.T
    for number, layer in enumerate(network.gat):
        x = F.elu(nodes) if number else nodes
        keys, queries = layer.value(x).view(-1, 2, 4), layer.query(x).view(-1, 2, 4)  # type: ignore
        pairs = F.leaky_relu(keys[None] + queries[:, None], 0.2)
        scores = (pairs * layer.vector[0]).sum(-1).masked_fill(~edges[..., None], -torch.inf)  # type: ignore
        nodes = torch.einsum("ijh,jhw->ihw", scores.softmax(dim=1), keys).flatten(1) + layer.bias
    return network.perceptron(nodes.mean(dim=0))


@pytest.mark.parametrize("joined", [True, False])
def test_it_is_dense_attention_masked_by_the_edges(joined: bool) -> None:
    model, b = make(mlp, **SMALL), with_intervals()
    b = b if joined else b.replace(companions={}, companions_there={})
    network = model.network
    assert isinstance(network, mlp.MLP)
    logits, edges = model(b).logits, 0
    for row in range(5):
        tokens, frames = int(b.lengths["text"][row]), int(b.lengths["speech"][row])
        middle = torch.arange(frames) + 0.5
        token = torch.arange(tokens)[:, None]
        pairs = (middle >= token) & (middle <= token + 2) & (token > 0) & (token < tokens - 1) & joined
        edges += int(pairs.sum())
        text, speech = b.sequences["text"][row, :tokens], b.sequences["speech"][row, :frames]
        torch.testing.assert_close(logits[row], densely(network, text, speech, pairs))
    assert (edges > 0) == joined


def test_shifting_one_interval_changes_the_logits_of_its_utterance() -> None:
    model, b = make(mlp, **SMALL), with_intervals()
    row = int((b.companions_there["intervals"].any(dim=1) & (b.lengths["speech"] > 4)).nonzero()[0])
    token = int(b.companions_there["intervals"][row].nonzero()[0])
    moved = b.companions["intervals"].clone()
    moved[row, token] += 1
    before, after = model(b).logits, model(b.replace(companions={"intervals": moved})).logits
    assert not torch.allclose(before[row], after[row])
    assert torch.equal(before[torch.arange(5) != row], after[torch.arange(5) != row])


def test_one_modality_is_enough_and_every_parameter_learns() -> None:
    for modalities in (("text",), ("speech",), ("text", "speech")):
        model = make(mlp, tails={m: TAILS[m] for m in modalities}, **SMALL, dropout=0.0).train()
        b = with_intervals()
        left = without_gradient(model, F.cross_entropy(model(b).logits, b.target))  # type: ignore[arg-type]
        # A node that reads itself alone has one score, whatever it is: only joined nodes train the attention.
        alone = len(modalities) == 1
        assert [n for n in left if not (alone and ("query" in n or "vector" in n))] == []


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(SettingsError, match="must divide d"):
        make(mlp, CLASSES, d=10, heads=4)
