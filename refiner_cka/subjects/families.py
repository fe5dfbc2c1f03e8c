"""From the text of `--model` to subjects, or to what their layers are: families of models, one row each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import ModelError, printable
from . import catalogue, factories, timm_models
from .failing import why_it_fails
from .hooks import first_outputs
from .provenance import Source, origin_of, seeded
from .readout import tensor_of
from .spec import Size, Spec, parse
from .subject import Subject, stated


class Family(NamedTuple):
    """Models that are made in one way.

    Attributes:
        claims: whether a name is of this family.
        make: from what `--model` says, a pattern for `find_layers` and the (height, width) asked for, if any, to
            the subject and what it was made of. Its label, group, provenance and stated layout are added
            afterwards.
        describes_on: device on which its models are built and run to learn the shapes of their outputs; on `meta`
            they have no numbers.
    """

    claims: Callable[[str], bool]
    make: Callable[[Spec, str, Size | None], tuple[Subject, Source]]
    describes_on: str = "cpu"


FAMILIES: dict[str, Family] = {
    "factory": Family(catalogue.is_factory, factories.make),
    # This package's own networks too, which are registered with timm.
    "timm": Family(lambda name: True, timm_models.make, describes_on="meta"),
}
"""By name; of those that claim a model's name the first makes it."""


def resolve(
    text: str, *, layers: str = "block", image_size: Size | None = None, seed: int = 0
) -> list[Subject]:
    """Return the subjects of one `--model`: one, or one per file of a glob, in natural order.

    Args:
        text: `NAME[=WEIGHTS][,key=value...]`; see `spec`. NAME is an alias, a timm name or
            `package.module:factory`.
        layers: a pattern for `find_layers`.
        image_size: (height, width) in pixels; the model's own if not given.
        seed: of untrained weights and of a classifier that a file does not have. The weights depend on nothing
            else, and the caller's generators are left as they were.

    Raises:
        ModelError: unknown, out of reach, or not to be built so.
        CheckpointError: weights that cannot be read or do not fit.
        LayerError: a pattern that matches nothing.
    """
    return [_subject(spec, layers, image_size, seed) for spec in parse(text)]


def describe(
    text: str, *, layers: str = "block", image_size: Size | None = None
) -> list[tuple[str, str, tuple[int, ...] | None]]:
    """Return `(path, class name, output shape)` of each layer of one `--model`, weights ignored.

    A timm model is built and run on the meta device: no numbers, no memory, no network. One's own
    factory is called as it is. Shapes are without the batch axis; `None` for a layer that is not
    called or returns no tensor.

    Raises:
        ModelError: an unknown model, or one that does not run on an image of its size.
        LayerError: a pattern that matches nothing.
    """
    spec = replace(parse(text)[0], weights="random")
    family = _family_of(spec.name)
    with seeded(0), torch.device(family.describes_on):
        subject, _ = family.make(spec, layers, image_size)
        image = torch.zeros(1, *subject.preprocessing.input_size)
    module = subject.module.eval()

    def shape_of(output: object) -> tuple[int, ...] | None:
        found = tensor_of(output, images=1)
        return None if found is None else tuple(found.shape[1:])

    try:
        with torch.no_grad():
            calls, _ = first_outputs(module, subject.layers, lambda: module(image), shape_of)
    except Exception as error:
        # A forward pass on an image that does not suit may raise anything.
        size = " x ".join(map(str, image.shape[1:]))
        raise ModelError(
            f"{text} does not run on an image of {size}: {why_it_fails(module, error)}"
        ) from error
    return [
        (name, type(module.get_submodule(name)).__name__, calls.get(name, [None])[0])
        for name in subject.layers
    ]


def name_apart(subjects: Iterable[Subject]) -> list[Subject]:
    """Return the subjects with unique, printable names: the second of a name gets `#2`, the third `#3`."""
    taken: set[str] = set()
    apart: list[Subject] = []
    for subject in subjects:
        own = printable(subject.name)
        numbered = (f"{own}#{number}" for number in itertools.count(2))
        name = next(one for one in itertools.chain([own], numbered) if one not in taken)
        taken.add(name)
        apart.append(replace(subject, name=name) if name != subject.name else subject)
    return apart


def _subject(spec: Spec, layers: str, image_size: Size | None, seed: int) -> Subject:
    with seeded(seed):
        subject, source = _family_of(spec.name).make(spec, layers, image_size)
    origin = origin_of(
        subject.module,
        source,
        subject.preprocessing.input_size[1:],
        arguments=spec.arguments,
        seed=seed if source.weights == "random" else None,
        file=spec.weights if isinstance(spec.weights, Path) else None,
    )
    return replace(
        subject,
        name=spec.label,
        group=spec.group or subject.group,
        trained=source.weights != "random" and (subject.trained or source.fit is not None),
        layout=stated(subject.layout, spec.layout, spec.prefix_tokens),
        origin={**subject.origin, **origin},
    )


def _family_of(name: str) -> Family:
    return next(family for family in FAMILIES.values() if family.claims(name))
