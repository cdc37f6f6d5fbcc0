"""The GPU benchmark's code runs on a CPU, without the packages of extraction; its figures there mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu, gpu_kernels
from bench.clock import Clock, Floor, Time

ROOT = Path(__file__).parents[2]
WITHOUT = ("transformers", "whisper", "mediapipe", "av", "cv2")


def without_extraction(out: Path, skip: str) -> dict[str, Any]:
    """What the small run writes where the packages of extraction are not installed."""
    code = f"""
import sys
for name in {WITHOUT!r}:
    sys.modules[name] = None  # as if it were not installed
from bench.gpu import main
sys.exit(main(["--small", "--device", "cpu", "--skip", {skip!r}, "--out", {str(out)!r}]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((out / "gpu.json").read_text("utf-8"))
    assert {"python", "torch", "device"} <= set(found["machine"])
    return found


def test_operators_run_without_the_packages_of_extraction(tmp_path: Path) -> None:
    found = without_extraction(tmp_path, "training")
    operators = [o.name for o in gpu_kernels.operators()]
    assert len(operators) >= 3
    assert {row["operator"] for row in found["correctness"]} == set(operators)
    assert all(row["right"] for row in found["correctness"])
    measured = {row["operator"]: row["times"] for row in found["operators"]}
    assert set(measured) == set(operators)
    assert all(isinstance(times["mer"], dict) for times in measured.values())
    assert "Skipped: without transformers" in (tmp_path / "gpu.md").read_text("utf-8")


def test_trainings_run_without_the_packages_of_extraction(tmp_path: Path) -> None:
    found = without_extraction(tmp_path, "correctness,operators,extraction")
    assert {(row["arch"], row["lengths"], row["seeds"]) for row in found["epochs"] if "epoch" in row} == {
        (arch, lengths, seeds)
        for arch in ("complementary", "hff", "of-cmaer-cat", "symphonia")
        for lengths in ("real", "padded")
        for seeds in (1, 2)
    }
    assert len(found["trainings"]) == len(found["compiled"]) == 4


def test_a_wrong_operator_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = next(o for o in gpu_kernels.operators() if o.name == "sum_product")
    calls = iter(range(10**6))

    def wrong(*inputs: torch.Tensor) -> torch.Tensor:
        return right.run(*inputs) * (1 + 0.05 * (inputs[0].dtype != torch.float64))

    def unsteady(*inputs: torch.Tensor) -> torch.Tensor:
        return right.run(*inputs) + 1e-7 * next(calls)

    for run, repeatable in ((wrong, True), (unsteady, False)):
        made = gpu_kernels.Operator("made", run, right.cases)
        rows = [r for r in gpu_kernels.check(made, torch.device("cpu"), (1,), True) if r["case"] == "beyond a block"]
        assert not any(r["right"] for r in rows if r["type"] == "fp32")
        assert all(r["repeatable"] is repeatable for r in rows if r["type"] == "fp32")
    monkeypatch.setattr(gpu_kernels, "operators", lambda: iter([gpu_kernels.Operator("made", wrong, right.cases)]))
    words = ["--small", "--device", "cpu", "--skip", "operators,training,extraction", "--out", str(tmp_path)]
    assert gpu.main(words) == 1


def test_what_was_measured_is_kept_where_a_part_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class CompilationError(Exception):
        """As triton's, which is no RuntimeError."""

    def fails(*inputs: torch.Tensor) -> torch.Tensor:
        raise CompilationError("at 7:12")

    made = gpu_kernels.Operator("made", fails, next(gpu_kernels.operators()).cases)
    monkeypatch.setattr(gpu_kernels, "operators", lambda: iter([made]))
    monkeypatch.setattr(gpu, "operators", fails)
    words = ["--small", "--device", "cpu", "--skip", "training", "--out", str(tmp_path)]
    assert gpu.main(words) == 1
    found, said = json.loads((tmp_path / "gpu.json").read_text("utf-8")), (tmp_path / "gpu.md").read_text("utf-8")
    assert {row["why"] for row in found["correctness"]} == {"CompilationError: at 7:12"} and "floor" in found
    assert "Failed: operators: CompilationError: at 7:12." in said and "## Extraction" in said


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "there is no CUDA device" in capsys.readouterr().err


def test_quantiles_and_floor() -> None:
    assert Time.of([5.0, 1.0, 2.0, 3.0, 4.0, 6.0]) == Time(3.5, 2.0, 5.0)
    floor = Floor.measure(Clock(torch.device("cpu"), 0.002, 3), True)
    assert floor.bytes_per_second > 0 and set(floor.flops) == {"fp32", "bf16"}
