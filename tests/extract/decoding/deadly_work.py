"""What a process that decodes may be given instead of decoding, to die of."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache_schema.samples import Utterance
from extract.decoding import media
from extract.encoder import Clip, Needs

decode = media.decode
"""As it is before a test puts another function in its place."""


def sleep_forever(root: Path, utterance: Utterance, needs: Sequence[Needs]) -> Clip:
    while True:
        time.sleep(1)


def die(root: Path, utterance: Utterance, needs: Sequence[Needs]) -> Clip:
    os.kill(os.getpid(), signal.SIGSEGV)
    return Clip(utterance)


def die_once(root: Path, utterance: Utterance, needs: Sequence[Needs]) -> Clip:
    if not (root / "died").exists():
        (root / "died").write_bytes(b"")
        os._exit(3)
    return decode(root, utterance, needs)


def die_of_one_clip(root: Path, utterance: Utterance, needs: Sequence[Needs]) -> Clip:
    return (die if utterance.id == "train/dia0_utt1" else decode)(root, utterance, needs)


def eat_memory(root: Path, utterance: Utterance, needs: Sequence[Needs]) -> Clip:
    return Clip(utterance, {16000: np.ones(1 << 28, np.float32)})
