"""Several models of one architecture as one: their parameters side by side, a leading dimension of seeds.

Axes: S seeds, B utterances of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap

from fuse.arch import Batch, Output
from fuse.model import Model
from fuse.training.draws import Counting, Drawn, Noise

Call = Callable[[Callable[[Batch], Output], Batch], Tensor]
"""What is made of a model and a batch."""


class Together:
    """S models whose parameters are views of common tensors (S, ...), so that each is still a model by itself.

    One model is left as it is.

    Args:
        models: of the same settings, on one device.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = list(models)
        self.common: dict[str, Tensor] = {}
        self._buffers = dict(self.models[0].named_buffers())
        if len(self.models) == 1:
            return
        for name, first in self.models[0].named_parameters():
            own = [model.get_parameter(name) for model in self.models]
            common = torch.stack([p.detach() for p in own]).requires_grad_(first.requires_grad)
            for p, part in zip(own, common.detach(), strict=True):
                p.data = part
            self.common[name] = common

    def each(self, call: Call, batch: Batch, noise: Noise | Counting, shared: bool) -> Float[Tensor, S * _]:
        """`call` of every model, with random numbers of its own.

        Args:
            call: what is computed of a model and a batch.
            batch: the same for all where `shared`, else S batches one after the other (S * B).
            noise: the random numbers; or what counts how many are needed.
            shared: which of the two.
        """
        counting = noise if isinstance(noise, Counting) else None
        numbers = Noise.none(len(self.models)) if isinstance(noise, Counting) else noise
        if len(self.models) == 1:
            with counting or Drawn(numbers.uniform[0], numbers.normal[0]):
                return call(self.models[0], batch)[None]

        def one(parameters: dict[str, Tensor], fields: dict[str, Any], uniform: Tensor, normal: Tensor) -> Tensor:
            def model(batch: Batch) -> Output:
                found: Output = functional_call(self.models[0], (parameters, self._buffers), (batch,))
                return found

            with counting or Drawn(uniform, normal):
                return call(model, Batch(ids=(), **fields))

        fields = {name: value for name, value in vars(batch).items() if name != "ids"}
        if not shared:
            fields = {name: self._split(value) for name, value in fields.items()}
        found: Tensor = vmap(one, in_dims=(0, None if shared else 0, 0, 0))(
            self.common, fields, numbers.uniform, numbers.normal
        )
        return found

    def backward(self, losses: Float[Tensor, " S"]) -> None:
        """Leave each model's parameters with the gradient of its own loss."""
        self.forget_gradients()
        torch.autograd.backward(losses.sum())
        for name, common in self.common.items():
            parts = [None] * len(self.models) if common.grad is None else common.grad.unbind(0)
            for model, part in zip(self.models, parts, strict=True):
                model.get_parameter(name).grad = part

    def forget_gradients(self) -> None:
        """No parameter has a gradient any more."""
        for model in self.models:
            model.zero_grad()
        for common in self.common.values():
            common.grad = None

    def release(self) -> None:
        """Every model has parameters of its own again."""
        for model in self.models if self.common else ():
            for p in model.parameters():
                p.data, p.grad = p.data.clone(), None
        self.common = {}

    def _split(self, value: Any) -> Any:
        """Tensors (S * B, ...) as (S, B, ...)."""
        if isinstance(value, Mapping):
            return {name: self._split(each) for name, each in value.items()}
        return None if value is None else value.unflatten(0, (len(self.models), -1))
