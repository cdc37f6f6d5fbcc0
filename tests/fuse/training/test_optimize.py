"""Optimizers and schedules of the whole model and of its blocks; losses; modality dropout; branches trained apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy_corpus import CLASSES, TARGETS, load

from cache_schema.errors import SettingsError
from fuse.arch import Architecture, Batch, Output
from fuse.archs import hff
from fuse.data import Splits, scales
from fuse.model import Model
from fuse.training.checkpoint import Checkpoint
from fuse.training.config import Group, TrainConfig
from fuse.training.loop import Epoch, fit, reproducible
from fuse.training.losses import Loss, check
from fuse.training.optimize import Optimization, most_steps
from fuse.training.steps import hide_modalities


@pytest.fixture(scope="module")
def splits(toy_store: Path) -> Splits:
    return load(toy_store, "toy", hff.PREFERS)[0]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"cross": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)), "head": nn.Linear(3, 2)})


def rates(config: TrainConfig, steps: int, stage: str | None = None) -> list[list[float]]:
    optimization = Optimization(network(), config, steps, stage)
    seen = []
    for _ in range(steps):
        seen.append([block.optimizer.param_groups[0]["lr"] for block in optimization.blocks])
        for parameter in optimization.parameters:
            parameter.grad = torch.ones_like(parameter)
        optimization.step()
    return seen


def test_optimizers_take_their_settings() -> None:
    (block,) = Optimization(network(), TrainConfig(lr=0.1, weight_decay=0.2), 5).blocks
    assert type(block.optimizer) is torch.optim.AdamW
    adam = Optimization(network(), TrainConfig(optimizer="adam", lr=0.1, weight_decay=0.2), 5)
    assert type(adam.blocks[0].optimizer) is torch.optim.Adam
    group = adam.blocks[0].optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.2) and adam.lr == 0.1
    assert sum(p.numel() for p in group["params"]) == sum(p.numel() for p in network().parameters())


def test_schedules_have_their_shapes() -> None:
    cosine = [r[0] for r in rates(TrainConfig(lr=1.0, scheduler="cosine"), 8)]
    assert cosine == pytest.approx([(1 + torch.cos(torch.tensor(torch.pi * i / 8)).item()) / 2 for i in range(8)])
    cycle = [r[0] for r in rates(TrainConfig(lr=1.0, scheduler="onecycle", warmup=0.5), 20)]
    assert cycle[0] == pytest.approx(1 / 25) and max(cycle) == pytest.approx(1.0, abs=0.01) and cycle[-1] < 0.05
    assert cycle.index(max(cycle)) in (9, 10)
    assert {r[0] for r in rates(TrainConfig(lr=1.0, scheduler="constant"), 8)} == {1.0}


def test_a_group_has_its_own_schedule_and_rate() -> None:
    """`complementary`: cross-attention OneCycle up to 1e-4, sum-product fixed at 1e-4."""
    config = TrainConfig(lr=1e-4, scheduler="constant", groups={"cross": Group(scheduler="onecycle")})
    seen = rates(config, 10)
    assert {r[1] for r in seen} == {1e-4} and len({r[0] for r in seen}) > 5
    config = TrainConfig(groups={"cross.0": Group(lr=0.5, weight_decay=0.0)}, scheduler="constant")
    first, second = Optimization(network(), config, 3).blocks
    assert first.optimizer.param_groups[0]["lr"] == 0.5 and len(first.optimizer.param_groups[0]["params"]) == 2
    assert second.optimizer.param_groups[0]["weight_decay"] == config.weight_decay
    assert len(Optimization(network(), config, 3, "head").parameters) == 2


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"crosss": Group()}, "no block of this model called 'crosss'. Did you mean 'cross'"),
        ({"cross": Group(), "cross.1": Group()}, "cross.1 lies in another group"),
    ],
)
def test_groups_that_are_none_are_refused(groups: dict[str, Group], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Optimization(network(), TrainConfig(groups=groups), 3)


@pytest.mark.parametrize("time", ["frames", "dialogue"])
@pytest.mark.parametrize("scheduler", ["onecycle", "cosine"])
def test_a_schedule_over_steps_lasts_to_the_end(splits: Splits, scheduler: Any, time: str) -> None:
    config = TrainConfig(scheduler=scheduler, max_epochs=3, patience=3, batch_size=7)
    unit: Any = "dialogue" if time == "dialogue" else "utterance"
    batches = len(splits.train.batch_rows(7, unit, torch.Generator().manual_seed(0)))
    assert 3 * batches <= most_steps(splits.train, config)
    small = {"d": 8, "steps": 2, "layers": 1, "heads": 1, "head_width": 4, "speech_channels": (2,), "speech_width": 4}
    with reproducible(0, 1):
        module = hff.build(hff.Config(**small, time=time), splits.train.tails, splits.train.target)
        history = fit(Model(module, scales(splits.train, True)), splits.train, splits.val, config, 0)
    assert len(history) == 3 and len({e.lr for e in history}) == 3


def test_focal_loss_is_its_formula(splits: Splits) -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 3, generator=random), torch.tensor([0, 1, 2, 0, 1, 0])
    few = splits.train.select(torch.arange(6))
    few = type(few)(**{**vars(few), "labels": labels})
    p = logits.softmax(1)[torch.arange(6), labels]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    torch.testing.assert_close(Loss(TrainConfig(focal_gamma=2), few)(logits, labels), expected)
    torch.testing.assert_close(
        Loss(TrainConfig(focal_gamma=1e-9), few)(logits, labels), F.cross_entropy(logits, labels), rtol=1e-5, atol=1e-6
    )
    loss = Loss(TrainConfig(focal_gamma=2, class_weights="balanced"), few)
    w = loss.weights[labels]
    torch.testing.assert_close(loss(logits, labels), (-w * (1 - p) ** 2 * p.log()).sum() / w.sum())
    several = type(few)(**{**vars(few), "target": TARGETS[1]})
    truth = torch.randint(0, 2, (6, 3), generator=random).float()
    p = torch.where(truth > 0, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(
        Loss(TrainConfig(focal_gamma=3), several)(logits, truth), (-((1 - p) ** 3) * p.log()).mean()
    )
    with pytest.raises(SettingsError, match="focal_gamma means nothing for sentiment"):
        check(TrainConfig(focal_gamma=1), TARGETS[2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_has_a_gradient_where_the_truth_is_certain(splits: Splits, gamma: float, smoothing: float) -> None:
    few = splits.train.select(torch.arange(2))
    settings = TrainConfig(focal_gamma=gamma, label_smoothing=smoothing, class_weights="balanced")
    logits = torch.tensor([[60.0, 0.0, 0.0], [0.3, 0.1, 0.0]], requires_grad=True)
    loss = Loss(settings, few)(logits, torch.tensor([0, 1]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and torch.isfinite(logits.grad).all() and logits.grad[1].any()
    several = type(few)(**{**vars(few), "target": TARGETS[1], "labels": torch.tensor([[1.0, 0, 0]] * 2)})
    certain = torch.tensor([[200.0, -200.0, 0.1]] * 2, requires_grad=True)
    Loss(TrainConfig(focal_gamma=gamma), several)(certain, several.labels).backward()  # type: ignore[no-untyped-call]
    assert certain.grad is not None and torch.isfinite(certain.grad).all() and certain.grad[:, 2].all()


def test_modality_dropout_leaves_one_whatever_is_drawn(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = splits.train.batch(torch.arange(80))
    monkeypatch.setattr(torch, "rand", torch.zeros)
    assert torch.equal(hide_modalities(batch, 0.5).available.any(dim=1), batch.available.any(dim=1))
    assert not batch.available[:, 0].all(), "some have only what lies behind the first column"


def test_modality_dropout_hides_with_its_probability_and_leaves_one(splits: Splits) -> None:
    torch.manual_seed(0)
    batch = splits.train.batch(torch.arange(80))
    kept = torch.stack([hide_modalities(batch, 0.4).available for _ in range(200)])
    assert not (kept & ~batch.available).any(), "nothing appears that was not there"
    assert kept.any(dim=2).all(), "one is left"
    three = batch.available.all(dim=1)
    # Of three, one is hidden unless it is the last: 0.4 - 0.4^3 / 3.
    assert kept[:, three].float().mean().item() == pytest.approx(1 - (0.4 - 0.4**3 / 3), abs=0.02)
    assert torch.equal(hide_modalities(batch, 0.0).available, batch.available)


class Branches(Architecture):
    """Two linear branches over the mean of the text, trained apart, and a weight between them fitted on validation."""

    modalities = ("text",)
    stages = ("left", "right")

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, len(CLASSES)), nn.Linear(8, len(CLASSES))
        self.register_buffer("weight", torch.tensor(0.5))
        self.seen: list[str | None] = []
        self.fitted: list[tuple[int, bool, bool]] = []

    def forward(self, batch: Batch) -> Output:
        self.seen.append(self.stage)
        mean = batch.sequences["text"].sum(1) / batch.lengths["text"].clamp(min=1)[:, None]
        if self.stage is not None:
            return Output(self.get_submodule(self.stage)(mean))
        return Output(self.weight * self.left(mean) + (1 - self.weight) * self.right(mean))

    def fit_late_fusion(self, batches: Iterator[Batch]) -> None:
        count = sum(len(batch.ids) for batch in batches)
        self.fitted.append((count, self.training, torch.is_grad_enabled()))
        self.get_buffer("weight").fill_(0.25)


APART = TrainConfig(
    lr=1e-2,
    max_epochs=3,
    batch_size=16,
    scheduler="onecycle",
    groups={"right": Group(lr=1e-4, scheduler="constant")},
)


def train_branches(
    splits: Splits, stages: tuple[str, ...], path: Path | None = None, stop: tuple[str, int] | None = None
) -> tuple[Branches, list[Epoch]]:
    def watch(epoch: Epoch) -> None:
        if (epoch.stage, epoch.epoch) == stop:
            raise KeyboardInterrupt

    with reproducible(0, 1):
        branches = Branches()
        branches.stages = stages
        model = Model(branches, scales(splits.train, True))
        kept = None if path is None else Checkpoint(path, every=0)
        return branches, fit(model, splits.train, splits.val, APART, 0, watch, kept)


def test_branches_train_apart_and_late_fusion_is_fitted_on_validation(splits: Splits, tmp_path: Path) -> None:
    branches, history = train_branches(splits, ("left", "right"))
    assert [(e.stage, e.epoch) for e in history] == [(s, e) for s in ("left", "right") for e in (1, 2, 3)]
    assert {e.max_epochs for e in history} == {6}
    assert {e.lr for e in history[3:]} == {1e-4} and history[0].lr == pytest.approx(1e-2 / 25)
    assert branches.fitted == [(len(splits.val), False, False)] and float(branches.weight) == 0.25
    assert branches.stage is None and set(branches.seen) == {"left", "right"}
    alone, _ = train_branches(splits, ("left",))
    assert torch.equal(alone.left.weight, branches.left.weight), "the second branch leaves the first as it is"
    assert not torch.equal(alone.right.weight, branches.right.weight)
    for stop in (("left", 2), ("right", 1)):
        with pytest.raises(KeyboardInterrupt):
            train_branches(splits, ("left", "right"), tmp_path / "checkpoint.pt", stop)
    again, resumed = train_branches(splits, ("left", "right"), tmp_path / "checkpoint.pt")
    assert [(e.stage, e.epoch, e.val_loss) for e in resumed] == [(e.stage, e.epoch, e.val_loss) for e in history]
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in branches.state_dict().items())


@pytest.mark.parametrize("scheduler", ["plateau", "onecycle", "cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_rates_read_from_tensors_move_the_same(scheduler: Any, optimizer: Any) -> None:
    """Four epochs of ten steps, stopped and gone on with in between; beta_1 moves with onecycle."""
    config = TrainConfig(optimizer=optimizer, scheduler=scheduler, lr=1e-2, weight_decay=0.1, plateau_patience=0)
    plain, read = network(), network()
    one, other = Optimization(plain, config, 40), Optimization(read, config, 40, per_epoch=10)
    random = torch.Generator().manual_seed(0)
    for epoch in range(4):
        assert other.lr == one.lr
        other.epoch_begins()
        for step in range(10):
            gradients = [torch.randn(p.shape, generator=random) for p in one.parameters]
            for optimization in (one, other):
                for parameter, gradient in zip(optimization.parameters, gradients, strict=True):
                    parameter.grad = gradient.clone()
            one.step()
            other.step_at(torch.tensor([step]))
        for optimization in (one, other):
            optimization.epoch_ends(1.0)
        if epoch == 1:
            state = other.state_dict()
            other = Optimization(read, config, 40, per_epoch=10)
            other.load_state_dict(state)
    for p, q in zip(plain.parameters(), read.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
