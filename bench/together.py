"""Whole trainings that should agree: seeds as one program against seeds apart, and bfloat16 against float32.

Every way trains the same seeds on the same data with the same settings, to the end: early stopping on validation, then
the test split, once. What differs:

- together: all seeds as one program (`mer fuse train --together`);
- alone: the same program with one seed in it, one after the other. Its random numbers are those of `together`: the two
  differ by rounding;
- apart: a model's steps as they come (`--apart`). Weights begin equal; batches and dropout are drawn otherwise, so the
  two agree if their difference is no more than what seeds differ by;
- bf16: apart, with `--set precision=bf16`, which is what `precision=auto` means on a CPU that has units for it. Batches
  are those of `apart`.

Data: utterance features of CMU-MOSI where their folder is given (`bench/mosi.py`), and made sequences with MELD's
lengths, with word intervals or landmarks where the architecture reads them (`bench/meld_like.py`), each utterance
shifted by a draw of its own, as speakers are, so that nothing is learnt perfectly.

    python -m bench.together [FOLDER] [--write bench/results/together.md]                 together, alone, apart
    python -m bench.together [FOLDER] --precision [--write bench/results/precision.md]    fp32 and bf16

The first trains narrow models (`NARROW`, `SHORT`), the second each architecture's own settings.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from types import ModuleType
from typing import NoReturn

import torch

from bench.machine import cpu_name
from bench.meld_like import make_data
from bench.mosi import FEATURES
from cache_schema.errors import MerError
from cache_schema.exchange.importing import import_features
from fuse import metrics
from fuse.archs import ARCHS
from fuse.corpora import load_folds
from fuse.data import Splits
from fuse.statistics import over_seeds
from fuse.train import request_of, settings
from fuse.training.seeds import Job
from fuse.training.workers import Workers

FOUR = ("hff", "symphonia", "of-cmaer-cat", "complementary")
SHOWN = ("accuracy", "macro_f1")
NARROW: dict[str, tuple[str, ...]] = {
    "hff": ("d=32", "layers=2", "heads=4", "head_width=8", "speech_channels=[16]", "speech_width=32"),
    "symphonia": ("d=32", "layers=1"),
    "of-cmaer-cat": ("d=32", "layers=1"),
    "complementary": ("d=32", "heads=4", "expert_width=32"),
}
"""Settings of the models with which a training takes seconds."""
SHORT = ("lr=0.001", "max_epochs=15")
"""And of training: a rate for narrow models, and an end where patience has none."""
COUNT, LONGEST, SHIFT = 400, 2.0, 2.5
"""Made utterances, their greatest length in seconds, and the standard deviation by which each is shifted; its frames
have 1 within the utterance, and the classes differ by 0.3 (`bench.meld_like.SIGNAL`)."""


@dataclass(frozen=True)
class Way:
    """How seeds are trained.

    Attributes:
        together: as steps of a program; else as they come.
        at_once: all seeds in one call.
        assignments: settings of training.
    """

    together: bool
    at_once: bool = True
    assignments: tuple[str, ...] = ()


TOGETHER = {"together": Way(True), "alone": Way(True, at_once=False), "apart": Way(False)}
PRECISION = {"bf16": Way(False, assignments=("precision=bf16",)), "fp32": Way(False, assignments=("precision=fp32",))}
"""The first of the ways is compared with each other one."""

Scores = dict[str, list[float]]
"""Metric -> its value on test, by seed."""


def made(module: ModuleType, count: int, longest: float) -> Splits:
    """Sequences: 45% train, 15% validation, the rest test."""
    data = make_data(module, count, longest=longest)
    random = torch.Generator().manual_seed(1)
    for m, frames in data.frames.items():
        shift = SHIFT * torch.randn(count, frames.shape[-1], generator=random)
        of = torch.repeat_interleave(shift.half(), data.lengths[m], dim=0)
        frames += of.view(len(of), *[1] * (frames.ndim - 2), -1)
    parts = torch.arange(count).tensor_split([count * 45 // 100, count * 60 // 100])
    train, val, test = (data.select(rows) for rows in parts)
    return Splits(train, val, test)


def mosi(module: ModuleType, store: str) -> Splits:
    """The release's test split, and a validation part cut from train by video."""
    features = {m: f for m, f in FEATURES.items() if m in module.PREFERS}
    folds, _ = load_folds(request_of(module, store, "mosi", tuple(features), features, None, module.TRAINING, None))
    return folds[0].splits


def trained(name: str, splits: Splits, way: Way, assignments: Sequence[str], seeds: Sequence[int]) -> Scores:
    """Train every seed to the end, in this process, and measure it on test.

    Raises:
        MerError: the seeds could not be trained in this way.
    """
    config, training = settings(ARCHS.load(name), name, [*assignments, *way.assignments])
    job = Job(name, config, training, {"official": splits}, "cpu", None, together=way.together)
    results = []
    with Workers(1, refuse) as workers:
        for group in [seeds] if way.at_once else [[seed] for seed in seeds]:
            results += workers.train(job, group)
    expected = "together" if way.together and way.at_once else "alone" if way.together else "apart"
    if {r.execution["seeds"] for r in results} != {expected}:
        raise MerError(f"{name}: the seeds were not trained {expected}: {results[0].execution}.")
    return {metric: [r.metrics["test"][metric] for r in results] for metric in SHOWN}


def refuse(line: str) -> NoReturn:
    """What is said where a way was not possible ends the comparison."""
    raise MerError(line)


@dataclass(frozen=True)
class Compared:
    """A metric of an architecture on a data set, one way against another, by seed."""

    data: str
    arch: str
    metric: str
    ways: tuple[str, str]
    first: Sequence[float]
    second: Sequence[float]

    @property
    def spread(self) -> float:
        """The standard deviation of seeds, of both ways pooled."""
        return float(fmean([variance(self.first), variance(self.second)]) ** 0.5)

    @property
    def within(self) -> bool:
        """Whether the means differ by no more than the seeds do."""
        return bool(abs(over_seeds(self.first, self.second)["mean"]) <= self.spread)

    def line(self) -> str:
        """A row of the table, in points."""
        found = over_seeds(self.first, self.second)
        sides = [metrics.summary(values) for values in (self.first, self.second)]
        cells = [self.data, self.arch, self.metric]
        cells += [f"{100 * side['mean']:.2f} ± {100 * side['sd']:.2f}" for side in sides]
        cells += [f"{100 * found['mean']:+.2f}", f"[{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]"]
        cells += [f"{found['p']:.2f}", " ".join(f"{100 * d:+.1f}" for d in found["per_seed"])]
        return f"| {' | '.join(cells)} |"


def tables(found: Sequence[Compared]) -> Iterator[str]:
    """A table for each two ways, and what it says."""
    for first, second in dict.fromkeys(each.ways for each in found):
        rows = [each for each in found if each.ways == (first, second)]
        yield f"## {first} - {second}\n"
        yield f"| data | architecture | metric | {first} | {second} | difference | 95% interval | p | by seed |"
        yield "|---|---|---|---|---|---|---|---|---|"
        yield from (each.line() for each in rows)
        beyond = [f"{e.arch} on {e.data} ({e.metric})" for e in rows if not e.within]
        apart = [f"{e.arch} on {e.data} ({e.metric})" for e in rows if over_seeds(e.first, e.second)["excludes_zero"]]
        yield ""
        yield f"- Differences beyond the seeds' standard deviation: {', '.join(beyond) or 'none'}."
        yield f"- Paired intervals that exclude 0: {', '.join(apart) or 'none'} ({len(rows)} rows)."
        for data, metric in dict.fromkeys((each.data, each.metric) for each in rows):
            same = [each for each in rows if (each.data, each.metric) == (data, metric)]
            pooled = over_seeds([v for e in same for v in e.first], [v for e in same for v in e.second])
            interval = f"[{100 * pooled['low']:+.2f}, {100 * pooled['high']:+.2f}]"
            yield f"- {data}, {metric}, all architectures and seeds: {100 * pooled['mean']:+.2f} {interval}."
        yield ""


def compare(
    ways: Mapping[str, Way], data: Mapping[str, Splits], name: str, assignments: Sequence[str], seeds: int
) -> Iterator[Compared]:
    """The first way against each other one, on every data set."""
    for label, splits in data.items():
        scores: dict[str, Scores] = {}
        for way, how in ways.items():
            begun = time.perf_counter()
            scores[way] = trained(name, splits, how, assignments, range(seeds))
            mean = metrics.summary(scores[way]["accuracy"])["mean"]
            said = f"{name}, {label}, {way}: {100 * mean:.2f} in {time.perf_counter() - begun:.0f} s"
            print(said, file=sys.stderr, flush=True)
        first, *others = scores
        for other in others:
            for metric in SHOWN:
                yield Compared(label, name, metric, (first, other), scores[first][metric], scores[other][metric])


def main(arguments: list[str] | None = None) -> list[Compared]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="the CSV matrices of MOSI; without, made sequences alone")
    parser.add_argument("--precision", action="store_true", help="bf16 against fp32")
    parser.add_argument("--archs", default=",".join(FOUR), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--count", type=int, default=COUNT, help="made utterances; 0: none")
    parser.add_argument("--small", action="store_true", help="so little that only errors show")
    parser.add_argument("--write", help="a Markdown file for the results")
    given = parser.parse_args(arguments)
    if given.small:
        given.count, given.seeds = 40, 2
    if given.seeds < 2:
        parser.error("a comparison needs two seeds or more")
    if not given.folder and given.count <= 0:
        parser.error("there is nothing to train on: give MOSI's folder, or a --count of made utterances")
    ways = PRECISION if given.precision else TOGETHER
    own = given.precision and not given.small
    short = () if own else ("max_epochs=1",) if given.small else SHORT
    found: list[Compared] = []
    with tempfile.TemporaryDirectory() as scratch:
        if given.folder:
            import_features("csv", [Path(given.folder)], scratch, "mosi", recipe="mosi")
        for name in given.archs.split(","):
            module = ARCHS.load(name)
            data = {"MOSI": mosi(module, scratch)} if given.folder else {}
            if given.count:
                data["sequences"] = made(module, given.count, 0.5 if given.small else LONGEST)
            assignments = () if own else (*NARROW.get(name, ()), *short)
            found += compare(ways, data, name, assignments, given.seeds)
            text = page(found, given, short)
            if given.write:
                Path(given.write).write_text(text, "utf-8")
    print(text)
    return found


def page(found: Sequence[Compared], given: argparse.Namespace, short: Sequence[str]) -> str:
    """The results so far as Markdown."""
    title = "bfloat16 against float32" if given.precision else "Seeds together, alone and apart"
    asked = ["FOLDER"] * bool(given.folder) + ["--precision"] * given.precision + ["--small"] * given.small
    asked += ["--archs", given.archs, "--seeds", str(given.seeds), "--count", str(given.count)]
    trained = f"narrow models (`NARROW`), {', '.join(short)}" if short else "each architecture's own settings"
    return f"""# {title}: test metrics after whole trainings

    python -m bench.together {" ".join(asked)}

What is compared is said at the head of `bench/together.py`; here with {trained}.
{cpu_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}.
Per cent; mean ± standard deviation over the seeds; the difference of the first way and the second, with the paired
Student-t interval and p-value over the seeds. Where two ways draw independently, the means of five seeds differ by more
than a standard deviation in one row of seven, and an interval excludes 0 in one of twenty, by chance.

{chr(10).join(tables(found))}"""


if __name__ == "__main__":
    main()
