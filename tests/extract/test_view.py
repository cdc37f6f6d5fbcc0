"""Pictures of a store: everything of an utterance on one clock, and what a projection's neighbours give away."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.rows import Absent, Row
from cache_schema.samples import Corpus, Target, Utterance
from cache_schema.store import FeatureStore
from extract.view.projection import kind_of, plane, project

TARGETS = (
    Target(name="emotion", kind="classification", classes=("anger", "joy")),
    Target(name="valence", kind="regression", low=1, high=9),
    Target(name="feelings", kind="multilabel", classes=("a", "b")),
)
CORPUS = Corpus(name="talks", title="Talks", licence="none", targets=TARGETS)


def spec(
    name: str, tail: tuple[int, ...], *siblings: ArraySpec, dtype: Any = "float16", rate: float | None = 5.0
) -> FeatureSpec:
    values = ArraySpec(name="values", dtype=dtype, tail=tail)
    return FeatureSpec(
        feature=name,
        modality="vision",
        encoder="drawn",
        version=1,
        arrays=(values, *siblings),
        rate_hz=rate,
        nominal_rate_hz=5,
    )


def write(store: FeatureStore, feature: FeatureSpec, rows: list[Row]) -> None:
    writer = store.writer("talks", feature)
    for segment in writer.todo():
        writer.commit(segment, rows[segment.start : segment.stop], [None] * len(segment), {})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Sixty utterances of six speakers; `voice` tells who speaks and `noise` tells nothing."""
    random = np.random.default_rng(0)
    samples = [
        Utterance(
            id=f"u{i}",
            text="so good to see",
            speaker=f"s{i % 6}",
            split=("train", "val", "test")[i % 3],
            labels={"emotion": ("anger", "joy")[int(random.integers(2))]},
            scores={"valence": 1 + 8 * (i / 59), "feelings/a": 1.0, "feelings/b": 0.0},
        )
        for i in range(60)
    ]
    opened = FeatureStore.open(str(tmp_path / "store"), mode="a")
    opened.append_samples(CORPUS, samples)
    voices = random.normal(size=(6, 8)) * 4
    write(
        opened,
        spec("voice", (8,)),
        [{"values": (voices[i % 6] + random.normal(size=(10, 8))).astype("f2")} for i in range(60)],
    )
    write(opened, spec("noise", (8,)), [{"values": random.normal(size=(10, 8)).astype("f2")} for i in range(60)])
    there = ArraySpec(name="there", dtype="bool", tail=())
    mask = np.arange(10) < 7
    crops = random.integers(0, 255, (10, 16, 16, 3)).astype("u1")
    write(opened, spec("face-crops", (16, 16, 3), there, dtype="uint8"), [{"values": crops, "there": mask}] * 60)
    write(
        opened,
        spec("landmarks", (478, 3), there),
        [{"values": random.random((10, 478, 3)).astype("f2"), "there": mask}] * 60,
    )
    offsets = ArraySpec(name="offsets", dtype="int32", tail=(2,))
    times = np.array([[0, 0.4], [0.4, 0.9], [1.0, 1.2], [1.2, 1.9]], "f4")
    words: Row = {"values": times, "offsets": np.array([[0, 2], [3, 7], [8, 10], [11, 14]], "i4")}
    write(opened, spec("words", (2,), offsets, dtype="float32", rate=None), [*[words] * 59, Absent("no speech")])
    return tmp_path / "store"


def texts(svg: Path) -> str:
    """What is written in a drawing whose text is text."""
    return " ".join(
        "".join(element.itertext()) for element in ElementTree.parse(svg).iter() if element.tag.endswith("text")
    )


@pytest.fixture
def text_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")


def test_one_utterance_shows_all_that_the_store_has_of_it(
    store: Path, tmp_path: Path, mer: Callable[..., Any], text_stays_text: None
) -> None:
    out = tmp_path / "u3.svg"
    done = mer("store", "show", "talks", "voice", "u3", "--store", store, "--out", out, "--json")
    assert done.code == 0 and done.json["arrays"] == {"values": "float16 (10, 8)"}, done.err
    seen = texts(out)
    for word in (
        "talks u3",
        "s3",
        "so good to see",
        "good",
        "face crops",
        "landmarks",
        "no face",
        "words",
        "voice",
        "noise",
    ):
        assert word in seen, word
    assert "seconds from the utterance's beginning" in seen
    assert mer("store", "show", "talks", "words", "u3", "--store", store, "--out", out).code == 0
    assert "seconds" not in texts(out), "a word is no tick of a clock"


def test_the_clip_is_drawn_where_it_is_named(
    small_corpus: Path, tmp_path: Path, mer: Callable[..., Any], text_stays_text: None
) -> None:
    words = ["--store", tmp_path / "store"]
    assert mer("extract", "--dataset", "meld", "--root", small_corpus, *words, "--encoders", "mfcc").code == 0
    out = tmp_path / "x.svg"
    shown = ["store", "show", "meld", "mfcc", "train/dia0_utt0", *words, "--out", out]
    assert mer(*shown).code == 0
    assert "pictures" not in texts(out)
    assert mer(*shown, "--root", small_corpus).code == 0
    assert "pictures" in texts(out) and "sound" in texts(out)
    assert mer(*shown, "--root", tmp_path).code == 0
    assert "audio: " in texts(out) and "dia0_utt0.mp4" in texts(out)


def test_neighbours_give_the_speaker_away_where_the_feature_does(store: Path, tmp_path: Path) -> None:
    told = project(str(store), "talks", "voice", None, ["speaker", "emotion", "valence"], "pca", tmp_path / "p.png")
    assert [n.by for n in told] == ["speaker", "emotion", "valence"]
    assert told[0].same > 0.95 and told[0].chance == pytest.approx(9 / 59)
    assert abs(told[1].same - told[1].chance) < 0.25
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    (noise,) = project(str(store), "talks", "noise", None, ["speaker"], "tsne", tmp_path / "n.svg")
    assert noise.same < 0.4


def test_what_no_utterance_has_is_said_and_not_counted(store: Path, tmp_path: Path, mer: Callable[..., Any]) -> None:
    words = ("talks", "voice", "--store", store, "--by", "dialogue", "--out", tmp_path / "p.svg")
    done = mer("store", "plot", *words)
    assert done.code == 0 and "no utterance has one" in done.out and "%" not in done.out


def test_a_plane_is_the_same_every_time_and_takes_few_points() -> None:
    data = np.random.default_rng(1).normal(size=(9, 4)).astype("f4")
    for method in ("pca", "tsne"):
        one, other = (plane(data, method)[0] for _ in range(2))
        assert one.shape == (9, 2) and np.array_equal(one, other)
    flat = plane(data[:, :1], "pca")[0]
    assert flat.shape == (9, 2) and (flat[:, 1] == 0).all()


def test_what_colours_the_points() -> None:
    utterance = Utterance(
        id="u", speaker="s", labels={"emotion": "joy"}, scores={"valence": 8.0, "feelings/a": 0.0, "feelings/b": 2.0}
    )
    kinds = {name: kind_of(CORPUS, name)(utterance) for name in ("label", "speaker", "split", "valence", "feelings")}
    assert kinds == {"label": "joy", "speaker": "s", "split": None, "valence": "high", "feelings": "b"}
    with pytest.raises(SettingsError, match="Did you mean 'speaker'"):
        kind_of(CORPUS, "speakers")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "talks", "voice", "u99"], "no utterance called 'u99'"),
        (["show", "talks", "words", "u59"], "no speech"),
        (["show", "talks", "voice", "u1", "--out", "x.gif"], "ends in .png, .svg, .pdf"),
        (["plot", "talks", "voice", "--method", "pcs"], "Did you mean 'pca'"),
        (["plot", "talks", "voice", "--by", "mood"], "no thing to colour by"),
        (["plot", "talks", "voice", "--out", "nowhere/x.png"], "cannot be written"),
        (["plot", "talks", "vioce"], "Did you mean 'voice'"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(
    store: Path, mer: Callable[..., Any], words: list[str], said: str
) -> None:
    done = mer("store", *words, "--store", store)
    assert done.code == 1 and done.err.count("\n") == 1 and said in done.err
