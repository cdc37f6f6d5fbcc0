"""Baselines go the way of every architecture: from the store to a run that measures the same again."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cache_schema.errors import SettingsError
from fuse import metrics
from fuse.archs import ARCHS
from fuse.baselines import BASELINES
from fuse.describe import list_archs
from fuse.evaluate import evaluate_run
from fuse.train import train_run

FAST = ["lr=0.005", "batch_size=16"]


def test_baselines_are_listed_as_such_and_found_with_the_architectures() -> None:
    assert BASELINES.names() == sorted(
        ["bilstm", "cnn", "mlp", "early-fusion", "late-fusion", "lmf", "tfn", "mfn", "mult"]
    )
    kinds = {found["name"]: found["kind"] for found in list_archs()}
    assert {name for name, kind in kinds.items() if kind == "baseline"} == set(BASELINES.names())
    assert kinds["hff"] == "architecture"
    with pytest.raises(SettingsError, match=r"architecture or baseline called 'lfm'\. Did you mean 'lmf'\?"):
        ARCHS.load("lfm")


def test_lmf_learns_a_classification(toy_store: Path, tmp_path: Path) -> None:
    found = train_run(toy_store, "toy", "lmf", assignments=[*FAST, "max_epochs=6"], seeds=1, jobs=1, out=tmp_path)
    assert found.test["accuracy"]["mean"] > 0.7
    assert found.run.name == "lmf-toy-1"


def test_tfn_learns_a_regression_measured_by_the_protocols_of_sentiment(toy_store: Path, tmp_path: Path) -> None:
    settings = [*FAST, "max_epochs=6", "monitor=f1"]
    found = train_run(toy_store, "toy", "tfn", target="sentiment", assignments=settings, seeds=1, jobs=1, out=tmp_path)
    assert tuple(found.test) == (*metrics.REGRESSION, *metrics.SENTIMENT)
    assert found.test["pearson"]["mean"] > 0.5


def test_a_vote_is_trained_classifier_by_classifier_and_measured_the_same_again(
    toy_store: Path, tmp_path: Path
) -> None:
    settings = [*FAST, "max_epochs=5", "fusion=vote", "hidden=16", "channels=[16]"]
    found = train_run(
        toy_store, "toy", "late-fusion", target="emotions", assignments=settings, seeds=1, jobs=1, out=tmp_path
    )
    assert tuple(found.test) == metrics.MULTILABEL
    assert found.test["macro_f1"]["mean"] > 0.6
    history = (found.run / "seed-0" / "history.csv").read_text().splitlines()
    assert list(dict.fromkeys(line.partition(",")[0] for line in history[1:])) == ["text", "speech", "vision"]
    assert {"weight_text", "weight_speech"} <= set(pq.read_schema(found.run / "seed-0" / "predictions.parquet").names)
    each = json.loads((found.run / "metrics.json").read_text())["per_seed"][0]["tables"]["test"]["per_class"]["joy"]
    assert set(each) == {"precision", "recall", "f1", "support", "accuracy", "weighted_accuracy", "binary_f1"}
    assert evaluate_run(found.run)["identical"]
