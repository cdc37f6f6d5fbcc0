"""MulT against torch's own multi-head attention and convolution."""

from __future__ import annotations

import math

import pytest
import torch
from batches import SOME_ABSENT, TAILS, batch, make, without_gradient
from torch import Tensor
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from fuse.baselines import mult

SMALL = {"d": 8, "heads": 2, "blocks": 2, "self_layers": 2}


def torch_attention(block: mult.Block) -> torch.nn.MultiheadAttention:
    """torch's attention with the weights of ours."""
    ours = block.attend
    theirs = torch.nn.MultiheadAttention(ours.query.weight.shape[1], ours.heads, batch_first=True).double().eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    return theirs


def norm(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), layer.weight, layer.bias)


def block_by_torch(block: mult.Block, z: Tensor, source: Tensor | None, padding: Tensor) -> Tensor:
    target = norm(block.norm_target, z)
    memory = target if source is None else norm(block.norm_source, source)  # type: ignore[arg-type]
    read, _ = torch_attention(block)(target, memory, memory, key_padding_mask=padding)
    between = norm(block.norm_between, read + target)
    return block.f(between) + between


def randomise(model: torch.nn.Module) -> None:
    """Every parameter away from its start: LayerNorms are not ones and zeros any more."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("crossmodal", [True, False])
def test_a_block_is_torchs_attention_with_residuals_over_layer_norms(crossmodal: bool) -> None:
    block = mult.Block(8, 2, dropout=0.2, crossmodal=crossmodal).double().eval()
    randomise(block)
    z, source = torch.randn(3, 5, 8).double(), torch.randn(3, 6, 8).double() if crossmodal else None
    frames = 6 if crossmodal else 5
    inside = torch.arange(frames) < torch.tensor([[frames], [2], [1]])
    out, weights = block(z, source, inside)
    torch.testing.assert_close(out, block_by_torch(block, z, source, ~inside))
    target = norm(block.norm_target, z)
    memory = target if source is None else norm(block.norm_source, source)  # type: ignore[arg-type]
    _, maps = torch_attention(block)(target, memory, memory, key_padding_mask=~inside, average_attn_weights=False)
    torch.testing.assert_close(weights, maps)


def test_the_whole_model_is_its_equations_of_each_utterance_by_itself() -> None:
    model, b = make(mult, **SMALL), batch(available=SOME_ABSENT)
    randomise(model)
    network = model.network
    assert isinstance(network, mult.MulT)
    logits = model(b).logits
    for row in range(5):
        there = {m: SOME_ABSENT[row][column] for column, m in enumerate(TAILS)}
        start = {}
        for m in TAILS:
            x = b.sequences[m][row, : int(b.lengths[m][row])].T if there[m] else torch.zeros(TAILS[m][0], 1).double()
            kernel = network.convolutions[m].weight
            x = F.conv1d(x[None], kernel, padding=kernel.shape[2] // 2)[0].T  # type: ignore
            start[m] = (x + sines(*x.shape))[None]
        last = []
        for a in TAILS:
            streams = []
            for source in TAILS:
                if source == a:
                    continue
                transformer, z = network.crossmodal[f"{source}_to_{a}"], start[a]
                for block in transformer.blocks:  # type: ignore[union-attr]
                    if there[source]:
                        z = block_by_torch(block, z, start[source], torch.zeros(1, start[source].shape[1]).bool())
                    else:
                        between = norm(block.norm_between, norm(block.norm_target, z))
                        z = block.f(between) + between
                streams.append(norm(transformer.norm, z))  # type: ignore[arg-type]
            z = torch.cat(streams, dim=2)
            for block in network.own[a].blocks:  # type: ignore[union-attr]
                z = block_by_torch(block, z, None, torch.zeros(1, z.shape[1]).bool())
            last.append(norm(network.own[a].norm, z)[0, -1] * there[a])  # type: ignore[arg-type]
        h = torch.cat(last)
        torch.testing.assert_close(logits[row], network.classifier(h + network.residual(h)))


def sines(frames: int, d: int) -> Tensor:
    table = torch.zeros(frames, d).double()
    for t in range(frames):
        for i in range(0, d, 2):
            table[t, i] = math.sin(t / 10000 ** (i / d))
            table[t, i + 1] = math.cos(t / 10000 ** (i / d))
    return table.float().double()


def test_drawn_attention_is_a_distribution_over_the_sources_own_frames() -> None:
    model, b = make(mult, **SMALL), batch(available=SOME_ABSENT)
    drawn = model(b).drawn
    assert set(drawn) == {f"attention_{s}_to_{a}" for a in TAILS for s in TAILS if s != a}
    maps = drawn["attention_speech_to_text"]
    assert maps.shape == (5, 7, 7)
    for row, there in enumerate(SOME_ABSENT):
        tokens, frames = int(b.lengths["text"][row]) * there[0], int(b.lengths["speech"][row])
        sums = torch.zeros(7).double()
        sums[:tokens] = float(there[1])
        torch.testing.assert_close(maps[row].sum(dim=1), sums)
        assert not maps[row, :, frames:].any()


def test_one_modality_alone_has_no_crossmodal_transformer() -> None:
    model = make(mult, tails={"speech": (4,)}, **SMALL)
    assert not len(model.network.crossmodal)  # type: ignore[arg-type]
    assert model(batch()).logits.shape == (5, 3) and model(batch()).drawn == {}


def test_every_parameter_learns_with_any_modalities() -> None:
    for modalities in (("vision",), ("text", "speech"), tuple(TAILS)):
        model = make(mult, tails={m: TAILS[m] for m in modalities}, **SMALL, dropout=0.0).train()
        loss = F.cross_entropy(model(batch()).logits, batch().target)  # type: ignore[arg-type]
        assert without_gradient(model, loss) == []


@pytest.mark.parametrize(("changes", "message"), [({"heads": 3}, "must divide d"), ({"text_kernel": 2}, "odd number")])
def test_settings_that_do_not_fit_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(mult, **changes)
