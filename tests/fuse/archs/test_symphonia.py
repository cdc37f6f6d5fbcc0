"""SYMPHONIA's own promises: its equations in loops, every switch of Table 5, landmarks, missing modalities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from refusing import captures
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from fuse import model as door
from fuse.arch import Batch
from fuse.archs import symphonia
from fuse.model import Model
from fuse.nn import recurrent
from fuse.nn.landmarks import BROWS, EYES, MOUTH

TARGET = Target(name="emotion", kind="classification", classes=("anger", "joy", "sadness"))
SENTIMENT = Target(name="sentiment", kind="regression", low=-3, high=3)
MULTILABEL = Target(name="emotions", kind="multilabel", classes=("anger", "joy"))
TAILS: dict[str, tuple[int, ...]] = {"vision": (5, 6), "text": (7,)}
FLAT: dict[str, tuple[int, ...]] = {"vision": (6,), "text": (7,)}
D, SIDE = 8, 2 * 3


def make(
    target: Target = TARGET, tails: dict[str, tuple[int, ...]] = TAILS, **changes: Any
) -> tuple[Model, symphonia.Symphonia]:
    torch.manual_seed(0)
    small = {"d": D, "graph_heads": 2, "heads": 2, "tokens": 3, "heatmap_scale": 3, "dropout": 0.0}
    network = symphonia.build(symphonia.Config(**{**small, **changes}), tails, target)
    return Model.unscaled(network, tails).eval(), network


def make_batch(count: int = 5, frames: int = 7, tails: dict[str, tuple[int, ...]] = TAILS) -> Batch:
    random = torch.Generator().manual_seed(1)
    index = torch.arange(count)
    lengths = {m: torch.randint(min(2, frames), frames + 1, (count,), generator=random) for m in tails}
    return Batch(
        ids=tuple(f"u{i}" for i in range(count)),
        sequences={m: torch.randn(count, frames, *tail, generator=random) for m, tail in tails.items()},
        lengths=lengths,
        available=torch.ones(count, len(tails), dtype=torch.bool),
        target=index % 3,
        dialogue=index,
        position=torch.zeros_like(index),
        companions={"landmarks": 1.2 * torch.rand(count, frames, 478, 3, generator=random) - 0.1},
        companions_there={"landmarks": torch.rand(count, frames, generator=random) < 0.7},
    )


def without(batch: Batch, row: int, modality: str) -> Batch:
    available = batch.available.clone()
    available[row, list(batch.sequences).index(modality)] = False
    return batch.replace(available=available)


def softmax(scores: list[Tensor]) -> list[float]:
    return torch.stack(scores).flatten().softmax(0).tolist()


def mask_by_hand(network: symphonia.Symphonia, batch: Batch, row: int, t: int) -> list[float]:
    """(5-6) of one frame: heatmap, convolution and pooling pixel by pixel."""
    heat = [[0.0] * SIDE for _ in range(SIDE)]
    if batch.companions_there["landmarks"][row, t]:
        for p in (*EYES, *BROWS, *MOUTH):
            x, y, _ = batch.companions["landmarks"][row, t, p].tolist()
            if 0 <= x < 1 and 0 <= y < 1:
                heat[int(y * SIDE)][int(x * SIDE)] = 1.0
    weight, bias = network.mask.convolution.weight[0, 0].tolist(), network.mask.convolution.bias.item()
    pooled = []
    for row_of_patch in range(2):
        for column_of_patch in range(2):
            total = 0.0
            for r in range(3 * row_of_patch, 3 * row_of_patch + 3):
                for c in range(3 * column_of_patch, 3 * column_of_patch + 3):
                    value = bias
                    for i in range(5):
                        for j in range(5):
                            if 0 <= r + i - 2 < SIDE and 0 <= c + j - 2 < SIDE:
                                value += weight[i][j] * heat[r + i - 2][c + j - 2]
                    total += 1 / (1 + math.exp(-value))
            pooled.append(total / 9)
    return pooled


def lstm_by_hand(lstm: nn.LSTM, xs: list[Tensor]) -> list[Tensor]:
    """(8-13); torch keeps the gates in the order i, f, C, o and b in two parts."""
    h, c, states = torch.zeros(D), torch.zeros(D), []
    for x in xs:
        gates = lstm.weight_ih_l0 @ x + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
        i, f, candidate, o = (gates[k * D : (k + 1) * D] for k in range(4))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return states


def face_by_hand(network: symphonia.Symphonia, batch: Batch, row: int) -> list[Tensor]:
    xs = []
    for t in range(int(batch.lengths["vision"][row])):
        frame = batch.sequences["vision"][row, t]
        a = mask_by_hand(network, batch, row, t)
        patches = sum(a[i] * frame[1 + i] for i in range(4)) / sum(a)
        xs.append(network.face.project(torch.cat([frame[0], patches])))  # (7)
    return lstm_by_hand(network.face.lstm.lstm, xs)


def text_by_hand(network: symphonia.Symphonia, e: Tensor, window: int = 99) -> tuple[list[Tensor], Tensor]:
    """(15-18) of tokens without padding."""
    branch, nodes = network.text, []
    q, k, v = (m.weight for m in (branch.query, branch.key, branch.value))
    for i in range(len(e)):
        total = torch.zeros(D)
        neighbours = [j for j in range(len(e)) if abs(i - j) <= window]
        for head in range(2):
            rows = slice(head * D // 2, (head + 1) * D // 2)
            alpha = softmax([(q[rows] @ e[i]) @ (k[rows] @ e[j]) / math.sqrt(D / 2) for j in neighbours])  # (15)
            for a, j in zip(alpha, neighbours, strict=True):
                total = total + a * (v[head * D : (head + 1) * D] @ e[j]) / 2
        nodes.append(F.elu(total))  # (17)
    beta = softmax([branch.salience(node) for node in nodes])
    return nodes, sum(b * node for b, node in zip(beta, nodes, strict=True))  # (18)


def attend_by_hand(pooling: nn.Module, elements: list[Tensor], query: Tensor) -> Tensor:
    """(19-21)."""
    u = [torch.tanh(pooling.state(x) + pooling.query.weight @ query) for x in elements]
    gamma = softmax([pooling.score.weight[0] @ each for each in u])
    return sum(g * x for g, x in zip(gamma, elements, strict=True))


def gated_by_hand(gate: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """(22-23), (24-25)."""
    g = torch.sigmoid(gate.gate.weight @ torch.cat([a, b]) + gate.gate.bias)
    return g * (gate.first.weight @ a) + (1 - g) * (gate.second.weight @ b)


def levels_by_hand(network: symphonia.Symphonia, levels: list[Tensor]) -> tuple[Tensor, list[float]]:
    """(28-30)."""
    fuse = network.fuse
    alpha = softmax([fuse.score(torch.tanh(fuse.state(f))) + fuse.prior[i] for i, f in enumerate(levels)])
    return sum(a * f for a, f in zip(alpha, levels, strict=True)), alpha


def head_by_hand(network: symphonia.Symphonia, f_high: Tensor) -> Tensor:
    """(32-38) with torch's own encoder layer."""
    head = network.head
    rows = head.project.weight.view(3, D, D)
    z = torch.stack([rows[i] @ f_high + head.project.bias[i * D : (i + 1) * D] + head.positions[i] for i in range(3)])
    for layer in head.layers:
        own = nn.TransformerEncoderLayer(D, 2, 4 * D, 0.0, batch_first=True)
        own.self_attn.in_proj_weight.copy_(
            torch.cat([layer.attend.query.weight, layer.attend.key.weight, layer.attend.value.weight])
        )
        own.self_attn.in_proj_bias.zero_()
        own.self_attn.out_proj.load_state_dict(layer.attend.out.state_dict())
        own.linear1.load_state_dict(layer.feed_forward[0].state_dict())
        own.linear2.load_state_dict(layer.feed_forward[2].state_dict())
        own.norm1.load_state_dict(layer.norm_attention.state_dict())
        own.norm2.load_state_dict(layer.norm_feed_forward.state_dict())
        z = own(z[None])[0]
    return head.classify(z.mean(0))


def tokens_of(batch: Batch, row: int) -> Tensor:
    return batch.sequences["text"][row, : batch.lengths["text"][row]]


@torch.no_grad()
def test_the_whole_model_is_its_equations_in_loops() -> None:
    model, network = make()
    nn.init.normal_(network.fuse.prior)
    batch = make_batch()
    output = model(batch)
    for row in (0, 3):
        states = face_by_hand(network, batch, row)
        nodes, e_final = text_by_hand(network, tokens_of(batch, row))
        c_ft = attend_by_hand(network.attend.to_text, nodes, states[-1])
        c_tf = attend_by_hand(network.attend.to_face, states, e_final)
        f_fusion = gated_by_hand(network.attend.gate, c_ft, c_tf)
        f_low = gated_by_hand(network.fuse.low, states[-1], e_final)
        f_high, alpha = levels_by_hand(network, [f_low, (c_ft + c_tf) / 2, f_fusion])
        torch.testing.assert_close(output.drawn["c_ft"][row], c_ft, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.drawn["c_tf"][row], c_tf, rtol=1e-4, atol=1e-5)
        assert output.drawn["levels"][row].tolist() == pytest.approx(alpha, abs=1e-5)
        assert output.drawn["level_mid"][row].item() == pytest.approx(alpha[1], abs=1e-5)
        torch.testing.assert_close(output.logits[row], head_by_hand(network, f_high), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_utterance_without_text_or_face_has_the_others_part_alone() -> None:
    model, network = make()
    batch = without(without(make_batch(), 1, "text"), 2, "vision")
    output = model(batch)
    states = face_by_hand(network, batch, 1)
    c_tf = attend_by_hand(network.attend.to_face, states, torch.zeros(D))
    levels = [network.fuse.low.first(states[-1]), c_tf, network.attend.gate.second(c_tf)]
    f_high, _ = levels_by_hand(network, levels)
    torch.testing.assert_close(output.logits[1], head_by_hand(network, f_high), rtol=1e-4, atol=1e-5)
    assert not output.drawn["c_ft"][1].any() and not output.drawn["gamma_text"][1].any()

    nodes, e_final = text_by_hand(network, tokens_of(batch, 2))
    c_ft = attend_by_hand(network.attend.to_text, nodes, torch.zeros(D))
    levels = [network.fuse.low.second(e_final), c_ft, network.attend.gate.first(c_ft)]
    f_high, _ = levels_by_hand(network, levels)
    torch.testing.assert_close(output.logits[2], head_by_hand(network, f_high), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_dynamic_attention_the_summaries_stand_side_by_side() -> None:
    model, network = make(dynamic_attention=False)
    batch = make_batch()
    h, (_, e) = face_by_hand(network, batch, 0)[-1], text_by_hand(network, tokens_of(batch, 0))
    f_fusion = network.attend.join.weight @ torch.cat([h, e]) + network.attend.join.bias
    f_high, _ = levels_by_hand(network, [gated_by_hand(network.fuse.low, h, e), (h + e) / 2, f_fusion])
    output = model(batch)
    torch.testing.assert_close(output.logits[0], head_by_hand(network, f_high), rtol=1e-4, atol=1e-5)
    assert not [n for n, _ in network.named_parameters() if "to_text" in n or "to_face" in n]
    assert "gamma_text" not in output.drawn
    found = model.train()(batch).losses["contrastive"]
    assert found.item() == pytest.approx(contrast_by_hand(output.drawn["text"], output.drawn["face"]), rel=1e-4)


@torch.no_grad()
def test_without_hierarchical_fusion_f_high_is_f_fusion() -> None:
    model, network = make(hierarchical=False)
    batch = make_batch()
    states, (nodes, e) = face_by_hand(network, batch, 4), text_by_hand(network, tokens_of(batch, 4))
    c_ft = attend_by_hand(network.attend.to_text, nodes, states[-1])
    c_tf = attend_by_hand(network.attend.to_face, states, e)
    f_fusion = gated_by_hand(network.attend.gate, c_ft, c_tf)
    output = model(batch)
    torch.testing.assert_close(output.logits[4], head_by_hand(network, f_fusion), rtol=1e-4, atol=1e-5)
    assert network.fuse is None and "levels" not in output.drawn
    assert model.train()(batch).losses == {}


@torch.no_grad()
def test_one_branch_alone_is_its_embedding_and_the_head() -> None:
    batch = make_batch()
    model, network = make(tails={"vision": TAILS["vision"]})
    h = face_by_hand(network, batch, 0)[-1]
    torch.testing.assert_close(model(batch).logits[0], head_by_hand(network, h), rtol=1e-4, atol=1e-5)
    model, network = make(tails={"text": TAILS["text"]})
    _, e = text_by_hand(network, tokens_of(batch, 0))
    torch.testing.assert_close(model(batch).logits[0], head_by_hand(network, e), rtol=1e-4, atol=1e-5)
    assert network.companions == {} and network.attend is None and network.fuse is None


def contrast_by_hand(anchors: Tensor, candidates: Tensor) -> float:
    """(26) times lambda, of the utterances given."""
    total = 0.0
    for n in range(len(anchors)):
        similar = [F.cosine_similarity(anchors[n], c, dim=0).item() / 0.07 for c in candidates]
        total -= similar[n] - math.log(sum(math.exp(s) for s in similar))
    return 0.1 * total / len(anchors)


def test_contrast_is_among_the_utterances_with_both_modalities() -> None:
    model, _ = make()
    batch = make_batch()
    for row in (None, 2):
        chosen = batch if row is None else without(batch, row, "vision")
        drawn = model.eval()(chosen).drawn
        rows = [i for i in range(5) if i != row]
        found = model.train()(chosen).losses["contrastive"]
        assert found.item() == pytest.approx(contrast_by_hand(drawn["c_ft"][rows], drawn["c_tf"][rows]), rel=1e-4)


def test_the_batch_changes_the_contrast_and_never_the_logits() -> None:
    model, _ = make()
    batch = make_batch()
    other = batch.replace(sequences={m: torch.cat([x[:1], x[1:].flip(-1)]) for m, x in batch.sequences.items()})
    first, second = model.train()(batch), model(other)
    torch.testing.assert_close(first.logits[0], second.logits[0])
    assert first.losses["contrastive"] != second.losses["contrastive"]


@pytest.mark.parametrize("gone", [None, "vision", "text"])
def test_a_batch_of_one_has_nothing_to_contrast(gone: str | None) -> None:
    model, _ = make()
    batch = make_batch(count=1)
    output = model.train()(without(batch, 0, gone) if gone else batch)
    assert output.losses["contrastive"] == 0
    (output.logits.sum() + output.losses["contrastive"]).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def move(batch: Batch, points: tuple[int, ...]) -> Batch:
    landmarks = batch.companions["landmarks"].clone()
    landmarks[0, 1, list(points)] = 0.95
    there = batch.companions_there["landmarks"].clone()
    there[:, :2] = True
    return batch.replace(companions={"landmarks": landmarks}, companions_there={"landmarks": there})


def test_eyes_brows_and_mouth_matter_and_nothing_else_of_a_face() -> None:
    model, _ = make()
    batch = make_batch()
    plain = model(move(batch, ())).logits
    others = tuple(sorted(set(range(478)) - {*EYES, *BROWS, *MOUTH}))
    assert torch.equal(model(move(batch, others)).logits, plain)
    for group in (EYES, BROWS, MOUTH):
        logits = model(move(move(batch, ()), group)).logits
        assert not torch.equal(logits[0], plain[0]) and torch.equal(logits[1:], plain[1:])


def test_without_landmarks_the_patches_weigh_alike() -> None:
    model, network = make()
    batch = make_batch().replace(companions={}, companions_there={})
    mask = model(batch).drawn["mask"]
    inside = torch.arange(7) < batch.lengths["vision"][:, None]
    torch.testing.assert_close(mask, torch.sigmoid(network.mask.convolution.bias) * inside[..., None].expand(5, 7, 4))
    frames = batch.sequences["vision"]
    mean = torch.cat([frames[:, :, :1], frames[:, :, 1:].mean(2, keepdim=True).expand(5, 7, 4, 6)], dim=2)
    alike = batch.replace(sequences={**batch.sequences, "vision": mean})
    torch.testing.assert_close(model(alike).logits, model(batch).logits)


def test_landmarks_off_reads_the_class_token_alone() -> None:
    batch = make_batch()
    off, network = make(landmarks=False)
    assert network.companions == {} and network.mask is None
    noise = torch.cat([batch.sequences["vision"][:, :, :1], torch.randn(5, 7, 4, 6)], dim=2)
    noisy = batch.replace(sequences={**batch.sequences, "vision": noise})
    assert torch.equal(off(noisy).logits, off(batch).logits)
    flat, _ = make(tails=FLAT)
    tokens = batch.replace(sequences={**batch.sequences, "vision": batch.sequences["vision"][:, :, 0]})
    assert torch.equal(flat(tokens).logits, off(batch).logits)
    assert "mask" not in off(batch).drawn


@torch.no_grad()
def test_a_window_limits_who_is_a_neighbour() -> None:
    model, network = make(window=1)
    batch = make_batch()
    nodes, _, drawn = network.text(batch.sequences["text"], batch.lengths["text"])
    by_hand, _ = text_by_hand(network, tokens_of(batch, 0), window=1)
    torch.testing.assert_close(nodes[0, : len(by_hand)], torch.stack(by_hand), rtol=1e-4, atol=1e-5)
    place = torch.arange(7)
    assert (drawn["graph"][:, (place - place[:, None]).abs() > 1] == 0).all()
    turned = batch.sequences["text"].clone()
    row = int(batch.lengths["text"].argmax())
    turned[row, [0, 2]] = turned[row, [2, 0]]
    other = batch.replace(sequences={**batch.sequences, "text": turned})
    assert batch.lengths["text"][row] > 3
    assert not torch.allclose(model(other).logits[row], model(batch).logits[row], atol=1e-6)
    whole, _ = make()
    torch.testing.assert_close(whole(other).logits, whole(batch).logits)


@torch.no_grad()
def test_what_is_drawn_is_what_the_paper_draws() -> None:
    model, _ = make(activation=True)
    batch = make_batch()
    drawn = model(batch).drawn
    for row in range(5):
        frames, words = int(batch.lengths["vision"][row]), int(batch.lengths["text"][row])
        for name, length in (("gamma_face", frames), ("gamma_text", words), ("beta", words)):
            torch.testing.assert_close(drawn[name][row, :length].sum(), torch.tensor(1.0))
            assert not drawn[name][row, length:].any()
        torch.testing.assert_close(drawn["graph"][row, :words, :words].sum(-1), torch.ones(words))
        assert not drawn["graph"][row, words:].any() and not drawn["graph"][row, :, words:].any()
        e = tokens_of(batch, row)
        expected = F.cosine_similarity(e[:, None], e[None], dim=-1)
        torch.testing.assert_close(drawn["similarity_before"][row, :words, :words], expected)
        torch.testing.assert_close(drawn["activation"][row, :frames].sum(-1), torch.ones(frames))
        assert not drawn["activation"][row, frames:].any()
    assert drawn["head_attention"].shape == (5, 2, 3, 3)


@pytest.mark.parametrize("target", [TARGET, SENTIMENT], ids=lambda t: str(t.kind))
def test_activation_in_shapes_that_do_not_depend_on_lengths_is_the_same(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model, _), batch = make(target, activation=True), make_batch()
    expected = model(batch).drawn["activation"]
    for module in (symphonia, door):
        monkeypatch.setattr(module, "shapes_are_fixed", lambda x: True)  # as on a GPU
    monkeypatch.setattr(recurrent, "scans", lambda *_: True)
    torch.testing.assert_close(model(batch).drawn["activation"], expected)
    with torch.no_grad():
        assert captures(lambda: model(batch)) > 50


@pytest.mark.parametrize("target", [TARGET, SENTIMENT, MULTILABEL], ids=lambda t: t.kind)
@torch.no_grad()
def test_activation_is_what_one_state_says_alone(target: Target) -> None:
    batch = make_batch()
    model, _ = make(target, tails={"vision": TAILS["vision"]}, activation=True)
    output = model(batch)
    last = output.drawn["activation"][torch.arange(5), batch.lengths["vision"] - 1]
    if target.kind == "regression":
        expected = output.logits
    else:
        expected = output.logits.sigmoid() if target.kind == "multilabel" else output.logits.softmax(-1)
    torch.testing.assert_close(last, expected)
    model, _ = make(target, activation=True)
    batch = make_batch(frames=1)
    silent = batch.replace(available=torch.tensor([[True, False]]).expand(5, 2))
    assert torch.equal(model(silent).drawn["activation"], model(batch).drawn["activation"])
    activation, logits = model(silent).drawn["activation"][:, 0], model(silent).logits
    if target.kind == "regression":
        torch.testing.assert_close(activation, logits)
    else:
        torch.testing.assert_close(activation.argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize("names", [("vision",), ("text",), ("vision", "text"), ("text", "vision")])
@pytest.mark.parametrize("target", [TARGET, SENTIMENT, MULTILABEL], ids=lambda t: t.kind)
def test_any_subset_of_modalities_trains_every_parameter(names: tuple[str, ...], target: Target) -> None:
    for changes in ({}, {"dynamic_attention": False}, {"hierarchical": False}, {"landmarks": False}):
        model, _ = make(target, {m: TAILS[m] for m in names}, **changes)
        output = model.train()(make_batch())
        (output.logits.square().mean() + sum(output.losses.values())).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_one_vector_per_utterance_is_enough() -> None:
    for target in (SENTIMENT, MULTILABEL):
        model, _ = make(target, FLAT)
        batch = make_batch(frames=1, tails=FLAT)
        assert torch.isfinite(model(batch).logits).all()
        output = model.train()(batch)
        (output.logits.sum() + output.losses["contrastive"]).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_settings_that_change_nothing_are_put_back() -> None:
    config = symphonia.Config(dynamic_attention=False, hierarchical=False, landmarks=False, graph_heads=2, window=3)
    assert symphonia.canonical(config, ("vision",)) == symphonia.Config(landmarks=False)
    assert symphonia.canonical(config, ("text",)) == symphonia.Config(graph_heads=2, window=3)
    assert symphonia.canonical(config, ("vision", "text")) == config
    rows = {row.name: row for row in symphonia.TABLES[0].rows}
    assert rows["full SYMPHONIA model"].paper == (0.809, 0.801) and not rows["full SYMPHONIA model"].settings
    assert rows["facial branch only"].modalities == ("vision",)


@pytest.mark.parametrize(
    ("tails", "changes", "message"),
    [
        ({"vision": (51, 8)}, {}, r"vision has \(51, 8\)"),
        ({"vision": (20, 16, 3)}, {}, r"vision has \(20, 16, 3\)"),
        ({"text": (5, 6)}, {}, r"text has \(5, 6\)"),
        ({"speech": (5,)}, {}, r"speech has \(5,\)"),
        (TAILS, {"heads": 3}, "3 heads do not divide d = 8"),
        (TAILS, {"graph_heads": 5}, "5 heads do not divide d = 8"),
        (TAILS, {"landmark_kernel": 4}, "landmark_kernel = 4 has no middle"),
    ],
)
def test_what_cannot_be_built_is_said(tails: dict[str, tuple[int, ...]], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(tails=tails, **changes)
