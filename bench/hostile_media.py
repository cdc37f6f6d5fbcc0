"""Media files that are not what they say: made from good ones by a seed, for `bench.stress_media` and the tests.

The good ones are a clip of the synthetic corpus and short sounds and pictures in the containers that people use. Each
kind of damage below takes good bytes and a random generator; the same seed makes the same files.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FPS, HZ = 25, 22050
VIDEOS = {
    "h264.mp4": ("libx264", "aac"),
    "h264.mov": ("libx264", "pcm_s16le"),
    "h265.mkv": ("libx265", "flac"),
    "vp9.webm": ("libvpx-vp9", "libopus"),
    "mpeg4.avi": ("mpeg4", "libmp3lame"),
    "mpeg2.mpg": ("mpeg2video", "mp2"),
    "mpegts.mpg": ("libx264", "aac"),
    "flv1.flv": ("flv", "libmp3lame"),
    "wmv2.wmv": ("wmv2", "wmav2"),
    "mjpeg.avi": ("mjpeg", "pcm_s16le"),
}
SOUNDS = {
    "pcm.wav": "pcm_s16le",
    "flac.flac": "flac",
    "mp3.mp3": "libmp3lame",
    "opus.ogg": "libopus",
    "aac.m4a": "aac",
    "adts.aac": "aac",
    "pcm.aiff": "pcm_s16be",
}
PICTURES = ("picture.png", "picture.jpg", "picture.bmp", "picture.tif", "picture.webp")
SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".wav", ".mp3", ".ogg", ".flac", ".png", ".gif", ".mpg", ".jpg")
HUGE = (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFF, 0x10000, 0)

Content = bytes
Damage = Callable[[Content, random.Random, "Good"], Content]


@dataclass(frozen=True)
class Good:
    """The good files.

    Attributes:
        contents: bytes by name.
    """

    contents: dict[str, Content]

    def draw(self, rng: random.Random) -> tuple[str, Content]:
        """One of them, with its name."""
        name = rng.choice(sorted(self.contents))
        return name, self.contents[name]


def make_good(folder: Path) -> Good:
    """Encode the good files into `folder`, a second each."""
    import cv2

    rng = np.random.default_rng(0)
    moving = np.kron(rng.integers(0, 255, (FPS, 9, 12, 3)), np.ones((1, 10, 10, 1))).astype(np.uint8)
    sound = (0.3 * np.sin(2 * np.pi * 220 * np.arange(HZ) / HZ) + rng.normal(0, 0.02, HZ)).astype(np.float32)
    for name, (video, audio) in VIDEOS.items():
        _encode(folder / name, moving, video, sound, audio)
    for name, audio in SOUNDS.items():
        _encode(folder / name, None, "", sound, audio)
    for name in PICTURES:
        cv2.imwrite(str(folder / name), moving[0])
    names = [*VIDEOS, *SOUNDS, *PICTURES]
    return Good({name: (folder / name).read_bytes() for name in names})


def _encode(path: Path, pictures: Any, video_codec: str, sound: Any, audio_codec: str) -> None:
    import av

    with av.open(str(path), "w", format="mpegts" if path.stem == "mpegts" else None) as out:
        video: Any = None
        if pictures is not None:
            video = out.add_stream(video_codec, rate=FPS)
            video.height, video.width = pictures.shape[1:3]
            video.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
            video.codec_context.thread_count = 1
            if video_codec == "libx265":
                video.options = {"x265-params": "log-level=none"}
        audio = out.add_stream(audio_codec, rate=48000 if audio_codec == "libopus" else HZ, layout="mono")
        if not audio_codec.startswith(("pcm", "flac")):
            audio.bit_rate = 64_000
        shown = range(0) if video is None else range(len(pictures))
        for number in shown:
            frame = av.VideoFrame.from_ndarray(pictures[number], format="rgb24")
            frame.pts = number
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode(None))
        packed = (sound * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout="mono")
        frame.sample_rate, frame.pts = HZ, 0
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))


# ------------------------------------------------------------------------------------------------- kinds of damage


def flip_bits(content: Content, rng: random.Random, good: Good) -> Content:
    """A few bits anywhere."""
    return _flipped(content, rng, rng.choice((1, 4, 16, 64)), len(content))


def flip_bits_of_the_head(content: Content, rng: random.Random, good: Good) -> Content:
    """Bits of the first 512 bytes, or of an MP4's index, where sizes and counts stand."""
    index = content.find(b"moov")
    if index > 0 and rng.random() < 0.7:
        return content[:index] + _flipped(content[index:], rng, rng.choice((1, 4, 16)), len(content) - index)
    return _flipped(content, rng, rng.choice((1, 4, 16)), 512)


def _flipped(content: Content, rng: random.Random, count: int, below: int) -> Content:
    changed = bytearray(content)
    for _ in range(count):
        changed[rng.randrange(min(below, len(changed)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(content: Content, rng: random.Random, good: Good) -> Content:
    """The first part, or the last."""
    at = rng.randrange(len(content))
    return content[:at] if rng.random() < 0.8 else content[at:]


def splice(content: Content, rng: random.Random, good: Good) -> Content:
    """The beginning of one file and the end of another; or another one in the middle."""
    other = good.draw(rng)[1]
    at, from_ = rng.randrange(len(content)), rng.randrange(len(other))
    return content[:at] + other[from_:] + (content[at:] if rng.random() < 0.5 else b"")


def overwrite(content: Content, rng: random.Random, good: Good) -> Content:
    """A block of zeros, of ones, of noise, or of the file itself."""
    size = rng.randrange(1, max(2, len(content) // 4))
    at, from_ = rng.randrange(len(content)), rng.randrange(len(content))
    block = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size), content[from_ : from_ + size]))
    return content[:at] + block + content[at + len(block) :]


def shuffle_blocks(content: Content, rng: random.Random, good: Good) -> Content:
    """Blocks of the file in another order."""
    size = max(1, len(content) // rng.randrange(2, 12))
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    rng.shuffle(blocks)
    return b"".join(blocks)


def other_suffix(content: Content, rng: random.Random, good: Good) -> Content:
    """The file as it is; `hostile_files` gives it the suffix of another format."""
    return content


def nothing(content: Content, rng: random.Random, good: Good) -> Content:
    """No byte, zeros, noise, or text."""
    size = rng.randrange(1, 20_000)
    return rng.choice((b"", bytes(size), rng.randbytes(size), b"=cmd|' /C calc'!A0\r\n" * 50))


FIELDS = (
    # (tag, offset from its first byte, bytes, little endian): sizes, rates, durations and counts of containers
    (b"mvhd", 16, 4, False), (b"mvhd", 20, 4, False), (b"mdhd", 16, 4, False), (b"mdhd", 20, 4, False),
    (b"tkhd", 24, 4, False), (b"tkhd", 80, 4, False), (b"tkhd", 84, 4, False), (b"avc1", 28, 4, False),
    (b"mp4a", 20, 4, False), (b"mp4a", 28, 4, False), (b"stts", 8, 4, False), (b"stts", 12, 4, False),
    (b"stts", 16, 4, False), (b"stsz", 8, 4, False), (b"stsz", 12, 4, False), (b"stsz", 16, 4, False),
    (b"stsc", 8, 4, False), (b"stsc", 16, 4, False), (b"stco", 8, 4, False), (b"stco", 12, 4, False),
    (b"ctts", 8, 4, False), (b"elst", 8, 4, False), (b"elst", 12, 4, False), (b"elst", 16, 4, False),
    (b"ftyp", -4, 4, False), (b"moov", -4, 4, False), (b"trak", -4, 4, False), (b"mdat", -4, 4, False),
    (b"stbl", -4, 4, False), (b"udta", -4, 4, False), (b"meta", -4, 4, False),
    (b"RIFF", 4, 4, True), (b"fmt ", 4, 4, True), (b"fmt ", 10, 2, True), (b"fmt ", 12, 4, True),
    (b"fmt ", 16, 4, True), (b"fmt ", 20, 2, True), (b"fmt ", 22, 2, True), (b"data", 4, 4, True),
    (b"avih", 8, 4, True), (b"avih", 24, 4, True), (b"avih", 32, 4, True), (b"avih", 40, 4, True),
    (b"strh", 28, 4, True), (b"strh", 32, 4, True), (b"strh", 40, 4, True), (b"strf", 12, 4, True),
    (b"strf", 16, 4, True), (b"idx1", 4, 4, True), (b"movi", -4, 4, True), (b"LIST", 4, 4, True),
    (b"fLaC", 8, 4, False), (b"fLaC", 18, 4, False), (b"fLaC", 22, 4, False), (b"IHDR", 4, 4, False),
    (b"IHDR", 8, 4, False), (b"IDAT", -4, 4, False), (b"COMM", 8, 2, False), (b"COMM", 10, 4, False),
    (b"COMM", 16, 4, False), (b"SSND", 4, 4, False), (b"Xing", 8, 4, False), (b"OpusHead", 9, 4, True),
    (b"OggS", 6, 4, True), (b"OggS", 26, 1, True), (b"\x44\x89", 3, 4, False), (b"\xb0\x82", 2, 2, False),
    (b"\xba\x82", 2, 2, False), (b"\xb5\x84", 2, 4, False), (b"\x2a\xd7\xb1", 4, 3, False),
    (b"\x18\x53\x80\x67", 4, 8, False), (b"BM", 18, 4, True), (b"BM", 22, 4, True), (b"BM", 10, 4, True),
    (b"VP8X", 12, 4, True), (b"\xff\xc0", 5, 4, False), (b"\x00\x01\x00\x00", 8, 4, True), (b"FLV", 5, 4, False),
)  # fmt: skip


def enormous(content: Content, rng: random.Random, good: Good) -> Content:
    """Declared sizes, rates, durations and counts that are enormous, negative or nought."""
    changed = bytearray(content)
    there = [field for field in FIELDS if field[0] in content]
    for tag, offset, size, little in rng.sample(there, min(len(there), rng.choice((1, 1, 2, 4)))):
        places = [at for at in range(len(content)) if content.startswith(tag, at)][:8]
        at = max(0, rng.choice(places) + offset)
        value = rng.choice(HUGE) >> max(0, 32 - 8 * size)
        changed[at : at + size] = value.to_bytes(max(size, 4), "little" if little else "big")[-size:]
    return bytes(changed)


KINDS: dict[str, Damage] = {
    "flipped bits": flip_bits,
    "flipped bits of the head": flip_bits_of_the_head,
    "truncated": truncate,
    "spliced": splice,
    "overwritten": overwrite,
    "blocks in another order": shuffle_blocks,
    "wrong suffix": other_suffix,
    "no media at all": nothing,
    "enormous declared sizes": enormous,
}


@cache
def bombs() -> dict[str, Content]:
    """Small files that declare or decode to much, or that lead elsewhere; by name."""
    many = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n" + b"#EXTINF:10,\nfile:///etc/passwd\n" * 50 + b"#EXT-X-ENDLIST\n"
    return {
        "square.png": _png(12_000, 8_000),
        "wide.png": _png(500_000, 20),
        "large.jpg": _jpeg_header(65_500, 65_500),
        "silence.wav": _wav(1, 1, 0xFFFFFFF0),
        "fast.wav": _wav(0x7FFFFFFF, 2, 4000),
        "channels.wav": _wav(8000, 65_535, 4000),
        "playlist.mp4": many,
        "playlist.m3u8.mp4": many,
        "list.mp4": b"ffconcat version 1.0\nfile /etc/passwd\nfile ../good.mp4\n",
        "session.mp4": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "dash.mp4": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        b"<BaseURL>http://127.0.0.1:9/x</BaseURL></Period></MPD>",
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "nested.mp4": _nested(20_000),
        "sparse.mp4": struct.pack(">I4s4sI4sIIQ", 24, b"ftyp", b"isom", 0, b"isom", 0, 1, 1 << 62) + b"moov",
    }


def _png(width: int, height: int) -> Content:
    """A black picture whose lines compress a thousandfold."""
    packer = zlib.compressobj(1)
    line = bytes(1 + 3 * width)
    packed = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(tag: bytes, content: Content) -> Content:
    return struct.pack(">I", len(content)) + tag + content + struct.pack(">I", zlib.crc32(tag + content))


def _jpeg_header(width: int, height: int) -> Content:
    frame = struct.pack(">BHHB", 8, height, width, 1) + bytes((1, 0x11, 0))
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", 2 + len(frame)) + frame + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"


def _wav(hz: int, channels: int, declared: int) -> Content:
    form = struct.pack("<HHIIHH", 1, channels, hz, min(hz * channels * 2, 0xFFFFFFFF), (channels * 2) & 0xFFFF, 16)
    return (
        b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
        + b"data" + struct.pack("<I", declared) + bytes(4000)
    )  # fmt: skip


def _nested(depth: int) -> Content:
    """MP4 atoms within one another."""
    size = 8 * depth
    return b"".join(struct.pack(">I4s", size - 8 * level, b"moov") for level in range(depth))


def hostile_files(good: Good, count: int, seed: int) -> Iterator[tuple[str, str, Content]]:
    """(name, kind of damage, bytes) of `count` files, every kind equally often."""
    rng = random.Random(seed)
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        name, content = good.draw(rng)
        suffix = os.path.splitext(name)[1]  # noqa: PTH122 - not a path
        if kind == "wrong suffix":
            suffix = rng.choice([other for other in SUFFIXES if other != suffix])
        yield f"{number:05}{suffix}", kind, KINDS[kind](content, rng, good)


def make_special(folder: Path) -> list[str]:
    """What has a clip's name and is no file of one's own: names of what was made."""
    os.mkfifo(folder / "pipe.mp4")
    links = {"zero.mp4": "/dev/zero", "passwd.mp4": "/etc/passwd", "loop.mp4": "loop.mp4", "gone.mp4": "gone"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket.mp4"))
    (folder / "folder.mp4").mkdir()
    (folder / "up").symlink_to("/", target_is_directory=True)
    return ["pipe.mp4", "socket.mp4", *links]
