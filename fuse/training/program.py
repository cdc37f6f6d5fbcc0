"""The steps of one or several seeds as one program: fixed shapes, numbers drawn before the step, nothing read back.

A step gathers its batch, runs forward and backward, clips, moves the parameters and writes its loss down, all on the
device and by the number of the step, which lies there too. So it is the same work at every step of a bucket: on a GPU
one CUDA graph, replayed; the host waits once an epoch for its losses, and once for what validation says.

Several seeds are a leading dimension of it (`together.py`). Each seed has batches, random numbers, clipping, learning
rate and early stopping of its own, all functions of the seed and the epoch, and so the results that it has alone, to
rounding.

Axes: S seeds, K steps of an epoch, B utterances of a batch, N utterances of a split, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cache_schema.errors import SettingsError
from fuse import metrics
from fuse.arch import Batch, Output
from fuse.data import Dataset
from fuse.model import Model
from fuse.precision import computing
from fuse.prediction import Seen, decided, finite_loss, require_finite
from fuse.training.buckets import Buckets, Plan, Shape, number_of
from fuse.training.config import TrainConfig
from fuse.training.draws import Counting, Noise
from fuse.training.graph import Graphs
from fuse.training.losses import Loss
from fuse.training.optimize import Optimization
from fuse.training.steps import diverged, gradient_norm, hide_modalities, loss_of, place
from fuse.training.timing import NoTiming
from fuse.training.together import Together
from fuse.windows import Windowed


class Program:
    """S models' training as one program.

    Args:
        models: one per seed, of the same settings, on the device of the data. Their parameters are moved into common
            tensors, until `release`.
        train: what they learn from.
        val: what they are watched on.
        config: the settings.
        seeds: of the models (S).
        say: called with a line where a step cannot be a graph.
        timing: measures where the time goes.

    Raises:
        SettingsError: this cannot be one program; says why.
    """

    def __init__(
        self,
        models: Sequence[Model],
        train: Dataset,
        val: Dataset,
        config: TrainConfig,
        seeds: Sequence[int],
        say: Callable[[str], None],
        timing: NoTiming | None = None,
    ) -> None:
        if models[0].network.unit != "utterance":
            raise SettingsError("whole dialogues make batches of many shapes")
        if isinstance(train, Windowed) or isinstance(val, Windowed):
            raise SettingsError("the data are read in windows")
        if config.shuffle_labels:
            raise SettingsError("shuffle_labels gives every seed other labels")
        self.together = Together(models)
        self.train, self.val, self.config, self.seeds = train, val, config, tuple(seeds)
        self.criterion, self.timing = Loss(config, train), timing or NoTiming()
        self.stage: str | None = None
        self.number = 0
        device = train.dialogues.device
        self.generators = [torch.Generator(device) for _ in seeds]
        self.graphs = Graphs(device, self.generators, say)
        self.buckets, self.looked = Buckets(train, config.batch_size), Buckets(val, config.batch_size)
        self.look_plan = self.looked.in_order()
        self.rows = torch.zeros(len(seeds), self.buckets.steps * config.batch_size, dtype=torch.int64, device=device)
        self.look_rows = self.look_plan.rows.to(device)
        self.count = torch.zeros(1, dtype=torch.int64, device=device)
        self.log = torch.zeros(2, len(seeds), self.buckets.steps, device=device)
        kind = train.target.kind
        classes = () if kind == "regression" else (len(train.target.classes),)
        self.logits = torch.zeros(len(seeds), len(val), *classes, device=device)
        if val.labels is None:
            raise SettingsError("validation has no labels")
        self.truth = val.labels.cpu().numpy()
        self._needs: dict[tuple[bool, str | None, Shape], tuple[int, int]] = {}
        self._where = ""

    @property
    def models(self) -> Sequence[Model]:
        """The models (S)."""
        return self.together.models

    @property
    def per_epoch(self) -> int:
        """K."""
        return self.buckets.steps

    @property
    def execution(self) -> dict[str, str]:
        """How the steps were taken, in words."""
        return {
            "seeds": "together" if len(self.seeds) > 1 else "alone",
            "step": "graph" if self.graphs.captured else "eager",
            "batches": "padded to their bucket's longest",
        }

    def rehearse(self) -> None:
        """Take the greatest step as far as its gradients, and look at a batch of validation.

        What cannot be done raises here, before anything has been moved.
        """
        stages: Sequence[str | None] = self.models[0].network.stages or (None,)
        for stage in stages:
            for model in self.models:
                model.network.stage = stage
            self.stage = stage
            plan = self._begin_epoch(1)
            self._count_draws(True, plan)
            greatest = max(range(self.per_epoch), key=lambda step: (plan.shapes[step].bucket, plan.shapes[step].size))
            self.count.fill_(greatest)
            torch.autograd.backward(self._losses(plan.shapes[greatest]).sum())
            self.together.forget_gradients()
            self._count_draws(False, self.look_plan)
            with torch.no_grad():
                self._logits(self.look_plan.shapes[0])
        for model in self.models:
            model.network.stage = None

    def begin(self, number: int, stage: str | None, optimizations: Sequence[Optimization]) -> None:
        """A stage begins."""
        self.number, self.stage, self.optimizations = number, stage, list(optimizations)
        self.graphs.forget()

    def epoch(self, epoch: int, live: Sequence[bool]) -> list[float]:
        """Every utterance once for each seed; each one's mean loss over the steps.

        Raises:
            DivergedError: a loss or a gradient of a seed that is live is not finite; says at which step, in which
                utterances.
        """
        plan = self._begin_epoch(epoch)
        with self.timing.part("batch"):
            self._count_draws(True, plan)
        for optimization in self.optimizations:
            optimization.epoch_begins()
        with self.graphs.stream():
            for shape in plan.shapes:
                with self.timing.part("step"):
                    self.graphs.run(("step", shape), lambda shape=shape: self.step(shape))  # type: ignore[misc]
        losses, norms = self.log.tolist()
        for s, seed in enumerate(self.seeds):
            for k, (loss, norm) in enumerate(zip(losses[s], norms[s], strict=True)):
                if live[s] and not (math.isfinite(loss) and math.isfinite(norm)):
                    begin, number = k * self.config.batch_size, (epoch - 1) * self.per_epoch + k + 1
                    ids = [self.train.ids[row] for row in plan.rows[s, begin : begin + plan.shapes[k].size].tolist()]
                    why = f"the norm of the gradient is {norm:g}"
                    raise diverged(place(seed, self.stage, epoch, number), loss, why, ids)
        self._where = f"epoch {epoch}, step {epoch * self.per_epoch}"
        return [math.fsum(own) / len(own) for own in losses]

    def look(self, live: Sequence[bool]) -> list[Seen | None]:
        """What is seen on validation of those who are `live`.

        Raises:
            DivergedError: an output or the loss of one is not finite.
        """
        with self.timing.part("evaluation"):
            self._count_draws(False, self.look_plan)
            with self.graphs.stream(), torch.no_grad():
                for shape in self.look_plan.shapes:
                    self.graphs.run(("look", shape), lambda shape=shape: self._look(shape))  # type: ignore[misc]
            losses = torch.stack([self.criterion(own, self.val.labels) for own in self.logits])
            found = torch.cat([losses[:, None], self.logits.flatten(1)], dim=1).cpu()
            logits = found[:, 1:].view(self.logits.shape)
            return [self._seen(s, logits[s], float(found[s, 0])) if alive else None for s, alive in enumerate(live)]

    def step(self, shape: Shape) -> None:
        """One step: the same work whatever its number, which is read from the device."""
        losses = self._losses(shape)
        self.together.backward(losses)
        norms = torch.stack([gradient_norm(own.parameters, self.config.clip) for own in self.optimizations])
        for optimization in self.optimizations:
            optimization.step_at(self.count)
        self.log.index_copy_(2, self.count, torch.stack([losses.detach(), norms])[..., None])
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """Nothing: batches and draws are functions of seed, stage and epoch."""
        return {}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was asked."""

    def release(self) -> None:
        """Give every model parameters of its own again."""
        self.graphs.forget()
        self.together.release()

    def _begin_epoch(self, epoch: int) -> Plan:
        plan = self.buckets.epoch(self.seeds, self.number, epoch)
        self.rows.copy_(plan.rows)
        for generator, seed in zip(self.generators, self.seeds, strict=True):
            generator.manual_seed(number_of("draws", seed, self.number, epoch))
        return plan

    def _losses(self, shape: Shape, noise: Counting | None = None) -> Tensor:
        """The loss of each seed on its own batch (S)."""
        self.models[0].train()
        rows = self.rows.index_select(1, self._columns(shape))
        batch = self.train.batch(rows.flatten(), frames=dict(shape.frames))

        def loss(model: Callable[[Batch], Output], batch: Batch) -> Tensor:
            if self.config.modality_dropout:
                batch = hide_modalities(batch, self.config.modality_dropout)
            with computing(self.config.precision, batch.available.device):
                output = model(batch)
            return loss_of(output, batch, self.criterion)

        return self.together.each(loss, batch, noise or self._noise(True, shape), shared=False)

    def _logits(self, shape: Shape, noise: Counting | None = None) -> Tensor:
        """The outputs of each seed for a batch of validation (S, B, *C)."""
        self.models[0].eval()
        rows = self.look_rows[0].index_select(0, self._columns(shape))
        batch = self.val.batch(rows, frames=dict(shape.frames))
        noise_or_count = noise or self._noise(False, shape)
        return self.together.each(lambda model, batch: model(batch).logits, batch, noise_or_count, shared=True)

    def _look(self, shape: Shape) -> None:
        """A batch of validation: its outputs are written down."""
        rows = self.look_rows[0].index_select(0, self._columns(shape))
        self.logits.index_copy_(1, rows, self._logits(shape))
        self.count += 1

    def _columns(self, shape: Shape) -> Tensor:
        """Where this step's utterances stand in the epoch's rows (B)."""
        return self.count * self.config.batch_size + torch.arange(shape.size, device=self.count.device)

    def _noise(self, training: bool, shape: Shape) -> Noise:
        return Noise.draw(*self._needs[training, self.stage, shape], self.generators)

    @torch.no_grad()
    def _count_draws(self, training: bool, plan: Plan) -> None:
        """Find out how many random numbers the steps of a plan need; `count` is 0 afterwards."""
        for step, shape in enumerate(plan.shapes):
            if (training, self.stage, shape) not in self._needs:
                counting = Counting()
                self.count.fill_(step)
                if training:
                    self._losses(shape, counting)
                else:
                    self._logits(shape, counting)
                self._needs[training, self.stage, shape] = (counting.uniforms, counting.normals)
        self.count.zero_()

    def _seen(self, s: int, logits: Tensor, loss: float) -> Seen:
        where = f"seed {self.seeds[s]}, {f'{self.stage}, ' if self.stage else ''}{self._where}"
        context = f"Training diverged at {where}: "
        require_finite(logits, self.models[s], self.val, context)
        prediction, _ = decided(logits, self.val.target.kind)
        measured = metrics.measure(self.val.target, self.truth, prediction.numpy())
        return Seen(finite_loss(loss, self.val, context), measured)
