"""Ask a trained model about raw clips: what `mer predict` does.

python examples/predict_clips.py runs/hff-meld-1 talk.mp4
"""

from __future__ import annotations

import sys

from verbs.prediction import predict


def main(run: str, *clips: str) -> None:
    """Print a line per utterance. Without a transcript the text is masked here; leave out `recognise` for Whisper."""
    found = predict(clips, run, recognise=False, say=print)
    for clip in found.clips:
        for utterance, said in found.of(clip):
            masked = f", without {', '.join(said.missing)}" if said.missing else ""
            print(f"{clip.path} {utterance.start or 0.0:.1f} s: {said.prediction}{masked}")


if __name__ == "__main__":
    main(*sys.argv[1:])
