"""Everything that the numbers came from, and the command that gives them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache_schema.errors import MerError
from fuse.archs import ARCHS
from fuse.protocols import OFFICIAL
from fuse.report.evidence import Evidence
from fuse.report.page import Block, Facts, Folded, Section, Text
from fuse.report.tables import Table
from fuse.run import Run, RunRecord


def provenance(runs: Sequence[Evidence]) -> Section:
    """Of each run."""
    blocks: list[Block] = []
    for number, e in enumerate(runs, start=1):
        blocks += [Text(e.name, "h3"), *_of(e, number)]
    return Section("provenance", "Provenance", blocks)


def _of(e: Evidence, number: int) -> list[Block]:
    record = e.run.record
    left_out = "; ".join(f"{name}: {len(v) if isinstance(v, list) else v}" for name, v in record.left_out.items())
    facts = [
        ("Architecture", f"{record.arch}, {record.parameters:,} trained parameters"),
        ("Dataset and target", f"{record.dataset}: {record.target.name} ({record.target.kind})"),
        ("Classes", ", ".join(record.target.classes) or f"a number, {record.target.low} to {record.target.high}"),
        ("Store", record.store),
        ("Data digest", record.store_digest),
        ("Random weights", "YES: a trial, not a result" if record.random_weights else "no"),
        ("Seeds", ", ".join(map(str, record.seeds))),
        ("Protocol", json.dumps(record.protocol, ensure_ascii=False)),
        ("Left out", left_out or "nothing"),
        ("Degraded", json.dumps(record.degraded, ensure_ascii=False) if record.degraded else "no"),
        ("Companions not there", "; ".join(f"{k}: {v}" for k, v in record.without.items()) or "none"),
        ("Trained", f"{record.created}, {record.seconds:.0f} s on {record.device}, {record.threads} threads per seed"),
        ("Versions", ", ".join(f"{k} {v}" for k, v in record.versions.items())),
    ]
    again, why = command(e.run)
    blocks: list[Block] = [Facts(facts), Text("Command as it was given", "h4"), Text(given(record), "pre")]
    if again is None:
        blocks.append(Text(f"No single command trains it again: {why}."))
    else:
        blocks += [
            Text("Command that trains it again", "h4"),
            Text(again, "pre"),
            Text("With a store of the same data digest, and the same versions and device, it gives the same numbers."),
        ]
    return [*blocks, *_tables(e, number)]


def _tables(e: Evidence, number: int) -> list[Block]:
    record = e.run.record
    rows = []
    for where, f in {**record.features, **record.companions}.items():
        marks = "RANDOM" if f["random_weights"] else "no"
        counts = [str(f["failed"]), str(f["absent"])]
        width = " × ".join(map(str, f["tail"])) or "1"
        rate = "–" if f.get("rate_hz") is None else f"{f['rate_hz']:g} Hz"
        rows.append([where, f["name"], f["fingerprint"], f["digest"], width, rate, marks, *counts])
    columns = [
        "input",
        "feature",
        "fingerprint",
        "sha256 of the data",
        "frame",
        "rate",
        "random weights",
        "failed",
        "absent",
    ]
    features = Table(f"features-{number}", f"{e.name}: features", columns, rows)
    cut = [
        [f"{fold['name']}, {split}", str(p["utterances"]), p["sha256"], p["labels"]]
        for fold in record.folds or [{"name": OFFICIAL, "splits": record.splits}]
        for split, p in fold["splits"].items()
    ]
    splits = Table(
        f"splits-{number}", f"{e.name}: splits", ["split", "utterances", "sha256 of ids", "sha256 of labels"], cut
    )
    rows = [
        [f"{fold['name']}, {split}", where, digest]
        for fold in record.folds
        for split, p in fold["splits"].items()
        for where, digest in p.get("rows", {}).items()
    ]
    read = Table(f"rows-{number}", f"{e.name}: the feature rows read", ["split", "input", "sha256 of the rows"], rows)
    settings = [
        [name, json.dumps(value, ensure_ascii=False), kind]
        for kind, values in (("architecture", record.config), ("training", record.training))
        for name, value in values.items()
    ]
    every = Table(f"settings-{number}", f"{e.name}: every setting", ["setting", "value", "of"], settings)
    digests = [Folded(f"Digests of the feature rows of {e.name}", [read])] if rows else []
    return [features, splits, *digests, Folded(f"All settings of {e.name}", [every])]


def given(record: RunRecord) -> str:
    """The recorded command; of the program the name alone, wherever it lay."""
    program, *rest = record.command or ["(not recorded)"]
    return shlex.join([Path(program).name, *rest])


def command(run: Run) -> tuple[str | None, str]:
    """`mer fuse train` with everything that makes this run, pinned to fingerprints; or None and why there is none."""
    record, protocol = run.record, run.protocol
    if record.degraded:
        return None, "its training data were degraded, as `mer fuse robustness --at train` does"
    if record.seeds != list(range(len(record.seeds))):
        return None, f"its seeds are {', '.join(map(str, record.seeds))}, and not 0 to N-1; use fuse.train.train_run"
    features = {m: f"{f['name']}@{f['fingerprint'][:16]}" for m, f in {**record.features, **record.companions}.items()}
    words = ["mer", "fuse", "train", "--arch", record.arch, "--dataset", record.dataset, "--store", record.store]
    words += ["--modalities", ",".join(record.features), "--target", record.target.name]
    words += ["--features", ",".join(f"{m}={name}" for m, name in features.items()), "--seeds", str(len(record.seeds))]
    options = {
        "--protocol": "" if protocol.folds == OFFICIAL else protocol.folds,
        "--val": protocol.val,
        "--test-on": protocol.test_on,
        "--map": ",".join(f"{a}={b}" for a, b in protocol.labels.items()),
        "--device": "" if record.device == "cpu" else record.device,
    }
    words += [word for option, value in options.items() if value for word in (option, value)]
    words += [word for name, rule in protocol.groups.items() for word in ("--group", f"{name}={rule}")]
    for name, value in _changed(record).items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    return shlex.join(words), ""


def _changed(record: RunRecord) -> dict[str, Any]:
    """The settings that are not the architecture's defaults; all of them, should it no longer be known."""
    values = {**record.config, **record.training}
    try:
        module = ARCHS.load(record.arch)
        defaults = {**module.Config().model_dump(mode="json"), **module.TRAINING.model_dump(mode="json")}
    except MerError:
        return values
    return {name: value for name, value in values.items() if name not in defaults or defaults[name] != value}
