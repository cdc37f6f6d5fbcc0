"""Optimizers and schedules: one for the whole model, and one for every block that has settings of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cache_schema.errors import SettingsError
from cache_schema.registry import unknown_name
from fuse import metrics
from fuse.data import Dataset
from fuse.training.active_experts import ActiveAdam, mixtures
from fuse.training.config import Group, TrainConfig

PER_STEP = ("onecycle", "cosine")
BETA2, EPSILON = 0.999, 1e-8
"""torch's defaults."""


@dataclass(frozen=True)
class Block:
    """Parameters that share an optimizer.

    Attributes:
        optimizer: over them.
        scheduler: of its learning rate; None: constant.
        per_step: whether the rate changes with every step, or with the epoch's result on validation.
        clock: where the rate is read from a tensor: the schedule that fills it.
    """

    optimizer: torch.optim.Optimizer
    scheduler: Any
    per_step: bool
    clock: Clock | None = None

    @property
    def lr(self) -> float:
        """The learning rate, for onecycle and cosine that of the next step."""
        return self.now[0]

    @property
    def now(self) -> tuple[float, float]:
        """The learning rate and beta_1 of the next step."""
        group = (self.optimizer if self.clock is None else self.clock.optimizer).param_groups[0]
        return float(group["lr"]), float(group["betas"][0])


class Optimization:
    """Everything that moves a model's parameters, saved and restored together.

    Args:
        network: the architecture's module, in which `config.groups` and `stage` name submodules; a group may name
            one that its settings switched off (None).
        config: settings of training.
        steps: steps that `max_epochs` take at most.
        stage: train this submodule alone.
        per_epoch: steps of an epoch, where the rates are read from tensors beside the parameters, so that a step never
            asks the host; None: they are numbers.

    Raises:
        SettingsError: a group is no block of the network, or lies in another; `active_experts` without experts.
    """

    def __init__(
        self,
        network: nn.Module,
        config: TrainConfig,
        steps: int,
        stage: str | None = None,
        per_epoch: int | None = None,
    ) -> None:
        blocks = list(dict.fromkeys(n.rpartition(".")[0] for n, _ in network.named_parameters()))
        for name in config.groups:
            switched_off = getattr(network, name.partition(".")[0], name) is None
            if not switched_off and not any(block == name or block.startswith(f"{name}.") for block in blocks):
                raise SettingsError("groups: " + unknown_name("block of this model", name, sorted(_heads(blocks))))
            if any(name.startswith(f"{other}.") for other in config.groups):
                raise SettingsError(f"groups: {name} lies in another group; each parameter has one.")
        self.parameters: list[nn.Parameter] = []
        experts = mixtures(network) if config.active_experts else {}
        members: dict[tuple[str, str], list[nn.Parameter]] = {}
        for path, parameter in network.named_parameters():
            if stage is None or path.startswith(f"{stage}."):
                self.parameters.append(parameter)
                group = next((g for g in config.groups if path.startswith(f"{g}.")), "")
                members.setdefault((group, experts.get(path, "")), []).append(parameter)
        rest = Group()
        self.blocks = [
            make_block(parameters, config, config.groups.get(group, rest), steps, per_epoch, bool(mixture))
            for (group, mixture), parameters in members.items()
        ]

    @property
    def lr(self) -> float:
        """Learning rate of the first block."""
        return self.blocks[0].lr

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for block in self.blocks:
            block.optimizer.zero_grad()

    def step(self) -> None:
        """Move every block, and its rate where that changes with every step."""
        for block in self.blocks:
            block.optimizer.step()
            if block.per_step and block.clock is None:
                block.scheduler.step()

    def epoch_begins(self) -> None:
        """Write down the rates of the epoch's steps, where they are read from tensors."""
        for block in self.blocks:
            if block.clock is not None:
                block.clock.write(block)

    def step_at(self, count: Tensor) -> None:
        """As `step`, with the rates of the epoch's step number `count` (1,), from 0."""
        for block in self.blocks:
            if block.clock is not None:
                block.clock.read(count)
        self.step()

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
                "clock": None if block.clock is None else block.clock.optimizer.state_dict(),
                "scheduler": None if block.scheduler is None else block.scheduler.state_dict(),
            }
            for block in self.blocks
        ]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on where `state_dict` was asked."""
        for block, state in zip(self.blocks, states, strict=True):
            block.optimizer.load_state_dict(state["optimizer"])
            if block.clock is not None:
                block.clock.optimizer.load_state_dict(state["clock"])
                block.clock.attach(block.optimizer)
            if block.scheduler is not None:
                block.scheduler.load_state_dict(state["scheduler"])


class Clock:
    """Learning rate and beta_1 as tensors, filled from a schedule that runs on the host an epoch ahead.

    Args:
        optimizer: over one number that never moves; the schedule's own.
        steps: of an epoch.
        device: where the tensors are.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, device: torch.device) -> None:
        self.optimizer, self.steps = optimizer, steps
        self._table = torch.zeros(steps, 2, device=device)
        self._now = torch.zeros(1, 2, device=device)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer read from here."""
        (group,) = optimizer.param_groups
        group["lr"] = self._now[0, 0]
        if "beta1" in group:
            group["beta1"] = self._now[0, 1]

    def write(self, block: Block) -> None:
        """The values of an epoch's steps."""
        rows = []
        for _ in range(self.steps):
            rows.append(block.now)
            if block.per_step:
                self.optimizer.step()  # there is nothing to move: schedulers want to see it called
                block.scheduler.step()
        self._table.copy_(torch.tensor(rows))

    def read(self, count: Tensor) -> None:
        """Those of one step become the present ones."""
        self._now.copy_(self._table.index_select(0, count))


class AdamOnDevice(torch.optim.Optimizer):
    """AdamW, or Adam, whose learning rate and beta_1 are tensors: for a schedule that moves beta_1 too, as onecycle.

    torch's own forms read beta_1 on the host. The mathematics is Kingma & Ba 2015, algorithm 1, with decoupled weight
    decay as in Loshchilov & Hutter 2019, algorithm 2; epsilon and beta_2 are torch's defaults.

    Args:
        parameters: what it moves.
        weight_decay: of all of them.
        decoupled: AdamW; else the decay is part of the gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float, decoupled: bool) -> None:
        nothing = torch.tensor(0.0)
        super().__init__(parameters, {"lr": nothing, "beta1": nothing, "weight_decay": weight_decay})
        self.decoupled = decoupled

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move what has a gradient."""
        (group,) = self.param_groups
        moved: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not moved:
            return
        for p in moved:
            if not self.state[p]:
                self.state[p] = {
                    "count": torch.zeros((), device=p.device),
                    "mean": torch.zeros_like(p),
                    "square": torch.zeros_like(p),
                }
        grads = [p.grad for p in moved if p.grad is not None]
        steps, means, squares = ([self.state[p][name] for p in moved] for name in ("count", "mean", "square"))
        lr, beta1, decay, beta2 = group["lr"], group["beta1"], group["weight_decay"], BETA2
        if decay and self.decoupled:
            torch._foreach_mul_(moved, 1 - lr * decay)
        elif decay:
            grads = list(torch._foreach_add(grads, moved, alpha=decay))
        torch._foreach_mul_(means, beta1)
        torch._foreach_add_(means, torch._foreach_mul(grads, 1 - beta1))
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        torch._foreach_add_(steps, 1)
        count = steps[0].double()  # all of a block move together; 1 - beta_2^count needs the digits
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1 - beta2**count).sqrt().float())
        torch._foreach_add_(roots, EPSILON)
        moves = torch._foreach_div(means, roots)
        torch._foreach_mul_(moves, (lr / (1 - beta1**count)).float())
        torch._foreach_sub_(moved, list(moves))


def make_block(
    parameters: Iterable[nn.Parameter],
    config: TrainConfig,
    group: Group,
    steps: int,
    per_epoch: int | None = None,
    experts: bool = False,
) -> Block:
    """AdamW or Adam over some parameters, with the schedule of their group; of `experts` over the active ones."""
    kind: Any = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    lr = config.lr if group.lr is None else group.lr
    decay = config.weight_decay if group.weight_decay is None else group.weight_decay
    schedule = group.scheduler or config.scheduler
    own, decoupled = list(parameters), config.optimizer == "adamw"
    optimizer: torch.optim.Optimizer
    clock = None
    if per_epoch is None and experts:
        optimizer = timed = ActiveAdam(own, lr, decay, decoupled)
    elif per_epoch is None:
        optimizer = timed = kind(own, lr=lr, weight_decay=decay, fused=True)
    else:
        device = own[0].device
        timed = kind([nn.Parameter(torch.zeros(()))], lr=lr, weight_decay=decay)
        clock = Clock(timed, per_epoch, device)
        if experts:
            optimizer = ActiveAdam(own, lr, decay, decoupled)
        elif schedule == "onecycle":
            optimizer = AdamOnDevice(own, decay, decoupled)
        else:
            rate, captured = torch.tensor(lr, device=device), device.type == "cuda"
            optimizer = kind(own, lr=rate, weight_decay=decay, fused=True, capturable=captured)
        clock.attach(optimizer)
    schedulers = torch.optim.lr_scheduler
    scheduler: Any = None
    if schedule == "plateau":
        mode = "min" if config.monitor in metrics.LOWER_IS_BETTER else "max"
        scheduler = schedulers.ReduceLROnPlateau(
            timed, "min" if mode == "min" else "max", config.plateau_factor, config.plateau_patience
        )
    elif schedule == "onecycle":
        scheduler = schedulers.OneCycleLR(timed, max_lr=lr, total_steps=steps + 1, pct_start=config.warmup)
    elif schedule == "cosine":
        scheduler = schedulers.CosineAnnealingLR(timed, T_max=steps)
    return Block(optimizer, scheduler, schedule in PER_STEP, clock)


def most_steps(data: Dataset, config: TrainConfig) -> int:
    """Steps of `max_epochs`: each batch has `batch_size` utterances or, of whole dialogues, more."""
    return config.max_epochs * data.most_batches(config.batch_size)


def _heads(blocks: Iterable[str]) -> set[str]:
    return {block.partition(".")[0] for block in blocks if block}
