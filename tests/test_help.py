"""Help that helps: every command has an example that would run, and the shell completes names."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import cli


def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, below in getattr(command, "commands", {}).items():
        if hasattr(below, "commands"):
            yield from leaves(below, (*path, name))
        else:
            yield (*path, name), below


COMMANDS = dict(leaves(get_command(cli.app), ("mer",)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_that_parses(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    examples = [line.strip().removeprefix("Example: ") for line in command.help.splitlines() if "Example: " in line]
    assert examples, f"{' '.join(path)} has no example"
    for example in examples:
        words = shlex.split(example)
        assert tuple(words[: len(path)]) == path
        command.make_context(" ".join(path), words[len(path) :])


def test_every_option_says_what_it_does() -> None:
    for path, command in COMMANDS.items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{' '.join(path)}: {parameter.name}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, mer: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "manifest.jsonl").write_text('{"id": "a", "text": "so good"}\n', encoding="utf-8")
    words = ["--dataset", "folder", "--name", "talks", "--root", folder, "--store", folder / "store"]
    assert mer("extract", *words, "--encoders", "bert", "--weights", "random-small").code == 0
    return folder / "store"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mer fuse train --arch hf", ["hff"]),
        ("mer fuse show of-", ["of-cmaer-cat"]),
        ("mer extract --dataset ravd", ["ravdess"]),
        ("mer extract --encoders roberta,hub", ["roberta,hubert"]),
        ("mer models pull face", ["face-landmarker"]),
        ("mer store show --store STORE ta", ["talks"]),
        ("mer store show --store STORE talks b", ["bert"]),
        ("mer store show --store NOWHERE ta", []),
    ],
)
def test_the_shell_completes_names(line: str, offered: list[str], store: Path) -> None:
    words = line.replace("STORE", str(store)).replace("NOWHERE", str(store / "nowhere")).split()
    asked = {"_MER_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "cli"], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == offered and done.stderr == ""


def test_the_version_is_printed(mer: Callable[..., Any]) -> None:
    assert mer("--version").out.strip() == "0.1.0"


@pytest.mark.parametrize(("error", "said"), [(MemoryError(), "this machine's memory"), (None, "the GPU's memory")])
def test_no_memory_is_told_with_what_to_do(
    mer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception | None, said: str
) -> None:
    import torch

    from extract import doctor

    def fail(*_: object) -> None:
        raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(doctor, "examine", fail)
    done = mer("doctor")
    assert done.code == 1 and done.err.startswith(f"mer: {said} is full") and "smaller batch_size" in done.err
    assert done.err.count("\n") == 1 and "fault in mer" not in done.err
