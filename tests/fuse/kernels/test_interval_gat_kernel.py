"""Interval attention as an operator: its gradients, torch's checks, seeds mapped over, and its Triton kernels."""

from __future__ import annotations

from typing import Any

import apart
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from fuse.kernels.interval_gat import _backward, _forward, interval_gat
from fuse.kernels.interval_gat.cases import hostile, realistic, rivals
from fuse.kernels.interval_gat.reference import Nodes

CPU = torch.device("cpu")


def outer(text: Tensor, speech: Tensor) -> list[Tensor]:
    """Derivatives to begin with."""
    random = torch.Generator().manual_seed(5)
    return [torch.randn(x.shape, generator=random, dtype=x.dtype) for x in (text, speech)]


def derived(run: Any, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """What is read, and the derivatives by all that has any."""
    text, speech = run(*inputs)[:2]
    leaves = [x for x in inputs if x is not None and x.requires_grad]
    return text, speech, *torch.autograd.grad((text, speech), leaves, outer(text, speech))


@pytest.mark.parametrize("name", rivals())
def test_it_is_what_its_rivals_compute(name: str) -> None:
    for seeds in (1, 2):
        for _, inputs in hostile(CPU, torch.float64, seeds):
            torch.testing.assert_close(derived(interval_gat, inputs), derived(rivals()[name], inputs))


def test_realistic_cases_are_what_they_say() -> None:
    for name, inputs in realistic(CPU, torch.float32, 1):
        first, past, frames = inputs[5], inputs[6], inputs[1].shape[1]  # type: ignore[union-attr]
        assert int((past - first).min()) >= 0 and int(past.max()) == frames == 128, name
        text, speech, seen = interval_gat(*inputs, picture=True)  # type: ignore[arg-type]
        assert torch.isfinite(text).all() and torch.isfinite(speech).all() and (seen > 0).any()


def test_gradients_are_those_of_finite_differences_and_torch_finds_nothing() -> None:
    for seeds in (1, 2):
        for _, inputs in hostile(CPU, torch.float64, seeds):
            *nodes, vector, first, past, text_values, speech_values = inputs
            given = (*nodes, text_values, speech_values, vector, first, past)
            leaves = tuple(x for x in given if x is not None and x.requires_grad and x.numel())
            assert torch.autograd.gradcheck(lambda *_, given=given: _forward(*given, False)[:2], leaves, fast_mode=True)
    torch.library.opcheck(_forward, (*given, True))
    found = _forward(*given, False)
    plain = [None if x is None else x.detach() for x in (*outer(*found[:2]), *found[:4], *given)]
    torch.library.opcheck(_backward, tuple(plain))


def test_seeds_that_are_mapped_over_are_seeds_one_by_one() -> None:
    for _, inputs in hostile(CPU, torch.float64, 3):
        split = [None if x is None else x.unflatten(0, (3, -1)) for x in inputs]
        leaves = [x for x in inputs if x is not None and x.requires_grad]
        dims = tuple(None if x is None else 0 for x in split)
        text, speech = vmap(lambda *one: interval_gat(*one)[:2], in_dims=dims)(*split)
        alone = [interval_gat(*(None if x is None else x[s] for x in split))[:2] for s in range(3)]
        torch.testing.assert_close([text, speech], [torch.stack(x) for x in zip(*alone, strict=True)])
        torch.testing.assert_close(
            torch.autograd.grad(
                (text.flatten(0, 1), speech.flatten(0, 1)), leaves, outer(*derived(interval_gat, inputs)[:2])
            ),
            derived(interval_gat, inputs)[2:],
        )


def test_the_same_utterances_for_all_seeds_need_no_copies_of_them() -> None:
    (inputs,) = (x for name, x in hostile(CPU, torch.float64, 1) if name == "odd sizes")
    vectors = torch.randn(3, *inputs[4].shape, dtype=torch.float64)  # type: ignore[union-attr]
    found = vmap(lambda a: interval_gat(*inputs[:4], a, *inputs[5:])[1])(vectors)  # type: ignore[arg-type]
    for one, a in zip(found, vectors, strict=True):
        torch.testing.assert_close(one, interval_gat(*inputs[:4], a, *inputs[5:])[1])  # type: ignore[arg-type]


def test_keys_and_values_may_be_of_different_types() -> None:
    """As in v1 within autocast: values are products of matrices, keys are sums over them."""
    for _, (*rest, text_values, speech_values) in hostile(CPU, torch.float32, 1):
        if text_values is not None and speech_values is not None:
            halves = (text_values.detach().bfloat16().requires_grad_(), speech_values.detach().bfloat16())
            text, speech, _ = interval_gat(*rest, *halves)  # type: ignore[arg-type]
            assert text.dtype == speech.dtype == torch.bfloat16
            wanted = interval_gat(*rest, text_values, speech_values)[0]  # type: ignore[arg-type]
            torch.testing.assert_close(text.float(), wanted, rtol=0.02, atol=0.02)
            found = torch.autograd.grad(text.float().sum(), (rest[0], halves[0]))
            assert [x.dtype for x in found] == [torch.float32, torch.bfloat16]
            given = (*rest[:4], *halves, *rest[4:], True)
            torch.library.opcheck(_forward, given, test_utils=("test_schema", "test_faketensor"))


def test_shapes_that_do_not_fit_are_refused() -> None:
    (inputs,) = (x for name, x in hostile(CPU, torch.float64, 1) if name == "odd sizes")
    with pytest.raises(ValueError, match="do not fit together"):
        interval_gat(*inputs[:4], inputs[4][:, :1], *inputs[5:])  # type: ignore[arg-type, index]
    with pytest.raises(ValueError, match="do not fit together"):
        interval_gat(*inputs[:4], inputs[4].expand(2, -1, -1), *inputs[5:])  # type: ignore[arg-type, union-attr]


def test_launches_ask_nothing_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no numbers that a launch could wait for."""
    recorders = apart.without_device(monkeypatch, "interval_gat")
    from fuse.kernels.interval_gat import launch

    for _, inputs in hostile(CPU, torch.float32, 2):
        *nodes, vector, first, past, text_values, speech_values = [None if x is None else x.to("meta") for x in inputs]
        given = Nodes(*nodes, text_values, speech_values), vector, first, past  # type: ignore[arg-type, misc]
        found = launch.forward(*given, True)  # type: ignore[arg-type]
        more = launch.backward(found[:2], found[:2], found[2:4], *given)  # type: ignore[arg-type]
        assert [x.shape for x in found] == [x.shape for x in _forward(*given[0], *given[1:], True)]
        assert [x.shape for x in more] == [
            x.shape for x in (*nodes, vector, text_values, speech_values) if x is not None
        ]  # type: ignore[union-attr]
    assert all(recorder.launches for recorder in recorders)


def interpreted() -> dict[str, float]:
    """The largest error of the kernels in float32 against the reference in float64, by case."""
    from fuse.kernels.interval_gat import launch

    apart.poison()
    worst = {}
    for name, inputs in hostile(CPU, torch.float32, 2):
        *nodes, vector, first, past, text_values, speech_values = inputs
        given = [None if x is None else apart.guarded(x) for x in (*nodes, text_values, speech_values)]
        rest = [apart.guarded(x) for x in (vector, first, past)]  # type: ignore[arg-type]
        found = launch.forward(Nodes(*given), *rest, True)
        grads = [apart.guarded(x) for x in outer(*found[:2])]
        kept = [apart.guarded(x) for x in found[:4]]
        more = launch.backward(grads, kept[:2], kept[2:], Nodes(*given), *rest)  # type: ignore[arg-type]
        wide = [None if x is None else x.double() for x in given]
        expected = _forward(*wide, rest[0].double(), *rest[1:], True)
        wanted = _backward(*(x.double() for x in (*grads, *kept)), *wide, rest[0].double(), *rest[1:])
        pairs = zip((*found, *more), (*expected, *wanted), strict=True)
        worst[name] = max(apart.error(mine, theirs) for mine, theirs in pairs)
    return worst


def test_interpreted_kernels_compute_what_the_reference_computes() -> None:
    worst = apart.in_own_process(__file__, "interpreted", interpret=True)
    assert len(worst) == 6 and all(error < 1e-5 for error in worst.values()), worst


def compiled() -> dict[str, list[dict[str, Any]]]:
    """What the kernels need on each device, as they are launched on realistic cases."""
    from fuse.kernels.interval_gat import launch
    from fuse.kernels.interval_gat import triton as kernels

    recorders = []
    for name in ("forward_kernel", "backward_kernel", "picture_kernel"):
        recorders.append(apart.Recorder(getattr(kernels, name)))
        setattr(kernels, name, recorders[-1])
    for dtype, name in ((torch.float32, "real lengths"), (torch.bfloat16, "v1")):
        *nodes, vector, first, past, text_values, speech_values = dict(realistic(CPU, dtype, 1))[name]
        given = Nodes(*nodes, text_values, speech_values), vector.float(), first, past  # type: ignore[union-attr, arg-type, misc]
        found = _forward(*given[0], *given[1:], False)
        if name != "v1":
            launch.forward(*given, True)  # type: ignore[arg-type]
        launch.backward(outer(*found[:2]), found[:2], found[2:4], *given)  # type: ignore[arg-type]
    return {c: [x for r in recorders for x in r.compiled(c)] for c in apart.SHARED_MEMORY}  # type: ignore[misc]


def test_compiled_kernels_keep_to_their_registers_and_shared_memory() -> None:
    for capability, found in apart.in_own_process(__file__, "compiled", interpret=False).items():
        assert sorted({x["kernel"] for x in found}) == ["backward_kernel", "forward_kernel", "picture_kernel"]
        for kernel in found:
            assert kernel["stack"] == 0 and kernel["registers"] <= 168, (capability, kernel)
            assert kernel["shared"] <= apart.SHARED_MEMORY[int(capability)], (capability, kernel)
