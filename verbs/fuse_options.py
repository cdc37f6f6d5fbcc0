"""Options that the verbs of `mer fuse` share, and the protocol that they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verbs import completion
from verbs.options import listed

if TYPE_CHECKING:
    from fuse.protocols import Protocol

Arch = Annotated[
    str, typer.Option(help="The architecture; `mer fuse archs` lists them.", autocompletion=completion.archs)
]
Seeds = Annotated[int, typer.Option(min=1, help="Train with the seeds 0 to N-1.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="field=value; repeatable. See `mer fuse show`.")]
Modalities = Annotated[str, typer.Option(help="Comma-separated, as text,speech; default all there are.")]
Features = Annotated[str, typer.Option(help="Other features than preferred, as text=roberta@1a2b,vision=vit.")]
TargetName = Annotated[str | None, typer.Option(help="What to predict; default the dataset's first target.")]
Out = Annotated[Path, typer.Option(help="Where the run's folder is made.")]
Device = Annotated[str, typer.Option(help="torch device; auto takes a GPU where there is one.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that train on the CPU, in turns where they exceed the cores; default: what keeps them busy.",
    ),
]
Folds = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="official; kfold:GROUP:K, as kfold:speaker:5; loso:GROUP, which leaves one group out at a time.",
    ),
]
Val = Annotated[
    str, typer.Option(help="GROUP:SHARE, as dialogue:0.1: how validation is cut from train where there is none.")
]
Groups = Annotated[
    list[str] | None,
    typer.Option("--group", help="NAME=FIELD[:PATTERN], as session=id:^Ses[0-9]+, declares a group; repeatable."),
]
TestOn = Annotated[str, typer.Option(help="Another dataset, on whose test split it is tested.")]
Labels = Annotated[
    str, typer.Option("--map", help="Common names of classes, as excited=joy,meld/anger=angry; others keep theirs.")
]


def protocol_of(folds: str, val: str, groups: list[str] | None, test_on: str, labels: str) -> Protocol:
    """The protocol that the options say.

    Raises:
        SettingsError: one of them is wrong.
    """
    from fuse.protocols import Protocol

    return Protocol.parse(
        {
            "folds": folds,
            "val": val,
            "groups": dict(_pair(group, "--group", "NAME=FIELD:PATTERN") for group in groups or []),
            "test_on": test_on,
            "labels": dict(_pair(part, "--map", "class=name") for part in listed(labels)),
        },
        "protocol",
    )


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise typer.BadParameter(f"{text!r} is not of the form {form}.", param_hint=option)
    return name.strip(), value.strip()
