"""Train two architectures with the same seeds and compare them: what `mer fuse train`, `eval` and `compare` do.

python examples/compare_architectures.py features meld hff early-fusion max_epochs=20
"""

from __future__ import annotations

import sys

from fuse import compare_runs, evaluate_run, train_run

SEEDS = 3


def main(path: str, dataset: str, first: str, second: str, *assignments: str) -> None:
    """Print both results and their difference.

    Args:
        path: the feature store.
        dataset: a dataset in it.
        first, second: architectures.
        assignments: settings, as `--set` takes them.
    """
    runs = [train_run(path, dataset, arch, assignments=assignments, seeds=SEEDS, jobs=1) for arch in (first, second)]
    for run in runs:
        f1 = run.test["weighted_f1"]
        print(f"{run.run}: weighted F1 {f1['mean']:.3f} ± {f1['sd']:.3f}")
        assert evaluate_run(run.run)["identical"]  # the recorded numbers again, to the bit

    found = compare_runs(runs[0].run, runs[1].run)
    over = found["metrics"]["weighted_f1"]["utterances"]
    interval = f"{over['low']:+.3f} to {over['high']:+.3f}"
    print(f"difference over {found['utterances']} test utterances: {over['difference']:+.3f}, 95% {interval}")


if __name__ == "__main__":
    main(*sys.argv[1:])
