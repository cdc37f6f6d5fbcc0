"""Seeds as one program: what each has alone, in steps that a CUDA graph can hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from refusing import captures
from torch import Tensor
from toy_corpus import load

from fuse.archs import ARCHS, complementary
from fuse.data import Splits, scales
from fuse.loop import Epoch, fit_seeds, reproducible
from fuse.model import Model
from fuse.nn import experts, face_crops, recurrent
from fuse.optimize import Optimization, most_steps
from fuse.program import Program
from fuse.train_config import TrainConfig

SMALL: dict[str, dict[str, Any]] = {
    "complementary": {"d": 8, "heads": 2, "gat_heads": 2, "expert_width": 8},
    "hff": {"d": 12, "steps": 3, "layers": 2, "heads": 2, "head_width": 4, "speech_channels": (4,), "speech_width": 6},
    "of-cmaer-cat": {"d": 8, "heads": 2, "steps": 2, "layers": 1},
    "symphonia": {"d": 8, "graph_heads": 2, "heads": 2, "tokens": 2, "layers": 1},
}
TWENTY = {"batch_size": 16, "max_epochs": 4, "lr": 1e-3, "modality_dropout": 0.1, "patience": 4}
"""Four epochs of five steps."""


@pytest.fixture(params=sorted(SMALL))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make_program(
    splits: Splits, name: str, seeds: Sequence[int], said: list[str] | None = None, **changes: Any
) -> tuple[Program, TrainConfig]:
    arch: ModuleType = ARCHS.load(name)
    own = {k: v for k, v in changes.items() if k in arch.Config.model_fields}
    config = arch.TRAINING.model_copy(update=TWENTY | {k: v for k, v in changes.items() if k not in own})

    def model(seed: int) -> Model:
        with reproducible(seed, 1):
            network = arch.build(arch.Config(**SMALL[name] | own), splits.train.tails, splits.train.target)
            return Model(network, scales(splits.train, True))

    say = [].append if said is None else said.append  # type: ignore[attr-defined]
    return Program([model(s) for s in seeds], splits.train, splits.val, config, seeds, say), config


def train(program: Program, config: TrainConfig, **rest: Any) -> tuple[list[list[Epoch]], Tensor]:
    """Histories, and the losses of every step (S, K * epochs)."""
    logs: list[Tensor] = []
    epoch = program.epoch

    def spied(number: int, live: Sequence[bool]) -> list[float]:
        means = epoch(number, live)
        logs.append(program.log[0].clone())
        return means

    program.epoch = spied  # type: ignore[method-assign]
    with reproducible(0, 1):
        histories = fit_seeds(program, config, program.seeds, **rest)
    program.release()
    return histories, torch.cat(logs, dim=1)


@pytest.fixture(scope="module")
def splits_of(toy_store: Path) -> dict[str, Splits]:
    return {name: load(toy_store, "toy", ARCHS.load(name).PREFERS)[0] for name in SMALL}


def test_twenty_steps_of_seeds_together_are_those_of_each_alone(splits_of: dict[str, Splits], name: str) -> None:
    """With dropout and hidden modalities, which are the same numbers for a seed whoever is beside it."""
    together, losses = train(*make_program(splits_of[name], name, [0, 1, 2]))
    assert losses.shape[1] >= 20 and len({e.train_loss for history in together for e in history[:1]}) == 3
    for place, seed in enumerate([0, 1, 2]):
        alone, own = train(*make_program(splits_of[name], name, [seed]))
        torch.testing.assert_close(losses[place], own[0], rtol=0, atol=1e-5)
        for one, other in zip(together[place], alone[0], strict=True):
            assert (one.seed, one.epoch, one.stage, one.lr) == (other.seed, other.epoch, other.stage, other.lr)
            assert one.val_loss == pytest.approx(other.val_loss, abs=1e-5)


@pytest.mark.parametrize("seeds", [[0], [0, 1]], ids=["alone", "together"])
def test_a_step_can_be_captured(
    splits_of: dict[str, Splits], name: str, seeds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch, forward, backward, clipping, optimizer and log: nothing waits, and no shape depends on a number."""
    # On a GPU a single seed's modules take the way that seeds together take everywhere.
    for module in (complementary, experts, face_crops):
        monkeypatch.setattr(module, "shapes_are_fixed", lambda x: True)
    monkeypatch.setattr(recurrent, "scans", lambda *_: True)
    program, config = make_program(splits_of[name], name, seeds)
    stage = next(iter(program.models[0].network.stages), None)
    with reproducible(0, 1):
        program.rehearse()
        for model in program.models:
            model.network.stage = stage
        total = most_steps(len(program.train), config)
        own = [Optimization(m.network, config, total, stage, program.per_epoch) for m in program.models]
        program.begin(0, stage, own)
        program.epoch(1, [True] * len(seeds))
        program.look([True] * len(seeds))
        before = program.log.clone()
        for shape in program.buckets.in_order().shapes:
            program.count.zero_()
            assert captures(lambda shape=shape: program.step(shape)) > 100
        assert not torch.equal(before, program.log)
        for shape in program.look_plan.shapes:
            program.count.zero_()
            assert captures(lambda shape=shape: program._look(shape)) > 50
