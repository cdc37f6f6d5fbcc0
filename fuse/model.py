"""The door of every architecture: inputs standardised, then emptied wherever there is nothing to see.

Axes: B utterances, T_m frames of modality m, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compute.modules import recast
from compute.products import Linear
from fuse.arch import Architecture, Batch, Output
from fuse.nn.dropout import Dropout
from fuse.nn.fixed import shapes_are_fixed
from fuse.nn.lengths import frame_mask

BLOCK = 2**19
"""Numbers that a CPU standardises at a time: they stay in its cache between two passes."""


class Model(nn.Module):
    """An architecture behind its door; what is trained, saved and loaded.

    Whatever lies in the padding or in a modality that is not available, NaN included, is replaced by zero before the
    architecture sees it, and the modality's length is set to zero; so are companions, which are not there then.

    Args:
        network: the architecture's module; its linear layers become `compute.products.Linear`, its dropout
            `fuse.nn.dropout.Dropout`.
        scales: modality -> mean and standard deviation of each feature dimension, shaped as a frame; kept as the
            buffers `scale` = 1 / deviation and `shift` = -mean / deviation.
    """

    def __init__(self, network: Architecture, scales: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.network = recast(network, {nn.Linear: Linear, nn.Dropout: Dropout})
        for modality in network.modalities:
            mean, deviation = scales[modality]
            self.register_buffer(f"scale_{modality}", 1 / deviation)
            self.register_buffer(f"shift_{modality}", -mean / deviation)

    def forward(self, batch: Batch) -> Output:
        """The architecture's output."""
        return self.network(self.clean(batch))

    def __call__(self, batch: Batch) -> Output:
        output: Output = super().__call__(batch)
        return output

    @classmethod
    def unscaled(cls, network: Architecture, tails: Mapping[str, tuple[int, ...]]) -> Model:
        """A model that leaves its inputs as they are, or whose weights and scales are about to be loaded."""
        return cls(network, {m: (torch.zeros(tail), torch.ones(tail)) for m, tail in tails.items()})

    def clean(self, batch: Batch) -> Batch:
        """The batch as the architecture gets it: its own modalities, standardised; zero where there is nothing."""
        sequences, lengths = {}, {}
        names = list(batch.sequences)
        available = torch.stack([batch.available[:, names.index(m)] for m in self.network.modalities], dim=1)
        for column, modality in enumerate(self.network.modalities):
            x = batch.sequences[modality]
            length = batch.lengths[modality] * available[:, column]
            scale, shift = self.get_buffer(f"scale_{modality}"), self.get_buffer(f"shift_{modality}")
            sequences[modality] = standardized(x, length, scale, shift)
            lengths[modality] = length
        companions, there = {}, {}
        for name, modality in self.network.companions.items():
            if name in batch.companions:
                x = batch.companions[name]
                there[name] = batch.companions_there[name] & frame_mask(lengths[modality], x.shape[1])
                companions[name] = x.masked_fill(~there[name].view(*x.shape[:2], *[1] * (x.ndim - 2)), 0.0)
        return batch.replace(
            sequences=sequences,
            lengths=lengths,
            available=available,
            companions=companions,
            companions_there=there,
        )


def standardized(x: Tensor, lengths: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * scale + shift in the type of `scale`, zero behind each utterance's end.

    A CPU goes block by block, leaves out what lies behind the longest of a block, and empties the padding alone.
    """
    if x.requires_grad or shapes_are_fixed(x):
        empty = ~frame_mask(lengths, x.shape[1])
        scaled = torch.addcmul(shift, x.to(scale.dtype), scale)
        return scaled.masked_fill_(empty.view(*empty.shape, *[1] * (x.ndim - 2)), 0.0)
    out = torch.empty(x.shape, dtype=scale.dtype)
    at_a_time, ends = max(1, BLOCK // max(1, x[:1].numel())), lengths.tolist()
    for first in range(0, len(x), at_a_time):
        block = slice(first, first + at_a_time)
        longest = max(ends[block])
        torch.addcmul(shift, x[block, :longest].to(scale.dtype), scale, out=out[block, :longest])
    for one, end in zip(out, ends, strict=True):
        one[end:].zero_()
    return out
