"""From the text of `--model` to subjects, and to a description without weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from . import catalogue, factories, timm_models
from .layers import choose_layers
from .provenance import origin_of, seeded
from .spec import Spec, parse
from .subject import Subject, stated

Size = tuple[int, int]


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


def name_apart(subjects: Iterable[Subject]) -> list[Subject]:
    """Return the subjects with unique names: the second of a name gets `#2`, the third `#3`."""
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    apart: list[Subject] = []
    for subject in subjects:
        name = subject.name
        while name in taken or not counts[subject.name]:
            counts[subject.name] += 1
            name = (
                subject.name
                if counts[subject.name] == 1
                else f"{subject.name}#{counts[subject.name]}"
            )
        taken.add(name)
        apart.append(replace(subject, name=name) if name != subject.name else subject)
    return apart


def _subject(spec: Spec, layers: str, image_size: Size | None, seed: int) -> Subject:
    with seeded(seed):
        if catalogue.is_factory(spec.name):
            subject = _from_factory(spec, layers, image_size, seed)
        else:
            subject = _from_timm(spec, layers, image_size, seed)
    return replace(subject, layout=stated(subject.layout, spec.layout, spec.prefix_tokens))


def _from_timm(spec: Spec, layers: str, image_size: Size | None, seed: int) -> Subject:
    built = timm_models.build(spec, image_size)
    module = built.module
    chosen, is_pattern = choose_layers(module, layers)
    preprocessing = timm_models.preprocessing(module, built.image_size)
    is_random = built.source == "random"
    return Subject(
        name=spec.label,
        module=module,
        layers=chosen,
        pattern=is_pattern,
        layout=timm_models.layout(module),
        preprocessing=preprocessing,
        classes=timm_models.class_names(built),
        trained=not is_random,
        origin=origin_of(
            module,
            timm_models.full_name(module, catalogue.full_name(spec.name)),
            built.source,
            preprocessing.input_size[1:],
            arguments=spec.arguments,
            fit=built.fit,
            entry=built.entry,
            seed=seed if is_random else None,
            file=spec.weights if isinstance(spec.weights, Path) else None,
            note=timm_models.description(built),
        ),
    )


def _from_factory(spec: Spec, layers: str, image_size: Size | None, seed: int) -> Subject:
    made = factories.call(spec.name, spec.arguments)
    subject = made if isinstance(made, Subject) else Subject.from_module(made, layers)
    if image_size is not None:
        channels = subject.preprocessing.input_size[0]
        subject = replace(
            subject,
            preprocessing=replace(subject.preprocessing, input_size=(channels, *image_size)),
        )
    fit, entry, source = None, "", "as given"
    if isinstance(spec.weights, Path):
        fit, entry = factories.load(subject.module, spec.weights, spec.name)
        source = spec.weights.name
    elif spec.weights == "random":
        source = "random"
    origin = origin_of(
        subject.module,
        spec.name,
        source,
        subject.preprocessing.input_size[1:],
        arguments=spec.arguments,
        fit=fit,
        entry=entry,
        seed=seed if source == "random" else None,
        file=spec.weights if isinstance(spec.weights, Path) else None,
    )
    trained = source != "random" and (subject.trained or fit is not None)
    return replace(subject, name=spec.label, trained=trained, origin={**subject.origin, **origin})
