"""Clips, decoded once: sound at every rate and pictures on every clock that the encoders ask for.

Time zero is where the file's presentation begins, for sound and pictures alike, so that both share one clock;
`utterance.start` and `utterance.end` count from there. What cannot be read is a `Failed` with its reason.
Decoding is PyAV's (FFmpeg); FFmpeg's decoders conceal damage inside a picture, which no one can see from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import MerError, SettingsError, first_line
from cache_schema.rows import Absent, Failed
from cache_schema.samples import Utterance
from extract.decoding.containers import open_container, require_file
from extract.decoding.streams import (
    TOLERANCE_SHARE,
    MissedSeekError,
    PictureReader,
    Reader,
    SoundReader,
    StreamError,
    Window,
    is_short,
)
from extract.encoder import Clip, FrameRequest, Needs, Stream
from extract.faces import FaceTrack
from extract.physiology.signals import decode_signals

SEEK_BEYOND = 10.0
"""Utterances that begin later than this, in seconds, are reached by seeking."""
SEEK_MARGIN = 2.0
"""Seconds decoded before an utterance after seeking, for the decoders to settle."""
LEAST_BYTES_PER_SECOND = 500.0
"""No file is believed to last longer than it would at 4 kbit/s, whatever its header says."""
NO_HEADER = {"mp3", "aac", "ac3", "eac3", "amr", "loas", "h264", "hevc", "mpegvideo", "m4v"}
"""Formats without a header: what FFmpeg calls their duration is a guess from the bit rate."""

STREAMED_RIFF = 0xFFFFFFFF + 8
"""The length in a RIFF header whose writer did not know it."""


def probe(path: Path) -> float | None:
    """The duration in seconds by the file's header, which a segment of features is sized by. Decodes nothing.

    None where the header has none or cannot be read, and where the file is too small for what it promises.
    """
    import av

    try:
        with open_container(path) as container:
            if _is_picture(container) or container.duration is None:
                return None
            seconds = float(container.duration / av.time_base)
            return seconds if 0 < seconds <= path.stat().st_size / LEAST_BYTES_PER_SECOND else None
    except (StreamError, av.FFmpegError, OSError, ValueError):
        return None


def decode(root: Path, utterance: Utterance, needs: Sequence[Needs]) -> Clip:
    """Read everything that `needs` asks of one utterance, opening each of its files once.

    Sound is FFmpeg's mono downmix, scaled so that it cannot clip, cut to the utterance sample by sample at the
    file's own rate, then resampled to each rate that is asked for. Pictures are converted to RGB and resized
    once, the wanted ones alone. A stream that stops early is `Failed` rather than short: the tolerance is
    0.25 s, or 2% of the stream where that is more.

    Args:
        root: the data root that `utterance.path` starts from.
        utterance: which one.
        needs: what the encoders ask for.

    Returns:
        The clip, with a reason in `unreadable` for each stream that was asked for and is not there. Never
        raises for what it finds in a file.

    Raises:
        SettingsError: what decodes is not installed, or a model that it needs is not at hand.
        MemoryError: the clip takes more memory than there is; `quarantine.decode` makes a failure of that too.
    """
    clip = _decode_media(root, utterance, needs)
    requests = list(dict.fromkeys(need.signals for need in needs if need.signals is not None))
    if not requests:
        return clip
    subject = next((need.subject for need in needs if need.subject), ())
    signals, digest, reason = decode_signals(root, utterance, requests, subject)
    unreadable = clip.unreadable if reason is None else clip.unreadable | {"signals": reason}
    return replace(clip, signals=signals, signals_sha256=digest, unreadable=unreadable)


def failed_clip(utterance: Utterance, needs: Sequence[Needs], what: str) -> Clip:
    """A clip of which nothing could be read but its transcript, for one reason."""
    clip = _decode(Path(), utterance, [Needs(text=True)] if any(need.text for need in needs) else [])
    streams = {stream for need in needs for stream in need.streams if stream != "text"}
    return replace(clip, unreadable=clip.unreadable | dict.fromkeys(streams, Failed(_reason(utterance, what))))


def _decode_media(root: Path, utterance: Utterance, needs: Sequence[Needs]) -> Clip:
    """The sound, the pictures and the transcript."""
    if utterance.sound is None:
        return _decode(root, utterance, needs)
    alone = utterance.model_copy(update={"path": utterance.sound, "sound": None, "start": None, "end": None})
    heard = _decode(root, alone, [replace(need, frames=None) for need in needs])
    seen = _decode(root, utterance, [replace(need, audio_hz=None) for need in needs])
    unreadable = {**seen.unreadable, **heard.unreadable}
    return replace(seen, audio=heard.audio, sound_sha256=heard.sound_sha256, unreadable=unreadable)


def _decode(root: Path, utterance: Utterance, needs: Sequence[Needs]) -> Clip:
    """What `needs` asks of the one file that `utterance.path` names."""
    streams: set[Stream] = {stream for need in needs for stream in need.streams}
    unreadable: dict[Stream, Absent | Failed] = {}
    if "text" in streams and not (utterance.text or "").strip():
        heard = utterance.recognised is not None
        unreadable["text"] = Absent("no speech was recognised in it" if heard else "the sample has no transcript")
    media = [stream for stream in ("audio", "video", "face") if stream in streams]
    if not media:
        return Clip(utterance, unreadable=unreadable)
    if utterance.path is None:
        return Clip(utterance, unreadable=unreadable | dict.fromkeys(media, Absent("the sample has no clip")))
    path = root / utterance.path
    try:
        require_file(path)
        digest = _digest(path)
        _refuse_cut_riff(path)
        read = _Reading(path, utterance, needs)
        read.run()
    except (MerError, MemoryError):
        raise  # not this clip's fault, or not one that this process may survive
    except ImportError as error:
        raise SettingsError(f"Clips cannot be decoded ({first_line(error)}); `mer doctor` tells more.") from error
    except Exception as error:  # noqa: BLE001 - a clip may break a decoder in any way; the run goes on without it
        failure = Failed(_reason(utterance, first_line(error)))
        return Clip(utterance, unreadable=unreadable | dict.fromkeys(media, failure))
    faces = {fps: track for fps, track in read.faces.items() if track is not None}
    return Clip(
        utterance,
        read.audio,
        read.frames,
        faces,
        media_sha256=digest,
        sound_sha256=digest,
        unreadable=unreadable | read.unreadable,
    )


class _Reading:
    """One pass over one file."""

    def __init__(self, path: Path, utterance: Utterance, needs: Sequence[Needs]) -> None:
        self.path, self.utterance = path, utterance
        self.rates = sorted({n.audio_hz for n in needs if n.audio_hz is not None})
        self.requests = list(dict.fromkeys(n.frames for n in needs if n.frames is not None))
        self.audio: dict[int, NDArray[np.float32]] = {}
        self.frames: dict[FrameRequest, NDArray[np.uint8]] = {}
        self.faces: dict[float, FaceTrack | None] = {}
        self.unreadable: dict[Stream, Absent | Failed] = {}
        self._again = False

    def run(self) -> None:
        """Fill `audio`, `frames`, `faces` and `unreadable`.

        The pictures of a long clip's face are cut in a second pass, when its square is known.

        Raises:
            StreamError: the file cannot be opened, is cut short, or holds neither sound nor pictures.
        """
        import av

        try:
            self._pass({})
            if self._again:
                self.rates = []
                self.requests = [r for r in self.requests if r.crop == "face"]
                self._pass(self.faces)
        except av.FFmpegError as error:
            raise StreamError(first_line(error)) from error

    def _pass(self, faces: Mapping[float, FaceTrack | None]) -> None:
        """Read the file once, with the faces that an earlier pass has followed."""
        with open_container(self.path) as container:
            try:
                self._read(container, (self.utterance.start or 0.0) > SEEK_BEYOND, faces)
            except MissedSeekError:
                container.seek(0)
                self._read(container, False, faces)

    def _read(self, container: Any, seek: bool, faces: Mapping[float, FaceTrack | None]) -> None:
        import av

        start = self.utterance.start or 0.0
        origin = max(0.0, (container.start_time or 0) / av.time_base)
        window = Window(origin, start, self.utterance.end, seek)
        sound, pictures = _first(container, "audio"), _first(container, "video")
        undecodable = next((s for s in (sound, pictures) if s is not None and s.codec_context is None), None)
        if undecodable is not None:
            raise StreamError(f"there is no decoder for its {undecodable.type} stream")
        if sound is None and pictures is None:
            raise StreamError("holds neither sound nor pictures")
        still = _is_picture(container)
        has_header = not still and container.format.name not in NO_HEADER
        readers: dict[Any, Reader] = {}
        if self.rates and sound is not None:
            readers[sound] = SoundReader(window, _declared(sound, origin, has_header), sound.rate)
        if self.requests and pictures is not None:
            frame_seconds = float(1 / pictures.average_rate) if pictures.average_rate else 0.04
            declared = _declared(pictures, origin, has_header)
            readers[pictures] = PictureReader(
                window, declared, self.requests, frame_seconds, still, self.utterance.region, faces
            )
        if seek:
            container.seek(int((start - SEEK_MARGIN + origin) * av.time_base))
        reached = self._feed(container, readers)
        streams_tell = all(s.duration is not None for s in (sound, pictures) if s is not None)
        if has_header and not streams_tell and reached is not None and container.duration is not None:
            header, reached = container.duration / av.time_base, reached - origin
            if is_short(reached, header):
                for reader in readers.values():
                    reader.fail(f"is cut short: the header promises {header:.2f} s, the data end at {reached:.2f} s")
        if self.rates:
            self._collect("audio", readers.get(sound), lambda r: self.audio.update(r.finish(self.rates)))
        if self.requests:
            self._collect("video", readers.get(pictures), self._take_pictures)
            if "video" in self.unreadable and any(request.crop == "face" for request in self.requests):
                self.unreadable["face"] = self.unreadable["video"]

    def _take_pictures(self, reader: PictureReader) -> None:
        frames, faces, self._again = reader.finish()
        self.frames.update(frames)
        self.faces.update(faces)

    def _feed(self, container: Any, readers: dict[Any, Reader]) -> float | None:
        """Give every reader its frames; returns where the data end in file time, None when stopped before that."""
        import av

        reached = 0.0
        try:
            for packet in container.demux():
                if packet.pts is not None:
                    reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                reader = readers.get(packet.stream)
                if reader is not None and not reader.done:
                    for frame in _frames(packet, reader):
                        reader.feed(frame)
                if all(r.done for r in readers.values()):
                    return None
        except (av.FFmpegError, ValueError) as error:
            for reader in readers.values():
                reader.fail(f"cannot be read to its end ({first_line(error)})")
            return None
        return reached

    def _collect(self, name: Stream, reader: Any, finish: Callable[[Any], None]) -> None:
        if reader is None:
            self.unreadable[name] = Absent("the clip has no sound" if name == "audio" else "the clip has no pictures")
            return
        try:
            finish(reader)
        except (StreamError, ValueError) as error:
            self.unreadable[name] = Failed(_reason(self.utterance, first_line(error)))


def _frames(packet: Any, reader: Reader) -> Iterator[Any]:
    """The packet's frames; a packet that cannot be decoded fails its reader, not the pass."""
    import av

    try:
        yield from packet.decode()
    except (av.FFmpegError, ValueError) as error:
        reader.fail(f"{reader.what} cannot be decoded ({first_line(error)})")


def _first(container: Any, kind: str) -> Any:
    """FFmpeg's choice among the streams of a kind, cover pictures left out."""
    from av.stream import Disposition

    best = container.streams.best(kind)
    own = [s for s in container.streams if s.type == kind and not s.disposition & Disposition.attached_pic]
    return best if best in own else next(iter(own), None)


def _declared(stream: Any, origin: float, has_header: bool) -> float | None:
    """Where the stream ends by the file's header, in seconds."""
    if not has_header or stream.duration is None:
        return None
    return float((stream.duration + (stream.start_time or 0)) * stream.time_base) - origin


def _is_picture(container: Any) -> bool:
    name: str = container.format.name
    return name == "image2" or name.endswith("_pipe")


def _reason(utterance: Utterance, what: str) -> str:
    known = f" (known of this release: {utterance.known_defect})" if utterance.known_defect else ""
    return f"{utterance.path or utterance.sound or utterance.signals}: {what}{known}"


def _refuse_cut_riff(path: Path) -> None:
    """Refuse a WAV or AVI that is shorter than its header says, which FFmpeg passes over.

    Raises:
        StreamError: saying how much is there.
    """
    with path.open("rb") as file:
        head = file.read(12)
    promised, there = int.from_bytes(head[4:8], "little") + 8, path.stat().st_size
    if head[:4] == b"RIFF" and promised != STREAMED_RIFF and there < promised * (1 - TOLERANCE_SHARE):
        raise StreamError(f"is cut short: its header promises {promised} bytes, and it has {there}")


def _digest(path: Path) -> str:
    facts = path.stat()
    return _digest_of(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:
    """sha256 of a file; many utterances of one long file read it once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
