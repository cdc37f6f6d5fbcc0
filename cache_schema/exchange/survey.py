"""Foreign rows as the store holds them: type and shape checked, non-finite values dealt with, duplicates noticed.

A feature is read twice: once to look at every number before anything is written, and once to write it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, SettingsError
from cache_schema.exchange.foreign import ForeignArray, ForeignFeature
from cache_schema.feature_spec import ArraySpec, Dtype
from cache_schema.rows import Absent, Arrays, Failed, Row

Kept = Literal["keep", "float32", "float16"]
NonFinite = Literal["refuse", "mask-samples", "mask-frames"]
STORABLE = get_args(Dtype)


@dataclass
class Survey:
    """What the numbers of a foreign feature are like.

    Attributes:
        feature: which one.
        arrays: as they are to be stored.
        rows: samples that have frames or none by their own right.
        frames: of all rows together, masked ones left out.
        non_finite: "array[column]" -> number of values that are NaN or infinite.
        masked: samples that a non-finite value stands in.
        identical: groups of samples whose values are the same to the bit.
    """

    feature: ForeignFeature
    arrays: tuple[ArraySpec, ...]
    rows: int = 0
    frames: int = 0
    non_finite: Counter[str] = field(default_factory=Counter)
    masked: list[str] = field(default_factory=list)
    identical: list[list[str]] = field(default_factory=list)


def survey(
    feature: ForeignFeature,
    ids: Sequence[str],
    dtype: Kept,
    non_finite: NonFinite,
    step: Callable[[int], None] = lambda rows: None,
) -> Survey:
    """Look at every number of a feature.

    Args:
        feature: which one.
        ids: the samples to look at, in order.
        dtype: type of the stored values; keep: the file's own, float32 where the store has no such type.
        non_finite: what becomes of values that are NaN or infinite.
        step: called with the number of rows that were looked at since the last call.

    Raises:
        DataError: non-finite values that are to be refused, values that do not fit the type, or arrays of other
            shapes than the feature has.
        SettingsError: frames that belong to those of other features are to be masked.
    """
    if non_finite == "mask-frames" and (feature.aligned or feature.rate_hz is not None):
        raise SettingsError(
            f"{feature.name}: its frames are on a clock or belong to those of other features, so that none can be "
            "left out; use --non-finite mask-samples."
        )
    result = Survey(feature, tuple(_array_spec(feature, n, a, dtype) for n, a in feature.arrays.items()))
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for id_ in ids:
        found = Counter[str]()
        row = stored_row(feature, id_, result.arrays, non_finite, found)
        if found:
            result.non_finite.update(found)
            result.masked.append(id_)
        if isinstance(row, dict):
            result.rows += 1
            result.frames += len(row["values"])
            if row["values"].size:
                by_digest[hashlib.sha256(np.ascontiguousarray(row["values"]).tobytes()).digest()].append(id_)
        step(1)
    if result.masked and non_finite == "refuse":
        raise DataError(
            f"{feature.name}: {len(result.masked)} samples have non-finite values, the first is {result.masked[0]!r}; "
            f"by column: {columns(result.non_finite)}. Mask them with --non-finite mask-samples or mask-frames."
        )
    result.identical = [group for group in by_digest.values() if len(group) > 1]
    return result


def stored_row(
    feature: ForeignFeature,
    id_: str,
    specs: Sequence[ArraySpec],
    non_finite: NonFinite,
    found: Counter[str] | None = None,
) -> Row:
    """A sample's row in the types in which it is stored.

    Args:
        feature: which feature.
        id_: which sample.
        specs: how its arrays are stored.
        non_finite: `mask-samples` makes a sample with a non-finite value a failed one; `mask-frames` leaves out the
            frames with such values, and a sample without any other is a failed one.
        found: counts the non-finite values by "array[column]".

    Raises:
        DataError: an array of another shape, or a value that the type cannot hold.
    """
    row: Row = feature.row(id_) if id_ in feature.ids else Absent(f"{', '.join(feature.files)} has no such sample")
    if not isinstance(row, dict):
        return row
    where = f"{feature.name}: sample {id_!r}"
    if set(row) != set(feature.arrays):
        raise DataError(f"{where} has the arrays {', '.join(sorted(row))}, others {', '.join(sorted(feature.arrays))}.")
    frames = len(row["values"]) if row["values"].ndim else 0
    keep = np.ones(frames, np.bool_)
    for spec in specs:
        values = row[spec.name]
        if values.shape != (frames, *spec.tail):
            raise DataError(f"{where}: {spec.name} has the shape {values.shape}, not {(frames, *spec.tail)}.")
        if values.dtype.kind == "f":
            finite = np.isfinite(values).reshape(frames, math.prod(spec.tail))
            if not finite.all():
                keep &= finite.all(axis=1)
                if found is not None:
                    counts = (~finite).sum(axis=0)
                    found.update({f"{spec.name}[{c}]": int(counts[c]) for c in np.flatnonzero(counts)})
    if not keep.all():
        if non_finite != "mask-frames" or not keep.any():
            return Failed(f"non-finite values in {int((~keep).sum())} of {frames} frames")
        row = {name: values[keep] for name, values in row.items()}
    return _cast(row, specs, where)


def columns(counts: Counter[str], at_most: int = 8) -> str:
    """Counts by column, as "values[3]: 17, values[5]: 2"."""
    shown = [f"{column}: {count}" for column, count in counts.most_common(at_most)]
    more = len(counts) - at_most
    return ", ".join(shown) + (f" and {more} more columns" if more > 0 else "")


def _cast(row: Arrays, specs: Sequence[ArraySpec], where: str) -> Arrays:
    cast: Arrays = {}
    for spec in specs:
        values: NDArray[Any] = row[spec.name]
        wanted = np.dtype(spec.dtype)
        with np.errstate(over="ignore"):
            new = values.astype(wanted, copy=False)
        if values.dtype != wanted:
            if wanted.kind == "f" and not np.isfinite(new).all():
                raise DataError(f"{where}: {spec.name} has values that {wanted} cannot hold; use --dtype float32.")
            if values.dtype.kind in "iu" and not np.array_equal(new.astype(np.float64), values.astype(np.float64)):
                raise DataError(f"{where}: {spec.name} has whole numbers that {wanted} cannot hold exactly.")
        cast[spec.name] = new
    return cast


def _array_spec(feature: ForeignFeature, name: str, array: ForeignArray, dtype: Kept) -> ArraySpec:
    """How an array is stored: siblings in their own types, values as asked."""
    own = array.dtype.newbyteorder("=").name
    if array.dtype.kind not in "biuf":
        raise DataError(f"{feature.name}: {name} is of type {array.dtype}, and a feature is of numbers.")
    kept = own if own in STORABLE else "float32"
    stored = dtype if name == "values" and dtype != "keep" else kept
    if not all(array.tail):
        raise DataError(f"{feature.name}: {name} has frames of the shape {array.tail}, which hold nothing.")
    return ArraySpec.parse({"name": name, "dtype": stored, "tail": array.tail}, f"{feature.name}: {name}")
