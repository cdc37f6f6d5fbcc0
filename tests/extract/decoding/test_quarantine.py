"""Decoding in processes that may die: the numbers are the same, and no clip takes the run with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import deadly_work
import numpy as np
import pytest

from bench.hostile_media import bombs, make_special
from cache_schema.errors import SettingsError
from cache_schema.rows import Failed
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore
from extract import pipeline
from extract.dataset import sound_seconds
from extract.decoding import media, quarantine
from extract.decoding.quarantine import DecodeLimits, decode, probe
from extract.encoder import Clip, FrameRequest, Needs
from extract.run import extract
from extract.synthetic.corpus import write_mp4

SOUND = Needs(audio_hz=16000)
FIVE = FrameRequest(5.0, "whole", 96)
PICTURES = Needs(frames=FIVE)
TIGHT = DecodeLimits(gigabytes=0.5)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of pictures and sound."""
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    rng = np.random.default_rng(0)
    write_mp4(
        path, rng.integers(0, 255, (20, 64, 96, 3), np.uint8), rng.normal(0, 0.1, 32000).astype(np.float32), 10, 16000
    )
    return path


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Lets the children do other work than decoding."""
    yield lambda work: monkeypatch.setattr(quarantine.media, "decode", work)


def read(path: Path, *needs: Needs, limits: DecodeLimits = quarantine.DEFAULT_LIMITS) -> Clip:
    return decode(path.parent, Utterance(id="u", path=path.name, text="hello"), needs, limits)


def reason(clip: Clip, stream: Any = "audio") -> str:
    failure = clip.unreadable[stream]
    assert isinstance(failure, Failed)
    return failure.reason


def test_another_process_gives_the_same_bits_in_shared_memory(talk: Path) -> None:
    needs = (SOUND, PICTURES, Needs(frames=FrameRequest(2.0, "whole", 300)), Needs(text=True))
    there = read(talk, *needs)
    here = media.decode(talk.parent, there.utterance, needs)
    assert here.unreadable == there.unreadable == {}
    assert there.media_sha256 == here.media_sha256
    assert np.array_equal(there.audio[16000], here.audio[16000])
    for request, pictures in here.frames.items():
        assert np.array_equal(there.frames[request], pictures) and there.frames[request].flags.writeable
    assert probe(talk) == media.probe(talk)


def test_a_transcript_alone_asks_no_process(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "_Child", None)
    monkeypatch.setattr(quarantine, "_idle", {})
    assert read(talk, Needs(text=True)).unreadable == {}


def test_a_clip_that_takes_too_long_fails_and_the_next_is_read(
    talk: Path, working: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(quarantine.media, "decode", deadly_work.sleep_forever)
        began = time.perf_counter()
        slow = read(talk, SOUND, PICTURES, limits=DecodeLimits(seconds=0.5))
        assert time.perf_counter() - began < 4
    assert set(slow.unreadable) == {"audio", "video"}
    assert reason(slow) == "talk.mp4: took longer than 0.5 s to decode (--decode-seconds)"
    assert read(talk, SOUND).unreadable == {}


def test_a_clip_that_its_decoder_dies_of_twice_fails_and_once_is_no_proof(
    talk: Path, tmp_path: Path, working: Callable[[Any], None]
) -> None:
    working(deadly_work.die)
    assert reason(read(talk, SOUND)) == "talk.mp4: the process that decoded it died of it twice (SIGSEGV)"
    working(deadly_work.die_once)
    (tmp_path / "talk.mp4").write_bytes(talk.read_bytes())
    assert read(tmp_path / "talk.mp4", SOUND).unreadable == {}
    assert (tmp_path / "died").exists()


def test_a_clip_that_takes_too_much_memory_fails(talk: Path, working: Callable[[Any], None]) -> None:
    working(deadly_work.eat_memory)
    clip = read(talk, SOUND, Needs(text=True), limits=TIGHT)
    assert reason(clip) == "talk.mp4: takes more than 0.5 GB of memory to decode (--decode-gb)"
    assert set(clip.unreadable) == {"audio"}


def test_what_is_not_the_clips_fault_ends_the_run(talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MER_FACE_MODEL", str(tmp_path / "nowhere.task"))
    with pytest.raises(SettingsError, match=r"nowhere\.task is not there"):
        read(talk, Needs(frames=FrameRequest(5.0, "face", 96)))


def test_small_files_that_declare_or_hide_much_are_failures_within_their_memory(tmp_path: Path) -> None:
    small_enough = {"wide.png": {"audio"}, "silence.wav": {"video"}}
    for name, content in bombs().items():
        (tmp_path / name).write_bytes(content)
        clip = read(tmp_path / name, SOUND, PICTURES, limits=TIGHT)
        assert set(clip.unreadable) == small_enough.get(name, {"audio", "video"}), name
        for what in clip.unreadable.values():
            assert isinstance(what, Failed) or what.reason.startswith("the clip has no "), (name, what)
            assert "\n" not in what.reason and str(tmp_path) not in what.reason


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {
        "pipe.mp4": "is a named pipe, not a file",
        "socket.mp4": "is a socket, not a file",
        "zero.mp4": "is a device, not a file",
        "folder.mp4": "is a folder, not a file",
        "passwd.mp4": "Invalid data found when processing input",
        "loop.mp4": "Too many levels of symbolic links",
        "gone.mp4": "No such file or directory",
    }
    make_special(tmp_path)
    for name, what in expected.items():
        assert reason(read(tmp_path / name, SOUND)) == f"{name}: {what}"
        assert probe(tmp_path / name) is None


def test_a_file_leads_to_no_other(tmp_path: Path, talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talk.mp4").write_bytes(talk.read_bytes())
    (tmp_path / "list.mp4").write_bytes(b"ffconcat version 1.0\nfile talk.mp4\n")
    assert "of a format that is not read" in reason(read(tmp_path / "list.mp4", SOUND))
    for name in ("p%03d.png", "p001.png", "p002.png"):
        cv2.imwrite(str(tmp_path / name), np.full((8, 8, 3), 200 if "%" in name else 20, np.uint8))
    pictures = read(tmp_path / "p%03d.png", PICTURES).frames[FIVE]
    assert pictures.shape[0] == 1 and pictures.mean() == 200
    monkeypatch.chdir(tmp_path)  # the children began elsewhere
    assert decode(Path(), Utterance(id="u", path="talk.mp4"), [SOUND]).unreadable == {}
    clip = decode(Path(), Utterance(id="u", path="concat:talk.mp4|talk.mp4"), [SOUND])
    assert reason(clip).endswith("No such file or directory")


def test_a_header_is_believed_as_far_as_its_files_size_makes_it_credible(tmp_path: Path) -> None:
    """One enormous duration would make a segment of every sample."""
    for hz, seconds in ((8000, 0.25), (1, None)):
        with wave.open(str(tmp_path / "a.wav"), "wb") as out:
            out.setparams((1, 2, hz, 0, "NONE", ""))
            out.writeframes(bytes(4000))
        assert probe(tmp_path / "a.wav") == sound_seconds(tmp_path / "a.wav", probe) == seconds


def test_the_time_limit_follows_the_clip_as_far_as_its_size_makes_it_credible(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(50_000))

    def seconds(duration: float | None, **more: Any) -> float:
        return DecodeLimits().seconds_for(tmp_path, Utterance(id="u", path="a.mp4", duration=duration, **more))

    assert (seconds(None), seconds(10.0), seconds(1e12)) == (60, 100, 460)
    assert seconds(2.0, start=50.0) == seconds(None, start=10.0, end=52.0) == 268
    assert DecodeLimits(seconds=5).seconds_for(tmp_path, Utterance(id="u", path="a.mp4", duration=1e12)) == 5


def test_no_process_outlives_a_run_that_was_killed(talk: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from extract.decoding import quarantine\n"
        f"quarantine.probe(Path({str(talk)!r}))\n"
        "print(quarantine._idle[2.0][0]._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        os.kill(child, 0)
        run.kill()
        until = time.monotonic() + 5
        while time.monotonic() < until and Path(f"/proc/{child}").exists() and "Z" not in _state(child):
            time.sleep(0.05)
        assert not Path(f"/proc/{child}").exists() or "Z" in _state(child)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2]
    except OSError:
        return "Z"


def test_a_run_survives_a_clip_that_kills_decoders(
    small_corpus: Path, tmp_path: Path, working: Callable[[Any], None]
) -> None:
    def run(store: str) -> tuple[dict[str, bytes], dict[str, str]]:
        extract("meld", small_corpus, str(tmp_path / store), encoders=["mfcc"], device="cpu")
        feature = FeatureStore.open(tmp_path / store).feature("meld", "mfcc")
        failures = feature.failures()
        ids = [id_ for id_ in FeatureStore.open(tmp_path / store).samples("meld").ids if id_ not in failures]
        return {id_: feature.read(id_)["values"].tobytes() for id_ in ids}, failures

    whole, none = run("whole")
    working(deadly_work.die_of_one_clip)
    rest, failures = run("hit")
    assert none == {} and list(failures) == ["train/dia0_utt1"] and "SIGSEGV" in failures["train/dia0_utt1"]
    assert rest == {id_: values for id_, values in whole.items() if id_ not in failures}


def test_clips_that_hold_far_more_than_they_say_are_decoded_alone(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[str] = Counter()
    windows: list[int] = []
    real, collect = pipeline.decode, pipeline._encode

    def counted(root: Path, utterance: Utterance, *given: Any) -> Clip:
        decoded[utterance.id] += 1
        return real(root, utterance, *given)

    def seen(job: Any, window: Any, *given: Any) -> Any:
        windows.append(len(window))
        return collect(job, window, *given)

    monkeypatch.setattr(pipeline, "decode", counted)
    monkeypatch.setattr(pipeline, "_encode", seen)
    monkeypatch.setattr(pipeline, "_nominal_bytes", lambda wanted: 1000 if "utt0" in wanted.utterance.id else 1 << 20)
    report = extract("meld", small_corpus, str(tmp_path / "store"), encoders=["mfcc"], device="cpu")
    liars = [id_ for id_ in decoded if "utt0" in id_]
    assert liars and all(decoded[id_] == 2 for id_ in liars) and sum(decoded.values()) == len(decoded) + len(liars)
    assert windows.count(1) >= len(liars) and report.features[0].written == len(decoded)
