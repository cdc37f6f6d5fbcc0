"""Figures of an encoder on a clip that mer brings: whether weights and libraries here give what they gave before.

`clip.mp4` is a drawn face with a synthesised voice (`extract/synthetic/`), two seconds. Of an encoder's features in
single precision are kept the shape, mean, standard deviation and some numbers. `figures.json` holds those that come
with mer, by encoder and digest of the weights; there are none yet. What is not there is recorded at the first run, in
mer's cache, and compared with from then on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.errors import first_line
from cache_schema.rows import Absent, Failed
from cache_schema.samples import Utterance
from extract.encoders import ENCODERS
from extract.weights.cache import cache_folder

HERE = Path(__file__).parent
CLIP, FIGURES = "clip.mp4", "figures.json"
SENTENCES = {"ko": "오늘은 정말 기쁜 날이에요, 와 줘서 고마워요.", "en": "I am so happy that you came to see us today."}
NUMBERS = 16
"""Numbers kept of a feature, evenly spread over it."""
TOLERANCE = 1e-3
"""In standard deviations of the feature: processors and library versions round differently, other weights do not."""


def compare(model: str, weights: str | None) -> str:
    """Run a model at hand on the clip, and say how its figures compare; records them at the first run.

    Args:
        model: an encoder with weights, or the face landmarker.
        weights: as `--weights`.

    Returns:
        "equal ...", "differs ...", "recorded ...", or why it was not run.
    """
    from extract.faces import face_model_sha256
    from extract.weights.models import FACE_LANDMARKER, at_hand_of

    if model == FACE_LANDMARKER:
        encoder, checkpoint, digest = "landmarks", None, face_model_sha256()
    else:
        encoder, checkpoint = model, at_hand_of(model, ENCODERS.load(model).HUB, weights)
        if checkpoint is None or checkpoint.random:
            return "not run: random weights have nothing to be compared with"
        digest = checkpoint.weights_sha256
    try:
        found = figures(encoder, checkpoint)
    except Exception as error:  # noqa: BLE001 - whatever a checkpoint does wrong is what is asked for here
        return f"differs: it does not run ({first_line(error)})"
    known = json.loads((HERE / FIGURES).read_text(encoding="utf-8")).get(encoder, {}).get(digest)
    own = cache_folder() / "golden" / f"{encoder}-{digest}.json"
    if known is None and not own.is_file():
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return f"recorded in {own}: no figures of these weights come with mer yet"
    origin = "those that come with mer" if known else f"those of the first run here, {own}"
    known = known or json.loads(own.read_text(encoding="utf-8"))
    if known["shape"] != found["shape"]:
        return f"differs: shape {found['shape']}, and {known['shape']} in {origin}"
    pairs = [pair for name in ("mean", "sd", "numbers") for pair in zip(known[name], found[name], strict=True)]
    worst = max(abs(a - b) for a, b in pairs) / max(known["sd"][0], 1e-12)
    return f"{'equal' if worst <= TOLERANCE else 'differs'}: by at most {worst:.1e} sd from {origin}"


def figures(encoder: str, checkpoint: Any) -> dict[str, Any]:
    """The figures of an encoder on the clip, on the CPU in single precision.

    Raises:
        ValueError: it gives no features of the clip.
    """
    from extract.decoding.media import decode

    module = ENCODERS.load(encoder)
    language = "ko" if "ko" in module.DEFAULT_FOR else "en"
    asked = {name for name, field in module.Config.model_fields.items() if field.is_required()}
    given = {name: value for name, value in (("crop", "whole"), ("language", language)) if name in asked}
    config = module.Config(output_dtype="float32", **given)
    needs = module.needs(config, checkpoint)
    clip = decode(HERE, Utterance(id="golden", path=CLIP, text=SENTENCES[language]), [needs])
    unreadable = clip.lacks(needs)
    if unreadable is not None:
        raise ValueError(unreadable.reason)
    (row,) = module.Encoder(config, checkpoint, "cpu").encode([clip])
    if isinstance(row, (Failed, Absent)):
        raise ValueError(row.reason)
    values = np.asarray(row["values"], np.float64)
    spread = np.linspace(0, values.size - 1, NUMBERS).astype(int)
    return {
        "shape": list(values.shape),
        "mean": [float(values.mean())],
        "sd": [float(values.std())],
        "numbers": [float(x) for x in values.reshape(-1)[spread]],
    }
