"""How a finished run holds when a modality is missing or noised: what `mer fuse robustness` does.

At test time the run's own models are measured on a test split that is degraded, for each modality and each share of the
utterances. At train time its training is repeated with train and validation degraded, and tested on what there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from cache_schema.errors import DamagedError, SettingsError
from fuse import metrics, run_files
from fuse.archs import ARCHS
from fuse.cells import Cells, key_of
from fuse.corpora import load_folds
from fuse.data import Dataset
from fuse.degrade import Degradation
from fuse.evaluate import recorded_data
from fuse.placement import named_device
from fuse.run import Run
from fuse.run import load as load_run
from fuse.train import code_digest, request_of, train_run, versions
from fuse.training.seeds import Progress, assess, warn
from fuse.training.workers import Workers

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def robustness(
    run_path: str | Path,
    *,
    kind: Literal["missing", "noise"] = "missing",
    at: Literal["test", "train"] = "test",
    shares: Sequence[float] | None = None,
    modalities: Sequence[str] | None = None,
    noise: float = 1.0,
    store_path: str | Path | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The test metrics of a run against the share of utterances whose modality is missing or noised.

    Args:
        run_path: a finished run.
        kind: see `degrade.Degradation`.
        at: whether the test split is degraded, or training and validation.
        shares: of the utterances, from 0 to 1; None: SHARES, without 1 where a modality is missing in training.
        modalities: which, one at a time; None: all of the run.
        noise: standard deviation of the noise, in those of each feature dimension.
        store_path: where the store is now; None: where it was.
        device: None: the recorded one.
        out: where the runs of at="train" go, each trained once; None: `<run>-robustness` beside the run.
        jobs, progress: as for `train.train_run`.
        say: called with a line before each training.

    Returns:
        run, kind, at, noise, seeds; shares; curves: modality -> metric -> a `metrics.summary` per share.

    Raises:
        SettingsError: the run has no such modality, or none beside it.
        DamagedError: the data are no longer those of the run.
        MerError: the run or the store cannot be used.
    """
    run = load_run(run_path)
    record = run.record
    if shares is None:
        shares = SHARES[:-1] if at == "train" and kind == "missing" else SHARES
    known = list(record.features)
    for modality in modalities or ():
        if modality not in known:
            raise SettingsError(f"{run.folder} does not read {modality}; it reads {', '.join(known)}.")
    if kind == "missing" and len(known) == 1:
        raise SettingsError(f"{run.folder} reads {known[0]} alone: nothing is left where it is missing. Try noise.")
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise SettingsError("The shares of utterances are one or more numbers from 0 to 1.")
    if at == "train" and kind == "missing" and max(shares) == 1:
        raise SettingsError("Where a modality is missing in all of training, nothing is left to train: shares below 1.")
    device = named_device(record.device if device is None else device)
    each = [Degradation(m, share, kind, noise) for m in modalities or known for share in shares]
    if at == "test":
        found = _at_test(run, each, store_path, device)
    else:
        folder = _beside(run.folder) if out is None else Path(out)
        found = _at_train(run, each, store_path, device, folder, jobs, progress, say)
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for degradation, summaries in zip(each, found, strict=True):
        curve = curves.setdefault(degradation.modality, {})
        for name, summary in summaries.items():
            curve.setdefault(name, []).append(summary)
    return {
        "run": str(run.folder),
        "kind": kind,
        "at": at,
        "noise": noise if kind == "noise" else None,
        "seeds": record.seeds,
        "shares": list(shares),
        "curves": curves,
    }


def _beside(folder: Path) -> Path:
    whole = folder.resolve()
    return whole.with_name(f"{whole.name}-robustness")


def _at_test(
    run: Run, each: Sequence[Degradation], store_path: str | Path | None, device: str
) -> list[dict[str, dict[str, Any]]]:
    """The run's models on its own test utterances, degraded in every way."""
    folds: list[Dataset] = []
    for fold in range(1, max(len(run.record.folds), 1) + 1):
        data, changed = recorded_data(run, "test", fold, store_path)
        if changed:
            raise DamagedError(f"{run.folder}: the data are no longer those of the run ({'; '.join(changed)}).")
        folds.append(data)
    models = {(s, f): run.model(s, device, f) for s in run.record.seeds for f in range(1, len(folds) + 1)}
    found = []
    for degradation in each:
        degraded = [degradation.of(data).to(torch.device(device)) for data in folds]
        measured = []
        for seed in run.record.seeds:
            seen = [
                assess(models[seed, fold], data, run.training.batch_size, seed)
                for fold, data in enumerate(degraded, start=1)
            ]
            measured.append(run_files.concatenated(seen).measure(run.record.target))
        found.append({m: metrics.summary([one[m] for one in measured]) for m in measured[0]})
    return found


def _at_train(
    run: Run,
    each: Sequence[Degradation],
    store_path: str | Path | None,
    device: str,
    folder: Path,
    jobs: int | None,
    progress: Progress | None,
    say: Callable[[str], None] | None,
) -> list[dict[str, dict[str, Any]]]:
    """The run's training repeated on data degraded in every way; without degradation, the run's own numbers."""
    record, module = run.record, ARCHS.load(run.record.arch)
    store = record.store if store_path is None else store_path
    values = [f"{name}={json.dumps(value)}" for name, value in {**record.config, **record.training}.items()]
    read = {**record.features, **record.companions}
    modalities = list(record.features)
    features = {m: f"{f['name']}@{f['fingerprint']}" for m, f in read.items()}
    request = request_of(
        module, store, record.dataset, modalities, features, record.target.name, run.training, run.protocol
    )
    if load_folds(request)[1].digest != record.store_digest:
        raise DamagedError(
            f"{run.folder}: the data are no longer those of the run, so a training on them could not be set beside it. "
            "Train it again first."
        )
    cells, found = Cells(folder), []
    facts = [record.store_digest, values, record.arch, record.seeds, device, versions(), code_digest(module)]
    with Workers(jobs, say or warn) as workers:
        for degradation in each:
            if not degradation.share:
                found.append(run.metrics["test"])
                continue

            def train(degradation: Degradation = degradation) -> Any:
                if say is not None:
                    say(f"{degradation.modality} {degradation.kind} in {degradation.share:.0%} of training")
                return train_run(
                    store,
                    record.dataset,
                    record.arch,
                    modalities=modalities,
                    features=features,
                    target=record.target.name,
                    assignments=values,
                    seeds=record.seeds,
                    protocol=run.protocol,
                    out=folder,
                    device=device,
                    workers=workers,
                    degrade=degradation,
                    progress=progress,
                )

            found.append(cells.run(key_of(*facts, asdict(degradation)), train).metrics["test"])
    return found
