"""Measure a finished run again from its weights and the store: what `mer fuse eval` does.

The utterances are those that the run recorded, by id: what the dataset gained since does not matter, what was changed
in them does.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from cache_schema.errors import DamagedError
from fuse import metrics, run_files
from fuse.archs import ARCHS
from fuse.corpora import Request, load_ids
from fuse.data import Dataset
from fuse.placement import named_device
from fuse.prediction import Predictions
from fuse.run import Run
from fuse.run import load as load_run
from fuse.training.seeds import assess


def evaluate_run(
    run_path: str | Path,
    *,
    store_path: str | Path | None = None,
    split: Literal["test", "val"] = "test",
    device: str | None = None,
    allow_changed: bool = False,
) -> dict[str, Any]:
    """The metrics of every seed of a run, computed anew.

    Args:
        run_path: the run's folder.
        store_path: where the store is now; None: where it was.
        split: which split.
        device: None: the recorded one.
        allow_changed: measure although the features or the labels are no longer those of the run.

    Returns:
        run, arch, dataset, split, seeds, the split's metrics under its name, `identical` (whether every metric and
        every recorded prediction came out equal to the bit) and `changed` (what differs from the recorded data).

    Raises:
        DamagedError: the data differ from what the run recorded, and `allow_changed` is not set.
        MerError: the run, the store or the device cannot be used.
    """
    run = load_run(run_path)
    record = run.record
    device = named_device(record.device if device is None else device)
    folds = []
    changed: list[str] = []
    for fold in range(1, max(len(record.folds), 1) + 1):
        data, differing = recorded_data(run, split, fold, store_path)
        changed += [what for what in differing if what not in changed]
        folds.append(data.to(torch.device(device)))
    if changed and not allow_changed:
        raise DamagedError(
            f"{run.folder}: the data are no longer those of the run ({'; '.join(changed)}). "
            "--allow-changed measures on what is there now."
        )
    recorded = {r["seed"]: r["metrics"][split] for r in run.metrics["per_seed"]}
    measured, identical = [], True
    for seed in record.seeds:
        seen: list[Predictions] = []
        for fold, data in enumerate(folds, start=1):
            found = assess(run.model(seed, device, fold), data, run.training.batch_size, seed)
            written = run_files.read_predictions(run.place(seed, fold) / run_files.PREDICTIONS, split)
            identical &= written.equals(run_files.predictions_table(record.target, {split: found}))
            seen.append(found)
        if split == "test":
            measured.append(run_files.concatenated(seen).measure(record.target))
        else:
            each = [found.measure(record.target) for found in seen]
            measured.append({m: fmean(e[m] for e in each) for m in each[0]})
        identical &= all(measured[-1].get(name) == value for name, value in recorded[seed].items())
    return {
        "run": str(run.folder),
        "arch": record.arch,
        "dataset": record.dataset,
        "split": split,
        "seeds": record.seeds,
        split: {m: metrics.summary([found[m] for found in measured]) for m in metrics.names(record.target)},
        "identical": identical,
        "changed": changed,
    }


def recorded_data(
    run: Run, split: Literal["test", "val"], fold: int = 1, store_path: str | Path | None = None
) -> tuple[Dataset, list[str]]:
    """The utterances that a fold of a run measured, from the store, and what of them is no longer what it was.

    Raises:
        DataError: some of them are gone.
        MerError: the run or the store cannot be read.
    """
    record, module = run.record, ARCHS.load(run.record.arch)
    companions = getattr(module, "COMPANIONS", {})
    table = run_files.read_predictions(run.place(record.seeds[0], fold) / run_files.PREDICTIONS, split)
    request = Request(
        store=record.store if store_path is None else store_path,
        dataset=record.dataset,
        prefers=module.PREFERS,
        modalities=list(record.features),
        features={m: f"{f['name']}@{f['fingerprint']}" for m, f in {**record.features, **record.companions}.items()},
        target=record.target.name,
        drop_empty=run.training.drop_empty,
        protocol=run.protocol,
        companions={name: companions[name] for name in record.companions},
    )
    data, rows = load_ids(request, table["id"].to_pylist())
    if not record.folds:
        return data, ["it was written by an earlier version, which did not record enough to tell"]
    part, changed = record.folds[fold - 1]["splits"][split], []
    if data.labels_digest() != part["labels"]:
        changed.append(f"labels of the {split} split are others")
    for name, digest in rows.items():
        if digest != part["rows"].get(name):
            feature = {**record.features, **record.companions}[name]["name"]
            changed.append(f"{name} feature {feature} of the {split} split is another")
    return data, changed
