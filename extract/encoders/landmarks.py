"""Landmarks of the face in each frame, by MediaPipe: points, blendshapes and the head's pose.

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", 2019, arXiv:1907.06724. Which
face, and the square that the coordinates are of: `extract/faces.py`; the vision encoders see the same with crop=face.
Rate: `fps`.

    values        (frames, 478, 3), x to the right and y down from the square's left upper corner, z away from the
                  viewer, all in units of the square's side
    blendshapes   (frames, 52) in [0, 1], in MediaPipe's order
    pose          (frames, 4, 4), transformation of the canonical face into the camera's space, in centimetres
    there         (frames,), whether the frame has a face; the others are zero
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Row
from extract.encoder import Clip, FrameRequest, Languages, Needs, VisionConfig
from extract.faces import BLENDSHAPES, POINTS
from extract.frozen import rates
from extract.vision import face_assets, masked_row, with_mask

SUMMARY = "landmarks: 478 points of the face, blendshapes and head pose, by MediaPipe"
MODALITY: Modality = "vision"
DEFAULT_FOR: Languages = ()
HUB = None
VERSION = 1


class Config(VisionConfig):
    """Settings of `landmarks`."""

    crop: Literal["face"] = "face"
    """Fixed: the coordinates are of the face's square."""
    compute_dtype: Literal["float32"] = "float32"
    """Fixed: MediaPipe's own."""


def describe(config: Config, checkpoint: None) -> FeatureSpec:
    """What is stored for a clip: values (frames, 478, 3), blendshapes, pose and there.

    Raises:
        SettingsError: MediaPipe's face model is not at hand.
    """
    arrays = (
        ArraySpec(name="values", dtype=config.output_dtype, tail=(POINTS, 3)),
        ArraySpec(name="blendshapes", dtype=config.output_dtype, tail=(BLENDSHAPES,)),
        ArraySpec(name="pose", dtype=config.output_dtype, tail=(4, 4)),
    )
    rate, nominal = rates(config, config.fps, config.fps)
    return FeatureSpec(
        feature="landmarks",
        modality=MODALITY,
        encoder="mediapipe.FaceLandmarker",
        version=VERSION,
        arrays=with_mask(config, *arrays),
        rate_hz=rate,
        nominal_rate_hz=nominal,
        settings=config.non_default(),
        full_settings=config.model_dump(mode="json"),
        assets=face_assets(config),
    )


def needs(config: Config, checkpoint: None) -> Needs:
    """The clip's face at `fps`, and no pixels."""
    return Needs(frames=FrameRequest(config.fps, "face", None))


class Encoder:
    """What MediaPipe found while the clip was decoded, on the frames' clock.

    Args:
        config: its settings.
        checkpoint, device, budget: what other encoders need.
    """

    def __init__(self, config: Config, checkpoint: None, device: str, budget: int | None = None) -> None:
        self.config = config

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order."""
        for clip in clips:
            track = clip.faces[self.config.fps]
            seen = [face for face in track.faces if face is not None]
            found = {
                "values": track.landmarks()[track.there],
                "blendshapes": np.stack([face.blendshapes for face in seen]),
                "pose": np.stack([face.pose for face in seen]),
            }
            yield masked_row(found, track.there, self.config)
