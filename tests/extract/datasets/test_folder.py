"""The folder adapter: folders with and without a manifest, hostile ones included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cache_schema.errors import DataError
from extract.dataset import Enumeration
from extract.datasets import folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0")


def read(root: Path, seconds: float | None = 4.0) -> Enumeration:
    return folder.enumerate_corpus(root, lambda _: seconds)


def with_csv(root: Path, text: str, encoding: str = "utf-8") -> Enumeration:
    (root / "manifest.csv").write_bytes(text.encode(encoding))
    return read(root)


def with_jsonl(root: Path, *rows: dict[str, Any] | str) -> Enumeration:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read(root)


def test_every_media_file_is_a_sample_and_the_rest_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "b/two.MP4", "a.wav", "b/one.jpg", "notes.txt", ".hidden.mp4", "._a.wav", "ö é.mkv")
    found = read(tmp_path)
    assert [(u.id, u.path, u.duration) for u in found.utterances] == [
        ("a", "a.wav", 4.0),
        ("b/one", "b/one.jpg", None),
        ("b/two", "b/two.MP4", 4.0),
        ("ö é", "ö é.mkv", 4.0),
    ]
    assert found.notes == ["left out 3 files that are not media by their suffix: ._a.wav, .hidden.mp4, notes.txt."]
    assert found.corpus.targets == () and found.corpus.name == "folder" and found.missing == 0


def test_files_that_share_a_stem_keep_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "face.jpg", "face.mp4", "other.mp4")
    assert [u.id for u in read(tmp_path).utterances] == ["face.jpg", "face.mp4", "other"]
    touch(tmp_path, "face.mp4.mov")
    assert [u.id for u in read(tmp_path).utterances] == ["face.jpg", "face.mp4", "face.mp4.mov", "other.mp4"]


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.mp4")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "twin").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(root)
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    assert [u.id for u in read(root).utterances] == ["link/a", "twin/a"]


def test_a_link_to_a_folder_above_the_root_is_not_walked(tmp_path: Path) -> None:
    root = tmp_path / "data"
    touch(root, "a.mp4")
    touch(tmp_path, "private.mp4")
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    (root / "itself.mp4").symlink_to(root / "itself.mp4")
    assert [u.path for u in read(root).utterances] == ["a.mp4", "itself.mp4"]


def test_the_real_clips_are_all_found(test_data: Path) -> None:
    found = read(test_data / "clips")
    assert len(found.utterances) == len(list((test_data / "clips").iterdir())) == 10
    assert {"bbaf2n", "single_face.jpg", "single_face.mp4"} <= {u.id for u in found.utterances}


@pytest.mark.parametrize("names", [(), ("notes.txt",)])
def test_nothing_to_read_is_an_error(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=r"no media files and no manifest\. `mer datasets`"):
        read(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nowhere")


def test_a_control_character_in_a_file_name_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a\nb.mp4")
    with pytest.raises(DataError, match=r"holds the character \\n; rename"):
        read(tmp_path)


def test_a_csv_manifest_says_everything(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "extra.mp4", "readme.txt")
    found = with_csv(
        tmp_path,
        "id,path,text,label,speaker,dialogue,split,start,end\r\n"
        'one,./a.mp4,"=SUM(1), ""so""",joy,Ann,d1,train,0.5,2\r\n'
        "two,a.mp4,,anger,Bob,d1,dev,2,\r\n"
        "three,b.mp4,two\tlines,,,,test,,\r\n"
        "four,gone.mp4,,joy,,,,,3\r\n"
        "five,,only words,joy,,,,,\r\n",
        encoding="utf-8-sig",
    )
    one, two, three, four, five = found.utterances
    assert (one.id, one.path, one.text, one.start, one.end, one.duration) == (
        "one",
        "a.mp4",
        '=SUM(1), "so"',
        0.5,
        2.0,
        1.5,
    )
    assert (one.labels, one.speaker, one.dialogue, one.split) == ({"label": "joy"}, "Ann", "d1", "train")
    assert (two.split, two.start, two.end, two.duration, two.text) == ("val", 2.0, None, 2.0, None)
    assert (three.labels, three.speaker, three.split, three.duration) == ({}, None, "test", 4.0)
    assert (four.path, five.path, five.text) == ("gone.mp4", None, "only words")
    assert found.missing == 1
    assert [(t.kind, t.classes) for t in found.corpus.targets] == [("classification", ("anger", "joy"))]
    assert found.notes == [
        "left out 1 files that are not media by their suffix: readme.txt.",
        "left out 1 media files that manifest.csv does not name: extra.mp4.",
        "1 of 5 samples name a clip that is absent: gone.mp4.",
    ]


def test_only_line_ends_end_a_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    found = with_csv(tmp_path, "path,text\r\na.mp4,one\u2028two\u2029three\r\n")
    assert found.utterances[0].text == "one\u2028two\u2029three"


def test_a_start_beyond_the_header_s_duration_leaves_it_unknown(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    assert with_csv(tmp_path, "path,start\na.mp4,4.5\n").utterances[0].duration is None


def test_labels_that_are_all_numbers_are_regressed(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    found = with_csv(tmp_path, "path,label\na.mp4,-1.5\nb.mp4,2e0\nc.mp4,\n")
    assert [u.scores for u in found.utterances] == [{"label": -1.5}, {"label": 2.0}, {}]
    assert [t.kind for t in found.corpus.targets] == ["regression"]
    assert any("regression" in note for note in found.notes)


def test_one_word_among_numbers_makes_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    found = with_csv(tmp_path, "path,label\na.mp4,1\nb.mp4,two\n")
    assert [t.classes for t in found.corpus.targets] == [("1", "two")]
    assert [u.labels for u in found.utterances] == [{"label": "1"}, {"label": "two"}]


def test_a_jsonl_manifest_reads_numbers_and_nulls(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    found = with_jsonl(
        tmp_path,
        {"path": "a.mp4", "label": 0.25, "start": 1, "end": 2.5, "speaker": None},
        "",
        {"path": "b.mp4", "label": "1", "text": "line\u2028separator"},
    )
    assert [u.id for u in found.utterances] == ["a", "b"]
    assert [u.scores["label"] for u in found.utterances] == [0.25, 1.0]
    assert found.utterances[0].duration == 1.5 and found.utterances[1].text == "line\u2028separator"


def test_default_ids_are_the_same_with_and_without_a_manifest(tmp_path: Path) -> None:
    touch(tmp_path, "x/face.jpg", "x/face.mp4", "y.wav")
    plain = [u.id for u in read(tmp_path).utterances]
    assert [u.id for u in with_csv(tmp_path, "path\nx/face.jpg\nx/face.mp4\ny.wav\n").utterances] == plain


def test_paths_below_the_root_may_be_absolute_or_have_backslashes(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "b.mp4")
    found = with_csv(tmp_path, f"path\nx\\a.mp4\n{tmp_path / 'b.mp4'}\n")
    assert [u.path for u in found.utterances] == ["x/a.mp4", "b.mp4"] and found.missing == 0


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("path\n../secret.mp4\n", r"line 2: path '\.\./secret\.mp4' leaves the data root"),
        ("path\nx/../../secret.mp4\n", r"line 2: path .* leaves the data root"),
        ("path\n/etc/passwd\n", r"line 2: path '/etc/passwd' lies outside the data root"),
        ("path\nC:\\secret.mp4\n", r"line 2: path .* lies outside the data root"),
        ("path\n\\secret.mp4\n", r"line 2: path .* leaves the data root"),
        ("path\n.\n", r"line 2: path '\.' leaves the data root"),
        ("path,lable\na.mp4,joy\n", r"line 2: There is no column called 'lable'\. Did you mean 'label'\?"),
        ("path,split\na.mp4,trian\n", r"line 2: There is no split called 'trian'\. Did you mean 'train'\?"),
        ("path,start,end\na.mp4,2,2\n", r"line 2: end is 2 s, not after start, 2 s"),
        ("path,end\na.mp4,0\n", r"line 2: end is 0 s"),
        ("path,start\na.mp4,-1\n", r"line 2: start is '-1'"),
        ("path,start\na.mp4,nan\n", r"line 2: start is 'nan'"),
        ("path,start\na.mp4,1e999\n", r"line 2: start is '1e999'"),
        ("path,label\na.mp4,1\nb.mp4,nan\n", r"line 3: label is 'nan' among numbers"),
        ("id,path\none,a.mp4\none,b.mp4\n", r"line 3: id 'one' stands already at manifest\.csv, line 2"),
        ("path\na.mp4\na.mp4\n", r"line 3: id 'a' stands already"),
        ("id,path\na\x07b,a.mp4\n", r"line 2: id holds the character \\x07"),
        ("path,text\na.mp4,b\x00\n", r"line 2: text holds the character \\x00"),
        ("path,label\na.mp4\n", r"line 2: 1 fields where the header has 2"),
        ("path,path\na.mp4,b.mp4\n", r"line 1: column 'path' stands there twice"),
        ("path,label\n,joy\n", r"line 2: neither path nor text"),
        ("path,text\n,words\n", r"line 2: a sample without a path needs an id"),
        ('path\n"a.mp4\n', r"manifest\.csv, line 2: unexpected end of data"),
        ("id,path\n" + "a" * 600 + ",a.mp4\n", r"line 2: id: .*512"),
        ("path\n" + "a" * 600 + ".mp4\n", r"line 2: no file has a path so long: 'a{80}'"),
        ("path\n", r"manifest\.csv lists no samples"),
        ("", r"manifest\.csv, line 1: no header"),
    ],
)
def test_a_bad_csv_manifest_is_refused_by_line_and_column(tmp_path: Path, manifest: str, message: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(DataError, match=message):
        with_csv(tmp_path, manifest)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[1]", r"line 2: not a JSON object"),
        ("{", r"line 2: not JSON"),
        ('{"path": ["a"]}', r"line 2: path must be text or a number"),
        ('{"path": true}', r"line 2: path must be text or a number"),
        ('{"path": "a.mp4", "path": "b.mp4"}', r"line 2: not JSON \(a name stands twice"),
        ('{"path": "a.mp4", "speaker": "\\ud800"}', r"line 2: speaker holds the character \\ud800"),
        ('{"path": "a.mp4", "end": NaN}', r"line 2: end is 'NaN'"),
        ("[" * 100_000, r"line 2: not JSON"),
    ],
)
def test_a_bad_jsonl_manifest_is_refused_by_line(tmp_path: Path, row: str, message: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(DataError, match=message):
        with_jsonl(tmp_path, {"path": "b.mp4"}, row)


def test_a_manifest_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(DataError, match=r"manifest\.csv, line 2: not UTF-8"):
        with_csv(tmp_path, "path,text\na.mp4,caf\xe9\n", encoding="latin-1")


def test_two_manifests_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "manifest.csv", "manifest.jsonl")
    with pytest.raises(DataError, match=r"both manifest\.csv and manifest\.jsonl: keep one"):
        read(tmp_path)
