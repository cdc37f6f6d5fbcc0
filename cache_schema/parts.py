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

from pydantic import TypeAdapter

from cache_schema.canonical import seal, sha256_hex, unseal
from cache_schema.errors import DamagedError, MissingFeature, SettingsError, StoreError, first_line
from cache_schema.format import BASE_FORMAT, DELETING_FORMAT, require_known_format
from cache_schema.registry import unknown_name
from cache_schema.samples import Corpus, Utterance
from cache_schema.storage import Storage

METADATA_KEY = b"mer"
_PART_FILE = re.compile(r"(part-(\d{5})-[0-9a-f]{16})\.parquet")
_UTTERANCES = TypeAdapter(list[Utterance])


@dataclass(frozen=True)
class Part:
    """One immutable table of samples.

    Attributes:
        name: as "part-00000-0123456789abcdef".
        sha256: digest of its bytes.
        corpus: what the dataset was said to be when it was written.
        utterances: its rows, in order.
        deleted: ids that it deletes; none of them is among its rows.
    """

    name: str
    sha256: str
    corpus: Corpus
    utterances: tuple[Utterance, ...]
    deleted: tuple[str, ...] = ()


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
    def places(self) -> dict[str, tuple[int, int]]:
        """Where each sample's valid row lies: id -> (index of the part, row in it), in corpus order."""
        places: dict[str, tuple[int, int]] = {}
        for index, part in enumerate(self.parts):
            for id_ in part.deleted:
                places.pop(id_, None)
            places.update((u.id, (index, row)) for row, u in enumerate(part.utterances))
        return places

    @cached_property
    def deleted(self) -> frozenset[str]:
        """The ids that were deleted and did not come back."""
        return frozenset(id_ for part in self.parts for id_ in part.deleted if id_ not in self.places)

    @cached_property
    def ids(self) -> list[str]:
        """Every sample's id, in corpus order."""
        return list(self.places)

    @cached_property
    def utterances(self) -> list[Utterance]:
        """Every sample, in corpus order: that of first appearance."""
        return [self.parts[index].utterances[row] for index, row in self.places.values()]

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, id_: object) -> bool:
        return id_ in self.places

    def __getitem__(self, id_: str) -> Utterance:
        """The sample called `id_`.

        Raises:
            MissingFeature: there is none.
        """
        index, row = self.place(id_)
        return self.parts[index].utterances[row]

    def place(self, id_: str) -> tuple[int, int]:
        """Where the sample's valid row lies: (index of the part, row in it).

        Raises:
            MissingFeature: there is no such sample.
        """
        if id_ not in self.places:
            if id_ in self.deleted:
                raise MissingFeature(f"{self.corpus.name}: the sample {id_!r} was deleted from the store.")
            if len(self.ids) > 50:
                raise MissingFeature(f"{self.corpus.name}: there is no sample called {id_!r} among {len(self)}.")
            raise MissingFeature(f"{self.corpus.name}: " + unknown_name("sample", id_, self.ids))
        return self.places[id_]


def part_names(storage: Storage, dataset: str) -> list[str]:
    """The names of a dataset's parts, in the order in which they are merged."""
    matches = (_PART_FILE.fullmatch(name) for name in storage.names(f"samples/{dataset}"))
    return [match[1] for match in matches if match]


def part_key(dataset: str, name: str) -> str:
    """Where the part called `name` lies."""
    return f"samples/{dataset}/{name}.parquet"


def read_part(storage: Storage, dataset: str, name: str) -> Part:
    """Read a part, checking its digest, its page checksums and its corpus document.

    Raises:
        DamagedError: its bytes are not those that were written.
        StoreError: it has a newer format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = part_key(dataset, name)
    data = storage.get(key)
    if data is None:
        raise DamagedError(f"{key} is missing.")
    digest = sha256_hex(data)
    if not name.endswith(digest[:16]):
        raise DamagedError(
            f"{key} does not match the digest in its name: it was altered or damaged after it was written."
        )
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        document = unseal(file.metadata.metadata[METADATA_KEY], f"{key}: the corpus")
        require_known_format(document, key)
        corpus = Corpus.parse(document["corpus"], key)
        deleted = _deleted(document)
        rows = _UTTERANCES.validate_python(_rows(file.read()))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, SettingsError) as error:
        raise DamagedError(f"{key} is no part of this format: {first_line(error)}") from error
    if corpus.name != dataset:
        raise DamagedError(f"{key} is a part of the dataset {corpus.name!r}: move it back, datasets keep their names.")
    return Part(name, digest, corpus, tuple(rows), deleted)


def write_part(
    storage: Storage, number: int, corpus: Corpus, utterances: Sequence[Utterance], deleted: Sequence[str] = ()
) -> str:
    """Write rows, and ids to delete, as part `number` of the dataset `corpus.name`, and say its name.

    Raises:
        StoreError: a value has no place in a table, as an integer over 64 bits.
    """
    data = _encode(corpus, utterances, deleted)
    name = f"part-{number:05d}-{sha256_hex(data)[:16]}"
    key = part_key(corpus.name, name)
    if not storage.put_if_absent(key, data):
        raise DamagedError(f"{key} does not hold what was written. `mer store verify --deep` tells more.")
    return name


def _encode(corpus: Corpus, utterances: Sequence[Utterance], deleted: Sequence[str]) -> bytes:
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
    optional = {"sound": text, "region": pa.list_(number)}
    types |= {name: kind for name, kind in optional.items() if any(getattr(u, name) is not None for u in utterances)}
    schema = pa.schema([pa.field(name, kind, nullable=name != "id") for name, kind in types.items()])
    document: dict[str, Any] = {"format": BASE_FORMAT, "corpus": corpus.model_dump(mode="json")}
    if deleted:
        document |= {"format": DELETING_FORMAT, "deleted": sorted(deleted)}
    rows = [vars(u) for u in utterances]
    columns = {}
    for field in schema:
        values: list[Any] = [row[field.name] for row in rows]
        if pa.types.is_map(field.type):
            values = [sorted(mapping.items()) for mapping in values]
        try:
            columns[field.name] = pa.array(values, field.type)
        except (pa.ArrowException, UnicodeError, OverflowError) as error:
            raise StoreError(f"{corpus.name}: column {field.name!r} cannot be stored: {first_line(error)}") from error
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
    ids = document.get("deleted", [])
    if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
        raise ValueError("what it deletes is no list of ids")
    if ids and document["format"] < DELETING_FORMAT:
        raise ValueError(f"a part of format {document['format']} deletes nothing")
    return tuple(ids)


def _rows(table: Any) -> list[dict[str, Any]]:
    """The rows as plain dicts, columns of later versions left out."""
    known = [name for name in table.column_names if name in Utterance.model_fields]
    columns = {name: table.column(name).to_pylist() for name in known}
    for name in ("labels", "scores"):
        columns[name] = [dict(pairs or ()) for pairs in columns[name]]
    return [dict(zip(known, values, strict=True)) for values in zip(*columns.values(), strict=True)]
