"""`mer report`'s page in a real browser: Chromium without a window, light and wide, dark and 400 pixels wide."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuse.report.drawings import heat, over_time
from fuse.report.page import Excerpt, Facts, Folded, Section, Side, Text, document
from fuse.report.tables import Table
from verbs.excerpts import _jpeg, _opus

PROBE = """
const seen = element => element.checkVisibility();
const luminance = colour => {
  const part = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
};
const behind = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (colour !== 'rgba(0, 0, 0, 0)') return colour;
  }
  return 'rgb(255, 255, 255)';
};
const contrast = element => {
  const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance).sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
};
const named = e => (e.getAttribute('aria-label') || e.alt || e.textContent).trim();
document.querySelectorAll('details').forEach(d => d.open = true);
addEventListener('load', async () => {
  const sounds = await Promise.all([...document.querySelectorAll('audio')].map(audio => new Promise(done => {
    audio.onloadedmetadata = () => done(audio.duration);
    audio.onerror = () => done(-1);
    audio.preload = 'metadata'; audio.load();
  })));
  const stops = [...document.querySelectorAll('a[href], summary, audio[controls], [tabindex="0"]')];
  const reached = stops.filter(e => { e.focus(); return document.activeElement === e; });
  const found = {
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
    width: innerWidth, page: document.documentElement.scrollWidth, sounds,
    asked: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')),
    stops: stops.length, reached: reached.length, nameless: stops.filter(e => !named(e)).length,
    pictures: [...document.images].map(i => [i.naturalWidth, i.alt]),
    drawings: [...document.querySelectorAll('svg')].filter(
      s => s.getAttribute('role') === 'img' && named(s) && s.getBoundingClientRect().width > 50).length,
    faint: [...document.querySelectorAll('p,td,th,a,h1,h2,h3,h4,figcaption,summary,dt,dd,caption,blockquote')].filter(
      e => seen(e) && contrast(e) < 4.5).map(e => e.outerHTML.slice(0, 80)),
  };
  parent.postMessage(JSON.stringify(found), '*');
});
"""


def browser() -> str:
    """Chromium's name; skips where it is not installed."""
    found = next((name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: the report is not looked at in a browser")
    return found


FRAME = """<!DOCTYPE html><meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><body><script>
addEventListener('message', event => fetch('/found', {method: 'POST', body: event.data}));</script>
<iframe src="/page" style="border:0;height:900px;width:%dpx"></iframe>"""
"""A window cannot be narrower than 500 pixels, a frame in it can."""


def looked_at(page: str, folder: Path, width: int, *options: str) -> tuple[dict[str, Any], str]:
    """What the probe finds in the page, and the browser's console, where refused requests stand too."""
    policy = "script-src 'unsafe-inline'; default-src 'none'"
    page = page.replace("default-src 'none'", policy).replace("</body>", f"<script>{PROBE}</script></body>")
    files, found = {"/frame": FRAME % width, "/page": page}, queue.Queue[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in files else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(files.get(self.path, "").encode())

        def do_POST(self) -> None:
            found.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    words = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
    words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    words += [f"--user-data-dir={folder / 'profile'}", "--window-size=1200,900", *options]
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, (folder / "log").open("w+") as log:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        process = subprocess.Popen([*words, f"http://127.0.0.1:{server.server_port}/frame"], stderr=log, stdout=log)
        try:
            answer = found.get(timeout=40)
        finally:
            process.terminate()
            process.wait(timeout=20)
            server.shutdown()
        log.seek(0)
        return json.loads(answer), "\n".join(line for line in log if "CONSOLE" in line)


@pytest.fixture(scope="module")
def page() -> str:
    """A document with one of everything that a report may hold."""
    times, random = np.arange(30.0), np.random.default_rng(0)
    tokens = [f"token{i}" for i in range(30)]
    figures = [
        over_time("Activation", {"joy": random.random(30), "anger": random.random(30)}, times, "Said.", "s", "p"),
        heat("Attention", random.normal(size=(30, 30)), tokens, tokens, "Said.", "row", "column"),
    ]
    table = Table("t", "A wide table", [f"column {i}" for i in range(20)], [[f"{i}.1234" for i in range(20)]] * 3)
    sound = _opus((0.1 * np.sin(np.arange(24000) / 20)).astype(np.float32))
    excerpt = Excerpt("u1", "Oh <b>no</b>.", [(0.5, _jpeg(np.full((90, 160, 3), 120, np.uint8)))], sound, ["A note."])
    blocks = [Text("Warned.", "warn"), Side(figures), table, Facts([("Truth", "joy")]), Folded("u1", [excerpt])]
    sections = [Section("first", "First", blocks), Section("second", "Second", [Text("A sub", "h3"), Text("x" * 300)])]
    return document("Report on runs", [Facts([("run", "hff")])], sections, "The end.")


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (400, True)])
def test_the_page_in_chromium(page: str, tmp_path: Path, width: int, dark: bool) -> None:
    found, logged = looked_at(page, tmp_path, width, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    assert logged == "" and found["asked"] == []
    assert found["dark"] is dark and found["faint"] == []
    assert found["page"] <= found["width"] == width, "the page scrolls sideways"
    assert found["reached"] == found["stops"] > 6 and found["nameless"] == 0
    assert found["pictures"] == [[160, "u1 at 0.5 s"]] and found["drawings"] == 2
    assert found["sounds"] == [pytest.approx(1.0, abs=0.1)]


def test_the_browser_would_have_noticed(page: str, tmp_path: Path) -> None:
    bad = '<img src="http://mer.invalid/x.png"><p style="color:#999;width:90rem">faint</p><a href="#x"></a></main>'
    found, logged = looked_at(page.replace("</main>", bad), tmp_path, 800)
    assert "mer.invalid" in logged and found["page"] > found["width"]
    assert len(found["faint"]) == 1 and found["nameless"] == 1
