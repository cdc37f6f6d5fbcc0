"""Physiological recordings of every form, on one clock: what is measured, what is a gap, what a filter must keep."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cache_schema.errors import DataError, SettingsError
from cache_schema.rows import Absent, Failed
from cache_schema.samples import Utterance
from extract.decoding import media, quarantine
from extract.decoding.quarantine import DecodeLimits
from extract.encoder import Needs
from extract.physiology import Channel, Recording, SignalRequest, on_clock, recordings
from extract.physiology.signals import decode_signals


def request(*channels: str, clock_hz: float = 32.0, baseline_seconds: float = 0.0, raw: bool = True) -> SignalRequest:
    return SignalRequest(channels, clock_hz, 2.5, "none" if raw else "recording", baseline_seconds)


def wave(hz: float, rate_hz: float, seconds: float = 60.0, begin: float = 0.0) -> Channel:
    times = begin + np.arange(int(seconds * rate_hz)) / rate_hz
    return Channel(times, np.sin(2 * np.pi * hz * times))


def test_channels_of_different_rates_meet_on_one_clock() -> None:
    """A 0.5 Hz wave, measured at 4, 64 and 100 Hz, is the same wave at 32 ticks a second."""
    recording = Recording({f"at {rate}": wave(0.5, rate) for rate in (4, 64, 100)}, 60.0)
    found = on_clock(recording, request(*recording.channels), 10.0, 20.0)
    ticks = 10 + np.arange(320) / 32
    assert found.values.shape == (320, 3) and found.measured.all()
    errors = np.abs(found.values - np.sin(np.pi * ticks)[:, None]).max(axis=0)
    assert errors[0] < 0.1 and (errors[1:] < 0.01).all()


def test_what_is_faster_than_the_clock_is_filtered_out_and_not_folded() -> None:
    """45 Hz would appear as 13 Hz at 32 ticks a second."""
    recording = Recording({"fast": wave(45, 128), "slow": wave(5, 128)}, 60.0)
    found = on_clock(recording, request("fast", "slow"), 20.0, 30.0)
    assert np.abs(found.values[:, 0]).max() < 0.01
    assert found.values[:, 1].std() == pytest.approx(np.sqrt(0.5), rel=0.02)


def test_a_cut_changes_nothing_within_it() -> None:
    recording = Recording({"a": wave(3, 100)}, 60.0)
    whole = on_clock(recording, request("a"), 0.0, 60.0)
    piece = on_clock(recording, request("a"), 20.0, 30.0)
    assert np.abs(piece.values - whole.values[640:960]).max() < 1e-6


def test_gaps_are_masked_and_zero_in_every_channel_by_itself() -> None:
    times = np.r_[np.arange(0, 10, 0.25), np.arange(13, 20, 0.25)]
    beats = np.array([1.0, 1.8, 2.7, 9.0, 9.9])
    recording = Recording({"EDA": Channel(times, times + 1), "IBI": Channel(beats, np.full(5, 0.9))}, 20.0)
    found = on_clock(recording, request("EDA", "IBI", "absent", clock_hz=4.0), 0.0, 20.0)
    clock = np.arange(80) / 4
    assert np.array_equal(found.measured[:, 0], ~((clock > 9.75) & (clock < 13)))
    beating = (clock > 0.1) & (clock < 3.15) | (clock > 8.55) & (clock <= 10.8)
    assert np.array_equal(found.measured[:, 1], beating)
    assert not found.measured[:, 2].any()
    assert (found.values[~found.measured] == 0).all()
    assert np.allclose(
        found.values[:, 0][found.measured[:, 0] & (clock < 19.5)], 1 + clock[found.measured[:, 0] & (clock < 19.5)]
    )


def test_a_channel_is_freed_of_its_recordings_offset_and_scale() -> None:
    pulse = wave(1.0, 40, 100.0)
    channel = Channel(pulse.times, 36 + 0.2 * pulse.values)
    still = Channel(np.arange(400) / 4, np.full(400, 7.0))
    recording = Recording({"TEMP": channel, "still": still}, 100.0)
    found = on_clock(recording, request("TEMP", "still", clock_hz=40.0, raw=False), 0.0, 100.0).values
    assert abs(found[:, 0].mean()) < 0.01 and found[:, 0].std() == pytest.approx(1, abs=0.01)
    assert (found[:, 1] == 0).all()


def test_a_baseline_before_the_utterance_is_subtracted() -> None:
    times = np.arange(0, 20, 0.25)
    recording = Recording({"GSR": Channel(times, np.where(times < 10, 3.0, 5.0))}, 20.0)
    found = on_clock(recording, request("GSR", clock_hz=4.0, baseline_seconds=3.0), 10.0, 20.0)
    assert np.allclose(found.values, 2.0)


def test_a_table_has_channels_of_any_rate(tmp_path: Path) -> None:
    rows = ["time, EDA,BVP "] + [f"{k / 8},{'' if k % 2 else k},{k * 2}" for k in range(16)]
    (tmp_path / "s.csv").write_text("\n".join(rows), encoding="utf-8")
    assert recordings.channels(tmp_path / "s.csv") == ("EDA", "BVP")
    found = recordings.read(tmp_path / "s.csv")
    assert found.channels["EDA"].spacing == 0.25 and found.channels["BVP"].spacing == 0.125
    assert found.channels["EDA"].values.tolist() == list(range(0, 16, 2)) and found.seconds == 1.875 + 0.25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "must name a column `time`"),
        ("time,x\n0,1\n0,2\n", r"x: time does not increase at 0 s"),
        ("time,x\n,1\n", "every row needs a time"),
        ("time,x\n0,1\n1e-9,1\n", "a sample every 1e-09 s, more often than any device measures"),
        ("time,x\n0,1\n1e9,1\n", r"it lasts 1e\+09 s, longer than any recording"),
        ("time,x\x1b[31m\n0,1\n", "holds a control character"),
        pytest.param("time" + "".join(f",c{n}" for n in range(5000)), "has more columns", id="5000 columns"),
        ("time,x\n0,=cmd\n", "cannot be read"),
        pytest.param('time,x\n0,1\n1,"' + "\n" * (3 << 20), "cannot be read", id="an open quote"),
        ("time,x\n0,1\n1,-1e308\n", r"it holds 1e\+308, larger than anything"),
        ("time,x\n", "every row needs a time"),
        ("time,x,x\n0,1,1\n", "each once"),
        ("", "must name a column `time`"),
    ],
)
def test_a_table_that_is_none_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said) as error:
        recordings.read(tmp_path / "s.csv")
    assert "\n" not in str(error.value) and "s.csv" in str(error.value)


def test_a_wristband_folder_has_a_clock_for_each_sensor(tmp_path: Path) -> None:
    (tmp_path / "EDA.csv").write_text("1000.0\n4.0\n" + "0.5\n" * 40, encoding="utf-8")
    (tmp_path / "HR.csv").write_text("1010.0\n1.0\n" + "70\n71\n" * 5, encoding="utf-8")
    (tmp_path / "ACC.csv").write_text("1000,1000,1000\n32,32,32\n" + "1,2,3\n" * 64, encoding="utf-8")
    (tmp_path / "IBI.csv").write_text("1000.0, IBI\n2.5,0.8\n3.4,0.9\n", encoding="utf-8")
    (tmp_path / "tags.csv").write_text("1001\n", encoding="utf-8")
    assert recordings.channels(tmp_path) == ("ACC_x", "ACC_y", "ACC_z", "EDA", "HR", "IBI")
    found = recordings.read(tmp_path)
    assert found.channels["HR"].times[0] == 10.0 and found.seconds == 20.0
    assert found.channels["ACC_y"].values.tolist() == [2.0] * 64
    assert found.channels["IBI"].times.tolist() == [2.5, 3.4]
    for name, text, said in (
        ("EDA", "1000.0\n", "first two rows"),
        ("EDA", "1000.0\n0\n1\n", "rate above 0"),
        ("EDA", "nan\n4\n1\n", "session's time"),
        ("EDA", "1000.0\n1e999\n1\n", "rate above 0"),
        ("EDA", "1e12\n4\n1\n", "not one session"),
        ("IBI", "1000.0, IBI\nnan,0.8\n", "every row needs a time"),
        ("ACC", "1,1\n2,2\n3,3\n", "has 2 columns, and must have 3"),
        ("HR", "a\nb\n", "cannot be read"),
        ("IBI", "IBI\n", "must begin with the session's time"),
    ):
        before = (tmp_path / f"{name}.csv").read_text(encoding="utf-8")
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=said):
            recordings.read(tmp_path)
        (tmp_path / f"{name}.csv").write_text(before, encoding="utf-8")


def test_what_cannot_be_read_is_a_reason_and_no_end_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("time,EDA\n0,1\n1,2\n2,2\n", encoding="utf-8")
    (tmp_path / "noise.dat").write_bytes(b"\x00\x01 no pickle")
    (tmp_path / "empty").mkdir()

    def reason(**values: object) -> Absent | Failed | None:
        utterance = Utterance.model_validate({"id": "u", **values})
        return decode_signals(tmp_path, utterance, [request("EDA")])[2]

    assert reason(signals="s.csv") is None
    assert reason() == Absent("the sample has no physiological recording")
    assert reason(signals="s.csv", start=9.0, end=10.0) == Failed(
        "s.csv: the recording ends at 3.00 s, before the utterance begins (9.00 s)"
    )
    assert reason(signals="s.csv", start=2.0, end=3.2) is None
    (tmp_path / "unix.csv").write_text("time,EDA\n1763757520,1\n1763757521,2\n", encoding="utf-8")
    whole = reason(signals="unix.csv")
    assert isinstance(whole, Failed) and "longer than any recording: give start and end" in whole.reason
    assert reason(signals="unix.csv", start=1763757520.0, end=1763757521.0) is None
    (tmp_path / "rude.csv").write_text("time,EDA\n0,\x1b[31m" + "9" * 5000, encoding="utf-8")
    rude = reason(signals="rude.csv")
    assert isinstance(rude, Failed) and rude.reason.isprintable() and len(rude.reason) < 400
    longer = reason(signals="s.csv", start=2.0, end=1e6)
    assert isinstance(longer, Failed) and longer.reason.endswith("before the utterance does (1000000.00 s)")
    for broken in ("noise.dat", "nowhere.csv", "empty", "noise.dat/x.csv"):
        found = reason(signals=broken)
        assert isinstance(found, Failed) and found.reason.startswith(broken) and str(tmp_path) not in found.reason
    utterance = Utterance(id="u", signals="s.csv")
    found, digest, absent = decode_signals(tmp_path, utterance, [request("GSR")])
    assert absent == Absent("none of GSR was measured during the utterance") and not found and digest is not None


def test_a_recording_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for look in (recordings.channels, recordings.read):
        with pytest.raises(DataError, match=r"pipe\.csv is a named pipe, not a file"):
            look(tmp_path / "pipe.csv")
    assert decode_signals(tmp_path, Utterance(id="u", signals="pipe.csv"), [request("EDA")])[2] == Failed(
        "pipe.csv: is a named pipe, not a file"
    )


def test_a_recording_that_takes_all_memory_ends_a_child_and_not_the_run(tmp_path: Path) -> None:
    """Samples at 100 kHz and one five hours later: a grid of two thousand million points."""
    rows = "".join(f"{second},{second}\n" for second in (0, 1e-5, 2e-5, 3e-5, 4e-5, 2e4))
    (tmp_path / "fast.csv").write_text(f"time,EDA\n{rows}", encoding="utf-8")
    (tmp_path / "good.csv").write_text("time,EDA\n0,1\n1,2\n2,2\n", encoding="utf-8")
    needs, limits = [Needs(signals=request("EDA"))], DecodeLimits(gigabytes=0.5, seconds=60)
    fast = quarantine.decode(tmp_path, Utterance(id="fast", signals="fast.csv"), needs, limits)
    assert fast.unreadable["signals"].reason.endswith("takes more than 0.5 GB of memory to decode (--decode-gb)")
    good = Utterance(id="good", signals="good.csv")
    apart, here = (decode(tmp_path, good, needs) for decode in (quarantine.decode, media.decode))
    (ours,), (theirs,) = here.signals.values(), apart.signals.values()
    assert np.array_equal(ours.values, theirs.values) and np.array_equal(ours.measured, theirs.measured)
    assert apart.signals_sha256 == here.signals_sha256 is not None


@pytest.mark.parametrize(
    ("said", "raised"),
    [("No module named 'scipy'", SettingsError), ("scipy/x.so: failed to map segment from shared object", MemoryError)],
)
def test_a_library_that_cannot_be_loaded_is_no_fault_of_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, raised: type[Exception]
) -> None:
    def refuse(*_: object) -> None:
        raise ImportError(said)

    (tmp_path / "good.csv").write_text("time,EDA\n0,1\n1,2\n2,2\n", encoding="utf-8")
    monkeypatch.setattr("extract.physiology.signals.on_clock", refuse)
    with pytest.raises(raised):
        media.decode(tmp_path, Utterance(id="good", signals="good.csv"), [Needs(signals=request("EDA"))])


def test_a_real_wristband_session(test_data: Path) -> None:
    """Empatica E4: rates of 1, 4 and 64 Hz, beats without a rate, HR that begins ten seconds late."""
    found = recordings.read(test_data / "e4" / "S02")
    assert {n: round(1 / c.spacing, 3) for n, c in found.channels.items() if n != "IBI"} == {
        "BVP": 64.0, "EDA": 4.0, "HR": 1.0, "TEMP": 4.0}  # fmt: skip
    assert found.channels["HR"].times[0] == 10.0
    signals = on_clock(found, request(*found.channels, raw=False), 640.0, 700.0)
    names = list(found.channels)
    assert signals.measured[:, [names.index(n) for n in ("BVP", "EDA", "HR", "TEMP")]].all()
    beats = signals.measured[:, names.index("IBI")]
    assert beats.any() and not beats.all()
