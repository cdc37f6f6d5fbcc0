"""What extraction costs: beside the encoders' own forward passes, and beside the per-clip loop that toolkits write.

Encoders are full-size, with random weights, on the CPU. In one run, the variants taking turns, medians told:

- `mer extract` with RoBERTa, HuBERT and ViT together, over plain transformers models that are given the same clips as
  ready batches, each at the batch size that is its fastest here, with nothing around them; once as transformers loads
  them, and once with the matrix products that mer gives them (`compute/products.py`);
- `mer extract` with each encoder alone, over the loop of `bench/per_clip.py`;
- how far a process's memory grows, for a corpus and for one of four times as many clips;
- `mer extract` where all is done.

Ratios are of the wall clock, and beside it of the processors' time of all processes, which other work on the machine
disturbs less. Loading the models and starting the processes that decode count nowhere.

    python -m bench.extract [--small] [--parts loops,memory] [--clips N] [--rounds N] [--write bench/results/extract.md]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import transformers

from bench import per_clip
from bench.extraction import (
    Extraction,
    Stopwatch,
    batches_of,
    kept_encoders,
    make_clips,
    make_texts,
    pieces_of,
    plain_model,
)
from bench.machine import cpu_name
from bench.store import Table
from cache_schema.rows import Row
from compute.modules import recast
from compute.products import Linear
from extract import pipeline
from extract.encoder import Clip
from extract.encoders import ENCODERS
from extract.frozen import inference, quiet
from extract.run import Report, extract
from extract.weights.random_weights import make_random_checkpoint

TOGETHER = ("roberta", "hubert", "vit")
BATCH_SIZES = {"roberta": (16, 64), "hubert": (1, 4), "vit": (4, 8, 16)}
"""What the bare forwards are tried with: texts, clips or pictures."""
PRODUCTS = ("torch's", "mer's")
LEAST_TOGETHER = 0.9
RESIDENT = """
import sys
from pathlib import Path
from extract import pipeline, run
from cache_schema.plan import SegmentPlan
root, store, weights, encoders = sys.argv[1:]
pipeline.DECODE_BUDGET_BYTES = 8 << 20
SegmentPlan.model_fields["max_rows"].default = 16
SegmentPlan.model_rebuild(force=True)
def extract(name, limit):
    fixed = {"encoders": encoders.split(","), "weights": weights, "device": "cpu"}
    run.extract("folder", Path(root), store + name, limit=limit, **fixed)
def status():
    return dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
extract("-first", 4)
Path("/proc/self/clear_refs").write_text("5")
before = int(status()["VmRSS"].split()[0])
extract("", None)
print(1024 * (int(status()["VmHWM"].split()[0]) - before))
"""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        weights: full or small random weights.
        clips: talking faces of about two seconds.
        picture: width and height of their pictures.
        texts: transcripts for the encoders of texts.
        few: clips of the encoders that take a second for one.
        rounds: the median of so many is told.
        grown: clips of the smaller corpus of which memory is measured.
        done: transcripts of the run that finds all done; clips, a tenth of it.
        encoders: those that are set against the per-clip loop.
    """

    weights: str = "full"
    clips: int = 24
    picture: tuple[int, int] = (1280, 720)
    texts: int = 256
    few: int = 8
    rounds: int = 3
    grown: int = 64
    done: int = 13_708
    encoders: tuple[str, ...] = tuple(name for name in ENCODERS.names() if name != "physio")


SMALL = Sizes("small", 3, (128, 96), 12, 2, 1, 8, 50, ("roberta", "mfcc", "resnet"))


def main(arguments: list[str] | None = None) -> Table:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Extraction's speed, as ratios of one run.")
    parser.add_argument("--small", action="store_true", help="small models, few clips: shows that it runs, and no more")
    parser.add_argument("--clips", type=int, help="how many clips of two seconds")
    parser.add_argument("--few", type=int, help="how many of them for the slow encoders' per-clip loops")
    parser.add_argument("--texts", type=int, help="how many transcripts")
    parser.add_argument("--threads", type=int, help="of torch; one disturbs least where others use the machine")
    parser.add_argument("--rounds", type=int, help="the median of so many is told")
    parser.add_argument("--parts", default="together,loops,memory,done", help="which of the four tables")
    parser.add_argument("--encoders", help="those that are set against the per-clip loop")
    parser.add_argument("--write", type=Path, help="write what was printed to this file, too")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    asked = {name: getattr(options, name) for name in ("clips", "few", "texts", "rounds") if getattr(options, name)}
    sizes = replace(SMALL if options.small else Sizes(), **asked)
    if options.encoders:
        sizes = replace(sizes, encoders=tuple(options.encoders.split(",")))
    table = Table(judged=not options.small)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    table.say(f"{os.cpu_count()} cores ({cpu_name()}), {torch.get_num_threads()} threads, {versions}")
    table.say(f"{per_clip.ffmpeg_version()}; load before the run {os.getloadavg()[0]:.1f}")
    table.say()
    with tempfile.TemporaryDirectory() as scratch, quiet(), kept_encoders():
        folder = Path(scratch)
        also = {"together": TOGETHER, "done": ("roberta",)}
        prepare(folder, sizes, {name for part, names in also.items() if part in options.parts for name in names})
        if "together" in options.parts:
            together(table, folder, sizes)
        if "loops" in options.parts:
            per_clip.compare(table, folder, sizes.encoders, sizes.few, sizes.rounds)
        if "memory" in options.parts:
            memory(table, folder, sizes)
        if "done" in options.parts:
            nothing_to_do(table, folder, sizes)
    if options.write:
        command = " ".join(["python -m bench.extract", *(sys.argv[1:] if arguments is None else arguments)])
        head = f"# Extraction's speed\n\n`{command}`\n\n```\n"
        options.write.write_text(head + "\n".join(table.lines) + "\n```\n")
    return table


def prepare(folder: Path, sizes: Sizes, also: Collection[str] = TOGETHER) -> None:
    """Make the corpora, and the weights of the encoders of the loops and of these."""
    make_clips(folder / "clips", sizes.clips, *sizes.picture)
    make_texts(folder / "texts", sizes.texts)
    for name in {*sizes.encoders, *also}:
        if ENCODERS.load(name).HUB is not None:
            make_random_checkpoint(name, folder / "weights" / name, sizes.weights, seed=0)


def together(table: Table, folder: Path, sizes: Sizes) -> None:
    """The three encoders of a multimodal corpus in one run, over their bare forwards."""
    ours = Extraction(folder, TOGETHER)
    samples = ours().samples
    bare = {(name, products): Bare(name, folder, products) for name in TOGETHER for products in PRODUCTS}
    walls: dict[str, list[float]] = {key: [] for key in (*PRODUCTS, *TOGETHER)}
    cpus: dict[str, list[float]] = {products: [] for products in PRODUCTS}
    rates = []
    for number in range(sizes.rounds):
        with Stopwatch() as whole:
            ours()
        watches: dict[tuple[str, str], Stopwatch] = {}
        for key, work in list(bare.items())[:: 1 if number % 2 else -1]:
            with Stopwatch() as watches[key]:
                work()
        for products in PRODUCTS:
            each = [watches[name, products] for name in TOGETHER]
            walls[products].append(sum(watch.wall for watch in each) / whole.wall)
            cpus[products].append(sum(watch.cpu for watch in each) / whole.cpu)
        rates.append(samples / whole.wall)
        timing = ours.timing
        for name in TOGETHER:
            walls[name].append(watches[name, "mer's"].wall / timing.per_encoder[name])
    table.say(f"`mer extract` of {', '.join(TOGETHER)} over their bare forwards on ready batches, {samples} clips")
    table.say(f"  {statistics.median(rates):.3f} samples/s, median of {sizes.rounds}")
    for products in PRODUCTS:
        sizes_of = ", ".join(f"{name} {b.size}" for (name, which), b in bare.items() if which == products)
        table.say(f"  bare forwards with {products} matrix products, best batches {sizes_of}")
        table.ratio("  speed by the wall clock", statistics.median(walls[products]), LEAST_TOGETHER)
        table.ratio("  speed by the processors' time", statistics.median(cpus[products]))
    for name in TOGETHER:
        table.ratio(f"    {name}'s own part, by the wall clock", statistics.median(walls[name]))
    table.say(f"  the last run waited {timing.decode_wait:.2f} s for decoding, {timing.write_wait:.2f} s for writing")
    table.say()


class Bare:
    """A plain transformers model that is given a corpus as ready batches of the size that is its fastest.

    Args:
        name: of the encoder.
        folder: where corpus and weights lie.
        products: torch's, as anybody has them, or mer's (`compute/products.py`).
    """

    def __init__(self, name: str, folder: Path, products: str) -> None:
        self.model = plain_model(name, folder)
        if products == "mer's":
            recast(self.model, {torch.nn.Linear: Linear})
        pieces = pieces_of(name, folder)
        few = pieces[: max(BATCH_SIZES[name])]
        seconds: dict[int, float] = {}
        for size in (BATCH_SIZES[name][0], *BATCH_SIZES[name]):  # the first one warms up
            self.batches = batches_of(name, few, size)
            with Stopwatch() as watch:
                self()
            seconds[size] = watch.cpu
        self.size = min(seconds, key=seconds.__getitem__)
        self.batches = batches_of(name, pieces, self.size)

    def __call__(self) -> None:
        """Every batch once."""
        with inference():
            for batch in self.batches:
                self.model(**batch)


def memory(table: Table, folder: Path, sizes: Sizes) -> None:
    """How far a process grows over an extraction; Linux tells."""
    if not Path("/proc/self/clear_refs").exists():
        table.say("Resident memory is measured on Linux only.")
        return
    table.say("Resident memory of `mer extract`, windows of 8 MB, segments of 16 rows: growth at its peak")
    weights = folder / "small"
    make_random_checkpoint("resnet", weights / "resnet", "small", seed=0)
    source = min((folder / "clips").rglob("*.mp4"), key=lambda file: file.stat().st_size)
    for clips in (sizes.grown, 4 * sizes.grown):
        root = folder / f"clips-{clips}"
        root.mkdir()
        for number in range(clips):
            shutil.copyfile(source, root / f"clip{number:05d}.mp4")
        command = [sys.executable, "-c", RESIDENT, str(root), f"{root}-store", str(weights), "mfcc,resnet"]
        grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        table.say(f"  {clips:6} clips {grown / 1e6:10.0f} MB")
    table.say()


def nothing_to_do(table: Table, folder: Path, sizes: Sizes) -> None:
    """Runs over corpora of which everything is in the store already: no encoder is started, no clip is decoded."""
    make_texts(folder / "done" / "texts", sizes.done)
    linked = folder / "done" / "clips"
    linked.mkdir()
    clip = next((folder / "clips").rglob("*.mp4"))
    few = sizes.done // 10
    for number in range(few):
        (linked / f"clip{number:05d}.mp4").hardlink_to(clip)
    table.say("`mer extract` with nothing to do; of clips without a manifest it reads the headers, for their durations")
    for corpus, encoder, count in (("texts", "roberta", sizes.done), ("clips", "mfcc", few)):

        def whole(corpus: str = corpus, encoder: str = encoder) -> Report:
            root, store = folder / "done" / corpus, str(folder / f"store-{corpus}")
            return extract("folder", root, store, encoders=[encoder], weights=str(folder / "weights"))

        with pretended_encoders():
            whole()
        with Stopwatch() as watch:
            report = whole()
        if report.features[0].encoded or report.features[0].skipped != count:
            raise SystemExit("there was something to do")
        table.seconds(f"{count:,} {corpus}, {encoder}", watch.wall)
    table.say()


@contextmanager
def pretended_encoders() -> Iterator[None]:
    """Nothing is decoded, and every encoder gives two frames of zeros."""

    class Zeros:
        def __init__(self, job: pipeline.Job) -> None:
            self.row = {a.name: np.zeros((2, *a.tail), a.dtype) for a in job.spec.arrays}

        def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
            yield from (self.row for _ in clips)

    with (
        mock.patch.object(pipeline, "decode", lambda root, utterance, *_: Clip(utterance)),
        mock.patch.object(pipeline.Job, "encoder", lambda job, device: Zeros(job)),
    ):
        yield


if __name__ == "__main__":
    main()
