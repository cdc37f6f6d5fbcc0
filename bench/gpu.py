"""Kernels, steps, epochs and trainings on a GPU, in one run of less than eight minutes: right, and how fast?

1. Correctness of every operator of `fuse/kernels/` against its float64 reference, and that a second run gives the same
   bits.
2. What the machine can do: bandwidth of a copy, rate of products of matrices.
3. Each operator against eager, torch.compile, compile with a CUDA graph and the best library, forward and forward with
   backward, padded and real lengths, several numbers of seeds.
4. Steps and epochs of every architecture, padded and real lengths, several numbers of seeds; a whole training of five.
5. Extraction (`bench/gpu_extract.py`), where its packages are installed.

Times are medians with 20% and 80% quantiles. It needs torch, triton and what `fuse/` imports, and none of the packages
of extraction before the last part. On a CPU `--small` runs the same code on small shapes, and says nothing about GPUs.

    python -m bench.gpu [--small] [--device cuda] [--minutes 8] [--skip extraction,...] [--out bench/results]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts

import torch

from bench import gpu_kernels, gpu_training
from bench.clock import Clock, Floor, Time
from cache_schema.errors import first_line

SEEDS = (1, 5, 16)
PARTS = ("correctness", "operators", "training", "extraction")
SHARES = {"operators": 0.45, "training": 0.8, "extraction": 1.0}
"""By which part of its minutes a part begins nothing more."""
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


def correctness(report: Report, device: torch.device, small: bool) -> bool:
    """Whether every operator is right; the worst case of each is printed, and every one that is wrong."""
    report.say("\n## Correctness\n")
    report.table("operator", "type", "cases", "greatest error", "limit", "same bits again", "right", head=True)
    everything = []
    for operator in gpu_kernels.operators():
        rows = list(gpu_kernels.check(operator, device, SEEDS[:1] if small else SEEDS[:2], small))
        everything += rows
        for kind, dtype in gpu_kernels.TYPES.items():
            mine = [row for row in rows if row["type"] == kind]
            errors = [row["error"] for row in mine if row["error"] is not None]
            report.table(
                operator.name,
                kind,
                str(len(mine)),
                f"{max(errors):.1e}" if errors else "–",
                f"{gpu_kernels.LIMITS[dtype]:.0e}",
                "yes" if all(row["repeatable"] for row in mine) else "NO",
                "yes" if all(row["right"] for row in mine) else "NO",
            )
    wrong = [row for row in everything if not row["right"]]
    for row in wrong:
        error = "" if row["error"] is None else f"error {row['error']:.1e}, "
        again = "same bits again" if row["repeatable"] else "other bits again"
        where = f"{row['operator']}, {row['case']}, {row['type']}, {row['seeds']} seeds"
        report.say(f"\nWrong: {where}: {error}{again} {row['why']}")
    report.rows["correctness"] = everything
    return not wrong


def operators(report: Report, clock: Clock, floor: Floor, small: bool, until: float) -> None:
    """Every operator beside its rivals."""
    report.say("\n## Operators, microseconds\n")
    report.table(
        "operator", "case", "type", "seeds", "pass", "way", "median [20%, 80%]", "over mer", "of floor", head=True
    )
    everything = []
    for seeds in SEEDS[:1] if small else SEEDS:
        for operator in gpu_kernels.operators():
            for row in gpu_kernels.measure(operator, clock, floor, (seeds,), small, until):
                everything.append(row)
                times: dict[str, Time | str] = row["times"]
                own = [times[way] for way in ("mer, graph", "mer") if isinstance(times.get(way), Time)]
                best = min((t.median for t in own if isinstance(t, Time)), default=None)
                for way, found in times.items():
                    known = isinstance(found, Time)
                    report.table(
                        *(str(row[key]) for key in ("operator", "case", "type", "seeds", "pass")),
                        way,
                        micros(found),
                        f"{found.median / best:.2f}" if known and best and isinstance(found, Time) else "–",
                        f"{found.median / row['floor']:.1f}" if isinstance(found, Time) and row["floor"] else "–",
                    )
    report.rows["operators"] = everything
    ended(report, until)


def training(report: Report, clock: Clock, small: bool, until: float) -> None:
    """Every architecture's steps, epochs and trainings."""
    count = 8 if small else 1024
    report.say("\n## Steps and epochs\n")
    head = ("architecture", "lengths", "seeds", "step, us", "epoch, ms", "eager, ms", "eager / mer", "how")
    report.table(*head, head=True)
    rows = []
    for row in gpu_training.measure(clock, (1, 2) if small else SEEDS, count, small, until):
        rows.append(row)
        if "why" in row:
            report.table(row["arch"], row["lengths"], str(row["seeds"]), *("–",) * 4, row["why"])
            continue
        how = ", ".join([*row["execution"].values(), *row["said"]])
        cells = f"{1e3 * row['epoch'].median:.1f}", f"{1e3 * row['eager']:.1f}", f"{row['over_eager']:.2f}"
        report.table(row["arch"], row["lengths"], str(row["seeds"]), micros(row["step"]), *cells, how)
    report.rows["epochs"] = rows
    ended(report, until)
    report.say("\n## A step of one model on its longest batch, microseconds\n")
    report.table("architecture", "eager", "compiled", "compiled, graph", head=True)
    report.rows["compiled"], report.rows["trainings"] = {}, []
    for name in gpu_training.ARCHITECTURES:
        if time.perf_counter() > until:
            break
        found = gpu_training.compiled(name, clock, 8 if small else 256, small)
        report.rows["compiled"][name] = found
        report.table(name, *(micros(found.get(way)) for way in ("eager", "compiled", "compiled, graph")))
    ended(report, until)
    report.say("\n## Whole trainings\n")
    report.table("architecture", "seeds", "epochs", "utterances", "seconds", "how", head=True)
    for name in gpu_training.ARCHITECTURES:
        if time.perf_counter() > until:
            break
        done = gpu_training.training(name, clock.device, count, 1 if small else 20, 2 if small else 5, small)
        report.rows["trainings"].append(done)
        numbers = (str(done[key]) for key in ("seeds", "epochs", "utterances"))
        report.table(name, *numbers, f"{done['seconds']:.2f}", ", ".join(done["execution"].values()))
    ended(report, until)


def extraction(report: Report, device: torch.device, small: bool) -> None:
    """`bench/gpu_extract.py`, where its packages are there and there is a GPU."""
    report.say("\n## Extraction\n")
    missing = [name for name in EXTRACTION_NEEDS if importlib.util.find_spec(name) is None]
    if missing or small or device.type != "cuda":
        why = f"without {', '.join(missing)}" if missing else "measured on a GPU only: see bench/extract.py"
        report.say(f"Skipped: {why}.")
        return
    from bench import gpu_extract

    try:
        gpu_extract.main(["--small", "--device", str(device)])
    except Exception as error:  # noqa: BLE001 - what was measured before is kept
        report.say(f"Failed: {type(error).__name__}: {first_line(error)}.")
        return
    report.say("Printed above; `python -m bench.gpu_extract --write FILE` measures longer, and writes it.")


def ended(report: Report, until: float) -> None:
    """Say so where time ran out."""
    if time.perf_counter() > until:
        report.say("\nThe time for this part ran out: what is missing was not measured.")


def main(arguments: list[str] | None = None) -> int:
    """Run everything; 1 where an operator is wrong, or a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small shapes and models: whether it runs at all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--skip", default="", help=f"comma-separated: {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", default="gpu", help="of the two files")
    given = parser.parse_args(arguments)
    device, skipped = torch.device(given.device), given.skip.split(",")
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench.gpu: there is no CUDA device; --small --device cpu runs the same code on a CPU.", file=sys.stderr)
        return 1
    if given.small:
        torch.set_num_threads(1)
    begun = time.perf_counter()
    report, clock = Report(), Clock(device, *((0.002, 3) if given.small else ()))

    def until(part: str) -> float:
        return begun + 60 * float(given.minutes) * SHARES[part]

    machine = describe(device)
    report.rows["machine"] = machine
    report.say("# Kernels and training" + (", a small run: no figures" if given.small else ""))
    report.say("\n`python -m bench.gpu`: " + ", ".join(f"{key} {value}" for key, value in machine.items()))
    right = "correctness" in skipped or correctness(report, device, given.small)
    floor = Floor.measure(clock, given.small)
    report.rows["floor"] = floor
    rates = ", ".join(f"{1e-12 * rate:.1f} TFLOP/s {kind}" for kind, rate in floor.flops.items())
    report.say(f"\nFloor: copy {1e-9 * floor.bytes_per_second:.0f} GB/s; products of matrices {rates}")
    parts: dict[str, Callable[[], None]] = {
        "operators": lambda: operators(report, clock, floor, given.small, until("operators")),
        "training": lambda: training(report, clock, given.small, until("training")),
        "extraction": lambda: extraction(report, device, given.small),
    }
    for name, part in parts.items():
        if name in skipped:
            continue
        try:
            part()
        except Exception as error:  # noqa: BLE001 - what was measured is kept, and the other parts are tried
            traceback.print_exc()
            report.say(f"\nFailed: {name}: {type(error).__name__}: {first_line(error)}.")
            right = False
        report.write(given.out, given.name)
    report.say(f"\n{time.perf_counter() - begun:.0f} s in all.")
    report.write(given.out, given.name)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
