"""Each architecture's figures in `mer report`, and excerpts: from a store with tokens, words, patches and clips."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_companions import RATE, SECONDS, TEXT, TOKENS, WORDS, feature
from test_report import sound
from toy_corpus import TARGETS, commit, utterances
from typer.testing import CliRunner

import cli
from cache_schema.errors import MerError, SettingsError
from cache_schema.rows import Absent, Row
from cache_schema.samples import Corpus, Utterance
from cache_schema.store import FeatureStore
from extract.weights import golden
from fuse import run_files
from fuse.report.drawings import bars, graph, heat, over_time
from fuse.report.evidence import gather
from fuse.report.examples import surest
from fuse.report.figures import FIGURES
from fuse.report.look import look
from fuse.report.write import write
from fuse.train import Result, train_run
from verbs.excerpts import excerpt, roots_of

SETTINGS = {
    "hff": ["d=12", "steps=3", "layers=1", "head_width=4", "speech_channels=[4]", "speech_width=6"],
    "symphonia": ["d=8", "layers=1", "heads=2", "graph_heads=2"],
    "of-cmaer-cat": ["d=8", "layers=1", "heads=2", "steps=3"],
    "complementary": ["d=8", "heads=2", "gat_heads=2", "expert_width=4", "experts=3"],
}
TITLES = {
    "hff": ["Dynamic weights", "Share of the precision", "Attention of level 2", "Weights over time"],
    "symphonia": [
        "ViT: attention of the class token",
        "Activation over time",
        "Attention to tokens",
        "Graph of the tokens",
        "Contribution of each fusion level",
        "Tokens before graph attention",
        "Tokens after graph attention",
        "Before alignment",
        "After alignment",
        "Attention of the head over its tokens",
    ],
    "of-cmaer-cat": [
        "Overall performance",
        "Accuracy by dataset",
        "Weights and gates",
        "Compatibility of the modalities",
        "Attention from vision to text",
        "Attention from speech to vision",
    ],
    "complementary": [
        "Graph of the cross-attention branch",
        "Graph of the sum-product branch",
        "Attention from text to speech",
        "Attention from speech to text",
        "Routing of the sum-product branch",
        "What the branches say",
    ],
}
"""Of every figure that a paper draws within an utterance or over all of them."""
VISION = {"of-cmaer-cat": "resnet", "hff": "resnet", "symphonia": "vit"}
FEATURES = {
    "mfcc": feature("mfcc", "speech", RATE, values=("float16", (4,))),
    "roberta": feature("roberta", "text", None, values=("float16", (3,)), offsets=("int32", (2,))),
    "resnet": feature("resnet", "vision", 5.0, values=("float16", (2,))),
    "vit": feature("vit", "vision", 5.0, values=("float16", (5, 6)), attention=("float16", (9,)), there=("bool", ())),
    "words": feature("words", "speech", None, values=("float32", (2,)), offsets=("int32", (2,))),
}


def row(name: str, frames: int, random: np.random.Generator) -> Row:
    """One utterance's arrays of a feature."""
    if name == "words":
        return {"values": np.array(SECONDS, np.float32), "offsets": np.array(WORDS, np.int32)}
    count = len(TOKENS) if name == "roberta" else frames * 2 if name == "mfcc" else frames
    values = random.normal(size=(count, *FEATURES[name].values.tail)).astype(np.float16)
    found: dict[str, Any] = {"values": values}
    if name == "roberta":
        found["offsets"] = np.array(TOKENS, np.int32)
    if name == "vit":
        found["attention"] = random.random((count, 9)).astype(np.float16)
        found["there"] = np.arange(count) != 1
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty utterances of one clip, with what every architecture reads; the first of test has no text."""
    path = tmp_path_factory.mktemp("full") / "features"
    opened = FeatureStore.open(path, mode="a")
    samples = [u.model_copy(update={"text": TEXT, "path": "clip.mp4"}) for u in utterances(60)]
    opened.append_samples(Corpus(name="toy", title="Toy", licence="none", targets=TARGETS), samples)
    lacks = next(u.id for u in samples if u.split == "test")
    for number, (name, spec) in enumerate(FEATURES.items()):
        random = np.random.default_rng(number)
        rows = {u.id: row(name, 4 + i % 3, random) for i, u in enumerate(samples)}
        if name == "roberta":
            rows[lacks] = Absent("no transcript")
        commit(opened, "toy", spec, rows)
    return path


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """A run of an architecture, trained for an epoch when it is first asked for."""
    done: dict[tuple[str, str], Result] = {}

    def of(arch: str, target: str = "emotion") -> Result:
        if (arch, target) not in done:
            done[arch, target] = train_run(
                store,
                "toy",
                arch,
                target=target,
                features={"vision": VISION[arch]} if arch in VISION else None,
                assignments=[*SETTINGS[arch], "batch_size=16", "max_epochs=1"],
                seeds=2,
                jobs=1,
                out=tmp_path_factory.mktemp("runs"),
            )
        return done[arch, target]

    return of


@pytest.mark.parametrize("arch", SETTINGS)
def test_every_figure_of_the_paper_is_drawn(arch: str, trained: Callable[..., Result], tmp_path: Path) -> None:
    write([trained(arch).run], tmp_path / "r.html")
    page = sound(tmp_path / "r.html")
    assert "figures" in page.ids and "Not drawn" not in page.words
    titles = [d["title"] for d in page.drawings]
    for title in TITLES[arch]:
        assert any(t.startswith(title) for t in titles), title
    assert page.source.count("<h4>d") == 1 and page.source.count("<details><summary>d") == 3
    if arch == "symphonia":
        write([trained(arch).run], tmp_path / "again.html")
        assert (tmp_path / "again.html").read_bytes() == (tmp_path / "r.html").read_bytes()


@pytest.mark.parametrize("arch", SETTINGS)
def test_what_is_drawn_is_what_the_run_recorded(arch: str, trained: Callable[..., Result]) -> None:
    (e,) = gather([trained(arch).run])
    room = FIGURES.load(arch)
    for id_ in e.ids[:3]:
        (seen,) = look(e, [id_], pooled=room.POOLED, changes=room.CHANGES).examples
        table = run_files.read_predictions(e.run.place(0) / run_files.PREDICTIONS, "test").to_pylist()
        (recorded,) = [r for r in table if r["id"] == id_]
        numbers = {n: v for n, v in seen.drawn.items() if v.ndim == 0}
        assert numbers and all(recorded[n] == pytest.approx(float(v), abs=1e-5) for n, v in numbers.items())
        assert (seen.lengths["text"] == 0) == (id_ == e.ids[0]) and (seen.tokens == ()) == (id_ == e.ids[0])
    assert seen.tokens == ("[CLS]", "ah", ",", "well", "th", "en", "!", "[SEP]")


def test_frames_without_a_face_are_neither_named_nor_drawn(trained: Callable[..., Result]) -> None:
    (e,) = gather([trained("symphonia").run])
    (seen,) = look(e, [e.ids[1]], changes={"activation": True}).examples
    assert seen.times["vision"][:3].tolist() == pytest.approx([0.1, 0.5, 0.7])
    assert seen.attention is not None and len(seen.attention) == seen.lengths["vision"]
    assert len(seen.drawn["activation"]) == seen.lengths["vision"]
    np.testing.assert_allclose(seen.drawn["activation"].sum(axis=1), 1, rtol=1e-5)


def test_other_targets_and_chosen_utterances(trained: Callable[..., Result], tmp_path: Path) -> None:
    result = trained("symphonia", "sentiment")
    (e,) = gather([result.run])
    write([result.run], tmp_path / "r.html", utterances=[e.ids[3]])
    page = sound(tmp_path / "r.html")
    assert f"{e.ids[3]}: said" in page.words and page.source.count("<h4>d") == 1
    with pytest.raises(SettingsError, match=f"no run of the report tested it. Did you mean '{e.ids[3]}'"):
        write([result.run], tmp_path / "r.html", utterances=[f"{e.ids[3]}x"])
    write([result.run], tmp_path / "none.html", most_examples=0)
    assert "figures" not in sound(tmp_path / "none.html").ids


def test_examples_are_the_surest_right_and_wrong_ones(trained: Callable[..., Result]) -> None:
    (e,) = gather([trained("hff").run])
    seen, ids = e.seen[0], surest(e, 4)
    rows = [e.ids.index(i) for i in ids]
    right = seen.prediction == e.truth
    sure = seen.probabilities.max(axis=1)
    good = min(2, int(right.sum()))
    assert [bool(right[r]) for r in rows] == [True] * good + [False] * (4 - good)
    for which, own in ((True, rows[:good]), (False, rows[good:])):
        assert sure[own].tolist() == sorted(sure[right == which].tolist(), reverse=True)[: len(own)]


def test_a_store_that_is_gone_or_changed_is_said(trained: Callable[..., Result], store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained("hff").run, copy)
    record = json.loads((copy / "run.json").read_text("utf-8"))
    (copy / "run.json").write_text(json.dumps({**record, "store": str(tmp_path / "gone")}), "utf-8")
    write([copy], tmp_path / "r.html")
    assert "Not drawn" in sound(tmp_path / "r.html").words and "--store" in sound(tmp_path / "r.html").words
    write([copy], tmp_path / "r.html", store=store)
    assert "Dynamic weights" in sound(tmp_path / "r.html").words
    record["folds"][0]["splits"]["test"]["labels"] = "another"
    (copy / "run.json").write_text(json.dumps(record), "utf-8")
    write([copy], tmp_path / "r.html")
    assert "no longer those of the run (labels of the test split are others)" in sound(tmp_path / "r.html").words


def test_excerpts_lie_in_the_page(trained: Callable[..., Result], tmp_path: Path) -> None:
    import av
    from PIL import Image

    (tmp_path / "data").mkdir()
    shutil.copyfile(Path(golden.__file__).with_name("clip.mp4"), tmp_path / "data" / "clip.mp4")
    words = [str(trained("hff").run), "--out", str(tmp_path / "r.html"), "--hardest", "2", "--examples", "0", "--json"]
    done = CliRunner().invoke(cli.app, ["report", *words, "--root", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "r.html").read_text("utf-8")
    said = json.loads(done.stdout)
    assert (
        said["excerpts"] == {"utterances": 2, "without_media": 0}
        and page.count("<audio") == 2
        and said["bytes"] == len(page.encode())
    )
    assert page.count(f"<blockquote>{TEXT}</blockquote>") == 2 and not re.search(r'(src|href)="(?!data:|#)', page)
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="[^"]+ at ', page)
    assert len(found) == 8 and all(Image.open(io.BytesIO(base64.b64decode(f))).size[0] > 100 for f in found)
    heard = re.findall(r'src="data:audio/webm;base64,([^"]+)"', page)
    with av.open(io.BytesIO(base64.b64decode(heard[0]))) as file:
        assert file.streams.audio[0].codec_context.name == "opus"
        assert sum(f.samples / f.rate for f in file.decode(audio=0)) > 0.3
    done = CliRunner().invoke(cli.app, ["report", *words, "--root", str(tmp_path / "none")])
    assert isinstance(done.exception, SettingsError) and "is no folder" in str(done.exception)
    (tmp_path / "data" / "clip.mp4").unlink()
    done = CliRunner().invoke(cli.app, ["report", *words, "--root", f"toy={tmp_path / 'data'}"])
    assert json.loads(done.stdout)["excerpts"] == {"utterances": 2, "without_media": 2}
    assert "is --root the data root?" in done.stderr and "clip.mp4" in (tmp_path / "r.html").read_text("utf-8")


def test_an_excerpt_is_bounded(tmp_path: Path) -> None:
    import wave

    noise = (np.random.default_rng(0).normal(size=30 * 16000) * 3000).astype(np.int16)
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(noise.tobytes())
    found = excerpt(tmp_path, Utterance(id="u", path="long.wav", duration=30.0))
    assert found.pictures == [] and found.sound is not None and len(found.sound) < 80_000
    assert "The first 20 of 30.0 seconds." in found.notes and any(note.startswith("video:") for note in found.notes)
    with pytest.raises(SettingsError, match="is no folder"):
        roots_of(["toy="])


def test_drawings_say_what_is_strongest() -> None:
    values = np.array([[0.1, 0.9], [-0.4, 0.2]])
    drawn = heat("T<", values, ["a", "b"], ["c", "d"], "Said.")
    assert "Strongest: a with d 0.9; b with c -0.4" in drawn.svg and "<title>T&lt;</title>" in drawn.svg
    assert ">0.90<" in drawn.svg and drawn.svg.count("<path") == 4
    many = heat("T", np.ones((3, 500)), list("abc"), [str(i) for i in range(500)], "", "x", "frames")
    assert "Up to 9 neighbouring frames are averaged." in many.caption
    edges = graph("G", ["a", "b", "c"], np.array([[9, 0.5, 0], [0, 9, 0.7], [0, 0, 9.0]]), "")
    assert "Strongest edges: b reads c 0.7; a reads b 0.5." in edges.svg
    assert "a ours 0.5; b paper 0.2." in bars("B", ["a", "b"], {"ours": [0.5, None], "paper": [None, 0.2]}, "", "x").svg
    assert "p from 1 to 3" in over_time("O", {"p": np.array([1.0, 2, 3])}, np.arange(3.0), "", "s", "p").svg


def test_an_ablation_is_found_by_its_folder(trained: Callable[..., Result], tmp_path: Path) -> None:
    point = {"mean": 0.5, "sd": 0.1, "ci95": 0.2, "per_seed": [0.4, 0.6]}
    whole = {"arch": "symphonia", "dataset": "toy", "seeds": 2, "folder": "x"}
    for key in ("4", "5"):
        rows = [{"name": "full", "cells": [{"paper": 0.809, "ours": point}]}]
        table = {"title": f"Table {key}", "columns": ["Accuracy"], "rows": rows}
        (tmp_path / f"table-{key}.json").write_text(json.dumps({**whole, "tables": [table]}), "utf-8")
    write([trained("hff").run], tmp_path / "r.html", study_files=[tmp_path], most_examples=0)
    page = sound(tmp_path / "r.html")
    assert page.source.count("Ablation of symphonia on toy") == 1 and page.words.count("50.0 ± 10.0 (80.9)") == 2
    assert any(d["title"] == "Table 5: Accuracy" and "ours 50, paper 80.9" in d["desc"] for d in page.drawings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MerError, match="no finished table"):
        write([trained("hff").run], tmp_path / "r.html", study_files=[tmp_path / "empty"])
