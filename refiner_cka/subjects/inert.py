"""A stand-in for `pickle` that reads checkpoints without importing, building or calling anything they name.

Ordinary training checkpoints hold arguments, paths and NumPy numbers beside the weights. torch's restricted
unpickler takes stand-ins for such classes, but not in every pickle protocol, nor for subclasses of `dict` and
`list`; and it looks for a known class in its own message so slowly that a name of 50,000 letters takes half a
minute. Here every class becomes an `Inert` placeholder that takes whatever the pickle hands it and does nothing
with it; plain tensors, their types and `OrderedDict` are the only objects that are really there.

Safety rests on that alone: `find_class` never imports, and nothing it returns can run code from the file. `_CODE`
only decides which files are refused as hostile instead of being read around.

What `torch.load` consists of takes this module for its `pickle_module` and uses `Unpickler` and `load`.
"""

from __future__ import annotations

import builtins
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, ClassVar

import torch

# Python 2 names, written by pickle protocols below 3.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
# What is in a file to run code, and never part of a training state. Functions of `builtins` are added below.
_CODE = re.compile(
    r"(_io|_pickle|_posixsubprocess|asyncio|code|codeop|commands|ctypes|dill|importlib|io|joblib|marshal|"
    r"multiprocessing|nt|os|pdb|pickle|pip|pkgutil|posix|pty|pydoc|runpy|shutil|socket|subprocess|sys|threading|timeit|"
    r"urllib|webbrowser|types\.(Code|Function)Type|numpy\.(f2py|load|testing)|torch\._dynamo|torch\._inductor|"
    r"torch\.(compile|fx|hub|jit|load|ops|package|serialization\.load)|torch\.storage\._load_from_bytes|"
    r"torch\.utils\.cpp_extension)(\.|$)"
)


class CodeFound(Exception):
    """The pickle names something whose only use is to run code; the message is that name."""


class Inert(dict[Any, Any]):
    """Stands for an object of a class that is not imported.

    A mapping, so that a subclass of `dict` that holds a state dict still shows its entries; state, list items and
    set items are dropped.

    Attributes:
        origin: dotted name of the class it stands for.
    """

    origin = ""
    # torch asks the class of a whole pickled network whether to write a patch of its source,
    dump_patches = False
    # and that of a storage without a type of its own what is in it.
    dtype = torch.uint8

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Inert:
        """Take any arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()

    def add(self, _item: Any) -> None:
        """Drop a state, an item of a set's subclass, or items of a list's."""

    __setstate__ = append = extend = add

    def __hash__(self) -> int:  # type: ignore[override]  # placeholders are dictionary keys and set items too
        return id(self)


class _Made:
    """A function that the pickle may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _tensor(
    storage: Any,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Make a plain tensor, refusing a shape beyond its storage: `set_` would grow it, uninitialised."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without a storage")
    untyped, empty = storage._untyped_storage, torch.empty(0, dtype=dtype or storage.dtype)
    stored = untyped.nbytes() // empty.element_size()
    reach = (
        0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    )
    if min((0, offset, *size, *stride)) < 0 or offset + reach > stored:
        raise pickle.UnpicklingError(f"shape {tuple(size)} does not fit {stored} stored numbers")
    return empty.set_(untyped, offset, size, stride)


def _tensor_2(
    storage: Any, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, view: Any = None
) -> torch.Tensor:
    """Make a tensor of a type that has storages of its own."""
    return _tensor_3(storage, offset, size, stride, _grad, _hooks, None, view)


def _tensor_3(
    storage: Any,
    offset: int,
    size: Any,
    stride: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    view: Any = None,
) -> torch.Tensor:
    """Make a tensor of any type, refusing what reads its storage conjugated or negated."""
    if view:
        raise pickle.UnpicklingError("a tensor that is a conjugate or negative of what is stored")
    return _tensor(storage, offset, size, stride, dtype)


def _is_builtin_function(full: str) -> bool:
    module, _, name = full.partition(".")
    named = vars(builtins).get(name.partition(".")[0])
    return module == "builtins" and callable(named) and not isinstance(named, type)


def _subclass(function: Any, _kind: Any, args: tuple[Any, ...], *_unused: Any) -> Any:
    """Make the plain tensor inside a tensor subclass or a tensor with attributes."""
    return function(*args) if isinstance(function, _Made) else Inert()


_MADE = {
    "collections.OrderedDict": _Made(OrderedDict),
    "torch._utils._rebuild_tensor": _Made(_tensor),
    "torch._utils._rebuild_tensor_v2": _Made(_tensor_2),
    "torch._utils._rebuild_tensor_v3": _Made(_tensor_3),
    "torch._utils._rebuild_parameter": _Made(lambda data, *_: data),
    "torch._utils._rebuild_parameter_with_state": _Made(lambda data, *_: data),
    "torch._tensor._rebuild_from_type_v2": _Made(_subclass),
}


# The Python implementation: the C one lets a file of a few bytes ask for a memo of many gigabytes.
class Unpickler(pickle._Unpickler):
    """Unpickles with placeholders for every class."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global; imports nothing.

        Raises:
            CodeFound: the global's use is to run code.
        """
        full = f"{_RENAMED.get(module, module)}.{name}"
        if full in _MADE:
            return _MADE[full]
        if isinstance(found := vars(torch).get(name), torch.dtype) and module == "torch":
            return found
        if _CODE.match(full) or _is_builtin_function(full):
            raise CodeFound(full)
        return type("Inert", (Inert,), {"origin": full})

    def get_extension(self, code: int) -> None:
        """Refuse a registered extension: those are real objects."""
        raise CodeFound(f"copyreg extension {code}")

    def load_build(self) -> None:
        """Refuse to set what something real consists of: a tensor would take any shape."""
        built = self.stack[-2]  # type: ignore[attr-defined]
        if not isinstance(built, (Inert, OrderedDict)):
            raise pickle.UnpicklingError(f"a state for a {type(built).__name__}")
        super().load_build()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
    }


def load(file: IO[bytes], **options: Any) -> Any:
    """Unpickle one object."""
    return Unpickler(file, **options).load()
