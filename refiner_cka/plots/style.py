"""How figures look: sizes, fonts and colours for print; no global setting is touched."""

from __future__ import annotations

import contextlib
import functools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ResultError, known_names, one_line
from ..grammar import literal

COLUMN, PAGE = 3.25, 6.75
"""Widths of a figure in inches: one column of a two-column paper, and the whole page."""

STYLES = {"column": (COLUMN, 8.0), "text": (PAGE, 8.0), "talk": (10.0, 18.0)}
"""Style -> width of a figure in inches, and size of its text in points."""

PER_EM = 1.9
"""Characters to the size of the text, on average."""

GREY = "0.35"
"""Notes, and the lines at 0 and 1."""

COLOURS = (
    "#4f24c3",
    "#eeb51e",
    "#3ca276",
    "#411d47",
    "#97a7d0",
    "#b93406",
    "#b7b962",
    "#0f2a02",
    "#813da0",
    "#5c5046",
)
"""Searched for: far apart in CIELAB also with simulated protanopia, deuteranopia and tritanopia (Machado et
al. 2009), and the first four far apart in lightness for grey print. Markers tell the rest apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X", ">", "*")

FONTS = ("Arial", "Helvetica", "Liberation Sans", "DejaVu Sans")
"""Sans fonts of papers, the first that is there; the last comes with matplotlib and has every sign."""

_PLACED: dict[Any, Any] = {"figure.autolayout": False, "figure.constrained_layout.use": False}
"""Figures say themselves how they are laid out; other settings would move axes at each file that is saved."""

_REFUSED = ("backend", "interactive", "savefig.directory", "text.usetex", "toolbar")
"""Settings that are none of a figure's look, or, as LaTeX, take names for programs."""


class NothingToDraw(ResultError):
    """A result holds nothing that a plot shows."""


@dataclass(frozen=True)
class Look:
    """What figures are drawn with.

    Attributes:
        settings: of matplotlib.
        width: of a figure in inches; `None` leaves each its own.
        height: the same, where it was asked for.
    """

    settings: Any
    width: float | None = None
    height: float | None = None


_look: ContextVar[Look | None] = ContextVar("look", default=None)


@contextlib.contextmanager
def styled(
    style: str | Path | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Draw what is drawn inside the block in a style, and nothing else.

    Args:
        style: `column` (3.25 in and 8 pt), `text` (6.75 in), `talk`, or a file of matplotlib's settings
            (`.mplstyle`), of which nothing is executed; `None` leaves every figure its own width.
        settings: of matplotlib, over those of the style; text is read as in such a file.

    Raises:
        ResultError: no such style, setting or value.
    """
    own = _of_file(style) if style is not None and str(style) not in STYLES else {}
    own |= _checked((settings or {}).items(), "")
    width: float | None
    width, points = STYLES.get(str(style), STYLES["column"])
    if "font.sans-serif" in own:
        own = {"font.family": own["font.sans-serif"], **own}
    height = None
    if style is None:
        width = None
    if "figure.figsize" in own:
        width, height = own["figure.figsize"]
    look = Look(_base(own.get("font.size", points)) | own | _PLACED, width, height)
    token = _look.set(look)
    try:
        with paper():
            yield
    finally:
        _look.reset(token)


@contextlib.contextmanager
def paper() -> Iterator[None]:
    """Apply the style to what is drawn inside the block, and to nothing else."""
    with mpl.rc_context(current().settings):
        yield


def current() -> Look:
    """Return what figures are drawn with here."""
    return _look.get() or Look(_base(STYLES["column"][1]))


def small() -> float:
    """Return the size of the smallest text in points."""
    return float(current().settings["xtick.labelsize"])


@functools.cache
def _base(points: float) -> dict[str, Any]:
    """Return the settings for text of a size in points."""
    there = {font.name for font in font_manager.fontManager.ttflist}
    scale, little = points / 8.0, points * 7 / 8
    return {
        "font.size": points,
        # By name, so that a figure that is saved elsewhere keeps its font.
        "font.family": [font for font in FONTS if font in there],
        "axes.labelsize": points,
        "axes.titlesize": little,
        "axes.linewidth": 0.6 * scale,
        "axes.prop_cycle": cycler(color=COLOURS),
        "xtick.labelsize": little,
        "ytick.labelsize": little,
        "xtick.major.width": 0.6 * scale,
        "ytick.major.width": 0.6 * scale,
        "xtick.major.size": 2.5 * scale,
        "ytick.major.size": 2.5 * scale,
        "lines.linewidth": 1.2 * scale,
        "lines.markersize": 3.2 * scale,
        "hatch.linewidth": 0.5 * scale,
        "image.cmap": "magma",
        "figure.constrained_layout.w_pad": 0.03,
        "figure.constrained_layout.h_pad": 0.03,
        **_PLACED,
        "savefig.dpi": 300,
        # Text stays text, which publishers ask for: TrueType in PDF, and letters in SVG.
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "refiner-cka",
    }


def _fonts(names: Sequence[str]) -> list[str]:
    """Return those of several fonts that are there: of others matplotlib complains at each word it draws."""
    known = {
        *font_manager.font_family_aliases,
        *(font.name for font in font_manager.fontManager.ttflist),
    }
    if found := [name for name in names if name in known]:
        return found
    raise ValueError(f"no font {names[0]!r} here: {known_names(names[0], sorted(known))}")


def _of_file(style: str | Path) -> dict[str, Any]:
    """Return the settings of a style file, each line of which is `name: value`."""
    path = Path(style).expanduser()
    if path.suffix != ".mplstyle":
        names = [*STYLES, "a file that ends in .mplstyle"]
        raise ResultError(f"no style {str(style)!r}: {known_names(str(style), names)}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"cannot read the style {path}: {one_line(error)}") from error
    # A comment begins at a # outside quotes.
    written = [re.sub(r"""^((?:[^#"']|"[^"]*"|'[^']*')*)#.*""", r"\1", line) for line in lines]
    pairs = [line.partition(":")[::2] for line in written if line.strip()]
    return _checked(pairs, f" of {path}")


def _checked(pairs: Iterable[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Return settings as matplotlib understands them."""
    found: dict[str, Any] = {}
    for name, value in ((name.strip(), value) for name, value in pairs):
        if name not in mpl.rcParamsDefault:
            known = known_names(name, sorted(mpl.rcParamsDefault))
            raise ResultError(f"matplotlib has no setting {name!r}{where}: {known}")
        if name in _REFUSED or "preamble" in name:
            raise ResultError(f"the setting {name}{where} is none of a figure's look: leave it out")
        try:
            found[name] = _setting(name, value.strip() if isinstance(value, str) else value)
        except (ValueError, TypeError, KeyError) as error:
            raise ResultError(f"the setting {name}{where}: {one_line(error)}") from error
    return found


def _setting(name: str, value: Any) -> Any:
    """Return the value of one setting; colours of a cycle are read here, matplotlib would evaluate them."""
    if name == "axes.prop_cycle" and isinstance(value, str):
        listed = re.fullmatch(
            r"cycler\(\s*(?:'color'|\"color\"|color)\s*[,=]\s*(.*)\)", value, re.DOTALL
        )
        colours = literal(listed[1]) if listed else value.split(",")
        colours = [colours] if isinstance(colours, str) else colours
        return cycler(color=[mpl.colors.to_hex(str(colour).strip()) for colour in colours])
    if name == "image.cmap" and value not in mpl.colormaps:
        raise ValueError(f"no colours {value!r}: {known_names(str(value), list(mpl.colormaps))}")
    (validated,) = mpl.RcParams({name: value}).values()
    if name == "font.family":
        validated = _fonts(validated)
    if name.endswith("dpi") and not isinstance(validated, str) and not validated > 0:
        raise ValueError("give a positive number")
    if name.endswith("size") and name != "figure.figsize" and isinstance(validated, str):
        raise ValueError("give a number of points")
    return validated


class PaperFigure(Figure):
    """A figure that is drawn and saved with the settings it was made with, wherever that is.

    Attributes:
        told: what its panels say of themselves while it is put together.
        placed: whether its axes are where laying it out would put them, as long as nothing is added.
        settings: of matplotlib, that it was made with.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: dict[Axes, Any] = {}
        self.placed = False
        self.settings = current().settings

    def draw(self, renderer: Any) -> None:
        """Draw it."""
        with mpl.rc_context(self.settings):
            super().draw(renderer)

    def get_tightbbox(self, *args: Any, **kwargs: Any) -> Any:
        """Return the box around all that is drawn; how many ticks there are depends on the settings."""
        with mpl.rc_context(self.settings):
            return super().get_tightbbox(*args, **kwargs)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """Save it; for the arguments see `matplotlib.figure.Figure.savefig`."""
        with mpl.rc_context(self.settings):
            super().savefig(*args, **kwargs)


def lay_out(figure: Figure) -> None:
    """Give axes their places, as drawing begins with; the drawing itself takes as long again."""
    if (engine := figure.get_layout_engine()) is not None:
        with mpl.rc_context(figure.settings if isinstance(figure, PaperFigure) else None):
            engine.execute(figure)


def stay(figure: Figure) -> None:
    """Have axes stay where they are.

    Without an engine: with one that does nothing, matplotlib draws once more for each file.
    """
    with mpl.rc_context(_PLACED):
        figure.set_layout_engine(None)


def new_figure(width: float, height: float) -> PaperFigure:
    """Return an empty figure in inches that pyplot knows nothing of, so nobody has to close it."""
    return PaperFigure(figsize=(width, height), layout="constrained")


def series(number: int) -> dict[str, Any]:
    """Return colour and marker of line `number`; beyond ten, other pairs of the two."""
    colours = current().settings["axes.prop_cycle"].by_key().get("color", COLOURS)
    shift = number // len(colours)
    marker = MARKERS[(number + shift) % len(MARKERS)]
    return {"color": colours[number % len(colours)], "marker": marker}


def note(ax: Axes, text: str) -> None:
    """Write small remarks above the axes, broken where they are wider than these."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    lines = wrapped(text.splitlines(), ax.get_window_extent().width / figure.dpi)
    ax.set_title(lines, loc="left", fontsize=small(), color=GREY, parse_math=False)


def wrapped(parts: Iterable[str], width: float) -> str:
    """Return small text in lines of at most so many inches, each part on lines of its own."""
    most = max(12, int(width * 72 / small() * PER_EM))
    return "\n".join(line for part in parts for line in textwrap.wrap(part, most))


def shortened(names: Sequence[str], limit: int) -> list[str]:
    """Return names of at most `limit` characters with their middles left out; longer if two became equal."""
    if limit >= max(map(len, names), default=0):
        return list(names)
    short = [
        name if len(name) <= limit else f"{name[: limit // 2]}…{name[-(limit - limit // 2 - 1) :]}"
        for name in names
    ]
    return short if len(set(short)) == len(set(names)) else shortened(names, limit + 4)


def letters_in(ax: Axes, *, upright: bool) -> int:
    """Return how many characters of a label go along an axis, at least a few: the vertical one if `upright`.

    The width of axes is known before they are laid out to within the room that labels take.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    box = ax.get_window_extent()
    size = float(current().settings["axes.labelsize"])
    return max(8, int((box.height if upright else box.width) / figure.dpi * 72 / (0.52 * size)))


def plural(count: int, noun: str) -> str:
    """Return a count and its noun, `1 image`, `2,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
