"""float32 with all of its bits on GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_cudnn() -> Iterator[None]:
    """Convolutions and recurrences of cuDNN in float32 as IEEE has it, by the same algorithm every time.

    Unless told, torch lets cuDNN drop 13 bits of what it multiplies (TF32), which it does not for matrix products; a
    batch then changes a feature, and a processor a result. What was set before is set again after.
    """
    cudnn: Any = torch.backends.cudnn
    asked: list[tuple[Any, str, object]] = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    if hasattr(cudnn, "conv"):  # since torch 2.9, where the older name cannot be read once these are set
        asked += [(cudnn.conv, "fp32_precision", "ieee"), (cudnn.rnn, "fp32_precision", "ieee")]
    else:
        asked += [(cudnn, "allow_tf32", False)]
    before = [(part, name, getattr(part, name)) for part, name, _ in asked]
    try:
        for part, name, value in asked:
            setattr(part, name, value)
        yield
    finally:
        for part, name, value in before:
            setattr(part, name, value)
