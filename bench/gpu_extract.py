"""Extraction on a GPU: `mer extract` over the encoders' bare forwards in bfloat16, and how long the device waits.

Full-size RoBERTa, HuBERT and ViT with random weights. For each of them, and for all three together:

- bare: a plain transformers model, batches that lie on the device already, the fastest batch size, nothing else;
- encoding: mer's encoder over clips that lie decoded in memory, with its copies to and from the device;
- extraction: `mer extract` from files into a store, its decoding, cropping and writing included.

The device waits while no forward pass runs on it: one minus the time between the events around the forwards, over the
wall clock's; gaps between the kernels of one forward count as work. Where there are several devices, the same corpus is
extracted by one process for each. On a CPU it runs as well, and says nothing about GPUs.

    python -m bench.gpu_extract [--small] [--device cuda] [--write FILE]
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.extraction import (
    Extraction,
    batches_of,
    checkpoint_of,
    config_of,
    kept_encoders,
    make_clips,
    pieces_of,
    plain_model,
    utterances_of,
)
from bench.store import Table
from extract.decoding.media import decode
from extract.encoders import ENCODERS
from extract.frozen import inference, quiet
from extract.weights.random_weights import make_random_checkpoint

TOGETHER = ("roberta", "hubert", "vit")
BATCH_SIZES = {"roberta": (64, 256, 1024), "hubert": (16, 64, 256), "vit": (64, 256, 512)}
"""What the bare forwards are tried with: texts, clips or pictures."""
LEAST = 0.9


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        weights: full or small random weights.
        clips: different talking faces of about two seconds.
        copies: of each, so that batches are full and decoding is not over at once.
        picture: width and height of their pictures.
        rounds: the median of so many is told.
    """

    weights: str = "full"
    clips: int = 24
    copies: int = 24
    picture: tuple[int, int] = (1280, 720)
    rounds: int = 3


SMALL = Sizes("small", 3, 2, (128, 96), 1)


def devices_of(asked: str) -> list[str]:
    """Every GPU for `auto` and `cuda`, where there is one; else what was asked for."""
    count = torch.cuda.device_count() if asked in ("auto", "cuda") else 0
    if count:
        return [f"cuda:{number}" for number in range(count)]
    return ["cpu" if asked == "auto" else asked]


def measure(table: Table, sizes: Sizes, asked: str = "auto") -> dict[str, float]:
    """Print the tables; returns the ratios and shares that they tell, by name.

    Args:
        table: where the lines go.
        sizes: how much.
        asked: device; auto: the GPUs where there are any.
    """
    devices = devices_of(asked)
    device, found = devices[0], dict[str, float]()
    table.say(f"Extraction in bfloat16 on {_named(device)}, {os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as scratch, quiet():
        folder = Path(scratch)
        make_clips(folder / "clips", sizes.clips, *sizes.picture)
        make_many(folder, sizes.copies)
        for name in TOGETHER:
            make_random_checkpoint(name, folder / "weights" / name, sizes.weights, seed=0)
        samples, bare = sizes.clips * sizes.copies, dict[str, float]()
        table.say(f"  {samples} clips; samples/s, and the share of the time in which the device waits")
        table.say(f"  {'':12}{'bare':>12}{'encoding':>12}{'waits':>8}{'extraction':>12}{'waits':>8}")
        for name in TOGETHER:
            bare[name] = bare_forwards(name, folder, device, sizes)
            encoded, extracted = encoding(name, folder, device, sizes), extraction((name,), folder, device, sizes)
            columns = [f"{samples / t.seconds:12.2f}{t.waits:8.2f}" for t in (encoded, extracted)]
            table.say(f"  {name:12}{samples / bare[name]:12.2f}{''.join(columns)}")
            found[f"{name}: encoding over bare"] = bare[name] / encoded.seconds
            found[f"{name}: extraction over bare"] = bare[name] / extracted.seconds
        whole = extraction(TOGETHER, folder, device, sizes)
        found["extraction over bare"] = sum(bare.values()) / whole.seconds
        found["device waits"] = whole.waits
        rates = [samples / sum(bare.values()), samples / whole.seconds]
        table.say(f"  {'together':12}{rates[0]:12.2f}{'':20}{rates[1]:12.2f}{whole.waits:8.2f}")
        table.ratio("extraction of the three over their bare forwards", found["extraction over bare"], LEAST)
        if len(devices) > 1:
            found["devices"] = several(table, folder, devices)
        else:
            table.say("  one device: there are no several to spread over")
    table.say()
    return found


def _named(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def make_many(folder: Path, copies: int) -> None:
    """The corpus `many`: each clip of `clips` so many times, with its transcript, as a folder with a manifest."""
    root = folder / "many"
    root.mkdir()
    with (root / "manifest.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "path", "text", "label", "dialogue", "split"])
        for copy in range(copies):
            for number, utterance in enumerate(utterances_of(folder, "clips")):
                clip = root / f"clip{copy}_{number}.mp4"
                clip.hardlink_to(folder / "clips" / str(utterance.path))
                lines.writerow([clip.stem, clip.name, utterance.text, "joy", f"d{copy}", "train"])


def bare_forwards(name: str, folder: Path, device: str, sizes: Sizes) -> float:
    """Seconds of a plain model's forwards over the whole corpus in ready batches, at the best of the batch sizes."""
    model = plain_model(name, folder, device, torch.bfloat16)
    pieces = [piece for piece in pieces_of(name, folder) for _ in range(sizes.copies)]
    best = float("inf")
    for size in BATCH_SIZES[name]:
        batches = [
            {key: _ready(tensor, device) for key, tensor in batch.items()} for batch in batches_of(name, pieces, size)
        ]
        times = []
        for _ in range(1 + sizes.rounds):
            _wait_for(device)
            started = time.perf_counter()
            with inference():
                for batch in batches:
                    model(**batch)
            _wait_for(device)
            times.append(time.perf_counter() - started)
        best = min(best, statistics.median(times[1:]))
    return best


def _ready(tensor: torch.Tensor, device: str) -> torch.Tensor:
    return tensor.to(device, torch.bfloat16 if tensor.is_floating_point() else tensor.dtype)


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


class Marks:
    """When the forward passes of some models begin and end on the device, while it is watched.

    Args:
        models: which.
        device: theirs.
    """

    def __init__(self, models: Sequence[Any], device: str) -> None:
        self.device, self._begun = device, list[Any]()
        self._spans: list[tuple[Any, Any]] = []
        self._hooks = [m.register_forward_pre_hook(lambda *_: self._begun.append(self._mark())) for m in models]
        self._hooks += [m.register_forward_hook(lambda *_: self._end()) for m in models]

    def __enter__(self) -> Marks:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def seconds(self) -> float:
        """The forwards' time since this was asked last."""
        _wait_for(self.device)
        spans, self._spans = self._spans, []
        if self.device.startswith("cuda"):
            return float(sum(begin.elapsed_time(end) for begin, end in spans)) / 1000
        return float(sum(end - begin for begin, end in spans))

    def _mark(self) -> Any:
        if not self.device.startswith("cuda"):
            return time.perf_counter()
        return torch.cuda.current_stream(self.device).record_event(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]

    def _end(self) -> None:
        self._spans.append((self._begun.pop(), self._mark()))


def timed(work: Callable[[], object], models: Callable[[], Sequence[Any]], device: str, rounds: int) -> Timed:
    """Median seconds of `work`, and the share of them in which no forward pass runs on the device.

    Args:
        work: what is done; once before, to load and to warm up.
        models: its models, asked for after that.
        device: theirs.
        rounds: the median of so many.
    """
    work()
    seconds, waits = [], []
    with Marks(models(), device) as marks:
        for _ in range(rounds):
            marks.seconds()
            started = time.perf_counter()
            work()
            _wait_for(device)
            seconds.append(time.perf_counter() - started)
            waits.append(1 - marks.seconds() / seconds[-1])
    return Timed(statistics.median(seconds), statistics.median(waits))


class Timed(NamedTuple):
    """How long something takes, and for what share of it the device waits."""

    seconds: float
    waits: float


def encoding(name: str, folder: Path, device: str, sizes: Sizes) -> Timed:
    """mer's encoder over the corpus, decoded before."""
    module, checkpoint = ENCODERS.load(name), checkpoint_of(name, folder)
    config = config_of(name).with_assignments(["compute_dtype=bfloat16"], name)
    encoder, needs = module.Encoder(config, checkpoint, device), module.needs(config, checkpoint)
    clips = [decode(folder / "clips", u, [needs]) for u in utterances_of(folder, "clips")] * sizes.copies
    return timed(lambda: sum(1 for _ in encoder.encode(clips)), lambda: [encoder.model], device, sizes.rounds)


def extraction(names: Sequence[str], folder: Path, device: str, sizes: Sizes) -> Timed:
    """`mer extract` of the corpus, into a new store each time."""
    settings = [f"{name}.compute_dtype=bfloat16" for name in names]
    with kept_encoders() as kept:
        work = Extraction(folder, names, "many", settings=settings, device=device)
        return timed(work, lambda: [encoder.model for encoder in kept.values()], device, sizes.rounds)


def several(table: Table, folder: Path, devices: Sequence[str]) -> float:
    """`mer extract --workers`, a process for each device, over one process; loading the models counts in both."""
    settings = [f"{name}.compute_dtype=bfloat16" for name in TOGETHER]
    seconds = []
    for workers in (1, len(devices)):
        work = Extraction(folder, TOGETHER, "many", settings=settings, device="cuda", workers=workers)
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    table.ratio(f"{len(devices)} devices, a process for each, over one", seconds[0] / seconds[1])
    return seconds[0] / seconds[1]


def main(arguments: list[str] | None = None) -> Table:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Extraction's speed on a GPU, as ratios of one run.")
    parser.add_argument("--small", action="store_true", help="small models, few clips: shows that it runs, and no more")
    parser.add_argument("--device", default="auto", help="auto: the GPUs where there are any, else the CPU")
    parser.add_argument("--write", type=Path, help="write what was printed to this file, too")
    options = parser.parse_args(arguments)
    table = Table(judged=not options.small)
    measure(table, SMALL if options.small else Sizes(), options.device)
    if options.write:
        head = "# Extraction on a GPU\n\n`python -m bench.gpu_extract`\n\n```\n"
        options.write.write_text(head + "\n".join(table.lines) + "\n```\n")
    return table


if __name__ == "__main__":
    main()
