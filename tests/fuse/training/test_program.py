"""Seeds as one program: what each has alone, in steps that a CUDA graph can hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from refusing import captures
from torch import Tensor
from toy_corpus import load, rows_of, utterances

from cache_schema.errors import SettingsError
from fuse import model as door
from fuse.archs import ARCHS, complementary
from fuse.data import Splits, scales
from fuse.evaluate import evaluate_run
from fuse.model import Model
from fuse.nn import experts, face_crops, recurrent
from fuse.placement import prepare_cuda
from fuse.prediction import DivergedError, predict
from fuse.train import train_run
from fuse.training.checkpoint import Checkpoint
from fuse.training.config import TrainConfig
from fuse.training.graph import Graphs
from fuse.training.loop import Epoch, fit_seeds, reproducible
from fuse.training.losses import Loss
from fuse.training.optimize import Optimization, most_steps
from fuse.training.program import Program

SMALL: dict[str, dict[str, Any]] = {
    "complementary": {"d": 8, "heads": 2, "gat_heads": 2, "expert_width": 8},
    "hff": {"d": 12, "steps": 3, "layers": 2, "heads": 2, "head_width": 4, "speech_channels": (4,), "speech_width": 6},
    "of-cmaer-cat": {"d": 8, "heads": 2, "steps": 2, "layers": 1},
    "symphonia": {"d": 8, "graph_heads": 2, "heads": 2, "tokens": 2, "layers": 1},
}
TWENTY = {"precision": "fp32", "batch_size": 16, "max_epochs": 4, "lr": 1e-3, "modality_dropout": 0.1, "patience": 4}
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
            return Model(network, scales(splits.train, config.standardize)).to(splits.train.dialogues.device)

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
    changes = {"max_epochs": 2} if ARCHS.load(name).TRAINING.groups else {}  # of each of two stages
    together, losses = train(*make_program(splits_of[name], name, [3, 1], **changes))
    assert losses.shape[1] == 20 and together[0][0].train_loss != together[1][0].train_loss
    for place, seed in enumerate([3, 1]):
        alone, own = train(*make_program(splits_of[name], name, [seed], **changes))
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
    for module in (complementary, experts, face_crops, door):
        monkeypatch.setattr(module, "shapes_are_fixed", lambda x: True)
    monkeypatch.setattr(recurrent, "scans", lambda *_: True)
    program, config = make_program(splits_of[name], name, seeds)
    stage = next(iter(program.models[0].network.stages), None)
    with reproducible(0, 1):
        program.rehearse()
        for model in program.models:
            model.network.stage = stage
        total = most_steps(program.train, config)
        own = [Optimization(m.network, config, total, stage, program.per_epoch) for m in program.models]
        program.begin(0, stage, own)
        program.epoch(1, [True] * len(seeds))
        program.look([True] * len(seeds))
        before = program.log.clone()
        for number, shape in enumerate(program.buckets.epoch(seeds, 0, 1).shapes):
            program.count.fill_(number)
            assert captures(lambda shape=shape: program.step(shape)) > 100
        assert not torch.equal(before, program.log)
        for number, shape in enumerate(program.look_plan.shapes):
            program.count.fill_(number)
            assert captures(lambda shape=shape: program._look(shape)) > 50


def test_each_seed_stops_by_itself_and_keeps_its_own_best(splits_of: dict[str, Splits]) -> None:
    changes = {"lr": 2e-2, "max_epochs": 7, "patience": 1, "scheduler": "plateau", "plateau_patience": 0}
    splits = splits_of["hff"]
    program, config = make_program(splits, "hff", [0, 1], **changes)
    together, _ = train(program, config)
    assert len({len(history) for history in together}) > 1, "they stop at different epochs"
    for model, history in zip(program.models, together, strict=True):
        best = [e for e in history if e.best][-1]
        kept = predict(model, splits.val, 16, Loss(config, splits.train))
        assert kept.loss == pytest.approx(best.val_loss, abs=1e-5) and kept.measure(splits.val.target) == best.val
    (alone,), _ = train(*make_program(splits, "hff", [1], **changes))
    assert [(e.epoch, e.best, e.lr) for e in together[1]] == [(e.epoch, e.best, e.lr) for e in alone]


class StoppedError(Exception):
    """The training is interrupted here."""


@pytest.mark.parametrize("name", ["complementary", "hff"])
def test_seeds_together_go_on_to_the_same_bits(splits_of: dict[str, Splits], name: str, tmp_path: Path) -> None:
    """One has two stages and a schedule over its steps, the other one that looks at validation."""
    changes = {"max_epochs": 3, "plateau_patience": 0}

    def stop(epoch: Epoch) -> None:
        if (epoch.seed, epoch.epoch, epoch.stage) in ((0, 2, "sum_product"), (0, 2, "")):
            raise StoppedError

    program, config = make_program(splits_of[name], name, [0, 1], **changes)
    whole, _ = train(program, config)
    with pytest.raises(StoppedError):
        cut, _ = make_program(splits_of[name], name, [0, 1], **changes)
        train(cut, config, progress=stop, checkpoint=Checkpoint(tmp_path / "together.pt", every=0))
    again, _ = make_program(splits_of[name], name, [0, 1], **changes)
    resumed, _ = train(again, config, checkpoint=Checkpoint(tmp_path / "together.pt", every=0))
    for one, other in zip(whole, resumed, strict=True):
        assert [(e.epoch, e.stage, e.lr, e.train_loss, e.val_loss) for e in one] == [
            (e.epoch, e.stage, e.lr, e.train_loss, e.val_loss) for e in other
        ]
    for model, other in zip(program.models, again.models, strict=True):
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_divergence_names_seed_step_and_utterances(splits_of: dict[str, Splits]) -> None:
    splits = splits_of["hff"]
    data = replace(splits.train, frames={**splits.train.frames, "text": splits.train.frames["text"].clone()})
    row = int(torch.nonzero(data.lengths["text"])[3])
    data.frames["text"][data.starts["text"][row]] = float("inf")
    program, config = make_program(replace(splits, train=data), "hff", [0, 1], standardize=False)
    with pytest.raises(DivergedError, match=r"at seed [01], epoch 1, step \d+: the loss is nan") as error:
        train(program, config)
    step = int(str(error.value).partition("step ")[2].partition(":")[0])
    assert f"the batch was {data.ids[int(program.rows[0, (step - 1) * 16])]}" in str(error.value)


@pytest.mark.parametrize(("changes", "why"), [({"time": "dialogue"}, "dialogues"), ({"shuffle_labels": True}, "label")])
def test_what_cannot_be_one_program_is_said(splits_of: dict[str, Splits], changes: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        make_program(splits_of["hff"], "hff", [0, 1], **changes)


def test_a_run_of_seeds_together_has_the_files_and_the_numbers_of_one_apart(make_store: Any, tmp_path: Path) -> None:
    samples = utterances()
    rows = {"text": rows_of("text", samples, signal=0.4)}
    store = make_store(rows=rows, modalities=("text",))
    given = [f"{k}={json.dumps(v)}" for k, v in SMALL["hff"].items()]
    given += ["lr=0.005", "batch_size=16", "max_epochs=6"]
    results = []
    for together in (True, False):
        said: list[str] = []
        result = train_run(
            store, "toy", "hff", assignments=given, seeds=4, jobs=1, out=tmp_path, together=together, say=said.append
        )
        assert said == [] and result.record.execution["seeds"] == ("together" if together else "apart")
        assert evaluate_run(result.run)["identical"] is True
        results.append(result)
    files = [sorted(str(p.relative_to(r.run)) for p in r.run.rglob("*")) for r in results]
    assert files[0] == files[1]
    one, other = (r.test["accuracy"] for r in results)
    assert one["sd"] > 0 and abs(one["mean"] - other["mean"]) <= one["sd"] + other["sd"]


def test_seeds_that_cannot_be_together_train_one_after_the_other(toy_store: Path, tmp_path: Path) -> None:
    said: list[str] = []
    given = [f"{k}={json.dumps(v)}" for k, v in SMALL["hff"].items()] + ["time=dialogue", "max_epochs=1"]
    result = train_run(
        toy_store, "toy", "hff", assignments=given, seeds=2, jobs=1, out=tmp_path, together=True, say=said.append
    )
    assert said == ["The seeds train one after the other (whole dialogues make batches of many shapes)."]
    assert [r.execution["seeds"] for r in result.seeds] == ["apart", "apart"]


def test_what_cannot_be_captured_runs_as_it_is_and_is_said() -> None:
    """Where there is no GPU no graph can be made: as good a failure as any."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    said: list[str] = []
    generator = Mock(device=torch.device("cuda"))  # a state that a failed capture was drawing from draws no more
    graphs, done = Graphs(torch.device("cpu"), [generator], said.append), []
    graphs.enabled = True
    for number in range(5):
        graphs.run("work", lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == [0, 1, 2, 3, 4] and graphs.captured == 0
    assert len(said) == 1 and said[0].startswith("A step could not be captured as a CUDA graph")
    generator.graphsafe_set_state.assert_called_once_with(generator.clone_state.return_value)


class Ending:
    """Ends a capture as torch does: where it was invalidated that is an error, too."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


@pytest.mark.parametrize("trouble", [None, RuntimeError("not currently recording"), AttributeError("torch is old")])
def test_a_capture_that_fails_leaves_its_memory_and_says_what_came_first(
    trouble: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, said = Mock(side_effect=trouble), list[str]()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Mock)
    monkeypatch.setattr(torch.cuda, "graph", Ending)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ended, raising=False)
    graphs, done = Graphs(torch.device("cpu"), [], said.append), []
    graphs.enabled = True

    def work() -> None:
        done.append(len(done))
        if len(done) == 3:
            raise TypeError("of a kind that CUDA does not raise")

    for _ in range(4):
        graphs.run("work", work)
    assert done == [0, 1, 2, 3, 4], "what failed was done again as it is"
    assert len(said) == 1 and "(of a kind that CUDA does not raise)" in said[0]
    ended.assert_called_once_with(0, (0, 7))


@pytest.mark.gpu
@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]], ids=["alone", "together"])
def test_graphs_give_the_losses_of_eager_steps(splits_of: dict[str, Splits], name: str, seeds: list[int]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    prepare_cuda()
    device, found, said = torch.device("cuda"), [], list[str]()
    splits = splits_of[name].to(device)
    for enabled in (True, False):
        program, config = make_program(splits, name, seeds, said)
        program.graphs.enabled = enabled
        histories, losses = train(program, config)
        assert program.execution["step"] == ("graph" if enabled else "eager") and said == []
        found.append((losses.cpu(), torch.tensor([[e.val_loss for e in own] for own in histories])))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_a_capture_that_fails_goes_on_with_the_same_numbers() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    device, said, drawn = torch.device("cuda", 0), list[str](), [list[float](), list[float]()]
    for found, waits in zip(drawn, (True, False), strict=True):
        generator = torch.Generator(device).manual_seed(1)
        torch.cuda.manual_seed(1)
        graphs = Graphs(device, [generator], said.append)
        graphs.enabled = waits

        def work(found: list[float] = found, generator: torch.Generator = generator) -> None:
            own = torch.rand(1, device=device, generator=generator) + torch.rand(1, device=device)
            found.append(float(own))  # waits for the device

        with graphs.stream():
            for _ in range(5):
                graphs.run("work", work)
        torch.cuda.empty_cache()  # which raises as long as a capture is thought to be underway
    assert drawn[0] == drawn[1] and len(drawn[0]) == 5 and len(said) == 1
