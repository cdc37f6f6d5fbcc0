"""npy folders: one `.npy` file per sample and feature, as mer exports them; MERTools reads the feature folders as well.

`.npy` files are mapped, never unpickled: one that holds Python objects, or claims more than is in it, is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, first_line
from cache_schema.exchange.exporting import Selection
from cache_schema.exchange.foreign import (
    Description,
    Foreign,
    ForeignFeature,
    feature_name,
    inside,
    one_source,
    read_json,
    sha256_of,
    unique,
)
from cache_schema.exchange.manifest import (
    Exported,
    manifest_json,
    missing_row,
    parse_manifest,
    parse_utterance,
    state_of,
    utterance_json,
)
from cache_schema.exchange.npy_files import read_npy
from cache_schema.rows import Row
from cache_schema.settings import Spec

SUMMARY = "a folder per feature with a .npy file per sample, which MERTools reads too (export, import)"
LAYOUT = """\
FOLDER/mer.json                     the corpus and the features' specifications
FOLDER/samples.jsonl                a JSON object per line: file (name without .npy) and sample
FOLDER/NAME/FILE.npy                values (frames, ...) of a sample
FOLDER/NAME.ARRAY/FILE.npy          another array of the feature
FOLDER/NAME.missing.json            why samples have no arrays: {id: [failed or absent, reason]}"""
FOLDER = True


class ImportConfig(Description):
    """The folder says it all; a title, licence or language given here is not taken."""


class ExportConfig(Spec):
    """There is nothing to set."""


def write(selection: Selection, to: Path, config: ExportConfig) -> list[str]:
    """Write the folder; see `foreign.py` for the contract."""
    to.mkdir()
    files = {u.id: file_name(u.id) for u in selection.utterances}
    (to / "mer.json").write_text(manifest_json(selection), encoding="utf-8")
    with (to / "samples.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
        for utterance in selection.utterances:
            named = json.dumps(files[utterance.id])
            lines.write(f'{{"file": {named}, "sample": {utterance_json(utterance)}}}\n')
    for name, feature in selection.features.items():
        for array in feature.spec.arrays:
            _folder(to, name, array.name).mkdir()
        missing: dict[str, tuple[str, str]] = {}
        for utterance, row in selection.rows(name):
            if isinstance(row, dict):
                for array_name, values in row.items():
                    path = _folder(to, name, array_name) / f"{files[utterance.id]}.npy"
                    with path.open("xb") as file:
                        np.lib.format.write_array(file, values, allow_pickle=False)
            else:
                missing[utterance.id] = state_of(row)
        (to / f"{name}.missing.json").write_text(json.dumps(missing), encoding="utf-8")
    return []


def file_name(id_: str) -> str:
    """A sample's file name without its suffix: the id, with what a file name cannot hold written as in a URL."""
    name = quote(id_, safe="")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    return name if len(name) <= 200 else f"{name[:150]}-{hashlib.sha256(id_.encode()).hexdigest()[:16]}"


@contextmanager
def read(sources: Sequence[Path], config: ImportConfig) -> Iterator[Foreign]:
    """The samples and features of an exported folder.

    Raises:
        DataError: it is no such folder, or is damaged.
    """
    folder = one_source(sources, "a folder that mer exported")
    where = str(folder)
    try:
        manifest = parse_manifest((folder / "mer.json").read_bytes(), where)
        lines = (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")
        named = [json.loads(line) for line in lines if line]
        files = [str(one["file"]) for one in named]
        utterances = [parse_utterance(json.dumps(one["sample"]), f"{where}/samples.jsonl") for one in named]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is no folder that mer exported ({first_line(error)}).") from error
    ids = unique((u.id for u in utterances), where)
    places = dict(zip(ids, files, strict=True))
    features = [_feature(folder, name, one, places) for name, one in manifest.features.items()]
    yield Foreign(utterances, features, corpus=manifest.corpus)


def _feature(folder: Path, name: str, exported: Exported, places: dict[str, str]) -> ForeignFeature:
    where = f"{folder}/{name}"
    note = inside(folder, f"{name}.missing.json", where)
    document = read_json(note)
    if not isinstance(document, dict) or not all(isinstance(v, list) and len(v) == 2 for v in document.values()):
        raise DataError(f"{note} does not say why samples are missing.")
    missing: dict[str, Row] = {id_: missing_row(str(v[0]), str(v[1]), where) for id_, v in document.items()}
    folders = {array: inside(folder, _folder(Path(), name, array).as_posix(), where) for array in exported.arrays}
    return ForeignFeature(
        name=feature_name(name),
        modality=exported.spec.modality,
        arrays=exported.arrays,
        ids=frozenset(places),
        row=partial(_row, folders, places, missing, where),
        files={path.name: sha256_of(path) for path in (note, *folders.values())},
        rate_hz=exported.spec.rate_hz,
        random_weights=exported.spec.random_weights,
        origin=exported.origin,
    )


def _row(folders: dict[str, Path], places: dict[str, str], missing: dict[str, Row], where: str, id_: str) -> Row:
    if id_ in missing:
        return missing[id_]
    arrays: dict[str, NDArray[Any]] = {}
    for array, folder in folders.items():
        arrays[array] = read_npy(inside(folder, f"{places[id_]}.npy", where))
    return arrays


def _folder(top: Path, feature: str, array: str) -> Path:
    return top / (feature if array == "values" else f"{feature}.{array}")
