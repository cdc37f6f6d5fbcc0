"""`mer predict --html`: one self-contained page with each clip's player and what is said about it over time.

The page needs no network; a clip that is small lies in the page itself, a larger one beside it. It reads in light and
dark, by keyboard and with a screen reader: every drawing has a text alternative, and the table holds the same numbers.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from cache_schema.errors import MerError
from cache_schema.samples import Utterance
from extract.clips import Clip
from fuse.answers import Answer
from fuse.report.embedded import data_uri
from fuse.report.page import STYLE, Figure, Text
from fuse.report.plot import COLOURS, DASHES, Plot, spread
from verbs.prediction import Prediction, clock, in_words, own_uncertainty

EMBED_BYTES = 24 << 20
"""A clip up to this size lies in the page."""
PLAYED = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".ogv": "video/ogg",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
}
"""What browsers play, by the file's ending."""
CAVEAT = (
    "What follows is what a model makes of expressions; nobody measured what anybody felt. It repeats the judgements "
    "and the gaps of the corpus that it was trained on, and it is no ground for a decision about a person."
)
WIDTH, LEFT, RIGHT = 960, 64, 14
_STYLE = """
video{max-width:100%;min-width:min(100%,20rem);min-height:12rem;max-height:24rem;background:#000;display:block}audio{width:100%;display:block}
.strip{position:relative;cursor:pointer;max-width:60rem}.strip figure{margin:.3rem 0}.cursor{position:absolute;top:0;
width:2px;background:var(--warnline);pointer-events:none;display:none}
tr[aria-current]{background:var(--warn)}tbody button{font:inherit;color:var(--link);background:none;border:1px solid
var(--line);border-radius:.25rem;padding:0 .4rem;cursor:pointer;white-space:nowrap}
"""
_SCRIPT = """
for (const clip of document.querySelectorAll('section[data-seconds]')) {
  const player = clip.querySelector('video,audio'), seconds = +clip.dataset.seconds;
  if (!player) continue;
  const rows = [...clip.querySelectorAll('tr[data-start]')], strips = [...clip.querySelectorAll('.strip')];
  const seek = (time, play) => { player.currentTime = time; if (play) player.play(); };
  const show = () => {
    const at = player.currentTime;
    for (const row of rows) {
      const now = at > +row.dataset.start - 0.01 && at < +row.dataset.end;
      if (now) row.setAttribute('aria-current', 'true'); else row.removeAttribute('aria-current');
    }
    for (const strip of strips) {
      const cursor = strip.querySelector('.cursor'), box = strip.querySelector('svg').getBoundingClientRect();
      const share = +strip.dataset.left + (+strip.dataset.right - +strip.dataset.left) * at / seconds;
      cursor.style.left = share * box.width + 'px'; cursor.style.height = box.height + 'px';
      cursor.style.display = 'block';
    }
  };
  player.addEventListener('timeupdate', show); player.addEventListener('seeked', show);
  window.addEventListener('resize', show);
  for (const row of rows) row.querySelector('button').addEventListener('click', () => seek(+row.dataset.start, true));
  for (const strip of strips) strip.addEventListener('click', event => {
    const box = strip.querySelector('svg').getBoundingClientRect(), share = (event.clientX - box.left) / box.width;
    const place = (share - +strip.dataset.left) / (+strip.dataset.right - +strip.dataset.left);
    seek(Math.min(Math.max(place, 0), 1) * seconds, false);
  });
  clip.addEventListener('keydown', event => {
    if (event.ctrlKey || event.altKey || event.metaKey || (event.key !== 'n' && event.key !== 'p')) return;
    const at = player.currentTime, next = event.key === 'n';
    const times = rows.map(row => +row.dataset.start).filter(t => next ? t > at + 0.05 : t < at - 0.5);
    if (times.length) seek(next ? times[0] : times[times.length - 1], false);
  });
}
"""


def write_timeline(found: Prediction, out: Path) -> None:
    """Write the page; a file that is there is replaced.

    Raises:
        MerError: it cannot be written.
    """
    temporary = out.with_name(f".{out.name}.new")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page(found, out.parent), "utf-8")
        temporary.replace(out)
    except OSError as error:
        raise MerError(f"{error.filename or out}: the timeline cannot be written there ({error.strerror}).") from error


def page(found: Prediction, folder: Path) -> str:
    """The whole file, to lie in `folder`."""
    trained, target = found.trained, found.trained.target
    title = f"{target.name.capitalize()} in {', '.join(clip.path.name for clip in found.clips)}"
    count = len(trained.members)
    lead = [
        Text(CAVEAT, "warn"),
        Text(
            f"Answered by {trained.arch}, trained on {trained.dataset}: {count} training{'s' * (count > 1)} of "
            f"{trained.source}. Every modality is read with the encoder that it was trained on: "
            + ", ".join(f"{m} by {spec.feature}" for m, spec in trained.features.items())
            + "."
        ),
    ]
    if found.random_weights:
        lead.insert(0, Text("Encoders of random weights: a trial, not a result.", "warn"))
    sections = "".join(_section(found, number, clip, folder) for number, clip in enumerate(found.clips, 1))
    script = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; media-src data: 'self' file:"
    )
    table = data_uri("text/csv", found.as_csv())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{_STYLE}</style></head>\n<body>"
        '<a class="skip" href="#content">Skip to the content</a>'
        f"<header><h1>{escape(title)}</h1>{''.join(block.html() for block in lead)}"
        '<p class="soft">A time in a table plays from there; with the focus in a clip, n and p go to its next and '
        "previous utterance. A click into a drawing goes to that time.</p></header>\n"
        f'<main id="content">{sections}</main>'
        f'<footer><p class="export"><a download="predictions.csv" href="{table}">'
        "All numbers as CSV</a></p></footer>"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _section(found: Prediction, number: int, clip: Clip, folder: Path) -> str:
    said = [(u, a, *_stretch(u, clip)) for u, a in found.of(clip)]
    seconds = clip.seconds or max((end for *_, end in said), default=1.0)
    notes = [*clip.notes]
    by = sorted({u.recognised.partition(" ")[0] for u in clip.utterances if u.recognised is not None})
    if by:
        notes.append(f"The text was recognised by {', '.join(by)}; the language was taken to be {clip.language!r}.")
    figures = "".join(_strip(figure) for figure in _figures(found, clip, said, seconds))
    return (
        f'<section aria-labelledby="clip-{number}" data-seconds="{seconds:g}"><h2 id="clip-{number}">'
        f"{escape(clip.name)}</h2>{''.join(Text(note).html() for note in notes)}{_player(clip, folder)}{figures}"
        f"{_table(found, said)}</section>"
    )


Said = Sequence[tuple[Utterance, Answer, float, float]]
"""Utterances, what is said about them, and from when to when in seconds."""


def _stretch(utterance: Utterance, clip: Clip) -> tuple[float, float]:
    start = utterance.start or 0.0
    return start, utterance.end or clip.seconds or start + 1.0


def _player(clip: Clip, folder: Path) -> str:
    kind = PLAYED.get(clip.path.suffix.lower())
    label = escape(f"Player of {clip.name}")
    here = quote(os.path.relpath(clip.path.absolute(), folder.absolute()).replace(os.sep, "/"))
    if kind is None:
        instead = " (<code>--video</code> makes one that they play)" if clip.pictures else ""
        return f'<p>Browsers do not play this kind of file: <a href="{here}">{escape(clip.name)}</a>{instead}.</p>'
    source = here
    if clip.path.stat().st_size <= EMBED_BYTES:
        source = data_uri(kind, clip.path.read_bytes())
    tag = "video" if clip.pictures else "audio"
    return f'<{tag} controls preload="metadata" aria-label="{label}" src="{source}"></{tag}>'


def _strip(figure: Figure) -> str:
    """A drawing over the clip's whole time, with a cursor where the player is."""
    left, right = LEFT / WIDTH, (WIDTH - RIGHT) / WIDTH
    place = f'data-left="{left:.5f}" data-right="{right:.5f}"'
    return f'<div class="strip" {place}>{figure.html()}<div class="cursor"></div></div>'


def _figures(found: Prediction, clip: Clip, said: Said, seconds: float) -> list[Figure]:
    """The answers over time: probabilities or the number, how unsure they are, and the modalities' weights."""
    target = found.trained.target
    figures = []
    if target.kind == "regression":
        series = {target.name: [a.prediction if isinstance(a.prediction, float) else None for _, a, *_ in said]}
        if len(found.trained.members) > 1:
            for sign, word in ((1, "plus"), (-1, "minus")):
                series[f"{word} one sd"] = [
                    None if not isinstance(a.prediction, float) else a.prediction + sign * (a.spread or {})[target.name]
                    for _, a, *_ in said
                ]
        values = [v for each in series.values() for v in each if v is not None]
        low = min([*values, *([target.low] if target.low is not None else [])], default=0.0)
        high = max([*values, *([target.high] if target.high is not None else [])], default=1.0)
        figures.append(_over_time(clip, target.name, series, said, seconds, spread([low, high]), target.name, 200))
    else:
        series = {c: [(a.probabilities or {}).get(c) for _, a, *_ in said] for c in target.classes}
        figures.append(_over_time(clip, "Probabilities", series, said, seconds, (0, 1), "probability", 230))
        names = list(dict.fromkeys(n for _, a, *_ in said for n in a.uncertainty or {}))
        series = {n: [(a.uncertainty or {}).get(n) for _, a, *_ in said] for n in names}
        figures.append(_over_time(clip, "Uncertainty", series, said, seconds, (0, 1), "0 to 1", 150))
    family = next((f for _, a, *_ in said for f in a.weights or {}), None)
    if family is not None:
        series = {m: [(a.weights or {}).get(family, {}).get(m) for _, a, *_ in said] for m in found.trained.features}
        top = max([1.0, *(v for each in series.values() for v in each if v is not None)])
        figures.append(_over_time(clip, f"Modality weights ({family})", series, said, seconds, (0, top), "weight", 150))
    return figures


def _over_time(
    clip: Clip,
    title: str,
    series: dict[str, list[float | None]],
    said: Said,
    seconds: float,
    y: tuple[float, float],
    y_label: str,
    height: float,
) -> Figure:
    """A step for each utterance, a line for each series, broken where nobody is heard."""
    means = {name: [v for v in values if v is not None] for name, values in series.items()}
    described = "; ".join(f"{name}: mean {sum(v) / len(v):.2f}" for name, v in means.items() if v)
    rows = 1 + int(sum(34 + 6.6 * len(name) for name in series) // (WIDTH - LEFT))
    plot = Plot(
        f"{title} over time, {clip.name}",
        f"{len(said)} utterances in {seconds:.1f} s. {described}. The table below holds every number.",
        (0, seconds),
        y,
        "seconds",
        y_label,
        width=WIDTH,
        height=height,
        left=LEFT,
        right=RIGHT,
        top=10 + 18 * rows,
    )
    drawn = []
    for place, (name, values) in enumerate(series.items()):
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]
        xs: list[float] = []
        ys: list[float] = []
        for (_, _, start, end), value in zip(said, values, strict=True):
            xs += [start, end, end]
            ys += [float("nan") if value is None else value] * 2 + [float("nan")]
        plot.line(xs, ys, colour, dash, 2.2)
        drawn.append((name, colour, dash))
    plot.legend(drawn)
    return Figure(plot.svg(), f"{title}: a step for each utterance.")


def _table(found: Prediction, said: Said) -> str:
    """A row per utterance, which plays it."""
    target = found.trained.target
    regression, several = target.kind == "regression", len(found.trained.members) > 1
    heads = ["from", "to", target.name]
    heads += ["sd"] if regression and several else [] if regression else ["probabilities", "entropy"]
    heads += ["disagreement"] if several and not regression else []
    own = any(a.own for _, a, *_ in said)
    heads += ["of its own"] if own else []
    heads += ["masked", "speaker", "text"]
    body = []
    for u, a, start, end in said:
        chances = sorted((a.probabilities or {}).items(), key=lambda pair: -pair[1])
        cells = [clock(end), in_words(a)]
        if regression:
            cells += [_number((a.spread or {}).get(target.name))] if several else []
        else:
            cells += [
                ", ".join(f"{name} {p:.2f}" for name, p in chances),
                _number((a.uncertainty or {}).get("entropy")),
            ]
            cells += [_number((a.uncertainty or {}).get("disagreement"))] if several else []
        cells += [own_uncertainty(a)] if own else []
        cells += ["; ".join(f"{m}: {why}" for m, why in a.missing.items()), u.speaker or "", u.text or ""]
        body.append(
            f'<tr data-start="{start:g}" data-end="{end:g}"><th scope="row"><button type="button" '
            f'aria-label="{escape(f"Play from {clock(start)}")}">{clock(start)}</button></th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    caption = "What is said about each utterance; entropy is 0 where the model is sure and 1 where all are as likely."
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    return (
        f'<div class="table"><div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr>"
        f"</thead><tbody>{''.join(body)}</tbody></table></div></div>"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
