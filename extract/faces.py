"""Faces: found by MediaPipe in each picture, followed through the clip, and cut out in one square that stays put.

Landmarks are those of MediaPipe's face landmarker (Kartynnik et al., "Real-time Facial Surface Geometry from Monocular
Video on Mobile GPUs", 2019, arXiv:1907.06724): 478 points, 52 blendshapes, and the head's pose.

Faces of successive pictures are one track where their boxes overlap. Of a clip's tracks the one with the largest sum of
areas is taken: the face that is seen largest for longest. Its square covers every box of the track with a margin, the
same for the whole clip, so what moves in the crop is the face and not the crop.

Axes: T pictures of a clip.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.errors import SettingsError, first_line
from extract.weights.cache import cache_folder

VERSION = 1
"""Raised whenever a change of code changes which face is taken, its numbers or its square."""
MODEL = "face_landmarker.task"
MODEL_URL = "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/" + MODEL
MODEL_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
"""Of what lies at MODEL_URL; another file is used too, and its own digest is in the fingerprint of its features."""
POINTS, BLENDSHAPES = 478, 52
MOST_FACES = 8
"""Faces looked for in a picture."""
OVERLAP = 0.3
"""Intersection over union from which two boxes of successive pictures are one face."""
GAP_SECONDS = 1.0
"""For how long a track may lose its face."""
MARGIN = 0.25
"""Part of the track's box that the square adds on each side: hair, chin, and what the boxes leave out."""


@dataclass(frozen=True)
class Face:
    """A face in one picture.

    Attributes:
        points: (478, 3) in pixels of the picture, x to the right, y down, z away from the viewer.
        blendshapes: (52,) in [0, 1], in MediaPipe's order.
        pose: (4, 4) transformation of the canonical face into the camera's space, in centimetres.
    """

    points: NDArray[np.float32]
    blendshapes: NDArray[np.float32]
    pose: NDArray[np.float32]

    @property
    def box(self) -> NDArray[np.float32]:
        """Left, top, right and bottom of the points (4,)."""
        return np.concatenate([self.points[:, :2].min(axis=0), self.points[:, :2].max(axis=0)])


@dataclass(frozen=True)
class FaceTrack:
    """The face of a clip.

    Attributes:
        square: left, top and side of its crop, in pixels of the picture; it may reach beyond the picture.
        faces: the face in each picture (T); None where it was not found.
    """

    square: tuple[int, int, int]
    faces: tuple[Face | None, ...]

    @property
    def there(self) -> NDArray[np.bool_]:
        """In which pictures it was found (T,)."""
        return np.array([face is not None for face in self.faces])

    def landmarks(self) -> NDArray[np.float32]:
        """Its points in coordinates of the crop (T, 478, 3), all in units of the crop's side; 0 where not found."""
        left, top, side = self.square
        origin = np.array([left, top, 0], np.float32)
        nowhere = np.zeros((POINTS, 3), np.float32)
        return np.stack([nowhere if face is None else (face.points - origin) / side for face in self.faces])

    def cut(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The square of a picture (height, width, 3), black where it reaches beyond: (side, side, 3)."""
        left, top, side = self.square
        crop = np.zeros((side, side, 3), np.uint8)
        height, width = picture.shape[:2]
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
        crop[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
        return crop


def follow(found: Sequence[Sequence[Face]], fps: float) -> FaceTrack | None:
    """The clip's face, from the faces of its pictures in order; None where no picture has one."""
    tracks: list[dict[int, Face]] = []
    gap = max(1, round(GAP_SECONDS * fps))
    for at, faces in enumerate(found):
        free = [track for track in tracks if at - _last(track) <= gap]
        pairs = [
            (_overlap(track[_last(track)].box, face.box), i, j)
            for i, track in enumerate(free)
            for j, face in enumerate(faces)
        ]
        taken_tracks: set[int] = set()
        taken_faces: set[int] = set()
        for overlap, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if overlap >= OVERLAP and i not in taken_tracks and j not in taken_faces:
                free[i][at] = faces[j]
                taken_tracks.add(i)
                taken_faces.add(j)
        tracks += [{at: face} for j, face in enumerate(faces) if j not in taken_faces]
    if not tracks:
        return None
    largest = max(tracks, key=lambda track: sum(_area(face.box) for face in track.values()))
    return FaceTrack(_square_around(list(largest.values())), tuple(largest.get(at) for at in range(len(found))))


def _last(track: dict[int, Face]) -> int:
    """The picture of a track's last face; they are put in by order."""
    return next(reversed(track))


def _square_around(faces: Sequence[Face]) -> tuple[int, int, int]:
    boxes = np.stack([face.box for face in faces])
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    side = max(1, int(np.ceil((high - low).max() * (1 + 2 * MARGIN))))
    left, top = np.round((low + high) / 2 - side / 2).astype(int).tolist()
    return left, top, side


def _area(box: NDArray[np.float32]) -> float:
    return float(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes."""
    shared = _area(np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])]))
    union = _area(one) + _area(other) - shared
    return shared / union if union > 0 else 0.0


def face_model_path() -> Path:
    """Where the face landmarker's file is looked for: $MER_FACE_MODEL, else in mer's cache."""
    given = os.environ.get("MER_FACE_MODEL")
    return Path(given).expanduser() if given else cache_folder() / MODEL


def face_model() -> Path:
    """The face landmarker's file.

    Raises:
        SettingsError: it is not there; the line says where to get it.
    """
    path = face_model_path()
    if not path.is_file():
        raise SettingsError(
            f"Faces need MediaPipe's {MODEL}, and {path} is not there. `mer models pull face-landmarker` brings it, or "
            f"fetch {MODEL_URL} and name the file in MER_FACE_MODEL."
        )
    return path


def face_model_sha256() -> str:
    """Digest of the face landmarker's file; errors as in `face_model`."""
    path = face_model()
    return _sha256(path, path.stat().st_mtime_ns)


def assets() -> dict[str, str]:
    """What enters the fingerprint of a feature of faces: digests of the model and of the rules for taking one.

    Errors as in `face_model`.
    """
    rules = {"version": VERSION, "faces": MOST_FACES, "overlap": OVERLAP, "gap": GAP_SECONDS, "margin": MARGIN}
    return {MODEL: face_model_sha256(), "face_rules": sha256_hex(canonical_bytes(rules))}


@lru_cache(maxsize=8)
def _sha256(path: Path, mtime_ns: int) -> str:
    return sha256_hex(path.read_bytes())


_idle: dict[Path, list[Any]] = defaultdict(list)
"""Landmarkers that nobody uses now, by model; one is used by one thread at a time."""
_setting_up = threading.Lock()


def find_faces(picture: NDArray[np.uint8]) -> list[Face]:
    """Every face in a picture (height, width, 3), by MediaPipe; the same whatever was looked at before.

    Raises:
        SettingsError: MediaPipe cannot be loaded, or its model is not at hand.
    """
    with _landmarker(face_model()) as landmarker:
        found = landmarker.detect(_image(picture))
    height, width = picture.shape[:2]
    scale = np.array([width, height, width], np.float32)
    return [
        Face(
            np.array([(p.x, p.y, p.z) for p in points], np.float32) * scale,
            np.array([shape.score for shape in shapes], np.float32),
            np.asarray(pose, np.float32),
        )
        for points, shapes, pose in zip(
            found.face_landmarks, found.face_blendshapes, found.facial_transformation_matrixes, strict=True
        )
    ]


@contextmanager
def _landmarker(model: Path) -> Iterator[Any]:
    """A landmarker for the time being; one that failed is not used again."""
    idle = _idle[model]
    try:
        landmarker = idle.pop()
    except IndexError:
        landmarker = _load(model)
    try:
        yield landmarker
    except BaseException:
        landmarker.close()
        raise
    idle.append(landmarker)


def _image(picture: NDArray[np.uint8]) -> Any:
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))


def _load(model: Path) -> Any:
    """A landmarker; single pictures, so that none depends on the one before."""
    try:
        from mediapipe.tasks.python import BaseOptions
        from mediapipe.tasks.python.vision import FaceLandmarker, FaceLandmarkerOptions

        options = FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model)),
            num_faces=MOST_FACES,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        with _silent():
            landmarker = FaceLandmarker.create_from_options(options)
            landmarker.detect(_image(np.zeros((64, 64, 3), np.uint8)))
        return landmarker
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"MediaPipe cannot look for faces with {model} ({first_line(error)}); `mer doctor` tells more."
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """MediaPipe's C++ parts write to the process's error stream, whatever they are told, while they are set up."""
    with _setting_up:
        kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


@atexit.register
def _close() -> None:
    """MediaPipe's objects complain when they are left to the interpreter's end."""
    for idle in _idle.values():
        while idle:
            idle.pop().close()
