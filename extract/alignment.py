"""Word times by forced alignment: dynamic time warping over Whisper's cross-attention.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, arXiv:2212.04356; the alignment
is openai-whisper's (`whisper/timing.py`), given the transcript instead of recognising one. The weights are read from
the model's form on the Hugging Face hub, which has a revision, safetensors and the alignment heads.

Whisper hears 30 s at a time. Longer sound is heard in windows that overlap by 10 s; the cross-attention of all tokens
to each window is cut to its middle, joined along time and warped once, so no word is lost at a border.

Axes: H alignment heads, N tokens, T frames of 20 ms, W words.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import SettingsError
from extract.frozen import inference, load
from extract.weights.checkpoints import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_RATE_HZ = 16000
FRAMES_PER_SECOND = 50
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FRAMES_PER_SECOND
WINDOW, STRIDE, MARGIN = 1500, 1000, 250
"""Frames of a window, from one window's start to the next one's, and left out at an inner border."""
GENERATION = "generation_config.json"
"""The file of a checkpoint that names its alignment heads."""
_NAMES = (
    (r"(^|\.)layers\.", r"\1blocks."),
    (r"embed_positions\.weight", "positional_embedding"),
    (r"embed_tokens", "token_embedding"),
    (r"self_attn_layer_norm", "attn_ln"),
    (r"encoder_attn_layer_norm", "cross_attn_ln"),
    (r"final_layer_norm", "mlp_ln"),
    (r"self_attn", "attn"),
    (r"encoder_attn", "cross_attn"),
    (r"\bq_proj", "query"),
    (r"\bk_proj", "key"),
    (r"\bv_proj", "value"),
    (r"\bout_proj", "out"),
    (r"\bfc1", "mlp.0"),
    (r"\bfc2", "mlp.2"),
    (r"^encoder\.layer_norm", "encoder.ln_post"),
    (r"^decoder\.layer_norm", "decoder.ln"),
)
"""What a parameter is called in transformers, and in openai-whisper."""


@dataclass(frozen=True)
class Word:
    """A word of a transcript.

    Attributes:
        start, end: its characters, [start, end).
        text: those.
    """

    start: int
    end: int
    text: str


def words_of(text: str) -> list[Word]:
    """The words of a transcript: what stands between spaces; each character of a script that is written without."""
    found = []
    for match in re.finditer(r"\S+", text):
        begin = match.start()
        for start, end in _pieces(match[0]):
            found.append(Word(begin + start, begin + end, match[0][start:end]))
    return found


def _pieces(chunk: str) -> Iterator[tuple[int, int]]:
    """Where to cut what stands between two spaces: before each Han, kana or Thai character."""
    cuts = [0]
    for index, character in enumerate(chunk):
        follows = _stands_alone(chunk[cuts[-1]]) and character.isalnum()
        if index and (_stands_alone(character) or follows):
            cuts.append(index)
    yield from zip(cuts, [*cuts[1:], len(chunk)], strict=True)


def _stands_alone(character: str) -> bool:
    if unicodedata.category(character).startswith("M"):
        return False
    name = unicodedata.name(character, "")
    return name.startswith(("CJK UNIFIED", "HIRAGANA", "KATAKANA LETTER", "THAI CHARACTER"))


def require_language(language: str, where: str = "it") -> None:
    """Refuse what Whisper's tokenizer has no language for; `where` one is set.

    Raises:
        SettingsError: naming it.
    """
    from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

    if language.lower() not in LANGUAGES | TO_LANGUAGE_CODE:
        raise SettingsError(f"Whisper knows no language {language!r}; {where} takes its codes, as ko or de.")


def given_times(words: Sequence[Word], times: Sequence[float], seconds: float) -> NDArray[np.float32]:
    """When each word is spoken by the corpus's own times: (W, 2) start and end in seconds, within the sound.

    Args:
        words: of the transcript, some of which may share what stands between two spaces, and then its time.
        times: start and end of whatever stands between two spaces.
        seconds: of the sound.
    """
    begins = [0, *(k for k in range(1, len(words)) if words[k].start > words[k - 1].end), len(words)]
    rows = []
    for (start, end), first, last in zip(zip(times[::2], times[1::2], strict=True), begins, begins[1:], strict=False):
        edges = np.linspace(start, end, last - first + 1)
        rows += list(pairwise(edges.tolist()))
    return np.clip(np.array(rows, np.float32).reshape(-1, 2), 0.0, seconds).astype(np.float32)


def word_times(text: str, spoken: Sequence[tuple[str, float, float]]) -> tuple[float, ...] | None:
    """The times of whatever stands between spaces in a transcript, from an alignment's own words.

    The letters and digits of both must be the same, whatever words they are cut into ("Mm-hmm" may be MM HMM). What
    has none, as "-" or "[LAUGHTER]" of which an alignment knows nothing, has the pause between its neighbours.

    Args:
        text: the transcript.
        spoken: word, start and end in seconds of each aligned word, in order.

    Returns:
        As `Utterance.word_times`; None where the two do not say the same.
    """
    owners = [number for number, (word, _, _) in enumerate(spoken) for _ in _letters(word)]
    pieces = [_letters(re.sub(r"\[[^\]]*\]", "", piece)) for piece in text.split()]
    if "".join(pieces) != "".join(_letters(word) for word, _, _ in spoken):
        return None
    found: list[tuple[float, float] | None] = []
    place = 0
    for letters in pieces:
        if letters:
            found.append((spoken[owners[place]][1], spoken[owners[place + len(letters) - 1]][2]))
        else:
            found.append(None)
        place += len(letters)
    if not any(found):
        return None
    times: list[float] = []
    for number, own in enumerate(found):
        before = times[-1] if times else next(f[0] for f in found if f is not None)
        after = next((f[0] for f in found[number:] if f is not None), before)
        start, end = own or (before, after)
        times += [max(start, before), max(end, start, before)]
    return tuple(times)


def _letters(word: str) -> str:
    """Letters and digits alone, alike in capitals and not; without the number of a pronunciation, as in READ(2)."""
    return "".join(c for c in re.sub(r"\(\d+\)$", "", word).casefold() if c.isalnum())


def load_whisper(checkpoint: Checkpoint, device: str) -> Any:
    """openai-whisper's model with the checkpoint's weights, in single precision.

    Raises:
        SettingsError: weights are missing in the checkpoint, or it cannot be read.
    """
    import torch
    from whisper.model import Linear as Casting
    from whisper.model import ModelDimensions, Whisper

    from compute.modules import recast
    from compute.products import Linear

    theirs = load("WhisperModel", checkpoint, "cpu", "float32")
    c = theirs.config
    dims = ModelDimensions(
        n_mels=c.num_mel_bins,
        n_audio_ctx=c.max_source_positions,
        n_audio_state=c.d_model,
        n_audio_head=c.encoder_attention_heads,
        n_audio_layer=c.encoder_layers,
        n_vocab=c.vocab_size,
        n_text_ctx=c.max_target_positions,
        n_text_state=c.d_model,
        n_text_head=c.decoder_attention_heads,
        n_text_layer=c.decoder_layers,
    )
    model = recast(Whisper(dims), {Casting: Linear})  # theirs casts weights to the sound's type, single precision both
    model.load_state_dict({_renamed(name): tensor for name, tensor in theirs.state_dict().items()})
    path = checkpoint.folder / GENERATION
    heads = json.loads(path.read_text(encoding="utf-8")).get("alignment_heads") if path.is_file() else None
    if heads:
        mask = torch.zeros(c.decoder_layers, c.decoder_attention_heads, dtype=torch.bool)
        mask[tuple(zip(*heads, strict=True))] = True
        model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    return model.requires_grad_(False).eval().to(device)


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def align(
    model: Any, tokenizer: Any, sound: NDArray[np.float32], words: Sequence[Sequence[int]], budget: int
) -> NDArray[np.float32]:
    """When each word is spoken: (W, 2) start and end in seconds from the sound's start, in order, within it.

    Args:
        model: openai-whisper's model.
        tokenizer: its tokenizer.
        sound: mono at 16 kHz, at least one frame.
        words: the tokens of each word, in order.
        budget: windows of sound in one batch.
    """
    from whisper.timing import dtw, median_filter

    before = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    tokens = [*before, *(token for word in words for token in word), tokenizer.eot]
    with inference():
        weights = cross_attention(model, tokens, sound, budget).softmax(dim=-1)
        # whisper.timing.find_alignment, from here on
        deviation, mean = weights.std(dim=-2, keepdim=True, unbiased=False), weights.mean(dim=-2, keepdim=True)
        scores = median_filter(((weights - mean) / deviation).nan_to_num(), 7).mean(dim=0)  # nan: a single frame
    rows, frames = dtw(-scores[len(before) - 1 : -1])
    jumps = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    times = frames[jumps] / FRAMES_PER_SECOND
    bounds = np.cumsum([0, *map(len, words)])
    return np.stack([times[bounds[:-1]], times[bounds[1:]]], axis=1).astype(np.float32)


def cross_attention(model: Any, tokens: Sequence[int], sound: NDArray[np.float32], budget: int) -> Tensor:
    """Logits of the alignment heads' attention of every token to every frame of the sound (H, N, T)."""
    import torch
    from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim

    frames = len(sound) // SAMPLES_PER_FRAME
    mel = log_mel_spectrogram(sound, model.dims.n_mels, padding=N_SAMPLES, device=model.device)
    heard = windows(frames)
    pieces: list[Tensor] = []
    for begin in range(0, len(heard), budget):
        chosen = heard[begin : begin + budget]
        mels = torch.stack([pad_or_trim(mel[:, 2 * w.start : 2 * (w.start + WINDOW)], N_FRAMES) for w in chosen])
        seen = _attention_logits(model, mels, torch.tensor([tokens] * len(chosen), device=model.device))
        pieces += [own[:, :, w.keep_from : w.keep_to] for own, w in zip(seen, chosen, strict=True)]
    return torch.cat(pieces, dim=-1)


def _attention_logits(model: Any, mels: Tensor, tokens: Tensor) -> Tensor:
    """The alignment heads' attention logits (windows, H, N, frames of a window) of one batch."""
    import torch
    from whisper.model import disable_sdpa

    seen: dict[int, Tensor] = {}

    def listener(layer: int) -> Any:
        return lambda module, given, out: seen.update({layer: out[-1]})

    blocks = enumerate(model.decoder.blocks)
    hooks = [block.cross_attn.register_forward_hook(listener(layer)) for layer, block in blocks]
    try:
        with disable_sdpa():
            model(mels, tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([seen[layer][:, head] for layer, head in model.alignment_heads.indices().T.tolist()], dim=1)


@dataclass(frozen=True)
class Window:
    """Thirty seconds that the model hears.

    Attributes:
        start: its first frame in the sound.
        keep_from, keep_to: which of its own frames are used.
    """

    start: int
    keep_from: int
    keep_to: int


def windows(frames: int) -> list[Window]:
    """Windows whose kept frames are all `frames` of a sound, each once, in order."""
    found = []
    start = 0
    while True:
        last = start + WINDOW >= frames
        kept = frames - start if last else WINDOW - MARGIN
        found.append(Window(start, MARGIN if start else 0, kept))
        if last:
            return found
        start += STRIDE
