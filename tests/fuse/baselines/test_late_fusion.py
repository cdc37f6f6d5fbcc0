"""Late fusion against the rules worked out utterance by utterance."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest
import torch
from batches import CLASSES, LABELS, SENTIMENT, SOME_ABSENT, TAILS, TARGETS, batch, make, without_gradient
from torch import Tensor

from cache_schema.errors import SettingsError
from cache_schema.samples import Target
from fuse.arch import probabilities
from fuse.baselines import late_fusion

SMALL = {"hidden": 6, "channels": (5,), "kernel": 3}


def said(model: torch.nn.Module, b: object, target: Target) -> Tensor:
    """What each classifier says by itself (B, M, C), through the same door."""
    drawn: Tensor = model(b).drawn["unimodal"]
    return drawn


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.kind)
def test_the_mean_is_the_mean_of_the_available(target: Target) -> None:
    model, b = make(late_fusion, target, fusion="mean", **SMALL), batch(available=SOME_ABSENT)
    output = model(b)
    for row, there in enumerate(SOME_ABSENT):
        mean = said(model, b, target)[row][torch.tensor(there)].mean(dim=0)
        found = output.logits[[row]]
        if target.kind != "regression":
            found = probabilities(found, target.kind)[0]
        torch.testing.assert_close(found, mean)
        torch.testing.assert_close(output.drawn["weights"][row], torch.tensor(there) / sum(there), check_dtype=False)


def test_what_each_says_is_what_its_classifier_says_alone() -> None:
    model, b = make(late_fusion, CLASSES, fusion="mean", **SMALL), batch()
    for column, modality in enumerate(TAILS):
        model.network.stage = modality  # type: ignore[assignment]
        alone = model(b).logits.softmax(dim=1)
        model.network.stage = None  # type: ignore[assignment]
        torch.testing.assert_close(said(model, b, CLASSES)[:, column], alone)


def random_opinions(classes: int, count: int = 300) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    available = torch.rand(count, 4) < 0.7
    available[~available.any(dim=1), 0] = True
    return 2 * torch.randn(count, 4, classes).double(), available


def test_the_vote_is_the_majority_and_the_mean_breaks_ties() -> None:
    each, available = random_opinions(3)
    chances = late_fusion.vote(each, available, "classification").exp()
    torch.testing.assert_close(chances.sum(dim=1), torch.ones(300).double())
    ties = 0
    for row in range(300):
        voters = each[row][available[row]]
        votes = Counter(voters.argmax(dim=1).tolist())
        most = [c for c, n in votes.items() if n == max(votes.values())]
        mean = voters.softmax(dim=1).mean(dim=0)
        ties += len(most) > 1
        assert int(chances[row].argmax()) == max(most, key=lambda c: float(mean[c]))
        for c in range(3):
            assert float(chances[row, c]) == pytest.approx((votes[c] + float(mean[c])) / (len(voters) + 1))
    assert ties > 20


def test_each_label_is_voted_on_by_itself() -> None:
    each, available = random_opinions(3)
    yes = late_fusion.vote(each, available, "multilabel") > 0
    for row in range(300):
        voters = each[row][available[row]]
        for c in range(3):
            votes, against = int((voters[:, c] > 0).sum()), int((voters[:, c] <= 0).sum())
            expected = float(torch.sigmoid(voters[:, c]).mean()) > 0.5 if votes == against else votes > against
            assert bool(yes[row, c]) == expected


def test_the_vote_of_numbers_is_their_median() -> None:
    each, available = random_opinions(1)
    medians = late_fusion.vote(each, available, "regression")
    for row in range(300):
        assert float(medians[row]) == pytest.approx(statistics.median(each[row][available[row], 0].tolist()))


def test_a_sure_vote_has_a_finite_loss() -> None:
    each, available = torch.full((1, 3, 2), 800.0), torch.ones(1, 3, dtype=torch.bool)
    each[..., 1] = -800.0
    assert torch.isfinite(late_fusion.vote(each, available, "classification")).all()
    assert torch.isfinite(late_fusion.vote(each, available, "multilabel")).all()


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.kind)
def test_the_gate_weighs_the_available(target: Target) -> None:
    model, b = make(late_fusion, target, **SMALL, fusion="gated"), batch(available=SOME_ABSENT)
    network = model.network
    drawn, logits = model(b).drawn, model(b).logits
    read = []
    for column, modality in enumerate(TAILS):
        there = b.available[:, [column]].double()
        h, _ = network.get_submodule(modality)(
            *(getattr(model.clean(b), k)[modality] for k in ("sequences", "lengths"))
        )
        read += [h * there, there]
    scores = network.gate(torch.cat(read, dim=1)).exp() * b.available  # type: ignore[operator]
    gates = scores / scores.sum(dim=1, keepdim=True)
    torch.testing.assert_close(drawn["weights"], gates)
    torch.testing.assert_close(drawn["weight_speech"], gates[:, 1])
    mixed = (gates[..., None] * drawn["unimodal"]).sum(dim=1)
    found = logits[:, None] if target.kind == "regression" else probabilities(logits, target.kind)
    torch.testing.assert_close(found, mixed)


@pytest.mark.parametrize("fusion", ["mean", "vote", "gated"])
def test_every_parameter_learns(fusion: str) -> None:
    model, b = make(late_fusion, fusion=fusion, **SMALL, dropout=0.0).train(), batch()
    left = {n for n, _ in model.named_parameters()}
    for stage in model.network.stages or (None,):
        model.network.stage = stage  # type: ignore[assignment]
        loss = torch.nn.functional.cross_entropy(model(b).logits, b.target)  # type: ignore[arg-type]
        still = set(without_gradient(model, loss))
        assert stage is None or {n for n, _ in model.named_parameters() if n not in still} == {
            n for n, _ in model.named_parameters() if n.startswith(f"network.{stage}.")
        }
        left &= still
    assert left == set()
    assert model.network.stages == (() if fusion == "gated" else tuple(TAILS))


def test_an_absent_modality_teaches_its_classifier_nothing() -> None:
    model, b = make(late_fusion, fusion="mean", **SMALL, dropout=0.0).train(), batch(available=SOME_ABSENT)
    model.network.stage = "speech"  # type: ignore[assignment]
    present = torch.tensor([there[1] for there in SOME_ABSENT])
    model(b).logits[~present].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    model(b).logits[present].sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.network.get_submodule("speech").parameters())


@pytest.mark.parametrize("target", [CLASSES, LABELS, SENTIMENT], ids=lambda t: t.kind)
def test_one_modality_is_its_classifier(target: Target) -> None:
    for fusion in ("mean", "vote", "gated"):
        model = make(late_fusion, target, tails={"vision": (3,)}, fusion=fusion, **SMALL)
        alone = model.network.alone(model.clean(batch()), "vision").logits  # type: ignore[operator]
        mine = model(batch()).logits
        if target.kind == "classification":
            assert (mine.argmax(dim=1) == alone.argmax(dim=1)).all()
        elif target.kind == "multilabel":
            assert ((mine > 0) == (alone > 0)).all()
        else:
            torch.testing.assert_close(mine, alone)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(SettingsError, match="odd number"):
        make(late_fusion, kernel=4)
