"""Which kind of place a location names, and why some are refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cache_schema.errors import StoreError
from cache_schema.storage.interface import Storage

OBJECT_STORES = ("s3", "gs", "az")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(://|::)")
_FSSPEC = (
    "fsspec stores are refused: they have no put-if-absent, and of two writers that committed at once both were told "
    "that they had won in 2 of 40 races, so one's work was lost silently."
)
_PLACES = "Give a local or shared folder, or s3://BUCKET/PREFIX (or gs://, az://)."


def open_storage(location: str | os.PathLike[str]) -> Storage:
    """The place that `location` names: a path or `file://` URL, or `s3://`, `gs://` or `az://` and bucket and prefix.

    Credentials, region and endpoint come from the environment, for S3 `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    `AWS_SESSION_TOKEN`, `AWS_REGION` and `AWS_ENDPOINT_URL`. Nothing is read or written yet.

    Raises:
        StoreError: no store can lie there; the message says why.
    """
    if not isinstance(location, str | os.PathLike):
        raise StoreError(f"A {type(location).__name__} is no location of a store. {_PLACES} {_FSSPEC}")
    text = os.fspath(location)
    match = _SCHEME.match(text)
    if text.startswith(tuple(f"{scheme}:/" for scheme in OBJECT_STORES)) and match is None:
        raise StoreError(f"{text}: a slash was lost, as in a pathlib.Path; give the URL as text.")
    if match is None:
        from cache_schema.storage.local import LocalStorage

        return LocalStorage(Path(text))
    scheme, url = match[1].lower(), urlsplit(text)
    if "@" in url.netloc:
        raise StoreError(f"{scheme}://...@...: credentials do not belong into a location; set them in the environment.")
    if match[2] == "::" or "::" in text or scheme not in ("file", *OBJECT_STORES):
        why = "A web server cannot list or keep files." if scheme in ("http", "https") else _FSSPEC
        raise StoreError(f"{text}: {_PLACES} {why}")
    if scheme == "file":
        from cache_schema.storage.local import LocalStorage

        return LocalStorage(Path(url2pathname(url.path)))
    if not url.netloc or url.query or url.fragment:
        raise StoreError(f"{text} is not of the form {scheme}://BUCKET/PREFIX.")
    from cache_schema.storage.objects import ObjectStorage

    return ObjectStorage(text.rstrip("/"))


def absolute_location(location: str | os.PathLike[str]) -> str:
    """The location as it can be found from another working folder: a path made absolute, a URL as it is."""
    text = os.fspath(location)
    return text if _SCHEME.match(text) else str(Path(text).absolute())
