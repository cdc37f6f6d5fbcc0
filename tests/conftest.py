"""What every test shares: where the optional test data lies, a small corpus, one torch thread, no network."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real clips and annotations; skips, saying so, where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MER_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real test data is absent: set MER_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen talking faces in MELD's layout; nobody writes into it."""
    from extract.synthetic import SyntheticSpec, make_corpus

    folder = tmp_path_factory.mktemp("corpus") / "meld"
    make_corpus(folder, SyntheticSpec(train=8, dev=3, test=3, size=64))
    return folder


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small random checkpoints of every encoder that has weights."""
    from extract.encoders import ENCODERS
    from extract.weights.random_weights import make_random_checkpoint

    folder = tmp_path_factory.mktemp("weights")
    for name in ENCODERS.names():
        if ENCODERS.load(name).HUB is not None:
            make_random_checkpoint(name, folder / name, "small", seed=0)
    return folder


class Finished(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed with `--json`."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def mer() -> Callable[..., Finished]:
    """Runs a command line within this process."""
    import cli

    def run(*words: str | Path) -> Finished:
        handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        out, err, before = StringIO(), StringIO(), sys.argv
        sys.argv = ["mer", *map(str, words)]
        try:
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stopped:
                cli.main()
        finally:
            sys.argv = before
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Finished(int(stopped.value.code or 0), out.getvalue(), err.getvalue())

    return run
