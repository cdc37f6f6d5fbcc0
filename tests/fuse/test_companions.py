"""Companions, what lies on a modality's frames beside its values: against a loop, and from a store made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_corpus import TARGETS, commit, spec

from cache_schema.errors import DataError, SettingsError
from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Absent, Failed, Row
from cache_schema.samples import Corpus, Utterance
from cache_schema.store import FeatureStore
from fuse.arch import Companion
from fuse.companions import choose_companions, intervals_of_words, nearest_in_time, with_companions
from fuse.data import Dataset
from fuse.reader import choose_features, labelled
from fuse.reader import read as read_whole

RATE = 10.0
TEXT = "ah, well then!"
TOKENS = [(0, 0), (0, 2), (2, 3), (4, 8), (9, 11), (11, 13), (13, 14), (0, 0)]
WORDS = [(0, 2), (4, 8), (9, 13)]
SECONDS = [(0.1, 0.35), (0.4, 0.8), (1.0, 1.2)]
COMPANIONS = {
    "intervals": Companion("text", ("words",), "words", (2,), "tokens stand alone", needs=("speech",)),
    "landmarks": Companion("vision", ("landmarks",), "time", (478, 3), "the class token alone is read"),
}
PREFERS = {"speech": ("mfcc",), "text": ("roberta",), "vision": ("resnet",)}
IDS = tuple(f"u{i}" for i in range(5))


def arrays(**others: tuple[str, tuple[int, ...]]) -> dict[str, tuple[ArraySpec, ...]]:
    return {"arrays": tuple(ArraySpec(name=n, dtype=d, tail=t) for n, (d, t) in others.items())}  # type: ignore[arg-type]


def feature(name: str, modality: Modality, rate_hz: float | None, **others: tuple[str, tuple[int, ...]]) -> FeatureSpec:
    return spec(modality, feature=name, rate_hz=rate_hz, nominal_rate_hz=rate_hz or 5.0, **arrays(**others))


SPECS = {
    "mfcc": feature("mfcc", "speech", RATE, values=("float16", (4,))),
    "roberta": feature("roberta", "text", None, values=("float16", (3,)), offsets=("int32", (2,))),
    "resnet": feature("resnet", "vision", 5.0, values=("float16", (2,))),
    "words": feature("words", "speech", None, values=("float32", (2,)), offsets=("int32", (2,))),
    "landmarks": feature("landmarks", "vision", 10.0, values=("float32", (7, 3)), there=("bool", ())),
}


def rows() -> dict[str, dict[str, Row]]:
    """u0 as it should be; u1 has no sound, u2's words failed, u3 has no face, u4 no text."""
    random = np.random.default_rng(0)
    found: dict[str, dict[str, Row]] = {name: {} for name in SPECS}
    for i, id_ in enumerate(IDS):
        there = random.random(9) > 0.3
        points = random.random((9, 7, 3)).astype(np.float32) * there[:, None, None]
        found["mfcc"][id_] = {"values": random.normal(size=(13 + i, 4)).astype(np.float16)}
        found["roberta"][id_] = {
            "values": random.normal(size=(len(TOKENS), 3)).astype(np.float16),
            "offsets": np.array(TOKENS, np.int32),
        }
        found["resnet"][id_] = {"values": random.normal(size=(5, 2)).astype(np.float16)}
        found["words"][id_] = {"values": np.array(SECONDS, np.float32) + i, "offsets": np.array(WORDS, np.int32)}
        found["landmarks"][id_] = {"values": points, "there": there}
    found["mfcc"]["u1"] = found["words"]["u1"] = Absent("no audio stream")
    found["words"]["u2"] = Failed("nothing was heard")
    found["landmarks"]["u3"] = found["resnet"]["u3"] = Absent("no face")
    found["roberta"]["u4"] = Absent("no transcript")
    return found


def build(path: Path, **specs: FeatureSpec | None) -> FeatureStore:
    """The store, with other specs or without a feature (None)."""
    store = FeatureStore.open(path / "features", mode="a")
    samples = [
        Utterance(id=i, duration=1.5, text=TEXT, split="train", labels={"emotion": "joy"}, path="a.wav") for i in IDS
    ]
    store.append_samples(Corpus(name="toy", title="Toy", licence="none", targets=TARGETS), samples)
    for name, written in rows().items():
        used = specs.get(name, SPECS[name])
        if used is not None:
            names = {array.name for array in used.arrays}
            kept = {
                i: {n: a for n, a in row.items() if n in names} if isinstance(row, dict) else row
                for i, row in written.items()
            }
            commit(store, "toy", used, kept)
    return FeatureStore.open(path / "features")


def read(store: FeatureStore, **features: str) -> tuple[Dataset, dict[str, str]]:
    chosen = choose_features(store, "toy", PREFERS, None, {})
    sources = choose_companions(store, "toy", COMPANIONS, chosen, features)
    data = labelled("toy", store.samples("toy").utterances, TARGETS[0], chosen)
    return with_companions(data, chosen, sources), sources.without


def test_a_token_has_the_interval_of_its_words() -> None:
    frames, there = intervals_of_words(
        np.array(TOKENS, np.int32), np.array(WORDS, np.int32), np.array(SECONDS, np.float32), RATE
    )
    np.testing.assert_array_equal(there, [False, True, False, True, True, True, False, False])
    np.testing.assert_allclose(frames[[1, 3, 4, 5]], [[1, 3.5], [4, 8], [10, 12], [10, 12]], rtol=1e-6)
    assert not frames[~there].any()


@pytest.mark.parametrize("seed", range(5))
def test_intervals_are_those_of_a_loop_over_characters(seed: int) -> None:
    random = np.random.default_rng(seed)
    tokens, words = (np.sort(random.integers(0, 30, (n, 2)), axis=1).astype(np.int32) for n in (12, int(seed)))
    seconds = np.sort(random.random((len(words), 2)) * 5, axis=1).astype(np.float32)
    frames, there = intervals_of_words(tokens, words, seconds, RATE)
    for i, (begin, end) in enumerate(tokens.tolist()):
        mine = [w for w, (b, e) in enumerate(words.tolist()) if set(range(begin, end)) & set(range(b, e))]
        assert there[i] == bool(mine)
        expected = [seconds[mine, 0].min() * RATE, seconds[mine, 1].max() * RATE] if mine else [0, 0]
        np.testing.assert_allclose(frames[i], expected, rtol=1e-5)


@pytest.mark.parametrize(("rate", "source_rate"), [(10.0, 10.0), (5.0, 10.0), (10.0, 5.0), (7.0, 3.0)])
def test_a_frame_has_what_lies_at_its_middle(rate: float, source_rate: float) -> None:
    values = np.random.default_rng(0).random((6, 2, 3))
    there = np.array([True, True, False, True, True, True])
    laid, found = nearest_in_time(9, rate, values, there, source_rate)
    for k in range(9):
        middle = (k + 0.5) / rate
        under = [s for s in range(6) if s / source_rate <= middle < (s + 1) / source_rate and there[s]]
        assert found[k] == bool(under)
        np.testing.assert_array_equal(laid[k], values[under[0]] if under else np.zeros((2, 3)))
    if rate == source_rate:
        np.testing.assert_array_equal(found, [*there, False, False, False])


def test_a_batch_has_them_on_the_frames_of_their_modality(tmp_path: Path) -> None:
    data, without = read(build(tmp_path))
    assert without == {}
    batch = data.batch(torch.tensor([3, 0, 2]))
    shapes = {name: tuple(x.shape) for name, x in batch.companions.items()}
    assert shapes == {"intervals": (3, 8, 2), "landmarks": (3, 5, 7, 3)}
    expected = [False, True, False, True, True, True, False, False]
    assert batch.companions_there["intervals"].tolist() == [expected, expected, [False] * 8]
    torch.testing.assert_close(batch.companions["intervals"][1, 3], torch.tensor([4.0, 8.0]))
    torch.testing.assert_close(batch.companions["intervals"][0, 3], torch.tensor([34.0, 38.0]))
    stored = rows()["landmarks"]["u0"]
    assert isinstance(stored, dict)
    for frame, source in enumerate((1, 3, 5, 7)):
        assert bool(batch.companions_there["landmarks"][1, frame]) == bool(stored["there"][source])
        np.testing.assert_array_equal(batch.companions["landmarks"][1, frame], stored["values"][source])
    assert not batch.companions_there["landmarks"][1, 4]  # the ninth stored frame ends before its middle
    again = data.select(torch.tensor([4, 0])).batch(torch.tensor([1]))
    torch.testing.assert_close(again.companions["intervals"][0], batch.companions["intervals"][1])


def test_the_store_may_lack_what_they_are_made_from_and_it_is_said(tmp_path: Path) -> None:
    data, without = read(build(tmp_path, words=None, landmarks=None))
    assert data.companions == {} and data.batch(torch.tensor([0])).companions == {}
    assert without == {
        "intervals": "the store has no words feature, so tokens stand alone",
        "landmarks": "the store has no landmarks feature, so the class token alone is read",
    }


@pytest.mark.parametrize(
    ("changed", "companion", "reason"),
    [
        ("roberta", "intervals", "roberta has no offsets"),
        ("mfcc", "intervals", "mfcc has no frame rate"),
        ("resnet", "landmarks", "resnet has no frame rate"),
        ("landmarks", "landmarks", "landmarks has no there"),
    ],
)
def test_what_cannot_be_laid_is_said_and_refused_where_it_was_asked_for(
    tmp_path: Path, changed: str, companion: str, reason: str
) -> None:
    other = SPECS[changed].model_copy(update={"rate_hz": None, "arrays": SPECS[changed].arrays[:1]})
    store = build(tmp_path, **{changed: other})
    data, without = read(store)
    said = f"{reason}, so {COMPANIONS[companion].without}"
    assert without == {companion: said} and companion not in data.companions
    asked = COMPANIONS[companion].features[0]
    with pytest.raises(SettingsError, match=f"toy: {companion} cannot be made from {asked}: {reason}"):
        read(store, **{companion: asked})


def test_intervals_need_the_speech_that_they_are_in(tmp_path: Path) -> None:
    store = build(tmp_path)
    chosen = choose_features(store, "toy", PREFERS, ["text"], {})
    sources = choose_companions(store, "toy", COMPANIONS, chosen, {})
    assert sources.without == {
        "intervals": "speech is not used, so tokens stand alone",
        "landmarks": "vision is not used, so the class token alone is read",
    }


def test_words_that_are_not_extracted_yet_are_asked_for(tmp_path: Path) -> None:
    build(tmp_path)
    store = FeatureStore.open(tmp_path / "features", mode="a")
    more = [Utterance(id="later", duration=1.5, text=TEXT, split="train", labels={"emotion": "joy"}, path="a.wav")]
    store.append_samples(store.samples("toy").corpus, more)
    written = rows()
    for name in ("mfcc", "roberta", "resnet", "landmarks"):
        commit(store, "toy", SPECS[name], {**written[name], "later": written[name]["u0"]})
    with pytest.raises(DataError, match=r"words is not extracted yet for 1 utterances.*'later'.*mer extract"):
        read(FeatureStore.open(tmp_path / "features"))


def test_frames_at_which_nothing_is_there_are_left_out_with_what_lies_on_them(tmp_path: Path) -> None:
    """A face was lost in some frames: they are neither read as zeros nor counted, and the landmarks stay in step."""
    faces = feature("resnet", "vision", 10.0, values=("float16", (2,)), there=("bool", ()))
    store = build(tmp_path, resnet=None)
    written = rows()
    seen = {i: row["there"] if isinstance(row, dict) else row for i, row in written["landmarks"].items()}
    own: dict[str, Row] = {
        i: {"values": np.arange(1, 19, dtype=np.float16).reshape(9, 2) * there[:, None], "there": there}
        if isinstance(there, np.ndarray)
        else there
        for i, there in seen.items()
    }
    commit(FeatureStore.open(store.location, mode="a"), "toy", faces, own)
    store = FeatureStore.open(store.location)
    chosen = choose_features(store, "toy", PREFERS, None, {})
    sources = choose_companions(store, "toy", COMPANIONS, chosen, {})
    whole = read_whole(store, "toy", chosen, TARGETS[0], companions=sources)
    batch = whole.data.batch(torch.arange(5))
    for row, id_ in enumerate(IDS):
        there = seen[id_]
        length = int(batch.lengths["vision"][row])
        if not isinstance(there, np.ndarray):
            assert length == 0
            continue
        assert length == there.sum()
        stored, marks = own[id_], written["landmarks"][id_]
        assert isinstance(stored, dict) and isinstance(marks, dict)
        np.testing.assert_array_equal(batch.sequences["vision"][row, :length], stored["values"][there])
        assert batch.companions_there["landmarks"][row, :length].all()
        np.testing.assert_array_equal(batch.companions["landmarks"][row, :length], marks["values"][there])


def test_an_utterance_in_which_there_is_nothing_at_any_frame_is_named(tmp_path: Path) -> None:
    faces = feature("resnet", "vision", 10.0, values=("float16", (2,)), there=("bool", ()))
    store = build(tmp_path, resnet=None)
    never = np.zeros(3, np.bool_)
    own: dict[str, Row] = {
        i: {"values": np.ones((3, 2), np.float16), "there": never if i == "u2" else ~never} for i in IDS
    }
    commit(FeatureStore.open(store.location, mode="a"), "toy", faces, own)
    store = FeatureStore.open(store.location)
    chosen = choose_features(store, "toy", PREFERS, ["vision"], {})
    with pytest.raises(DataError, match=r"1 utterances have none of vision, the first is 'u2'"):
        read_whole(store, "toy", chosen, TARGETS[0])
    assert read_whole(store, "toy", chosen, TARGETS[0], drop_empty=True).left_out["empty"] == ["u2"]


def test_a_modality_is_not_there_because_of_what_lies_beside_it(tmp_path: Path) -> None:
    """Words were found in the sound, and nothing else was made from it."""
    store = build(tmp_path, mfcc=None, resnet=None)
    assert list(choose_features(store, "toy", PREFERS, None, {})) == ["text"]
    with pytest.raises(SettingsError, match="no mfcc feature for speech; it has none"):
        choose_features(store, "toy", PREFERS, ["speech"], {})
