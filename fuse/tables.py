"""An ablation table of a paper, as data: what `mer fuse ablate` runs, and the paper's numbers to set beside ours.

An architecture file lists its paper's tables in `TABLES`, as

    TABLES = (
        Table(
            key="5",
            title="Table 5, attention heads",
            columns=(Column("IEMOCAP-ACC", "accuracy"), Column("IEMOCAP-F1", "weighted_f1")),
            rows=(
                Row("4", {"heads": 4}, paper=(0.676, 0.663)),
                Row("8 (full model)", {}, paper=(0.690, 0.695)),
            ),
        ),
    )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """A column of the paper's table.

    Attributes:
        name: as the paper heads it, with the dataset where its table has several.
        metric: which of ours it is, as `fuse.metrics` calls it.
        modalities: the ones that the column's models take; None: all.
    """

    name: str
    metric: str
    modalities: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Row:
    """A row of the paper's table.

    Attributes:
        name: as the paper calls it.
        settings: fields of the architecture's `Config`, or of `TrainConfig`, that differ from their defaults.
        paper: the paper's value in each column, as a fraction where ours is one (0.697 for 69.7%); None: not printed.
        modalities: the ones that the row's model takes; None: all.
    """

    name: str
    settings: Mapping[str, object]
    paper: tuple[float | None, ...]
    modalities: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        key: its number, as in `mer fuse ablate --table 4`.
        title: number and subject.
        columns: its columns.
        rows: its rows; the full model is one of them.
        settings: what every row of it sets beside its own.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    settings: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.paper) != len(self.columns):
                raise ValueError(f"{self.title}: row {row.name!r} has {len(row.paper)} values in {len(self.columns)}.")
