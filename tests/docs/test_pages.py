"""Every command that the documentation shows does what it says, or says why it is not run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import RUN, TINY, Block, blocks, commands, inline_commands, pages, settle
from typer.main import get_command

import cli

FIRST = "docs/get-started.md"
"""Begins with nothing; the others with what it leaves behind."""
TRAINS = (["fuse", "train"], ["fuse", "ablate"], ["fuse", "sweep"])
SHOWN = [page for page in pages() if any(block.language in RUN for block in blocks(page))]


@pytest.mark.parametrize("page", SHOWN)
def test_what_a_page_shows_runs(
    page: str, request: pytest.FixtureRequest, tmp_path: Path, mer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list(blocks(page))
    if any(block.language in RUN and block.not_run is None for block in found):
        shutil.copytree(request.getfixturevalue("world" if page == FIRST else "worked"), tmp_path, dirs_exist_ok=True)
    settle(monkeypatch, tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in found:
        if block.title is not None:
            written = Path(block.title)
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(block.text + "\n", "utf-8")
        elif block.language in RUN and block.not_run is None:
            if block.language == "python":
                exec(compile(block.text, f"{page}, line {block.line}", "exec"), names)
            else:
                _run_commands(block, mer)


def _run_commands(block: Block, mer: Callable[..., Any]) -> None:
    for line in commands(block):
        words = shlex.split(os.path.expandvars(line), comments=True)
        if words[0] != "mer":
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block.page}: {line}\n{done.stderr}"
            continue
        added = TINY if words[1:3] in TRAINS else ()
        if words[1:3] == ["fuse", "sweep"]:
            added = (*added, "--trials", "2")
        got = mer(*words[1:], *added)
        assert got.code == 0, f"{block.page}: {line}\n{got.out}{got.err}"


@pytest.mark.parametrize("page", pages())
def test_no_command_hides(page: str) -> None:
    """A block has a language, says why it is not run in words, and no command stands in a block of plain text."""
    for block in blocks(page):
        where = f"{block.page}, line {block.line}"
        assert block.language, f"{where}: the block has no language"
        if block.not_run is not None:
            assert len(block.not_run) > 5, f"{where}: why is it not run?"
        if block.language not in RUN and block.title is None:
            hidden = [line for line in block.text.splitlines() if line.strip().startswith(("mer ", "$ mer "))]
            assert not hidden, f"{where}: {hidden[0]!r} is a command in a block that is not run"


@pytest.mark.parametrize("page", pages())
def test_commands_in_the_text_exist(page: str) -> None:
    for line in inline_commands(page):
        command, words = get_command(cli.app), shlex.split(line)[1:]
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"{page}: `{line}`"
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = [word.split("=")[0] for word in words if word.startswith("--")]
        assert {*given} <= {*options, "--help"}, f"{page}: `{line}`"


def test_every_command_is_shown() -> None:
    """In a page that people write, beside the reference that is made from the code."""
    shown = {line for page in pages() for block in blocks(page) if block.language == "bash" for line in commands(block)}
    for name, below in get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        for words in [f"mer {name} {leaf}" for leaf in getattr(below, "commands", ())] or [f"mer {name}"]:
            assert any(line == words or line.startswith(f"{words} ") for line in shown), f"no page shows {words}"
