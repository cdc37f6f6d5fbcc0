"""The feature's own document: a Zarr group whose attributes carry the sealed spec, fingerprint and plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cache_schema.canonical import canonical_bytes, check_sealed, seal
from cache_schema.errors import REPAIR, DamagedError, SettingsError, StoreError
from cache_schema.feature_spec import FeatureSpec
from cache_schema.format import BASE_FORMAT, require_known_format
from cache_schema.plan import SegmentPlan
from cache_schema.storage import Storage

ATTRIBUTE = "mer"


@dataclass(frozen=True)
class Group:
    """What a feature's folder says of itself.

    Attributes:
        spec: the full specification.
        fingerprint: as it was when the folder was made.
        plan: the rule by which its segments are cut.
    """

    spec: FeatureSpec
    fingerprint: str
    plan: SegmentPlan


def group_key(folder: str) -> str:
    """Where the document of the feature in `folder` lies."""
    return f"{folder}/zarr.json"


def read_group(storage: Storage, folder: str) -> Group | None:
    """The document of the feature in `folder`; None where there is none.

    Raises:
        DamagedError: its bytes are not those that were written, or it is another feature's.
        StoreError: it has a newer format.
    """
    key = group_key(folder)
    data = storage.get(key)
    if data is None:
        return None
    try:
        document = check_sealed(json.loads(data)["attributes"][ATTRIBUTE], key)
        if _group_bytes(document) != data:
            raise DamagedError(f"{key} was altered or damaged after it was written. {REPAIR}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{key} cannot be read as a feature's group ({type(error).__name__}). {REPAIR}") from error
    require_known_format(document, key)
    try:
        group = Group(
            FeatureSpec.parse(document["spec"], key),
            document["fingerprint"],
            SegmentPlan.parse(document["plan"], key),
        )
    except (SettingsError, KeyError) as error:
        raise StoreError(f"{error} It was written by another version of mer: use that one, or a newer one.") from error
    if folder.rpartition("/")[2] != group.spec.folder or group.spec.fingerprint() != group.fingerprint:
        raise DamagedError(f"{key} is that of feature {group.spec.feature}-{group.fingerprint[:16]}. {REPAIR}")
    return group


def put_group(storage: Storage, folder: str, spec: FeatureSpec, plan: SegmentPlan) -> Group:
    """Write the feature's document unless there is one, then compare; the stored plan is the one to use.

    Raises:
        StoreError: the stored specification differs though its fingerprint is the same.
    """
    stored = read_group(storage, folder)
    if stored is None:
        document = {
            "format": BASE_FORMAT,
            "fingerprint": spec.fingerprint(),
            "spec": spec.model_dump(mode="json"),
            "plan": plan.model_dump(mode="json"),
        }
        storage.put_if_absent(group_key(folder), _group_bytes(json.loads(seal(document))))
        stored = read_group(storage, folder)
        if stored is None:
            raise StoreError(f"{group_key(folder)} was written and is gone: does somebody delete in this store?")
    require_same_spec(stored.spec, spec)
    return stored


def require_same_spec(stored: FeatureSpec, spec: FeatureSpec) -> None:
    """Refuse a specification that means other numbers than the stored one although both have one fingerprint.

    Where the weights came from (`checkpoint`, `revision`) may differ: their digest is in the fingerprint. The
    stored `full_settings` may lack fields that a later version added; those that it has must be equal.

    Raises:
        StoreError: naming the field and both values.
    """
    old, new = stored.model_dump(mode="json"), spec.model_dump(mode="json")
    differing = _differences(old.pop("full_settings"), new.pop("full_settings"), "")
    for name in ("checkpoint", "revision"):
        old.pop(name), new.pop(name)
    differing += [(name, old[name], new[name]) for name in old if old[name] != new[name]]
    if differing:
        name, was, is_now = differing[0]
        raise StoreError(
            f"Feature {stored.feature}-{spec.fingerprint()[:16]} was stored with {name} = {was!r}, and this version of "
            f"{spec.feature} has {name} = {is_now!r} under the same fingerprint: its default was changed. "
            "Raise the encoder's VERSION, or use the version that made the store."
        )


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str) -> list[tuple[str, Any, Any]]:
    """(name, old, new) of every field of `old` that `new` lacks or has with another value."""
    found = []
    for name, was in old.items():
        is_now = new.get(name, "no such setting")
        if isinstance(was, dict) and isinstance(is_now, dict):
            found += _differences(was, is_now, f"{prefix}{name}.")
        elif was != is_now:
            found.append((prefix + name, was, is_now))
    return found


def _group_bytes(document: dict[str, Any]) -> bytes:
    return canonical_bytes({"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: document}})
