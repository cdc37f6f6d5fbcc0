"""Whether a module must compute with shapes that do not depend on numbers.

On a GPU a step is captured once as a graph and replayed, several seeds are mapped over by `torch.func`, and models are
compiled, exported and traced: none of it allows a shape, or a choice, that is read from a tensor. Elsewhere a module
may look, and skip what is not there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shapes_are_fixed(x: Tensor) -> bool:
    """Whether `x` is on a GPU, mapped over by `torch.func`, or of a model being compiled, exported or traced."""
    return (
        x.is_cuda
        or torch._C._are_functorch_transforms_active()
        or torch.compiler.is_compiling()
        or torch._C._is_tracing()
    )
