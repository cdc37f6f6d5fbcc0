"""Many workers: the same bits, each segment committed once, whoever dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import psutil
import pytest
from distributed import Client

from cache_schema.errors import DataError, MerError, SettingsError
from cache_schema.plan import SegmentPlan
from cache_schema.repair import gc
from cache_schema.rows import Failed
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore
from cache_schema.verify import verify
from extract import cluster
from extract.cluster import apart, dispatch
from extract.cluster.worker import Site, Work, device_for
from extract.run import Report, extract

ROWS = 16
"""Sounds of the corpus, two to a segment."""

PATCH = """
import os, signal, time
from extract.encoders import mfcc
real = mfcc.Encoder.encode
gate = os.environ.get("TEST_GATE", "")
def encode(self, clips):
    while gate and not os.path.exists(gate):
        open(gate + ".reached", "w").close()
        time.sleep(0.01)
    for clip in clips:
        time.sleep(float(os.environ.get("TEST_SLEEP", 0)))
        if clip.utterance.id == os.environ.get("TEST_POISON"):
            os.kill(os.getpid(), signal.SIGKILL)
    return real(self, clips)
mfcc.Encoder.encode = encode
"""
"""What every Python that is started meanwhile does to an encoder: it waits, takes its time, or kills its process."""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of different lengths."""
    root = tmp_path_factory.mktemp("sounds")
    noise = np.random.default_rng(0)
    for number in range(ROWS):
        with wave.open(str(root / f"u{number:02}.wav"), "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
            out.writeframes(noise.integers(-9000, 9000, 4000 + 500 * number, np.int16).tobytes())
    return root


@pytest.fixture(scope="module")
def planned(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the sounds and the features' plans are, in segments of two, and nothing is extracted."""
    folder = tmp_path_factory.mktemp("planned")
    extract("folder", sounds, str(folder / "whole"), encoders=["mfcc", "logmel"], device="cpu")
    whole, store = FeatureStore.open(folder / "whole"), FeatureStore.open(folder / "store", mode="a")
    samples = whole.samples("folder")
    store.append_samples(samples.corpus, [samples[id_] for id_ in samples.ids])
    for feature in whole.features("folder"):
        store.writer("folder", feature.spec, SegmentPlan(max_rows=2))
    return folder / "store"


@pytest.fixture
def store(planned: Path, tmp_path: Path) -> str:
    """A planned store of the test's own."""
    return str(shutil.copytree(planned, tmp_path / "store"))


@pytest.fixture
def run(sounds: Path, store: str) -> Callable[..., Report]:
    """Extracts the sounds; arguments replace its settings."""

    def extracted(**changes: Any) -> Report:
        settings: dict[str, Any] = {"root": sounds, "store_path": store, "encoders": ["mfcc"], "device": "cpu"}
        return extract("folder", **(settings | changes))

    return extracted


@pytest.fixture
def patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every Python that is started from here on sleeps, or dies, as `PATCH` says."""
    folder = tmp_path / "patch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PATCH)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    return monkeypatch


class Cluster:
    """A scheduler and workers, each a process of its own, as `dask scheduler` and `dask worker` start them."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.file = str(folder / "scheduler.json")
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", self.file)
        quick = ["--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--local-directory", str(folder)]
        self.workers = [
            self._start("worker", "--scheduler-file", self.file, "--name", f"w-{n}", *quick) for n in range(workers)
        ]
        wait_until(Path(self.file).exists)
        with Client(scheduler_file=self.file, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)

    def _start(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, "--no-dashboard", *words]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that no test kills."""
    started = Cluster(tmp_path_factory.mktemp("cluster"), 2)
    yield started
    started.close()


@pytest.fixture
def one_worker(tmp_path: Path, patched: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A slow cluster that the test may kill."""
    patched.setenv("TEST_SLEEP", "0.1")
    started = Cluster(tmp_path, 1)
    yield started
    started.close()


def contents(store: str) -> dict[str, list[bytes]]:
    """Every sample's numbers, by feature."""
    features = FeatureStore.open(store).features("folder")
    return {f.name: [f.read(id_)["values"].tobytes() for id_ in f.samples.ids] for f in features}


def assert_complete(store: str, *names: str, killed: bool = False) -> None:
    """Nothing is missing or damaged, and each segment was committed once.

    Of attempts nothing is left over, but of one whose process was killed, maybe while it wrote.
    """
    opened = FeatureStore.open(store, mode="a")
    if killed:
        gc(opened, older_than_hours=0)
    assert verify(opened, deep=True) == []
    for feature in [opened.feature("folder", name) for name in names]:
        assert (feature.status().samples, feature.status().missing) == (ROWS, 0)
        folder = Path(store) / "features" / "folder" / feature.spec.folder
        assert len(list((folder / "data").iterdir())) == len(list((folder / "commits").iterdir())) == ROWS // 2


def test_workers_give_the_bits_of_one_process(run: Any, planned: Path, two_workers: Cluster, tmp_path: Path) -> None:
    one = run(store_path=str(shutil.copytree(planned, tmp_path / "one")), encoders=["mfcc", "logmel"])
    seen: list[tuple[int, int, int]] = []
    many = run(encoders=["mfcc", "logmel"], scheduler=two_workers.file, progress=lambda *now: seen.append(now))
    assert contents(many.store) == contents(one.store)
    assert_complete(many.store, "mfcc", "logmel")
    assert [(f.written, f.encoded, f.skipped) for f in many.features] == [(ROWS, ROWS, 0)] * 2
    assert {w.worker for w in many.workers} == {"w-0", "w-1"}
    assert sum(w.rows for w in many.workers) == 2 * ROWS
    assert sum(w.stretches for w in many.workers) == ROWS // 2
    assert (seen[0], seen[-1]) == ((0, 2 * ROWS, 0), (2 * ROWS, 2 * ROWS, 0))
    assert one.workers == ()


def test_where_all_is_done_no_worker_is_asked(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run()

    def refuse(*_: Any) -> None:
        raise AssertionError("a cluster was started with nothing to do")

    monkeypatch.setattr(cluster, "_client", refuse)
    report = run(workers=8)
    assert [(f.skipped, f.encoded) for f in report.features] == [(ROWS, 0)]


def test_a_worker_that_is_killed_loses_nothing(run: Any, patched: pytest.MonkeyPatch) -> None:
    patched.setenv("TEST_SLEEP", "0.05")
    killed: list[int] = []

    def kill_one(done: int, total: int, failed: int) -> None:
        if done and not killed:
            victim = workers_of(os.getpid())[0]
            killed.append(victim.pid)
            victim.kill()

    report = run(workers=2, progress=kill_one)
    assert killed
    assert_complete(report.store, "mfcc", killed=True)
    (feature,) = report.features
    assert (feature.written, feature.skipped, feature.failed) == (ROWS, 0, 0)
    assert feature.encoded >= ROWS


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes that a process has started."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if "multiprocessing.spawn" in " ".join(child.cmdline())]


def test_an_utterance_that_kills_its_worker_is_a_recorded_failure(run: Any, patched: pytest.MonkeyPatch) -> None:
    patched.setenv("TEST_POISON", "u03")
    patched.setattr(dispatch, "TOLERATED_DEATHS", 0)
    said: list[str] = []
    report = run(workers=2, say=said.append)
    assert_complete(report.store, "mfcc")
    feature = FeatureStore.open(report.store).feature("folder", "mfcc")
    assert feature.failures() == {"u03": "u03.wav: the process that read it died (SIGKILL)"}
    assert report.features[0].written == ROWS - 1
    assert "Workers died over one stretch: its utterances are encoded one by one, to find the guilty one." in said


def test_without_its_scheduler_a_run_says_so_and_the_next_one_goes_on(run: Any, one_worker: Cluster) -> None:
    def kill(done: int, total: int, failed: int) -> None:
        if done >= 4:
            one_worker.scheduler.kill()

    with pytest.raises(DataError, match=r"was lost\. What was finished is kept, \d of 8 segments are left; start a"):
        run(scheduler=one_worker.file, progress=kill)
    one_worker.workers[0].wait(60)
    again = run().features[0]
    assert 0 < again.skipped < ROWS
    assert again.written == ROWS - again.skipped


def command_of(sounds: Path, store: str, *words: str) -> subprocess.Popen[str]:
    """`mer extract` in a process group of its own, as a terminal starts it."""
    extracting = ["extract", "--dataset", "folder", "--root", str(sounds), "--store", store, "--encoders", "mfcc"]
    command = [sys.executable, "-m", "cli", *extracting, "--device", "cpu", *words]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_until(come: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not come():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_runs_of_one_feature_at_once_commit_each_segment_once(
    run: Any, sounds: Path, store: str, two_workers: Cluster, patched: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    patched.setenv("TEST_GATE", str(gate))
    other = command_of(sounds, store, "--workers", "2", "--json")
    wait_until((tmp_path / "gate.reached").exists)
    mine = run(scheduler=two_workers.file, progress=lambda done, *_: gate.touch() if done >= ROWS // 4 else None)
    out, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors
    assert_complete(store, "mfcc")
    (feature,) = json.loads(out)["features"]
    assert mine.features[0].missing == feature["missing"] == 0
    assert mine.features[0].written >= 2
    assert mine.features[0].written + feature["written"] == ROWS


def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(
    run: Any, sounds: Path, store: str, patched: pytest.MonkeyPatch
) -> None:
    patched.setenv("TEST_SLEEP", "0.2")
    process = command_of(sounds, store, "--workers", "2")
    wait_until(lambda: list(Path(store).glob("features/*/*/commits/*.json")))
    workers = workers_of(process.pid)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("mer: interrupted. What was finished is kept")
    assert "Traceback" not in errors
    assert not psutil.wait_procs(workers, timeout=60)[1]
    again = run().features[0]
    assert (again.skipped > 0, again.missing) == (True, 0)
    assert_complete(store, "mfcc", killed=True)


def test_another_version_on_a_worker_is_one_line(
    run: Any, two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cluster.versions()
    monkeypatch.setattr(cluster, "versions", lambda: real | {"mer": "9.9"})
    with pytest.raises(SettingsError, match=r"The worker tcp://.*: mer .* is installed there, and the run is one of"):
        run(scheduler=two_workers.file)


def test_workers_that_do_not_come_back_end_the_run(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = MagicMock(status="running")
    nobody.sync.return_value = {"workers": {}}
    monkeypatch.setattr(cluster, "_client", lambda *_: nullcontext(nobody))
    monkeypatch.setattr(dispatch, "RESTART_SECONDS", 0.0)
    monkeypatch.setattr(dispatch, "TICK_SECONDS", 0.01)
    with pytest.raises(DataError, match="died and could not be started again"):
        run(workers=2)


def test_a_child_that_dies_of_whatever_it_is_given_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-S", "-c", "import os; os.abort()"], stdout=subprocess.PIPE)

    monkeypatch.setattr(apart, "_child", dying)
    requests = [(Utterance(id=str(n), split="train", path=f"{n}.wav"), (0, 1)) for n in range(9)]
    with pytest.raises(DataError, match=r"died over 5 utterances in a row \(SIGABRT\), the last one '4'"):
        next(apart.answers(MagicMock(), requests))
    dead = apart.Answer(Failed("0.wav: the process that read it died (SIGABRT)"), None, encoded=False)
    assert next(apart.answers(MagicMock(), requests[:1])) == [dead, dead]


def test_no_scheduler_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:1", "nowhere"):
        with pytest.raises(SettingsError, match=f"--cluster {address}: no dask scheduler answers.*`dask scheduler`"):
            run(scheduler=address)


def test_a_cluster_brings_its_own_workers(mer: Any, sounds: Path) -> None:
    done = mer("extract", "--dataset", "folder", "--root", sounds, "--workers", "2", "--cluster", "tcp://a:1")
    assert done.code == 2
    assert "the workers are the cluster's" in done.err


def test_dask_is_loaded_where_it_is_asked_for_alone() -> None:
    code = "import sys, cli, extract.run; print([m for m in ('dask', 'distributed', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def work(run: Any, monkeypatch: pytest.MonkeyPatch) -> Work:
    """What the workers of a run would be told."""
    told: list[Work] = []

    class Stop(Exception):  # noqa: N818 - ends the run where it would begin
        pass

    def stop(client: Any, work: Work, *_: Any) -> Any:
        told.append(work)
        raise Stop

    monkeypatch.setattr(cluster, "_client", lambda *_: nullcontext(MagicMock()))
    monkeypatch.setattr(cluster, "Dispatch", stop)
    with pytest.raises(Stop):
        run(workers=2)
    return told[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": Path("/nowhere")}, "data root /nowhere is not visible there"),
        ({"witness": ("u00.wav", 7)}, r"u00\.wav has 8044 bytes there and 7 bytes here"),
        ({"witness": ("gone.wav", 7)}, r"gone\.wav cannot be read there"),
        ({"store": "/nowhere"}, "the store /nowhere is not visible there"),
        ({"parts": ("part-00000-0123456789abcdef",)}, "is another one, without the samples of this run"),
        ({"device": "cuda:99"}, "The device .cuda:99. cannot be used"),
    ],
)
def test_what_a_worker_lacks_is_named(work: Work, changes: dict[str, Any], message: str) -> None:
    Site(work, "0", 0, 1)
    with pytest.raises(MerError, match=message):
        Site(replace(work, **changes), "0", 0, 1)


def test_a_place_where_a_worker_cannot_write_is_named(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise MerError("no permission")

    monkeypatch.setattr("cache_schema.storage.local.LocalStorage.put_if_absent", refuse)
    with pytest.raises(MerError, match="no permission"):
        Site(work, "0", 0, 1)


def test_a_hosts_workers_are_spread_over_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_for("auto", rank) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_for("cpu", 1) == "cpu"


def test_a_worker_that_is_started_anew_takes_the_gpu_that_became_free() -> None:
    ranks = dispatch.ranked({"a": "one", "b": "one", "c": "one", "d": "two"}, {})
    assert (sorted(ranks[name] for name in "abc"), ranks["d"]) == ([0, 1, 2], 0)
    gone, *rest = sorted("abc", key=lambda name: ranks[name])
    later = dispatch.ranked(dict.fromkeys([*rest, "new"], "one") | {"d": "two"}, ranks)
    assert later["new"] == ranks[gone]
    assert [later[name] for name in rest] == [ranks[name] for name in rest]
