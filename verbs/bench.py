"""`mer bench ...`: the benchmarks of `bench/`, which lie in the source tree and in no wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import typer

from cache_schema.errors import MerError
from terminal import print_json
from verbs.options import AsJson

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {
    "extract": "Extraction in batches against one clip at a time.",
    "store": "The feature store against what else one would do.",
    "fuse": "Training, every architecture and baseline, against the plain way; five seeds against one after the other.",
    "together": "Test metrics of seeds trained together, alone and apart; with --precision, of bf16 and fp32.",
    "products": "Matrix products in float32: torch's own, and mer's on processors where those are slow.",
    "memory": "A step of training in a process that keeps its memory, and in one that gives it back.",
    "gpu": "Kernels, steps, epochs and trainings on a CUDA device.",
}

app = typer.Typer(
    help="Measure ratios on this machine; what follows the name goes to the benchmark.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def run(name: str, words: list[str], as_json: bool) -> None:
    """Run `python -m bench.NAME` with the given words, and print what it prints.

    Raises:
        MerError: there is no source tree, or the benchmark failed.
    """
    if not (ROOT / "bench" / f"{name}.py").is_file():
        raise MerError(
            f"mer bench {name} needs mer's source tree, and {ROOT} has no bench/{name}.py: clone the repository and "
            "install it from there (make install)."
        )
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    begun, lines = time.perf_counter(), []
    command = [
        sys.executable,
        "-P",
        "-m",
        f"bench.{name}",
        *words,
    ]  # -P: a folder bench/ of the user does not shadow it
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if not as_json:
                print(lines[-1], flush=True)  # noqa: T201 - the result
    if process.returncode:
        raise MerError(f"The benchmark ended with {process.returncode}: what it said is above.")
    if as_json:
        print_json({"benchmark": name, "seconds": round(time.perf_counter() - begun, 3), "lines": lines})


def _verb(name: str, summary: str) -> None:
    words = {"gpu": "--out bench/results"}.get(name, "--small")
    text = f"{summary}\n\nExample: mer bench {name} {words}"

    @app.command(name, help=text, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def verb(context: typer.Context, as_json: AsJson = False) -> None:
        run(name, context.args, as_json)


for _name, _summary in BENCHMARKS.items():
    _verb(_name, _summary)
