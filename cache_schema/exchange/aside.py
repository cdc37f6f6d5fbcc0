"""A file or folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache_schema.errors import DataError, SettingsError, first_line


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A name beside `target` to write a file or a folder under; it takes the target's name when the block ends well.

    Whatever stops the block, nothing is left under either name; only a process that is killed leaves the temporary
    one, which begins with a dot and ends with `.partial`.

    Raises:
        SettingsError: the target exists, or the folder that it is to lie in does not.
        DataError: it cannot be written.
    """
    _refuse_existing(target)
    if not target.parent.is_dir():
        raise SettingsError(f"{target.parent} is no folder: make it first.")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        _sync(temporary)
        _refuse_existing(target)
        _publish(temporary, target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {first_line(error)}.") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise SettingsError(f"{target} exists already: nothing is overwritten; give a new name.")


def _publish(temporary: Path, target: Path) -> None:
    if temporary.is_dir():
        temporary.rename(target)
    else:
        try:
            os.link(temporary, target)
        except FileExistsError as error:
            raise SettingsError(f"{target} exists already: nothing is overwritten; give a new name.") from error
        except OSError:  # no hard links here
            temporary.rename(target)
    _fsync(target.parent)


def _sync(top: Path) -> None:
    """Bring every file and folder below `top` to disk."""
    if not top.is_dir():
        _fsync(top)
        return
    for folder, _, names in os.walk(top):
        for name in names:
            _fsync(Path(folder, name))
        _fsync(Path(folder))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
