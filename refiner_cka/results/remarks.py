"""The warnings that follow from the sums of a result, one line each: of a merged result they are made anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..errors import some
from .result import Result


def derived_lines(result: Result) -> list[str]:
    """Return what is undefined in a result, and which layers are the same; nothing of a result without images."""
    if not result.images:
        return []
    return [*_degenerate(result), *_same(result), *_undefined(result), *_duplicates(result)]


def _degenerate(result: Result) -> Iterator[str]:
    """Yield a line for each layer whose CKA is undefined, with the cause."""
    products = result.sums[result.quantity("cka").sum("products")]
    own = dict(zip(result.stack, np.diagonal(products), strict=True))
    for layer in result.degenerate():
        cause = "do not vary between images" if np.isfinite(own[layer]) else "are not finite"
        yield (
            f"{layer.model}: the features of layer {layer.path} ({layer.tokens}) {cause}; "
            "its CKA is undefined (NaN)"
        )


def _same(result: Result) -> Iterator[str]:
    """Yield a line for each model with layers that CKA cannot tell apart, with the likely cause."""
    faint: Mapping[str, str] = result.provenance.get("faint_parameters", {})
    for model, tokens in dict.fromkeys((layer.model, layer.tokens) for layer in result.layers):
        runs = [f"{first.path} to {last.path}" for first, last in result.same(model, tokens=tokens)]
        if not runs:
            continue
        shown = ", ".join(runs[:4]) + (f" and {len(runs) - 4} more" if len(runs) > 4 else "")
        cause = f", probably since {faint[model]}" if model in faint else ""
        yield (
            f"{model}: layers {shown} ({tokens}) are the same up to rounding: CKA 1 from each to the next{cause}"
        )


def _undefined(result: Result) -> Iterator[str]:
    """Yield a line for each layer where over-smoothing measures are undefined, and for which images."""
    found: dict[str, dict[str, None]] = {}
    for quantity in result.quantities:
        # Pairs of maps, and what is measured on a few images, have no count to compare with.
        entries = result.axes.get(quantity.axes[0], ()) if len(quantity.axes) == 1 else ()
        if not quantity.is_of_images or quantity.few:
            continue
        paths = (quantity.quotient[0], quantity.sum("images"))
        total, images = (result.sums[path].sum(0) for path in paths)
        for position, layer in enumerate(entries):
            missing = int(result.images - images[position])
            where = f"{layer.model}: over-smoothing of layer {layer.path}"
            if position in quantity.absent:
                continue
            if np.isnan(total[position]):
                line = f"{where} is undefined (NaN), for its features are not finite"
            elif missing:
                line = f"{where} is undefined for {missing} of {result.images} images, left out"
            else:
                continue
            found.setdefault(line, {})[quantity.name] = None
    yield from (f"{line}: {', '.join(names)}" for line, names in found.items())


def _duplicates(result: Result) -> Iterator[str]:
    """Yield a line if images come more than once: an error counts them as independent."""
    digests = result.image_digests
    found, counts = np.unique(digests[digests > 0], return_counts=True)
    again = int((counts - 1).sum())
    if not again:
        return
    batch, place = np.argwhere(digests == found[counts.argmax()]).T
    places = (result.batches[batch] * digests.shape[1] + place).tolist()
    yield (
        f"{again} of {result.images} images equal another one pixel for pixel (such as those at places "
        f"{some([str(each) for each in places], 3)} of the run): errors take them for independent"
    )
