"""Launches the kernels of `fuse.kernels.recurrent.triton`; the functions and their axes are those of `reference`.

What is kept of the forward pass may be anything in the padding. `options` are compile-time arguments of the kernels, to
be chosen otherwise than `constants` does.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from fuse.kernels.recurrent import triton as kernels

SLACK = 16 * 1024
"""Bytes of shared memory that a program needs beside its weights."""


def gru_forward(gates: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """See `reference.gru_forward`."""
    found = _room(gates, weight, 1), _room(gates, weight, 4)
    named = {"gates": gates, "bias": bias, "states": found[0], "kept": found[1]}
    _launch(kernels.gru_forward_kernel, weight, lengths, gates.shape[2], named, options)
    return found


def gru_backward(grad: Tensor, states: Tensor, kept: Tensor, weight: Tensor, lengths: Tensor, **options: Any) -> Tensor:
    """See `reference.gru_backward`."""
    grads = _room(grad, weight, 4)
    named = {"grad": grad, "states": states, "kept": kept, "grads": grads}
    _launch(kernels.gru_backward_kernel, weight, lengths, grad.shape[2], named, options)
    return grads


def lstm_forward(gates: Tensor, weight: Tensor, lengths: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """See `reference.lstm_forward`."""
    found = _room(gates, weight, 1), _room(gates, weight, 5)
    named = {"gates": gates, "states": found[0], "kept": found[1]}
    _launch(kernels.lstm_forward_kernel, weight, lengths, gates.shape[2], named, options)
    return found


def lstm_backward(grad: Tensor, kept: Tensor, weight: Tensor, lengths: Tensor, **options: Any) -> Tensor:
    """See `reference.lstm_backward`."""
    grads = _room(grad, weight, 4)
    _launch(
        kernels.lstm_backward_kernel,
        weight,
        lengths,
        grad.shape[2],
        {"grad": grad, "kept": kept, "grads": grads},
        options,
    )
    return grads


def constants(directions: int, gates: int, hidden: int, dtype: torch.dtype, shared: int) -> dict[str, Any]:
    """The kernels' compile-time arguments for weights of a type; `shared` are the bytes that a program may share."""
    parts = 2 if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest" else 1
    block = max(kernels.CHUNK, triton.next_power_of_2(hidden))
    return {
        "directions": directions,
        "hidden": hidden,
        "block": block,
        "tile": kernels.SEQUENCES,
        "chunk": kernels.CHUNK,
        "parts": parts,
        "resident": 2 * parts * gates * block * block + SLACK <= shared,
    }


def _launch(
    kernel: Any, weight: Tensor, lengths: Tensor, frames: int, named: dict[str, Tensor], options: dict[str, Any]
) -> None:
    seeds, directions, rows, hidden = weight.shape
    sequences = lengths.shape[1]
    if seeds * frames * sequences == 0:
        return
    chosen = constants(directions, rows // hidden, hidden, weight.dtype, _shared_memory(weight)) | options
    first = weight.to(torch.float16)
    second = (weight - first).to(torch.float16) if chosen["parts"] == 2 else first
    tensors = named | {"first": first, "second": second, "lengths": lengths}
    kernel[seeds * directions, triton.cdiv(sequences, kernels.SEQUENCES)](
        **{name: x.contiguous() for name, x in tensors.items()},
        frames=frames,
        sequences=sequences,
        **chosen,
        num_warps=kernels.WARPS,
        maxnreg=kernels.REGISTERS,
    )


def _shared_memory(weight: Tensor) -> int:
    if not weight.is_cuda:
        return 0
    properties: Any = torch.cuda.get_device_properties(weight.device)
    return int(properties.shared_memory_per_block_optin)


def _room(like: Tensor, weight: Tensor, each: int) -> Tensor:
    return like.new_empty(*like.shape[:-1], each * weight.shape[-1])
