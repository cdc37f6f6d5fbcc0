"""`mer models`: fetching from a hub that is played by this file, working without one, noticing what has changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cache_schema.errors import SettingsError, StoreError
from extract import faces
from extract.encoders import ENCODERS
from extract.encoders import resnet as resnet_encoder
from extract.weights import golden, models
from extract.weights.checkpoints import PULLED, resolve

COMMIT = "".join("0123456789abcdef"[i * 7 % 16] for i in range(40))
REPO = "microsoft/resnet-18"


class Hub(ThreadingHTTPServer):
    """Enough of the Hugging Face hub to download one repository; `damage` flips a byte of the weights on the way."""

    def __init__(self, files: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.damage = files, False
        self.sent: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        headers = {"X-Repo-Commit": COMMIT}
        if path.startswith(f"/api/models/{REPO}"):
            files = [self._facts(file) for file in sorted(self.server.files.iterdir())]
            listing = {"id": REPO, "sha": COMMIT, "siblings": files, "tags": [], "private": False, "downloads": 0}
            data = json.dumps(files if "/tree/" in path else listing).encode()
        elif path.startswith(f"/{REPO}/resolve/") and (self.server.files / path.rpartition("/")[2]).is_file():
            name = path.rpartition("/")[2]
            data = (self.server.files / name).read_bytes()
            headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            if body:
                self.server.sent.append(name)
            if self.server.damage and name == "model.safetensors":
                data = data[:-1] + bytes([data[-1] ^ 1])
        else:
            data = b"{}"
        self.send_response(404 if data == b"{}" else 200)
        for name, value in {**headers, "Content-Length": str(len(data)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    @staticmethod
    def _facts(file: Path) -> dict[str, Any]:
        facts: dict[str, Any] = {"rfilename": file.name, "path": file.name, "type": "file", "size": file.stat().st_size}
        if file.suffix == ".safetensors":
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            facts["lfs"] = {"sha256": digest, "oid": digest, "size": file.stat().st_size, "pointerSize": 134}
        return facts | {"oid": "0" * 40}


@pytest.fixture
def hub(small_weights: Path, tmp_path: Path) -> Iterator[Hub]:
    files = tmp_path / "hub"
    shutil.copytree(small_weights / "resnet", files)
    (files / "mer.json").unlink()
    (files / "pytorch_model.bin").write_bytes(b"the same weights in another form")
    with Hub(files) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def run(hub: Hub | str | None, home: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command line of its own, with the network that `hub`, or what is at that address, is."""
    own = {"HF_HOME": str(home / "hf"), "MER_CACHE": str(home / "cache"), "HF_HUB_DISABLE_XET": "1"}
    own |= (
        {"HF_HUB_OFFLINE": "1"}
        if hub is None
        else {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub if isinstance(hub, str) else hub.address}
    )
    command = [sys.executable, "-m", "cli", *map(str, words)]
    return subprocess.run(
        command, env=os.environ | own, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3]
    )


def test_a_pulled_folder_works_without_a_network_and_says_where_it_is_from(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    done = run(hub, tmp_path, "models", "pull", "resnet", "--to", folder, "--json")
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert (model["source"], model["revision"], model["licence"]) == (REPO, COMMIT, "Apache-2.0")
    assert sorted(hub.sent) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(p.name for p in (folder / "resnet").iterdir()) == [
        "config.json", PULLED, "model.safetensors", "preprocessor_config.json"]  # fmt: skip
    checkpoint = resolve("resnet", resnet_encoder.HUB, str(folder))
    assert (checkpoint.name, checkpoint.revision, checkpoint.random) == (REPO, COMMIT, False)
    spec = resnet_encoder.describe(resnet_encoder.Config(crop="whole"), checkpoint)
    assert (spec.checkpoint, spec.revision) == (REPO, COMMIT)
    again = run(None, tmp_path, "models", "pull", "resnet", "--to", folder)
    assert again.returncode == 0 and "already" in again.stderr
    assert [v.state for v in models.verify(["resnet"], str(folder))] == ["ok"]

    weights = folder / "resnet" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (verdict,) = models.verify(["resnet"], str(folder))
    assert (
        verdict.state == "changed"
        and "model.safetensors" in verdict.detail
        and "mer models pull resnet" in verdict.detail
    )
    replaced = resolve("resnet", resnet_encoder.HUB, str(folder))
    assert (replaced.name, replaced.revision) == (None, None), "weights that were replaced are not the hub's any more"
    weights.unlink()
    assert [v.state for v in models.verify(["resnet"], str(folder))] == ["absent"]


def test_the_cache_is_filled_and_checked_too(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "models", "pull", "resnet", "--revision", COMMIT[:8])
    assert done.returncode == 0 and COMMIT in done.stderr, done.stderr
    listed = run(None, tmp_path, "models", "list", "--json")
    (found,) = [m for m in json.loads(listed.stdout)["models"] if m["name"] == "resnet"]
    assert found["folder"] is None, "no branch was asked for: without --revision it is not known which commit is meant"
    assert run(hub, tmp_path, "models", "pull", "resnet").returncode == 0
    checked = run(None, tmp_path, "models", "verify", "resnet", "--json")
    assert checked.returncode == 0 and json.loads(checked.stdout)["models"][0]["state"] == "ok", checked.stderr
    (blob,) = [p for p in (tmp_path / "hf" / "hub").rglob("blobs/*") if p.stat().st_size > 10_000]
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    checked = run(None, tmp_path, "models", "verify", "resnet", "--json")
    assert checked.returncode == 1 and json.loads(checked.stdout)["models"][0]["state"] == "changed"


def test_what_arrives_damaged_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.damage = True
    done = run(hub, tmp_path, "models", "pull", "resnet", "--to", tmp_path / "w")
    assert done.returncode == 1 and done.stderr.strip().count("\n") <= 1 and "damaged" in done.stderr
    assert not (tmp_path / "w" / "resnet").exists()
    hub.damage = False
    assert run(hub, tmp_path, "models", "pull", "resnet", "--to", tmp_path / "w").returncode == 0


def test_without_a_network_one_line_says_which_command_brings_the_weights(tmp_path: Path) -> None:
    done = run(None, tmp_path, "models", "verify", "hubert")
    assert done.returncode == 1 and "mer models pull hubert" in done.stdout
    done = run(None, tmp_path, "models", "pull", "hubert", "--to", tmp_path / "w")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "facebook/hubert-base-ls960" in done.stderr
    assert not list((tmp_path / "w").glob("*"))
    done = run("http://127.0.0.1:9", tmp_path, "models", "pull", "hubert")  # where a network was promised
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "mer models pull hubert --to DIR" in done.stderr


def test_a_folder_of_something_else_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "w" / "resnet").mkdir(parents=True)
    (tmp_path / "w" / "resnet" / "notes.txt").write_text("mine", encoding="utf-8")
    done = run(hub, tmp_path, "models", "pull", "resnet", "--to", tmp_path / "w")
    assert done.returncode == 1 and "remove it, or name another --to" in done.stderr
    assert [p.name for p in (tmp_path / "w" / "resnet").iterdir()] == ["notes.txt"]


def test_the_list_names_every_checkpoint(mer: Callable[..., Any], small_weights: Path) -> None:
    found = {m["name"]: m for m in mer("models", "list", "--weights", small_weights, "--json").json["models"]}
    encoders = [n for n in ENCODERS.names() if ENCODERS.load(n).HUB is not None]
    assert list(found) == [*encoders, models.FACE_LANDMARKER]
    assert all(m["licence"] and m["purpose"] for m in found.values())
    assert found["vit"]["source"] == "random" and found["vit"]["folder"] == str(small_weights / "vit")
    assert mer("models", "verify", "vit", "--weights", small_weights, "--json").json["models"][0]["state"] == "random"


def test_the_sizes_are_those_of_the_models(tmp_path: Path) -> None:
    import torch

    from extract.weights.random_weights import SENTENCES

    for name in ENCODERS.names():
        module = ENCODERS.load(name)
        if module.HUB is not None:
            with torch.device("meta"):
                model = module.draw("full", tmp_path, SENTENCES)
            assert sum(p.numel() for p in model.parameters()) == module.HUB.parameters, name


@pytest.mark.parametrize(("names", "said"), [(["robert"], "Did you mean 'roberta'"), (["mfcc"], "mfcc has no weights")])
def test_a_name_that_is_no_model(names: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        models.verify(names, None)
    with pytest.raises(SettingsError, match="one checkpoint"):
        models.pull([], None, revision="main")


def test_figures_are_recorded_once_and_compared_from_then_on(
    small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    for name in ("roberta", "koelectra", "resnet"):
        shutil.copytree(small_weights / name, tmp_path / name)
        assert golden.compare(name, str(tmp_path)) == "not run: random weights have nothing to be compared with"
        (tmp_path / name / "mer.json").unlink()
        assert golden.compare(name, str(tmp_path)).startswith("recorded in ")
        assert golden.compare(name, str(tmp_path)).startswith("equal: by at most 0.0e+00 sd")
        (own,) = (tmp_path / "cache" / "golden").glob(f"{name}-*.json")
        figures = json.loads(own.read_text(encoding="utf-8"))
        figures["numbers"][3] += 0.01 * figures["sd"][0]
        own.write_text(json.dumps(figures), encoding="utf-8")
        assert golden.compare(name, str(tmp_path)).startswith("differs: by at most 1.0e-02 sd")


def test_the_face_model_is_fetched_checked_and_run(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = test_data / "mediapipe" / faces.MODEL
    damaged, fetched = tmp_path / "damaged.task", tmp_path / "w" / faces.MODEL
    damaged.write_bytes(there.read_bytes()[:-1])
    monkeypatch.setattr(faces, "MODEL_URL", damaged.as_uri())
    with pytest.raises(StoreError, match="arrived damaged"):
        models.pull([models.FACE_LANDMARKER], fetched.parent)
    assert not any(fetched.parent.iterdir())
    monkeypatch.setattr(faces, "MODEL_URL", there.as_uri())
    models.pull([models.FACE_LANDMARKER], fetched.parent)
    monkeypatch.setenv("MER_FACE_MODEL", str(fetched))
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    assert models.verify([models.FACE_LANDMARKER], None)[0].state == "ok"
    assert golden.compare(models.FACE_LANDMARKER, None).startswith("recorded in ")
    assert golden.compare(models.FACE_LANDMARKER, None).startswith("equal: ")
    monkeypatch.setenv("MER_FACE_MODEL", str(damaged))
    assert models.verify([models.FACE_LANDMARKER], None)[0].state == "unrecorded"


def test_no_figures_come_with_mer_yet() -> None:
    """None were ever made with trained weights: a number here must be one that somebody saw."""
    assert json.loads((golden.HERE / golden.FIGURES).read_text(encoding="utf-8")) == {}
