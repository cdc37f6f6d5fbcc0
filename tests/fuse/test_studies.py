"""Ablation, robustness, search, comparison and models outside their run, on runs small enough to train here."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toy_corpus import CLASSES, commit, load, rows_of, spec, utterances

import fuse
from cache_schema.errors import DamagedError, DataError, MerError, SettingsError
from cache_schema.store import FeatureStore
from fuse import hub
from fuse.ablate import ablate, choose_tables, make_cell
from fuse.archs import ARCHS, hff
from fuse.cells import Cells
from fuse.compare import compare_runs
from fuse.degrade import Degradation
from fuse.evaluate import evaluate_run
from fuse.prediction import predict
from fuse.protocols import Protocol
from fuse.report.studies import read as read_studies
from fuse.robustness import robustness
from fuse.run import load as load_run
from fuse.sweep import Dimension, sweep
from fuse.tables import Column, Row, Table
from fuse.train import Result, train_run
from fuse.training.config import TrainConfig

SMALL = ["d=12", "steps=3", "layers=1", "head_width=4", "speech_channels=[4]", "speech_width=6"]
FAST = [*SMALL, "lr=0.005", "batch_size=16", "max_epochs=3"]
Build = Callable[..., Path]


def run(store: Path, out: Path, **changes: Any) -> Result:
    return train_run(store, "toy", "hff", **{"assignments": FAST, "seeds": 2, "jobs": 1, "out": out} | changes)


@pytest.fixture(scope="module")
def finished(toy_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One run that nobody changes."""
    return run(toy_store, tmp_path_factory.mktemp("runs"))


def test_folds_are_recorded_pooled_and_measured_again(toy_store: Path, tmp_path: Path, finished: Result) -> None:
    protocol = Protocol(folds="kfold:dialogue:3")
    result = run(toy_store, tmp_path, protocol=protocol)
    read = load_run(result.run)
    assert read.protocol == protocol and [f["name"] for f in read.record.folds] == ["fold 1", "fold 2", "fold 3"]
    tested = [fold["splits"]["test"]["utterances"] for fold in read.record.folds]
    assert sum(tested) == 120 == read.record.splits["test"]["utterances"]
    for place in (0, 1):
        accuracies = [fold["test"]["accuracy"]["per_seed"][place] for fold in read.metrics["folds"]]
        assert result.test["accuracy"]["per_seed"][place] == pytest.approx(np.average(accuracies, weights=tested))
    for split in ("test", "val"):
        found = evaluate_run(result.run, split=split)  # type: ignore[arg-type]
        assert found["identical"] is True and found[split] == getattr(result, split)
    with pytest.raises(DataError, match="tested on different utterances"):
        compare_runs(finished.run, result.run)
    with pytest.raises(MerError, match="has no fold 4; it has 3"):
        read.model(fold=4)
    with pytest.raises(MerError, match="a model per fold"):
        hub.save_pretrained(read, tmp_path / "model")


def test_what_the_dataset_gained_since_does_not_matter_to_evaluation(make_store: Build, tmp_path: Path) -> None:
    path = make_store(modalities=("text",))
    result = run(path, tmp_path, seeds=1)
    store = FeatureStore.open(path, mode="a")
    more = [u.model_copy(update={"id": f"new {u.id}"}) for u in utterances(60)]
    store.append_samples(store.samples("toy").corpus, more)
    commit(store, "toy", spec("text"), rows_of("text", more))
    found = evaluate_run(result.run)
    assert found["identical"] is True and found["changed"] == []


def test_a_comparison_with_itself_finds_nothing_and_with_another_pairs_seeds(
    finished: Result, toy_store: Path, tmp_path: Path
) -> None:
    same = compare_runs(finished.run, finished.run, draws=100)["metrics"]["accuracy"]
    assert same["seeds"]["mean"] == 0 == same["utterances"]["difference"] and not same["utterances"]["excludes_zero"]
    worse = run(toy_store, tmp_path, seeds=[1, 2], assignments=[*FAST, "max_epochs=1", "lr=0.000001"])
    found = compare_runs(finished.run, worse.run, draws=100)
    assert found["seeds"] == [1] and found["metrics"]["accuracy"]["seeds"] is None
    drawn = found["metrics"]["accuracy"]["utterances"]
    means = [r.test["accuracy"]["mean"] for r in (finished, worse)]
    assert drawn["difference"] == pytest.approx(means[0] - means[1]) and drawn["excludes_zero"]


FULL = {"layers": 1}
TOY_TABLES = (
    Table(
        key="1",
        title="Table 1",
        columns=(Column("T", "weighted_f1", ("text",)), Column("S+T+V", "weighted_f1")),
        rows=(Row("full", FULL, (0.5, 0.6)), Row("without alignment", {"alignment": False}, (0.4, None))),
        settings={"max_epochs": 1},
    ),
    Table(
        key="2",
        title="Table 2",
        columns=(Column("ACC", "accuracy"), Column("physiology", "accuracy", ("physiology",))),
        rows=(Row("1 layer", {}, (0.7, 0.1)),),
        settings={"max_epochs": 1},
    ),
)


def test_an_ablation_trains_each_model_once_and_prints_the_papers_numbers(
    toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hff, "TABLES", TOY_TABLES)
    said: list[str] = []
    given: dict[str, Any] = {"assignments": [*SMALL, "time=dialogue"], "seeds": 1, "out": tmp_path, "jobs": 1}
    found = ablate(toy_store, "toy", "hff", say=said.append, **given)
    # With time=dialogue, "without alignment" is the full model: two models in the first table, none in the second.
    assert said == ["Table 1: full, text", "Table 1: full, speech + text + vision"]
    full, without = (row["cells"] for row in found["tables"][0]["rows"])
    assert [cell["paper"] for cell in (*full, *without)] == [0.5, 0.6, 0.4, None]
    assert "same" not in full[0] and without[0]["same"] == "Table 1, full, T" and without[0]["ours"] == full[0]["ours"]
    accuracy, physiology = found["tables"][1]["rows"][0]["cells"]
    assert accuracy["same"] == "Table 1, full" and accuracy["run"] == full[1]["run"]
    assert physiology == {"paper": 0.1, "why": "no physiology in the store"}
    record = load_run(Path(found["folder"]) / full[0]["run"]).record
    assert list(record.features) == ["text"] and record.training["max_epochs"] == 1
    again = ablate(toy_store, "toy", "hff", say=said.append, **given)
    assert again == found and len(said) == 2, "nothing is trained twice"
    (kept,) = read_studies([found["folder"]])
    assert kept == ("ablate-hff-toy", found), "the folder keeps what the command printed"
    only = ablate(toy_store, "toy", "hff", tables=["2"], say=said.append, **given)
    assert only["tables"] == found["tables"][1:] and len(said) == 2, "a table alone is what it is among the others"
    impossible = Table("0", "Table 0", (Column("ACC", "accuracy"),), (Row("none", {"layers": 0}, (0.7,)),))
    monkeypatch.setattr(hff, "TABLES", (impossible, *TOY_TABLES))
    only = ablate(toy_store, "toy", "hff", tables=["2"], say=said.append, **given)
    assert only["tables"] == found["tables"][1:], "what another table cannot have is no matter"
    with pytest.raises(SettingsError, match="layers"):
        ablate(toy_store, "toy", "hff", tables=["2", "0"], **given)
    with pytest.raises(SettingsError, match="no table of hff called '9'"):
        ablate(toy_store, "toy", "hff", tables=["9"], **given)


def test_ablations_at_once_in_one_folder_know_what_the_other_one_trained(
    toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hff, "TABLES", TOY_TABLES)
    said: list[str] = []
    given: dict[str, Any] = {"assignments": SMALL, "seeds": 1, "out": tmp_path, "jobs": 1}

    def meanwhile(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            ablate(toy_store, "toy", "hff", tables=["2"], say=said.append, **given)

    ablate(toy_store, "toy", "hff", tables=["1"], say=meanwhile, **given)
    assert [line.partition(":")[0] for line in said] == ["Table 1", "Table 2", "Table 1", "Table 1"]
    ablate(toy_store, "toy", "hff", say=said.append, **given)
    assert len(said) == 4, "both are in the index"


def test_one_index_is_written_by_several(tmp_path: Path) -> None:
    def note(key: str, name: str) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "metrics.json").touch()
        return Cells(tmp_path).note(key, name)

    with ThreadPoolExecutor(4) as pool:  # the lock is one of the opened file, and each opens it anew
        noted = [pool.submit(note, f"{way} {n}", f"run-{n}") for n in range(40) for way in ("one", "other")]
        assert [future.result() for future in noted] == [f"run-{n // 2}" for n in range(80)]
    cells = Cells(tmp_path)
    assert len(json.loads((tmp_path / "cells.json").read_text())) == 80
    assert cells.note("one 3", "run-9") == "run-3", "the first one stays"
    (tmp_path / "run-3" / "metrics.json").unlink()
    assert cells.note("one 3", "run-9") == "run-9", "it is there no more"


@pytest.mark.parametrize("name", ARCHS.names())
def test_every_papers_tables_can_be_built(name: str) -> None:
    module = ARCHS.load(name)
    for table in getattr(module, "TABLES", ()):
        for row in table.rows:
            for column in table.columns:
                wanted = [m for m in module.INPUTS if all(m in g for g in (row.modalities, column.modalities) if g)]
                cell = make_cell(module, name, table, row, column, tuple(wanted), [])
                tails = {m: module.INPUTS[m] for m in wanted}
                assert tails, f"{table.title}, {row.name}: the row's and the column's modalities leave nothing"
                module.Config.parse(cell.config.model_dump(), name)


def test_tables_are_chosen_or_said_to_be_missing() -> None:
    assert [t.key for t in choose_tables(hff, "hff", [])] == ["4", "5"]
    full = {r.name: r.paper for r in hff.TABLES[0].rows}
    assert full["HFF (full model)"] == (0.628, 0.655, 0.604, 0.676, 0.662, 0.681, 0.697)
    with pytest.raises(SettingsError, match="declares no ablation table"):
        choose_tables(SimpleNamespace(), "x", [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="row 'a' has 1 values in 2"):
        Table("1", "t", (Column("x", "accuracy"), Column("y", "accuracy")), (Row("a", {}, (0.1,)),))


def test_what_is_missing_or_noised_is_nested_and_leaves_the_rest(toy_store: Path) -> None:
    data = load(toy_store, "toy", hff.PREFERS)[0].train
    there = data.lengths["vision"] > 0
    gone = [Degradation("vision", share).of(data).lengths["vision"] == 0 for share in (0.0, 0.3, 0.6, 1.0)]
    assert torch.equal(gone[0], ~there) and all((small <= large).all() for small, large in pairwise(gone))
    assert int(gone[1].sum() - gone[0].sum()) == round(0.3 * int(there.sum()))
    last = Degradation("text", 1.0).of(Degradation("speech", 1.0).of(data))
    assert last.available.any(dim=1).all(), "an utterance that has nothing else keeps its modality"
    noised = Degradation("text", 0.5, "noise", noise=2.0).of(data)
    rows = torch.arange(len(data))
    clean, noisy = (
        batch.replace(sequences={m: x.float() for m, x in batch.sequences.items()})
        for batch in (data.batch(rows), noised.batch(rows))
    )
    assert torch.equal(clean.sequences["speech"], noisy.sequences["speech"])
    differs = []
    for row in range(len(data)):
        length = int(clean.lengths["text"][row])
        differs.append(not torch.equal(clean.sequences["text"][row, :length], noisy.sequences["text"][row, :length]))
    assert sum(differs) == len(data) // 2
    added = torch.cat(
        [
            (noisy.sequences["text"] - clean.sequences["text"])[row, : int(clean.lengths["text"][row])]
            for row in range(len(data))
            if differs[row]
        ]
    )
    used = torch.cat([clean.sequences["text"][row, : int(n)] for row, n in enumerate(clean.lengths["text"])])
    torch.testing.assert_close(added.std(0) / used.std(0), torch.full((8,), 2.0), rtol=0.2, atol=0)


def test_robustness_at_test_time_begins_with_the_runs_own_numbers(toy_store: Path, tmp_path: Path) -> None:
    trained = run(toy_store, tmp_path, assignments=[*FAST, "max_epochs=12"])
    found = robustness(trained.run, shares=(0.0, 1.0), modalities=["text"])
    curve = found["curves"]["text"]["accuracy"]
    assert curve[0]["per_seed"] == trained.test["accuracy"]["per_seed"]
    assert curve[1]["mean"] < curve[0]["mean"], "text says most here"
    noise = robustness(trained.run, kind="noise", noise=20.0, shares=(1.0,), modalities=["text"])
    assert noise["curves"]["text"]["accuracy"][0]["mean"] < curve[0]["mean"]
    with pytest.raises(SettingsError, match="does not read physiology"):
        robustness(trained.run, modalities=["physiology"])
    with pytest.raises(SettingsError, match="nothing is left to train"):
        robustness(trained.run, at="train", shares=(1.0,))


def test_robustness_at_train_time_trains_each_share_once(finished: Result, tmp_path: Path) -> None:
    said: list[str] = []
    given: dict[str, Any] = {"at": "train", "shares": (0.0, 0.5), "modalities": ["text"], "out": tmp_path, "jobs": 1}
    found = robustness(finished.run, say=said.append, **given)
    assert said == ["text missing in 50% of training"]
    assert found["curves"]["text"]["accuracy"][0]["per_seed"] == finished.test["accuracy"]["per_seed"]
    degraded = load_run(tmp_path / "hff-toy-1").record
    assert degraded.degraded["share"] == 0.5 and degraded.splits == load_run(finished.run).record.splits
    assert robustness(finished.run, say=said.append, **given) == found and len(said) == 1


def test_robustness_at_train_time_refuses_data_that_are_no_longer_the_runs(make_store: Build, tmp_path: Path) -> None:
    path = run(make_store(), tmp_path, seeds=1).run
    samples = utterances()
    other = next(label for label in CLASSES if label != samples[0].labels["emotion"])
    samples[0] = samples[0].model_copy(update={"labels": {"emotion": other}})
    with pytest.raises(DamagedError, match="no longer those of the run"):
        robustness(path, at="train", shares=(0.5,), modalities=["text"], store_path=make_store(samples), jobs=1)
    assert not (tmp_path / "hff-toy-1-robustness").exists()


def test_a_search_goes_on_and_chooses_on_validation(toy_store: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"search": ["lr=1e-6|5e-3", "text_pool=mean|cls"], "seeds": 1, "jobs": 1, "out": tmp_path}
    given["assignments"] = [a for a in FAST if not a.startswith("lr")]
    first = sweep(toy_store, "toy", "hff", trials=2, **given)
    found = sweep(toy_store, "toy", "hff", trials=4, **given)
    assert [t["number"] for t in found["trials"]] == [1, 2, 3, 4] and found["trials"][:2] == first["trials"]
    assert found["best"]["value"] == max(t["value"] for t in found["trials"])
    trained = run(toy_store, tmp_path, assignments=found["assignments"], seeds=1)
    assert trained.val["accuracy"]["mean"] == found["best"]["value"]
    assert json.loads((Path(found["folder"]) / "best.json").read_text())["best"] == found["best"]


def test_diverged_trials_are_told_and_a_search_of_nothing_else_fails(toy_store: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"assignments": [*FAST, "clip=null"], "trials": 1, "seeds": 1, "jobs": 1, "out": tmp_path}
    with pytest.raises(MerError, match="Every one of 1 trials diverged"):
        sweep(toy_store, "toy", "hff", search=["lr=1e30|1e31"], **given)


@pytest.mark.parametrize(
    ("text", "message"),
    [("lr", "nothing to search"), ("lr=2..1", "low below high"), ("lr=0..1:log", "above 0 for log"), ("lr=a..b", "lr")],
)
def test_wrong_ranges_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Dimension.parse(text)
    assert Dimension.parse("layers=1..4").whole and not Dimension.parse("d=0.1..4").whole
    assert Dimension.parse("x=[1, 2]|a").choices == ([1, 2], "a")


@pytest.mark.parametrize(
    ("text", "whole"),
    [("layers=1..4", True), ("dropout=0..1", False), ("weight_decay=0..1", False), ("clip=1..5", False)],
)
def test_a_range_has_the_kind_of_its_setting(text: str, whole: bool) -> None:
    fields = {**TrainConfig.model_fields, **hff.Config.model_fields}
    assert Dimension.parse(text).of(fields).whole is whole


def test_unknown_dimensions_are_refused(toy_store: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no setting of hff or of training called 'layer'\. Did you mean 'layers'"):
        sweep(toy_store, "toy", "hff", search=["layer=1|2"], out=tmp_path)
    with pytest.raises(SettingsError, match="drop_empty"):
        sweep(toy_store, "toy", "hff", search=["drop_empty=true|false"], out=tmp_path)


def test_a_model_leaves_its_run_and_predicts_the_same(finished: Result, toy_store: Path, tmp_path: Path) -> None:
    data = load(toy_store, "toy", hff.PREFERS)[0].open_test()
    folder = hub.save_pretrained(load_run(finished.run), tmp_path / "model", seed=1)
    expected = predict(fuse.load(finished.run, seed=1), data, 16).probabilities
    assert np.array_equal(predict(fuse.load(folder), data, 16).probabilities, expected)
    card = hub.from_pretrained(folder).card
    assert card.seed == 1 and card.features["text"]["name"] == "roberta"
    assert "| accuracy |" in (folder / "README.md").read_text()
    (folder / "config.json").write_text("{}")
    with pytest.raises(MerError, match="not of format 1"):
        fuse.load(folder)
    with pytest.raises(MerError, match="is no run"):
        fuse.load(tmp_path / "nothing")


def test_a_model_goes_to_the_hub_and_comes_back(
    finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    import huggingface_hub
    from huggingface_hub import HfApi as RealApi
    from huggingface_hub import constants

    class Api:
        def create_repo(self, repo: str, private: bool, exist_ok: bool) -> str:
            assert private and exist_ok
            return f"https://huggingface.co/{repo}"

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
            shutil.copytree(folder_path, tmp_path / repo_id)

    def download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        if repo != "lab/hff":
            raise OSError("offline")
        assert revision == "main" and set(allow_patterns) == {"config.json", "model.safetensors"}
        return str(tmp_path / repo)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.push_to_hub(load_run(finished.run), "lab/hff") == "https://huggingface.co/lab/hff"
    mine, back = load_run(finished.run).model().state_dict(), fuse.load("hf:lab/hff@main").state_dict()
    assert 'fuse.load("hf:lab/hff")' in (tmp_path / "lab" / "hff" / "README.md").read_text()
    assert all(torch.equal(mine[name], back[name]) for name in mine)
    monkeypatch.setattr(huggingface_hub, "HfApi", RealApi)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(MerError, match=r"could not be put on the hub as lab/hff .*refused"):
        hub.push_to_hub(load_run(finished.run), "lab/hff")
    with pytest.raises(MerError, match=r"hf:lab/other could not be downloaded \(offline\)"):
        fuse.load("hf:lab/other")


def test_tensorboard_has_every_epoch_once(toy_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(toy_store, tmp_path, seeds=1, tensorboard=True)
    events = EventAccumulator(str(result.run / "seed-0" / "tensorboard")).Reload()
    losses = events.Scalars("loss/val")
    assert [e.step for e in losses] == list(range(1, result.seeds[0].epochs + 1))
    assert {"loss/train", "lr", "val/accuracy"} <= set(events.Tags()["scalars"])


def test_datasets_trained_jointly_are_measured_together_and_apart(make_store: Build, tmp_path: Path) -> None:
    path = make_store(modalities=("text",))
    store = FeatureStore.open(path, mode="a")
    more = [u.model_copy(update={"id": f"x_{u.id}"}) for u in utterances(60)]
    corpus = store.samples("toy").corpus.model_copy(update={"name": "more"})
    store.append_samples(corpus, more)
    commit(store, "more", spec("text"), rows_of("text", more))
    result = train_run(path, "toy,more", "hff", assignments=FAST, seeds=1, jobs=1, out=tmp_path)
    assert result.run.name == "hff-toy+more-1" and result.record.dataset == "toy,more"
    sizes, each = (20, 10), [result.by_dataset[name]["accuracy"]["mean"] for name in ("toy", "more")]
    assert result.test["accuracy"]["mean"] == pytest.approx(np.average(each, weights=sizes))
    assert load_run(result.run).metrics["by_dataset"] == result.by_dataset
    assert evaluate_run(result.run)["identical"] is True


def test_cross_corpus_runs_are_measured_again(make_store: Build, tmp_path: Path) -> None:
    path = make_store(modalities=("text",))
    store = FeatureStore.open(path, mode="a")
    others = utterances(60)
    store.append_samples(store.samples("toy").corpus.model_copy(update={"name": "more"}), others)
    commit(store, "more", spec("text"), rows_of("text", others))
    protocol = Protocol(test_on="more", labels={"more/sadness": "melancholy"})
    result = train_run(path, "toy", "hff", assignments=FAST, seeds=1, jobs=1, out=tmp_path, protocol=protocol)
    assert result.record.target.classes == ("anger", "joy") and result.record.folds[0]["name"] == "official to more"
    assert evaluate_run(result.run)["identical"] is True and evaluate_run(result.run, split="val")["identical"] is True
