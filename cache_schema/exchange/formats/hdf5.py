"""HDF5: one file with all samples, their labels and their features one after the other, as mer exports it.

A dataset is never grown: its size is known before it is made, and the file takes its name when it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError
from cache_schema.exchange.exporting import Selection
from cache_schema.exchange.foreign import (
    Description,
    Foreign,
    ForeignFeature,
    feature_name,
    one_source,
    sha256_of,
    unique,
)
from cache_schema.exchange.hdf5_files import hdf5_explained, member, numbers, opened, texts
from cache_schema.exchange.manifest import (
    Exported,
    manifest_json,
    missing_row,
    parse_manifest,
    parse_utterance,
    state_of,
    utterance_json,
)
from cache_schema.rows import Row
from cache_schema.settings import Spec

SUMMARY = "one file with all samples and features, arrays one after the other with offsets (export, import)"
LAYOUT = """\
/mer                                the corpus and the features' specifications, JSON
/samples                            (n,) a JSON object per sample: id, text, split, labels, scores, ...
/features/NAME/values               (all frames, ...); other arrays of the feature beside it
/features/NAME/sample-offsets       (n + 1,) sample k has the frames [offsets[k], offsets[k + 1])
/features/NAME/missing              JSON: why samples have no arrays, {id: [failed or absent, reason]}"""
BOUNDS = "sample-offsets"
"""No array of a feature can have this name: text features have `offsets` of their own."""
FOLDER = False


class ImportConfig(Description):
    """The file says it all; a title, licence or language given here is not taken."""


class ExportConfig(Spec):
    """There is nothing to set."""


def write(selection: Selection, to: Path, config: ExportConfig) -> list[str]:
    """Write the file; see `foreign.py` for the contract."""
    import h5py

    text = h5py.string_dtype("utf-8")
    with h5py.File(to, "w") as file:
        file.create_dataset("mer", data=manifest_json(selection), dtype=text)
        file.create_dataset("samples", data=[utterance_json(u) for u in selection.utterances], dtype=text)
        for name, feature in selection.features.items():
            group = file.create_group(f"features/{name}")
            lengths = selection.frames(name)
            counts = [lengths[u.id] for u in selection.utterances]
            offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
            group.create_dataset(BOUNDS, data=offsets)
            arrays = {
                a.name: group.create_dataset(a.name, (int(offsets[-1]), *a.tail), a.dtype) for a in feature.spec.arrays
            }
            missing: dict[str, tuple[str, str]] = {}
            for index, (utterance, row) in enumerate(selection.rows(name)):
                if isinstance(row, dict):
                    for array, values in row.items():
                        arrays[array][offsets[index] : offsets[index + 1]] = values
                else:
                    missing[utterance.id] = state_of(row)
            group.create_dataset("missing", data=json.dumps(missing), dtype=text)
    return []


@contextmanager
def read(sources: Sequence[Path], config: ImportConfig) -> Iterator[Foreign]:
    """The samples and features of an exported file.

    Raises:
        DataError: it is no such file, or is damaged.
    """
    path = one_source(sources, "an HDF5 file that mer exported")
    digest = sha256_of(path)
    with opened(path) as file:
        where = str(path)
        manifest = parse_manifest(texts(file, "mer", where)[0], where)
        utterances = [parse_utterance(line, f"{where}, /samples") for line in texts(file, "samples", where)]
        ids = unique((u.id for u in utterances), where)
        groups = member(file, "features", "group", where)
        features = [
            _feature(name, one, member(groups, name, "group", where), ids, {path.name: digest}, f"{where}, {name}")
            for name, one in manifest.features.items()
        ]
        yield Foreign(utterances, features, corpus=manifest.corpus)


def _feature(
    name: str, exported: Exported, group: Any, ids: Sequence[str], files: dict[str, str], where: str
) -> ForeignFeature:
    offsets = numbers(group, BOUNDS, where)
    if offsets.shape != (len(ids) + 1,):
        raise DataError(f"{where}: {offsets.shape} offsets for {len(ids)} samples.")
    with hdf5_explained(where):
        bounds: NDArray[np.int64] = offsets[...].astype(np.int64)
    arrays = {array: numbers(group, array, where) for array in exported.arrays}
    for array, dataset in arrays.items():
        expected = exported.arrays[array]
        if dataset.shape[1:] != expected.tail or dataset.dtype != expected.dtype:
            raise DataError(f"{where}: {array} is {dataset.dtype} {dataset.shape}, not {expected.dtype} frames.")
        if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] != len(dataset):
            raise DataError(f"{where}: the offsets do not cut {array}, which has {len(dataset)} frames.")
    missing = _missing(texts(group, "missing", where)[0], where)
    return ForeignFeature(
        name=feature_name(name),
        modality=exported.spec.modality,
        arrays=exported.arrays,
        ids=frozenset(ids),
        row=partial(_row, arrays, bounds, {id_: index for index, id_ in enumerate(ids)}, missing, where),
        files=files,
        settings={"feature": name},
        rate_hz=exported.spec.rate_hz,
        random_weights=exported.spec.random_weights,
        origin=exported.origin,
    )


def _row(
    arrays: dict[str, Any],
    bounds: NDArray[np.int64],
    places: dict[str, int],
    missing: dict[str, Row],
    where: str,
    id_: str,
) -> Row:
    if id_ in missing:
        return missing[id_]
    start, stop = bounds[places[id_]], bounds[places[id_] + 1]
    with hdf5_explained(where):
        return {name: dataset[start:stop] for name, dataset in arrays.items()}


def _missing(text: str, where: str) -> dict[str, Row]:
    try:
        return {id_: missing_row(state, str(reason), where) for id_, (state, reason) in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: why samples are missing cannot be read ({error}).") from error
