"""The dual-fusion framework against its algorithms written out for one utterance, its stages, fusions and sizes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toy_corpus import TARGETS, commit, rows_of, spec, utterances

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import ArraySpec
from cache_schema.rows import Absent, Row
from cache_schema.samples import Corpus
from cache_schema.store import FeatureStore
from fuse.arch import Batch
from fuse.archs import complementary
from fuse.archs.complementary import ABLATIONS, TRAINING, Complementary, Config, build, canonical
from fuse.describe import EXAMPLE
from fuse.evaluate import evaluate_run
from fuse.kernels.interval_gat.reference import SLOPE
from fuse.model import Model
from fuse.nn.experts import MixtureOfExperts
from fuse.nn.interval_gat import IntervalGAT
from fuse.nn.late_fusion import fit_fusion, fused
from fuse.train import train_run
from fuse.training.optimize import Optimization

CLASSIFICATION, MULTILABEL, REGRESSION = TARGETS
TAILS = {"text": (5,), "speech": (4,)}
SMALL: dict[str, Any] = {"d": 8, "heads": 2, "gat_heads": 2, "expert_width": 6, "experts": 3, "frames": 6}
WORDS = torch.tensor([[[0.0, 0.0], [0.0, 4.0], [3.0, 9.2], [9.0, 12.0], [0.0, 0.0]]])
THERE = torch.tensor([[False, True, True, True, False]])


def network(only: str | None = None, **changes: Any) -> Complementary:
    torch.manual_seed(0)
    tails = {m: tail for m, tail in TAILS.items() if only in (None, m)}
    return build(Config(**{**SMALL, **changes}), tails, CLASSIFICATION).double().eval()


def batch(frames: int = 12, only: str | None = None, intervals: bool = True, count: int = 1) -> Batch:
    random = torch.Generator().manual_seed(1)
    shapes = {"text": (count, 5, 5), "speech": (count, frames, 4)}
    kept = [m for m in shapes if only in (None, m)]
    return Batch(
        ids=tuple(f"u{i}" for i in range(count)),
        sequences={m: torch.randn(shapes[m], generator=random, dtype=torch.float64) for m in kept},
        lengths={m: torch.full((count,), shapes[m][1]) for m in kept},
        available=torch.ones(count, len(kept), dtype=torch.bool),
        target=torch.arange(count) % 3,
        dialogue=torch.arange(count),
        position=torch.zeros(count, dtype=torch.int64),
        companions={"intervals": WORDS.expand(count, -1, -1)} if intervals else {},
        companions_there={"intervals": THERE.expand(count, -1)} if intervals else {},
    )


def graph_by_hand(layers: list[IntervalGAT], text: Tensor, speech: Tensor, seen: Tensor) -> Tensor:
    """The mean of all nodes after every layer, each pair of nodes looked at."""
    x = torch.cat([text, speech])
    for number, layer in enumerate(layers):
        assert layer.query is not None
        x = F.elu(x) if number else x
        heads, width = layer.heads, x.shape[1] // layer.heads
        left, right = (f(x).view(len(x), heads, width) for f in (layer.value, layer.query))
        out = torch.zeros_like(left)
        for i in range(len(x)):
            for h in range(heads):
                scores = torch.full((len(x),), -torch.inf, dtype=x.dtype)
                for j in range(len(x)):
                    if seen[i, j]:
                        scores[j] = layer.vector[0, h] @ F.leaky_relu(left[j, h] + right[i, h], SLOPE)
                out[i, h] = scores.softmax(0) @ left[:, h]
        x = out.flatten(1) + layer.bias
    return x.mean(dim=0)


def attention_by_hand(attend: Any, query: Tensor, memory: Tensor, scale: float) -> Tensor:
    """Algorithm 4."""
    heads, width = attend.heads, attend.head_width
    q, k, v = (
        F.linear(x, p.weight).view(len(x), heads, width)
        for x, p in ((query, attend.query), (memory, attend.key), (memory, attend.value))
    )
    weights = (torch.einsum("qhw,shw->hqs", q, k) * scale).softmax(dim=-1)
    read: Tensor = attend.out(torch.einsum("hqs,shw->qhw", weights, v).flatten(1))
    return read


def expert_by_hand(experts: MixtureOfExperts, z: Tensor) -> Tensor:
    gate = experts.router(z).softmax(dim=0)
    best = int(gate.argmax())
    return F.relu(z @ experts.hidden[best] + experts.hidden_bias[best]) @ experts.out[best] + experts.out_bias[best]


@pytest.mark.parametrize("scale", ["head", "model"])
def test_the_branches_are_their_algorithms(scale: str) -> None:
    """Twelve frames pooled to six: each new one is two old ones, its time the mean of theirs (1, 3, .. 11)."""
    model, given = network(scale=scale), batch()
    tokens = given.sequences["text"][0]
    frames = given.sequences["speech"][0].view(6, 2, 4).mean(dim=1)
    seen = torch.eye(11, dtype=torch.bool)
    for i, (start, end) in enumerate(WORDS[0].tolist()):
        for j, time in enumerate((1, 3, 5, 7, 9, 11)):
            if THERE[0, i] and start <= time <= end:
                seen[i, 5 + j] = seen[5 + j, i] = True
    assert seen.sum() == 11 + 2 * (2 + 4 + 2)
    assert model.cross is not None and model.sum_product is not None

    nodes = model.cross.nodes
    x = {"text": nodes.project["text"](tokens), "speech": nodes.project["speech"](frames)}
    graph = graph_by_hand(list(nodes.gat), x["text"], x["speech"], seen)  # type: ignore[arg-type]
    for block in model.cross.blocks:
        after = {}
        for mine, other in (("text", "speech"), ("speech", "text")):
            factor = (8 if scale == "model" else 4) ** -0.5
            read = attention_by_hand(block.attend[mine], x[mine], x[other], factor)  # type: ignore[index]
            y = block.norm_attention[mine](x[mine] + read)  # type: ignore[index]
            after[mine] = block.norm_feed_forward[mine](y + block.feed_forward[mine](y))  # type: ignore[index]
        x = after
    z = torch.cat([x["text"].mean(dim=0), x["speech"].mean(dim=0), graph])
    cross = expert_by_hand(model.cross.experts, z)

    nodes = model.sum_product.nodes
    t, s = nodes.project["text"](tokens), nodes.project["speech"](frames)
    graph = graph_by_hand(list(nodes.gat), t, s, seen)  # type: ignore[arg-type]
    t, s = t.mean(dim=0), s.mean(dim=0)
    w = model.sum_product.project.weight.view(24, 5, 8)
    # Algorithm 5, its parts multiplied out.
    z = (t @ (w[:, 0] + w[:, 2]).T) + (s @ (w[:, 1] + w[:, 2]).T) + torch.einsum("d,d,od->o", t, s, w[:, 3])
    z = z + graph @ w[:, 4].T + model.sum_product.project.bias
    sum_product = expert_by_hand(model.sum_product.experts, z)

    output = model(given)
    torch.testing.assert_close(output.drawn["cross_probability"][0], cross.softmax(0))
    torch.testing.assert_close(output.drawn["sum_product_probability"][0], sum_product.softmax(0))
    torch.testing.assert_close(output.logits[0].softmax(0), (cross.softmax(0) + sum_product.softmax(0)) / 2)
    for stage, logits in (("cross", cross), ("sum_product", sum_product)):
        model.stage = stage
        torch.testing.assert_close(model(given).logits[0], logits)


def test_without_intervals_every_node_stands_alone() -> None:
    model, given = network(), batch()
    nowhere = given.replace(companions_there={"intervals": torch.zeros_like(THERE)})
    torch.testing.assert_close(model(nowhere).logits, model(batch(intervals=False)).logits)
    assert not model(nowhere).drawn["cross_graph"].any()
    assert model(given).drawn["cross_graph"][0].sum(dim=1).gt(0).tolist() == THERE[0].tolist()


@pytest.mark.parametrize("only", ["text", "speech"])
def test_a_modality_without_partner_reads_itself(only: str) -> None:
    """In a model of its own, and in one with both whose other modality the utterance lacks."""
    weights = network(only=only)(batch(only=only)).drawn[f"attention_{only}"]
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
    model, given = Model.unscaled(network(), TAILS).double().eval(), batch()
    lacking = given.replace(available=torch.tensor([[m == only for m in TAILS]]))
    alone = model(lacking)
    changed = given.sequences[only].clone()
    changed[0, 2] += 1
    moved = model(lacking.replace(sequences={**given.sequences, only: changed}))
    assert torch.isfinite(alone.logits).all() and not torch.allclose(alone.logits, moved.logits)
    assert not alone.drawn[f"attention_{only}"].any()


def test_drawn_attention_is_a_distribution_for_each_own_frame_and_zero_in_the_padding() -> None:
    given = batch()
    short = given.replace(lengths={m: n.clamp(max=3) for m, n in given.lengths.items()})
    drawn = Model.unscaled(network(), TAILS).double().eval()(short).drawn
    for modality in TAILS:
        sums = drawn[f"attention_{modality}"].sum(dim=-1)
        expected = (torch.arange(sums.shape[-1]) < 3).to(sums.dtype).expand_as(sums)
        torch.testing.assert_close(sums, expected)


@pytest.mark.parametrize("stage", ["cross", "sum_product"])
def test_a_stage_trains_its_branch_alone(stage: str) -> None:
    model = network().train()
    model.stage = stage
    output = model(batch(count=4))
    assert set(output.losses) == {f"{stage}_balance"}
    (output.logits.square().sum() + sum(output.losses.values())).backward()
    reached = {n.partition(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {stage}


def test_branches_train_apart_each_with_its_schedule() -> None:
    assert network().stages == ("cross", "sum_product") and network(joint=True).stages == ()
    schedules = {}
    for branches in ("both", "cross", "sum_product"):
        made = Optimization(network(branches=branches), TRAINING, 100)
        schedules[branches] = {type(b.scheduler).__name__ for b in made.blocks}
    assert schedules == {
        "both": {"OneCycleLR", "NoneType"},
        "cross": {"OneCycleLR"},
        "sum_product": {"NoneType"},
    }


def test_one_branch_is_what_it_says_in_both() -> None:
    whole = network()(batch()).drawn
    for branch in ("cross", "sum_product"):
        alone = network(branches=branch)
        source = network()
        alone.load_state_dict({k: v for k, v in source.state_dict().items() if k.startswith(("fusion", f"{branch}."))})
        torch.testing.assert_close(alone(batch()).logits.softmax(dim=1), whole[f"{branch}_probability"])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.kind)
def test_fused_probabilities_are_the_weighted_mean(target: Any) -> None:
    first, second = torch.randn(2, 7, 3, dtype=torch.float64)
    weight = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    if target.kind == "regression":
        numbers = fused(first[:, 0], second[:, 0], weight[:1], target.kind)
        torch.testing.assert_close(numbers, 0.2 * first[:, 0] + 0.8 * second[:, 0])
        return
    turn = torch.sigmoid if target.kind == "multilabel" else lambda x: x.softmax(dim=1)
    mixed = weight * turn(first) + (1 - weight) * turn(second)
    expected = mixed if target.kind == "multilabel" else mixed / mixed.sum(dim=1, keepdim=True)
    torch.testing.assert_close(turn(fused(first, second, weight, target.kind)), expected)


@pytest.mark.parametrize("weights", [1, 3])
def test_the_late_fusion_leans_on_the_branch_that_is_right(weights: int) -> None:
    """The first is right about class 0, the second about class 1; nobody ever sees class 2."""
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 2, (400,), generator=random)
    first, second = (0.5 * torch.randn(400, 3, generator=random) for _ in range(2))
    first[:, 0] += 3.0 * (truth == 0)
    second[:, 1] += 3.0 * (truth == 1)
    found = fit_fusion(first, second, truth, weights, "classification")
    if weights == 1:
        grid = torch.linspace(0.01, 0.99, 99)
        losses = [F.cross_entropy(fused(first, second, w[None], "classification"), truth) for w in grid]
        assert float(found) == pytest.approx(float(grid[int(torch.stack(losses).argmin())]), abs=0.02)
    else:
        assert found[0] > 0.8 and found[1] < 0.2


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.kind)
def test_little_validation_gives_no_branch_up(target: Any) -> None:
    """One utterance, about which one branch is altogether right."""
    shape = (1,) if target.kind == "regression" else (1, 3)
    right = torch.full(shape, -40.0)
    if target.kind == "classification":
        right[0, 1] = 40.0
    truth = {"classification": torch.tensor([1]), "multilabel": torch.zeros(shape), "regression": right}[target.kind]
    found = fit_fusion(right, torch.zeros(shape), truth, 1, target.kind)
    assert 0.7 < found.item() < 0.999
    assert fit_fusion(right, right, truth, 1, target.kind).item() == pytest.approx(0.5)
    turned = fit_fusion(torch.zeros(shape), right, truth, 1, target.kind)
    torch.testing.assert_close(turned, 1 - found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("late_fusion", ["mean", "scalar", "per_class"])
def test_the_late_fusion_is_fitted_once_on_what_it_is_given(late_fusion: str) -> None:
    model, given = network(late_fusion=late_fusion), batch(count=30)
    with torch.no_grad():
        model.fit_late_fusion(iter([given]))
    assert model.fusion.shape == ((3,) if late_fusion == "per_class" else (1,))
    assert bool((model.fusion == 0.5).all()) == (late_fusion == "mean")
    drawn = model(given).drawn
    mixed = model.fusion * drawn["cross_probability"] + (1 - model.fusion) * drawn["sum_product_probability"]
    torch.testing.assert_close(model(given).logits.softmax(dim=1), mixed / mixed.sum(dim=1, keepdim=True))


def test_parameters_with_1000_experts_are_those_in_the_head() -> None:
    with torch.device("meta"):
        model = build(Config(experts=1000), complementary.INPUTS, EXAMPLE)
    assert model.cross is not None and model.sum_product is not None
    for name, branch in (("Cross-Attention Transformer", model.cross), ("Sum-Product Linear", model.sum_product)):
        row = re.search(rf"{name} +([\d,]+) ", complementary.__doc__ or "")
        assert row and sum(p.numel() for p in branch.parameters()) == int(row[1].replace(",", ""))


@pytest.mark.parametrize("top", [1, 2])
def test_a_thousand_experts_learn(top: int) -> None:
    model, given = network(experts=1000, top=top).train(), batch(count=32)
    output = model(given)
    loss = F.cross_entropy(output.logits, given.target) + sum(output.losses.values())
    loss.backward()
    assert math.isfinite(loss.item()) and model.cross is not None
    hidden = model.cross.experts.hidden.grad
    assert hidden is not None and 0 < int((hidden.flatten(1).abs().sum(dim=1) > 0).sum()) <= 32 * top


def test_settings_that_change_nothing_are_known() -> None:
    both = ("text", "speech")
    assert canonical(Config(graph=False, gat="v1", gat_heads=2), both) == Config(graph=False)
    assert canonical(Config(branches="sum_product", layers=5, joint=True), both) == Config(branches="sum_product")
    for changes in ABLATIONS.values():
        config = Config.parse(changes, "test")
        assert canonical(config, both) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d": 9}, "d = 9 is not a multiple of heads = 2"),
        ({"experts": 1, "top": 2}, "top = 2 of experts = 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        network(**changes)
    with pytest.raises(SettingsError, match="vision has"):
        build(Config(), {"vision": (5,)}, CLASSIFICATION)


OFFSETS = ArraySpec(name="offsets", dtype="int32", tail=(2,))
SECONDS = ArraySpec(name="values", dtype="float32", tail=(2,))
SPOKEN = spec("speech", feature="words", arrays=(SECONDS, OFFSETS))


def with_words(path: Path, words: bool = True) -> Path:
    """A store of text with offsets, speech at 5 Hz and words, one per token."""
    store = FeatureStore.open(path, mode="a")
    samples = [u.model_copy(update={"text": " ".join("abcdefgh"), "path": "a.wav"}) for u in utterances(60)]
    store.append_samples(Corpus(name="toy", title="Toy", licence="none", targets=TARGETS), samples)
    speech, text = spec("speech", rate_hz=5.0), spec("text", arrays=(*spec("text").arrays, OFFSETS))
    rows: dict[str, Row] = {}
    for id_, row in rows_of("text", samples).items():
        assert isinstance(row, dict)
        at = 2 * np.arange(len(row["values"]), dtype=np.int32)
        rows[id_] = {**row, "offsets": np.stack([at, at + 1], axis=1)}
        start = at[:, None] / 10
        times = np.concatenate([start, start + 0.2], axis=1).astype(np.float32)
        commit_row: Row = {"values": times, "offsets": np.stack([at, at + 1], axis=1)}
        rows[f"words {id_}"] = commit_row
    commit(store, "toy", text, {u.id: rows[u.id] for u in samples})
    commit(store, "toy", speech, rows_of("speech", samples))
    if words:
        commit(store, "toy", SPOKEN, {u.id: rows[f"words {u.id}"] for u in samples})
    return path


SETTINGS = [f"{k}={v}" for k, v in SMALL.items()] + ["late_fusion=per_class", "max_epochs=2", "lr=0.01"]


def test_a_run_reads_intervals_and_is_measured_again_to_the_bit(tmp_path: Path) -> None:
    store = with_words(tmp_path / "features")
    result = train_run(store, "toy", "complementary", assignments=SETTINGS, seeds=1, out=tmp_path / "runs", jobs=1)
    record = result.record
    assert list(record.features) == ["text", "speech"] and record.without == {}
    assert record.companions["intervals"]["name"] == "words" and record.companions["intervals"]["digest"]
    assert evaluate_run(result.run)["identical"]
    later = SPOKEN.model_copy(update={"version": 2})
    others = {u.id: Absent("nothing was said") for u in utterances(60)}
    commit(FeatureStore.open(store, mode="a"), "toy", later, others)
    assert evaluate_run(result.run)["identical"], "the words of the run are read, not later ones"


def test_a_run_without_words_says_so(tmp_path: Path) -> None:
    store = with_words(tmp_path / "features", words=False)
    result = train_run(store, "toy", "complementary", assignments=SETTINGS, seeds=1, out=tmp_path / "runs", jobs=1)
    assert result.record.companions == {}
    said = "the store has no words feature, so every token and frame stands alone in the graph"
    assert said in result.record.without["intervals"]
    assert evaluate_run(result.run)["identical"]
