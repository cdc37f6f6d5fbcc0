"""Routed linear layers as an operator: gradients, torch's checks, seeds mapped over, and their Triton kernels."""

from __future__ import annotations

from itertools import islice
from typing import Any

import apart
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from fuse.kernels.routed_linear import _backward, _forward, by_expert, routed_linear
from fuse.kernels.routed_linear.cases import gathered, hostile, moved_bytes, realistic, rivals, routed

CPU = torch.device("cpu")


def outer(like: Tensor) -> Tensor:
    """Derivatives to begin with."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(5), dtype=like.dtype)


def derived(run: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs and the derivatives by rows, weights and biases."""
    found = run(*inputs)
    return found, *torch.autograd.grad(found, (inputs[0], *inputs[2:]), outer(found))


@pytest.mark.parametrize("name", rivals())
def test_it_is_what_its_rivals_compute(name: str) -> None:
    for seeds in (1, 2):
        for case, inputs in hostile(CPU, torch.float32 if name == "grouped_mm" else torch.float64, seeds):
            if name == "grouped_mm":
                # Its operands begin at multiples of 16 bytes: rows of 4 floats, and one at least.
                x, chosen, weight, bias = inputs
                if x.shape[2] % 4 == 0 and x.numel():
                    torch.testing.assert_close(routed(*inputs), rivals()[name](x, chosen, weight, bias))
                continue
            torch.testing.assert_close(derived(routed, inputs), derived(rivals()[name], inputs), msg=case)


def test_rows_are_sorted_by_expert() -> None:
    chosen = torch.tensor([[2, 0, 2, 3], [1, 1, 1, 1]])
    routes = by_expert(chosen, 5)
    assert routes.order.tolist() == [[1, 0, 2, 3], [0, 1, 2, 3]]
    assert routes.starts.tolist() == [[0, 1, 1, 3, 4, 4], [0, 0, 4, 4, 4, 4]]


def test_what_must_be_moved_is_counted() -> None:
    x, weight, bias = torch.zeros(1, 4, 3), torch.zeros(1, 5, 3, 2), torch.zeros(1, 5, 2)
    inputs = (x, torch.tensor([[2, 0, 2, 3]]), weight, bias)
    assert moved_bytes(inputs) == 3 * 4 * (3 * 2 + 2) + 4 * 4 * 3 + 4 * 8 + 4 * 4 * 2


def test_gradients_are_those_of_finite_differences_and_torch_finds_nothing() -> None:
    for _, (x, chosen, weight, bias) in hostile(CPU, torch.float64, 2):
        routes = by_expert(chosen, weight.shape[1])
        if x.numel():
            leaves = (x, weight, bias)
            run = lambda x, w, b, routes=routes: _forward(x, *routes, w, b)  # noqa: E731
            assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    torch.library.opcheck(_forward, (x, *routes, weight, bias))
    torch.library.opcheck(_backward, (outer(run(*leaves)), x.detach(), *routes, weight.detach()))


def test_seeds_that_are_mapped_over_are_seeds_one_by_one() -> None:
    for _, inputs in hostile(CPU, torch.float64, 3):
        found = vmap(routed)(*(x[:, None] for x in inputs)).squeeze(1)
        grads = torch.autograd.grad(found, (inputs[0], *inputs[2:]), outer(found))
        torch.testing.assert_close((found, *grads), derived(gathered, inputs))


def test_shapes_that_do_not_fit_are_refused() -> None:
    ((_, (x, chosen, weight, bias)),) = (case for case in hostile(CPU, torch.float64, 1) if case[0] == "one has all")
    with pytest.raises(ValueError, match="do not fit together"):
        routed_linear(x, by_expert(chosen, 5), weight, bias)


def test_launches_ask_nothing_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no numbers that a launch, or the sorting before it, could wait for."""
    recorders = apart.without_device(monkeypatch, "routed_linear")
    from fuse.kernels.routed_linear import launch

    for _, inputs in hostile(CPU, torch.float32, 2):
        x, chosen, weight, bias = (part.to("meta") for part in inputs)
        routes = by_expert(chosen, weight.shape[1])
        found = launch.forward(x, *routes, weight, bias)
        more = launch.backward(found, x, *routes, weight)
        assert found.shape == (*x.shape[:2], weight.shape[3])
        assert [part.shape for part in more] == [x.shape, weight.shape, bias.shape]
    assert all(recorder.launches for recorder in recorders)


def interpreted() -> dict[str, float]:
    """The largest error of the kernels in float32 against the reference in float64, by case."""
    from fuse.kernels.routed_linear import launch

    apart.poison()
    worst = {}
    for name, (x, chosen, weight, bias) in hostile(CPU, torch.float32, 2):
        routes = [apart.guarded(part) for part in by_expert(chosen, weight.shape[1])]
        x, weight, bias = (apart.guarded(part) for part in (x, weight, bias))
        found = launch.forward(x, *routes, weight, bias)
        grad = apart.guarded(outer(found))
        found_all = found, *launch.backward(grad, x, *routes, weight)
        expected = _forward(x.double(), *routes, weight.double(), bias.double())
        wanted = _backward(grad.double(), x.double(), *routes, weight.double())
        worst[name] = max(apart.error(*both) for both in zip(found_all, (expected, *wanted), strict=True))
    return worst


def test_interpreted_kernels_compute_what_the_reference_computes() -> None:
    worst = apart.in_own_process(__file__, "interpreted", interpret=True)
    assert len(worst) == 5 and all(error < 1e-5 for error in worst.values()), worst


def compiled() -> dict[int, list[dict[str, Any]]]:
    """What the kernels need on each device, as they are launched on realistic cases."""
    from fuse.kernels.routed_linear import launch
    from fuse.kernels.routed_linear import triton as kernels

    recorders = [apart.Recorder(kernels.rows_kernel), apart.Recorder(kernels.by_weight_kernel)]
    kernels.rows_kernel, kernels.by_weight_kernel = recorders
    with torch.no_grad():
        for dtype, place in ((torch.bfloat16, 2), (torch.float32, 1)):
            ((_, (x, chosen, weight, bias)),) = islice(realistic(CPU, dtype, 1), place, place + 1)
            routes = by_expert(chosen, weight.shape[1])
            launch.backward(launch.forward(x, *routes, weight, bias), x, *routes, weight)
    return {c: [found for r in recorders for found in r.compiled(c)] for c in apart.SHARED_MEMORY}


def test_compiled_kernels_keep_to_their_registers_and_shared_memory() -> None:
    for capability, found in apart.in_own_process(__file__, "compiled", interpret=False).items():
        assert len(found) == 6
        for kernel in found:
            assert kernel["stack"] == 0 and kernel["registers"] <= 128, (capability, kernel)
            assert kernel["shared"] <= apart.SHARED_MEMORY[int(capability)], (capability, kernel)
        large = [found[0], found[1], found[4]]
        assert all(kernel["wgmma"] == (capability == "90") for kernel in large), (capability, large)
