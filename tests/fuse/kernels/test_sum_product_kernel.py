"""The sum-product layer as an operator: its gradients, torch's checks, seeds mapped over, and its Triton kernels."""

from __future__ import annotations

from typing import Any

import apart
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from fuse.kernels.sum_product import _backward, _forward, sum_product_linear
from fuse.kernels.sum_product.cases import hostile, realistic, rivals

CPU = torch.device("cpu")


def outer(like: Tensor) -> Tensor:
    """Derivatives to begin with."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(5), dtype=like.dtype)


def derived(run: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs and the derivatives by all inputs."""
    found = run(*inputs)
    return found, *torch.autograd.grad(found, inputs, outer(found))


@pytest.mark.parametrize("name", rivals())
def test_it_is_what_its_rivals_compute(name: str) -> None:
    for seeds in (1, 2):
        for _, inputs in hostile(CPU, torch.float64, seeds):
            torch.testing.assert_close(derived(sum_product_linear, inputs), derived(rivals()[name], inputs))


def test_it_is_the_sentence_in_its_docstring() -> None:
    for _, (t, s, rest, weight, bias) in hostile(CPU, torch.float64, 2):
        for seed in range(2):
            x = torch.cat([t[seed], s[seed], t[seed] + s[seed], t[seed] * s[seed], rest[seed]], dim=1)
            expected = x @ weight[seed].T + bias[seed]
            torch.testing.assert_close(sum_product_linear(t, s, rest, weight, bias)[seed], expected)


def test_gradients_are_those_of_finite_differences_and_torch_finds_nothing() -> None:
    for _, inputs in hostile(CPU, torch.float64, 2):
        if inputs[0].numel():
            assert torch.autograd.gradcheck(_forward, inputs, fast_mode=True)
    torch.library.opcheck(_forward, inputs)
    torch.library.opcheck(_backward, tuple(x.detach() for x in (outer(_forward(*inputs)), *inputs[:4])))


def test_seeds_that_are_mapped_over_are_seeds_one_by_one() -> None:
    for _, inputs in hostile(CPU, torch.float64, 3):
        found = vmap(sum_product_linear)(*(x[:, None] for x in inputs)).squeeze(1)
        grads = torch.autograd.grad(found, inputs, outer(found))
        torch.testing.assert_close((found, *grads), derived(rivals()["sums of weights"], inputs))


def test_within_autocast_it_computes_in_its_type() -> None:
    ((_, inputs),) = (x for x in hostile(CPU, torch.float32, 1) if x[0] == "no rest")
    expected = rivals()["sums of weights"](*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = sum_product_linear(*inputs)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.03, atol=0.03)
    found.sum().backward()
    assert inputs[3].grad is not None and inputs[3].grad.dtype == torch.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    ((_, inputs),) = (x for x in hostile(CPU, torch.float64, 1) if x[0] == "no rest")
    with pytest.raises(ValueError, match="do not fit together"):
        sum_product_linear(*inputs[:3], inputs[3][..., :-1], inputs[4])


def test_launches_ask_nothing_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no numbers that a launch could wait for."""
    recorders = apart.without_device(monkeypatch, "sum_product")
    from fuse.kernels.sum_product import launch

    for _, inputs in hostile(torch.device("meta"), torch.float32, 2):
        found = launch.forward(*inputs)
        more = launch.backward(found, *inputs[:4])
        assert found.shape == (2, inputs[0].shape[1], inputs[3].shape[1])
        assert [x.shape for x in more] == [x.shape for x in inputs]
    assert all(recorder.launches for recorder in recorders)


def interpreted() -> dict[str, float]:
    """The largest error of the kernels in float32 against the reference in float64, by case."""
    from fuse.kernels.sum_product import launch

    apart.poison()
    worst = {}
    for name, inputs in hostile(CPU, torch.float32, 2):
        given = [apart.guarded(x) for x in inputs]
        wide = [x.double() for x in given]
        found = launch.forward(*given)
        grad = apart.guarded(outer(found))
        found_all = found, *launch.backward(grad, *given[:4])
        expected = _forward(*wide), *_backward(grad.double(), *wide[:4])
        worst[name] = max(apart.error(mine, theirs) for mine, theirs in zip(found_all, expected, strict=True))
    return worst


def test_interpreted_kernels_compute_what_the_reference_computes() -> None:
    worst = apart.in_own_process(__file__, "interpreted", interpret=True)
    assert len(worst) == 4 and all(error < 1e-5 for error in worst.values()), worst


def compiled(name: str, dtype: torch.dtype, capabilities: tuple[int, ...]) -> dict[int, list[dict[str, Any]]]:
    """What the kernels need on each device, as they are launched on a realistic case."""
    from fuse.kernels.sum_product import launch
    from fuse.kernels.sum_product import triton as kernels

    recorders = []
    for kernel in ("forward_kernel", "by_vectors_kernel", "by_weight_kernel"):
        recorders.append(apart.Recorder(getattr(kernels, kernel)))
        setattr(kernels, kernel, recorders[-1])
    (inputs,) = (x for case, x in realistic(CPU, dtype, 1) if case == name)
    with torch.no_grad():
        launch.backward(torch.empty_like(launch.forward(*inputs)), *inputs[:4])
    return {c: [x for r in recorders for x in r.compiled(c)] for c in capabilities}


def compiled_large() -> dict[int, list[dict[str, Any]]]:
    return compiled("4096 x 768 x 768", torch.bfloat16, (80, 90, 100))


def compiled_small() -> dict[int, list[dict[str, Any]]]:
    return compiled("complementary", torch.float32, (90,))


@pytest.mark.parametrize("name", ["compiled_large", "compiled_small"])
def test_compiled_kernels_keep_to_their_registers_and_shared_memory(name: str) -> None:
    for capability, found in apart.in_own_process(__file__, name, interpret=False).items():
        assert len(found) == 3
        for kernel in found:
            assert kernel["stack"] == 0 and kernel["registers"] <= 240, (capability, kernel)
            assert kernel["shared"] <= apart.SHARED_MEMORY[int(capability)], (capability, kernel)
            if name == "compiled_large":
                assert kernel["wgmma"] == (capability == "90"), (capability, kernel)
