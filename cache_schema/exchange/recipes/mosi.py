"""CMU-MOSI as utterance features of Poria et al.: 2199 utterances of 93 videos, one vector per utterance and modality.

Provenance: Zadeh, Zellers, Pincus, Morency: "MOSI: Multimodal Corpus of Sentiment Intensity and Subjectivity Analysis
in Online Opinion Videos", 2016, https://arxiv.org/abs/1606.06259; features and split (1447 train, 752 test
utterances, 62 and 31 videos, none in both) as in Poria, Cambria, Hazarika, Majumder, Zadeh, Morency:
"Context-Dependent Sentiment Analysis in User-Generated Videos", ACL 2017, https://aclanthology.org/P17-1081.

How the files join: line k of `text_S.csv` is line k of `text_S0.csv`, `audio_S0.csv` and `video_S0.csv`, and its first
column is the row of `transcripts.csv`, counted from 0. The other columns of `text_S.csv` are those of `text_S0.csv`.
The last column of the `0` files is the polarity, which stands in `transcripts.csv` too; all four are compared. The
lines of a split are not in the order of the transcripts. The third column of the transcripts is a number of the video.

There are no sentiment scores, only their sign, and no validation split: cut one from train by video (`dialogue`).
The text and vision features are of networks that were trained on the labels of these 1447 utterances. So the test
split is fair, a validation part cut from train looks better than it is, and other splits mean nothing: logistic
regression gets an accuracy of .753 on text, .551 on speech and .523 on vision under this split, and under the official
folds (`--folds cmu_standard_folds.json:mosi`), which test on some of the 1447, .926, .520 and .837.

Known defects of the release: bOL9jKpeJRs_24 and _25, and d6hH302o4v8_27 and _34, have the same words and the same
numbers in text and vision; 9qR7uwkblbs_33 and 8qrpnFRGt2A_13, of different videos and polarities, the same in vision.
32 of the vision columns are constant zero.
"""

from __future__ import annotations

from typing import Any


def _matrix(modality: str, prefix: str) -> dict[str, Any]:
    return {
        "modality": modality,
        "files": {"train": f"{prefix}_train0.csv", "test": f"{prefix}_test0.csv"},
        "labels": {"polarity": -1},
    }


FORMAT = "csv"
SETTINGS: dict[str, Any] = {
    "title": "CMU-MOSI: Multimodal Corpus of Sentiment Intensity (Zadeh et al., 2016), utterance features of "
    "Poria et al. (ACL 2017)",
    "licence": "CMU-MOSI is for research",
    "notes": (
        "The text and vision features were trained on the labels of these train utterances: keep this train and test "
        "split (under other folds test results are far too good), and take a validation part as no more than a guide.",
    ),
    "id_pattern": r"(?P<dialogue>.+)_(?P<turn>[0-9]+)",
    "targets": {"polarity": {"kind": "classification", "classes": ["negative", "positive"], "codes": ["0", "1"]}},
    "samples": {"file": "transcripts.csv", "id": 0, "text": 1, "labels": {"polarity": 3}},
    "order": {
        "train": {"file": "text_train.csv", "column": 0, "by": "row"},
        "test": {"file": "text_test.csv", "column": 0, "by": "row"},
    },
    "features": {
        "text-cnn": _matrix("text", "text"),
        "opensmile": _matrix("speech", "audio"),
        "cnn3d": _matrix("vision", "video"),
    },
}
