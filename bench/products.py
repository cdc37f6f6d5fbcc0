"""GFLOP/s of float32 matrix products on this processor: as torch multiplies, and as `compute/products.py` does.

    python -m bench.products [--threads 1] [--small]

The shapes are those of RoBERTa-base on 13 and 640 tokens, of ViT-B/16 on 8 frames and of a fusion model; each in the
forward pass alone and with its gradients. Both take turns, and the fastest of the rounds counts.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import nn

from bench.clock import in_turns
from bench.machine import cpu_name
from compute.products import Linear, pays

SHAPES = ((13, 768, 768), (13, 768, 3072), (640, 768, 768), (640, 768, 3072), (1576, 3072, 768), (512, 128, 512))
"""Rows, inputs, outputs."""


def forward(layer: nn.Linear, x: torch.Tensor) -> None:
    """Inference."""
    with torch.inference_mode():
        layer(x)


def training(layer: nn.Linear, x: torch.Tensor, gradient: torch.Tensor) -> None:
    """Values and all gradients."""
    torch.autograd.backward(layer(x), gradient)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="so little that only errors show")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    rounds = 1 if given.small else 30
    print(f"{cpu_name()}, {given.threads} threads, torch {torch.__version__}; used here: {'yes' if pays() else 'no'}")
    print(f"{'rows x inputs x outputs':26}{'torch':>8}{'mer':>8}{'ratio':>8}   {'torch':>8}{'mer':>8}{'ratio':>8}")
    print(f"{'':26}{'forward':>24}   {'with gradients':>24}")
    for rows, inputs, outputs in SHAPES[-1:] if given.small else SHAPES:
        layers = {"torch": nn.Linear(inputs, outputs), "mer": Linear(inputs, outputs)}
        x, gradient = torch.randn(rows, inputs, requires_grad=True), torch.randn(rows, outputs)
        work = 2e-9 * rows * inputs * outputs
        line = f"{f'{rows} x {inputs} x {outputs}':26}"
        for ways, times in (
            ({way: partial(forward, layer, x) for way, layer in layers.items()}, 1),
            ({way: partial(training, layer, x, gradient) for way, layer in layers.items()}, 3),
        ):
            speeds = {way: times * work / min(seconds) for way, seconds in in_turns(ways, rounds).items()}
            line += f"{speeds['torch']:8.0f}{speeds['mer']:8.0f}{speeds['mer'] / speeds['torch']:8.2f}   "
        print(line.rstrip())


if __name__ == "__main__":
    main()
