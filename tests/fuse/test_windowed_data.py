"""Data read in windows: the same numbers as resident ones, whole dialogues, the same in workers and after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_corpus import TARGETS, rows_of, spec, utterances

from cache_schema.errors import DataError, SettingsError
from cache_schema.feature_spec import MASK, ArraySpec
from cache_schema.plan import SegmentPlan
from cache_schema.samples import Corpus
from cache_schema.store import FeatureStore
from fuse.archs import hff
from fuse.corpora import Request, load_folds
from fuse.data import Dataset, Splits, scales
from fuse.degrade import Degradation
from fuse.evaluate import evaluate_run
from fuse.model import Model
from fuse.prediction import predict
from fuse.train import train_run
from fuse.training.checkpoint import Checkpoint
from fuse.training.config import TrainConfig
from fuse.training.loop import Epoch, fit, reproducible
from fuse.windows import Windowed

SMALL = {"d": 12, "steps": 3, "layers": 1, "heads": 2, "head_width": 4, "speech_channels": (4,), "speech_width": 6}
CONFIG = TrainConfig(lr=5e-3, batch_size=8, max_epochs=3, scheduler="cosine")
BYTES = 6000
"""Several windows of an epoch."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In segments of few rows; text has frames that hold nothing."""
    path = tmp_path_factory.mktemp("windows") / "features"
    opened, samples = FeatureStore.open(path, mode="a"), utterances()
    opened.append_samples(Corpus(name="toy", title="Toy", licence="none", targets=TARGETS), samples)
    for modality in ("speech", "text", "vision"):
        own, rows = spec(modality), rows_of(modality, samples)  # type: ignore[arg-type]
        if modality == "text":
            own = own.model_copy(update={"arrays": (*own.arrays, ArraySpec(name=MASK, dtype="bool", tail=()))})
            for number, row in enumerate(rows.values()):
                values = row["values"]  # type: ignore[index]
                there = np.arange(len(values)) % 3 != 1 if number % 5 else np.zeros(len(values), np.bool_)
                row[MASK] = there  # type: ignore[index]
        writer = opened.writer("toy", own, SegmentPlan(max_rows=8))
        for segment in writer.todo():
            ids = [u.id for u in writer.utterances(segment)]
            writer.commit(segment, [rows[i] for i in ids], [None] * len(ids), {})
    return path


def splits_of(store: Path, window_bytes: int | None) -> Splits:
    (fold,), _ = load_folds(Request(store, "toy", hff.PREFERS, window_bytes=window_bytes))
    return fold.splits


@pytest.fixture(scope="module")
def resident(store: Path) -> Splits:
    return splits_of(store, None)


@pytest.fixture(scope="module")
def windowed(store: Path) -> Splits:
    return splits_of(store, BYTES)


def new_model(data: Dataset) -> Model:
    torch.manual_seed(0)
    return Model(hff.build(hff.Config(**SMALL), data.tails, data.target), scales(data, True))


def test_the_outline_is_that_of_the_resident_data(resident: Splits, windowed: Splits) -> None:
    for one, other in ((resident.train, windowed.train), (resident.val, windowed.val)):
        assert isinstance(other, Windowed) and not isinstance(one, Windowed)
        assert (one.ids, one.tails, one.digest()) == (other.ids, other.tails, other.digest())
        assert torch.equal(one.labels, other.labels) and torch.equal(one.dialogues, other.dialogues)
        assert all(torch.equal(one.lengths[m], other.lengths[m]) for m in one.lengths)
        assert torch.equal(one.cost, other.cost) and all(len(x) == 0 for x in other.frames.values())


@pytest.mark.parametrize("unit", ["utterance", "dialogue"])
def test_every_batch_is_the_resident_one_of_its_utterances(resident: Splits, windowed: Splits, unit: Any) -> None:
    """In several windows, each utterance once, no dialogue torn; shuffled differently in each epoch."""
    data, orders = windowed.train, []
    assert len(list(data.windows(unit))) > 2
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        seen: list[int] = []
        for rows, batch in data.numbered(8, unit, generator):
            expected = resident.train.batch(rows, unit)
            assert batch.ids == expected.ids
            for m in data.modalities:
                inside = torch.arange(expected.sequences[m].shape[1]) < expected.lengths[m][:, None]
                assert torch.equal(batch.lengths[m], expected.lengths[m])
                assert torch.equal(batch.sequences[m][inside], expected.sequences[m][inside])
            for name in ("target", "available", "dialogue", "position"):
                assert torch.equal(getattr(batch, name), getattr(expected, name)), name
            seen += rows.tolist()
        assert sorted(seen) == list(range(len(data)))
        orders.append(seen)
    assert orders[0] != orders[1]
    again = [rows.tolist() for rows, _ in data.numbered(8, unit, torch.Generator().manual_seed(0))]
    assert [row for rows in again for row in rows] == orders[0]
    assert len(again) <= data.most_batches(8)


def test_scales_and_predictions_are_the_resident_ones(resident: Splits, windowed: Splits) -> None:
    for modality, (mean, deviation) in scales(windowed.train, True).items():
        expected = scales(resident.train, True)[modality]
        torch.testing.assert_close(mean, expected[0])
        torch.testing.assert_close(deviation, expected[1])
    model = new_model(resident.train)
    one, other = predict(model, resident.val, 8), predict(model, windowed.val, 8)
    assert one.ids == other.ids
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)


def test_an_interrupted_training_goes_on_to_the_same_bits(windowed: Splits, tmp_path: Path) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    def train(path: Path | None, progress: Any = None) -> tuple[Model, list[Epoch]]:
        with reproducible(0, 1):
            model = new_model(windowed.train)
            kept = None if path is None else Checkpoint(path, every=0)
            return model, fit(model, windowed.train, windowed.val, CONFIG, 0, progress, kept)

    model, history = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "checkpoint.pt", stop)
    again, resumed = train(tmp_path / "checkpoint.pt")
    assert [(e.lr, e.train_loss, e.val_loss) for e in resumed] == [(e.lr, e.train_loss, e.val_loss) for e in history]
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_run_in_windows_says_so_and_learns(store: Path, tmp_path: Path) -> None:
    said: list[str] = []
    given = [f"{k}={json.dumps(v)}" for k, v in SMALL.items()] + ["lr=0.005", "batch_size=8", "max_epochs=5"]
    result = train_run(
        store, "toy", "hff", assignments=given, seeds=1, out=tmp_path, window_bytes=BYTES, inform=said.append
    )
    assert said == ["The data are read in windows of 0.006 MB, shuffled within them."]
    assert result.record.execution["data"] == "read in windows of 0.006 MB, shuffled within them"
    assert result.test["accuracy"]["mean"] > 0.6
    found = evaluate_run(result.run)
    assert found["test"]["accuracy"] == result.test["accuracy"] and found["changed"] == []


def test_they_go_to_workers(windowed: Splits, tmp_path: Path) -> None:
    torch.save(windowed, tmp_path / "job.pt")
    sent: Splits = torch.load(tmp_path / "job.pt", mmap=True, weights_only=False)
    one, other = next(windowed.val.batches(8, "utterance")), next(sent.val.batches(8, "utterance"))
    assert one.ids == other.ids and torch.equal(one.sequences["text"], other.sequences["text"])


def test_what_needs_all_data_at_once_is_refused(windowed: Splits) -> None:
    with pytest.raises(SettingsError, match="noise needs all of it in memory"):
        Degradation("text", 0.5, "noise").of(windowed.train)
    with pytest.raises(DataError, match="one after the other"):
        windowed.train.batch_rows(8, "utterance")
    hidden = Degradation("text", 0.5).of(windowed.train)
    rows, batch = next(iter(hidden.numbered(8, "utterance")))
    assert torch.equal(batch.lengths["text"], hidden.lengths["text"][rows])
