"""cuDNN keeps float32's bits, whatever the process had chosen, and has its own choice back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from compute.float32 import exact_cudnn
from extract.frozen import inference
from fuse.training.loop import reproducible

CHOSEN = (
    "",
    "torch.backends.cudnn.allow_tf32 = False",
    "torch.backends.cudnn.allow_tf32 = True",
    "torch.backends.fp32_precision = 'ieee'",
    "torch.backends.fp32_precision = 'tf32'",
    "cudnn.conv.fp32_precision = 'ieee'",
    "cudnn.deterministic, cudnn.benchmark = True, True",
)
SCRIPT = """
import torch
from compute.float32 import exact_cudnn
cudnn = torch.backends.cudnn
def state():
    return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cudnn.deterministic, cudnn.benchmark
for chosen in {chosen!r}:
    exec(chosen)
    before = state()
    try:
        with exact_cudnn():
            assert state() == ("ieee", "ieee", True, False), (chosen, state())
            raise KeyError
    except KeyError:
        assert state() == before, (chosen, before, state())
"""


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has the older name alone")
def test_whatever_the_process_had_chosen() -> None:
    """One after the other, in a process of its own: what is chosen there stays chosen."""
    code = SCRIPT.format(chosen=CHOSEN)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr


def test_the_older_name_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:
        deterministic, benchmark, allow_tf32 = False, True, True

    monkeypatch.setattr(torch.backends, "cudnn", Older)
    with exact_cudnn():
        assert (Older.deterministic, Older.benchmark, Older.allow_tf32) == (True, False, False)
    assert (Older.deterministic, Older.benchmark, Older.allow_tf32) == (False, True, True)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has the older name alone")
def test_training_and_extraction_compute_so() -> None:
    for within in (reproducible(0, None), inference()):
        with within:
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
