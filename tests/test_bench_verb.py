"""`mer bench`: the benchmarks by name, their words handed on, and what is said where they are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from verbs import bench

GIVEN = "import sys; print('ran', *sys.argv[1:]); sys.exit(3 if 'fail' in sys.argv else 0)"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree whose benchmark says what it was given."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "fuse.py").write_text(GIVEN)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    return tmp_path


def test_words_are_handed_on_and_results_printed(mer: Callable, tree: Path) -> None:
    done = mer("bench", "fuse", "--count", "12")
    assert done.code == 0, done.err
    assert done.out == "ran --count 12\n"
    found = mer("bench", "fuse", "--json", "--small").json
    assert found["benchmark"] == "fuse" and found["lines"] == ["ran --small"] and found["seconds"] > 0


def test_a_benchmark_that_fails_fails(mer: Callable, tree: Path) -> None:
    done = mer("bench", "fuse", "fail")
    assert done.code == 1 and "ended with 3" in done.err and done.err.count("\n") == 1


def test_without_the_source_tree_one_line_says_so(mer: Callable, tree: Path) -> None:
    done = mer("bench", "store")
    assert done.code == 1 and "source tree" in done.err and done.err.count("\n") == 1


def test_every_benchmark_is_there(mer: Callable) -> None:
    assert all((bench.ROOT / "bench" / f"{name}.py").is_file() for name in bench.BENCHMARKS)
    done = mer("bench", "--help")
    assert done.code == 0 and all(name in done.out for name in bench.BENCHMARKS)
