"""A small CNN over face crops, and the augmentations that it is trained with.

Axes: n frames, H and W pixels of a crop, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fuse.nn.fixed import shapes_are_fixed


class FaceCropCNN(nn.Module):
    """Convolutions of stride 2 with ReLU, then the mean over what is left of the picture: one vector per frame.

    Args:
        channels: of each convolution, kernel 3; the last is the width of the vector.
        crop: share of each side that is kept: at a random place in training, in the middle otherwise.
        illumination: in training, greatest change of contrast (as a factor) and of brightness (in deviations of the
            pixels).
        flip: probability that training mirrors an utterance's frames.
    """

    def __init__(self, channels: Sequence[int], crop: float, illumination: float, flip: float) -> None:
        super().__init__()
        pairs = zip((3, *channels), channels, strict=False)
        self.convolutions = nn.Sequential(
            *(layer for i, o in pairs for layer in (nn.Conv2d(i, o, 3, stride=2, padding=1), nn.ReLU()))
        )
        self.width, self.crop, self.illumination, self.flip = channels[-1], crop, illumination, flip

    def forward(self, x: Float[Tensor, "B T H W 3"], inside: Bool[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """One vector per frame, zero where a frame is not `inside` its utterance, and which is not looked at."""
        x = self.augmented(x) if self.training else self.cropped(x, torch.full((len(x), 2), 0.5, device=x.device))
        if shapes_are_fixed(x):
            every: Tensor = self.convolutions(x.flatten(0, 1).permute(0, 3, 1, 2)).mean(dim=(2, 3))
            return every.view(*inside.shape, self.width) * inside[..., None]
        vectors: Tensor = self.convolutions(x[inside].permute(0, 3, 1, 2)).mean(dim=(2, 3))
        return vectors.new_zeros(*inside.shape, self.width).index_put((inside,), vectors)

    def augmented(self, x: Float[Tensor, "B T H W 3"]) -> Float[Tensor, "B T h w 3"]:
        """Cropped, mirrored and lit at random, all frames of an utterance alike: the face's motion stays what it is."""
        x = self.cropped(x, torch.rand(len(x), 2, device=x.device))
        mirrored = torch.rand(len(x), device=x.device) < self.flip
        x = torch.where(mirrored.view(-1, 1, 1, 1, 1), x.flip(3), x)
        change = self.illumination * (2 * torch.rand(2, len(x), 1, 1, 1, 1, device=x.device) - 1)
        return (1 + change[0]) * x + change[1]

    def cropped(self, x: Float[Tensor, "B T H W 3"], place: Float[Tensor, "B 2"]) -> Float[Tensor, "B T h w 3"]:
        """The share `crop` of each side, `place` of each utterance from 0 (top, left) to 1 (bottom, right)."""
        kept = []
        for side, where in zip(x.shape[2:4], place.unbind(1), strict=True):
            size = max(1, round(self.crop * side))
            first = (where * (side - size + 1)).long().clamp(max=side - size)
            kept.append(first[:, None] + torch.arange(size, device=x.device))
        rows, columns = kept
        utterance = torch.arange(len(x), device=x.device)[:, None, None]
        return x.transpose(1, 2).transpose(2, 3)[utterance, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2, 4)
