"""What TensorBoard shows of a training."""

from __future__ import annotations

import shutil
from pathlib import Path

from cache_schema.errors import SettingsError
from fuse.training.loop import Epoch


class Board:
    """Writes a training's curves as it goes; those of an interrupted one are written anew.

    Args:
        folder: where the event files go.

    Raises:
        SettingsError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        self._count = 0

    def write(self, epoch: Epoch) -> None:
        """The losses, the metrics on validation and the learning rate of an epoch."""
        self._count += 1
        scalars = {"loss/train": epoch.train_loss, "loss/val": epoch.val_loss, "lr": epoch.lr}
        for name, value in (scalars | {f"val/{m}": v for m, v in epoch.val.items()}).items():
            self._writer.add_scalar(name, value, self._count)

    def close(self) -> None:
        """Flush what was written."""
        self._writer.close()


def require_tensorboard() -> None:
    """Check that TensorBoard can be written for.

    Raises:
        SettingsError: it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("tensorboard") is None:
        raise SettingsError("--tensorboard needs the package tensorboard: pip install 'mer[tensorboard]'.")
