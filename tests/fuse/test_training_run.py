"""A whole run: from the store to the folder, read back, measured again; seeds side by side; nothing half-written."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from toy_corpus import CLASSES, commit, rows_of, spec, utterances

import fuse.train
from cache_schema.errors import DamagedError, MerError, SettingsError
from cache_schema.store import FeatureStore
from fuse import metrics
from fuse.archs import hff, symphonia
from fuse.archs.hff import Config
from fuse.evaluate import evaluate_run
from fuse.prediction import DivergedError
from fuse.protocols import Protocol
from fuse.run import load, new_folder
from fuse.train import Result, code_digest, train_run
from fuse.training.loop import Epoch
from fuse.training.workers import Workers, at_once

SMALL = ["d=12", "steps=3", "layers=1", "heads=2", "head_width=4", "speech_channels=[4]", "speech_width=6"]
FAST = [*SMALL, "lr=0.005", "batch_size=16", "max_epochs=6"]
Build = Callable[..., Path]


def run(store: Path, out: Path, **changes: Any) -> Result:
    given = {"assignments": FAST, "seeds": 2, "jobs": 1, "out": out} | changes
    return train_run(store, "toy", "hff", **given)


@pytest.fixture(scope="module")
def finished(toy_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One run that nobody changes."""
    return run(toy_store, tmp_path_factory.mktemp("runs"))


def test_the_code_that_others_began_with_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The architecture's file, the shared pieces, the kernels in their folders and the products."""
    found = {code_digest(module) for module in (hff, symphonia)}
    folders = [tmp_path / folder.relative_to(fuse.train.HERE.parent) for folder in fuse.train.SHARED_CODE]
    monkeypatch.setattr(fuse.train, "HERE", tmp_path / "fuse")
    monkeypatch.setattr(fuse.train, "SHARED_CODE", folders)
    written = ["fuse/nn/one.py", "fuse/kernels/dispatch.py", "fuse/kernels/scan/triton.py", "compute/products.py"]
    for number, name in enumerate(written):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        for text in ("", "# changed"):
            (tmp_path / name).write_text(text, "utf-8")
            found.add(code_digest(hff))
        assert len(found) == 2 * (number + 2)


def test_so_many_seeds_at_once_that_no_core_is_left_idle() -> None:
    """As many as there are cores where that comes out even; else more, which share them."""
    asked = {(1, 8): 1, (3, 8): 3, (4, 2): 2, (5, 2): 3, (5, 4): 5, (10, 4): 5, (100, 64): 100, (2, 1): 1}
    assert {given: at_once(*given) for given in asked} == asked


def test_json_is_the_contract(finished: Result) -> None:
    found = json.loads(json.dumps(finished.as_json(), allow_nan=False))
    assert set(found) == {"arch", "dataset", "seeds", "run", "task", "test", "val", "seconds", "parameters"}
    assert (found["arch"], found["dataset"], found["seeds"], found["task"]) == ("hff", "toy", [0, 1], "classification")
    for split in ("test", "val"):
        assert tuple(found[split]) == metrics.CLASSIFICATION
        for values in found[split].values():
            assert set(values) == {"mean", "sd", "ci95", "per_seed"} and len(values["per_seed"]) == 2
    assert found["test"]["accuracy"]["mean"] > 0.6
    assert Path(found["run"]).name == "hff-toy-1"


def test_the_model_card_says_what_it_is_and_what_it_is_not_for(finished: Result) -> None:
    card = (finished.run / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: mer\n") and "# hff on toy" in card
    mean = finished.test["weighted_f1"]["mean"]
    for said in (
        f"| weighted_f1 | {mean:.4f} ±",
        "licence:",
        "must not be used",
        "- train: ",
        finished.record.store_digest,
    ):
        assert said in card, said
    for modality, feature in finished.record.features.items():
        assert f"- {modality}: {feature['name']} (" in card and feature["fingerprint"] in card


def test_the_folder_says_where_every_number_came_from(finished: Result, toy_store: Path) -> None:
    record = json.loads((finished.run / "run.json").read_text())
    store = FeatureStore.open(toy_store)
    for modality, name in (("speech", "mfcc"), ("text", "roberta"), ("vision", "resnet")):
        feature = store.feature("toy", name)
        recorded = record["features"][modality]
        assert (recorded["fingerprint"], recorded["digest"]) == (feature.fingerprint, feature.digest())
        assert recorded["random_weights"] is False
    assert set(record["config"]) == set(Config.model_fields) and record["config"]["d"] == 12
    assert record["training"]["lr"] == 0.005 and record["training"]["weight_decay"] == 0.01
    assert record["splits"]["train"]["utterances"] == 80
    assert {"python", "torch", "mer", "numpy"} <= set(record["versions"])
    assert record["threads"] == 1 and record["device"] == "cpu" and record["seeds"] == [0, 1]


def test_predictions_give_the_metrics_again(finished: Result) -> None:
    for seed, place in ((0, 0), (1, 1)):
        table = pq.read_table(finished.run / f"seed-{seed}" / "predictions.parquet").to_pydict()
        test = [i for i, split in enumerate(table["split"]) if split == "test"]
        right = [table["target"][i] == table["prediction"][i] for i in test]
        assert np.mean(right) == finished.test["accuracy"]["per_seed"][place]
        chances = np.array([table[f"probability_{c}"] for c in CLASSES])
        np.testing.assert_allclose(chances.sum(0), 1, atol=1e-5)
        assert [CLASSES[i] for i in chances.argmax(0)] == table["prediction"]
        alphas = np.array([table[f"alpha_{m}"] for m in ("speech", "text", "vision")])
        np.testing.assert_allclose(alphas.sum(0), 1, atol=1e-5)
        by_id = {u.id: u for u in utterances()}
        assert [by_id[i].labels["emotion"] for i in table["id"]] == table["target"]
        with (finished.run / f"seed-{seed}" / "confusion.csv").open() as file:
            cells = np.array([[int(c) for c in row[1:]] for row in list(csv.reader(file))[1:]])
        assert cells.sum() == len(test) and np.trace(cells) == sum(right)
        with (finished.run / f"seed-{seed}" / "history.csv").open() as file:
            history = list(csv.DictReader(file))
        assert len(history) == finished.seeds[place].epochs
        best = [int(row["epoch"]) for row in history if row["best"] == "1"][-1]
        assert best == finished.seeds[place].best_epoch


def test_evaluation_gives_the_same_bits(finished: Result) -> None:
    for split in ("test", "val"):
        found = evaluate_run(finished.run, split=split)  # type: ignore[arg-type]
        assert found["identical"] is True and found["changed"] == []
        assert found[split] == getattr(finished, split)


def test_auto_is_the_device_that_there_is(
    finished: Result, toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(toy_store, tmp_path, device="auto")
    assert result.record.device == "cpu" and result.test == finished.test
    assert evaluate_run(finished.run, device="auto")["identical"] is True


def test_draws_are_repeated_by_evaluation(toy_store: Path, tmp_path: Path) -> None:
    result = run(toy_store, tmp_path, assignments=[*FAST, "mc_samples=3", "max_epochs=2"], seeds=[7])
    assert evaluate_run(result.run)["identical"] is True
    table = pq.read_table(result.run / "seed-7" / "predictions.parquet").to_pydict()
    assert min(table["predictive_entropy"]) > 0 and result.test["accuracy"]["sd"] is None


def test_two_lines_load_a_model(finished: Result) -> None:
    model = load(finished.run).model(seed=1)
    assert not model.training and model.network.modalities == ("speech", "text", "vision")
    with pytest.raises(MerError, match="no seed 9; it has 0, 1"):
        load(finished.run).model(seed=9)


def test_evaluation_refuses_other_data_unless_told(make_store: Build, tmp_path: Path) -> None:
    path = make_store(modalities=("text",))
    result = run(path, tmp_path, seeds=1)
    other = make_store(rows={"text": rows_of("text", utterances(), signal=1.0)}, modalities=("text",))
    with pytest.raises(DamagedError, match=r"text feature roberta of the test split is another.*--allow-changed"):
        evaluate_run(result.run, store_path=other)
    found = evaluate_run(result.run, store_path=other, allow_changed=True)
    assert found["identical"] is False and len(found["changed"]) == 1


def test_evaluation_notices_changed_weights(finished: Result, tmp_path: Path) -> None:
    copy = shutil.copytree(finished.run, tmp_path / "copy")
    shutil.copy(copy / "seed-0" / "weights.safetensors", copy / "seed-1" / "weights.safetensors")
    assert evaluate_run(copy)["identical"] is False


def test_random_weights_are_said(make_store: Build, tmp_path: Path) -> None:
    path = make_store(modalities=())
    store = FeatureStore.open(path, mode="a")
    commit(store, "toy", spec("text", random_weights=True), rows_of("text", utterances()))
    assert run(path, tmp_path, seeds=1).record.random_weights is True


def test_runs_are_numbered_and_never_written_over(finished: Result, toy_store: Path) -> None:
    before = (finished.run / "run.json").read_bytes()
    again = run(toy_store, finished.run.parent, seeds=1)
    assert again.run.name == "hff-toy-2" and (finished.run / "run.json").read_bytes() == before
    assert not [p for p in finished.run.parent.iterdir() if p.name.startswith(".")]


def test_a_seed_does_not_depend_on_the_others_nor_on_how_many_run_at_a_time(
    finished: Result, toy_store: Path, tmp_path: Path
) -> None:
    seen = []
    with Workers(2) as workers:
        together = run(toy_store, tmp_path, seeds=[1, 0], workers=workers, progress=seen.append)
    for split in ("test", "val"):
        for metric, values in getattr(finished, split).items():
            assert getattr(together, split)[metric]["per_seed"] == values["per_seed"][::-1]
    for seed in (0, 1):
        mine = (finished.run / f"seed-{seed}" / "weights.safetensors").read_bytes()
        assert (together.run / f"seed-{seed}" / "weights.safetensors").read_bytes() == mine
    assert {(e.seed, e.epoch) for e in seen} == {(r.seed, e) for r in together.seeds for e in range(1, r.epochs + 1)}


def test_a_failed_run_leaves_nothing(toy_store: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        run(toy_store, tmp_path, assignments=[*SMALL, "lr=1e30", "clip=null"], seeds=1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DivergedError, match=r"^fold 1: Training diverged at seed 0, epoch 1, step \d+"):
        run(
            toy_store,
            tmp_path,
            assignments=[*SMALL, "lr=1e30", "clip=null"],
            seeds=1,
            protocol=Protocol(folds="kfold:dialogue:2"),
        )


def test_what_was_finished_is_kept_where_memory_or_disk_ran_out(toy_store: Path, tmp_path: Path) -> None:
    """The numbers do not depend on the number of jobs, so that fewer of them may go on with it."""

    def stop(epoch: Epoch) -> None:
        if epoch.seed == 1:
            raise MemoryError

    given: dict[str, Any] = {"modalities": ["text"], "assignments": [*FAST, "max_epochs=1"]}
    with pytest.raises(MemoryError):
        run(toy_store, tmp_path, progress=stop, **given)
    seen: list[Epoch] = []
    result = run(toy_store, tmp_path, progress=seen.append, **given)
    assert {e.seed for e in seen} == {1} and [p.name for p in tmp_path.iterdir()] == [result.run.name]


def test_a_run_goes_on_only_under_the_same_names_of_classes(toy_store: Path, tmp_path: Path) -> None:
    """Predictions are written by name: what was begun under other names, or another protocol, is begun anew."""

    def stop(epoch: Epoch) -> None:
        if epoch.seed == 1:
            raise KeyboardInterrupt

    given: dict[str, Any] = {"modalities": ["text"], "assignments": [*FAST, "max_epochs=1"]}
    with pytest.raises(KeyboardInterrupt):
        run(toy_store, tmp_path, protocol=Protocol(labels={"joy": "happiness"}), progress=stop, **given)
    seen: list[Epoch] = []
    result = run(toy_store, tmp_path, protocol=Protocol(labels={"joy": "delight"}), progress=seen.append, **given)
    assert {e.seed for e in seen} == {0, 1} and "delight" in result.record.target.classes
    for seed in (0, 1):
        names = pq.read_table(result.run / f"seed-{seed}" / "predictions.parquet").column_names
        assert "probability_delight" in names and "probability_happiness" not in names


def test_where_files_cannot_be_locked_no_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some cluster file systems have no locks; taken for a lock of others, that would be waited for for ever."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    refused = pytest.raises(MerError, match=r"no file can be locked there .*: choose another --out")
    with refused, new_folder(tmp_path, "hff", "toy", "1234"):
        pass
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_is_found_again_by_the_same_training_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path, "hff", "toy", "1234") as (folder, _):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path, "hff", "toy", "1234") as (folder, _):
        assert (folder / "half").read_text() == "x"
        with pytest.raises(ValueError, match="other"), new_folder(tmp_path, "hff", "toy", "1234") as (other, _):
            assert other != folder and not list(other.iterdir())  # the first one is being written into
            raise ValueError("other")
        raise KeyboardInterrupt
    with new_folder(tmp_path, "hff", "toy", "5678") as (folder, final):
        assert not list(folder.iterdir())
    assert final[0].name == "hff-toy-1"
    with new_folder(tmp_path, "hff", "toy", "1234", fresh=True) as (folder, final):
        assert not list(folder.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hff-toy-1", "hff-toy-2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"assignments": ["atention=off"]},
            "no setting of hff or of training called 'atention'. Did you mean 'attention'",
        ),
        ({"assignments": ["lr=-1"]}, "training: lr = -1"),
        ({"assignments": ["attention=none"]}, "hff: There is no attention called 'none'. Known: fused"),
        ({"assignments": ["steps"]}, "not of the form field=value"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": [1, 1]}, "every seed once"),
        ({"device": "cuda"}, "The device 'cuda' cannot be used"),
        ({"device": "gpu"}, "no device called 'gpu'"),
        ({"assignments": ["monitor=mae"]}, "no metric of emotion"),
    ],
)
def test_wrong_settings_are_one_line(toy_store: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SettingsError, match=message) as error:
        run(toy_store, tmp_path, **changes)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_an_unknown_architecture_is_named(toy_store: Path) -> None:
    with pytest.raises(SettingsError, match=r"no architecture or baseline called 'hf'\. Did you mean 'hff'"):
        train_run(toy_store, "toy", "hf")


@pytest.mark.parametrize(("target", "metric"), [("emotions", "macro_f1"), ("sentiment", "acc7")])
def test_other_kinds_of_target(toy_store: Path, tmp_path: Path, target: str, metric: str) -> None:
    result = run(toy_store, tmp_path, target=target, seeds=1)
    assert metric in result.test and evaluate_run(result.run)["identical"] is True
    names = pq.read_table(result.run / "seed-0" / "predictions.parquet").column_names
    assert ("target_joy" in names) == (target == "emotions") and ("target" in names) == (target == "sentiment")


def test_one_modality_and_another_feature(toy_store: Path, tmp_path: Path) -> None:
    result = run(toy_store, tmp_path, modalities=["vision"], assignments=[*FAST, "drop_empty=true"], seeds=1)
    assert list(result.record.features) == ["vision"] and len(result.record.left_out["empty"]) == 17


@pytest.mark.parametrize("broken", ["run.json", "metrics.json"])
def test_what_is_no_run_is_said(finished: Result, tmp_path: Path, broken: str) -> None:
    copy = shutil.copytree(finished.run, tmp_path / "copy")
    (copy / broken).write_text("{")
    with pytest.raises(MerError, match="is no run"):
        load(copy)
    record = json.loads((finished.run / "run.json").read_text())
    shutil.copy(finished.run / "metrics.json", copy / "metrics.json")
    (copy / "run.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(MerError, match="format 99"):
        load(copy)
