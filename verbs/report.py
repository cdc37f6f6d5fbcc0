"""`mer report`: finished runs as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terminal import OUT, print_json
from verbs.options import AsJson


def report(
    runs: Annotated[list[Path], typer.Argument(help="The runs' folders; the others are compared with the first.")],
    out: Annotated[Path, typer.Option(help="The HTML file; one that is there is replaced.")] = Path("report.html"),
    tables: Annotated[Path | None, typer.Option(help="A folder for every table as CSV and LaTeX, too.")] = None,
    study: Annotated[
        list[Path] | None,
        typer.Option(help="A file with what `mer fuse robustness` or `ablate` printed with --json; repeatable."),
    ] = None,
    hardest: Annotated[int, typer.Option(min=1, help="How many of the utterances with the highest loss.")] = 20,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws of the utterances per comparison.")] = 2000,
    title: Annotated[str | None, typer.Option(help="The report's title.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML file about finished runs, for whoever has to judge their numbers.

    Example: mer report runs/hff-meld-1 runs/mult-meld-1 --out report.html
    """
    from fuse.report.write import write

    found = write(runs, out, tables=tables, study_files=study or (), hardest=hardest, draws=draws, title=title)
    if as_json:
        print_json(found)
        return
    for pair in found["comparisons"]:
        if "refused" in pair:
            OUT.print(f"{pair['first']} is not compared with {pair['second']}. {pair['refused']}")
    if found["tables"]:
        OUT.print(f"Tables: {tables} ({len(found['tables'])} files)")
    OUT.print(f"Report: {found['report']}")
