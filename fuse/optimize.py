"""Optimizers and schedules: one for the whole model, and one for every block that has settings of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cache_schema.errors import SettingsError
from cache_schema.registry import unknown_name
from fuse import metrics
from fuse.train_config import Group, TrainConfig

PER_STEP = ("onecycle", "cosine")


@dataclass(frozen=True)
class Block:
    """Parameters that share an optimizer.

    Attributes:
        optimizer: over them.
        scheduler: of its learning rate; None: constant.
        per_step: whether the rate changes with every step, or with the epoch's result on validation.
    """

    optimizer: torch.optim.Optimizer
    scheduler: Any
    per_step: bool


class Optimization:
    """Everything that moves a model's parameters, saved and restored together.

    Args:
        network: the architecture's module, in which `config.groups` and `stage` name submodules; a group may name
            one that its settings switched off (None).
        config: settings of training.
        steps: steps that `max_epochs` take at most.
        stage: train this submodule alone.

    Raises:
        SettingsError: a group is no block of the network, or lies in another.
    """

    def __init__(self, network: nn.Module, config: TrainConfig, steps: int, stage: str | None = None) -> None:
        blocks = list(dict.fromkeys(n.rpartition(".")[0] for n, _ in network.named_parameters()))
        for name in config.groups:
            switched_off = getattr(network, name.partition(".")[0], name) is None
            if not switched_off and not any(block == name or block.startswith(f"{name}.") for block in blocks):
                raise SettingsError("groups: " + unknown_name("block of this model", name, sorted(_heads(blocks))))
            if any(name.startswith(f"{other}.") for other in config.groups):
                raise SettingsError(f"groups: {name} lies in another group; each parameter has one.")
        self.parameters: list[nn.Parameter] = []
        members: dict[str, list[nn.Parameter]] = {}
        for path, parameter in network.named_parameters():
            if stage is None or path.startswith(f"{stage}."):
                self.parameters.append(parameter)
                members.setdefault(next((g for g in config.groups if path.startswith(f"{g}.")), ""), []).append(
                    parameter
                )
        rest = Group()
        self.blocks = [
            make_block(parameters, config, config.groups.get(name, rest), steps) for name, parameters in members.items()
        ]

    @property
    def lr(self) -> float:
        """Learning rate of the first block."""
        return float(self.blocks[0].optimizer.param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for block in self.blocks:
            block.optimizer.zero_grad()

    def step(self) -> None:
        """Move every block, and its rate where that changes with every step."""
        for block in self.blocks:
            block.optimizer.step()
            if block.per_step:
                block.scheduler.step()

    def epoch_ends(self, watched: float) -> None:
        """Lower the rates that react to what is watched on validation."""
        for block in self.blocks:
            if block.scheduler is not None and not block.per_step:
                block.scheduler.step(watched)

    def state_dict(self) -> list[dict[str, Any]]:
        """What `load_state_dict` takes."""
        return [
            {
                "optimizer": block.optimizer.state_dict(),
                "scheduler": None if block.scheduler is None else block.scheduler.state_dict(),
            }
            for block in self.blocks
        ]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on where `state_dict` was asked."""
        for block, state in zip(self.blocks, states, strict=True):
            block.optimizer.load_state_dict(state["optimizer"])
            if block.scheduler is not None:
                block.scheduler.load_state_dict(state["scheduler"])


def make_block(parameters: Iterable[nn.Parameter], config: TrainConfig, group: Group, steps: int) -> Block:
    """AdamW or Adam over some parameters, with the schedule of their group."""
    kind: Any = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    lr = config.lr if group.lr is None else group.lr
    decay = config.weight_decay if group.weight_decay is None else group.weight_decay
    optimizer: torch.optim.Optimizer = kind(parameters, lr=lr, weight_decay=decay, fused=True)
    schedule = group.scheduler or config.scheduler
    schedulers = torch.optim.lr_scheduler
    scheduler: Any = None
    if schedule == "plateau":
        mode = "min" if config.monitor in metrics.LOWER_IS_BETTER else "max"
        scheduler = schedulers.ReduceLROnPlateau(
            optimizer, "min" if mode == "min" else "max", config.plateau_factor, config.plateau_patience
        )
    elif schedule == "onecycle":
        scheduler = schedulers.OneCycleLR(optimizer, max_lr=lr, total_steps=steps + 1, pct_start=config.warmup)
    elif schedule == "cosine":
        scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=steps)
    return Block(optimizer, scheduler, schedule in PER_STEP)


def most_steps(utterances: int, config: TrainConfig) -> int:
    """Steps of `max_epochs`: each batch has `batch_size` utterances or, of whole dialogues, more."""
    return config.max_epochs * math.ceil(utterances / config.batch_size)


def _heads(blocks: Iterable[str]) -> set[str]:
    return {block.partition(".")[0] for block in blocks if block}
