"""On what: sources of images, decoding, preprocessing, batches.

open_source(data)           a folder, an archive, arrays, a data set, the embedded digits
plan_batches(source)        which images form which CKA batch: a seeded permutation
load_batches(source, plan)  each image decoded once, for all models
"""

from .batches import Batch as Batch
from .batches import check_channels as check_channels
from .batches import load_batches as load_batches
from .opening import open_source as open_source
from .plan import Plan as Plan
from .plan import plan_batches as plan_batches
from .preprocessing import Preprocessing as Preprocessing
from .source import Digest as Digest
from .source import ImageSource as ImageSource
from .source import UnreadableImage as UnreadableImage
