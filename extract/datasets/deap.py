"""DEAP: EEG and peripheral physiology of 32 people watching 40 music videos, 1,280 trials with ratings.

Provenance: Koelstra, Mühl, Soleymani, Lee, Yazdani, Ebrahimi, Pun, Nijholt, Patras: "DEAP: A Database for Emotion
Analysis using Physiological Signals", IEEE Transactions on Affective Computing 3(1), 2012,
https://doi.org/10.1109/T-AFFC.2011.15; https://www.eecs.qmul.ac.uk/mmv/datasets/deap/.
Licence: an end user licence agreement, signed; research only.
Official counts: subjects s01 to s32 with 40 videos each, 1280 trials. There are no official splits:
`--protocol loso:subject` leaves one subject out.

What is read: the preprocessed release, one file per subject, in Python's form (sXX.dat, a pickle of `data` and
`labels`, read as data and never run) or Matlab's (sXX.mat): data (40 videos, 40 channels, 8064 samples at 128 Hz), of
which the first 3 s of a trial are the baseline before the video and 60 s are the video; labels (40, 4): valence,
arousal, dominance and liking from 1 to 9. Channels: 32 of EEG, then hEOG, vEOG, zEMG, tEMG, GSR, respiration,
plethysmograph, temperature.

The trials of a file count as one recording of 40 x 63 s: `start` and `end` of an utterance are the 60 s of its video on
that clock, and its baseline is the 3 s before `start`.

Classes: a rating above 5, the middle of the scale, is high, and any other low, as in section 6 of the paper; the
quadrants are those of valence and arousal. The ratings themselves are targets too.

Known defects and oddities:
- trials are in the order of the videos' numbers (Experiment_id), not in the order in which they were watched;
- ratings lean to the high side: compare an accuracy with the share of the larger class, not with one half;
- face videos exist for s01 to s22 only, in the order of watching: they are not read.

A damaged file does not end the run: a subject has always 40 trials, so they are listed, without ratings where these
stand in the file and cannot be read, and each becomes a recorded failure where its signals cannot be read either.
"""

from __future__ import annotations

import re
from pathlib import Path

from cache_schema.errors import DataError, first_line
from cache_schema.samples import Corpus, Target, Utterance
from extract.dataset import (
    SEE_LAYOUT,
    Enumeration,
    Probe,
    entries,
    find_file,
    folders_below,
    read_csv,
    read_text,
    require_root,
    some,
)
from extract.decoding import quarantine
from extract.physiology.recordings.deap import BASELINE_SECONDS, CHANNELS, TRIAL_SECONDS, VIDEOS, read_ratings

SUMMARY = "DEAP: physiology of 32 people during 40 music videos, valence and arousal from 1 to 9 (40 channels)"
LAYOUT = """\
ROOT/data_preprocessed_python/s01.dat .. s32.dat     or ROOT/data_preprocessed_matlab/s01.mat .. s32.mat
ROOT/metadata_csv/participant_ratings.csv            optional: spares reading the ratings from the recordings
Files may also lie in ROOT. Request: https://www.eecs.qmul.ac.uk/mmv/datasets/deap/download.html"""

RATINGS = ("valence", "arousal", "dominance", "liking")
LEVELS = ("low", "high")
QUADRANTS = ("low valence, low arousal", "low valence, high arousal", "high valence, low arousal",
             "high valence, high arousal")  # fmt: skip
MIDDLE = 5.0
"""Of the scale from 1 to 9; ratings above it are high, as in section 6 of the paper."""
CORPUS = Corpus(
    name="deap",
    title="DEAP: A Database for Emotion Analysis using Physiological Signals (Koelstra et al., IEEE TAC 2012)",
    licence="DEAP end user licence agreement, research only",
    targets=(
        Target(name="valence", kind="classification", classes=LEVELS),
        Target(name="arousal", kind="classification", classes=LEVELS),
        Target(name="quadrant", kind="classification", classes=QUADRANTS),
        *(Target(name=f"{name}_rating", kind="regression", low=1, high=9) for name in RATINGS),
    ),
)

SUBJECTS = 32
RATINGS_FILE = "participant_ratings.csv"
_FILE = re.compile(r"(s(\d\d))\.(dat|mat)")
Ratings = dict[tuple[str, int], tuple[float, ...]]
"""(subject, video) -> valence, arousal, dominance and liking."""


def enumerate_corpus(root: Path, probe: Probe) -> Enumeration:
    """The trials by subject and video; ids as `s01/video01`. No header is asked: a trial lasts 60 s.

    Raises:
        DataError: the root is absent or holds no subject's file, one is there in two forms, the table of ratings is not
            what it must be, or no subject's own ratings can be read.
    """
    require_root(root)
    files = _files(root)
    table = find_file(root, [RATINGS_FILE], depth=1)
    by_trial = _ratings_table(table) if table else {}
    utterances = []
    unrated: dict[str, DataError] = {}
    for subject, file in files.items():
        ratings: Ratings = by_trial
        if table is None:
            try:
                ratings = _own_ratings(subject, file)
            except DataError as error:
                ratings, unrated[subject] = {}, error
        for video in range(1, VIDEOS + 1):
            if (subject, video) not in ratings and subject not in unrated:
                raise DataError(f"{RATINGS_FILE} has no line of participant {int(subject[1:])}, video {video}.")
            own = ratings.get((subject, video))
            utterances.append(_utterance(subject, video, file.relative_to(root).as_posix(), own))
    if len(unrated) == len(files):
        raise next(iter(unrated.values()))
    missing = [name for name in (f"s{number:02}" for number in range(1, SUBJECTS + 1)) if name not in files]
    notes = [f"not the whole release: {len(missing)} of 32 subjects are absent: {some(missing)}."] if missing else []
    notes += [f"the {VIDEOS} trials of {subject} have no ratings: {error}" for subject, error in unrated.items()]
    return Enumeration(CORPUS, utterances, notes, channels=CHANNELS)


def _files(root: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in folders_below(root, 1):
        for file in entries(folder):
            match = _FILE.fullmatch(file.name)
            if match is None or not 1 <= int(match[2]) <= SUBJECTS:
                continue
            if match[1] in files:
                raise DataError(f"{match[1]} is there twice: {files[match[1]]} and {file}. Keep one form.")
            files[match[1]] = file
    if not files:
        raise DataError(f"{root} has no file of a subject (s01.dat or s01.mat). {SEE_LAYOUT}")
    return dict(sorted(files.items()))


def _own_ratings(subject: str, file: Path) -> Ratings:
    """The ratings that stand in the subject's own file."""
    rows = quarantine.read_apart(read_ratings, file).tolist()
    ratings: Ratings = {(subject, video): tuple(row) for video, row in enumerate(rows, 1)}
    for trial, row in ratings.items():
        _require_scale(f"{file}, video {trial[1]}", row)
    return ratings


def _require_scale(where: str, ratings: tuple[float, ...]) -> None:
    for what, value in zip(RATINGS, ratings, strict=True):
        if not 1 <= value <= 9:
            raise DataError(f"{where}: {what} is {value:g}, and ratings are from 1 to 9.")


def _ratings_table(file: Path) -> Ratings:
    """The ratings of participant_ratings.csv."""
    ratings: Ratings = {}
    for record in read_csv(file.name, read_text(file)):
        try:
            numbers = [float(record.values[name]) for name in ("Participant_id", "Experiment_id")]
            trial = f"s{int(numbers[0]):02}", int(numbers[1])
            row = tuple(float(record.values[name.capitalize()]) for name in RATINGS)
        except KeyError as error:
            raise DataError(f"{file}: there is no column {error.args[0]!r}.") from error
        except (ValueError, OverflowError) as error:
            raise DataError(f"{record.where}: {first_line(error)}.") from error
        if trial in ratings:
            raise DataError(f"{record.where}: participant {trial[0]}, video {trial[1]} stands there twice.")
        _require_scale(record.where, row)
        ratings[trial] = row
    return ratings


def _utterance(subject: str, video: int, path: str, ratings: tuple[float, ...] | None) -> Utterance:
    trial = Utterance(
        id=f"{subject}/video{video:02}",
        signals=path,
        start=(video - 1) * TRIAL_SECONDS + BASELINE_SECONDS,
        end=video * TRIAL_SECONDS,
        duration=TRIAL_SECONDS - BASELINE_SECONDS,
        speaker=subject,
    )
    if ratings is None:
        return trial
    valence, arousal = (LEVELS[value > MIDDLE] for value in ratings[:2])
    labels = {"valence": valence, "arousal": arousal, "quadrant": f"{valence} valence, {arousal} arousal"}
    scores = {f"{what}_rating": value for what, value in zip(RATINGS, ratings, strict=True)}
    return trial.model_copy(update={"labels": labels, "scores": scores})
