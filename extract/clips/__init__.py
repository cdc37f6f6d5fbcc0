"""Single clips, of no corpus: what they hold, how they become utterances, and their features.

A clip is one utterance where its transcript has no times and it is short; else its transcript's lines are its
utterances, or windows between pauses (`extract/clips/windows.py`). They lie in a dataset of their own in a store, so
that everything which reads a store reads them too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, first_line
from cache_schema.samples import Corpus, Target, Utterance
from cache_schema.store import FeatureStore
from extract import pipeline
from extract.clips.matching import Match
from extract.clips.subtitles import Line, read_transcript
from extract.clips.windows import (
    FRAMES_PER_SECOND,
    RATE_HZ,
    Cutting,
    Stretch,
    even_windows,
    levels,
    windows_of_speech,
)
from extract.dataset import some
from extract.decoding.containers import open_container
from extract.decoding.quarantine import decode
from extract.decoding.streams import StreamError
from extract.encoder import Needs
from extract.pipeline import Progress
from extract.recognition import Recogniser, is_wanted, recognised

DATASET = "clips"
UNKNOWN = "und"
"""BCP 47 for a language that is not known, or not one alone."""
PIECE_SECONDS = 600
"""A longer clip's loudness is taken piece by piece, so that its sound is never in memory as a whole."""
TOLERANCE = 0.5
"""Seconds that a transcript may go on after its clip's end."""


@dataclass(frozen=True)
class Clip:
    """A file of media and its utterances.

    Attributes:
        path: the file.
        name: what it is called in ids: its path below the folder that holds all clips.
        sound, pictures: whether it has them.
        seconds: its length by its header; None where that does not say.
        utterances: in the order of time.
        language: of what was recognised in it, as Whisper names it; None: nothing was.
        notes: what is to be said about it.
    """

    path: Path
    name: str
    sound: bool
    pictures: bool
    seconds: float | None
    utterances: tuple[Utterance, ...] = ()
    language: str | None = None
    notes: tuple[str, ...] = ()


def open_clips(paths: Sequence[Path]) -> tuple[Path, list[Clip]]:
    """The folder that holds all clips, and what each clip is by its header.

    Raises:
        DataError: a file is not there, is given twice, or holds no media.
    """
    whole = [path.absolute() for path in paths]
    for path, absolute in zip(paths, whole, strict=True):
        if not path.is_file():
            raise DataError(f"{path} {'is a folder: name its clips' if path.is_dir() else 'does not exist'}.")
        if whole.count(absolute) > 1:
            raise DataError(f"{path} is given twice.")
        if not path.stat().st_size:
            raise DataError(f"{path} is empty (0 bytes): copy or record it again.")
    root = Path(os.path.commonpath([path.parent for path in whole]))
    return root, [
        _look(path, absolute.relative_to(root).as_posix()) for path, absolute in zip(paths, whole, strict=True)
    ]


def _look(path: Path, name: str) -> Clip:
    import av
    from av.stream import Disposition

    try:
        with open_container(path) as container:
            kinds = {s.type for s in container.streams if not s.disposition & Disposition.attached_pic}
            seconds = None if container.duration is None else container.duration / av.time_base
    except (StreamError, av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as video or sound ({first_line(error)}).") from error
    if not kinds & {"audio", "video"}:
        raise DataError(f"{path} holds neither sound nor pictures.")
    return Clip(path, name, "audio" in kinds, "video" in kinds, seconds)


def cut(clip: Clip, root: Path, transcript: Path | None, cutting: Cutting) -> Clip:
    """The clip with its utterances.

    Args:
        clip: as `open_clips` has it.
        root: the folder that all clips lie in.
        transcript: its transcript, or None.
        cutting: how long windows are.

    Raises:
        DataError: the transcript is of something else, or has no times and the clip is long.
    """
    lines = [] if transcript is None else read_transcript(transcript)
    if lines and lines[0] == Line(None):
        lines, clip = [], replace(clip, notes=(f"{transcript} holds no words: it is as without a transcript.",))
    if clip.seconds is None and clip.sound:
        clip = replace(clip, seconds=len(_levels(clip, root)) / FRAMES_PER_SECOND)
    if lines and lines[0].start is not None:
        return _with_lines(clip, lines, str(transcript))
    short = clip.seconds is None or clip.seconds <= cutting.longest
    if not short and lines:
        raise DataError(
            f"{transcript} does not say when something is said, and {clip.path} has {clip.seconds:.0f} s, more than "
            f"--longest {cutting.longest:g}: give a .srt, .vtt or .csv with times, or raise --longest."
        )
    if short:
        text = lines[0].text if lines else None
        alone = Utterance(id=clip.name, path=clip.name, duration=clip.seconds, text=text, dialogue=clip.name, turn=0)
        return replace(clip, utterances=(alone,))
    stretches, notes = _stretches(clip, root, cutting)
    windows = tuple(_numbered(clip, [Line(None, *s) for s in stretches]))
    return replace(clip, utterances=windows, notes=(*clip.notes, *notes))


def _with_lines(clip: Clip, lines: Sequence[Line], transcript: str) -> Clip:
    said = [line for line in lines if line.text is not None]
    if not said:
        raise DataError(f"{transcript} has times and no words.")
    last = lines[-1].start or 0.0, max(line.end or 0.0 for line in lines)
    if clip.seconds is not None and (last[0] >= clip.seconds or last[1] > clip.seconds + TOLERANCE):
        raise DataError(f"{transcript} goes on to {last[1]:.2f} s, and {clip.path} ends at {clip.seconds:.2f} s.")
    silent = [f"{line.start:.2f} s" for line in lines if line.text is None]
    notes = (f"left out {len(silent)} lines of {transcript} that have no words, at {some(silent)}.",) if silent else ()
    return replace(clip, utterances=tuple(_numbered(clip, said)), notes=notes)


def _numbered(clip: Clip, lines: Sequence[Line]) -> Iterator[Utterance]:
    """Lines as utterances of one conversation."""
    for turn, line in enumerate(lines):
        end = line.end if line.end is None or clip.seconds is None else min(line.end, clip.seconds)
        yield Utterance(
            id=f"{clip.name}#{turn + 1}",
            path=clip.name,
            start=line.start,
            end=end,
            duration=None if end is None else end - (line.start or 0.0),
            text=line.text,
            speaker=line.speaker,
            dialogue=clip.name,
            turn=turn,
        )


def _stretches(clip: Clip, root: Path, cutting: Cutting) -> tuple[list[Stretch], tuple[str, ...]]:
    """The windows of a long clip, and what is to be said about them."""
    seconds = clip.seconds or 0.0
    if not clip.sound:
        return even_windows(seconds, cutting.longest), ("it has no sound to cut it by: windows of equal length.",)
    found = windows_of_speech(_levels(clip, root), cutting)
    if not found:
        return even_windows(seconds, cutting.longest), ("no speech was found in it: windows of equal length.",)
    return [(begin, min(end, seconds)) for begin, end in found if begin < seconds], ()


def _levels(clip: Clip, root: Path) -> NDArray[np.float64]:
    """How loud a clip is at each frame of `extract/clips/windows.py`; a long one is heard piece by piece."""
    starts = list(range(0, max(1, int(clip.seconds or 0)), PIECE_SECONDS))
    found = []
    for start in starts:
        end = start + PIECE_SECONDS if start != starts[-1] else None
        piece = Utterance(id=clip.name, path=clip.name, start=start or None, end=end)
        heard = decode(root, piece, [Needs(audio_hz=RATE_HZ)])
        if "audio" in heard.unreadable:
            raise DataError(f"{heard.unreadable['audio'].reason}. It cannot be cut into windows.")
        level = levels(heard.audio[RATE_HZ])
        missing = 0 if end is None else max(0, PIECE_SECONDS * FRAMES_PER_SECOND - len(level))
        found.append(np.pad(level, (0, missing), mode="edge") if len(level) else level)
    return np.concatenate(found)


def listen(clip: Clip, root: Path, recogniser: Recogniser) -> Clip:
    """The clip with what is said in those of its utterances that have no transcript.

    Where the language is not known, it is that of the longest of them.
    """
    silent = sorted((u for u in clip.utterances if is_wanted(u)), key=lambda u: -(u.duration or 0.0))
    if not silent or not clip.sound:
        return clip
    found = list(recognised(silent[:1], root, recogniser))
    language = found[0][1]
    found += recognised(silent[1:], root, recogniser, language)
    heard = {utterance.id: utterance for utterance, _ in found}
    return replace(clip, language=language, utterances=tuple(heard.get(u.id, u) for u in clip.utterances))


def extract_clips(
    store: FeatureStore,
    clips: Sequence[Clip],
    root: Path,
    matches: Sequence[Match],
    target: Target,
    device: str,
    progress: Progress = lambda done, total, failed: None,
) -> None:
    """Write the features of all clips into a dataset of the store, each encoder loaded once.

    Args:
        store: open for appending.
        clips: with their utterances.
        root: the folder that they lie in.
        matches: the encoders.
        target: what will be predicted of them.
        device: torch device of the encoders; `auto`: a GPU where there is one.
        progress: called with (rows done, rows to do, rows failed).
    """
    corpus = Corpus(name=DATASET, title="Clips", licence="as their owner says", language=UNKNOWN, targets=(target,))
    store.append_samples(corpus, [utterance for clip in clips for utterance in clip.utterances])
    pipeline.run([match.job(store, DATASET) for match in matches], root, device, None, progress)
