"""A folder is a registry: `fuse/archs/hff.py` *is* `hff`. Listing names imports nothing."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from types import ModuleType

from cache_schema.errors import SettingsError


class Registry:
    """The modules of one package folder, by name; `of_cmaer_cat.py` is called `of-cmaer-cat`.

    Args:
        package: import name of the folder, as `fuse.archs`.
        folder: where it lies.
        kind: what an entry is called in messages, as "architecture".
    """

    def __init__(self, package: str, folder: Path, kind: str) -> None:
        self.package, self.folder, self.kind = package, folder, kind

    def names(self) -> list[str]:
        """Every entry's name, sorted, read from the folder's listing alone."""
        return sorted(p.stem.replace("_", "-") for p in self.folder.glob("*.py") if not p.stem.startswith("_"))

    def require(self, name: str) -> None:
        """Check that there is an entry called `name`, without importing it.

        Raises:
            SettingsError: there is none; the message says which name may be meant.
        """
        if name not in self.names():
            raise SettingsError(unknown_name(self.kind, name, self.names()))

    def load(self, name: str) -> ModuleType:
        """Import the entry called `name`.

        Raises:
            SettingsError: there is no such entry.
        """
        self.require(name)
        return importlib.import_module(f"{self.package}.{name.replace('-', '_')}")

    def path(self, name: str) -> Path:
        """The file of the entry called `name`, for reading it without importing it."""
        self.require(name)
        return self.folder / f"{name.replace('-', '_')}.py"


class JoinedRegistry:
    """Several registries under one lookup. A name stands in one of them only.

    Args:
        parts: the registries, in order.
    """

    def __init__(self, *parts: Registry) -> None:
        self.parts = parts
        self.kind = " or ".join(part.kind for part in parts)

    def names(self) -> list[str]:
        """Every entry's name: those of the first registry, sorted, then those of the next."""
        return [name for part in self.parts for name in part.names()]

    def part(self, name: str) -> Registry:
        """The registry that `name` stands in.

        Raises:
            SettingsError: it stands in none; the message says which name may be meant.
        """
        for part in self.parts:
            if name in part.names():
                return part
        raise SettingsError(unknown_name(self.kind, name, self.names()))

    def require(self, name: str) -> None:
        """Check that there is an entry called `name`, without importing it.

        Raises:
            SettingsError: there is none.
        """
        self.part(name)

    def load(self, name: str) -> ModuleType:
        """Import the entry called `name`.

        Raises:
            SettingsError: there is no such entry.
        """
        return self.part(name).load(name)

    def path(self, name: str) -> Path:
        """The file of the entry called `name`."""
        return self.part(name).path(name)


MOST_KNOWN = 60
"""Names that an error lists; utterances can be a hundred thousand."""


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """The one line for a name that is not known, with the nearest that is."""
    name = name if len(name) <= 80 else f"{name[:80]}..."
    near = difflib.get_close_matches(name, known, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    more = f" and {len(known) - MOST_KNOWN} more" if len(known) > MOST_KNOWN else ""
    return f"There is no {kind} called {name!r}.{meant} Known: {', '.join(known[:MOST_KNOWN]) or 'none'}{more}."
