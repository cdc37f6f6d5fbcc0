"""One model's steps of training, one after the other, each with the shapes and the random numbers that come up.

What the loop (`loop.py`) asks of it and of `fuse.training.program.Program` is the same: see `fuse.training.loop.Steps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cache_schema.errors import MerError
from fuse.arch import Batch
from fuse.data import Dataset
from fuse.model import Model
from fuse.precision import computing, widened
from fuse.prediction import DivergedError, Seen, culprit, predict
from fuse.training.config import TrainConfig
from fuse.training.losses import Loss
from fuse.training.optimize import Optimization
from fuse.training.timing import NoTiming


class PlainSteps:
    """A model's training on batches padded to their own longest.

    Args:
        model: on the device of the data.
        train: what it learns from.
        val: what it is watched on.
        config: the settings.
        seed: shuffles the batches.
        timing: measures where the time goes.
    """

    per_epoch = None
    execution: Mapping[str, str] = {"seeds": "apart", "step": "eager", "batches": "padded to their longest"}

    def __init__(
        self, model: Model, train: Dataset, val: Dataset, config: TrainConfig, seed: int, timing: NoTiming | None = None
    ) -> None:
        self.models, self.config, self.seed, self.timing = [model], config, seed, timing or NoTiming()
        self.shuffle = torch.Generator().manual_seed(seed)
        if config.shuffle_labels:
            train, val = permuted(train, self.shuffle), permuted(val, self.shuffle)
        self.train, self.val, self.criterion = train, val, Loss(config, train)
        self.step = 0
        self.where = ""

    def begin(self, number: int, stage: str | None, optimizations: Sequence[Optimization]) -> None:
        """A stage begins."""
        (self.optimization,) = optimizations
        self.stage, self.step = stage, 0

    def epoch(self, epoch: int, live: Sequence[bool]) -> list[float]:
        """Every utterance once; the mean loss over the steps.

        Raises:
            DivergedError: a loss or a gradient is not finite; says at which step, in which utterances and where.
        """
        (model,), config, timing = self.models, self.config, self.timing
        model.train()
        losses = []
        for batch in timing.over("batch", self.train.batches(config.batch_size, model.network.unit, self.shuffle)):
            self.step += 1
            if config.modality_dropout:
                batch = hide_modalities(batch, config.modality_dropout)
            with timing.part("forward"):
                with computing(config.precision, batch.available.device):
                    output = model(batch)
                loss = loss_of(output, batch, self.criterion)
            with timing.part("backward"):
                self.optimization.zero_grad()
                torch.autograd.backward(loss)
            self.where = place(self.seed, self.stage, epoch, self.step)
            with timing.part("optimiser"):
                clip(model, self.optimization.parameters, config.clip, loss, self.where, batch)
                self.optimization.step()
                losses.append(loss.item())
        return [float(np.mean(losses))]

    def look(self, live: Sequence[bool]) -> list[Seen | None]:
        """What is seen on validation."""
        context = f"Training diverged at {self.where}: "
        with self.timing.part("evaluation"):
            found = predict(self.models[0], self.val, self.config.batch_size, self.criterion, context)
            return [Seen(found.loss, found.measure(self.val.target))]

    def release(self) -> None:
        """The model has its parameters."""

    def state_dict(self) -> dict[str, Any]:
        """The state of everything that is drawn from, and how many steps were taken."""
        states = {"step": self.step, "shuffle": self.shuffle.get_state(), "torch": torch.get_rng_state()}
        device = self.train.dialogues.device
        return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Draw on as after `state_dict`."""
        self.step = states["step"]
        self.shuffle.set_state(states["shuffle"])
        torch.set_rng_state(states["torch"])
        device = self.train.dialogues.device
        if device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)


def loss_of(output: Any, batch: Batch, criterion: Loss) -> Tensor:
    """Everything that a step makes smaller, a scalar."""
    others = [widened(loss) for loss in output.losses.values()]
    return torch.stack([criterion(widened(output.logits), batch.target), *others]).sum()


def place(seed: int, stage: str | None, epoch: int, step: int) -> str:
    """Where training is, in words."""
    return f"seed {seed}, {f'{stage}, ' if stage else ''}epoch {epoch}, step {step}"


def hide_modalities(batch: Batch, share: float) -> Batch:
    """The batch with each modality of an utterance hidden with probability `share`, one at least left where any was."""
    drawn = torch.rand(batch.available.shape).to(batch.available.device)
    greatest = drawn.masked_fill(~batch.available, -1.0).argmax(dim=1, keepdim=True)
    columns = torch.arange(batch.available.shape[1], device=batch.available.device)
    return batch.replace(available=batch.available & ((drawn >= share) | (columns == greatest)))


def permuted(data: Dataset, generator: torch.Generator) -> Dataset:
    """The same utterances with each other's labels."""
    if data.labels is None:
        raise MerError("Without labels there is nothing to shuffle.")
    order = torch.randperm(len(data), generator=generator).to(data.labels.device)
    return replace(data, labels=data.labels[order])


def clip(
    model: nn.Module, trained: list[nn.Parameter], most: float | None, loss: Tensor, where: str, batch: Batch
) -> None:
    """Scale the whole gradient of what is trained down to norm `most`, and refuse what is not finite."""
    norm = gradient_norm(trained, most)
    if not torch.isfinite(loss) or not torch.isfinite(norm):
        raise diverged(where, loss.item(), culprit(model), batch.ids)


def gradient_norm(trained: list[nn.Parameter], most: float | None) -> Tensor:
    """The norm of the whole gradient, which is scaled down to `most` where it is greater."""
    seen: set[int] = set()
    for p in trained:
        # Of a sum of two parameters both get one tensor as their gradient, which must not be scaled twice.
        if p.grad is not None and p.grad.data_ptr() in seen:
            p.grad = p.grad.clone()
        elif p.grad is not None:
            seen.add(p.grad.data_ptr())
    return torch.nn.utils.clip_grad_norm_(trained, float("inf") if most is None else most)


def diverged(where: str, loss: float, why: str, ids: Sequence[str]) -> DivergedError:
    """What is said of a step whose loss or gradient is not finite."""
    shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return DivergedError(
        f"Training diverged at {where}: the loss is {loss:g}; {why}; the batch was {shown}. "
        "Nothing was saved. Try a lower lr, or look at these utterances' features."
    )
