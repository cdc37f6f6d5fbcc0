"""CMU-MOSI: Multimodal Opinion-level Sentiment Intensity, 2,199 clips of 93 film reviews from YouTube.

Provenance: Zadeh, Zellers, Pincus, Morency: "Multimodal Sentiment Intensity Analysis in Videos: Facial Gestures and
Verbal Messages", IEEE Intelligent Systems 31(6), 2016, https://doi.org/10.1109/MIS.2016.94; raw data, labels and folds
of the CMU Multimodal SDK, https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK; label.csv and clips as MMSA gives
them, https://github.com/thuiar/MMSA.
Licence: the SDK's terms, for research; the videos belong to their makers.
Official counts: train 1284 clips of 52 videos, valid 229 of 10, test 686 of 31.

Target: the mean of five annotators' sentiment from -3 to 3. Folds come from the SDK's fold file or from label.csv;
where both are there, the fold file counts.

Clips are looked for in this order: cut videos, cut sound, whole videos, whole sound; to the whole ones the intervals of
the label sequence apply. Each place may lie in the root or up to two folders below it.

Known defects and oddities:
- the label sequence numbers segments by their order and clips count from 1: segment 0 is clip 1; where a video has
  fewer clips than labels, those without a clip are recorded as failures;
- transcripts are in capitals without punctuation, and some segments lack theirs;
- 89 people speak in the 93 videos, and nothing published says who: `speaker` is left out, folds are made of `dialogue`;
- ids may begin with - or _, which spreadsheets spoil in label.csv.
"""

from __future__ import annotations

from pathlib import Path

from cache_schema.errors import DataError
from cache_schema.samples import Corpus, Split, Target, Utterance
from extract.cmu_sdk import (
    HIGHEST,
    LOWEST,
    Clips,
    Place,
    ordered,
    read_folds,
    read_labels,
    read_sequence,
    require_sentiment,
    summed_up,
    with_word_times,
)
from extract.dataset import (
    COUNT,
    SEE_LAYOUT,
    Enumeration,
    Probe,
    entries,
    find_file,
    folders_below,
    read_text,
    require_root,
    require_text,
    sound_seconds,
)

SUMMARY = "CMU-MOSI: 2,199 clips of 93 film reviews, sentiment from -3 to 3 (video, sound, text)"
LAYOUT = """\
ROOT/Raw/Video/Segmented/VIDEO_CLIP.mp4                 or Raw/VIDEO/CLIP.mp4, as MMSA cuts them
ROOT/Raw/Transcript/Segmented/VIDEO.annotprocessed      lines CLIP_DELIM_TEXT
ROOT/CMU_MOSI_Opinion_Labels.csd                        labels of the SDK, or label.csv of MMSA
ROOT/CMU_MOSI_TimestampedWords.csd                      optional, of the SDK: when each word is spoken
ROOT/cmu_mosi_std_folds.py                              folds of the SDK, or cmu_standard_folds.json; label.csv has them
Raw/Audio/WAV_16000/Segmented, Raw/Video/Full and Raw/Audio/WAV_16000/Full are read where there are no cut videos.
https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK, https://github.com/thuiar/MMSA"""

CORPUS = Corpus(
    name="mosi",
    title="CMU-MOSI: Multimodal Sentiment Intensity Analysis in Videos (Zadeh et al., IEEE Intelligent Systems 2016)",
    licence="CMU Multimodal SDK terms, research only",
    targets=(Target(name="sentiment", kind="regression", low=LOWEST, high=HIGHEST),),
)

OFFICIAL_COUNTS = {"train": 1284, "val": 229, "test": 686}
LABEL_SEQUENCES = ("CMU_MOSI_Opinion_Labels.csd", "OpinionLevelSentiment.csd", "Opinion Segment Labels.csd")
WORD_SEQUENCES = ("CMU_MOSI_TimestampedWords.csd", "words.csd")
PLACES = (
    Place("Raw/Video/Segmented", "{video}_{clip}.mp4"),
    Place("Raw/{video}", "{clip}.mp4"),
    Place("Raw/Audio/WAV_16000/Segmented", "{video}_{clip}.wav"),
    Place("Raw/Video/Full", "{video}.mp4", whole=True),
    Place("Raw/Audio/WAV_16000/Full", "{video}.wav", whole=True),
)
TRANSCRIPTS = "Transcript/Segmented"
SUFFIX = ".annotprocessed"
DELIMITER = "_DELIM_"


def enumerate_corpus(root: Path, probe: Probe) -> Enumeration:
    """All clips by split, video and number; ids as `03bSnISJMiM_1`.

    Raises:
        DataError: the root is absent or lacks labels or folds, or one of the files is not what it must be.
    """
    require_root(root)
    sequence, table = find_file(root, LABEL_SEQUENCES), find_file(root, ["label.csv"])
    if sequence is None and table is None:
        raise DataError(f"{root} has neither {LABEL_SEQUENCES[0]} nor label.csv. {SEE_LAYOUT}")
    rows = list(read_labels(table)) if table else []
    folds = read_folds(root, "mosi") or {row.video: row.split for row in rows if row.split}
    if not folds:
        raise DataError(f"{root} has no file of folds, as cmu_mosi_std_folds.py. {SEE_LAYOUT}")
    spans: dict[tuple[str, int], tuple[float, float]] = {}
    sentiments = {(row.video, row.clip): row.sentiment for row in rows}
    if sequence:
        of_sequence: dict[tuple[str, int], float] = {}
        for video, (features, intervals) in read_sequence(sequence, width=1).items():
            for clip, (value, span) in enumerate(zip(features[:, 0].tolist(), intervals.tolist(), strict=True), 1):
                of_sequence[video, clip] = require_sentiment(f"{sequence.name}, {video}, segment {clip - 1}", value)
                spans[video, clip] = span[0], span[1]
        sentiments = sentiments or of_sequence
    texts = _transcripts(root)
    texts |= {(row.video, row.clip): row.text for row in rows if row.text}
    clips = Clips(root, PLACES)
    utterances = [
        _utterance(root, video, clip, value, folds.get(video), spans.get((video, clip)), texts, clips, probe)
        for (video, clip), value in ordered(sentiments, folds)
    ]
    of_id = {f"{video}_{clip}": span for (video, clip), span in spans.items()}
    utterances, notes = with_word_times(root, WORD_SEQUENCES, utterances, of_id)
    found = summed_up(CORPUS, utterances, folds, OFFICIAL_COUNTS, clips)
    found.notes.extend(notes)
    return found


def _transcripts(root: Path) -> dict[tuple[str, int], str | None]:
    """(video, clip) -> text, of the .annotprocessed files."""
    texts: dict[tuple[str, int], str | None] = {}
    folders = [f for base in folders_below(root, 2) if (f := base / TRANSCRIPTS).is_dir()]
    for file in (file for folder in folders for file in entries(folder)):
        if file.suffix != SUFFIX or file.name.startswith("._"):
            continue
        for number, line in enumerate(read_text(file, fallback_encoding="cp1252").split("\n"), 1):
            where = f"{file.name}, line {number}"
            clip, delimiter, text = line.partition(DELIMITER)
            if not line.strip():
                continue
            if not delimiter or not COUNT.fullmatch(clip.strip()):
                raise DataError(f"{where}: not of the form CLIP{DELIMITER}TEXT: {line[:80]!r}.")
            texts[file.name.removesuffix(SUFFIX), int(clip)] = require_text(where, "the text", text)
    return texts


def _utterance(
    root: Path,
    video: str,
    clip: int,
    sentiment: float,
    split: Split | None,
    span: tuple[float, float] | None,
    texts: dict[tuple[str, int], str | None],
    clips: Clips,
    probe: Probe,
) -> Utterance:
    path, whole, there = clips.find(video, clip, timed=span is not None)
    duration = span[1] - span[0] if span else sound_seconds(root / path, probe) if there else None
    return Utterance(
        id=f"{video}_{clip}",
        path=path,
        start=span[0] if whole and span else None,
        end=span[1] if whole and span else None,
        duration=duration if duration is None or duration > 0 else None,
        text=texts.get((video, clip)),
        dialogue=video,
        turn=clip,
        split=split,
        scores={"sentiment": sentiment},
    )
