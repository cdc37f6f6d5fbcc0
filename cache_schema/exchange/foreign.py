"""What an exchange format is: the contract of every file in `cache_schema/exchange/formats/`.

A format has
    SUMMARY    one line for `mer store formats`
    LAYOUT     what lies where, several lines, for `mer store formats`
and, where it can be imported,
    ImportConfig                     a `Description`: the settings of `mer store import FORMAT --set`
    read(sources, config) -> ContextManager[Foreign]
               looks at headers and labels; arrays may be read later, sample by sample, until the context ends
and, where it can be exported to,
    FOLDER     whether the result is a folder, else it is a file
    ExportConfig                     a `Spec`: the settings of `mer store export FORMAT --set`
    write(selection, to, config) -> list[str]
               writes a new file or folder at `to`, and says what is worth knowing

What a foreign file says is never trusted: nothing in it is run, no link in it is followed, no size in it is allocated
before it is compared with the bytes that are there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.errors import DataError, SettingsError, first_line
from cache_schema.feature_spec import Modality
from cache_schema.registry import unknown_name
from cache_schema.rows import Row
from cache_schema.samples import Corpus, Split, Target, Utterance
from cache_schema.settings import Spec

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
"""What splits are called elsewhere."""

MODALITY_NAMES: dict[str, Modality] = {
    "text": "text",
    "language": "text",
    "audio": "speech",
    "acoustic": "speech",
    "speech": "speech",
    "vision": "vision",
    "video": "vision",
    "visual": "vision",
    "physiology": "physiology",
}
"""What modalities are called elsewhere."""


class Description(Spec):
    """What the settings of every import have in common: facts that foreign files do not hold."""

    title: str | None = None
    """The dataset's full name and citation, where the files do not say it."""
    licence: str | None = None
    """The terms under which it may be used, where the files do not say them."""
    language: str = "en"
    """BCP 47 tag of the speech and the transcripts."""
    id_pattern: str | None = None
    """Regular expression for a whole id with the groups dialogue, turn or speaker, as
    `(?P<dialogue>.+)_(?P<turn>[0-9]+)`; it fills what the files do not say."""
    notes: tuple[str, ...] = ()
    """What whoever uses this release should know; said after each import."""


@dataclass(frozen=True)
class ForeignArray:
    """One array of a foreign feature, as the file has it.

    Attributes:
        dtype: type of an element.
        tail: shape of one frame, without the time axis.
    """

    dtype: np.dtype[Any]
    tail: tuple[int, ...]


@dataclass(frozen=True)
class ForeignFeature:
    """A feature in foreign files.

    Attributes:
        name: the feature's name in the store.
        modality: which modality it describes.
        arrays: `values` first.
        ids: the samples that the files have.
        row: the sample's arrays by name (frames, *tail), or why there are none.
        files: sha256 of each file, or of a folder's files, by name.
        settings: what else decides the numbers.
        rate_hz: frames per second, where the files say so.
        aligned: frame k of this feature and of every other aligned one of the import belong together.
        random_weights: the files say that the numbers are of random weights.
        origin: what else the files say of where the numbers come from; provenance.
    """

    name: str
    modality: Modality
    arrays: Mapping[str, ForeignArray]
    ids: Collection[str]
    row: Callable[[str], Row]
    files: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    rate_hz: float | None = None
    aligned: bool = False
    random_weights: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Foreign:
    """A dataset in foreign files.

    Attributes:
        utterances: its samples, in order.
        features: what is to be imported.
        targets: what can be learnt from the labels.
        corpus: the whole description, where the files have it.
        notes: lines for the user: what was left out and why.
    """

    utterances: list[Utterance]
    features: list[ForeignFeature]
    targets: tuple[Target, ...] = ()
    corpus: Corpus | None = None
    notes: list[str] = field(default_factory=list)


def feature_name(text: str) -> str:
    """A foreign feature's name as one of the store: lower case, `-` for what a name cannot hold.

    Raises:
        DataError: nothing of it can stand in a name.
    """
    name = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_").lstrip("0123456789-_")
    if not name:
        raise DataError(f"A feature called {text!r} has no letter that a name in the store may begin with.")
    return name


def modality_of(name: str, given: Mapping[str, str], where: str) -> Modality:
    """The modality that is given for a feature, or that its name tells.

    Raises:
        SettingsError: it is neither given nor told.
    """
    told = given.get(name, name)
    if told not in MODALITY_NAMES:
        raise SettingsError(
            f"{where}: of which modality is {name!r}? Say it with --set "
            f"'modalities={json.dumps({name: 'text'})}' (text, speech, vision or physiology)."
        )
    return MODALITY_NAMES[told]


def split_named(name: str, where: str) -> Split:
    """The split that is called `name` elsewhere.

    Raises:
        DataError: none is.
    """
    if name.lower() not in SPLIT_NAMES:
        raise DataError(f"{where}: " + unknown_name("split", name, list(SPLIT_NAMES)))
    return SPLIT_NAMES[name.lower()]


def one_source(sources: Sequence[Path], what: str) -> Path:
    """The only source.

    Raises:
        SettingsError: there are several.
    """
    if len(sources) != 1:
        raise SettingsError(f"{len(sources)} sources were given, and this format reads one: {what}.")
    return sources[0]


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, or of the list of a folder's files and their digests.

    Raises:
        DataError: it cannot be read.
    """
    try:
        if path.is_dir():
            found = {
                file.relative_to(path).as_posix(): sha256_of(file)
                for file in sorted(path.rglob("*"))
                if file.is_file() and not file.name.startswith(".")
            }
            return sha256_hex(canonical_bytes(found))
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error


def inside(folder: Path, name: str, where: str) -> Path:
    """The file called `name` below `folder`.

    Raises:
        DataError: it leaves the folder, or is not there.
    """
    pure = PurePosixPath(name)
    path = folder / pure
    if pure.is_absolute() or ".." in pure.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{where}: {name!r} lies outside {folder}.")
    if not path.exists():
        raise DataError(f"{where}: {folder} has no {name!r}.")
    return path


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {first_line(error)}.") from error


def unique(names: Iterable[str], where: str) -> list[str]:
    """The names, in order.

    Raises:
        DataError: one stands there twice.
    """
    seen: set[str] = set()
    found = []
    for name in names:
        if name in seen:
            raise DataError(f"{where}: the sample {name!r} stands there twice.")
        seen.add(name)
        found.append(name)
    return found
