"""Routing against a loop over inputs, and what the router learns from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fuse.nn.experts import MixtureOfExperts


def mixture(experts: int = 5, top: int = 1, width: int = 6) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(width, 7, 3, experts, top).double()


def by_hand(model: MixtureOfExperts, x: Tensor) -> Tensor:
    rows = []
    for row in x:
        p = torch.ones(1).double() if model.router is None else torch.softmax(model.router(row), dim=0)
        best = sorted(range(len(p)), key=lambda e: -p[e].item())[: model.top]
        total = sum(p[e].item() for e in best)
        said = torch.zeros(3, dtype=torch.float64)
        for e in best:
            hidden = F.relu(row @ model.hidden[e] + model.hidden_bias[e])
            said = said + p[e] / total * (hidden @ model.out[e] + model.out_bias[e])
        rows.append(said)
    return torch.stack(rows)


@pytest.mark.parametrize(("experts", "top"), [(1, 1), (5, 1), (5, 2), (1000, 1), (1000, 2)])
def test_it_is_the_loop_over_inputs(experts: int, top: int) -> None:
    model, x = mixture(experts, top).eval(), torch.randn(9, 6, dtype=torch.float64)
    routed = model(x)
    torch.testing.assert_close(routed.outputs, by_hand(model, x))
    torch.testing.assert_close(model.train()(x).outputs, routed.outputs)
    torch.testing.assert_close(routed.weights.sum(dim=1), torch.ones(9, dtype=torch.float64))


def test_the_balance_is_that_of_the_switch_transformer() -> None:
    model, x = mixture(4, 1), torch.randn(20, 6, dtype=torch.float64)
    assert model.router is not None
    routed = model(x)
    shares = [float((routed.gate.argmax(dim=1) == e).double().mean()) for e in range(4)]
    expected = 4 * sum(f * routed.gate[:, e].mean().item() for e, f in enumerate(shares))
    assert routed.balance.item() == pytest.approx(expected)
    torch.nn.init.zeros_(model.router.weight)
    torch.nn.init.constant_(model.router.bias, 0.0)
    assert model(x).balance.item() == pytest.approx(1.0)
    with torch.no_grad():
        model.router.bias[2] = 50.0
    assert model(x).balance.item() == pytest.approx(4.0)


@pytest.mark.parametrize("top", [1, 2])
def test_the_loss_reaches_the_router_and_idle_experts_get_nothing(top: int) -> None:
    model, x = mixture(50, top).train(), torch.randn(4, 6, dtype=torch.float64)
    routed = model(x)
    routed.outputs.square().sum().backward()
    assert model.router is not None and model.router.weight.grad is not None
    assert model.router.weight.grad.abs().sum() > 0
    active = set(routed.chosen.flatten().tolist())
    assert model.hidden.grad is not None
    for expert in range(50):
        assert bool(model.hidden.grad[expert].abs().sum() > 0) == (expert in active)


def test_gradients_of_top_two_are_those_of_finite_differences() -> None:
    model = mixture(5, 2)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: model(y).outputs, (x,))
