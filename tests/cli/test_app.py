"""What all commands share: the parser's refusals, and errors in one line."""

import pytest
import typer
from typer.core import TyperOption

import refiner_cka as rc
from cli.app import app
from tests.cli.running import MODEL, SMALL, command, refused


def test_the_parser_refuses_with_code_2():
    assert command("analyze").exit_code == 2
    assert command("analyze", *MODEL, *SMALL, "--precision", "fp8").exit_code == 2
    assert command("analyze", *MODEL, *SMALL, "--shard", "one").exit_code == 2


SINGLE = {
    (name, option.opts[0]): option
    for name, each in typer.main.get_command(app).commands.items()
    for option in each.params
    if isinstance(option, TyperOption) and not (option.multiple or option.is_flag)
}


def test_options_of_one_value_are_known():
    wanted = "analyze --data", "analyze --seed", "models --search", "maps --model"
    assert {tuple(each.split()) for each in wanted} <= set(SINGLE)
    assert ("analyze", "--model") not in SINGLE


@pytest.mark.parametrize(("name", "option"), SINGLE)
def test_an_option_of_one_value_given_twice_is_refused(name, option):
    """Also with equal values: whoever writes one twice means something else by one of them."""
    given = [option, *["1"] * SINGLE[name, option].nargs]
    done = command(name, *given, *given)
    assert done.exit_code == 2
    assert done.stdout == ""
    [line] = [line for line in done.stderr.splitlines() if " twice" in line]
    assert f"{option} is given twice: give it once." in line


def test_an_option_given_twice_is_found_however_it_is_written():
    twice = ["--seed=0", "--seed", "0"]
    assert "--seed is given twice" in command("analyze", *MODEL, *SMALL, *twice).stderr
    assert "--seed is given 3 times" in command("analyze", *twice, "--seed=1").stderr
    # A flag says the same thing twice; what stands after `--` is no option.
    assert command("show", "--json", "--json", "none.h5").exit_code == 1
    assert "twice" not in command("models", "--search=a", "--", "--search", "b").stderr


def test_an_unexpected_error_is_one_line_without_debug(monkeypatch):
    def fail(*_args, **_kwargs):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(rc, "prepare", fail)
    assert "unexpected ZeroDivisionError: by" in refused("analyze", *MODEL, *SMALL)
    assert isinstance(command("--debug", "analyze", *MODEL, *SMALL).exception, ZeroDivisionError)
