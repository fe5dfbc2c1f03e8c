"""What a model expects of an image: size, resizing, cropping, mean and standard deviation.

An image becomes a uint8 tensor in the loading worker and is normalised on the device: a quarter of
the bytes to move, and the same numbers as normalising first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from ..errors import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

REDUCING_GAP = 2.0
"""An image decoded at a reduced scale is at least so many times larger than what it is resized to."""


@dataclass(frozen=True)
class Preprocessing:
    """Evaluation preprocessing of one model; equal preprocessings are computed once per image.

    The defaults are ImageNet's usual evaluation at 224.

    Attributes:
        input_size: `(channels, height, width)` the model takes.
        mean: per channel, of pixel values scaled to 0..1.
        std: per channel, likewise.
        interpolation: `bicubic`, `bilinear`, ... as timm names them.
        crop_pct: side of the centre crop over the side of the resized image.
        crop_mode: `center`, `squash` or `border`, as timm defines them.
        assumed: whether nobody stated it; no part of what makes two preprocessings equal.

    Raises:
        DataError: `mean` or `std` does not have one value per channel.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    assumed: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        channels = self.input_size[0]  # another number of values would broadcast
        if not len(self.mean) == len(self.std) == channels:
            raise DataError(
                f"a model of {channels} input channels has {len(self.mean)} means and "
                f"{len(self.std)} standard deviations: give one per channel"
            )

    def geometry(self) -> Preprocessing:
        """Return what of this the uint8 image depends on: mean and std are neutral.

        Preprocessings of equal geometry share one image. (`border` pads with the mean: it stays.)
        """
        channels = self.input_size[0]
        mean = self.mean if self.crop_mode == "border" else (0.0,) * channels
        return replace(self, mean=mean, std=(1.0,) * channels)

    @property
    def enough(self) -> int:
        """Pixels on the short side of which an image can be decoded without much loss, a power of two.

        It is at least `REDUCING_GAP` times what the image is resized to. With powers of two, models of about one
        size share what is decoded, whatever other models there are.
        """
        resized = max(self.input_size[1:]) / self.crop_pct
        return int(2 ** math.ceil(math.log2(REDUCING_GAP * resized)))

    def transform(self, *, fast: bool = False) -> Callable[[Image.Image], torch.Tensor]:
        """Return the function from an RGB image to a uint8 tensor `(channels, height, width)`.

        Args:
            fast: resize by torchvision's vectorised kernel, where there is one: pixels may differ by two of 255.

        Raises:
            DataError: the model takes neither 1 (grey) nor 3 (RGB) channels.
        """
        from timm.data.transforms_factory import create_transform

        channels = self.input_size[0]
        if channels not in (1, 3):
            raise DataError(
                f"a model of {channels} input channels cannot be fed images: "
                "give --data a floating array (images, channels, height, width)"
            )
        resize = create_transform(
            self.input_size,
            is_training=False,
            use_prefetcher=True,  # timm's switch for "stay uint8, normalise later"
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
        )
        if fast:
            resize.transforms[0] = _faster(resize.transforms[0])
        return resize if channels == 3 else lambda image: resize(image.convert("L"))

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Return `(batch, channels, height, width)` float32 of this mean and std, on the device.

        Floating tensors are taken as already normalised and returned as they are.
        """
        if images.is_floating_point():
            return images
        # Filled on the device, of shape (channels, 1, 1): a copy would wait for it.
        mean, std = (
            torch.stack([torch.full((1, 1), value, device=images.device) for value in values])
            for values in (self.mean, self.std)
        )
        # Divided by a tensor: by a Python number, a GPU would multiply with the rounded reciprocal.
        scale = torch.full((), 255.0, device=images.device)
        return images.to(torch.float32).div_(scale).sub_(mean).div_(std)


def _faster(step: Any) -> Any:
    """Return timm's step that resizes a picture as one to a tensor, where torchvision has a kernel."""
    from torchvision.transforms import InterpolationMode, Resize
    from torchvision.transforms.functional import pil_to_tensor
    from torchvision.transforms.v2.functional import resize

    kernels = (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR)
    if not isinstance(step, Resize) or step.interpolation not in kernels:
        return step
    return lambda image: resize(pil_to_tensor(image), step.size, step.interpolation)
