"""Physiological recordings that are not what they say: made from good ones by a seed, as `bench.hostile_media` has it.

A recording is one file, or the folder of a wristband; of a damaged one a single file is changed. Byte by byte the
changes are those of media, line by line those of annotations and some of their own: time that stands still or goes
back, floods of what is no number, rates and times that no device has.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from scipy.io import savemat

from bench.hostile_annotations import CHANGES
from bench.hostile_media import (
    Content,
    Good,
    flip_bits,
    nothing,
    overwrite,
    shuffle_blocks,
    splice,
    truncate,
)

SECONDS = 40
TRIAL = (3.0, 63.0)
"""The utterance that is read of a subject's file of DEAP; of other recordings it is the whole."""
RATES = ("0", "-4", "1e-300", "1e-9", "1e9", "1e300", "1e999", "nan", "inf", "2147483648", "9" * 4000, "=4")
TIMES = ("0", "-1", "1e-300", "9.9e5", "1e12", "1e300", "1e999", "-1e300", "nan", "inf", "", "9" * 4000, "2026-01-01")
NO_NUMBERS = ("nan", "NaN", "inf", "-inf", "1e999", "", "NA", "1e308", "-1e308")

Recording = dict[str, Content]
"""Bytes by name: of one file, or of the files of a folder as FOLDER/NAME."""
Line = Callable[[list[str], random.Random], None]


def good_recording(form: str, seed: int) -> Recording:
    """A recording without fault: `table`, `wrist` (an Empatica E4's folder) or `deap`."""
    rng = np.random.default_rng(seed)
    if form == "deap":
        return {"s01.mat": _deap(seed)}
    level = rng.uniform(1, 9)
    if form == "table":
        skin = level + np.cumsum(rng.normal(0, 0.02, SECONDS * 8))
        rows = [f"{k / 8},{skin[k]:.4f},{'' if k % 2 else f'{33 + skin[k] / 9:.3f}'}" for k in range(len(skin))]
        return {"session.csv": ("\n".join(["time,EDA,TEMP", *rows]) + "\n").encode()}
    files = {}
    for sensor, hz in (("EDA", 4), ("TEMP", 4), ("BVP", 64), ("HR", 1)):
        values = level + np.cumsum(rng.normal(0, 0.02, SECONDS * hz))
        files[f"session/{sensor}.csv"] = "\n".join(["1500000000.0", f"{hz}.0", *(f"{v:.4f}" for v in values)]).encode()
    beats = np.cumsum(rng.uniform(0.7, 0.9, 45))
    rows = [f"{at:.4f},{gap:.4f}" for at, gap in zip(beats, np.diff(beats, prepend=0.0), strict=True) if at < SECONDS]
    return files | {"session/IBI.csv": "\n".join(["1500000000.0, IBI", *rows]).encode()}


@cache
def _deap(seed: int) -> Content:
    """A subject's file whose signals repeat, so that it is small."""
    second = np.random.default_rng(seed).integers(-99, 99, (1, 40, 128)).astype(np.int8)
    file = io.BytesIO()
    savemat(file, {"data": np.tile(second, (40, 1, 63)), "labels": np.full((40, 4), 5.0)}, do_compression=True)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------- kinds of damage


def _in_lines(change: Line) -> Callable[[Content, random.Random, Good], Content]:
    """A change of the lines of a text; noise where the file is none."""

    def changed(content: Content, rng: random.Random, good: Good) -> Content:
        if b"\0" in content[:512]:
            return overwrite(content, rng, good)
        lines = content.decode().split("\n")
        change(lines, rng)
        return "\n".join(lines).encode()

    return changed


def _put(lines: list[str], row: int, column: int, new: str) -> None:
    cells = lines[row].split(",")
    cells[min(column, len(cells) - 1)] = new
    lines[row] = ",".join(cells)


def _declare(lines: list[str], rng: random.Random) -> None:
    """The wristband's beginning or rate; the first times of what has a column of times."""
    if lines[0].startswith("time"):
        _put(lines, rng.choice((1, 2, len(lines) - 2)), 0, rng.choice(TIMES))
    elif "IBI" in lines[0]:
        _put(lines, rng.randrange(3), 0, rng.choice(TIMES))
    else:
        _put(lines, rng.choice((0, 1, 1)), 0, rng.choice(RATES))


def _flood(lines: list[str], rng: random.Random) -> None:
    """All cells, or all after some row, are no numbers; of one column where there are several."""
    new, first, column = rng.choice(NO_NUMBERS), rng.choice((0, 1, 2, len(lines) // 2)), rng.randrange(3)
    for row in range(first, len(lines)):
        if lines[row]:
            _put(lines, row, column, new)


def _turn_back(lines: list[str], rng: random.Random) -> None:
    """Rows twice, exchanged, backwards, or from the beginning again."""
    at, other = sorted(rng.sample(range(1, len(lines) - 1), 2))
    way = rng.randrange(4)
    if way == 0:
        lines.insert(at, lines[at])
    elif way == 1:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[1:] = lines[:0:-1] if way == 2 else lines[1:] * 2


def _columns(lines: list[str], rng: random.Random) -> None:
    """Another header, or rows of other lengths."""
    way = rng.randrange(6)
    if way == 0:
        lines[0] = ",".join(["time", *(f"c{n}" for n in range(200_000))])
    elif way == 1:
        lines[0] = rng.choice(("time,EDA,EDA", "time", "EDA,TEMP", "time,,EDA", '"time,EDA', "", "time;EDA;TEMP"))
    elif way == 2:
        lines[0] += "x" * 3_000_000
    else:
        row = rng.randrange(1, len(lines))
        lines[row] += rng.choice((",1", ",1,2,3", '"', "," * 100_000))


def _as_annotations(kind: str) -> Callable[[Content, random.Random, Good], Content]:
    def changed(content: Content, rng: random.Random, good: Good) -> Content:
        if b"\0" in content[:512]:
            return flip_bits(content, rng, good)
        return CHANGES[kind](content.decode(), rng)

    return changed


def _unchanged(content: Content, rng: random.Random, good: Good) -> Content:
    """The file as it is; `damaged` gives it another name."""
    return content


UNREADABLE = "no recording at all"
KINDS = {
    "flipped bits": flip_bits,
    "truncated": truncate,
    "spliced": splice,
    "overwritten": overwrite,
    "blocks in another order": shuffle_blocks,
    "wrong suffix": _unchanged,
    UNREADABLE: nothing,
    "rates and times": _in_lines(_declare),
    "floods of no numbers": _in_lines(_flood),
    "time goes back": _in_lines(_turn_back),
    "columns": _in_lines(_columns),
    **{kind: _as_annotations(kind) for kind in ("formulas", "control characters", "enormous numbers", "encodings")},
}
FORMS = ("table", "wrist", "table", "wrist", "table", "wrist", "table", "deap")


def damaged(kind: str, form: str, rng: random.Random) -> Recording:
    """A recording of which one file has this kind of damage."""
    whole = good_recording(form, rng.randrange(1 if form == "deap" else 1000))
    good = Good(whole)
    name, content = good.draw(rng)
    if kind == "wrong suffix":
        return {f"session{rng.choice([s for s in ('.csv', '.mat', '.dat', '.edf') if not name.endswith(s)])}": content}
    return whole | {name: KINDS[kind](content, rng, good)}


def bombs(marker: Path) -> dict[str, Content]:
    """Small files that declare much, or that are programs; a program that ran would have made `marker`."""
    matrix = io.BytesIO()
    savemat(matrix, {"data": np.zeros((3, 5, 7)), "labels": np.zeros((40, 4))})
    two = b"time,EDA\n0,1\n"
    return {
        "program.dat": b"cbuiltins\nopen\n(S'" + str(marker).encode() + b"'\nS'w'\ntR.",
        "recursion.dat": b"(" * 200_000 + b".",
        "bytes.dat": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",
        "array.mat": matrix.getvalue().replace(struct.pack("<3i", 3, 5, 7), struct.pack("<3i", 40, 40, 0x7FFFFFFF)),
        "eleven-days.csv": two + b"1000000,2\n",
        "nanosecond.csv": two + b"1e-9,1\n2e-9,1\n3e-9,1\n5,2\n",
        "gap.csv": two.replace(b"0,1", b"0,1\n1e-5,1\n2e-5,1\n3e-5,1") + b"20000,2\n",
        "eternity.csv": two + b"1e18,2\n",
        "digits.csv": two + b"1," + b"9" * 20_000_000 + b"\n",
        "line.csv": b"time," + b"x" * 20_000_000,
        "quote.csv": two + b'1,"' + b"\n" * 5_000_000,
    }


def make_root(folder: Path, count: int, good: int, seed: int, bombs: Recording) -> tuple[dict[str, str], list[str]]:
    """Fill a folder with `count` damaged recordings and bombs among `good` subjects of two good recordings each.

    Recordings that cannot be read at all are said to be of a good subject, any others of nobody known.

    Returns:
        id -> kind of damage, and the ids of the good ones.
    """
    rng = random.Random(seed)
    rows: list[tuple[str, str, str, str | None]] = []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        form = FORMS[number // len(KINDS) % len(FORMS)]
        path = _write(folder, f"{number:05}", damaged(kind, form, rng))
        rows.append((f"{number:05}", path, kind, f"subject{number % good}" if kind == UNREADABLE else None))
    for name, content in bombs.items():
        rows.append((f"bomb-{name}", _write(folder, f"bomb-{name}", {name: content}), "bomb", None))
    rows += [(name, name, "no file of its own", "subject0") for name in _make_special(folder)]
    for number in range(2 * good):
        form = FORMS[number // 2 % len(FORMS)]
        name = f"good{number:03}"
        path = _write(folder, name, good_recording(form, number // 2 if form == "deap" else number))
        rows.insert(number * len(rows) // (2 * good), (name, path, "good", f"subject{number // 2}"))
    write_manifest(folder, [(id_, path, speaker) for id_, path, _, speaker in rows])
    return {id_: kind for id_, _, kind, _ in rows if kind != "good"}, [
        id_ for id_, *_, kind, _ in rows if kind == "good"
    ]


def write_manifest(folder: Path, rows: list[tuple[str, str, str | None]]) -> None:
    """The manifest of (id, recording, speaker)."""
    lines = []
    for id_, path, speaker in rows:
        start, end = TRIAL if path.endswith("s01.mat") else (None, None)
        lines.append({"id": id_, "signals": path, "speaker": speaker, "start": start, "end": end, "label": "x"})
    text = "\n".join(json.dumps({k: str(v) for k, v in line.items() if v is not None}) for line in lines)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")


def _write(folder: Path, name: str, recording: Recording) -> str:
    """Write a recording; its path below the folder."""
    for path, content in recording.items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    first = next(iter(recording))
    return f"{name}/{first.split('/')[0]}"


def _make_special(folder: Path) -> Iterator[str]:
    """What has a recording's name and is no file of one's own."""
    os.mkfifo(folder / "pipe.csv")
    links = {"zero.csv": "/dev/zero", "passwd.csv": "/etc/passwd", "loop.csv": "loop.csv", "gone.dat": "gone"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (folder / "empty.csv").mkdir()
    (folder / "sensors").mkdir()
    (folder / "sensors" / "EDA.csv").symlink_to("/dev/zero")
    os.mkfifo(folder / "sensors" / "BVP.csv")
    yield from ("pipe.csv", *links, "empty.csv", "sensors", "absent.csv")
