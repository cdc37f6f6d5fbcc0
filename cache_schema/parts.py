"""Sample tables: immutable Parquet parts, appended, merged when read.

A part's name holds the first 16 digits of the sha256 of its bytes, so two appenders never collide and a
flipped bit is found. Among parts the last row of an id wins, and an id keeps the place of its first appearance.
A part may also name ids that it deletes: they are gone until a later part has a row of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.canonical import seal, sha256_hex, unseal
from cache_schema.errors import REPAIR, DamagedError, MissingFeature, SettingsError, StoreError, first_line
from cache_schema.format import BASE_FORMAT, DELETING_FORMAT, require_known_format
from cache_schema.part_names import LAST_NUMBER
from cache_schema.registry import unknown_name
from cache_schema.samples import Corpus, Utterance
from cache_schema.storage import Storage
from cache_schema.table import UtteranceTable

METADATA_KEY = b"mer"
_PART_FILE = re.compile(r"(part-(\d{5})-[0-9a-f]{16})\.parquet")


@dataclass(frozen=True)
class Part:
    """One immutable table of samples.

    Attributes:
        name: as "part-00000-0123456789abcdef".
        sha256: digest of its bytes.
        corpus: what the dataset was said to be when it was written.
        utterances: its rows, in order.
        deleted: ids that it deletes; none of them is among its rows.
        after: names of the parts that were the last ones when it was written, so that their loss is noticed.
        instead_of: the damaged or lost part whose place it takes.
        followed: whether its writer wrote a part after it, at once, to tell if this one is lost.
    """

    name: str
    sha256: str
    corpus: Corpus
    utterances: UtteranceTable
    deleted: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    instead_of: str | None = None
    followed: bool = False


@dataclass(frozen=True)
class Samples:
    """A dataset's samples, merged from its parts.

    Attributes:
        parts: in the order in which they were appended.
    """

    parts: tuple[Part, ...]

    @property
    def corpus(self) -> Corpus:
        """What the dataset is, by its last part."""
        return self.parts[-1].corpus

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Each sample's valid row, in corpus order, rows being counted through all parts; (samples,)."""
        import pyarrow as pa

        if any(part.deleted for part in self.parts):
            return np.fromiter(self._merged().values(), np.int64)
        if not self.parts:
            return np.empty(0, np.int64)
        # Codes number the ids in the order of their first appearance; of rows with one code the last is kept.
        ids = pa.chunked_array([part.utterances.ids for part in self.parts]).combine_chunks()
        codes = ids.dictionary_encode().indices.to_numpy().astype(np.int64)
        rows = np.empty(int(codes.max()) + 1 if len(codes) else 0, np.int64)
        rows[codes] = np.arange(len(codes))
        return rows

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each part's rows begin, and the number of all rows: (parts + 1,)."""
        return np.cumsum([0, *(len(part.utterances) for part in self.parts)], dtype=np.int64)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """For each row of all parts the place of its sample in corpus order; -1 for a row that is not valid."""
        order = np.full(self.starts[-1], -1, np.int64)
        order[self.rows] = np.arange(len(self.rows))
        return order

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Place of each sample in corpus order, by its id."""
        return {id_: number for number, id_ in enumerate(self.ids)}

    @cached_property
    def deleted(self) -> frozenset[str]:
        """The ids that were deleted and did not come back."""
        if not any(part.deleted for part in self.parts):
            return frozenset()
        return frozenset(id_ for part in self.parts for id_ in part.deleted if id_ not in self.numbers)

    @cached_property
    def ids(self) -> list[str]:
        """Every sample's id, in corpus order."""
        return self._column([part.utterances.ids.to_pylist() for part in self.parts])

    @cached_property
    def utterances(self) -> list[Utterance]:
        """Every sample, in corpus order: that of first appearance."""
        return self._column([list(part.utterances) for part in self.parts])

    def column(self, name: str) -> list[Any]:
        """One field of every sample, in corpus order; no utterance is made for it."""
        return self._column([part.utterances.column(name) for part in self.parts])

    def changed(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Those of `utterances` that are not among the samples, or are there with another value in some field."""
        numbers = np.array([self.numbers.get(u.id, -1) for u in utterances], np.int64)
        differ = numbers < 0
        places = np.flatnonzero(~differ).tolist()
        fields = [vars(utterances[place]) for place in places]
        wanted = numbers[~differ]
        in_order = np.array_equal(wanted, np.arange(len(self)))
        for name in Utterance.model_fields:
            stored = self.column(name)
            theirs = stored if in_order else [stored[number] for number in wanted.tolist()]
            ours = [own[name] for own in fields]
            if ours != theirs:
                differ[[place for place, our, their in zip(places, ours, theirs, strict=True) if our != their]] = True
        return [utterances[i] for i in np.flatnonzero(differ).tolist()]

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, id_: object) -> bool:
        return id_ in self.numbers

    def __getitem__(self, id_: str) -> Utterance:
        """The sample called `id_`.

        Raises:
            MissingFeature: there is none.
        """
        index, row = self.place(id_)
        return self.parts[index].utterances[row]

    def number(self, id_: str) -> int:
        """The sample's place in corpus order.

        Raises:
            MissingFeature: there is no such sample.
        """
        number = self.numbers.get(id_)
        if number is None:
            if id_ in self.deleted:
                raise MissingFeature(f"{self.corpus.name}: the sample {id_!r} was deleted from the store.")
            if len(self) > 50:
                raise MissingFeature(f"{self.corpus.name}: there is no sample called {id_!r} among {len(self)}.")
            raise MissingFeature(f"{self.corpus.name}: " + unknown_name("sample", id_, self.ids))
        return number

    def place(self, id_: str) -> tuple[int, int]:
        """Where the sample's valid row lies: (index of the part, row in it).

        Raises:
            MissingFeature: there is no such sample.
        """
        row = self.rows[self.number(id_)]
        index = int(np.searchsorted(self.starts, row, side="right")) - 1
        return index, int(row - self.starts[index])

    def _column(self, parts: list[list[Any]]) -> list[Any]:
        """Values of the valid rows out of those of every part's rows."""
        values = [value for part in parts for value in part] if len(parts) != 1 else parts[0]
        if np.array_equal(self.rows, np.arange(len(values))):
            return values
        return [values[row] for row in self.rows.tolist()]

    def _merged(self) -> dict[str, int]:
        """Valid row of each id, where parts delete: what is deleted and comes back is put at the end."""
        rows: dict[str, int] = {}
        for start, part in zip(self.starts.tolist(), self.parts, strict=False):
            for id_ in part.deleted:
                rows.pop(id_, None)
            rows.update(zip(part.utterances.ids.to_pylist(), range(start, start + len(part.utterances)), strict=True))
        return rows


def part_names(storage: Storage, dataset: str) -> list[str]:
    """The names of a dataset's parts, in the order in which they are merged."""
    matches = (_PART_FILE.fullmatch(name) for name in storage.names(f"samples/{dataset}"))
    return [match[1] for match in matches if match]


def part_key(dataset: str, name: str) -> str:
    """Where the part called `name` lies."""
    return f"samples/{dataset}/{name}.parquet"


def read_part(storage: Storage, dataset: str, name: str) -> Part:
    """Read a part, checking its digest and its corpus document; its rows are decoded, and checked, as they are used.

    Raises:
        DamagedError: its bytes are not those that were written.
        StoreError: it has a newer format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = part_key(dataset, name)
    data = storage.get(key)
    if data is None:
        raise DamagedError(f"{key} is missing. {REPAIR}")
    digest = sha256_hex(data)
    if not name.endswith(digest[:16]):
        raise DamagedError(
            f"{key} does not match the digest in its name: it was altered or damaged after it was written. {REPAIR}"
        )
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        document = unseal(file.metadata.metadata[METADATA_KEY], f"{key}: the corpus")
        require_known_format(document, key)
        corpus = Corpus.parse(document["corpus"], key)
        deleted, after = _deleted(document), _names(document.get("after", []))
        instead_of, followed = document.get("instead_of"), document.get("followed") is True
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, SettingsError) as error:
        raise DamagedError(f"{key} is no part of this format: {first_line(error).rstrip('.')}. {REPAIR}") from error
    if corpus.name != dataset:
        raise DamagedError(f"{key} is a part of the dataset {corpus.name!r}: move it back, datasets keep their names.")
    return Part(name, digest, corpus, UtteranceTable(data, key), deleted, after, instead_of, followed)


def write_part(
    storage: Storage,
    number: int,
    corpus: Corpus,
    utterances: Sequence[Utterance],
    deleted: Sequence[str] = (),
    after: Sequence[str] = (),
    instead_of: str | None = None,
    followed: bool = False,
) -> str:
    """Write rows, and ids to delete, as part `number` of the dataset `corpus.name`, and say its name.

    Args:
        storage: the store's place.
        number: its place among the dataset's parts.
        corpus: what the dataset is.
        utterances: the rows.
        deleted: ids that it deletes.
        after: the parts that are the last ones by now.
        instead_of: a damaged part whose place it takes.
        followed: whether another part is written next, that names this one.

    Raises:
        StoreError: a value has no place in a table, as an integer over 64 bits, or the dataset can have no more parts.
    """
    if number > LAST_NUMBER:
        raise StoreError(
            f"{corpus.name} has a part number {LAST_NUMBER}, and there can be none after it: append many samples at "
            "once, not one by one. Copy the dataset into a new store to go on."
        )
    document: dict[str, Any] = {"format": BASE_FORMAT, "corpus": corpus.model_dump(mode="json")}
    if deleted:
        document |= {"format": DELETING_FORMAT, "deleted": sorted(deleted)}
    if after:
        document["after"] = sorted(after)
    if instead_of:
        document["instead_of"] = instead_of
    if followed:
        document["followed"] = True
    data = _encode(corpus.name, utterances, document)
    name = f"part-{number:05d}-{sha256_hex(data)[:16]}"
    key = part_key(corpus.name, name)
    if not storage.put_if_absent(key, data):
        raise DamagedError(f"{key} does not hold what was written. `mer store verify --deep` tells more.")
    return name


def legible_document(storage: Storage, dataset: str, name: str) -> tuple[Corpus, tuple[str, ...]] | None:
    """The corpus and the deletions of a part that may be damaged: its document is sealed by itself, and may be intact
    where its rows are not. None where it is not.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(pa.BufferReader(storage.get(part_key(dataset, name)) or b"")).metadata
        document = unseal(metadata[METADATA_KEY], name)
        return Corpus.parse(document["corpus"], name), _deleted(document)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, StoreError, SettingsError):
        return None


def _encode(dataset: str, utterances: Sequence[Utterance], document: dict[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float64()
    types = {
        "id": text,
        "path": text,
        "start": number,
        "end": number,
        "duration": number,
        "text": text,
        "speaker": text,
        "dialogue": text,
        "turn": pa.int64(),
        "split": text,
        "labels": pa.map_(text, text),
        "scores": pa.map_(text, number),
        "known_defect": text,
    }
    optional = {"recognised": text, "sound": text, "signals": text}
    optional |= {"word_times": pa.list_(number), "region": pa.list_(number)}
    types |= {name: kind for name, kind in optional.items() if any(getattr(u, name) is not None for u in utterances)}
    schema = pa.schema([pa.field(name, kind, nullable=name != "id") for name, kind in types.items()])
    rows = [vars(u) for u in utterances]
    columns = {}
    for field in schema:
        values: list[Any] = [row[field.name] for row in rows]
        if pa.types.is_map(field.type):
            values = [sorted(mapping.items()) for mapping in values]
        try:
            columns[field.name] = pa.array(values, field.type)
        except (pa.ArrowException, UnicodeError, OverflowError) as error:
            raise StoreError(f"{dataset}: column {field.name!r} cannot be stored: {first_line(error)}") from error
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True, store_schema=False) as writer:
        writer.write_table(pa.table(columns, schema=schema))
        writer.add_key_value_metadata({METADATA_KEY: seal(document)})
    return bytes(sink.getvalue())


def _deleted(document: dict[str, Any]) -> tuple[str, ...]:
    """The ids that a part's document deletes.

    Raises:
        ValueError: they are no list of ids, or the document is of a version that cannot delete.
    """
    ids = _names(document.get("deleted", []))
    if ids and document["format"] < DELETING_FORMAT:
        raise ValueError(f"a part of format {document['format']} deletes nothing")
    return ids


def _names(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("where it names samples or parts is no list of ids or names")
    return tuple(names)
