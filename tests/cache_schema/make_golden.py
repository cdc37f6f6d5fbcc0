"""Writes the golden store of the present format version: `python tests/cache_schema/make_golden.py`.

Run once per format version, by hand. What lies under `golden/` is yesterday's bytes: it is never written again.
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

GOLDEN = Path(__file__).parent / "golden"
DELETED = ["u1", "u6"]
"""Since format 2."""


def expected(count: int) -> dict[str, Any]:
    """What the golden store must read as, in JSON form."""
    rows: dict[str, Any] = {}
    kept = [u for u in utterances(count) if u.id not in DELETED]
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
        "deleted": DELETED,
        "rows": rows,
    }


def main() -> None:
    folder = GOLDEN / f"format-{FORMAT_VERSION}"
    if folder.exists():
        raise SystemExit(f"{folder} is there already, and golden files are never written again.")
    arrays.CHUNK_BYTES = 40
    store = build(folder / "store", count=6)
    store.append_samples(corpus(), utterances(9))
    write(store.writer("toy", spec(), PLAN))
    store.delete_samples("toy", DELETED)
    facts = expected(9) | {"digest": store.feature("toy", "toynet").digest()}
    (folder / "expected.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for empty in [p for p in folder.rglob("*") if p.is_dir() and not any(p.iterdir())]:
        shutil.rmtree(empty)


if __name__ == "__main__":
    main()
