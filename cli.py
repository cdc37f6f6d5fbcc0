"""The verbs of `mer`. They compose the two stages and print; everything else lives in the stages.

Results go to stdout, as tables or as one JSON object with `--json`; progress and logs go to stderr.
Exit 0: done. 1: it could not be done, with one line that says what, where and what to do. 2: wrong usage.
"""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import verbs.bench
import verbs.check
import verbs.fuse
import verbs.models
import verbs.predict
import verbs.report
import verbs.store
from cache_schema.errors import DataError, MerError, SettingsError, first_line
from terminal import (
    ERR,
    OUT,
    epoch_bar,
    indented,
    print_demo,
    print_json,
    print_report,
    row_bar,
    say,
    table_of,
)
from verbs import completion
from verbs.options import DEFAULT_STORE, AsJson, StorePath, Weights, listed

HERE = Path(__file__).resolve().parent
LONGEST_MESSAGE = 1000
"""Characters of an error; what it quotes may come from any file."""
FREE = " Free some, or name another place; what was finished is kept, and the same command goes on."
MENDED = {
    errno.ENOSPC: FREE,
    errno.EDQUOT: FREE,
    errno.EACCES: " Ask whoever owns it for the right to, or name another place.",
    errno.EPERM: " Ask whoever owns it for the right to, or name another place.",
    errno.EROFS: " It can only be read: name another place.",
    errno.ENOENT: " Is the path spelled right?",
}
"""What to do about errors of the file system that nobody told better."""

app = typer.Typer(
    help="Multimodal emotion recognition: extract features once into a shared store, train fusion models on them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(verbs.models.app, name="models")
app.add_typer(verbs.store.app, name="store")
app.add_typer(verbs.fuse.app, name="fuse")
app.add_typer(verbs.bench.app, name="bench")
app.command("check")(verbs.check.check)
app.command("predict")(verbs.predict.predict)
app.command("report")(verbs.report.report)


def _print_version(asked: bool) -> None:
    if asked:
        OUT.print(importlib.metadata.version("mer"))
        raise typer.Exit


@app.callback()
def _mer(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


# ---------------------------------------------------------------------------------------------------- stage one


@app.command()
def datasets(as_json: AsJson = False) -> None:
    """List the datasets that can be read, and what each needs on disk.

    Example: mer datasets --json
    """
    from extract.datasets import DATASETS

    found = {name: DATASETS.load(name) for name in DATASETS.names()}
    if as_json:
        print_json({name: {"summary": m.SUMMARY, "layout": m.LAYOUT} for name, m in found.items()})
        return
    for name, module in found.items():
        OUT.print(f"{name}: {module.SUMMARY}", style="bold")
        OUT.print(indented(module.LAYOUT))


@app.command()
def encoders(as_json: AsJson = False) -> None:
    """List the encoders, the checkpoint each reads, and its settings.

    Example: mer encoders
    """
    from extract.encoders import ENCODERS

    found = {name: ENCODERS.load(name) for name in ENCODERS.names()}
    if as_json:
        print_json(
            {
                name: {
                    "summary": m.SUMMARY,
                    "modality": m.MODALITY,
                    "checkpoint": m.HUB.repo if m.HUB else None,
                    "settings": {k: f.description for k, f in m.Config.model_fields.items()},
                }
                for name, m in found.items()
            }
        )
        return
    table = table_of("encoder", "modality", "checkpoint", "what it is")
    for name, m in found.items():
        table.add_row(name, m.MODALITY, m.HUB.repo if m.HUB else "none needed", m.SUMMARY)
    OUT.print(table)


@app.command()
def extract(
    dataset: Annotated[
        str, typer.Option(help="What is read; `mer datasets` lists them.", autocompletion=completion.adapters)
    ],
    root: Annotated[Path | None, typer.Option(help="The data root; default $MER_DATA/DATASET.")] = None,
    store: StorePath = DEFAULT_STORE,
    encoders: Annotated[
        str,
        typer.Option(
            help="Comma-separated encoders; default those for the corpus and its language.",
            autocompletion=completion.encoders,
        ),
    ] = "",
    weights: Weights = None,
    name: Annotated[str | None, typer.Option(help="The dataset's name in the store; default its own.")] = None,
    crop: Annotated[str, typer.Option(help="What of a picture the vision encoders see: whole or face.")] = "whole",
    settings: Annotated[list[str] | None, typer.Option("--set", help="encoder.field=value; repeatable.")] = None,
    device: Annotated[str, typer.Option(help="torch device; auto takes a GPU where there is one.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N utterances (whole segments).")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Extract failed utterances again.")] = False,
    retry_replaced: Annotated[
        bool, typer.Option("--retry-replaced", help="Extract clips again whose file is another than then (reads all).")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine, spread over its GPUs.")] = 1,
    cluster: Annotated[
        str | None, typer.Option(help="A running dask scheduler: tcp://HOST:8786, or its --scheduler-file.")
    ] = None,
    decode_seconds: Annotated[
        float | None, typer.Option(help="Most seconds to decode one clip; default 60 and four times its duration.")
    ] = None,
    decode_gb: Annotated[float, typer.Option(help="Most memory, in GB, that decoding one clip may take.")] = 2.0,
    recognise: Annotated[
        str | None,
        typer.Option(help="Let Whisper write missing transcripts: auto, corpus (its language), or as en."),
    ] = None,
    max_failures: Annotated[str, typer.Option(help="More failed utterances than N or P% exit with 1.")] = "1%",
    as_json: AsJson = False,
) -> None:
    """Run frozen encoders over a dataset, once, into the feature store.

    What is in the store already is not computed again, so a run that was stopped goes on where it was.

    Example: mer extract --dataset meld --root /data/MELD.Raw --encoders roberta,mfcc,resnet
    """
    from extract.decoding.quarantine import DecodeLimits
    from extract.run import extract as run_extract

    limits = DecodeLimits.parse({"seconds": decode_seconds, "gigabytes": decode_gb}, "decoding")
    if cluster is not None and workers > 1:
        raise typer.BadParameter("the workers are the cluster's.", param_hint="--workers with --cluster")
    tolerated = _failure_bound(max_failures)
    with row_bar("extract") as progress:
        report = run_extract(
            dataset=dataset,
            root=root or _default_root(dataset),
            store_path=store,
            encoders=listed(encoders),
            weights=weights,
            name=name,
            crop=crop,
            settings=settings or [],
            device=device,
            limit=limit,
            retry_failed=retry_failed,
            retry_replaced=retry_replaced,
            workers=workers,
            scheduler=cluster,
            recognise=recognise,
            limits=limits,
            progress=progress,
            say=say,
        )
    if as_json:
        print_json(report.as_json())
    else:
        print_report(report)
    bound = tolerated(report.samples)
    if report.failed_utterances > bound:
        raise DataError(
            f"{report.failed_utterances} of {report.samples} utterances failed, more than --max-failures "
            f"{max_failures} allows; everything else was done. `mer store show {report.dataset} FEATURE` lists them."
        )


def _failure_bound(text: str) -> Callable[[int], float]:
    """`--max-failures` as a function of the number of samples."""
    number = text.removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise typer.BadParameter(
            f"{text!r} is neither a number nor a percentage, as 20 or 1%.", param_hint="--max-failures"
        )
    return (lambda samples: samples * value / 100) if text.endswith("%") else (lambda samples: value)


def _default_root(dataset: str) -> Path:
    from extract.datasets import DATASETS

    DATASETS.require(dataset)
    base = os.environ.get("MER_DATA")
    if base is None:
        raise SettingsError(
            f"Where is {dataset}? Name its folder with --root, or set MER_DATA to the folder that holds {dataset}/."
        )
    return Path(base) / dataset


@app.command()
def doctor(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Say what is installed, what device there is, what is missing, and how to mend it.

    Example: mer doctor --store /shared/features
    """
    from extract.doctor import examine

    findings = examine(store)
    if as_json:
        print_json({"findings": [{"what": f.what, "state": f.state, "detail": f.detail} for f in findings]})
    else:
        table = table_of("", "", "")
        for f in findings:
            table.add_row(f.what, f.state, f.detail)
        OUT.print(table)
    missing = [f.what for f in findings if f.state == "missing"]
    if missing:
        raise MerError(f"{', '.join(missing)}: see above how to mend it.")


# ---------------------------------------------------------------------------------------------------- both stages


DEMO_ENCODERS = ("roberta", "mfcc", "resnet")
DEMO_EXTRACTION = ("resnet.fps=2.5", "mfcc.hop_ms=20")
"""Half the usual rates: the clips show one thing for two seconds."""
DEMO_ROWS = (("text",), ("speech",), ("vision",), ("text", "speech", "vision"))
DEMO_SETTINGS = (
    "d=64",
    "layers=1",
    "heads=4",
    "steps=4",
    "speech_channels=[32, 64]",
    "text_pool=mean",
    "patience=12",
    "lr=0.001",
    "batch_size=32",
)
"""hff for some hundred short clips: smaller than the paper's, quicker to learn and slower to stop, no [CLS] of random
weights."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the corpus, the store and the runs go.")] = Path(".demo"),
    seeds: Annotated[int, typer.Option(min=2, help="Train each row with the seeds 0 to N-1.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show the whole way with nothing but this package: make clips, extract features, train hff, report.

    The clips are drawn and synthesised, the encoders are small and have random weights: the numbers say that the
    pipeline works, and nothing about emotions.

    Example: mer demo --seeds 3 --out demo
    """
    from extract.run import extract as run_extract
    from extract.synthetic import make_corpus, sentences
    from extract.weights.random_weights import make_random_checkpoint
    from fuse.train import train_run
    from fuse.training.workers import Workers

    corpus, weights, store, runs = (out / name for name in ("corpus", "weights", "features", "runs"))
    say(
        "Making a corpus of talking faces in MELD's layout ..."
        if not corpus.is_dir()
        else f"The corpus is in {corpus}."
    )
    make_corpus(corpus)
    for encoder in ("roberta", "resnet"):
        make_random_checkpoint(encoder, weights / encoder, "small", seed=0, sentences=tuple(sentences()))
    with row_bar("extract") as progress:
        report = run_extract(
            "meld",
            corpus,
            str(store),
            encoders=DEMO_ENCODERS,
            weights=str(weights),
            settings=DEMO_EXTRACTION,
            progress=progress,
            say=say,
        )
    if not as_json:
        print_report(report)
    results = {}
    with Workers() as workers, epoch_bar(seeds * len(DEMO_ROWS)) as epochs:
        for row in DEMO_ROWS:
            trained = train_run(
                store,
                "meld",
                "hff",
                modalities=row,
                assignments=DEMO_SETTINGS,
                seeds=seeds,
                out=runs,
                workers=workers,
                progress=epochs,
            )
            results[" + ".join(row)] = trained
    print_demo(results, report, as_json)


# ---------------------------------------------------------------------------------------------------- start


def _refuse_shadowed_packages() -> None:
    """`fuse` is also the name of another distribution: make sure that our packages are our own."""
    for package in ("cache_schema", "extract", "fuse", "verbs"):
        spec = importlib.util.find_spec(package)
        origin = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if origin != HERE / package:
            raise MerError(
                f"The package {package!r} is found at {origin or 'nowhere'}, not at {HERE / package}: "
                "another distribution of that name shadows it. Install mer into an environment of its own."
            )


def main() -> None:
    """Run the command line; see the head of this file for exit codes."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt)
    try:
        _refuse_shadowed_packages()
        app(prog_name="mer")
    except MerError as error:
        if debug:
            raise
        _fail(str(error))
    except Interrupted:
        _fail("interrupted. What was finished is kept; run the same command again to go on.")
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.filename or 'a file'}: {first_line(error)}.{MENDED.get(error.errno or 0, '')}")
    except Exception as error:
        if debug:
            raise
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, not loaded here
            whose, said = "this machine's" if isinstance(error, MemoryError) else "the GPU's", first_line(error)
            _fail(
                f"{whose} memory is full{f' ({said})' if said else ''}. Free some, or ask for less: a smaller "
                "batch_size, fewer --jobs, a smaller --window, or --device cpu. What was finished is kept."
            )
        _fail(f"{type(error).__name__}: {first_line(error)}. This is a fault in mer itself; --debug shows where.")


def _fail(message: str) -> NoReturn:
    shown = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}..."
    ERR.print(f"mer: {shown}", style="red")
    sys.exit(1)


class Interrupted(BaseException):
    """Ctrl-C, or a scheduler's request to stop; no `except Exception` on the way takes it for a fault."""


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted


if __name__ == "__main__":
    main()
