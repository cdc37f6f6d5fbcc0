"""`mer fuse ...` as it is typed: what it prints, its JSON, and wrong usage in one line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse.archs import hff
from fuse.tables import Column, Row, Table

Mer = Callable[..., tuple[int, str, str]]
SMALL = ["d=12", "steps=3", "layers=1", "head_width=4", "speech_channels=[4]", "speech_width=6", "max_epochs=1"]
SETS = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(name="mer")
def mer_fuse(mer: Mer) -> Mer:
    """Runs a command line of `mer fuse` within this process: exit code, stdout, stderr."""
    return lambda *words: mer("fuse", *words)


@pytest.fixture
def trained(mer: Mer, toy_store: Path, tmp_path: Path) -> list[str | Path]:
    """What trains on the toy dataset."""
    return ["--arch", "hff", "--dataset", "toy", "--store", toy_store, "--out", tmp_path, "--jobs", "1", *SETS]


def test_folds_are_trained_shown_compared_and_exported(mer: Mer, trained: list[str | Path], tmp_path: Path) -> None:
    folds = ["--protocol", "kfold:half:2", "--group", "half=id:^d[0-9]*([0-9])", "--seeds", "2"]
    code, out, err = mer("train", *trained, *folds)
    assert code == 0, err
    assert "fold 1" in out and "fold 2" in out
    record = json.loads((tmp_path / "hff-toy-1" / "run.json").read_text())
    assert record["protocol"]["groups"] == {"half": "id:^d[0-9]*([0-9])"} and len(record["folds"]) == 2
    code, out, _ = mer("compare", tmp_path / "hff-toy-1", tmp_path / "hff-toy-1", "--draws", "100")
    assert code == 0 and "120 test utterances, 2 seeds in common" in out
    code, out, err = mer("export", tmp_path / "hff-toy-1", tmp_path / "model")
    assert code == 1 and "a model per fold" in err and err.count("\n") == 1


def test_robustness_prints_a_curve_per_modality(mer: Mer, trained: list[str | Path], tmp_path: Path) -> None:
    mer("train", *trained, "--seeds", "1")
    code, out, err = mer("robustness", tmp_path / "hff-toy-1", "--shares", "0,1", "--metric", "uar")
    assert code == 0, err
    assert out.startswith("uar on test") and "100%" in out
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["speech", "text", "vision"]
    code, out, _ = mer("robustness", tmp_path / "hff-toy-1", "--kind", "noise", "--json", "--modalities", "text")
    assert code == 0 and len(json.loads(out)["curves"]["text"]["accuracy"]) == 6
    assert mer("robustness", tmp_path / "hff-toy-1", "--shares", "a")[0] == 2
    code, _, err = mer("robustness", tmp_path / "hff-toy-1", "--at", "train", "--metric", "mae")
    assert code == 2 and "none of accuracy" in err and not (tmp_path / "hff-toy-1-robustness").exists()


def test_ablate_prints_the_papers_numbers_and_what_coincides(
    mer: Mer, trained: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = (Column("ACC", "accuracy"), Column("P", "accuracy", ("physiology",)))
    rows = (Row("full model", {}, (0.676, None)), Row("also full", {"temporal": True}, (0.5, None)))
    monkeypatch.setattr(hff, "TABLES", (Table("4", "Table 4", columns, rows),))
    code, out, err = mer("ablate", *trained, "--seeds", "1")
    assert code == 0, err
    assert "(67.6)" in out and "≡: coincides by construction with Table 4, full model" in out
    assert "–: no physiology in the store." in out and err.count("Table 4:") == 1


def test_sweep_says_how_to_train_what_it_found(mer: Mer, trained: list[str | Path], tmp_path: Path) -> None:
    given = ["--modalities", "text,speech", "--features", "text=roberta", "--target", "emotion"]
    search = ["--seeds", "1", "--trials", "1", "--search", "lr=1e-3|1e-4"]
    code, out, err = mer("sweep", *trained, *given, *search)
    assert code == 0, err
    assert "1 (best)" in out
    (line,) = (line for line in out.splitlines() if line.startswith("Now on test, once: "))
    words = shlex.split(line.removeprefix("Now on test, once: "))
    assert words[:3] == ["mer", "fuse", "train"]
    code, _, err = mer(*words[2:], "--seeds", "1", "--out", tmp_path / "found", "--jobs", "1")
    assert code == 0, err
    record = json.loads((tmp_path / "found" / "hff-toy-1" / "run.json").read_text())
    assert sorted(record["features"]) == ["speech", "text"] and record["training"]["lr"] in (1e-3, 1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "kfold:speaker"], "kfold:GROUP:K"),
        (["--protocol", "kfold:actor:3"], "no group called 'actor'"),
        (["--protocol", "kfold:speaker:3"], "d0_u0 has no speaker"),
        (["--test-on", "toy"], "each once"),
        (["--test-on", "meld"], "meld"),
        (["--map", "hapy=joy"], "no class to map called 'hapy'"),
        (["--val", "dialogue:0.2"], "official validation split"),
    ],
)
def test_wrong_protocols_are_one_line(mer: Mer, trained: list[str | Path], words: list[str], message: str) -> None:
    code, out, err = mer("train", *trained, *words)
    assert code == 1 and message in err and err.count("\n") == 1 and not out


def test_a_malformed_group_or_map_is_wrong_usage(mer: Mer, trained: list[str | Path]) -> None:
    for words in (["--group", "session"], ["--map", "joy"]):
        code, _, err = mer("train", *trained, *words)
        assert code == 2 and "is not of the form" in err
