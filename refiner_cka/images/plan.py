"""Which images form which CKA batch: a seeded permutation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import DataError, warn
from ..sums import MIN_BATCH
from .source import ImageSource


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
        warn(f"{source.description} holds {found} images, not {images}: all are taken")
    order = np.argsort(np.random.PCG64(seed).random_raw(found), kind="stable")[:images].tolist()
    batches = [
        tuple(order[first : first + batch_size]) for first in range(0, len(order), batch_size)
    ]
    left_out = batches.pop() if len(batches[-1]) < MIN_BATCH else ()
    return Plan(batch_size, seed, tuple(batches), left_out)
