"""The GPU benchmark's code runs on a CPU, without the packages of extraction; its figures there mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu, gpu_kernels, gpu_training
from bench.clock import Clock, Floor, Time
from fuse.kernels import dispatch

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
    found = without_extraction(tmp_path, "training,operators")
    operators = [o.name for o in gpu_kernels.operators()]
    assert len(operators) >= 3
    assert {row["operator"] for row in found["correctness"]} == set(operators)
    assert all(row["right"] for row in found["correctness"])
    measured = {row["operator"]: row["times"] for row in found["operators"]}
    assert set(measured) == set(operators)
    assert all(isinstance(times["mer"], dict) for times in measured.values())
    assert "Skipped: without transformers" in (tmp_path / "gpu.md").read_text("utf-8")


def test_trainings_run_without_the_packages_of_extraction(tmp_path: Path) -> None:
    found = without_extraction(tmp_path, "correctness,targets,operators,extraction")
    assert {(row["arch"], row["lengths"], row["seeds"]) for row in found["epochs"] if "epoch" in row} == {
        (arch, lengths, seeds)
        for arch in ("complementary", "hff", "of-cmaer-cat", "symphonia")
        for lengths in ("real", "padded")
        for seeds in (1, 2)
    }
    assert all("seconds" in row and "without kernels" in row for row in found["training"])
    assert len(found["training"]) == len(found["compiled"]) == 4


def test_every_operator_says_what_its_targets_are_about(monkeypatch: pytest.MonkeyPatch) -> None:
    for operator in gpu_kernels.operators():
        monkeypatch.setattr(operator.cases, "_inputs", lambda *_: None)
        names = [name for name, _ in operator.cases.realistic(torch.device("cpu"), torch.float32, 1)]
        assert operator.cases.TARGETS and set(operator.cases.TARGETS) <= set(names), operator.name
        assert set(operator.cases.COMPILED) <= set(operator.cases.rivals()), operator.name


def test_the_most_wanted_comes_first() -> None:
    todo = gpu_kernels.items((1, 5), False)
    assert [item[2] for item in todo] == sorted(item[2] for item in todo)
    sections = [item[1:3] for item in gpu_training.items((1, 5), False)]
    wanted = [("epochs", "real"), ("training", "real"), ("epochs", "padded"), ("compiled", "real")]
    assert sections == sorted(sections, key=wanted.index) and set(sections) == set(wanted)


def test_nothing_is_begun_when_time_is_over() -> None:
    clock, over = Clock(torch.device("cpu"), 0.002, 3), time.monotonic() - 1
    assert not list(gpu_training.measure(gpu_training.items((1,), True), clock, 8, True, over))
    assert not list(gpu_kernels.measure(gpu_kernels.items((1,), True), clock, Floor(1.0, {}), True, True, over))


def made(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """The only operator is `sum_product`, run by this function."""
    cases = gpu_kernels.named("sum_product").cases
    monkeypatch.setattr(gpu_kernels, "operators", lambda: iter([gpu_kernels.Operator("sum_product", run, cases)]))


def test_a_wrong_operator_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right, calls = gpu_kernels.named("sum_product"), iter(range(10**6))

    def wrong(*inputs: torch.Tensor) -> torch.Tensor:
        return right.run(*inputs) * (1 + 0.05 * (inputs[0].dtype != torch.float64))

    def unsteady(*inputs: torch.Tensor) -> torch.Tensor:
        return right.run(*inputs) + 1e-7 * next(calls)

    for run, repeatable in ((unsteady, False), (wrong, True)):
        made(monkeypatch, run)
        rows = gpu_kernels.check("sum_product", "fp32", torch.device("cpu"), (1,), True)
        (row,) = (row for row in rows if row["case"] == "beyond a block")
        assert not row["right"] and row["repeatable"] is repeatable
    words = ["--small", "--device", "cpu", "--skip", "targets,operators,training,extraction", "--out", str(tmp_path)]
    assert gpu.main(words) == 1


def test_a_kernel_whose_place_the_reference_took_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_kernels.named("sum_product")

    def fell_back(*inputs: torch.Tensor) -> torch.Tensor:
        dispatch.failed["sum_product"] = "CompilationError: at 7:12"
        return right.run(*inputs)

    monkeypatch.setattr(dispatch, "failed", {})
    made(monkeypatch, fell_back)
    device = torch.device("cpu")
    rows = list(gpu_kernels.check("sum_product", "fp32", device, (1,), True))
    assert {row["why"] for row in rows} == {"NoKernelError: CompilationError: at 7:12"}
    clock = Clock(device, 0.002, 3)
    todo, floor = gpu_kernels.items((1,), True), Floor(1.0, {})
    times = [
        row["times"]
        for row in gpu_kernels.measure(todo, clock, floor, True, True, time.monotonic() + 60)
        if "item" not in row
    ]
    assert {found["mer"] for found in times} == {"NoKernelError: CompilationError: at 7:12"}
    assert all(isinstance(found["concatenated"], Time) for found in times) and not dispatch.failed


def test_what_was_measured_is_kept_where_a_part_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class CompilationError(Exception):
        """As triton's, which is no RuntimeError."""

    def fails(*_: Any, **__: Any) -> Any:
        raise CompilationError("at 7:12")

    made(monkeypatch, fails)
    monkeypatch.setattr(gpu, "operators", fails)
    monkeypatch.setattr(gpu_training, "epochs", fails)
    assert gpu.main(["--small", "--device", "cpu", "--out", str(tmp_path)]) == 1
    found, said = json.loads((tmp_path / "gpu.json").read_text("utf-8")), (tmp_path / "gpu.md").read_text("utf-8")
    assert {row["why"] for row in found["correctness"]} == {"CompilationError: at 7:12"}
    assert {row["why"] for row in found["epochs"]} == {"CompilationError: at 7:12"} and len(found["training"]) == 4
    assert "Failed: targets: CompilationError: at 7:12." in said and "## Extraction" in said
    assert "| hff | real | 1 | – | – | – | – | CompilationError: at 7:12 |" in said


def test_processes_of_their_own_give_the_same(tmp_path: Path) -> None:
    words = ["--small", "--device", "cpu", "--apart", "--skip", "correctness,training,operators,extraction"]
    assert gpu.main([*words, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert {row["operator"] for row in found["operators"]} == {o.name for o in gpu_kernels.operators()}
    assert found["floor"]["bytes_per_second"] > 0


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "there is no CUDA device" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["--skip", "kernels"])
    assert "there is no part kernels" in capsys.readouterr().err


def test_quantiles_and_floor() -> None:
    assert Time.of([5.0, 1.0, 2.0, 3.0, 4.0, 6.0]) == Time(3.5, 2.0, 5.0)
    floor = Floor.measure(Clock(torch.device("cpu"), 0.002, 3), True)
    assert floor.bytes_per_second > 0 and set(floor.flops) == {"fp32", "bf16"}
