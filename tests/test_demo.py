"""The main job on a smaller demo corpus: hff learns from real clips, and only from what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli import DEMO_ENCODERS, DEMO_EXTRACTION, DEMO_SETTINGS
from extract.encoders import ENCODERS
from extract.run import extract
from extract.synthetic import SyntheticSpec, make_corpus, sentences
from extract.weights.checkpoints import resolve
from extract.weights.random_weights import make_random_checkpoint
from fuse.train import train_run

CHANCE = 1 / 7
TRAIN, DEV, TEST = 168, 42, 84
NOISE = (CHANCE * (1 - CHANCE) / TEST) ** 0.5
"""Standard deviation of a guesser's accuracy on the test split."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    make_corpus(folder, SyntheticSpec(train=TRAIN, dev=DEV, test=TEST))
    return folder


@pytest.fixture(scope="module")
def weights(corpus: Path) -> Path:
    folder = corpus.parent / "weights"
    for encoder in ("roberta", "resnet"):
        make_random_checkpoint(encoder, folder / encoder, "small", 0, tuple(sentences()))
    return folder


@pytest.fixture(scope="module")
def store(corpus: Path, weights: Path) -> Path:
    path = corpus.parent / "features"
    extract(
        "meld",
        corpus,
        str(path),
        encoders=DEMO_ENCODERS,
        weights=str(weights),
        settings=DEMO_EXTRACTION,
        device="cpu",
    )
    return path


def accuracy(store: Path, seeds: int, **settings: Any) -> float:
    changes = [f"{name}={str(value).lower()}" for name, value in settings.items()]
    assignments = [*DEMO_SETTINGS, "max_epochs=14", *changes]
    out = store.parent / "runs"
    result = train_run(store, "meld", "hff", assignments=assignments, seeds=seeds, out=out, jobs=1)
    return float(result.test["accuracy"]["mean"])


def test_the_corpus_is_made(corpus: Path) -> None:
    assert len(list(corpus.rglob("*.mp4"))) == TRAIN + DEV + TEST


def test_its_encoders_say_that_their_weights_are_random(weights: Path) -> None:
    for encoder in ("roberta", "resnet"):
        assert resolve(encoder, ENCODERS.load(encoder).HUB, str(weights)).random


def test_it_is_extracted(store: Path) -> None:
    assert (store / "mer-store.json").is_file()


def test_hff_learns_the_emotions_of_speakers_it_has_not_met(store: Path) -> None:
    assert accuracy(store, seeds=1) > CHANCE + 6 * NOISE


def test_shuffled_labels_fall_to_chance(store: Path) -> None:
    assert accuracy(store, seeds=2, shuffle_labels=True) < CHANCE + 3 * NOISE
