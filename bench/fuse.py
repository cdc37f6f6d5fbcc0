"""Seconds per epoch of hff, mer's way against the plain way, in one run.

The plain way is what most code on these features does: one file's worth of padded float32 tensors per utterance through
a DataLoader with two workers, every batch padded to the data set's longest utterance, the same model, the same
optimizer. Lengths follow MELD's: utterances of 0.3 to 15 s, median 2.5 s; MFCC at 100 Hz, 5 frames and about
4.5 tokens per second, widths 40, 512 and 768.

    python -m bench.fuse [utterances]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cache_schema.samples import Target
from fuse.arch import Batch
from fuse.archs import hff
from fuse.data import Dataset, scales
from fuse.loop import reproducible
from fuse.losses import Loss
from fuse.model import Model
from fuse.optimize import Optimization
from fuse.steps import clip

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
RATES_HZ = {"speech": 100.0, "text": 4.5, "vision": 5.0}
WIDTHS = {"speech": 40, "text": 768, "vision": 512}
ROUNDS = 3


def make_data(count: int) -> Dataset:
    """Random features with MELD-like lengths, as they lie in memory after loading: fp16, one after the other."""
    random = torch.Generator().manual_seed(0)
    seconds = (2.5 * torch.exp(0.75 * torch.randn(count, generator=random))).clamp(0.3, 15)
    lengths = {m: (seconds * rate).ceil().long() for m, rate in RATES_HZ.items()}
    frames = {m: torch.randn(int(n.sum()), WIDTHS[m], generator=random).half() for m, n in lengths.items()}
    starts = {m: n.cumsum(0) - n for m, n in lengths.items()}
    labels = torch.randint(0, len(EMOTIONS), (count,), generator=random)
    target = Target(name="emotion", kind="classification", classes=EMOTIONS)
    return Dataset("bench", tuple(map(str, range(count))), target, labels, frames, starts, lengths, torch.arange(count))


class Padded(TorchDataset[dict[str, Tensor]]):
    """Every utterance alone, padded to the longest of all."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.longest = {m: int(n.max()) for m, n in data.lengths.items()}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        found = {} if self.data.labels is None else {"label": self.data.labels[row]}
        for m, frames in self.data.frames.items():
            start, length = int(self.data.starts[m][row]), int(self.data.lengths[m][row])
            padded = torch.zeros(self.longest[m], frames.shape[1])
            padded[:length] = frames[start : start + length].float()
            found[m], found[f"{m}_length"] = padded, torch.tensor(length)
        return found


def plain_batches(loader: DataLoader[dict[str, Tensor]]) -> Iterator[Batch]:
    """The loader's batches as a model takes them."""
    for item in loader:
        rows = torch.arange(len(item["label"]))
        yield Batch(
            ids=tuple(map(str, rows.tolist())),
            sequences={m: item[m] for m in WIDTHS},
            lengths={m: item[f"{m}_length"] for m in WIDTHS},
            available=torch.ones(len(rows), len(WIDTHS), dtype=torch.bool),
            target=item["label"],
            dialogue=rows,
            position=torch.zeros_like(rows),
        )


def seconds_per_epoch(model: Model, data: Dataset, batches: Callable[[], Iterator[Batch]]) -> float:
    """Median over ROUNDS epochs, after one that warms up."""
    optimizer, criterion = Optimization(model.network, hff.TRAINING, 1), Loss(hff.TRAINING, data)
    model.train()
    found = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        for batch in batches():
            loss = criterion(model(batch).logits, batch.target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            clip(model, optimizer.parameters, hff.TRAINING.clip, loss, "the benchmark", batch)
            optimizer.step()
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    data = make_data(count)
    size = hff.TRAINING.batch_size
    shuffle = torch.Generator().manual_seed(0)
    loader = DataLoader(Padded(data), size, shuffle=True, num_workers=2, persistent_workers=True)

    def model() -> Model:
        return Model(hff.build(hff.Config(), data.tails, data.target), scales(data, True))

    with reproducible(0, 1):
        ours = seconds_per_epoch(model(), data, lambda: data.batches(size, "utterance", shuffle))
        gather = time.perf_counter()
        for _ in data.batches(size, "utterance", shuffle):
            pass
        gather = time.perf_counter() - gather
        plain = seconds_per_epoch(model(), data, lambda: plain_batches(loader))
    print(f"hff, {count} utterances, batch {size}, one torch thread, torch {torch.__version__}")
    print(f"mer    {ours:7.2f} s per epoch, {1000 * ours / -(-count // size):.0f} ms per step, batches {gather:.2f} s")
    print(f"plain  {plain:7.2f} s per epoch (DataLoader with 2 workers, padded to the longest)")
    print(f"ratio  {plain / ours:7.2f}")


if __name__ == "__main__":
    main()
