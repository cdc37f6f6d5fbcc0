"""The store's benchmark runs and tells its ratios; how large they are is not tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import store as bench
from cache_schema.feature import Feature

Made = tuple[Path, Feature, np.ndarray]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("bench")
    return folder, *bench.make_clips(folder, bench.SMALL)


def test_loading_and_memory(made: Made) -> None:
    folder, feature, _ = made
    table = bench.Table(judged=False)
    bench.loading(table, folder, feature, bench.SMALL)
    bench.memory(table, folder, bench.SMALL)
    text = "\n".join(table.lines)
    assert "zarr over np.memmap" in text and "of the window" in text
    assert "at least" not in text, "a small run says nothing about speed"


def test_batches_of_every_way(made: Made) -> None:
    folder, feature, lengths = made
    table = bench.Table(judged=True)
    bench.batching(table, folder, feature, lengths, bench.SMALL)
    text = "\n".join(table.lines)
    for name in ("npy, shuffled", "npy, bucketed", "bucketed, padded", "packed", "streaming, zarr"):
        assert f"{name} " in text
    assert "streaming with zarr over the DataLoader" in text and "(at least 1.2: " in text


def test_listing_and_planning(tmp_path: Path) -> None:
    table = bench.Table(judged=True)
    bench.listing(table, tmp_path, bench.SMALL)
    bench.planning(table, tmp_path, bench.SMALL)
    text = "\n".join(table.lines)
    assert "opened, features listed" in text and "planned: compared with the store" in text


def test_what_is_printed_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "make_clips", lambda *_: (None, None))
    for section in ("batching", "loading", "memory", "listing", "planning"):
        monkeypatch.setattr(bench, section, lambda table, *_, name=section: table.say(name))
    table = bench.main(["--small", "--write", str(tmp_path / "store.md")])
    assert table.lines[-5:] == ["batching", "loading", "memory", "listing", "planning"]
    assert "\n".join(table.lines) in (tmp_path / "store.md").read_text()
