"""Checkpoints of random numbers: the real model classes, tokenizers and preprocessing files, no training.

For trials, tests and the demo. A folder made here has the marker `mer.json`, by which everything that is computed
from it says that its weights are random. Each encoder file says in `draw` what its model looks like.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cache_schema.errors import SettingsError
from extract.encoders import ENCODERS
from extract.frozen import quiet

MARKER = "mer.json"
SIZES = ("full", "small")

SENTENCES = (
    "I am so happy that you came to see us today.",
    "This is the best news that I have heard all year!",
    "Why would you do that to me? I am really angry with you.",
    "Get out of here and leave me alone, right now!",
    "I miss her every day, and it makes me sad.",
    "Nothing will ever be the same without them.",
    "Wait, what? You are kidding, I did not expect that!",
    "Oh my God, I cannot believe that it is over there.",
    "That smells awful, I am not going to eat it.",
    "What is that noise? I am scared, please do not go.",
    "We will meet at the station at nine o'clock, then.",
    "Okay, you know, I think that would be fine with him.",
)
"""What a tokenizer is trained on where the caller has no sentences; bytes cover whatever else there is."""


def make_random_checkpoint(encoder: str, folder: Path, size: str, seed: int, sentences: Sequence[str] = ()) -> None:
    """Make a checkpoint for `encoder` in `folder`: the same bytes for the same arguments and library versions.

    The folder appears whole or not at all; one that is made by somebody else meanwhile is left as it is.

    Args:
        encoder: an encoder that has weights.
        folder: where it is made; must not hold anything but such a checkpoint.
        size: full: the default checkpoint's; small: quick on a CPU.
        seed: of the drawn numbers.
        sentences: what a tokenizer is trained on; empty: a few everyday sentences.

    Raises:
        SettingsError: the encoder has no weights, there is no such size, or the folder is in use.
    """
    import torch

    module = ENCODERS.load(encoder)
    if size not in SIZES or module.HUB is None:
        raise SettingsError(f"{encoder}: random weights are {' or '.join(SIZES)}, for encoders that have weights.")
    if (folder / MARKER).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module.draw(size, made, tuple(sentences) or SENTENCES).save_pretrained(made)
        marker = {"weights": "random", "encoder": encoder, "size": size, "seed": seed}
        (made / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
        made.chmod(0o755)
        try:
            made.replace(folder)
        except OSError as error:
            if not (folder / MARKER).is_file():
                raise SettingsError(f"{folder} is in use by something else than random weights.") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
