"""The text for a methods section, with the numbers of the run at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..errors import printable
from ..sums import LAYERS
from . import findings, reviewers
from .bibliography import bibtex as bibtex
from .jackknife import MIN_FOLDS
from .record import UNKNOWN, Record, text
from .result import Result
from .reviewers import answers as answers
from .wording import listed


def paragraph(result: Result) -> str:
    """Return a paragraph for a methods section, one line of printable text; `bibtex` has what it cites."""
    record = Record(result)
    sentences = [
        *_models(result, record),
        *_images(result, record),
        *_similarity(result),
        *_readout(result),
        *_measures(result),
        *_errors(result),
        *_chance(result),
        *_software(record),
    ]
    return " ".join(map(printable, sentences))


def _models(result: Result, record: Record) -> Iterator[str]:
    described = [_model(result, record, model) for model in result.models]
    yield f"We measured how representations change with depth in {listed(described)}."
    for group, models in result.groups.items():
        yield f"{group} stands for {len(models)} trainings of one recipe ({listed([*models])})."
    notes = {model: text(note) for model, note in record.entry("notes").items()}
    for note in dict.fromkeys(notes.values()):
        of = [model for model in result.models if notes.get(model) == note]
        if of:
            yield f"{listed(of)}: {note}."


def _model(result: Result, record: Record, model: str) -> str:
    readouts = [layer.tokens for layer in result.layers if layer.model == model]
    count = readouts.count(readouts[0])
    parts = [record.architecture(model, ""), reviewers.weights_of(record, model)]
    parameters = record.origin(model).get("parameters")
    parts += [f"{parameters:,} parameters"] if isinstance(parameters, int) else []
    # Said where it is not what one expects: the rest is as it was before loading.
    loaded = record.origin(model).get("tensors_loaded")
    if isinstance(loaded, list) and len(loaded) == 2 and loaded[0] != loaded[1]:
        parts += [f"{text(loaded[0])} of {text(loaded[1])} tensors loaded"]
    parts += [f"{count} {'layer' if count == 1 else 'layers'}"]
    return f"{model} ({', '.join(filter(None, parts))})"


def _images(result: Result, record: Record) -> Iterator[str]:
    same = ", the same in the same order for all models" if len(result.models) > 1 else ""
    data = record.text("data", "")
    yield f"They saw {result.images} images{f' from {data}' if data else ''}{same}."
    if not result.complete:
        yield (
            f"These are {len(result.batches)} of the {result.total_batches} batches of the run, which is not "
            "complete."
        )
    ways = reviewers.transforms(result, record)
    for way, models in ways.items():
        if way != UNKNOWN:
            of = "" if len(ways) == 1 else f" for {listed(models)}"
            yield f"Preprocessing{of}: {way}."
    if record.entry("images").get("fast_pixels"):
        yield reviewers.FAST_PIXELS
    if assumed := record.names("preprocessing_assumed"):
        yield f"That of {listed(assumed)} was assumed."
    unreadable, too_small = len(result.unreadable), findings.too_small(result)
    if unreadable:
        yield f"{_counted(unreadable)} left out that could not be read."
    if too_small:
        yield f"{_counted(too_small)} left out whose batch was too small for an estimate."


def _counted(images: int) -> str:
    return "1 image was" if images == 1 else f"{images} images were"


def _similarity(result: Result) -> Iterator[str]:
    yield (
        "Similarity of two layers is linear centered kernel alignment (CKA; Kornblith et al., 2019), with "
        "unbiased estimates of HSIC (Song et al., 2012) summed over minibatches (Nguyen et al., 2021) of "
        f"{reviewers.batches_of(result)}."
    )
    others = [result.quantity(name) for name in result.indices[1:]]
    for each in others:
        source = f" ({each.source})" if each.source else ""
        yield f"{each.label or each.name} was measured too: {each.about or 'of layers'}{source}."
    if result.references:
        yield f"Layers were compared with the {listed([*result.references])} of the images in the same way."


def _readout(result: Result) -> Iterator[str]:
    read = [reviewers.READOUTS.get(tokens, tokens) for tokens in result.tokens]
    if len(read) == 1:
        yield f"Of each layer we read {read[0]}."
    else:
        both = [f"{of} ({name})" for name, of in zip(result.tokens, read, strict=True)]
        yield f"Of each layer we read in turn {listed(both)}."


def _measures(result: Result) -> Iterator[str]:
    of_tokens, of_maps = list[str](), list[str]()
    for name in result.measures:
        quantity = result.quantity(name)
        (of_tokens if LAYERS in quantity.axes else of_maps).append(
            (quantity.label or name) + (" (on a few images)" if quantity.few else "")
        )
    if of_tokens:
        yield f"Over-smoothing was measured on the patch tokens: {listed(of_tokens)}."
    if of_maps:
        yield f"Of attention maps we measured: {listed(of_maps)}."


def _errors(result: Result) -> Iterator[str]:
    if result.folds < MIN_FOLDS:
        yield f"CKA has no errors over images here, which take at least {MIN_FOLDS} images."
        return
    yield (
        f"Standard errors and 95 % intervals over images are from a jackknife over {result.folds} folds of images "
        f"with Student's t ({result.folds - 1} degrees of freedom), on the scale of artanh for CKA and by "
        "Fieller's method for normalised curves"
        + (
            "; differences between models are paired over images."
            if len(result.models) > 1
            else "."
        )
    )
    yield from reviewers.of_fractions(result)
    if result.groups:
        yield "Errors of groups are over trainings, and those of their differences by Welch's t."
    if compared := reviewers.compared_pairs(result):
        yield f"p-values of differences are corrected for {' and '.join(compared)} (Holm, 1979)."


def _chance(result: Result) -> Iterator[str]:
    sd = reviewers.highest_chance(result)
    if not math.isnan(sd):
        yield (
            "The level of chance follows from shuffling the images within each batch, with exact moments: mean 0 "
            f"and a standard deviation of at most {sd:.2g} for any two layers; its p-values are corrected for the "
            "pairs of layers (Holm, 1979)."
        )


def _software(record: Record) -> Iterator[str]:
    versions = [
        f"{name} {record.version(name)}"
        for name in ("torch", "timm", "numpy")
        if record.version(name) != UNKNOWN
    ]
    used = f" ({', '.join(versions)})" if versions else ""
    device = record.text("device", "")
    precision = record.text("precision", "")
    if precision:
        where = f" on {device}" if device else ""
        yield f"Forward passes ran in {reviewers.PRECISIONS.get(precision, precision)}{where}."
    own = record.version("refiner-cka")
    tool = "refiner-cka" if own == UNKNOWN else f"refiner-cka {own}"
    yield f"Sums over batches are in 64-bit floating point. We used {tool}{used}."
