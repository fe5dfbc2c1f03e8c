"""Running a command as a user does."""

from pathlib import Path

from typer.testing import CliRunner

from cli.app import app

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--data", "digits", "--images", "48", "--batch-size", "8"),
    *("--workers", "0", "--device", "cpu"),
]
MODEL = ["--model", "test_vit=random,img_size=32,label=vit"]


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments):
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    return done


def refused(*arguments, code=1):
    """Run a command that must end with one line on stderr and nothing on stdout; return the line."""
    done = command(*arguments)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]
