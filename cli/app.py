"""`refiner-cka`: one command a file; errors become one line and an exit code here."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

import refiner_cka as rc

from . import analyze, console, diff, export, maps, merge, models, plot, processes, report, show
from .interrupting import Interrupting


class Commands(TyperGroup):
    """Turns every failure of a command into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; 1 for a refusal, 130, 143 or 129 when interrupted.

        A signal is an exception here, so that temporary files are removed; not in one of several processes, which
        may wait for the others where no exception reaches.
        """
        interrupting, alone = Interrupting(), os.environ.get("WORLD_SIZE", "1") == "1"
        with interrupting if alone else contextlib.nullcontext():
            try:
                return super().invoke(ctx)
            except (Exception, KeyboardInterrupt) as error:
                if isinstance(error, typer.Exit | BrokenPipeError):
                    raise  # typer ends quietly where nobody reads on
                speaks = processes.speaks(error)
                of_typer = type(error).__module__.startswith(("click", "typer"))
                if ctx.params.get("debug") or of_typer:
                    raise
                if speaks:
                    console.error(_told(error))
                was_signal = isinstance(error, KeyboardInterrupt)
                raise typer.Exit(interrupting.exit_code if was_signal else 1) from None


def _told(error: BaseException) -> str:
    number = processes.rank()
    return f"process {number}: {_reason(error)}" if number else _reason(error)


def _reason(error: BaseException) -> str:
    if isinstance(error, rc.RefinerCkaError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    reason = (str(error).strip() or "no message").splitlines()[0]
    return (
        f"unexpected {type(error).__name__}: {reason} (repeat as `refiner-cka --debug ...` for the "
        "whole story)"
    )


class Command(TyperCommand):
    """Refuses an option of one value that is given twice, of which the parser alone keeps the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; 2 for an option given twice."""
        *_, order = self.make_parser(ctx).parse_args(args=list(args))
        options = [param for param in order if isinstance(param, TyperOption)]
        single = Counter(option for option in options if not (option.multiple or option.is_flag))
        for option, count in single.items():
            if count > 1 and not ctx.resilient_parsing:
                times = "twice" if count == 2 else f"{count} times"
                ctx.fail(f"{option.opts[0]} is given {times}: give it once.")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How a network's representations change with depth: minibatch CKA, over-smoothing, figures.",
)
for _command in (
    analyze.analyze,
    plot.plot,
    show.show,
    diff.diff,
    merge.merge,
    models.models,
    export.export,
    report.report,
    maps.maps,
):
    app.command(cls=Command)(_command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(rc.__version__)
        raise typer.Exit


def _bibtex(wanted: bool) -> None:
    if wanted:
        typer.echo(rc.results.citation(rc.__version__))
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and all warnings.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, help="Print the version.")
    ] = False,
    bibtex: Annotated[
        bool,
        # Before --version, beside which it may stand.
        typer.Option(
            "--bibtex", callback=_bibtex, is_eager=True, help="Print how to cite this version."
        ),
    ] = False,
) -> None:
    """Prepare what every command shares."""
    if not debug:
        warnings.simplefilter("ignore")
        if processes.rank() == 0:
            warnings.simplefilter("always", rc.AnalysisWarning)
        warnings.showwarning = console.warning


def main() -> None:
    """Run the command line."""
    console.prepare_streams()
    app(prog_name="refiner-cka")


if __name__ == "__main__":
    main()
