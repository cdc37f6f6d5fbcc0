"""The example scripts run, and the files that extend mer do what the documentation says that they do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, TINY, settle

EXAMPLES = ROOT / "examples"
CALLS = {
    "read_features": (["features", "meld"], "14 utterances"),
    "own_training_loop": (["features", "meld", "hubert", "1"], "validation"),
    "compare_architectures": (["features", "meld", "lmf", "early-fusion", "max_epochs=1"], "difference"),
    "predict_stored": (["runs/hff-meld-1", "features", "meld"], "entropy"),
    "predict_clips": (["runs/hff-meld-1", "talk.mp4"], "without text"),
}


def test_every_script_is_called() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_script_runs(
    name: str, worked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(worked, tmp_path, dirs_exist_ok=True)
    settle(monkeypatch, tmp_path)
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    words, said = CALLS[name]
    script.main(*words)
    assert said in capsys.readouterr().out


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree with a dataset, an encoder and an architecture more."""
    tree = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("cache_schema", "compute", "extract", "fuse", "verbs"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("cli.py", "terminal.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(EXAMPLES / "extend", tree, dirs_exist_ok=True, ignore=ignored)
    for file in ("contracts", "conftest.py"):
        source = ROOT / "tests" / file
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / "tests" / file)
    return tree


def test_what_is_ones_own_goes_all_the_way(extended: Path, world: Path, tmp_path: Path) -> None:
    for person in ("anna", "ben", "cleo", "emil"):
        (tmp_path / "diary" / person).mkdir(parents=True)
        for day, mood in ((1, "happy"), (2, "sad")):
            shutil.copy(world / "talk.mp4", tmp_path / "diary" / person / f"2024-05-0{day}-{mood}.mp4")
    store = ["--store", tmp_path / "features", "--json"]
    words = ["extract", "--dataset", "diary", "--root", tmp_path / "diary", "--encoders", "loudness", *store]
    done = _python(extended, tmp_path, "-m", "cli", *words)
    assert done.returncode == 0, done.stderr
    assert '"written": 8' in done.stdout
    words = ["fuse", "train", "--arch", "lstm-mean", "--dataset", "diary", *store, *TINY]
    done = _python(extended, tmp_path, "-m", "cli", *words, "--protocol", "kfold:speaker:2", "--val", "speaker:0.5")
    assert done.returncode == 0, done.stderr
    assert '"arch": "lstm-mean"' in done.stdout


def test_an_encoder_of_ones_own_keeps_the_contract(extended: Path) -> None:
    _contract(extended, "test_encoders.py", "loudness")


def test_an_architecture_of_ones_own_keeps_the_contract(extended: Path) -> None:
    _contract(extended, "test_archs.py", "lstm-mean")


def _contract(extended: Path, file: str, name: str) -> None:
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", f"tests/contracts/{file}", "-k", name]
    done = _python(extended, extended, "-m", "pytest", *words)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout


def _python(tree: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A Python of its own that finds mer in `tree`, and nowhere else."""
    env = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
