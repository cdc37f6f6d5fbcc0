"""The CMU-MOSEI adapter: numbers of segments by their times, emotions, MMSA's table as the list, known defects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache_schema.errors import DataError
from extract.dataset import Enumeration
from extract.datasets import mosei

Segment = tuple[float, float, Sequence[float]]
FOLDS = {"train": ["hh04W3xXa5s", "-3nNcZdcdvU"], "valid": ["188343"], "test": ["7l3BNtSE0xc", "a4PHWxILDp0"]}
HAPPY, MIXED, NONE = (1.0, 2.0, 0, 0, 0, 0, 0), (-2.0, 0, 1 / 3, 0, 0, 2 / 3, 0), (0.0, 0, 0, 0, 0, 0, 0)


def write_labels(root: Path, labels: Mapping[str, Sequence[Segment]]) -> None:
    with h5py.File(root / "CMU_MOSEI_Labels.csd", "w") as content:
        for video, segments in labels.items():
            data = content.require_group(f"All Labels/data/{video}")
            data["features"] = np.array([values for _, _, values in segments], np.float32)
            data["intervals"] = np.array([[start, end] for start, end, _ in segments])


def write_transcript(root: Path, video: str, *lines: str) -> None:
    file = root / "Raw" / "Transcript" / "Segmented" / "Combined" / f"{video}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(f"{video}___{line}" for line in lines) + "\n", encoding="utf-8")


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The SDK's layout: labels in another order than the transcripts' lines, cut and whole videos."""
    write_labels(
        tmp_path,
        {
            "-3nNcZdcdvU": [(7.04, 12.5, MIXED), (0.0, 7.04, HAPPY)],
            "188343": [(1.0, 2.0, NONE), (50.0, 60.0, HAPPY)],
            "a4PHWxILDp0": [(0.0, 3.0, HAPPY)],
            "outside": [(0.0, 3.0, NONE)],
        },
    )
    lines = [f"standard_{name}_fold={videos!r}\n" for name, videos in FOLDS.items()]
    (tmp_path / "cmu_mosei_std_folds.py").write_text("".join(lines), encoding="utf-8")
    write_transcript(
        tmp_path, "-3nNcZdcdvU", "0___0.0___7.0400001___Well, I ___ think", "1___7.04___12.5___so.", "2___12.5___14___x"
    )
    write_transcript(tmp_path, "188343", "3___1.0___2.0___")
    write_transcript(tmp_path, "a4PHWxILDp0", "0___0.0___3.0___nobody here")
    write_transcript(tmp_path, "outside", "0___0.0___3.0___out")
    touch(tmp_path / "Raw" / "Videos" / "Segmented" / "Combined" / "-3nNcZdcdvU_1.mp4")
    touch(tmp_path / "Raw" / "Videos" / "Full" / "Combined" / "-3nNcZdcdvU.mp4")
    touch(tmp_path / "Raw" / "Audio" / "Full" / "WAV_16000" / "188343.wav")
    return tmp_path


def read(root: Path) -> Enumeration:
    return mosei.enumerate_corpus(root, lambda _: 5.0)


def test_segments_are_numbered_by_their_times(release: Path) -> None:
    found = read(release)
    assert [t.kind for t in found.corpus.targets] == ["regression", "multilabel"]
    utterances = found.utterances
    assert [(u.id, u.split, u.text) for u in utterances] == [
        ("-3nNcZdcdvU_0", "train", "Well, I ___ think"),
        ("-3nNcZdcdvU_1", "train", "so."),
        ("188343_3", "val", None),
        ("a4PHWxILDp0_0", "test", "nobody here"),
        ("outside_0", None, "out"),
    ]
    assert [u.scores["sentiment"] for u in utterances] == [1.0, -2.0, 0.0, 1.0, 0.0]
    mixed = {emotion: utterances[1].scores[f"emotion/{emotion}"] for emotion in mosei.EMOTIONS}
    assert mixed == pytest.approx({"happy": 0, "sad": 1 / 3, "anger": 0, "surprise": 0, "disgust": 2 / 3, "fear": 0})


def test_cut_videos_come_first_and_whole_ones_are_cut_by_time(release: Path) -> None:
    of = {u.id: u for u in read(release).utterances}
    assert (of["-3nNcZdcdvU_1"].path, of["-3nNcZdcdvU_1"].start) == (
        "Raw/Videos/Segmented/Combined/-3nNcZdcdvU_1.mp4",
        None,
    )
    whole = of["-3nNcZdcdvU_0"]
    assert (whole.path, whole.start, whole.end) == ("Raw/Videos/Full/Combined/-3nNcZdcdvU.mp4", 0.0, 7.0400001)
    sound = of["188343_3"]
    assert (sound.path, sound.start, sound.end, sound.duration) == ("Raw/Audio/Full/WAV_16000/188343.wav", 1, 2, 1)


def test_what_is_missing_or_wrong_is_told(release: Path) -> None:
    found = read(release)
    assert found.missing == 2
    assert {u.id: u.known_defect for u in found.utterances if u.known_defect} == {
        "a4PHWxILDp0_0": "nobody is seen in this video"
    }
    assert found.notes == [
        "2 of 5 clips are absent: a4PHWxILDp0_0, outside_0.",
        "1 of 5 clips have no transcript: 188343_3.",
        "1 labelled videos are in no fold and so in no split: outside.",
        "2 videos of the folds have no label: hh04W3xXa5s, 7l3BNtSE0xc.",
        "not the official counts: 2/1/1 clips in train/valid/test, where mosei has 16326/1871/4659.",
        "left out 1 labelled segments with the times of no line of the transcripts.",
    ]


def test_mmsas_table_is_the_list_and_the_sequence_gives_the_emotions(release: Path) -> None:
    (release / "label.csv").write_text(
        "video_id,clip_id,text,label,annotation,mode\n"
        "-3nNcZdcdvU,1,so it is,-2.0,Negative,train\n"
        "188343,3,yes,0.0,Neutral,valid\n"
        "a4PHWxILDp0,9,unknown to the sequence,0.5,Positive,test\n",
        encoding="utf-8",
    )
    found = read(release)
    assert [(u.id, u.split, u.text) for u in found.utterances] == [
        ("-3nNcZdcdvU_1", "train", "so it is"),
        ("188343_3", "val", "yes"),
        ("a4PHWxILDp0_9", "test", "unknown to the sequence"),
    ]
    assert found.utterances[0].scores["emotion/disgust"] == pytest.approx(2 / 3)
    assert set(found.utterances[2].scores) == {"sentiment"}


def test_the_table_alone_is_enough_and_has_its_own_splits(tmp_path: Path) -> None:
    rows = [
        f"v{split}{video},{clip},text,0.0,Neutral,{mode}"
        for split, (mode, count) in enumerate((("train", 16_326), ("valid", 1871), ("test", 4659)))
        for video, clip in ((n // 50, n % 50) for n in range(count))
    ]
    table = "\n".join(["video_id,clip_id,text,label,annotation,mode", *rows])
    (tmp_path / "label.csv").write_text(table, encoding="utf-8")
    found = read(tmp_path)
    counts = {split: sum(u.split == split for u in found.utterances) for split in mosei.OFFICIAL_COUNTS}
    assert counts == mosei.OFFICIAL_COUNTS == {"train": 16_326, "val": 1871, "test": 4659}
    assert sum(counts.values()) == len(found.utterances) == 22_856
    assert not any("official" in note for note in found.notes)


def test_times_that_two_labels_share_count_once(release: Path) -> None:
    write_labels(release, {"-3nNcZdcdvU": [(0.0, 7.04, HAPPY), (0.01, 7.03, MIXED)]})
    found = read(release)
    assert [(u.id, u.scores["sentiment"]) for u in found.utterances] == [("-3nNcZdcdvU_0", 1.0)]
    assert found.notes[-1] == "left out 1 labelled segments whose times are those of one before."


def test_bad_labels_and_transcripts_are_named(release: Path) -> None:
    write_transcript(release, "188343", "3___1.0___2.0")
    with pytest.raises(DataError, match=r"188343\.txt, line 1: not of the form VIDEO___CLIP___START___END___TEXT"):
        read(release)
    write_transcript(release, "188343", "3___1.0___later___x")
    with pytest.raises(DataError, match=r"188343\.txt, line 1: 'later' is no time in seconds"):
        read(release)
    write_transcript(release, "188343", "3___1.0___2.0___x")
    write_labels(release, {"188343": [(1.0, 2.0, (0.0, 4.0, 0, 0, 0, 0, 0))]})
    with pytest.raises(DataError, match=r"188343, segment 0: an emotion of .* is not from 0 to 3"):
        read(release)


def test_a_sequence_without_transcripts_or_folds_is_refused(tmp_path: Path) -> None:
    write_labels(tmp_path, {"a": [(0.0, 1.0, NONE)]})
    with pytest.raises(DataError, match="has no Raw/Transcript/Segmented/Combined, whose times number"):
        read(tmp_path)
    write_transcript(tmp_path, "a", "0___0.0___1.0___x")
    with pytest.raises(DataError, match="has no file of folds"):
        read(tmp_path)
