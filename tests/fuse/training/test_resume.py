"""An interrupted training goes on to the same bits, wherever it was stopped, even if its process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_corpus import load

from cache_schema.errors import DamagedError
from fuse.archs import hff
from fuse.data import Splits, scales
from fuse.model import Model
from fuse.train import train_run
from fuse.training import checkpoint
from fuse.training.checkpoint import Checkpoint
from fuse.training.config import Group, TrainConfig
from fuse.training.loop import Epoch, fit, reproducible

SMALL = {"d": 12, "steps": 3, "layers": 1, "heads": 2, "head_width": 4, "speech_channels": (4,), "speech_width": 6}
CONFIG = TrainConfig(lr=5e-3, batch_size=16, max_epochs=5, modality_dropout=0.2, plateau_patience=0)


class StoppedError(Exception):
    """The training is interrupted here."""


@pytest.fixture(scope="module")
def splits(toy_store: Path) -> Splits:
    return load(toy_store, "toy", hff.PREFERS)[0]


def train(splits: Splits, config: TrainConfig, path: Path | None, stop: int = 0) -> tuple[dict[str, Tensor], Any]:
    """Weights and history; stopped after epoch `stop`, if that is one, with a checkpoint of every epoch."""

    def watch(epoch: Epoch) -> None:
        if epoch.epoch == stop:
            raise StoppedError

    with reproducible(0, 1):
        torch.manual_seed(0)
        network = hff.build(hff.Config(**SMALL), splits.train.tails, splits.train.target)
        model = Model(network, scales(splits.train, True))
        kept = None if path is None else Checkpoint(path, every=0)
        history = fit(model, splits.train, splits.val, config, 0, watch if stop else None, kept)
    return model.state_dict(), [(e.epoch, e.lr, e.train_loss, e.val_loss, e.best) for e in history]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scheduler": "onecycle"},
        {"scheduler": "cosine", "optimizer": "adam", "shuffle_labels": True},
        {"groups": {"classifier": Group(lr=1e-3, scheduler="onecycle")}},
    ],
    ids=["plateau", "onecycle", "cosine", "groups"],
)
def test_a_resumed_training_gives_the_same_bits(splits: Splits, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update=changes)
    weights, history = train(splits, config, None)
    for stop in (2, 4):  # stopped twice on the way
        with pytest.raises(StoppedError):
            train(splits, config, tmp_path / "checkpoint.pt", stop)
    again, resumed = train(splits, config, tmp_path / "checkpoint.pt")
    assert resumed == history
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_damaged_checkpoint_is_one_line(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(splits, CONFIG, tmp_path / "checkpoint.pt", 1)
    data = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedError, match="Train anew with --fresh") as error:
        train(splits, CONFIG, tmp_path / "checkpoint.pt")
    assert "\n" not in str(error.value)


def test_writing_checkpoints_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 12.0])
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    kept = Checkpoint(tmp_path / "checkpoint.pt", every=5.0)  # at 0
    kept.save({})  # from 10 to 12: the next one is not due for 2 / SHARE seconds
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: 12 + 2 / checkpoint.SHARE - 1)
    assert not kept.due
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: 12 + 2 / checkpoint.SHARE)
    assert kept.due


PROGRAM = """
    import sys, time
    import torch
    from fuse.training import checkpoint
    from fuse.train import train_run

    checkpoint.EVERY_SECONDS = 0.0
    def show(epoch):
        print(epoch.seed, epoch.epoch, flush=True)
        time.sleep(float(sys.argv[4]))
    train_run(sys.argv[1], "toy", "hff", assignments=sys.argv[3].split(), seeds=2, jobs=1, out=sys.argv[2],
              progress=show)
"""


def test_a_killed_process_is_resumed_by_the_same_command(toy_store: Path, tmp_path: Path) -> None:
    settings = (
        "d=12 steps=3 layers=1 heads=2 head_width=4 speech_channels=[4] speech_width=6 batch_size=16 max_epochs=4"
    )
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    root = Path(__file__).parents[3]
    command = [sys.executable, str(program), str(toy_store), str(tmp_path / "runs"), settings, "0.05"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == ["1", "2"]:  # seed 0 is finished, seed 1 has two epochs
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    (left,) = (p for p in (tmp_path / "runs").iterdir() if p.suffix == ".partial")
    assert (left / "seed-0" / "result.json").is_file() and (left / "seed-1" / "checkpoint.pt").is_file()
    (left / "seed-0" / "checkpoint.pt").touch()  # as if it was killed just before its removal
    seen: list[Epoch] = []
    times = time.time()
    given = {"assignments": settings.split(), "seeds": 2, "jobs": 1}
    resumed = train_run(toy_store, "toy", "hff", out=tmp_path / "runs", progress=seen.append, **given)
    assert not left.exists() and [p.name for p in (tmp_path / "runs").iterdir()] == ["hff-toy-1"]
    assert not list((tmp_path / "runs").rglob("checkpoint.*"))
    assert {e.seed for e in seen} == {1}, "seed 0 was finished and is not trained again"
    assert (resumed.run / "seed-0" / "weights.safetensors").stat().st_mtime < times
    whole = train_run(toy_store, "toy", "hff", out=tmp_path / "others", **given)
    assert whole.test == resumed.test and whole.val == resumed.val
    for seed in ("seed-0", "seed-1"):
        files = [(run / seed / "weights.safetensors").read_bytes() for run in (whole.run, resumed.run)]
        assert files[0] == files[1] and not (resumed.run / seed / "checkpoint.pt").exists()
