"""Faces: which track is taken, and its square, on boxes drawn here; MediaPipe on real clips where they are at hand."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import FeatureSpec
from cache_schema.rows import Absent, Failed
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore
from extract import faces
from extract.decoding.media import decode
from extract.decoding.streams import FacePictures
from extract.encoder import Clip, FrameRequest, Needs
from extract.encoders import face_crops, landmarks
from extract.faces import Face, FaceTrack, find_faces, follow
from extract.run import extract

CROPS, POINTS = FrameRequest(5.0, "face", 64), FrameRequest(5.0, "face", None)


def face(left: float, top: float, side: float) -> Face:
    """A face whose box has these corners."""
    spread = np.linspace(0, 1, 478, dtype=np.float32)
    points = np.stack([left + side * spread, top + side * spread[::-1], 0 * spread], axis=1)
    return Face(points, np.zeros(52, np.float32), np.eye(4, dtype=np.float32))


def test_the_face_seen_largest_for_longest_is_followed() -> None:
    """A small one all the time, a large one half of the time, a huge one once."""
    found = [[face(10 + k, 10, 40)] for k in range(12)]
    for k in range(6):
        found[k].insert(0, face(200 + 2 * k, 50, 80))
    found[3].append(face(400, 0, 150))
    track = follow(found, fps=5.0)
    assert track is not None
    assert track.there.tolist() == [True] * 6 + [False] * 6
    assert [f.box[0] for f in track.faces if f is not None] == [200 + 2 * k for k in range(6)]


def test_a_track_may_lose_its_face_for_a_second_and_no_longer() -> None:
    def seen(gap: int) -> list[bool]:
        found = [[face(10, 10, 50)] * (k < 4 or k >= 4 + gap) for k in range(12)]
        track = follow(found, fps=5.0)
        assert track is not None
        there: list[bool] = track.there.tolist()
        return there

    assert seen(4) == [True] * 4 + [False] * 4 + [True] * 4
    assert sum(seen(5)) == 4


def test_two_faces_that_come_near_stay_two_tracks() -> None:
    found = [[face(10 + 8 * k, 10, 50), face(130 - 8 * k, 10, 52)] for k in range(7)]
    track = follow(found, fps=5.0)
    assert track is not None
    assert [f.box[0] for f in track.faces if f is not None] == [130 - 8 * k for k in range(7)]


def test_the_square_covers_every_box_and_stays_put() -> None:
    found = [[face(30 + 5 * k, 40, 60)] for k in range(8)]
    track = follow(found, fps=5.0)
    assert track is not None
    left, top, side = track.square
    assert side == np.ceil((35 + 60) * 1.5)
    marks = track.landmarks()
    assert marks.min(axis=(0, 1))[:2].min() > 0.1
    assert marks.max() < 0.9
    back = marks[2] * side + np.array([left, top, 0])
    assert np.allclose(back, found[2][0].points, atol=1e-3)


def test_a_square_beyond_the_picture_is_black_there() -> None:
    picture = np.full((50, 60, 3), 200, np.uint8)
    crop = FaceTrack((-10, 20, 80), (None,)).cut(picture)
    assert crop.shape == (80, 80, 3)
    assert (crop[:30, 10:70] == 200).all()
    assert crop[30:].max() == crop[:, :10].max() == crop[:, 70:].max() == 0


def test_no_face_is_no_track() -> None:
    assert follow([[], [], []], fps=5.0) is None


def test_a_missing_model_is_one_line_that_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MER_FACE_MODEL", str(tmp_path / "nothing.task"))
    with pytest.raises(SettingsError, match=r"`mer models pull face-landmarker` brings it, or fetch https://.*"):
        landmarks.describe(landmarks.Config(), None)


def described() -> FeatureSpec:
    return landmarks.describe(landmarks.Config(), None)


@pytest.fixture
def any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the model's place that is none."""
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"no model")
    monkeypatch.setenv("MER_FACE_MODEL", str(path))
    return path


@pytest.mark.parametrize("rule", ["VERSION", "MOST_FACES", "OVERLAP", "GAP_SECONDS", "MARGIN"])
def test_the_rules_by_which_a_face_is_taken_are_in_the_fingerprint(
    any_model: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    before = described().fingerprint()
    monkeypatch.setattr(faces, rule, 2 * getattr(faces, rule))
    assert described().fingerprint() != before


@pytest.mark.parametrize("broken", ["no model", "no MediaPipe"])
def test_what_is_wrong_with_mediapipe_stops_the_run_and_fails_no_clip(
    any_model: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken == "no MediaPipe":
        monkeypatch.setitem(sys.modules, "mediapipe", None)
        monkeypatch.setitem(sys.modules, "mediapipe.tasks.python", None)
    with pytest.raises(SettingsError, match=r"MediaPipe cannot look for faces .*mer doctor"):
        extract("meld", small_corpus, str(tmp_path / "store"), encoders=["landmarks"], limit=1)
    feature = FeatureStore.open(str(tmp_path / "store")).feature("meld", "landmarks")
    assert feature.failures() == {} and feature.status().missing == feature.status().samples


def test_a_library_that_is_not_installed_stops_the_run(small_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    clip = next(path for path in sorted(small_corpus.rglob("*.mp4")))
    with pytest.raises(SettingsError, match=r"Clips cannot be decoded .*cv2.*mer doctor"):
        decode(small_corpus, utterance_of(small_corpus, clip), [Needs(frames=FrameRequest(5.0, "whole", 32))])


def utterance_of(root: Path, clip: Path) -> Utterance:
    return Utterance(id="u", path=clip.relative_to(root).as_posix())


@pytest.mark.parametrize("most_bytes", [FacePictures.MOST_BYTES, 0])
def test_a_clock_that_sees_no_face_leaves_the_others_theirs(
    small_corpus: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    """A face that the fast clock sees in its first picture, before the slow clock's first tick."""
    seen: list[int] = []

    def once(picture: np.ndarray) -> list[Face]:
        seen.append(1)
        return [face(10, 10, 40)] if len(seen) == 1 else []

    monkeypatch.setattr("extract.decoding.streams.find_faces", once)
    monkeypatch.setattr(FacePictures, "MOST_BYTES", most_bytes)
    clip = next(path for path in sorted(small_corpus.rglob("*.mp4")))
    fast, slow = (Needs(frames=FrameRequest(fps, "face", 32)) for fps in (10.0, 2.0))
    found = decode(small_corpus, utterance_of(small_corpus, clip), [slow, fast])
    assert found.lacks(fast) is None
    assert found.frames[FrameRequest(10.0, "face", 32)].shape[0] == len(found.faces[10.0].faces)
    assert isinstance(found.lacks(slow), Absent)


@pytest.fixture
def clips(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MER_FACE_MODEL", str(test_data / "mediapipe" / faces.MODEL))
    lacking = [name for name in ("EGL", "GLESv2") if find_library(name) is None]
    try:
        find_faces(np.zeros((64, 64, 3), np.uint8))
    except SettingsError as error:
        if lacking:
            pytest.skip(f"MediaPipe needs system libraries that are not here ({', '.join(lacking)}): {error}")
        raise
    return test_data / "clips"


def read(clips: Path, name: str, *requests: FrameRequest, **fields: object) -> Clip:
    utterance = Utterance.model_validate({"id": name, "path": name, **fields})
    return decode(clips, utterance, [Needs(frames=request) for request in requests or (CROPS, POINTS)])


@pytest.mark.parametrize("name", ["bbaf2n.mpg", "single_face.mp4", "single_face.jpg"])
def test_one_face_is_there_in_every_frame(clips: Path, name: str) -> None:
    clip = read(clips, name)
    track = clip.faces[5.0]
    assert clip.unreadable == {}
    assert track.there.all()
    assert clip.frames[CROPS].shape == (len(track.faces), 64, 64, 3)
    marks = track.landmarks()
    assert marks.shape == (len(track.faces), 478, 3)
    assert 0.1 < marks[..., :2].min() < marks[..., :2].max() < 0.9
    assert (marks[:, 1, 1] < marks[:, 152, 1]).all()  # the tip of the nose is above the chin


def test_no_face_is_absent_and_the_whole_picture_is_still_read(clips: Path) -> None:
    whole = FrameRequest(5.0, "whole", 32)
    clip = read(clips, "no_face.mp4", CROPS, whole)
    assert clip.unreadable == {} and clip.faces == {}
    assert clip.lacks(Needs(frames=CROPS)) == Absent("no face was found in the clip")
    assert clip.lacks(Needs(frames=whole)) is None
    assert len(clip.frames[whole]) > 1
    assert CROPS not in clip.frames


def test_frames_without_the_face_are_masked(clips: Path) -> None:
    clip = read(clips, "face_noface.mov")
    there = clip.faces[5.0].there
    assert 0 < there.sum() < len(there)
    for module, request in ((landmarks, POINTS), (face_crops, CROPS)):
        config = module.Config(**({"size": 64} if request is CROPS else {}))
        (row,) = module.Encoder(config, None, "cpu").encode([clip])
        assert np.array_equal(row["there"], there)
        for name, values in row.items():
            assert not values[~there].any()
            assert name == "there" or all(frame.any() for frame in values[there])


def test_of_several_faces_the_largest_is_taken(clips: Path) -> None:
    clip = read(clips, "multi_face.jpg")
    import cv2

    picture = cv2.cvtColor(cv2.imread(str(clips / "multi_face.jpg")), cv2.COLOR_BGR2RGB)
    found = find_faces(picture)
    assert len(found) > 1
    (taken,) = clip.faces[5.0].faces
    assert taken is not None
    widths = [f.box[2] - f.box[0] for f in found]
    assert abs((taken.box[2] - taken.box[0]) - max(widths)) < 1


def test_landmarks_equal_mediapipe_called_plainly(clips: Path) -> None:
    import cv2
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    path = clips / "single_face.jpg"
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    model = str(faces.face_model())
    options = vision.FaceLandmarkerOptions(
        BaseOptions(model_asset_path=model),
        num_faces=8,
        output_face_blendshapes=True,
        output_facial_transformation_matrixes=True,
    )
    with vision.FaceLandmarker.create_from_options(options) as plain:
        seen = plain.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=picture))
    height, width = picture.shape[:2]
    points = np.array([(p.x * width, p.y * height, p.z * width) for p in seen.face_landmarks[0]])
    (own,) = find_faces(picture)
    assert np.abs(own.points - points).max() <= 1e-5 * np.abs(points).max()
    assert np.abs(own.blendshapes - [shape.score for shape in seen.face_blendshapes[0]]).max() <= 1e-5
    assert np.abs(own.pose - seen.facial_transformation_matrixes[0]).max() <= 1e-4


def test_a_clip_too_long_to_keep_is_cut_in_a_second_pass(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pictures, bit for bit, the sound and the whole pictures too."""
    whole = FrameRequest(2.0, "whole", 32)
    needs = [*(Needs(frames=r) for r in (CROPS, POINTS, whole)), Needs(audio_hz=8000)]
    utterance = Utterance(id="u", path="bbaf2n.mpg")
    once = decode(clips, utterance, needs)
    monkeypatch.setattr(FacePictures, "MOST_BYTES", 1 << 20)
    twice = decode(clips, utterance, needs)
    assert once.unreadable == twice.unreadable == {}
    assert once.faces[5.0].square == twice.faces[5.0].square
    for request in (CROPS, whole):
        assert np.array_equal(once.frames[request], twice.frames[request])
    assert np.array_equal(once.audio[8000], twice.audio[8000])


def test_threads_find_what_one_finds(clips: Path) -> None:
    """Landmarkers go from thread to thread; there are never more than threads at work."""
    names = ["single_face.jpg", "multi_face.jpg"] * 4
    alone = [read(clips, name) for name in names[:2]]
    faces._close()
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(lambda name: read(clips, name), names))
        for clip, expected in zip(together, alone * 4, strict=True):
            assert np.array_equal(clip.faces[5.0].landmarks(), expected.faces[5.0].landmarks())
            assert np.array_equal(clip.frames[CROPS], expected.frames[CROPS])
    assert len(faces._idle[faces.face_model()]) <= 2


def test_a_clip_that_cannot_be_read_fails_for_faces_too(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes((clips / "single_face.mp4").read_bytes()[:1000])
    clip = read(tmp_path, "broken.mp4")
    assert isinstance(clip.unreadable["face"], Failed)
