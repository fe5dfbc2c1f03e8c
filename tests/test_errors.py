"""Messages on one line."""

import pytest

from refiner_cka.errors import AnalysisWarning, one_line, some, warn


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n  \n  first \nsecond"), "first"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (RuntimeError("x" * 160), "x" * 160),
        (RuntimeError("x" * 161), "x" * 157 + "..."),
        (FileNotFoundError(2, "No such file or directory", "a.png"), "No such file or directory"),
        (OSError("no number"), "no number"),
    ],
)
def test_an_exception_in_one_line(error, expected):
    assert one_line(error) == expected


def test_the_path_of_an_exception_is_kept_where_it_is_asked_for():
    error = FileNotFoundError(2, "No such file or directory", "a.png")
    assert one_line(error, path=True) == "[Errno 2] No such file or directory: 'a.png'"


def test_the_first_of_many_names():
    assert some(["a"]) == "a"
    assert some(list("abc")) == "a, b, c"
    assert some(list("abcde"), 2) == "a, b (+3 more)"


def test_a_warning_reaches_code_that_has_no_module():
    with pytest.warns(AnalysisWarning, match="assumed"):
        exec("warn('assumed')", {"warn": warn})
