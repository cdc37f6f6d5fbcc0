"""`mer store import`, `export` and `formats` as commands: what they print, exit codes, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exchange_builders import CORPUS, DATASET, build, listing

from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.plan import SegmentPlan
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore

Mer = Callable[..., tuple[int, str, str]]


def test_formats_are_listed_with_their_settings(mer: Mer) -> None:
    code, out, _ = mer("store", "formats")
    assert code == 0
    assert "mmsa: the pickled dictionary" in out
    assert "mosi" in out
    code, out, _ = mer("store", "formats", "mmsa")
    assert (code, "padding" in out, "aligned" in out) == (0, True, True)
    code, out, _ = mer("store", "formats", "--json")
    formats = json.loads(out)["formats"]
    assert formats["csv"]["export"] is None
    assert "samples" in formats["csv"]["import"]


def test_there_and_back(mer: Mer, tmp_path: Path) -> None:
    build(tmp_path / "store")
    words = ("store", "export", "hdf5", DATASET, "bert", "faces", "--to", tmp_path / "out.h5", "--store")
    code, out, err = mer(*words, tmp_path / "store")
    assert (code, err) == (0, "")
    assert "10 samples of toy with bert, faces" in out
    words = ("store", "import", "hdf5", tmp_path / "out.h5", "--dataset", "back", "--store", tmp_path / "new")
    code, out, err = mer(*words)
    assert (code, err.endswith("(hard links: yes).\n")) == (0, True)
    assert "4 train, 2 val, 2 test, 2 without a split" in out
    code, out, _ = mer(*words)
    assert (code, "Nothing was left to do" in out) == (0, True)
    code, out, _ = mer(*words, "--json")
    assert json.loads(out)["features"][0]["written"] == 0
    code, out, _ = mer("store", "verify", "--deep", "--store", tmp_path / "new")
    assert (code, "intact" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("import", "hdf", "x", "--dataset", "a"), "Did you mean 'hdf5'"),
        (("import", "hdf5", "missing.h5", "--dataset", "a"), "missing.h5 does not exist"),
        (("import", "mmsa", "junk", "--dataset", "a"), "junk"),
        (("import", "csv", ".", "--dataset", "a", "--recipe", "mosi"), "has no 'transcripts.csv'"),
        (("export", "csv", "toy", "--to", "x"), "imported, not exported"),
        (("export", "npy", "toy", "nothing", "--to", "x"), "no feature called 'nothing'"),
        (("export", "npy", "tou", "--to", "x"), "Did you mean 'toy'"),
        (("export", "npy", "toy", "--to", "no/such/x"), "make it first"),
        (("export", "npy", "toy", "--to", "junk"), "exists already"),
        (("export", "hdf5", "toy", "--to", "x", "--set", "level=9"), "no field called 'level'"),
    ],
)
def test_errors_are_one_line(
    words: tuple[str, ...], said: str, mer: Mer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "store", features=("bert",))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk").write_bytes(b"\x80\x04junk")
    before = listing(tmp_path)
    code, out, err = mer("store", *words, "--store", tmp_path / "store")
    assert (code, out) == (1, "")
    assert said in err
    assert err.strip().count("\n") == 0
    assert listing(tmp_path) == before


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """A real signal to a real process, while it writes one file after the other."""
    store = FeatureStore.open(tmp_path / "store", mode="a")
    count = 6000
    store.append_samples(CORPUS, [Utterance(id=f"u{i}", split="train") for i in range(count)])
    arrays = (ArraySpec(name="values", dtype="float32", tail=(2,)),)
    spec = FeatureSpec(feature="a", modality="text", encoder="toys", version=1, arrays=arrays, nominal_rate_hz=0.2)
    writer = store.writer(DATASET, spec, SegmentPlan(max_rows=8192))
    for segment in writer.todo():
        row = {"values": np.ones((1, 2), np.float32)}
        writer.commit(segment, [row] * len(segment), [None] * len(segment), {})
    there = tmp_path / "there"
    there.mkdir()
    words = ["store", "export", "npy", DATASET, "--to", str(there / "out"), "--store", str(tmp_path / "store")]
    process = subprocess.Popen([sys.executable, "-m", "cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while len(list(there.glob(".out.*.partial/a/*"))) < 20:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert b"interrupted" in err
    assert not listing(there)
