"""The store's stress, in small: it runs as in the large, and it would notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import stress, stress_damage, stress_worker
from cache_schema.parts import Samples
from cache_schema.store import FeatureStore


@pytest.fixture(autouse=True)
def short_lives_and_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "LONGEST_LIFE", 0.7)
    monkeypatch.setattr(stress, "STEPS", 20)
    monkeypatch.setattr(stress, "BASE_SAMPLES", 24)


def test_killed_writers_beside_a_reader(tmp_path: Path) -> None:
    killed = stress.kill_writers(str(tmp_path / "store"), {}, 6, tmp_path / "logs")
    assert killed.at_random + sum(killed.at_steps.values()) == 6
    assert killed.segments >= 3 and killed.most_per_kill <= 1 and killed.again <= 6
    assert killed.reads >= 1 and "0 errors" in str(killed)


def test_killed_writers_to_s3_beside_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stress.s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        killed = stress.kill_writers("s3://lab/store", environment, 3, tmp_path / "logs")
    assert killed.at_random + sum(killed.at_steps.values()) == 3
    assert killed.segments >= 3 and killed.reads >= 1


def test_damage_of_every_kind_to_every_kind_of_file(tmp_path: Path) -> None:
    damaged = stress_damage.damage_everything(tmp_path, flips=14, truncations=7, every=8, seed=1)
    assert damaged.missed == [] and damaged.silent == []
    assert {kind for _, kind in damaged.outcomes} == set(stress_damage.KINDS)
    assert all(outcome.done for outcome in damaged.outcomes.values())


def test_the_stress_notices_what_it_is_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "store"
    store = stress_damage.build(folder)
    feature = store.features(stress_worker.DATASET)[0]
    assert stress_worker.assert_as_made(feature) > 10
    shard = next(folder.glob("features/*/*/data/*/values/c/0/0"))
    shard.rename(tmp_path / "shard")
    assert stress_damage.look_for(folder) == "damage"
    (tmp_path / "shard").rename(shard)
    (folder / "samples" / stress_worker.DATASET / "strange").write_bytes(b"")
    with pytest.raises(AssertionError, match="beside what documents name"):
        stress._collect(store)
    with pytest.raises(AssertionError, match="one kill cost 2 segments"):
        stress._count([["start 1 a", "start 1 b"]])
    with pytest.raises(AssertionError, match="two writers were told"):
        stress._count([["start 1 a", "won 1 a"], ["start 1 a", "won 1 a"]])
    utterances = store.samples(stress_worker.DATASET).utterances
    monkeypatch.setattr(Samples, "utterances", utterances[1:])
    assert stress_damage.read_all(folder, utterances).startswith("silent")
    assert FeatureStore.open(folder).datasets() == [stress_worker.DATASET]
