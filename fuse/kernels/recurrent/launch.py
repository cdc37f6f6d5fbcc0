"""Launches the kernels of `fuse.kernels.recurrent.triton`; the functions and their axes are those of `reference`."""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from fuse.kernels.recurrent import triton as kernels

SLACK = 16 * 1024
"""Bytes of shared memory that a program needs beside its weights."""


def gru_forward(gates: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """See `reference.gru_forward`; what is kept may be anything in the padding."""
    states, kept = _room(gates, weight, 1), _room(gates, weight, 4)
    first = (gates, *_halves(weight), bias)
    _launch(kernels.gru_forward_kernel, (*first, lengths, states, kept), weight, options)
    return states, kept


def gru_backward(grad: Tensor, states: Tensor, kept: Tensor, weight: Tensor, lengths: Tensor, **options: Any) -> Tensor:
    """See `reference.gru_backward`."""
    grads = _room(grad, weight, 4)
    first = (grad, states, kept, *_halves(weight))
    _launch(kernels.gru_backward_kernel, (*first, lengths, grads), weight, options)
    return grads


def lstm_forward(gates: Tensor, weight: Tensor, lengths: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """See `reference.lstm_forward`; what is kept may be anything in the padding."""
    states, kept = _room(gates, weight, 1), _room(gates, weight, 5)
    first = (gates, *_halves(weight))
    _launch(kernels.lstm_forward_kernel, (*first, lengths, states, kept), weight, options)
    return states, kept


def lstm_backward(grad: Tensor, kept: Tensor, weight: Tensor, lengths: Tensor, **options: Any) -> Tensor:
    """See `reference.lstm_backward`."""
    grads = _room(grad, weight, 4)
    first = (grad, kept, *_halves(weight))
    _launch(kernels.lstm_backward_kernel, (*first, lengths, grads), weight, options)
    return grads


def parts(dtype: torch.dtype) -> int:
    """How many halves a number is taken as: one where so few bits are there, or are allowed to be."""
    return 2 if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest" else 1


def constants(directions: int, gates: int, hidden: int, parts: int, shared: int) -> dict[str, Any]:
    """The kernels' compile-time arguments; `shared` is the shared memory that a program may have, in bytes."""
    block = max(kernels.CHUNK, triton.next_power_of_2(hidden))
    return {
        "directions": directions,
        "hidden": hidden,
        "block": block,
        "tile": kernels.SEQUENCES,
        "chunk": kernels.CHUNK,
        "parts": parts,
        "resident": gates * block * block * 2 * parts + SLACK <= shared,
    }


def _launch(kernel: Any, tensors: tuple[Tensor, ...], weight: Tensor, options: dict[str, Any]) -> None:
    seeds, directions, rows, hidden = weight.shape
    frames, sequences = tensors[0].shape[2:4]
    if tensors[0].numel() == 0:
        return
    shared = _shared_memory(weight)
    chosen = constants(directions, rows // hidden, hidden, parts(weight.dtype), shared) | options
    grid = (seeds * directions, triton.cdiv(sequences, kernels.SEQUENCES))
    kernel[grid](*(x.contiguous() for x in tensors), frames, sequences, **chosen, num_warps=kernels.WARPS)


def _shared_memory(weight: Tensor) -> int:
    if not weight.is_cuda:
        return 0
    properties: Any = torch.cuda.get_device_properties(weight.device)
    return int(properties.shared_memory_per_block_optin)


def _halves(weight: Tensor) -> tuple[Tensor, Tensor]:
    first = weight.to(torch.float16)
    return first, (weight - first).to(torch.float16)


def _room(like: Tensor, weight: Tensor, each: int) -> Tensor:
    return like.new_empty(*like.shape[:-1], each * weight.shape[-1])
