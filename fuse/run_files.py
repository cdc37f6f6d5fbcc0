"""The files of a run's folder, one function each.

Axes: N utterances, C classes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.errors import DamagedError, MerError, first_line
from cache_schema.samples import Target
from fuse import metrics
from fuse.model import Model
from fuse.prediction import Predictions
from fuse.report.tables import harmless
from fuse.training.loop import Epoch

if TYPE_CHECKING:
    import pyarrow as pa

WEIGHTS = "weights.safetensors"
HISTORY = "history.csv"
PREDICTIONS = "predictions.parquet"
CONFUSION = "confusion.csv"


def write_weights(path: Path, model: Model) -> None:
    """Every parameter and buffer, as safetensors."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous().cpu() for name, value in model.state_dict().items()}, path)


def read_weights(path: Path, model: Model) -> None:
    """Put what `write_weights` wrote into `model`, which must have exactly these names and shapes.

    Raises:
        DamagedError: the file is damaged, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise DamagedError(f"{path} does not hold this run's weights ({first_line(error)}).") from error


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """A row per epoch: CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(
            ["stage", "epoch", "lr", "train_loss", "val_loss", *(f"val_{m}" for m in history[0].val), "best", "seconds"]
        )
        for e in history:
            out.writerow(
                [e.stage, e.epoch, e.lr, e.train_loss, e.val_loss, *e.val.values(), int(e.best), round(e.seconds, 4)]
            )


def predictions_table(target: Target, seen: Mapping[str, Predictions]) -> pa.Table:
    """A row per utterance of each split: id, split, target, prediction, `probability_<class>` and what the paper draws,
    where that is one number per utterance. A multilabel target has `target_<class>` and `prediction_<class>` instead.
    """
    import pyarrow as pa

    tables = []
    for split, found in seen.items():
        columns: dict[str, Any] = {"id": list(found.ids), "split": [split] * len(found.ids)}
        for name, values in (("target", found.truth), ("prediction", found.prediction)):
            if values is None:
                continue
            if target.kind == "classification":
                columns[name] = [target.classes[i] for i in values.tolist()]
            elif target.kind == "multilabel":
                columns |= {f"{name}_{c}": values[:, i].astype(np.int8) for i, c in enumerate(target.classes)}
            else:
                columns[name] = values
        if found.probabilities is not None:
            columns |= {f"probability_{c}": found.probabilities[:, i] for i, c in enumerate(target.classes)}
        tables.append(pa.table(columns | found.drawn))
    return pa.concat_tables(tables)


def read_seen(folder: Path, target: Target, split: str) -> Predictions:
    """What a training said about a split, from the predictions that it wrote; without what was drawn.

    Raises:
        MerError: it cannot be read, or holds nothing of the split.
    """
    table = read_predictions(folder / PREDICTIONS, split)
    if not len(table):
        raise MerError(f"{folder / PREDICTIONS} holds nothing of {split}.")

    def columns(name: str) -> metrics.Array:
        return np.stack([table[f"{name}_{c}"].to_numpy() for c in target.classes], axis=1)

    def values(name: str) -> metrics.Array:
        if target.kind == "classification":
            return np.asarray([target.classes.index(c) for c in table[name].to_pylist()])
        return columns(name) if target.kind == "multilabel" else table[name].to_numpy()

    return Predictions(
        ids=tuple(table["id"].to_pylist()),
        loss=float("nan"),
        truth=values("target"),
        prediction=values("prediction"),
        probabilities=None if target.kind == "regression" else columns("probability"),
        drawn={},
    )


def concatenated(parts: Sequence[Predictions]) -> Predictions:
    """What was said about several parts, one after the other; without what was drawn."""
    chances = [p.probabilities for p in parts if p.probabilities is not None]
    return Predictions(
        ids=tuple(i for p in parts for i in p.ids),
        loss=float("nan"),
        truth=np.concatenate([p.truth for p in parts if p.truth is not None]),
        prediction=np.concatenate([p.prediction for p in parts]),
        probabilities=np.concatenate(chances) if chances else None,
        drawn={},
    )


def write_json(path: Path, value: Any) -> None:
    """A JSON document, whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", "utf-8")
    temporary.replace(path)


def write_predictions(path: Path, target: Target, seen: Mapping[str, Predictions]) -> None:
    """The table as Parquet."""
    import pyarrow.parquet as pq

    pq.write_table(predictions_table(target, seen), path)


def read_predictions(path: Path, split: str) -> pa.Table:
    """What was written of one split.

    Raises:
        MerError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, filters=[("split", "=", split)])
    except (OSError, pa.ArrowException) as error:
        raise MerError(f"{path} cannot be read: the run's folder is not complete or damaged. Train again.") from error


def tables(target: Target, found: Predictions) -> dict[str, Any]:
    """Per-class precision, recall, F1 and support, and the confusion matrix, as plain lists; nothing for regression."""
    if found.truth is None or target.kind == "regression":
        return {}
    if target.kind == "multilabel":
        each, extra = metrics.per_label(found.truth, found.prediction), {}
    else:
        table = metrics.confusion(found.truth, found.prediction, len(target.classes))
        each, extra = metrics.per_class(table), {"confusion": table.tolist()}
    per_class = {
        name: {m: int(values[i]) if m == "support" else float(values[i]) for m, values in each.items()}
        for i, name in enumerate(target.classes)
    }
    return {"classes": list(target.classes), "per_class": per_class, **extra}


def write_confusion(folder: Path, target: Target, table: Mapping[str, Any]) -> None:
    """The confusion matrix of a classification target as CSV, a row per true class, a column per predicted one.

    It is for people: a class whose name a spreadsheet would take for a formula has an apostrophe before it.
    """
    if "confusion" not in table:
        return
    with (folder / CONFUSION).open("w", newline="", encoding="utf-8") as file:
        out, names = csv.writer(file), [harmless(name) for name in target.classes]
        out.writerow(["true \\ predicted", *names])
        out.writerows([name, *row] for name, row in zip(names, table["confusion"], strict=True))
