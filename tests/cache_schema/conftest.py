"""Places where a store may lie: a folder, and a bucket of an S3 server that the tests start."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import BUCKET, serve


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """The environment variables that lead to an S3 server."""
    with serve() as environment:
        yield environment


@pytest.fixture
def s3(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A location in a bucket in which nothing is."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may be made: each test runs for a folder and for S3."""
    return str(request.getfixturevalue("s3")) if request.param == "s3" else str(tmp_path / "store")
