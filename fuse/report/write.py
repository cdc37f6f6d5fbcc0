"""`mer report`: the whole file."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache_schema.errors import MerError, SettingsError
from fuse.report import behaviour, classes, examples, headline, provenance, studies
from fuse.report.evidence import gather
from fuse.report.page import Block, Facts, Section, document, tables_in
from fuse.statistics import DRAWS


def write(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    tables: str | Path | None = None,
    study_files: Sequence[str | Path] = (),
    hardest: int = 20,
    most_examples: int = 4,
    utterances: Sequence[str] = (),
    store: str | Path | None = None,
    excerpts: examples.Excerpts | None = None,
    draws: int = DRAWS,
    title: str | None = None,
) -> dict[str, Any]:
    """Write one self-contained HTML file about finished runs; the first is what the others are compared with.

    Args:
        runs: their folders.
        out: the file; one that is there is replaced.
        tables: a folder for each table as CSV and LaTeX; None: they are in the file alone.
        study_files: what `mer fuse robustness --json` and `mer fuse ablate --json` printed, or an ablation's folder.
        hardest: how many utterances with the highest loss.
        most_examples: utterances of each run that the figures of its architecture are drawn of; 0: no such figures.
        utterances: ids of these instead.
        store: where the runs' store is now; None: where it was. Without it the figures of the architecture are not
            drawn, and the report says so.
        excerpts: gives the media of an utterance, for the hardest ones and the examples; None: none are shown.
        draws: bootstrap draws of the utterances per comparison.
        title: of the report.

    Returns:
        report: the file; bytes: its size; runs: name, folder and test metrics of each; comparisons: as
        `compare.compare_runs`, or with `refused`, why a pair cannot be compared; tables: the files.

    Raises:
        SettingsError: no run, or one twice; an utterance that no run tested.
        MerError: a run or a study cannot be read, or the file not be written.
    """
    if hardest < 1:
        raise SettingsError("How many of the hardest utterances: 1 or more.")
    if most_examples < 0:
        raise SettingsError("How many utterances to draw figures of: 0 or more.")
    extra = studies.read(study_files)
    found = gather(runs)
    sections: list[Section | None] = [headline.headline(found)]
    comparisons: list[dict[str, Any]] = []
    if len(found) > 1:
        compared, comparisons = headline.compared(found, draws)
        sections.append(compared)
    sections += [
        classes.per_class(found),
        behaviour.regression(found),
        classes.calibration(found),
        behaviour.curves(found),
        behaviour.weights(found),
        examples.figures(found, most_examples, utterances, store, excerpts) if most_examples or utterances else None,
        studies.parts(found),
        studies.section(extra),
        behaviour.hardest(
            found, hardest, [] if excerpts is None else examples.hardest_excerpts(found, hardest, excerpts)
        ),
        provenance.provenance(found),
    ]
    shown = [section for section in sections if section is not None]
    words = title or "Report on " + ", ".join(e.name for e in found)
    summary = [(e.name, f"{e.run.record.arch} on {e.run.record.dataset}, {e.target.name}") for e in found]
    lead: list[Block] = [*headline.warnings(found), Facts(summary)]
    mer = found[0].run.record.versions.get("mer", "")
    page = document(
        words, lead, shown, f"Written by mer report from the runs' own files. First run made with mer {mer}."
    )
    files = _save(Path(out), page, None if tables is None else Path(tables), shown)
    return {
        "report": str(out),
        "bytes": Path(out).stat().st_size,
        "runs": [{"name": e.name, "folder": str(e.run.folder), "test": e.run.metrics["test"]} for e in found],
        "comparisons": comparisons,
        "tables": files,
    }


def _save(out: Path, page: str, folder: Path | None, sections: Sequence[Section]) -> list[str]:
    files: list[str] = []
    temporary = out.with_name(f".{out.name}.new")
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(out))
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, "utf-8")
        temporary.replace(out)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for table in tables_in([block for section in sections for block in section.blocks]):
                for ending, text in (("csv", table.csv()), ("tex", table.latex())):
                    path = folder / f"{table.key}.{ending}"
                    path.write_text(text, "utf-8")
                    files.append(str(path))
    except OSError as error:
        raise MerError(f"{error.filename or out}: the report cannot be written there ({error.strerror}).") from error
    return files
