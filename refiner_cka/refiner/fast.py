"""Fast evaluation: the same numbers with BatchNorms folded and the work done in small pieces.

Written out module by module, refinement moves every expanded map through memory some twelve times,
and the stem keeps every image at half resolution. Here

- each BatchNorm becomes part of the convolution or matrix product beside it;
- the work goes image by image (`_pieces`), so that what one step writes the next finds in cache;
- 1x1 convolutions are matrix products, and on a CPU expanded maps lie channels last, the layout in
  which its depthwise convolution is an order of magnitude faster.

It cannot go stale: nothing folded outlives the call. Weights are folded from the modules' present
tensors in every forward pass (some 10 microseconds for each BatchNorm), so optimiser steps, loading,
in-place edits and swapped averages need no invalidation.

It steps aside (returns None) wherever it could be told from the modules themselves: in training, when
gradients are needed, under tracing and compilation, when a part has a hook, was replaced, or had its
`forward` replaced. That is decided for each mechanism of each block on its own.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

from .dla import DenseMapConvolution, DistributedLocalAttention
from .expansion import AttentionExpansion
from .reduction import AttentionReduction
from .refinement import AttentionRefinement

if TYPE_CHECKING:
    from .attention import MapAttention, RefinedSelfAttention
    from .sharing import SharedAttention
    from .stem import ConvStem

_REFINING = (
    AttentionExpansion,
    DistributedLocalAttention,
    DenseMapConvolution,
    AttentionReduction,
    nn.BatchNorm2d,
)

# Bytes of the largest intermediate of one piece. On a CPU a share of the last-level cache: one
# image of a 224-pixel model. Other devices want large pieces: whole batches, few kernels.
CPU_PIECE = 16 * 2**20
DEVICE_PIECE = 512 * 2**20

# On a GPU, folding one refinement costs some 25 launches of tiny kernels, 0.1 ms in all; it saves 4
# of 11 launches over whole maps and 6 of 15 passes over the expanded ones, 0.1 ms at 1 TB/s for
# 16 MiB of them. The bar is at four times that, for devices with faster memory; below it the plain
# path is taken.
DEVICE_WORTHWHILE = 64 * 2**20

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


# When the fast path may be taken ------------------------------------------------------------------


def _hooked(module: nn.Module) -> bool:
    """Whether anything but its class's own code would run when a module is called."""
    return "forward" in vars(module) or any(getattr(module, name) for name in _HOOKS)


def _hooked_everywhere() -> bool:
    """Whether hooks are registered that fire for every module."""
    return any(getattr(torch_module, "_global" + name) for name in _HOOKS)


def _as_built(part: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a part still does what it was built to do; its weights may be any.

    Exact types: a subclass, a parametrised or a quantised module may compute something else.
    """
    if type(part) not in kinds or part.training or _hooked(part):
        return False
    if isinstance(part, nn.BatchNorm2d):
        tensors = (part.running_mean, part.weight, part.bias)
        return all(tensor is not None for tensor in tensors)
    return True


def _tracing() -> bool:
    """Whether `torch.jit.trace` is writing down what happens."""
    return torch._C._get_tracing_state() is not None


def _differentiating_forward() -> bool:
    """Whether `torch.func` or forward-mode differentiation is at work: not all kernels follow."""
    functional: bool = torch._C._are_functorch_transforms_active()
    return functional or forward_ad._current_level >= 0


def _ordinary(module: nn.Module, *tensors: Tensor | None) -> bool:
    """Whether this is plain evaluation: eager, without gradients, on ordinary tensors."""
    if module.training or torch.compiler.is_compiling() or _tracing():
        return False
    if _differentiating_forward() or _hooked_everywhere():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    if not all(isinstance(tensor, Tensor) for tensor in given):  # a symbolic trace
        return False
    if not torch.is_grad_enabled():
        return True
    return not any(tensor.requires_grad for tensor in (*given, *module.parameters()))


def _allows_attention(attn: "MapAttention", values: Tensor, before: Tensor | None) -> bool:
    """Whether the way from queries, keys and values to the heads' outputs may go in pieces.

    Not if somebody reads the maps: they are then made for the whole batch, and still refined fast.
    """
    if not attn.fast_evaluation or not _ordinary(attn, values, before):
        return False
    if attn.rewritten():
        return False
    readers = (attn.raw_map, attn.refined_map, attn.passed_map)
    if not all(_as_built(reader, nn.Identity) for reader in readers):
        return False
    if not _as_built(attn.attn_drop, nn.Dropout):
        return False
    batch, _, tokens, _ = values.shape
    return not attn.refines or _allows_folding(attn, batch, tokens, values)


def _allows_refinement(attn: "MapAttention", maps: Tensor) -> bool:
    """Whether `DLA` and `adapt_bn` may be folded for maps of the whole batch."""
    if not attn.fast_evaluation or not _ordinary(attn, maps):
        return False
    return _allows_folding(attn, maps.shape[0], maps.shape[-1], maps)


def _allows_stem(stem: "ConvStem", images: Tensor) -> bool:
    """Whether the stem may be folded for these images."""
    if not stem.fast_evaluation or not _ordinary(stem, images):
        return False
    if not all(_as_built(part, nn.Conv2d, nn.BatchNorm2d) for part in stem.children()):
        return False
    return _worthwhile(images, images.shape[0] * _stem_bytes(images))


def _allows_folding(attn: "MapAttention", batch: int, tokens: int, like: Tensor) -> bool:
    """Whether refinement is as built, with nobody looking inside, and worth folding."""
    dla = attn.DLA
    if type(dla) is not AttentionRefinement or dla.training or _hooked(dla):
        return False
    if not dla.refines:
        return _as_built(attn.adapt_bn, nn.Identity)
    parts = (*dla.children(), attn.adapt_bn)
    expanded = batch * _map_bytes(attn.heads * dla.ratio, tokens, like)
    return all(_as_built(part, *_REFINING) for part in parts) and _worthwhile(like, expanded)


def _worthwhile(like: Tensor, expanded: int) -> bool:
    """Whether folding saves more than it costs, for intermediates of so many bytes."""
    return like.device.type == "cpu" or expanded >= DEVICE_WORTHWHILE


# Pieces -------------------------------------------------------------------------------------------


def _map_bytes(maps: int, tokens: int, like: Tensor) -> int:
    """Bytes of so many maps of one image."""
    return maps * tokens * tokens * like.element_size()


def _stem_bytes(images: Tensor) -> int:
    """Bytes of the largest output in the stem for one image: 128 channels at half resolution."""
    return 128 * (images.shape[-2] // 2) * (images.shape[-1] // 2) * images.element_size()


def _pieces(batch: int, image_bytes: int, device: torch.device) -> list[slice]:
    """Cut a batch into runs of images that work on at most a cache full; at least one image."""
    budget = CPU_PIECE if device.type == "cpu" else DEVICE_PIECE
    size = max(1, budget // max(1, image_bytes))
    # An empty batch is one empty piece: its results still have a shape.
    return [slice(start, min(start + size, batch)) for start in range(0, max(1, batch), size)]


class _Joined:
    """The results of all pieces in one tensor, written as they come."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.whole: Tensor | None = None

    def put(self, piece: slice, results: Tensor) -> None:
        """Take the results of a piece; those of the only one are not copied."""
        if len(results) == self.batch:
            self.whole = results
        else:
            self.room(piece, results).copy_(results)

    def room(self, piece: slice, like: Tensor) -> Tensor:
        """Where the results of a piece belong, to be written without a copy."""
        if self.whole is None:
            self.whole = like.new_empty((self.batch, *like.shape[1:]))
        return self.whole[piece]

    def get(self) -> Tensor:
        """The results of the whole batch."""
        assert self.whole is not None
        return self.whole


# Folding ------------------------------------------------------------------------------------------


class Affine(NamedTuple):
    """A BatchNorm in evaluation: scale x + shift, one number each for a channel, at least fp32."""

    scale: Tensor
    shift: Tensor


def as_affine(norm: nn.Module, added: Tensor | None = None) -> Affine:
    """What a BatchNorm computes in evaluation of x + added, from its present tensors.

        scale = weight / sqrt(var + eps);    shift = bias - (mean - added) x scale

    Half precision tensors are folded in fp32: a variance below 6e-5 would lose its digits.
    """
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias, mean, var = (
        tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = weight * torch.rsqrt(var + norm.eps)
    if added is not None:
        mean = mean - added
    return Affine(scale, torch.addcmul(bias, mean, scale, value=-1))


def fold(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution that does a convolution and its BatchNorm."""
    scale, shift = as_affine(norm, conv.bias)
    dtype = conv.weight.dtype
    return (conv.weight * scale.view(-1, 1, 1, 1)).to(dtype), shift.to(dtype)


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve as `conv` does (stride, padding, dilation ...), with these weights."""
    convolved: Tensor = conv._conv_forward(x, weight, bias)
    return convolved


class FoldedRefinement:
    """`adapt_bn(DLA(A))` for one forward pass, from the weights as they are now.

    With s, b the scale and shift of `bn3` and s', b' those of `adapt_bn`, reduction, residual and
    both norms are one matrix product and one multiply-add:

        s' (s W_R A* + b + A) + b'  =  (s' s W_R) A* + s' A + (s' b + b')
    """

    def __init__(self, attn: "MapAttention") -> None:
        """Fold the BatchNorms of an attention module."""
        dla = attn.DLA
        self.maps = attn.heads * dla.ratio
        self.refines, self.dense = dla.refines, dla.dense
        if not self.refines:
            return
        if self.dense:
            self.convolution: nn.Conv2d = dla.conv
            self.weight, self.bias = fold(dla.conv, attn.adapt_bn)
            return
        self.expansion = fold(dla.conv_exp, dla.bn1) if dla.expands else None
        self.convolution = dla.depth_sep_conv
        self.weight, self.bias = fold(dla.depth_sep_conv, dla.bn2)
        inner, outer = as_affine(dla.bn3, dla.conv_pro.bias), as_affine(attn.adapt_bn)
        weight = dla.conv_pro.weight.flatten(1)
        self.reduction = (weight * (inner.scale * outer.scale).unsqueeze(1)).to(weight.dtype)
        self.gain = outer.scale.to(weight.dtype).unsqueeze(1)
        self.shift = torch.addcmul(outer.shift, outer.scale, inner.shift)
        self.shift = self.shift.to(weight.dtype).unsqueeze(1)

    def pieces(self, batch: int, tokens: int, like: Tensor) -> list[slice]:
        """Runs of images whose expanded maps fit the cache, before and after the convolution."""
        return _pieces(batch, _map_bytes(2 * self.maps, tokens, like), like.device)

    def __call__(self, maps: Tensor) -> Tensor:
        """Refine a piece of maps (images, H, N, N)."""
        if not self.refines:
            return maps
        if self.dense:
            return convolve(self.convolution, maps, self.weight, self.bias)
        flat = maps.flatten(2)
        expanded = self._expand(maps, flat)
        local = convolve(self.convolution, expanded, self.weight, self.bias).clamp_(0, 6)
        return self._reduce(local, flat).view_as(maps)

    def _expand(self, maps: Tensor, flat: Tensor) -> Tensor:
        """Expansion, BatchNorm, ReLU6: (images, H', N, N), channels last on a CPU."""
        if self.expansion is None:
            return maps
        weight, bias = self.expansion
        weight = weight.flatten(1)
        images = len(flat)
        rows, columns = maps.shape[-2:]
        if flat.device.type != "cpu":
            weight = weight.expand(images, -1, -1)
            expanded = torch.baddbmm(bias.unsqueeze(1), weight, flat).clamp_(0, 6)
            return expanded.view(images, self.maps, rows, columns)
        if images == 1:
            expanded = torch.addmm(bias, flat[0].t(), weight.t())
        else:
            expanded = torch.baddbmm(bias, flat.transpose(1, 2), weight.t().expand(images, -1, -1))
        expanded = expanded.clamp_(0, 6).view(images, rows, columns, self.maps)
        return expanded.permute(0, 3, 1, 2)

    def _reduce(self, local: Tensor, flat: Tensor) -> Tensor:
        """Reduction, both BatchNorms and the residual: (images, H, N N)."""
        if local.is_contiguous():
            local = local.flatten(2)
        else:
            local = local.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)
        # Under autocast maps, products and weights may differ in precision; the result is a map.
        shift, gain = self.shift.to(flat.dtype), self.gain.to(flat.dtype)
        refined = torch.addcmul(shift, flat, gain)
        if refined.dtype == local.dtype == self.reduction.dtype:
            return refined.baddbmm_(self.reduction.expand(len(local), -1, -1), local)
        return refined.add_(self.reduction @ local)


# The fast path itself -----------------------------------------------------------------------------


def refine(attn: "MapAttention", maps: Tensor) -> Tensor | None:
    """`adapt_bn(DLA(maps))` for maps of a whole batch."""
    if not _allows_refinement(attn, maps):
        return None
    folded = FoldedRefinement(attn)
    refined = _Joined(len(maps))
    for piece in folded.pieces(len(maps), maps.shape[-1], maps):
        refined.put(piece, folded(maps[piece]))
    return refined.get()


def own_attention(
    attn: "RefinedSelfAttention",
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    before: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    """Heads' outputs (batch, H, N, d) and the map that goes on; see `RefinedSelfAttention`."""
    if not _allows_attention(attn, values, before):
        return None
    if attn.refines:
        return _refined_attention(attn, queries, keys, values, before)
    batch, heads, tokens, _ = values.shape
    outputs, passed = _Joined(batch), _Joined(batch)
    # Scores, their softmax and the map before.
    for piece in _pieces(batch, _map_bytes(3 * heads, tokens, values), values.device):
        maps = (queries[piece] @ keys[piece].transpose(-2, -1)).softmax(dim=-1)
        if before is None:
            passed.put(piece, maps)
        else:
            room = passed.room(piece, maps)
            maps = torch.add(maps, before[piece], alpha=attn.map_scale, out=room)
        outputs.put(piece, maps @ values[piece])
    return outputs.get(), passed.get()


def _refined_attention(
    attn: "RefinedSelfAttention",
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    before: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The same for a block that refines its own map."""
    folded = FoldedRefinement(attn)
    batch, _, tokens, _ = values.shape
    outputs, passed = _Joined(batch), _Joined(batch)
    for piece in folded.pieces(batch, tokens, values):
        maps = (queries[piece] @ keys[piece].transpose(-2, -1)).softmax(dim=-1)
        if before is not None:
            maps.add_(before[piece], alpha=attn.map_scale)
        maps = folded(maps)
        outputs.put(piece, maps @ values[piece])
        passed.put(piece, maps)
    return outputs.get(), passed.get()


def shared_attention(attn: "SharedAttention", before: Tensor, values: Tensor) -> Tensor | None:
    """Heads' outputs (batch, H, N, d); see `SharedAttention`."""
    if not _allows_attention(attn, values, before):
        return None
    folded = FoldedRefinement(attn)
    batch, _, tokens, _ = values.shape
    outputs = _Joined(batch)
    for piece in folded.pieces(batch, tokens, values):
        # Scaling the outputs is scaling the maps, on fewer numbers.
        outputs.put(piece, (folded(before[piece]) @ values[piece]) * attn.refined_scale)
    return outputs.get()


def stem(stem: "ConvStem", images: Tensor) -> Tensor | None:
    """Patch tokens (batch, patches, dim); see `ConvStem`."""
    if not _allows_stem(stem, images):
        return None
    layout = torch.channels_last if images.device.type == "cpu" else torch.preserve_format
    layers = [
        (conv, *fold(conv, norm))
        for conv, norm in ((stem.conv1, stem.bn1), (stem.conv2, stem.bn2), (stem.conv3, stem.bn3))
    ]
    # Once here, or it is brought into this layout again for every piece.
    projection = stem.proj.weight.to(memory_format=layout)
    tokens = _Joined(len(images))
    for piece in _pieces(len(images), _stem_bytes(images), images.device):
        x = images[piece].to(memory_format=layout)
        for conv, weight, bias in layers:
            x = convolve(conv, x, weight, bias).relu_()
        x = convolve(stem.proj, x, projection, stem.proj.bias)
        tokens.put(piece, x.flatten(2).transpose(1, 2))
    return tokens.get()
