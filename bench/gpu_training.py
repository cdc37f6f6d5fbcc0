"""Steps, epochs and whole trainings of every architecture on a device, one seed and many, padded and real lengths.

- mer: the seeds as one program (`fuse/training/program.py`), whose steps are CUDA graphs on a GPU;
- eager: one model's steps as they come (`fuse/training/steps.py`), so many times as there are seeds;
- compiled, and compiled with a graph: torch.compile over the model of one seed, on one batch of the greatest length;
  the graph is of the whole step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import torch

from bench.clock import Clock, Time
from bench.gpu_apart import Item, Row
from bench.gpu_kernels import require_alive, said
from bench.meld_like import LONGEST, make_data
from fuse.archs import ARCHS
from fuse.data import Dataset, Selection, scales
from fuse.kernels import dispatch
from fuse.model import Model
from fuse.training.config import TrainConfig
from fuse.training.graph import WARM_UP
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
TOGETHER, WHOLE = 5, 20
"""Seeds and epochs of a whole training."""
SHORT = 0.8
"""Seconds of the longest utterance of a small run."""


def items(seeds: Sequence[int], small: bool) -> list[Item]:
    """What `measure` takes in turn, the most wanted first: architecture, what is measured, lengths, number of seeds."""

    def epochs(lengths: str) -> list[Item]:
        return [(name, "epochs", lengths, number) for number in seeds for name in ARCHITECTURES]

    whole = [(name, "training", "real", 2 if small else TOGETHER) for name in ARCHITECTURES]
    return [*epochs("real"), *whole, *epochs("padded"), *[(name, "compiled", "real", 1) for name in ARCHITECTURES]]


def measure(todo: Sequence[Item], clock: Clock, count: int, small: bool, until: float) -> Iterator[Row]:
    """A row for each item: `section` is what was measured; `why` where it cannot be.

    Args:
        todo: as `items`.
        clock: on which device.
        count: utterances.
        small: small models.
        until: when (`time.monotonic`) nothing more is begun.
    """
    for place, (name, section, lengths, number) in enumerate(todo):
        if time.monotonic() > until:
            return
        yield {"item": place}
        measured: dict[str, Callable[[], Row]] = {
            "epochs": partial(epochs, name, lengths, number, clock, count, small),
            "training": partial(training, name, number, clock, count, small),
            "compiled": partial(compiled, name, clock, count, small),
        }
        row = {"section": section, "arch": name, "lengths": lengths, "seeds": number}
        try:
            found = measured[section]()
        except Exception as error:  # noqa: BLE001 - the others are measured all the same
            require_alive(clock.device)
            found = {"why": said(error)}
        missing = sorted(dispatch.failed)
        dispatch.failed.clear()
        yield row | found | {"without kernels": missing}


@lru_cache
def data_of(name: str, lengths: str, count: int, small: bool) -> Dataset:
    """What an architecture reads, short where the run is small; "padded": one batch's worth of utterances, each one the
    longest that there is, so often that they make as many steps."""
    module = ARCHS.load(name)
    if lengths == "real":
        return make_data(module, count, longest=SHORT if small else LONGEST)
    data, size = data_of(name, "real", count, small), settings_of(module, small).batch_size
    cost = torch.stack(list(data.lengths.values())).sum(dim=0)
    return data.select(cost.argmax().repeat(max(size, min(len(data), 4 * size))))


def settings_of(module: ModuleType, small: bool) -> TrainConfig:
    """The architecture's settings of training, with small batches where the run is small."""
    config: TrainConfig = module.TRAINING
    return config.model_copy(update={"batch_size": 4}) if small else config


def model_of(module: ModuleType, name: str, data: Dataset, small: bool) -> Model:
    """An untrained model on the device of the data."""
    config = module.Config(**(SMALL[name] if small else {}))
    network = module.build(config, data.tails, data.target)
    return Model(network, scales(data, True)).to(data.dialogues.device)


def epochs(name: str, lengths: str, seeds: int, clock: Clock, count: int, small: bool) -> Row:
    """Seconds of an epoch of `seeds` models, mer's way and eager; stages are added."""
    module, data = ARCHS.load(name), data_of(name, lengths, count, small).to(clock.device)
    config = settings_of(module, small)
    told = list[str]()
    with reproducible(0, None):
        models = [model_of(module, name, data, small) for _ in range(seeds)]
        program = Program(models, data, data, config, range(seeds), told.append)
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
            # A step that comes once an epoch is captured in the first epoch after WARM_UP: none of these is counted.
            first = -1 if small else -1 - WARM_UP
            for epoch in range(first, len(totals)):
                clock.wait()
                begun = time.perf_counter()
                program.epoch(epoch - first + 1, [True] * seeds)
                clock.wait()
                if epoch >= 0:
                    totals[epoch] += time.perf_counter() - begun
        execution = program.execution
        program.release()
    eager = eager_epoch(name, lengths, clock, count, small)
    ours, steps = Time.of(totals), program.per_epoch * len(stages)
    return {
        "utterances": len(data),
        "epoch": ours,
        "step": Time(*(x / steps for x in (ours.median, ours.low, ours.high))),
        "eager": eager.median * seeds,
        "over_eager": eager.median * seeds / ours.median,
        "execution": dict(execution),
        "said": told,
    }


@lru_cache
def eager_epoch(name: str, lengths: str, clock: Clock, count: int, small: bool) -> Time:
    """Seconds of an epoch of one model, its steps one after the other."""
    module, data = ARCHS.load(name), data_of(name, lengths, count, small).to(clock.device)
    config = settings_of(module, small)
    with reproducible(0, None):
        return _eager_epoch(model_of(module, name, data, small), data, config, clock, 1 if small else EPOCHS)


def _eager_epoch(model: Model, data: Dataset, config: TrainConfig, clock: Clock, count: int) -> Time:
    totals = [0.0] * count
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


def compiled(name: str, clock: Clock, count: int, small: bool) -> Row:
    """A step of one model on its longest batch: eager, compiled, and compiled with a graph of the whole step."""
    module, data = ARCHS.load(name), data_of(name, "real", count, small).to(clock.device)
    config = settings_of(module, small)
    order = torch.argsort(data.cost)[-config.batch_size :].to(clock.device)
    batch, criterion = data.batch(order), Loss(config, data)
    zero = torch.zeros(1, dtype=torch.int64, device=clock.device)
    found: dict[str, Time | str] = {}
    for way in ("eager",) if small else ("eager", "compiled"):
        model = model_of(module, name, data, small).train()
        model.network.stage = next(iter(model.network.stages), None)
        optimization = Optimization(model.network, config, 1000, model.network.stage, 1)
        optimization.epoch_begins()
        torch._dynamo.reset()
        forward: Any = model if way == "eager" else torch.compile(model, dynamic=False)

        def step(forward: Any = forward, optimization: Optimization = optimization) -> None:
            loss = loss_of(forward(batch), batch, criterion)
            optimization.zero_grad()
            torch.autograd.backward(loss)
            if config.clip is not None:
                torch.nn.utils.clip_grad_norm_(optimization.parameters, config.clip)
            optimization.step_at(zero)

        try:
            found[way] = clock.time(step)
            if way == "compiled" and clock.device.type == "cuda":
                found["compiled, graph"] = clock.time(clock.graph(step))
        except Exception as error:  # noqa: BLE001 - what cannot be compiled is a result
            require_alive(clock.device)
            found[f"{way}, graph" if way in found else way] = said(error)
    return {"times": found}


def training(name: str, seeds: int, clock: Clock, count: int, small: bool) -> Row:
    """Seconds of a whole training of several seeds, from data in memory to measured validation."""
    module, data = ARCHS.load(name), data_of(name, "real", count, small)
    cut, rows = len(data) * 4 // 5, torch.arange(len(data))
    number = 1 if small else WHOLE
    config = settings_of(module, small).model_copy(update={"max_epochs": number, "patience": number})
    folds = {"all": Selection(data.select(rows[:cut]), data.select(rows[cut:]))}
    job = Job(name, module.Config(**(SMALL[name] if small else {})), config, folds, str(clock.device), None)
    begun = time.perf_counter()
    results = train_seeds(replace(job, together=True), range(seeds), "all")
    seconds = time.perf_counter() - begun
    return {"epochs": number, "utterances": count, "seconds": seconds, "execution": results[0].execution}
