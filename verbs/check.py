"""`mer check`: a dataset's health before training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cache_schema.errors import DataError
from terminal import OUT, print_json, row_bar, table_of
from verbs.options import DEFAULT_STORE, AsJson, DatasetName, StorePath, Weights, listed


def check(
    dataset: DatasetName,
    store: StorePath = DEFAULT_STORE,
    root: Annotated[Path | None, typer.Option(help="The data root: opens every clip, and finds silence.")] = None,
    transcripts: Annotated[
        bool, typer.Option("--transcripts", help="Let Whisper hear every clip, and compare with its transcript.")
    ] = False,
    weights: Weights = None,
    allow: Annotated[str, typer.Option(help="Comma-separated checks whose leaks are known, as speakers.")] = "",
    similar: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Correlation from which on features are nearly the same.")
    ] = 0.995,
    device: Annotated[str, typer.Option(help="torch device of Whisper; auto takes a GPU where there is one.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Look for what makes results wrong: leaks between splits, duplicates, silence, missing faces, dead features.

    Exits 1 where one split tells about another. Every finding names its utterances; --json has them all.

    Example: mer check --dataset meld --root /data/MELD.Raw --allow speakers
    """
    from extract.health import CHECKS, examine

    with row_bar("check") as progress:
        found = examine(
            store,
            dataset,
            root=root,
            weights=weights,
            transcripts=transcripts,
            allow=listed(allow),
            similar=similar,
            device=device,
            progress=progress,
        )
    leaks = list(dict.fromkeys(f.check for f in found if f.level == "leak"))
    if as_json:
        print_json({"dataset": dataset, "leaks": leaks, "findings": [asdict(f) for f in found]})
    else:
        table = table_of("check", "level", "utterances", "what was found")
        for f in found:
            table.add_row(f.check, f.level, str(len(f.ids)) if f.ids else "", f.says)
        OUT.print(table)
        seen = {f.check for f in found} | ({"silence"} if root is None else set())
        seen |= set() if transcripts else {"transcripts"}
        OUT.print(f"Nothing found: {', '.join(check for check in CHECKS if check not in seen)}.")
        if root is None:
            OUT.print("Not looked at: silence (name the clips with --root), transcripts (--transcripts).")
        elif not transcripts:
            OUT.print("Not looked at: whether transcripts are what is said (--transcripts).")
    if leaks:
        raise DataError(
            f"{dataset}: one split tells about another by its {', '.join(leaks)}. Where that is known and meant, "
            f"--allow {','.join(leaks)}."
        )
