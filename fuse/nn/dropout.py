"""Dropout for which a CPU draws its random numbers quickly.

Most of the time of torch's dropout on a CPU goes into one Bernoulli number for each number dropped or kept. Here four
of them come from one draw of 64 bits, and operations that vectorise, as a comparison does not, make a mask of them:
it takes a third of the time, which is 5 % of a step of hff.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import has_torch_function_unary

LEVELS = 2**16
"""Of so many equally likely numbers those below p's share are dropped."""


class Dropout(nn.Dropout):
    """`nn.Dropout` (Srivastava et al. 2014), p rounded to 1/65536 in training on a CPU.

    What is kept is divided by the share that is really kept, so that the mean stays. Whatever else there is (GPUs,
    in place, `torch.func`, numbers drawn before the step by `fuse.training.draws`) stays torch's.
    """

    def forward(self, x: Float[Tensor, "*_"]) -> Float[Tensor, "*_"]:
        """x, dropped or scaled in training."""
        dropped = round(self.p * LEVELS)
        if not (self.training and 0 < dropped < LEVELS and draws_here(x)) or self.inplace:
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        most = dropped - LEVELS // 2  # the least number that is kept, as int16 counts
        kept = bits.clamp_(most - 1, most).sub_(most - 1)[: x.numel()].view(x.shape)
        return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


def draws_here(x: Tensor) -> bool:
    """Whether x is a tensor of a CPU, and nobody else is to meet its functions."""
    plain = not has_torch_function_unary(x) and not torch._C._are_functorch_transforms_active()
    return x.device.type == "cpu" and plain
