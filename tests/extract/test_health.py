"""`mer check`: each finding planted in a dataset that is otherwise healthy, and found with its utterances."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.rows import Absent, Failed, Row
from cache_schema.samples import Corpus, Target, Utterance
from cache_schema.store import FeatureStore
from extract.health import examine, features
from extract.health.finding import Finding
from extract.health.speech import word_error_rate

TARGETS = (Target(name="emotion", kind="classification", classes=("anger", "joy")),)
CORPUS = Corpus(name="talks", title="Talks", licence="none", targets=TARGETS)
WIDTH = 12


def healthy(count: int = 40) -> list[Utterance]:
    return [
        Utterance(
            id=f"u{i:02}",
            path=f"u{i:02}.wav",
            duration=2.0,
            text=f"this is what number {i} has to say",
            speaker=f"s{i // 8}",
            dialogue=f"d{i // 4}",
            split=("train", "train", "train", "val", "test")[i // 8],
            labels={"emotion": TARGETS[0].classes[i % 2]},
        )
        for i in range(count)
    ]


def drawn(count: int = 40) -> list[Row]:
    random = np.random.default_rng(0)
    return [{"values": random.normal(size=(10, WIDTH)).astype(np.float16)} for _ in range(count)]


def found(
    tmp_path: Path,
    samples: list[Utterance],
    rows: list[Row] | None = None,
    inputs: dict[int, str] | None = None,
    **options: Any,
) -> dict[str, list[Finding]]:
    """What is found beyond class counts and durations, by check."""
    store = FeatureStore.open(str(tmp_path / "store"), mode="a")
    store.append_samples(CORPUS, samples)
    values = ArraySpec(name="values", dtype="float16", tail=(WIDTH,))
    spec = FeatureSpec(
        feature="hubert",
        modality="speech",
        encoder="drawn",
        version=1,
        arrays=(values,),
        rate_hz=5.0,
        nominal_rate_hz=5.0,
    )
    writer = store.writer("talks", spec)
    rows = rows or drawn(len(samples))
    digests = [(inputs or {}).get(i, f"{i:064x}") for i in range(len(samples))]
    for segment in writer.todo():
        mine = slice(segment.start, segment.stop)
        writer.commit(segment, rows[mine], digests[mine], {})
    grouped: dict[str, list[Finding]] = {}
    for finding in examine(str(tmp_path / "store"), "talks", **options):
        if finding.level != "note" or finding.check not in ("classes", "durations"):
            grouped.setdefault(finding.check, []).append(finding)
    return grouped


def changed(samples: list[Utterance], row: int, **values: Any) -> list[Utterance]:
    return [u.model_copy(update=values) if i == row else u for i, u in enumerate(samples)]


def test_nothing_is_found_in_a_healthy_dataset(tmp_path: Path) -> None:
    assert found(tmp_path, healthy()) == {}


@pytest.mark.parametrize(
    ("check", "values"),
    [
        ("speakers", {"speaker": "s0"}),
        ("dialogues", {"dialogue": "d0"}),
        ("recordings", {"path": "u00.wav", "start": 3.0, "end": 5.0}),
        ("recordings", {"path": None, "signals": "night.csv", "start": 3.0, "end": 5.0}),
    ],
)
def test_whoever_is_on_both_sides_of_a_split_is_a_leak(tmp_path: Path, check: str, values: dict[str, Any]) -> None:
    samples = healthy()
    if check == "recordings":
        samples = changed(samples, 0, **{**values, "start": 0.0, "end": 2.0})
    leaks = found(tmp_path, changed(samples, 39, **values))
    assert list(leaks) == [check]
    (leak,) = leaks[check]
    assert leak.level == "leak" and leak.ids[-1] == "u39" and leak.ids[0] == "u00"
    (known,) = [f for f in examine(str(tmp_path / "store"), "talks", allow=[check]) if f.check == check]
    assert known.level == "note"


def test_the_same_file_under_two_names_is_found_by_its_digest(tmp_path: Path) -> None:
    """Within a split it is a warning, across splits a leak; different labels are told."""
    same = {2: "a" * 64, 4: "a" * 64, 10: "b" * 64, 39: "b" * 64}
    leaks = found(tmp_path, healthy(), inputs=same)
    assert [(f.level, f.ids) for f in leaks["duplicates"]] == [("leak", ("u10", "u39")), ("warning", ("u02", "u04"))]
    assert "1 of them with different labels" in leaks["duplicates"][0].says
    assert "labels" not in leaks["duplicates"][1].says


def test_clips_that_are_nearly_the_same_are_found_by_their_features(tmp_path: Path) -> None:
    rows: list[Any] = drawn()
    noise = np.random.default_rng(1).normal(size=(10, WIDTH)) * 0.01
    rows[39] = {"values": (rows[7]["values"] + noise).astype(np.float16)}
    leaks = found(tmp_path, healthy(), rows)
    assert [(f.check, f.level, f.ids) for fs in leaks.values() for f in fs] == [
        ("near-duplicates", "leak", ("u07", "u39"))
    ]


def test_near_groups_are_those_of_a_loop_over_all_pairs() -> None:
    random = np.random.default_rng(2)
    means = random.normal(size=(60, 5)).astype(np.float32)
    means[40:45] = means[3] + 0.01 * random.normal(size=(5, 5))
    means[50] = means[20]
    standard = (means - means.mean(0)) / means.std(0)
    unit = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    pairs = {(i, j) for i in range(60) for j in range(i) if unit[i] @ unit[j] >= 0.999}
    groups = features.near(means, 0.999)
    assert sorted(map(sorted, groups)) == [[3, 40, 41, 42, 43, 44], [20, 50]]
    assert {(max(a, b), min(a, b)) for g in groups for a in g for b in g if a != b} == pairs


def test_dead_features_failures_and_faceless_clips(tmp_path: Path) -> None:
    rows: list[Any] = drawn()
    for row in rows:
        row["values"][:, 3] = 1.0
    rows[5] = {"values": np.repeat(rows[5]["values"][:1], 10, axis=0)}
    rows[6], rows[7], rows[8] = (
        Failed("u06.wav: is cut short"),
        Absent("no face was found in the clip"),
        Absent("silent film"),
    )
    leaks = found(tmp_path, healthy(), rows)
    assert {check: [f.ids for f in fs] for check, fs in leaks.items()} == {
        "failures": [("u06",), ("u08",)],
        "faces": [("u07",)],
        "constant features": [("u05",), ()],
    }
    assert "1 of 12 numbers are the same in every utterance" in leaks["constant features"][1].says


def test_odd_durations_and_transcripts_that_nobody_could_speak(tmp_path: Path) -> None:
    samples = changed(changed(healthy(), 3, duration=0.1), 9, duration=3.5)
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    samples = changed(changed(samples, 20, text=text), 22, text=text)
    leaks = found(tmp_path, samples)
    assert [f.ids for f in leaks["durations"]] == [("u03",), ("u03", "u09")]
    assert [f.ids for f in leaks["rates of speech"]] == [("u03", "u20", "u22")]
    assert [(f.level, f.ids) for f in leaks["texts"]] == [("note", ("u20", "u22"))]


def test_a_class_that_a_split_lacks_is_told(tmp_path: Path) -> None:
    samples = [u.model_copy(update={"labels": {"emotion": "joy"}}) if u.split == "test" else u for u in healthy()]
    samples = changed(samples, 0, labels={})
    (warning,) = found(tmp_path, samples)["classes"]
    assert warning.says == "emotion, test: below 1%: anger"
    said = [f for f in examine(str(tmp_path / "store"), "talks") if f.check == "classes"]
    assert said[0].ids == ("u00",) and said[1].numbers == {"anger": 11, "joy": 12}


def write_tone(path: Path, level: float) -> None:
    samples = level * np.sin(np.arange(32000) / 10) * 32767
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())


def test_silent_clips_are_found_where_the_clips_are_named(tmp_path: Path) -> None:
    samples = healthy(8)
    for i, utterance in enumerate(samples):
        write_tone(tmp_path / str(utterance.path), 0.0 if i == 2 else 0.02)
    (tmp_path / "u05.wav").write_bytes(b"no sound")
    cv2.imwrite(str(tmp_path / "u06.png"), np.zeros((8, 8, 3), np.uint8))
    samples = changed(samples, 6, path="u06.png")
    leaks = found(tmp_path, samples, root=tmp_path)
    assert [(f.level, f.ids) for f in leaks["silence"]] == [
        ("warning", ("u02",)), ("note", ("u06",)), ("warning", ("u05",))]  # fmt: skip


def test_what_is_heard_is_compared_with_the_transcript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recognition itself is tested elsewhere: here it hears what the file's loudness says."""
    from extract import recognition

    samples = healthy(6)
    for i, utterance in enumerate(samples):
        write_tone(tmp_path / str(utterance.path), 0.1 + 0.1 * i)

    class Hears:
        def __init__(self, *_: Any) -> None:
            pass

        def hear(self, sound: Any) -> Any:
            number = round(float(np.abs(sound).max()) * 10) - 1
            text = (
                "something else entirely was said here" if number == 4 else f"This is what number {number} has to SAY!"
            )
            return recognition.Heard(text, "en")

    monkeypatch.setattr(recognition, "Recogniser", Hears)
    monkeypatch.setattr(recognition, "whisper_checkpoint", lambda weights: None)
    (mismatch,) = found(tmp_path, samples, root=tmp_path, transcripts=True)["transcripts"]
    assert mismatch.ids == ("u04",) and mismatch.numbers["word_error_rate"]["u04"] >= 0.7
    assert mismatch.says.startswith("1 of 6 transcripts")


@pytest.mark.parametrize(
    ("given", "said", "rate"),
    [("a b c d", "a b c d", 0.0), ("a b c d", "a x c", 0.5), ("a b", "", 1.0), ("a b", "b a b c", 1.0), ("", "a", 1.0)],
)
def test_word_error_rates(given: str, said: str, rate: float) -> None:
    assert word_error_rate(given.split(), said.split()) == rate


def test_the_command_exits_1_on_a_leak_and_names_everybody(tmp_path: Path, mer: Callable[..., Any]) -> None:
    found(tmp_path, changed(healthy(), 39, speaker="s0"))
    words = ["check", "--dataset", "talks", "--store", tmp_path / "store"]
    done = mer(*words, "--json")
    assert done.code == 1 and "by its speakers" in done.err and "--allow speakers" in done.err
    document = json.loads(done.out)
    assert document["leaks"] == ["speakers"]
    (leak,) = [f for f in document["findings"] if f["level"] == "leak"]
    assert len(leak["ids"]) == 9
    allowed = mer(*words, "--allow", "speakers")
    assert allowed.code == 0 and "speakers" in allowed.out and "Not looked at: silence" in allowed.out
    assert (
        mer(*words, "--allow", "speaker")
        .err.strip()
        .startswith("mer: There is no check called 'speaker'. Did you mean")
    )
    assert "name the data root" in mer(*words, "--transcripts").err
    assert "is no folder" in mer(*words, "--root", tmp_path / "nowhere").err
    assert "Nothing found: dialogues, recordings, texts, duplicates" in allowed.out
