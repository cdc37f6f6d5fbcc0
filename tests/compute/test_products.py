"""Products through oneDNN: what torch's own give, gradients included, and torch's own wherever they are not meant."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from compute import products
from compute.modules import recast
from compute.products import Linear

WIDE, ROWS = 96, 512
"""Together more multiplications than `products.LEAST`."""


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor on which they pay."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(products, "pays", lambda: True)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that went to oneDNN."""
    found: list[tuple[int, ...]] = []
    real = products.product

    def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        found.append(tuple(x.shape))
        return real(x, weight, bias)

    monkeypatch.setattr(products, "product", product)
    return found


def layer(bias: bool = True) -> Linear:
    torch.manual_seed(0)
    return Linear(WIDE, WIDE, bias=bias)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


INPUTS = {
    "matrix": lambda: torch.randn(ROWS, WIDE),
    "sequences": lambda: torch.randn(8, ROWS // 8, WIDE),
    "transposed": lambda: torch.randn(WIDE, ROWS).t(),
    "a step of sequences": lambda: torch.randn(ROWS, 3, WIDE)[:, 1],
    "a slice of a frame": lambda: torch.randn(ROWS, 2 * WIDE)[:, WIDE:],
    "expanded": lambda: torch.randn(8, 1, WIDE).expand(8, ROWS // 8, WIDE),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", INPUTS)
def test_values_and_gradients_are_those_of_exact_arithmetic(
    name: str, bias: bool, counted: list[tuple[int, ...]]
) -> None:
    fast = layer(bias)
    exact = copy.deepcopy(fast).double()
    x = INPUTS[name]().requires_grad_()
    x64 = x.detach().double().requires_grad_()
    y, y64 = fast(x), exact(x64)
    assert len(counted) == 1  # the float64 one is torch's
    weights = torch.randn_like(y)
    torch.autograd.backward((y * weights).sum())
    torch.autograd.backward((y64 * weights.double()).sum())
    assert len(counted) == 3
    assert relative(y, y64) < 1e-6
    assert relative(x.grad, x64.grad) < 1e-6
    for got, wanted in zip(fast.parameters(), exact.parameters(), strict=True):
        assert relative(got.grad, wanted.grad) < 1e-6


def test_a_gradient_that_is_one_number_everywhere_is_taken_too() -> None:
    fast, x = layer(), torch.randn(ROWS, WIDE)
    torch.autograd.backward(fast(x).sum())
    assert torch.allclose(fast.weight.grad, x.sum(dim=0).expand(WIDE, WIDE), rtol=1e-4, atol=1e-3)


def test_only_the_gradients_that_are_needed_are_computed(counted: list[tuple[int, ...]]) -> None:
    fast = layer()
    fast.weight.requires_grad_(False)
    x = torch.randn(ROWS, WIDE, requires_grad=True)
    torch.autograd.backward(fast(x).sum())
    assert x.grad is not None
    assert fast.weight.grad is None
    assert len(counted) == 2


def test_what_no_gradient_needs_is_not_kept() -> None:
    fast, x = layer(), torch.randn(ROWS, WIDE)
    y = fast(x)
    with torch.no_grad():
        fast.weight.add_(1.0)
    torch.autograd.backward(y.sum())  # x has no gradient, so that the weight may have moved
    assert fast.weight.grad is not None


def test_gradients_of_gradients_are_those_of_torch() -> None:
    penalties = []
    for linear in (layer(), nn.Linear(WIDE, WIDE)):
        linear.load_state_dict(layer().state_dict())
        torch.manual_seed(1)
        x = torch.randn(ROWS, WIDE, requires_grad=True)
        (slope,) = torch.autograd.grad(linear(x).pow(2).sum(), x, create_graph=True)
        torch.autograd.backward(slope.pow(2).sum())
        penalties.append((x.grad, linear.weight.grad))
    for found, wanted in zip(*penalties, strict=True):
        assert relative(found, wanted.double()) < 1e-5


def test_shapes_that_do_not_fit_are_refused_as_torch_does() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer()(torch.randn(ROWS, WIDE + 1))


class Marked(Tensor):
    """A subclass, which may hold numbers of its own kind."""


def test_what_looks_at_operators_sees_torchs(counted: list[tuple[int, ...]]) -> None:
    fast, x = layer(), torch.randn(ROWS, WIDE)
    seen: list[str] = []

    def look(graph: torch.fx.GraphModule, _: object) -> object:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    y = torch.compile(fast, fullgraph=True, backend=look)(x)
    assert len(seen) == 1 and "linear" in seen[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit ends, some day
        assert "aten::linear" in str(torch.jit.trace(fast, x, check_trace=False).inlined_graph)
    assert torch.allclose(y, fast(x.as_subclass(Marked)), atol=1e-6)
    assert counted == []


def test_the_rest_stays_with_torch(counted: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    fast, x = layer(), torch.randn(ROWS, WIDE)
    wanted = nn.functional.linear(x, fast.weight, fast.bias)
    few = x[: products.LEAST // WIDE**2]
    assert torch.equal(fast(few), nn.functional.linear(few, fast.weight, fast.bias))
    assert torch.allclose(torch.func.vmap(fast)(x[None])[0], wanted, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(x).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        fast(x)
    assert copy.deepcopy(fast).to("meta")(x.to("meta")).shape == (ROWS, WIDE)
    monkeypatch.setattr(products, "pays", lambda: False)
    fast(x)
    assert counted == []


def test_without_gradients_the_values_are_the_same(counted: list[tuple[int, ...]]) -> None:
    fast, x = layer(), torch.randn(ROWS, WIDE)
    with torch.inference_mode():
        seen = fast(x)
    assert torch.equal(seen, fast(x).detach())
    assert len(counted) == 2


def test_layers_of_a_model_that_become_these_give_the_same() -> None:
    model, x = nn.Sequential(nn.Linear(WIDE, WIDE), nn.MultiheadAttention(WIDE, 1)), torch.randn(2, WIDE)
    before = model[0](x)
    recast(model, {nn.Linear: Linear})
    assert type(model[0]) is Linear and type(model[1].out_proj) is not Linear
    assert torch.equal(model[0](x), before)


@pytest.mark.parametrize(
    ("maker", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "", False),
    ],
)
def test_they_pay_where_mkl_keeps_its_best_for_others(
    maker: str, capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(products, "vendor", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch._C, "has_mkl", True)
    assert products.pays.__wrapped__() is expected
