"""Utterances whose speaker fills a part of the picture, and whose sound lies in a file of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from pydantic import ValidationError

from cache_schema.parts import read_part, write_part
from cache_schema.samples import Corpus, Target, Utterance
from cache_schema.storage.local import LocalStorage
from extract.decoding.media import decode
from extract.encoder import Clip, FrameRequest, Needs

PICTURES = Needs(frames=FrameRequest(5.0, "whole", 16))
SOUND = Needs(audio_hz=8000)
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`both.avi`: two seconds, grey 40 on the left and 200 on the right, no sound; `alone.wav`: half a second."""
    folder = tmp_path_factory.mktemp("halves")
    picture = np.full((48, 64, 3), 40, np.uint8)
    picture[:, 32:] = 200
    with av.open(str(folder / "both.avi"), "w") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(50):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    with av.open(str(folder / "alone.wav"), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = np.full((1, 4000), 8192, np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    return folder


def read(root: Path, **fields: object) -> Clip:
    utterance = Utterance.model_validate({"id": "u", "path": "both.avi", "start": 1.0, "end": 1.8, **fields})
    return decode(root, utterance, [PICTURES, SOUND])


def greys(clip: Clip) -> list[int]:
    return [round(float(frame.mean())) for frame in clip.frames[FrameRequest(5.0, "whole", 16)]]


@pytest.mark.parametrize(("region", "grey"), [(LEFT, 40), (RIGHT, 200), (None, 120), ((0.5, 0.5, 0.1, 0.1), 200)])
def test_a_region_is_cut_out_before_anything_else(
    root: Path, region: tuple[float, float, float, float] | None, grey: int
) -> None:
    found = greys(read(root, region=region))
    assert len(found) == 4
    assert max(abs(value - grey) for value in found) <= 4


def test_a_region_smaller_than_a_pixel_has_one(root: Path) -> None:
    assert len(greys(read(root, region=(0.999, 0.999, 0.001, 0.001)))) == 4


@pytest.mark.parametrize("region", [(0.6, 0.0, 0.5, 1.0), (-0.1, 0.0, 0.5, 1.0), (0.0, 0.0, 0.0, 1.0)])
def test_a_region_outside_the_picture_is_refused(region: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValidationError, match="shares of a picture"):
        Utterance(id="u", region=region)


def test_sound_of_its_own_is_read_whole_while_pictures_are_cut_by_time(root: Path) -> None:
    clip = read(root, sound="alone.wav", region=LEFT)
    assert clip.unreadable == {}
    assert clip.audio[8000].shape == (4000,)
    assert np.allclose(clip.audio[8000], 0.25, atol=1e-4)
    assert len(greys(clip)) == 4
    for digest, name in ((clip.sound_sha256, "alone.wav"), (clip.media_sha256, "both.avi")):
        assert digest == hashlib.sha256((root / name).read_bytes()).hexdigest()


def test_an_encoder_of_both_hears_the_one_file_and_sees_the_other(root: Path) -> None:
    both = Needs(audio_hz=8000, frames=PICTURES.frames)
    utterance = Utterance(id="u", path="both.avi", sound="alone.wav", start=1.0, end=1.8, region=LEFT)
    clip = decode(root, utterance, [both])
    assert clip.lacks(both) is None
    assert clip.audio[8000].shape == (4000,)
    assert len(greys(clip)) == 4


def test_missing_sound_of_its_own_fails_the_sound_alone(root: Path) -> None:
    clip = read(root, sound="nowhere.wav")
    assert list(clip.unreadable) == ["audio"]
    assert clip.unreadable["audio"].reason.startswith("nowhere.wav: ")
    assert len(greys(clip)) == 4


def test_both_are_stored_and_leave_no_trace_where_nobody_has_them(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    storage = LocalStorage(tmp_path)
    corpus = Corpus(name="c", title="c", licence="c", targets=(Target(name="t", kind="regression"),))
    rows = [Utterance(id="a", path="both.avi", sound="alone.wav", region=RIGHT), Utterance(id="b", path="x.wav")]
    name = write_part(storage, 0, corpus, rows)
    assert list(read_part(storage, "c", name).utterances) == rows
    plain = write_part(storage, 1, corpus, rows[1:])
    assert list(read_part(storage, "c", plain).utterances) == rows[1:]
    columns = pq.read_schema(tmp_path / "samples" / "c" / f"{plain}.parquet").names
    assert "sound" not in columns and "region" not in columns
