"""The modality embedding subnetworks of TFN, which LMF has taken over: one vector per utterance and modality.

Zadeh et al. 2017, section 4.1: the spoken words through an LSTM and a fully connected layer; of speech and vision the
mean over time through a deep network of ReLU units.

Axes: B utterances, T_m frames or tokens of modality m, d_m width of its embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fuse.arch import Batch
from fuse.nn.lengths import resample
from fuse.nn.recurrent import LSTM


class ModalityEmbeddings(nn.Module):
    """z_m = [h_m; 1] of every modality. An absent modality has h_m = 0: its 1 alone is left.

    Args:
        widths: width of each modality's frames.
        text_hidden: width of the LSTM that reads text.
        embeddings: modality -> d_m.
        dropout: modality -> of what its subnetwork reads (of text: of what the LSTM says).
    """

    def __init__(
        self, widths: Mapping[str, int], text_hidden: int, embeddings: Mapping[str, int], dropout: Mapping[str, float]
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.lstm = LSTM(widths["text"], text_hidden) if "text" in widths else None
        self.subnets = nn.ModuleDict()
        for modality, width in widths.items():
            d, drop = embeddings[modality], nn.Dropout(dropout[modality])
            self.subnets[modality] = (
                nn.Sequential(drop, nn.Linear(text_hidden, d))
                if modality == "text"
                else nn.Sequential(
                    drop, nn.Linear(width, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU()
                )
            )

    def forward(self, batch: Batch) -> list[Float[Tensor, "B _"]]:
        """z_m of each modality (B, d_m + 1), in order."""
        found = []
        for column, modality in enumerate(self.modalities):
            x, lengths = batch.sequences[modality], batch.lengths[modality]
            if modality == "text" and self.lstm is not None:
                _, read = self.lstm(x, lengths)
            else:
                read = resample(x, lengths, 1).squeeze(1)
            h = self.subnets[modality](read) * batch.available[:, column, None]
            found.append(F.pad(h, (0, 1), value=1.0))
        return found
