"""Errors that users meet: each is one line that says what, where and what to do, and nothing is left half-written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cache_schema.canonical import seal
from extract.synthetic import SyntheticSpec, make_corpus
from fuse.train import train_run
from fuse.training import checkpoint


class Places(NamedTuple):
    """What the words of a command line below stand for; nobody writes there."""

    corpus: Path
    store: Path
    run: Path
    clip: Path


@pytest.fixture(scope="module")
def places(mer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Seven clips, their mfcc, and a run of two seeds on that."""
    folder = tmp_path_factory.mktemp("errors")
    corpus, store = folder / "meld", folder / "store"
    make_corpus(corpus, SyntheticSpec(train=4, dev=1, test=2, size=64))
    done = mer("extract", "--dataset", "meld", "--root", corpus, "--store", store, "--encoders", "mfcc")
    assert done.code == 0, done.err
    settings = ["max_epochs=1", "d=16", "layers=1", "steps=2"]
    trained = train_run(
        store, "meld", "hff", modalities=("speech",), assignments=settings, seeds=2, out=folder / "runs", jobs=1
    )
    clip = corpus / "output_repeated_splits_test" / "dia0_utt1.mp4"
    return Places(corpus, store, trained.run, clip)


def files_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


EXTRACT = "extract --dataset meld --root CORPUS --store OUT/store"
TRAIN = "fuse train --arch hff --dataset meld --store STORE --modalities speech --out OUT/runs"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{EXTRACT} --encoders mfc", r"no encoder called 'mfc'\. Did you mean 'mfcc'"),
        (f"{EXTRACT} --encoders mfcc --set mfcc.hop=20", r"no field called 'hop'\. Did you mean 'hop_ms'"),
        (f"{EXTRACT} --encoders mfcc --device cdua", r"no device called 'cdua'\. Did you mean 'cuda'"),
        (f"{EXTRACT} --encoders resnet --weights resnet=random-smal", r"no folder random-smal.*`random-small`"),
        ("extract --dataset meld --root EMPTY --store OUT/store", r"EMPTY has no train_sent_emo\.csv.*`mer datasets`"),
        ("store show medl mfcc --store STORE", r"no dataset called 'medl'\. Did you mean 'meld'"),
        ("store show meld mfc --store STORE", r"no feature called 'mfc'\. Did you mean 'mfcc'"),
        ("store show meld mfcc test/dia0_ut1 --store STORE", r"Did you mean 'test/dia0_utt1'"),
        ("store show meld mfcc test/dia0_utt1 --store STORE --out OUT/x.gif", r"x\.gif: .* ends in \.png"),
        ("store plot meld mfcc --store STORE --by lable", r"Did you mean 'label'"),
        ("store plot meld mfcc --store STORE --method tnse", r"Did you mean 'tsne'"),
        ("store ls --store CLIP", r"dia0_utt1\.mp4 holds no feature store.*`mer extract`"),
        ("check --dataset medl --store STORE", r"Did you mean 'meld'"),
        ("check --dataset meld --store STORE --allow speker", r"Did you mean 'speakers'"),
        ("models pull robert", r"Did you mean 'roberta'"),
        (f"{TRAIN} --set leyers=1", r"called 'leyers'\. Did you mean 'layers'"),
        (f"{TRAIN} --set d=wide", r"d = 'wide'.*integer"),
        (f"{TRAIN} --set d", r"'d' is not of the form field=value"),
        (f"{TRAIN} --target emotoin", r"Did you mean 'emotion'"),
        (f"{TRAIN} --protocol loso:speakr", r"Did you mean 'speaker'"),
        (f"{TRAIN} --device cdua", r"Did you mean 'cuda'"),
        (f"{TRAIN} --features speech=mfc", r"Did you mean 'mfcc'"),
        ("fuse train --arch hff --dataset meld,meld2 --store STORE --out OUT/runs", r"'meld2'.*Did you mean 'meld'"),
        ("fuse eval EMPTY", r"EMPTY is no run: it has no run\.json.*`mer fuse train`"),
        ("fuse eval RUNS", r"is no run: it has no run\.json\. It holds runs: hff-meld-1"),
        ("fuse eval RUN --store OUT/moved", r"OUT/moved holds no feature store"),
        ("report OUT/gone", r"OUT/gone is no run: there is no such folder"),
        ("predict CLIP --model RUN --video OUT/x.avi", r"a video ends in \.mp4"),
        ("predict CLIP --model RUN --language klingon", r"no language 'klingon'"),
        ("predict CLIP --model RUN --device cdua", r"Did you mean 'cuda'"),
        ("predict ZERO --model RUN", r"zero\.mp4 is empty \(0 bytes\)"),
    ],
)
def test_an_error_is_one_line_and_writes_nothing(
    mer: Callable[..., Any], places: Places, tmp_path: Path, line: str, message: str
) -> None:
    out, empty, zero = tmp_path / "out", tmp_path / "empty", tmp_path / "zero.mp4"
    empty.mkdir()
    zero.touch()
    at = {
        "CORPUS": places.corpus, "STORE": places.store, "RUNS": places.run.parent, "RUN": places.run,
        "CLIP": places.clip, "OUT": out, "EMPTY": empty, "ZERO": zero,
    }  # fmt: skip
    words = [re.sub(r"^[A-Z]+\b", lambda found: str(at[found[0]]), word) for word in line.split()]
    before = files_of(places.run.parents[1])
    done = mer(*words)
    *notes, last = done.err.splitlines()
    assert (done.code, done.out) == (1, ""), done.err
    assert all(note.startswith("not the official release") for note in notes), done.err
    pattern = message.replace("EMPTY", re.escape(str(empty))).replace("OUT", re.escape(str(out)))
    assert re.match(rf"mer: .*{pattern}", last), last
    assert "fault in mer" not in last
    assert files_of(places.run.parents[1]) == before
    assert not [path for path in out.rglob("*") if path.is_file()]


@pytest.mark.parametrize("line", [f"{TRAIN} --device cuda", "predict CLIP --model RUN --device cuda"])
def test_a_gpu_that_is_not_there(mer: Callable[..., Any], places: Places, tmp_path: Path, line: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    at = {"STORE": places.store, "CLIP": places.clip, "RUN": places.run, "OUT/runs": tmp_path / "runs"}
    done = mer(*(at.get(word, word) for word in line.split()))
    assert done.code == 1 and done.err.count("\n") == 1 and "cuda" in done.err
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "run.json").unlink(), r"is no run: it has no run\.json"),
        (lambda run: (run / "run.json").write_text("{"), r"run\.json or metrics\.json cannot be read .*Train again"),
        (lambda run: (run / "run.json").write_text("[]"), r"does not hold what a run's does"),
        (lambda run: (run / "metrics.json").unlink(), r"metrics\.json cannot be read .*Train again"),
        (lambda run: shutil.rmtree(run / "seed-1"), r"seed-1.* is missing.*train again"),
        (lambda run: os.truncate(run / "seed-0" / "weights.safetensors", 300), r"seed-0.*does not hold this run's"),
        (lambda run: (run / "seed-0" / "predictions.parquet").write_bytes(b"PAR1"), r"predictions\.parquet cannot be"),
    ],
)
def test_a_damaged_run(
    mer: Callable[..., Any], places: Places, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    run = shutil.copytree(places.run, tmp_path / "run")
    damage(run)
    done = mer("fuse", "eval", run)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(rf"mer: .*{message}.*\n", done.err), done.err


def test_a_store_of_a_later_version(mer: Callable[..., Any], places: Places, tmp_path: Path) -> None:
    store = shutil.copytree(places.store, tmp_path / "store")
    marker = json.loads((store / "mer-store.json").read_text())
    (store / "mer-store.json").write_bytes(seal({**marker, "format": 99}))
    done = mer("store", "ls", "--store", store)
    assert done.code == 1 and done.err.count("\n") == 1 and "format 99" in done.err, done.err
    assert "Upgrade mer" in done.err


def test_a_disk_that_fills_while_training_goes_on_after_it_was_emptied(
    mer: Callable[..., Any], places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    words = ["fuse", "train", "--arch", "hff", "--dataset", "meld", "--store", places.store, "--modalities", "speech"]
    words += ["--out", tmp_path, "--set", "max_epochs=2", "--set", "d=16", "--seeds", "1", "--jobs", "1"]
    done = mer(*words)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert re.match(r"mer: .* cannot be written .*are free there.*same command again", last), done.err
    assert not list(tmp_path.rglob("*.new"))
    monkeypatch.undo()
    assert mer(*words).code == 0


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "Free some"), (errno.EACCES, "the right to"), (errno.EROFS, "only be read"), (errno.EIO, "")],
)
def test_what_the_file_system_says_is_told_with_what_to_do(
    mer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("extract.doctor.examine", fail)
    done = mer("doctor")
    assert done.code == 1 and done.err.count("\n") == 1
    assert done.err.startswith(f"mer: some/file: {os.strerror(number)}.") and said in done.err
