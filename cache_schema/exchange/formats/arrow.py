"""Hugging Face datasets: a `DatasetDict` on disk, in Arrow streams that `datasets.load_from_disk` maps.

Written and read with pyarrow alone. A sample is a row, a feature a column of lists of frames; what is missing is null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache_schema.canonical import sha256_hex
from cache_schema.errors import DataError, SettingsError
from cache_schema.exchange.arrow_files import column_of, frames_of, open_table
from cache_schema.exchange.exporting import BATCH, Selection
from cache_schema.exchange.foreign import (
    Description,
    Foreign,
    ForeignArray,
    ForeignFeature,
    feature_name,
    inside,
    modality_of,
    one_source,
    read_json,
    sha256_of,
    split_named,
    unique,
)
from cache_schema.exchange.manifest import Manifest, manifest_json, missing_row, parse_manifest, state_of
from cache_schema.rows import Absent, Row
from cache_schema.samples import SPLITS, Target, Utterance
from cache_schema.settings import Spec

SUMMARY = "a Hugging Face dataset on disk, read by datasets.load_from_disk (export, import)"
LAYOUT = """\
FOLDER/dataset_dict.json            the splits: train, validation, test, and unsplit for samples without one
FOLDER/SPLIT/data-00000-of-00001.arrow, state.json, dataset_info.json
FOLDER/mer.json                     the corpus and the features' specifications; `datasets` passes it over
A row is a sample: id, text, speaker, dialogue, turn, ..., labels, scores; a column NAME holds the frames of a feature,
NAME.ARRAY another array of it, NAME.missing why there are none. A dataset of other origin needs the settings `id`,
`features`, and what else its columns are."""
FOLDER = True

UNSPLIT = "unsplit"
_FACTS = ("id", "path", "start", "end", "duration", "text", "speaker", "dialogue", "turn", "known_defect")


class ImportConfig(Description):
    """What the columns of a dataset of other origin are; an export of mer says it itself."""

    id: str = "id"
    """The column of the ids."""
    text: str | None = None
    """The column of the transcripts."""
    speaker: str | None = None
    """The column of the speakers."""
    dialogue: str | None = None
    """The column of the dialogues."""
    turn: str | None = None
    """The column of the places in the dialogue."""
    labels: dict[str, str] = Field(default_factory=dict)
    """The column of each target's labels; text is a class, a number of type float a regression value."""
    features: dict[str, str] = Field(default_factory=dict)
    """The modality of each column of lists of frames; a list of numbers is one frame."""


class ExportConfig(Spec):
    """There is nothing to set."""


def write(selection: Selection, to: Path, config: ExportConfig) -> list[str]:
    """Write the folder; see `foreign.py` for the contract."""
    by_split: dict[str, list[Utterance]] = {}
    for split in (*SPLITS, None):
        rows = [u for u in selection.utterances if u.split == split]
        if rows:
            by_split["validation" if split == "val" else split or UNSPLIT] = rows
    to.mkdir()
    (to / "mer.json").write_text(manifest_json(selection), encoding="utf-8")
    (to / "dataset_dict.json").write_text(json.dumps({"splits": list(by_split)}))
    for name, rows in by_split.items():
        _write_split(selection, to / name, name, rows)
    return []


def _write_split(selection: Selection, folder: Path, split: str, utterances: list[Utterance]) -> None:
    import pyarrow as pa

    folder.mkdir()
    name = "data-00000-of-00001.arrow"
    schema = _schema(selection)
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for start in range(0, len(utterances), BATCH):
            stream.write_batch(_batch(selection, utterances[start : start + BATCH], schema))
    state: dict[str, Any] = {
        "_data_files": [{"filename": name}],
        "_fingerprint": sha256_hex(f"{manifest_json(selection)} {split}".encode())[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    corpus = selection.corpus
    info = {"description": corpus.title, "citation": "", "homepage": "", "license": corpus.licence, "features": None}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))


def _schema(selection: Selection) -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    types = dict.fromkeys(_FACTS, text) | {"start": number, "end": number, "duration": number, "turn": pa.int64()}
    fields = [pa.field(name, types[name]) for name in _FACTS]
    for name, kind in (("labels", text), ("scores", number)):
        keys = sorted({key for u in selection.utterances for key in getattr(u, name)})
        if keys:
            fields.append(pa.field(name, pa.struct([pa.field(key, kind) for key in keys])))
    for name, feature in selection.features.items():
        for array in feature.spec.arrays:
            item = pa.from_numpy_dtype(np.dtype(array.dtype))
            for size in reversed(array.tail):
                item = pa.list_(item, size)
            fields.append(pa.field(_column(name, array.name), pa.list_(item)))
        fields.append(pa.field(f"{name}.missing", text))
    return pa.schema(fields)


def _batch(selection: Selection, utterances: list[Utterance], schema: Any) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name in (*_FACTS, "labels", "scores"):
        if name in schema.names:
            kind = schema.field(name).type
            values = [getattr(u, name) for u in utterances]
            if pa.types.is_struct(kind):
                keys = [kind.field(i).name for i in range(kind.num_fields)]
                values = [{key: value.get(key) for key in keys} for value in values]
            columns[name] = pa.array(values, kind)
    for name, feature in selection.features.items():
        rows = [row for _, row in selection.rows(name, utterances)]
        for array in feature.spec.arrays:
            pieces = [row[array.name] if isinstance(row, dict) else None for row in rows]
            flat = np.concatenate([np.empty((0, *array.tail), array.dtype), *(p for p in pieces if p is not None)])
            offsets = np.cumsum([0, *(0 if p is None else len(p) for p in pieces)])
            frames: Any = pa.array(flat.reshape(-1))
            for size in reversed(array.tail):
                frames = pa.FixedSizeListArray.from_arrays(frames, size)
            missing = pa.array([p is None for p in pieces])
            lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), frames, mask=missing)
            columns[_column(name, array.name)] = lists
        states = [state_of(row) for row in rows]
        columns[f"{name}.missing"] = pa.array(
            [f"{s}: {why}" if s != "done" else None for s, why in states], pa.string()
        )
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _column(feature: str, array: str) -> str:
    reserved = feature in (*_FACTS, "labels", "scores", "split")
    return feature if array == "values" and not reserved else f"{feature}.{array}"


@contextmanager
def read(sources: Sequence[Path], config: ImportConfig) -> Iterator[Foreign]:
    """The samples and features of a dataset on disk.

    Raises:
        DataError: it is no such folder, is damaged, or has other columns.
        SettingsError: it is of other origin, and the settings do not say what its columns are.
    """
    folder = one_source(sources, "a folder that datasets.load_from_disk reads")
    tables: dict[str, Any] = {}
    files: dict[str, str] = {}
    for split, place in _places(folder).items():
        names = read_json(inside(place, "state.json", str(place))).get("_data_files")
        if not isinstance(names, list) or not names:
            raise DataError(f"{place}/state.json names no data files.")
        paths = [inside(place, str(one.get("filename")), str(place)) for one in names]
        tables[split] = open_table(paths)
        files |= {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
    own = folder / "mer.json"
    if own.is_file():
        manifest = parse_manifest(own.read_bytes(), str(own))
        yield _read_own(manifest, tables, files, str(folder))
    else:
        yield _read_other(config, tables, files, str(folder))


def _places(folder: Path) -> dict[str, Path]:
    """The folder of each split; of a single dataset, itself."""
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not splits:
            raise DataError(f"{folder}/dataset_dict.json names no splits.")
        return {str(split): inside(folder, str(split), str(folder)) for split in splits}
    if not (folder / "state.json").is_file():
        raise DataError(f"{folder} is no dataset that `save_to_disk` wrote: it has no dataset_dict.json or state.json.")
    return {UNSPLIT: folder}


def _read_own(manifest: Manifest, tables: Mapping[str, Any], files: dict[str, str], where: str) -> Foreign:
    utterances = []
    for split, table in tables.items():
        columns = {n: column_of(table, n, where).to_pylist() for n in _FACTS}
        for name in ("labels", "scores"):
            there = name in table.column_names
            columns[name] = table.column(name).to_pylist() if there else [{}] * len(table)
        for values in zip(*columns.values(), strict=True):
            facts = dict(zip(columns, values, strict=True))
            for name in ("labels", "scores"):
                facts[name] = {k: v for k, v in (facts[name] or {}).items() if v is not None}
            facts["split"] = None if split == UNSPLIT else split_named(split, where)
            utterances.append(Utterance.parse(facts, where))
    places = _row_of(tables, "id", where)
    features = []
    for name, one in manifest.features.items():
        columns = {array: _column(name, array) for array in one.arrays}
        features.append(
            ForeignFeature(
                name=feature_name(name),
                modality=one.spec.modality,
                arrays=one.arrays,
                ids=places.keys(),
                row=partial(_row, tables, places, columns, one.arrays, f"{name}.missing", where),
                files=files,
                settings={"column": name},
                rate_hz=one.spec.rate_hz,
                random_weights=one.spec.random_weights,
                origin=one.origin,
            )
        )
    return Foreign(utterances, features, corpus=manifest.corpus)


def _read_other(config: ImportConfig, tables: Mapping[str, Any], files: dict[str, str], where: str) -> Foreign:
    if not config.features:
        raise SettingsError(
            f'{where}: which columns are features? Say it with --set \'features={{"audio": "speech"}}\'; there are '
            f"{', '.join(next(iter(tables.values())).column_names)}."
        )
    facts = {n: getattr(config, n) for n in ("text", "speaker", "dialogue", "turn") if getattr(config, n)}
    places = _row_of(tables, config.id, where)
    utterances = []
    kinds: dict[str, Any] = {}
    for split, table in tables.items():
        named = None if split == UNSPLIT else split_named(split, where)
        columns = {n: column_of(table, c, where).to_pylist() for n, c in facts.items()}
        labels = {n: column_of(table, c, where).to_pylist() for n, c in config.labels.items()}
        for index, id_ in enumerate(column_of(table, config.id, where).to_pylist()):
            given = {n: values[index] for n, values in labels.items() if values[index] is not None}
            for n, value in given.items():
                kinds.setdefault(n, []).append(value)
            utterances.append(
                Utterance.parse(
                    {
                        "id": str(id_),
                        "split": named,
                        **{n: values[index] for n, values in columns.items()},
                        "labels": {n: str(v) for n, v in given.items() if not isinstance(v, float)},
                        "scores": {n: v for n, v in given.items() if isinstance(v, float)},
                    },
                    where,
                )
            )
    targets = [
        Target(name=n, kind="regression")
        if isinstance(values[0], float)
        else Target(name=n, kind="classification", classes=tuple(sorted(set(map(str, values)))))
        for n, values in kinds.items()
    ]
    features = []
    for name, modality in config.features.items():
        some = frames_of(next(iter(tables.values())), name, 0, where)
        if some is None:
            raise DataError(f"{where}: the first row has nothing in {name!r}, so that its shape is not known.")
        arrays = {"values": ForeignArray(some.dtype, some.shape[1:])}
        features.append(
            ForeignFeature(
                name=feature_name(name),
                modality=modality_of(modality, {}, where),
                arrays=arrays,
                ids=places.keys(),
                row=partial(_row, tables, places, {"values": name}, arrays, None, where),
                files=files,
                settings={"column": name},
            )
        )
    return Foreign(utterances, features, targets=tuple(targets))


def _row_of(tables: Mapping[str, Any], column: str, where: str) -> dict[str, tuple[str, int]]:
    """Where each sample's row is: (split, number)."""
    ids = [
        (str(i), split, k) for split, t in tables.items() for k, i in enumerate(column_of(t, column, where).to_pylist())
    ]
    unique((id_ for id_, _, _ in ids), where)
    return {id_: (split, number) for id_, split, number in ids}


def _row(
    tables: Mapping[str, Any],
    places: Mapping[str, tuple[str, int]],
    columns: Mapping[str, str],
    arrays: Mapping[str, ForeignArray],
    missing: str | None,
    where: str,
    id_: str,
) -> Row:
    split, number = places[id_]
    table = tables[split]
    if missing is not None and (text := column_of(table, missing, where)[number].as_py()) is not None:
        state, _, reason = text.partition(": ")
        return missing_row(state, reason, where)
    found: dict[str, NDArray[Any]] = {}
    for array, column in columns.items():
        values = frames_of(table, column, number, where, arrays[array].tail)
        if values is None:
            return Absent(f"{column} is null")
        found[array] = values
    return found
