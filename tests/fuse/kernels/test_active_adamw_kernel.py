"""The active experts' optimizer: against torch's over the steps in which an expert was active, and its kernels."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import apart
import pytest
import torch
from torch import Tensor, nn

from cache_schema.errors import SettingsError
from fuse.evaluate import evaluate_run
from fuse.kernels.active_adamw import _step, active_adamw, reference
from fuse.kernels.active_adamw.cases import Inputs, hostile, moved_bytes, rivals
from fuse.nn.experts import MixtureOfExperts
from fuse.train import train_run
from fuse.training.active_experts import ActiveAdam
from fuse.training.config import TrainConfig
from fuse.training.optimize import Optimization

CPU = torch.device("cpu")
STEPS, EXPERTS = 6, 7


def gradients(parameters: list[nn.Parameter], active: Tensor, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    own = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]
    return [g * active.view(-1, *(1,) * (g.ndim - 1)) for g in own]


def mixture(experts: int = EXPERTS) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(4, 5, 3, experts, 1)


def of_experts(model: MixtureOfExperts) -> list[nn.Parameter]:
    return [p for _, p in model.named_parameters(recurse=False)]


def adam(parameters: list[Any], decoupled: bool) -> torch.optim.Optimizer:
    kind: Any = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer: torch.optim.Optimizer = kind(parameters, lr=0.1, weight_decay=0.2)
    return optimizer


@pytest.mark.parametrize("decoupled", [True, False])
def test_each_expert_is_trained_by_adam_over_its_own_steps(decoupled: bool) -> None:
    own = of_experts(mixture())
    alone = [[nn.Parameter(p[e].detach().clone()) for p in own] for e in range(EXPERTS)]
    apart_ = [adam(each, decoupled) for each in alone]
    together = ActiveAdam(own, 0.1, 0.2, decoupled)
    for step in range(STEPS):
        active = torch.arange(EXPERTS) % (step % 3 + 1) == 0  # the first always, others sometimes
        active[-1] = False
        for p, grad in zip(own, gradients(own, active, step), strict=True):
            p.grad = grad
        together.step()
        for e in active.nonzero().flatten().tolist():
            for mine, p in zip(alone[e], own, strict=True):
                mine.grad = p.grad[e]  # type: ignore[index]
            apart_[e].step()
        for e in range(EXPERTS):
            for mine, p in zip(alone[e], own, strict=True):
                torch.testing.assert_close(p[e], mine)
    assert torch.equal(own[0][-1], mixture().hidden[-1])


@pytest.mark.parametrize("decoupled", [True, False])
def test_with_everybody_active_it_is_adam(decoupled: bool) -> None:
    (inputs,) = (x for name, x in hostile(CPU, torch.float32) if name == "everybody active")
    inputs = (*inputs[:-1], decoupled)
    mine, theirs = deepcopy(inputs), deepcopy(inputs)
    for _ in range(STEPS):
        active_adamw(*mine)
        rivals()["fused AdamW"](*theirs)
    torch.testing.assert_close(mine[:5], theirs[:5])


def test_a_gradient_that_is_not_finite_is_one() -> None:
    (inputs,) = (x for name, x in hostile(CPU, torch.float32) if name == "nobody active")
    before = inputs[0][0].clone()
    inputs[1][0][1], inputs[1][1][1] = torch.nan, torch.nan
    active_adamw(*inputs)
    assert inputs[0][0][1].isnan().all() and inputs[4].tolist() == [0, 1, 0, 0, 0]
    assert torch.equal(inputs[0][0][2:], before[2:])


def test_torch_finds_nothing_and_shapes_that_do_not_fit_are_refused() -> None:
    for name, inputs in hostile(CPU, torch.float64):
        torch.library.opcheck(
            _step, inputs, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
        )
        assert moved_bytes(inputs) % 56 == 0 and (moved_bytes(inputs) == 0) == (name == "nobody active")
    with pytest.raises(ValueError, match="four contiguous parameters of 21 experts"):
        active_adamw(inputs[0][:3], *inputs[1:])


@pytest.mark.parametrize("per_epoch", [None, STEPS])
@pytest.mark.parametrize("scheduler", ["constant", "onecycle"])
def test_the_setting_moves_active_experts_alone_and_the_rest_as_before(per_epoch: int | None, scheduler: Any) -> None:
    found = []
    for active_experts in (True, False):
        model = nn.ModuleDict({"mixture": mixture(), "head": nn.Linear(3, 2)})
        config = TrainConfig(active_experts=active_experts, scheduler=scheduler, lr=0.1, weight_decay=0.2)
        optimization = Optimization(model, config, STEPS, per_epoch=per_epoch)
        optimization.epoch_begins()
        active = torch.arange(EXPERTS) < 3
        for step in range(STEPS):
            for p in model["head"].parameters():
                p.grad = torch.ones_like(p)
            own = of_experts(model["mixture"])  # type: ignore[arg-type]
            for p, grad in zip(own, gradients(own, active, step), strict=True):
                p.grad = grad
            if per_epoch is None:
                optimization.step()
            else:
                optimization.step_at(torch.tensor([step]))
        found.append(model.state_dict())
    for name, value in found[0].items():
        if name.startswith("mixture.") and "router" not in name:
            torch.testing.assert_close(value[:3], found[1][name][:3], rtol=1e-4, atol=1e-5)
            assert torch.equal(value[3:], mixture().state_dict()[name.removeprefix("mixture.")][3:])
            assert not torch.equal(found[1][name][3:], value[3:])  # dense weight decay
        else:
            torch.testing.assert_close(value, found[1][name])


def test_it_goes_on_where_it_was_saved() -> None:
    def steps(optimizer: ActiveAdam, own: list[nn.Parameter], which: range) -> None:
        for step in which:
            for p, grad in zip(own, gradients(own, torch.arange(EXPERTS) % 2 == step % 2, step), strict=True):
                p.grad = grad
            optimizer.step()

    straight, broken = mixture(), mixture()
    first = ActiveAdam(of_experts(straight), 0.1, 0.2, True)
    steps(first, of_experts(straight), range(6))
    before = ActiveAdam(of_experts(broken), 0.1, 0.2, True)
    steps(before, of_experts(broken), range(3))
    after = ActiveAdam(of_experts(broken), 0.1, 0.2, True)
    after.load_state_dict(deepcopy(before.state_dict()))
    steps(after, of_experts(broken), range(3, 6))
    for one, other in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(one, other)


def test_its_state_comes_back_where_the_parameters_are() -> None:
    """A checkpoint is read on the CPU, wherever the training is: counts that stayed there would be on two devices."""
    own = of_experts(mixture())
    before = ActiveAdam(own, 0.1, 0.2, True)
    for p, grad in zip(own, gradients(own, torch.ones(EXPERTS), 0), strict=True):
        p.grad = grad
    before.step()
    elsewhere = [nn.Parameter(p.to("meta")) for p in own]
    after = ActiveAdam(elsewhere, 0.1, 0.2, True)
    after.load_state_dict(deepcopy(before.state_dict()))
    assert {x.device.type for p in elsewhere for x in after.state[p].values()} == {"meta"}


def test_a_model_without_experts_is_refused_the_setting() -> None:
    assert not TrainConfig().active_experts
    with pytest.raises(SettingsError, match="no mixture of experts"):
        Optimization(nn.Linear(2, 2), TrainConfig(active_experts=True), 5)


@pytest.mark.parametrize("together", [True, False])
def test_a_run_trains_active_experts_and_says_so(toy_store: Path, tmp_path: Path, together: bool) -> None:
    small = {"d": 8, "heads": 2, "gat_heads": 2, "expert_width": 8, "experts": 40, "max_epochs": 2}
    given = [f"{name}={json.dumps(value)}" for name, value in (small | {"active_experts": True}).items()]
    result = train_run(
        toy_store, "toy", "complementary", assignments=given, seeds=2, jobs=1, out=tmp_path, together=together
    )
    assert json.loads((result.run / "run.json").read_text("utf-8"))["training"]["active_experts"] is True
    assert evaluate_run(result.run)["identical"] is True


def interpreted() -> dict[str, float]:
    """The largest error of the kernels in float32 against the reference in float64, by case."""
    from fuse.kernels.active_adamw import launch

    apart.poison()
    found = {}
    for name, inputs in hostile(CPU, torch.float32):
        lists = [[apart.guarded(x) for x in each] for each in inputs[:4]]
        count, lr, beta1 = (apart.guarded(x) for x in inputs[4:7])
        true = [[x.double() for x in each] for each in inputs[:4]]
        true_settings = (*(x.double() for x in inputs[4:7]), *inputs[7:])
        for step in range(3):
            launch.step(*lists, count, lr, beta1, *inputs[7:], programs=3)
            reference.step(*true, *true_settings)
            for grads in (lists[1], true[1]):
                for grad in grads:
                    grad.mul_(-0.5 if step else 3.0)
        pairs = [*zip(chain(*lists), chain(*true), strict=True), (count, true_settings[0])]
        found[name] = max(apart.error(1e6 * mine, 1e6 * theirs) for mine, theirs in pairs)
    return found


def test_kernels_are_right_by_the_interpreter() -> None:
    for name, error in apart.in_own_process(__file__, "interpreted", interpret=True).items():
        assert error < 1e-6, name


def test_launches_ask_nothing_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no numbers that a launch could wait for."""
    recorders = apart.without_device(monkeypatch, "active_adamw")
    from fuse.kernels.active_adamw import launch

    for _, inputs in hostile(torch.device("meta"), torch.float32):
        launch.step(*inputs, programs=3)
    assert all(recorder.launches for recorder in recorders)


def compiled() -> list[dict[str, Any]]:
    """What the kernels need on every kind of GPU, for a branch of 1000 experts."""
    from fuse.kernels.active_adamw import launch
    from fuse.kernels.active_adamw import triton as kernels

    shapes = ((1000, 768, 256), (1000, 256), (1000, 256, 7), (1000, 7))
    four = [torch.zeros(1).expand(shape) for shape in shapes]
    settings: Inputs = (torch.zeros(1000), torch.zeros(()), torch.zeros(()), 0.999, 1e-8, 0.01, True)
    recorders = [apart.Recorder(kernels.mark_kernel), apart.Recorder(kernels.move_kernel)]
    kernels.mark_kernel, kernels.move_kernel = recorders
    launch.torch.Tensor.contiguous = lambda x: x  # type: ignore[method-assign, assignment, attr-defined]
    launch.step(four, four, four, four, *settings, programs=3)
    return [needs for capability in apart.SHARED_MEMORY for r in recorders for needs in r.compiled(capability)]


def test_kernels_compile_ahead_of_time_and_fit() -> None:
    found = apart.in_own_process(__file__, "compiled", interpret=False)
    assert len(found) == 6
    for needs in found:
        assert needs["shared"] <= 16 * 1024 and needs["stack"] == 0 and needs["registers"] <= 128, needs
