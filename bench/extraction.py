"""What the benchmarks of extraction share: made corpora, `mer extract` in this process, plain models, a stopwatch."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import psutil  # type: ignore[import-untyped]
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from cache_schema.samples import Utterance
from extract import pipeline
from extract.datasets import DATASETS
from extract.decoding.media import decode, probe
from extract.encoders import ENCODERS
from extract.run import Report, extract
from extract.synthetic import SyntheticSpec, make_corpus
from extract.vision import Pixels
from extract.weights.checkpoints import Checkpoint, resolve
from extract.weights.random_weights import SENTENCES

MODELS: Mapping[str, str] = {
    "roberta": "RobertaModel",
    "bert": "BertModel",
    "koelectra": "ElectraModel",
    "hubert": "HubertModel",
    "vit": "ViTModel",
    "resnet": "ResNetModel",
}
"""The class in transformers of the encoders that run one."""
WITHOUT_POOLER = ("roberta", "bert", "vit")
FPS = 25
"""Pictures per second of the made clips."""


class Stopwatch:
    """Wall clock and processors' time of what is done within `with`, children included, in seconds."""

    wall = cpu = 0.0

    def __enter__(self) -> Stopwatch:
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, _cpu_seconds() - self._cpu


def _cpu_seconds() -> float:
    """Of this process, of its children that live, and of those that have ended."""
    own = psutil.Process()
    total = sum(own.cpu_times()[:4])
    for child in own.children(recursive=True):
        try:
            total += sum(child.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return float(total)


@contextmanager
def kept_encoders() -> Iterator[dict[tuple[str, str, str], Any]]:
    """Within this, an encoder that was loaded once is used by every run of the process that has its settings.

    Yields:
        The encoders that were loaded so far, by name, fingerprint and device.
    """
    load = pipeline.Job.encoder
    kept: dict[tuple[str, str, str], Any] = {}

    def encoder(job: pipeline.Job, device: str) -> Any:
        key = (job.name, job.spec.fingerprint(), device)
        if key not in kept:
            kept[key] = load(job, device)
        return kept[key]

    with mock.patch.object(pipeline.Job, "encoder", encoder):
        yield kept


def make_clips(root: Path, count: int, width: int, height: int) -> None:
    """Talking faces of about two seconds in MELD's layout, as H.264 of this size with the sound that they had."""
    make_corpus(root, SyntheticSpec(train=max(1, count - 2), dev=1, test=1))
    for clip in sorted(root.rglob("*.mp4")):
        larger = clip.with_suffix(".larger.mp4")
        with av.open(str(clip)) as source, av.open(str(larger), "w") as target:
            spoken, video = source.streams.audio[0], target.add_stream("libx264", rate=FPS)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            sound = target.add_stream_from_template(spoken)
            shown = list(source.decode(video=0))
            every = FPS * float(shown[1].time - shown[0].time)
            for number in range(round(len(shown) * every)):
                frame = shown[int(number / every)].reformat(width, height, "yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                target.mux(video.encode(frame))
            target.mux(video.encode())
            source.seek(0)
            for packet in source.demux(spoken):
                if packet.dts is not None:
                    packet.stream = sound
                    target.mux(packet)
        larger.replace(clip)


def make_texts(root: Path, count: int) -> None:
    """A manifest of transcripts as long as those of conversation, eight words in the mean, without clips."""
    root.mkdir(parents=True)
    words = " ".join(SENTENCES).split()
    with (root / "manifest.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "text", "label", "dialogue", "split"])
        for i in range(count):
            spoken = (words[(i * k) % len(words)] for k in range(1, 2 + i * 7 % 15))
            lines.writerow([f"u{i}", " ".join(spoken), "joy" if i % 2 else "anger", f"d{i // 8}", "train"])


def utterances_of(folder: Path, corpus: str) -> list[Utterance]:
    """The utterances of `clips` (MELD's layout) or `texts` (a manifest) in `folder`."""
    module = DATASETS.load("meld" if corpus == "clips" else "folder")
    found: list[Utterance] = module.enumerate_corpus(folder / corpus, probe).utterances
    return found


class Extraction:
    """`mer extract` of some encoders, into a new store each time it is called.

    Args:
        folder: where corpora, weights and stores lie.
        encoders: which.
        corpus: clips or texts.
        limit: only so many utterances.
        settings: as `--set`.
        device: torch device.
        workers: processes.
    """

    def __init__(
        self,
        folder: Path,
        encoders: Sequence[str],
        corpus: str = "clips",
        limit: int | None = None,
        settings: Sequence[str] = (),
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        self.folder, self.encoders, self.corpus, self.limit = folder, encoders, corpus, limit
        self.settings, self.device, self.workers = settings, device, workers
        self.runs = 0
        self.timing = pipeline.Timing()

    def __call__(self) -> Report:
        """Run once.

        Raises:
            SystemExit: something was not extracted.
        """
        self.runs += 1
        report = extract(
            "meld" if self.corpus == "clips" else "folder",
            self.folder / self.corpus,
            str(self.folder / f"store-{'-'.join(self.encoders)}-{id(self)}-{self.runs}"),
            encoders=self.encoders,
            weights=str(self.folder / "weights"),
            device=self.device,
            limit=self.limit,
            settings=self.settings,
            workers=self.workers,
        )
        lost = [f"{feature.name}: {feature.reasons}" for feature in report.features if feature.failed]
        if lost:
            raise SystemExit(f"not everything could be extracted: {lost}")
        self.timing = report.timing
        return report


def checkpoint_of(name: str, folder: Path) -> Checkpoint | None:
    """An encoder's checkpoint in `folder`; None for one without weights."""
    module = ENCODERS.load(name)
    return resolve(name, module.HUB, str(folder / "weights")) if module.HUB is not None else None


def config_of(name: str) -> Any:
    """An encoder's settings as `mer extract` has them on an English corpus."""
    config = ENCODERS.load(name).Config
    given, fields = {"crop": "whole", "language": "en"}, config.model_fields
    return config(**{name: value for name, value in given.items() if name in fields and fields[name].is_required()})


def plain_model(name: str, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The transformers model of an encoder, as anybody loads it."""
    options = {"add_pooling_layer": False} if name in WITHOUT_POOLER else {}
    model = getattr(transformers, MODELS[name]).from_pretrained(folder / "weights" / name, dtype=dtype, **options)
    return model.eval().to(device)


def pieces_of(name: str, folder: Path) -> list[torch.Tensor]:
    """What goes into a model for each clip, or for each picture of each clip; the longest first."""
    if ENCODERS.load(name).MODALITY == "text":
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "weights" / name)
        tokens = (tokenizer(u.text)["input_ids"] for u in utterances_of(folder, "clips"))
        return sorted(map(torch.tensor, tokens), key=len, reverse=True)
    checkpoint, config = checkpoint_of(name, folder), config_of(name)
    needs = ENCODERS.load(name).needs(config, checkpoint)
    clips = [decode(folder / "clips", u, [needs]) for u in utterances_of(folder, "clips")]
    if needs.frames is None:
        return sorted((torch.from_numpy(c.audio[needs.audio_hz]) for c in clips), key=len, reverse=True)
    assert checkpoint is not None
    pixels = Pixels.of(checkpoint)
    return [picture for c in clips for picture in pixels.tensor(c.frames[needs.frames], "cpu", torch.float32)]


def batches_of(name: str, pieces: Sequence[torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    """Padded batches of `size` pieces as a model's arguments, with masks where there is padding."""
    groups = [pieces[at : at + size] for at in range(0, len(pieces), size)]
    if pieces[0].ndim == 3:
        return [{"pixel_values": torch.stack(list(group))} for group in groups]
    key = "input_values" if pieces[0].is_floating_point() else "input_ids"
    batches = []
    for group in groups:
        padded = pad_sequence(list(group), batch_first=True)
        mask = torch.arange(padded.shape[1]) < torch.tensor([len(piece) for piece in group])[:, None]
        batches.append({key: padded} | ({} if mask.all() else {"attention_mask": mask.long()}))
    return batches
