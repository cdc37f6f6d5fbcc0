"""`mer models ...`: the checkpoints that the encoders run on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cache_schema.errors import DataError
from terminal import OUT, print_json, say, table_of
from verbs import completion
from verbs.options import AsJson, Weights

app = typer.Typer(
    help="The checkpoints that the encoders run on: list, fetch, check.", no_args_is_help=True, rich_markup_mode=None
)

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Encoders, or face-landmarker; all, if none is named.", autocompletion=completion.models),
]


@app.command("list")
def models_list(weights: Weights = None, as_json: AsJson = False) -> None:
    """List every checkpoint: hub id, revision, size, licence, what it is for, and whether it is at hand.

    A revision is the commit at hand; nothing is written there that was not seen. `mer models pull` records it.

    Example: mer models list --weights /shared/weights
    """
    from extract.weights.models import listing

    found = listing(weights)
    if as_json:
        print_json({"models": [asdict(model) for model in found]})
        return
    table = table_of("model", "source", "revision", "size", "licence", "at hand", "what it is for")
    for model in found:
        table.add_row(
            model.name,
            model.source,
            (model.revision or "not pinned")[:12],
            "?" if model.bytes is None else f"{model.bytes / 1e6:.0f} MB",
            model.licence,
            "yes" if model.folder else "no",
            model.purpose,
        )
    OUT.print(table)


@app.command("pull")
def models_pull(
    names: Names = None,
    to: Annotated[
        Path | None, typer.Option(help="A folder for --weights, to take to machines without a network.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch; of one encoder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch checkpoints, and record what was resolved.

    Example: mer models pull roberta hubert --to /shared/weights
    """
    from extract.weights.models import pull

    found = pull(names or [], to, revision, say)
    if as_json:
        print_json({"models": [asdict(model) for model in found]})


@app.command("verify")
def models_verify(
    names: Names = None,
    weights: Weights = None,
    golden: Annotated[
        bool, typer.Option("--golden", help="Run each on a clip that mer brings, and compare with recorded figures.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that checkpoints are whole and what was fetched, by their digests; exits 1 where one is not.

    With --golden each runs on a short clip and a sentence, and its features are compared with those of the first run
    of the same weights. No figures come with this version: the first run on a machine records them in mer's cache.

    Example: mer models verify --weights /shared/weights --golden
    """
    from extract.weights.golden import compare
    from extract.weights.models import BAD, verify

    verdicts = verify(names or [], weights)
    rows = [asdict(verdict) for verdict in verdicts]
    if golden:
        for row in rows:
            row["golden"] = compare(row["name"], weights) if row["state"] in ("ok", "unrecorded") else "not run"
    if as_json:
        print_json({"models": rows})
    else:
        table = table_of("model", "state", *(["golden"] if golden else []), "")
        for row in rows:
            table.add_row(row["name"], row["state"], *([row["golden"]] if golden else []), row["detail"])
        OUT.print(table)
    bad = [row["name"] for row in rows if row["state"] in BAD or row.get("golden", "").startswith("differs")]
    bad += [row["name"] for row in rows if row["state"] == "absent" and row["name"] in (names or [])]
    if bad:
        raise DataError(f"{', '.join(bad)}: not what it must be; see above.")
