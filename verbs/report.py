"""`mer report`: finished runs as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terminal import OUT, print_json, say
from verbs.options import AsJson


def report(
    runs: Annotated[list[Path], typer.Argument(help="The runs' folders; the others are compared with the first.")],
    out: Annotated[Path, typer.Option(help="The HTML file; one that is there is replaced.")] = Path("report.html"),
    tables: Annotated[Path | None, typer.Option(help="A folder for every table as CSV and LaTeX, too.")] = None,
    study: Annotated[
        list[Path] | None,
        typer.Option(
            help="The folder of a `mer fuse ablate`, or a file with what `robustness` or `ablate` printed with --json; "
            "repeatable."
        ),
    ] = None,
    hardest: Annotated[int, typer.Option(min=1, help="How many of the utterances with the highest loss.")] = 20,
    examples: Annotated[
        int, typer.Option(min=0, help="How many test utterances the architecture's own figures are drawn of.")
    ] = 4,
    utterance: Annotated[
        list[str] | None, typer.Option(help="The id of an utterance to draw them of, instead; repeatable.")
    ] = None,
    root: Annotated[
        list[str] | None,
        typer.Option(help="The data root, PATH or DATASET=PATH: pictures and sound of the utterances shown."),
    ] = None,
    store: Annotated[str | None, typer.Option(help="The feature store, if it is no longer where it was.")] = None,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws of the utterances per comparison.")] = 2000,
    title: Annotated[str | None, typer.Option(help="The report's title.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML file about finished runs, for whoever has to judge their numbers.

    Figures of the architecture are drawn from the runs' store; with --root the report holds pictures and sound of the
    hardest utterances: mind what you may pass on.

    Example: mer report runs/hff-meld-1 runs/mult-meld-1 --out report.html
    """
    from fuse.report.write import write

    excerpts = None
    if root:
        from verbs.excerpts import Excerpts, roots_of

        excerpts = Excerpts(roots_of(root), store)
    found = write(
        runs,
        out,
        tables=tables,
        study_files=study or (),
        hardest=hardest,
        most_examples=examples,
        utterances=utterance or (),
        store=store,
        excerpts=excerpts,
        draws=draws,
        title=title,
    )
    if excerpts is not None:
        found["excerpts"] = {"utterances": len(excerpts.made), "without_media": excerpts.without_media}
        if excerpts.without_media:
            say(
                f"{excerpts.without_media} of {len(excerpts.made)} excerpts have neither pictures nor sound; the "
                "report says why: is --root the data root?"
            )
    if as_json:
        print_json(found)
        return
    for pair in found["comparisons"]:
        if "refused" in pair:
            OUT.print(f"{pair['first']} is not compared with {pair['second']}. {pair['refused']}")
    if found["tables"]:
        OUT.print(f"Tables: {tables} ({len(found['tables'])} files)")
    media = "" if excerpts is None else f", with excerpts of {len(excerpts.made)} utterances"
    OUT.print(f"Report: {found['report']} ({found['bytes'] / 1e6:.1f} MB{media})")
