"""The command line's contract: results on stdout, one line for an error, exit codes, `--json`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cli
from extract.weights.random_weights import make_random_checkpoint

COUNTS = {"name", "fingerprint", "samples", "written", "skipped", "failed", "encoded"}


@pytest.fixture(scope="session")
def trained(mer: Any, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store and a run of two seeds, made by the commands."""
    folder = tmp_path_factory.mktemp("trained")
    store, runs, weights = folder / "store", folder / "runs", folder / "weights"
    for name in ("roberta", "resnet"):
        make_random_checkpoint(name, weights / name, "small", seed=0)
    extract = ["extract", "--dataset", "meld", "--root", small_corpus, "--store", store, "--weights", weights]
    train = ["fuse", "train", "--arch", "hff", "--dataset", "meld", "--store", store, "--out", runs, "--seeds", "2"]
    train += ["--set", "steps=2", "--set", "layers=1", "--set", "max_epochs=2", "--jobs", "1", "--json"]
    for words in ([*extract, "--encoders", "roberta,mfcc,resnet"], train):
        done = mer(*words)
        assert done.code == 0, done.err
    return store, Path(done.json["run"])


def test_extract_prints_the_contracts_json(mer: Any, small_corpus: Path, tmp_path: Path) -> None:
    words = ["extract", "--dataset", "meld", "--root", small_corpus, "--store", tmp_path / "s"]
    done = mer(*words, "--encoders", "mfcc", "--json")
    assert done.code == 0
    assert {"dataset", "store", "features", "seconds"} <= set(done.json)
    (feature,) = done.json["features"]
    assert set(feature) >= COUNTS
    assert (feature["samples"], feature["encoded"]) == (14, 14)
    assert "not the official release" in done.err


def test_too_many_failures_exit_with_1_after_everything_else_was_done(
    mer: Any, small_corpus: Path, tmp_path: Path
) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    (root / "bad.mp4").write_bytes(b"no media")
    (root / "good.mp4").write_bytes((small_corpus / "train_splits" / "dia0_utt0.mp4").read_bytes())
    words = ["extract", "--dataset", "folder", "--root", root, "--store", tmp_path / "s", "--encoders", "mfcc"]
    done = mer(*words, "--json")
    assert done.code == 1
    (feature,) = done.json["features"]
    assert (feature["written"], feature["failed"]) == (1, 1)
    assert "1 of 2 utterances failed, more than --max-failures 1% allows" in done.err
    assert mer(*words, "--max-failures", "1").code == 0
    assert mer(*words, "--max-failures", "50%").code == 0
    assert mer(*words, "--max-failures", "49%").code == 1
    assert mer(*words, "--max-failures", "few").code == 2
    shown = mer("store", "show", "folder", "mfcc", "--store", tmp_path / "s", "--json")
    assert list(shown.json["failures"]) == ["bad"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extract", "--dataset", "mled"], r"no dataset called 'mled'\. Did you mean 'meld'\?"),
        (["extract", "--dataset", "meld"], r"--root.*MER_DATA"),
        (["extract", "--dataset", "meld", "--root", "/nowhere"], r"/nowhere does not exist"),
        (["store", "ls", "--store", "/nowhere"], r"/nowhere holds no feature store.*`mer extract`"),
        (["fuse", "train", "--arch", "hf", "--dataset", "meld"], r"baseline called 'hf'\. Did you mean 'hff'\?"),
        (["fuse", "show", "hhf"], r"Did you mean 'hff'\?"),
        (["fuse", "eval", "/nowhere"], r"/nowhere is no run"),
    ],
)
def test_an_error_is_one_line_on_stderr(
    mer: Any, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MER_DATA", raising=False)
    done = mer(*words)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(rf"mer: .*{message}.*\n", done.err), done.err


@pytest.mark.parametrize(
    "words", [["extract"], ["exract"], ["store", "ls", "--nope"], ["fuse", "eval", "x", "--split", "train"]]
)
def test_wrong_usage_exits_with_2(mer: Any, words: list[str]) -> None:
    done = mer(*words)
    assert (done.code, done.out) == (2, "")
    assert "Usage: mer" in done.err


def test_a_fault_of_our_own_is_one_line_too_and_a_traceback_with_debug(
    mer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("extract.doctor.examine", broken)
    done = mer("doctor")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("mer: ZeroDivisionError: by nothing.")
    monkeypatch.setattr(sys, "argv", ["mer", "doctor", "--debug"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_package_that_shadows_ours_is_named(mer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "HERE", tmp_path)
    done = mer("datasets")
    assert done.code == 1
    assert "another distribution of that name shadows it" in done.err


def test_listings_name_what_there_is(mer: Any) -> None:
    assert {"meld", "folder"} <= set(mer("datasets", "--json").json)
    assert {"roberta", "hubert", "mfcc", "resnet", "vit"} <= set(mer("encoders", "--json").json)
    assert "hff" in mer("fuse", "archs", "--json").json
    for words in (["datasets"], ["encoders"], ["fuse", "archs"], ["fuse", "show", "hff"], ["doctor"]):
        done = mer(*words)
        assert (done.code, done.err) == (0, "")
        assert done.out.strip()


def test_help_is_quick_and_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'cv2', 'av', 'zarr'}"
    code = f"import sys, cli; cli._refuse_shadowed_packages(); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_and_evaluation_agree_to_the_bit(mer: Any, trained: tuple[Path, Path]) -> None:
    store, run = trained
    done = mer("fuse", "eval", run, "--store", store, "--json")
    assert done.code == 0
    assert done.json["identical"] is True
    recorded = json.loads((run / "metrics.json").read_text())
    assert done.json["test"] == recorded["test"]
    assert "Identical" in mer("fuse", "eval", run, "--store", store, "--split", "val").out


def test_training_prints_metrics_classes_and_where_the_run_lies(
    mer: Any, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    store, _ = trained
    words = ["fuse", "train", "--arch", "hff", "--dataset", "meld", "--store", store, "--out", tmp_path, "--seeds", "1"]
    done = mer(*words, "--modalities", "text", "--set", "max_epochs=1", "--set", "layers=1")
    assert done.code == 0
    for expected in ("weighted_f1", "true class", "disgust", "random weights: a trial", str(tmp_path / "hff-meld-1")):
        assert expected in done.out
    refused = mer(*words, "--set", "max_epoch=1")
    assert refused.code == 1
    assert "Did you mean 'max_epochs'" in refused.err


def test_the_store_is_listed_shown_verified_repaired_and_emptied(mer: Any, small_corpus: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    extract = ["extract", "--dataset", "meld", "--root", small_corpus, "--store", store, "--encoders", "mfcc"]
    assert mer(*extract).code == 0
    (row,) = mer("store", "ls", "--store", store, "--json").json["features"]
    assert (row["feature"], row["done"], row["missing"]) == ("mfcc", 14, 0)
    assert mer("store", "verify", "--deep", "--store", store).code == 0
    shard = max(store.rglob("values/c/*/*"), key=lambda p: p.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    damaged = mer("store", "verify", "--deep", "--store", store, "--json")
    assert damaged.code == 1
    assert [f["damage"] for f in damaged.json["findings"]].count(True) == 1
    assert mer("store", "repair", "--deep", "--store", store).code == 0
    assert mer(*extract, "--json").json["features"][0]["encoded"] in range(1, 15)
    assert mer("store", "verify", "--deep", "--store", store).code == 0
    assert mer("store", "gc", "--store", store, "--older-than-hours", "0").code == 0
    assert mer("store", "rm", "meld", "mfcc", "--yes", "--store", store).code == 0
    assert mer("store", "ls", "--store", store, "--json").json["features"] == []
