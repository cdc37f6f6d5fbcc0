"""`mer predict`: raw clips to emotions, by a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terminal import OUT, print_json, row_bar, say, table_of
from verbs.options import AsJson

if TYPE_CHECKING:
    from verbs.prediction import Prediction

MOST_PROBABILITIES = 3


def predict(
    clips: Annotated[list[Path], typer.Argument(help="Files of video or sound.")],
    model: Annotated[str, typer.Option(help="A run's folder, an exported model's, or hf:ORG/NAME[@REVISION].")],
    transcript: Annotated[
        list[Path] | None,
        typer.Option(help="What is said: .txt, .srt, .vtt or .csv with start,end,text; one per clip, in their order."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="One of the run's seeds; default all of them together.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Where the encoders' weights are, as for `mer extract`; default those of the training."),
    ] = None,
    recognition: Annotated[
        bool,
        typer.Option(help="Let Whisper write what has no transcript, where the model reads text; else it is masked."),
    ] = True,
    language: Annotated[str | None, typer.Option(help="Of the speech, as en or ko; default Whisper finds out.")] = None,
    longest: Annotated[float, typer.Option(min=1, help="Seconds; a longer clip is cut at pauses of speech.")] = 15.0,
    device: Annotated[str, typer.Option(help="torch device; auto takes a GPU where there is one.")] = "auto",
    html: Annotated[
        Path | None, typer.Option(help="Write a timeline with the players, one self-contained HTML file.")
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(help="Write the clip with its answers drawn into it; of several clips, a folder for them."),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table of comma-separated values.")] = False,
) -> None:
    """Say what is expressed in raw clips, by a trained model, and how sure it is.

    The encoders that the model was trained on run over the clips; they must be the same to the last weight. A modality
    that a clip lacks is masked, and said.

    Example: mer predict talk.mp4 --model runs/hff-meld-1 --transcript talk.srt
    """
    from extract.alignment import require_language
    from extract.clips.windows import Cutting
    from verbs.prediction import predict as run_predict

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv print the same: give one of them.", param_hint="--csv")
    cutting = Cutting.parse({"longest": longest, "shortest": min(1.0, longest / 2)}, "--longest")
    if language is not None:
        require_language(language)
    if video is not None:  # told now, and not when all is done
        from extract.clips import open_clips
        from verbs.annotated import video_paths

        video_paths(open_clips(clips)[1], video)
    with row_bar("predict") as progress:
        found = run_predict(
            clips,
            model,
            seed=seed,
            transcripts=transcript or (),
            weights=weights,
            cutting=cutting,
            recognise=recognition,
            language=language,
            device=device,
            progress=progress,
            say=say,
        )
    if html is not None:
        from verbs.timeline import write_timeline

        write_timeline(found, html)
        say(f"Timeline: {html}")
    if video is not None:
        from verbs.annotated import write_videos

        for path in write_videos(found, video):
            say(f"Video: {path}")
    if as_json:
        print_json(found.as_json())
    elif as_csv:
        print(found.as_csv(), end="")  # noqa: T201 - the result
    else:
        _show(found)


def _show(found: Prediction) -> None:
    from verbs.prediction import clock, in_words, own_uncertainty

    target = found.trained.target
    regression = target.kind == "regression"
    spread = "± sd" if len(found.trained.members) > 1 else ""
    for clip in found.clips:
        OUT.print(str(clip.path), style="bold")
        head = [
            "from",
            "to",
            target.name,
            spread if regression else "probabilities",
            *([] if regression else ["entropy"]),
        ]
        several = not regression and len(found.trained.members) > 1
        own = ["of its own"] if any(a.own for _, a in found.of(clip)) else []
        table = table_of(*head, *(["disagreement"] if several else []), *own, "weights", "masked", "text")
        for utterance, a in found.of(clip):
            sure = a.uncertainty or {}
            cells = [clock(utterance.start or 0.0), clock(utterance.end or clip.seconds), in_words(a)]
            cells.append(
                _number((a.spread or {}).get(target.name)) if regression else _likeliest(a.probabilities or {})
            )
            cells += [] if regression else [_number(sure.get("entropy"))]
            cells += [_number(sure.get("disagreement"))] if several else []
            cells += [own_uncertainty(a)] if own else []
            family = next(iter((a.weights or {}).values()), {})
            cells += [" ".join(f"{m} {w:.2f}" for m, w in family.items()), ", ".join(a.missing), utterance.text or ""]
            table.add_row(*cells)
        OUT.print(table)
        recognised = {u.recognised.partition(" ")[0] for u in clip.utterances if u.recognised is not None}
        for name in sorted(recognised):
            OUT.print(f"The text was recognised by {name}, which took the language to be {clip.language!r}.")
        masked: dict[tuple[str, str], list[str]] = {}
        for utterance, a in found.of(clip):
            for modality, why in a.missing.items():
                masked.setdefault((modality, why), []).append(utterance.id)
        for (modality, why), ids in masked.items():
            which = ids[0] if len(ids) == 1 else f"{len(ids)} utterances"
            OUT.print(f"{which}: {modality} is masked: {why}")
        OUT.print()
    members = found.trained.members
    OUT.print(
        f"{found.trained.arch} trained on {found.trained.dataset}, {len(members)} training{'s'[: len(members) > 1]} "
        f"({found.seconds:.1f} s). Entropy is 0 where it is sure, 1 where all are as likely."
    )
    if found.random_weights:
        OUT.print("Encoders of random weights: a trial, not a result.")


def _likeliest(probabilities: dict[str, float]) -> str:
    best = sorted(probabilities.items(), key=lambda pair: -pair[1])[:MOST_PROBABILITIES]
    return " ".join(f"{name} {p:.2f}" for name, p in best)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
