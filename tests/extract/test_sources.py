"""Files that were replaced after they were extracted."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_schema.store import FeatureStore
from extract.run import extract
from extract.sources import replaced


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three sounds, each a second of another noise: a header tells none from another."""
    data = tmp_path / "data"
    data.mkdir()
    for seed, name in enumerate("abc"):
        with wave.open(str(data / f"{name}.wav"), "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
            out.writeframes(np.random.default_rng(seed).integers(-9000, 9000, 16000).astype(np.int16).tobytes())
    return data


def run(root: Path, store: Path, **more: Any) -> Any:
    return extract("folder", root, str(store), encoders=["mfcc", "logmel"], device="cpu", **more)


def test_a_replaced_clip_is_found_named_and_extracted_again(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(root, store)
    before = {id_: FeatureStore.open(store).feature("folder", "mfcc").read(id_)["values"].tobytes() for id_ in "abc"}
    assert list(replaced(FeatureStore.open(store), root)) == []

    shutil.copy(root / "c.wav", root / "b.wav")
    (found,) = replaced(FeatureStore.open(store), root)
    assert (found.path, found.samples, set(found.features)) == ("b.wav", ("b",), {"mfcc", "logmel"})
    assert "b.wav" in str(found) and "read from another file" in str(found)

    assert [f.encoded for f in run(root, store).features] == [0, 0]
    assert [f.encoded for f in run(root, store, retry_replaced=True).features] == [1, 1]
    after = {id_: FeatureStore.open(store).feature("folder", "mfcc").read(id_)["values"].tobytes() for id_ in "abc"}
    assert after == {"a": before["a"], "b": before["c"], "c": before["c"]}
    assert list(replaced(FeatureStore.open(store), root)) == []


def test_an_absent_or_a_broken_file_is_not_a_replaced_one(root: Path, tmp_path: Path) -> None:
    (root / "b.wav").write_bytes(b"no clip")
    run(root, tmp_path / "store")
    (root / "a.wav").unlink()
    (root / "b.wav").write_bytes(b"another that is no clip")
    assert list(replaced(FeatureStore.open(tmp_path / "store"), root)) == []


def test_the_command_line_names_what_was_replaced(mer: Any, root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(root, store)
    options = ("store", "verify", "--store", str(store), "--dataset", "folder", "--media", str(root), "--json")
    done = mer(*options)
    assert done.code == 0 and json.loads(done.out)["replaced"] == []
    shutil.copy(root / "c.wav", root / "b.wav")
    done = mer(*options)
    assert done.code == 1 and json.loads(done.out)["replaced"][0]["path"] == "b.wav"
    assert "1 files were replaced" in done.err and "--retry-replaced" in done.err
    assert mer("store", "verify", "--store", str(store), "--media", str(root)).code == 2
