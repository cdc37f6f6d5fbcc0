"""The seeds' own scan against torch's modules, one seed at a time, and what both promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from fuse.nn.recurrent import GRU, LSTM, scans

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


def test_the_parameters_have_torchs_names() -> None:
    assert set(GRU(2, 3).state_dict()) == set(nn.GRU(2, 3).state_dict())
    assert set(LSTM(2, 3, bidirectional=True, layers=2).state_dict()) == {
        f"lstm.{name}" for name in nn.LSTM(2, 3, 2, bidirectional=True).state_dict()
    }
