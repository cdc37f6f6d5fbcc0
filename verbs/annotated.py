"""`mer predict --video`: the clip itself, in its own size and with its sound, with what is said about it drawn in.

Pictures keep their times, so that a variable frame rate stays one. Sound is copied where the new file can hold it as it
is, and encoded as AAC where it cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import MerError, SettingsError, first_line
from cache_schema.samples import Utterance
from extract.clips import Clip
from extract.decoding.containers import open_container
from fuse.answers import Answer
from verbs.prediction import Prediction, in_words

ENDINGS = (".mp4", ".mov", ".mkv")
COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "flac", "opus")
"""Sound that all of these files can hold."""
MOST_BARS = 4
MOST_SHARE = 0.35
"""Of the picture's height, for the panel; the prediction itself stands there in any case."""
INK, BACK, BAR, TRACK = (255, 255, 255, 255), (16, 20, 26, 190), (108, 178, 240, 255), (90, 98, 108, 190)


def video_paths(clips: Sequence[Clip], out: Path) -> dict[str, Path]:
    """Where the video of each clip goes, by the clip's name.

    Args:
        clips: opened.
        out: a file, `.mp4`, `.mov` or `.mkv`; a folder where there are several clips.

    Raises:
        SettingsError: the ending is another, or a clip has no pictures or would be replaced itself.
    """
    paths = {clip.name: out for clip in clips}
    if len(clips) > 1:
        paths = {clip.name: out / Path(clip.name).with_suffix(".mp4") for clip in clips}
    for clip in clips:
        path = paths[clip.name]
        if path.suffix.lower() not in ENDINGS:
            raise SettingsError(f"--video {out}: a video ends in {', '.join(ENDINGS)}; several go into a folder.")
        if not clip.pictures:
            raise SettingsError(f"{clip.path} has no pictures to draw into; --html has a timeline of sound, too.")
        if path.absolute() == clip.path.absolute() or list(paths.values()).count(path) > 1:
            raise SettingsError(f"--video {out} would replace {path}: give another place.")
    return paths


def write_videos(found: Prediction, out: Path) -> list[Path]:
    """Write a video for each clip and say where; a file that is there is replaced.

    Args:
        found: what is said about the clips.
        out: as for `video_paths`.

    Raises:
        SettingsError: as `video_paths`.
        MerError: a clip cannot be read to its end, or the file not be written.
    """
    paths = video_paths(found.clips, out)
    for clip in found.clips:
        path = paths[clip.name]
        temporary = path.with_name(f".{path.stem}.new{path.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(found, clip, temporary)
            temporary.replace(path)
        except OSError as error:  # FFmpeg's errors are among them
            raise MerError(f"{path}: the video of {clip.path} cannot be written ({first_line(error)}).") from error
        finally:
            temporary.unlink(missing_ok=True)
    return list(paths.values())


def _write(found: Prediction, clip: Clip, path: Path) -> None:
    import av

    with open_container(clip.path) as source, av.open(str(path), "w") as out:
        pictures, sound = _pictures(source), source.streams.best("audio")
        origin = max(0.0, (source.start_time or 0) / av.time_base)
        drawn = _Drawn(found, clip, out, pictures.average_rate)
        copied = sound is not None and sound.codec_context.name in COPIED
        heard = None
        if sound is not None:
            heard = out.add_stream_from_template(sound) if copied else out.add_stream("aac", rate=sound.rate)
        for packet in source.demux([s for s in (pictures, sound) if s is not None]):
            if packet.stream is pictures:
                for frame in packet.decode():
                    for encoded in drawn.encode(frame, origin):
                        out.mux(encoded)
            elif heard is not None and copied and packet.dts is not None:
                packet.stream = heard
                out.mux(packet)
            elif heard is not None and not copied:
                for frame in packet.decode():
                    for encoded in heard.encode(frame):
                        out.mux(encoded)
        for encoded in drawn.rest():
            out.mux(encoded)
        if heard is not None and not copied:
            for encoded in heard.encode(None):
                out.mux(encoded)


def _pictures(container: Any) -> Any:
    """The stream of moving pictures; a cover is none."""
    from av.stream import Disposition

    return next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)


def _upright(frame: Any) -> NDArray[np.uint8]:
    """A picture (height, width, 3), RGB, as a player turns it."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))


class _Drawn:
    """Pictures with the panel of whatever is said at their time, encoded.

    Args:
        found, clip: what is said.
        out: the file that is written.
        rate: pictures per second, on average; None: not known.
    """

    def __init__(self, found: Prediction, clip: Clip, out: Any, rate: Any) -> None:
        with open_container(clip.path) as source:
            first = next(source.decode(_pictures(source)))
            self.height, self.width = _upright(first).shape[:2]
        self.found, self.said = found, found.of(clip)
        self.panels: dict[int, _Panel] = {}
        self.stream = out.add_stream("libx264", rate=rate or 25)
        self.stream.width, self.stream.height = self.width, self.height
        even = self.width % 2 == 0 and self.height % 2 == 0
        self.stream.pix_fmt = "yuv420p" if even else "yuv444p"
        self.stream.codec_context.time_base = first.time_base
        self.stream.options = {"crf": "18", "preset": "veryfast"}

    def encode(self, frame: Any, origin: float) -> Iterator[Any]:
        """The packets that one picture makes, `origin` being where the clip's time begins in its file."""
        import av

        picture = _upright(frame)
        at = (frame.time or 0.0) - origin
        index = next((i for i, (u, _) in enumerate(self.said) if _speaks(u, at)), None)
        if index is not None:
            if index not in self.panels:
                self.panels[index] = _panel(self.found, self.said[index][1], self.width, self.height)
            self.panels[index].draw(picture)
        made = av.VideoFrame.from_ndarray(picture, format="rgb24")
        made.pts, made.time_base = frame.pts, frame.time_base
        yield from self.stream.encode(made)

    def rest(self) -> Iterator[Any]:
        """The packets that were held back."""
        yield from self.stream.encode(None)


def _speaks(utterance: Utterance, at: float) -> bool:
    return (utterance.start or 0.0) <= at and (utterance.end is None or at < utterance.end)


@dataclass(frozen=True)
class _Panel:
    """A drawing with its opacity, and where its left upper corner lies."""

    colour: NDArray[np.float32]
    opacity: NDArray[np.float32]
    top: int
    left: int

    def draw(self, picture: NDArray[np.uint8]) -> None:
        """Lay it over a picture (height, width, 3)."""
        height, width = self.opacity.shape[:2]
        part = picture[self.top : self.top + height, self.left : self.left + width]
        part[:] = (part * (1 - self.opacity) + self.colour * self.opacity).round().astype(np.uint8)


def _panel(found: Prediction, a: Answer, width: int, height: int) -> _Panel:
    """The answer in words and its likeliest classes as bars with their numbers, at the foot of the picture."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    size = max(8, round(min(height, width) / 24))
    fonts = [
        ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), s) for s in (round(size * 1.3), size)
    ]
    chances = sorted((a.probabilities or {}).items(), key=lambda pair: -pair[1])[:MOST_BARS]
    lines = [in_words(a)]
    if a.uncertainty:
        lines[0] += f"  entropy {a.uncertainty['entropy']:.2f}"
    if a.spread and found.trained.target.name in a.spread:
        lines[0] += f" ± {a.spread[found.trained.target.name]:.2f}"
    if a.missing:
        lines.append("masked: " + ", ".join(a.missing))
    pad, step = size // 2, round(size * 1.35)
    head = 2 * pad + round(size * 1.6)
    fitting = max(0, int((height * MOST_SHARE - head) // step))
    chances, lines = chances[: max(0, fitting - len(lines) + 1)], lines[: 1 + fitting]
    tall = min(height, head + step * (len(lines) - 1 + len(chances)))
    room = max((fonts[1].getlength(name) for name, _ in chances), default=0.0)
    number = fonts[1].getlength("0.00") + pad if chances else 0.0
    words = max(fonts[0].getlength(lines[0]), *(fonts[1].getlength(line) for line in lines))
    widest = max(words, 2 * (room + pad) + number)
    wide = min(width, round(widest) + 2 * pad)
    image = Image.new("RGBA", (wide, tall), BACK)
    pen = ImageDraw.Draw(image)
    pen.text((pad, pad), lines[0], INK, fonts[0])
    y = pad + round(size * 1.6)
    for line in lines[1:]:
        pen.text((pad, y), line, INK, fonts[1])
        y += step
    begin, end = 2 * pad + room, wide - pad - number
    for name, p in chances:
        pen.text((pad, y), name, INK, fonts[1])
        pen.rectangle((begin, y + size * 0.2, max(begin, end), y + size), TRACK)
        pen.rectangle((begin, y + size * 0.2, begin + max(end - begin, 1) * p, y + size), BAR)
        pen.text((wide - pad, y), f"{p:.2f}", INK, fonts[1], anchor="ra")
        y += step
    drawn = np.asarray(image, np.float32)
    return _Panel(drawn[..., :3], drawn[..., 3:] / np.float32(255), height - tall, 0)
