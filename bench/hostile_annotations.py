"""Annotation files that are not what they must be: a small root of each dataset, damaged by a seed.

A root holds annotations and empty clips; what is read of it is either an enumeration or one error of one line.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.hostile_media import HUGE

MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
MELD_LINE = '1,"Well, hello",Joey,joy,positive,0,{turn},1,1,"00:16:16,059","00:16:21,731"\n'
AIHUB_HEADER = "wav_id,발화문,상황," + ",".join(f"{n}번 감정,{n}번 감정세기" for n in range(1, 6)) + ",나이,성별\n"
IEMOCAP_TURN = "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\n"
FOLDS = '{"train": ["a1"], "valid": ["-b2"], "test": ["_c3"]}'
LABELS = "video_id,clip_id,text,label,mode\na1,1,very good,2.5,train\n-b2,1,bad,-1,valid\n_c3,2,so,0,test\n"

ROOTS: dict[str, dict[str, str]] = {
    "folder": {
        "manifest.csv": "id,path,text,label,speaker,split,start,end\n"
        "a,one.mp4,good day,joy,Ann,train,0,1.5\nb,sub/two.wav,,anger,Ben,val,,\n",
        "one.mp4": "",
        "sub/two.wav": "",
    },
    "folder with JSON lines": {
        "manifest.jsonl": '{"id": "a", "path": "one.mp4", "text": "good", "end": 1.5}\n{"path": "two.wav"}\n',
        "one.mp4": "",
        "two.wav": "",
    },
    "folder of recordings": {
        "manifest.csv": "id,signals,speaker,start,end,label\na,one.csv,Ann,0,1,joy\nb,two,Ann,,,anger\n",
        "one.csv": "time,EDA,TEMP\n0,1.5,33\n0.5,2.5,\n1,2,33.5\n",
        "two/EDA.csv": "1500000000.0\n4.0\n0.1\n0.2\n",
    },
    "meld": {
        **{f"{part}_sent_emo.csv": MELD_HEADER + MELD_LINE.format(turn=0) for part in ("train", "dev", "test")},
        "train_splits/dia0_utt0.mp4": "",
    },
    "iemocap": {
        "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": "% [START - END] TURN EMOTION\n\n" + IEMOCAP_TURN,
        "Session1/dialog/transcriptions/Ses01F_impro01.txt": "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n",
        "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav": "",
    },
    "aihub": {
        "4.csv": AIHUB_HEADER + "5f4141e29dd513131eacee2f,안녕,happiness," + "Happiness,1," * 5 + "27,male\n",
        "4/5f4141e29dd513131eacee2f.wav": "",
    },
    "mosi": {
        "label.csv": LABELS,
        "mosi_folds.json": FOLDS,
        "Raw/a1/1.mp4": "",
        "Raw/Transcript/Segmented/a1.annotprocessed": "1_DELIM_VERY GOOD\n",
    },
    "mosei": {
        "label.csv": LABELS,
        "cmu_mosei_std_folds.py": "standard_train_fold = ['a1']\nstandard_valid_fold = ['-b2']\n"
        "standard_test_fold = ['_c3']\n",
        "Raw/a1/1.mp4": "",
        "Raw/Transcript/Segmented/Combined/a1.txt": "a1___1___0.5___2.5___very good\n",
    },
    "deap": {
        "s01.dat": "(lp0\n.",
        "participant_ratings.csv": "Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking\n"
        + "".join(f"1,{n},{n},0,5.1,4.2,6,7\n" for n in range(1, 41)),
    },
}
"""Relative path -> content, by dataset (the words before the first blank)."""

ESCAPES = (
    "../../etc/passwd", "/etc/passwd", "..\\..\\windows", "C:\\x.mp4", "//host/share/x.mp4", "a/../../x.mp4",
    "file:///etc/passwd", "http://127.0.0.1:9/x.mp4", "concat:/etc/passwd|x", "|touch x", "~/x.mp4", "a" * 5000,
    "x/" * 3000, ".", "", "one.mp4\x00.wav",
)  # fmt: skip
FORMULAS = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", '=HYPERLINK("http://x")', "\t=1+1", "\r=1", "${x}")
CONTROLS = ("\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u202e", "\ufeff", "\u2028", "\ud800", "\n\n", "\r")

Change = Callable[[str, random.Random], bytes]


def _coded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _cell(text: str, rng: random.Random, new: str) -> str:
    """The text with one of its values replaced, after the first line where there is another."""
    lines = text.split("\n")
    number = rng.randrange(min(1, len(lines) - 1), len(lines))
    separator = next((s for s in (",", "___", "_DELIM_", "\t", '"', " ") if s in lines[number]), ",")
    cells = lines[number].split(separator)
    cells[rng.randrange(len(cells))] = new
    lines[number] = separator.join(cells)
    return "\n".join(lines)


CHANGES: dict[str, Change] = {
    "path escapes": lambda text, rng: _coded(_cell(text, rng, rng.choice(ESCAPES))),
    "formulas": lambda text, rng: _coded(_cell(text, rng, rng.choice(FORMULAS))),
    "control characters": lambda text, rng: _coded(_cell(text, rng, f"a{rng.choice(CONTROLS)}b")),
    "huge fields": lambda text, rng: _coded(_cell(text, rng, rng.choice(("x", "9", '"', "[")) * 300_000)),
    "enormous numbers": lambda text, rng: _coded(
        _cell(text, rng, rng.choice((*map(str, HUGE), "1e999", "-1e308", "nan", "inf", "9" * 5000, "٣", "1_0", "0x10")))
    ),
    "lines twice": lambda text, rng: _coded(text + text.rstrip("\n").split("\n")[-1] + "\n"),
    "byte order mark": lambda text, rng: b"\xef\xbb\xbf" + _coded(text),
    "line ends": lambda text, rng: _coded(text.replace("\n", rng.choice(("\r\n", "\r", "\u2028", "\n\n")))),
    "encodings": lambda text, rng: text.encode(rng.choice(("utf-16", "utf-32", "utf-7", "cp949")), "replace"),
    "flipped bits": lambda text, rng: _flipped(_coded(text), rng),
    "truncated": lambda text, rng: _coded(text)[: rng.randrange(len(_coded(text)) + 1)],
    "noise": lambda text, rng: rng.randbytes(rng.randrange(2000)),
    "nested": lambda text, rng: rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"(" * 100_000, b'"' * 99_999)),
}


def _flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 3, 10))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def hostile_roots(folder: Path, count: int, seed: int) -> Iterator[tuple[str, str, Path]]:
    """(dataset, kind of change, root) of `count` damaged roots, made one after the other in `folder`."""
    rng = random.Random(seed)
    for number in range(count):
        name = list(ROOTS)[number % len(ROOTS)]
        kind = list(CHANGES)[number // len(ROOTS) % len(CHANGES)]
        root = folder / f"{number:05}"
        hit = rng.choice([path for path, content in ROOTS[name].items() if content])
        for path, content in ROOTS[name].items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(CHANGES[kind](content, rng) if path == hit else _coded(content))
        yield name.partition(" ")[0], kind, root
