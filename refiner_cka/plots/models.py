"""Which models a figure shows, of one file or several, and how: order, label, colour and marker."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np

from ..errors import ResultError, printable
from ..results.result import Result
from .style import MARKERS, series

SEQUENTIAL = ("viridis_r", "magma_r", "cividis_r")
"""Colour maps for the states of one training, light to dark; one for each training in a figure."""

STATES = 3
"""So many states of one training are drawn as its trajectory."""


class Model(str):
    """The name of a model or group, with how it is shown: where plots take names, they take this too.

    Attributes:
        label: what the figure calls it; its name by default.
        color: of its line, in any form of matplotlib; that of its place in the result by default.
        result: the result that it is of, where that is not the first argument of the plot.
        file: what captions call that result.
    """

    label: str
    color: Any
    result: Result | None
    file: str

    def __new__(
        cls,
        name: str,
        *,
        label: str | None = None,
        color: Any = None,
        result: Result | None = None,
        file: str = "",
    ) -> Model:
        """Make it of a name.

        Raises:
            ResultError: no such colour.
        """
        made = super().__new__(cls, name)
        made.label = printable(label) if label else str(name)
        made.color, made.result, made.file = color, result, file
        made._colour()
        return made

    def _colour(self) -> str | None:
        if self.color is None:
            return None
        cycle = re.fullmatch(r"C(\d+)", str(self.color))
        try:
            return series(int(cycle[1]))["color"] if cycle else mpl.colors.to_hex(self.color)
        except ValueError:
            raise ResultError(
                f"no color {self.color!r} for {self}: write C0 to C9, a name, or #rrggbb"
            ) from None

    @property
    def look(self) -> dict[str, Any]:
        """What its line has by choice: a colour, or nothing."""
        colour = self._colour()
        return {} if colour is None else {"color": colour}


@dataclass(frozen=True, eq=False)
class Moment:
    """When in a training a model was saved.

    Attributes:
        training: what all states of the training have in common.
        title: network and unit, `vit_s: epoch`.
        time: as it was counted.
    """

    training: str
    title: str
    time: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Line:
    """A model or group in a figure.

    Attributes:
        result: what it is of.
        name: in the result.
        label: in the figure.
        look: colour and marker.
        moment: of the training of which it is one of several states; `None` if of none.
        file: what captions call the result.
    """

    result: Result
    name: str
    label: str
    look: dict[str, Any]
    moment: Moment | None = None
    file: str = ""

    @property
    def trainings(self) -> tuple[str, ...]:
        """The models it stands for: itself, or the trainings of the group."""
        return self.result.trainings(self.name)


def cast(result: Result, models: Sequence[str] | None, tokens: str | None) -> list[Line]:
    """Return the models and groups to draw: those named, or all, groups in the place of their trainings.

    Raises:
        ResultError: none named; a name or readout that the result does not hold.
    """
    names: list[Model] = []
    if models is None:
        names = [Model(name) for name in checked_names(result, None, tokens)]
    for model in models if models is not None else ():
        named = model if isinstance(model, Model) else Model(model)
        checked_names(named.result or result, [named], tokens)
        names.append(named)
    if not names:
        raise ResultError("no model to draw: name at least one of " + ", ".join(result.models))
    names = [one for place, one in enumerate(names) if not _earlier(one, names[:place])]
    return lines_of(result, names)


def _earlier(model: Model, others: Sequence[Model]) -> bool:
    return any(model == other and model.result is other.result for other in others)


def lines_of(result: Result, models: Sequence[Model]) -> list[Line]:
    """Return a line for each model, with labels that differ."""
    looks = palette(result, models)
    times = {id(of): _moments(of) for of in (model.result or result for model in models)}
    return [
        Line(
            model.result or result,
            str(model),
            label,
            look,
            times[id(model.result or result)].get(str(model)),
            model.file,
        )
        for model, label, look in zip(models, _labels(models), looks, strict=True)
    ]


def _labels(models: Sequence[Model]) -> list[str]:
    """Return labels; to those that come again their files are added, or their names where files are the same."""
    alike = Counter(model.label for model in models)
    in_file = Counter((model.label, model.file) for model in models)
    found = []
    for model in models:
        more = "" if alike[model.label] == 1 else model.file
        if in_file[model.label, model.file] > 1:
            more = str(model)
            if in_file[model.label, model.file] < alike[model.label]:
                more += f", {model.file}"
        found.append(f"{model.label} ({more})" if more else model.label)
    return found


def palette(result: Result, models: Sequence[str]) -> list[dict[str, Any]]:
    """Return colour and marker of the line of each model or group, the same in all figures of a result.

    Three or more states of one network along one training share a marker and go from light to dark, the earliest
    first. The trainings of a group have its colour and markers of their own. All others get a colour and a marker.

    Args:
        result: whose provenance says which models are states of one training, and which form groups.
        models: a model or group for each line; one that comes again has the same colour and another marker,
            hollow.
    """
    of = [getattr(model, "result", None) or result for model in models]
    results = list({id(each): each for each in of}.values())
    numbers: dict[str, int] = {}
    for each in results:
        for name in entries(each, each.models):
            numbers.setdefault(name, len(numbers))
    looks = {id(each): _looks(each, numbers) for each in results}
    found: list[dict[str, Any]] = []
    for place, (model, each) in enumerate(zip(models, of, strict=True)):
        look = looks[id(each)][str(model)] | getattr(model, "look", {})
        if again := sum(str(model) == str(other) for other in models[:place]):
            marker = MARKERS[(MARKERS.index(look["marker"]) + again) % len(MARKERS)]
            look = look | {"marker": marker, "markerfacecolor": "white"}
        found.append(look)
    return found


def _looks(result: Result, numbers: dict[str, int]) -> dict[str, dict[str, Any]]:
    looks = {name: series(numbers[name]) for name in entries(result, result.models)}
    for group, trainings in result.groups.items():
        start = MARKERS.index(looks[group]["marker"])
        for number, model in enumerate(trainings, start + 1):
            looks[model] = looks[group] | {"marker": MARKERS[number % len(MARKERS)]}
    for family, states in enumerate(_trajectories(result)):
        shades = mpl.colormaps[SEQUENTIAL[family % len(SEQUENTIAL)]]
        for share, model in zip(np.linspace(0.1, 1.0, len(states)), states, strict=True):
            looks[model] = {"color": shades(share), "marker": MARKERS[family % len(MARKERS)]}
    return looks


def _trajectories(result: Result) -> list[list[str]]:
    """Return the models that are states of one training, earliest first, for each training with enough of them."""
    trainings: dict[str, dict[str, Moment]] = {}
    for name, moment in _all_moments(result).items():
        trainings.setdefault(moment.training, {})[name] = moment
    return [
        sorted(states, key=lambda name: states[name].time)
        for states in trainings.values()
        if len({moment.time for moment in states.values()}) >= STATES
    ]


def _moments(result: Result) -> dict[str, Moment]:
    """Return when each of the models was saved that are drawn as trajectories."""
    every = _all_moments(result)
    return {name: every[name] for states in _trajectories(result) for name in states}


def _all_moments(result: Result) -> dict[str, Moment]:
    recorded = result.provenance.get("training", {})
    found = {}
    for model in result.provenance.get("models", []):
        if moment := recorded.get(model["name"]):
            # What two states of one network have in common.
            network = [
                model.get("origin", {}).get(name) for name in ("model", "arguments", "image_size")
            ]
            training = json.dumps([moment["run"], *network], sort_keys=True)
            words = re.findall(r"([A-Za-z]+)[^A-Za-z#]*#", moment["run"])
            title = f"{network[0]}: {' and '.join(words) or 'time'}"
            found[model["name"]] = Moment(training, title, tuple(moment["time"]))
    return found


def entries(result: Result, models: Sequence[str]) -> list[str]:
    """Return the models with each group in the place of its trainings."""
    group_of = {each: group for group in result.groups for each in result.trainings(group)}
    return list(dict.fromkeys(group_of.get(model, model) for model in models))


def checked_names(result: Result, models: Sequence[str] | None, tokens: str | None) -> list[str]:
    """Return the models and groups to draw: those named, or all, groups in the place of their trainings.

    Raises:
        ResultError: a name or readout that the result does not hold.
    """
    if models is None:
        rows = result.rows(tokens=tokens or result.tokens[0])
        return entries(result, list(dict.fromkeys(result.layers[row].model for row in rows)))
    for model in (each for name in models for each in result.trainings(name)):
        if model in result.references:
            raise ResultError(
                f"{model!r} is no model but a reference: draw it with the plot against"
            )
        result.rows(model, tokens=tokens)
    return list(dict.fromkeys(models))


def label_of(model: str) -> str:
    """Return what a figure calls a model."""
    return model.label if isinstance(model, Model) else model
