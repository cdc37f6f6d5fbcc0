"""The landmarks of eyes, brows and mouth are MediaPipe's, and a heatmap shows where they lie."""

from __future__ import annotations

import pytest
import torch

from fuse.nn.landmarks import BROWS, EYES, MOUTH, heatmaps


def test_the_groups_are_those_that_mediapipe_publishes() -> None:
    vision = pytest.importorskip("mediapipe.tasks.python.vision", exc_type=ImportError)
    mesh = vision.FaceLandmarksConnections
    groups = {
        EYES: (mesh.FACE_LANDMARKS_LEFT_EYE, mesh.FACE_LANDMARKS_RIGHT_EYE),
        BROWS: (mesh.FACE_LANDMARKS_LEFT_EYEBROW, mesh.FACE_LANDMARKS_RIGHT_EYEBROW),
        MOUTH: (mesh.FACE_LANDMARKS_LIPS,),
    }
    for ours, theirs in groups.items():
        assert list(ours) == sorted({p for edges in theirs for edge in edges for p in (edge.start, edge.end)})


def test_a_heatmap_has_ones_where_points_lie() -> None:
    points = torch.tensor([[[0.1, 0.6, 9.0], [0.12, 0.6, 0.0], [0.99, 0.0, 0.0], [1.0, 0.5, 0.0], [-0.01, 0.5, 0.0]]])
    maps = heatmaps(points.expand(2, 5, 3), torch.tensor([True, False]), 4)
    assert [tuple(at) for at in maps.nonzero().tolist()] == [(0, 0, 3), (0, 2, 0)]
