"""Decoding, on files that the tests encode themselves: what comes out is what was put in, or a reason."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from cache_schema.rows import Absent, Failed
from cache_schema.samples import Utterance
from extract.decoding import media, streams
from extract.decoding.media import decode, probe
from extract.encoder import Clip, FrameRequest, Needs

FPS = 25
SOUND = Needs(audio_hz=16000)
FIVE = FrameRequest(5.0, "whole", 32)
PICTURES = Needs(frames=FIVE)


def tone(seconds: float, hz: int, pitch: float = 440.0, channels: int = 1) -> NDArray[np.float32]:
    """A sine (channels, samples)."""
    wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * hz)) / hz)
    return np.tile(wave.astype(np.float32), (channels, 1))


def shades(count: int) -> list[int]:
    """A grey per picture, far enough apart to survive a codec."""
    return [20 + (i * 37) % 200 for i in range(count)]


def write(
    path: Path,
    greys: Sequence[int] = (),
    sound: NDArray[np.float32] | None = None,
    hz: int = 44100,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    size: tuple[int, int] = (64, 48),
    pixels: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    audio_delay: float = 0.0,
    gop: int = 12,
    **options: str,
) -> Path:
    """Encode pictures of one grey each, at 25 per second or at `times_ms`, and sound (channels, samples)."""
    with av.open(str(path), "w", options=options) as out:
        if greys:
            video = out.add_stream(video_codec, rate=FPS)
            video.width, video.height, video.pix_fmt = *size, pixels
            video.codec_context.gop_size = gop
            if times_ms is not None:
                video.codec_context.time_base = Fraction(1, 1000)
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = out.add_stream(audio_codec, rate=hz, layout=layout)
        for index, grey in enumerate(greys):
            picture = np.full((size[1], size[0], 3), grey, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index if times_ms is None else times_ms[index]
            frame.time_base = Fraction(1, FPS) if times_ms is None else Fraction(1, 1000)
            out.mux(video.encode(frame))
        if greys:
            out.mux(video.encode(None))
        if sound is not None:
            packed = (sound * 32767).round().astype(np.int16) if audio_codec.startswith(("pcm", "flac")) else sound
            for at in range(0, packed.shape[1], 1024):
                piece = packed[:, at : at + 1024]
                if packed.dtype == np.int16:
                    frame = av.AudioFrame.from_ndarray(piece.T.reshape(1, -1).copy(), format="s16", layout=layout)
                else:
                    frame = av.AudioFrame.from_ndarray(piece.copy(), format="fltp", layout=layout)
                frame.sample_rate, frame.time_base = hz, Fraction(1, hz)
                frame.pts = at + round(audio_delay * hz)
                out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path


def read(path: Path, *needs: Needs, start: float | None = None, end: float | None = None) -> Clip:
    return decode(path.parent, Utterance(id="u", path=path.name, start=start, end=end, text="hello"), needs)


def grey_of(frames: NDArray[np.uint8]) -> list[int]:
    return [round(float(f.mean())) for f in frames]


def assert_shown(clip: Clip, request: FrameRequest, expected: Sequence[int]) -> None:
    found = grey_of(clip.frames[request])
    assert len(found) == len(expected)
    assert np.abs(np.array(found) - np.array(expected)).max() <= 4, (found, list(expected))


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of H.264 and stereo AAC."""
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    return write(path, shades(50), tone(2.0, 44100, channels=2))


def test_one_pass_gives_every_encoder_what_it_asked_for(talk: Path) -> None:
    clip = read(
        talk, SOUND, Needs(audio_hz=8000), PICTURES, Needs(frames=FrameRequest(10.0, "whole", 48)), Needs(text=True)
    )
    assert clip.unreadable == {}
    assert set(clip.audio) == {16000, 8000}
    assert {r: f.shape for r, f in clip.frames.items()} == {
        FIVE: (10, 32, 32, 3),
        FrameRequest(10.0, "whole", 48): (20, 48, 48, 3),
    }
    assert all(a.dtype == np.float32 and a.ndim == 1 for a in clip.audio.values())
    assert clip.media_sha256 == hashlib.sha256(talk.read_bytes()).hexdigest()


def test_the_file_is_opened_once(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    read(talk, SOUND, Needs(audio_hz=8000), PICTURES)
    assert len(opened) == 1


def test_decoding_twice_gives_the_same_bits(talk: Path) -> None:
    first, second = (read(talk, SOUND, PICTURES) for _ in range(2))
    assert np.array_equal(first.audio[16000], second.audio[16000])
    assert np.array_equal(first.frames[FIVE], second.frames[FIVE])


def test_frame_k_is_the_picture_shown_in_the_middle_of_its_interval(talk: Path) -> None:
    greys = shades(50)
    for fps in (1.0, 4.0, 5.0, 12.5, 25.0, 60.0):
        request = FrameRequest(fps, "whole", 16)
        expected = [greys[int(round((k + 0.5) / fps * FPS, 6))] for k in range(math.ceil(2.0 * fps - 0.5))]
        assert_shown(read(talk, Needs(frames=request)), request, expected)


def test_variable_frame_rate_follows_presentation_times(tmp_path: Path) -> None:
    times = [0, 40, 80, 700, 720, 1400, 1900]
    greys = shades(len(times))
    path = write(tmp_path / "vfr.mkv", greys, times_ms=times, video_codec="ffv1", pixels="bgr0")
    clip = read(path, PICTURES)
    shown = [greys[max(i for i, t in enumerate(times) if t <= (k + 0.5) * 200)] for k in range(len(clip.frames[FIVE]))]
    assert len(shown) >= 9
    assert_shown(clip, FIVE, shown)


def test_only_wanted_pictures_are_converted(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    real = streams._rgb
    monkeypatch.setattr(streams, "_rgb", lambda frame, region: converted.append(frame.pts) or real(frame, region))
    read(talk, PICTURES, Needs(frames=FrameRequest(5.0, "whole", 48)))
    assert len(converted) == 10


def test_a_clip_shorter_than_a_tick_has_one_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "short.mp4", [120])
    assert_shown(read(path, PICTURES), FIVE, [120])


@pytest.mark.parametrize("size", [(63, 47), (33, 101), (640, 360), (16, 16)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write(tmp_path / "odd.mp4", [40, 200, 90], size=size, pixels="yuv444p")
    assert_shown(
        read(path, Needs(frames=FrameRequest(25.0, "whole", 32))), FrameRequest(25.0, "whole", 32), [40, 200, 90]
    )


def test_pictures_are_rgb_and_the_whole_frame(tmp_path: Path) -> None:
    import cv2

    picture = np.zeros((90, 120, 3), np.uint8)
    picture[:, :40], picture[:45, 40:], picture[45:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    cv2.imwrite(str(tmp_path / "flag.png"), picture[..., ::-1])
    request = FrameRequest(60.0, "whole", 30)
    clip = read(tmp_path / "flag.png", Needs(frames=request), SOUND)
    assert isinstance(clip.unreadable["audio"], Absent)
    frames = clip.frames[request]
    assert frames.shape == (1, 30, 30, 3)
    assert np.array_equal(frames[0], cv2.resize(picture, (30, 30), interpolation=cv2.INTER_AREA))


def rotated(path: Path, matrix: tuple[int, ...]) -> Path:
    """The same mp4 with another display matrix in its track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    data[at : at + 36] = struct.pack(">9i", *matrix)
    out = path.with_name("rotated.mp4")
    out.write_bytes(data)
    return out


def test_rotation_is_honoured(tmp_path: Path) -> None:
    path = tmp_path / "upright.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[:32] = 255  # bright above
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
    one = 1 << 16
    clockwise = rotated(path, (0, one, 0, -one, 0, 0, 64 * one, 0, 1 << 30))  # a phone's rotate=90
    upright, turned = (read(p, PICTURES).frames[FIVE][0].astype(int) for p in (path, clockwise))
    assert upright[:8].mean() > 200 > 50 > upright[-8:].mean()
    assert turned[:, -8:].mean() > 200 > 50 > turned[:, :8].mean()


@pytest.mark.parametrize("hz", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_comes_out_as_mono_at_the_rate_asked_for(tmp_path: Path, hz: int, channels: int) -> None:
    path = write(tmp_path / "tone.wav", sound=tone(1.0, hz, channels=channels), hz=hz, audio_codec="pcm_s16le")
    sound = read(path, SOUND).audio[16000]
    assert len(sound) == 16000
    inner = slice(400, -400)
    assert np.abs(sound - tone(1.0, 16000)[0])[inner].max() < 0.01


def test_sound_is_sample_exact(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-32768, 32767, 16000).astype(np.int16)
    path = write(tmp_path / "noise.wav", sound=noise[None] / np.float32(32767), hz=16000, audio_codec="pcm_s16le")
    expected = (noise[None] / np.float32(32767) * 32767).round()[0] / np.float32(32768)
    assert np.array_equal(read(path, SOUND).audio[16000], expected)
    assert np.array_equal(read(path, SOUND, start=0.1, end=0.7003).audio[16000], expected[1600:11205])


def test_two_channels_are_averaged_and_cannot_clip(tmp_path: Path) -> None:
    left, right = tone(0.5, 16000, 300.0)[0], tone(0.5, 16000, 700.0)[0]
    path = write(tmp_path / "two.wav", sound=np.stack([left, right]), hz=16000, audio_codec="pcm_s16le")
    assert np.abs(read(path, SOUND).audio[16000] - (left + right) / 2).max() < 1e-4
    loud = write(tmp_path / "loud.wav", sound=2 * tone(0.5, 16000, channels=2), hz=16000, audio_codec="pcm_s16le")
    assert np.abs(read(loud, SOUND).audio[16000] - 2 * tone(0.5, 16000)[0]).max() < 1e-3


def test_surround_is_mixed_to_one(tmp_path: Path) -> None:
    sound = np.zeros((6, 8000), np.float32)
    sound[2] = tone(0.5, 16000)[0]  # the centre, where speech is
    path = write(tmp_path / "five.wav", sound=sound, hz=16000, audio_codec="pcm_s16le")
    mono = read(path, SOUND).audio[16000]
    assert 0.1 < np.abs(mono).max() < 0.5


def test_late_sound_keeps_the_clock_of_the_pictures(tmp_path: Path) -> None:
    path = write(
        tmp_path / "late.mkv", shades(50), tone(1.0, 16000), hz=16000, audio_codec="pcm_s16le", audio_delay=0.8
    )
    sound = read(path, SOUND).audio[16000]
    assert abs(len(sound) - 1.8 * 16000) < 200
    assert np.abs(sound[: int(0.79 * 16000)]).max() == 0
    assert np.abs(sound[int(0.81 * 16000) :]).max() > 0.4


def test_an_utterance_is_cut_out_of_a_longer_clip(talk: Path) -> None:
    whole = read(talk, Needs(audio_hz=44100)).audio[44100]
    clip = read(talk, Needs(audio_hz=44100), PICTURES, start=0.6, end=1.4)
    assert np.array_equal(clip.audio[44100], whole[26460:61740])
    assert_shown(clip, FIVE, [shades(50)[int((0.6 + (k + 0.5) / 5) * FPS)] for k in range(4)])


def test_a_clip_cut_without_encoding_it_again_begins_at_its_cut(tmp_path: Path) -> None:
    """Such files still hold the pictures before the cut, and an edit list that hides them."""
    source = write(tmp_path / "source.mp4", shades(100), tone(4.0, 44100, channels=2), gop=100)
    path = tmp_path / "cut.mp4"
    with av.open(str(source)) as whole, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        copies = {stream: out.add_stream_from_template(stream) for stream in whole.streams}
        for packet in whole.demux():
            if packet.dts is None:
                continue
            shift = round(1.5 / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copies[packet.stream]
            out.mux(packet)
    clip = read(path, SOUND, PICTURES)
    assert clip.unreadable == {}
    assert abs(len(clip.audio[16000]) / 16000 - 2.5) < 0.03
    assert_shown(clip, FIVE, [shades(100)[int((1.5 + (k + 0.5) / 5) * FPS)] for k in range(12)])


def test_seeking_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (1, 12 * 16000)).astype(np.float32)
    path = write(tmp_path / "long.mkv", shades(300), noise, hz=16000, audio_codec="flac", gop=50)
    needs = (SOUND, PICTURES)
    sought = []
    real = media._Reading._read
    monkeypatch.setattr(
        media._Reading, "_read", lambda s, c, seek, faces: sought.append(seek) or real(s, c, seek, faces)
    )
    plain = read(path, *needs, start=7.3, end=9.1)
    monkeypatch.setattr(media, "SEEK_BEYOND", 3.0)
    jumped = read(path, *needs, start=7.3, end=9.1)
    assert sought == [False, True]
    assert np.array_equal(plain.audio[16000], jumped.audio[16000])
    assert np.array_equal(plain.frames[FIVE], jumped.frames[FIVE])


def test_seeking_too_far_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "long.mkv", shades(300), tone(12.0, 16000), hz=16000, audio_codec="flac", gop=25)
    sound, pictures = (read(path, need, start=7.3, end=9.1) for need in (SOUND, PICTURES))
    monkeypatch.setattr(media, "SEEK_BEYOND", 3.0)
    monkeypatch.setattr(media, "SEEK_MARGIN", -3.0)
    assert np.array_equal(read(path, SOUND, start=7.3, end=9.1).audio[16000], sound.audio[16000])
    assert np.array_equal(read(path, PICTURES, start=7.3, end=9.1).frames[FIVE], pictures.frames[FIVE])


def test_missing_streams_are_absent_not_failed(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.mp4", shades(25))
    blind = write(tmp_path / "blind.mp4", sound=tone(1.0, 44100))
    assert read(silent, SOUND, PICTURES).unreadable == {"audio": Absent("the clip has no sound")}
    assert read(blind, SOUND, PICTURES).unreadable == {"video": Absent("the clip has no pictures")}
    assert read(silent, PICTURES).frames[FIVE].shape[0] == 5
    assert 0 <= len(read(blind, SOUND).audio[16000]) - 16000 < 1024  # AAC pads its last frame


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    from av.stream import Disposition

    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("aac", rate=44100, layout="mono")
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        out.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        out.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(1.0, 44100), format="fltp", layout="mono")
        frame.sample_rate = 44100
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    clip = read(path, SOUND, PICTURES)
    assert isinstance(clip.unreadable["video"], Absent)
    assert 16000 in clip.audio


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_no_transcript_is_absent(text: str | None) -> None:
    clip = decode(Path("nowhere"), Utterance(id="u", text=text), [Needs(text=True)])
    assert isinstance(clip.unreadable["text"], Absent)


def test_no_clip_is_absent_and_text_is_still_read(tmp_path: Path) -> None:
    clip = decode(tmp_path, Utterance(id="u", text="hello"), [Needs(text=True), SOUND])
    assert set(clip.unreadable) == {"audio"}
    assert isinstance(clip.unreadable["audio"], Absent)


def assert_failed(clip: Clip, *streams: str) -> None:
    """Each stream failed, for a reason in one line that names the file and not the machine's folders."""
    for stream in streams:
        failure = clip.unreadable[stream]
        assert isinstance(failure, Failed), failure
        assert clip.utterance.path in failure.reason
        assert "\n" not in failure.reason
        assert "/tmp" not in failure.reason
    assert not clip.audio and not clip.frames


def broken_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "zero_bytes":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no clip\n" * 200)
    elif kind == "folder":
        path.mkdir()
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(20000))
    return path


@pytest.mark.parametrize("kind", ["missing", "zero_bytes", "text", "folder", "noise"])
def test_what_is_no_media_fails_for_sound_and_pictures(tmp_path: Path, kind: str) -> None:
    clip = read(broken_file(tmp_path, kind), SOUND, PICTURES, Needs(text=True))
    assert set(clip.unreadable) == {"audio", "video"}
    assert_failed(clip, "audio", "video")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.85])
@pytest.mark.parametrize("form", ["head.mp4", "tail.mp4", "cut.mkv", "cut.wav", "cut.avi"])
def test_a_truncated_file_fails_and_is_never_silently_short(tmp_path: Path, form: str, share: float) -> None:
    greys, sound = shades(100), tone(4.0, 44100, channels=2)
    if form == "cut.wav":
        path = write(tmp_path / form, sound=sound, audio_codec="pcm_s16le")
    elif form == "head.mp4":
        path = write(tmp_path / form, greys, sound, movflags="faststart")
    else:
        path = write(tmp_path / form, greys, sound)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    clip = read(path, SOUND, PICTURES) if form != "cut.wav" else read(path, SOUND)
    assert_failed(clip, *({"audio", "video"} if form != "cut.wav" else {"audio"}))


def test_damage_in_the_middle_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "hit.mp4", shades(100), tone(4.0, 44100, channels=2))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = np.random.default_rng(0).bytes(400)
    path.write_bytes(data)
    assert isinstance(read(path, SOUND, PICTURES).unreadable["audio"], Failed)


def test_a_stream_that_stops_early_fails_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "half.mkv", shades(100), tone(1.0, 44100))
    assert read(path, SOUND, PICTURES).unreadable == {}  # the header promises no more sound than there is
    late = read(path, SOUND, PICTURES, start=2.0, end=3.0)
    assert isinstance(late.unreadable["audio"], Failed)
    assert set(late.frames) == {FIVE}


def test_an_utterance_beyond_the_clip_fails(talk: Path) -> None:
    for start, end in ((5.0, 6.0), (1.5, 4.0)):
        clip = read(talk, SOUND, PICTURES, start=start, end=end)
        assert_failed(clip, "audio", "video")
    assert read(talk, SOUND, PICTURES, start=1.5, end=2.1).unreadable == {}  # within the tolerance


def test_sound_that_is_no_number_fails(tmp_path: Path) -> None:
    path = tmp_path / "nan.wav"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_f32le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 1000), np.nan, np.float32), format="flt", layout="mono")
        frame.sample_rate = 16000
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    assert_failed(read(path, SOUND), "audio")


def test_a_known_defect_is_in_the_reason(tmp_path: Path) -> None:
    utterance = Utterance(id="u", path="a/b.mp4", known_defect="absent from the release")
    clip = decode(tmp_path, utterance, [SOUND])
    assert "absent from the release" in clip.unreadable["audio"].reason
    assert "a/b.mp4" in clip.unreadable["audio"].reason


def test_probe_reads_the_header(talk: Path, tmp_path: Path) -> None:
    found = probe(talk)
    assert found is not None
    assert abs(found - 2.0) < 0.1
    assert probe(tmp_path / "missing.mp4") is None
    assert probe(broken_file(tmp_path, "text")) is None


def test_real_clips(test_data: Path) -> None:
    clips = test_data / "clips"
    for path in sorted(clips.glob("*.mpg")):
        clip = read(path, SOUND, PICTURES)
        assert clip.unreadable == {}
        assert clip.frames[FIVE].shape == (15, 32, 32, 3)
        assert abs(len(clip.audio[16000]) - 47640) < 500
        assert np.abs(clip.audio[16000]).max() > 0.3
    for name in ("single_face.mp4", "no_face.mp4", "face_noface.mov"):
        clip = read(clips / name, SOUND, PICTURES)
        assert clip.unreadable == {}
        assert abs(len(clip.frames[FIVE]) / 5 - (probe(clips / name) or 0)) < 0.25
    for name in ("single_face.jpg", "multi_face.jpg"):
        clip = read(clips / name, SOUND, PICTURES)
        assert clip.frames[FIVE].shape == (1, 32, 32, 3)
        assert isinstance(clip.unreadable["audio"], Absent)
        assert probe(clips / name) is None
