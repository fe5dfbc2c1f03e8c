"""Token mixing and dense (patch) supervision."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Box(NamedTuple):
    """A rectangle of patches: rows top <= r < bottom, columns left <= c < right."""

    top: int
    left: int
    bottom: int
    right: int

    def area(self) -> int:
        """The number of patches in the box."""
        return (self.bottom - self.top) * (self.right - self.left)


class TrainingOutput(NamedTuple):
    """What a model returns in training when patches are supervised or mixed.

    Shapes: class_logits (batch, classes); patch_logits (batch, rows x columns, classes), each patch
    under the image it came from; box: the patches taken from image batch - 1 - i, empty if none.
    """

    class_logits: Tensor
    patch_logits: Tensor
    box: Box


def random_box(grid: tuple[int, int]) -> Box:
    """Draw the box of token mixing: area share 1 - lambda, lambda ~ Beta(1, 1), cut at the edges.

    Drawn from torch's CPU generator.

    Source: CutMix (arXiv 1905.04899) on patches, as in LV-ViT (arXiv 2104.10858).
    """
    share, row, column = torch.rand(3).tolist()
    side = share**0.5
    half_height, half_width = int(grid[0] * side) // 2, int(grid[1] * side) // 2
    center = int(row * grid[0]), int(column * grid[1])
    return Box(
        max(center[0] - half_height, 0),
        max(center[1] - half_width, 0),
        min(center[0] + half_height, grid[0]),
        min(center[1] + half_width, grid[1]),
    )


def mix_tokens(tokens: Tensor, grid: tuple[int, int], box: Box) -> Tensor:
    """Exchange the patches inside the box between image i and image batch - 1 - i.

    Doing it twice restores the tokens. Shapes: (batch, rows x columns, dim) -> the same.

    Source: token mixing of LV-ViT (arXiv 2104.10858), used by the Refiner reference model.
    """
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[box.top : box.bottom, box.left : box.right] = True
    return torch.where(inside.reshape(1, -1, 1).to(tokens.device), tokens.flip(0), tokens)


def dense_supervision_loss(
    output: TrainingOutput,
    target: Tensor,
    patch_target: Tensor | None = None,
    *,
    patch_weight: float = 0.5,
) -> Tensor:
    """The loss of a training output: class token and every patch are supervised.

        L = (1 - m) CE(class, y) + m CE(class, y_flipped) + w mean_patches CE(patch, y_patch)

    with m the share of patches in the box, y_flipped the targets of the images they came from, and
    w = `patch_weight`. Targets are classes (batch,) or probabilities (batch, classes). Patch
    targets are classes (batch, patches) or probabilities (batch, patches, classes); if not given,
    every patch has the target of its image.

    Source: token labelling, LV-ViT (arXiv 2104.10858), used to train the Refiner reference model.
    """
    patches = output.patch_logits.shape[1]
    mixed = output.box.area() / patches
    loss = (1 - mixed) * F.cross_entropy(output.class_logits, target)
    if mixed:
        loss = loss + mixed * F.cross_entropy(output.class_logits, target.flip(0))
    if patch_target is None:
        patch_target = target.unsqueeze(1).expand(target.shape[0], patches, *target.shape[1:])
    dense = F.cross_entropy(output.patch_logits.flatten(0, 1), patch_target.flatten(0, 1))
    return loss + patch_weight * dense
