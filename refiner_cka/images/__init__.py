"""On what: sources of images, decoding, preprocessing, batches.

open_source(data)           a folder, an archive, arrays, a data set, the embedded digits
plan_batches(source)        which images form which CKA batch: a seeded permutation
load_batches(source, plan)  each image decoded once, for all models
"""

from .batches import Batch, check_channels, load_batches
from .opening import open_source
from .plan import Plan, plan_batches
from .preprocessing import Preprocessing
from .source import Digest, ImageSource, UnreadableImage

__all__ = [
    "Batch",
    "Digest",
    "ImageSource",
    "Plan",
    "Preprocessing",
    "UnreadableImage",
    "check_channels",
    "load_batches",
    "open_source",
    "plan_batches",
]
