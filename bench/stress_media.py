"""Stress of extraction: damaged files and recordings, with good ones among them, and damaged annotations.

    python -m bench.stress_media [files] [annotations] [seed]
    python -m bench.stress_media --signals [recordings] [seed]
    python -m bench.stress_media --speed

The files (`bench.hostile_media`) are extracted as a folder, twice, and the good clips among them once more alone. Every
file ends as a recorded failure, or is read, the same way both times; the good clips' features are those of the run
without the bad ones. Each damaged root of annotations (`bench.hostile_annotations`) is enumerated and its samples are
stored, or refused in one line. `--signals` does with physiological recordings (`bench.hostile_signals`) what is done
with files; good subjects have two recordings, and some that cannot be read. `--speed` compares decoding in processes
with decoding in threads. The figures of one run are in `bench/results/stress_media.md`.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.hostile_annotations import hostile_roots
from bench.hostile_media import bombs, hostile_files, make_good, make_special
from bench.hostile_signals import bombs as signal_bombs
from bench.hostile_signals import make_root as make_signals
from bench.hostile_signals import write_manifest
from bench.machine import peak_mb
from cache_schema.canonical import sha256_hex
from cache_schema.errors import MerError
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore
from extract import pipeline
from extract.datasets import DATASETS
from extract.decoding import media, quarantine
from extract.encoder import FrameRequest, Needs
from extract.run import extract
from extract.synthetic import SyntheticSpec, make_corpus

ENCODERS = ("mfcc", "logmel", "resnet")
SETTINGS = ("resnet.fps=1",)
OF_SIGNALS = ("physio",)
SIGNAL_SETTINGS = ('physio.channels=["EDA","TEMP","BVP","HR","IBI","GSR","Fp1"]', "physio.bands_hz=[[4,8],[8,14]]")
GOOD_CLIPS = 40
GOOD_SUBJECTS = 16
RUNS_AT_ONCE = 3
DATASET = "folder"


@dataclass(frozen=True)
class Run:
    """What one extraction came to.

    Attributes:
        outcome: id -> feature -> the digest of its arrays, or the reason why there are none.
        seconds: of the whole run.
        slowest: the clip that took longest to decode, and its seconds.
        run_mb, child_mb: most memory of the process that runs, and of any that decodes, in MB.
        children: processes that decoded, in all.
    """

    outcome: dict[str, dict[str, str]]
    seconds: float
    slowest: tuple[str, float]
    run_mb: float
    child_mb: float
    children: int


def make_root(root: Path, files: int, good_clips: int, seed: int, with_bombs: bool) -> tuple[dict[str, str], list[str]]:
    """Fill the folder: id -> kind of damage, and the ids of the good clips, which lie evenly among the others."""
    root.mkdir(parents=True)
    kinds: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        good = make_good(Path(scratch))
        for name, kind, content in hostile_files(good, files, seed):
            (root / name).write_bytes(content)
            kinds[Path(name).stem] = kind
        for name, content in bombs().items() if with_bombs else ():
            (root / f"bomb-{name}").write_bytes(content)
            kinds[f"bomb-{Path(name).stem}"] = "bomb"
        make_corpus(Path(scratch) / "corpus", SyntheticSpec(train=good_clips, dev=1, test=1, size=64, seed=seed))
        clips = sorted((Path(scratch) / "corpus" / "train_splits").iterdir())[:good_clips]
        for number, clip in enumerate(clips):
            shutil.copy(clip, root / f"{number * files // len(clips):05}-good.mp4")
    kinds |= dict.fromkeys((Path(name).stem for name in make_special(root)), "no file of its own")
    return kinds, sorted(path.stem for path in root.glob("*-good.mp4"))


def run_apart(root: Path, store: Path, encoders: Sequence[str], settings: Sequence[str]) -> Run:
    """Extract the folder in a process of its own."""
    given = json.dumps([str(root), str(store), encoders, settings])
    command = [sys.executable, "-m", "bench.stress_media", "--extract", given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout)
    figures["slowest"] = tuple(figures["slowest"])
    return Run(outcomes(store), **figures)


def extract_and_measure(root: Path, store: Path, encoders: Sequence[str], settings: Sequence[str]) -> dict[str, Any]:
    """Extract the folder here; returns the figures of `Run`."""
    slowest, children = ("", 0.0), 0
    decode, start = quarantine.decode, quarantine._Child.__init__

    def timed(root: Path, utterance: Any, *rest: Any) -> Any:
        nonlocal slowest
        began = time.perf_counter()
        clip = decode(root, utterance, *rest)
        slowest = max(slowest, (utterance.id, time.perf_counter() - began), key=lambda pair: pair[1])
        return clip

    def counted(self: Any, *given: Any) -> None:
        nonlocal children
        children += 1
        start(self, *given)

    with patch.object(pipeline, "decode", timed), patch.object(quarantine._Child, "__init__", counted):
        report = extract(
            DATASET, root, str(store), encoders=encoders, weights="random-small", device="cpu", settings=settings
        )
    quarantine.close()
    return {
        "seconds": report.seconds,
        "slowest": slowest,
        "run_mb": peak_mb(resource.getrusage(resource.RUSAGE_SELF)),
        "child_mb": peak_mb(resource.getrusage(resource.RUSAGE_CHILDREN)),
        "children": children,
    }


def outcomes(store: Path) -> dict[str, dict[str, str]]:
    """Id -> feature -> what became of it."""
    opened = FeatureStore.open(store)
    found: dict[str, dict[str, str]] = {id_: {} for id_ in opened.samples(DATASET).ids}
    for feature in opened.features(DATASET):
        without = {id_: f"failed: {reason}" for id_, reason in feature.failures().items()}
        without |= {id_: f"absent: {reason}" for id_, reason in feature.absences().items()}
        for id_ in found:
            arrays = {} if id_ in without else feature.read(id_)
            digest = sha256_hex(b"".join(a.tobytes() for _, a in sorted(arrays.items())))
            found[id_][feature.spec.feature] = without.get(id_, digest)
    return found


def became(of_features: dict[str, str]) -> str:
    """One word for a file: failed where any feature failed."""
    kinds = {text.partition(": ")[0] for text in of_features.values() if ": " in text}
    return "failed" if "failed" in kinds else "absent" if len(kinds) == len(of_features) else "read"


def enumerate_hostile(folder: Path, count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """(dataset, kind of damage, what became of it) of damaged annotations; what is no error of one line is raised."""
    for dataset, kind, root in hostile_roots(folder, count, seed):
        try:
            found = DATASETS.load(dataset).enumerate_corpus(root, quarantine.probe)
            for utterance in found.utterances:
                for path in (utterance.path, utterance.sound, utterance.signals):
                    assert path is None or not (path.startswith("/") or ".." in path.split("/")), path
            store = FeatureStore.open(folder / "store", mode="a")
            name = f"{root.name}-{dataset}"
            store.append_samples(found.corpus.model_copy(update={"name": name}), found.utterances)
            assert list(store.samples(name).ids) == [u.id for u in found.utterances]
            what = "read"
        except MerError as error:
            assert "\n" not in str(error) and "\x00" not in str(error), repr(error)
            what = "refused"
        shutil.rmtree(root)
        yield dataset, kind, what


def stress_files(folder: Path, files: int, good_clips: int, seed: int, with_bombs: bool = True) -> str:
    """Extract the hostile corpus twice and the good clips alone; the tables, after all has been checked."""
    kinds, good = make_root(folder / "hostile", files, good_clips, seed, with_bombs)
    (folder / "good").mkdir()
    for name in good:
        shutil.copy(folder / "hostile" / f"{name}.mp4", folder / "good")
    return compared(kinds, good, *three_runs(folder, ENCODERS, SETTINGS))


def stress_signals(folder: Path, count: int, subjects: int, seed: int, with_bombs: bool = True) -> str:
    """The same with physiological recordings."""
    hostile, good_root, marker = folder / "hostile", folder / "good", folder / "a program of a file ran"
    hostile.mkdir()
    kinds, good = make_signals(hostile, count, subjects, seed, signal_bombs(marker) if with_bombs else {})
    rows = [json.loads(line) for line in (hostile / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in good:
        shutil.copytree(hostile / name, good_root / name)
    write_manifest(good_root, [(row["id"], row["signals"], row["speaker"]) for row in rows if row["id"] in good])
    table = compared(kinds, good, *three_runs(folder, OF_SIGNALS, SIGNAL_SETTINGS))
    assert not marker.exists(), "a program of a file ran"
    return table


def three_runs(folder: Path, encoders: Sequence[str], settings: Sequence[str]) -> list[Run]:
    """Extract `hostile` twice, and `good`."""
    roots = (folder / "hostile", folder / "hostile", folder / "good")
    stores = [folder / name for name in ("first", "again", "alone")]
    with ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        return list(pool.map(run_apart, roots, stores, repeat(encoders), repeat(settings)))


def compared(kinds: dict[str, str], good: list[str], first: Run, again: Run, alone: Run) -> str:
    """The tables of three runs.

    Raises:
        AssertionError: a file was left out or read differently a second time, or a good clip beside bad ones.
    """
    assert first.outcome.keys() == {*kinds, *good}, "a file was left out"
    assert all(not text.startswith("absent") for name in good for text in first.outcome[name].values())
    features = list(first.outcome[good[0]])
    same = {f: sum(first.outcome[i][f] == alone.outcome[i][f] for i in good) for f in features}
    differ = [id_ for id_, found in first.outcome.items() if found != again.outcome[id_]]
    counts = Counter((kinds.get(id_, "good"), became(found)) for id_, found in first.outcome.items())
    lines = [f"{len(kinds)} bad and {len(good)} good ones, {len(features)} features", ""]
    lines += [f"  {'kind':26}{'failed':>8}{'absent':>8}{'read':>8}"]
    for kind in dict.fromkeys((*kinds.values(), "good")):
        lines += [f"  {kind:26}" + "".join(f"{counts[kind, what]:8}" for what in ("failed", "absent", "read"))]
    lines += ["", f"the same in a second run: {len(first.outcome) - len(differ)} of {len(first.outcome)}"]
    lines += [f"good ones as without the bad ones, bit by bit: {', '.join(f'{f} {n}' for f, n in same.items())}"]
    for name, run in (("with bad ones", first), ("again", again), ("good ones alone", alone)):
        lines += [
            f"{name}: {run.seconds:.0f} s, slowest {run.slowest[1]:.1f} s ({run.slowest[0]}), most memory "
            f"{run.run_mb:.0f} MB, of a decoding process {run.child_mb:.0f} MB, {run.children} such processes"
        ]
    reasons = Counter(
        text.removeprefix("failed: ").partition(": ")[2]
        for found in first.outcome.values()
        for text in set(found.values())
        if text.startswith("failed")
    )
    lines += ["", "most frequent reasons:"] + [f"  {n:5} {reason}" for reason, n in reasons.most_common(12)]
    differs = [f"{f} of {id_}" for id_ in differ for f in features if first.outcome[id_][f] != again.outcome[id_][f]]
    assert not differ, f"read differently a second time: {differs[:5]}"
    assert all(n == len(good) for n in same.values()), same
    return "\n".join(lines)


def stress_annotations(folder: Path, count: int, seed: int) -> str:
    """Enumerate damaged annotations of every dataset; the table."""
    counts = Counter((kind, what) for _, kind, what in enumerate_hostile(folder, count, seed))
    lines = [f"{count} roots with damaged annotations", "", f"  {'kind':26}{'refused':>8}{'read':>8}"]
    for kind in dict.fromkeys(kind for kind, _ in counts):
        lines += [f"  {kind:26}{counts[kind, 'refused']:8}{counts[kind, 'read']:8}"]
    return "\n".join(lines)


def speed(folder: Path, clips: int = 200, rounds: int = 7) -> str:
    """Seconds of decoding in processes over seconds in as many threads, round by round; the median of each."""
    make_corpus(folder / "corpus", SyntheticSpec(train=24, dev=1, test=1))
    sounds, pictures = Needs(audio_hz=16000), Needs(frames=FrameRequest(5.0, "whole", 224))
    files = sorted((folder / "corpus" / "train_splits").iterdir())
    utterances = [Utterance(id=str(n), path=files[n % len(files)].name) for n in range(clips)]
    lines = [f"decoding apart, {clips} clips, {pipeline.DECODE_THREADS} at once, median of {rounds} rounds"]
    for what, needs in (("sound", [sounds]), ("pictures", [pictures]), ("both", [sounds, pictures])):
        ratios = []
        for number in range(rounds + 1):
            seconds = []
            for decode in (media.decode, quarantine.decode):
                with ThreadPoolExecutor(pipeline.DECODE_THREADS) as pool:
                    began = time.perf_counter()
                    list(pool.map(decode, repeat(files[0].parent), utterances, repeat(needs)))
                    seconds.append(time.perf_counter() - began)
            if number:  # the first starts the processes
                ratios.append(seconds[1] / seconds[0])
        lines += [f"  {what:10}{statistics.median(ratios):6.2f} times the seconds of threads"]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--extract"]:
        root, store, encoders, settings = json.loads(arguments[1])
        print(json.dumps(extract_and_measure(Path(root), Path(store), encoders, settings)))
        return
    if arguments[:1] == ["--signals"]:
        count, seed = (int(a) for a in (*arguments[1:], *("1000", "0")[len(arguments) - 1 :]))
        with tempfile.TemporaryDirectory() as scratch:
            print(stress_signals(Path(scratch), count, GOOD_SUBJECTS, seed))
        return
    if arguments == ["--speed"]:
        with tempfile.TemporaryDirectory() as scratch:
            print(speed(Path(scratch)))
        return
    files, annotations, seed = (int(a) for a in (*arguments, *("1986", "1000", "0")[len(arguments) :]))
    with tempfile.TemporaryDirectory() as scratch:
        print(stress_files(Path(scratch) / "files", files, GOOD_CLIPS, seed), flush=True)
        print()
        (Path(scratch) / "annotations").mkdir()
        print(stress_annotations(Path(scratch) / "annotations", annotations, seed))


if __name__ == "__main__":
    main(sys.argv[1:])
