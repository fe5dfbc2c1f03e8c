"""What the user sees: lines and tables on stdout, messages and progress on stderr.

What a file or a name brings along is escaped: a terminal obeys control characters.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import typer

import refiner_cka as rc

_GAP = 2
"""Spaces between the columns of a table."""

_ELSEWHERE = 200
"""Width of a table that is not printed on a terminal."""


class _Unfailing:
    """A text stream of which it does not matter whether anybody reads it, or whether its disk is full."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare_streams() -> None:
    """Have a run survive streams that are closed, or break: what they miss is no reason to lose a result."""
    # The next file to be opened would take the number of a closed stream, and what is printed would go into it.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # as long as the process lives
    sys.stderr = _Unfailing(sys.stderr)


def _width() -> int | None:
    """Return how many characters fit on a line of the terminal; nothing elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(line: str) -> None:
    """Print a line on stdout."""
    typer.echo(rc.printable(line))


def sentence(text: str) -> None:
    """Print a sentence on stdout: on a terminal without breaking a word or a number, elsewhere as one line."""
    line, room = rc.printable(text), _width()
    if room is not None:
        # `printable` has left no such space in it.
        whole = re.sub(r" (\+-|<|>=) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", line)
        broken = textwrap.wrap(whole, room, break_long_words=False, break_on_hyphens=False)
        line = "\n".join(broken).replace("\N{NO-BREAK SPACE}", " ")
    typer.echo(line)


def lines(text: str, indent: str = "") -> None:
    """Print text of several lines on stdout."""
    for line in text.splitlines():
        say(f"{indent}{line}")


def error(message: str) -> None:
    """Print a refusal: one line on stderr."""
    typer.secho(f"error: {_one_line(message)}", fg="red", err=True)


def warning(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
    """Print a warning: one line on stderr. Stands in for `warnings.showwarning`."""
    typer.secho(f"warning: {_one_line(str(message))}", fg="yellow", err=True)


def note(message: str) -> None:
    """Print a message on stderr."""
    typer.echo(rc.printable(message), err=True)


def _one_line(message: str) -> str:
    return rc.printable(" ".join(message.split()))


@contextmanager
def status(text: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is waited for, until the block ends or the function that it yields says something else.

    Shows nothing when quiet or when stderr is no terminal: in a log it would stay.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner

    def spinner(text: str) -> Spinner:
        return Spinner("dots", text, style="status.spinner")

    # What rich calls a status is first drawn by a thread, which libraries that are loaded keep waiting.
    shown = Live(
        spinner(text), console=Console(stderr=True), refresh_per_second=12.5, transient=True
    )
    with shown:
        yield lambda text: shown.update(spinner(text), refresh=True)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function that draws images done, images per second and time left on stderr.

    Yields None, and draws nothing, when quiet or when stderr is no terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.text import Text

    class Speed(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.0f} images/s")

    columns = (
        bars.TextColumn("images"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        Speed(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Column(NamedTuple):
    """A column of a table: the lines of its head, and its cells."""

    head: list[str]
    cells: list[str]

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        return max(map(cell_len, [*self.head, *self.cells]))

    def headed(self) -> _Column:
        """Return the column with a head of several lines, no wider than what is below it."""
        (head,) = self.head
        width = max([len(head) // 2, *map(len, self.cells)])
        return self._replace(head=_broken(head, width))

    def within(self, room: int) -> _Column:
        """Return the column with cells of several lines where they are wider than the room for it."""
        return self._replace(cells=["\n".join(_broken(cell, room)) for cell in self.cells])


def _broken(text: str, width: int) -> list[str]:
    """Return text in lines of at most a width, broken where a name may be; longer parts stay whole."""
    lines = [""]
    for part in re.findall(r"[^ _./-]*[ _./-]*", text):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def table(headers: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout, in blocks of columns, each with the first, where it is wider than the terminal."""
    room = _width() or _ELSEWHERE
    columns = [
        _Column([rc.printable(head)], [rc.printable(cell) for cell in cells])
        for head, *cells in zip(headers, *rows, strict=True)
    ]
    if _joined(columns) > room:
        columns = [column.headed() for column in columns]
    first, *others = columns
    first = first.within(room - _GAP - max(column.width for column in others))
    while others:
        count = max(1, sum(_joined([first, *others[: n + 1]]) <= room for n in range(len(others))))
        _print([first, *others[:count]], room)
        others = others[count:]


def _joined(columns: Sequence[_Column]) -> int:
    return sum(column.width + _GAP for column in columns) - _GAP


def _print(columns: Sequence[_Column], room: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for column in columns:
        drawn.add_column(
            Text("\n".join(column.head)),
            justify="right" if drawn.columns else "left",
            overflow="fold",
            vertical="bottom",
        )
    for row in zip(*(_hanging(column.cells) for column in columns), strict=True):
        drawn.add_row(*map(Text, row))
    Console(width=room).print(drawn, "")


def _hanging(cells: list[str]) -> list[str]:
    """Return cells so that the numbers stay below one another where some have a mark behind them."""
    marked = any(cell.endswith("*") for cell in cells)
    return [f"{cell} " if marked and not cell.endswith("*") else cell for cell in cells]
