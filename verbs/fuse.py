"""`mer fuse ...`: train and evaluate fusion models on cached features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from terminal import OUT, epoch_bar, metrics_table, print_architecture, print_json, print_result, table_of
from verbs.options import DEFAULT_STORE, AsJson, DatasetName, StorePath, listed, pairs

app = typer.Typer(
    help="Train and evaluate fusion models on cached features.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("archs")
def fuse_archs(as_json: AsJson = False) -> None:
    """List the fusion architectures, and the baselines to measure them against."""
    from fuse.describe import list_archs

    found = list_archs()
    if as_json:
        print_json({arch["name"]: arch for arch in found})
        return
    table = table_of("name", "kind", "what it is")
    for arch in found:
        table.add_row(arch["name"], arch["kind"], arch["summary"])
    OUT.print(table)


@app.command("show")
def fuse_show(
    arch: Annotated[str, typer.Argument(help="The architecture.")],
    as_json: AsJson = False,
) -> None:
    """Show an architecture: its paper and readings, every setting with its default and meaning, and its size."""
    from fuse.describe import describe

    found = describe(arch)
    if as_json:
        print_json(found)
    else:
        print_architecture(found)


@app.command("train")
def fuse_train(
    arch: Annotated[str, typer.Option(help="The architecture; `mer fuse archs` lists them.")],
    dataset: DatasetName,
    store: StorePath = DEFAULT_STORE,
    seeds: Annotated[int, typer.Option(min=1, help="Train with the seeds 0 to N-1.")] = 5,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="field=value; repeatable. See `mer fuse show`.")
    ] = None,
    modalities: Annotated[str, typer.Option(help="Comma-separated, as text,speech; default all there are.")] = "",
    features: Annotated[str, typer.Option(help="Other features than preferred, as text=roberta@1a2b,vision=vit.")] = "",
    target: Annotated[str | None, typer.Option(help="What to predict; default the dataset's first target.")] = None,
    out: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    jobs: Annotated[int | None, typer.Option(min=1, help="Seeds at a time on the CPU; default one per core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train an architecture on cached features, with several seeds; the test split is opened once, at the end.

    Example: mer fuse train --arch hff --dataset meld --seeds 5 --set time=dialogue
    """
    from fuse.train import train_run

    with epoch_bar(seeds) as progress:
        result = train_run(
            store,
            dataset,
            arch,
            modalities=listed(modalities) or None,
            features=pairs(features),
            target=target,
            assignments=settings or [],
            seeds=seeds,
            out=out,
            device=device,
            jobs=jobs,
            progress=progress,
        )
    if as_json:
        print_json(result.as_json())
    else:
        print_result(result)


@app.command("eval")
def fuse_eval(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    store: Annotated[str | None, typer.Option("--store", help="The store, if it is no longer where it was.")] = None,
    split: Annotated[Literal["test", "val"], typer.Option(help="Which split.")] = "test",
    device: Annotated[str | None, typer.Option(help="torch device; default the run's own.")] = None,
    allow_changed: Annotated[bool, typer.Option("--allow-changed", help="Measure although the data changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Reload a run's models and measure them again: the same numbers, to the bit, on the same machine and device."""
    from fuse.evaluate import evaluate_run

    found = evaluate_run(run, store_path=store, split=split, device=device, allow_changed=allow_changed)
    if as_json:
        print_json(found)
        return
    OUT.print(metrics_table({split: found[split]}))
    for change in found["changed"]:
        OUT.print(f"Changed since the run: {change}")
    OUT.print(
        "Identical to what the run recorded, to the bit."
        if found["identical"]
        else "Not identical to what the run recorded."
    )
