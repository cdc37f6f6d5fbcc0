"""The site builds without a word, has a page for everything in the code, and needs no network to be read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from extract.datasets import DATASETS
from extract.encoders import ENCODERS
from fuse.archs import ARCHS

ROOT = Path(__file__).parents[2]
pytest.importorskip("mkdocs", reason="the documentation's tools are absent: pip install '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_everything_has_its_page(site: Path) -> None:
    for folder, names in (("datasets", DATASETS), ("encoders", ENCODERS), ("architectures", ARCHS)):
        listed = (site / folder / "index.html").read_text("utf-8")
        for name in names.names():
            assert (site / folder / f"{name}.html").is_file()
            assert f'href="{name}.html"' in listed


def test_what_is_included_is_there(site: Path) -> None:
    assert "LSTMMean</span>" in (site / "guides" / "extend.html").read_text("utf-8")
    assert "put-if-absent" in (site / "store-format.html").read_text("utf-8")
    for page in site.rglob("*.html"):
        assert not re.search("8 ?(<|&lt;) ?--", page.read_text("utf-8")), f"{page.relative_to(site)}: a snippet"


def test_it_is_read_without_a_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        loads = re.findall(r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)"', text)
        loads += re.findall(r'<link[^>]+rel="(?:stylesheet|preload|preconnect)"[^>]+href="(https?:[^"]+)"', text)
        assert not loads, f"{page.relative_to(site)} loads {loads[0]}"
    # what is searched where there is no server that could answer
    index = (site / "search" / "search_index.js").read_text("utf-8")
    documents = json.loads(index[index.index("{") : index.rindex("}") + 1])["docs"]
    assert any("hff" in document["title"].lower() for document in documents)
    assert 'data-md-component="search-query"' in (site / "index.html").read_text("utf-8")


def test_the_search_answers_where_there_is_no_server(site: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here to search in")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    flags += ["--virtual-time-budget=60000"]
    opened = (site / "index.html").as_uri() + "?q=fingerprint"
    done = subprocess.run([browser, *flags, "--dump-dom", opened], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) matching documents", done.stdout)
    assert found is not None and int(found[1]) > 3, done.stderr[-2000:]
