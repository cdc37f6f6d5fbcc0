"""What a run holds at a time: as much as its windows allow, however many clips the corpus has."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_schema.samples import Utterance
from extract import pipeline
from extract.encoder import Clip
from extract.run import extract

SECONDS, RATE = 5, 16000
CLIP_BYTES = 4 * SECONDS * RATE
WINDOW = 4 * CLIP_BYTES


class Held:
    """Counts the bytes of decoded sound that somebody holds."""

    def __init__(self) -> None:
        self.now = self.most = self.decoded = 0
        self._lock = threading.Lock()

    def decode(self, root: Path, utterance: Utterance, *_: Any) -> Clip:
        """A clip of silence that is counted until nobody holds it any more."""
        sound = np.zeros(SECONDS * RATE, np.float32)
        with self._lock:
            self.now += sound.nbytes
            self.decoded += 1
            self.most = max(self.most, self.now)
        weakref.finalize(sound, self._let_go, sound.nbytes)
        return Clip(utterance, audio={RATE: sound}, media_sha256="0" * 64, sound_sha256="0" * 64)

    def _let_go(self, size: int) -> None:
        with self._lock:
            self.now -= size


@pytest.mark.parametrize("clips", [24, 96])
def test_no_more_is_held_of_a_larger_corpus(clips: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "a.wav").write_bytes(b"")
    rows = [f"c{i},a.wav,{i * SECONDS},{(i + 1) * SECONDS}" for i in range(clips)]
    (root / "manifest.csv").write_text("\n".join(["id,path,start,end", *rows, ""]), encoding="utf-8")
    held = Held()
    monkeypatch.setattr(pipeline, "decode", held.decode)
    monkeypatch.setattr(pipeline, "DECODE_BUDGET_BYTES", WINDOW)
    report = extract("folder", root, str(tmp_path / "store"), encoders=["mfcc"], device="cpu")
    assert (held.decoded, report.features[0].written) == (clips, clips)
    assert 2 * CLIP_BYTES <= held.most <= 3 * WINDOW  # one encoded, one decoded, one on its way
    assert held.now == 0
