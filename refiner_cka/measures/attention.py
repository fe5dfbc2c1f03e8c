"""What attention maps say about over-smoothing, one function and one row of the table per measure.

Every measure is a function from a block's `Maps` of some images to one number per image.
"""

from __future__ import annotations

from functools import partial

import torch

from ..subjects.readout import exact_dtype
from .maps import AXIS, AttentionMeter, Maps, unit_columns
from .meter import Setting
from .scaling import ascending, median
from .tally import row, table


def entropy(maps: Maps) -> torch.Tensor:
    """Mean entropy of a row in nats, over heads and patches."""
    weights = maps.weights
    return weights.xlogy(weights).sum(-1).nanmean((1, 2)).neg()


def distance(maps: Maps) -> torch.Tensor:
    """Mean distance in pixels between a patch and those it attends to (itself too), by weight."""
    return (maps.weights * maps.distances).sum(-1).nanmean((1, 2))


def head_similarity(maps: Maps) -> torch.Tensor:
    """Mean cosine of the columns of the maps of two different heads."""
    units = unit_columns(maps.compared)
    heads = (units != 0).any(2).sum(1)  # (images, N): of how many heads the column is not all 0
    sums = units.sum(1).square().sum(1)
    cosine = (sums - heads) / (heads * (heads - 1))
    return cosine.where(heads > 1, float("nan")).nanmean(1)


def row_sum(maps: Maps) -> torch.Tensor:
    """Mean sum of a patch's row over all tokens: 1 for a softmax."""
    return maps.row_sums.mean((1, 2))


def negative(maps: Maps) -> torch.Tensor:
    """Share of the weight among patches, in absolute value, that is negative."""
    patches = maps.patches
    return patches.clamp_max(0.0).abs().sum((1, 2, 3)) / patches.abs().sum((1, 2, 3))


def sink(maps: Maps) -> torch.Tensor:
    """Largest over median sum of a column, mean over heads: how much of the attention one patch draws."""
    # A row without positive weight attends to nothing.
    columns = maps.weights.nan_to_num(0.0).sum(-2, dtype=exact_dtype(maps.weights.device))
    middle = median(ascending(columns))
    return (columns.amax(-1) / middle).where(middle > 0, float("nan")).nanmean(1)


_row = partial(row, AXIS, prefix="attention_")

MEASURES = table(
    _row(
        entropy,
        "Attention entropy (nats)",
        "mean entropy of a patch's attention over the patches; ln N if uniform",
        (0.0, None),
        "higher",
        "Zhai et al., arXiv 2303.06296",
    ),
    _row(
        distance,
        "Attention distance (pixels)",
        "mean distance to what a patch attends to; 116.5 px if uniform over 14x14 patches of 16 px",
        (0.0, None),
        "higher",
        "Dosovitskiy et al., arXiv 2010.11929",
    ),
    _row(
        head_similarity,
        "Similarity between heads",
        "mean cosine of the columns of two heads' maps",
        (-1.0, 1.0),
        "higher",
        "Zhou et al., arXiv 2103.11886, between heads",
    ),
    _row(
        row_sum,
        "Row sum of the map",
        "mean sum of a patch's row over all tokens; 1 for a softmax",
        (None, None),
        None,
        "Zhou et al., arXiv 2106.03714",
    ),
    _row(
        negative,
        "Negative share of the map",
        "share of the weight among patches that is negative; 0 for a softmax",
        (0.0, 1.0),
        None,
        "Zhou et al., arXiv 2106.03714",
    ),
    _row(
        sink,
        "Attention sink",
        "attention that the most attended patch draws over that of the median patch; 1 if uniform",
        (1.0, None),
        None,
        "Xiao et al., arXiv 2309.17453, of patches",
    ),
)
"""Name -> measure of a block's maps."""


def attention(setting: Setting) -> AttentionMeter | None:
    """Return the meter of attention maps, if the options ask for it."""
    return AttentionMeter(setting, tuple(MEASURES.values())) if setting.options.attention else None
