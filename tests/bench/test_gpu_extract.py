"""The extraction part of the GPU's benchmark runs on a CPU as well; how large its figures are is not tested."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from bench import gpu_extract as bench
from bench.store import Table


def test_it_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch, small_weights: Path) -> None:
    monkeypatch.setattr(bench, "make_random_checkpoint", lambda name, to, *_, **__: _link(to, small_weights / name))
    table = Table(judged=True)
    found = bench.measure(table, bench.SMALL, "cpu")
    assert {"extraction over bare", "device waits", "vit: encoding over bare"} <= found.keys()
    assert all(value > 0 for value in found.values())
    text = "\n".join(table.lines)
    assert "on cpu" in text and "  hubert " in text and "(at least 0.9: " in text


def _link(to: Path, weights: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    to.symlink_to(weights)


def test_what_no_forward_pass_fills_is_waiting() -> None:
    class Slow(torch.nn.Module):
        def forward(self, seconds: float) -> None:
            time.sleep(seconds)

    model = Slow()

    def work() -> None:
        time.sleep(0.06)
        model(0.02)
        model(0.02)

    found = bench.timed(work, lambda: [model], "cpu", rounds=1)
    assert found.seconds >= 0.1
    assert 0.3 < found.waits < 1


def test_every_gpu_is_meant_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert bench.devices_of("auto") == ["cuda:0", "cuda:1"]
    assert bench.devices_of("cuda:1") == ["cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert bench.devices_of("auto") == ["cpu"]
