"""What a figure says of its own numbers: what they rest on, what its bands are, and why a line is dashed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..errors import ResultError
from ..results import jackknife, means
from ..results.estimate import Estimate
from ..results.result import Result
from ..results.statistics import RESOLVED
from ..sums import Quantity
from .bands import Curve, is_bounded
from .models import Line
from .style import plural


def of_similarity(lines: Sequence[Line], index: str, drawn: Sequence[Curve]) -> list[str]:
    """Return what similarities rest on, and what those of their bands are that are over images."""

    def of(result: Result, curves: Sequence[Curve]) -> str:
        bands = bands_of(curves, result.folds, jackknife.MIN_FOLDS)
        return joined(measured_on(result, index), bands)

    return by_file(lines, drawn, of)


def measured_on(result: Result, index: str) -> str:
    """Return on how many images, in batches of how many, an index was measured."""
    return joined(plural(result.images, "image"), _batches(result, index))


def of_means(lines: Sequence[Line], quantity: Quantity, drawn: Sequence[Curve]) -> list[str]:
    """Return what means over images rest on, and what their bands are."""

    def of(result: Result, curves: Sequence[Curve]) -> str:
        folds = max((curve.each.folds for curve in curves), default=0)
        bands = bands_of(curves, folds, means.MIN_FOLDS)
        size = result.provenance.get("batch_size")
        batches = f"batches of {size}" if size else ""
        images = result.images if not quantity.few else fewest(curves, result.images)
        return joined(plural(images, "image"), batches, bands)

    return [*by_file(lines, drawn, of), outlined([curve.each for curve in drawn])]


def fewest(curves: Sequence[Curve], images: int) -> int:
    """Return how many images a measure of a few of them rests on."""
    # Where features are not finite, all images count.
    counts = [
        curve.each.images[np.isfinite(curve.each.values)]
        for curve in curves
        if curve.each.images is not None
    ]
    return int(np.concatenate(counts).max(initial=0)) if counts else images


def by_file(
    lines: Sequence[Line], drawn: Sequence[Curve], of: Callable[[Result, Sequence[Curve]], str]
) -> list[str]:
    """Return what is said of the curves of each result: one text, or one with the name of each file."""
    results = {id(line.result): line for line in lines}
    texts = {
        line.file: of(
            line.result,
            [
                curve
                for other, curve in zip(lines, drawn, strict=True)
                if other.result is line.result
            ],
        )
        for line in results.values()
    }
    if len(set(texts.values())) == 1:
        return [*texts.values()][:1]
    return [f"{file}: {text}" for file, text in texts.items()]


def same_everywhere(lines: Sequence[Line], index: str, tokens: str | None) -> str:
    """Return the label of an index or measure that all lines have in common.

    Raises:
        ResultError: a result lacks it, or files measured it in ways that cannot stand in one panel.
    """
    found: dict[tuple[str, str], str] = {}
    for line in lines:
        try:
            quantity = line.result.quantity(index)
        except ResultError as error:
            where = f"{line.file}: " if len({each.file for each in lines}) > 1 else ""
            raise ResultError(f"{where}{error}") from None
        readout = tokens or line.result.tokens[0]
        found.setdefault((quantity.label or index, readout), line.file)
    if len(found) > 1:
        (one, other), (first, second) = list(found)[:2], list(found.values())[:2]
        told = " and ".join(
            f"{file} has {' of '.join(key)}" for key, file in ((one, first), (other, second))
        )
        raise ResultError(f"{told}: draw each in a panel of its own with file=")
    return next(iter(found))[0]


def _batches(result: Result, index: str) -> str:
    """Return in batches of how many images an index was measured; its label may say so itself."""
    label, size = result.quantity(index).label, result.provenance.get("batch_size")
    if label != named(result, index):
        return label
    return f"{label} batches of {size}" if size else ""


def bands_of(drawn: Sequence[Curve], folds: int, least: int) -> str:
    """Return what bands over images are; nothing if there are none."""
    over_images = [curve for curve in drawn if curve.each.over == "images"]
    if not over_images:
        return ""
    if folds < least:
        return f"no error bands: fewer than {least} images"
    shown = [curve for curve in over_images if curve.inner or curve.whole is not None]
    if not any(is_bounded(curve.each).any() for curve in shown):
        return ""
    inner, whole = (
        any(curve.inner for curve in shown),
        any(curve.whole is not None for curve in shown),
    )
    of = "" if inner and whole else " for the whole curve" if whole else " for each layer"
    which = ": dark for each layer, light for the whole curve" if inner and whole else ""
    return f"95 % bands{of}, jackknife over {plural(folds, 'fold')} of images{which}"


def outlined(drawn: Sequence[Estimate]) -> str:
    """Return what outlined bands of means over trainings are; nothing if there are none."""
    counts = sorted({curve.trainings for curve in drawn if curve.over == "trainings"})
    return f"outlined: SD over {' or '.join(map(str, counts))} trainings" if counts else ""


def unresolved(lines: Sequence[Line], index: str, drawn: Sequence[Estimate]) -> str:
    """Return why curves are dashed, or nothing if none is."""
    dashed = [
        line.result
        for line, curve in zip(lines, drawn, strict=True)
        if not curve.resolved and np.isfinite(curve.values).any()
    ]
    if not dashed:
        return ""
    if all(result.folds < jackknife.MIN_FOLDS for result in dashed):
        return f"dashed: unresolved (fewer than {jackknife.MIN_FOLDS} images, so no errors)"
    name = named(dashed[0], index)
    return f"dashed: unresolved ({name}(first, last) is not {RESOLVED:g} SE above 0)"


def named(result: Result, index: str) -> str:
    """Return the name of an index in formulas: its label without what that adds in brackets."""
    return result.quantity(index).label.partition(" (")[0] or index


def joined(*parts: str) -> str:
    """Return what is not empty, on one line."""
    return "; ".join(filter(None, parts))


def lettered(said: Sequence[Iterable[str]], letters: str) -> list[str]:
    """Return what panels say, each text once, with the letters of its panels where not all say it.

    Args:
        said: the texts of each panel.
        letters: of the panels; none if there is one.
    """
    panels: dict[str, list[int]] = {}
    for number, texts in enumerate(said):
        for text in dict.fromkeys(filter(None, texts)):
            panels.setdefault(text, []).append(number)
    if not letters:
        return list(panels)
    parts: dict[str, list[str]] = {}
    for text, numbers in panels.items():
        where = "" if len(numbers) == len(said) else f"({_ranges(numbers, letters)}) "
        parts.setdefault(where, []).append(text)
    return [where + text for where in parts for text in _together(where, parts[where])]


def _together(where: str, texts: list[str]) -> list[str]:
    """Return what all panels say on lines of its own, what some say on one."""
    return [joined(*texts)] if where else texts


def _ranges(numbers: Sequence[int], letters: str) -> str:
    """Return letters of panels in short, `a, c to e`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [
        f"{letters[run[0]]} to {letters[run[-1]]}"
        if len(run) > 2
        else ", ".join(letters[each] for each in run)
        for run in runs
    ]
    return ", ".join(parts)
