"""What it costs to give memory back: a step of training with and without `compute.memory.keep_freed`.

Each way has a process of its own with one torch thread; they take turns, and medians are told: processor seconds of a
step, pages that the system had to find for it, and the process's memory at its peak. Of glibc alone, which Linux has:
other C libraries are left as they are, and there is nothing to compare.

    python -m bench.memory [--archs symphonia,hff] [--rounds 3] [--small]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

from bench.fuse import COUNT, SMALL, Setting, Trained
from bench.machine import cpu_name, peak_mb
from bench.meld_like import LONGEST
from compute.memory import keep_freed
from fuse.training.loop import reproducible

WARM, STEPS = 32, 32


def step(setting: Setting, keeps: bool) -> tuple[float, float, float]:
    """In a process: processor seconds and new pages of a step, and the process's memory at its peak, in MB."""
    if keeps:
        keep_freed()
    trained = Trained(setting)
    size, unit = trained.config.batch_size, trained.model.network.unit
    with reproducible(0, 1):
        trained.seconds(trained.data.batches(size, unit, trained.shuffle), "fp32", WARM)
        pages, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        trained.seconds(trained.data.batches(size, unit, trained.shuffle), "fp32", setting.steps - 1)
        seconds, after = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF)
    return seconds / setting.steps, (after.ru_minflt - pages) / setting.steps, peak_mb(after)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", default="symphonia,complementary,hff,of-cmaer-cat", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="so little that only errors show")
    given = parser.parse_args(arguments)
    if not keep_freed():
        raise SystemExit("The C library is not glibc, and no other one is told to keep memory: nothing to compare.")
    print(f"{cpu_name()}; a step in fp32 of one torch thread, medians of {given.rounds}")
    print(f"{'':16}{'gives memory back':>32}{'keeps it':>32}")
    print(f"{'':16}{'CPU seconds, new pages, peak MB':>32}{'CPU seconds, new pages, peak MB':>32}")
    context = multiprocessing.get_context("spawn")
    for name in given.archs.split(","):
        small = SMALL.get(name, {}) if given.small else {}
        count, longest, steps = (8, 0.8, 1) if given.small else (COUNT, LONGEST, STEPS)
        setting = Setting(name, count, longest, small, {}, steps, 0)
        found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
        for _ in range(given.rounds):
            for keeps in found:
                with ProcessPoolExecutor(1, context) as pool:
                    found[keeps].append(pool.submit(step, setting, keeps).result())
        line = f"{name:16}"
        for rows in found.values():
            seconds, pages, peak = (statistics.median(column) for column in zip(*rows, strict=True))
            line += f"{seconds:14.3f}{pages:10,.0f}{peak:8.0f}"
        print(line)


if __name__ == "__main__":
    main()
