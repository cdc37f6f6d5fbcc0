"""What training may do to face crops, each by itself."""

from __future__ import annotations

import torch

from fuse.nn.face_crops import FaceCropCNN


def test_each_augmentation_is_one_of_the_utterances_own_views() -> None:
    torch.manual_seed(4)
    x = torch.randn(12, 3, 6, 5, 3)
    mirrored = FaceCropCNN((4,), crop=1.0, illumination=0.0, flip=0.5).augmented(x)
    turned = [bool(torch.equal(mirrored[i], x[i].flip(2))) for i in range(12)]
    assert all(turned[i] or torch.equal(mirrored[i], x[i]) for i in range(12)) and 0 < sum(turned) < 12
    cropped = FaceCropCNN((4,), crop=0.7, illumination=0.0, flip=0.0).augmented(x)
    windows = [(r, c) for r in range(3) for c in range(2)]
    seen = [
        next(w for w in windows if torch.equal(cropped[i], x[i, :, w[0] : w[0] + 4, w[1] : w[1] + 4]))
        for i in range(12)
    ]
    assert len(set(seen)) > 2
    lit = FaceCropCNN((4,), crop=1.0, illumination=0.2, flip=0.0).augmented(x)
    for i in range(12):
        slope = (
            (lit[i] - lit[i].mean()).flatten() @ (x[i] - x[i].mean()).flatten() / (x[i] - x[i].mean()).square().sum()
        )
        torch.testing.assert_close(lit[i], slope * x[i] + (lit[i] - slope * x[i]).mean(), atol=1e-5, rtol=1e-5)
        assert 0.8 <= slope <= 1.2
