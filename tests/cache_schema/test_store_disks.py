"""Real file systems that are full or read-only, and stores that a newer version wrote: refused in one clear line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from store_builders import PLAN, build, corpus, spec, utterances

from cache_schema.canonical import canonical_bytes, seal, sha256_hex
from cache_schema.errors import DamagedError, StoreError
from cache_schema.repair import gc, repair
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

HERE = Path(__file__).parent


def on_a_disk_of_its_own(verb: str, folder: Path, size: str) -> list[str]:
    """What `disk_driver.py` prints, in a name space of its own in which `folder` is a small disk."""
    own = ["unshare", "--map-root-user", "--mount"]
    mount = f'mount -t tmpfs -o size={size} tmpfs "$1"'
    if (
        shutil.which("unshare") is None
        or subprocess.run([*own, "sh", "-c", mount, "sh", folder], check=False).returncode
    ):
        pytest.skip("no file system may be mounted here")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    run = f'{mount} && exec "$2" "$3" {verb} "$1"'
    done = subprocess.run(
        [*own, "sh", "-c", run, "sh", folder, sys.executable, HERE / "disk_driver.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said: list[str] = json.loads(done.stdout)
    assert not [text for text in said if "\n" in text]
    return said


def test_a_full_disk_loses_nothing_and_extraction_goes_on_when_there_is_room(tmp_path: Path) -> None:
    said = on_a_disk_of_its_own("full", tmp_path, "400k")
    assert len(said) == 2
    assert all(text.startswith(str(tmp_path)) and text.endswith("No space left on device.") for text in said), said


def test_a_read_only_store_is_read_and_verified_and_refuses_in_one_line(tmp_path: Path) -> None:
    said = on_a_disk_of_its_own("read-only", tmp_path, "4m")
    assert len(said) == 5
    assert all(text.startswith(str(tmp_path)) and "Read-only file system." in text for text in said), said


def newer(folder: Path, kind: str) -> None:
    """Rewrite a document of the store as a newer version of mer might: another format, and a member of its own."""
    changed: dict[str, Any] = {"format": 3, "gain": 2}
    if kind == "part":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cache_schema.parts.seal", lambda document: seal(document | changed))
            FeatureStore.open(folder, mode="a").append_again("toy", ["u1"])
        return
    pattern = {"marker": "mer-store.json", "commit": "features/*/*/commits/*.json", "group": "features/*/*/zarr.json"}
    file = sorted(folder.glob(pattern[kind]))[0]
    document = json.loads(file.read_bytes())
    if kind == "group":
        inner = {name: value for name, value in document["attributes"]["mer"].items() if name != "sha256"} | changed
        inner["sha256"] = sha256_hex(canonical_bytes(inner))
        document["attributes"]["mer"] = inner
        file.write_bytes(canonical_bytes(document))
    else:
        file.write_bytes(seal(document | changed))


@pytest.mark.parametrize("kind", ["marker", "part", "group", "commit"])
def test_every_document_of_a_newer_format_is_refused_by_all_and_changed_by_nobody(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "store"
    build(folder, count=6)
    newer(folder, kind)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def read(mode: Any) -> FeatureStore:
        store = FeatureStore.open(folder, mode=mode)
        store.feature("toy", "toynet")
        return store

    def write() -> None:
        store = FeatureStore.open(folder, mode="a")
        if kind == "commit":
            assert store.writer("toy", spec(), PLAN).todo() == [], "what is committed by a newer version is committed"
            read("a")
        store.append_samples(corpus(), utterances(9))
        store.writer("toy", spec(), PLAN)

    refusals = [lambda: read("r"), lambda: read("a"), write]
    refusals += [lambda act=act: act(FeatureStore.open(folder, mode="a")) for act in (verify, repair, gc)]
    for act in refusals:
        with pytest.raises(StoreError, match=r"has format 3, .* reads formats up to 2\. Upgrade mer\.$") as refused:
            act()
        assert not isinstance(refused.value, DamagedError), "it is whole: nobody may repair it"
        assert "\n" not in str(refused.value)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if kind == "group":  # its dataset is of a version that is known, so samples may be added
        after = {path: data for path, data in after.items() if path in before}
    assert after == before
