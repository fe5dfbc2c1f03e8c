"""What a reviewer asks of a result, answered from the result alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import printable, some
from ..sums import LAYERS, MIN_BATCH
from . import findings
from .chance import ALPHA
from .estimate import Estimate
from .jackknife import MIN_FOLDS
from .record import UNKNOWN, Record, dictionary, text
from .result import Result
from .wording import listed

NEARLY = 0.99
"""CKA from which on two neighbouring layers are called nearly the same."""

READOUTS = {
    "all": "everything that it returns, all its tokens or positions",
    "patch": "its patch tokens or positions, without prefix tokens",
    "cls": "its class token, the first prefix token",
    "mean": "the mean over its patch tokens or positions",
}
"""Readout -> what of a layer it takes."""

PRECISIONS = {
    "fp32": "32-bit floating point",
    "bf16": "bfloat16",
    "fp16": "16-bit floating point",
}

_SHOWN = 10
"""So many skipped images are named."""

_WEIGHTS = {
    "pretrained": "pretrained weights",
    "random": "untrained, random weights",
    "trained": "trained by refiner-cka",
    "as given": "weights as they were given in Python",
}


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Similarity of each layer of a model to the next.

    Attributes:
        model: its name.
        tokens: the readout.
        paths: `L` paths of the layers.
        cka: `(L - 1,)`, of each layer but the last with the next.
    """

    model: str
    tokens: str
    paths: tuple[str, ...]
    cka: Estimate


def answers(result: Result) -> list[tuple[str, str]]:
    """Return what reviewers ask and what the result says to it, as `(question, answer)`.

    An answer is printable text of one line or several, whatever the file holds.
    """
    record = Record(result)
    found = [
        ("Which weights?", _weights(result, record)),
        ("Which images?", _images(result, record)),
        ("Which transform?", _transform(result, record)),
        ("Which estimator?", _estimator(result, record)),
        ("Which batch size?", _batches(result)),
        ("Which layers, read how?", _readout(result, record)),
        ("Which precision?", _precision(record)),
        ("Which images were skipped?", _skipped(result)),
        ("What are the errors?", _errors(result)),
        ("What is the level of chance?", _chance(result)),
        ("What is corrected for many comparisons?", _corrections(result)),
        ("Class token or patches?", _tokens(result, record)),
        ("Which neighbouring layers are nearly the same?", _neighbours(result)),
        ("Made with what?", _made(record)),
    ]
    return [(question, "\n".join(map(printable, lines))) for question, lines in found]


def neighbours(result: Result) -> tuple[Neighbours, ...]:
    """Return the similarity of each layer to the next, of each model of two layers or more, readout by readout."""
    found = []
    for model, tokens in dict.fromkeys((layer.model, layer.tokens) for layer in result.layers):
        rows = result.rows(model, tokens=tokens)
        if len(rows) > 1:
            paths = tuple(result.layers[row].path for row in rows)
            whole = result.similarity("cka", model, tokens=tokens)
            next_to = np.arange(len(rows) - 1), np.arange(1, len(rows))
            found.append(Neighbours(model, tokens, paths, whole.block(next_to, whole.depth[:-1])))
    return tuple(found)


def weights_of(record: Record, model: str) -> str:
    """Return where a model's weights are from, in a few words."""
    weights = text(record.origin(model).get("weights"), "")
    if not weights:
        return f"weights {UNKNOWN}"
    known = _WEIGHTS.get(weights, f"weights of the file {weights}")
    seed = record.origin(model).get("seed")
    return f"{known} (seed {text(seed)})" if seed is not None else known


def transforms(result: Result, record: Record) -> dict[str, list[str]]:
    """Return what becomes of an image before a model is given it -> the models of which that is said."""
    found: dict[str, list[str]] = {}
    for model in result.models:
        found.setdefault(_transform_of(record, model), []).append(model)
    return found


def batches_of(result: Result) -> str:
    """Return how many images the batches hold, in words."""
    size, sizes = result.image_digests.shape[1], result.batch_images
    smaller = [str(each) for each in sizes.tolist() if 0 < each < size]
    return f"{size} images" + (f" ({len(smaller)} smaller: {some(smaller, 4)})" if smaller else "")


def highest_chance(result: Result) -> float:
    """Return the highest standard deviation of the CKA of two different layers by chance; NaN if none is known."""
    sd = result.chance()[: len(result.layers), : len(result.layers)].copy()
    np.fill_diagonal(sd, np.nan)
    return float(np.nanmax(sd)) if np.isfinite(sd).any() else math.nan


def _weights(result: Result, record: Record) -> Iterator[str]:
    notes = record.entry("notes")
    for model in result.models:
        origin = record.origin(model)
        parameters, sha256 = origin.get("parameters"), text(origin.get("sha256"), "")
        parts = [record.architecture(model, "architecture not recorded")]
        parts += [weights_of(record, model)]
        parts += [f"{parameters:,} parameters"] if isinstance(parameters, int) else []
        parts += [text(origin["loading"])] if origin.get("loading") else []
        parts += [f"SHA-256 {sha256}"] if sha256 else []
        parts += [text(notes[model])] if model in notes else []
        yield f"{model}: {'; '.join(parts)}."
    for group, models in result.groups.items():
        yield f"{group} is {len(models)} trainings of one recipe: {listed([*models])}."


def _images(result: Result, record: Record) -> Iterator[str]:
    images, covered = record.entry("images"), record.entry("fingerprint_of_images")
    count = images.get("count")
    of = f" of {count} planned" if isinstance(count, int) and count != result.images else ""
    yield f"{result.images} images{of}; data: {record.text('data')}; seed of their order: {record.text('seed')}."
    if names := result.image_names:
        yield f"Their names are in the file (image_names), in that order: {some([*names], 3)}."
    else:
        yield "Their names are not in the file."
    if images.get("digest"):
        covers = f", of {text(covered['covers'])}" if covered.get("covers") else ""
        yield f"SHA-256 {text(images['digest'])}{covers}; each image has a digest of its pixels (image_digests)."
    if not covered.get("whole", True):
        yield (
            f"The fingerprint covers {text(covered.get('covers'))}; what each batch saw is digested in the result."
        )


FAST_PIXELS = "Large JPEG files were decoded at a reduced scale, and all resized by a faster way (--fast-pixels)."


def _transform_of(record: Record, model: str) -> str:
    way = record.preprocessing(model)
    if not way:
        return UNKNOWN
    size = way.get("input_size")
    sides = " x ".join(map(text, size)) if isinstance(size, list) else UNKNOWN
    if "inputs" in way:
        return f"inputs of {sides} ({text(way['inputs'])})"
    crop = way.get("crop_pct")
    share = f" of {100 * crop:.4g} %" if isinstance(crop, int | float) else ""
    mean, std = (", ".join(map(text, _listed(way.get(key)))) for key in ("mean", "std"))
    return (
        f"{text(way.get('interpolation'))} resizing, {text(way.get('crop_mode'))} crop{share}, {sides} "
        f"(channels, height, width), mean ({mean}), standard deviation ({std})"
    )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _transform(result: Result, record: Record) -> Iterator[str]:
    for way, models in transforms(result, record).items():
        yield f"{listed(models)}: {way}."
    images = record.entry("images")
    if images.get("fast_pixels"):
        yield FAST_PIXELS
    if own := images.get("transform"):
        yield f"The data set itself transforms its images first: {text(own)}."
    if assumed := record.names("preprocessing_assumed"):
        yield f"Nobody stated the transform of {listed(assumed)}: that of ImageNet was assumed."


def _estimator(result: Result, record: Record) -> Iterator[str]:
    for name in result.indices:
        index = result.quantity(name)
        source = f" ({index.source})" if index.source else ""
        yield f"{index.label or name}: {index.about or 'of pairs of layers'}{source}."
    of = record.entry("estimator")
    if of:
        yield (
            f"{text(of.get('formula'))}; kernel {text(of.get('kernel'))}; weight of a batch "
            f"{text(of.get('batch_weight'))}; revision {text(of.get('revision'))}."
        )


def _batches(result: Result) -> Iterator[str]:
    count = len(result.batches)
    held = f"{count} {'batch' if count == 1 else 'batches'} of {batches_of(result)}"
    whole = "" if result.complete else f", of {result.total_batches} that the run has"
    yield f"{held}{whole}. It is part of the estimator: images are compared within a batch."


def _readout(result: Result, record: Record) -> Iterator[str]:
    for model, tokens in dict.fromkeys((layer.model, layer.tokens) for layer in result.layers):
        paths = [result.layers[row].path for row in result.rows(model, tokens=tokens)]
        ends = paths[0] if len(paths) == 1 else f"{paths[0]} to {paths[-1]}"
        layers = f"{len(paths)} {'layer' if len(paths) == 1 else 'layers'}"
        yield f"{model}: {layers}, {ends}; read of each ({tokens}): {READOUTS.get(tokens, tokens)}."
    for reference in result.references:
        about = dictionary(record.entry("against").get(reference))
        detail = ", ".join(f"{text(key)} {text(value)}" for key, value in about.items())
        yield f"{reference}: a row of the matrix that is no layer{f' ({detail})' if detail else ''}."


def _precision(record: Record) -> Iterator[str]:
    precision = record.text("precision")
    yield (
        f"Forward passes: {PRECISIONS.get(precision, precision)}; device: {record.text('device')}. Gram matrices "
        "are in 32-bit, sums over batches in 64-bit floating point."
    )


def _skipped(result: Result) -> Iterator[str]:
    too_small = findings.too_small(result)
    for entry in result.unreadable[:_SHOWN]:
        yield f"{text(entry.image)}: {text(entry.reason)}."
    if len(result.unreadable) > _SHOWN:
        more = len(result.unreadable) - _SHOWN
        yield f"{more} more that could not be read; the file names all of them (unreadable/image)."
    if too_small:
        yield f"{too_small} readable images, whose batches had fewer than {MIN_BATCH} images."
    if not result.complete:
        yield f"The run is not complete: {len(result.batches)} of {result.total_batches} batches."
    if result.complete and not result.unreadable and not too_small:
        yield "None."


def _errors(result: Result) -> Iterator[str]:
    if result.folds < MIN_FOLDS:
        yield f"CKA has none: they take at least {MIN_FOLDS} images."
        return
    yield (
        f"Over images: standard errors by the jackknife, one of {result.folds} folds of images left out at a "
        f"time. Intervals are of 95 %, by Student's t with {result.folds - 1} degrees of freedom: of CKA on the "
        "scale of artanh, of s(l) by Fieller's method, of differences between models paired over the same images."
    )
    yield from of_fractions(result)
    if result.groups:
        yield (
            f"Over trainings, of {listed([*result.groups])}: standard errors and intervals over the trainings of "
            "a recipe, apart from those over images."
        )
    else:
        yield "They say how well these networks are known, not how another training would differ."


def of_fractions(result: Result) -> Iterator[str]:
    """Yield how intervals of measures that are fractions are taken, if there are any."""
    labels = [each.label or each.name for each in result.quantities if each.estimator == "fraction"]
    if labels:
        yield (
            f"Intervals of {listed(labels)}, of which few images may decide, are on the scale of the logit with "
            "Satterthwaite's degrees of freedom."
        )


def _chance(result: Result) -> Iterator[str]:
    sd = highest_chance(result)
    if math.isnan(sd):
        yield "Unknown: the sums hold no moments of chance."
        return
    yield (
        "CKA of layers that see unrelated images has mean 0 (images shuffled within each batch, exact moments); "
        f"its standard deviation is at most {sd:.2g} for any two layers here."
    )
    found = findings.within_chance(result)
    pairs, within = (sum(getattr(each, of) for each in found) for of in ("of", "pairs"))
    yield f"{within} of {pairs} pairs of layers are within it (one-sided p of at least {ALPHA} after Holm)."


def compared_pairs(result: Result) -> list[str]:
    """Return the pairs of models, and of groups, for which p-values of differences are corrected, if any."""
    return [
        f"the {math.comb(len(names), 2)} pairs of {what}"
        for what, names in (("models", result.models), ("groups", result.groups))
        if len(names) > 2
    ]


def _corrections(result: Result) -> Iterator[str]:
    if counts := compared_pairs(result):
        yield f"p-values of differences, for {' and '.join(counts)} of a readout or measure (Holm)."
    yield (
        "p-values of chance, for all pairs of layers of a model, or of two (Holm). Intervals hold for one layer "
        "at a time; the lighter bands of figures, for all layers of a curve at once (max-t)."
    )


def _tokens(result: Result, record: Record) -> Iterator[str]:
    for tokens in result.tokens:
        yield f"CKA ({tokens}) takes of a layer {READOUTS.get(tokens, tokens)}."
    for model in result.models:
        if prefixes := record.prefixes(model):
            count = listed([str(each) for each in prefixes])
            noun = "token" if prefixes == [1] else "tokens"
            yield f"Layers of {model} have {count} prefix {noun} (class, distillation, registers)."
    if any(LAYERS in result.quantity(name).axes for name in result.measures):
        yield "Measures of over-smoothing read the patch tokens alone."
        yield (
            "CKA near 1: two layers tell the images apart alike. Cosine near 1: the tokens of an image are alike "
            "within a layer. Neither implies the other."
        )
    if result.attention:
        yield "Measures of attention maps leave out rows and columns of prefix tokens."


def _neighbours(result: Result) -> Iterator[str]:
    found = neighbours(result)
    alike = [f"{_head(each)}: {', '.join(runs)}" for each in found if (runs := _alike(each))]
    if not found:
        yield "No model has two layers."
        return
    if alike:
        yield f"CKA of each with the next is at least {NEARLY} along {'; '.join(alike)}."
    else:
        yield f"None: no two have CKA of at least {NEARLY}."
    errors = np.concatenate([each.cka.se for each in found])
    largest = (
        f" (standard errors up to {np.nanmax(errors):.3f})" if np.isfinite(errors).any() else ""
    )
    yield f"CKA of each layer with the next{largest}:"
    width = max(len(_head(each)) for each in found)
    for each in found:
        values = " ".join(f"{value:.3f}" for value in each.cka.values)
        yield f"{_head(each):<{width}}  {each.paths[0]} to {each.paths[-1]}: {values}"


def _head(each: Neighbours) -> str:
    return f"{each.model} ({each.tokens})"


def _alike(each: Neighbours) -> list[str]:
    """Return the runs of layers of which each is nearly the same as the next."""
    return [
        f"{each.paths[places[0]]} to {each.paths[places[-1] + 1]}"
        for alike, group in itertools.groupby(
            range(len(each.cka.values)), lambda place: bool(each.cka.values[place] >= NEARLY)
        )
        if alike and (places := list(group))
    ]


def _made(record: Record) -> Iterator[str]:
    versions = [f"{text(name)} {text(of)}" for name, of in record.entry("versions").items()]
    yield f"{', '.join(versions) or 'Versions ' + UNKNOWN}; begun {record.text('started')}."
    yield f"Command: {record.text('command')}."
