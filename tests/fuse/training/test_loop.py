"""The training loop: selection, divergence, determinism, every setting."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toy_corpus import TARGETS, load

from cache_schema.errors import SettingsError
from fuse.archs import hff
from fuse.data import Dataset, Splits, scales
from fuse.model import Model
from fuse.prediction import DivergedError, predict
from fuse.training.config import TrainConfig
from fuse.training.loop import Epoch, fit, reproducible
from fuse.training.losses import Loss, balanced
from fuse.training.steps import permuted

SMALL = {"d": 12, "steps": 3, "layers": 1, "heads": 2, "head_width": 4, "speech_channels": (4,), "speech_width": 6}
FAST = TrainConfig(lr=5e-3, batch_size=16, max_epochs=6)


@pytest.fixture(scope="module")
def splits(toy_store: Path) -> Splits:
    return load(toy_store, "toy", hff.PREFERS)[0]


def test_several_gpus_are_no_reason_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch does, at length, where it is not told that all of them are meant."""
    kept = list[int]()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor(device))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: kept.append(int(state)))
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with reproducible(0, None):
            pass
    assert kept == [0, 1, 2]


def new_model(data: Dataset, **changes: Any) -> Model:
    torch.manual_seed(0)
    network = hff.build(hff.Config(**SMALL | changes), data.tails, data.target)
    return Model(network, scales(data, True))


def train(splits: Splits, seed: int = 0, **changes: Any) -> tuple[Model, list[Epoch]]:
    with reproducible(seed, 1):
        model = new_model(splits.train)
        return model, fit(model, splits.train, splits.val, FAST.model_copy(update=changes), seed)


def test_learns_and_keeps_the_best_epoch(splits: Splits) -> None:
    seen: list[Epoch] = []
    with reproducible(0, 1):
        model = new_model(splits.train)
        config = FAST.model_copy(update={"max_epochs": 12})
        history = fit(model, splits.train, splits.val, config, 0, seen.append)
    assert seen == history
    best = [e for e in history if e.best][-1]
    assert best.val_loss == min(e.val_loss for e in history)
    kept = predict(model, splits.val, 16, Loss(config, splits.train))
    assert kept.loss == best.val_loss and kept.measure(splits.val.target) == best.val
    assert predict(model, splits.open_test(), 16).measure(splits.val.target)["accuracy"] > 0.6


def test_stops_after_patience_epochs_without_improvement_and_goes_back_to_the_best(splits: Splits) -> None:
    model, history = train(splits, max_epochs=60, patience=2, lr=2e-2)
    assert len(history) < 60
    assert [e.best for e in history[-2:]] == [False, False] and history[-3].best
    assert predict(model, splits.val, 16, Loss(FAST, splits.train)).loss == history[-3].val_loss != history[-1].val_loss


def test_a_monitored_metric_is_maximised_and_an_error_minimised(splits: Splits, toy_store: Path) -> None:
    _, history = train(splits, monitor="macro_f1")
    tops = np.maximum.accumulate([e.val["macro_f1"] for e in history])
    assert [e.val["macro_f1"] for e in history if e.best] == list(dict.fromkeys(tops))
    numbers = load(toy_store, "toy", hff.PREFERS, target="sentiment")[0]
    _, history = train(numbers, monitor="mae")
    lows = np.minimum.accumulate([e.val["mae"] for e in history])
    assert [e.val["mae"] for e in history if e.best] == list(dict.fromkeys(lows))


def test_the_rate_falls_on_a_plateau(splits: Splits) -> None:
    changes = {"lr": 1e-6, "max_epochs": 4, "patience": 4, "plateau_patience": 0, "plateau_factor": 0.1}
    _, history = train(splits, **changes)
    assert [e.lr for e in history] == pytest.approx([1e-6, 1e-6, 1e-7, 1e-8])
    _, constant = train(splits, **changes, scheduler="constant")
    assert {e.lr for e in constant} == {1e-6}


def test_a_seed_gives_the_same_bits_and_another_seed_others(splits: Splits) -> None:
    first, second, other = (train(splits, seed, max_epochs=2)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_threads_and_generator_are_left_as_they_were() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    before = torch.get_num_threads()
    with reproducible(0, 2):
        assert torch.get_num_threads() == 2 and torch.are_deterministic_algorithms_enabled()
        torch.rand(3)
    assert torch.get_num_threads() == before and not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(1), expected)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with reproducible(0, 2):
        pass
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)


def test_predictions_are_in_the_order_of_the_data(splits: Splits) -> None:
    model = new_model(splits.train).eval()
    whole = predict(model, splits.val, 7)
    assert whole.ids == splits.val.ids
    for row in (0, 9, 19):
        one = predict(model, splits.val.select(torch.tensor([row])), 7)
        np.testing.assert_allclose(whole.probabilities[row], one.probabilities[0], atol=1e-5)
        np.testing.assert_allclose(whole.drawn["alpha_text"][row], one.drawn["alpha_text"][0], atol=1e-5)
    np.testing.assert_array_equal(whole.prediction, whole.probabilities.argmax(1))


def test_divergence_stops_with_step_utterances_and_parameter(splits: Splits) -> None:
    data = replace(splits.train, frames={**splits.train.frames, "text": splits.train.frames["text"].clone()})
    row = int(torch.nonzero(data.lengths["text"])[3])
    data.frames["text"][data.starts["text"][row]] = float("inf")
    model = new_model(splits.train)
    with pytest.raises(
        DivergedError, match=r"seed 0, epoch 1, step \d+: the loss is nan; .*gradient.* belongs to network\."
    ) as error:
        fit(model, data, splits.val, FAST, 0)
    assert "the batch was" in str(error.value)
    model = new_model(splits.train)
    with torch.no_grad():
        model.network.classifier[1].weight[0, 0] = float("nan")
    with pytest.raises(DivergedError, match=r"first parameter that is not finite is network.classifier.1.weight"):
        fit(model, splits.train, splits.val, FAST, 0)
    data = replace(splits.val, frames={**splits.val.frames, "text": splits.val.frames["text"].clone()})
    row = int(torch.nonzero(data.lengths["text"])[3])
    data.frames["text"][data.starts["text"][row]] = float("inf")
    with pytest.raises(DivergedError, match=r"diverged at seed 0, epoch 1, step \d+: the model's output for") as error:
        fit(new_model(splits.train), splits.train, data, FAST, 0)
    assert repr(data.ids[row]) in str(error.value) and "all parameters are finite" in str(error.value)


def test_gradients_are_clipped(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *rest: Any) -> Any:
        norms.append(float(torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()))
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(splits, clip=0.01, max_epochs=1)
    assert max(norms) <= 0.0101
    norms.clear()
    train(splits, clip=None, max_epochs=1)
    assert max(norms) > 0.1


def test_labels_are_permuted_within_a_split(splits: Splits) -> None:
    mixed = permuted(splits.train, torch.Generator().manual_seed(0))
    assert not torch.equal(mixed.labels, splits.train.labels)
    assert torch.equal(mixed.labels.sort().values, splits.train.labels.sort().values)
    assert mixed.ids == splits.train.ids


def test_shuffled_labels_fall_to_chance(splits: Splits) -> None:
    scores = []
    for seed in range(4):
        model, _ = train(splits, seed, shuffle_labels=True, max_epochs=3)
        scores.append(predict(model, splits.open_test(), 16).measure(splits.train.target)["accuracy"])
    honest = [predict(train(splits, s, max_epochs=6)[0], splits.open_test(), 16) for s in range(2)]
    assert np.mean(scores) < 0.5 < min(h.measure(splits.train.target)["accuracy"] for h in honest)


def test_losses_are_those_asked_for(splits: Splits, toy_store: Path) -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 2, 1, 2])
    few = replace(splits.train.select(torch.arange(5)), labels=labels)
    torch.testing.assert_close(Loss(FAST, few)(logits, labels), F.cross_entropy(logits, labels))
    smooth = Loss(TrainConfig(label_smoothing=0.1), few)(logits, labels)
    torch.testing.assert_close(smooth, F.cross_entropy(logits, labels, label_smoothing=0.1))
    weights = balanced(labels, few.target)
    torch.testing.assert_close(weights, torch.tensor([5 / 3, 5 / 3, 5 / 9]))
    weighted = Loss(TrainConfig(class_weights="balanced"), few)(logits, labels)
    torch.testing.assert_close(weighted, F.cross_entropy(logits, labels, weights))
    numbers = replace(few, target=TARGETS[2], labels=torch.randn(5))
    guess = torch.randn(5)
    torch.testing.assert_close(Loss(FAST, numbers)(guess, numbers.labels), F.mse_loss(guess, numbers.labels))
    absolute = Loss(TrainConfig(regression_loss="mae"), numbers)(guess, numbers.labels)
    torch.testing.assert_close(absolute, F.l1_loss(guess, numbers.labels))
    several = replace(few, target=TARGETS[1], labels=torch.tensor([[1.0, 0, 0]] * 4 + [[0, 1.0, 0]]))
    torch.testing.assert_close(balanced(several.labels, several.target), torch.tensor([0.25, 4.0, 1.0]))


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        (0, {"monitor": "mae"}, "monitor = 'mae' is no metric of emotion"),
        (2, {"monitor": "accuracy"}, "choose one of loss, mae"),
        (2, {"class_weights": "balanced"}, "class_weights means nothing for sentiment"),
        (1, {"label_smoothing": 0.1}, "label_smoothing is for classification"),
    ],
)
def test_settings_that_mean_nothing_are_refused(splits: Splits, target: int, changes: dict, message: str) -> None:
    data = replace(splits.train, target=TARGETS[target])
    with pytest.raises(SettingsError, match=message):
        fit(new_model(splits.train), data, splits.val, TrainConfig(**changes), 0)


def test_dialogues_train_too(splits: Splits) -> None:
    with reproducible(0, 1):
        model = new_model(splits.train, time="dialogue")
        fit(model, splits.train, splits.val, FAST.model_copy(update={"max_epochs": 15}), 0)
    assert predict(model, splits.open_test(), 16).measure(splits.train.target)["accuracy"] > 0.6
