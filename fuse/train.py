"""Train an architecture on a dataset with several seeds: what `mer fuse train` does."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.errors import SettingsError
from cache_schema.registry import unknown_name
from cache_schema.settings import Spec
from fuse import metrics, run_files
from fuse.archs import ARCHS
from fuse.card import CARD, model_card
from fuse.corpora import Request, Source, load_folds
from fuse.data import Selection
from fuse.degrade import Degradation
from fuse.placement import describe_device, named_device, where
from fuse.precision import resolved
from fuse.protocols import Protocol
from fuse.run import FORMAT, RunRecord, new_folder, write_documents
from fuse.training.board import require_tensorboard
from fuse.training.config import TrainConfig
from fuse.training.losses import check
from fuse.training.seeds import THREADS, Job, Progress, Say, SeedResult, warn
from fuse.training.timing import NoTiming, Timing, total
from fuse.training.workers import Workers

LOADED_FROM_HERE = 'import fuse\n\nmodel = fuse.load(".")  # this folder; `mer predict CLIP --model .` reads new clips'
HERE = Path(__file__).parent
SHARED_CODE = (HERE / "nn", HERE / "kernels", HERE.parent / "compute")
PACKAGES = ("mer", "torch", "numpy", "pyarrow", "zarr", "safetensors")


@dataclass(frozen=True)
class Result:
    """A finished run's numbers.

    Attributes:
        run: its folder.
        record: what run.json holds.
        test: metric -> mean, sd, ci95 and per_seed on the test split.
        val: the same on validation.
        seeds: each seed's own results, confusion matrices included.
        folds: per fold its name and the same as `test` and `val`; empty where there is one.
        by_dataset: dataset -> the same as `test` on its utterances alone, where several were trained on jointly.
        profile: seconds of each of `fuse.training.timing.PARTS`, over all trainings; empty where they were not
            measured.
    """

    run: Path
    record: RunRecord
    test: dict[str, dict[str, Any]]
    val: dict[str, dict[str, Any]]
    seeds: list[SeedResult]
    folds: list[dict[str, Any]]
    by_dataset: dict[str, dict[str, dict[str, Any]]]
    profile: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """What `mer fuse train --json` prints."""
        profile = {"profile": self.profile} if self.profile else {}
        return {
            "arch": self.record.arch,
            "dataset": self.record.dataset,
            "seeds": self.record.seeds,
            "run": str(self.run),
            "task": self.record.target.kind,
            "test": self.test,
            "val": self.val,
            "seconds": self.record.seconds,
            "parameters": self.record.parameters,
            **profile,
        }


def train_run(
    store_path: str | Path,
    dataset: str,
    arch: str,
    *,
    modalities: Sequence[str] | None = None,
    features: Mapping[str, str] | None = None,
    target: str | None = None,
    assignments: Sequence[str] = (),
    seeds: int | Sequence[int] = 5,
    protocol: Protocol | None = None,
    out: str | Path = "runs",
    device: str = "cpu",
    jobs: int | None = None,
    workers: Workers | None = None,
    tensorboard: bool = False,
    fresh: bool = False,
    profile: bool = False,
    together: bool | None = None,
    window_bytes: int | None = None,
    degrade: Degradation | None = None,
    progress: Progress | None = None,
    say: Say = warn,
    inform: Say | None = None,
) -> Result:
    """Train every seed, measure validation and test once each, and write the run's folder.

    A training of the same settings and data that was interrupted goes on where it was, to the same result.

    Args:
        store_path: the feature store.
        dataset: a dataset in it; several, joined by commas, are trained on jointly.
        arch: an architecture.
        modalities: which to use; None: all that the architecture takes and the store has.
        features: modality -> another feature than the architecture prefers, as "roberta" or "roberta@1a2b".
        target: what to predict; None: the corpus's first target.
        assignments: "field=value" for the architecture's settings or those of training.
        seeds: how many (0, 1, ...), or which.
        protocol: how the data are split; None: the official splits.
        out: where the run's folder is made, as `<arch>-<dataset>-<n>`.
        device: torch's name of one; "auto": a GPU where there is one.
        jobs: seeds that train at a time on the CPU, None: by cores and seeds; the numbers do not depend on it.
        workers: processes to use instead of new ones.
        tensorboard: write what TensorBoard shows into each seed's folder.
        fresh: begin anew, whatever was interrupted.
        profile: measure where the time goes.
        together: train the seeds as one program; None: where there is a GPU. Where that cannot be done it is said, and
            they train one after the other.
        window_bytes: read the data in windows of so many bytes; None: where they do not fit.
        degrade: what is taken from training and validation on purpose.
        progress: called with each `Epoch`, from another thread where seeds run side by side.
        say: called with a line where something is done otherwise than was asked for.
        inform: called with a line that says where the data are.

    Raises:
        MerError: one of its kinds, with one line that says what to do. No folder is left behind.
    """
    module = ARCHS.load(arch)
    config, training = settings(module, arch, assignments)
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or len(set(chosen)) != len(chosen):
        raise SettingsError("Training needs at least one seed, and every seed once.")
    device = named_device(device)
    precision = resolved(training.precision, torch.device(device))
    training = training.model_copy(update={"precision": precision})
    if tensorboard:
        require_tensorboard()
    begun = time.perf_counter()
    timing = Timing(torch.device("cpu")) if profile else NoTiming()
    with timing.part("load"):
        request = request_of(module, store_path, dataset, modalities, features, target, training, protocol)
        folds, source = load_folds(replace(request, device=device, window_bytes=window_bytes))
    check(training, source.target)
    parts: dict[str, Selection] = {fold.name: fold.splits for fold in folds}
    if degrade is not None:
        parts = {name: degrade.of_training(fold) for name, fold in parts.items()}
    facts: list[Any] = [
        arch,
        config.model_dump(mode="json"),
        training.model_dump(mode="json"),
        source.digest,
        source.target.model_dump(mode="json"),
        source.protocol.model_dump(mode="json"),
        chosen,
        device,
    ]
    data = where(parts, torch.device(device))
    if inform is not None:
        inform(f"The data are {data}.")
    facts += [together, window_bytes, tensorboard, degrade and asdict(degrade), versions(), code_digest(module)]
    digest = sha256_hex(canonical_bytes(facts))
    with new_folder(Path(out), arch, dataset, digest, fresh) as (folder, final):
        job = Job(arch, config, training, parts, device, folder, tensorboard, profile, together)
        if workers is None:
            with Workers(jobs, say) as own:
                results = own.train(job, chosen, progress)
        else:
            results = workers.train(job, chosen, progress)
        record = describe_run(job, source, results, time.perf_counter() - begun, degrade, data)
        summaries = summarize([r.metrics for r in results])
        over_folds = [
            {"name": name, **summarize([r.folds[i]["metrics"] for r in results])}
            for i, name in enumerate(job.folds if len(job.folds) > 1 else ())
        ]
        apart = by_dataset(folder, record)
        per_seed = [asdict(r) for r in results]
        documents = {**summaries, "folds": over_folds, "by_dataset": apart, "per_seed": per_seed}
        write_documents(folder, record, documents)
        (folder / CARD).write_text(model_card(record, documents, LOADED_FROM_HERE), "utf-8")
    spent = total([timing.seconds, *(r.profile for r in results)])
    return Result(final[0], record, summaries["test"], summaries["val"], results, over_folds, apart, spent)


def summarize(per_seed: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Split -> metric -> `metrics.summary` over the seeds."""
    return {
        split: {m: metrics.summary([each[split][m] for each in per_seed]) for m in per_seed[0][split]}
        for split in ("test", "val")
        if split in per_seed[0]
    }


def by_dataset(folder: Path, record: RunRecord) -> dict[str, dict[str, dict[str, Any]]]:
    """Dataset -> metric -> `metrics.summary` on its test utterances, where a run has several datasets."""
    names = record.dataset.split(",")
    if len(names) == 1:
        return {}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in record.seeds:
        seen = run_files.read_seen(folder / f"seed-{seed}", record.target, "test")
        assert seen.truth is not None  # read_seen gives it
        for name in names:
            rows = [row for row, id_ in enumerate(seen.ids) if id_.startswith(f"{name}/")]
            if rows:
                found[name].append(metrics.measure(record.target, seen.truth[rows], seen.prediction[rows]))
    return {name: {m: metrics.summary([e[m] for e in each]) for m in each[0]} for name, each in found.items() if each}


def request_of(
    module: ModuleType,
    store_path: str | Path,
    dataset: str,
    modalities: Sequence[str] | None,
    features: Mapping[str, str] | None,
    target: str | None,
    training: TrainConfig,
    protocol: Protocol | None,
) -> Request:
    """What an architecture's training reads of a store."""
    return Request(
        store=store_path,
        dataset=dataset,
        prefers=module.PREFERS,
        modalities=modalities,
        features=features,
        target=target,
        drop_empty=training.drop_empty,
        protocol=protocol or Protocol(),
        companions=getattr(module, "COMPANIONS", {}),
    )


def settings(module: ModuleType, arch: str, assignments: Sequence[str]) -> tuple[Spec, TrainConfig]:
    """The architecture's settings and those of training, each assignment given to the one that has the field.

    Raises:
        SettingsError: neither has it, or the value is wrong.
    """
    config, training = module.Config(), module.TRAINING
    mine: dict[bool, list[str]] = {True: [], False: []}
    for assignment in assignments:
        name = assignment.partition("=")[0].strip()
        if name not in module.Config.model_fields and name not in TrainConfig.model_fields:
            known = [*module.Config.model_fields, *TrainConfig.model_fields]
            raise SettingsError(unknown_name(f"setting of {arch} or of training", name, known))
        mine[name in module.Config.model_fields].append(assignment)
    return config.with_assignments(mine[True], arch), training.with_assignments(mine[False], "training")


def code_digest(module: ModuleType) -> str:
    """sha256 of an architecture's file, shared pieces, kernels and products; what others began is not gone on with."""
    files = {"arch": Path(str(module.__file__))}
    for folder in SHARED_CODE:
        files |= {file.relative_to(HERE.parent).as_posix(): file for file in folder.rglob("*.py")}
    return sha256_hex(canonical_bytes({name: sha256_hex(file.read_bytes()) for name, file in files.items()}))


def versions() -> dict[str, str]:
    """Of Python, mer and what the numbers depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def describe_run(
    job: Job, source: Source, results: Sequence[SeedResult], seconds: float, degrade: Degradation | None, data: str
) -> RunRecord:
    """What run.json says."""
    return RunRecord(
        format=FORMAT,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=list(sys.argv),
        arch=job.arch,
        config=job.config.model_dump(mode="json"),
        training=job.training.model_dump(mode="json"),
        store=source.store,
        dataset=source.dataset,
        corpora=source.corpora,
        target=source.target,
        features=source.features,
        store_digest=source.digest,
        random_weights=any(f["random_weights"] for f in [*source.features.values(), *source.companions.values()]),
        splits=source.splits,
        protocol=source.protocol.model_dump(mode="json"),
        folds=source.folds,
        companions=source.companions,
        without=source.without,
        degraded={} if degrade is None else asdict(degrade),
        left_out=source.left_out,
        seeds=[r.seed for r in results],
        device=job.device,
        hardware=describe_device(torch.device(job.device)),
        execution={**results[0].execution, "data": data},
        threads=THREADS,
        parameters=results[0].parameters,
        seconds=round(seconds, 3),
        versions=versions(),
    )
