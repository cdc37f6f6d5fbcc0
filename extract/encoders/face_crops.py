"""Crops of the face in each frame, as pixels, for those who train on them.

Which face, and its square: `extract/faces.py`. Rate: `fps`.

    values   (frames, size, size, 3), RGB, uint8
    there    (frames,), whether the frame has a face; the others are black
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from cache_schema.feature_spec import MASK, ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Row
from extract.encoder import Clip, FrameRequest, Languages, Needs, VisionConfig
from extract.vision import face_assets, with_mask

SUMMARY = "face crops: the pixels of the face in each video frame"
MODALITY: Modality = "vision"
DEFAULT_FOR: Languages = ()
HUB = None
VERSION = 1


class Config(VisionConfig):
    """Settings of `face-crops`."""

    crop: Literal["face"] = "face"
    """Fixed: the pictures are of faces."""
    output_dtype: Literal["uint8"] = "uint8"  # type: ignore[assignment]
    """Fixed: the pixels as they are."""
    compute_dtype: Literal["float32"] = "float32"
    """Fixed: nothing is computed."""
    pool: Literal["none"] = "none"
    """Fixed: a mean of pictures means nothing."""
    size: int = Field(default=112, ge=8, le=1024)
    """Side of a crop, in pixels."""


def describe(config: Config, checkpoint: None) -> FeatureSpec:
    """What is stored for a clip: values (frames, size, size, 3) and there (frames,).

    Raises:
        SettingsError: MediaPipe's face model is not at hand.
    """
    return FeatureSpec(
        feature="face-crops",
        modality=MODALITY,
        encoder="mer.face_crops",
        version=VERSION,
        arrays=with_mask(config, ArraySpec(name="values", dtype="uint8", tail=(config.size, config.size, 3))),
        rate_hz=config.fps,
        nominal_rate_hz=config.fps,
        settings=config.non_default(),
        full_settings=config.model_dump(mode="json"),
        assets=face_assets(config),
    )


def needs(config: Config, checkpoint: None) -> Needs:
    """The clip's face at `fps`, cut to `size`."""
    return Needs(frames=FrameRequest(config.fps, "face", config.size))


class Encoder:
    """The pictures as they were cut.

    Args:
        config: its settings.
        checkpoint, device, budget: what other encoders need.
    """

    def __init__(self, config: Config, checkpoint: None, device: str, budget: int | None = None) -> None:
        self.request = FrameRequest(config.fps, "face", config.size)

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order."""
        for clip in clips:
            there = clip.faces[self.request.fps].there
            values = clip.frames[self.request].copy()
            values[~there] = 0
            yield {"values": values, MASK: there}
