"""Seconds per epoch of every architecture and baseline, mer's way against the plain way, and five seeds against one
after the other, in one run.

The plain way is what most code on cached features does: a DataLoader with two workers over padded float32 tensors,
every batch padded to the maximum, eager float32; the same model, settings and optimizer. The maximum is the data set's
longest utterance, and of complementary's tokens the 128 to which its paper pads. Mer's way gathers batches of about
equal lengths from flat fp16 tensors and computes in float32, the default, or as `precision=auto` says. The targets are
for the faster of the two. Each way has a process of its own with one torch thread, the plain way's with torch as it
comes, mer's with what `mer fuse train` gives it (`compute/`). Lengths are MELD's (`bench/meld_like.py`).

Of an epoch's shuffled batches a few are timed, the same number of each way in turns, and their mean stands for all. An
architecture that trains in stages is timed in each, and the stages' epochs are added. `--parts whole` runs a whole
training: five seeds of hff, 50 epochs each, on 10,000 utterances.

    python -m bench.fuse [--count 2048] [--archs hff,symphonia] [--small] [--write bench/results/fuse.md]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

import fuse.training.seeds
from bench.machine import cpu_name
from bench.meld_like import LONGEST, make_data
from compute import products
from compute.memory import keep_freed
from fuse.arch import Batch
from fuse.archs import ARCHS
from fuse.data import Dataset, Selection, scales
from fuse.model import Model
from fuse.nn import recurrent
from fuse.precision import Precision, computing, resolved
from fuse.training.loop import reproducible
from fuse.training.losses import Loss
from fuse.training.optimize import Optimization
from fuse.training.seeds import Job
from fuse.training.workers import Workers

CPU = torch.device("cpu")
FORK = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
"""How the DataLoader's workers start, as in most programs; those of a process that was spawned would be, too."""
WAYS = ("fp32", "auto", "plain")
ROUNDS = 3
COUNT, STEPS, PLAIN_STEPS = 2048, 12, 3
OF_FIVE = 512
"""Utterances of the five seeds' trainings, which are whole ones."""
PADDED_TO = {"complementary": {"text": 128}}
"""Where a paper says to what its inputs are padded."""
TARGETS = {"complementary": 3.0, "symphonia": 3.0, "hff": 1.3}
SEEDS_TARGET = 1.4
SMALL: dict[str, dict[str, object]] = {
    "hff": {"d": 12, "layers": 1, "steps": 2, "speech_channels": (4,)},
    "symphonia": {"d": 16, "layers": 1},
    "complementary": {"d": 16},
}


class Padded(TorchDataset[dict[str, Tensor]]):
    """Every utterance alone, padded to the longest of all, or to `least` where that is more."""

    def __init__(self, data: Dataset, least: Mapping[str, int] | None = None) -> None:
        self.data = data
        self.longest = {m: max(int(n.max()), (least or {}).get(m, 0)) for m, n in data.lengths.items()}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        assert self.data.labels is not None
        found = {"label": self.data.labels[row]}
        for m, frames in self.data.frames.items():
            found[m] = self.padded(frames, m, row)
            found[f"{m}_length"] = self.data.lengths[m][row]
        for name, laid in self.data.companions.items():
            found[name] = self.padded(laid.values, laid.modality, row)
            found[f"{name}_there"] = self.padded(laid.there, laid.modality, row)
        return found

    def padded(self, flat: Tensor, modality: str, row: int) -> Tensor:
        """An utterance's frames among zeros."""
        start, length = int(self.data.starts[modality][row]), int(self.data.lengths[modality][row])
        kind = flat.dtype if flat.dtype == torch.bool else torch.float32
        whole = torch.zeros(self.longest[modality], *flat.shape[1:], dtype=kind)
        whole[:length] = flat[start : start + length]
        return whole


def plain_batches(data: Dataset, loader: DataLoader[dict[str, Tensor]]) -> Iterator[Batch]:
    """The loader's batches as a model takes them."""
    for item in loader:
        rows = torch.arange(len(item["label"]))
        yield Batch(
            ids=tuple(map(str, rows.tolist())),
            sequences={m: item[m] for m in data.modalities},
            lengths={m: item[f"{m}_length"] for m in data.modalities},
            available=torch.ones(len(rows), len(data.modalities), dtype=torch.bool),
            target=item["label"],
            dialogue=rows,
            position=torch.zeros_like(rows),
            companions={name: item[name] for name in data.companions},
            companions_there={name: item[f"{name}_there"] for name in data.companions},
        )


@dataclass(frozen=True)
class Setting:
    """What is timed.

    Attributes:
        name: of the architecture.
        count: utterances.
        longest: seconds of the longest of them.
        settings: of its model, where they are not its own.
        least: modality -> frames to which the plain way pads at least.
        steps, plain_steps: of an epoch that are timed, mer's way and the plain way.
    """

    name: str
    count: int
    longest: float
    settings: dict[str, Any]
    least: dict[str, int]
    steps: int
    plain_steps: int


class Trained:
    """An architecture in training, timed; each way in a process of its own, which keeps what it made."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        module = ARCHS.load(setting.name)
        with reproducible(0, 1):
            self.data = make_data(module, setting.count, longest=setting.longest)
            network = module.build(module.Config(**setting.settings), self.data.tails, self.data.target)
            self.model = Model(network, scales(self.data, True))
        self.config = module.TRAINING
        self.criterion = Loss(self.config, self.data)
        self.shuffle = torch.Generator().manual_seed(0)

    def steps(self) -> int:
        """Of an epoch."""
        size: int = self.config.batch_size
        return -(-len(self.data) // size)

    def seconds(self, batches: Iterator[Batch], precision: Precision, most: int) -> float:
        """A step's mean over `most` steps, its batch included; the one before them, in which workers start, is left
        out."""
        network = self.model.network
        optimization = Optimization(network, self.config, 1000, network.stage)
        self.model.train()
        found = []
        begun = time.perf_counter()
        for number, batch in enumerate(batches):
            with computing(precision, CPU):
                output = self.model(batch)
                loss = torch.stack([self.criterion(output.logits, batch.target), *output.losses.values()]).sum()
            optimization.zero_grad()
            torch.autograd.backward(loss)
            if self.config.clip is not None:
                torch.nn.utils.clip_grad_norm_(optimization.parameters, self.config.clip)
            optimization.step()
            now = time.perf_counter()
            found.append(now - begun)
            begun = now
            if number == most:
                break
        return statistics.mean(found[1:] or found)

    def epoch(self, way: str) -> float:
        """Seconds of an epoch, all its stages'."""
        network, size, took = self.model.network, self.config.batch_size, 0.0
        with reproducible(0, 1):
            for stage in network.stages or (None,):
                network.stage = stage
                if way == "plain":
                    padded = Padded(self.data, self.setting.least)
                    loader = DataLoader(padded, size, shuffle=True, num_workers=2, multiprocessing_context=FORK)
                    batches, most = plain_batches(self.data, loader), self.setting.plain_steps
                else:
                    batches, most = self.data.batches(size, network.unit, self.shuffle), self.setting.steps
                took += self.steps() * self.seconds(batches, "auto" if way == "auto" else "fp32", most)
            network.stage = None
        return took


def begin(plain: bool) -> None:
    """A process begins: the plain way has torch as it comes, mer's what `mer fuse train` gives its processes."""
    if plain:
        products.pays = lambda: False  # type: ignore[assignment]
        recurrent.trains = lambda x: False
        recurrent.LSTM.forward = packed  # type: ignore[method-assign]
    else:
        keep_freed()


def packed(self: recurrent.LSTM, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """An LSTM over sequences of different lengths, of which none is empty, as torch's documentation has it."""
    if bool((lengths == x.shape[1]).all()):
        states, (last, _) = self.lstm(x)
    else:
        found, (last, _) = self.lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        states, _ = pad_packed_sequence(found, batch_first=True, total_length=x.shape[1])
    return states, torch.cat(list(last[-2 if self.lstm.bidirectional else -1 :]), dim=1)


def one_epoch(way: str, setting: Setting) -> tuple[int, float]:
    """In one of the processes: the steps of an epoch, and its seconds."""
    made = _made.get(setting.name) or Trained(setting)
    _made.clear()
    _made[setting.name] = made
    return made.steps(), made.epoch(way)


_made: dict[str, Trained] = {}


def measure(setting: Setting, rounds: int) -> tuple[int, dict[str, float]]:
    """The steps of an epoch, and its seconds each of the three ways: medians of rounds in which they take turns."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as stack:
        pools = {
            plain: stack.enter_context(ProcessPoolExecutor(1, context, begin, (plain,))) for plain in (False, True)
        }
        for number in range(rounds + 1):  # the first one warms up
            for way in WAYS:
                if number or way != "plain":
                    steps, seconds = pools[way == "plain"].submit(one_epoch, way, setting).result()
                    found[way].append(seconds)
    medians = {way: statistics.median(seconds[way != "plain" :]) for way, seconds in found.items()}
    return steps, medians


def job_of(name: str, data: Dataset, train: int, settings: dict[str, Any], **training: object) -> Job:
    """A training on the CPU: the first `train` rows to learn from, the others to choose the epoch by."""
    module, rows = ARCHS.load(name), torch.arange(len(data))
    folds = {"all": Selection(data.select(rows[:train]), data.select(rows[train:]))}
    return Job(name, module.Config(**settings), module.TRAINING.model_copy(update=training), folds, "cpu", None)


def seeds_apart(data: Dataset, epochs: int, small: bool) -> dict[str, float]:
    """Seconds of five seeds: side by side as mer trains them, and one after the other with one thread and with all."""
    job = job_of("hff", data, len(data) * 4 // 5, SMALL["hff"] if small else {}, max_epochs=epochs, patience=epochs)
    ways = {"side by side": (1 if small else None, 1), "one thread": (1, 1), "all threads": (1, os.cpu_count() or 1)}
    found: dict[str, list[float]] = {way: [] for way in ways}
    with contextlib.ExitStack() as stack:
        workers = {way: stack.enter_context(Workers(jobs)) for way, (jobs, _) in ways.items()}
        for _ in range(1 if small else 2):  # processes start in the first one
            for way, (_, threads) in ways.items():
                before, fuse.training.seeds.THREADS = fuse.training.seeds.THREADS, threads
                begun = time.perf_counter()
                try:
                    workers[way].train(job, range(5))
                finally:
                    fuse.training.seeds.THREADS = before
                found[way].append(time.perf_counter() - begun)
    return {way: min(seconds) for way, seconds in found.items()}


def whole(precision: Precision, small: bool) -> tuple[float, int]:
    """A whole training of hff, five seeds of 50 epochs that nothing stops, on 10,000 utterances: seconds, epochs."""
    train, val, epochs = (12, 4, 1) if small else (10_000, 1_000, 50)
    data = make_data(ARCHS.load("hff"), train + val, longest=0.8 if small else LONGEST)
    settings = SMALL["hff"] if small else {}
    job = job_of("hff", data, train, settings, max_epochs=epochs, patience=epochs, precision=precision)
    with Workers(1 if small else None) as workers:
        begun = time.perf_counter()
        results = workers.train(job, range(5))
        return time.perf_counter() - begun, sum(result.epochs for result in results)


def target(ratio: float, least: float | None) -> str:
    """The ratio, and whether it is what was aimed at."""
    return f"{ratio:6.2f}" + ("" if least is None else f"  (at least {least:g}: {'yes' if ratio >= least else 'NO'})")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="utterances")
    parser.add_argument("--archs", default="", help="comma-separated; default all, baselines included")
    parser.add_argument("--parts", default="archs,seeds", help="archs, seeds; whole, which takes half an hour")
    parser.add_argument("--precisions", default="fp32,auto", help="of the whole trainings")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which medians are told")
    parser.add_argument("--steps", type=int, default=STEPS, help="of an epoch of mer's that are timed")
    parser.add_argument("--plain-steps", type=int, default=PLAIN_STEPS, help="of a plain epoch that are timed")
    parser.add_argument("--epochs", type=int, default=12, help="of each of the five seeds")
    parser.add_argument("--small", action="store_true", help="so little that only errors show")
    parser.add_argument("--write", type=Path, help="a Markdown file for the results")
    given = parser.parse_args(arguments)
    rounds, steps, plain_steps = (1, 1, 1) if given.small else (given.rounds, given.steps, given.plain_steps)
    count, epochs = (12, 1) if given.small else (given.count, given.epochs)
    longest = 0.8 if given.small else LONGEST
    names = [name for name in given.archs.split(",") if name] or ARCHS.names()
    load = os.getloadavg()[0]
    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    tell(f"{cpu_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}")
    tell(f"{count} utterances, precision auto is {resolved('auto', CPU)} here, load before the run {load:.1f}")
    tell("")
    if "archs" in given.parts:
        tell(f"{'seconds per epoch':18}{'steps':>6}{'mer fp32':>10}{'mer auto':>10}{'plain':>9}  plain / fp32, auto")
        for name in names:
            settings = SMALL.get(name, {}) if given.small else {}
            least = {} if given.small else PADDED_TO.get(name, {})
            number, seconds = measure(Setting(name, count, longest, settings, least, steps, plain_steps), rounds)
            ratios = [seconds["plain"] / seconds[way] for way in ("fp32", "auto")]
            aimed = None if given.small else TARGETS.get(name)
            reached = "" if aimed is None else f"  (at least {aimed:g}: {'yes' if max(ratios) >= aimed else 'NO'})"
            figures = f"{seconds['fp32']:10.2f}{seconds['auto']:10.2f}{seconds['plain']:9.2f}"
            tell(f"{name:18}{number:6}{figures}  {ratios[0]:6.2f}{ratios[1]:6.2f}{reached}")
        tell("")
    if "seeds" in given.parts:
        data = make_data(ARCHS.load("hff"), min(count, OF_FIVE), longest=longest)
        five = seeds_apart(data, epochs, given.small)
        tell(f"hff, 5 seeds of {epochs} epochs, {five['side by side']:.1f} s side by side")
        for way in ("one thread", "all threads"):
            ratio = target(five[way] / five["side by side"], None if given.small else SEEDS_TARGET)
            tell(f"  one after the other, {way:11} {five[way]:9.1f} s  {ratio}")
        tell("")
    if "whole" in given.parts:
        for precision in given.precisions.split(","):
            took, taken = whole(precision, given.small)
            tell(f"hff, 5 seeds, {taken} epochs of 10,000 utterances, {precision:4}: {took / 60:.1f} minutes")
    if given.write:
        words = "python -m bench.fuse" + (f" --count {given.count}" if given.count != COUNT else "")
        head = f"# An epoch of every architecture, mer's way and the plain way\n\n`{words}`; what is compared is said "
        given.write.write_text(
            head + "at the head of `bench/fuse.py`.\n\n```\n" + "\n".join(lines) + "\n```\n", "utf-8"
        )


if __name__ == "__main__":
    main()
