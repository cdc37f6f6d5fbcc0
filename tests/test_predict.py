"""`mer predict` against what training recorded: the same clip has the same features, and so the same answer."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_schema.errors import DataError, MerError, SettingsError
from extract.dataset import read_csv, read_text
from extract.recognition import Heard, Recogniser
from extract.run import extract
from extract.synthetic import SyntheticSpec, make_corpus
from extract.weights.random_weights import make_random_checkpoint
from fuse import run_files
from fuse.hub import save_pretrained
from fuse.run import load
from fuse.train import train_run
from verbs.prediction import predict

SAME = 2e-3
"""Of a probability: features are stored in half precision, and a batch of other clips changes the last bits."""
ARCHS = {
    "hff": ("layers=1", "steps=2"),
    "complementary": ("experts=8",),
    "symphonia": (),
    "of-cmaer-cat": (),
}


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven talking faces in MELD's layout."""
    folder = tmp_path_factory.mktemp("corpus") / "meld"
    make_corpus(folder, SyntheticSpec(train=4, dev=1, test=2, size=64))
    return folder


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random checkpoints of the encoders below, a folder each."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("roberta", "resnet", "words"):
        make_random_checkpoint(name, folder / name, "small", seed=0)
    return folder


@pytest.fixture(scope="module")
def store(small_corpus: Path, small_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus's features."""
    path = tmp_path_factory.mktemp("predict") / "store"
    names = ["roberta", "mfcc", "resnet"]
    rates = ["resnet.fps=2"]
    extract("meld", small_corpus, str(path), encoders=names, weights=str(small_weights), settings=rates, device="cpu")
    return path


@pytest.fixture(scope="module")
def trained(store: Path, small_corpus: Path, small_weights: Path) -> Callable[..., Path]:
    """Gives a run of two seeds of an architecture, trained once."""

    @cache
    def run(arch: str, *settings: str, target: str | None = None) -> Path:
        if arch == "complementary":  # words take the longest
            extract("meld", small_corpus, str(store), encoders=["words"], weights=str(small_weights), device="cpu")
        changes = ["max_epochs=2", "d=32", "lr=0.01", *ARCHS[arch], *settings]
        out = store.parent / "runs"
        return train_run(store, "meld", arch, assignments=changes, seeds=2, out=out, jobs=1, target=target).run

    return run


@pytest.fixture(scope="module")
def clip(small_corpus: Path) -> Path:
    """A clip of the test split."""
    return small_corpus / "output_repeated_splits_test" / "dia0_utt1.mp4"


@pytest.fixture(scope="module")
def transcript(small_corpus: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is said in it."""
    name = "test_sent_emo.csv"
    record = list(read_csv(name, read_text(small_corpus / name)))[1]
    assert (record.values["Dialogue_ID"], record.values["Utterance_ID"]) == ("0", "1")
    path = tmp_path_factory.mktemp("said") / "said.txt"
    path.write_text(record.values["Utterance"], "utf-8")
    return path


def recorded(run: Path, id_: str) -> np.ndarray[Any, Any]:
    """The run's own probabilities of a test utterance (seeds, classes)."""
    opened = load(run)
    found = []
    for seed in opened.record.seeds:
        seen = run_files.read_seen(opened.place(seed), opened.record.target, "test")
        assert seen.probabilities is not None
        found.append(seen.probabilities[seen.ids.index(id_)])
    return np.stack(found)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_clip_of_the_corpus_is_answered_as_training_recorded(
    trained: Callable[..., Path], small_weights: Path, clip: Path, transcript: Path, arch: str
) -> None:
    run = trained(arch)
    expected = recorded(run, "test/dia0_utt1")
    found = predict([clip], run, transcripts=[transcript], weights=str(small_weights), device="cpu")
    (answer,) = found.answers.values()
    assert answer.missing == {}
    assert np.allclose(list((answer.probabilities or {}).values()), expected.mean(axis=0), atol=SAME)
    assert answer.prediction == found.trained.target.classes[int(expected.mean(axis=0).argmax())]
    assert np.allclose(list((answer.spread or {}).values()), expected.std(axis=0, ddof=1), atol=SAME)
    one = predict([clip], run, seed=1, transcripts=[transcript], weights=str(small_weights), device="cpu")
    (alone,) = one.answers.values()
    assert np.allclose(list((alone.probabilities or {}).values()), expected[1], atol=SAME)
    assert alone.spread == {} and "disagreement" not in (alone.uncertainty or {})
    assert np.abs(expected[0] - expected[1]).max() > 2 * SAME  # or the above would show nothing


def test_what_a_clip_lacks_is_masked_and_said(
    trained: Callable[..., Path], small_weights: Path, clip: Path, transcript: Path, tmp_path: Path
) -> None:
    import av

    sound = tmp_path / "sound.wav"
    with av.open(str(clip)) as source, av.open(str(sound), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=source.streams.audio[0].rate, layout="mono")
        for frame in source.decode(audio=0):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    said: list[str] = []
    run = trained("hff")
    found = predict(
        [clip, sound], run, transcripts=[transcript, transcript], weights=str(small_weights), say=said.append
    )
    seen, heard = found.answers.values()
    assert seen.missing == {} and heard.missing == {"vision": "the clip has no pictures"}
    assert heard.modalities == ("speech", "text")
    assert heard.weights is not None and heard.weights["alpha"]["vision"] == 0.0
    assert any("random weights" in line for line in said)
    (alone,) = predict([clip], run, transcripts=[transcript], weights=str(small_weights)).answers.values()
    assert alone.probabilities == pytest.approx(seen.probabilities, rel=1e-5)  # whatever else was asked


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of sound alone, in which somebody speaks twice."""
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    at = np.arange(20 * 16000) / 16000
    speaks = ((at > 2) & (at < 6)) | ((at > 9) & (at < 13))
    noise = np.random.default_rng(0).standard_normal(len(at))
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes((noise * np.where(speaks, 4000, 30)).astype("<i2").tobytes())
    return path


def test_a_long_clip_is_cut_at_pauses_and_whisper_writes_what_is_said(
    mer: Any, trained: Callable[..., Path], small_weights: Path, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, str | None]] = []

    def hear(self: Recogniser, sound: np.ndarray[Any, Any], language: str | None = None) -> Heard:
        heard.append((len(sound), language))
        return Heard("It is late." if len(heard) == 1 else None, "sv")

    monkeypatch.setattr(Recogniser, "hear", hear)
    words = ["predict", talk, "--model", trained("hff"), "--weights", small_weights, "--json"]
    done = mer(*words)
    assert done.code == 0, done.err
    (clip,) = done.json["clips"]
    first, second = clip["utterances"]
    times = [(u["start"], u["end"]) for u in (first, second)]
    assert np.abs(np.array(times) - [(1.8, 6.2), (8.8, 13.2)]).max() < 0.1
    assert heard == [(pytest.approx(4.4 * 16000, abs=1600), None), (pytest.approx(4.4 * 16000, abs=1600), "sv")]
    assert (first["text"], clip["language"]) == ("It is late.", "sv")
    assert first["recognised"] == second["recognised"] and first["recognised"].startswith("random sha256:")
    assert first["modalities"] == ["speech", "text"] and list(first["missing"]) == ["vision"]
    assert second["text"] is None and sorted(second["missing"]) == ["text", "vision"]
    assert "hears rubbish" in done.err
    heard.clear()
    (clip,) = mer(*words, "--no-recognition").json["clips"]
    assert heard == [] and all("text" in u["missing"] for u in clip["utterances"])


def test_a_very_long_clip_is_heard_piece_by_piece(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from extract import clips
    from extract.clips.windows import Cutting

    root, (clip,) = clips.open_clips([talk])
    whole = clips.cut(clip, root, None, Cutting()).utterances
    monkeypatch.setattr(clips, "PIECE_SECONDS", 7)
    pieces = clips.cut(clip, root, None, Cutting()).utterances
    assert [(u.start, u.end) for u in pieces] == [(u.start, u.end) for u in whole]
    assert len(whole) == 2


def test_a_transcript_of_a_longer_clip_is_refused(talk: Path, tmp_path: Path) -> None:
    from extract import clips
    from extract.clips.windows import Cutting

    root, (clip,) = clips.open_clips([talk])
    for start, end in ((19.0, 21.0), (20.2, 20.4)):
        (tmp_path / "a.csv").write_text(f"start,end,text\n{start},{end},no\n", "utf-8")
        with pytest.raises(DataError, match=r"goes on to .* ends at 20\.00 s"):
            clips.cut(clip, root, tmp_path / "a.csv", Cutting())


def test_an_empty_transcript_is_as_none_and_said(clip: Path, tmp_path: Path) -> None:
    from extract import clips
    from extract.clips.windows import Cutting

    (tmp_path / "none.txt").write_text(" \n")
    root, (opened,) = clips.open_clips([clip])
    given, none = (clips.cut(opened, root, file, Cutting()) for file in (tmp_path / "none.txt", None))
    assert given.utterances == none.utterances and none.notes == ()
    assert given.notes == (f"{tmp_path / 'none.txt'} holds no words: it is as without a transcript.",)


def test_whisper_that_is_not_at_hand_is_asked_for(
    mer: Any, trained: Callable[..., Path], small_weights: Path, talk: Path, tmp_path: Path
) -> None:
    for name in ("roberta", "resnet"):
        shutil.copytree(small_weights / name, tmp_path / name)
    done = mer("predict", talk, "--model", trained("hff"), "--weights", tmp_path)
    assert done.code == 1 and "words: " in done.err and "--no-recognition" in done.err.splitlines()[-1]


def test_plain_text_says_not_when_in_a_long_clip(
    trained: Callable[..., Path], small_weights: Path, talk: Path, transcript: Path
) -> None:
    with pytest.raises(MerError, match=r"does not say when.*20 s, more than --longest 15"):
        predict([talk], trained("hff"), transcripts=[transcript], weights=str(small_weights))


@pytest.mark.parametrize(("target", "kind"), [("polarity", "regression"), ("several", "multilabel")])
def test_numbers_and_several_classes_at_once(
    store: Path, small_weights: Path, clip: Path, transcript: Path, mer: Any, target: str, kind: str
) -> None:
    """The same features with other labels, in a copy of the store."""
    from cache_schema.samples import Target
    from cache_schema.store import FeatureStore

    other = store.parent / "others"
    if not other.is_dir():
        shutil.copytree(store, other)
    opened = FeatureStore.open(other, mode="a")
    samples = opened.samples("meld")
    several = Target(name="several", kind="multilabel", classes=("up", "down"))
    targets = (Target(name="polarity", kind="regression", low=-1, high=1), several)
    corpus = samples.corpus.model_copy(update={"name": f"meld-{kind}", "targets": targets})
    scores = [{"polarity": (-1.0) ** i, "several/up": i % 2, "several/down": 1.0} for i in range(len(samples))]
    rows = [u.model_copy(update={"scores": s, "labels": {}}) for u, s in zip(samples.utterances, scores, strict=True)]
    opened.append_samples(corpus, rows)
    for name in ("mfcc", "roberta"):
        feature = opened.feature("meld", name)
        writer = opened.writer(corpus.name, feature.spec)
        for segment in writer.todo():
            ids = [u.id for u in writer.utterances(segment)]
            loaded = [feature.load([id_], [a.name for a in feature.spec.arrays]) for id_ in ids]
            arrays = [{name: ragged.row(0, name) for name in ragged.arrays} for ragged in loaded]
            writer.commit(segment, arrays, [None] * len(ids), {})
    run = train_run(
        other, corpus.name, "hff", assignments=["max_epochs=1", "d=32", *ARCHS["hff"]], seeds=2, target=target,
        out=store.parent / "runs", jobs=1,
    ).run  # fmt: skip
    seen = run_files.read_predictions(run / "seed-0" / run_files.PREDICTIONS, "test").to_pylist()
    recorded = next(row for row in seen if row["id"] == "test/dia0_utt1")
    words = ["predict", clip, "--model", run, "--weights", small_weights, "--transcript", transcript]
    (answer,) = mer(*words, "--seed", "0", "--json").json["clips"][0]["utterances"]
    if kind == "regression":
        assert answer["prediction"] == pytest.approx(recorded["prediction"], abs=5e-3)
        assert answer["probabilities"] == {}
    else:
        for name in several.classes:
            assert answer["probabilities"][name] == pytest.approx(recorded[f"probability_{name}"], abs=SAME)
            assert (name in answer["prediction"]) == (answer["probabilities"][name] > 0.5)
    both = mer(*words, "--json").json["clips"][0]["utterances"][0]
    assert set(both["sd"]) == ({"polarity"} if kind == "regression" else {"up", "down"})
    for more in ([], ["--csv"]):
        assert mer(*words, *more).code == 0


def test_an_architecture_that_draws_says_the_same_every_time(
    trained: Callable[..., Path], small_weights: Path, clip: Path, transcript: Path
) -> None:
    run = trained("hff", "mc_samples=4")
    given: dict[str, Any] = {"weights": str(small_weights), "device": "cpu"}
    (first,) = predict([clip], run, transcripts=[transcript], **given).answers.values()
    (again,) = predict([clip], run, transcripts=[transcript], **given).answers.values()
    assert first == again
    assert set(first.own) == {"predictive_entropy", "mutual_information", "sigma"}


def test_a_timed_transcript_makes_a_conversation(
    mer: Any, trained: Callable[..., Path], small_weights: Path, clip: Path, tmp_path: Path
) -> None:
    file = tmp_path / "talk.srt"
    file.write_text(
        "1\n00:00:00,000 --> 00:00:01,000\n<i>Well,</i>\n\n2\n00:00:01,100 --> 00:00:01,900\nno.\n", "utf-8"
    )
    words = ["predict", clip, "--model", trained("hff", "time=dialogue"), "--weights", small_weights]
    done = mer(*words, "--transcript", file, "--json")
    assert done.code == 0, done.err
    first, second = done.json["clips"][0]["utterances"]
    assert (first["text"], first["start"], first["end"]) == ("Well,", 0.0, 1.0)
    assert (second["id"], second["text"], second["missing"]) == ("dia0_utt1.mp4#2", "no.", {})
    assert abs(sum(second["probabilities"].values()) - 1) < 1e-6
    table = list(csv.DictReader(io.StringIO(mer(*words, "--transcript", file, "--csv").out)))
    assert [row["prediction"] for row in table] == [first["prediction"], second["prediction"]]
    assert float(table[0]["sigma"]) == pytest.approx(first["drawn"]["sigma"])
    assert float(table[1]["probability_joy"]) == pytest.approx(second["probabilities"]["joy"])
    shown = mer(*words, "--transcript", file).out
    assert "0:01.10" in shown and "no." in shown and "random weights: a trial" in shown


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A timed transcript that would be markup and a formula."""
    file = tmp_path / "said.csv"
    file.write_text("start,end,text,speaker\n0,0.8,=1+1 & </script><b>,Ines\n1.2,1.6,no,\n", "utf-8")
    return file


def test_the_timeline_is_one_page_that_needs_nothing_else(
    mer: Any, trained: Callable[..., Path], small_weights: Path, clip: Path, talk: Path, hostile: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pages" / "out.html"
    words = ["predict", "--model", trained("hff"), "--weights", small_weights, "--no-recognition", "--html", out]
    done = mer(*words, clip, talk, "--transcript", hostile, "--transcript", hostile)
    assert done.code == 0, done.err
    page = out.read_text("utf-8")
    video, audio = (base64.b64encode(path.read_bytes()).decode() for path in (clip, talk))
    assert page.count("<video controls") == page.count("<audio controls") == 1
    assert f"data:video/mp4;base64,{video}" in page and f"data:audio/wav;base64,{audio}" in page
    assert re.sub(r"http://www\.w3\.org/2000/svg", "", page).count("http") == 1  # http-equiv
    assert "=1+1 &amp; &lt;/script&gt;&lt;b&gt;" in page and "</script><b>" not in page
    assert page.count("<button") == 4 and page.count('role="img"') == page.count("<desc>") == 6
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in page
    assert "vision: the clip has no pictures" in page and "random weights: a trial" in page
    again = mer(*words, clip, "--transcript", hostile)
    assert again.code == 0 and out.read_text("utf-8") != page
    (rows,) = re.findall(r'href="data:text/csv;charset=utf-8;base64,([^"]*)"', out.read_text("utf-8"))
    assert "'=1+1" in base64.b64decode(rows).decode()


def test_a_large_clip_lies_beside_the_page(
    trained: Callable[..., Path], small_weights: Path, clip: Path, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verbs import timeline

    found = predict([clip], trained("hff"), transcripts=[hostile], weights=str(small_weights))
    monkeypatch.setattr(timeline, "EMBED_BYTES", 0)
    page = timeline.page(found, clip.parent / "a page")
    assert 'src="../dia0_utt1.mp4"' in page and "base64" in page


def test_the_video_is_the_clip_with_its_answers_drawn_in(
    mer: Any, trained: Callable[..., Path], small_weights: Path, clip: Path, hostile: Path, talk: Path, tmp_path: Path
) -> None:
    import av

    out = tmp_path / "said.mp4"
    words = ["predict", "--model", trained("hff"), "--weights", small_weights, "--transcript", hostile]
    done = mer(*words, clip, "--video", out)
    assert done.code == 0, done.err

    def decoded(path: Path) -> tuple[list[float], np.ndarray[Any, Any], list[bytes]]:
        with av.open(str(path)) as opened:
            frames = list(opened.decode(video=0))
        with av.open(str(path)) as opened:
            sound = [bytes(packet) for packet in opened.demux(audio=0) if packet.size]
        return [f.time for f in frames], np.stack([f.to_ndarray(format="rgb24") for f in frames]).astype(int), sound

    times, before, sound = decoded(clip)
    new_times, after, new_sound = decoded(out)
    assert after.shape == before.shape and np.allclose(times, new_times, atol=1e-3) and sound == new_sound
    changed = np.abs(after - before)
    for at, difference in zip(times, changed, strict=True):
        speaks = at < 0.8 or 1.2 <= at < 1.6
        assert difference[: before.shape[1] // 4].mean() < 6
        assert (difference[-8:].mean() > 40) == speaks, at
    for words_, message in (
        ([clip, "--video", clip], "would replace"),
        ([clip, "--video", tmp_path / "a.avi"], "ends in .mp4"),
        ([talk, "--video", out], "has no pictures"),
    ):
        refused = mer(*words, *words_)
        assert refused.code == 1 and message in refused.err, refused.err
    assert not list(tmp_path.glob(".*"))


def test_an_exported_model_answers_as_its_seed_does(
    trained: Callable[..., Path], small_weights: Path, clip: Path, transcript: Path, tmp_path: Path
) -> None:
    run = trained("hff")
    exported = save_pretrained(load(run), tmp_path / "model", seed=1)
    given: dict[str, Any] = {"transcripts": [transcript], "weights": str(small_weights), "device": "cpu"}
    (mine,) = predict([clip], exported, **given).answers.values()
    (theirs,) = predict([clip], run, seed=1, **given).answers.values()
    assert mine.probabilities == theirs.probabilities
    with pytest.raises(MerError, match="seed 1 alone, not of seed 0"):
        predict([clip], exported, seed=0, **given)


def test_a_run_is_portable_and_one_that_does_not_say_how_its_features_are_made_needs_its_store(
    trained: Callable[..., Path], store: Path, small_weights: Path, clip: Path, transcript: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained("hff"), tmp_path / "run")
    given: dict[str, Any] = {"transcripts": [transcript], "weights": str(small_weights), "device": "cpu"}
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "store": "/nowhere"}))
    (with_spec,) = predict([clip], run, **given).answers.values()
    for facts in record["features"].values():
        del facts["spec"]
    (run / "run.json").write_text(json.dumps({**record, "store": str(store)}))
    (with_store,) = predict([clip], run, **given).answers.values()
    assert with_spec.probabilities == with_store.probabilities
    (run / "run.json").write_text(json.dumps({**record, "store": "/nowhere"}))
    with pytest.raises(MerError, match=r"earlier version.*/nowhere holds no feature store.*Train again"):
        predict([clip], run, **given)


def test_other_weights_than_those_of_the_training_are_refused(
    mer: Any, trained: Callable[..., Path], small_weights: Path, clip: Path, tmp_path: Path
) -> None:
    make_random_checkpoint("roberta", tmp_path / "other", "small", seed=1)
    words = ["predict", clip, "--model", trained("hff")]
    done = mer(*words, "--weights", f"roberta={tmp_path / 'other'},resnet={small_weights / 'resnet'}")
    assert done.code == 1 and done.out == ""
    assert done.err.startswith("mer: roberta: ") and "holds other weights" in done.err
    assert done.err.count("\n") == 1
    shutil.copytree(small_weights / "roberta", tmp_path / "changed")
    preset = json.loads((tmp_path / "changed" / "tokenizer_config.json").read_text())
    (tmp_path / "changed" / "tokenizer_config.json").write_text(json.dumps({**preset, "more": 1}))
    done = mer(*words, "--weights", f"roberta={tmp_path / 'changed'},resnet={small_weights / 'resnet'}")
    assert done.code == 1 and "tokenizer_config.json beside the weights" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp4"], r"nowhere\.mp4 does not exist"),
        (["CLIP", "CLIP"], "is given twice"),
        (["FOLDER"], "is a folder: name its clips"),
        (["CLIP", "--seed", "7"], "has no seed 7; it has 0, 1"),
        (["CLIP", "--transcript", "TEXT", "--transcript", "TEXT"], "2 transcripts for 1 clips"),
        (["TEXT"], "cannot be read as video or sound"),
        (["CLIP", "--weights", "/nowhere"], "there is no folder /nowhere"),
        (["CLIP", "--model", "/nowhere"], "/nowhere is no run"),
        (["CLIP", "--transcript", "CLIP"], "no transcript that is known by its ending"),
    ],
)
def test_errors_are_one_line(
    mer: Any,
    trained: Callable[..., Path],
    small_weights: Path,
    clip: Path,
    transcript: Path,
    words: list[str],
    message: str,
) -> None:
    places = {"CLIP": clip, "FOLDER": clip.parent, "TEXT": transcript}
    given = ["--model", trained("hff"), "--weights", small_weights, *(places.get(word, word) for word in words)]
    done = mer("predict", *given)
    assert (done.code, done.out) == (1, "")
    assert re.search(message, done.err) and done.err.count("\n") == 1, done.err


def test_features_that_were_imported_cannot_be_made_again(store: Path) -> None:
    from cache_schema.store import FeatureStore
    from extract.clips.matching import match

    spec = FeatureStore.open(store).feature("meld", "mfcc").spec
    with pytest.raises(SettingsError, match=r"reads glove as speech.*imported"):
        match(spec.model_copy(update={"feature": "glove"}), None, "a run")
    with pytest.raises(SettingsError, match=r"encoder is .* and was 'csv'"):
        match(spec.model_copy(update={"encoder": "csv"}), None, "a run")
