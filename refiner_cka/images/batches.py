"""Batches: each image decoded once, for all models, by processes that load ahead.

A batch comes from a loading process through a pipe, as bytes. torch would hand its tensors over in shared memory
(/dev/shm): where that is full, or small as in a container, the batch is lost after a traceback and waited for for
ever. The pipe costs 5 ms for 64 images of 224 x 224 pixels.

Loading processes that hang are another matter. They count as stalled when for `PATIENCE` seconds, while a batch is
waited for, none of them has come to the end of an image, readable or not. A slow source, such as a network's file
system, is not stalled as long as now and then an image arrives, however long a batch takes.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import DataError, one_line
from ..sums import fold_of
from .plan import Plan
from .preprocessing import Preprocessing
from .source import ImageSource, ReducibleSource, UnreadableImage

PATIENCE = 50.0
"""Seconds without any image after which loading processes count as stalled."""

AHEAD = 2
"""Batches that each loading process holds ready."""

_LOOKS = 10
"""How often they are looked at in that time."""


@dataclass(frozen=True)
class Batch:
    """One CKA batch without its unreadable images: it may have become small, or empty.

    Attributes:
        index: position in `Plan.batches`.
        places: int64 `(n,)`, the images' places in the planned run, counted over all batches.
        inputs: for each preprocessing uint8 `(n, C, H, W)`, to be normalised; floating inputs as
            they are. Preprocessings of equal geometry share one tensor.
        labels: int64 `(n,)`, if the source has labels.
        unreadable: of each missing image its id, and the reason in one line.
        digests: for each preprocessing the SHA-256 of its input and the labels; see `digests_of`.
        image_digests: uint64 `(n,)`, of each image's input for the first preprocessing; see `digests_of`.
    """

    index: int
    places: npt.NDArray[np.int64]
    inputs: Mapping[Preprocessing, torch.Tensor]
    labels: torch.Tensor | None
    unreadable: tuple[tuple[str, str], ...]
    digests: Mapping[Preprocessing, bytes]
    image_digests: npt.NDArray[np.uint64]

    @property
    def images(self) -> int:
        """How many images it has."""
        return len(self.places)

    @property
    def folds(self) -> torch.Tensor:
        """The fold of each image, int64 `(n,)`, on the CPU."""
        return torch.from_numpy(fold_of(self.places))

    def pin_memory(self) -> Batch:
        """Return this batch in page-locked memory; torch's `DataLoader` looks for this name."""
        pinned = {id(tensor): tensor.pin_memory() for tensor in self.inputs.values()}
        inputs = {key: pinned[id(tensor)] for key, tensor in self.inputs.items()}
        labels = None if self.labels is None else self.labels.pin_memory()
        return replace(self, inputs=inputs, labels=labels)


def digests_of(
    pixels: torch.Tensor, labels: torch.Tensor | None
) -> tuple[bytes, npt.NDArray[np.uint64]]:
    """Return the SHA-256 (32 bytes) of what a model is given of one batch, and 64 bits of that of each image.

    Each image's values are hashed once, in C order, little-endian. The digest of the batch is of a line
    with type and shape, such as `uint8 (64, 3, 224, 224)`, and the SHA-256 of each image; then of such a
    line of the labels and their values, if there are any. The number of an image, the first 8 bytes of
    its SHA-256, is never 0: equal images, equal numbers. Neither mean and standard deviation, which are
    applied later, nor workers, processes and device have a part in them.

    Args:
        pixels: on the CPU, as `Batch.inputs` holds them.
        labels: of the batch.
    """
    images = [hashlib.sha256(image).digest() for image in _bytes_of(pixels.flatten(1))]
    total = hashlib.sha256(_kind_of(pixels) + b"".join(images))
    if labels is not None:
        total.update(_kind_of(labels) + _bytes_of(labels).tobytes())
    numbers = [int.from_bytes(digest[:8], "little") or 1 for digest in images]
    return total.digest(), np.array(numbers, np.uint64)


def _kind_of(tensor: torch.Tensor) -> bytes:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}\n".encode()


def _bytes_of(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return a tensor's values in C order as bytes, the last axis so many times as long."""
    found: npt.NDArray[np.uint8] = tensor.contiguous().view(torch.uint8).numpy()
    return found


def check_channels(source: ImageSource, preprocessing: Preprocessing) -> None:
    """Refuse floating inputs whose last axis is what the model takes as its first, the channels.

    Raises:
        DataError: it says so.
    """
    shape, channels = source.input_shape, preprocessing.input_size[0]
    if shape is not None and len(shape) == 3 and shape[0] != channels == shape[2]:
        raise DataError(
            f"{source.description}: inputs of shape {shape} for a model of {channels} channels seem "
            "to have their channels last; floating inputs are fed as they are, so give (images, "
            "channels, height, width), or a subject whose preprocessing has this input_size"
        )


def load_batches(
    source: ImageSource,
    plan: Plan,
    wanted: Sequence[int],
    preprocessings: Sequence[Preprocessing],
    *,
    workers: int,
    pin_memory: bool = False,
    fast: bool = False,
) -> Iterator[Batch]:
    """Yield the wanted batches in the order asked for, each image decoded once.

    Args:
        source: the images.
        plan: their batches.
        wanted: positions in `plan.batches`.
        preprocessings: of all models.
        workers: processes that load ahead, `AHEAD` batches each; 0 loads in this process. The batches
            are the same whatever the number.
        pin_memory: put tensors into page-locked memory, for faster copies to a GPU.
        fast: decode large JPEG files at a reduced scale and resize by a faster way, which changes pixels.

    Raises:
        DataError: the images do not fit the models or one another, or the processes cannot be started,
            one of them died, or all stalled.
    """
    for preprocessing in preprocessings:
        check_channels(source, preprocessing)
    processes = max(0, min(workers, len(wanted)))
    batches = _Batches(source, plan, preprocessings, fast=fast)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=wanted,
        num_workers=processes,
        pin_memory=pin_memory,
        timeout=PATIENCE / _LOOKS if processes else 0,
        prefetch_factor=AHEAD if processes else None,
        worker_init_fn=_ignore_interrupt,
        generator=torch.Generator(),  # else it draws from the global one, and so changes it
    )
    try:
        others = multiprocessing.active_children()
        loaded = _started(loader)
        own = [child for child in multiprocessing.active_children() if child not in others]
        while (item := _next(loaded, batches, own)) is not None:
            if isinstance(item, DataError):
                raise item
            yield item
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(
            f"a loading process died ({one_line(error)}): memory may be too small; use fewer --workers (0: none) "
            "or a smaller --batch-size"
        ) from error


class _Sent:
    """A batch on its way from a loading process, or why there is none.

    Its tensors travel beside the rest, as bytes that are neither searched nor copied into it.
    """

    def __init__(self, item: Batch | DataError) -> None:
        beside: list[pickle.PickleBuffer] = []
        content = io.BytesIO()
        _Packing(content, protocol=5, buffer_callback=beside.append).dump(item)
        self._content = content.getvalue()
        self._beside = [bytes(each.raw()) for each in beside]

    def item(self) -> Batch | DataError:
        """Return what was sent; its tensors may be written to."""
        beside = [bytearray(each) for each in self._beside]
        found: Batch | DataError = pickle.loads(self._content, buffers=beside)
        return found

    def pin_memory(self) -> Batch | DataError:
        """Return what was sent, in page-locked memory; the `DataLoader` calls this beside the main thread."""
        found = self.item()
        return found.pin_memory() if isinstance(found, Batch) else found


class _Packing(pickle.Pickler):
    """Takes a tensor for the array of its bytes, which need not be copied; one that comes twice stays one."""

    def reducer_override(self, value: Any) -> Any:
        """Say how a tensor is made again; leave everything else as it is."""
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        return _tensor_of, (_bytes_of(value.flatten()), value.dtype, tuple(value.shape))


def _tensor_of(
    values: npt.NDArray[np.uint8], kind: torch.dtype, shape: tuple[int, ...]
) -> torch.Tensor:
    return torch.from_numpy(values).view(kind).view(shape)


class _Batches(Dataset["Batch | DataError | _Sent"]):
    """Loads whole batches: what a torch `DataLoader` calls an item is a batch here.

    Attributes:
        alive: when any process last came to the end of an image, as `time.monotonic` tells; shared by all.
    """

    def __init__(
        self,
        source: ImageSource,
        plan: Plan,
        preprocessings: Sequence[Preprocessing],
        *,
        fast: bool = False,
    ) -> None:
        self.source = source
        self.plan = plan
        self.labels = source.labels
        self.pictures = source.input_shape is None
        self.geometry = {wanted: wanted.geometry() for wanted in preprocessings}
        self.transforms: dict[Preprocessing, Callable[[Image.Image], torch.Tensor]] = {}
        self.fast = fast
        self.reducible = source if fast and isinstance(source, ReducibleSource) else None
        self.alive = multiprocessing.RawValue("d", time.monotonic())

    def __getitem__(self, position: int) -> Batch | DataError | _Sent:
        """Load a batch. Errors are returned: raised, they would gain the worker's traceback."""
        item: Batch | DataError
        try:
            item = self._load(position)
        except DataError as error:
            item = error
        return item if get_worker_info() is None else _Sent(item)

    def _load(self, position: int) -> Batch:
        rows: list[dict[Preprocessing, torch.Tensor]] = []
        labels: list[int] = []
        places: list[int] = []
        unreadable: list[tuple[str, str]] = []
        first = position * self.plan.batch_size
        for place, index in enumerate(self.plan.batches[position], first):
            try:
                rows.append(self._tensors(index))
            except UnreadableImage as error:
                unreadable.append((self.source.ids[index], str(error)))
                continue
            finally:
                self.alive.value = time.monotonic()
            places.append(place)
            if self.labels is not None:
                labels.append(self.labels[index])
        stacks = {key: _stack(rows, key) for key in self.geometry.values()}
        classes = None if self.labels is None else torch.tensor(labels, dtype=torch.int64)
        digests = {key: digests_of(pixels, classes) for key, pixels in stacks.items()}
        return Batch(
            index=position,
            places=np.array(places, np.int64),
            inputs={wanted: stacks[key] for wanted, key in self.geometry.items()},
            labels=classes,
            unreadable=tuple(unreadable),
            digests={wanted: digests[key][0] for wanted, key in self.geometry.items()},
            image_digests=next(iter(digests.values()))[1],
        )

    def _tensors(self, index: int) -> dict[Preprocessing, torch.Tensor]:
        """Return one image for each geometry."""
        if self.reducible is not None:
            sizes = {key.enough for key in self.geometry.values()}
            reduced = {size: self.reducible.read_reduced(index, size) for size in sizes}
            return self._resized({key: reduced[key.enough] for key in self.geometry.values()})
        image = self.source.read(index)
        if isinstance(image, torch.Tensor) == self.pictures:
            mixed = "floating input among pictures", "picture among floating inputs"
            raise DataError(
                f"image {self.source.ids[index]} of {self.source.description} is a "
                f"{mixed[not self.pictures]}: only pictures are resized and normalised, so give one kind"
            )
        if isinstance(image, torch.Tensor):
            return dict.fromkeys(self.geometry.values(), image)
        return self._resized(dict.fromkeys(self.geometry.values(), image))

    def _resized(
        self, images: Mapping[Preprocessing, Image.Image]
    ) -> dict[Preprocessing, torch.Tensor]:
        if not self.transforms:  # late: inputs that are no images may have any number of channels
            self.transforms = {key: key.transform(fast=self.fast) for key in images}
        return {key: transform(images[key]) for key, transform in self.transforms.items()}


def _stack(
    rows: Sequence[Mapping[Preprocessing, torch.Tensor]], key: Preprocessing
) -> torch.Tensor:
    if not rows:
        return torch.empty((0, *key.input_size), dtype=torch.uint8)
    shapes = sorted({tuple(row[key].shape) for row in rows})
    if len(shapes) > 1:
        raise DataError(f"inputs of shapes {shapes[0]} and {shapes[1]} cannot form a batch")
    return torch.stack([row[key] for row in rows])


def _next(
    loaded: Iterator[Batch | DataError | _Sent],
    batches: _Batches,
    processes: Sequence[BaseProcess],
) -> Batch | DataError | None:
    """Return the next batch, or why there is none; `None` after the last.

    Raises:
        DataError: the loading processes stalled.
    """
    waiting_since = time.monotonic()
    while True:
        try:
            item = next(loaded, None)
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
            if time.monotonic() - max(waiting_since, batches.alive.value) < PATIENCE:
                continue
            for process in processes:
                process.kill()  # else each is waited for again at the end
            raise DataError(
                f"no image came from any of {len(processes)} loading processes for {PATIENCE:.0f} s: the place of "
                "the images does not answer, or the processes hang; go on with --workers 0, which loads in this "
                "process, however long it takes"
            ) from None
        return item.item() if isinstance(item, _Sent) else item


def _started(
    loader: DataLoader[Batch | DataError | _Sent],
) -> Iterator[Batch | DataError | _Sent]:
    """Start the workers, and undo torch's signal handler: it raises their death wherever the main process is.

    Without it the death is found by whoever waits for that worker's item, and can be explained.
    """
    handled = sys.platform != "win32" and threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) if handled else None
    with warnings.catch_warnings():
        # More workers than cores, a fork in a process with threads: the user's choice.
        warnings.simplefilter("ignore")
        try:
            if loader.num_workers:
                multiprocessing.Lock()  # takes what a full /dev/shm lacks, where that can still be told in a line
            return iter(loader)
        except OSError as error:
            raise DataError(
                f"cannot start {loader.num_workers} loading processes: {one_line(error)}; use fewer --workers "
                "(0: none)"
            ) from error
        finally:
            if handled:
                signal.signal(signal.SIGCHLD, handler)


def _ignore_interrupt(_worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends its workers; else each prints a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
