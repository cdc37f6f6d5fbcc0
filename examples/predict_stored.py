"""Load a finished run and ask it about stored features; its seeds answer together, as an ensemble.

python examples/predict_stored.py runs/hff-meld-1 features meld
"""

from __future__ import annotations

import sys

from cache_schema import FeatureStore
from fuse import answer, load_run, open_trained


def main(run: str, path: str, dataset: str) -> None:
    """Print what the run says about the first utterances of a dataset."""
    record = load_run(run).record
    classes = ", ".join(record.target.classes)
    print(f"{record.arch}, trained on {record.dataset}, predicts {record.target.name}: {classes}")
    if record.random_weights:
        print("its encoders had random weights: a trial, not a result")

    trained = open_trained(run)  # a run's folder, an exported model's, or hf:ORG/NAME
    for said in answer(trained, FeatureStore.open(path), dataset)[:5]:
        if said.prediction is None:
            print(f"{said.id}: nothing that the model reads is there")
            continue
        chance = max((said.probabilities or {"": 0.0}).values())
        entropy = (said.uncertainty or {}).get("entropy", 0.0)
        print(f"{said.id}: {said.prediction} ({chance:.2f}), entropy {entropy:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
