"""The optimizer of experts that leaves those alone that no input was sent to (`TrainConfig.active_experts`).

What that means, and how it differs from Adam over all of them, is said in `fuse.kernels.active_adamw`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cache_schema.errors import SettingsError
from fuse.kernels.active_adamw import active_adamw
from fuse.nn.experts import MixtureOfExperts

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""torch's defaults for Adam."""


def mixtures(network: nn.Module) -> dict[str, str]:
    """The path of each parameter of an expert, and that of its mixture.

    Raises:
        SettingsError: there is no mixture of experts.
    """
    found = {
        f"{path}.{name}": path
        for path, module in network.named_modules()
        if isinstance(module, MixtureOfExperts)
        for name, _ in module.named_parameters(recurse=False)
    }
    if not found:
        raise SettingsError("active_experts: this model has no mixture of experts. Leave the setting out.")
    return found


class ActiveAdam(torch.optim.Optimizer):
    """AdamW, or Adam, over the experts of one mixture that are active in a step.

    Args:
        parameters: the mixture's, in its order, each with a leading dimension of experts.
        lr: learning rate; a schedule may set the group's `lr`, and its `betas` or, as tensors, `lr` and `beta1`.
        weight_decay: of active experts.
        decoupled: AdamW; else the decay is part of the gradient.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float, decoupled: bool) -> None:
        defaults = {"lr": lr, "betas": (BETA1, BETA2), "beta1": None, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)
        self.decoupled = decoupled

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the active experts; nobody where there are no gradients."""
        (group,) = self.param_groups
        own: list[Tensor] = group["params"]
        grads = [p.grad for p in own if p.grad is not None]
        if len(grads) < len(own):
            return
        if not self.state[own[0]]:
            for p in own:
                self.state[p] = {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
            # Not "step": what is called so stays on the CPU where a state is loaded from there.
            self.state[own[0]]["count"] = torch.zeros(len(own[0]), device=own[0].device)
        means, squares = ([self.state[p][name] for p in own] for name in ("mean", "square"))
        beta1 = group["betas"][0] if group["beta1"] is None else group["beta1"]
        lr, beta1 = (self._on_device(x, own[0]) for x in (group["lr"], beta1))
        count = self.state[own[0]]["count"]
        active_adamw(
            own, grads, means, squares, count, lr, beta1, BETA2, EPSILON, group["weight_decay"], self.decoupled
        )

    def _on_device(self, x: Any, p: Tensor) -> Tensor:
        return x if isinstance(x, Tensor) else torch.full((), x, device=p.device)
