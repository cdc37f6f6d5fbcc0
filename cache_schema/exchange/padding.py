"""Taking padding away, and nothing else: what is not zeros is never cut off unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError

Padding = Literal["check", "back", "front", "zeros", "none"]


@dataclass(frozen=True)
class Padded:
    """A sample's padded frames.

    Attributes:
        values: (frames and padding, width).
        frames: how many of them are frames.
    """

    values: NDArray[Any]
    frames: int


def frames_by_zeros(values: NDArray[Any]) -> int:
    """Frames that are left when frames of zeros are taken away behind the others or, where there are none, before."""
    filled = np.flatnonzero((values != 0).any(axis=1))
    if not len(filled):
        return 0
    behind = len(values) - 1 - int(filled[-1])
    return len(values) - (behind or int(filled[0]))


def unpadded_side(samples: Mapping[str, Padded], padding: Padding, where: str) -> Literal["back", "front"]:
    """On which side of a feature's samples the padding is.

    Args:
        samples: by id.
        padding: back and front are believed; else every value of the padding must be zero, on the same side in all.
        where: what the feature is called in messages.

    Raises:
        DataError: what would be cut off is not all zeros, on either side.
    """
    if padding in ("back", "front"):
        return "back" if padding == "back" else "front"
    wrong: dict[str, str] = {}
    for id_, one in samples.items():
        spare = len(one.values) - one.frames
        if spare:
            ends = {"back": slice(one.frames, None), "front": slice(0, spare)}
            for side, end in ends.items():
                if side not in wrong and one.values[end].any():
                    wrong[side] = id_
    if "back" not in wrong:
        return "back"
    if "front" not in wrong:
        return "front"
    raise DataError(
        f"{where}: the lengths and the zeros disagree: frames that are no zeros lie behind the length of "
        f"{wrong['back']!r}, and before that of {wrong['front']!r} if the padding were in front. Say where it is with "
        "--set padding=back or front, or keep all with --set padding=none."
    )
