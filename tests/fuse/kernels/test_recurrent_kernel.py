"""The recurrent scans as operators: their gradients, torch's checks, seeds mapped over, and their Triton kernels."""

from __future__ import annotations

from typing import Any

import apart
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from fuse.kernels.recurrent import _gru, _gru_backward, _lstm, _lstm_backward, gru_scan, lstm_scan, recurrent, reference
from fuse.kernels.recurrent.cases import hostile, realistic, rivals

CPU = torch.device("cpu")


def outer(x: Tensor) -> Tensor:
    """A derivative to begin with, each sequence's of a size of its own."""
    sizes = 10 ** torch.linspace(-6, 2, x.shape[-2], dtype=x.dtype)[:, None]
    return sizes * torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)


def derived(run: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The states, and the derivatives by all that has any."""
    states = run(*inputs)
    return states, *torch.autograd.grad(states, inputs[:5], outer(states))


@pytest.mark.parametrize("name", rivals())
def test_it_is_what_its_rivals_compute(name: str) -> None:
    for seeds in (1, 2):
        for case, inputs in hostile(CPU, torch.float64, seeds):
            if name == "torch, padded" and "both" in case:
                continue
            torch.testing.assert_close(derived(recurrent, inputs), derived(rivals()[name], inputs))


def test_realistic_cases_are_those_of_the_architectures() -> None:
    found = dict(realistic(CPU, torch.float32, 2))
    assert {name: inputs[2].shape[-1] for name, inputs in found.items()}["symphonia"] == 256
    for name, (x, *_, lengths) in found.items():
        assert int(lengths.min()) >= 1 and int(lengths.max()) == x.shape[1], name
    for name in ("hff", "hff, dialogues"):
        for one, other in zip(derived(recurrent, found[name]), derived(rivals()["eager"], found[name]), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_gradients_are_those_of_finite_differences_and_torch_finds_nothing() -> None:
    for case, (x, w_in, w_rec, b_in, _, lengths) in hostile(CPU, torch.float64, 2):
        gates = ((x[:, None] @ w_in.mT[:, :, None]) + b_in[:, :, None, None]).detach().requires_grad_()
        bias = b_in[..., -w_rec.shape[-1] :].detach().requires_grad_()
        if "GRU" in case:
            own: tuple[Tensor, ...] = (gates, w_rec, bias)
            assert torch.autograd.gradcheck(lambda *g, n=lengths: gru_scan(*g, n), own, fast_mode=True)
        else:
            own = (gates, w_rec)
            assert torch.autograd.gradcheck(lambda *g, n=lengths: lstm_scan(*g, n), own, fast_mode=True)
        if "odd" in case:
            forward, backward = (_gru, _gru_backward) if "GRU" in case else (_lstm, _lstm_backward)
            torch.library.opcheck(forward, (*own, lengths))
            states, kept = forward(*own, lengths)
            first = (torch.ones_like(states), states.detach(), kept)
            torch.library.opcheck(backward, (*(first if "GRU" in case else first[::2]), w_rec.detach(), lengths))


def test_seeds_that_are_mapped_over_are_seeds_one_by_one() -> None:
    for _, inputs in hostile(CPU, torch.float64, 3):
        split = [x.reshape(3, 1, *x.shape[1:]) for x in inputs]
        mapped = vmap(recurrent)(*split)
        torch.testing.assert_close(mapped.flatten(0, 1), recurrent(*inputs))
        first = vmap(lambda w, rest=split: recurrent(*(x[0] for x in rest[:2]), w, *(x[0] for x in rest[3:])))(split[2])
        torch.testing.assert_close(first[0], mapped[0])


def test_shapes_that_do_not_fit_are_refused() -> None:
    gates, weight = torch.zeros(2, 1, 4, 3, 15), torch.zeros(2, 1, 15, 5)
    lengths = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="do not fit"):
        gru_scan(gates, weight[:1], torch.zeros(1, 1, 5), lengths)
    with pytest.raises(ValueError, match="do not fit"):
        lstm_scan(gates, weight, lengths)
    with pytest.raises(ValueError, match="does not fit"):
        gru_scan(gates, weight, torch.zeros(2, 5), lengths)
    with pytest.raises(ValueError, match="3 sequences"):
        gru_scan(gates, weight, torch.zeros(2, 1, 5), lengths[:, :2])


def interpreted() -> dict[str, list[float]]:
    """The largest errors of states and of derivatives by case: of the kernels in float32 against the reference in
    float64; infinite where the padding is not zero."""
    from fuse.kernels.recurrent import launch

    apart.poison()
    found = {}
    for name, inputs in hostile(CPU, torch.float32, 2):
        for options in ({"parts": 2, "resident": True}, {"parts": 2, "resident": False}, {"parts": 1}):
            if options != {"parts": 2, "resident": True} and "odd" not in name:
                continue
            found[f"{name}, {options}"] = _errors(launch, inputs, options)
    return found


def _errors(launch: Any, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> list[float]:
    x, w_in, w_rec, b_in, b_rec, lengths = (t.detach() for t in inputs)
    inside = (torch.arange(x.shape[1])[:, None] < lengths[:, None])[:, None, ..., None]
    gates = (x[:, None] @ w_in.mT[:, :, None]) + b_in[:, :, None, None]
    bias = b_rec[..., -w_rec.shape[-1] :]
    grad = outer(gates[..., : w_rec.shape[-1]])
    hostile_gates, hostile_grad = (apart.guarded(t.masked_fill(~inside, torch.nan)) for t in (gates, grad))
    weight, lengths = apart.guarded(w_rec), apart.guarded(lengths)
    if gates.shape[-1] == 3 * w_rec.shape[-1]:
        states, kept = launch.gru_forward(hostile_gates, weight, apart.guarded(bias), lengths, **options)
        grads = launch.gru_backward(hostile_grad, states, kept, weight, lengths, **options)
        true, true_kept = reference.gru_forward(gates.double(), w_rec.double(), bias.double(), lengths)
        true_grads = reference.gru_backward(grad.double(), true, true_kept, w_rec.double(), lengths)
    else:
        states, kept = launch.lstm_forward(hostile_gates, weight, lengths, **options)
        grads = launch.lstm_backward(hostile_grad, kept, weight, lengths, **options)
        true, true_kept = reference.lstm_forward(gates.double(), w_rec.double(), lengths)
        true_grads = reference.lstm_backward(grad.double(), true_kept, w_rec.double(), lengths)
    if (states * ~inside).any() or (grads * ~inside).any():
        return [torch.inf, torch.inf]
    each = [
        apart.error(1e6 * grads[..., b, :], 1e6 * true_grads[..., b, :]) for b in range(x.shape[2])
    ]  # an error among small gradients is not to be lost among large ones
    return [apart.error(states, true), max(each)]


def test_kernels_are_right_by_the_interpreter() -> None:
    for name, errors in apart.in_own_process(__file__, "interpreted", interpret=True).items():
        assert max(errors) < (3e-4 if "'parts': 1" in name else 1e-6), f"{name}: {errors}"


def test_launches_ask_nothing_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no numbers that a launch could wait for."""
    recorders = apart.without_device(monkeypatch, "recurrent")
    from fuse.kernels.recurrent import launch

    for name, (x, _, w_rec, b_in, _, lengths) in hostile(torch.device("meta"), torch.float32, 2):
        gates = x.new_empty(*b_in.shape[:2], *x.shape[1:3], b_in.shape[2])
        if "GRU" in name:
            states, kept = launch.gru_forward(gates, w_rec, b_in[..., : w_rec.shape[-1]], lengths)
            grads = launch.gru_backward(states, states, kept, w_rec, lengths)
        else:
            states, kept = launch.lstm_forward(gates, w_rec, lengths)
            grads = launch.lstm_backward(states, kept, w_rec, lengths)
        assert states.shape == (*gates.shape[:-1], w_rec.shape[-1])
        assert grads.shape == (*gates.shape[:-1], 4 * w_rec.shape[-1])
    assert all(recorder.launches for recorder in recorders)


def _compiled(capability: int, kinds: str, hidden: int, directions: int) -> list[dict[str, Any]]:
    """What the kernels need on a GPU of a compute capability, forward and backward, in float32."""
    from fuse.kernels.recurrent import launch
    from fuse.kernels.recurrent import triton as kernels

    launch._shared_memory = lambda _: apart.SHARED_MEMORY[capability]  # type: ignore[assignment]
    lengths = torch.ones(1, 8, dtype=torch.int64)
    each = torch.zeros(1, directions, 1, 8, 5 * hidden)
    found = []
    for kind in kinds.split():
        recorders = [apart.Recorder(getattr(kernels, f"{kind}_{way}_kernel")) for way in ("forward", "backward")]
        for recorder in recorders:
            setattr(kernels, recorder.kernel.__name__, recorder)
        rows = hidden * (3 if kind == "gru" else 4)
        weight = torch.zeros(1, directions, rows, hidden)
        if kind == "gru":
            states, kept = launch.gru_forward(each[..., :rows], weight, each[:, :, 0, 0, :hidden], lengths)
            launch.gru_backward(states, states, kept, weight, lengths)
        else:
            states, kept = launch.lstm_forward(each[..., :rows], weight, lengths)
            launch.lstm_backward(states, kept, weight, lengths)
        for recorder in recorders:
            resident = recorder.launches[0][0]["resident"]
            found += [needs | {"resident": resident} for needs in recorder.compiled(capability)]
    return found


def compiled_80() -> list[dict[str, Any]]:
    """GRU whose weights do not fit."""
    return _compiled(80, "gru", 128, 2)


def compiled_90() -> list[dict[str, Any]]:
    """GRU whose weights fit and LSTM whose weights do not."""
    return _compiled(90, "gru lstm", 128, 1)


def compiled_90_wide() -> list[dict[str, Any]]:
    """The widest LSTM, as symphonia has it."""
    return _compiled(90, "lstm", 256, 1)


def compiled_100() -> list[dict[str, Any]]:
    """LSTM with its weights on the chip."""
    return _compiled(100, "lstm", 64, 2)


@pytest.mark.parametrize(
    ("function", "capability", "resident"),
    [
        ("compiled_80", 80, {"gru": False}),
        ("compiled_90", 90, {"gru": True, "lstm": False}),
        ("compiled_90_wide", 90, {"lstm": False}),
        ("compiled_100", 100, {"lstm": True}),
    ],
)
def test_kernels_compile_ahead_of_time_and_fit(function: str, capability: int, resident: dict[str, bool]) -> None:
    found = apart.in_own_process(__file__, function, interpret=False)
    assert len(found) == 2 * len(resident)
    for needs in found:
        assert needs["shared"] <= apart.SHARED_MEMORY[capability], needs
        assert needs["stack"] == 0 and needs["registers"] <= 240 and needs["mma"], needs
        assert needs["resident"] == resident[needs["kernel"].partition("_")[0]], needs
