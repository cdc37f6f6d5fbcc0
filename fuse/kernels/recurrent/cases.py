"""Shapes on which the recurrent scans are tested and measured, and what they are measured against."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fuse.kernels.recurrent import reference

TARGETS, COMPILED = ("GRU, T = H = 128", "LSTM, T = H = 128"), ()
"""The cases that the targets are about, and the rivals that torch.compile is asked for on them: none, since it would
unroll a loop of 128 steps."""
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""The arguments of `recurrent`, in order; what can have a gradient asks for it."""


def hostile(device: torch.device, dtype: torch.dtype, seeds: int) -> Iterator[tuple[str, Inputs]]:
    """Sequences of no frame and of one; widths that fill no block; a second tile of sequences; both directions."""
    random = torch.Generator().manual_seed(0)
    for name, (gates, directions, frames, sequences, width, hidden) in {
        "GRU, one frame": (3, 1, 1, 2, 5, 16),
        "GRU, odd sizes": (3, 1, 4, 5, 3, 19),
        "GRU, both directions": (3, 2, 3, 9, 2, 16),
        "LSTM, one frame": (4, 1, 1, 2, 5, 16),
        "LSTM, odd sizes": (4, 1, 4, 5, 3, 19),
        "LSTM, both directions": (4, 2, 3, 9, 2, 16),
    }.items():
        lengths = torch.randint(0, frames + 1, (seeds, sequences), generator=random)
        lengths[:, 0], lengths[:, 1] = frames, 0
        lengths[-1, -1] = min(1, sequences - 2)
        yield name, _inputs(lengths, frames, gates, directions, width, hidden, device, dtype, random)


def realistic(device: torch.device, dtype: torch.dtype, seeds: int) -> Iterator[tuple[str, Inputs]]:
    """The shape of the target, hff over an utterance's steps and over dialogues, symphonia over the frames of faces."""
    random = torch.Generator().manual_seed(1)
    for name, (gates, directions, frames, sequences, width, hidden, ragged) in {
        "GRU, T = H = 128": (3, 1, 128, 32, 128, 128, False),
        "LSTM, T = H = 128": (4, 1, 128, 32, 128, 128, False),
        "hff": (3, 1, 8, 64, 128, 128, False),
        "hff, dialogues": (3, 1, 33, 8, 128, 128, True),
        "symphonia": (4, 1, 64, 64, 256, 256, True),
        "BiLSTM": (4, 2, 64, 64, 768, 128, True),
    }.items():
        lengths = torch.full((seeds, sequences), frames)
        if ragged:  # as long as MELD's utterances are: log-normal, half of them a quarter of the longest
            spread = 0.75 * torch.randn(seeds, sequences, generator=random)
            lengths = (frames / 4 * torch.exp(spread)).ceil().long().clamp(max=frames)
            lengths[:, 0] = frames
        yield name, _inputs(lengths, frames, gates, directions, width, hidden, device, dtype, random)


def _inputs(
    lengths: Tensor,
    frames: int,
    gates: int,
    directions: int,
    width: int,
    hidden: int,
    device: torch.device,
    dtype: torch.dtype,
    random: torch.Generator,
) -> Inputs:
    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=random)).to(device, dtype).requires_grad_()

    (seeds, sequences), rows = lengths.shape, gates * hidden
    return (
        drawn(seeds, frames, sequences, width),
        drawn(seeds, directions, rows, width, scale=width**-0.5),
        drawn(seeds, directions, rows, hidden, scale=hidden**-0.5),
        drawn(seeds, directions, rows, scale=hidden**-0.5),
        drawn(seeds, directions, rows, scale=hidden**-0.5),
        lengths.to(device),
    )


def rivals() -> dict[str, Callable[..., Tensor]]:
    """What does the same, with the same arguments: torch's modules seed after seed, which on a GPU are cuDNN's, told of
    the lengths or left to run through the padding; and the loop in plain torch, with autograd's own backward pass."""
    return {"torch, packed": packed, "torch, padded": padded, "eager": eager}


def eager(x: Tensor, w_in: Tensor, w_rec: Tensor, b_in: Tensor, b_rec: Tensor, lengths: Tensor) -> Tensor:
    """All seeds together; for torch.compile, too, which unrolls the loop over time."""
    hidden, lstm = w_rec.shape[-1], w_rec.shape[-2] == 4 * w_rec.shape[-1]
    frames = (x[:, None] @ w_in.mT[:, :, None]) + b_in[:, :, None, None]
    if lstm:
        return reference.lstm_forward(frames + b_rec[:, :, None, None], w_rec, lengths)[0]
    both = torch.cat([b_rec[..., : 2 * hidden], torch.zeros_like(b_rec[..., 2 * hidden :])], dim=-1)
    return reference.gru_forward(frames + both[:, :, None, None], w_rec, b_rec[..., 2 * hidden :], lengths)[0]


def packed(x: Tensor, w_in: Tensor, w_rec: Tensor, b_in: Tensor, b_rec: Tensor, lengths: Tensor) -> Tensor:
    """Waits for the lengths, of which none may be 0: such a sequence runs over a frame of its padding."""
    found = []
    for seed, module in enumerate(_modules(w_in, w_rec)):
        there = lengths[seed].clamp(min=1).cpu()
        sequences = pack_padded_sequence(x[seed], there, enforce_sorted=False)
        states, _ = _called(module, seed, sequences, w_in, w_rec, b_in, b_rec)
        found.append(pad_packed_sequence(states, total_length=x.shape[1])[0])
    return _masked(torch.stack(found), w_rec, lengths)


def padded(x: Tensor, w_in: Tensor, w_rec: Tensor, b_in: Tensor, b_rec: Tensor, lengths: Tensor) -> Tensor:
    """Forward only is it the same: the second direction begins in the padding."""
    found = [
        _called(module, seed, x[seed], w_in, w_rec, b_in, b_rec)[0] for seed, module in enumerate(_modules(w_in, w_rec))
    ]
    return _masked(torch.stack(found), w_rec, lengths)


def _modules(w_in: Tensor, w_rec: Tensor) -> list[nn.RNNBase]:
    _, directions, rows, hidden = w_rec.shape
    kind = nn.LSTM if rows == 4 * hidden else nn.GRU
    return [kind(w_in.shape[-1], hidden, bidirectional=directions == 2, device="meta")] * len(w_rec)


def _called(module: nn.RNNBase, seed: int, x: Tensor | PackedSequence, *parameters: Tensor) -> tuple[Any, Any]:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    own = {
        f"{name}_l0{way}": parameter[seed, direction]
        for name, parameter in zip(names, parameters, strict=True)
        for direction, way in enumerate(("", "_reverse")[: parameter.shape[1]])
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        found: tuple[Any, Any] = functional_call(module, own, (x,))
    return found


def _masked(states: Tensor, w_rec: Tensor, lengths: Tensor) -> Tensor:
    """(S, T, B, D H) as (S, D, T, B, H), zero in the padding."""
    inside = torch.arange(states.shape[1], device=states.device)[:, None] < lengths[:, None]
    split = states.reshape(*states.shape[:3], w_rec.shape[1], -1).movedim(3, 1)
    return torch.where(inside[:, None, ..., None], split, 0.0)
