"""Steps, epochs and whole trainings of every architecture on a device, one seed and many, padded and real lengths.

- mer: the seeds as one program (`fuse/training/program.py`), whose steps are CUDA graphs on a GPU;
- eager: one model's steps as they come (`fuse/training/steps.py`), so many times as there are seeds;
- compiled, and compiled with a graph: torch.compile over the model of one seed, default and `reduce-overhead`, on one
  batch of the greatest length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

from bench.clock import Clock, Time
from bench.meld_like import LONGEST, make_data
from cache_schema.errors import first_line
from fuse.archs import ARCHS
from fuse.data import Dataset, Selection, scales
from fuse.model import Model
from fuse.training.config import TrainConfig
from fuse.training.loop import reproducible
from fuse.training.losses import Loss
from fuse.training.optimize import Optimization, most_steps
from fuse.training.program import Program
from fuse.training.seeds import Job, train_seeds
from fuse.training.steps import PlainSteps, loss_of

ARCHITECTURES = ("complementary", "hff", "of-cmaer-cat", "symphonia")
SMALL: dict[str, dict[str, object]] = {
    "complementary": {"d": 16, "gat_heads": 2, "heads": 2, "gat_layers": 1},
    "hff": {"d": 12, "layers": 1, "steps": 2, "speech_channels": (4,)},
    "of-cmaer-cat": {"d": 12, "layers": 1, "steps": 2},
    "symphonia": {"d": 16, "layers": 1, "tokens": 2},
}
EPOCHS = 3
SHORT = 0.8
"""Seconds of the longest utterance of a small run."""


def measure(clock: Clock, seeds: Sequence[int], count: int, small: bool, until: float) -> Iterator[dict[str, Any]]:
    """A row for each architecture, kind of lengths and number of seeds.

    Args:
        clock: on which device.
        seeds: how many models at once.
        count: utterances.
        small: small models.
        until: when (`time.perf_counter`) nothing more is begun.
    """
    for name in ARCHITECTURES:
        module = ARCHS.load(name)
        data, size = data_of(module, count, small), settings_of(module, small).batch_size
        for lengths, own in (("real", data), ("padded", longest(data, size))):
            for number in seeds:
                if time.perf_counter() > until:
                    return
                row = {"arch": name, "lengths": lengths, "seeds": number, "utterances": len(own)}
                try:
                    yield row | epochs(module, own.to(clock.device), number, clock, small)
                except Exception as error:  # noqa: BLE001 - the others are measured all the same
                    yield row | {"why": f"{type(error).__name__}: {first_line(error)}"}


def longest(data: Dataset, size: int) -> Dataset:
    """One batch's worth of utterances, each one the longest that there is, so often that they make as many steps."""
    cost = torch.stack(list(data.lengths.values())).sum(dim=0)
    return data.select(cost.argmax().repeat(max(size, min(len(data), 4 * size))))


def data_of(module: ModuleType, count: int, small: bool) -> Dataset:
    """What the architecture reads, short where the run is small."""
    return make_data(module, count, longest=SHORT if small else LONGEST)


def settings_of(module: ModuleType, small: bool) -> TrainConfig:
    """The architecture's settings of training, with small batches where the run is small."""
    config: TrainConfig = module.TRAINING
    return config.model_copy(update={"batch_size": 4}) if small else config


def model_of(module: ModuleType, name: str, data: Dataset, small: bool) -> Model:
    """An untrained model on the device of the data."""
    config = module.Config(**(SMALL[name] if small else {}))
    network = module.build(config, data.tails, data.target)
    return Model(network, scales(data, True)).to(data.dialogues.device)


def epochs(module: ModuleType, data: Dataset, seeds: int, clock: Clock, small: bool) -> dict[str, Any]:
    """Seconds of an epoch of `seeds` models, mer's way and eager; stages are added."""
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    config = settings_of(module, small)
    mine, said = [], list[str]()
    with reproducible(0, None):
        models = [model_of(module, name, data, small) for _ in range(seeds)]
        program = Program(models, data, data, config, range(seeds), said.append)
        program.rehearse()
        stages: tuple[str | None, ...] = models[0].network.stages or (None,)
        totals = [0.0] * (1 if small else EPOCHS)
        for number, stage in enumerate(stages):
            for model in models:
                model.network.stage = stage
            total = most_steps(data, config)
            program.begin(
                number, stage, [Optimization(m.network, config, total, stage, program.per_epoch) for m in models]
            )
            for epoch in range(-1 if small else -2, len(totals)):  # two epochs in which graphs are captured
                clock.wait()
                begun = time.perf_counter()
                program.epoch(epoch + 3, [True] * seeds)
                clock.wait()
                if epoch >= 0:
                    totals[epoch] += time.perf_counter() - begun
        mine = totals
        execution = program.execution
        program.release()
        eager = eager_epoch(module, name, data, clock, small)
    ours, steps = Time.of(mine), program.per_epoch * len(stages)
    return {
        "epoch": ours,
        "step": Time(*(x / steps for x in (ours.median, ours.low, ours.high))),
        "eager": eager.median * seeds,
        "over_eager": eager.median * seeds / ours.median,
        "execution": dict(execution),
        "said": said,
    }


def eager_epoch(module: ModuleType, name: str, data: Dataset, clock: Clock, small: bool) -> Time:
    """Seconds of an epoch of one model, its steps one after the other."""
    config = settings_of(module, small)
    model = model_of(module, name, data, small)
    totals = [0.0] * (1 if small else EPOCHS)
    for number, stage in enumerate(model.network.stages or (None,)):
        model.network.stage = stage
        steps = PlainSteps(model, data, data, config, 0)
        steps.begin(number, stage, [Optimization(model.network, config, most_steps(data, config), stage)])
        for epoch in range(-1, len(totals)):
            clock.wait()
            begun = time.perf_counter()
            steps.epoch(epoch + 2, [True])
            clock.wait()
            if epoch >= 0:
                totals[epoch] += time.perf_counter() - begun
    model.network.stage = None
    return Time.of(totals)


def compiled(name: str, clock: Clock, count: int, small: bool) -> dict[str, Time | str]:
    """A step of one model on one batch: eager, compiled, and compiled with a graph."""
    module = ARCHS.load(name)
    data = data_of(module, count, small).to(clock.device)
    config = settings_of(module, small)
    order = torch.argsort(data.cost)[-config.batch_size :].to(clock.device)
    batch, criterion = data.batch(order), Loss(config, data)
    found: dict[str, Time | str] = {}
    for way, mode in (("eager", ""), ("compiled", "default"), ("compiled, graph", "reduce-overhead")):
        if small and mode:
            continue
        model = model_of(module, name, data, small).train()
        model.network.stage = next(iter(model.network.stages), None)
        optimization = Optimization(model.network, config, 1000, model.network.stage)
        torch._dynamo.reset()
        forward: Any = torch.compile(model, mode=mode, dynamic=False) if mode else model

        def step(forward: Any = forward, optimization: Optimization = optimization) -> None:
            loss = loss_of(forward(batch), batch, criterion)
            optimization.zero_grad()
            torch.autograd.backward(loss)
            if config.clip is not None:
                torch.nn.utils.clip_grad_norm_(optimization.parameters, config.clip)
            optimization.step()

        try:
            found[way] = clock.time(step)
        except Exception as error:  # noqa: BLE001 - what cannot be compiled is a result
            found[way] = f"{type(error).__name__}: {first_line(error)}"
    return found


def training(name: str, device: torch.device, count: int, epochs: int, seeds: int, small: bool) -> dict[str, Any]:
    """Seconds of a whole training of several seeds, from data in memory to measured validation."""
    module = ARCHS.load(name)
    data = data_of(module, count, small)
    cut, rows = len(data) * 4 // 5, torch.arange(len(data))
    config = settings_of(module, small).model_copy(update={"max_epochs": epochs, "patience": epochs})
    folds = {"all": Selection(data.select(rows[:cut]), data.select(rows[cut:]))}
    job = Job(name, module.Config(**(SMALL[name] if small else {})), config, folds, str(device), None)
    begun = time.perf_counter()
    results = train_seeds(replace(job, together=True), range(seeds), "all")
    seconds = time.perf_counter() - begun
    return {"arch": name, "seeds": seeds, "epochs": epochs, "utterances": count, "seconds": seconds} | {
        "execution": results[0].execution
    }
