"""What a recording holds, as a digest: of a file, or of the files of a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from extract.decoding.containers import require_file

State = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of each file of a recording."""


def digest_of(path: Path) -> str:
    """sha256 of a file; of a folder, that of its files' names and digests.

    Raises:
        StreamError: it is neither.
        OSError: there is nothing, or it cannot be read.
    """
    if not path.is_dir():
        require_file(path)
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        whole.update(f"{file.name}\0{digest_of(file)}\n".encode())
    return whole.hexdigest()


def digest_of_all(digests: Iterable[str | None]) -> str:
    """sha256 of the lines of several digests, in their order; `-` stands for what could not be read."""
    return hashlib.sha256("".join(f"{digest or '-'}\n" for digest in digests).encode()).hexdigest()


def state_of(path: Path) -> State:
    """The state of a recording, by its files' entries alone.

    Raises:
        OSError: there is nothing, or it cannot be read.
    """
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return tuple((file.name, (facts := file.stat()).st_size, facts.st_mtime_ns) for file in files)


@lru_cache(maxsize=4096)
def digest_in(path: Path, state: State) -> str:
    """`digest_of` a recording in this state; its utterances read it once."""
    return digest_of(path)
