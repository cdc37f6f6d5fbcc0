"""The IEMOCAP adapter, on two sessions in the release's layout with recordings of both actors side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cache_schema.errors import DataError
from cache_schema.store import FeatureStore
from extract.dataset import Enumeration
from extract.datasets import iemocap
from extract.decoding.media import decode
from extract.encoder import FrameRequest, Needs
from extract.run import extract

LEFT_GREY, RIGHT_GREY = 40, 200
PICTURES, SOUND = Needs(frames=FrameRequest(5.0, "whole", 16)), Needs(audio_hz=16000)


def evaluation(
    name: str,
    start: float,
    end: float,
    emotion: str,
    vad: Sequence[float] = (2.5, 2.5, 2.5),
    said: Sequence[str] = ("E2 Neutral;", "F1 Neutral; Anger;"),
) -> str:
    """A turn as the release writes it, with the lines of its annotators; `said` as `E2 Neutral; Anger;`."""
    head = f"[{start:.4f} - {end:.4f}]\t{name}\t{emotion}\t[{', '.join(f'{v:.4f}' for v in vad)}]\n"
    lines = [f"C-{who}:\t{what}\t(a [note])\n" for who, what in (one.split(" ", 1) for one in said)]
    return head + "".join(lines) + "A-E3:\tval 3; act 2; dom  2;\t()\n\n"


def write_dialogue(session: Path, dialogue: str, evaluations: Sequence[str], transcript: str) -> None:
    for folder, text in (
        ("EmoEvaluation", "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n" + "".join(evaluations)),
        ("transcriptions", transcript),
    ):
        path = session / "dialog" / folder / f"{dialogue}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        (path.parent / f"._{dialogue}.txt").write_bytes(b"\0\5\x16\7 Mac OS X")
    (session / "dialog" / "EmoEvaluation" / "Categorical").mkdir(exist_ok=True)


def write_recording(session: Path, dialogue: str, seconds: float = 3.0) -> None:
    """An AVI with DivX's codec, one grey per actor, and silence."""
    path = session / "dialog" / "avi" / "DivX" / f"{dialogue}.avi"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((48, 72, 3), LEFT_GREY, np.uint8)
    picture[:, 36:] = RIGHT_GREY
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=Fraction(30000, 1001))
        video.width, video.height, video.pix_fmt, video.codec_tag = 72, 48, "yuv420p", "DX50"
        for index in range(round(seconds * 30)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            out.mux(video.encode(frame))
        out.mux(video.encode(None))


def write_sentence(session: Path, dialogue: str, name: str, seconds: float) -> None:
    path = session / "sentences" / "wav" / dialogue / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        samples = np.full((1, round(seconds * 16000)), 8192, np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 16000
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))


def write_alignment(session: Path, dialogue: str, name: str, *words: tuple[int, int, str]) -> None:
    """As Sphinx writes it: frames of 10 ms, the last one included."""
    path = session / "sentences" / "ForcedAlignment" / dialogue / f"{name}.wdseg"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"\t{first:5} {last:5} {-100 * last:10} {word}" for first, last, word in words]
    path.write_text("\n".join(["\t SFrm  EFrm    SegAScr Word", *rows, " Total score:   -1000", ""]), "utf-8")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sessions 1 and 5 as the archive unpacks; of session 5 the recordings are missing."""
    root = tmp_path_factory.mktemp("iemocap")
    one, five = (root / "IEMOCAP_full_release" / f"Session{n}" for n in (1, 5))
    write_dialogue(
        one,
        "Ses01F_impro01",
        [
            evaluation("Ses01F_impro01_F001", 1.5, 2.5, "exc", (4.0, 4.0, 3.0)),
            evaluation("Ses01F_impro01_F000", 0.5, 1.0, "neu"),
            evaluation("Ses01F_impro01_M000", 1.0, 1.5, "fru"),
            evaluation("Ses01F_impro01_M001", 2.5, 2.9, "xxx"),
        ],
        "Ses01F_impro01_F000 [000.5000-001.0000]: Excuse me.\n"
        "Ses01F_impro01_M000 [001.0000-001.5000]: Do you have your forms?\n"
        "M: [LAUGHTER]\n"
        "Ses01F_impro01_MXX0 [001.5000-001.6000]: Mm-hmm.\n"
        "Ses01F_impro01_F001 [001.5000-002.5000]: Yeah.\n",
    )
    write_recording(one, "Ses01F_impro01")
    for name, seconds in (("F000", 0.5), ("F001", 1.0), ("M000", 0.5)):
        write_sentence(one, "Ses01F_impro01", f"Ses01F_impro01_{name}", seconds)
    for name, *words in (
        ("F000", (0, 4, "<s>"), (5, 20, "EXCUSE(2)"), (21, 24, "<sil>"), (25, 44, "ME"), (45, 49, "</s>")),
        ("M000", (0, 9, "<s>"), (10, 20, "DO"), (21, 40, "I")),
    ):
        write_alignment(one, "Ses01F_impro01", f"Ses01F_impro01_{name}", *words)
    write_dialogue(
        five,
        "Ses05M_script01_1b",
        [
            evaluation("Ses05M_script01_1b_M000", 1.0, 1.8, "hap"),
            evaluation("Ses05M_script01_1b_F000", 2.0, 2.5, "sur"),
        ],
        "Ses05M_script01_1b_M000 [001.0000-001.8000]: So.\nSes05M_script01_1b_F000 [002.0000-002.5000]: Oh!\n",
    )
    write_sentence(five, "Ses05M_script01_1b", "Ses05M_script01_1b_M000", 0.8)
    return root


def read(root: Path) -> Enumeration:
    return iemocap.enumerate_corpus(root, lambda _: None)


def copy(root: Path, to: Path) -> Path:
    """The annotations alone, in a folder that may be written into."""
    for file in root.rglob("*.txt"):
        target = to / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return to


def test_turns_are_in_order_with_text_speaker_times_and_labels(release: Path) -> None:
    utterances = read(release).utterances
    assert [u.id for u in utterances] == [
        "Ses01F_impro01_F000",
        "Ses01F_impro01_M000",
        "Ses01F_impro01_F001",
        "Ses01F_impro01_M001",
        "Ses05M_script01_1b_M000",
        "Ses05M_script01_1b_F000",
    ]
    assert [u.turn for u in utterances] == [0, 1, 2, 3, 0, 1]
    assert [u.text for u in utterances] == ["Excuse me.", "Do you have your forms?", "Yeah.", None, "So.", "Oh!"]
    assert [u.speaker for u in utterances] == ["Ses01F", "Ses01M", "Ses01F", "Ses01M", "Ses05M", "Ses05F"]
    excited = utterances[2]
    assert (excited.start, excited.end, excited.duration) == (1.5, 2.5, 1.0)
    assert excited.dialogue == "Ses01F_impro01"
    assert excited.scores == {"valence": 4.0, "activation": 4.0, "dominance": 3.0}
    assert [(u.labels.get("emotion4"), u.labels.get("emotion6")) for u in utterances] == [
        ("neutral", "neutral"),
        (None, "frustrated"),
        ("happy", "excited"),
        (None, None),
        ("happy", "happy"),
        (None, None),
    ]


def test_the_one_with_markers_is_on_the_left_and_sound_is_the_sentences_own(release: Path) -> None:
    of = {u.id: u for u in read(release).utterances}
    for name, grey in (("Ses01F_impro01_F001", LEFT_GREY), ("Ses01F_impro01_M000", RIGHT_GREY)):
        clip = decode(release, of[name], [PICTURES, SOUND])
        assert clip.unreadable == {}
        seconds = of[name].duration or 0
        assert clip.audio[16000].shape == (round(seconds * 16000),)
        assert np.allclose(clip.audio[16000], 0.25, atol=1e-3)
        frames = clip.frames[FrameRequest(5.0, "whole", 16)]
        assert abs(len(frames) - 5 * seconds) <= 1
        assert abs(float(frames.mean()) - grey) < 5
    assert of["Ses05M_script01_1b_M000"].region == iemocap.LEFT
    assert of["Ses05M_script01_1b_F000"].region == iemocap.RIGHT


def test_what_is_absent_is_absent_or_a_failure_and_told(release: Path) -> None:
    found = read(release)
    of = {u.id: u for u in found.utterances}
    no_wav = decode(release, of["Ses01F_impro01_M001"], [PICTURES, SOUND])
    assert list(no_wav.unreadable) == ["audio"] and "no sound" in no_wav.unreadable["audio"].reason
    no_avi = decode(release, of["Ses05M_script01_1b_M000"], [PICTURES, SOUND])
    assert list(no_avi.unreadable) == ["video"] and "no clip" in no_avi.unreadable["video"].reason
    assert found.missing == 1
    below = "IEMOCAP_full_release/Session5/dialog/avi/DivX"
    assert found.notes == [
        f"{below} is absent: there are no pictures of Session5.",
        "the release says when the words of 1 of 6 utterances are spoken.",
        "the alignment of 1 utterances says other words than their text: Ses01F_impro01_M000.",
        "1 of 6 utterances have no transcription: Ses01F_impro01_M001.",
        "left out 1 transcribed turns without evaluation: Ses01F_impro01_MXX0.",
        "left out 1 lines of transcriptions that name no turn.",
        "1 of 6 utterances have no file: Ses05M_script01_1b_F000.",
        "not the official release: 6 utterances in 2 sessions, 3 of four and 4 of six emotions, where IEMOCAP has "
        "10039 in 5, 5531 and 7433.",
    ]


def test_a_run_records_each_turns_own_sound_and_what_is_not_there(release: Path, tmp_path: Path) -> None:
    report = extract("iemocap", release, str(tmp_path / "store"), encoders=["mfcc"])
    (mfcc,) = report.features
    assert (mfcc.samples, mfcc.written, mfcc.failed, mfcc.absent) == (6, 4, 1, 1)
    assert mfcc.reasons == {"No such file or directory": 1, "the clip has no sound": 1}
    feature = FeatureStore.open(tmp_path / "store")["iemocap"]["mfcc"]
    frames = {name: len(feature[f"Ses01F_impro01_{name}"]) for name in ("F000", "F001", "M000")}
    assert frames["F001"] > 1.9 * frames["F000"] and frames["F000"] == frames["M000"]


TIE = ("E1 Excited;", "E2 Happiness;", "E4 Neutral;")


def official() -> Iterator[tuple[str, Sequence[str], int]]:
    """Emotions by the majorities of the release, as Busso et al. publish them; 53 ties the speaker settled as happy."""
    for emotion, count in zip(
        ("ang", "hap", "exc", "sad", "neu", "fru", "sur", "fea", "oth", "dis", "xxx"),
        (1103, 595, 1041, 1084, 1708, 1849, 107, 40, 3, 2, 2454),
        strict=True,
    ):
        yield emotion, TIE, count
    yield "xxx", (*TIE, "F1 Happiness;"), 53


def test_the_official_release_makes_the_official_counts(tmp_path: Path) -> None:
    every = [(emotion, said) for emotion, said, count in official() for _ in range(count)]
    for number in range(1, 6):
        session, mine = tmp_path / f"Session{number}", every[number - 1 :: 5]
        for part in range(-(-len(mine) // 1000)):
            dialogue = f"Ses0{number}F_impro{part:02}"
            turns = [
                evaluation(f"{dialogue}_F{place:03}", place, place + 0.5, emotion, said=said)
                for place, (emotion, said) in enumerate(mine[part * 1000 : (part + 1) * 1000])
            ]
            write_dialogue(session, dialogue, turns, "")
    found = read(tmp_path)
    four, six = (
        Counter(u.labels[name] for u in found.utterances if name in u.labels) for name in ("emotion4", "emotion6")
    )
    assert len(found.utterances) == 10_039
    assert four == {"angry": 1103, "happy": 1636, "sad": 1084, "neutral": 1708} and four.total() == 5531
    assert (six["happy"], six["excited"], six["frustrated"], six.total()) == (648, 1041, 1849, 7433)
    assert found.notes[-1].startswith(
        "53 utterances without a majority are happy in emotion6, as in the published 7433"
    )


@pytest.mark.parametrize(
    ("majority", "said", "six"),
    [
        ("xxx", (*TIE, "F1 Happiness;"), "happy"),
        ("xxx", ("E1 Excited; Surprise;", "E2 Happiness;", "E4 Excited; Happiness;", "F1 Happiness;"), "happy"),
        ("xxx", TIE, None),
        ("xxx", (*TIE, "F1 Surprise; Happiness;"), None),
        ("xxx", (*TIE, "F1 Other; Happiness;"), None),
        ("xxx", (*TIE, "F1 Neutral;"), None),
        ("xxx", ("E1 Excited;", "E2 Anger;", "E4 Neutral;", "F1 Happiness;"), None),
        ("xxx", ("E1 Excited;", "E2 Anger;", "E4 Neutral;", "F1 Anger;"), None),
        ("exc", ("E1 Excited;", "E2 Happiness;", "E4 Excited;", "F1 Happiness;"), "excited"),
        ("sur", ("E1 Surprise;", "E2 Happiness;", "E4 Surprise;", "F1 Happiness;"), None),
    ],
)
def test_a_tie_that_the_speaker_settles_as_happiness_is_happy_among_six(
    tmp_path: Path, majority: str, said: Sequence[str], six: str | None
) -> None:
    turns = [
        evaluation("Ses01F_impro03_F000", 1, 2, majority, said=said),
        evaluation("Ses01F_impro03_F001", 2, 3, "xxx", said=("E1 Happiness;", "E2 Anger;", "F1 Happiness; Fear;")),
    ]
    write_dialogue(tmp_path / "Session1", "Ses01F_impro03", turns, "")
    first, second = read(tmp_path).utterances
    assert first.labels.get("emotion6") == six
    assert first.labels.get("emotion4") == ("happy" if majority == "exc" else None)
    assert second.labels == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1.0 - 2.0] Ses01F_impro01_F000", r"Session1/Ses01F_impro01\.txt, line 3: not of the form"),
        (evaluation("Ses01F_impro01_F000", 1, 2, "joy"), "line 3: the emotion is 'joy', not one of ang, hap"),
        (evaluation("Ses01F_impro01_F000", 2, 1, "hap"), r"the turn ends at 1\.0000 s, not after its start"),
        (evaluation("Ses01F_impro02_F000", 1, 2, "hap"), "is no turn of the dialogue Ses01F_impro01 in Session1"),
        (evaluation("../../x_F000", 1, 2, "hap"), "is no turn of the dialogue"),
        (evaluation("Ses01F_impro01_F000", 1, 2, "hap") * 2, "Ses01F_impro01_F000 is evaluated twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    write_dialogue(tmp_path / "Session1", "Ses01F_impro01", [line], "")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_session_without_evaluations_or_found_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "Session1" / "dialog").mkdir(parents=True)
    with pytest.raises(DataError, match="EmoEvaluation is absent or has no evaluations"):
        read(tmp_path)
    (tmp_path / "copy" / "Session1").mkdir(parents=True)
    with pytest.raises(DataError, match="Session1 is there twice"):
        read(tmp_path)


def test_the_releases_word_times_are_those_of_the_transcription(release: Path, tmp_path: Path) -> None:
    found = read(release)
    by = {u.id: u for u in found.utterances}
    assert by["Ses01F_impro01_F000"].word_times == (0.05, 0.21, 0.25, 0.45)
    assert by["Ses01F_impro01_M000"].word_times is None  # it says something else
    assert by["Ses01F_impro01_F001"].word_times is None  # it has none
    assert any("the words of 1 of 6" in note for note in found.notes)
    assert any("other words than their text: Ses01F_impro01_M000" in note for note in found.notes)
    broken = copy(release, tmp_path)
    session = broken / "IEMOCAP_full_release" / "Session1"
    write_alignment(session, "Ses01F_impro01", "Ses01F_impro01_F000", (9, 3, "EXCUSE"))
    with pytest.raises(DataError, match=r"F000\.wdseg, line 2: not of the form"):
        read(broken)


def test_given_word_times_are_stored_and_read(release: Path, tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    found = read(release)
    store.append_samples(found.corpus, found.utterances)
    assert FeatureStore.open(tmp_path / "store").samples("iemocap").utterances == found.utterances
    assert store.append_samples(found.corpus, read(release).utterances) == 0
