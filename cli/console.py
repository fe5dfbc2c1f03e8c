"""What the user sees: lines and tables on stdout, messages and progress on stderr.

What a file or a name brings along is escaped: a terminal obeys control characters.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

import refiner_cka as rc


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


def say(line: str) -> None:
    """Print a line on stdout."""
    typer.echo(rc.printable(line))


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

    with Console(stderr=True).status(text) as shown:
        yield shown.update


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


def table(headers: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout, whole lines also where stdout is not a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    cells = [[Text(rc.printable(cell)) for cell in row] for row in rows]
    for position, header in enumerate(headers):
        # Heads of several lines, no wider than what is below them: a narrow terminal would break the numbers.
        width = max([len(header) // 2, *(row[position].cell_len for row in cells)])
        drawn.add_column(
            textwrap.fill(rc.printable(header), width, break_long_words=False),
            justify="right" if position else "left",
            overflow="fold",
            vertical="bottom",
        )
    for row in cells:
        drawn.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(drawn, "")
