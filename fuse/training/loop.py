"""The training loop, the only one: epochs, what is kept of them, and when a seed stops.

How the steps of an epoch are taken is `Steps`: one model's, as they come (`steps.py`), or those of one or several seeds
as one program of fixed shapes (`program.py`). Selection looks at validation alone: the loop is not given the test
split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from compute.float32 import exact_cudnn
from fuse import metrics
from fuse.data import Dataset
from fuse.model import Model
from fuse.prediction import Seen
from fuse.training.checkpoint import Checkpoint
from fuse.training.config import TrainConfig
from fuse.training.losses import check
from fuse.training.optimize import Optimization, most_steps
from fuse.training.steps import PlainSteps
from fuse.training.timing import NoTiming

if TYPE_CHECKING:
    from collections.abc import Iterator


class Steps(Protocol):
    """The steps of training of S models, and what they are watched by."""

    @property
    def models(self) -> Sequence[Model]:
        """The models (S), which the steps move."""

    @property
    def train(self) -> Dataset:
        """What they learn from."""

    @property
    def val(self) -> Dataset:
        """What they are watched on."""

    @property
    def per_epoch(self) -> int | None:
        """Steps of an epoch where rates are read from tensors (`fuse.training.optimize.Optimization`), else None."""

    def begin(self, number: int, stage: str | None, optimizations: Sequence[Optimization]) -> None:
        """A stage begins: its number and name, and what moves each model."""

    def epoch(self, epoch: int, live: Sequence[bool]) -> list[float]:
        """Every utterance once; each seed's mean loss. Only those who are `live` may diverge, and raise."""

    def look(self, live: Sequence[bool]) -> list[Seen | None]:
        """What is seen on validation of those who are `live`."""

    def state_dict(self) -> dict[str, Any]:
        """Where the steps are, beside the models and their optimizations."""

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was asked."""


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


@dataclass
class Course:
    """How a seed's training goes.

    Attributes:
        seed: which.
        model: what is trained.
        optimization: what moves it in this stage.
        best: what was watched at the best epoch of this stage so far; nan before there is one.
        best_state: the weights then.
        since: epochs since.
        history: all its epochs.
    """

    seed: int
    model: Model
    optimization: Optimization
    best: float
    best_state: dict[str, torch.Tensor]
    since: int = 0
    history: list[Epoch] = field(default_factory=list)

    def judge(self, seen: Seen, config: TrainConfig) -> bool:
        """Whether this epoch is the best of its stage; its weights are kept if it is."""
        watched = seen.loss if config.monitor == "loss" else seen.metrics[config.monitor]
        lower = config.monitor in metrics.LOWER_IS_BETTER
        improved = not watched >= self.best if lower else not watched <= self.best
        self.since = 0 if improved else self.since + 1
        if improved:
            self.best, self.best_state = watched, weights(self.model)
        self.optimization.epoch_ends(watched)
        return improved

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {
            "since": self.since,
            "best": self.best,
            "best_state": self.best_state,
            "model": weights(self.model),
            "optimization": self.optimization.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was asked."""
        self.best, self.best_state, self.since = (state[name] for name in ("best", "best_state", "since"))
        self.model.load_state_dict(state["model"])
        self.optimization.load_state_dict(state["optimization"])


@contextmanager
def reproducible(seed: int, threads: int | None) -> Iterator[None]:
    """Torch seeded, deterministic and with `threads` CPU threads (None: as they are); everything restored after.

    The number of threads decides how sums are split, and so the last bits of every result.
    """
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    fills: Any = torch.utils.deterministic
    filled = fills.fill_uninitialized_memory
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else None  # all of them, which is meant
    with torch.random.fork_rng(gpus), exact_cudnn():
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
            torch.use_deterministic_algorithms(deterministic, warn_only=warned)
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

    Args:
        model: untrained; on the device of the data.
        train: what it learns from.
        val: what stops it, lowers its rate and chooses its epoch.
        config: the settings.
        seed: shuffles the batches.
        progress, checkpoint: as for `fit_seeds`.
        timing: measures where the time goes (`fuse.training.timing.Timing`); None: nothing does.

    Raises:
        DivergedError: a loss or a gradient is not finite; says at which step, in which utterances and where.
        SettingsError: the settings do not fit the target.
    """
    check(config, train.target)
    steps = PlainSteps(model, train, val, config, seed, timing)
    (history,) = fit_seeds(steps, config, [seed], progress, checkpoint)
    return history


def fit_seeds(
    steps: Steps,
    config: TrainConfig,
    seeds: Sequence[int],
    progress: Callable[[Epoch], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[list[Epoch]]:
    """Train S models, leave each with the weights of its own best epoch on validation, and return their histories.

    An architecture with `stages` is trained stage by stage, each to its own best epoch, and then fits its late fusion.

    Args:
        steps: the models, their data, and how steps are taken.
        config: the settings.
        seeds: of the models (S).
        progress: called after each epoch, and at once with those of an interrupted training.
        checkpoint: where an interrupted training goes on, to the same result; written as it goes.

    Raises:
        DivergedError: a loss or a gradient is not finite; says at which step and in which utterances.
    """
    models, network = steps.models, steps.models[0].network
    saved = None if checkpoint is None else checkpoint.load()
    histories: list[list[Epoch]] = [[] for _ in seeds]
    if saved is not None:
        histories = [[Epoch(**epoch) for epoch in history] for history in saved["histories"]]
        for past in sorted((e for history in histories for e in history), key=lambda e: e.epoch):
            if progress is not None:
                progress(past)
    stages: tuple[str | None, ...] = network.stages or (None,)
    for number, stage in enumerate(stages):
        if saved is not None and number < saved["stage"]:
            continue
        courses = []
        for seed, model, history in zip(seeds, models, histories, strict=True):
            model.network.stage = stage
            total = most_steps(steps.train, config)
            optimization = Optimization(model.network, config, total, stage, steps.per_epoch)
            courses.append(Course(seed, model, optimization, math.nan, weights(model), history=history))
        steps.begin(number, stage, [course.optimization for course in courses])
        first = 1
        if saved is not None:
            first = saved["epoch"] + 1
            for course, state in zip(courses, saved["courses"], strict=True):
                course.load_state_dict(state)
            steps.load_state_dict(saved["steps"])
            saved = None
        for epoch in range(first, config.max_epochs + 1):
            live = [course.since < config.patience for course in courses]
            if not any(live):
                break
            begun, rates = time.perf_counter(), [course.optimization.lr for course in courses]
            losses = steps.epoch(epoch, live)
            for course, lr, loss, seen in zip(courses, rates, losses, steps.look(live), strict=True):
                if seen is not None:
                    row = Epoch(
                        seed=course.seed,
                        epoch=epoch,
                        max_epochs=config.max_epochs * len(stages),
                        lr=lr,
                        train_loss=loss,
                        val_loss=seen.loss,
                        val=seen.metrics,
                        best=course.judge(seen, config),
                        seconds=time.perf_counter() - begun,
                        stage=stage or "",
                    )
                    course.history.append(row)
            if checkpoint is not None and checkpoint.due:
                state = {"stage": number, "epoch": epoch, "steps": steps.state_dict()}
                state["courses"] = [course.state_dict() for course in courses]
                state["histories"] = [[asdict(e) for e in history] for history in histories]
                checkpoint.save(state)
            if progress is not None:
                for course, alive in zip(courses, live, strict=True):
                    if alive:
                        progress(course.history[-1])
        for course in courses:
            course.model.load_state_dict(course.best_state)
    for model in models:
        model.network.stage = None
        model.eval()
        with torch.no_grad():
            batches = steps.val.batches(config.batch_size, network.unit)
            model.network.fit_late_fusion(model.clean(batch) for batch in batches)
    return histories


def weights(model: Model) -> dict[str, torch.Tensor]:
    """A copy of everything that a model has learnt."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
