"""The Refiner model (Zhou et al., arXiv 2106.03714). Importing this registers it with timm.

    import timm
    import refiner_cka.refiner

    model = timm.create_model("refiner_vit_s")      # also refiner_vit_m, refiner_vit_l

One file for each mechanism of the paper:

    convolutions    attention expansion, distributed local attention, attention reduction
    refinement      the three in a row, with BatchNorm, ReLU6 and the residual
    attention       refined self-attention
    sharing         attention with the map of the block before
    stem            convolutional stem
    heads           token mixing, dense supervision
    block           a block: attention and MLP beside the residual stream
    model           the whole model, with the interface of timm's vision transformer
    loading         checkpoint files; position embeddings for any grid
    checkpointing   gradient checkpointing that counts BatchNorm's batches once
    recording       reading the attention of every stage
    variants        S, M and L in timm's registry

Fast evaluation gives the same numbers with BatchNorms folded and the work done in small pieces: written out
module by module, refinement moves every expanded map through memory some twelve times, and the stem keeps every
image at half resolution. In `refinement`, `attention`, `sharing` and `stem` it stands beside the plain path that
it must equal; what they share is in

    conditions      when it may be taken
    folding         a convolution and its BatchNorm as one convolution
    pieces          a batch a few images at a time
"""

from .attention import AttentionConfig, RefinedSelfAttention
from .heads import Box, TrainingOutput, dense_supervision_loss
from .loading import checkpoint_filter_fn
from .model import Refiner
from .recording import AttentionMaps, record_attention
from .refinement import AttentionRefinement
from .sharing import SharedAttention
from .variants import refiner_vit_l, refiner_vit_m, refiner_vit_s

__all__ = [
    "AttentionConfig",
    "AttentionMaps",
    "AttentionRefinement",
    "Box",
    "RefinedSelfAttention",
    "Refiner",
    "SharedAttention",
    "TrainingOutput",
    "checkpoint_filter_fn",
    "dense_supervision_loss",
    "record_attention",
    "refiner_vit_l",
    "refiner_vit_m",
    "refiner_vit_s",
]
