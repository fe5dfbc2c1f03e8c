"""Figures put together of files, models and panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import grammar
from ..errors import ResultError, known_names, printable
from ..results.result import Result
from .kinds import PLOTS, Kind
from .layout import grid
from .models import Model, checked_names
from .panels import Panel
from .style import COLUMN, NothingToDraw, plural

Results = Result | Mapping[str, Result]
"""A result, or several by the names of their files."""


def compose(
    results: Results,
    panels: Sequence[Panel],
    *,
    models: Sequence[str] | None = None,
    width: float = COLUMN,
) -> Figure:
    """Return a figure of panels.

    Args:
        results: what was measured; several by the names that `file` of a panel may be.
        panels: what to show.
        models: the models and groups to show, in this order, which may be `Model`s with labels and colours; all by
            default.
        width: in inches, where no style says it.

    Raises:
        ResultError: no such kind, file, model or measure; a key that means nothing for a kind; files that do not
            go together; nothing to draw.
    """
    if not panels:
        raise ResultError("no panel to draw: name at least one of " + ", ".join(PLOTS))
    files = {"": results} if isinstance(results, Result) else dict(results)
    drawn = [_Asked.of(files, panel, models) for panel in panels]
    return grid(
        [partial(_draw, each) for each in drawn], width, square=[each.kind.square for each in drawn]
    )


def named(files: Sequence[Path]) -> dict[str, Path]:
    """Return files by their stems, or by what tells their paths apart where stems are the same.

    Raises:
        ResultError: a file comes twice.
    """
    names = [printable(file.stem) for file in files]
    if len(set(names)) < len(files):
        names = [*map(printable, grammar.told_apart([_parts(file) for file in files]))]
    if len(set(names)) < len(files):
        raise ResultError("a file is given twice: give each once")
    return dict(zip(names, files, strict=True))


def _parts(file: Path) -> tuple[str, ...]:
    return file.absolute().with_suffix("").parts


def read_models(results: Results, texts: Sequence[str]) -> list[Model]:
    """Return the models that texts `NAME[,label=TEXT][,color=COLOUR]` name.

    Raises:
        ResultError: no such model; another key, or one twice; no such colour.
    """
    files = [results] if isinstance(results, Result) else [*results.values()]
    known = list(dict.fromkeys(name for file in files for name in _names(file)))
    return [_model(text, known) for text in texts]


def _model(text: str, known: Sequence[str]) -> Model:
    parts = grammar.split(text)
    found = next((each for each in grammar.heads(parts) if each[0] in known), None)
    if found is None:
        raise ResultError(f"no model {parts[0]!r} here: {known_names(parts[0], known)}")
    name, options = found
    keys: dict[str, str] = {}
    for key, _, value in (option.partition("=") for option in options):
        if key not in ("label", "color"):
            raise ResultError(
                f"{key!r} means nothing for a model in a figure: give label= or color="
            )
        if key in keys:
            raise ResultError(f"{key!r} is given twice in --model {printable(text)!r}")
        keys[key] = value
    return Model(name, label=keys.get("label"), color=keys.get("color"))


@dataclass(frozen=True, eq=False)
class _Asked:
    """A panel and what it takes of the files."""

    kind: Kind
    panel: Panel
    title: str
    result: Result
    names: Sequence[str]
    models: Sequence[str] | None

    @classmethod
    def of(cls, files: Mapping[str, Result], panel: Panel, models: Sequence[str] | None) -> _Asked:
        kind = _kind(panel)
        if panel.file and panel.file not in files:
            known = known_names(panel.file, [name for name in files if name] or ["no file= here"])
            raise ResultError(f"no file {panel.file!r} for the panel {panel.kind}: {known}")
        own = {panel.file: files[panel.file]} if panel.file else dict(files)
        names = _split(panel.of, own, models or ())
        if kind.of is not None:
            fewest, most = kind.of
            if not fewest <= len(names) <= most:
                wanted = plural(most, "name") if fewest == most else f"{fewest} to {most} names"
                raise ResultError(
                    f"the panel {panel.kind} is of {wanted}, not {len(names)}: write of=NAME or of=NAME:NAME"
                )
            if kind.square or most > 1:
                own, names = _of_one(own, panel, names, models or ())
        chosen = _chosen(own, kind, panel, models)
        if kind.of is None and names:
            chosen = [
                each for name in names for each in _found(own, name, models or (), panel.kind)
            ]
            names = []
        file = next(iter(own))
        # Where there are several files, a panel of one says which.
        title = file if len(files) > 1 and len(own) == 1 else ""
        return cls(kind, panel, title, own[file], names, chosen)


def _draw(asked: _Asked, ax: Axes) -> None:
    options: dict[str, Any] = {**asked.kind.defaults, **asked.panel.options}
    if asked.kind.takes_models and asked.models is not None:
        options["models"] = asked.models
    asked.kind.function(asked.result, *asked.names, ax=ax, **options)
    if asked.title:
        ax.set_title(asked.title, parse_math=False)
    asked.panel.dress(ax)


def _kind(panel: Panel) -> Kind:
    if panel.kind not in PLOTS:
        raise ResultError(f"no panel {panel.kind!r}: {known_names(panel.kind, [*PLOTS])}")
    kind = PLOTS[panel.kind]
    if unknown := [key for key in panel.options if key not in kind.options]:
        keys = ", ".join(["of", "file", *kind.options])
        raise ResultError(
            f"{unknown[0]!r} means nothing for the panel {panel.kind}, which takes {keys}, and what "
            "Axes.set takes (title, ylim, ...)"
        )
    return kind


def _names(result: Result) -> list[str]:
    return [*result.groups, *result.models]


def _split(
    of: str | Sequence[str], files: Mapping[str, Result], models: Sequence[str]
) -> Sequence[str]:
    """Return the names in `NAME:NAME`; a name that is known may hold a colon itself."""
    if not isinstance(of, str):
        return list(of)
    known = {name for file in files.values() for name in (*_names(file), *file.references)}
    known |= {model.label for model in models if isinstance(model, Model)}
    parts, names = of.split(":"), list[str]()
    while parts:
        heads = (count for count in range(len(parts), 0, -1) if ":".join(parts[:count]) in known)
        count = next(heads, 1)
        names.append(":".join(parts[:count]))
        parts = parts[count:]
    return names


def _found(files: Mapping[str, Result], name: str, models: Sequence[str], kind: str) -> list[Model]:
    """Return the model of a name or label in each file that has it.

    Raises:
        ResultError: none has.
    """
    shown = [model if isinstance(model, Model) else Model(model) for model in models]
    meant = next((model for model in shown if name in (str(model), model.label)), Model(name))
    found = [
        Model(meant, label=meant.label, color=meant.color, result=result, file=file)
        for file, result in files.items()
        if meant in (*_names(result), *result.references)
    ]
    if not found:
        known = dict.fromkeys(each for file in files.values() for each in _names(file))
        raise ResultError(
            f"no model {name!r} for the panel {kind}: {known_names(name, list(known))}"
        )
    return found


def _of_one(
    files: Mapping[str, Result], panel: Panel, names: Sequence[str], models: Sequence[str]
) -> tuple[dict[str, Result], list[Model]]:
    """Return the one file that has all the models of a panel, and the models.

    Raises:
        ResultError: no file has all of them, or several have.
    """
    found = [_found(files, name, models, panel.kind) for name in names]
    having = [
        file for file in files if all(any(one.file == file for one in each) for each in found)
    ]
    if len(having) != 1:
        verb = "is" if len(names) == 1 else "are"
        what = f"{' and '.join(names)} {verb} in {'no one file' if not having else 'several files'}"
        what = what if names else "there are several files"
        raise ResultError(
            f"{what}: the panel {panel.kind} is of one, name it with file= ({', '.join(files)})"
        )
    (file,) = having
    return {file: files[file]}, [next(one for one in each if one.file == file) for each in found]


def _chosen(
    files: Mapping[str, Result], kind: Kind, panel: Panel, models: Sequence[str] | None
) -> list[Model] | None:
    """Return the models to show, of all files; `None` leaves it to the kind."""
    if models is None and len(files) == 1:
        return None
    tokens = panel.options.get("tokens")
    if models is None:
        return [
            Model(name, result=result, file=file)
            for file, result in files.items()
            for name in (
                result.groups if panel.kind == "ceiling" else checked_names(result, None, tokens)
            )
        ]
    known = {name for result in files.values() for name in _names(result)}
    shown = [model for model in models if str(model) in known]
    if not shown:
        raise NothingToDraw(
            f"none of the models {', '.join(models)} is in the file of the panel {panel.kind}"
        )
    return [
        each
        for model in shown
        for each in _found(files, model, models, panel.kind)
        if panel.kind != "ceiling" or each in files[each.file].groups
    ]
