"""The seeds' own scan, and what a CPU runs instead, against torch's modules; and what all promise."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from compute.products import LEAST
from fuse.nn.recurrent import GRU, LSTM, TrainedGRU, of_layer, scans

SEEDS, SEQUENCES, FRAMES, WIDTH = 3, 4, 6, 5
LENGTHS = torch.tensor([[6, 1, 0, 3], [2, 6, 5, 1], [0, 0, 1, 6]])
MODULES: dict[str, Callable[[], nn.Module]] = {
    "GRU": lambda: GRU(WIDTH, 7),
    "LSTM": lambda: LSTM(WIDTH, 7),
    "bidirectional": lambda: LSTM(WIDTH, 7, bidirectional=True, layers=2),
}


def called(module: nn.Module, parameters: dict[str, Tensor], x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    inputs = (x,) if isinstance(module, GRU) else (x, lengths)
    found = functional_call(module, parameters, inputs)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def weighed(outputs: tuple[Tensor, ...]) -> Tensor:
    """A number that every output reaches, each of its own weight."""
    return torch.stack([(x * torch.arange(x.numel()).view_as(x).cos()).sum() for x in outputs]).sum()


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_seeds_together_are_torchs_modules_one_by_one(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    modules = [make().double() for _ in range(SEEDS)]
    stacked, _ = stack_module_state(modules)  # type: ignore[no-untyped-call]
    x = torch.randn(SEEDS, SEQUENCES, FRAMES, WIDTH, dtype=torch.float64, requires_grad=True)

    def of_one(parameters: dict[str, Tensor], x: Tensor, lengths: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert scans(x, 7)
        outputs = called(modules[0], parameters, x, lengths)
        return weighed(outputs), outputs

    loss, together = vmap(of_one)(stacked, x, LENGTHS)
    (by_x,) = torch.autograd.grad(loss.sum(), x, retain_graph=True)
    loss.sum().backward()
    for seed, module in enumerate(modules):
        alone = x[seed].detach().requires_grad_()
        assert not scans(alone, 7)
        outputs = called(module, dict(module.named_parameters()), alone, LENGTHS[seed])
        for mine, all_ in zip(outputs, together, strict=True):
            torch.testing.assert_close(all_[seed], mine)
        weighed(outputs).backward()
        torch.testing.assert_close(by_x[seed], alone.grad)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(stacked[name].grad[seed], parameter.grad)


def test_seeds_may_read_the_same_sequences() -> None:
    torch.manual_seed(0)
    modules = [LSTM(WIDTH, 7) for _ in range(SEEDS)]
    stacked, _ = stack_module_state(modules)  # type: ignore[no-untyped-call]
    x = torch.randn(SEQUENCES, FRAMES, WIDTH)
    together = vmap(lambda parameters: called(modules[0], parameters, x, LENGTHS[0]))(stacked)
    for seed, module in enumerate(modules):
        for mine, all_ in zip(module(x, LENGTHS[0]), together, strict=True):
            torch.testing.assert_close(all_[seed], mine)


def test_padding_may_hold_anything() -> None:
    torch.manual_seed(0)
    module = LSTM(WIDTH, 7, bidirectional=True)
    x = torch.randn(1, SEQUENCES, FRAMES, WIDTH)
    poisoned = x.masked_fill((torch.arange(FRAMES) >= LENGTHS[:1, :, None])[..., None], torch.nan)
    clean, found = (vmap(lambda x: module(x, LENGTHS[0]))(each) for each in (x, poisoned))
    for mine, theirs in zip(clean, found, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("sizes", [(3, 4, 5, 7), (3, 1, 5, 7), (64, 3, 40, 128)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_gru_that_trains_is_torchs(sizes: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    sequences, frames, width, hidden = sizes
    assert hidden == 7 or sequences * hidden * 3 * hidden >= LEAST  # by oneDNN, too, where that is faster
    mine, theirs = GRU(width, hidden).to(dtype), nn.GRU(width, hidden, batch_first=True).to(dtype)
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(sequences, frames, width, dtype=dtype, requires_grad=True)
    found, expected = mine(x), theirs(x)[0]
    assert "TrainedGRU" in str(found.grad_fn.next_functions)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {}
    torch.testing.assert_close(found, expected, **close)
    outer = torch.randn_like(expected) / sequences
    each = zip(
        torch.autograd.grad(found, [x, *mine.parameters()], outer),
        torch.autograd.grad(expected, [x, *theirs.parameters()], outer),
        strict=True,
    )
    for one, other in each:
        torch.testing.assert_close(one, other, **close)


def test_gradients_of_a_gru_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    given = (x, *of_layer(GRU(4, 5).double(), 0))
    assert torch.autograd.gradcheck(TrainedGRU.apply, given)
    assert torch.autograd.gradgradcheck(TrainedGRU.apply, given)


def test_gradients_of_a_grus_gradients_are_torchs() -> None:
    """As a gradient penalty takes them, whose outer gradient needs none itself; of a weight that stays, too."""
    torch.manual_seed(0)
    mine, theirs = GRU(4, 5).double(), torch.nn.GRU(4, 5, batch_first=True).double()
    theirs.load_state_dict(mine.state_dict())
    mine.weight_ih_l0.requires_grad_(False)
    found = []
    for gru in (mine, lambda x: theirs(x)[0]):
        x = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        (gradient,) = torch.autograd.grad(gru(x).sum(), x, create_graph=True)
        module = mine if gru is mine else theirs
        found.append(torch.autograd.grad(gradient.square().sum(), [x, module.weight_hh_l0, module.bias_hh_l0]))
    for own, expected in zip(*found, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(own, expected)


def test_a_gru_without_gradients_says_the_same() -> None:
    torch.manual_seed(0)
    gru, x = GRU(WIDTH, 7), torch.randn(SEQUENCES, FRAMES, WIDTH)
    with torch.no_grad():
        alone = gru(x)
    torch.testing.assert_close(gru(x), alone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit ends, some day; and its GRU is not made for torch.export
        torch.testing.assert_close(torch.jit.trace(gru, x)(x), alone)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(torch.export.export(gru, (x,)).module()(x), alone)
    with pytest.raises(RuntimeError, match="sequence length"):
        gru(x[:, :0])


TRACED = """
import torch
from fuse.nn.recurrent import LSTM
torch.manual_seed(0)
module = LSTM(3, 7, bidirectional=True)
traced = torch.jit.trace(module, (torch.randn(2, 6, 3), torch.tensor([6, 3])))
for frames in (4, 9):
    given = torch.randn(3, frames, 3), torch.tensor([frames, 1, 2])
    torch.testing.assert_close(traced(*given), module(*given))
"""


def test_a_traced_lstm_reads_batches_of_any_length() -> None:
    """In a process without the tests' type checks: a traced shape is no int."""
    found = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr


def packed(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """What torch's LSTM makes of packed sequences, of which none is empty."""
    states, (last, _) = lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    padded, _ = pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])
    return padded, torch.cat(list(last[-2 if lstm.bidirectional else -1 :]), dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("lengths", [[6, 1, 2, 3], [6, 6, 6, 6], [4, 5, 1, 1]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstms_read_each_sequences_own_frames(dtype: torch.dtype, lengths: list[int], bidirectional: bool) -> None:
    torch.manual_seed(0)
    module = LSTM(WIDTH, 7, bidirectional, layers=2).to(dtype)
    x = torch.randn(SEQUENCES, FRAMES, WIDTH, dtype=dtype)
    inside = (torch.arange(FRAMES) < torch.tensor(lengths)[:, None])[..., None]
    given, plain = (x.masked_fill(~inside, value).requires_grad_() for value in (torch.nan, 0.0))
    found, expected = module(given, torch.tensor(lengths)), packed(module.lstm, plain, torch.tensor(lengths))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    each = zip(
        torch.autograd.grad(weighed(found), [given, *module.parameters()]),
        torch.autograd.grad(weighed(expected), [plain, *module.parameters()]),
        strict=True,
    )
    for one, other in each:
        torch.testing.assert_close(one, other)


def test_an_empty_sequence_has_no_gradient() -> None:
    torch.manual_seed(0)
    module, x = LSTM(WIDTH, 7, bidirectional=True), torch.randn(2, FRAMES, WIDTH, requires_grad=True)
    found = module(x, torch.tensor([0, 0]))
    assert not any(part.any() for part in found)
    assert not any(g.any() for g in torch.autograd.grad(weighed(found), [x, *module.parameters()]))


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_recurrences_compute_in_float32_within_autocast(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = make(), torch.randn(SEQUENCES, FRAMES, WIDTH)
    alone = called(module, dict(module.named_parameters()), x, LENGTHS[0])
    with torch.autocast("cpu", torch.bfloat16):
        for found, expected in zip(called(module, dict(module.named_parameters()), x, LENGTHS[0]), alone, strict=True):
            assert torch.equal(found, expected)


def test_the_parameters_have_torchs_names() -> None:
    assert set(GRU(2, 3).state_dict()) == set(nn.GRU(2, 3).state_dict())
    assert set(LSTM(2, 3, bidirectional=True, layers=2).state_dict()) == {
        f"lstm.{name}" for name in nn.LSTM(2, 3, 2, bidirectional=True).state_dict()
    }
