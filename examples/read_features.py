"""Open a feature store, look at what is in it, and read features as numpy arrays.

python examples/read_features.py features meld
"""

from __future__ import annotations

import sys

from cache_schema import FeatureStore


def main(path: str, dataset: str) -> None:
    """Print what a dataset has, and one utterance of each feature."""
    store = FeatureStore.open(path)
    samples = store.samples(dataset)
    first = samples.utterances[0]
    print(f"{len(samples.ids)} utterances; the first: {first.id}, {first.speaker}: {first.text!r}, {first.labels}")

    for name in store[dataset]:
        feature = store[dataset][name]
        values = feature[first.id]  # a numpy array, (frames, width)
        rate = f"{feature.spec.rate_hz:g} frames/s" if feature.spec.rate_hz else "one frame per token"
        print(f"{name}@{feature.fingerprint[:8]}: {values.shape} {values.dtype}, {rate}")

    # Many utterances in one call: their frames one after the other, without padding.
    feature = store[dataset][next(iter(store[dataset]))]
    loaded = feature.load(samples.ids, missing="mask")
    print(f"all of {feature.name}: {loaded.arrays['values'].shape}, {int(loaded.present.sum())} utterances have it")


if __name__ == "__main__":
    main(*sys.argv[1:])
