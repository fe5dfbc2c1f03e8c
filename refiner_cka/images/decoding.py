"""From the bytes of a file, or one row of an array, to an RGB image."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import one_line
from .source import UnreadableImage

MAX_PIXELS = 2**27
"""Images of more pixels (134 million: half a gigabyte, and as much again for a copy) are unreadable."""

MAX_ASPECT = 200
"""So are images this many times longer than wide: resized by the short side, they fill memory."""

_BAND_PIXELS = 2**20

CHANNELS = (1, 3, 4)
"""Grey, RGB and RGBA."""

# Else what Pillow logs of a damaged file is printed, where nobody has set up logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Only formats that are nothing but images: Pillow hands an .eps, whatever its name, to Ghostscript.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def decode(stream: BinaryIO, at_least: int | None = None) -> Image.Image:
    """Return the RGB image in a file, upright (EXIF) and opaque (laid over white).

    Of several frames or pages the first counts. 16 bits become 8 by their upper byte, as Pillow
    does for 16-bit colour. Floating pixels are taken as 0..1 if none is larger, else as 0..255.

    Args:
        stream: the file.
        at_least: decode a JPEG at a reduced scale, if there is one at which its short side has so many pixels.

    Raises:
        UnreadableImage: damaged, in no known format, too large (`MAX_PIXELS`, `MAX_ASPECT`), or
            with pixel values outside those ranges.
    """
    try:
        with _pillow_unlimited():
            image = Image.open(stream, formats=_FORMATS)
            check_size(*image.size)
            if at_least is not None:
                _reduce(image, at_least)
            image.load()
            with suppress(Exception):  # damaged EXIF says nothing about the pixels
                ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        empty = stream.seek(0, os.SEEK_END) == 0
        raise UnreadableImage("an empty file" if empty else "in no known image format") from error
    except Exception as error:  # Pillow's decoders raise anything: SyntaxError, struct.error, ...
        raise UnreadableImage(one_line(error)) from error


def _reduce(image: Image.Image, at_least: int) -> None:
    """Have a JPEG decoded at 1/8, 1/4 or 1/2, without its high frequencies, which are most of the work.

    Only at a scale that divides its sides: else a last row or column that stands for less would shift all others.
    """
    for scale in (8, 4, 2):
        size = image.width // scale, image.height // scale
        if min(size) >= at_least and image.size == (scale * size[0], scale * size[1]):
            image.draft(None, size)
            return


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any of Pillow's modes as RGB, by the rules of `decode`."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_bytes(image)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Return a transparent image over white, made in bands: as a whole it takes four copies."""
    flat = Image.new("RGB", image.size)
    for top, band in _bands(image):
        band = band.convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        flat.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return flat


def _to_bytes(image: Image.Image) -> Image.Image:
    """Return floating or 16-bit pixels as an image of 8 bits, made in bands: as a whole it takes four copies."""
    ends = [(band.min(), band.max()) for band in (np.asarray(band) for _, band in _bands(image))]
    low, high = np.min(ends), np.max(ends)  # NaN, where there is one
    to_byte = _unit_or_byte(low, high) if image.mode == "F" else _upper_byte(low, high)
    grey = Image.new("L", image.size)
    for top, band in _bands(image):
        grey.paste(Image.fromarray(to_byte(np.asarray(band)).astype(np.uint8)), (0, top))
    return grey


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield an image some rows at a time, each with the number of its first row."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def array_to_rgb(pixels: NDArray[Any]) -> Image.Image:
    """Return uint8 or uint16 `(H, W)`, `(H, W, C)` or `(C, H, W)` as RGB; C is one of `CHANNELS`.

    Where both could be channels, they are last.
    """
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] not in CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    check_size(pixels.shape[1], pixels.shape[0])
    return to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def check_size(width: int, height: int) -> None:
    """Refuse an image that would fill the memory, before it is decoded."""
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width} x {height} pixels: the limit is {MAX_PIXELS} in all")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImage(
            f"{width} x {height} pixels: longer than {MAX_ASPECT} times its width"
        )


@contextmanager
def _pillow_unlimited() -> Iterator[None]:
    """Lift Pillow's limit on size (there is `MAX_PIXELS`) and silence its warnings."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


_Convert = Callable[[NDArray[Any]], NDArray[Any]]


def _upper_byte(low: float, high: float) -> _Convert:
    """Return what makes bytes of whole numbers in a range; refuse more than 16 bits."""
    if low < 0 or high > 0xFFFF:
        raise UnreadableImage(f"pixel values from {low} to {high}: only 16 bits can be read")
    return lambda pixels: pixels >> 8


def _unit_or_byte(low: float, high: float) -> _Convert:
    """Return what makes bytes of floating numbers in a range; refuse others than 0..1 and 0..255."""
    if not (low >= 0 and high <= 255):  # put this way, it refuses NaN too
        raise UnreadableImage(f"pixel values from {low:g} to {high:g}: neither 0..1 nor 0..255")
    return lambda pixels: np.rint(pixels * (255 if high <= 1 else 1))
