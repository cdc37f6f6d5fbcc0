"""The CMU-MOSI adapter: the SDK's raw release and MMSA's, official folds and counts, what is missing."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import h5py
import numpy as np
import pytest

from cache_schema.errors import DataError
from cache_schema.rows import Failed
from extract.dataset import Enumeration
from extract.datasets import mosi
from extract.decoding.media import decode, probe
from extract.encoder import FrameRequest, Needs

FIVE = FrameRequest(5.0, "whole", 16)
FOLDS = {"train": ["03bSnISJMiM", "-3g5yACwYnA"], "valid": ["_dI--eQ6qVU"], "test": ["tmZoasNr4rU"]}


def write_labels(file: Path, labels: Mapping[str, Sequence[float]]) -> None:
    """A label sequence of the SDK; segment k of a video lasts from k to k + 0.8 seconds."""
    with h5py.File(file, "w") as content:
        for video, values in labels.items():
            data = content.require_group(f"Opinion Segment Labels/data/{video}")
            data["features"] = np.array(values, np.float32)[:, None]
            data["intervals"] = np.array([[k, k + 0.8] for k in range(len(values))])


def write_folds(root: Path, folds: Mapping[str, Sequence[str]]) -> None:
    lines = [f"standard_{name}_fold={list(videos)!r}\n" for name, videos in folds.items()]
    (root / "cmu_mosi_std_folds.py").write_text("".join(lines), encoding="utf-8")


def write_transcript(root: Path, video: str, *lines: str) -> None:
    file = root / "Raw" / "Transcript" / "Segmented" / f"{video}.annotprocessed"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_video(path: Path, greys: Sequence[int]) -> None:
    """A second of each grey, at ten pictures per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        for index in range(10 * len(greys)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), greys[index // 10], np.uint8), format="rgb24")
            frame.pts = index
            out.mux(video.encode(frame))
        out.mux(video.encode(None))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDK's layout: cut videos of one film review, a whole one of another, none of the rest."""
    root = tmp_path_factory.mktemp("mosi")
    write_labels(
        root / "CMU_MOSI_Opinion_Labels.csd",
        {"tmZoasNr4rU": [-3.0], "03bSnISJMiM": [2.4, -0.8], "-3g5yACwYnA": [0.0, 1.0], "nofold": [3.0]},
    )
    write_folds(root, FOLDS)
    write_transcript(root, "03bSnISJMiM", "1_DELIM_ANYHOW IT WAS REALLY GOOD", "2_DELIM_THEY DIDN'T REALLY", "")
    write_transcript(root, "-3g5yACwYnA", "2_DELIM_SECOND ALONE")
    (root / "Raw" / "Transcript" / "Segmented" / "._03bSnISJMiM.annotprocessed").write_bytes(b"\0\5\x16\7")
    for clip in (1, 2):
        write_video(root / "Raw" / "Video" / "Segmented" / f"03bSnISJMiM_{clip}.mp4", [100])
    write_video(root / "Raw" / "Video" / "Full" / "-3g5yACwYnA.mp4", [40, 200])
    return root


def read(root: Path) -> Enumeration:
    return mosi.enumerate_corpus(root, probe)


def test_clips_are_in_the_order_of_the_folds_with_all_that_is_known_of_them(release: Path) -> None:
    utterances = read(release).utterances
    assert [(u.id, u.split, u.turn, u.dialogue) for u in utterances] == [
        ("03bSnISJMiM_1", "train", 1, "03bSnISJMiM"),
        ("03bSnISJMiM_2", "train", 2, "03bSnISJMiM"),
        ("-3g5yACwYnA_1", "train", 1, "-3g5yACwYnA"),
        ("-3g5yACwYnA_2", "train", 2, "-3g5yACwYnA"),
        ("tmZoasNr4rU_1", "test", 1, "tmZoasNr4rU"),
        ("nofold_1", None, 1, "nofold"),
    ]
    assert [u.scores["sentiment"] for u in utterances] == pytest.approx([2.4, -0.8, 0.0, 1.0, -3.0, 3.0])
    assert [u.text for u in utterances[:4]] == ["ANYHOW IT WAS REALLY GOOD", "THEY DIDN'T REALLY", None, "SECOND ALONE"]
    assert (utterances[1].path, utterances[1].start) == ("Raw/Video/Segmented/03bSnISJMiM_2.mp4", None)


def test_of_a_whole_video_the_interval_is_read(release: Path) -> None:
    of = {u.id: u for u in read(release).utterances}
    for name, grey in (("-3g5yACwYnA_1", 40), ("-3g5yACwYnA_2", 200)):
        utterance = of[name]
        assert utterance.path == "Raw/Video/Full/-3g5yACwYnA.mp4" and utterance.duration == pytest.approx(0.8)
        clip = decode(release, utterance, [Needs(frames=FIVE)])
        assert clip.unreadable == {}
        assert abs(float(clip.frames[FIVE].mean()) - grey) < 5


def test_what_is_missing_is_told(release: Path) -> None:
    found = read(release)
    assert found.missing == 2
    assert found.notes == [
        "2 of 6 clips are absent: tmZoasNr4rU_1, nofold_1.",
        "3 of 6 clips have no transcript: -3g5yACwYnA_1, tmZoasNr4rU_1, nofold_1.",
        "1 labelled videos are in no fold and so in no split: nofold.",
        "1 videos of the folds have no label: _dI--eQ6qVU.",
        "not the official counts: 4/0/1 clips in train/valid/test, where mosi has 1284/229/686.",
    ]


def test_mmsas_table_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "label.csv").write_text(
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        '03bSnISJMiM,11,"A LOT, OF SAD PARTS",-2.4,,,,Negative,train\n'
        "03bSnISJMiM,2,THEY DIDNT,-0.8,,,,Negative,train\n"
        "tmZoasNr4rU,1,SO,0,,,,Neutral,test\n"
        "_dI--eQ6qVU,1,WELL,1.5,,,,Positive,valid\n",
        encoding="utf-8",
    )
    write_video(tmp_path / "Raw" / "03bSnISJMiM" / "2.mp4", [90])
    found = read(tmp_path)
    assert [(u.id, u.split, u.text) for u in found.utterances] == [
        ("03bSnISJMiM_2", "train", "THEY DIDNT"),
        ("03bSnISJMiM_11", "train", "A LOT, OF SAD PARTS"),
        ("_dI--eQ6qVU_1", "val", "WELL"),
        ("tmZoasNr4rU_1", "test", "SO"),
    ]
    assert found.utterances[0].path == "Raw/03bSnISJMiM/2.mp4"
    assert found.utterances[0].duration == pytest.approx(1.0, abs=0.05)


def test_the_official_transcripts_and_folds_make_the_official_counts(test_data: Path, tmp_path: Path) -> None:
    clips: dict[str, dict[int, str]] = defaultdict(dict)
    with (test_data / "mosi" / "transcripts.csv").open(encoding="utf-8", newline="") as file:
        for name, text, *_ in csv.reader(file):
            video, _, clip = name.rpartition("_")
            clips[video][int(clip)] = text
    write_labels(tmp_path / "CMU_MOSI_Opinion_Labels.csd", {video: [0.0] * max(of) for video, of in clips.items()})
    for video, of in clips.items():
        write_transcript(tmp_path, video, *(f"{clip}_DELIM_{text}" for clip, text in of.items()))
    official = json.loads((test_data / "mosi" / "cmu_standard_folds.json").read_text(encoding="utf-8"))
    write_folds(tmp_path, official["mosi"])
    found = mosi.enumerate_corpus(tmp_path, lambda _: None)
    counts = {split: sum(u.split == split for u in found.utterances) for split in mosi.OFFICIAL_COUNTS}
    assert counts == mosi.OFFICIAL_COUNTS == {"train": 1284, "val": 229, "test": 686}
    assert all(u.text == (clips[u.dialogue or ""][u.turn or 0].strip() or None) for u in found.utterances)
    assert not any("official" in note or "fold" in note for note in found.notes)


def test_labels_or_folds_that_are_absent_are_named(release: Path, tmp_path: Path) -> None:
    write_folds(tmp_path, FOLDS)
    with pytest.raises(DataError, match=r"has neither CMU_MOSI_Opinion_Labels\.csd nor label\.csv"):
        read(tmp_path)
    (tmp_path / "cmu_mosi_std_folds.py").unlink()
    write_labels(tmp_path / "CMU_MOSI_Opinion_Labels.csd", {"a": [1.0]})
    with pytest.raises(DataError, match="has no file of folds"):
        read(tmp_path)


def test_bad_labels_and_transcripts_are_named(tmp_path: Path) -> None:
    write_folds(tmp_path, FOLDS)
    write_labels(tmp_path / "CMU_MOSI_Opinion_Labels.csd", {"03bSnISJMiM": [1.0, 4.0]})
    with pytest.raises(DataError, match=r"03bSnISJMiM, segment 1: the sentiment is 4, and it goes from -3 to 3"):
        read(tmp_path)
    write_labels(tmp_path / "CMU_MOSI_Opinion_Labels.csd", {"03bSnISJMiM": [1.0]})
    write_transcript(tmp_path, "03bSnISJMiM", "1_DELIM_GOOD", "no delimiter")
    with pytest.raises(DataError, match=r"03bSnISJMiM\.annotprocessed, line 2: not of the form CLIP_DELIM_TEXT"):
        read(tmp_path)


def test_a_clip_that_is_not_cut_and_has_no_times_is_absent_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "label.csv").write_text(
        "video_id,clip_id,text,label,mode\na,1,hi,1,train\na,2,hi,1,train\nb,1,hi,1,valid\nc,1,hi,1,test\n",
        encoding="utf-8",
    )
    write_video(tmp_path / "Raw" / "Video" / "Full" / "a.mp4", [90])
    write_video(tmp_path / "Raw" / "Video" / "Segmented" / "a_1.mp4", [90])
    found = read(tmp_path)
    assert [u.path for u in found.utterances[:2]] == [f"Raw/Video/Segmented/a_{clip}.mp4" for clip in (1, 2)]
    assert found.missing == 3
    clip = decode(tmp_path, found.utterances[1], [Needs(frames=FIVE)])
    assert isinstance(clip.unreadable["video"], Failed)


def test_a_whole_video_without_intervals_is_refused(tmp_path: Path) -> None:
    (tmp_path / "label.csv").write_text(
        "video_id,clip_id,text,label,mode\na,1,hi,1,train\nb,1,hi,1,valid\nc,1,hi,1,test\n", encoding="utf-8"
    )
    write_video(tmp_path / "Raw" / "Video" / "Full" / "a.mp4", [90])
    with pytest.raises(DataError, match="is a whole video, and nothing says where clip 1 lies in it"):
        read(tmp_path)


def test_the_sdks_word_times_are_those_of_the_transcripts(release: Path, tmp_path: Path) -> None:
    root = tmp_path / "mosi"
    root.mkdir()
    for name in ("CMU_MOSI_Opinion_Labels.csd", "cmu_mosi_std_folds.py", "Raw"):
        (root / name).symlink_to(release / name)
    words = [("anyhow", 0.1, 0.2), ("sp", 0.2, 0.25), ("it", 0.25, 0.3), ("was", 0.3, 0.4), ("really", 0.4, 0.6)]
    words += [("good", 0.6, 0.85), ("they", 1.0, 1.1), ("did", 1.1, 1.3), ("really", 1.4, 1.6)]
    with h5py.File(root / "CMU_MOSI_TimestampedWords.csd", "w") as content:
        data = content.require_group("words/data/03bSnISJMiM")
        data["features"] = np.array([[word.encode()] for word, _, _ in words])
        data["intervals"] = np.array([times for _, *times in words])
    found = read(root)
    by = {u.id: u for u in found.utterances}
    expected = (0.1, 0.2, 0.25, 0.3, 0.3, 0.4, 0.4, 0.6, 0.6, 0.85)
    assert by["03bSnISJMiM_1"].word_times == pytest.approx(expected)
    assert by["03bSnISJMiM_2"].word_times is None  # did for didn't
    assert any("the words of 1 of" in note for note in found.notes)
    assert any("other words than the text of 1 utterances: 03bSnISJMiM_2" in note for note in found.notes)
    with h5py.File(root / "CMU_MOSI_TimestampedWords.csd", "w") as content:
        data = content.require_group("words/data/03bSnISJMiM")
        data["features"] = np.zeros((3, 1))
        data["intervals"] = np.zeros((3, 2))
    with pytest.raises(DataError, match="holds no words"):
        read(root)
