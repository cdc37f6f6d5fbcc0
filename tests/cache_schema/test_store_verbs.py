"""`mer store ...`, `mer extract` and `mer fuse ...` on a folder and on S3, as their users run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_builders import PLAN, build, spec, write
from test_store_places import overwrite, shards

from cache_schema.plan import SegmentPlan
from cache_schema.store import FeatureStore


def test_looking_checking_and_mending(mer: Any, location: str) -> None:
    store = build(location, count=10)
    write(store.writer("toy", spec(random_weights=True), PLAN))
    at = ("--store", location)
    rows = mer("store", "ls", *at, "--json").json["features"]
    assert [(r["samples"], r["done"], r["failed"], r["absent"], r["missing"]) for r in rows] == [(10, 8, 1, 1, 0)] * 2
    assert sorted(r["random_weights"] for r in rows) == [False, True]
    assert all(r["hosts"] == ["box"] and r["bytes"] > 1000 for r in rows)
    listed = mer("store", "ls", *at).out
    assert listed.count("toynet") == 2 and "(random" in listed and "box" in listed
    name = f"toynet@{spec().fingerprint()[:8]}"
    shown = mer("store", "show", "toy", name, *at, "--json").json
    assert shown["spec"]["full_settings"] == {"fps": 5.0, "crop": "whole"}
    assert shown["failures"] == {"u3": "clips/3.mp4: moov atom not found"}
    assert shown["versions"] == {"numpy": ["2.0"]}
    intact = mer("store", "verify", "--deep", *at)
    assert intact.code == 0 and intact.out.split() == f"{location}: intact (every byte read).".split()

    key = next(k for k in shards(store) if spec().fingerprint()[:16] in k)
    overwrite(location, key, b"")
    found = mer("store", "verify", *at, "--json")
    assert found.code == 1 and "1 damaged. `mer store repair` drops them" in " ".join(found.err.split())
    assert "`mer store repair --deep` drops them" in " ".join(mer("store", "verify", "--deep", *at).err.split())
    (finding,) = found.json["findings"]
    assert finding["file"] == key and finding["segment"] in key
    assert mer("store", "repair", *at).out.replace("\n", "").endswith("1 dropped.")
    assert mer("store", "verify", *at).code == 0
    (segment,) = store.writer("toy", spec()).todo()
    assert segment.name == finding["segment"]
    write(store.writer("toy", spec()))
    assert mer("store", "verify", "--deep", *at).code == 0
    assert mer("store", "gc", *at, "--older-than-hours", "0").code == 0
    assert mer("store", "rm", "toy", name, "--yes", *at).code == 0
    assert len(mer("store", "ls", *at, "--json").json["features"]) == 1


def test_deleting_and_restoring_samples(mer: Any, location: str, tmp_path: Path) -> None:
    build(location, count=6)
    at = ("--store", location)
    (tmp_path / "ids.txt").write_text("u1\n\nu2\n", encoding="utf-8")
    done = mer("store", "delete-samples", "toy", "u0", "u1", "--from", tmp_path / "ids.txt", "--yes", *at)
    assert (done.code, done.out) == (0, "Deleted 3 samples of toy.\n")
    (row,) = mer("store", "ls", *at, "--json").json["features"]
    assert (row["samples"], row["missing"]) == (3, 0)
    again = mer("store", "delete-samples", "toy", "u1", "--yes", *at)
    assert again.code == 1 and "the sample 'u1' was deleted from the store" in again.err
    assert mer("store", "delete-samples", "toy", "--yes", *at).code == 2
    assert mer("store", "restore-samples", "toy", "u1", *at).code == 0
    (row,) = mer("store", "ls", *at, "--json").json["features"]
    assert (row["samples"], row["missing"]) == (4, 1)


def test_extraction_after_damage_computes_that_segment_and_nothing_else(
    mer: Any, small_corpus: Path, location: str
) -> None:
    at = ("--store", location)
    extract = ("extract", "--dataset", "meld", "--root", small_corpus, *at, "--encoders", "mfcc", "--json")
    first = mer(*extract)
    assert first.code == 0, first.err
    assert "Made a feature store in" in first.err
    store = FeatureStore.open(location, mode="a")
    whole = store.feature("meld", "mfcc")
    # The small corpus is one segment by the usual plan: cut it finer, once.
    mer("store", "rm", "meld", "mfcc", "--yes", *at)
    store.writer("meld", whole.spec, SegmentPlan(max_rows=4))
    assert mer(*extract).json["features"][0]["encoded"] == 14
    overwrite(location, shards(store)[1], b"x")
    assert mer("store", "verify", *at).code == 1
    assert mer(*extract).json["features"][0]["encoded"] == 0, "what is damaged is not taken for missing"
    assert mer("store", "repair", *at).code == 0
    report = mer(*extract).json["features"][0]
    assert (report["encoded"], report["skipped"], report["missing"]) == (4, 10, 0)
    assert mer("store", "verify", "--deep", *at).code == 0

    deleted = store.samples("meld").ids[0]
    assert mer("store", "delete-samples", "meld", deleted, "--yes", *at).code == 0
    after = mer(*extract)
    assert after.json["samples"] == 13 and after.json["features"][0]["encoded"] == 0
    assert "Deleted samples, which stay out: 1." in " ".join(after.err.split())


@pytest.fixture
def writer_at_work(s3: str) -> Iterator[Any]:
    """Starts a process that extracts into a dataset until it is killed; returns it when it has begun."""
    started: list[subprocess.Popen[str]] = []

    def start(dataset: str) -> subprocess.Popen[str]:
        driver = Path(__file__).with_name("protocol_driver.py")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(driver.parents[2]), str(driver.parent)])}
        words = [sys.executable, str(driver), "busy", s3, dataset]
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_training_and_evaluating_from_s3_while_another_process_extracts(
    mer: Any, small_corpus: Path, s3: str, tmp_path: Path, writer_at_work: Any
) -> None:
    at = ("--store", s3)
    assert mer("extract", "--dataset", "meld", "--root", small_corpus, *at, "--encoders", "mfcc").code == 0
    process = writer_at_work("meld")
    words = ["fuse", "train", "--arch", "hff", "--dataset", "meld", *at, "--modalities", "speech", "--seeds", "1"]
    words += ["--set", "steps=2", "--set", "layers=1", "--set", "max_epochs=1", "--jobs", "1", "--json"]
    trained = mer(*words, "--out", str(tmp_path))
    assert trained.code == 0, trained.err
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_bytes())["store"] == s3
    evaluated = mer("fuse", "eval", record.parent, "--json")
    assert evaluated.code == 0 and evaluated.json["identical"], evaluated.err
    assert process.poll() is None, "the writer was at work all the time"
    assert process.stdout is not None and process.stdout.readline(), "and writes on"
    process.kill()
    process.communicate()
    assert mer("store", "verify", "--deep", *at).code == 0
