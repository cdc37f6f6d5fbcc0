"""`mer fuse sweep | ablate | compare | robustness | export | push`: what many runs, or a finished one, are for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from terminal import OUT, epoch_bar, over_seeds, print_json, say, table_of
from verbs.fuse_options import (
    Arch,
    Device,
    Features,
    Folds,
    Groups,
    Jobs,
    Modalities,
    Out,
    Seeds,
    Settings,
    TargetName,
    Val,
    protocol_of,
)
from verbs.options import DEFAULT_STORE, AsJson, DatasetName, StorePath, listed, pairs

RunFolder = Annotated[Path, typer.Argument(help="The run's folder.")]


def add_to(app: typer.Typer) -> None:
    """Make these verbs of `mer fuse`."""
    for name, verb in (
        ("sweep", sweep),
        ("ablate", ablate),
        ("compare", compare),
        ("robustness", robustness),
        ("export", export),
        ("push", push),
    ):
        app.command(name)(verb)


def sweep(
    arch: Arch,
    dataset: DatasetName,
    store: StorePath = DEFAULT_STORE,
    trials: Annotated[int, typer.Option(min=1, help="How many in all; those of an earlier search count.")] = 30,
    seeds: Seeds = 3,
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="field=a|b|c, field=low..high or field=low..high:log; repeatable. Default lr, weight_decay "
            "and batch_size."
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="What is best on validation; default what is monitored.")] = None,
    settings: Settings = None,
    modalities: Modalities = "",
    features: Features = "",
    target: TargetName = None,
    val: Val = "",
    groups: Groups = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Search settings by their mean over the seeds on validation; the test split is not even read.

    Example: mer fuse sweep --arch hff --dataset meld --search lr=1e-5..1e-3:log --search "layers=1|2|4"
    """
    from fuse.sweep import sweep as run_sweep

    with epoch_bar(trials * seeds) as progress:
        found = run_sweep(
            store,
            dataset,
            arch,
            trials=trials,
            seeds=seeds,
            search=search or (),
            metric=metric,
            modalities=listed(modalities) or None,
            features=pairs(features),
            target=target,
            assignments=settings or [],
            protocol=protocol_of("official", val, groups, "", ""),
            out=out,
            device=device,
            jobs=jobs,
            progress=progress,
            say=say,
        )
    if as_json:
        print_json(found)
        return
    table = table_of("trial", f"{found['metric']} on validation", *found["best"]["settings"])
    for trial in found["trials"]:
        value = "diverged" if trial["value"] is None else f"{trial['value']:.4f}"
        mark = " (best)" if trial["number"] == found["best"]["number"] else ""
        table.add_row(f"{trial['number']}{mark}", value, *(_short(v) for v in trial["settings"].values()))
    OUT.print(table)
    given = {
        "--store": "" if store == DEFAULT_STORE else store,
        "--modalities": modalities,
        "--features": features,
        "--target": target,
        "--val": val,
        "--device": "" if device == "cpu" else device,
    }
    words = ["mer", "fuse", "train", "--arch", arch, "--dataset", dataset]
    words += [word for option, value in given.items() if value for word in (option, value)]
    words += [word for group in groups or () for word in ("--group", group)]
    words += [word for assignment in found["assignments"] for word in ("--set", assignment)]
    OUT.print(f"\nNow on test, once: {shlex.join(words)}")
    OUT.print(f"Search: {found['folder']}")


def ablate(
    arch: Arch,
    dataset: DatasetName,
    store: StorePath = DEFAULT_STORE,
    tables: Annotated[str, typer.Option("--table", help="Comma-separated numbers of tables; default all.")] = "",
    seeds: Seeds = 5,
    settings: Settings = None,
    features: Features = "",
    target: TargetName = None,
    folds: Folds = "official",
    val: Val = "",
    groups: Groups = None,
    out: Out = Path("runs"),
    device: Device = "cpu",
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Train what the ablation tables of an architecture's paper compare, and print them with its numbers beside ours.

    What is done is not trained again: the same command goes on with an ablation that was interrupted.

    Example: mer fuse ablate --arch hff --dataset meld --table 2
    """
    from fuse.ablate import ablate as run_ablation

    with epoch_bar(None) as progress:
        found = run_ablation(
            store,
            dataset,
            arch,
            tables=listed(tables),
            assignments=settings or [],
            features=pairs(features),
            target=target,
            protocol=protocol_of(folds, val, groups, "", ""),
            seeds=seeds,
            out=out,
            device=device,
            jobs=jobs,
            progress=progress,
            say=say,
        )
    if as_json:
        print_json(found)
        return
    for table in found["tables"]:
        over = f"± sd over {seeds} seeds" if seeds > 1 else "with one seed"
        OUT.print(f"{table['title']}: ours on {dataset} {over} (the paper's)", style="bold")
        shown = table_of("", *table["columns"])
        notes: list[str] = []
        for row in table["rows"]:
            shown.add_row(row["name"], *(_cell(cell, notes) for cell in row["cells"]))
        OUT.print(shown)
        for note in dict.fromkeys(notes):
            OUT.print(note)
        OUT.print()
    OUT.print(f"Runs: {found['folder']}")


def compare(
    first: RunFolder,
    second: Annotated[Path, typer.Argument(help="Another run's folder.")],
    test: Annotated[Literal["t", "wilcoxon"], typer.Option(help="The paired test over the seeds.")] = "t",
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws of the utterances.")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Compare two runs on the same test utterances: over the seeds that both have, and over the utterances.

    Example: mer fuse compare runs/hff-meld-1 runs/mult-meld-1
    """
    from fuse.compare import compare_runs

    found = compare_runs(first, second, test=test, draws=draws)
    if as_json:
        print_json(found)
        return
    name = "t test" if test == "t" else "Wilcoxon"
    table = table_of(
        "metric", "first", "second", "first - second", f"[95%] over seeds, p ({name})", "[95%] over utterances, p"
    )
    for metric, each in found["metrics"].items():
        seeds, drawn = each["seeds"], each["utterances"]
        table.add_row(
            metric,
            over_seeds(each["first"]),
            over_seeds(each["second"]),
            f"{drawn['difference']:+.4f}",
            "fewer than two seeds in common" if seeds is None else _interval(seeds),
            _interval(drawn),
        )
    OUT.print(table)
    OUT.print(f"{found['utterances']} test utterances, {len(found['seeds'])} seeds in common; {draws} bootstrap draws.")


def robustness(
    run: RunFolder,
    kind: Annotated[Literal["missing", "noise"], typer.Option(help="What happens to the modality.")] = "missing",
    at: Annotated[Literal["test", "train"], typer.Option(help="Degrade test; or train and validation, anew.")] = "test",
    shares: Annotated[str, typer.Option(help="Comma-separated shares of the utterances; default 0,0.2,...,1.")] = "",
    modalities: Modalities = "",
    metric: Annotated[str, typer.Option(help="What is printed; --json has all.")] = "",
    noise: Annotated[float, typer.Option(min=0, help="Deviation of the noise, in those of each dimension.")] = 1.0,
    store: Annotated[str | None, typer.Option("--store", help="The store, if it is no longer where it was.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the runs of --at train go; default beside the run.")] = None,
    device: Annotated[str | None, typer.Option(help="torch device; default the run's own.")] = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Measure a run against the share of utterances whose modality is missing or noised, for each modality.

    Example: mer fuse robustness runs/hff-meld-1 --modalities vision --kind noise
    """
    from fuse.metrics import names
    from fuse.robustness import robustness as measure
    from fuse.run import load

    known = names(load(run).record.target)
    if metric and metric not in known:
        raise typer.BadParameter(f"{metric!r} is none of {', '.join(known)}.", param_hint="--metric")
    try:
        numbers = [float(share) for share in listed(shares)]
    except ValueError as error:
        raise typer.BadParameter(f"{shares!r} is no list of numbers.", param_hint="--shares") from error
    with epoch_bar(None) as progress:
        found = measure(
            run,
            kind=kind,
            at=at,
            shares=numbers or None,
            modalities=listed(modalities) or None,
            noise=noise,
            store_path=store,
            device=device,
            out=out,
            jobs=jobs,
            progress=progress,
            say=say,
        )
    if as_json:
        print_json(found)
        return
    shown = metric or known[0]
    OUT.print(
        f"{shown} on test, mean ± sd over {len(found['seeds'])} seeds, by the share of {at} utterances that is {kind}:"
    )
    table = table_of(kind, *(f"{share:.0%}" for share in found["shares"]))
    for modality, curve in found["curves"].items():
        table.add_row(modality, *(_mean(point) for point in curve[shown]))
    OUT.print(table)


def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="Where the model goes.")],
    seed: Annotated[int | None, typer.Option(help="Which seed's model; default the first.")] = None,
) -> None:
    """Write a run's model as a folder that `fuse.load` reads without the run.

    Example: mer fuse export runs/hff-meld-1 model
    """
    from fuse.hub import save_pretrained
    from fuse.run import load

    OUT.print(f"Model: {save_pretrained(load(run), folder, seed)}")


def push(
    run: RunFolder,
    repo: Annotated[str, typer.Argument(help="ORG/NAME on the Hugging Face hub.")],
    seed: Annotated[int | None, typer.Option(help="Which seed's model; default the first.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
) -> None:
    """Put a run's model on the Hugging Face hub; `fuse.load("hf:ORG/NAME")` reads it.

    Example: mer fuse push runs/hff-meld-1 ORG/NAME
    """
    from fuse.hub import push_to_hub
    from fuse.run import load

    OUT.print(f"Model: {push_to_hub(load(run), repo, seed, private=not public)}")


def _cell(cell: dict[str, Any], notes: list[str]) -> str:
    """Ours and the paper's, in percent where they are fractions."""
    paper = "" if cell["paper"] is None else f" ({100 * cell['paper']:.1f})"
    if "why" in cell:
        notes.append(f"–: {cell['why']}.")
        return f"–{paper}"
    ours = cell["ours"]
    if "fewer" in cell:
        notes.append(f"*: {cell['fewer']}.")
    spread = "" if ours["sd"] is None else f" ± {100 * ours['sd']:.1f}"
    if "same" in cell:
        notes.append(f"≡: coincides by construction with {cell['same']}: one run serves both.")
    return f"{'≡ ' if 'same' in cell else ''}{100 * ours['mean']:.1f}{spread}{'*' if 'fewer' in cell else ''}{paper}"


def _interval(found: dict[str, Any]) -> str:
    return f"[{found['low']:+.4f}, {found['high']:+.4f}], p {found['p']:.3g}"


def _mean(found: dict[str, Any]) -> str:
    return f"{found['mean']:.4f}" + ("" if found["sd"] is None else f" ± {found['sd']:.4f}")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
