"""`refiner-cka`: one command a file; errors become one line and an exit code here."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import refiner_cka as rc

from . import analyze, console, export, maps, merge, models, plot, show


class Commands(TyperGroup):
    """Turns every failure of a command into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; 1 for a refusal, 130 when interrupted."""
        try:
            return super().invoke(ctx)
        except rc.RefinerCkaError as error:
            _raise_if_debugging(ctx)
            console.error(str(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            _raise_if_debugging(ctx)
            console.error("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise typer.Exit(1) from None
        except Exception as error:
            if type(error).__module__.startswith(("click", "typer")):
                raise
            _raise_if_debugging(ctx)
            reason = (str(error).strip() or "no message").splitlines()[0]
            console.error(
                f"unexpected {type(error).__name__}: {reason} (repeat as `refiner-cka --debug ...` for the "
                "whole story)"
            )
            raise typer.Exit(1) from None


def _raise_if_debugging(ctx: Any) -> None:
    if ctx.params.get("debug"):
        raise


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How a network's representations change with depth: minibatch CKA, over-smoothing, figures.",
)
app.command()(analyze.analyze)
app.command()(plot.plot)
app.command()(show.show)
app.command()(merge.merge)
app.command()(models.models)
app.command()(export.export)
app.command()(maps.maps)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(rc.__version__)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and all warnings.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Prepare what every command shares."""
    if not debug:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", rc.AnalysisWarning)
        warnings.showwarning = console.show_warning


def main() -> None:
    """Run the command line."""
    app(prog_name="refiner-cka")


if __name__ == "__main__":
    main()
