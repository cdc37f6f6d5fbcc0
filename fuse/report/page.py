"""The report's document: sections with a contents list, one style for light and dark, nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fuse.report.embedded import data_uri
from fuse.report.tables import Table

CAVEAT = (
    "Emotion labels are judgements of what was expressed, or what actors were asked to play; nobody measured what "
    "anybody felt. The numbers below say how far a model agrees with such labels on the test utterances named under "
    "provenance, and nothing beyond them. They are no ground for a decision about a person."
)

STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1b1f24;--soft:#57606a;--line:#d5dae0;--fill:#f5f7f9;--link:#0a58ca;
--warn:#fff4d6;--warnline:#b98900;--s1:#1f6fb8;--s2:#c2510c;--s3:#2b8a4b;--s4:#8a4fbf;--s5:#a67a00;--s6:#c22f6d;--heat:#1f6fb8}
@media(prefers-color-scheme:dark){:root{--page:#14181d;--text:#e4e8ec;--soft:#a2acb6;--line:#38414a;--fill:#1d232a;
--link:#7db4ff;--warn:#3a2f10;--warnline:#d9ab2b;--s1:#6cb2f0;--s2:#f2935a;--s3:#69c98a;--s4:#c19af0;--s5:#dfb748;
--s6:#f285b0;--heat:#2f6ea8}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main,header,footer{max-width:68rem;margin:0 auto;padding:0 1.25rem}
h1{font-size:1.7rem;margin:1.5rem 0 .25rem}h2{font-size:1.3rem;margin:2.75rem 0 .5rem;padding-top:.5rem;
border-top:1px solid var(--line)}h3{font-size:1.05rem;margin:1.75rem 0 .4rem}h4{font-size:.95rem;margin:1.1rem 0 .3rem}
h1,h2,h3,h4,li,p,figcaption,summary,caption{overflow-wrap:anywhere}
p{margin:.4rem 0;max-width:50rem}a{color:var(--link)}.soft,figcaption{color:var(--soft);font-size:.9rem}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;background:var(--page);padding:.5rem;z-index:1}
nav ol{columns:16rem;padding-left:1.4rem;margin:.4rem 0}
.warn{background:var(--warn);border-left:5px solid var(--warnline);padding:.6rem .9rem;margin:.9rem 0}
.warn p{max-width:none}
.table{margin:.9rem 0 1.2rem}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem}caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
th,td{padding:.28rem .7rem .28rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{border-bottom:2px solid var(--line);vertical-align:bottom}tbody th{font-weight:500;min-width:7rem}
td,th{min-width:3.2rem}td.n{font-variant-numeric:tabular-nums}td.n span{white-space:nowrap}
.id{overflow-wrap:anywhere;min-width:11rem;font-family:monospace}
.export{margin:.25rem 0 0;font-size:.8rem}.export a{margin-right:.9rem}
.figures{display:flex;flex-wrap:wrap;gap:1rem 1.5rem;align-items:flex-start}
figure{margin:.7rem 0;max-width:100%}figcaption{max-width:38rem}.figures figcaption{max-width:20.5rem}
svg{display:block;max-width:100%;height:auto;color:var(--text);font:12px system-ui,sans-serif}
svg text{fill:currentColor}svg .axis{stroke:currentColor;stroke-opacity:.55}svg .grid{stroke:currentColor;
stroke-opacity:.13}svg .zero{stroke:currentColor;stroke-opacity:.6;stroke-dasharray:4 3}
svg .soft{fill:var(--soft);font-size:12px}svg .frame{fill:none;stroke:currentColor;stroke-opacity:.3}
.excerpt{margin:.5rem 0 .9rem}.excerpt img{height:6rem;max-width:100%;margin:0 .35rem .35rem 0;vertical-align:top}
.excerpt audio{display:block;width:22rem;max-width:100%;margin:.2rem 0}
blockquote{margin:.3rem 0;padding-left:.8rem;border-left:3px solid var(--line);overflow-wrap:anywhere}
details{margin:.6rem 0}summary{cursor:pointer;font-weight:500;padding:.15rem 0}
pre{background:var(--fill);border:1px solid var(--line);padding:.6rem .8rem;white-space:pre-wrap;overflow-wrap:anywhere;
font-size:.85rem}dl{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.15rem 1rem;margin:.5rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
footer{padding-top:2rem;padding-bottom:2rem}
@media(max-width:40rem){:not(.strip)>figure{overflow-x:auto}:not(.strip)>figure>svg{max-width:max(100%,calc(var(--w)*.78))}
:not(.strip)>figure>figcaption{position:sticky;left:0}}
@media print{.export,.skip,nav{display:none}body{font-size:10.5pt}.scroll{overflow:visible}figure,tr{break-inside:avoid}
h2,h3,h4{break-after:avoid}details::details-content{display:block;content-visibility:visible}}
"""


@dataclass(frozen=True)
class Figure:
    """A drawing: `svg` is markup, `caption` plain text."""

    svg: str
    caption: str

    def html(self) -> str:
        """With its caption."""
        return f"<figure>{self.svg}<figcaption>{escape(self.caption)}</figcaption></figure>"


@dataclass(frozen=True)
class Text:
    """A sentence or more of plain text; `kind` is p, h3, h4, pre or warn."""

    text: str
    kind: str = "p"

    def html(self) -> str:
        """Escaped."""
        if self.kind == "warn":
            return f'<div class="warn" role="note"><p>{escape(self.text)}</p></div>'
        return f"<{self.kind}>{escape(self.text)}</{self.kind}>"


@dataclass(frozen=True)
class Facts:
    """Names and what they are, as plain text."""

    facts: Sequence[tuple[str, str]]

    def html(self) -> str:
        """As a description list."""
        return f"<dl>{''.join(f'<dt>{escape(a)}</dt><dd>{escape(b)}</dd>' for a, b in self.facts)}</dl>"


@dataclass(frozen=True)
class Side:
    """Figures beside one another."""

    figures: Sequence[Figure]

    def html(self) -> str:
        """As far as there is room."""
        return f'<div class="figures">{"".join(f.html() for f in self.figures)}</div>'


@dataclass(frozen=True)
class Folded:
    """What is shown on request."""

    summary: str
    blocks: Sequence[Block]

    def html(self) -> str:
        """Closed at first."""
        return f"<details><summary>{escape(self.summary)}</summary>{''.join(b.html() for b in self.blocks)}</details>"


@dataclass(frozen=True)
class Excerpt:
    """What an utterance sounds and looks like, small enough to lie in the page.

    Attributes:
        id: which utterance.
        said: the transcript; None: there is none.
        pictures: seconds from the utterance's beginning, and a JPEG.
        sound: Opus in WebM; None: there is none.
        notes: what is not there, or was cut, and why.
    """

    id: str
    said: str | None
    pictures: Sequence[tuple[float, bytes]] = ()
    sound: bytes | None = None
    notes: Sequence[str] = ()

    def html(self) -> str:
        """Words, pictures with their times, a player."""
        said = "" if self.said is None else f"<blockquote>{escape(self.said)}</blockquote>"
        pictures = "".join(
            f'<img src="{data_uri("image/jpeg", picture)}" alt="{escape(f"{self.id} at {at:.1f} s")}">'
            for at, picture in self.pictures
        )
        sound = ""
        if self.sound is not None:
            label = escape(f"Sound of {self.id}")
            source = data_uri("audio/webm", self.sound)
            sound = f'<audio controls preload="none" aria-label="{label}" src="{source}"></audio>'
        notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in self.notes)
        return f'<div class="excerpt">{said}{pictures}{sound}{notes}</div>'


Block = Table | Figure | Text | Facts | Side | Folded | Excerpt


@dataclass(frozen=True)
class Section:
    """A part of the report: an anchor, a heading and what it holds."""

    anchor: str
    title: str
    blocks: Sequence[Block]

    def html(self) -> str:
        """With its heading."""
        return (
            f'<section aria-labelledby="{self.anchor}"><h2 id="{self.anchor}">{escape(self.title)}</h2>'
            f"{''.join(b.html() for b in self.blocks)}</section>"
        )


def tables_in(blocks: Sequence[Block]) -> list[Table]:
    """Every table, those that are folded too."""
    found: list[Table] = []
    for block in blocks:
        if isinstance(block, Table):
            found.append(block)
        elif isinstance(block, Folded):
            found += tables_in(block.blocks)
    return found


def document(title: str, lead: Sequence[Block], sections: Sequence[Section], footer: str) -> str:
    """The whole file."""
    contents = "".join(f'<li><a href="#{s.anchor}">{escape(s.title)}</a></li>' for s in sections)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        '<a class="skip" href="#content">Skip to the content</a>'
        f'<header><h1>{escape(title)}</h1><p class="soft">{escape(CAVEAT)}</p>{"".join(b.html() for b in lead)}'
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav></header>\n<main id="content">'
        + "\n".join(s.html() for s in sections)
        + f'</main>\n<footer><p class="soft">{escape(footer)}</p></footer></body></html>\n'
    )
