"""A paper's ablation tables with our numbers beside the paper's: what `mer fuse ablate` does.

Every cell is a run of its own below the folder of the ablation, found again by what it is made of: an ablation that was
interrupted, or a table that shares cells with another, trains nothing twice. Cells whose models are the same by
construction (`canonical` of the architecture) are one run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from cache_schema.errors import SettingsError
from cache_schema.registry import unknown_name
from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse import metrics
from fuse.archs import ARCHS
from fuse.cells import Cells, key_of
from fuse.corpora import Opened
from fuse.placement import named_device
from fuse.protocols import Protocol
from fuse.run import Run
from fuse.run_files import write_json
from fuse.tables import Column, Row, Table
from fuse.train import Result, code_digest, request_of, settings, train_run, versions
from fuse.training.config import TrainConfig
from fuse.training.seeds import Progress, warn
from fuse.training.workers import Workers

STANDS_FOR = {
    "accuracy": ("accuracy", "acc2_nonneg", "ccc"),
    "weighted_f1": ("weighted_f1", "f1_nonneg", "ccc"),
    "macro_f1": ("macro_f1", "f1_nonneg", "ccc"),
}
"""A paper's metric -> ours, the first that the target has: its classification tables on a sentiment score."""
TABLE = "table-"
"""How the files begin in which an ablation's folder keeps each finished table, as `ablate` returns it."""


@dataclass(frozen=True)
class Cell:
    """One model of a table.

    Attributes:
        key: digest of everything that it is made of; equal keys are equal models.
        table, row, column: where it stands: the table's key and the names; the column is empty where a row's columns
            are metrics of one model.
        config, training: its settings.
        modalities: what it takes.
    """

    key: str
    table: str
    row: str
    column: str
    config: Spec
    training: TrainConfig
    modalities: tuple[str, ...]

    @property
    def place(self) -> str:
        """Table, row and column in words."""
        return f"Table {self.table}, {self.row}" + (f", {self.column}" if self.column else "")


def ablate(
    store_path: str | Path,
    dataset: str,
    arch: str,
    *,
    tables: Sequence[str] = (),
    assignments: Sequence[str] = (),
    features: Mapping[str, str] | None = None,
    target: str | None = None,
    protocol: Protocol | None = None,
    seeds: int = 5,
    out: str | Path = "runs",
    device: str = "cpu",
    jobs: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train what the tables of an architecture's paper compare.

    Args:
        store_path: the feature store.
        dataset: a dataset in it.
        arch: an architecture.
        tables: keys of the paper's tables; empty: all of them.
        assignments: "field=value" for every row, beneath what the row itself sets.
        features, target, protocol, device, jobs, progress: as for `train.train_run`.
        seeds: how many.
        out: where the folder `ablate-<arch>-<dataset>` is made or found, with a run for every cell and a file
            `table-<key>.json` for every finished table.
        say: called with a line before each cell that is trained.

    Returns:
        arch, dataset, seeds, folder; tables: each with title, columns and rows. A row's cells, one per column, have
        `paper` and either `ours` (a `metrics.summary`) or `why` there is no number; `same`, beside `ours`, is the first
        place in the paper's tables that has the same model by construction, whether that table was asked for or not;
        `fewer` says how many utterances were left out for want of the cell's modalities.

    Raises:
        SettingsError: the architecture has no such table.
        MerError: as `train.train_run`.
    """
    module, device = ARCHS.load(arch), named_device(device)
    chosen = choose_tables(module, arch, tables)
    opened = Opened(request_of(module, store_path, dataset, None, features, target, module.TRAINING, protocol))
    available = list(opened.features[opened.first])
    folder = Path(out) / f"ablate-{arch}-{dataset.replace(',', '+')}"
    done = Cells(folder)
    facts = [
        arch,
        dataset,
        opened.digests(),
        opened.target.model_dump(mode="json"),
        seeds,
        device,
        versions(),
        code_digest(module),
    ]
    facts.append((protocol or Protocol()).model_dump(mode="json"))

    def cells_of(table: Table, row: Row) -> list[Cell | str]:
        """A row's models, or why there is none."""
        found: list[Cell | str] = []
        for column in table.columns:
            modalities, why = _modalities(row, column, available)
            found.append(why or make_cell(module, arch, table, row, column, modalities, assignments, facts))
        return found

    first: dict[str, str] = {}
    for table in choose_tables(module, arch, ()):
        for row in table.rows:
            # What is given may fit the chosen tables alone; the others are looked at for what coincides.
            with nullcontext() if table in chosen else suppress(SettingsError):
                for made in cells_of(table, row):
                    if isinstance(made, Cell):
                        first.setdefault(made.key, made.place)
    runs: dict[str, Run] = {}
    shown = []
    with Workers(jobs, say or warn) as workers:

        def train(table: Table, cell: Cell) -> Result:
            if say is not None:
                say(f"{table.title}: {cell.row}, {' + '.join(cell.modalities)}")
            return train_run(
                store_path,
                dataset,
                arch,
                modalities=cell.modalities,
                features=opened.names_of(cell.modalities),
                target=target,
                assignments=_assignments(cell),
                seeds=seeds,
                protocol=protocol,
                out=folder,
                device=device,
                workers=workers,
                progress=progress,
            )

        for table in chosen:
            rows = []
            for row in table.rows:
                cells = []
                for column, paper, cell in zip(table.columns, row.paper, cells_of(table, row), strict=True):
                    printed: dict[str, Any] = {"paper": paper}
                    cells.append(printed)
                    if isinstance(cell, str):
                        printed["why"] = cell
                        continue
                    name = _metric(column.metric, opened.target)
                    if cell.key not in runs:
                        runs[cell.key] = done.run(cell.key, partial(train, table, cell))
                    run = runs[cell.key]
                    printed |= {"metric": name, "ours": run.metrics["test"][name], "run": run.folder.name}
                    empty = sum(len(ids) for what, ids in run.record.left_out.items() if what.startswith("empty"))
                    if empty:
                        printed["fewer"] = f"{empty} utterances have none of {' and '.join(cell.modalities)}: left out"
                    if first[cell.key] != cell.place:
                        printed["same"] = first[cell.key]
                rows.append({"name": row.name, "cells": cells})
            shown.append({"title": table.title, "columns": [c.name for c in table.columns], "rows": rows})
            whole = {"arch": arch, "dataset": dataset, "seeds": seeds, "folder": str(folder), "tables": shown[-1:]}
            with done.locked():
                write_json(folder / f"{TABLE}{table.key}.json", whole)
    return {"arch": arch, "dataset": dataset, "seeds": seeds, "folder": str(folder), "tables": shown}


def choose_tables(module: ModuleType, arch: str, keys: Sequence[str]) -> list[Table]:
    """The architecture's tables with these keys, all where none is given.

    Raises:
        SettingsError: it has none, or none of that key.
    """
    known: dict[str, Table] = {table.key: table for table in getattr(module, "TABLES", ())}
    if not known:
        raise SettingsError(f"{arch} declares no ablation table of its paper: see TABLES in the head of fuse/arch.py.")
    for key in keys:
        if key not in known:
            raise SettingsError(unknown_name(f"table of {arch}", key, list(known)))
    return [known[key] for key in keys or known]


def make_cell(
    module: ModuleType,
    arch: str,
    table: Table,
    row: Row,
    column: Column,
    modalities: tuple[str, ...],
    assignments: Sequence[str],
    facts: Sequence[Any] = (),
) -> Cell:
    """The model of a cell: its settings are the user's, over them the table's and the row's own."""
    config, training = settings(module, arch, assignments)
    own = {**table.settings, **row.settings}
    fields = type(config).model_fields
    config = type(config).parse(config.model_dump() | {k: v for k, v in own.items() if k in fields}, arch)
    rest = {k: v for k, v in own.items() if k not in fields}
    training = TrainConfig.parse(training.model_dump() | rest, "training")
    canonical = module.canonical(config, modalities) if hasattr(module, "canonical") else config
    facts = [*facts, canonical.model_dump(mode="json"), training.model_dump(mode="json"), modalities]
    name = column.name if column.modalities else ""
    return Cell(key_of(*facts), table.key, row.name, name, canonical, training, modalities)


def _assignments(cell: Cell) -> list[str]:
    """The cell's settings as they are written on the command line."""
    values = {**cell.config.model_dump(mode="json"), **cell.training.model_dump(mode="json")}
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def _modalities(row: Row, column: Column, available: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """What the cell's model takes, or why there is none."""
    asked = [set(given) for given in (row.modalities, column.modalities) if given is not None]
    wanted = [m for m in available if all(m in given for given in asked)]
    lacking = sorted({m for given in asked for m in given} - set(available))
    if lacking:
        return (), f"no {' and no '.join(lacking)} in the store"
    return (tuple(wanted), None) if wanted else ((), "nothing is left of row and column")


def _metric(name: str, target: Target) -> str:
    """Ours for a paper's metric.

    Raises:
        SettingsError: the target has none.
    """
    known = metrics.names(target)
    for stand_in in STANDS_FOR.get(name, (name,)):
        if stand_in in known:
            return stand_in
    raise SettingsError(f"{target.name} has no {name}, which the table is about; it has {', '.join(known)}.")
