"""Raw clips to answers: what `mer predict` does, and its results as JSON and as rows.

    found = predict(["talk.mp4"], "runs/hff-meld-1")
    found.as_json()

The encoders that the model was trained on run over the clips into a store of their own, which is removed afterwards;
the model reads it as it read the one that it was trained on.
"""

from __future__ import annotations

import csv
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schema.errors import SettingsError
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore
from compute.device import resolve_device
from extract.clips import DATASET, Clip, cut, extract_clips, listen, open_clips
from extract.clips.matching import match
from extract.clips.windows import Cutting
from extract.recognition import Recogniser, is_wanted, whisper_checkpoint
from fuse.answers import Answer, Trained, answer, open_trained

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Prediction:
    """What `mer predict` found.

    Attributes:
        trained: the model.
        clips: with their utterances.
        answers: by the utterance's id.
        seconds: wall time.
    """

    trained: Trained
    clips: tuple[Clip, ...]
    answers: dict[str, Answer]
    seconds: float

    @property
    def random_weights(self) -> bool:
        """Whether some encoder's weights were drawn."""
        return any(spec.random_weights for spec in self.trained.specs)

    def of(self, clip: Clip) -> list[tuple[Utterance, Answer]]:
        """A clip's utterances and what is said about them."""
        return [(utterance, self.answers[utterance.id]) for utterance in clip.utterances]

    def as_json(self) -> dict[str, Any]:
        """The object that `mer predict --json` prints."""
        t = self.trained
        return {
            "model": {
                "source": t.source,
                "arch": t.arch,
                "dataset": t.dataset,
                "target": t.target.name,
                "task": t.target.kind,
                "classes": list(t.target.classes),
                "trainings": [{"seed": m.seed, "fold": m.fold} for m in t.members],
                "features": {n: f"{f.feature}@{f.fingerprint()}" for n, f in {**t.features, **t.companions}.items()},
                "random_weights": self.random_weights,
            },
            "clips": [
                {
                    "clip": str(clip.path),
                    "duration": clip.seconds,
                    "language": clip.language,
                    "notes": list(clip.notes),
                    "utterances": [_as_json(u, a) for u, a in self.of(clip)],
                }
                for clip in self.clips
            ],
            "seconds": round(self.seconds, 3),
        }

    def as_csv(self) -> str:
        """A row per utterance; a text that a spreadsheet would take for a formula has an apostrophe before it."""
        target = self.trained.target
        modalities = list(self.trained.features)
        families = list(dict.fromkeys(f for a in self.answers.values() for f in a.weights or {}))
        drawn = list(dict.fromkeys(n for a in self.answers.values() for n in a.drawn or {}))
        uncertain = list(dict.fromkeys(n for a in self.answers.values() for n in a.uncertainty or {}))
        names = target.classes if target.kind != "regression" else (target.name,)
        columns = ["clip", "id", "start", "end", "speaker", "text", "recognised", "prediction"]
        columns += [f"probability_{c}" for c in target.classes]
        columns += [f"sd_{name}" for name in names]
        columns += [*uncertain, *(f"{f}_{m}" for f in families for m in modalities), *drawn]
        columns += [f"missing_{m}" for m in modalities]
        file = io.StringIO()
        out = csv.writer(file, lineterminator="\n")
        out.writerow(columns)
        for clip in self.clips:
            for u, a in self.of(clip):
                probabilities, spread = a.probabilities or {}, a.spread or {}
                row: list[Any] = [str(clip.path), u.id, u.start, u.end, u.speaker, u.text, u.recognised, in_words(a)]
                row += [probabilities.get(c) for c in target.classes]
                row += [spread.get(name) for name in names]
                row += [(a.uncertainty or {}).get(n) for n in uncertain]
                row += [(a.weights or {}).get(f, {}).get(m) for f in families for m in modalities]
                row += [(a.drawn or {}).get(n) for n in drawn] + [a.missing.get(m) for m in modalities]
                out.writerow([_cell(value) for value in row])
        return file.getvalue()


def predict(
    clips: Sequence[str | Path],
    model: str | Path,
    *,
    seed: int | None = None,
    transcripts: Sequence[str | Path] = (),
    weights: str | None = None,
    cutting: Cutting | None = None,
    recognise: bool = True,
    language: str | None = None,
    device: str = "auto",
    progress: Progress = lambda done, total, failed: None,
    say: Callable[[str], None] = lambda line: None,
) -> Prediction:
    """What a trained model says about raw clips.

    Args:
        clips: files of video or sound.
        model: a run's folder, an exported model's, or `hf:ORG/NAME[@REVISION]`.
        seed: one of the run's seeds; None: all of them as an ensemble.
        transcripts: a file for each clip, in their order, or none at all (`extract/clips/subtitles.py`).
        weights: where the encoders' weights are, as `mer extract` has it; None: what the run was trained on.
        cutting: how long clips are cut into windows; None: the defaults.
        recognise: let Whisper write what has no transcript, where the model reads text; else text is masked there.
        language: of the speech, as Whisper names it; None: that of the run's own word alignment, or Whisper finds out.
        device: torch device of the encoders; `auto`: a GPU where there is one.
        progress: called with (rows done, rows to do, rows failed) of the encoders.
        say: called with each line that is worth showing.

    Raises:
        MerError: a clip, a transcript, the model or its weights are not there, or weights are not those that the model
            was trained on.
    """
    started = time.perf_counter()
    if transcripts and len(transcripts) != len(clips):
        raise SettingsError(
            f"{len(transcripts)} transcripts for {len(clips)} clips: give one for each, in their order."
        )
    trained = open_trained(str(model), seed)
    matches = [match(spec, weights, trained.source) for spec in trained.specs]
    root, opened = open_clips([Path(clip) for clip in clips])
    given: list[Path | None] = [Path(transcript) for transcript in transcripts] or [None] * len(opened)
    found = [cut(clip, root, file, cutting or Cutting()) for clip, file in zip(opened, given, strict=True)]
    random = sorted(spec.feature for spec in trained.specs if spec.random_weights)
    if random:
        say(f"{', '.join(random)}: random weights. What follows is a trial and says nothing about anybody.")
    for clip in found:
        for note in clip.notes:
            say(f"{clip.path}: {note}")
    if recognise:
        found = _listened(found, root, trained, weights, language, device, say)
    with tempfile.TemporaryDirectory(prefix="mer-predict-") as folder:
        store = FeatureStore.open(folder, mode="a")
        extract_clips(store, found, root, matches, trained.target, device, progress)
        answers = {a.id: a for a in answer(trained, store, DATASET)}
    return Prediction(trained, tuple(found), answers, time.perf_counter() - started)


def _listened(
    clips: list[Clip],
    root: Path,
    trained: Trained,
    weights: str | None,
    language: str | None,
    device: str,
    say: Callable[[str], None],
) -> list[Clip]:
    """The clips with what Whisper heard in them, where the model reads text and there is none."""
    wanted = sum(is_wanted(u) for clip in clips if clip.sound for u in clip.utterances)
    if not wanted or all(spec.modality != "text" for spec in trained.specs):
        return clips
    words = next((spec for spec in trained.specs if spec.feature == "words"), None)
    try:
        checkpoint = whisper_checkpoint(weights) if words is None else match(words, weights, trained.source).checkpoint
        assert checkpoint is not None  # words has weights
    except SettingsError as error:
        raise SettingsError(
            f"{error} Whisper recognises what has no transcript; give --transcript instead, or --no-recognition, which "
            "masks text."
        ) from error
    if language is None and words is not None:
        language = str(words.settings["language"])
    say(
        f"{wanted} utterances have no transcript: {checkpoint.name or checkpoint.folder} listens"
        + (", whose weights are random: it hears rubbish." if checkpoint.random else ".")
    )
    recogniser = Recogniser(checkpoint, resolve_device(device), language)
    return [listen(clip, root, recogniser) for clip in clips]


def in_words(a: Answer) -> str:
    """A prediction in words."""
    if a.prediction is None:
        return "–"
    if isinstance(a.prediction, list):
        return " + ".join(a.prediction) or "none"
    return a.prediction if isinstance(a.prediction, str) else f"{a.prediction:.3f}"


def own_uncertainty(a: Answer) -> str:
    """What the architecture itself says about how sure it is, in words."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in a.own.items())


def clock(seconds: float | None) -> str:
    """A time as minutes and seconds; nothing where it is not known."""
    return "" if seconds is None else f"{int(seconds // 60)}:{seconds % 60:05.2f}"


def _as_json(u: Utterance, a: Answer) -> dict[str, Any]:
    return {
        "id": u.id,
        "start": u.start,
        "end": u.end,
        "speaker": u.speaker,
        "text": u.text,
        "recognised": u.recognised,
        "prediction": a.prediction,
        "probabilities": a.probabilities,
        "sd": a.spread,
        "uncertainty": a.uncertainty,
        "weights": a.weights,
        "drawn": a.drawn,
        "modalities": list(a.modalities),
        "missing": a.missing,
    }


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
