"""The data card: everything in it comes from the store, and it says what the data are not for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache_schema.store import FeatureStore
from cache_schema.verify import verify


def test_a_data_card_lies_in_the_store_and_follows_it(
    small_corpus: Path, small_weights: Path, tmp_path: Path, mer: Callable[..., Any]
) -> None:
    words = ["extract", "--dataset", "meld", "--root", small_corpus, "--store", tmp_path / "store", "--encoders"]
    assert mer(*words, "mfcc").code == 0
    card = tmp_path / "store" / "cards" / "meld.md"
    first = card.read_text(encoding="utf-8")
    for said in (
        "# meld: A corpus in the layout of MELD",
        "Licence of the corpus: as its",
        "14 utterances",
        "train: 8, val: 3, test: 3",
        "| mfcc | mer.mfcc |",
    ):
        assert said in first, said
    assert "must not be used" in first and "Nothing: every utterance has every feature." in first
    assert "random weights" not in first
    before = card.stat().st_mtime_ns
    assert mer(*words, "mfcc").code == 0 and card.stat().st_mtime_ns == before
    assert mer(*words, "resnet", "--weights", small_weights, "--limit", "1").code == 0
    second = card.read_text(encoding="utf-8")
    assert (
        "**Some features came from random weights: a trial, not data.**" in second
        and "| resnet | random (random weights) |" in second
    )
    printed = mer("store", "card", "meld", "--store", tmp_path / "store", "--json").json["card"]
    assert printed == second
    assert list(verify(FeatureStore.open(str(tmp_path / "store")), deep=True)) == []
