"""A model and a training loop of one's own, on stored features.

    python examples/own_training_loop.py features meld hubert

A missing feature is masked; the best epoch is chosen on validation, and test is measured once.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cache_schema import FeatureStore
from fuse import BucketSampler, FeatureDataset, pad


class MeanPooling(nn.Module):
    """The mean over an utterance's frames, then one linear layer.

    Args:
        width: of a frame.
        classes: how many.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, C) of frames (B, T, width), of which those count where the mask (B, T) is true."""
        frames = mask.sum(dim=1, keepdim=True).clamp(min=1)
        logits: Tensor = self.linear((values.float() * mask[..., None]).sum(dim=1) / frames)
        return logits


def main(path: str, dataset: str, feature: str, epochs: str = "5") -> None:
    """Train, and print the accuracy on validation and test."""
    torch.manual_seed(0)
    store = FeatureStore.open(path)
    samples = store.samples(dataset)
    target = samples.corpus.targets[0]
    label = {u.id: target.classes.index(u.labels[target.name]) for u in samples.utterances if target.name in u.labels}

    def loader(split: str, seed: int | None) -> DataLoader:  # type: ignore[type-arg]
        ids = [u.id for u in samples.utterances if u.split == split and u.id in label]
        data = FeatureDataset({"x": store[dataset][feature]}, ids=ids, missing="mask")
        batches = BucketSampler(data.total_lengths, batch_size=8, seed=seed)
        return DataLoader(data, batch_sampler=batches, collate_fn=pad)

    train, val, test = loader("train", 0), loader("val", None), loader("test", None)
    width = store[dataset][feature].spec.arrays[0].tail[0]
    model = MeanPooling(width, len(target.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def accuracy(batches: DataLoader) -> float:  # type: ignore[type-arg]
        model.eval()
        right = total = 0
        with torch.no_grad():
            for batch in batches:
                truth = torch.tensor([label[id_] for id_ in batch.ids])
                right += int((model(batch.values["x"], batch.mask["x"]).argmax(dim=1) == truth).sum())
                total += len(truth)
        return right / total

    best, kept = -1.0, {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(int(epochs)):
        model.train()
        for batch in train:
            truth = torch.tensor([label[id_] for id_ in batch.ids])
            loss = nn.functional.cross_entropy(model(batch.values["x"], batch.mask["x"]), truth)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if (now := accuracy(val)) > best:
            best, kept = now, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(kept)
    print(f"validation {best:.3f}, test {accuracy(test):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
