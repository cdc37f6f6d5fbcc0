"""`mer report`: every kind of target, one run and several, hostile names, and nothing from outside the file."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_corpus import rows_of, utterances
from typer.testing import CliRunner

import cli
from cache_schema.errors import DamagedError, DataError, MerError, SettingsError
from cache_schema.samples import Target
from fuse import run_files
from fuse.prediction import Predictions
from fuse.protocols import Protocol
from fuse.report.calibration import BINS, brier, certainty, reliability
from fuse.report.plot import Plot, spread, ticks
from fuse.report.provenance import command
from fuse.report.tables import Table
from fuse.report.write import write
from fuse.run import load as load_run
from fuse.train import Result, train_run

SMALL = ["d=12", "steps=3", "layers=1", "head_width=4", "speech_channels=[4]", "speech_width=6"]
FAST = [*SMALL, "lr=0.005", "batch_size=16", "max_epochs=2"]
HOSTILE = "<script>alert('x')</script>&\"%_=1+1"
Build = Callable[..., Path]


class Page(HTMLParser):
    """What a browser would find in the file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.headings: list[int] = []
        self.drawings: list[dict[str, Any]] = []
        self.tables: list[dict[str, int]] = []
        self.words = ""
        self._open: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag != "meta":
            self._open.append(tag)
        self.ids += [given["id"]] if given.get("id") else []
        if given.get("href"):
            self.links.append(given["href"] or "")
        self.outside += [v for k, v in attrs if k in ("src", "href", "srcset", "action") and v and "//" in v[:10]]
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "svg":
            self.drawings.append({"label": given.get("aria-label"), "role": given.get("role"), "title": "", "desc": ""})
        if tag == "table":
            self.tables.append({"caption": 0, "column": 0, "row": 0})
        if tag == "caption":
            self.tables[-1]["caption"] += 1
        if tag == "th":
            self.tables[-1]["column" if given["scope"] == "col" else "row"] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._open and self._open[-1] in ("title", "desc") and "svg" in self._open:
            self.drawings[-1][self._open[-1]] += data


def sound(path: Path) -> Page:
    """The file's page, when it is whole, self-contained and can be read without seeing it."""
    page = Page(path)
    assert page.outside == [] and not {"script", "link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert "url(" not in page.source and "@import" not in page.source and "default-src 'none'" in page.source
    assert "prefers-color-scheme:dark" in page.source
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert len(anchors) > 4 and set(anchors) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:text/csv", "data:application/x-tex")) for link in page.links)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert page.drawings and all(d["role"] == "img" and d["title"] and d["desc"] and d["label"] for d in page.drawings)
    assert page.tables and all(t["caption"] == 1 and t["column"] and t["row"] for t in page.tables)
    assert not re.search(r"\b(nan|inf)\b", "".join(re.findall(r"<svg.*?</svg>", page.source)))
    return page


def run(store: Path, out: Path, **changes: Any) -> Result:
    return train_run(store, "toy", "hff", **{"assignments": FAST, "seeds": 2, "jobs": 1, "out": out} | changes)


@pytest.fixture(scope="module")
def finished(toy_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One run that nobody changes."""
    return run(toy_store, tmp_path_factory.mktemp("runs"))


def test_one_run_shows_what_it_recorded(finished: Result, tmp_path: Path) -> None:
    found = write([finished.run], tmp_path / "r.html", tables=tmp_path / "tables", hardest=3)
    page = sound(tmp_path / "r.html")
    record = finished.record
    assert found["comparisons"] == [] and "comparison" not in page.ids
    assert {"results", "classes", "calibration", "curves", "weights", "hardest", "provenance"} <= set(page.ids)
    accuracy = finished.test["accuracy"]
    assert f"{accuracy['mean']:.4f} ± {accuracy['sd']:.4f}" in page.words
    for digest in [record.store_digest, *(f["fingerprint"] for f in record.features.values())]:
        assert digest in page.words
    rows = list(csv.reader(io.StringIO((tmp_path / "tables" / "confusion-1.csv").read_text("utf-8"))))
    each = [s.tables["test"]["confusion"] for s in finished.seeds]
    counts = [[int(cell.split()[0]) for cell in row[1:]] for row in rows[1:]]
    assert counts == np.sum(each, axis=0).tolist()
    seen = run_files.read_predictions(finished.run / "seed-0" / "predictions.parquet", "test").to_pylist()
    seen += run_files.read_predictions(finished.run / "seed-1" / "predictions.parquet", "test").to_pylist()
    by_class = list(csv.DictReader(io.StringIO((tmp_path / "tables" / "weights-by-class-1.csv").read_text("utf-8"))))
    mean = np.mean([row["alpha_text"] for row in seen if row["target"] == "joy"])
    (shown,) = [float(row["joy"]) for row in by_class if row["quantity"] == "alpha_text"]
    assert shown == pytest.approx(mean, rel=1e-3)
    hard = list(csv.DictReader(io.StringIO((tmp_path / "tables" / "hardest-1.csv").read_text("utf-8"))))
    losses = [float(row["mean loss"]) for row in hard]
    assert len(hard) == 3 and losses == sorted(losses, reverse=True)
    assert (tmp_path / "tables" / "results-1.tex").read_text("utf-8").startswith(r"\begin{table}")
    assert len(found["tables"]) == 2 * len(page.tables)
    assert "alpha_text" in page.words and "RANDOM WEIGHTS" not in page.words


def test_every_table_is_exported_within_the_file(finished: Result, tmp_path: Path) -> None:
    write([finished.run], tmp_path / "r.html")
    page = sound(tmp_path / "r.html")
    data = [link for link in page.links if link.startswith("data:")]
    assert len(data) == 2 * len(page.tables)
    for link in data:
        text = base64.b64decode(link.split(",", 1)[1]).decode()
        if link.startswith("data:text/csv"):
            rows = list(csv.reader(io.StringIO(text)))
            assert len({len(row) for row in rows}) == 1 and len(rows) > 1


def test_runs_are_compared_with_the_first_or_refused_with_the_reason(
    finished: Result, toy_store: Path, make_store: Build, tmp_path: Path
) -> None:
    other = run(toy_store, tmp_path / "runs", assignments=[*FAST, "lr=0.000001"])
    apart = run(make_store(utterances(60), modalities=("text",)), tmp_path / "apart", seeds=1)
    found = write([finished.run, other.run, apart.run], tmp_path / "r.html", draws=100)
    page = sound(tmp_path / "r.html")
    good, refused = found["comparisons"]
    difference = other.test["accuracy"]["mean"] - finished.test["accuracy"]["mean"]
    assert good["metrics"]["accuracy"]["utterances"]["difference"] == pytest.approx(difference)
    assert f"{difference:+.4f}" in page.words
    assert "tested on different utterances" in refused["refused"] and refused["refused"] in page.words
    assert "cannot be set side by side" in page.words and "one seed" in page.words
    with pytest.raises(SettingsError, match="given twice"):
        write([finished.run, finished.run], tmp_path / "twice.html")


@pytest.mark.parametrize("target", ["emotions", "sentiment"])
def test_other_targets_have_their_own_sections(toy_store: Path, tmp_path: Path, target: str) -> None:
    result = run(toy_store, tmp_path, target=target, assignments=[*FAST, "max_epochs=1"])
    write([result.run], tmp_path / "r.html")
    page = sound(tmp_path / "r.html")
    assert "Confusion matrix" not in page.source
    if target == "sentiment":
        assert "residuals" in page.ids and not {"classes", "calibration"} & set(page.ids)
        assert "squared error" in page.words
    else:
        assert {"classes", "calibration"} <= set(page.ids) and "no confusion matrix" in page.words


def test_random_weights_are_said_and_hostile_names_stay_text(make_store: Build, tmp_path: Path) -> None:
    samples = [u.model_copy(update={"id": f"{HOSTILE} {i}"}) for i, u in enumerate(utterances())]
    store = make_store(samples, {"text": rows_of("text", samples)}, ("text",))
    result = run(store, tmp_path, seeds=1)
    document = json.loads((result.run / "run.json").read_text("utf-8"))
    document["random_weights"] = document["features"]["text"]["random_weights"] = True
    (result.run / "run.json").write_text(json.dumps(document), "utf-8")
    write([result.run], tmp_path / "r.html", title="<img src=x onerror=alert(1)>")
    page = sound(tmp_path / "r.html")
    assert HOSTILE in page.words and "<img" in page.words and "RANDOM WEIGHTS" in page.words


def test_folds_have_a_table_and_a_command(toy_store: Path, tmp_path: Path) -> None:
    result = run(toy_store, tmp_path, seeds=1, protocol=Protocol(folds="kfold:dialogue:2"))
    write([result.run], tmp_path / "r.html")
    page = sound(tmp_path / "r.html")
    assert "parts" in page.ids and "--protocol kfold:dialogue:2" in page.words
    assert "fold 2, test" in page.words and "alpha_text" in page.words


def test_the_command_makes_the_same_run(finished: Result, tmp_path: Path) -> None:
    text, _ = command(load_run(finished.run))
    assert text is not None
    done = CliRunner().invoke(cli.app, [*shlex.split(text)[1:], "--out", str(tmp_path), "--jobs", "1", "--json"])
    assert done.exit_code == 0, done.output
    again = load_run(next(tmp_path.glob("hff-toy-1")))
    assert again.metrics["test"] == load_run(finished.run).metrics["test"]
    assert again.record.store_digest == finished.record.store_digest


def test_studies_are_read_and_anything_else_is_refused(finished: Result, tmp_path: Path) -> None:
    point = {"mean": 0.5, "sd": 0.1, "ci95": 0.2, "per_seed": [0.4, 0.6]}
    robust = {"run": "runs/x", "kind": "missing", "at": "test", "noise": None, "seeds": [0, 1], "shares": [0.0, 1.0]}
    robust["curves"] = {m: {"accuracy": [point, {**point, "mean": 0.3}]} for m in ("text", "speech")}
    cells = [{"paper": 0.61, "ours": point, "same": "Table 4, all"}, {"paper": None, "why": "no vision in the store"}]
    table = {"title": "Table 4", "columns": ["T", "TV"], "rows": [{"name": "full", "cells": cells}]}
    ablation = {"arch": "hff", "dataset": "toy", "seeds": 2, "folder": "x", "tables": [table]}
    files = []
    for name, study in (("a", robust), ("b", ablation)):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(study), "utf-8")
    write([finished.run], tmp_path / "r.html", study_files=files)
    page = sound(tmp_path / "r.html")
    assert "studies" in page.ids and "≡ 50.0 ± 10.0 (61.0)" in page.words and "no vision in the store" in page.words
    with pytest.raises(MerError, match="cannot be read as a study"):
        write([finished.run], tmp_path / "r.html", study_files=[tmp_path / "none.json"])
    for wrong in ("{}", "[]", "no json", '{"curves": {}, "shares": []}'):
        files[0].write_text(wrong, "utf-8")
        with pytest.raises(MerError, match="is no study"):
            write([finished.run], tmp_path / "r.html", study_files=files)


def test_the_verb(finished: Result, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["report", str(finished.run), "--out", str(tmp_path / "r.html"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["runs"][0]["test"] == finished.test and Path(found["report"]).is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(MerError, match="cannot be written there"):
        write([finished.run], tmp_path / "file" / "r.html")
    with pytest.raises(MerError, match="it is a folder"):
        write([finished.run], tmp_path)
    with pytest.raises(MerError, match="is no run"):
        write([tmp_path], tmp_path / "r.html")


def test_a_damaged_history_is_said(finished: Result, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.run, copy)
    (copy / "seed-1" / "history.csv").write_text("epoch\n1\n", "utf-8")
    with pytest.raises(DamagedError, match=r"seed-1/history\.csv"):
        write([copy], tmp_path / "r.html")


def test_calibration_is_that_of_its_definition() -> None:
    random = np.random.default_rng(0)
    confidence, right = random.uniform(0.0001, 1, 500), random.uniform(size=500) < 0.6
    gaps = 0.0
    for b in range(BINS):
        inside = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        gaps += inside.mean() * abs(right[inside].mean() - confidence[inside].mean()) if inside.any() else 0
    assert reliability(confidence, right).error == pytest.approx(gaps)
    assert reliability(np.ones(4), np.ones(4, dtype=bool)).error == 0
    assert reliability(np.ones(4), np.zeros(4, dtype=bool)).error == 1
    with pytest.raises(DataError, match="from 0 to 1"):
        reliability(np.asarray([0.5, np.nan]), np.asarray([True, False]))


def test_certainty_and_brier_of_both_kinds() -> None:
    target = Target(name="t", kind="classification", classes=("a", "b"))
    chances = np.asarray([[0.9, 0.1], [0.4, 0.6]])
    seen = Predictions(("x", "y"), 0.0, np.asarray([0, 0]), np.asarray([0, 1]), chances, {})
    confidence, right = certainty(target, seen)
    assert confidence.tolist() == [0.9, 0.6] and right.tolist() == [True, False]
    assert brier(target, seen) == pytest.approx((2 * 0.1**2 + 2 * 0.6**2) / 2)
    several = target.model_copy(update={"kind": "multilabel"})
    truth = np.asarray([[1, 0], [0, 0]])
    seen = Predictions(("x", "y"), 0.0, truth, truth, chances, {})
    assert certainty(several, seen)[1].tolist() == [True, False, False, False]
    assert brier(several, seen) == pytest.approx((0.01 + 0.01 + 0.16 + 0.36) / 4)


def test_tables_escape_for_html_csv_and_latex() -> None:
    table = Table("k", HOSTILE, ["a", HOSTILE], [[HOSTILE, "=1+1"], ["-0.5", "-1+1"]])
    assert "<script>" not in table.html() and "&lt;script&gt;" in table.html()
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert rows[1] == [HOSTILE, "'=1+1"] and rows[2] == ["-0.5", "'-1+1"]
    latex = table.latex()
    assert r"\&" in latex and r"\%\_" in latex and r"\textless{}script\textgreater{}" in latex


def test_plots_break_where_a_value_is_not_finite_and_keep_to_their_ticks() -> None:
    plot = Plot("t<", "d", (0, 3), (0, 1), "x", "y")
    plot.line([0, 1, 2, 3], [0.1, float("nan"), 0.2, 0.3], "red")
    assert plot.svg().count("<polyline") == 2 and "nan" not in plot.svg() and "<title>t&lt;</title>" in plot.svg()
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0]) and ticks(1, 5, whole=True) == [1, 2, 3, 4, 5]
    low, high = spread([float("nan"), 2.0])
    assert low < 2 < high


def test_a_class_that_is_a_formula_is_text_in_the_confusion_matrix(tmp_path: Path) -> None:
    formula = "=cmd|' /C calc'!A0"
    target = Target(name="label", kind="classification", classes=(formula, "joy"))
    run_files.write_confusion(tmp_path, target, {"confusion": [[1, 2], [3, 4]]})
    with (tmp_path / "confusion.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["true \\ predicted", f"'{formula}", "joy"], [f"'{formula}", "1", "2"], ["joy", "3", "4"]]
