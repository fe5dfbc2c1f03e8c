"""From the text of `--model` to subjects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .families import family_of
from .provenance import origin_of, seeded
from .spec import Size, Spec, parse
from .subject import Subject, stated


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
        subject, source = family_of(spec.name).make(spec, layers, image_size)
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
        trained=source.weights != "random" and (subject.trained or source.fit is not None),
        layout=stated(subject.layout, spec.layout, spec.prefix_tokens),
        origin={**subject.origin, **origin},
    )
