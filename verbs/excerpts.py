"""What utterances of a run sound and look like: a few pictures and compressed sound, small enough to lie in a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import MerError, SettingsError
from cache_schema.samples import Utterance
from extract.decoding.quarantine import decode
from extract.encoder import FrameRequest, Needs
from fuse.report.evidence import Evidence
from fuse.report.look import where
from fuse.report.page import Excerpt

MOST_SECONDS = 20.0
"""Of an utterance; what comes later is left out, and the excerpt says so."""
PICTURES = 4
SIDE = 176
"""Of a picture, in pixels."""
QUALITY = 70
"""Of a JPEG."""
SOUND_HZ = 24_000
BIT_RATE = 24_000
"""Of the sound, bit per second: at most 60 kB in all."""


@dataclass
class Excerpts:
    """Excerpts by run and utterance, each made once.

    Args:
        roots: dataset -> its data root; "" for every dataset that has none of its own.
        store: where the runs' store is now; None: where it was.
    """

    roots: dict[str, Path]
    store: str | None = None
    made: dict[tuple[str, str], Excerpt] = field(default_factory=dict)

    def __call__(self, e: Evidence, id_: str) -> Excerpt:
        """Of an utterance, by its id in the run; what cannot be had is said in its notes."""
        try:
            store, dataset, own = where(e, id_, self.store)
            samples = store.samples(dataset)
            key = (dataset, own)
            if key not in self.made:
                root = self.roots.get(dataset, self.roots.get(""))
                utterance = samples.utterances[samples.numbers[own]]
                if root is None:
                    self.made[key] = Excerpt(id_, utterance.text, notes=[f"--root names no data root of {dataset}."])
                else:
                    self.made[key] = excerpt(root, utterance)
        except MerError as error:
            return Excerpt(id_, None, notes=[str(error)])
        except KeyError:
            return Excerpt(id_, None, notes=["the store no longer has it."])
        return self.made[key]

    @property
    def without_media(self) -> int:
        """How many have neither pictures nor sound."""
        return sum(not one.pictures and one.sound is None for one in self.made.values())


def roots_of(given: Sequence[str]) -> dict[str, Path]:
    """Data roots from "PATH" or "DATASET=PATH".

    Raises:
        SettingsError: one is no folder.
    """
    roots = {}
    for word in given:
        dataset, _, path = word.partition("=") if "=" in word and not Path(word).is_dir() else ("", "", word)
        if not path or not Path(path).is_dir():
            raise SettingsError(f"--root {word}: {path or 'nothing'} is no folder; give PATH, or DATASET=PATH.")
        roots[dataset] = Path(path)
    return roots


def excerpt(root: Path, utterance: Utterance) -> Excerpt:
    """Pictures, sound and words of an utterance, of its first MOST_SECONDS."""
    start, notes = utterance.start or 0.0, []
    seconds = utterance.end - start if utterance.end is not None else utterance.duration
    if seconds is not None and seconds > MOST_SECONDS:
        notes.append(f"The first {MOST_SECONDS:g} of {seconds:.1f} seconds.")
        seconds = MOST_SECONDS
        utterance = utterance.model_copy(update={"end": start + MOST_SECONDS})
    frames = FrameRequest(PICTURES / (seconds or PICTURES), "whole", SIDE)
    clip = decode(root, utterance, [Needs(audio_hz=SOUND_HZ), Needs(frames=frames)])
    seen = clip.frames.get(frames, np.empty((0, SIDE, SIDE, 3), np.uint8))
    places = np.unique(np.linspace(0, len(seen) - 1, PICTURES).round().astype(int)).tolist() if len(seen) else []
    pictures = [((i + 0.5) / frames.fps, _jpeg(seen[i])) for i in places]
    samples = clip.audio.get(SOUND_HZ)
    sound = None if samples is None or not len(samples) else _opus(samples[: int(MOST_SECONDS * SOUND_HZ)])
    notes += [f"{stream}: {why.reason}" for stream, why in clip.unreadable.items()]
    return Excerpt(utterance.id, utterance.text, pictures, sound, notes)


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()


def _opus(samples: NDArray[np.float32]) -> bytes:
    """Mono sound as Opus in WebM, which browsers play."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="webm") as out:
        stream: Any = out.add_stream("libopus", rate=SOUND_HZ, layout="mono")
        stream.bit_rate = BIT_RATE
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
        frame.sample_rate, frame.pts = SOUND_HZ, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    return file.getvalue()
