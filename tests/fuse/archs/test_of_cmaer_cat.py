"""OF-CMAER-CAT's own promises: its equations in loops, every switch of Table 4, face crops, missing modalities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from refusing import captures
from torch import Tensor
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from fuse import model as door
from fuse.arch import Batch
from fuse.archs import of_cmaer_cat
from fuse.model import Model
from fuse.nn import face_crops

TARGET = Target(name="emotion", kind="classification", classes=("anger", "joy", "sadness"))
SENTIMENT = Target(name="sentiment", kind="regression", low=-3, high=3)
MULTILABEL = Target(name="emotions", kind="multilabel", classes=("anger", "joy"))
TAILS: dict[str, tuple[int, ...]] = {"vision": (5,), "speech": (6,), "text": (7,)}
CROPS: dict[str, tuple[int, ...]] = {"vision": (20, 16, 3), "text": (7,)}


def make(
    target: Target = TARGET, tails: dict[str, tuple[int, ...]] = TAILS, **changes: Any
) -> tuple[Model, of_cmaer_cat.OFCMAERCAT]:
    torch.manual_seed(0)
    network = of_cmaer_cat.build(of_cmaer_cat.Config(**{"d": 16, "steps": 4} | changes), tails, target)
    return Model.unscaled(network, tails).eval(), network


def make_batch(count: int = 5, frames: int = 9, tails: dict[str, tuple[int, ...]] = TAILS) -> Batch:
    random = torch.Generator().manual_seed(1)
    index = torch.arange(count)
    return Batch(
        ids=tuple(f"u{i}" for i in range(count)),
        sequences={m: torch.randn(count, frames, *tail, generator=random) for m, tail in tails.items()},
        lengths={m: torch.randint(1, frames + 1, (count,), generator=random) for m in tails},
        available=torch.ones(count, len(tails), dtype=torch.bool),
        target=index % 3,
        dialogue=index,
        position=torch.zeros_like(index),
    )


def without(batch: Batch, row: int, modality: str) -> Batch:
    available = batch.available.clone()
    available[row, list(batch.sequences).index(modality)] = False
    return batch.replace(available=available)


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    return [math.exp(s - top) / sum(math.exp(t - top) for t in scores) for s in scores]


def encode_alone(network: of_cmaer_cat.OFCMAERCAT, modality: str, x: Tensor) -> Tensor:
    """(1) of one utterance without padding, (T_i, d): the convolutions written as sums over the kernel."""
    first, second = network.encoders[modality].convolutions

    def convolve(layer: torch.nn.Conv1d, frames: Tensor) -> Tensor:
        out = []
        for t in range(len(frames)):
            value = layer.bias.clone()
            for k in range(3):
                if 0 <= t + k - 1 < len(frames):
                    value = value + layer.weight[:, :, k] @ frames[t + k - 1]
            out.append(value)
        return torch.stack(out)

    y = convolve(second, F.relu(convolve(first, x)))
    pool = network.pools[modality]
    return torch.stack([y[t : t + pool].mean(0) for t in range(0, len(y), pool)])


def by_hand(network: of_cmaer_cat.OFCMAERCAT, batch: Batch, row: int, attend: bool = True) -> dict[str, Any]:
    """(1-11) of one utterance with all three modalities, in loops."""
    names = network.modalities
    f = {m: encode_alone(network, m, batch.sequences[m][row, : batch.lengths[m][row]]) for m in names}
    pooled = {m: f[m].mean(0) for m in names}  # (2)
    aligned, alphas = {}, {}
    for i in names:
        read = torch.zeros_like(f[i])
        if attend and network.align is not None:
            align = network.align
            partners = [j for j in names if j != i]
            w_phi = align.compatibility.weight  # phi(u, v) = u W v with W the transpose of the linear map's weight
            alpha = softmax([(pooled[i] @ w_phi.T @ pooled[j]).item() for j in partners])  # (6)
            alphas[i] = dict(zip(partners, alpha, strict=True))
            for j, a in zip(partners, alpha, strict=True):
                for t in range(len(f[i])):
                    q = align.query.weight @ f[i][t]
                    scores = [(q @ (align.key.weight @ f[j][s])).item() / math.sqrt(16) for s in range(len(f[j]))]
                    for s, share in enumerate(softmax(scores)):
                        read[t] = read[t] + a * share * (align.value.weight @ f[j][s])  # (4-5)
            gate = torch.sigmoid(align.gates[i](torch.cat([f[i], read], -1)))
            read = gate * read
        aligned[i] = network.norms[i](f[i] + read)  # (7)
    scores = [0.0] * 3
    if network.weigh is not None:
        scores = [network.weigh(torch.cat([pooled[m], f[m].var(0, correction=0)])).item() for m in names]  # (8)
    weights = dict(zip(names, softmax(scores), strict=True))  # (9)
    return {"f": f, "pooled": pooled, "alpha": alphas, "aligned": aligned, "weights": weights}


@torch.no_grad()
def test_the_whole_model_is_its_equations_in_loops() -> None:
    model, network = make()
    batch = make_batch()
    output = model(batch)
    names = network.modalities
    for row in (0, 3):
        hand = by_hand(network, batch, row)
        z = {m: hand["weights"][m] * hand["aligned"][m].mean(0) for m in names}
        steps = []
        for s in range(4):
            shared = torch.zeros(16)
            for m in names:
                a = hand["aligned"][m]
                begin, end = s * len(a) // 4, -((-(s + 1) * len(a)) // 4)
                shared = shared + hand["weights"][m] * a[begin:end].mean(0)
            steps.append(shared + network.context.positions[s])
        x = torch.stack(steps)[None]
        for layer in network.context.layers:
            x = layer(x, x, x, None)[0]
        joined = F.layer_norm(
            torch.cat([x[0].mean(0), *z.values()]), (64,), network.project[0].weight, network.project[0].bias
        )
        h = F.relu(network.project[1](joined))  # (21)
        torch.testing.assert_close(output.logits[row], network.classify(h), rtol=1e-4, atol=1e-5)  # (22)
        for i, m in enumerate(names):
            assert output.drawn[f"weight_{m}"][row].item() == pytest.approx(hand["weights"][m], abs=1e-5)
            for j, other in enumerate(names):
                expected = hand["alpha"][m].get(other, 0.0)
                assert output.drawn["alpha"][row, i, j].item() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_without_the_transformer_the_head_reads_the_weighted_sum() -> None:
    model, network = make(transformer=False)
    batch = make_batch()
    hand = by_hand(network, batch, 1)
    z = [hand["weights"][m] * hand["aligned"][m].mean(0) for m in network.modalities]
    h = network.project(torch.cat([sum(z), *z])[None])  # (11)
    torch.testing.assert_close(model(batch).logits[1], network.classify(h)[0], rtol=1e-4, atol=1e-5)
    assert not [n for n, _ in network.named_parameters() if n.startswith("context")]


@torch.no_grad()
def test_without_alignment_no_modality_sees_another() -> None:
    model, network = make(cmaa=False, awom=False, transformer=False, contrastive=False)
    assert not [n for n, _ in network.named_parameters() if n.startswith(("align", "weigh", "context"))]
    batch = make_batch()
    hand = by_hand(network, batch, 2)
    z = [hand["aligned"][m].mean(0) / 3 for m in network.modalities]
    h = network.project(torch.cat([sum(z), *z])[None])
    torch.testing.assert_close(model(batch).logits[2], network.classify(h)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(batch).drawn["weights"], torch.full((5, 3), 1 / 3))


@pytest.mark.parametrize("gone", [None, "text"])
def test_contrast_runs_over_the_batch_and_over_what_is_there(gone: str | None) -> None:
    model, network = make(dropout=0.0)
    batch = make_batch()
    batch = without(batch, 2, gone) if gone else batch
    found = model.train()(batch).losses["contrastive"]
    total = 0.0
    with torch.no_grad():
        pooled = [by_hand(network, batch, row, attend=False)["pooled"] for row in range(5)]
    there = batch.available.tolist()
    names = network.modalities
    for n in range(5):
        partners = sum(there[n]) - 1
        for i, first in enumerate(names):
            for j, second in enumerate(names):
                if i == j or not (there[n][i] and there[n][j]):
                    continue
                similar = {
                    q: torch.cosine_similarity(pooled[n][first], pooled[q][second], dim=0).item() / 0.07
                    for q in range(5)
                    if there[q][j]
                }
                total -= (similar[n] - math.log(sum(math.exp(s) for s in similar.values()))) / partners
    assert found.item() == pytest.approx(0.1 * total / 5, rel=1e-4)


def test_the_batch_changes_the_contrast_and_never_the_logits() -> None:
    model, _ = make(dropout=0.0, classifier_dropout=0.0)
    batch = make_batch()
    other = batch.replace(sequences={m: torch.cat([x[:1], x[1:].flip(2)]) for m, x in batch.sequences.items()})
    first, second = model.train()(batch), model(other)
    torch.testing.assert_close(first.logits[0], second.logits[0])
    assert first.losses["contrastive"] != second.losses["contrastive"]


def test_a_batch_of_one_has_nothing_to_contrast() -> None:
    model, _ = make()
    batch = make_batch(count=1)
    losses = model.train()(batch).losses
    assert losses["contrastive"] == 0 and all(torch.isfinite(x) for x in losses.values())
    model, _ = make(contrastive=False)
    assert "contrastive" not in model.train()(batch).losses


def test_the_entropy_of_the_weights_is_rewarded_or_as_printed_punished() -> None:
    batch = make_batch()
    for weight in (0.01, -0.01):
        model, network = make(entropy_weight=weight, dropout=0.0)
        rewarded = model.train()(batch).losses["entropy"]
        with torch.no_grad():
            weights = [list(by_hand(network, batch, row, attend=False)["weights"].values()) for row in range(5)]
        entropy = sum(-sum(w * math.log(w + 1e-8) for w in row) for row in weights) / 5
        assert rewarded.item() == pytest.approx(-weight * entropy, rel=1e-4)
    assert "entropy" not in make(awom=False)[0].train()(batch).losses


def test_reconstruction_is_of_the_encoders_input_averaged_to_its_steps() -> None:
    model, network = make(dropout=0.0)
    batch = without(make_batch(), 1, "vision")
    found = model.train()(batch).losses["reconstruction"]
    modalities = []
    with torch.no_grad():
        complete = batch.available.all(1).tolist()
        for m in network.modalities:
            errors = []
            for row in range(5):
                if m == "vision" and not complete[row]:
                    continue
                x = batch.sequences[m][row, : batch.lengths[m][row]]
                pool = network.pools[m]
                wanted = torch.stack([x[t : t + pool].mean(0) for t in range(0, len(x), pool)])
                aligned = (
                    by_hand(network, batch, row)["aligned"] if complete[row] else aligned_pair(network, batch, row)
                )
                errors.append((network.decoders[m](aligned[m]) - wanted).square().mean())
            modalities.append(torch.stack(errors).mean())
    assert found.item() == pytest.approx(0.1 * torch.stack(modalities).mean().item(), rel=1e-4)
    assert not make(reconstruction_weight=0)[1].decoders


def aligned_pair(network: of_cmaer_cat.OFCMAERCAT, batch: Batch, row: int) -> dict[str, Tensor]:
    """F^a of an utterance without vision: speech and text have one partner each."""
    f = {m: encode_alone(network, m, batch.sequences[m][row, : batch.lengths[m][row]]) for m in ("speech", "text")}
    found = {}
    for i, j in (("speech", "text"), ("text", "speech")):
        align = network.align
        attention = (f[i] @ align.query.weight.T @ (f[j] @ align.key.weight.T).T / 4).softmax(-1)
        read = attention @ (f[j] @ align.value.weight.T)
        gate = torch.sigmoid(align.gates[i](torch.cat([f[i], read], -1)))
        found[i] = network.norms[i](f[i] + gate * read)
    return found


@torch.no_grad()
def test_a_missing_modality_takes_no_part() -> None:
    model, network = make(transformer=False)
    batch = without(make_batch(), 1, "vision")
    output = model(batch)
    assert output.drawn["weight_vision"][1] == 0
    torch.testing.assert_close(output.drawn["weights"].sum(1), torch.ones(5))
    assert (output.drawn["alpha"][1, 1:, 0] == 0).all() and (output.drawn["alpha"][1, 1, 2] == 1).all()
    assert (output.drawn["attention_text_vision"][1] == 0).all()
    z = [torch.zeros(16)]
    aligned = aligned_pair(network, batch, 1)
    scores = []
    for m in ("speech", "text"):
        x = encode_alone(network, m, batch.sequences[m][1, : batch.lengths[m][1]])
        scores.append(network.weigh(torch.cat([x.mean(0), x.var(0, correction=0)])).item())
    for m, w in zip(("speech", "text"), softmax(scores), strict=True):
        z.append(w * aligned[m].mean(0))
        assert output.drawn[f"weight_{m}"][1].item() == pytest.approx(w, abs=1e-5)
    logits = network.classify(network.project(torch.cat([sum(z), *z])[None]))[0]
    torch.testing.assert_close(output.logits[1], logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_modality_left_of_three_reads_nothing_in_the_others() -> None:
    model, _ = make()
    batch = without(without(make_batch(), 0, "speech"), 0, "vision")
    output = model(batch)
    assert output.drawn["weights"][0].tolist() == [0, 0, 1]
    assert not output.drawn["alpha"][0].any()
    assert torch.isfinite(output.logits).all()
    losses = model.train()(batch).losses
    assert all(torch.isfinite(x) for x in losses.values())


@pytest.mark.parametrize("names", [("vision",), ("text",), ("speech", "text"), ("vision", "speech", "text")])
@pytest.mark.parametrize("target", [TARGET, SENTIMENT, MULTILABEL], ids=lambda t: t.kind)
def test_any_subset_of_modalities_trains_every_parameter(names: tuple[str, ...], target: Target) -> None:
    model, network = make(target, {m: TAILS[m] for m in names})
    output = model.train()(make_batch())
    loss = output.logits.square().mean() + sum(output.losses.values())
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert (network.align is None) == (len(names) == 1)
    assert "contrastive" in output.losses or len(names) == 1


def test_the_ladder_of_table_4_adds_one_block_at_a_time() -> None:
    rows = of_cmaer_cat.TABLES[0].rows
    sizes = [sum(p.numel() for p in make(**row.settings)[1].parameters()) for row in rows]
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3] < sizes[4]
    losses = [set(make(**row.settings)[0].train()(make_batch()).losses) for row in rows]
    assert losses[1] == {"reconstruction"} and losses[2] == {"reconstruction", "entropy"}
    assert losses[3] == losses[4] == {"reconstruction", "entropy", "contrastive"}
    assert [row.paper[0] for row in rows] == [0.812, 0.869, 0.897, 0.918, 0.932]


def test_settings_that_change_nothing_are_put_back() -> None:
    config = of_cmaer_cat.Config(cmaa=False, awom=False, contrastive=False, transformer=False, speech_pool=2)
    alone = of_cmaer_cat.canonical(config, ("text",))
    assert alone == of_cmaer_cat.Config(transformer=False)
    assert of_cmaer_cat.canonical(config, ("speech", "text")) == config


def test_face_crops_are_read_from_their_middle_and_padding_is_invisible() -> None:
    model, _ = make(tails=CROPS)
    batch = make_batch(tails=CROPS)
    logits = model(batch).logits
    assert torch.equal(model(batch).logits, logits)
    pixels = batch.sequences["vision"].clone()
    pixels[:, :, 0], pixels[:, :, :, -1] = 99.0, 99.0  # the outermost pixels; 0.9 of 20 x 16 leaves one out each side
    pixels[torch.arange(9) >= batch.lengths["vision"][:, None]] = float("nan")
    torch.testing.assert_close(model(batch.replace(sequences={**batch.sequences, "vision": pixels})).logits, logits)
    pixels = batch.sequences["vision"].clone()
    pixels[0, 0, 9, 8] += 5.0
    other = model(batch.replace(sequences={**batch.sequences, "vision": pixels})).logits
    assert not torch.allclose(other[0], logits[0], atol=1e-6) and torch.equal(other[1:], logits[1:])
    nobody = batch.replace(available=torch.tensor([[False, True]]).expand(5, 2))
    assert torch.isfinite(model(nobody).logits).all()


def test_a_step_over_face_crops_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (face_crops, door):
        monkeypatch.setattr(module, "shapes_are_fixed", lambda x: True)  # as on a GPU
    (model, _), batch = make(tails=CROPS), make_batch(tails=CROPS)

    def step() -> None:
        output = model.train()(batch)
        F.cross_entropy(output.logits, batch.target).add(sum(output.losses.values())).backward()

    step()
    assert captures(step) > 100


def test_face_crops_train_every_parameter_with_augmentation() -> None:
    model, network = make(tails=CROPS, dropout=0.0, classifier_dropout=0.0)
    batch = make_batch(tails=CROPS)
    output = model.train()(batch)
    assert not torch.equal(model(batch).logits, output.logits)
    F.cross_entropy(output.logits, batch.target).add(sum(output.losses.values())).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert network.decoders["vision"].out_features == 8 * 8 * 3
    still, _ = make(tails=CROPS, dropout=0.0, classifier_dropout=0.0, crop=1.0, flip=0.0, illumination=0.0)
    torch.testing.assert_close(still.train()(batch).logits, still.eval()(batch).logits)


@pytest.mark.parametrize(
    ("tails", "changes", "message"),
    [
        ({"vision": (50, 8)}, {}, r"vision has \(50, 8\)"),
        ({"text": (4, 4, 3)}, {}, r"text has \(4, 4, 3\)"),
        (TAILS, {"heads": 3}, "3 heads do not divide d = 16"),
        (TAILS, {"kernel": 4}, "kernel = 4 has no middle"),
    ],
)
def test_what_cannot_be_built_is_said(tails: dict[str, tuple[int, ...]], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(tails=tails, **changes)
