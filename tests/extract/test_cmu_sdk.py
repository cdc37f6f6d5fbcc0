"""Folds, label sequences and clips as the CMU SDK and MMSA write them; hostile files among them."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache_schema.errors import DataError
from extract.cmu_sdk import Clips, Place, read_folds, read_labels, read_sequence

LISTS = {"train": ["a", "-b"], "valid": ["_c"], "test": ["d e"]}


def sdk_python(lists: dict[str, list[str]], more: str = "") -> str:
    """A fold file as the SDK ships it."""
    return more + "\n".join(f"standard_{name}_fold={ids!r}" for name, ids in lists.items()) + "\n"


def test_the_sdks_python_file_and_json_of_two_shapes_say_the_same(tmp_path: Path) -> None:
    expected = {"a": "train", "-b": "train", "_c": "val", "d e": "test"}
    for name, text in (
        ("cmu_mosi_std_folds.py", sdk_python(LISTS)),
        ("cmu_standard_folds.json", json.dumps({"mosi": LISTS, "mosei": {}})),
        ("mosi_folds.json", json.dumps({f"standard_{k}_fold": v for k, v in LISTS.items()})),
    ):
        file = tmp_path / name.replace(".", "_") / "Raw" / name
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
        assert read_folds(file.parents[1], "mosi") == expected
    assert read_folds(tmp_path / "cmu_mosi_std_folds_py", "mosei") is None


def test_a_fold_file_is_never_run(tmp_path: Path) -> None:
    flag = tmp_path / "was run"
    file = tmp_path / "cmu_mosi_std_folds.py"
    file.write_text(sdk_python(LISTS, more=f"open({str(flag)!r}, 'w')\n"), encoding="utf-8")
    assert read_folds(tmp_path, "mosi")
    file.write_text(sdk_python(LISTS) + f"standard_train_fold=[open({str(flag)!r}, 'w').name]\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no plain lists of video ids"):
        read_folds(tmp_path, "mosi")
    assert not flag.exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cmu_mosi_std_folds.py", "def (", "holds no plain lists"),
        ("cmu_mosi_std_folds.py", "x = " + "(" * 5000, "holds no plain lists"),
        ("cmu_mosi_std_folds.py", "standard_train_fold = " + "[]" + "[0]" * 9999, "holds no plain lists"),
        ("cmu_mosi_std_folds.py", "standard_train_fold = {{}}", "holds no plain lists"),
        ("cmu_mosi_std_folds.py", sdk_python({"train": ["a"], "test": ["b"]}), "no list of the valid fold"),
        ("cmu_mosi_std_folds.py", sdk_python({"train": ["a"], "valid": ["b"]}), "no list of the test fold"),
        ("cmu_mosi_std_folds.py", sdk_python({**LISTS, "test": ["a"]}), "the video 'a' stands in two folds"),
        ("cmu_mosi_std_folds.py", sdk_python({**LISTS, "test": ["../a"]}), r"'\.\./a' is not the id of a video"),
        ("mosi_folds.json", json.dumps({**LISTS, "test": "abc"}), "'test' is no list of video ids"),
        ("mosi_folds.json", "[", "is not JSON"),
        ("mosi_folds.json", "[1]", "is no object of lists"),
    ],
)
def test_a_bad_fold_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_folds(tmp_path, "mosi")


def test_two_fold_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cmu_mosi_std_folds.py").write_text(sdk_python(LISTS), encoding="utf-8")
    (tmp_path / "mosi_folds.json").write_text(json.dumps(LISTS), encoding="utf-8")
    with pytest.raises(DataError, match="are both there"):
        read_folds(tmp_path, "mosi")


def test_the_official_folds_are_read(test_data: Path) -> None:
    counts = {"mosi": (52, 10, 31), "mosei": (2249, 300, 678)}
    for corpus, expected in counts.items():
        folds = read_folds(test_data / "mosi", corpus)
        assert folds is not None
        assert tuple(sum(split == s for split in folds.values()) for s in ("train", "val", "test")) == expected


def test_a_label_sequence_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "labels.csd", "w") as file:
        for video, count in (("-a", 2), ("b", 1)):
            file[f"All Labels/data/{video}/features"] = np.arange(count * 2.0).reshape(count, 2)
            file[f"All Labels/data/{video}/intervals"] = np.array([[n, n + 1.0] for n in range(count)])
        file["All Labels/metadata/root name"] = "All Labels"
    found = read_sequence(tmp_path / "labels.csd", width=2)
    assert list(found) == ["-a", "b"]
    assert found["-a"][0].tolist() == [[0, 1], [2, 3]] and found["-a"][1].tolist() == [[0, 1], [1, 2]]


def test_a_label_sequence_that_is_none_or_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.csd"
    file.write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="cannot be read as a computational sequence"):
        read_sequence(file, 1)
    cases = {
        "holds `data`": {"x/y": np.zeros(1)},
        "no finite numbers": {"l/data/v/features": np.array([[np.nan]]), "l/data/v/intervals": np.zeros((1, 2))},
        "2 labels and 1 intervals": {"l/data/v/features": np.zeros((2, 1)), "l/data/v/intervals": np.zeros((1, 2))},
        "is absent": {"l/data/v/features": np.zeros((2, 1))},
    }
    for message, arrays in cases.items():
        with h5py.File(file, "w") as content:
            for name, array in arrays.items():
                content[name] = array
        with pytest.raises(DataError, match=message):
            read_sequence(file, 1)
    with h5py.File(file, "w") as content:
        content["l/data/v/features"] = h5py.ExternalLink("/etc/hostname", "x")
    with pytest.raises(DataError, match="link to elsewhere, which is not followed"):
        read_sequence(file, 1)
    with h5py.File(file, "w") as content:
        content.create_dataset("l/data/v/features", (1, 1), "u1", external=[("/etc/hostname", 0, 1)])
    with pytest.raises(DataError, match="lies in another file, which is not followed"):
        read_sequence(file, 1)


def test_an_enormous_shape_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "labels.csd"
    with h5py.File(file, "w") as content:
        content.create_dataset("l/data/v/features", (1 << 40, 1), "f4", chunks=(1024, 1))
    assert file.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"holds no numbers \(segments, 1\): \(1099511627776, 1\)"):
        read_sequence(file, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("#NAME?,1,hi,1.0,train", "a spreadsheet took an id"),
        ("../v,1,hi,1.0,train", "is not the id of a video"),
        ("v,x,hi,1.0,train", "clip_id is 'x', not a number"),
        ("v,1,hi,3.5,train", "the sentiment is 3.5, and it goes from -3 to 3"),
        ("v,1,hi,much,train", "the sentiment is nan"),
        ("v,1,hi,1.0,trial", "mode is 'trial', not train, valid or test"),
        ("v,1,h\x01i,1.0,train", r"text holds the control character \\x01"),
        ("v,1,hi,1,train\nv,1,hi,1,train", "line 3: clip 1 of v stands already at label.csv, line 2"),
    ],
)
def test_a_bad_line_of_label_csv_is_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "label.csv").write_text(f"video_id,clip_id,text,label,mode\n{row}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(read_labels(tmp_path / "label.csv"))


def test_clips_are_found_in_the_first_place_that_has_them(tmp_path: Path) -> None:
    for name in ("Raw/Video/Segmented/a_1.mp4", "Raw/a/1.mp4", "Raw/a/2.mp4", "Raw/Video/Full/a.mp4"):
        (tmp_path / "CMU" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "CMU" / name).write_bytes(b"")
    places = (
        Place("Raw/Video/Segmented", "{video}_{clip}.mp4"),
        Place("Raw/{video}", "{clip}.mp4"),
        Place("Raw/Video/Full", "{video}.mp4", whole=True),
    )
    clips = Clips(tmp_path, places)
    assert clips.find("a", 1, timed=True) == ("CMU/Raw/Video/Segmented/a_1.mp4", False, True)
    assert clips.find("a", 2, timed=True) == ("CMU/Raw/a/2.mp4", False, True)
    assert clips.find("a", 3, timed=True) == ("CMU/Raw/Video/Full/a.mp4", True, True)
    assert clips.find("b", 1, timed=True) == ("CMU/Raw/Video/Segmented/b_1.mp4", False, False)
    assert clips.find("a", 3, timed=False) == ("CMU/Raw/Video/Segmented/a_3.mp4", False, False)
    (tmp_path / "empty").mkdir()
    assert Clips(tmp_path / "empty", places).find("b", 1, timed=True) == ("Raw/Video/Segmented/b_1.mp4", False, False)
