"""CSV matrices: one line per sample and file, joined to a table of samples by id, by row number or by order.

How files join is declared, not guessed: which file holds the samples and in which columns their ids, texts and
labels stand, which file says what sample each line of a split is, and which columns of a matrix repeat a label. A
label that stands in several files is compared in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache_schema.errors import DataError, SettingsError
from cache_schema.exchange.csv_lines import Column, Place, cell_number, cell_numbers, csv_lines, label_code
from cache_schema.exchange.foreign import (
    Description,
    Foreign,
    ForeignArray,
    ForeignFeature,
    feature_name,
    one_source,
    sha256_of,
    split_named,
)
from cache_schema.feature_spec import Modality
from cache_schema.samples import Split, Target, Utterance
from cache_schema.settings import Spec

SUMMARY = "CSV matrices: a line per sample, joined to a table of samples as settings or a recipe declare (import)"
LAYOUT = """\
FOLDER/samples.csv                  id, text, speaker, ..., labels: the columns that `samples` names
FOLDER/order_train.csv              which sample each line of the split's matrices is, as `order` says; or
                                    the matrices hold the id themselves
FOLDER/audio_train.csv ...          numbers, one line per sample; label columns are compared with the samples'
How they join is said in a recipe, a TOML file (--recipe FILE.toml), columns by number or by name:
    header = true
    samples = { file = "samples.csv", id = "id", text = "text", labels = { polarity = "label" } }
    order.train = { file = "order_train.csv", column = 0, by = "row" }
    targets.polarity = { kind = "classification", classes = ["negative", "positive"], codes = ["0", "1"] }
    features.opensmile = { modality = "speech", files = { train = "audio_train.csv" }, labels = { polarity = -1 } }"""


class Samples(Spec):
    """The table of samples."""

    file: str
    """The CSV file, in the folder."""
    id: Column
    """The column of the ids."""
    text: Column | None = None
    """The column of the transcripts."""
    speaker: Column | None = None
    """The column of the speakers."""
    dialogue: Column | None = None
    """The column of the dialogues or videos."""
    turn: Column | None = None
    """The column of the places in the dialogue."""
    split: Column | None = None
    """The column of the splits."""
    labels: dict[str, Column] = Field(default_factory=dict)
    """The column of each target's label or number."""


class Order(Spec):
    """What says which sample each line of a split's matrices is."""

    file: str
    """A CSV file whose lines are the samples of the split, in order."""
    column: Column
    """The column that says which."""
    by: Literal["id", "row"] = "id"
    """What stands in it: the id, or the number of a line of the samples' table, counted from 0."""


class Matrix(Spec):
    """One feature."""

    modality: Modality
    """Which modality it describes."""
    files: dict[str, str]
    """The CSV file of each split, or of `all` samples."""
    id: Column | None = None
    """The column of the ids, where the matrices hold them; else `order` says what each line is."""
    labels: dict[str, Column] = Field(default_factory=dict)
    """Columns that hold a target's label, which is compared with the samples'."""
    ignore: tuple[Column, ...] = ()
    """Columns that are no numbers of the feature."""


class Label(Spec):
    """A target, and how the files write it."""

    kind: Literal["classification", "regression"]
    """classification: one of `classes`; regression: a number."""
    classes: tuple[str, ...] = ()
    """What the classes are called in the store."""
    codes: tuple[str, ...] = ()
    """How the files write them, in the same order; empty: as they are called."""
    low: float | None = None
    """Least value of a regression target."""
    high: float | None = None
    """Greatest value of a regression target."""


class ImportConfig(Description):
    """How CSV matrices join."""

    header: bool = False
    """Whether the first line of each file names its columns."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """What stands between the columns."""
    samples: Samples | None = None
    """The table of samples; None: the samples are those of the matrices."""
    order: dict[str, Order] = Field(default_factory=dict)
    """For each split (or `all`) what says which sample each line of its matrices is."""
    features: dict[str, Matrix] = Field(default_factory=dict)
    """The features, by name."""
    targets: dict[str, Label] = Field(default_factory=dict)
    """What can be learnt; the first is the default of training."""


@dataclass
class _Found:
    """A sample as it comes together from several files.

    Attributes:
        facts: fields of its utterance.
        labels: the code that each target has, and where it was first read.
    """

    facts: dict[str, Any]
    labels: dict[str, tuple[str, str]] = field(default_factory=dict)


@contextmanager
def read(sources: Sequence[Path], config: ImportConfig) -> Iterator[Foreign]:
    """The samples and features of a folder of CSV files; see `foreign.py` for the contract.

    Raises:
        DataError: a file is missing or ragged, holds no number where one belongs, or labels or samples disagree.
        SettingsError: the settings do not say how the files join.
    """
    folder = one_source(sources, "the folder that holds the CSV files")
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder; name the folder, and its files in the settings or a recipe.")
    if not config.features:
        raise SettingsError("csv: which files are features? Give --recipe FILE.toml or --set features=...")
    found = _read_samples(folder, config)
    table = list(found)
    known = frozenset(found) if config.samples is not None else None
    order = {split: _read_order(folder, config, split, one, table) for split, one in config.order.items()}
    features = [
        _read_feature(folder, config, name, matrix, order, found, known) for name, matrix in config.features.items()
    ]
    yield Foreign(
        utterances=[_utterance(id_, one, config) for id_, one in found.items()],
        features=features,
        targets=tuple(
            Target(name=name, kind=t.kind, classes=t.classes, low=t.low, high=t.high)
            for name, t in config.targets.items()
        ),
    )


def _read_samples(folder: Path, config: ImportConfig) -> dict[str, _Found]:
    if config.samples is None:
        return {}
    table, found = config.samples, dict[str, _Found]()
    fields = {name: getattr(table, name) for name in ("text", "speaker", "dialogue", "turn", "split")}
    for where, line, index in csv_lines(folder, table.file, config.header, config.delimiter):
        id_ = line[index(table.id)].strip()
        if not id_ or id_ in found:
            raise DataError(f"{where}: " + (f"the id {id_!r} stands there twice." if id_ else "the id is empty."))
        facts: dict[str, Any] = {
            name: line[index(column)].strip() or None for name, column in fields.items() if column is not None
        }
        if facts.get("turn") is not None:
            facts["turn"] = int(cell_number(facts["turn"], where))
        if facts.get("split") is not None:
            facts["split"] = split_named(facts["split"], where)
        found[id_] = _Found(facts)
        _note_labels(found[id_], id_, line, index, table.labels, where, config)
    return found


def _read_order(folder: Path, config: ImportConfig, split: str, order: Order, table: Sequence[str]) -> list[str]:
    """The ids of the lines of a split's matrices."""
    ids = []
    for where, line, index in csv_lines(folder, order.file, config.header, config.delimiter):
        cell = line[index(order.column)].strip()
        if order.by == "row":
            row = cell_number(cell, where)
            if row != int(row) or not 0 <= row < len(table):
                raise DataError(f"{where}: {cell} is no row of the table of {len(table)} samples.")
            cell = table[int(row)]
        ids.append(cell)
    return ids


def _read_feature(
    folder: Path,
    config: ImportConfig,
    name: str,
    matrix: Matrix,
    order: dict[str, list[str]],
    found: dict[str, _Found],
    known: frozenset[str] | None,
) -> ForeignFeature:
    rows: dict[str, NDArray[np.float64]] = {}
    width: int | None = None
    for split, file in matrix.files.items():
        number, ids = 0, None if matrix.id is not None else order.get(split, order.get("all"))
        if matrix.id is None and ids is None:
            raise SettingsError(f"{name}: nothing says which samples the lines of {file} are: give id or order.")
        for where, line, index in csv_lines(folder, file, config.header, config.delimiter):
            left_out = {index(c) for c in (*matrix.ignore, *matrix.labels.values())}
            if matrix.id is not None:
                left_out.add(index(matrix.id))
                id_ = line[index(matrix.id)].strip()
            elif ids is not None and number < len(ids):
                id_ = ids[number]
            else:
                raise DataError(f"{where}: there are more lines than the {number} samples of {split}.")
            number += 1
            if known is not None and id_ not in known:
                raise DataError(f"{where}: {id_!r} is not among the samples.")
            if id_ in rows:
                raise DataError(f"{where}: the sample {id_!r} stands in {name} twice.")
            one = found.setdefault(id_, _Found({}))
            if split != "all":
                named: Split = split_named(split, where)
                if one.facts.setdefault("split", named) != named:
                    raise DataError(f"{where}: {id_!r} is in {named} here and in {one.facts['split']} elsewhere.")
            _note_labels(one, id_, line, index, matrix.labels, where, config)
            numbers = [cell for place, cell in enumerate(line) if place not in left_out]
            rows[id_] = cell_numbers(numbers, where)
            width = len(numbers) if width is None else width
            if len(numbers) != width:
                raise DataError(f"{where}: {len(numbers)} numbers where {name} has {width}.")
        if ids is not None and number != len(ids):
            raise DataError(f"{file} has {number} lines for the {len(ids)} samples of {split}.")
    files = {matrix.files[split]: sha256_of(folder / matrix.files[split]) for split in matrix.files}
    joins = [o.file for o in config.order.values()] if matrix.id is None else []
    if any(o.by == "row" for o in config.order.values()) and config.samples is not None:
        joins.append(config.samples.file)
    files |= {file: sha256_of(folder / file) for file in joins}
    return ForeignFeature(
        name=feature_name(name),
        modality=matrix.modality,
        arrays={"values": ForeignArray(np.dtype(np.float64), (width or 0,))},
        ids=rows.keys(),
        row=lambda id_: {"values": rows[id_][None, :]},
        files=files,
        settings={
            "header": config.header,
            "delimiter": config.delimiter,
            "matrix": matrix.model_dump(mode="json"),
            "order": {k: o.model_dump(mode="json") for k, o in config.order.items()} if matrix.id is None else {},
        },
    )


def _note_labels(
    one: _Found, id_: str, line: list[str], index: Place, labels: dict[str, Column], where: str, config: ImportConfig
) -> None:
    """Remember a sample's labels, and compare them with what another file says."""
    for target, column in labels.items():
        if target not in config.targets:
            raise SettingsError(f"{where}: a label of {target!r}, and `targets` does not say what that is.")
        code = label_code(line[index(column)])
        before, first = one.labels.setdefault(target, (code, where))
        if before != code:
            raise DataError(f"{where}: the {target} of {id_!r} is {code} here and {before} in {first}.")


def _utterance(id_: str, found: _Found, config: ImportConfig) -> Utterance:
    labels: dict[str, str] = {}
    scores: dict[str, float] = {}
    for name, (code, where) in found.labels.items():
        target = config.targets[name]
        if target.kind == "regression":
            if code:
                scores[name] = cell_number(code, where)
        elif code:
            codes = [label_code(c) for c in target.codes or target.classes]
            if len(codes) != len(target.classes) or code not in codes:
                raise DataError(f"{where}: the {name} of {id_!r} is {code!r}, not one of {', '.join(codes)}.")
            labels[name] = target.classes[codes.index(code)]
    return Utterance.parse({"id": id_, **found.facts, "labels": labels, "scores": scores}, id_)
