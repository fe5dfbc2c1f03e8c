"""The convolutional stem: image to patch tokens."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from .conditions import allowed, as_built, is_scripting, worthwhile
from .folding import folded
from .pieces import in_pieces


class ConvStem(nn.Module):
    """Three convolutions at half resolution, then a projection of every patch.

        7 x 7 stride 2 -> 32;  3 x 3 -> 64;  3 x 3 -> 128;  p/2 x p/2 stride p/2 -> dim

    with BatchNorm and ReLU after each but the last.

    Shapes: (batch, channels, h, w) -> (batch, (h / p)(w / p), dim), patches row by row.

    Source: the Refiner reference model (arXiv 2106.03714), whose stem is that of LV-ViT
    (arXiv 2104.10858).
    """

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: int,
        channels: int,
        dim: int,
        *,
        strict_img_size: bool = True,
    ) -> None:
        """Make the stem for images of `img_size`, and of no other size if `strict_img_size`."""
        super().__init__()
        if patch_size % 2:
            raise ModelError(
                f"patch_size={patch_size} cannot be halved by the stem; use an even one or "
                "conv_stem=False"
            )
        self.img_size = img_size
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.strict_img_size = strict_img_size
        self.fast_evaluation = True
        self.conv1 = nn.Conv2d(channels, 32, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(128)
        self.proj = nn.Conv2d(128, dim, patch_size // 2, stride=patch_size // 2)

    def check_size(self, height: int, width: int) -> None:
        """Refuse images that do not fit the position embedding or would be cropped."""
        built, patch = self.img_size, self.patch_size[0]
        if self.strict_img_size and (height, width) != built:
            raise ModelError(
                f"images of {height}x{width} do not fit a model built for {built[0]}x{built[1]}; "
                "build it with that img_size or with dynamic_img_size=True"
            )
        if height % patch or width % patch:
            raise ModelError(
                f"images of {height}x{width} cannot be cut into patches of {patch}x{patch}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Turn images into patch tokens."""
        if not is_scripting():
            if isinstance(images, Tensor):  # a symbolic trace has no sizes to check
                self.check_size(images.shape[-2], images.shape[-1])
            if self._allows_pieces(images):
                return self._embed_in_pieces(images)
        # Not in place: full backward hooks forbid to overwrite what a norm gave.
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)

    def _allows_pieces(self, images: Tensor) -> bool:
        """Whether the stem is as built, and worth folding for these images."""
        return (
            allowed(self, images)
            and all(as_built(part, nn.Conv2d, nn.BatchNorm2d) for part in self.children())
            and worthwhile(images, len(images) * self._image_bytes(images))
        )

    def _image_bytes(self, images: Tensor) -> int:
        """Bytes of the largest output for one image: 128 channels at half resolution."""
        rows, columns = images.shape[-2:]
        return 128 * (rows // 2) * (columns // 2) * images.element_size()

    def _embed_in_pieces(self, images: Tensor) -> Tensor:
        """The same with the norms folded, a few images at a time."""
        pairs = ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3))
        layers = [folded(conv, norm) for conv, norm in pairs]
        layout = torch.channels_last if images.device.type == "cpu" else torch.preserve_format
        # Once here, or it is brought into this layout again for every piece.
        weight = self.proj.weight.to(memory_format=layout)
        project = partial(self.proj._conv_forward, weight=weight, bias=self.proj.bias)

        def embed(piece: slice) -> tuple[Tensor]:
            x = images[piece].to(memory_format=layout)
            for layer in layers:
                x = layer(x).relu_()
            return (project(x).flatten(2).transpose(1, 2),)

        (tokens,) = in_pieces(embed, images, self._image_bytes(images))
        return tokens
