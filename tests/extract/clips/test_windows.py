"""Cutting at pauses: planted speech is found, whatever its level; no window is too long; nothing spoken is lost."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.errors import SettingsError
from extract.clips.windows import RATE_HZ, Cutting, Stretch, even_windows, levels, windows_of_speech

SPOKEN = [(1.0, 3.2), (4.5, 5.6), (5.9, 8.0), (12.0, 14.5)]
"""The pause of 0.3 s is none by the default of 0.5 s."""


def windows_of_sound(sound: np.ndarray, cutting: Cutting) -> list[Stretch]:
    return windows_of_speech(levels(sound), cutting)


def talk(spoken: list[tuple[float, float]], seconds: float, level: float = 0.2, floor: float = 0.002) -> np.ndarray:
    """Noise whose loudness goes up and down as syllables do, over a quieter floor."""
    rng = np.random.default_rng(0)
    at = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    speaks = np.zeros(len(at), bool)
    for begin, end in spoken:
        speaks |= (at >= begin) & (at < end)
    syllables = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * at)
    loudness = np.where(speaks, level * syllables, floor)
    return (loudness * rng.standard_normal(len(at))).astype(np.float32)


@pytest.mark.parametrize(("level", "floor"), [(0.2, 0.002), (0.01, 0.0003), (0.3, 0.0), (0.3, 0.03)])
def test_planted_speech_is_found_at_any_level(level: float, floor: float) -> None:
    found = windows_of_sound(talk(SPOKEN, 16.0, level, floor), Cutting())
    expected = [(0.8, 3.4), (4.3, 8.2), (11.8, 14.7)]
    assert np.abs(np.array(found) - np.array(expected)).max() <= 0.1


def test_silence_and_no_sound_have_no_speech() -> None:
    assert windows_of_sound(np.zeros(RATE_HZ, np.float32), Cutting()) == []
    assert windows_of_sound(np.zeros(0, np.float32), Cutting()) == []
    assert windows_of_sound(talk([], 5.0, floor=1e-4), Cutting()) == []


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    sound = talk([(0.0, 12.1), (12.25, 30.0)], 30.0)
    first, *rest = windows_of_sound(sound, Cutting(longest=15.0))
    assert first[1] == pytest.approx(12.17, abs=0.1)
    assert rest[-1][1] == pytest.approx(30.0, abs=0.03)
    assert all(a[1] == b[0] for a, b in pairwise([first, *rest]))


def test_an_even_noise_is_one_stretch_cut_by_length_alone() -> None:
    found = windows_of_sound(talk([], 40.0, floor=0.1), Cutting(longest=10.0))
    assert found[0][0] == 0.0 and found[-1][1] == pytest.approx(40.0)
    assert all(a[1] == b[0] for a, b in pairwise(found))


@settings(max_examples=40, deadline=None)
@given(
    gaps=st.lists(st.floats(0.05, 4), min_size=1, max_size=8),
    lengths=st.lists(st.floats(0.2, 9), min_size=8, max_size=8),
    longest=st.floats(2, 12),
)
def test_windows_are_in_order_bounded_and_hold_all_that_is_spoken(
    gaps: list[float], lengths: list[float], longest: float
) -> None:
    spoken, at = [], 0.0
    for gap, length in zip(gaps, lengths, strict=False):
        spoken.append((at + gap, at + gap + length))
        at += gap + length
    sound = talk(spoken, at + 1.0)
    found = windows_of_sound(sound, Cutting(longest=longest, shortest=1.0))
    assert all(0 <= a < b <= len(sound) / RATE_HZ + 1e-6 for a, b in found)
    assert all(b - a <= longest + 0.021 for a, b in found)
    assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(found))
    inside = np.zeros(len(sound), bool)
    for a, b in found:
        inside[int(a * RATE_HZ) : int(b * RATE_HZ)] = True
    for a, b in spoken:
        assert inside[int((a + 0.06) * RATE_HZ) : int((b - 0.06) * RATE_HZ)].all()


@pytest.mark.parametrize(("seconds", "count"), [(10.0, 1), (10.1, 2), (95.0, 10)])
def test_even_windows_are_as_few_as_may_be(seconds: float, count: int) -> None:
    found = even_windows(seconds, 10.0)
    assert len(found) == count and found[0][0] == 0.0 and found[-1][1] == seconds
    assert len({round(b - a, 6) for a, b in found}) == 1


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="more than half"):
        Cutting.parse({"longest": 3.0, "shortest": 2.0}, "cutting")
