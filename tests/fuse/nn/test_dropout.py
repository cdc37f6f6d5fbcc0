"""Dropout of a CPU: what torch's does, with other random numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compute.modules import recast
from fuse.nn.dropout import LEVELS, Dropout
from fuse.training.draws import Drawn

WIDE = 200_003


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_the_share_p_is_dropped_and_the_rest_scaled(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.full((WIDE,), 3.0, dtype=dtype)
    found = Dropout(p)(x)
    assert found.dtype == dtype and found.shape == x.shape
    scale = LEVELS / (LEVELS - round(p * LEVELS))
    assert scale == pytest.approx(1 / (1 - p), rel=2e-4)
    assert torch.equal(found, torch.where(found == 0, 0.0, x * torch.tensor(scale, dtype=dtype)).to(dtype))
    gone = found == 0
    spread = (p * (1 - p) / WIDE) ** 0.5
    assert gone.double().mean().item() == pytest.approx(p, abs=4 * spread)
    for every in range(4):  # four numbers are made of one draw: each is as random as the others, and none knows another
        share, neighbours = gone[every::4].double().mean().item(), (gone[every:-1:4] & gone[every + 1 :: 4]).double()
        assert share == pytest.approx(p, abs=8 * spread)
        assert neighbours.mean().item() == pytest.approx(p * p, abs=8 * spread)


def test_the_gradient_has_the_same_holes() -> None:
    x = torch.randn(3, 5, 7).transpose(0, 1).requires_grad_()
    found = Dropout(0.4)(x)
    found.backward(torch.ones_like(found))
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), found.detach())
    assert (x.grad == 0).any() and (x.grad != 0).any()


def test_a_seed_gives_the_same_numbers_again() -> None:
    x, drop = torch.ones(1000), Dropout(0.2)
    torch.manual_seed(3)
    first, second = drop(x), drop(x)
    state = torch.get_rng_state()
    third = drop(x)
    torch.manual_seed(3)
    assert torch.equal(drop(x), first) and not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(drop(x), third)


@pytest.mark.parametrize(("p", "left"), [(0.0, 1.0), (1e-9, 1.0), (1.0, 0.0)])
def test_shares_at_the_ends_are_torchs(p: float, left: float) -> None:
    x = torch.ones(64)
    assert torch.equal(Dropout(p)(x), torch.full((64,), left))


def test_after_training_nothing_is_dropped_and_nothing_of_nothing() -> None:
    x = torch.randn(9)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.5)(torch.empty(0, 4)).shape == (0, 4)


def test_numbers_drawn_before_the_step_are_taken() -> None:
    x, given = torch.ones(8), torch.arange(8) / 8
    with Drawn(given, torch.empty(0)):
        found = Dropout(0.5)(x)
    assert torch.equal(found, torch.tensor([0.0] * 4 + [2.0] * 4))


def test_in_place_is_torchs() -> None:
    x = torch.ones(64)
    assert Dropout(0.5, inplace=True)(x) is x and (x == 0).any()


def test_under_vmap_torch_draws() -> None:
    drop = Dropout(0.5)
    found = torch.func.vmap(drop, randomness="different")(torch.ones(4, 100))
    assert found.shape == (4, 100) and not torch.equal(found[0], found[1])


def test_torchs_dropout_of_a_model_becomes_this_one() -> None:
    model = recast(nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.2))), {nn.Dropout: Dropout})
    assert type(model[0]) is type(model[1][0]) is Dropout and model[1][0].p == 0.2
    assert 0 < (model(torch.ones(1000)) == 0).double().mean() < 1
