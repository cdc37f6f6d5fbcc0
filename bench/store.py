"""The feature store against what else one would do, in one run: loading, batches, streaming, listing, planning.

Warm cache. Features are fp16, 768 wide, 4,000 ragged utterances of 150 frames on average. The plain way is a torch
DataLoader with two persistent workers over one npy file per clip, shuffled and padded with `pad_sequence`.

    python -m bench.store [--small] [--write bench/results/store.md]
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bench.clock import in_turns
from cache_schema.feature import Feature
from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.readers import Reader, chosen_reader, using_reader, zarrs_installed
from cache_schema.rows import Absent
from cache_schema.samples import Corpus, Target, Utterance
from cache_schema.store import FeatureStore
from extract import run
from fuse.torch_data import BucketSampler, FeatureDataset, FeatureStream, pack, pad

WIDTH = 768
BATCH = 64
CORPUS = Corpus(
    name="bench",
    title="made for the benchmark",
    licence="CC0-1.0",
    targets=(Target(name="emotion", kind="classification", classes=("joy", "anger")),),
)


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        clips: utterances with frames.
        listed: samples of the store that is listed.
        planned: samples of the corpus that is planned.
        rounds: the median of so many is told; the variants take turns.
        window_bytes: of streaming.
        windows: of the processes whose memory is measured.
    """

    clips: int = 4000
    listed: int = 1_000_000
    planned: int = 100_000
    rounds: int = 3
    window_bytes: int = 384 << 20
    windows: tuple[int, ...] = (96 << 20, 192 << 20)


SMALL = Sizes(clips=96, listed=600, planned=300, rounds=1, window_bytes=4 << 20, windows=(4 << 20,))


class Table:
    """Lines that are printed, and kept to be written.

    Args:
        judged: say of each figure whether it is what it must be.
    """

    def __init__(self, judged: bool) -> None:
        self.judged = judged
        self.lines: list[str] = []

    def say(self, line: str = "") -> None:
        """One line."""
        print(line, flush=True)
        self.lines.append(line)

    def ratio(self, what: str, value: float, least: float | None = None) -> None:
        """A ratio, and what it must be at least."""
        wanted = (
            "" if least is None or not self.judged else f"   (at least {least}: {'yes' if value >= least else 'NO'})"
        )
        self.say(f"  {what:58}{value:8.2f}{wanted}")

    def seconds(self, what: str, value: float, most: float | None = None) -> None:
        """A time, and what it must be under."""
        wanted = "" if most is None or not self.judged else f" (under {most:g}: {'yes' if value < most else 'NO'})"
        self.say(f"  {what:58}{value:8.3f} s{wanted}")


def spec_of(name: str, width: int, rate: float) -> FeatureSpec:
    """A feature without an encoder."""
    return FeatureSpec(
        feature=name,
        modality="speech",
        encoder="bench.Random",
        version=1,
        arrays=(ArraySpec(name="values", dtype="float16", tail=(width,)),),
        rate_hz=rate,
        nominal_rate_hz=rate,
        full_settings={},
    )


def make_clips(folder: Path, sizes: Sizes) -> tuple[Feature, np.ndarray]:
    """The same frames as a store, as npy files and as one flat file; returns the feature and the lengths."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(np.log(150) - 0.18, 0.6, sizes.clips), 5, 900).astype(int)
    store = FeatureStore.open(folder / "store", mode="a")
    store.append_samples(CORPUS, [Utterance(id=f"u{i}", duration=n / 50) for i, n in enumerate(lengths.tolist())])
    writer = store.writer("bench", spec_of("hubert", WIDTH, 50.0))
    (folder / "npy").mkdir()
    flat = np.lib.format.open_memmap(
        folder / "flat.npy", mode="w+", dtype=np.float16, shape=(int(lengths.sum()), WIDTH)
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for segment in writer.todo():
        rows: list[Any] = []
        for index in range(segment.start, segment.stop):
            values = draw.standard_normal((lengths[index], WIDTH), dtype=np.float32).astype(np.float16)
            np.save(folder / "npy" / f"u{index}.npy", values)
            flat[offsets[index] : offsets[index + 1]] = values
            rows.append({"values": values})
        writer.commit(segment, rows, [None] * len(rows), {})
    flat.flush()
    return FeatureStore.open(folder / "store").feature("bench", "hubert"), lengths


class Clips(TorchDataset[Tensor]):
    """One npy file per clip."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.load(self.folder / f"u{index}.npy"))


def plain_pad(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What one writes: padded, and the lengths."""
    return pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])


def medians(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taking turns."""
    return {name: statistics.median(seconds) for name, seconds in in_turns(variants, rounds).items()}


def read_with(reader: Reader, work: Callable[[], object]) -> Callable[[], object]:
    """`work` with this reader; a store that is opened within opens its arrays anew."""

    def within() -> object:
        with using_reader(reader):
            return work()

    return within


def consume(batches: Iterable[object]) -> None:
    """Go through all batches."""
    for _ in batches:
        pass


def readers_of(feature: Feature) -> list[Reader]:
    """The one that is used by itself, zarrs where it is installed, and zarr's own."""
    used = chosen_reader(feature._storage)
    return [used, *(["zarrs", "zarr"] if zarrs_installed() else ["zarr"])]  # type: ignore[list-item]


def loading(table: Table, folder: Path, feature: Feature, sizes: Sizes) -> None:
    """Everything into one flat tensor, from nothing open to numbers."""

    def memmap() -> object:
        return torch.from_numpy(np.array(np.load(folder / "flat.npy", mmap_mode="r")))

    def load() -> object:
        opened = FeatureStore.open(folder / "store")["bench"]["hubert"]
        return torch.from_numpy(opened.load(opened.samples.ids).arrays["values"])

    readers = readers_of(feature)
    if not torch.equal(read_with(readers[0], load)(), memmap()):  # type: ignore[arg-type]
        raise SystemExit("the store and the flat file differ")
    variants: dict[str, Callable[[], object]] = {"memmap": memmap}
    variants |= {reader: read_with(reader, load) for reader in readers}
    seconds = medians(variants, sizes.rounds)
    size = (folder / "flat.npy").stat().st_size / 1e9
    table.say(f"Full load of {size:.2f} GB into one flat tensor, store opened and checked included")
    for name, value in seconds.items():
        table.say(f"  {name:20}{value:8.3f} s{size / value:8.2f} GB/s")
    for reader, least in (("direct", 0.5), ("zarrs", 0.5), ("zarr", 0.25)):
        if reader in seconds:
            table.ratio(f"{reader} over np.memmap", seconds["memmap"] / seconds[reader], least)
    table.say()


def batching(table: Table, folder: Path, feature: Feature, lengths: np.ndarray, sizes: Sizes) -> None:
    """Padded batches of 64, by every way."""
    clips = Clips(folder / "npy", sizes.clips)
    shuffled = DataLoader(clips, BATCH, shuffle=True, collate_fn=plain_pad, num_workers=2, persistent_workers=True)
    bucketed = DataLoader(
        clips,
        batch_sampler=BucketSampler(lengths, BATCH, seed=0),
        collate_fn=plain_pad,
        num_workers=2,
        persistent_workers=True,
    )
    consume(shuffled)  # workers are forked before zarrs has threads here
    consume(bucketed)
    resident = FeatureDataset({"speech": feature})
    sampler = BucketSampler(resident.total_lengths, BATCH, seed=0)
    epochs = iter(range(10**6))

    def stream() -> Iterator[object]:
        source = FeatureStream({"speech": feature}, BATCH, pad, window_bytes=sizes.window_bytes, seed=0)
        return source.batches(next(epochs))

    variants: dict[str, Callable[[], object]] = {
        "DataLoader, npy, shuffled": lambda: consume(shuffled),
        "DataLoader, npy, bucketed": lambda: consume(bucketed),
        "memory, bucketed, padded": lambda: consume(
            DataLoader(resident, batch_sampler=sampler, collate_fn=pad)  # no workers
        ),
        "memory, bucketed, packed": lambda: consume(DataLoader(resident, batch_sampler=sampler, collate_fn=pack)),
    }
    for reader in readers_of(feature):
        variants[f"streaming, {reader}"] = read_with(reader, lambda: consume(stream()))
    seconds = medians(variants, sizes.rounds)
    count = -(-sizes.clips // BATCH)
    table.say(f"Batches of {BATCH} utterances")
    for name, value in seconds.items():
        table.say(f"  {name:30}{count / value:10.1f} batches/s")
    plain = seconds["DataLoader, npy, shuffled"]
    table.ratio("memory, bucketed and padded, over the DataLoader", plain / seconds["memory, bucketed, padded"], 9)
    for reader, least in (("direct", 2.5), ("zarrs", 2.5), ("zarr", 1.2)):
        if f"streaming, {reader}" in seconds:
            table.ratio(f"streaming with {reader} over the DataLoader", plain / seconds[f"streaming, {reader}"], least)
    table.ratio("memory, bucketed and padded, over the bucketed DataLoader",
                seconds["DataLoader, npy, bucketed"] / seconds["memory, bucketed, padded"])  # fmt: skip
    table.say()


RESIDENT = """
import re, sys
from pathlib import Path
from cache_schema.store import FeatureStore
from cache_schema.window import WindowStream
feature = FeatureStore.open(sys.argv[1])["bench"]["hubert"]
feature[feature.samples.ids[0]]
kilobytes = lambda what: int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
for window in WindowStream({"speech": feature}, window_bytes=int(sys.argv[2]), seed=0).windows(): pass
print(1024 * (kilobytes("VmHWM") - before))
"""


def memory(table: Table, folder: Path, sizes: Sizes) -> None:
    """How much a process grows while it streams the whole store; Linux tells."""
    if not Path("/proc/self/clear_refs").exists():
        table.say("Resident memory is measured on Linux only.")
        return
    size = (folder / "flat.npy").stat().st_size
    table.say(f"Resident memory of a process that streams {size / 1e6:.0f} MB: growth at its peak")
    for window in sizes.windows:
        command = [sys.executable, "-c", RESIDENT, str(folder / "store"), str(window)]
        grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        table.say(f"  window of {window / 1e6:6.0f} MB {grown / 1e6:10.0f} MB{grown / window:8.2f} of the window")
    table.say()


def listing(table: Table, folder: Path, sizes: Sizes) -> None:
    """Opening a store of many samples with a feature that is committed for all of them."""
    path = folder / "many"
    store = FeatureStore.open(path, mode="a")
    words = ["so", "that", "is", "what", "you", "said", "to", "me", "when", "we", "came", "back", "there"]
    store.append_samples(
        CORPUS,
        [
            Utterance(
                id=f"dia{i // 10}_utt{i % 10}",
                path=f"train/dia{i // 10}_utt{i % 10}.mp4",
                duration=2 + i % 997 / 300,
                text=" ".join(words[(i * k) % 13] for k in range(1, 9)),
                dialogue=f"dia{i // 10}",
                turn=i % 10,
                split="train",
                labels={"emotion": "joy" if i % 3 else "anger"},
            )
            for i in range(sizes.listed)
        ],
    )
    writer = store.writer("bench", spec_of("pooled", 64, 0.2))
    for segment in writer.todo():
        writer.commit(segment, [Absent("no frames in this benchmark")] * len(segment), [None] * len(segment), {})

    def names() -> object:
        return [feature.name for feature in FeatureStore.open(path).features("bench")]

    def counts() -> object:
        return [feature.status() for feature in FeatureStore.open(path).features("bench")]

    seconds = medians({"names": names, "counts": counts}, min(sizes.rounds, 3))
    table.say(f"A store of {sizes.listed:,} samples, {len(writer.segments()):,} segments committed")
    table.seconds("opened, features listed", seconds["names"], 1.0)
    table.seconds("the same, every commit read and counted", seconds["counts"])
    table.say()


def planning(table: Table, folder: Path, sizes: Sizes) -> None:
    """`mer extract` where there is nothing to do."""
    root = folder / "corpus"
    root.mkdir()
    with (root / "manifest.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "text", "label", "dialogue", "split"])
        for i in range(sizes.planned):
            lines.writerow(
                [f"u{i}", f"these are the words of {i}", "joy" if i % 2 else "anger", f"d{i // 10}", "train"]
            )

    def whole() -> run.Report:
        return run.extract("folder", root, str(folder / "planned"), encoders=("mfcc",))

    report = whole()
    enumeration = run._enumerate("folder", root, None)
    enumerate_again = run._enumerate

    def plan() -> object:
        run._enumerate = lambda *_: enumeration
        try:
            report = whole()
        finally:
            run._enumerate = enumerate_again
        if report.features[0].skipped != sizes.planned:
            raise SystemExit("there was something to do")
        return report

    seconds = medians({"plan": plan, "whole": whole}, min(sizes.rounds, 3))
    table.say(f"`mer extract` of {report.samples:,} samples with nothing to do")
    table.seconds("planned: compared with the store, segments, report", seconds["plan"], 2.0)
    table.seconds("the same, the corpus's manifest read as well", seconds["whole"])


def main(arguments: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(description="The feature store's speed, as ratios of one run.")
    parser.add_argument("--small", action="store_true", help="a few samples: shows that it runs, and no more")
    parser.add_argument("--write", type=Path, help="write what was printed to this file, too")
    options = parser.parse_args(arguments)
    sizes = SMALL if options.small else Sizes()
    torch.set_num_threads(1)
    table = Table(judged=not options.small)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, zarr {zarr.__version__}"
    load = os.getloadavg()[0]
    table.say(f"{os.cpu_count()} cores, {versions}; load before the run {load:.1f}")
    table.say()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        feature, lengths = make_clips(folder, sizes)
        batching(table, folder, feature, lengths, sizes)
        loading(table, folder, feature, sizes)
        memory(table, folder, sizes)
        listing(table, folder, sizes)
        planning(table, folder, sizes)
    if options.write:
        head = "# The feature store's speed\n\n`python -m bench.store`\n\n```\n"
        options.write.write_text(head + "\n".join(table.lines) + "\n```\n")
    return table


if __name__ == "__main__":
    main()
