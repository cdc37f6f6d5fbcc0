"""The training loop, the only one; and prediction.

Selection looks at validation alone: `fit` is not given the test split.

Axes: N utterances of a split, B utterances of a batch, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cache_schema.errors import MerError
from cache_schema.samples import Target
from fuse import metrics
from fuse.arch import Batch, probabilities
from fuse.checkpoint import Checkpoint
from fuse.data import Dataset
from fuse.losses import Loss, check
from fuse.model import Model
from fuse.optimize import Optimization, most_steps
from fuse.timing import NoTiming
from fuse.train_config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator


class DivergedError(MerError):
    """Training met a loss or a gradient that is not finite."""


@dataclass(frozen=True)
class Epoch:
    """One row of a seed's history.

    Attributes:
        seed: whose.
        epoch: from 1.
        max_epochs: where training ends in any case, counted over all stages.
        lr: learning rate with which the epoch begins, that of the first group.
        train_loss: mean over the epoch's steps, with dropout.
        val_loss: after the epoch.
        val: metric -> value on validation.
        best: whether it is the best so far; the last such one is kept.
        seconds: wall-clock time of the epoch.
        stage: which branch it trained, where branches are trained apart; epochs count anew in each.
        folds: how many trainings the seed has, one per fold.
    """

    seed: int
    epoch: int
    max_epochs: int
    lr: float
    train_loss: float
    val_loss: float
    val: dict[str, float]
    best: bool
    seconds: float
    stage: str = ""
    folds: int = 1


@dataclass(frozen=True)
class Predictions:
    """What a model says about a split, in its order.

    Attributes:
        ids: which utterances (N).
        loss: mean loss against the labels, nan without labels.
        truth: as `Dataset.labels`, or None.
        prediction: class index (N,), 0 or 1 per class (N, C), or a number (N,).
        probabilities: (N, C); None for regression.
        drawn: the drawn quantities that are one number per utterance, each (N,).
    """

    ids: tuple[str, ...]
    loss: float
    truth: metrics.Array | None
    prediction: metrics.Array
    probabilities: metrics.Array | None
    drawn: dict[str, metrics.Array]

    def measure(self, target: Target) -> dict[str, float]:
        """The target's metrics."""
        if self.truth is None:
            raise MerError("Without labels there is nothing to measure.")
        return metrics.measure(target, self.truth, self.prediction)


@contextmanager
def reproducible(seed: int, threads: int | None) -> Iterator[None]:
    """Torch seeded, deterministic and with `threads` CPU threads (None: as they are); everything restored after.

    The number of threads decides how sums are split, and so the last bits of every result.
    """
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fills: Any = torch.utils.deterministic
    filled = fills.fill_uninitialized_memory
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # On CUDA some operations have no deterministic form: torch then says so and goes on.
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        fills.fill_uninitialized_memory = False  # else every new tensor is written twice
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(deterministic)
            fills.fill_uninitialized_memory = filled


def fit(
    model: Model,
    train: Dataset,
    val: Dataset,
    config: TrainConfig,
    seed: int,
    progress: Callable[[Epoch], None] | None = None,
    checkpoint: Checkpoint | None = None,
    timing: NoTiming | None = None,
) -> list[Epoch]:
    """Train `model`, leave it with the weights of its best epoch on `val`, and return the history.

    An architecture with `stages` is trained stage by stage, each to its own best epoch, and then fits its late fusion.

    Args:
        model: untrained; on the device of the data.
        train: what it learns from.
        val: what stops it, lowers its rate and chooses its epoch.
        config: the settings.
        seed: shuffles the batches.
        progress: called after each epoch, and at once with those of an interrupted training.
        checkpoint: where an interrupted training goes on, to the same result; written as it goes.
        timing: measures where the time goes (`fuse.timing.Timing`); None: nothing does.

    Raises:
        DivergedError: a loss or a gradient is not finite; says at which step, in which utterances and where.
        SettingsError: the settings do not fit the target.
    """
    check(config, train.target)
    timing = timing or NoTiming()
    shuffle = torch.Generator().manual_seed(seed)
    if config.shuffle_labels:
        train, val = permuted(train, shuffle), permuted(val, shuffle)
    network, criterion, history = model.network, Loss(config, train), list[Epoch]()
    saved = None if checkpoint is None else checkpoint.load()
    if saved is not None:
        history = [Epoch(**epoch) for epoch in saved["history"]]
        if progress is not None:
            for past in history:
                progress(past)

    stages: tuple[str | None, ...] = network.stages or (None,)
    for number, stage in enumerate(stages):
        if saved is not None and number < saved["stage"]:
            continue
        network.stage = stage
        optimization = Optimization(network, config, most_steps(len(train), config), stage)
        best, best_state, since, step, first = math.nan, deepcopy(model.state_dict()), 0, 0, 1
        if saved is not None:
            best, best_state, since, step = (saved[name] for name in ("best", "best_state", "since", "step"))
            first = saved["epoch"] + 1
            model.load_state_dict(saved["model"])
            optimization.load_state_dict(saved["optimization"])
            restore_generators(saved, shuffle, train.dialogues.device)
            saved = None
        for epoch in range(first, config.max_epochs + 1):
            if since >= config.patience:
                break
            begun, lr = time.perf_counter(), optimization.lr
            model.train()
            losses = []
            for batch in timing.over("batch", train.batches(config.batch_size, network.unit, shuffle)):
                step += 1
                if config.modality_dropout:
                    batch = hide_modalities(batch, config.modality_dropout)
                with timing.part("forward"):
                    output = model(batch)
                    loss = torch.stack([criterion(output.logits, batch.target), *output.losses.values()]).sum()
                with timing.part("backward"):
                    optimization.zero_grad()
                    torch.autograd.backward(loss)
                where = f"seed {seed}, {f'{stage}, ' if stage else ''}epoch {epoch}, step {step}"
                with timing.part("optimiser"):
                    clip(model, optimization.parameters, config.clip, loss, where, batch)
                    optimization.step()
                    losses.append(loss.item())
            with timing.part("evaluation"):
                seen = predict(model, val, config.batch_size, criterion, f"Training diverged at {where}: ")
                measured = seen.measure(val.target)
            watched = seen.loss if config.monitor == "loss" else measured[config.monitor]
            improved = not watched >= best if config.monitor in metrics.LOWER_IS_BETTER else not watched <= best
            since = 0 if improved else since + 1
            if improved:
                best, best_state = watched, deepcopy(model.state_dict())
            optimization.epoch_ends(watched)
            history.append(
                Epoch(
                    seed=seed,
                    epoch=epoch,
                    max_epochs=config.max_epochs * len(stages),
                    lr=lr,
                    train_loss=float(np.mean(losses)),
                    val_loss=seen.loss,
                    val=measured,
                    best=improved,
                    seconds=time.perf_counter() - begun,
                    stage=stage or "",
                )
            )
            if checkpoint is not None and checkpoint.due:
                checkpoint.save(
                    {
                        "stage": number,
                        "epoch": epoch,
                        "step": step,
                        "since": since,
                        "best": best,
                        "best_state": best_state,
                        "model": model.state_dict(),
                        "optimization": optimization.state_dict(),
                        "history": [asdict(e) for e in history],
                        **generators(shuffle, train.dialogues.device),
                    }
                )
            if progress is not None:
                progress(history[-1])
        model.load_state_dict(best_state)
    network.stage = None
    model.eval()
    with torch.no_grad():
        network.fit_late_fusion(model.clean(batch) for batch in val.batches(config.batch_size, network.unit))
    return history


def generators(shuffle: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """The state of everything that is drawn from in training."""
    states = {"shuffle": shuffle.get_state(), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_generators(states: Mapping[str, Any], shuffle: torch.Generator, device: torch.device) -> None:
    """Draw on as after `generators`."""
    shuffle.set_state(states["shuffle"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def hide_modalities(batch: Batch, share: float) -> Batch:
    """The batch with each modality of an utterance hidden with probability `share`, one at least left where any was."""
    drawn = torch.rand(batch.available.shape).to(batch.available.device)
    greatest = drawn.masked_fill(~batch.available, -1.0).argmax(dim=1, keepdim=True)
    last = torch.zeros_like(batch.available).scatter_(1, greatest, True)
    return batch.replace(available=batch.available & ((drawn >= share) | last))


@torch.no_grad()
def predict(
    model: Model, data: Dataset, batch_size: int, criterion: Loss | None = None, context: str = ""
) -> Predictions:
    """What `model` says about `data`, in its order; the batches are the same every time.

    Args:
        model: trained, or in training.
        data: which utterances.
        batch_size: how many at a time.
        criterion: what the loss is measured with; None: it is not.
        context: with what an error begins.

    Raises:
        DivergedError: the output or the loss is not finite; says for which utterance, and which parameter is not.
    """
    model.eval()
    kind = data.target.kind
    logits: list[Tensor] = []
    drawn: dict[str, list[Tensor]] = {}
    rows = data.batch_rows(batch_size, model.network.unit)
    for row in rows:
        output = model(data.batch(row, model.network.unit))
        logits.append(output.logits)
        for name, values in output.drawn.items():
            if values.ndim == 1:
                drawn.setdefault(name, []).append(values)
    back = torch.argsort(torch.cat(rows))
    ordered = torch.cat(logits)[back]
    bad = ~torch.isfinite(ordered).reshape(len(ordered), -1).all(dim=1)
    if bad.any():
        raise DivergedError(
            f"{context}the model's output for {data.ids[int(bad.nonzero()[0])]!r} is not finite; {_culprit(model)}. "
            "Try a lower lr, or look at this utterance's features."
        )
    loss = float("nan") if criterion is None or data.labels is None else criterion(ordered, data.labels).item()
    if criterion is not None and not math.isfinite(loss):
        raise DivergedError(f"{context}the loss on {len(data)} utterances is {loss:g}. Try a lower lr.")
    chances = None if kind == "regression" else probabilities(ordered, kind)
    if chances is None:
        prediction = ordered
    else:
        prediction = chances.argmax(dim=1) if kind == "classification" else (chances > 0.5).to(torch.int64)
    return Predictions(
        ids=data.ids,
        loss=loss,
        truth=None if data.labels is None else data.labels.cpu().numpy(),
        prediction=prediction.cpu().numpy(),
        probabilities=None if chances is None else chances.cpu().numpy(),
        drawn={name: torch.cat(parts)[back].cpu().numpy() for name, parts in drawn.items()},
    )


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
    norm = torch.nn.utils.clip_grad_norm_(trained, float("inf") if most is None else most)
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    shown = ", ".join(batch.ids[:8]) + (f" and {len(batch.ids) - 8} more" if len(batch.ids) > 8 else "")
    raise DivergedError(
        f"Training diverged at {where}: the loss is {loss.item():g}; {_culprit(model)}; the batch was {shown}. "
        "Nothing was saved. Try a lower lr, or look at these utterances' features."
    )


def _culprit(model: nn.Module) -> str:
    """The first parameter that is not finite, or whose gradient is not."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the first parameter that is not finite is {name}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"all parameters are finite, the first gradient that is not belongs to {name}"
    return "all parameters are finite"
