"""The encoder of physiological signals: windows against a loop written out, and from recordings to a store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_schema.errors import SettingsError
from cache_schema.rows import Failed
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore
from extract.datasets import folder
from extract.encoder import Clip
from extract.encoders import physio
from extract.physiology import Signals
from extract.run import by_default


def encode(config: physio.Config, values: Any, measured: Any) -> Any:
    clip = Clip(Utterance(id="u"), signals={config.request: Signals(values.astype(np.float32), measured)})
    (row,) = physio.Encoder(config, None, "cpu").encode([clip])
    return row


def test_windows_are_what_a_loop_over_them_says() -> None:
    random = np.random.default_rng(0)
    values, measured = random.normal(size=(320, 2)), random.random((320, 2)) < 0.8
    measured[100:200, 1] = False
    names: tuple[physio.Statistic, ...] = ("mean", "sd", "min", "max", "slope")
    config = physio.Config(channels=("a", "b"), clock_hz=32, statistics=names, output_dtype="float32")
    row = encode(config, np.where(measured, values, 0), measured)
    assert row["values"].shape == (20, 10) and row["there"].all()
    for frame in range(20):
        middle = (frame + 0.5) / 2
        ticks = slice(max(0, round((middle - 1) * 32)), min(320, round((middle + 1) * 32)))
        for channel in range(2):
            seen = measured[ticks, channel]
            found = row["values"][frame, 5 * channel : 5 * channel + 5]
            assert row["measured"][frame, channel] == (seen.mean() >= 0.5)
            if seen.mean() < 0.5:
                assert (found == 0).all()
                continue
            own = values[ticks, channel][seen].astype(np.float32).astype(float)
            slope = np.polyfit(np.flatnonzero(seen) / 32, own, 1)[0]
            expected = [own.mean(), own.std(), own.min(), own.max(), slope]
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_bands_tell_rhythms_apart() -> None:
    """A 10 Hz rhythm of amplitude 1 has a power of one half, in the alpha band alone."""
    ticks = np.arange(1280) / 128
    values = np.stack([np.sin(2 * np.pi * 10 * ticks), np.sin(2 * np.pi * 20 * ticks)], axis=1)
    config = physio.Config(
        channels=("O1", "O2"), statistics=(), bands_hz=((4, 8), (8, 14), (14, 31)), output_dtype="float32"
    )
    found = encode(config, values, np.ones((1280, 2), np.bool_))["values"][4:-4].reshape(-1, 2, 3)
    assert np.exp(found[:, 0, 1]) == pytest.approx(0.5, rel=0.05)
    assert np.exp(found[:, 1, 2]) == pytest.approx(0.5, rel=0.05)
    assert (found[:, 0, [0, 2]] < np.log(0.02)).all() and (found[:, 1, [0, 1]] < np.log(0.02)).all()


def test_settings_that_do_not_fit_together_are_told_in_a_sentence() -> None:
    with pytest.raises(SettingsError) as error:
        physio.Config.parse({"channels": ("x",), "bands_hz": [[4, 80]]}, "physio")
    assert str(error.value) == "physio: a band must be [low, high] within 0 and half the clock, 64 Hz"


def test_too_little_measured_is_a_failure() -> None:
    measured = np.zeros((256, 1), np.bool_)
    measured[:20] = True
    row = encode(physio.Config(channels=("EDA",)), np.ones((256, 1)), measured)
    assert row == Failed("no window has a channel that was measured for half of it")


def write_session(folder: Path, level: float, seconds: int = 30) -> None:
    """A wristband's session with a trend in EDA, and temperature that is lost for ten seconds."""
    folder.mkdir(parents=True)
    eda = [f"{level + 0.1 * k}" for k in range(4 * seconds)]
    (folder / "EDA.csv").write_text("\n".join(["100.0", "4.0", *eda]), encoding="utf-8")
    rows = [f"{k},{30 + k}" for k in range(seconds) if not 10 <= k < 20]
    (folder / "IBI.csv").write_text("\n".join(["100.0, IBI", *rows]), encoding="utf-8")


def test_from_recordings_to_the_store(tmp_path: Path, mer: Callable[..., Any]) -> None:
    root = tmp_path / "root"
    write_session(root / "S1", 0.0)
    write_session(root / "S2", 500.0)
    lines = [
        {"id": f"{s}/{k}", "signals": s, "start": 10.0 * k, "end": 10.0 * k + 10, "label": "ab"[k % 2], "speaker": s}
        for s in ("S1", "S2")
        for k in range(3)
    ]
    lines.append({"id": "text alone", "text": "hello", "label": "a"})
    lines.append({"id": "beyond", "signals": "S1", "start": 90.0, "label": "a"})
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    store = tmp_path / "store"
    done = mer(
        "extract",
        "--dataset",
        "folder",
        "--root",
        root,
        "--store",
        store,
        "--encoders",
        "physio",
        "--json",
        "--max-failures",
        "1",
    )
    assert done.code == 0, done.err
    (report,) = done.json["features"]
    assert (report["written"], report["failed"], report["absent"]) == (6, 1, 1)
    assert list(report["reasons"]) == [
        "the recording ends at 30.00 s, before the utterance begins (90.00 s)",
        "the sample has no physiological recording",
    ]
    feature = FeatureStore.open(str(store)).feature("folder", "physio")
    assert feature.spec.full_settings["channels"] == ["EDA", "IBI"] and feature.spec.values.tail == (4,)
    first, other, gap = (feature.read(name) for name in ("S1/0", "S2/0", "S1/1"))
    assert first["values"].shape == (20, 4)
    # subjects differ by 500 microsiemens, and by nothing once each is normalised by its own recording
    assert np.allclose(first["values"], other["values"], atol=2e-3)
    assert first["measured"][:, 1].all() and not gap["measured"][4:-4, 1].any() and gap["there"].all()


def test_damaged_recordings_are_failures_and_change_nothing_of_the_others(
    tmp_path: Path, mer: Callable[..., Any]
) -> None:
    good = "time,EDA\n" + "".join(f"{k / 4},{k % 7}\n" for k in range(40))
    broken = {
        "header": b"\x8a" + good.encode(),
        "empty": b"",
        "cut": good.encode()[:-40] + b"\n1",
        "formula": good.encode() + b"=cmd|calc,1\n",
        "bytes": good.encode()[:100] + b"\x8a\xff" + good.encode()[100:],
    }

    def extracted(store: str, names: list[str]) -> Any:
        rows = "".join(f"{name},{name}.csv\n" for name in names)
        (tmp_path / "root" / "manifest.csv").write_text(f"id,signals\n{rows}", encoding="utf-8")
        words = ("extract", "--dataset", "folder", "--root", tmp_path / "root", "--store", tmp_path / store)
        done = mer(*words, "--encoders", "physio", "--max-failures", "100%")
        return done, FeatureStore.open(tmp_path / store).feature("folder", "physio") if done.code == 0 else None

    (tmp_path / "root").mkdir()
    for name, content in {"good": good.encode(), **broken}.items():
        (tmp_path / "root" / f"{name}.csv").write_bytes(content)
    _, alone = extracted("alone", ["good"])
    done, among = extracted("among", [*broken, "good"])
    assert "2 of 6 recordings cannot be read: header.csv, empty.csv" in done.err
    assert set(among.failures()) == set(broken)
    assert all(why.startswith(f"{name}.csv: ") and "\n" not in why for name, why in among.failures().items())
    assert among.read("good")["values"].tobytes() == alone.read("good")["values"].tobytes()
    done, _ = extracted("none", ["header", "empty"])
    assert done.code == 1 and "header.csv cannot be read" in done.err.strip().splitlines()[-1]


def test_what_a_dataset_lacks_runs_nothing_by_default(tmp_path: Path) -> None:
    write_session(tmp_path / "S1", 0.0)
    line = {"id": "a", "signals": "S1", "label": "x"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line), encoding="utf-8")
    found = folder.enumerate_corpus(tmp_path, lambda _: None)
    assert found.channels == ("EDA", "IBI") and found.notes == []
    assert by_default(found) == ["physio"]
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line | {"text": "hello"}), encoding="utf-8")
    assert by_default(folder.enumerate_corpus(tmp_path, lambda _: None)) == ["physio", "roberta"]


def test_a_channel_that_nothing_measures_is_refused(tmp_path: Path, mer: Callable[..., Any]) -> None:
    write_session(tmp_path / "root" / "S1", 0.0)
    line = {"id": "a", "signals": "S1", "label": "x"}
    (tmp_path / "root" / "manifest.jsonl").write_text(json.dumps(line), encoding="utf-8")
    words = ["extract", "--dataset", "folder", "--root", tmp_path / "root", "--store", tmp_path / "store"]
    done = mer(*words, "--set", 'physio.channels=["EAD"]')
    assert done.code == 1 and "There is no channel of this dataset called 'EAD'. Did you mean 'EDA'?" in done.err
    assert not (tmp_path / "store").exists()


def test_a_dataset_without_recordings_says_so(tmp_path: Path, small_corpus: Path, mer: Callable[..., Any]) -> None:
    done = mer(
        "extract", "--dataset", "meld", "--root", small_corpus, "--store", tmp_path / "s", "--encoders", "physio"
    )
    assert done.code == 1 and done.err.strip().splitlines()[-1].endswith(
        "physio reads physiological recordings, and the dataset has none."
    )
