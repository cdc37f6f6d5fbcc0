"""The random numbers of a step of training, drawn before it: one stretch per seed, handed out as layers ask for them.

A step that is a CUDA graph, or that trains several seeds at once, cannot draw inside its layers: a seed's numbers must
be those that it has alone, whatever is trained beside it. So dropout, `torch.rand` and its like are met on their way
(`Drawn`) and given the next part of what was drawn for the step. How many numbers a step asks for depends on its shapes
alone: `Counting` finds out.

Axes: S seeds, U uniform numbers, V normal ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cache_schema.errors import MerError


class NotDrawnBeforeError(MerError):
    """A layer draws in a way that cannot be drawn for."""


@dataclass(frozen=True)
class Noise:
    """The random numbers of a step, of each seed.

    Attributes:
        uniform: in [0, 1) (S, U).
        normal: standard normal (S, V).
    """

    uniform: Float[Tensor, "S U"]
    normal: Float[Tensor, "S V"]

    @classmethod
    def none(cls, seeds: int) -> Noise:
        """No numbers."""
        return cls(torch.empty(seeds, 0), torch.empty(seeds, 0))

    @classmethod
    def draw(cls, uniforms: int, normals: int, generators: Sequence[torch.Generator]) -> Noise:
        """Each seed's from its own generator, whatever the other seeds are."""
        device = generators[0].device
        noise = cls(
            torch.empty(len(generators), uniforms, device=device), torch.empty(len(generators), normals, device=device)
        )
        for uniform, normal, generator in zip(noise.uniform, noise.normal, generators, strict=True):
            if uniforms:
                uniform.uniform_(generator=generator)
            if normals:
                normal.normal_(generator=generator)
        return noise


class Drawn(TorchFunctionMode):
    """Dropout, `rand`, `rand_like`, `randn` and `randn_like` take their numbers from what is given.

    Args:
        uniform: numbers in [0, 1), as many as are asked for.
        normal: standard normal numbers, as many as are asked for.
    """

    def __init__(self, uniform: Float[Tensor, " U"], normal: Float[Tensor, " V"]) -> None:
        super().__init__()
        self.uniform, self.normal = uniform, normal
        self.uniforms = self.normals = 0

    def take_uniform(self, shape: Iterable[int], device: torch.device | None = None) -> Tensor:
        """The next uniform numbers."""
        size = tuple(shape)
        begin, self.uniforms = self.uniforms, self.uniforms + math.prod(size)
        return self.uniform[begin : self.uniforms].view(size)

    def take_normal(self, shape: Iterable[int], device: torch.device | None = None) -> Tensor:
        """The next normal numbers."""
        size = tuple(shape)
        begin, self.normals = self.normals, self.normals + math.prod(size)
        return self.normal[begin : self.normals].view(size)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is F.dropout:
            return self._dropout(*args, **given)
        if func in (torch.rand_like, torch.randn_like):
            take = self.take_uniform if func is torch.rand_like else self.take_normal
            return take(args[0].shape, args[0].device)
        if func in (torch.rand, torch.randn):
            size = args[0] if args and not isinstance(args[0], int) else args
            take = self.take_uniform if func is torch.rand else self.take_normal
            return take(size or given["size"], given.get("device"))
        drops = (func in RECURRENT and _drops(func, args)) or (
            func in ATTENTION and _attention_drops(func, args, given)
        )
        if func in REFUSED or drops:
            raise NotDrawnBeforeError(f"{getattr(func, '__name__', func)} draws inside of it.")
        return func(*args, **given)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0:
            return x
        return x * ((self.take_uniform(x.shape, x.device) >= p).to(x.dtype) / (1 - p))


class Counting(Drawn):
    """Gives constants, and counts: `uniforms` and `normals` say how many numbers were asked for."""

    def __init__(self) -> None:
        nothing = torch.empty(0)
        super().__init__(nothing, nothing)

    def take_uniform(self, shape: Iterable[int], device: torch.device | None = None) -> Tensor:
        """A half each."""
        size = tuple(shape)
        self.uniforms += math.prod(size)
        return torch.full(size, 0.5, device=device)

    def take_normal(self, shape: Iterable[int], device: torch.device | None = None) -> Tensor:
        """Nothing but zeros."""
        size = tuple(shape)
        self.normals += math.prod(size)
        return torch.zeros(size, device=device)


REFUSED = (
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    F.rrelu,
    F.gumbel_softmax,
    torch.bernoulli,
    torch.multinomial,
    torch.normal,
    torch.randint,
    torch.randint_like,
    torch.randperm,
    torch.poisson,
    torch.dropout,
    *(getattr(Tensor, name) for name in ("bernoulli", "bernoulli_", "multinomial", "normal_", "uniform_", "random_")),
    *(getattr(Tensor, name) for name in ("exponential_", "geometric_", "cauchy_", "log_normal_")),
)
RECURRENT = (torch.lstm, torch.gru)
ATTENTION = {F.scaled_dot_product_attention: 4, F.multi_head_attention_forward: 10}
"""Function -> place of its `dropout_p`."""


def _drops(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a recurrent layer of torch drops something between its layers."""
    numbers = [a for a in args if isinstance(a, bool | float | int) and not isinstance(a, bool)]
    flags = [a for a in args if isinstance(a, bool)]
    return bool(numbers and numbers[-1] and flags[1:2] == [True])


def _attention_drops(func: Callable[..., Any], args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """Whether torch's attention drops some of its weights."""
    place = ATTENTION[func]
    share = args[place] if len(args) > place else given.get("dropout_p", 0.0)
    return bool(share) and bool(given.get("training", True))
