"""What a process frees stays with it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from compute.memory import keep_freed

STEPS = """
import resource, sys
import numpy as np
from compute.memory import keep_freed

if sys.argv[1] == "keeps":
    assert keep_freed()
for step in range(16):
    if step == 10:  # what lies among the tensors has found its place
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(9 * 2**20, np.float32).fill(1.0)  # 36 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_next_tensor_takes_the_pages_of_the_last() -> None:
    new_pages = {
        way: int(subprocess.run([sys.executable, "-c", STEPS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("keeps", "gives back")
    }
    assert new_pages["gives back"] > 100
    assert new_pages["keeps"] < new_pages["gives back"] / 5


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed.__wrapped__() is False
