"""Writes the golden stores of what the format has by now: `python tests/cache_schema/make_golden.py`.

Run once per format version and per addition to it, by hand. What lies under `golden/` is yesterday's
bytes: it is never written again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from store_builders import PLAN, build, corpus, row, spec, utterances, write

from cache_schema import arrays
from cache_schema.format import FORMAT_VERSION
from cache_schema.rows import Failed
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore

GOLDEN = Path(__file__).parent / "golden"
DELETED = ["u1", "u6"]
"""Since format 2."""
RESTORED = "u6"
"""In the store of the optional columns and of parts that name those before them."""


def with_places(given: list[Utterance]) -> list[Utterance]:
    """Some of the samples with a sound file, some with a region."""
    changes: list[dict[str, Any]] = [{"sound": "sounds/{id}.wav"}, {"region": (0.0, 0.25, 0.5, 0.75)}, {}]
    return [
        u.model_copy(update={k: v.format(id=u.id) if k == "sound" else v for k, v in changes[i % 3].items()})
        for i, u in enumerate(given)
    ]


def expected(kept: list[Utterance], deleted: list[str]) -> dict[str, Any]:
    """What a golden store must read as, in JSON form."""
    rows: dict[str, Any] = {}
    for utterance in kept:
        made = row(spec(), utterance)
        if isinstance(made, dict):
            rows[utterance.id] = {
                "arrays": {name: values.tolist() for name, values in made.items()},
                "frames": len(made["values"]),
            }
        else:
            rows[utterance.id] = {"failed" if isinstance(made, Failed) else "absent": made.reason}
    return {
        "corpus": corpus().model_dump(mode="json"),
        "utterances": [u.model_dump(mode="json") for u in kept],
        "spec": spec().model_dump(mode="json"),
        "fingerprint": spec().fingerprint(),
        "deleted": deleted,
        "rows": rows,
    }


def deletions(folder: Path) -> FeatureStore:
    """Two parts, all of it extracted, then two samples deleted."""
    store = build(folder, count=6)
    store.append_samples(corpus(), utterances(9))
    write(store.writer("toy", spec(), PLAN))
    store.delete_samples("toy", DELETED)
    return store


def places(folder: Path) -> FeatureStore:
    """As `deletions`, with optional columns in the second part; one sample comes back."""
    store = build(folder, count=6)
    store.append_samples(corpus(), [*utterances(6), *with_places(utterances(3, first=6))])
    store.delete_samples("toy", DELETED)
    store.restore_samples("toy", [RESTORED])
    write(store.writer("toy", spec(), PLAN))
    return store


def main() -> None:
    arrays.CHUNK_BYTES = 40
    for name, make in {f"format-{FORMAT_VERSION}": deletions, f"format-{FORMAT_VERSION}-places": places}.items():
        folder = GOLDEN / name
        if folder.exists():
            print(f"{folder} is there already, and golden files are never written again.")  # noqa: T201 - the result
            continue
        store = make(folder / "store")
        samples = store.samples("toy")
        facts = expected(samples.utterances, sorted(samples.deleted))
        facts |= {"digest": store.feature("toy", "toynet").digest()}
        text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        (folder / "expected.json").write_text(text, encoding="utf-8")
        for empty in [p for p in folder.rglob("*") if p.is_dir() and not any(p.iterdir())]:
            shutil.rmtree(empty)


if __name__ == "__main__":
    main()
