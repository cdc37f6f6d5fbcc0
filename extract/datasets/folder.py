"""A folder of media of one's own, with an optional manifest.

Provenance and licence: the user's. Without a manifest every video, sound and picture file below the folder is a
sample; its id is its path without the suffix, or with it where two files share the rest. With a manifest
(`manifest.csv` or `manifest.jsonl`) a line is a sample, in the manifest's order. Labels that are all numbers
make a regression target, any others a classification target with sorted classes, none no target.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from cache_schema.errors import DataError
from cache_schema.registry import unknown_name
from cache_schema.samples import SPLITS, Corpus, Split, Target, Utterance
from extract.dataset import (
    BLANKS,
    LONGEST_SECONDS,
    SEE_LAYOUT,
    Enumeration,
    Probe,
    Record,
    control_character,
    path_inside,
    read_csv,
    read_text,
    require_root,
    some,
)
from extract.physiology import recordings

SUMMARY = "a folder of your own clips, with or without a manifest of ids, texts, labels, speakers and splits"
COLUMNS = ("id", "path", "signals", "text", "label", "speaker", "dialogue", "split", "start", "end")
LAYOUT = f"""\
ROOT/anything.mp4                   video, sound or pictures, in folders of any depth
ROOT/manifest.csv                   optional, or manifest.jsonl: one sample a line, with any of the columns
    {", ".join(COLUMNS)}
path is relative to ROOT; id defaults to path without suffix; split is train, val (or dev) or test; start and end
are seconds within the clip; labels that are all numbers are regressed, others classified. signals is a physiological
recording, relative to ROOT: a .csv with a column `time` in seconds and one per channel, or an Empatica E4's folder."""

MANIFESTS = ("manifest.csv", "manifest.jsonl")
VIDEO = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".3gp"})
AUDIO = frozenset({".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff"})
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
MEDIA = VIDEO | AUDIO | PICTURES

_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_NOT_FINITE = frozenset({"nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})


def enumerate_corpus(root: Path, probe: Probe) -> Enumeration:
    """All samples, in the manifest's order or sorted by path.

    Raises:
        DataError: the root is absent or holds nothing to read, or a line of the manifest is not what it must be.
    """
    require_root(root)
    media, others = _listing(root)
    manifests = [name for name in MANIFESTS if name in others]
    if len(manifests) > 1:
        raise DataError(f"{root} has both {' and '.join(manifests)}: keep one.")
    if manifests:
        return _from_manifest(root, root / manifests[0], media, others, probe)
    if not media:
        raise DataError(f"{root} has no media files and no manifest. {SEE_LAYOUT}")
    for name in media:
        if control := control_character(name):
            raise DataError(f"{root}: the name of {name!r} holds the character {control}; rename the file.")
    samples = [
        _utterance(f"{root}, {path!r}", id=name, path=path, duration=_probe(root, path, probe))
        for path, name in zip(media, _names(media), strict=True)
    ]
    return Enumeration(_corpus(()), samples, _not_media(others))


def _leads_back(folder: Path, root: Path) -> bool:
    """Whether `folder` is a link to one of the folders on the way to it, those above the root included."""
    if not folder.is_symlink():
        return False
    way = {parent.resolve() for parent in folder.parents if parent.is_relative_to(root)}
    return folder.resolve() in way.union(root.resolve().parents)


def _not_media(others: list[str]) -> list[str]:
    return [f"left out {len(others)} files that are not media by their suffix: {some(others)}."] if others else []


def _listing(root: Path) -> tuple[list[str], list[str]]:
    """Media and other files below the root, hidden ones among the others, relative and sorted.

    Links to folders are followed, but for those that lead back to a folder that they lie in.
    """
    media: list[str] = []
    others: list[str] = []

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error

    for folder, below, files in os.walk(root, onerror=refuse, followlinks=True):
        below[:] = [name for name in sorted(below) if not _leads_back(Path(folder) / name, root)]
        for file in files:
            path = (Path(folder) / file).relative_to(root)
            is_media = path.suffix.lower() in MEDIA and not any(part.startswith(".") for part in path.parts)
            (media if is_media else others).append(path.as_posix())
    return sorted(media), sorted(others)


def _names(paths: list[str]) -> list[str]:
    """Unique ids: paths without suffix; with it where several share the rest."""
    stems = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    count = Counter(stems)
    names = [stem if count[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]
    return names if len(set(names)) == len(names) else paths


def _probe(root: Path, path: str, probe: Probe) -> float | None:
    return None if PurePosixPath(path).suffix.lower() in PICTURES else probe(root / path)


def _corpus(targets: tuple[Target, ...]) -> Corpus:
    return Corpus(name="folder", title="A folder of clips", licence="as its owner says", targets=targets)


def _from_manifest(root: Path, manifest: Path, media: list[str], others: list[str], probe: Probe) -> Enumeration:
    text = read_text(manifest)
    records = list(read_csv(manifest.name, text) if manifest.suffix == ".csv" else _read_jsonl(manifest.name, text))
    if not records:
        raise DataError(f"{manifest} lists no samples.")
    for record in records:
        for column in record.values:
            if column not in COLUMNS:
                raise DataError(f"{record.where}: " + unknown_name("column", column, list(COLUMNS)))
    paths = [_path(record, root) for record in records]
    distinct = list(dict.fromkeys(path for path in paths if path))
    default_names = dict(zip(distinct, _names(distinct), strict=True))
    labels = _labels(records)
    kind = "regression" if any(isinstance(label, float) for label in labels) else "classification"
    durations: dict[str, float | None] = {}
    present = {*media, *others}
    missing: list[str] = []
    seen: dict[str, str] = {}
    measured: dict[str, tuple[str, ...]] = {}
    broken: list[str] = []
    reasons: list[DataError] = []
    samples: list[Utterance] = []
    for record, path, label in zip(records, paths, labels, strict=True):
        name = _name(record, default_names.get(path or ""))
        if name in seen:
            raise DataError(f"{record.where}: id {name!r} stands already at {seen[name]}; give each sample its own.")
        seen[name] = record.where
        start, end = _seconds(record, "start"), _seconds(record, "end")
        if end is not None and end <= (start or 0.0):
            raise DataError(f"{record.where}: end is {end:g} s, not after start, {start or 0.0:g} s.")
        if path is not None and path not in present:
            missing.append(path)
        elif path is not None and end is None and path not in durations:
            durations[path] = _probe(root, path, probe)
        signals = _value(record, "signals")
        if signals is not None:
            signals = path_inside(signals, record.where, root)
            if signals not in measured:
                try:
                    measured[signals] = recordings.channels(root / signals)
                except DataError as error:  # a damaged one is a failure of its samples, as a damaged clip is
                    measured[signals] = ()
                    broken.append(signals)
                    reasons.append(error)
        samples.append(
            _utterance(
                record.where,
                id=name,
                path=path,
                signals=signals,
                start=start,
                end=end,
                duration=_duration(start, end, durations.get(path or "")),
                text=_value(record, "text", allowed="\t\r\n"),
                speaker=_value(record, "speaker"),
                dialogue=_value(record, "dialogue"),
                split=_split(record),
                labels={"label": label} if isinstance(label, str) else {},
                scores={"label": label} if isinstance(label, float) else {},
            )
        )
    named = {manifest.name, *default_names}
    notes = _not_media([name for name in others if name not in named and not _belongs(name, measured)])
    unlisted = [path for path in media if path not in default_names]
    if unlisted:
        notes.append(f"left out {len(unlisted)} media files that {manifest.name} does not name: {some(unlisted)}.")
    if missing:
        notes.append(f"{len(missing)} of {len(samples)} samples name a clip that is absent: {some(missing)}.")
    if broken:
        if len(broken) == len(measured):
            raise reasons[0]
        notes.append(f"{len(broken)} of {len(measured)} recordings cannot be read: {some(broken)}. {reasons[0]}")
    targets: tuple[Target, ...] = ()
    if kind == "regression":
        targets = (Target(name="label", kind="regression"),)
        notes.append("all labels are numbers: a regression target; use words where they stand for classes.")
    elif classes := tuple(sorted({label for label in labels if isinstance(label, str)})):
        targets = (Target(name="label", kind="classification", classes=classes),)
    channels = tuple(dict.fromkeys(channel for own in measured.values() for channel in own))
    return Enumeration(_corpus(targets), samples, notes, len(missing), channels)


def _belongs(name: str, recordings: Collection[str]) -> bool:
    """Whether a file is one of the recordings, or lies in one."""
    return any(name == recording or name.startswith(f"{recording}/") for recording in recordings)


def _read_jsonl(name: str, text: str) -> Iterator[Record]:
    """A record per line that is not blank; null and absent are the same, numbers are read as they are written."""
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{name}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: not a JSON object.")
        for column, value in row.items():
            if value is not None and not isinstance(value, str):
                raise DataError(f"{where}: {column} must be text or a number.")
        yield Record(where, {column: (value or "").strip(BLANKS) for column, value in row.items()})


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return row


def _value(record: Record, column: str, allowed: str = "") -> str | None:
    value = record.values.get(column) or None
    if value is not None and (control := control_character(value, allowed)):
        raise DataError(f"{record.where}: {column} holds the character {control}; remove it.")
    return value


def _path(record: Record, root: Path) -> str | None:
    path = _value(record, "path")
    if path is None:
        if not record.values.get("text") and not record.values.get("signals"):
            raise DataError(f"{record.where}: neither path nor text nor signals: a sample needs one of them.")
        return None
    return path_inside(path, record.where, root)


def _name(record: Record, default: str | None) -> str:
    name = _value(record, "id") or default
    if name is None:
        raise DataError(f"{record.where}: a sample without a path needs an id.")
    return name


def _split(record: Record) -> Split | None:
    value = _value(record, "split")
    if value == "dev":
        return "val"
    for split in SPLITS:
        if value == split:
            return split
    if value is None:
        return None
    raise DataError(f"{record.where}: " + unknown_name("split", value, list(SPLITS)))


def _seconds(record: Record, column: str) -> float | None:
    value = _value(record, column)
    if value is None:
        return None
    if not _DECIMAL.fullmatch(value) or not 0 <= float(value) <= LONGEST_SECONDS:
        raise DataError(f"{record.where}: {column} is {value[:80]!r}; it must be seconds, 0 to {LONGEST_SECONDS:g}.")
    return float(value)


def _duration(start: float | None, end: float | None, whole: float | None) -> float | None:
    if end is not None:
        return end - (start or 0.0)
    left = None if whole is None else whole - (start or 0.0)
    return left if left is not None and left > 0 else None


def _labels(records: list[Record]) -> list[str | float | None]:
    """Each sample's label: a number where all are numbers."""
    texts = [_value(record, "label") for record in records]
    given = [text for text in texts if text is not None]
    numeric = [bool(_DECIMAL.fullmatch(text)) for text in given]
    if not any(numeric) or not all(n or text.lower() in _NOT_FINITE for n, text in zip(numeric, given, strict=True)):
        return list(texts)
    numbers: list[str | float | None] = []
    for record, text in zip(records, texts, strict=True):
        if text is not None and not (_DECIMAL.fullmatch(text) and math.isfinite(float(text))):
            raise DataError(f"{record.where}: label is {text!r} among numbers; leave it empty where there is none.")
        numbers.append(None if text is None else float(text))
    return numbers


def _utterance(where: str, **values: object) -> Utterance:
    try:
        return Utterance.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{where}: {first['loc'][0]}: {first['msg']}.") from error
