"""A small world in which the pages' commands run: a corpus, weights, a store and two runs, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import TINY, settle

from extract.synthetic import SyntheticSpec, make_corpus
from extract.weights.random_weights import make_random_checkpoint

ENCODERS = ("roberta", "hubert", "resnet", "vit", "words")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MER_DATA as `data`, MER_WEIGHTS as `weights`, a folder `talks` of clips of one's own, and `talk.mp4`."""
    folder = tmp_path_factory.mktemp("world")
    make_corpus(folder / "data" / "meld", SyntheticSpec(train=8, dev=3, test=3, size=64))
    for name in ENCODERS:
        make_random_checkpoint(name, folder / "weights" / name, "small", seed=0)
    clips = sorted((folder / "data" / "meld").rglob("*.mp4"))
    (folder / "talks").mkdir()
    for name, clip in zip(("anna-1", "anna-2", "ben-1", "ben-2", "cleo-1", "emil-1"), clips, strict=False):
        shutil.copy(clip, folder / "talks" / f"{name}.mp4")
    shutil.copy(clips[-1], folder / "talk.mp4")
    return folder


@pytest.fixture(scope="session")
def worked(world: Path, mer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with what get-started leaves behind: a store in `features`, and two runs."""
    folder = tmp_path_factory.mktemp("worked")
    shutil.copytree(world, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, folder)
        assert mer("extract", "--dataset", "meld").code == 0
        for arch in ("hff", "early-fusion"):
            done = mer("fuse", "train", "--arch", arch, "--dataset", "meld", *TINY)
            assert done.code == 0, done.err
    return folder
