"""A table of the report, as HTML, as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fuse.report.embedded import data_uri

LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "{}$&#%_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "→": r"$\to$",
    "≡": r"$\equiv$",
}


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        key: its name as a file, unique in a report.
        caption: what it says, in plain text; so are all cells.
        columns: one heading each.
        rows: as many cells each as there are columns.
    """

    key: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        """With its exports beside it; everything escaped."""
        head = "".join(f'<th scope="col">{escape(c)}</th>' for c in self.columns)
        body = "".join(
            f'<tr><th scope="row">{escape(first)}</th>' + "".join(_cell(c) for c in rest) + "</tr>"
            for first, *rest in self.rows
        )
        links = "".join(
            f'<a download="{escape(self.key)}.{kind}" href="{data_uri(mime, text)}" '
            f'aria-label="{escape(f"{self.caption}: as {name}")}">{name}</a>'
            for kind, name, mime, text in (
                ("csv", "CSV", "text/csv", self.csv()),
                ("tex", "LaTeX", "application/x-tex", self.latex()),
            )
        )
        return (
            f'<div class="table"><div class="scroll" role="region" tabindex="0" aria-label="{escape(self.caption)}">'
            f"<table><caption>{escape(self.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f'</div><p class="export">{links}</p></div>'
        )

    def csv(self) -> str:
        """Comma-separated; a text that a spreadsheet would take for a formula has an apostrophe before it."""
        file = io.StringIO()
        out = csv.writer(file, lineterminator="\n")
        out.writerow(harmless(c) for c in self.columns)
        out.writerows([harmless(c) for c in row] for row in self.rows)
        return file.getvalue()

    def latex(self) -> str:
        """A table environment with the rules of booktabs."""
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            r"\toprule",
            " & ".join(map(_latex, self.columns)) + r" \\",
            r"\midrule",
            *(" & ".join(map(_latex, row)) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Numbers break before their interval alone, digests anywhere."""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return f'<td class="id">{text}</td>'
    if re.match(r"[-+−–]?\d|–$|\[", text):
        pieces = [f"<span>{escape(piece)}</span>" for piece in re.split(r" (?=\[)", text)]
        return f'<td class="n">{" ".join(pieces)}</td>'
    return f"<td>{escape(text)}</td>"


def harmless(text: str) -> str:
    """The text of a CSV's cell, with an apostrophe before what a spreadsheet would take for a formula."""
    number = re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not number else text


def _latex(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in " ".join(text.split()))
