"""Which points of MediaPipe's face mesh lie on the eyes, brows and mouth, and heatmaps of them.

The indices are those of the connections FACE_LANDMARKS_LEFT_EYE, _RIGHT_EYE, _LEFT_EYEBROW, _RIGHT_EYEBROW and _LIPS in
MediaPipe's `mediapipe.tasks.python.vision.FaceLandmarksConnections`. The mesh has 478 points, the last ten the irises.

Axes: n frames, P points, S side of a heatmap.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

FACE_POINTS = 478
# fmt: off
EYES = (
    7, 33, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 246,
    249, 263, 362, 373, 374, 380, 381, 382, 384, 385, 386, 387, 388, 390, 398, 466,
)
BROWS = (46, 52, 53, 55, 63, 65, 66, 70, 105, 107, 276, 282, 283, 285, 293, 295, 296, 300, 334, 336)
MOUTH = (
    0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181,
    185, 191, 267, 269, 270, 291, 308, 310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415,
)
# fmt: on


def heatmaps(points: Float[Tensor, "n P _"], there: Bool[Tensor, " n"], side: int) -> Float[Tensor, "n {side} {side}"]:
    """1 in every pixel, rows from the top, in which a point lies, else 0; empty where the points are not `there`.

    Args:
        points: x, y and perhaps z, from 0 to 1 across the picture; what lies outside is not drawn.
        there: which frames have points.
        side: pixels of a side.
    """
    pixel = (points[..., :2] * side).floor()
    inside = ((pixel >= 0) & (pixel < side)).all(dim=-1) & there[:, None]
    column, row = torch.where(inside[..., None], pixel, 0.0).long().unbind(dim=-1)
    # What is not drawn goes into a pixel behind the last one.
    at = torch.where(inside, row * side + column, side * side)
    row_of_map = torch.arange(len(points), device=points.device)[:, None]
    maps = points.new_zeros(len(points), side * side + 1).index_put_((row_of_map, at), points.new_ones(()))
    return maps[:, :-1].reshape(-1, side, side)
