"""What CMU-MOSI and CMU-MOSEI share: how the CMU Multimodal SDK and MMSA write folds, labels and clips.

- Folds: the SDK's cmu_mosi_std_folds.py or cmu_mosei_std_folds.py, whose lists of video ids are parsed and never run,
  or a JSON file of lists.
- Labels: a computational sequence (.csd), an HDF5 file with `features` and `intervals` by video; or MMSA's label.csv,
  which has a line per clip with text, sentiment and split.
- Words: a computational sequence with the time of every word, which is optional.
- Clips: cut (one file per clip) or whole videos, to which intervals apply, as pictures with sound or sound alone.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, first_line
from cache_schema.samples import Corpus, Split, Utterance
from extract.alignment import word_times
from extract.dataset import (
    COUNT,
    LONGEST_SECONDS,
    SEE_LAYOUT,
    Enumeration,
    control_character,
    entries,
    find_file,
    folders_below,
    read_csv,
    read_text,
    require_text,
    some,
)

FOLD_NAMES: dict[str, Split] = {
    "standard_train_fold": "train",
    "standard_valid_fold": "val",
    "standard_test_fold": "test",
    "train": "train",
    "valid": "val",
    "val": "val",
    "dev": "val",
    "test": "test",
}
LABEL_COLUMNS = ("video_id", "clip_id", "text", "label")
LOWEST, HIGHEST = -3.0, 3.0
MOST_SEGMENTS = 1_000_000
"""Of one video."""
PAUSE = "sp"
"""What a word sequence holds between words."""
SPREADSHEET = "#NAME?"
LONGEST_ID = 200
"""Bytes of a video's id, to which a clip's file adds its number and suffix."""

T = TypeVar("T")
_Features = TypeVar("_Features", bound=Sized)


@dataclass(frozen=True)
class Labelled:
    """A line of label.csv: the sentiment of a clip, and its text and split where the file tells them."""

    video: str
    clip: int
    text: str | None
    sentiment: float
    split: Split | None


@dataclass(frozen=True)
class Place:
    """Where clips may lie.

    Attributes:
        folder: below the root or a folder near it, with {video} where each video has its own.
        name: of the file, with {video} and {clip}.
        whole: the file is the whole video.
    """

    folder: str
    name: str
    whole: bool = False


class Clips:
    """Finds files in the first of the places that has them.

    Args:
        root: the data root.
        places: in order of preference; each below the root or up to two folders below it.

    Attributes:
        absent: paths that were sought and are not there.
    """

    def __init__(self, root: Path, places: Sequence[Place]) -> None:
        bases = list(folders_below(root, 2))
        self._root = root
        self._places = [(base, place) for place in places for base in bases if (base / _fixed(place)).is_dir()]
        self._first = places[0]
        self._names: dict[Path, set[str]] = {}
        self._untimed: str | None = None
        self.absent: set[str] = set()

    def find(self, video: str, clip: int, timed: bool) -> tuple[str, bool, bool]:
        """(path relative to the root, whether it is the whole video, whether it is there).

        Of a whole video only a clip with times can be read: one without is absent where it is not cut.
        """
        for base, place in self._places:
            folder = base / place.folder.format(video=video)
            name = place.name.format(video=video, clip=clip)
            if name not in self._listing(folder):
                continue
            found = (folder / name).relative_to(self._root).as_posix()
            if timed or not place.whole:
                return found, place.whole, True
            self._untimed = self._untimed or f"{found} is a whole video, and nothing says where clip {clip} lies in it"
        base, place = self._places[0] if self._places else (self._root, self._first)
        path = base / place.folder.format(video=video) / place.name.format(video=video, clip=clip)
        relative = path.relative_to(self._root).as_posix()
        self.absent.add(relative)
        return relative, place.whole, False

    def refuse_untimed(self) -> None:
        """Refuse a root of whole videos without the times of their clips; to be asked where no clip was found.

        Raises:
            DataError: that is so.
        """
        if self._untimed:
            raise DataError(f"{self._untimed}: add the label sequence (.csd), or the transcripts with times.")

    def _listing(self, folder: Path) -> set[str]:
        if folder not in self._names:
            self._names[folder] = {entry.name for entry in entries(folder)} if folder.is_dir() else set()
        return self._names[folder]


def _fixed(place: Place) -> str:
    """The part of a place's folder that is the same for every video."""
    return place.folder.partition("{")[0].rstrip("/") or "."


def read_folds(root: Path, corpus: str) -> dict[str, Split] | None:
    """Video id -> official split, in the order of the lists; None where the root has no file of folds.

    Args:
        root: the data root; the file lies there or up to two folders below.
        corpus: mosi or mosei.

    Raises:
        DataError: there are two such files, or one holds no lists of ids, or a video stands in two of them.
    """
    names = (f"cmu_{corpus}_std_folds.py", f"{corpus}_folds.json", "cmu_standard_folds.json")
    file = find_file(root, names)
    if file is None:
        return None
    lists = _python_lists(file) if file.suffix == ".py" else _json_lists(file, corpus)
    folds: dict[str, Split] = {}
    for name, videos in lists.items():
        if name not in FOLD_NAMES:
            continue
        if not isinstance(videos, list) or not all(isinstance(video, str) for video in videos):
            raise DataError(f"{file}: {name!r} is no list of video ids.")
        for video in videos:
            _require_id(video, f"{file}: {name}")
            if folds.setdefault(video, FOLD_NAMES[name]) != FOLD_NAMES[name]:
                raise DataError(f"{file}: the video {video!r} stands in two folds.")
    lacking = [name for name in ("train", "valid", "test") if FOLD_NAMES[name] not in folds.values()]
    if lacking:
        raise DataError(f"{file} has no list of the {lacking[0]} fold (standard_{lacking[0]}_fold or {lacking[0]}).")
    return folds


def _python_lists(file: Path) -> dict[str, Any]:
    """The literal values that a Python file assigns to names; it is parsed, and nothing of it is run."""
    found: dict[str, Any] = {}
    try:
        tree = ast.parse(read_text(file))
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                name = statement.targets[0].id
                if name in FOLD_NAMES:
                    found[name] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise DataError(f"{file} holds no plain lists of video ids: {first_line(error)}.") from error
    return found


def _json_lists(file: Path, corpus: str) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {first_line(error)}.") from error
    lists = content.get(corpus, content) if isinstance(content, dict) else None
    if not isinstance(lists, dict):
        raise DataError(f"{file} is no object of lists of video ids, by train, valid and test.")
    return lists


def read_sequence(file: Path, width: int) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Video id -> (features (segments, width), intervals (segments, 2) in seconds) of a label sequence (.csd).

    Raises:
        DataError: it is no HDF5 file of the SDK, leads to another file, or holds arrays of other shapes.
    """
    return _read(file, lambda segments: _numbers(file, segments, "features", width))


def read_words(file: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Video id -> word, begin and end in seconds of a word sequence (.csd), in order, without its pauses.

    Raises:
        DataError: as `read_sequence`.
    """
    spoken = {}
    for video, (words, intervals) in _read(file, lambda segments: _words(file, segments)).items():
        timed = zip(words, intervals.tolist(), strict=True)
        spoken[video] = sorted(
            ((word, start, end) for word, (start, end) in timed if word != PAUSE and 0 <= start <= end),
            key=lambda found: found[1:],
        )
    return spoken


def _read(file: Path, read: Callable[[Any], _Features]) -> dict[str, tuple[_Features, NDArray[np.float64]]]:
    """Video id -> what `read` finds in its group, and its intervals (segments, 2)."""
    import h5py

    found = {}
    try:
        with h5py.File(file, "r") as content:
            roots = [group for name in content if "data" in (group := _own(file, content, name))]
            if len(roots) != 1:
                raise DataError(f"{file} is no computational sequence of the CMU SDK: no group holds `data`.")
            data = _own(file, roots[0], "data")
            for video in data:
                _require_id(video, str(file))
                segments = _own(file, data, video)
                found[video] = read(segments), _numbers(file, segments, "intervals", 2)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{file} cannot be read as a computational sequence (HDF5): {first_line(error)}.") from error
    for video, (features, intervals) in found.items():
        if len(features) != len(intervals):
            raise DataError(f"{file}: {video} has {len(features)} labels and {len(intervals)} intervals.")
    return found


def with_word_times(
    root: Path, names: Sequence[str], utterances: list[Utterance], spans: Mapping[str, tuple[float, float]]
) -> tuple[list[Utterance], list[str]]:
    """The utterances with the times of their words, where a word sequence lies in the root; notes.

    Args:
        root: the data root; the sequence lies there or up to two folders below.
        names: of the sequence.
        utterances: as they are.
        spans: by id, where in its video an utterance lies, in seconds; its words are those whose middle is there.
    """
    file = find_file(root, names)
    if file is None:
        return utterances, []
    spoken = read_words(file)
    found, other = [], []
    for utterance in utterances:
        words, span = spoken.get(utterance.dialogue or ""), spans.get(utterance.id)
        if words is not None and span is not None and utterance.text is not None:
            own = [
                (word, max(start - span[0], 0.0), max(end - span[0], 0.0))
                for word, start, end in words
                if span[0] <= (start + end) / 2 < span[1]
            ]
            times = word_times(utterance.text, own)
            if times is None:
                other.append(utterance.id)
            utterance = utterance.model_copy(update={"word_times": times})
        found.append(utterance)
    given = sum(u.word_times is not None for u in found)
    notes = [f"{file.name} says when the words of {given} of {len(found)} utterances are spoken."]
    if other:
        notes.append(f"it has other words than the text of {len(other)} utterances: {some(other)}.")
    return found, notes


def _words(file: Path, segments: Any) -> list[str]:
    stored = _own(file, segments, "features")
    if stored.external or stored.is_virtual:
        raise DataError(f"{file}: {segments.name}/features lies in another file, which is not followed.")
    if (
        len(stored.shape) != 2
        or stored.shape[1] != 1
        or stored.shape[0] > MOST_SEGMENTS
        or stored.dtype.kind not in "SO"
    ):
        raise DataError(
            f"{file}: {segments.name}/features holds no words (segments, 1): {stored.dtype} {stored.shape}."
        )
    return [w.decode("utf-8", "replace") if isinstance(w, bytes) else str(w) for w in stored[()][:, 0].tolist()]


def _own(file: Path, group: Any, name: str) -> Any:
    """What `group` holds under `name`; links, which may lead to other files, are not followed."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{file}: {group.name}/{name} is a link to elsewhere, which is not followed, or is absent.")
    return group[name]


def _numbers(file: Path, segments: Any, name: str, width: int) -> NDArray[np.float64]:
    stored = _own(file, segments, name)
    shape = stored.shape
    if stored.external or stored.is_virtual:
        raise DataError(f"{file}: {segments.name}/{name} lies in another file, which is not followed.")
    if len(shape) != 2 or shape[1] != width or shape[0] > MOST_SEGMENTS:  # a shape costs no bytes, an array does
        raise DataError(f"{file}: {segments.name}/{name} holds no numbers (segments, {width}): {shape}.")
    array = np.asarray(stored[()], np.float64)
    if not (np.abs(array) <= LONGEST_SECONDS).all():
        raise DataError(f"{file}: {segments.name}/{name} holds values that are no finite numbers, or enormous ones.")
    return array


def read_labels(file: Path) -> Iterator[Labelled]:
    """The lines of MMSA's label.csv.

    Raises:
        DataError: a column is absent, or a value is not what it must be.
    """
    seen: dict[tuple[str, int], str] = {}
    for record in read_csv(file.name, read_text(file, fallback_encoding="cp1252")):
        lacking = [column for column in LABEL_COLUMNS if column not in record.values]
        if lacking:
            raise DataError(f"{file}: there is no column {lacking[0]!r}; a label.csv has {', '.join(LABEL_COLUMNS)}.")
        row = record.values
        if row["video_id"] == SPREADSHEET:
            raise DataError(
                f"{record.where}: video_id is {SPREADSHEET}: a spreadsheet took an id that begins with - or = for a "
                "formula. Get the file anew."
            )
        _require_id(row["video_id"], record.where)
        if not COUNT.fullmatch(row["clip_id"]):
            raise DataError(f"{record.where}: clip_id is {row['clip_id']!r}, not a number.")
        key = row["video_id"], int(row["clip_id"])
        if key in seen:
            raise DataError(f"{record.where}: clip {key[1]} of {key[0]} stands already at {seen[key]}.")
        seen[key] = record.where
        mode = row.get("mode") or None
        if mode is not None and mode not in FOLD_NAMES:
            raise DataError(f"{record.where}: mode is {mode!r}, not train, valid or test.")
        try:
            sentiment = float(row["label"])
        except ValueError:
            sentiment = math.nan
        yield Labelled(
            *key,
            text=require_text(record.where, "text", row["text"]),
            sentiment=require_sentiment(record.where, sentiment),
            split=FOLD_NAMES[mode] if mode else None,
        )


def require_sentiment(where: str, value: float) -> float:
    """A sentiment.

    Raises:
        DataError: it is not from -3 to 3.
    """
    if not LOWEST <= value <= HIGHEST:
        raise DataError(f"{where}: the sentiment is {value:g}, and it goes from -3 to 3.")
    return float(value)


def summed_up(
    corpus: Corpus, utterances: list[Utterance], folds: dict[str, Split], official: dict[str, int], clips: Clips
) -> Enumeration:
    """The corpus with its notes: absent clips and texts, videos outside the folds, counts that are not official.

    Raises:
        DataError: of all clips there are but whole videos, and no times.
    """
    missing = [u.id for u in utterances if u.path in clips.absent]
    if len(missing) == len(utterances):
        clips.refuse_untimed()
    notes = [f"{len(missing)} of {len(utterances)} clips are absent: {some(missing)}."] if missing else []
    if without := [u.id for u in utterances if u.text is None]:
        notes.append(f"{len(without)} of {len(utterances)} clips have no transcript: {some(without)}.")
    videos = dict.fromkeys(u.dialogue or "" for u in utterances)
    if outside := [video for video in videos if video not in folds]:
        notes.append(f"{len(outside)} labelled videos are in no fold and so in no split: {some(outside)}.")
    if unlabelled := [video for video in folds if video not in videos]:
        notes.append(f"{len(unlabelled)} videos of the folds have no label: {some(unlabelled)}.")
    counts = {split: sum(u.split == split for u in utterances) for split in official}
    if counts != official:
        found, expected = ("/".join(map(str, c.values())) for c in (counts, official))
        notes.append(f"not the official counts: {found} clips in train/valid/test, where {corpus.name} has {expected}.")
    return Enumeration(corpus, utterances, notes, len(missing))


def ordered(labels: dict[tuple[str, int], T], folds: dict[str, Split]) -> list[tuple[tuple[str, int], T]]:
    """(video, clip) and label, by split, by place of the video in the folds, by clip."""
    splits: dict[Split | None, int] = {"train": 0, "val": 1, "test": 2, None: 3}
    places = {video: (splits[split], place) for place, (video, split) in enumerate(folds.items())}

    def key(item: tuple[tuple[str, int], T]) -> tuple[int, int, str, int]:
        video, clip = item[0]
        return *places.get(video, (splits[None], 0)), video, clip

    return sorted(labels.items(), key=key)


def _require_id(video: str, where: str) -> None:
    """Refuse a video id that is no name of a file."""
    unlike = not video or video in (".", "..") or "/" in video or "\\" in video or control_character(video)
    if unlike or len(video.encode()) > LONGEST_ID:
        raise DataError(f"{where}: {video[:80]!r} is not the id of a video. {SEE_LAYOUT}")
