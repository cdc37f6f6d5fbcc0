"""What the encoders over video frames share: their preprocessing and their batches.

Frames arrive as squares of the model's size, so of a checkpoint's preprocessor only the rescaling and the
normalisation are left to do; they run on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import MASK, ArraySpec
from cache_schema.rows import Failed, Row
from extract import faces
from extract.checkpoints import Checkpoint
from extract.encoder import Clip, FrameRequest, VisionConfig
from extract.frozen import inference, stored

THERE = ArraySpec(name=MASK, dtype="bool", tail=())
"""Whether a face was found in the frame."""


@dataclass(frozen=True)
class Pixels:
    """How a checkpoint wants its pixels: (value * scale - mean) / sd, by channel.

    Attributes:
        size: side of the square.
        scale: factor of the 8-bit values.
        mean, sd: of each of the three channels, after scaling.
    """

    size: int
    scale: float
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Pixels:
        """What the checkpoint's `preprocessor_config.json` says, in any of the forms that the hub has.

        Raises:
            SettingsError: it does not say the size.
        """
        said = checkpoint.preprocessor
        size = said.get("size")
        if isinstance(size, dict):
            size = size.get("height", size.get("shortest_edge"))
        if not isinstance(size, int):
            raise SettingsError(f"{checkpoint.encoder}: {checkpoint.folder}/preprocessor_config.json gives no size.")
        normalises = said.get("do_normalize", True)
        return cls(
            size,
            said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0,
            tuple(said["image_mean"]) if normalises else (0.0,) * 3,
            tuple(said["image_std"]) if normalises else (1.0,) * 3,
        )

    def request(self, config: VisionConfig) -> FrameRequest:
        """The frames that a model with these pixels reads."""
        return FrameRequest(config.fps, config.crop, self.size)

    def tensor(self, frames: NDArray[np.uint8], device: str, dtype: Any) -> Any:
        """Frames (n, size, size, 3) as the model's input (n, 3, size, size)."""
        import torch

        pixels = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() * self.scale
        mean, sd = (torch.tensor(v, device=device)[:, None, None] for v in (self.mean, self.sd))
        return ((pixels - mean) / sd).to(dtype)


def with_mask(config: VisionConfig, *arrays: ArraySpec) -> tuple[ArraySpec, ...]:
    """The arrays of a feature of pictures; of faces with the sibling `there`, whether a frame has one.

    Frames without a face are zero, and not to be read as anything.
    """
    masked = config.crop == "face" and config.pool == "none"
    return (*arrays, THERE) if masked else arrays


def face_assets(config: VisionConfig) -> dict[str, str]:
    """What enters the fingerprint where the pictures are of faces; errors as in `faces.face_model`."""
    return faces.assets() if config.crop == "face" else {}


def encode_frames(
    clips: Sequence[Clip],
    request: FrameRequest,
    config: VisionConfig,
    budget: int,
    forward: Callable[[NDArray[np.uint8]], dict[str, Any]],
) -> Iterator[Row]:
    """One row per clip, in order, frames of many clips going through the model together.

    Args:
        clips: with the frames of `request`.
        request: which frames.
        config: the encoder's settings.
        budget: frames in one batch.
        forward: frames (n, size, size, 3) to tensors by name, each (n, *tail).
    """
    if not clips:
        return
    masks = [clip.faces[request.fps].there if request.crop == "face" else None for clip in clips]
    frames = [
        clip.frames[request] if mask is None else clip.frames[request][mask]
        for clip, mask in zip(clips, masks, strict=True)
    ]
    with inference():
        parts = [
            {name: tensor.float().cpu().numpy() for name, tensor in forward(batch).items()}
            for batch in _batches(frames, budget)
        ]
    ends = np.cumsum([len(f) for f in frames])[:-1]
    whole = {name: np.split(np.concatenate([part[name] for part in parts]), ends) for name in parts[0]}
    for index, mask in enumerate(masks):
        yield masked_row({name: arrays[index] for name, arrays in whole.items()}, mask, config)


def masked_row(found: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_] | None, config: VisionConfig) -> Row:
    """A row of what was found in the frames where `mask` is true (None: in all), laid out on the clip's frames."""
    row: dict[str, NDArray[np.generic]] = {}
    for name, own in found.items():
        values = stored(own, config)
        if isinstance(values, Failed):
            return values
        if mask is not None and config.pool == "none":
            row[name] = np.zeros((len(mask), *values.shape[1:]), values.dtype)
            row[name][mask] = values
        else:
            row[name] = values
    if mask is not None and config.pool == "none":
        row[THERE.name] = mask
    return row


def _batches(frames: Sequence[NDArray[np.uint8]], budget: int) -> Iterator[NDArray[np.uint8]]:
    """All frames of all clips, `budget` at a time."""
    pending: list[NDArray[np.uint8]] = []
    room = budget
    for clip in frames:
        at = 0
        while at < len(clip):
            piece = clip[at : at + room]
            pending.append(piece)
            at, room = at + len(piece), room - len(piece)
            if room == 0:
                yield np.concatenate(pending)
                pending, room = [], budget
    if pending:
        yield np.concatenate(pending)
