"""Forced alignment against openai-whisper's own, against planted attention, and its words against the text."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache_schema.errors import SettingsError
from cache_schema.rows import Failed
from cache_schema.samples import Utterance
from extract.alignment import WINDOW, Window, align, load_whisper, windows, word_times, words_of
from extract.encoder import Clip
from extract.encoders import words
from extract.weights.checkpoints import Checkpoint

TEXT = "we will meet at the station at nine then"


@pytest.fixture(scope="module")
def checkpoint(small: Callable[[str], Checkpoint]) -> Checkpoint:
    return small("words")


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> words.Encoder:
    return words.Encoder(words.Config(language="en"), checkpoint, "cpu")


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(16000 * seconds)).astype(np.float32)


def clip(text: str, seconds: float) -> Clip:
    return Clip(Utterance(id="a", text=text), audio={16000: sound(seconds)})


def test_the_weights_are_the_same_model(checkpoint: Checkpoint) -> None:
    """transformers and openai-whisper give the same hidden states: every weight has found its place."""
    from transformers import WhisperModel

    theirs = WhisperModel.from_pretrained(checkpoint.folder).eval()
    ours = load_whisper(checkpoint, "cpu")
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[50258, 50259, 50359, 50363, 440, 4411, 50257]])
    with torch.no_grad():
        expected = theirs(mel, decoder_input_ids=tokens).last_hidden_state @ theirs.decoder.embed_tokens.weight.T
        found = ours(mel, tokens)
    assert torch.linalg.norm(found - expected) <= 1e-5 * torch.linalg.norm(expected)


@pytest.mark.parametrize("seconds", [0.5, 3.3, 12.0, 29.99, 30.0])
def test_equals_whisper(encoder: words.Encoder, seconds: float) -> None:
    from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim
    from whisper.timing import find_alignment

    (row,) = encoder.encode([clip(TEXT, seconds)])
    mel = pad_or_trim(log_mel_spectrogram(sound(seconds), 80, padding=N_SAMPLES), N_FRAMES)
    tokens = encoder.tokenizer.encode(" " + TEXT)
    expected = find_alignment(encoder.model, encoder.tokenizer, tokens, mel, int(100 * seconds))
    assert [w.word.strip() for w in expected] == TEXT.split()
    assert np.array_equal(row["values"], np.array([(w.start, w.end) for w in expected], np.float32))


class Planted(torch.nn.Module):
    """Cross-attention that points, in every head, where it is told.

    Args:
        intervals: frames [start, end) of each token after the first `skipped` positions.
        skipped: positions before the one that predicts the first token.
        heard: the windows, in the order in which they are heard, one at a time.
        heads: of the model.
    """

    def __init__(self, intervals: list[tuple[int, int]], skipped: int, heard: list[Window], heads: int) -> None:
        super().__init__()
        self.intervals, self.skipped, self.heard, self.heads, self.calls = intervals, skipped, heard, heads, 0

    def forward(self, x: Any, xa: Any, **_: Any) -> tuple[Any, Any]:
        noise = torch.Generator().manual_seed(self.calls)
        logits = torch.randn(1, self.heads, x.shape[1], WINDOW, generator=noise)
        at = torch.arange(WINDOW) + self.heard[self.calls].start
        for k, (start, end) in enumerate(self.intervals):
            logits[:, :, self.skipped + k] += 6.0 * ((at >= start) & (at < end))
        self.calls += 1
        return torch.zeros_like(x), logits


@pytest.mark.parametrize("seconds", [8.0, 29.0, 47.0, 90.0])
def test_planted_intervals_are_found(checkpoint: Checkpoint, encoder: words.Encoder, seconds: float) -> None:
    """To 20 ms, in one window and over several; words spread evenly over the clip would not pass."""
    rng = np.random.default_rng(int(seconds))
    frames, count = int(50 * seconds), int(2 * seconds)
    spoken = ["station", "extraordinary", "at", "nine", "we"]
    tokens = [encoder.tokenizer.encode(" " + spoken[i % len(spoken)]) for i in range(count)]
    total = sum(map(len, tokens))
    room = rng.dirichlet(np.ones(total + 1)) * (frames - 8 * (total + 1))
    bounds = np.cumsum([0, *(8 + np.floor(room)).astype(int)])
    bounds[-1] = frames
    intervals = [(int(a), int(b)) for a, b in pairwise(bounds)]
    model = load_whisper(checkpoint, "cpu")
    for block in model.decoder.blocks:
        skipped = len(encoder.tokenizer.sot_sequence)
        block.cross_attn = Planted(intervals, skipped, windows(frames), model.dims.n_text_head)
    found = align(model, encoder.tokenizer, sound(seconds), tokens, budget=1)
    edges = bounds[np.cumsum([0, *map(len, tokens)])] / 50
    planted = np.stack([edges[:-1], edges[1:]], axis=1)
    assert np.abs(found - planted).max() <= 0.02 + 1e-4
    even = np.linspace(0, seconds, count + 1)
    assert np.abs(np.stack([even[:-1], even[1:]], axis=1) - planted).max() > 0.1


@given(frames=st.integers(1, 20000))
def test_windows_hear_every_frame_once(frames: int) -> None:
    kept = [w.start + k for w in windows(frames) for k in range(w.keep_from, w.keep_to)]
    assert kept == list(range(frames))
    assert all(0 <= w.keep_from < w.keep_to <= WINDOW for w in windows(frames))


@given(text=st.text(max_size=80))
def test_words_are_the_text_without_its_spaces(text: str) -> None:
    found = words_of(text)
    assert all(text[word.start : word.end] == word.text and word.text.strip() for word in found)
    assert "".join(word.text for word in found) == "".join(text.split())
    assert all(a.end <= b.start for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Oh, no - wait!", ["Oh,", "no", "-", "wait!"]),
        ("안녕 하세요.", ["안녕", "하세요."]),
        ("我很高兴。OK 吗", ["我", "很", "高", "兴。", "OK", "吗"]),
        ("  ", []),
    ],
)
def test_what_a_word_is(text: str, expected: list[str]) -> None:
    assert [word.text for word in words_of(text)] == expected


@pytest.mark.parametrize("seconds", [0.02, 0.3, 4.0, 33.0])
def test_every_word_lies_within_the_clip_in_order(encoder: words.Encoder, seconds: float) -> None:
    text = "Well, I do not know... do you? " * 4
    (row,) = encoder.encode([clip(text, seconds)])
    assert len(row["values"]) == len(row["offsets"]) == len(text.split())
    assert row["values"].min() >= 0
    assert row["values"].max() <= seconds
    assert (np.diff(row["values"].flatten()) >= 0).all()
    assert [text[a:b] for a, b in row["offsets"]] == text.split()


def test_what_cannot_be_aligned_fails_with_the_reason(encoder: words.Encoder) -> None:
    short, long, good = encoder.encode([clip("hello", 0.01), clip("extraordinary " * 500, 3.0), clip("hello", 1.0)])
    assert isinstance(short, Failed)
    assert "20 ms" in short.reason
    assert isinstance(long, Failed)
    assert "448" in long.reason
    assert len(good["values"]) == 1


def test_the_alignment_heads_are_the_checkpoints(checkpoint: Checkpoint, tmp_path: Any) -> None:
    import json
    import shutil

    shutil.copytree(checkpoint.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text(json.dumps({"alignment_heads": [[0, 1], [1, 0]]}))
    heads = load_whisper(Checkpoint("words", tmp_path), "cpu").alignment_heads
    assert sorted(map(tuple, heads.indices().T.tolist())) == [(0, 1), (1, 0)]


def test_a_language_that_whisper_does_not_know_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(SettingsError, match="klingon"):
        words.Encoder(words.Config(language="klingon"), checkpoint, "cpu")


def test_it_is_refused_before_any_weights_are_read(checkpoint: Checkpoint) -> None:
    words.describe(words.Config(language="ko"), checkpoint)
    with pytest.raises(SettingsError, match=r"no language 'und'.*words\.language=CODE"):
        words.describe(words.Config(language="und"), checkpoint)


def test_the_corpuss_own_times_are_taken_where_it_has_them(checkpoint: Checkpoint) -> None:
    text = "Oh, 很好 wait!"
    given = Utterance(id="a", text=text, word_times=(0.1, 0.3, 0.4, 0.8, 0.9, 1.7))
    heard = Clip(given, audio={16000: sound(1.5)})
    (row,) = words.Encoder(words.Config(language="en"), checkpoint, "cpu").encode([heard])
    expected = [(0.1, 0.3), (0.4, 0.6), (0.6, 0.8), (0.9, 1.5)]  # two characters share a time; within the sound
    assert np.array_equal(row["values"], np.array(expected, np.float32))
    assert [text[a:b] for a, b in row["offsets"]] == ["Oh,", "很", "好", "wait!"]
    aligned = words.Encoder(words.Config(language="en", given=False), checkpoint, "cpu")
    (other,) = aligned.encode([heard])
    assert not np.array_equal(other["values"], row["values"])
    (plain,) = aligned.encode([clip(text, 1.5)])
    assert np.array_equal(other["values"], plain["values"])
    one = Clip(given.model_copy(update={"word_times": (0.1, 0.3)}), audio={16000: sound(1.5)})
    (short,) = words.Encoder(words.Config(language="en"), checkpoint, "cpu").encode([one])
    assert isinstance(short, Failed) and "1 of 3 words" in short.reason
    before, after = (words.describe(words.Config(language="en", given=g), checkpoint) for g in (True, False))
    assert before.settings == {"language": "en"} and before.fingerprint() != after.fingerprint()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Excuse me.", (0.1, 0.5, 0.5, 0.8)),
        ("[LAUGHTER] Excuse - me.", (0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.8)),
        ("Ex-cuse-me!", (0.1, 0.8)),
        ("Excuse you.", None),
        ("Excuse", None),
        ("[LAUGHTER]", None),
    ],
)
def test_an_alignments_words_are_those_of_the_text_by_their_letters(
    text: str, expected: tuple[float, ...] | None
) -> None:
    assert word_times(text, [("EXCUSE(2)", 0.1, 0.5), ("ME", 0.5, 0.8)]) == expected


def test_fewer_windows_are_heard_at_once_where_memory_is_short(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = words.Encoder(words.Config(language="en"), checkpoint, "cpu", budget=16)
    tried: list[int] = []
    least = 4

    def short_of_memory(model: Any, tokenizer: Any, sound: Any, tokens: Any, budget: int) -> Any:
        tried.append(budget)
        if budget > least:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return align(model, tokenizer, sound, tokens, budget)

    monkeypatch.setattr(words, "align", short_of_memory)
    clip = Clip(Utterance(id="u", text="so it is"), audio={16000: np.zeros(32000, np.float32)})
    for _ in range(2):
        assert not isinstance(next(many.encode([clip])), Failed)
    assert tried == [16, 8, 4, 4]
    least = 0
    failed = next(many.encode([clip]))
    assert isinstance(failed, Failed) and "do not fit into the memory of cpu" in failed.reason
