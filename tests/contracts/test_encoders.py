"""What every encoder must do, run over each file in `extract/encoders/` with small random weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import MODALITIES
from cache_schema.rows import Failed
from cache_schema.samples import Utterance
from extract.encoder import Clip, EncoderConfig, Needs
from extract.encoders import ENCODERS
from extract.faces import Face, FaceTrack
from extract.physiology import Signals
from extract.weights.checkpoints import Checkpoint, resolve
from extract.weights.random_weights import SENTENCES, make_random_checkpoint

SECONDS = (1.0, 0.3, 2.2, 1.0, 0.7, 3.1)


@pytest.fixture(params=ENCODERS.names())
def module(request: pytest.FixtureRequest) -> ModuleType:
    return ENCODERS.load(request.param)


@pytest.fixture
def checkpoint(module: ModuleType, small_weights: Path) -> Checkpoint | None:
    return resolve(name_of(module), module.HUB, str(small_weights)) if module.HUB is not None else None


def name_of(module: ModuleType) -> str:
    return module.__name__.rsplit(".", 1)[1].replace("_", "-")


def config_of(module: ModuleType, **values: Any) -> EncoderConfig:
    exact = {"output_dtype": "float32"} if "float32" in choices(module, "output_dtype") else {}
    config: EncoderConfig = module.Config(**(given(module) | exact | values))
    return config


def given(module: ModuleType) -> dict[str, Any]:
    """What a run gives to the encoders whose settings ask for it."""
    asked = {name for name, field in module.Config.model_fields.items() if field.is_required()}
    known = {"crop": "whole", "language": "en", "channels": ("EDA", "BVP")}
    return {name: value for name, value in known.items() if name in asked}


@pytest.fixture(autouse=True)
def face_model(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the face model's place: its digest is in the fingerprints, and nothing here looks for faces."""
    path = tmp_path_factory.getbasetemp() / "face_landmarker.task"
    path.write_bytes(b"no model")
    monkeypatch.setenv("MER_FACE_MODEL", str(path))


def choices(module: ModuleType, field: str) -> tuple[str, ...]:
    """What a setting may be; some encoders fix what others leave open."""
    allowed: tuple[str, ...] = get_args(module.Config.model_fields[field].annotation)
    return allowed


def clips_for(needs: Needs, seconds: tuple[float, ...] = SECONDS, seed: int = 0) -> list[Clip]:
    """Decoded clips of several lengths, without files."""
    rng = np.random.default_rng(seed)
    clips = []
    for index, length in enumerate(seconds):
        text = " ".join(SENTENCES[(index + k) % len(SENTENCES)] for k in range(1 + int(length)))
        clip = Clip(Utterance(id=f"u{index}", text=text))
        if needs.audio_hz is not None:
            clip.audio[needs.audio_hz] = rng.uniform(-0.5, 0.5, int(length * needs.audio_hz)).astype(np.float32)
        if needs.frames is not None:
            side = needs.frames.size
            count = max(1, round(length * needs.frames.fps))
            if side is not None:
                clip.frames[needs.frames] = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
            if needs.frames.crop == "face":
                clip.faces[needs.frames.fps] = FaceTrack((10, 20, 100), drawn_faces(count, rng))
        if needs.signals is not None:
            shape = max(1, round(length * needs.signals.clock_hz)), len(needs.signals.channels)
            measured = np.ones(shape, np.bool_)
            measured[: shape[0] // 3, 0] = False
            values = np.where(measured, rng.normal(size=shape), 0).astype(np.float32)
            clip.signals[needs.signals] = Signals(values, measured)
        clips.append(clip)
    return clips


def drawn_faces(count: int, rng: np.random.Generator) -> tuple[Face | None, ...]:
    """Faces of which every third is lost, the first never."""
    shapes = ((478, 3), (52,), (4, 4))
    faces = [Face(*(rng.uniform(20, 90, shape).astype(np.float32) for shape in shapes)) for _ in range(count)]
    return tuple(None if index % 3 == 2 else face for index, face in enumerate(faces))


def assert_equal_features(found: list[Any], expected: list[Any], tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            a, b = one[name].astype(np.float64), other[name].astype(np.float64)
            assert a.shape == b.shape
            assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def test_the_file_says_what_it_is(module: ModuleType) -> None:
    assert module.__doc__
    assert module.SUMMARY and "\n" not in module.SUMMARY
    assert module.MODALITY in MODALITIES
    assert issubclass(module.Config, EncoderConfig)
    assert all(field.description for field in module.Config.model_fields.values())
    assert module.HUB is None or (module.HUB.licence and module.HUB.revision is None)


def test_rows_are_as_the_spec_says(module: ModuleType, checkpoint: Checkpoint | None) -> None:
    for output in choices(module, "output_dtype"):
        config = config_of(module, output_dtype=output)
        spec, needs = module.describe(config, checkpoint), module.needs(config, checkpoint)
        assert spec.feature == name_of(module)
        assert spec.modality == module.MODALITY
        assert spec.random_weights == (checkpoint is not None)
        assert spec.arrays[0].name == "values"
        assert spec.arrays[0].dtype == output
        assert spec.rate_hz in (None, spec.nominal_rate_hz)
        rows = list(module.Encoder(config, checkpoint, "cpu").encode(clips_for(needs)))
        assert len(rows) == len(SECONDS)
        for row, seconds in zip(rows, SECONDS, strict=True):
            assert {a.name: (a.dtype, a.tail) for a in spec.arrays} == {
                name: (array.dtype.name, array.shape[1:]) for name, array in row.items()
            }
            frames = {len(array) for array in row.values()}
            assert len(frames) == 1 and min(frames) >= 1
            if spec.rate_hz is not None:
                assert abs(min(frames) - seconds * spec.rate_hz) <= 1.5


def test_a_batch_changes_nothing(module: ModuleType, checkpoint: Checkpoint | None) -> None:
    config = config_of(module)
    clips = clips_for(module.needs(config, checkpoint))
    encoder = module.Encoder(config, checkpoint, "cpu", budget=1 << 24)
    together = list(encoder.encode(clips))
    assert_equal_features(together, [next(iter(encoder.encode([clip]))) for clip in clips])
    backwards = list(encoder.encode(clips[::-1]))
    assert_equal_features(together, backwards[::-1])
    for budget in (1, 7):
        assert_equal_features(list(module.Encoder(config, checkpoint, "cpu", budget).encode(clips)), together)


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_pooling_is_of_the_clips_own_frames(module: ModuleType, checkpoint: Checkpoint | None, pool: str) -> None:
    if pool not in choices(module, "pool"):
        pytest.skip("the encoder's frames are not to be pooled")
    clips = clips_for(module.needs(config_of(module), checkpoint))
    config = config_of(module, pool=pool)
    spec = module.describe(config, checkpoint)
    assert spec.rate_hz is None
    assert spec.fingerprint() != module.describe(config_of(module), checkpoint).fingerprint()
    whole = list(module.Encoder(config_of(module), checkpoint, "cpu").encode(clips))
    names = [array.name for array in spec.arrays]
    seen = [{name: row[name][row["there"]] if "there" in row else row[name] for name in names} for row in whole]
    expected = [{n: x.mean(0, keepdims=True) if pool == "mean" else x[:1] for n, x in row.items()} for row in seen]
    assert_equal_features(list(module.Encoder(config, checkpoint, "cpu").encode(clips)), expected)


def test_clips_differ(module: ModuleType, checkpoint: Checkpoint | None) -> None:
    config = config_of(module)
    first, _, _, fourth, *_ = module.Encoder(config, checkpoint, "cpu").encode(
        clips_for(module.needs(config, checkpoint))
    )
    shared = min(len(first["values"]), len(fourth["values"]))
    a, b = first["values"][:shared], fourth["values"][:shared]
    assert np.linalg.norm(a - b) > 0.01 * np.linalg.norm(a)


def test_no_clips_give_no_rows(module: ModuleType, checkpoint: Checkpoint | None) -> None:
    assert list(module.Encoder(config_of(module), checkpoint, "cpu").encode([])) == []


def test_two_encoders_give_the_same_bits(module: ModuleType, checkpoint: Checkpoint | None) -> None:
    config = config_of(module)
    clips = clips_for(module.needs(config, checkpoint))
    first, second = (list(module.Encoder(config, checkpoint, "cpu").encode(clips)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_fingerprint_is_of_weights_and_settings(
    module: ModuleType, checkpoint: Checkpoint | None, tmp_path: Path
) -> None:
    config = config_of(module)
    seen = {module.describe(config, checkpoint).fingerprint()}
    other = {"output_dtype": "float16", "compute_dtype": "bfloat16"}
    variants = [{field: value} for field, value in other.items() if value in choices(module, field)]
    seen |= {module.describe(config_of(module, **v), checkpoint).fingerprint() for v in variants}
    expected = 1 + len(variants)
    if checkpoint is not None:
        name = name_of(module)
        make_random_checkpoint(name, tmp_path / "same", "small", seed=0)
        make_random_checkpoint(name, tmp_path / "other", "small", seed=1)
        same, other = (resolve(name, module.HUB, str(tmp_path / f)) for f in ("same", "other"))
        assert module.describe(config, same).fingerprint() in seen
        seen.add(module.describe(config, other).fingerprint())
        asset = module.HUB.assets[0]
        before = tmp_path / "same" / asset
        before.write_text((before.read_text() if before.is_file() else "{}") + "\n")
        changed = resolve(name, module.HUB, str(tmp_path / "same"))
        seen.add(module.describe(config, changed).fingerprint())
        expected += 2
    assert len(seen) == expected


def test_describing_loads_no_weights(module: ModuleType, checkpoint: Checkpoint | None) -> None:
    """describe and needs import neither torch nor transformers: `mer extract` with nothing to do starts fast."""
    name = name_of(module)
    resolved = f"resolve({name!r}, m.HUB, {str(checkpoint.folder)!r})" if checkpoint else "None"
    code = (
        "import sys; from extract.encoders import ENCODERS; from extract.weights.checkpoints import resolve\n"
        f"m = ENCODERS.load({name!r}); c, k = m.Config(**{given(module)}), {resolved}\n"
        "m.describe(c, k).fingerprint(); m.needs(c, k)\n"
        "sys.exit(' '.join({'torch', 'transformers', 'av', 'cv2'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_the_full_one(module: ModuleType, checkpoint: Checkpoint | None, dtype: str) -> None:
    if checkpoint is None or dtype not in choices(module, "compute_dtype"):
        with pytest.raises(ValueError, match="compute_dtype"):
            config_of(module, compute_dtype=dtype)
        return
    config = config_of(module)
    clips = clips_for(module.needs(config, checkpoint), (1.0, 0.4))
    full = list(module.Encoder(config, checkpoint, "cpu").encode(clips))
    half = list(module.Encoder(config_of(module, compute_dtype=dtype), checkpoint, "cpu").encode(clips))
    assert_equal_features(half, full, tolerance=0.1)
    assert any(not np.array_equal(a["values"], b["values"]) for a, b in zip(half, full, strict=True))


def test_values_beyond_half_precision_fail(module: ModuleType, checkpoint: Checkpoint | None, tmp_path: Path) -> None:
    """A model whose outputs overflow float16 is a failure with its remedy, not a row of clipped values."""
    if checkpoint is None or "float16" not in choices(module, "output_dtype"):
        pytest.skip("no weights to enlarge, or nothing stored in half precision")
    from safetensors.numpy import load_file, save_file

    name = name_of(module)
    clips = clips_for(module.needs(config_of(module), checkpoint), (1.0, 0.4))
    for factor in (1e2, 1e4, 1e6):
        folder = tmp_path / f"{factor}"
        make_random_checkpoint(name, folder, "small", seed=0)
        tensors = load_file(folder / "model.safetensors")
        for key in tensors:
            if key.lower().endswith(("norm.weight", "normalization.weight")):
                tensors[key] = tensors[key] * np.float32(factor)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        large = resolve(name, module.HUB, str(folder))
        exact = list(module.Encoder(config_of(module), large, "cpu").encode(clips))
        if all(np.abs(row["values"]).max() > np.finfo(np.float16).max for row in exact):
            break
    rows = list(module.Encoder(config_of(module, output_dtype="float16"), large, "cpu").encode(clips))
    assert all(isinstance(row, Failed) and "output_dtype=float32" in row.reason for row in rows)
    rows = list(module.Encoder(config_of(module, compute_dtype="float16"), large, "cpu").encode(clips))
    assert all(isinstance(row, Failed) and "compute_dtype=float16" in row.reason for row in rows)


def test_weights_of_another_model_are_refused(
    module: ModuleType, checkpoint: Checkpoint | None, small_weights: Path
) -> None:
    if checkpoint is None:
        pytest.skip("no weights")
    other = next(n for n in ("vit", "roberta") if n != name_of(module))
    with pytest.raises(SettingsError, match="model"):
        module.describe(config_of(module), resolve(name_of(module), module.HUB, str(small_weights / other)))
