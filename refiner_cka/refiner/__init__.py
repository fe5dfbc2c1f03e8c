"""The Refiner model (Zhou et al., arXiv 2106.03714). Importing this registers it with timm.

    import timm
    import refiner_cka.refiner

    model = timm.create_model("refiner_vit_s")      # also refiner_vit_m, refiner_vit_l

One file for each mechanism of the paper:

    expansion       attention expansion: H maps to H' = ratio x H
    dla             distributed local attention: a convolution over every map
    reduction       attention reduction: H' maps back to H
    refinement      the three in a row, with BatchNorm, ReLU6 and the residual
    attention       refined self-attention
    sharing         attention with the map of the block before
    stem            convolutional stem
    heads           class and patch heads, token mixing, dense supervision
    block, model    a block; the whole model
    positions       position embeddings for any grid; reading checkpoints
    checkpointing   gradient checkpointing that counts BatchNorm's batches once
    fast            fast evaluation: the same numbers, folded and in pieces
    recording       reading the attention of every stage
    variants        S, M and L in timm's registry
"""

from .attention import RefinedSelfAttention
from .block import Block, ScaledMlp
from .dla import DenseMapConvolution, DistributedLocalAttention
from .expansion import AttentionExpansion
from .heads import Box, TrainingOutput, dense_supervision_loss
from .model import Refiner
from .positions import checkpoint_filter_fn
from .recording import AttentionMaps, record_attention
from .reduction import AttentionReduction
from .refinement import AttentionRefinement
from .sharing import SharedAttention
from .stem import ConvStem
from .variants import refiner_vit_l, refiner_vit_m, refiner_vit_s

__all__ = [
    "AttentionExpansion",
    "AttentionMaps",
    "AttentionReduction",
    "AttentionRefinement",
    "Block",
    "Box",
    "ConvStem",
    "DenseMapConvolution",
    "DistributedLocalAttention",
    "RefinedSelfAttention",
    "Refiner",
    "ScaledMlp",
    "SharedAttention",
    "TrainingOutput",
    "checkpoint_filter_fn",
    "dense_supervision_loss",
    "record_attention",
    "refiner_vit_l",
    "refiner_vit_m",
    "refiner_vit_s",
]
