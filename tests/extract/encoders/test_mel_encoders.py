"""MFCC and log-mel energies against the paper's sums written out, and against another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from cache_schema.samples import Utterance
from extract import mel
from extract.encoder import Clip
from extract.encoders import logmel, mfcc


def sound(samples: int = 3000) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (0.3 * np.sin(np.arange(samples) / 5) + rng.normal(0, 0.05, samples)).astype(np.float32)


def encode(x: NDArray[np.float32], **values: object) -> NDArray[np.float32]:
    config = mfcc.Config.parse({"output_dtype": "float32", **values}, "mfcc")
    clip = Clip(Utterance(id="u"), audio={config.sample_rate_hz: x})
    (row,) = mfcc.Encoder(config, None, "cpu").encode([clip])
    return row["values"]


def by_the_equations(x: NDArray[np.float32], frame: int, n_mfcc: int, n_mels: int) -> list[float]:
    """Equations (1) to (5) of one frame, term by term: 16 kHz, window 400, hop 160, 512 points."""
    emphasised = [float(x[n]) - 0.97 * float(x[n - 1]) if n else float(x[0]) for n in range(len(x))]
    first = frame * 160 - 120
    window = [
        (emphasised[first + n] if 0 <= first + n < len(x) else 0.0) * (0.54 - 0.46 * math.cos(2 * math.pi * n / 399))
        for n in range(400)
    ]
    mel = lambda f: 2595 * math.log10(1 + f / 700)  # noqa: E731
    hertz = lambda m: 700 * (10 ** (m / 2595) - 1)  # noqa: E731
    corners = [hertz(mel(8000) * i / (n_mels + 1)) for i in range(n_mels + 2)]
    logs = []
    power = []
    for k in range(257):
        real = sum(w * math.cos(2 * math.pi * k * n / 512) for n, w in enumerate(window))
        imaginary = sum(w * math.sin(2 * math.pi * k * n / 512) for n, w in enumerate(window))
        power.append(real**2 + imaginary**2)
    for m in range(1, n_mels + 1):
        below, centre, above = corners[m - 1 : m + 2]
        total = 0.0
        for k in range(257):
            f = k * 16000 / 512
            if below < f <= centre:
                total += power[k] * (f - below) / (centre - below)
            elif centre < f < above:
                total += power[k] * (above - f) / (above - centre)
        logs.append(math.log(max(total, 1e-10)))
    return [
        sum(s * math.cos((m - 0.5) * n * math.pi / n_mels) for m, s in enumerate(logs, start=1)) for n in range(n_mfcc)
    ]


@pytest.mark.parametrize("frame", [0, 7, 18])
def test_equals_the_equations(frame: int) -> None:
    found = encode(sound(), n_mfcc=13, n_mels=26)
    assert found.shape == (19, 13)
    expected = by_the_equations(sound(), frame, 13, 26)
    assert np.allclose(found[frame], expected, rtol=1e-5, atol=1e-4)


def test_equals_another_implementation() -> None:
    from scipy.fft import dct
    from transformers.audio_utils import mel_filter_bank, spectrogram

    x = sound(16000)
    filters = mel_filter_bank(257, 64, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    padded = np.pad(x.astype(np.float64), (120, 400))  # frame k begins 120 samples before its hop
    logs = spectrogram(
        padded, np.hamming(400), 400, 160, fft_length=512, power=2.0, center=False, mel_filters=filters, log_mel="log"
    )
    expected = dct(logs.T, type=2, norm=None)[:100, :40] / 2
    found = encode(x, pre_emphasis=0.0)
    assert found.shape == (100, 40)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    config = logmel.Config(pre_emphasis=0.0, output_dtype="float32")
    (row,) = logmel.Encoder(config, None, "cpu").encode([Clip(Utterance(id="a"), audio={16000: x})])
    assert row["values"].shape == (100, 64)
    assert np.abs(row["values"] - logs.T[:100]).max() <= 1e-5 * np.abs(logs).max()


@pytest.mark.parametrize("samples", [1, 2, 159, 160, 161, 399, 400, 16000])
def test_every_sample_counts(samples: int) -> None:
    x = sound(samples)
    found = encode(x)
    assert len(found) == math.ceil(samples / 160)
    changed = x.copy()
    changed[-1] += 0.5
    assert not np.array_equal(encode(changed)[-1], found[-1])


@pytest.mark.parametrize(("window_ms", "hop_ms"), [(25.0, 10.0), (10.0, 10.0), (5.0, 20.0), (32.0, 7.0)])
def test_frames_are_centred_on_their_hop(window_ms: float, hop_ms: float) -> None:
    """A click in the middle of hop k is loudest in frame k."""
    hop = round(16 * hop_ms)
    for k in (0, 3, 9):
        x = np.zeros(10 * hop, np.float32)
        x[k * hop + hop // 2] = 1.0
        energy = encode(x, window_ms=window_ms, hop_ms=hop_ms, pre_emphasis=0.0)[:, 0]
        assert len(energy) == 10
        assert energy.argmax() == k


def test_deltas_are_the_regression_of_the_htk_book() -> None:
    frames = np.random.default_rng(0).normal(size=(9, 3))
    for width in (1, 2, 3):
        at = lambda t: frames[min(max(t, 0), 8)]  # noqa: E731
        scale = 2 * sum(theta**2 for theta in range(1, width + 1))
        expected = [
            sum(theta * (at(t + theta) - at(t - theta)) for theta in range(1, width + 1)) / scale for t in range(9)
        ]
        assert np.allclose(mel.deltas(frames, width), expected)


def test_delta_settings_widen_the_frames() -> None:
    x = sound()
    plain = encode(x, n_mfcc=13)
    both = encode(x, n_mfcc=13, delta=True, delta_delta=True)
    second = encode(x, n_mfcc=13, delta_delta=True)
    assert (plain.shape[1], both.shape[1], second.shape[1]) == (13, 39, 26)
    assert np.array_equal(both[:, :13], plain)
    assert np.array_equal(both[:, 26:], second[:, 13:])
    assert np.allclose(both[:, 26:], mel.deltas(both[:, 13:26].astype(np.float64), 2), atol=1e-4)
    assert encode(x[:160], delta=True, delta_delta=True).shape == (1, 120)


def test_silence_sits_on_the_floor() -> None:
    found = encode(np.zeros(1600, np.float32), n_mels=64, n_mfcc=64)
    assert np.allclose(found[:, 0], 64 * math.log(1e-10))
    assert np.allclose(found[:, 1:], 0, atol=1e-3)


@pytest.mark.parametrize(
    "values",
    [
        {"n_mfcc": 41, "n_mels": 40},
        {"low_hz": 9000.0},
        {"high_hz": 9000.0},
        {"compute_dtype": "bfloat16"},
        {"hop_ms": 0},
        {"pre_emphasis": 1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        mfcc.Config.model_validate(values)


def test_the_spec_follows_the_settings() -> None:
    spec = mfcc.describe(mfcc.Config(n_mfcc=13, delta=True, hop_ms=20.0, sample_rate_hz=8000), None)
    assert spec.values.tail == (26,)
    assert spec.rate_hz == 50.0
    assert spec.weights_sha256 is None
    assert mfcc.needs(mfcc.Config(sample_rate_hz=8000), None).audio_hz == 8000
