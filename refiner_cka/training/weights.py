"""Writing weights: of a network, and of a training along the way."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from ..errors import ModelError, ResultFileError
from ..results.atomic import check_writable, write_whole
from ..subjects import Subject


def save_weights(model: Subject | nn.Module, path: str | Path) -> Path:
    """Write a network's weights as safetensors, whole or not at all, for `--model NAME=FILE`.

    Raises:
        ResultFileError: it cannot be written.
    """
    module = model.module if isinstance(model, Subject) else model
    # Safetensors refuses tensors that share their memory, and memory in another order.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    write_whole(path, save(state))
    return Path(path)


class Checkpoints:
    """The files of a training along the way: `epoch00.safetensors` (untrained), one every few epochs, the last.

    Without a folder none are written.

    Raises:
        ModelError: `every` is less than 1.
        ResultFileError: the folder takes no files, or holds the checkpoints of another training.
    """

    def __init__(self, folder: str | Path | None, every: int, last: int) -> None:
        if every < 1:
            raise ModelError(f"a checkpoint every {every} epochs: give 1 or more")
        self.written: list[Path] = []
        self._paths: dict[int, Path] = {}
        if folder is None:
            return
        digits = max(2, len(str(last)))
        for epoch in sorted({*range(0, last, every), last}):
            self._paths[epoch] = Path(folder) / f"epoch{epoch:0{digits}}.safetensors"
        check_writable(self._paths[0])
        if others := set(Path(folder).glob("epoch*.safetensors")) - set(self._paths.values()):
            raise ResultFileError(
                f"{folder} holds {min(others).name} of another training, which `epoch*` would mix with "
                "this one: choose another folder, or empty it"
            )

    def save(self, subject: Subject, epoch: int) -> None:
        """Write the weights after an epoch if it is one of those to write."""
        if epoch in self._paths:
            self.written.append(save_weights(subject, self._paths[epoch]))
