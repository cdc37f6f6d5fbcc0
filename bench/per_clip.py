"""The loop that the field's toolkits write, and `mer extract` over it, encoder by encoder.

One clip after the other: one ffmpeg process makes a WAV file or JPEG files of it, these are read, the model's own
preprocessing and the model get one clip at a time, and an npy is written. The pictures of a clip go through the model
together, which is the best that such a loop does.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import transformers
from numpy.typing import NDArray
from scipy.io import wavfile

from bench.extraction import MODELS, Extraction, Stopwatch, checkpoint_of, config_of, plain_model, utterances_of
from bench.store import Table
from cache_schema.errors import MerError
from cache_schema.samples import Utterance
from extract import pipeline
from extract.decoding import quarantine
from extract.encoder import Clip, FrameRequest, Needs
from extract.encoders import ENCODERS
from extract.faces import face_model, find_faces, follow
from extract.frozen import inference

FFMPEG = shutil.which("ffmpeg")
LEAST_ON_TEXTS, LEAST_ON_VIDEO, LEAST = 3.0, 1.5, 0.95
SLOW = ("vit", "words", "hubert")
"""Encoders that take a second or more for a clip: they get few."""
PICTURES = FrameRequest(5.0, "whole", 224)


def ffmpeg_version() -> str:
    """What the loop decodes with, in a few words."""
    if FFMPEG is None:
        return "no ffmpeg"
    said = subprocess.run([FFMPEG, "-version"], capture_output=True, text=True, check=True).stdout
    return " ".join(said.split()[:3])


def compare(table: Table, folder: Path, encoders: Sequence[str], few: int, rounds: int) -> None:
    """`mer extract` of each encoder alone over the loop; texts are those of `texts`, everything else of `clips`."""
    table.say("`mer extract` over a per-clip loop: one ffmpeg process a clip, batches of one, an npy a clip")
    table.say(f"  {'':34}{'samples/s':>10}{'wall':>8}{'CPU':>8}")
    for name in encoders:
        text = ENCODERS.load(name).MODALITY == "text" and name != "words"
        if FFMPEG is None and not text:
            table.say(f"  {name:34} skipped: there is no ffmpeg on this machine")
            continue
        if name in ("landmarks", "face-crops") and not _faces_can_be_found():
            table.say(f"  {name:34} skipped: MediaPipe's model is not there (MER_FACE_MODEL)")
            continue
        corpus, limit = "texts" if text else "clips", few if name in SLOW else None
        ours = Extraction(folder, (name,), corpus, limit)
        theirs = _loop(name, folder, utterances_of(folder, corpus)[:limit])
        _compare_one(table, name, ours, theirs, rounds, LEAST_ON_TEXTS if text else LEAST)
    if FFMPEG is not None:
        utterances = utterances_of(folder, "clips")
        ours_alone, theirs_alone = _decoding(folder / "clips", utterances)
        _compare_one(table, "video decoding alone", ours_alone, theirs_alone, rounds, LEAST_ON_VIDEO)
    table.say()


def _faces_can_be_found() -> bool:
    try:
        face_model()
    except MerError:
        return False
    return True


def _compare_one(
    table: Table, what: str, ours: Callable[[], Any], theirs: Callable[[], int], rounds: int, least: float
) -> None:
    """A line: samples per second, and how many times as fast as the loop."""
    ours()
    clips = theirs()
    walls, cpus, rates = [], [], []
    for number in range(rounds):
        watches: dict[Any, Stopwatch] = {}
        for work in (ours, theirs) if number % 2 else (theirs, ours):
            with Stopwatch() as watches[work]:
                work()
        walls.append(watches[theirs].wall / watches[ours].wall)
        cpus.append(watches[theirs].cpu / max(1e-9, watches[ours].cpu))
        rates.append(clips / watches[ours].wall)
    wall, cpu, rate = map(statistics.median, (walls, cpus, rates))
    judged = f"   (at least {least}: {'yes' if wall >= least else 'NO'})" if table.judged else ""
    table.say(f"  {what:34}{rate:10.2f}{wall:8.2f}{cpu:8.2f}{judged}")


def _loop(name: str, folder: Path, utterances: Sequence[Utterance]) -> Callable[[], int]:
    """The loop of an encoder; returns how many clips it went through."""
    root, features = folder / "clips", folder / "npy"
    of_clip = _of_clip(name, folder)

    def loop() -> int:
        features.mkdir(exist_ok=True)
        with inference():
            for number, utterance in enumerate(utterances):
                np.save(features / f"{number}.npy", of_clip(root, utterance))
        return len(utterances)

    return loop


def _of_clip(name: str, folder: Path) -> Callable[[Path, Utterance], NDArray[Any]]:
    """How a toolkit makes one clip's feature."""
    weights = folder / "weights" / name
    if name in MODELS:
        model = plain_model(name, folder)
        if ENCODERS.load(name).MODALITY == "text":
            tokenizer = transformers.AutoTokenizer.from_pretrained(weights)
            return lambda _, u: _last(model(**tokenizer(u.text, return_tensors="pt")))
        if name == "hubert":
            extractor = transformers.AutoFeatureExtractor.from_pretrained(weights)
            return lambda root, u: _last(model(**extractor(_sound(root, u), sampling_rate=16000, return_tensors="pt")))
        processor = transformers.AutoImageProcessor.from_pretrained(weights, backend="pil")
        pooled = name == "resnet"

        def pictures(root: Path, u: Utterance) -> NDArray[Any]:
            out = model(**processor(list(_pictures(root, u)), return_tensors="pt"))
            return np.asarray(out.pooler_output.flatten(1) if pooled else out.last_hidden_state[:, 0])

        return pictures
    if name == "landmarks":
        return lambda root, u: _track(root, u)[1].landmarks()
    if name == "face-crops":
        return lambda root, u: _crops(root, u, config_of(name).size)
    # No other code computes the same: the encoder's own, which then differs in what is around it alone.
    encoder = ENCODERS.load(name).Encoder(config_of(name), checkpoint_of(name, folder), "cpu")
    return lambda root, u: next(encoder.encode([Clip(u, {16000: _sound(root, u)})]))["values"]


def _last(out: Any) -> NDArray[Any]:
    values: NDArray[Any] = out.last_hidden_state[0].numpy()
    return values


def _sound(root: Path, utterance: Utterance) -> NDArray[np.float32]:
    """Mono at 16 kHz, by way of a WAV file."""
    with tempfile.TemporaryDirectory() as scratch:
        wav = Path(scratch) / "sound.wav"
        _ffmpeg(root, utterance, "-vn", "-ac", "1", "-ar", "16000", str(wav))
        return np.asarray(wavfile.read(wav)[1] / np.float32(32768), np.float32)


def _pictures(root: Path, utterance: Utterance) -> Iterator[NDArray[np.uint8]]:
    """Five RGB pictures a second, by way of JPEG files."""
    with tempfile.TemporaryDirectory() as scratch:
        _ffmpeg(root, utterance, "-vf", f"fps={PICTURES.fps:g}", "-q:v", "2", f"{scratch}/%05d.jpg")
        for file in sorted(Path(scratch).iterdir()):
            yield np.asarray(cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB), np.uint8)


def _ffmpeg(root: Path, utterance: Utterance, *options: str) -> None:
    command = [str(FFMPEG), "-v", "error", "-nostdin", "-i", str(root / str(utterance.path)), *options]
    subprocess.run(command, check=True)


def _track(root: Path, utterance: Utterance) -> tuple[list[NDArray[np.uint8]], Any]:
    """The pictures, and the face that is seen in them."""
    pictures = list(_pictures(root, utterance))
    return pictures, follow([find_faces(picture) for picture in pictures], PICTURES.fps)


def _crops(root: Path, utterance: Utterance, size: int) -> NDArray[Any]:
    pictures, track = _track(root, utterance)
    return np.stack([cv2.resize(track.cut(picture), (size, size)) for picture in pictures])


def _decoding(root: Path, utterances: Sequence[Utterance]) -> tuple[Callable[[], int], Callable[[], int]]:
    """Five pictures a second of every clip, 224 pixels square: as the pipeline does it, and as the loop does."""
    needs = [Needs(frames=PICTURES)]

    def ours() -> int:
        with ThreadPoolExecutor(pipeline.DECODE_THREADS) as pool:
            clips = list(pool.map(lambda u: quarantine.decode(root, u, needs), utterances))
        return sum(bool(clip.frames) for clip in clips)

    def theirs() -> int:
        size = (PICTURES.size or 0,) * 2
        return sum(bool([cv2.resize(picture, size) for picture in _pictures(root, u)]) for u in utterances)

    return ours, theirs
