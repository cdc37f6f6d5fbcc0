"""A store belongs to a group of people: permissions, the umask, moving, copying, and no trace of where it was made."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_builders import PLAN, assert_intact, build, corpus, spec, utterances, write

from cache_schema.errors import StoreError
from cache_schema.repair import gc, remove_feature, repair
from cache_schema.storage import open_storage
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

HERE = Path(__file__).parent


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield int(request.param)
    os.umask(before)


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077], indirect=True, ids=oct)
def test_files_and_folders_have_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    store = build(tmp_path / "store", count=6)
    store.delete_samples("toy", ["u1"])
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


@pytest.mark.parametrize("umask", [0o002], indirect=True, ids=oct)
def test_nothing_is_visible_with_fewer_permissions_for_a_moment(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another may list under its name may be read by the group from the first moment on."""
    seen = []
    real = os.link

    def watched(source: Path, target: Path) -> None:
        real(source, target)
        seen.append(stat.S_IMODE(Path(target).stat().st_mode))

    monkeypatch.setattr(os, "link", watched)
    build(tmp_path / "store", count=6)
    assert len(seen) >= 5 and set(seen) == {0o664}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can act as several users")
def test_two_users_of_one_group_write_mend_and_remove_in_one_store_and_others_only_read(open_folder: Path) -> None:
    from users_driver import ALICE, BOB, GROUP

    shared = open_folder / "shared"
    shared.mkdir()
    os.chown(shared, ALICE, GROUP)
    shared.chmod(0o2775)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    done = subprocess.run(
        [sys.executable, str(HERE / "users_driver.py"), str(shared), str(open_folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout)
    assert said.pop("owners") == [ALICE, BOB] and said.pop("groups") == [GROUP]
    refused = {step: text for step, text in said.items() if text}
    assert list(refused) == ["eve writes", "eve looks into a private store"]
    for text in refused.values():
        assert text.startswith(str(shared)) and text.endswith("Permission denied.") and "\n" not in text


def test_no_file_of_a_store_tells_where_it_lies(location: str, tmp_path: Path) -> None:
    store = build(location, count=9)
    store.append_again("toy", ["u1"])
    store.delete_samples("toy", ["u2"])
    write(store.writer("toy", spec()))
    traces = [str(tmp_path), str(Path.cwd()), str(Path.home()), sys.prefix, location, "s3://", "file://"]
    for key in store.storage.files(""):
        data = store.storage.get(key) or b""
        assert data
        for trace in traces:
            assert trace.encode() not in data, f"{trace} in {key}"
            assert json.dumps(trace)[1:-1].encode() not in data


def assert_same_store(copy: str, digest: str) -> None:
    """The copy is whole, has the same data, and goes on as a store."""
    store = FeatureStore.open(copy, mode="a")
    assert verify(store, deep=True) == []
    assert_intact(store)
    assert store.feature("toy", "toynet").digest() == digest
    assert store.writer("toy", spec(), PLAN).todo() == []
    store.append_samples(corpus(), utterances(11))
    write(store.writer("toy", spec(), PLAN))
    assert_intact(store)


def test_a_copy_is_a_store(tmp_path: Path) -> None:
    digest = build(tmp_path / "store", count=9).feature("toy", "toynet").digest()
    subprocess.run(["cp", "-r", tmp_path / "store", tmp_path / "copy"], check=True)
    shutil.rmtree(tmp_path / "store")
    assert_same_store(str(tmp_path / "copy"), digest)
    (tmp_path / "copy").rename(tmp_path / "moved")
    assert_intact(FeatureStore.open(tmp_path / "moved"))


def copy_files(source: str, target: str) -> None:
    """File by file, in any order, as `rclone copy` and `aws s3 sync` do; empty folders are lost."""
    reading, writing = open_storage(source), open_storage(target)
    for key in sorted(reading.files(""), reverse=True):
        assert writing.put_if_absent(key, reading.get(key) or b"")


@pytest.mark.parametrize("way", ["to s3", "from s3", "within s3"])
def test_a_copy_between_a_folder_and_s3_is_a_store(tmp_path: Path, s3: str, way: str) -> None:
    source = str(tmp_path / "store") if way == "to s3" else f"{s3}/one"
    target = str(tmp_path / "copy") if way == "from s3" else f"{s3}/two"
    digest = build(source, count=9).feature("toy", "toynet").digest()
    copy_files(source, target)
    assert_same_store(target, digest)


def test_a_copy_that_stopped_half_way_is_found(tmp_path: Path) -> None:
    """A copier that brings commits before their data leaves commits without data: damage, and never silence."""
    store = build(tmp_path / "store", count=6)
    copied = tmp_path / "copy"
    shutil.copytree(tmp_path / "store", copied, ignore=shutil.ignore_patterns("c"))
    with pytest.raises(StoreError, match="is missing"):
        FeatureStore.open(copied)["toy"]["toynet"]["u1"]
    copy = FeatureStore.open(copied, mode="a")
    assert {f.kind for f in verify(copy)} == {"data"}
    assert len({f.segment for f in repair(copy)}) == len(store.feature("toy", "toynet").commits)
    gc(copy, older_than_hours=0)
    write(copy.writer("toy", spec()))
    assert_intact(copy)
    remove_feature(copy, "toy", "toynet")
    assert verify(copy) == []
