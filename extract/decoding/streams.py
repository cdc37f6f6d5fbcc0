"""The sound and the pictures of one utterance, gathered from decoded frames in presentation order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extract.encoder import Crop, FrameRequest
from extract.faces import Face, FaceTrack, find_faces, follow

TOLERANCE_SECONDS = 0.25
"""Seconds by which a stream may end early, or pause."""
TOLERANCE_SHARE = 0.02
"""Share of its length by which it may end early, where that is more."""
Region = tuple[float, float, float, float]
"""Left, top, width and height as shares of an upright picture."""
JITTER = 0.02
"""Seconds by which time stamps may disagree with the count of samples (containers round them)."""


class StreamError(Exception):
    """A stream is not what it must be; the message says how."""


class MissedSeekError(Exception):
    """Seeking landed behind the utterance's beginning."""


def is_short(reached: float, expected: float) -> bool:
    """Whether a stream that ends at `reached` lacks more of its `expected` seconds than is tolerated."""
    return expected - reached > max(TOLERANCE_SECONDS, TOLERANCE_SHARE * expected)


@dataclass(frozen=True)
class Window:
    """Which part of a stream is wanted, on the clip's clock.

    Attributes:
        origin: file time of the clip's second zero.
        start: where the utterance begins, in seconds.
        end: where it ends; None: with the stream.
        sought: the file is not read from its beginning.
    """

    origin: float
    start: float
    end: float | None
    sought: bool


class Reader:
    """What both kinds of stream share: the window, how far it was read, and the first thing that went wrong.

    Args:
        window: what is wanted.
        declared: where the stream ends by the file's header, in seconds, where a header says so.
    """

    what = "a stream"

    def __init__(self, window: Window, declared: float | None) -> None:
        self.window, self.declared = window, declared
        self.reached: float | None = None
        self.done = False
        self._failure: str | None = None

    def feed(self, frame: Any) -> None:
        """Take the next decoded frame."""
        raise NotImplementedError

    def fail(self, reason: str) -> None:
        """Remember the first reason, and read no further."""
        self._failure = self._failure or reason
        self.done = True

    def check(self) -> None:
        """Refuse a stream on which something went wrong, or that does not reach the utterance's end.

        Raises:
            StreamError: saying what.
        """
        if self._failure is not None:
            raise StreamError(self._failure)
        if self.reached is None:
            raise StreamError(f"{self.what} is empty")
        start, end, ends = self.window.start, self.window.end, f"{self.what} ends at {self.reached:.2f} s"
        if self.reached <= start:
            raise StreamError(f"{ends}, before the utterance begins ({start:.2f} s)")
        if end is not None and is_short(self.reached, end):
            raise StreamError(f"{ends}, before the utterance does ({end:.2f} s)")
        if end is None and self.declared is not None and is_short(self.reached, self.declared):
            raise StreamError(f"{ends}, though the header promises {self.declared:.2f} s")


class SoundReader(Reader):
    """Mono sound of the window, at the stream's own rate until `finish`."""

    what = "the sound"

    def __init__(self, window: Window, declared: float | None, hz: int) -> None:
        import av

        super().__init__(window, declared)
        self._hz = hz
        self._first = round(window.start * hz)
        self._stop = None if window.end is None else max(self._first + 1, round(window.end * hz))
        self._next: int | None = None
        self._pieces: list[tuple[int, NDArray[np.float32]]] = []
        self._mono = av.AudioResampler(format="fltp", layout="mono", rate=hz, options={"rematrix_maxval": "1.0"})

    def feed(self, frame: Any) -> None:
        """Take the next frame; a clip's delayed start and tiny pauses between frames are silence, as players do."""
        at = self._next or 0 if frame.time is None else round((frame.time - self.window.origin) * self._hz)
        if self._next is None:
            if self.window.sought and at > self._first:
                raise MissedSeekError
            self._next = at
        gap = (at - self._next) / self._hz
        if gap > TOLERANCE_SECONDS:
            self.fail(f"{gap:.2f} s of {self.what} are missing at {self._next / self._hz:.2f} s")
            return
        if gap > JITTER:
            self._next = at
        for converted in self._mono.resample(frame):
            samples = converted.to_ndarray()[0]
            if self._next + len(samples) > self._first:
                self._pieces.append((self._next, samples))
            self._next += len(samples)
        self.reached = self._next / self._hz
        self.done = self._stop is not None and self._next >= self._stop

    def finish(self, rates: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """The window's sound at each rate in Hz: float32 (samples,) in [-1, 1].

        Raises:
            StreamError: the sound is not all there, or holds what is no number.
        """
        self.check()
        assert self._next is not None
        stop = self._next if self._stop is None else min(self._stop, self._next)
        mono = np.zeros(stop - self._first, np.float32)
        for at, samples in self._pieces:
            begin, end = max(at, self._first), min(at + len(samples), stop)
            if begin < end:
                mono[begin - self._first : end - self._first] = samples[begin - at : end - at]
        if not np.isfinite(mono).all():
            raise StreamError(f"{self.what} holds values that are no numbers")
        return {rate: np.clip(resample(mono, self._hz, rate), -1.0, 1.0) for rate in rates}


def resample(mono: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """`mono` (samples,) at another rate, by FFmpeg's resampler: ceil(samples * to_hz / from_hz) samples."""
    import av

    if from_hz == to_hz:
        return mono
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono[None]), format="fltp", layout="mono")
    frame.sample_rate = from_hz
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=to_hz)
    pieces = [f.to_ndarray()[0] for f in [*resampler.resample(frame), *resampler.resample(None)]]
    length = math.ceil(len(mono) * to_hz / from_hz)
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


class PictureReader(Reader):
    """Pictures of the window on each request's clock; only these are converted.

    A picture is shown until the next one begins, the first also before its time. A window too short for a
    clock's first tick has the last picture that it shows.

    Args:
        window: the utterance's stretch of the file.
        declared: where the stream ends by the file's header, in seconds.
        requests: which pictures.
        frame_seconds: how long a picture is shown where the file does not say.
        still: the file is one picture.
        region: the part of the picture that counts.
        faces: frames per second -> the face that an earlier pass over the same stretch followed.
    """

    what = "the video"

    def __init__(
        self,
        window: Window,
        declared: float | None,
        requests: Sequence[FrameRequest],
        frame_seconds: float,
        still: bool,
        region: Region | None = None,
        faces: Mapping[float, FaceTrack | None] | None = None,
    ) -> None:
        super().__init__(window, declared)
        self._frame_seconds, self._still, self._region = frame_seconds, still, region
        clocks: dict[tuple[Crop, float], list[int]] = {}
        for request in requests:
            sizes = clocks.setdefault((request.crop, request.fps), [])
            if request.size is not None:
                sizes.append(request.size)
        self._clocks: dict[tuple[Crop, float], WholePictures | FacePictures] = {
            (crop, fps): WholePictures(sizes)
            if crop == "whole"
            else FacePictures(fps, sizes, (faces or {}).get(fps, "unknown"))
            for (crop, fps), sizes in clocks.items()
        }
        self._shown: Any = None
        self._since = 0.0

    def feed(self, frame: Any) -> None:
        """Take the next picture: the one before it was shown until now."""
        at = self._since + self._frame_seconds if frame.time is None else frame.time - self.window.origin
        if self._shown is None:
            if self.window.sought and at > self.window.start:
                raise MissedSeekError
        else:
            self._take(until=at)
        duration = float(frame.duration * frame.time_base) if frame.duration else self._frame_seconds
        end = self.window.end
        if end is not None and at >= end and self._shown is not None:
            self.reached, self.done = at, True
            return
        self._shown, self._since, self.reached = frame, at, at + duration

    def finish(self) -> tuple[dict[FrameRequest, NDArray[np.uint8]], dict[float, FaceTrack | None], bool]:
        """The pictures, and the faces in them.

        Returns:
            The pictures of each request, RGB, uint8 (frames, size, size, 3); the face of each clock that asks for one,
            None where no picture has one; and whether there were too many pictures of a face to keep, so that another
            pass has to cut them.

        Raises:
            StreamError: the video is not all there.
        """
        self.check()
        assert self.reached is not None
        self._take(until=self.reached)
        lacking = [clock for clock in self._clocks.values() if not clock.ticks]
        if lacking:
            whole = _rgb(self._shown, self._region)
            for clock in lacking:
                clock.add(whole, 1)
        frames: dict[FrameRequest, NDArray[np.uint8]] = {}
        faces: dict[float, FaceTrack | None] = {}
        again = False
        for (crop, fps), clock in self._clocks.items():
            squares = clock.finish()
            frames.update({FrameRequest(fps, crop, size): pictures for size, pictures in squares.items()})
            if isinstance(clock, FacePictures):
                faces[fps], again = clock.track, again or clock.too_many
        return frames, faces, again

    def _take(self, until: float) -> None:
        """Keep the picture shown until then for every tick of a clock that falls under it."""
        start, end = self.window.start, self.window.end
        until = until if end is None else min(until, end)
        whole: NDArray[np.uint8] | None = None
        for (_, fps), clock in self._clocks.items():
            ticks = 1 if self._still else math.ceil(round((until - start) * fps - 0.5, 6))
            if clock.ticks < ticks:
                whole = _rgb(self._shown, self._region) if whole is None else whole
                clock.add(whole, ticks - clock.ticks)


class WholePictures:
    """The pictures of one clock, each resized once to every size that is asked for."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.ticks = 0
        self._squares: dict[int, list[NDArray[np.uint8]]] = {size: [] for size in sizes}

    def add(self, whole: NDArray[np.uint8], ticks: int) -> None:
        """Take a picture that so many ticks in a row show."""
        self.ticks += ticks
        for size, squares in self._squares.items():
            squares.extend([_square(whole, size)] * ticks)

    def finish(self) -> dict[int, NDArray[np.uint8]]:
        """Size -> pictures (ticks, size, size, 3)."""
        return {size: np.stack(squares) for size, squares in self._squares.items()}


class FacePictures:
    """The pictures of one clock, cut to the square of the clip's face.

    The square is known when the last picture has been seen. Until then the pictures wait, or, where they would be more
    than `MOST_BYTES`, are let go, to be cut in another pass.

    Args:
        fps: of the clock.
        sizes: that are asked for; none where only the face is.
        track: what an earlier pass followed, None where it found no face; "unknown" in the first one.
    """

    MOST_BYTES = 128 << 20

    def __init__(self, fps: float, sizes: Sequence[int], track: FaceTrack | Literal["unknown"] | None) -> None:
        self.ticks, self.too_many, self.track = 0, False, None if track == "unknown" else track
        self._known = track != "unknown"
        self._fps, self._sizes = fps, sizes
        self._found: list[list[Face]] = []
        self._waiting: list[tuple[NDArray[np.uint8], int]] = []
        self._bytes = 0
        self._squares = WholePictures(sizes)

    def add(self, whole: NDArray[np.uint8], ticks: int) -> None:
        """Take a picture that so many ticks in a row show."""
        self.ticks += ticks
        if self._known:
            self._cut(whole, ticks)
            return
        self._found += [find_faces(whole)] * ticks
        if self._sizes and not self.too_many:
            self._waiting.append((whole, ticks))
            self._bytes += whole.nbytes
            if self._bytes > self.MOST_BYTES:
                self.too_many, self._waiting = True, []

    def finish(self) -> dict[int, NDArray[np.uint8]]:
        """Size -> pictures (ticks, size, size, 3); empty without a face, and where another pass is needed."""
        if not self._known:
            self.track = follow(self._found, self._fps)
            for whole, ticks in self._waiting:
                self._cut(whole, ticks)
        self.too_many = self.too_many and self.track is not None
        return {} if self.track is None or self.too_many else self._squares.finish()

    def _cut(self, whole: NDArray[np.uint8], ticks: int) -> None:
        if self.track is not None:
            self._squares.add(self.track.cut(whole), ticks)


def _rgb(frame: Any, region: Region | None) -> NDArray[np.uint8]:
    """The picture upright, or the part of it that `region` names: RGB (height, width, 3)."""
    turns = round(frame.rotation / 90) % 4
    upright = np.rot90(frame.to_ndarray(format="rgb24"), turns)
    if region is not None:
        upright = upright[
            _pixels(region[1], region[3], upright.shape[0]), _pixels(region[0], region[2], upright.shape[1])
        ]
    return np.ascontiguousarray(upright)


def _pixels(begin: float, share: float, size: int) -> slice:
    """The pixels of one axis that a region covers, at least one."""
    first = min(round(begin * size), size - 1)
    return slice(first, max(first + 1, round((begin + share) * size)))


def _square(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The picture resized once to (size, size, 3), by area where it shrinks and bilinearly where it grows."""
    import cv2

    shrinks = picture.shape[0] >= size and picture.shape[1] >= size
    resized = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)
