"""A kernel that cannot be compiled or launched: said once, and plain torch in its place, to the same numbers."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import apart
import pytest
import torch

from bench import gpu_kernels
from bench.meld_like import make_data
from fuse.archs import ARCHS
from fuse.data import Selection
from fuse.kernels import dispatch
from fuse.kernels.recurrent import reference as recurrent
from fuse.training.seeds import Job, train_seeds

CPU = torch.device("cpu")
OPERATORS = {operator.name: operator for operator in gpu_kernels.operators()}


class CompilationError(Exception):
    """As triton's, which is no RuntimeError."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every kernel is launched, on whichever device, and raises; returns the functions that were called."""
    apart.require_triton()
    called = []

    def breaks(name: str) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            called.append(name)
            raise CompilationError("at 7:12:\n  tl.dot(a, b)")

        return launch

    for operator in OPERATORS:
        launch = import_module(f"fuse.kernels.{operator}.launch")
        for name in ("forward", "backward", "gru_forward", "gru_backward", "lstm_forward", "lstm_backward", "step"):
            if hasattr(launch, name):
                monkeypatch.setattr(launch, name, breaks(name))
    monkeypatch.setattr(dispatch, "failed", {})
    monkeypatch.setattr(dispatch, "launching_on", lambda _: nullcontext())
    for module in [import_module(f"fuse.kernels.{operator}") for operator in OPERATORS]:
        monkeypatch.setattr(module, "kernel_runs", lambda operator, *_, **__: operator not in dispatch.failed)
    return called


@pytest.mark.parametrize("name", OPERATORS)
def test_a_kernel_that_cannot_run_is_said_once_and_torch_takes_its_place(
    name: str, broken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = list(OPERATORS[name].cases.hostile(CPU, torch.float32, 2))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = [gpu_kernels.results(OPERATORS[name].run, gpu_kernels.copied(inputs, None)) for _, inputs in cases]
    assert len(broken) == 1 and len(said) == 1
    assert f"The kernel of {name} cannot run here (CompilationError: at 7:12): plain torch" in str(said[0].message)
    assert "MER_KERNELS=off" in str(said[0].message) and list(dispatch.failed) == [name]
    monkeypatch.setattr(dispatch, "failed", dict.fromkeys(OPERATORS, "off"))
    for (_, inputs), mine in zip(cases, found, strict=True):
        expected = gpu_kernels.results(OPERATORS[name].run, gpu_kernels.copied(inputs, None))
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)


def test_a_training_goes_on_where_a_kernel_cannot_run(broken: list[str]) -> None:
    module, data = ARCHS.load("complementary"), make_data(ARCHS.load("complementary"), 6, longest=0.8)
    config = module.TRAINING.model_copy(update={"max_epochs": 1, "batch_size": 4})
    folds = {"all": Selection(data.select(torch.arange(4)), data.select(torch.arange(4, 6)))}
    settings = module.Config(d=16, gat_heads=2, heads=2, gat_layers=1)
    with pytest.warns(RuntimeWarning, match="The kernel of .* cannot run here"):
        (result,) = train_seeds(Job("complementary", settings, config, folds, "cpu", None), [0], "all")
    assert result.epochs == 2 and len(broken) == len(dispatch.failed) == 3, "an epoch of each stage"


def test_memory_that_runs_out_is_no_fault_of_the_kernel(broken: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(import_module("fuse.kernels.sum_product.launch"), "forward", full)
    _, inputs = next(OPERATORS["sum_product"].cases.hostile(CPU, torch.float32, 1))
    with pytest.raises(torch.OutOfMemoryError):
        OPERATORS["sum_product"].run(*inputs)
    assert not dispatch.failed


def test_an_optimizer_step_that_fails_half_way_has_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    apart.require_triton()
    from fuse.kernels.active_adamw import launch
    from fuse.kernels.active_adamw import triton as kernels

    class Marks:
        def __getitem__(self, grid: Any) -> Any:
            def mark(*args: Any, **_: Any) -> None:
                count, active = args[3], args[6]
                active.copy_(torch.tensor([1, 0, 1]))
                count += active

            return mark

    class Breaks:
        def __getitem__(self, grid: Any) -> Any:
            raise CompilationError("at 7:12")

    monkeypatch.setattr(kernels, "mark_kernel", Marks())
    monkeypatch.setattr(kernels, "move_kernel", Breaks())
    inputs = dict(OPERATORS["active_adamw"].cases.hostile(CPU, torch.float32))["everybody active"]
    count = inputs[4]
    with pytest.raises(CompilationError):
        launch.step(*inputs, programs=1)
    assert count.tolist() == [0.0, 0.0, 0.0]


def test_what_was_kept_for_the_backward_pass_may_be_anything_in_the_padding() -> None:
    """A kernel's forward pass leaves it so, and its backward pass may be the reference's."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[3, 1, 0]])
    inside = (torch.arange(3)[:, None] < lengths[:, None])[:, None, ..., None]
    for gates in (3, 4):
        given = torch.randn(1, 2, 3, 3, gates * 5, generator=random)
        weight, grad = (torch.randn(1, 2, *shape, generator=random) for shape in ((gates * 5, 5), (3, 3, 5)))
        if gates == 3:
            states, kept = recurrent.gru_forward(given, weight, torch.zeros(1, 2, 5), lengths)
            derived = [
                recurrent.gru_backward(grad, states, k, weight, lengths) for k in (kept, kept.where(inside, torch.nan))
            ]
        else:
            _, kept = recurrent.lstm_forward(given, weight, lengths)
            derived = [recurrent.lstm_backward(grad, k, weight, lengths) for k in (kept, kept.where(inside, torch.nan))]
        torch.testing.assert_close(derived[1], derived[0], rtol=0, atol=0)
