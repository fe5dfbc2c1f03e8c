"""How to train: the numbers of a training, and the random changes of its images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torchvision.transforms import v2

from ..errors import ModelError


@dataclass(frozen=True)
class Augmentation:
    """Random affine maps of the images, drawn anew for each image and epoch, uniform within these limits.

    Attributes:
        rotation: degrees to either side.
        scale: largest relative change of size.
        shear: largest shear, as a share of the height.
        shift: largest shift, as a share of the side.
        flip: mirror each image, left to right, with probability 1/2: not for digits or letters.
    """

    rotation: float = 10.0
    scale: float = 0.1
    shear: float = 0.1
    shift: float = 0.1
    flip: bool = False

    def transform(self) -> v2.Transform:
        """Return what maps one image `(channels, height, width)` at random.

        It draws as often for an image of any size. Shifts are whole pixels; what was outside is black.
        """
        affine = v2.RandomAffine(
            degrees=self.rotation,
            translate=(self.shift, self.shift),
            scale=(1 - self.scale, 1 + self.scale),
            shear=math.degrees(math.atan(self.shear)),
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        return v2.Compose([v2.RandomHorizontalFlip(0.5 * self.flip), affine])


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: at the end of the warm-up; it then falls to 0 along a cosine.
        weight_decay: of matrices and convolutions; biases, norms and embeddings have none.
        warmup: share of all steps; at least two.
        label_smoothing: probability spread over all classes.
        augmentation: of the images; `None` for none.

    Raises:
        ModelError: it trains nothing.
    """

    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    augmentation: Augmentation | None = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 4:
            raise ModelError("training needs at least 1 epoch and batches of 4 images")
        if not (0 <= self.warmup <= 1 and 0 <= self.label_smoothing < 1):
            raise ModelError(
                "warm-up is a share of the steps, label smoothing one of the probability: 0 to 1"
            )
