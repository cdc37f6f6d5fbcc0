"""Search for settings on validation: what `mer fuse sweep` does.

The test split cannot be reached from here: what is loaded holds training and validation alone (`load_selection`), and
the test utterances' features are not even read. Optuna's TPE sampler suggests (Bergstra et al. 2011); the value of a
trial is the mean over the seeds of a metric on validation, at each seed's best epoch. Trials are kept in a journal, so
that a search that was interrupted, or is asked for more trials, goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, get_args

from cache_schema.errors import MerError, SettingsError
from cache_schema.registry import unknown_name
from fuse import metrics
from fuse.archs import ARCHS
from fuse.cells import key_of
from fuse.corpora import load_selection
from fuse.placement import named_device
from fuse.prediction import DivergedError
from fuse.protocols import Protocol
from fuse.run_files import write_json
from fuse.train import code_digest, request_of, settings, versions
from fuse.training.losses import check
from fuse.training.seeds import Job, Progress, warn
from fuse.training.workers import Workers

if TYPE_CHECKING:
    import optuna
    from pydantic.fields import FieldInfo

SPACE = ("lr=1e-5..1e-2:log", "weight_decay=1e-6..1e-1:log", "batch_size=16|32|64|128")
"""What is searched where nothing is named: what every architecture has."""
JOURNAL, BEST = "trials.journal", "best.json"


@dataclass(frozen=True)
class Dimension:
    """A setting that is searched.

    Attributes:
        name: the field of the architecture's settings, or of those of training.
        choices: its values; empty: a range.
        low, high: ends of the range, both in it.
        whole: only whole numbers.
        log: the logarithm is drawn evenly.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False

    @classmethod
    def parse(cls, text: str) -> Dimension:
        """From `name=a|b|c` or `name=low..high`, with `:log` behind it.

        Raises:
            SettingsError: it is neither.
        """
        name, _, values = text.partition("=")
        rest, log, _ = values.partition(":log")
        low, dots, high = rest.partition("..")
        try:
            if not name or not values:
                raise ValueError
            if not dots:
                return cls(name.strip(), tuple(_plain(value) for value in values.split("|")))
            ends = json.loads(low), json.loads(high)
            if not ends[0] < ends[1] or not all(map(math.isfinite, ends)) or (log and ends[0] <= 0):
                raise ValueError
        except (ValueError, TypeError) as error:
            raise SettingsError(
                f"{text!r} is nothing to search: write field=a|b|c, field=low..high or field=low..high:log with low "
                "below high, and above 0 for log."
            ) from error
        whole = all(isinstance(end, int) for end in ends)
        return cls(name.strip(), (), float(ends[0]), float(ends[1]), whole, bool(log))

    def of(self, fields: Mapping[str, FieldInfo]) -> Dimension:
        """The same, of the setting's kind: `dropout=0..1` is no choice of two whole numbers."""
        kind = fields[self.name].annotation if self.name in fields else None
        return replace(self, whole=self.whole and float not in (kind, *get_args(kind)))

    def suggest(self, trial: optuna.Trial) -> Any:
        """A value for a trial."""
        if self.choices:
            # As text, since a choice may be a list.
            texts = [json.dumps(choice) for choice in self.choices]
            return json.loads(trial.suggest_categorical(self.name, texts))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


def sweep(
    store_path: str | Path,
    dataset: str,
    arch: str,
    *,
    trials: int = 30,
    seeds: int = 3,
    search: Sequence[str] = (),
    metric: str | None = None,
    modalities: Sequence[str] | None = None,
    features: Mapping[str, str] | None = None,
    target: str | None = None,
    assignments: Sequence[str] = (),
    protocol: Protocol | None = None,
    out: str | Path = "runs",
    device: str = "cpu",
    jobs: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Search an architecture's settings, and those of training, for the best mean over the seeds on validation.

    Args:
        store_path, dataset, arch, modalities, features, target, device, jobs, progress: as for `train.train_run`.
        trials: how many in all, those of an earlier search of the same included.
        seeds: how many trainings a trial has.
        search: what is searched, as `Dimension.parse` reads it; empty: SPACE.
        metric: what is best on validation; None: `monitor`, or where that is the loss the target's first metric.
        assignments: "field=value" for what is not searched.
        protocol: how the data are split; folds are refused, since one's validation is another's test.
        out: where the folder `sweep-<arch>-<dataset>-<digest>` is made or found.
        say: called with a line after each trial.

    Returns:
        arch, dataset, folder, metric, seeds; trials, each with number, value (None: it diverged) and settings; best:
        the best trial; assignments: its settings as `--set` takes them.

    Raises:
        SettingsError: a field, a range or a metric that there is not.
        MerError: every trial diverged, or what `train.train_run` raises.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    module = ARCHS.load(arch)
    config, training = settings(module, arch, assignments)
    fields = {**type(training).model_fields, **type(config).model_fields}
    space = [Dimension.parse(text).of(fields) for text in search or SPACE]
    known = list(fields)
    for dimension in space:
        if dimension.name not in known:
            raise SettingsError(unknown_name(f"setting of {arch} or of training", dimension.name, known))
        if dimension.name == "drop_empty":
            raise SettingsError("drop_empty decides what the data are: it is set, not searched.")
    if len({d.name for d in space}) < len(space):
        raise SettingsError("A setting is searched once: name each in one --search.")
    device = named_device(device)
    request = request_of(module, store_path, dataset, modalities, features, target, training, protocol)
    selection, source = load_selection(request)
    check(training, source.target)
    measured = metric or (training.monitor if training.monitor != "loss" else metrics.names(source.target)[0])
    if measured not in metrics.names(source.target):
        raise SettingsError(
            unknown_name(f"metric of {source.target.name}", measured, list(metrics.names(source.target)))
        )
    base = list(assignments)
    texts = sorted(search or SPACE)
    digest = key_of(
        arch,
        source.digest,
        source.target.model_dump(mode="json"),
        source.protocol.model_dump(mode="json"),
        seeds,
        texts,
        measured,
        config.non_default(),
        training.model_dump(mode="json"),
        device,
        versions(),
        code_digest(module),
    )
    folder = Path(out) / f"sweep-{arch}-{dataset.replace(',', '+')}-{digest[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    lower = measured in metrics.LOWER_IS_BETTER
    study = optuna.create_study(
        storage=storage, study_name=digest, direction="minimize" if lower else "maximize", load_if_exists=True
    )
    over = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL, optuna.trial.TrialState.PRUNED)
    left = trials - len(study.get_trials(deepcopy=False, states=over))
    # Seeded by how many there are, so that a search that goes on does not repeat its first suggestions.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)))
    with Workers(jobs, say or warn) as workers:

        def value_of(trial: optuna.Trial) -> float:
            chosen = {d.name: d.suggest(trial) for d in space}
            own = settings(module, arch, [*base, *assigned(chosen)])
            job = Job(arch, *own, {source.folds[0]["name"]: selection}, device, None)
            try:
                results = workers.train(job, range(seeds), progress)
            except DivergedError as error:
                raise optuna.TrialPruned(str(error)) from error
            return fmean(r.metrics["val"][measured] for r in results)

        def told(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            if say is not None:
                value = "diverged" if trial.value is None else f"{measured} {trial.value:.4f}"
                shown = " ".join(assigned(_decoded(space, trial.params)))
                say(f"Trial {trial.number + 1} of {trials}: {value}, {shown}")

        study.optimize(value_of, n_trials=max(left, 0), callbacks=[told])
    finished = study.get_trials(deepcopy=False, states=over)
    listed: list[dict[str, Any]] = [
        {"number": t.number + 1, "value": t.value, "settings": _decoded(space, t.params)} for t in finished
    ]
    valued = [t for t in listed if t["value"] is not None]
    if not valued:
        raise MerError(
            f"Every one of {len(listed)} trials diverged: search lower learning rates. They are in {folder}."
        )
    best = (min if lower else max)(valued, key=lambda t: float(t["value"]))
    found = {
        "arch": arch,
        "dataset": dataset,
        "folder": str(folder),
        "metric": measured,
        "seeds": seeds,
        "trials": listed,
        "best": best,
        "assignments": [a for a in base if a.partition("=")[0].strip() not in best["settings"]]
        + assigned(best["settings"]),
    }
    write_json(folder / BEST, found)
    return found


def assigned(values: Mapping[str, Any]) -> list[str]:
    """Settings as `--set` takes them."""
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()]


def _decoded(space: Sequence[Dimension], params: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {d.name for d in space if d.choices}
    return {name: json.loads(value) if name in chosen else value for name, value in params.items()}


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
