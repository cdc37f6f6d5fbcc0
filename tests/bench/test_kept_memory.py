"""The bench of kept memory."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest

from bench import memory
from bench.machine import peak_mb


def test_the_peak_is_in_megabytes() -> None:
    held = np.ones(2**24)  # 128 MB
    assert held.nbytes / 2**20 < peak_mb(resource.getrusage(resource.RUSAGE_SELF)) < 2**20


def test_the_unit_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    monkeypatch.setattr(sys, "platform", "linux")
    kilobytes = peak_mb(usage)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kilobytes == 1024 * peak_mb(usage)


def test_without_glibc_there_is_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "keep_freed", lambda: False)
    with pytest.raises(SystemExit, match="not glibc"):
        memory.main(["--small"])
