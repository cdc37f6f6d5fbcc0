"""Yesterday's bytes keep their meaning: the reader reads them, and so does FORMAT.md's text alone."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_schema.feature_spec import FeatureSpec
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

LATER: dict[str, Any] = dict.fromkeys(("recognised", "word_times", "sound", "signals", "region"))
"""Columns that a store need not have."""
GOLDEN = sorted((Path(__file__).parent / "golden").glob("format-*"))


@pytest.fixture(params=GOLDEN, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def expected(golden: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((golden / "expected.json").read_text(encoding="utf-8"))
    return facts


def test_there_is_a_golden_store_of_every_format() -> None:
    from cache_schema.format import FORMAT_VERSION

    assert {folder.name.split("-")[1] for folder in GOLDEN} == {str(n) for n in range(1, FORMAT_VERSION + 1)}


def test_the_reader_reads_it(golden: Path, expected: dict[str, Any]) -> None:
    store = FeatureStore.open(golden / "store")
    assert verify(store, deep=True) == []
    assert store.datasets() == ["toy"]
    samples = store.samples("toy")
    assert samples.corpus.model_dump(mode="json") == expected["corpus"]
    assert [u.model_dump(mode="json") for u in samples.utterances] == [LATER | row for row in expected["utterances"]]
    assert sorted(samples.deleted) == expected.get("deleted", [])
    feature = store.feature("toy", "toynet")
    assert feature.spec.model_dump(mode="json") == expected["spec"]
    assert feature.fingerprint == expected["fingerprint"]
    assert feature.digest() == expected["digest"]
    assert feature.failures() == {i: r["failed"] for i, r in expected["rows"].items() if "failed" in r}
    assert feature.absences() == {i: r["absent"] for i, r in expected["rows"].items() if "absent" in r}
    for id_, row in expected["rows"].items():
        if "arrays" in row:
            for name, values in feature.read(id_).items():
                assert values.tolist() == row["arrays"][name]


def test_the_stored_spec_has_the_fingerprint_that_it_had(expected: dict[str, Any]) -> None:
    assert FeatureSpec.parse(expected["spec"], "golden").fingerprint() == expected["fingerprint"]


def unsealed(document: dict[str, Any]) -> dict[str, Any]:
    body = {name: value for name, value in document.items() if name != "sha256"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    assert hashlib.sha256(canonical).hexdigest() == document["sha256"]
    assert body["format"] in (1, 2)
    return body


def cut_and_hashed(data: bytes) -> bool:
    """The digest as a reader without canonical numbers takes it: the member and its comma cut from the bytes."""
    digest = json.loads(data)["sha256"].encode()
    cut = data.replace(b'"sha256":"' + digest + b'",', b"").replace(b',"sha256":"' + digest + b'"', b"")
    return hashlib.sha256(cut).hexdigest().encode() == digest


def segments_by_the_text(
    part: str, durations: list[float | None], spec: dict[str, Any], plan: dict[str, Any]
) -> list[str]:
    sizes = {"float16": 2, "float32": 4, "int32": 4, "uint8": 1, "bool": 1}
    frame = sum(math.prod(a["tail"]) * sizes[a["dtype"]] for a in spec["arrays"])
    seconds = [plan["unknown_seconds"] if d is None else d for d in durations]
    nominal = sum(max(1, math.ceil(s * spec["nominal_rate_hz"])) for s in seconds) * frame
    rows = 1
    while rows * 2 <= plan["max_rows"] and nominal * rows * 2 <= plan["target_bytes"] * len(durations):
        rows *= 2
    return [f"{part.removeprefix('part-')}-{start:07d}" for start in range(0, len(durations), rows)]


def test_format_md_alone_is_enough_to_read_it(golden: Path, expected: dict[str, Any]) -> None:
    """With json, pyarrow and zarr, and nothing of cache_schema."""
    import pyarrow.parquet as pq
    import zarr

    root = golden / "store"
    marker = (root / "mer-store.json").read_bytes()
    assert unsealed(json.loads(marker)).items() >= {"format": 1, "kind": "mer feature store"}.items()
    assert cut_and_hashed(marker)

    (folder,) = (root / "features" / "toy").iterdir()
    group = json.loads((folder / "zarr.json").read_bytes())
    assert group["zarr_format"] == 3 and group["node_type"] == "group"
    document = unsealed(group["attributes"]["mer"])
    spec, plan = document["spec"], document["plan"]
    assert folder.name == f"{spec['feature']}-{document['fingerprint'][:16]}.zarr"
    assert zarr.open_group(folder, mode="r").attrs["mer"]["fingerprint"] == expected["fingerprint"]

    commits = {}
    for file in sorted((folder / "commits").iterdir()):
        assert cut_and_hashed(file.read_bytes())
        commits[file.stem] = unsealed(json.loads(file.read_bytes()))

    place: dict[str, tuple[str, int, dict[str, Any]]] = {}
    planned: list[str] = []
    deleted: set[str] = set()
    parts: set[str] = set()
    for file in sorted((root / "samples" / "toy").iterdir()):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert file.stem.split("-")[2] == digest[:16]
        table = pq.read_table(file, page_checksum_verification=True)
        rows = [LATER | row for row in table.to_pylist()]
        for row in rows:
            row["labels"], row["scores"] = dict(row["labels"]), dict(row["scores"])
        corpus = unsealed(json.loads(pq.ParquetFile(file).metadata.metadata[b"mer"]))
        assert corpus["corpus"] == expected["corpus"]
        assert corpus["format"] == (2 if "deleted" in corpus else 1)
        assert set(corpus.get("after", ())) <= parts, "no part is lost, and names are in the order of appending"
        parts.add(file.stem)
        for id_ in corpus.get("deleted", ()):
            deleted.add(id_)
            place.pop(id_, None)
        if not rows:
            continue
        names = segments_by_the_text(file.stem, [row["duration"] for row in rows], spec, plan)
        planned += names
        step = -(-len(rows) // len(names)) if len(names) == 1 else plan["max_rows"]
        for number, row in enumerate(rows):
            place[row["id"]] = (names[number // step], number % step, row)
            deleted.discard(row["id"])
        assert all(c["part_sha256"] == digest for c in commits.values() if c["part"] == file.stem)
    assert sorted(commits) == sorted(planned)
    assert [row for _, _, row in place.values()] == [LATER | row for row in expected["utterances"]]
    assert sorted(deleted) == expected.get("deleted", [])

    for id_, (segment, number, _) in place.items():
        commit, wanted = commits[segment], expected["rows"][id_]
        if "arrays" not in wanted:
            kind = "failed" if "failed" in wanted else "absent"
            assert commit[kind][str(number)] == wanted[kind] and commit["lengths"][number] == 0
            continue
        attempt = folder / "data" / f"{segment}.{commit['attempt']}"
        start = sum(commit["lengths"][:number])
        stop = start + commit["lengths"][number]
        assert stop - start == wanted["frames"]
        for path, facts in commit["files"].items():
            data = (attempt / path).read_bytes()
            assert len(data) == facts["size"] and hashlib.sha256(data).hexdigest() == facts["sha256"]
        for array in spec["arrays"]:
            stored = zarr.open_array(attempt / array["name"], mode="r")
            assert stored.shape == (sum(commit["lengths"]), *array["tail"]) and stored.dtype == np.dtype(array["dtype"])
            values = np.asarray(stored[start:stop])
            assert values.tolist() == wanted["arrays"][array["name"]]
