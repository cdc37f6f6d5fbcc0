"""What really reaches the kernel and the server, in its order: the write protocol as strace and S3's client see it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import obstore
import pytest
from store_builders import build

from cache_schema.store import FeatureStore

HERE = Path(__file__).parent
STRACE = shutil.which("strace")
CALL = re.compile(r'(fsync|link|linkat)\((?:\d+<(.*?)>|.*?"(.*?)", (?:AT_FDCWD(?:<.*?>)?, )?"(.*?)".*?)\) = 0|\+\+\+')


def traced(place: Path, log: Path) -> list[tuple[str, str, str]]:
    """(call, path, second path) of every fsync and link of a process that builds a store."""
    script = f"from store_builders import build; from pathlib import Path; build(Path({str(place)!r}), count=4)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    strace = [str(STRACE), "-f", "-y", "-qq", "-s", "4096", "-e", "trace=fsync,link,linkat", "-o", str(log)]
    done = subprocess.run(
        [*strace, sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr[-4000:]
    calls = [CALL.search(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(c[1].removesuffix("at"), c[2] or c[3], c[4] or "") for c in calls if c and c[1]]


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_the_kernel_is_asked_to_bring_everything_to_disk_before_a_link_shows_it(tmp_path: Path) -> None:
    place = tmp_path / "store"
    calls = traced(place, tmp_path / "log")
    linked = {target: index for index, (call, _, target) in enumerate(calls) if call == "link"}
    synced: dict[str, list[int]] = {}
    for index, (call, path, _) in enumerate(calls):
        if call == "fsync":
            synced.setdefault(path, []).append(index)
    found = [p for p in place.rglob("*") if p.is_file()]
    documents = {str(p) for p in found if "/data/" not in str(p)}
    assert len(documents) == 4 and set(linked) - documents == {p for p in linked if "/.probe." in p}
    for document in documents:
        _, temporary, _ = calls[linked[document]]
        assert synced[temporary][0] < linked[document], "the bytes are on disk before the name is there"
        assert any(index > linked[document] for index in synced[str(Path(document).parent)]), "then the name is"
    (commit,) = [d for d in documents if "/commits/" in d]
    (attempt,) = next(place.glob("features/*/*/data")).iterdir()
    for path in [attempt.parent, attempt, *attempt.rglob("*")]:
        assert any(index < linked[commit] for index in synced[str(path)]), f"{path} was not on disk"


def test_to_s3_the_commit_goes_last_on_condition_and_is_read_back(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str, Any]] = []
    real_put, real_put_async, real_get = obstore.put, obstore.put_async, obstore.get

    def put(store: Any, key: str, data: Any, **named: Any) -> Any:
        calls.append(("put", key, named.get("mode")))
        return real_put(store, key, data, **named)

    async def put_async(store: Any, key: str, data: Any, **named: Any) -> Any:
        assert not named.get("use_multipart"), "a killed writer would leave pieces that no listing shows"
        done = await real_put_async(store, key, data, **named)
        calls.append(("acknowledged", key, None))
        return done

    def get(store: Any, key: str) -> Any:
        calls.append(("get", key, None))
        return real_get(store, key)

    with monkeypatch.context() as patch:
        for name, watched in {"put": put, "put_async": put_async, "get": get}.items():
            patch.setattr(obstore, name, watched)
        build(s3, count=4)  # type: ignore[arg-type]
    files = set(FeatureStore.open(s3).storage.files(""))
    documents = {key for key in files if "/data/" not in key}
    assert len(documents) == 4 and len(files) == 4 + 6
    for key in documents:
        put_at = calls.index(("put", key, "create"))
        assert ("get", key, None) in calls[put_at:]
    assert {mode for what, _, mode in calls if what == "put"} == {"create"}
    (commit,) = [key for key in documents if "/commits/" in key]
    put_at = calls.index(("put", commit, "create"))
    for key in files - documents:
        acknowledged = calls.index(("acknowledged", key, None))
        assert acknowledged < put_at and ("get", key, None) in calls[acknowledged:put_at], "read back before"
