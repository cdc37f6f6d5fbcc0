"""The corpus on disk: mp4 files and CSVs in MELD's own layout."""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache_schema.canonical import seal, unseal
from cache_schema.errors import DamagedError, DataError
from extract.datasets.meld import CLIP_FOLDERS
from extract.synthetic.face import perform
from extract.synthetic.look import draw_look
from extract.synthetic.plan import NAMES, Line, SyntheticSpec, plan
from extract.synthetic.voice import draw_voice, speak

MARKER = "synthetic.json"
"""Stands in the folder when the corpus is complete, with its settings."""
HEADER = (
    "Sr No.",
    "Utterance",
    "Speaker",
    "Emotion",
    "Sentiment",
    "Dialogue_ID",
    "Utterance_ID",
    "Season",
    "Episode",
    "StartTime",
    "EndTime",
)
PAUSE_SECONDS = 0.4
AUDIO_BIT_RATE = 64_000
WORTH_PROCESSES = 200
"""Clips that take longer to make than processes take to start."""
X264 = {"preset": "ultrafast", "crf": "20", "flags": "+bitexact"}
AAC = {"aac_coder": "fast", "flags": "+bitexact"}


def make_corpus(folder: Path, spec: SyntheticSpec | None = None, on_clip: Callable[[], None] | None = None) -> bool:
    """Make the corpus in `folder`, whole or not at all: it is built beside the folder and renamed.

    Args:
        folder: must be absent or empty, or hold the corpus of the same settings already.
        spec: what to make; None for the defaults.
        on_clip: called after each clip, by the thread that called this function.

    Returns:
        False where the folder held it already and nothing was done.

    Raises:
        DataError: the folder holds something else.
    """
    spec = spec or SyntheticSpec()
    if _is_made(folder, spec):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        work = Path(scratch) / folder.name
        for clips in CLIP_FOLDERS.values():
            (work / clips).mkdir(parents=True)
        lines = plan(spec)
        with _pool(len(lines)) as pool:
            for part in CLIP_FOLDERS:
                _make_part(work, part, [line for line in lines if line.part == part], spec, pool, on_clip)
        (work / MARKER).write_bytes(seal({"synthetic": spec.model_dump(mode="json")}))
        try:
            work.rename(folder)
        except OSError:
            if _is_made(folder, spec):
                return False
            raise
    return True


def _is_made(folder: Path, spec: SyntheticSpec) -> bool:
    """Whether the folder holds this corpus; refuses anything else but an absent or empty folder."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.")
    marker = folder / MARKER
    if not marker.exists():
        if any(folder.iterdir()):
            raise DataError(f"{folder} is not empty and has no {MARKER}: choose another folder for the corpus.")
        return False
    try:
        there = unseal(marker.read_bytes(), str(marker), f"Remove {folder} to make the corpus anew.").get("synthetic")
    except DamagedError as error:
        raise DataError(str(error)) from error
    if there != spec.model_dump(mode="json"):
        raise DataError(
            f"{folder} holds a synthetic corpus of other settings ({json.dumps(there)}): remove it or choose another."
        )
    return True


def _pool(clips: int) -> Executor:
    """Processes, one per core, for as many clips as pay for starting them; else threads."""
    if clips < WORTH_PROCESSES:
        return ThreadPoolExecutor()
    return ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))


def _make_part(
    work: Path,
    part: str,
    lines: list[Line],
    spec: SyntheticSpec,
    pool: Executor,
    on_clip: Callable[[], None] | None,
) -> None:
    files = [work / CLIP_FOLDERS[part] / f"{line.clip}.mp4" for line in lines]
    lengths = []
    for seconds in pool.map(make_clip, files, lines, itertools.repeat(spec), chunksize=4):
        lengths.append(seconds)
        if on_clip:
            on_clip()
    with (work / f"{part}_sent_emo.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        end = 0.0
        for number, (line, seconds) in enumerate(zip(lines, lengths, strict=True), 1):
            start = 0.0 if line.turn == 0 else end + PAUSE_SECONDS
            end = start + seconds
            said = (line.text, line.speaker, line.emotion, line.sentiment, line.dialogue, line.turn)
            table.writerow((number, *said, 1, line.dialogue + 1, _clock(start), _clock(end)))


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"


def make_clip(file: Path, line: Line, spec: SyntheticSpec) -> float:
    """Perform one line as an mp4 file and return its length in seconds."""
    person = [name for names in NAMES.values() for name in names].index(line.speaker)
    of_person = np.random.default_rng((spec.seed, person, 7))
    look, voice = draw_look(of_person), draw_voice(of_person)
    rng = np.random.default_rng((*line.seed, 1))
    speech = speak(line.text, voice, line.voice, line.voice_intensity, spec.sample_rate_hz, rng)
    frames = -(-len(speech.samples) * spec.fps // spec.sample_rate_hz)
    samples = np.zeros(round(frames * spec.sample_rate_hz / spec.fps), np.float32)
    samples[: len(speech.samples)] = speech.samples
    shown = ((np.arange(frames) + 0.5) * spec.sample_rate_hz / spec.fps).astype(int)
    opening = speech.opening[np.minimum(shown, len(speech.opening) - 1)]
    pictures = perform(look, line.face, line.face_intensity, opening, spec.fps, spec.size, (*line.seed, 2))
    write_mp4(file, pictures, samples, spec.fps, spec.sample_rate_hz)
    return frames / spec.fps


def write_mp4(
    file: Path, pictures: NDArray[np.uint8], samples: NDArray[np.float32], fps: int, sample_rate_hz: int
) -> None:
    """Write H.264 and AAC, the same bytes for the same input and library versions.

    Args:
        file: where to.
        pictures: RGB (frames, height, width, 3), sides even.
        samples: mono sound in [-1, 1] (samples,).
        fps: pictures per second.
        sample_rate_hz: of the sound.
    """
    import av

    with av.open(str(file), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=fps, options=X264)
        video.height, video.width = pictures.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        audio = container.add_stream("aac", rate=sample_rate_hz, layout="mono", options=AAC)
        audio.bit_rate = AUDIO_BIT_RATE
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
