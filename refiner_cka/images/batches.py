"""Which images are analysed, in which order, and how they become batches.

open_source(data)           a folder, an archive, arrays, a data set, the embedded digits
plan_batches(source)        which images form which CKA batch: a seeded permutation
load_batches(source, plan)  each image decoded once, for all models
"""

from __future__ import annotations

import difflib
import hashlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..errors import AnalysisWarning, DataError, one_line
from ..sums import MIN_BATCH
from . import sources
from .decoding import UnreadableImage
from .preprocessing import Preprocessing
from .sources import Digest

__all__ = [
    "Batch",
    "Digest",
    "ImageSource",
    "Plan",
    "Unreadable",
    "UnreadableImage",
    "check_channels",
    "digest_of",
    "load_batches",
    "open_source",
    "plan_batches",
]

_KINDS = f"a folder or a file ({' '.join(sources.TAR_SUFFIXES)} .npz .npy .h5 .hdf5)"


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order. Implement this to analyse images from anywhere else."""

    @property
    def description(self) -> str:
        """What the user named, for messages and provenance."""

    @property
    def ids(self) -> Sequence[str]:
        """A stable name for each image, in canonical order: its relative path, or its index."""

    @property
    def labels(self) -> Sequence[int] | None:
        """The class of each image, an index into `classes`."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names: folder names, or the label values as text."""

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of the floating inputs that `read` returns; `None` if it returns pictures."""

    def digest(self, indices: Iterable[int]) -> Digest:
        """Return what tells these images, in this order, from others, without decoding them."""

    def read(self, index: int) -> Image.Image | torch.Tensor:
        """Return an RGB image, or a floating tensor `(C, H, W)` that models are fed as it is.

        Raises:
            UnreadableImage: this image cannot be used; the message says why in one line.
        """


def open_source(data: object) -> ImageSource:
    """Return the images that `data` names.

    Args:
        data: the word `digits` (the embedded UCI digits; a folder of that name is `./digits`),
            `digits-train` or `digits-test` (the 1,437 to train on, the 360 held out); a folder,
            flat or with class folders; a tar file, also compressed; an `.npz`, `.npy`, `.h5` or
            `.hdf5` file that holds an array; a tensor or NumPy array; a map-style torch `Dataset`;
            or an `ImageSource`. Arrays are uint8 or uint16 images `(images, height, width[,
            channels])` or `(images, channels, height, width)` with 1, 3 or 4 channels (last,
            where both could be), or floating inputs, the images first, which are fed to the
            models as they are.

    Raises:
        DataError: there is nothing there, or nothing that can be read as images.
    """
    if isinstance(data, str | os.PathLike):
        is_word = isinstance(data, str) and data in sources.DIGITS
        return sources.digits(str(data)) if is_word else _open_path(str(os.fspath(data)))
    if isinstance(data, torch.Tensor):
        return sources.open_array(sources.tensor_to_numpy(data), f"a tensor {tuple(data.shape)}")
    if isinstance(data, np.ndarray):
        return sources.open_array(data, f"an array {data.shape}")
    if isinstance(data, ImageSource):
        return data
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        return sources.DatasetImages(data)
    raise DataError(
        f"images cannot be read from a {type(data).__name__}: give {_KINDS}, a tensor, an array or "
        "a map-style torch Dataset"
    )


def _open_path(name: str) -> ImageSource:
    try:
        path = Path(name).expanduser()
        exists = name != "" and path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of nobody
        raise DataError(f"cannot open {name!r}: {one_line(error)}") from error
    if not exists:
        raise DataError(f"no file or folder {name!r}: {_close_names(path) or f'give {_KINDS}'}")
    if path.is_dir():
        return sources.open_folder(path, name)
    if path.name.lower().endswith(sources.TAR_SUFFIXES):
        return sources.open_tar(path, name)
    match path.suffix.lower():
        case ".npz":
            return sources.open_npz(path, name)
        case ".npy":
            return sources.open_npy(path, name)
        case ".h5" | ".hdf5":
            return sources.open_hdf5(path, name)
    raise DataError(f"{name} is no known source of images: give {_KINDS}")


def _close_names(path: Path) -> str:
    """Return what is there instead of `path`, if something is called much like it."""
    candidates = list(sources.DIGITS)
    with suppress(OSError):
        candidates += [name for name in os.listdir(path.parent) if name[0] != "."]
    close = difflib.get_close_matches(path.name, candidates, n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


@dataclass(frozen=True)
class Plan:
    """Which images form which CKA batch.

    Attributes:
        batch_size: images per batch; part of the estimator.
        seed: of the permutation.
        batches: indices into the source, batch by batch; only the last batch may be smaller.
        left_out: the images of a last batch that was too small for the estimator.
    """

    batch_size: int
    seed: int
    batches: tuple[tuple[int, ...], ...]
    left_out: tuple[int, ...]


def plan_batches(source: ImageSource, *, batch_size: int, images: int | None, seed: int) -> Plan:
    """Permute all images, take the first `images` of them (all if `None`), cut them into batches.

    The images of a small run are thus the first of a larger one. The permutation sorts PCG64's raw
    output: that stream is fixed for all platforms and NumPy versions (NEP 19), as NumPy's own
    `permutation` is not.

    Raises:
        DataError: fewer than 4 images, or fewer than 4 to a batch; a negative seed.
    """
    found = len(source.ids)
    if found < MIN_BATCH:
        raise DataError(
            f"{source.description} holds {found} images: CKA needs at least {MIN_BATCH}"
        )
    for what, number in (("batch size", batch_size), ("number of images", images)):
        if number is not None and number < MIN_BATCH:
            raise DataError(f"a {what} of {number} is too small: CKA needs at least {MIN_BATCH}")
    if seed < 0:
        raise DataError(f"the seed is {seed}: give 0 or a positive number")
    if images is not None and images > found:
        message = f"{source.description} holds {found} images, not {images}: all are taken"
        warnings.warn(message, AnalysisWarning, stacklevel=2)
    order = np.argsort(np.random.PCG64(seed).random_raw(found), kind="stable")[:images].tolist()
    batches = [
        tuple(order[first : first + batch_size]) for first in range(0, len(order), batch_size)
    ]
    left_out = batches.pop() if len(batches[-1]) < MIN_BATCH else ()
    return Plan(batch_size, seed, tuple(batches), left_out)


@dataclass(frozen=True)
class Unreadable:
    """An image that was left out: its id, and the reason in one line."""

    id: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """One CKA batch without its unreadable images: it may have become small, or empty.

    Attributes:
        index: position in `Plan.batches`.
        inputs: for each preprocessing uint8 `(n, C, H, W)`, to be normalised; floating inputs as
            they are. Preprocessings of equal geometry share one tensor.
        labels: int64 `(n,)`, if the source has labels.
        unreadable: the missing images.
        digests: for each preprocessing the SHA-256 of its input and the labels; see `digest_of`.
    """

    index: int
    inputs: Mapping[Preprocessing, torch.Tensor]
    labels: torch.Tensor | None
    unreadable: tuple[Unreadable, ...]
    digests: Mapping[Preprocessing, bytes]

    @property
    def images(self) -> int:
        """How many images it has."""
        return len(next(iter(self.inputs.values())))

    def pin_memory(self) -> Batch:
        """Return this batch in page-locked memory; torch's `DataLoader` looks for this name."""
        pinned = {id(tensor): tensor.pin_memory() for tensor in self.inputs.values()}
        inputs = {key: pinned[id(tensor)] for key, tensor in self.inputs.items()}
        labels = None if self.labels is None else self.labels.pin_memory()
        return replace(self, inputs=inputs, labels=labels)


def digest_of(pixels: torch.Tensor, labels: torch.Tensor | None) -> bytes:
    """Return the SHA-256 (32 bytes) of what a model is given of one batch.

    Hashed are a line with type and shape, such as `uint8 (64, 3, 224, 224)`, and the values in C
    order, little-endian; then the same of the labels, if there are any. Neither mean and standard
    deviation, which are applied later, nor workers, processes and device have a part in it.

    Args:
        pixels: on the CPU, as `Batch.inputs` holds them.
        labels: of the batch.
    """
    total = hashlib.sha256()
    for tensor in (pixels, labels):
        if tensor is not None:
            kind = str(tensor.dtype).removeprefix("torch.")
            total.update(f"{kind} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.digest()


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
) -> Iterator[Batch]:
    """Yield the wanted batches in the order asked for, each image decoded once.

    Args:
        source: the images.
        plan: their batches.
        wanted: positions in `plan.batches`.
        preprocessings: of all models.
        workers: processes that load ahead, two batches each; 0 loads in this process. The batches
            are the same whatever the number.
        pin_memory: put tensors into page-locked memory, for faster copies to a GPU.

    Raises:
        DataError: the images do not fit the models or one another, or a worker died.
    """
    for preprocessing in preprocessings:
        check_channels(source, preprocessing)
    batches = _Batches(source, plan, preprocessings)
    if workers <= 0 or not wanted:
        for position in wanted:
            batch = batches.load(position)
            yield batch.pin_memory() if pin_memory else batch
        return
    loaded = _start_workers(batches, wanted, min(workers, len(wanted)), pin_memory)
    while (item := _next(loaded)) is not None:
        if isinstance(item, DataError):
            raise item
        yield item


class _Batches(Dataset["Batch | DataError"]):
    """Loads whole batches: what a torch `DataLoader` calls an item is a batch here."""

    def __init__(
        self, source: ImageSource, plan: Plan, preprocessings: Sequence[Preprocessing]
    ) -> None:
        self.source = source
        self.plan = plan
        self.labels = source.labels
        self.pictures = source.input_shape is None
        self.geometry = {wanted: wanted.geometry() for wanted in preprocessings}
        self.transforms: dict[Preprocessing, Callable[[Image.Image], torch.Tensor]] = {}

    def __getitem__(self, position: int) -> Batch | DataError:
        """Load a batch. Errors are returned: raised, they would gain the worker's traceback."""
        try:
            return self.load(position)
        except DataError as error:
            return error

    def load(self, position: int) -> Batch:
        """Load the batch at a position of the plan."""
        rows: list[dict[Preprocessing, torch.Tensor]] = []
        labels: list[int] = []
        unreadable: list[Unreadable] = []
        for index in self.plan.batches[position]:
            try:
                rows.append(self._tensors(index))
            except UnreadableImage as error:
                unreadable.append(Unreadable(self.source.ids[index], str(error)))
                continue
            if self.labels is not None:
                labels.append(self.labels[index])
        stacks = {key: _stack(rows, key) for key in self.geometry.values()}
        classes = None if self.labels is None else torch.tensor(labels, dtype=torch.int64)
        digests = {key: digest_of(pixels, classes) for key, pixels in stacks.items()}
        return Batch(
            index=position,
            inputs={wanted: stacks[key] for wanted, key in self.geometry.items()},
            labels=classes,
            unreadable=tuple(unreadable),
            digests={wanted: digests[key] for wanted, key in self.geometry.items()},
        )

    def _tensors(self, index: int) -> dict[Preprocessing, torch.Tensor]:
        """Return one image for each geometry."""
        image = self.source.read(index)
        if isinstance(image, torch.Tensor) == self.pictures:
            found, others = "a floating input", "pictures"
            if not self.pictures:
                found, others = "a picture", "floating inputs"
            raise DataError(
                f"image {self.source.ids[index]} of {self.source.description} is {found} among "
                f"{others}: only pictures are resized and normalised, so give one kind"
            )
        if isinstance(image, torch.Tensor):
            return dict.fromkeys(self.geometry.values(), image)
        if not self.transforms:  # late: inputs that are no images may have any number of channels
            self.transforms = {key: key.transform() for key in self.geometry.values()}
        return {key: transform(image) for key, transform in self.transforms.items()}


def _stack(
    rows: Sequence[Mapping[Preprocessing, torch.Tensor]], key: Preprocessing
) -> torch.Tensor:
    if not rows:
        return torch.empty((0, *key.input_size), dtype=torch.uint8)
    shapes = sorted({tuple(row[key].shape) for row in rows})
    if len(shapes) > 1:
        raise DataError(f"inputs of shapes {shapes[0]} and {shapes[1]} cannot form a batch")
    return torch.stack([row[key] for row in rows])


def _start_workers(
    batches: _Batches, wanted: Sequence[int], workers: int, pin_memory: bool
) -> Iterator[Batch | DataError]:
    with warnings.catch_warnings(), _sigchld_kept():
        # More workers than cores, a fork in a process with threads: the user's choice.
        warnings.simplefilter("ignore")
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=wanted,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_interrupt,
            generator=torch.Generator(),  # else it draws from the global one, and so changes it
        )
        try:
            return iter(loader)
        except OSError as error:
            raise DataError(
                f"cannot start {workers} loading processes: {one_line(error)}"
            ) from error


def _next(loaded: Iterator[Batch | DataError]) -> Batch | DataError | None:
    try:
        return next(loaded, None)
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(
            f"a loading process died ({one_line(error)}): memory, or shared memory (/dev/shm), may "
            "be too small; use fewer --workers (0: none) or a smaller --batch-size"
        ) from error


def _unchanged(item: Any) -> Any:
    return item


def _ignore_interrupt(_worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends its workers; else each prints a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _sigchld_kept() -> Iterator[None]:
    """Undo torch's signal handler: it raises a worker's death wherever the main process is.

    Without it the death is found by whoever waits for that worker's batch, and can be explained.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
