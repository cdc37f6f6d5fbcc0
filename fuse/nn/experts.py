"""A sparse mixture of experts: a router sends each input to the k likeliest of E experts, and only those compute.

Shazeer et al. 2017 (arXiv:1701.06538); Fedus et al. 2021 (arXiv:2101.03961), whose equation numbers are in the margin.

Axes: B inputs, D width, E experts, k of them chosen, A of them chosen by any input, C outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fuse.kernels.dispatch import kernel_runs
from fuse.kernels.routed_linear import by_expert, routed_linear
from fuse.nn.fixed import shapes_are_fixed


@dataclass(frozen=True)
class Routed:
    """What a mixture says.

    Attributes:
        outputs: (B, C).
        gate: the router's probabilities (B, E).
        chosen: the experts of each input, likeliest first (B, k).
        weights: what each of them counts, summing to 1 (B, k).
        balance: E times the sum over experts of the share of choices times the mean probability: 1 where the load is
            even, up to E where one expert has it all (4-6).
    """

    outputs: Float[Tensor, "B C"]
    gate: Float[Tensor, "B E"]
    chosen: Int[Tensor, "B k"]
    weights: Float[Tensor, "B k"]
    balance: Float[Tensor, ""]


class MixtureOfExperts(nn.Module):
    """Softmax gate, the k likeliest experts, their weights renormalised; an expert is Linear-ReLU-Linear.

    With k = 1 the renormalised weight is 1 whatever the gate says, so that the loss would not reach the router. In
    training its gradient is that of p / (p without gradient), whose value is 1 too. A single expert needs no router.

    Args:
        width: D.
        hidden: width of an expert's hidden layer.
        outputs: C.
        experts: E.
        top: k.
    """

    def __init__(self, width: int, hidden: int, outputs: int, experts: int, top: int) -> None:
        super().__init__()
        self.top = top
        self.router = nn.Linear(width, experts) if experts > 1 else None
        self.hidden = nn.Parameter(torch.empty(experts, width, hidden))
        self.hidden_bias = nn.Parameter(torch.empty(experts, hidden))
        self.out = nn.Parameter(torch.empty(experts, hidden, outputs))
        self.out_bias = nn.Parameter(torch.empty(experts, outputs))
        for parameter, inputs in ((self.hidden, width), (self.hidden_bias, width)):
            nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
        for parameter in (self.out, self.out_bias):
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def forward(self, x: Float[Tensor, "B D"]) -> Routed:
        """Each input through its experts."""
        gate = x.new_ones(len(x), 1) if self.router is None else self.router(x).softmax(dim=-1)
        likeliest, chosen = gate.topk(self.top, dim=-1)
        if self.top == 1 and self.training:
            weights = likeliest / likeliest.detach()
        else:
            weights = likeliest / likeliest.sum(dim=-1, keepdim=True)
        each = self.experts(x.repeat_interleave(self.top, dim=0), chosen.flatten())
        outputs = (weights[..., None] * each.view(len(x), self.top, -1)).sum(dim=1)
        everyone = torch.arange(gate.shape[1], device=x.device)
        share = (chosen.flatten()[:, None] == everyone).sum(dim=0).to(gate.dtype) / chosen.numel()  # (5)
        balance = gate.shape[1] * (share * gate.mean(dim=0)).sum()  # (4), (6)
        return Routed(outputs, gate, chosen, weights, balance)

    def experts(self, x: Float[Tensor, "R D"], chosen: Int[Tensor, " R"]) -> Float[Tensor, "R C"]:
        """Each row through its own expert: the rows of an expert together, idle experts untouched."""
        if len(self.hidden) == 1:
            hidden = F.relu(torch.addmm(self.hidden_bias[0], x, self.hidden[0]))
            return torch.addmm(self.out_bias[0], hidden, self.out[0])
        if shapes_are_fixed(x) and not kernel_runs("routed_linear", x, self.hidden):
            return self.fixed(x, chosen)
        routes = by_expert(chosen[None], len(self.hidden))
        hidden = F.relu(routed_linear(x[None], routes, self.hidden[None], self.hidden_bias[None]))
        return routed_linear(hidden, routes, self.out[None], self.out_bias[None]).squeeze(0)

    def fixed(self, x: Float[Tensor, "R D"], chosen: Int[Tensor, " R"]) -> Float[Tensor, "R C"]:
        """As `experts`, in shapes that do not depend on who is chosen: where there are few experts all of them look at
        every row, else each row is given the parameters of its own."""
        if len(self.hidden) <= len(x):
            hidden = F.relu(torch.matmul(x, self.hidden) + self.hidden_bias[:, None])
            every = torch.matmul(hidden, self.out) + self.out_bias[:, None]
            own = chosen[None, :, None].expand(-1, -1, every.shape[2])
            return every.gather(0, own).squeeze(0)
        mine = (p.index_select(0, chosen) for p in (self.hidden, self.hidden_bias, self.out, self.out_bias))
        hidden, hidden_bias, out, out_bias = mine
        rows = F.relu(torch.matmul(x[:, None], hidden) + hidden_bias[:, None])
        return (torch.matmul(rows, out) + out_bias[:, None]).squeeze(1)
