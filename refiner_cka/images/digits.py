"""The embedded UCI handwritten digits."""

from __future__ import annotations

from importlib import resources

import numpy as np

from .arrays import ArrayImages

DIGITS = {
    "digits": slice(None),
    "digits-train": slice(1437),
    "digits-test": slice(1437, None),
}
"""Names of the embedded digits: all, and the fixed split into those to train on and those held out."""


def open_digits(name: str) -> ArrayImages:
    """Return handwritten digits, 8 x 8 pixels, labelled 0 to 9.

    Args:
        name: one of `DIGITS`: all 1,797, the first 1,437 for training or the last 360 for testing.
    """
    with resources.files("refiner_cka").joinpath("data/digits.npz").open("rb") as file:
        arrays = np.load(file)
        ink, labels = arrays["images"], arrays["labels"]
    pixels = np.rint(ink * (255 / 16)).astype(np.uint8)
    ids = [f"digits/{index:04}" for index in range(len(pixels))]
    part = DIGITS[name]
    return ArrayImages(name, ids[part], labels[part].tolist(), tuple("0123456789"), pixels[part])
