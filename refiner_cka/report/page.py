"""The page: what stands in it, put together by a template into one file that requests nothing."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..errors import ResultFileError, printable, some
from ..results import methods
from ..results.atomic import check_writable, write_whole
from ..results.result import Result
from ..results.summary import summarize
from . import curves, matrices
from .curves import Figure
from .looks import DARK, entries
from .panels import Panel
from .texts import plain

_TEMPLATES = files(__package__) / "templates"

_LEVEL = 6
"""Of compression: the highest takes several times as long, for a hundredth."""

SUFFIXES = (".html", ".htm")

NAMED = 6
"""So many models are named in the title."""

SKIPPED = 200
"""So many skipped images are named."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; one that is not of figures is laid out by the template.

    Attributes:
        anchor: its name in the page.
        title: its heading.
        figures: what is drawn in it.
    """

    anchor: str
    title: str
    figures: Sequence[Figure] = ()


def save(result: Result, path: str | Path) -> None:
    """Write the page of a result, whole or not at all.

    Args:
        result: what was measured; half a result is a result.
        path: of the page; its name ends in `.html` or `.htm`.

    Raises:
        ResultFileError: another suffix; the file cannot be written.
    """
    check_writable(path)
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ResultFileError(f"a report is a page for a browser: give {path} the suffix .html")
    write_whole(path, html(result).encode())


def html(result: Result) -> str:
    """Return the page of a result: one document that needs no other file and requests nothing.

    Nothing that comes from the result is markup in it. The template escapes every text; what the figures show is
    escaped for plotly.js and packed; and the page's security policy lets nothing run but the two scripts whose
    digests it names.
    """
    sections = _sections(result)
    panels = [panel for each in sections for figure in each.figures for panel in figure.panels]
    numbers = json.dumps([panel.spec for panel in panels], allow_nan=False, separators=(",", ":"))
    places = {id(panel): place for place, panel in enumerate(panels)}
    environment, library = _environment(places), _library()
    script = _TEMPLATES.joinpath("page.js").read_text("utf-8")
    return environment.get_template("page.html").render(
        title=some(entries(result, result.models), NAMED),
        data=result.provenance.get("data", ""),
        result=result,
        summary=summarize(result),
        paragraph=methods.paragraph(result),
        answers=methods.answers(result),
        bibtex=methods.bibtex(result),
        sections=sections,
        skipped=result.unreadable[:SKIPPED],
        started=result.provenance.get("started", ""),
        made_by=_version(),
        hashes=f"{library.source} {_source(script)}",
        style=Markup(environment.get_template("page.css").render(dark=DARK)),
        plotly=library.packed,
        numbers=_packed(numbers),
        script=Markup(script),
    )


class Library(NamedTuple):
    """The plotting library as the page holds it, and by what its security policy lets it run."""

    packed: Markup
    source: str


@functools.cache
def _library() -> Library:
    script = get_plotlyjs()
    return Library(_packed(script), _source(script))


def _sections(result: Result) -> list[Section]:
    """Return what the page holds, in its order."""
    return [
        Section("summary", "Summary"),
        *([Section("warnings", "Warnings")] if result.warnings else []),
        *_drawn("curves", "Similarity to the last layer", curves.similarity(result)),
        *_drawn(
            "references",
            f"Similarity to the {' and the '.join(result.references)}",
            curves.references(result),
        ),
        *_drawn("trainings", "Between trainings of one recipe", curves.ceilings(result)),
        *_drawn("maps", "Similarity of every two layers", matrices.similarity(result)),
        *_drawn("smoothing", "Over-smoothing", curves.smoothing(result)),
        *_drawn("attention", "Attention", [*curves.attention(result), *matrices.attention(result)]),
        *([Section("skipped", "Skipped images")] if result.unreadable else []),
        Section("methods", "Text for a methods section"),
        Section("answers", "What reviewers ask"),
        Section("provenance", "How it was made"),
    ]


def _drawn(anchor: str, title: str, figures: Iterable[Figure]) -> list[Section]:
    found = [*figures]
    return [Section(anchor, title, found)] if found else []


def _environment(places: dict[int, int]) -> Environment:
    """Return the engine of the templates, which escapes whatever it is not told to leave.

    Args:
        places: of each panel among the page's figures.
    """
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_legible,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def number_of(panel: Panel) -> int:
        return places[id(panel)]

    environment.filters |= {
        "plain": plain,
        "typeset": _typeset,
        "json": _as_json,
        "number_of": number_of,
    }
    return environment


def _legible(value: Any) -> Any:
    """Return text without control characters and stray bytes; what is markup of the page's own as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _typeset(text: str) -> str:
    return re.sub(r"(?<!\S)\+-(?=[ :])", "±", text)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _packed(text: str) -> Markup:
    """Return text compressed, in letters that mean nothing to a browser."""
    return Markup(base64.b64encode(gzip.compress(text.encode(), _LEVEL, mtime=0)).decode())


def _source(script: str) -> str:
    """Return by what a security policy lets a script run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _version() -> str:
    try:
        return version("refiner-cka")
    except PackageNotFoundError:
        return ""
