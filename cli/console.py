"""What the user sees beside the data: messages, progress and tables. Everything here but tables is stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer


def error(message: str) -> None:
    """Print a refusal: one line on stderr."""
    typer.secho(f"error: {' '.join(message.split())}", fg="red", err=True)


def warning(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
    """Print a warning: one line on stderr. Stands in for `warnings.showwarning`."""
    typer.secho(f"warning: {' '.join(str(message).split())}", fg="yellow", err=True)


def note(message: str) -> None:
    """Print a message on stderr."""
    typer.echo(message, err=True)


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

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, header in enumerate(headers):
        drawn.add_column(header, justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 200).print(drawn)
