"""Options that several verbs share, and how lists are written on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from verbs import completion

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
StorePath = Annotated[
    str, typer.Option("--store", envvar="MER_STORE", help="The feature store: a folder, or s3://BUCKET/PREFIX.")
]
DatasetName = Annotated[
    str,
    typer.Option("--dataset", help="The dataset's name in the store.", autocompletion=completion.stored_datasets),
]
Weights = Annotated[
    str | None,
    typer.Option(
        envvar="MER_WEIGHTS",
        help="A folder, hf:ORG/NAME@REVISION, random, random-small, or encoder=one of these,...; default the hub.",
    ),
]
StoredDataset = Annotated[
    str, typer.Argument(help="The dataset's name in the store.", autocompletion=completion.stored_datasets)
]
StoredFeature = Annotated[
    str, typer.Argument(help="The feature's name, or name@fingerprint.", autocompletion=completion.stored_features)
]
DEFAULT_STORE = "./features"


def listed(text: str) -> list[str]:
    """`a,b` as a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def pairs(text: str) -> dict[str, str]:
    """`a=b,c=d` as a mapping."""
    found = {}
    for part in listed(text):
        key, equals, value = part.partition("=")
        if not equals:
            raise typer.BadParameter(f"{part!r} is not of the form modality=feature.", param_hint="--features")
        found[key.strip()] = value.strip()
    return found
