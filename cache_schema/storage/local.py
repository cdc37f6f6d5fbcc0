"""A store in a folder of a local disk or a shared POSIX file system.

A hard link makes a document visible: it fails where the name exists, and a reader sees all of the file or nothing.
Creating the file under its own name would show half of it after a crash, and a rename would replace another's.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cache_schema.errors import DamagedError, StoreError
from cache_schema.storage.interface import STEPS, TEMPORARY_SUFFIX, Storage

if TYPE_CHECKING:
    from zarr.abc.store import Store

NEEDS_HARD_LINKS = (
    "A store needs a file system with hard links, as ext4, XFS, APFS, NTFS and NFS have and FAT, exFAT and some "
    "mounts of cloud drives have not: put it on another one, or on S3 (--store s3://BUCKET/PREFIX)."
)


class LocalStorage(Storage):
    """A folder.

    Args:
        root: the folder; it need not exist.
    """

    primitive = "hard links"
    replaced = f"a hard link replaced a file that was there. {NEEDS_HARD_LINKS}"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def require_put_if_absent(self, key: str, data: bytes) -> None:
        """Nothing to ask: a hard link never replaces, and `put_if_absent` fails where there are none."""

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._entries(prefix) if not name.startswith(".")]

    def temporary(self, prefix: str) -> list[str]:
        return [n for n in self._entries(prefix) if n.startswith(".") and n.endswith(TEMPORARY_SUFFIX)]

    def files(self, prefix: str) -> dict[str, int]:
        top = self.root / prefix
        found = {}
        with explained(top):
            for folder, _, names in os.walk(top):
                for name in sorted(names):
                    path = Path(folder, name)
                    with suppress(FileNotFoundError):  # a writer may take its own away meanwhile
                        found[path.relative_to(top).as_posix()] = path.stat().st_size
        return found

    def get(self, key: str) -> bytes | None:
        path = self.root / key
        try:
            with explained(path):
                return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def size(self, key: str) -> int | None:
        path = self.root / key
        try:
            with explained(path):
                return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self.root / key
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        self.make_folder(path.parent)
        with explained(path):
            try:
                STEPS.debug("write %s", temporary.name)
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    STEPS.debug("fsync %s", temporary.name)
                    os.fsync(file.fileno())
                STEPS.debug("link %s", key)
                _link(temporary, path)
                STEPS.debug("fsync the folder of %s", key)
                fsync_folder(path.parent)
            finally:
                STEPS.debug("remove %s", temporary.name)
                temporary.unlink(missing_ok=True)
        return self.reads_back(key, data)

    def make_folder(self, folder: Path) -> None:
        """Make `folder` and its parents, each on disk in the folder that holds it."""
        absent = []
        with explained(folder):
            while not folder.is_dir():
                absent.append(folder)
                folder = folder.parent
            for missing in reversed(absent):
                missing.mkdir(exist_ok=True)
                fsync_folder(missing.parent)

    def new_folder(self, prefix: str) -> None:
        path = self.root / prefix
        self.make_folder(path.parent)
        with explained(path):
            STEPS.debug("make %s", prefix)
            path.mkdir()

    def sync(self, prefix: str) -> None:
        top = self.root / prefix
        STEPS.debug("fsync %s", prefix)
        with explained(top):
            for folder, _, names in os.walk(top):
                for name in names:
                    fsync_file(Path(folder, name))
                fsync_folder(Path(folder))
            fsync_folder(top.parent)

    def delete(self, key: str) -> None:
        path = self.root / key
        STEPS.debug("delete %s", key)
        with explained(path), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            if path.parent.is_dir():
                fsync_folder(path.parent)

    def delete_folder(self, prefix: str) -> None:
        path = self.root / prefix
        STEPS.debug("delete all of %s", prefix)
        with explained(path):
            try:
                if path.is_dir():
                    shutil.rmtree(path)
            except FileNotFoundError:
                pass  # another deletes it at the same time
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # on NFS a file that somebody reads stays, as .nfs..., until closed
                    raise

    def age_hours(self, key: str) -> float | None:
        top = self.root / key
        times = []
        with explained(top):
            for path in [top, *top.rglob("*")]:
                with suppress(FileNotFoundError):
                    times.append(path.stat().st_mtime)
        return (time.time() - max(times)) / 3600 if times else None

    def zarr_store(self, prefix: str, *, read_only: bool) -> Store:
        from zarr.storage import LocalStore

        return LocalStore(self.root / prefix, read_only=read_only)

    def explained(self, key: str) -> AbstractContextManager[None]:
        return explained(self.root / key)

    def _entries(self, prefix: str) -> list[str]:
        path = self.root / prefix
        try:
            with explained(path):
                return sorted(os.listdir(path))  # noqa: PTH208 - names alone, of folders with 100,000 entries
        except (FileNotFoundError, NotADirectoryError):
            return []


def fsync_file(path: Path) -> None:
    """Bring a file's bytes to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Bring a folder's list of names to disk."""
    fsync_file(path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line; absence is left to the caller."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedError(f"{path} cannot be read from or written to its disk ({error.strerror}).") from error
        raise StoreError(f"{path}: {error.strerror or error}.") from error


def _link(temporary: Path, path: Path) -> None:
    """Give a file a second name unless that is taken; who reads back knows which of the two it was."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}. {NEEDS_HARD_LINKS}") from error
