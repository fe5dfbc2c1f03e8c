"""Functions whose keyword arguments are the fields of a dataclass of options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from ..subjects.subject import Subject

Models: TypeAlias = Iterable[str | Subject] | str | Subject
Data: TypeAlias = Any
"""A folder, archive or array file by its path, `digits`, a tensor or array, or an `ImageSource`."""

_P = ParamSpec("_P")
_O = TypeVar("_O")
_R = TypeVar("_R")


def accepts(
    options: Callable[_P, _O],
) -> Callable[[Callable[[Models, Data, _O], _R]], Callable[Concatenate[Models, Data, _P], _R]]:
    """Return a decorator: a function of models, data and options comes to take the options as keywords.

    Args:
        options: a dataclass; the names, types and defaults of its fields are those of the keywords.
    """

    def decorate(
        function: Callable[[Models, Data, _O], _R],
    ) -> Callable[Concatenate[Models, Data, _P], _R]:
        @functools.wraps(function)
        def call(models: Models, data: Data, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            signature.bind(models, data, *args, **kwargs)  # refuses others in words of the function
            return function(models, data, options(*args, **kwargs))

        own = inspect.signature(function)
        keywords = inspect.signature(options).parameters.values()
        signature = own.replace(parameters=[*list(own.parameters.values())[:2], *keywords])
        call.__signature__ = signature  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]  # takes models and data by name, too

    return decorate
