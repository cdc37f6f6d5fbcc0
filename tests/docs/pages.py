"""What a page of the documentation shows, its blocks, and where and how they are run.

A `bash` or `python` block is run, page by page in order, unless its first line is a comment that says why not:

    # not run by the tests: needs a GPU

A block of any language with a title is a file, written where the title says. Snippets are followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_RUN = "# not run by the tests: "
RUN = ("bash", "python")
TINY = ("--set", "max_epochs=1", "--seeds", "2", "--jobs", "1")
"""What is added to every training that a page shows, so that it takes no time."""
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_SNIPPET = re.compile(r'^ *-{1,}8<-{1,} "([^"]+)"$')
_INLINE = re.compile(r"`(mer [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the page, relative to the repository.
        line: where it begins.
        language: as the fence says.
        title: of a file that it is, or None.
        text: what it holds, snippets included.
    """

    page: str
    line: int
    language: str
    title: str | None
    text: str

    @property
    def not_run(self) -> str | None:
        """Why it is not run, where it says so."""
        first = self.text.split("\n", 1)[0]
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else None


def pages() -> list[str]:
    """Every page that people write, relative to the repository."""
    return ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    begin: tuple[int, re.Match[str]] | None = None
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if begin is None:
            begin = number, fence
            continue
        first, opened = begin
        info = opened["info"].strip()
        inside = [text[len(opened["indent"]) :] for text in lines[first : number - 1]]
        title = _TITLE.search(info)
        text = "\n".join(part for one in inside for part in _resolved(one))
        yield Block(page, first, info.split(" ", 1)[0], title[1] if title else None, text)
        begin = None
    assert begin is None, f"{page}, line {begin and begin[0]}: a block is not closed"


def _resolved(line: str) -> list[str]:
    snippet = _SNIPPET.match(line)
    return (ROOT / snippet[1]).read_text("utf-8").rstrip("\n").split("\n") if snippet else [line]


def commands(block: Block) -> list[str]:
    """The command lines of a `bash` block; one that ends in a backslash goes on."""
    joined = block.text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def inline_commands(page: str) -> list[str]:
    """Commands within the text, as `mer store ls`."""
    prose = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(found.split()) for found in _INLINE.findall(prose)]


def settle(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Work in `folder`, as somebody who has set mer's variables."""
    patch.chdir(folder)
    patch.setenv("MER_DATA", str(folder / "data"))
    patch.setenv("MER_WEIGHTS", str(folder / "weights"))
    patch.delenv("MER_STORE", raising=False)
