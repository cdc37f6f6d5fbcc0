"""`mer fuse ...`: train and evaluate fusion models on cached features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from terminal import (
    OUT,
    epoch_bar,
    metrics_table,
    print_architecture,
    print_json,
    print_profile,
    print_result,
    say,
    table_of,
)
from verbs import completion, studies
from verbs.fuse_options import (
    Arch,
    Device,
    Features,
    Folds,
    Groups,
    Jobs,
    Labels,
    Modalities,
    Out,
    Seeds,
    Settings,
    TargetName,
    TestOn,
    Val,
    protocol_of,
)
from verbs.options import DEFAULT_STORE, AsJson, DatasetName, StorePath, listed, pairs

app = typer.Typer(
    help="Train and evaluate fusion models on cached features.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("archs")
def fuse_archs(as_json: AsJson = False) -> None:
    """List the fusion architectures, and the baselines to measure them against.

    Example: mer fuse archs
    """
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
    arch: Annotated[str, typer.Argument(help="The architecture.", autocompletion=completion.archs)],
    as_json: AsJson = False,
) -> None:
    """Show an architecture: its paper and readings, every setting with its default and meaning, and its size.

    Example: mer fuse show symphonia
    """
    from fuse.describe import describe

    found = describe(arch)
    if as_json:
        print_json(found)
    else:
        print_architecture(found)


@app.command("train")
def fuse_train(
    arch: Arch,
    dataset: DatasetName,
    store: StorePath = DEFAULT_STORE,
    seeds: Seeds = 5,
    settings: Settings = None,
    modalities: Modalities = "",
    features: Features = "",
    target: TargetName = None,
    folds: Folds = "official",
    val: Val = "",
    groups: Groups = None,
    test_on: TestOn = "",
    labels: Labels = "",
    out: Out = Path("runs"),
    device: Device = "cpu",
    jobs: Jobs = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard, too.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever was interrupted.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say on stderr where the time went.")] = False,
    together: Annotated[
        bool | None,
        typer.Option("--together/--apart", help="Train the seeds as one program; default: where there is a GPU."),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(min=1, help="Read the data in windows of so many MB; default: where they do not fit."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train an architecture on cached features, with several seeds; the test split is opened once, at the end.

    Several datasets, joined by commas, are trained on jointly. A training that was interrupted goes on when the same
    command is given again, to the same result.

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
            protocol=protocol_of(folds, val, groups, test_on, labels),
            out=out,
            device=device,
            jobs=jobs,
            tensorboard=tensorboard,
            fresh=fresh,
            profile=profile,
            together=together,
            window_bytes=None if window is None else round(window * 1e6),
            progress=progress,
            say=say,
            inform=say,
        )
    if profile:
        print_profile(result)
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
    """Reload a run's models and measure them again: the same numbers, to the bit, on the same machine and device.

    Example: mer fuse eval runs/hff-meld-1
    """
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


studies.add_to(app)
