"""What the encoders over video frames share: their preprocessing and their batches.

Frames arrive as squares of the model's size, so of a checkpoint's preprocessor only the rescaling and the
normalisation are left to do; they run on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import MASK, ArraySpec
from cache_schema.rows import Failed, Row
from extract import faces
from extract.batching import Arrays, Batches, to_device
from extract.encoder import Clip, FrameRequest, VisionConfig
from extract.frozen import stored
from extract.weights.checkpoints import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

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

        pixels = to_device(torch.from_numpy(frames), device).permute(0, 3, 1, 2).float() * self.scale
        return ((pixels - _by_channel(self.mean, device)) / _by_channel(self.sd, device)).to(dtype)


@lru_cache(maxsize=16)
def _by_channel(values: tuple[float, ...], device: str) -> Any:
    """A number per channel (3, 1, 1) on the device, kept there: a GPU would be waited for to take it anew."""
    import torch

    return torch.tensor(values, device=device)[:, None, None]


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
    batches: Batches,
    forward: Callable[[NDArray[np.uint8]], dict[str, Tensor]],
) -> Iterator[Row]:
    """One row per clip, in order, each as soon as it is there; frames of many clips go through the model together.

    Args:
        clips: with the frames of `request`.
        request: which frames.
        config: the encoder's settings.
        batches: of frames.
        forward: frames (n, size, size, 3) to tensors by name, each (n, *tail).
    """
    masks = [clip.faces[request.fps].there if request.crop == "face" else None for clip in clips]
    wanted = [
        np.arange(len(clip.frames[request])) if mask is None else np.flatnonzero(mask)
        for clip, mask in zip(clips, masks, strict=True)
    ]
    places = [(number, frame) for number, own in enumerate(wanted) for frame in own]

    def pictures(items: list[int]) -> dict[str, Tensor]:
        return forward(
            np.stack([clips[number].frames[request][frame] for number, frame in map(places.__getitem__, items)])
        )

    seen: list[Arrays | Failed] = []
    for items, found in batches.run([1] * len(places), pictures):  # of one length: in order
        for k, item in enumerate(items):
            seen.append(found if isinstance(found, Failed) else {name: array[k] for name, array in found.items()})
            number, _ = places[item]
            if len(seen) == len(wanted[number]):
                yield _row(seen, masks[number], config)
                seen = []


def _row(seen: Sequence[Arrays | Failed], mask: NDArray[np.bool_] | None, config: VisionConfig) -> Row:
    """The row of a clip, from what was found in each of its frames."""
    frames: list[Arrays] = []
    for frame in seen:
        if isinstance(frame, Failed):
            return Failed(f"a picture {frame.reason}")
        frames.append(frame)
    return masked_row({name: np.stack([frame[name] for frame in frames]) for name in frames[0]}, mask, config)


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
