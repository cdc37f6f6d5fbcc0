"""Kernels, steps, epochs and trainings on a GPU, in one run of less than eight minutes: right, and how fast?

1. Correctness of every operator of `fuse/kernels/` against its float64 reference, and that a second run gives the same
   bits; operators and types side by side, as most of the time goes into compiling them.
2. What the machine can do: bandwidth of a copy, rate of products of matrices. Then the cases that the targets of
   `fuse/kernels/README.md` are about, with backward and without, several numbers of seeds, against eager,
   torch.compile, compile with a CUDA graph and the best library.
3. Steps and epochs of every architecture, several numbers of seeds; a whole training of five; padded lengths; a step
   under torch.compile, which takes longest to prepare.
4. The operators' other cases, without torch.compile.
5. Extraction (`bench/gpu_extract.py`), where its packages are installed.

Each part ends when its share of the minutes is over, and runs in processes of its own (`bench/gpu_apart.py`): what
breaks is said, and the rest is measured. Times are medians with 20% and 80% quantiles. It needs torch, triton and what
`fuse/` imports, and none of the packages of extraction before the last part. On a CPU `--small` runs the same code on
small shapes, and says nothing about GPUs.

    python -m bench.gpu [--small] [--device cuda] [--minutes 8] [--skip extraction,...] [--out bench/results]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts

import torch

from bench import gpu_apart, gpu_kernels, gpu_training
from bench.clock import Clock, Floor, Time
from bench.gpu_apart import Row
from cache_schema.errors import first_line

SEEDS = (1, 5, 16)
UTTERANCES = 1024
"""What an epoch has, and a whole training and its validation together."""
SHARES = {"correctness": 0.25, "targets": 0.5, "training": 0.88, "operators": 0.97, "extraction": 1.0}
"""The parts in order, and by which share of the minutes each has ended."""
EXTRACTION_NEEDS = ("transformers", "av", "cv2")


def describe(device: torch.device) -> dict[str, Any]:
    """Versions and device."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "device": str(device)}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["triton"] = importlib.metadata.version("triton")
    if device.type == "cuda":
        properties, backend = torch.cuda.get_device_properties(device), torch.backends.cudnn
        found |= {"name": properties.name, "memory_bytes": properties.total_memory}
        found |= {"compute_capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda}
        found["cudnn"] = backend.version()  # type: ignore[no-untyped-call]
    else:
        found |= {"name": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    return found


class Report:
    """Lines for people and rows for machines, both as they come.

    Attributes:
        lines: Markdown.
        rows: part -> its results.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.rows: dict[str, Any] = {}

    def say(self, line: str = "") -> None:
        """A line, printed at once."""
        print(line, flush=True)
        self.lines.append(line)

    def table(self, *cells: str, head: bool = False) -> None:
        """A row of a Markdown table."""
        self.say("| " + " | ".join(cells) + " |")
        if head:
            self.say("|" + " --- |" * len(cells))

    def write(self, folder: Path, name: str) -> None:
        """`name.md` and `name.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text("\n".join(self.lines) + "\n", "utf-8")
        text = json.dumps(self.rows, indent=2, default=lambda x: asdict(x) if is_dataclass(x) else str(x))  # type: ignore[arg-type]
        (folder / f"{name}.json").write_text(text + "\n", "utf-8")


def micros(found: Time | str | None) -> str:
    """A time with its quantiles in microseconds; or why there is none."""
    if found is None or isinstance(found, str):
        return f"– ({found})" if found else "–"
    return f"{1e6 * found.median:.1f} [{1e6 * found.low:.1f}, {1e6 * found.high:.1f}]"


@dataclass(frozen=True)
class Run:
    """What all parts share.

    Attributes:
        report: what they write to.
        clock: times on the device.
        small: small shapes and models.
        apart: in processes of their own.
        until: when (`time.monotonic`) each part ends.
        broken: processes that broke, in words.
    """

    report: Report
    clock: Clock
    small: bool
    apart: bool
    until: dict[str, float]
    broken: list[str] = field(default_factory=list)

    def rows(self, part: str, work: gpu_apart.Work, items: list[gpu_apart.Item], *arguments: Any) -> Iterator[Row]:
        """What a part measures, as it comes; what is missing is said."""
        until = self.until[part]
        yield from gpu_apart.in_turn(work, items, arguments, until, self.apart, self.broke)
        if time.monotonic() > until - gpu_apart.ENDING:
            self.report.say("\nThe time for this part ran out: what is missing was not measured.")

    def broke(self, line: str) -> None:
        """A process of this run did."""
        self.report.say(f"\nBroken: {line}")
        self.broken.append(line)


def rates(floor: Floor) -> str:
    """What the machine can do, in words."""
    flops = ", ".join(f"{1e-12 * rate:.1f} TFLOP/s {kind}" for kind, rate in floor.flops.items())
    return f"Floor: copy {1e-9 * floor.bytes_per_second:.0f} GB/s; products of matrices {flops}"


def correctness(run: Run) -> bool:
    """Whether every operator is right; the worst case of each is printed, and every one that is wrong."""
    report, device = run.report, run.clock.device
    report.say("\n## Correctness\n")
    pairs = [(operator.name, kind) for operator in gpu_kernels.operators() for kind in gpu_kernels.TYPES]
    seeds = SEEDS[:1] if run.small else SEEDS[:2]
    tasks = [(gpu_kernels.check, (name, kind, device, seeds, run.small)) for name, kind in pairs]
    if run.apart:
        left = run.until["correctness"] - time.monotonic()
        found = gpu_apart.together(tasks, left, min(len(tasks), os.cpu_count() or 1))
    else:
        found = [(list(work(*arguments)), "") for work, arguments in tasks]
    report.table("operator", "type", "cases", "greatest error", "limit", "same bits again", "right", head=True)
    everything, ended = report.rows.setdefault("correctness", []), []
    for (name, kind), (rows, why) in zip(pairs, found, strict=True):
        everything += rows
        ended += [f"{name}, {kind}: {why}. {len(rows)} cases had been checked."] if why else []
        errors = [row["error"] for row in rows if row["error"] is not None]
        report.table(
            name,
            kind,
            str(len(rows)),
            f"{max(errors):.1e}" if errors else "–",
            f"{gpu_kernels.LIMITS[gpu_kernels.TYPES[kind]]:.0e}",
            "–" if not rows else "yes" if all(row["repeatable"] for row in rows) else "NO",
            "NO" if why or not all(row["right"] for row in rows) else "yes",
        )
    wrong = [row for row in everything if not row["right"]]
    for row in wrong:
        error = "" if row["error"] is None else f"error {row['error']:.1e}, "
        again = "same bits again" if row["repeatable"] else "other bits again"
        where = f"{row['operator']}, {row['case']}, {row['type']}, {row['seeds']} seeds"
        report.say(f"\nWrong: {where}: {error}{again} {row['why']}")
    for line in ended:
        report.say(f"\nNot finished: {line}")
    return not wrong and not ended


def operators(run: Run, part: str) -> bool:
    """Every operator beside its rivals: the cases that the targets are about, or the others."""
    report, floor = run.report, run.report.rows.get("floor")
    which = "what the targets are about" if part == "targets" else "other cases"
    report.say(f"\n## Operators, {which}, microseconds\n")
    kept = report.rows.setdefault("operators", [])
    items = gpu_kernels.items(SEEDS[:1] if run.small else SEEDS, run.small)
    head = ("operator", "case", "type", "seeds", "pass", "way", "median [20%, 80%]", "over mer", "of floor")
    if floor is not None:
        report.table(*head, head=True)
    for row in run.rows(part, gpu_kernels.measure, items, run.clock, floor, part == "targets", run.small):
        if "machine" in row:
            report.rows["floor"] = row["machine"]
            report.say(f"{rates(row['machine'])}\n")
            report.table(*head, head=True)
            continue
        kept.append(row)
        times: dict[str, Time | str] = row["times"]
        own = [t.median for way in ("mer, graph", "mer") if isinstance(t := times.get(way), Time)]
        for way, found in times.items():
            report.table(
                *(str(row[key]) for key in ("operator", "case", "type", "seeds", "pass")),
                way,
                micros(found),
                f"{found.median / min(own):.2f}" if isinstance(found, Time) and own else "–",
                f"{found.median / row['floor']:.1f}" if isinstance(found, Time) and row["floor"] else "–",
            )
    return True


HEADS = {
    "epochs": ("architecture", "lengths", "seeds", "step, us", "epoch, ms", "eager, ms", "eager / mer", "how"),
    "training": ("architecture", "lengths", "seeds", "epochs", "utterances", "seconds", "how"),
    "compiled": ("architecture", "lengths", "seeds", "eager, us", "compiled, us", "compiled, graph, us"),
}
TITLES = {
    "epochs": "Steps and epochs",
    "training": "Whole trainings",
    "compiled": "A step of one model on its longest batch",
}


def training(run: Run) -> bool:
    """Every architecture's steps, epochs and trainings."""
    report, section = run.report, ""
    items = gpu_training.items((1, 2) if run.small else SEEDS, run.small)
    count = 8 if run.small else UTTERANCES
    for row in run.rows("training", gpu_training.measure, items, run.clock, count, run.small):
        if row["section"] != section:
            section = row["section"]
            report.say(f"\n## {TITLES[section]}\n")
            report.table(*HEADS[section], head=True)
        report.rows.setdefault(section, []).append(row)
        first = row["arch"], row["lengths"], str(row["seeds"])
        report.table(*first, *(cells(row) if "why" not in row else [*["–"] * (len(HEADS[section]) - 4), row["why"]]))
    return True


def cells(row: Row) -> list[str]:
    """What a row of `gpu_training.measure` tells."""
    if row["section"] == "compiled":
        return [micros(row["times"].get(way)) for way in ("eager", "compiled", "compiled, graph")]
    missing = [f"{name} without its kernel" for name in row["without kernels"]]
    how = ", ".join([*row["execution"].values(), *row.get("said", ()), *missing])
    if row["section"] == "training":
        return [str(row["epochs"]), str(row["utterances"]), f"{row['seconds']:.2f}", how]
    times = f"{1e3 * row['epoch'].median:.1f}", f"{1e3 * row['eager']:.1f}", f"{row['over_eager']:.2f}"
    return [micros(row["step"]), *times, how]


def extraction(run: Run) -> bool:
    """`bench/gpu_extract.py`, where its packages are there and there is a GPU."""
    report, device = run.report, run.clock.device
    report.say("\n## Extraction\n")
    missing = [name for name in EXTRACTION_NEEDS if importlib.util.find_spec(name) is None]
    if missing or run.small or device.type != "cuda":
        why = f"without {', '.join(missing)}" if missing else "measured on a GPU only: see bench/extract.py"
        report.say(f"Skipped: {why}.")
        return True
    for row in run.rows("extraction", extracted, [("extraction",)], str(device)):
        for line in row["lines"]:
            report.say(line)
    report.say("`python -m bench.gpu_extract --write FILE` measures longer.")
    return True


def extracted(_: list[gpu_apart.Item], device: str, __: float) -> Iterator[Row]:
    """The lines of `bench/gpu_extract.py`, small."""
    from bench import gpu_extract

    yield {"lines": gpu_extract.main(["--small", "--device", device]).lines}


def main(arguments: list[str] | None = None) -> int:
    """Run everything; 1 where an operator is wrong, or a part or a process of it broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small shapes and models: whether it runs at all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--skip", default="", help=f"comma-separated: {', '.join(SHARES)}")
    parser.add_argument("--apart", action="store_true", help="processes of their own on a CPU, too")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", default="gpu", help="of the two files")
    given = parser.parse_args(arguments)
    device, skipped = torch.device(given.device), given.skip.split(",") if given.skip else []
    unknown = sorted(set(skipped) - set(SHARES))
    if unknown:
        parser.error(f"--skip: there is no part {', '.join(unknown)}; the parts are {', '.join(SHARES)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench.gpu: there is no CUDA device; --small --device cpu runs the same code on a CPU.", file=sys.stderr)
        return 1
    if given.small:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes apart
    begun, report = time.monotonic(), Report()
    run = Run(
        report,
        Clock(device, *((0.002, 3) if given.small else ())),
        given.small,
        given.apart or device.type == "cuda",
        {part: begun + 60 * given.minutes * share for part, share in SHARES.items()},
    )
    machine = report.rows["machine"] = describe(device)
    report.say("# Kernels and training" + (", a small run: no figures" if given.small else ""))
    report.say("\n`python -m bench.gpu`: " + ", ".join(f"{key} {value}" for key, value in machine.items()))
    parts: dict[str, Callable[[Run], bool]] = {
        "correctness": correctness,
        "targets": functools.partial(operators, part="targets"),
        "training": training,
        "operators": functools.partial(operators, part="operators"),
        "extraction": extraction,
    }
    right = True
    try:
        for name in (name for name in parts if name not in skipped):
            try:
                right &= parts[name](run)
            except Exception as error:  # noqa: BLE001 - what is measured is kept, and the other parts are tried
                traceback.print_exc()
                report.say(f"\nFailed: {name}: {type(error).__name__}: {first_line(error)}.")
                right = False
            report.write(given.out, given.name)
    finally:
        report.say(f"\n{time.monotonic() - begun:.0f} s in all.")
        report.write(given.out, given.name)
    return 0 if right and not run.broken else 1


if __name__ == "__main__":
    sys.exit(main())
