"""On what: sources of images, decoding, preprocessing, batches."""

from .batches import ImageSource as ImageSource
from .batches import open_source as open_source

__all__ = ["ImageSource", "open_source"]
