"""The benchmarks of extraction run and tell their ratios; how large these are is not tested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import extract as bench
from bench import per_clip
from bench.extraction import kept_encoders
from bench.store import Table

SIZES = replace(bench.SMALL, clips=3, texts=4, done=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_weights: Path) -> Iterator[Path]:
    """Corpora, and the small weights that the tests share."""
    made = tmp_path_factory.mktemp("bench")
    (made / "weights").symlink_to(small_weights)
    bench.prepare(made, SIZES)
    with kept_encoders():
        yield made


def test_over_the_bare_forwards(folder: Path) -> None:
    table = Table(judged=True)
    bench.together(table, folder, SIZES)
    text = "\n".join(table.lines)
    for line in ("speed by the wall clock", "speed by the processors' time", "vit's own part", "(at least 0.9: "):
        assert line in text


def test_over_the_loop_of_the_toolkits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(judged=True)
    encoders = ("roberta", "mfcc", "resnet") if per_clip.FFMPEG else ("roberta",)
    per_clip.compare(table, folder, encoders, few=1, rounds=1)
    text = "\n".join(table.lines)
    assert all(f"  {name} " in text for name in encoders)
    assert "(at least 3.0: " in text
    monkeypatch.setattr(per_clip, "FFMPEG", None)
    per_clip.compare(table, folder, ("mfcc",), few=1, rounds=1)
    assert "skipped: there is no ffmpeg" in table.lines[-2]


def test_with_nothing_to_do(folder: Path) -> None:
    table = Table(judged=True)
    bench.nothing_to_do(table, folder, SIZES)
    assert "20 texts, roberta" in "\n".join(table.lines)
