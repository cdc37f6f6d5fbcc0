"""One utterance over time: pictures, landmarks, waveform, words and features on one clock."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import SettingsError, StoreError
from cache_schema.feature import Feature
from cache_schema.feature_spec import MASK
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore
from extract.view.colours import COLOURS, OTHERS
from extract.view.projection import FORMATS

SOUND_HZ = 16000
THUMBNAILS = 10
"""Pictures in a row."""
SIDE = 160
"""Of a picture that is read from the clip, in pixels."""


@dataclass(frozen=True)
class Panel:
    """A row of the figure.

    Attributes:
        height: relative to the others.
        draw: draws onto its axes.
        clock: whether its x axis is time in seconds.
    """

    height: float
    draw: Callable[[Any], None]
    clock: bool = True


def draw_utterance(store_path: str, dataset: str, feature: Feature, id_: str, root: Path | None, out: Path) -> None:
    """Draw everything that the store has of an utterance, and what its clip shows where a data root is given.

    Args:
        store_path: the feature store.
        dataset: the dataset's name in it.
        feature: the one whose values are drawn in full.
        id_: which utterance.
        root: the data root; None: the clip is not opened.
        out: the picture, its form by its suffix.

    Raises:
        SettingsError: an unknown suffix.
        MissingFeature: the utterance has no such feature, with the reason.
        StoreError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if out.suffix.lower() not in FORMATS:
        raise SettingsError(f"--out {out}: a picture's name ends in {', '.join(FORMATS)}.")
    asked = feature.read(id_)
    store = FeatureStore.open(store_path, mode="r")
    samples = store.samples(dataset)
    utterance = samples.utterances[samples.numbers[id_]]
    stored: dict[str, tuple[Feature, dict[str, NDArray[Any]]]] = {}
    for other in store.features(dataset):
        if id_ not in other.failures() and id_ not in other.absences() and other.lengths([id_], missing="mask")[0]:
            stored.setdefault(other.name, (other, other.read(id_)))
    seconds = _seconds(utterance, stored)
    panels = [*_clip_panels(utterance, root, stored, seconds), *_stored_panels(utterance, stored, seconds)]
    panels.append(Panel(2.2, lambda axes: _heatmap(axes, feature, asked), feature.spec.rate_hz is not None))
    figure = Figure(figsize=(11, 1.2 + 1.1 * sum(p.height for p in panels)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[p.height for p in panels])[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        panel.draw(axes)
        if panel.clock:
            axes.set_xlim(0, seconds)
    rows[-1].set_xlabel("seconds from the utterance's beginning" if panels[-1].clock else "frame")
    figure.suptitle(_title(dataset, utterance), fontsize=10)
    try:
        figure.savefig(out, dpi=130)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}.") from error


def _title(dataset: str, utterance: Utterance) -> str:
    facts = [f"{dataset} {utterance.id}", utterance.split, utterance.speaker]
    facts += [f"{name}: {label}" for name, label in utterance.labels.items()]
    facts += [f"{name}: {score:g}" for name, score in utterance.scores.items()]
    said = "\n".join(textwrap.wrap(utterance.text or "", 120, max_lines=2))
    return " · ".join(str(fact) for fact in facts if fact) + (f"\n{said}" if said else "")


def _seconds(utterance: Utterance, stored: dict[str, tuple[Feature, dict[str, NDArray[Any]]]]) -> float:
    """How long the utterance is, by its longest feature."""
    lengths = [len(a["values"]) / f.spec.rate_hz for f, a in stored.values() if f.spec.rate_hz is not None]
    ends = [float(a["values"][-1, 1]) for f, a in stored.values() if f.name == "words"]
    return max([*lengths, *ends, 0.0]) or utterance.duration or 1.0


def _clip_panels(
    utterance: Utterance,
    root: Path | None,
    stored: dict[str, tuple[Feature, dict[str, NDArray[Any]]]],
    seconds: float,
) -> list[Panel]:
    """Pictures and waveform: face crops of the store, else the clip's own pictures."""
    crops = stored.get("face-crops")
    found = []
    if crops is not None:
        feature, arrays = crops
        pictures, rate = arrays["values"], feature.spec.rate_hz or 1.0
        found.append(Panel(1.4, lambda axes: _pictures(axes, pictures, rate, seconds, "face crops")))
    if root is None:
        return found
    from extract.decoding.quarantine import decode
    from extract.encoder import FrameRequest, Needs

    request = FrameRequest(THUMBNAILS / seconds, "whole", SIDE)
    clip = decode(root, utterance, [Needs(audio_hz=SOUND_HZ), Needs(frames=request)])
    if request in clip.frames and crops is None:
        own = clip.frames[request]
        found.append(Panel(1.4, lambda axes: _pictures(axes, own, request.fps, seconds, "pictures")))
    if SOUND_HZ in clip.audio:
        found.append(Panel(1.0, lambda axes: _waveform(axes, clip.audio[SOUND_HZ])))
    for stream, why in clip.unreadable.items():
        found.append(Panel(0.4, partial(_note, text=f"{stream}: {why.reason}")))
    return found


def _stored_panels(
    utterance: Utterance, stored: dict[str, tuple[Feature, dict[str, NDArray[Any]]]], seconds: float
) -> list[Panel]:
    found = []
    if "landmarks" in stored:
        feature, arrays = stored["landmarks"]
        rate = feature.spec.rate_hz
        if rate is not None:
            found.append(Panel(1.4, lambda axes: _landmarks(axes, arrays, rate, seconds)))
    if "words" in stored:
        words = stored["words"][1]
        found.append(Panel(0.7, lambda axes: _words(axes, words, utterance.text or "")))
    on_clock = {
        name: (feature, arrays)
        for name, (feature, arrays) in stored.items()
        if feature.spec.rate_hz is not None and len(feature.spec.values.tail) == 1 and len(arrays["values"]) > 1
    }
    if on_clock:
        found.append(Panel(1.4, lambda axes: _norms(axes, on_clock)))
    return found


def _pictures(axes: Any, pictures: NDArray[np.uint8], rate: float, seconds: float, name: str) -> None:
    axes.set_ylabel(name, fontsize=8)
    axes.set_yticks([])
    axes.set_facecolor("black")
    axes.set_ylim(0, 1)
    width = seconds / THUMBNAILS
    for number in range(THUMBNAILS):
        middle = (number + 0.5) * width
        frame = min(len(pictures) - 1, int(middle * rate))
        inset = axes.inset_axes([middle - width / 2, 0.0, width, 1.0], transform=axes.transData)
        inset.imshow(pictures[frame])
        inset.axis("off")


def _landmarks(axes: Any, arrays: dict[str, NDArray[Any]], rate: float, seconds: float) -> None:
    axes.set_ylabel("landmarks", fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    width = seconds / THUMBNAILS
    for number in range(THUMBNAILS):
        middle = (number + 0.5) * width
        frame = min(len(arrays["values"]) - 1, int(middle * rate))
        inset = axes.inset_axes([middle - width / 2, 0.0, width, 1.0], transform=axes.transData)
        inset.axis("off")
        inset.set_aspect("equal")
        if arrays[MASK][frame]:
            x, y = arrays["values"][frame, :, 0], -arrays["values"][frame, :, 1]
            inset.scatter(x, y, s=0.6, color=COLOURS[0], linewidths=0)
        else:
            inset.text(0.5, 0.5, "no face", ha="center", va="center", fontsize=7, transform=inset.transAxes)


def _waveform(axes: Any, samples: NDArray[np.float32]) -> None:
    """The envelope: what a pixel column covers, from its least to its greatest sample."""
    columns = min(len(samples), 1400)
    pieces = np.array_split(samples, max(1, columns))
    low, high = ([float(pick(piece)) for piece in pieces if len(piece)] for pick in (np.min, np.max))
    axes.fill_between(np.linspace(0, len(samples) / SOUND_HZ, len(low)), low, high, color=COLOURS[0], linewidth=0)
    axes.set_ylabel("sound", fontsize=8)
    axes.set_ylim(-1, 1) if max(map(abs, [*low, *high]), default=0) > 0.3 else None


def _words(axes: Any, arrays: dict[str, NDArray[Any]], text: str) -> None:
    axes.set_ylabel("words", fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    for number, ((start, end), (first, last)) in enumerate(zip(arrays["values"], arrays["offsets"], strict=True)):
        axes.axvspan(start, end, color=OTHERS if number % 2 else "#DDDDDD", linewidth=0)
        axes.text(
            (start + end) / 2, 0.5, text[first:last], ha="center", va="center", fontsize=8, rotation=20, clip_on=True
        )


def _norms(axes: Any, features: dict[str, tuple[Feature, dict[str, NDArray[Any]]]]) -> None:
    """Length of each feature's vectors over its own mean: on one axis, whatever their units."""
    for number, (name, (feature, arrays)) in enumerate(features.items()):
        norms = np.linalg.norm(np.asarray(arrays["values"], np.float64), axis=1)
        there = arrays[MASK] if MASK in arrays else np.ones(len(norms), np.bool_)
        mean = norms[there].mean() if there.any() else 0.0
        shown = np.where(there, norms / mean if mean else norms, np.nan)
        times = (np.arange(len(norms)) + 0.5) / (feature.spec.rate_hz or 1.0)
        style = ("-", "--", ":", "-.")[number // len(COLOURS) % 4]
        axes.plot(times, shown, style, label=name, color=COLOURS[number % len(COLOURS)], linewidth=1)
    axes.set_ylabel("norm / its mean", fontsize=8)
    axes.legend(fontsize=7, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False)


def _heatmap(axes: Any, feature: Feature, arrays: dict[str, NDArray[Any]]) -> None:
    """The feature itself: time to the right, its numbers upwards, each freed of its mean and scale over the frames."""
    values = np.asarray(arrays["values"], np.float64)
    flat = values.reshape(len(values), -1)
    spread = flat.std(axis=0)
    shown = (flat - flat.mean(axis=0)) / np.where(spread > 0, spread, 1.0) if len(flat) > 1 else flat
    rate = feature.spec.rate_hz
    right = len(flat) / rate if rate is not None else len(flat)
    axes.imshow(
        shown.T,
        aspect="auto",
        origin="lower",
        extent=(0, right, 0, flat.shape[1]),
        cmap="coolwarm",
        vmin=-3,
        vmax=3,
        interpolation="nearest",
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(f"{feature.name} {tuple(values.shape)}", fontsize=8)


def _note(axes: Any, text: str) -> None:
    axes.axis("off")
    axes.text(0, 0.5, textwrap.shorten(text, 150), fontsize=8, va="center", transform=axes.transAxes)
