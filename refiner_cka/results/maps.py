"""What `refiner_cka.token_maps` returns and the figure of it draws."""

from __future__ import annotations

from dataclasses import dataclass

from ..sums import Array


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """How alike the patches of one image are to a chosen patch, at a few layers of a model.

    Attributes:
        model: name of the model.
        layers: dotted paths.
        image: `(height, width, 3)`, from 0 to 1, as the model sees it.
        patch: place of the chosen patch in the image, from the top and from the left, 0 to 1.
        cosines: of each layer, `(rows, columns)`: cosine of each patch with the chosen one; NaN for a token
            of zeros.
    """

    model: str
    layers: tuple[str, ...]
    image: Array
    patch: tuple[float, float]
    cosines: tuple[Array, ...]
