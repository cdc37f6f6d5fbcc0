"""Canonical JSON and documents that carry their own digest.

Two programs that write the same facts write the same bytes, so equal bytes mean equal facts, and every
document ends with the sha256 of its canonical bytes, so that a flipped bit in it is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cache_schema.errors import REPAIR, DamagedError

DIGEST_KEY = "sha256"


def canonical_bytes(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces and no non-finite numbers.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value has no JSON form.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """The sha256 of `data`, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def seal(document: Mapping[str, Any]) -> bytes:
    """The bytes of a document with its self-digest added under `sha256`."""
    body = {k: v for k, v in document.items() if k != DIGEST_KEY}
    return canonical_bytes({**body, DIGEST_KEY: sha256_hex(canonical_bytes(body))})


def unseal(data: bytes, where: str, mend: str = REPAIR) -> dict[str, Any]:
    """The document in `data`, its self-digest checked and left in under `sha256`.

    The bytes must be canonical themselves, so that no flipped bit is harmless enough to go unnoticed.

    Raises:
        DamagedError: not JSON, not canonical, or the digest does not match; `where` names the document, and `mend` says
            what to do about it.
    """
    try:
        return check_sealed(json.loads(data), where, data, mend)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where} cannot be read as a sealed document ({type(error).__name__}). {mend}") from error


def check_sealed(document: Any, where: str, data: bytes | None = None, mend: str = REPAIR) -> dict[str, Any]:
    """A parsed document whose self-digest matches, and whose canonical bytes are `data` where these are given.

    Raises:
        DamagedError: it has no digest, or another one.
    """
    if not isinstance(document, dict) or DIGEST_KEY not in document:
        raise DamagedError(f"{where} cannot be read as a sealed document (it has no {DIGEST_KEY}). {mend}")
    body = {k: v for k, v in document.items() if k != DIGEST_KEY}
    matches = document[DIGEST_KEY] == sha256_hex(canonical_bytes(body))
    if not matches or data not in (None, canonical_bytes(document)):
        raise DamagedError(
            f"{where} does not match its own sha256: it was altered or damaged after it was written. {mend}"
        )
    return document
