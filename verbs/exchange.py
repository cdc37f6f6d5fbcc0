"""`mer store import`, `export` and `formats`: features from and for everybody else's code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from terminal import OUT, indented, print_json, row_bar, say, table_of
from verbs.options import DEFAULT_STORE, AsJson, StorePath

if TYPE_CHECKING:
    from cache_schema.exchange.importing import ImportReport
    from cache_schema.settings import Spec

Settings = Annotated[list[str] | None, typer.Option("--set", help="field=value; repeatable. See `mer store formats`.")]
Format = Annotated[str, typer.Argument(metavar="FORMAT", help="The format; `mer store formats` lists them.")]


def store_formats(
    name: Annotated[str | None, typer.Argument(metavar="[FORMAT]", help="Only this one, with its settings.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the formats that features can be imported from and exported to, and a format's layout and settings.

    Example: mer store formats mmsa
    """
    from cache_schema.exchange.formats import FORMATS
    from cache_schema.exchange.recipes import RECIPES

    found = {n: _format(FORMATS.load(n)) for n in ([name] if name else FORMATS.names())}
    if as_json:
        print_json({"formats": found, "recipes": RECIPES.names()})
        return
    for format_name, facts in found.items():
        OUT.print(f"{format_name}: {facts['summary']}", style="bold")
        OUT.print(indented(facts["layout"]))
        if name:
            for way in ("import", "export"):
                table = table_of(f"{way} setting", "default", "meaning")
                for setting, (default, meaning) in (facts[way] or {}).items():
                    table.add_row(setting, default, meaning)
                if facts[way]:
                    OUT.print()
                    OUT.print(table)
    OUT.print(f"\nRecipes for import: {', '.join(RECIPES.names())}")


def store_import(
    format_name: Format,
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="The files or folders to read.")],
    dataset: Annotated[str, typer.Option("--dataset", help="The dataset's name in the store.")],
    store: StorePath = DEFAULT_STORE,
    recipe: Annotated[
        str | None, typer.Option(help="Settings of the import: a TOML file, or the name of a known release, as mosi.")
    ] = None,
    settings: Settings = None,
    dtype: Annotated[
        Literal["keep", "float32", "float16"],
        typer.Option(help="Type of the stored values; keep: the file's own, float32 for float64."),
    ] = "keep",
    non_finite: Annotated[
        Literal["refuse", "mask-samples", "mask-frames"],
        typer.Option(
            "--non-finite",
            help="NaN and infinite values: refuse the import, record the sample as failed, or leave its frame out.",
        ),
    ] = "refuse",
    folds: Annotated[
        str | None,
        typer.Option(help='Splits from a JSON file {"train": [id or dialogue, ...], ...}, or FILE:KEY in it.'),
    ] = None,
    new_samples: Annotated[
        Literal["refuse", "add", "skip"],
        typer.Option("--new-samples", help="Samples that the dataset, where it is in the store, does not have."),
    ] = "refuse",
    as_json: AsJson = False,
) -> None:
    """Import features, samples and labels from foreign files; their digests are the features' fingerprint.

    The same files again are a no-op; changed files are another feature. Nothing in a file is ever run.

    Example: mer store import csv DATA/mosi --recipe mosi --dataset mosi
    """
    from cache_schema.exchange.importing import import_features

    with row_bar("import") as progress:
        report = import_features(
            format_name,
            sources,
            store,
            dataset,
            recipe=recipe,
            settings=settings or [],
            dtype=dtype,
            non_finite=non_finite,
            folds=folds,
            new_samples=new_samples,
            progress=progress,
            say=say,
        )
    if as_json:
        print_json(report.as_json())
    else:
        _print_import(report)


def store_export(
    format_name: Format,
    dataset: Annotated[str, typer.Argument(help="The dataset's name in the store.")],
    to: Annotated[Path, typer.Option("--to", help="The new file or folder.")],
    features: Annotated[
        list[str] | None, typer.Argument(metavar="[FEATURE]...", help="Features, as name or name@fingerprint; all.")
    ] = None,
    store: StorePath = DEFAULT_STORE,
    settings: Settings = None,
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out samples that lack one of the features.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Export features with their samples and labels to a new file or folder, which appears whole or not at all.

    Example: mer store export hdf5 meld roberta mfcc --to meld.h5
    """
    from cache_schema.exchange.exporting import export_features

    with row_bar("export") as progress:
        report = export_features(
            format_name,
            store,
            dataset,
            features or [],
            to,
            settings=settings or [],
            drop_missing=drop_missing,
            progress=progress,
        )
    if as_json:
        print_json(report.as_json())
        return
    for note in report.notes:
        OUT.print(note)
    OUT.print(
        f"{report.to}: {report.samples} samples of {report.dataset} with {', '.join(report.features)} "
        f"({report.bytes / 1e6:.1f} MB, {report.seconds:.1f} s)"
    )


def _print_import(report: ImportReport) -> None:
    table = table_of("feature", "fingerprint", "modality", "frame", "type", "written", "done", "failed", "absent")
    for f in report.features:
        table.add_row(
            f.name,
            f.fingerprint[:16],
            f.modality,
            " x ".join(map(str, f.width)),
            f.dtype,
            *(str(n) for n in (f.written, f.done, f.failed, f.absent)),
        )
    OUT.print(table)
    for note in report.notes:
        OUT.print(note)
    if not report.added and not any(f.written for f in report.features):
        OUT.print("Nothing was left to do: these files were imported before.")
    splits = ", ".join(f"{count} {'without a split' if s == 'None' else s}" for s, count in report.splits.items())
    OUT.print(f"{report.dataset}: {report.samples} samples ({splits}), {report.added} rows new in {report.store}")


def _format(module: Any) -> dict[str, Any]:
    return {
        "summary": module.SUMMARY,
        "layout": module.LAYOUT,
        "import": _settings(getattr(module, "ImportConfig", None)),
        "export": _settings(getattr(module, "ExportConfig", None)),
    }


def _settings(model: type[Spec] | None, prefix: str = "") -> dict[str, tuple[str, str]] | None:
    """(default, meaning) of each setting; those of a setting's own parts follow it, as `features.NAME.modality`."""
    from cache_schema.settings import Spec

    if model is None:
        return None
    found: dict[str, tuple[str, str]] = {}
    for key, field in model.model_fields.items():
        default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
        found[prefix + key] = default, field.description or ""
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and get_origin(inner) is None and issubclass(inner, Spec):
                named = "NAME." if get_origin(field.annotation) is dict else ""
                found |= _settings(inner, f"{prefix}{key}.{named}") or {}
    return found


def register(app: typer.Typer) -> None:
    """Add the verbs to `mer store`."""
    app.command("formats")(store_formats)
    app.command("import")(store_import)
    app.command("export")(store_export)
