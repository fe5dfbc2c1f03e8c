"""The pages of the reference, written from the code when the site is built: the commands, and the public names.

python docs/reference.py FOLDER writes them there.
"""

import ast
import importlib
import inspect
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "refiner_cka"
STUB = ROOT / PACKAGE / "__init__.pyi"

ROOMS = {
    "analysis": "The run",
    "measures": "Two arrays",
    "options": "Options",
    "results": "Results",
    "report": "Report",
    "plots": "Figures",
    "subjects": "Models and layers",
    "images": "Images",
    "training": "Training",
    "errors": "Errors",
}
"""Room -> title of its page, in the order of the sidebar."""

DOORS = ("results", "report", "plots", "subjects", "images")
"""Rooms whose own public names are documented too."""


class Name(NamedTuple):
    """A public name.

    Attributes:
        room: the room of the package it comes from.
        path: what to write to reach it: `refiner_cka.analyze`.
        origin: the module that defines it.
    """

    room: str
    path: str
    origin: str

    @property
    def thing(self) -> Any:
        """What it names."""
        module, _, name = self.path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def public_names() -> list[Name]:
    """Return what `import refiner_cka` offers, and what its doors offer beside that."""
    direct = [
        Name(origin.split(".")[1], f"{PACKAGE}.{name}", origin)
        for name, origin in _offered(STUB, PACKAGE)
        if origin != PACKAGE
    ]
    doors = [
        Name(room, f"{PACKAGE}.{room}.{name}", origin)
        for room in DOORS
        for name, origin in _offered(ROOT / PACKAGE / room / "__init__.py", f"{PACKAGE}.{room}")
    ]
    taken = [name.thing for name in direct]
    return direct + [name for name in doors if not any(name.thing is one for one in taken)]


def write(folder: Path) -> None:
    """Write the pages, replacing what an earlier build left.

    Args:
        folder: made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in itertools.chain(folder.glob("*.md"), folder.glob("*.rst")):
        old.unlink()
    (folder / "commands.md").write_text(commands())
    names = sorted(public_names(), key=_order)
    for room in ROOMS:
        (folder / f"{room}.rst").write_text(
            _page(room, [each for each in names if each.room == room])
        )
    (folder / "python.rst").write_text(_contents(names))


def _order(name: Name) -> tuple[int, str]:
    """Return the place of a name on its page: functions, classes, constants, each by the alphabet."""
    kinds = (inspect.isroutine(name.thing), inspect.isclass(name.thing), True)
    return kinds.index(True), name.path.casefold()


def as_rst(text: str) -> str:
    """Return a docstring with its plurals, `Subject`s, as reStructuredText takes them."""
    return re.sub(r"(`[^`]+`)(\w?)", lambda found: "\\ ".join(filter(None, found.groups())), text)


def commands() -> str:
    """Return the page of every command and option, as Typer documents an application."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "cli.app", "utils", "docs", "--name", "refiner-cka"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    text = done.stdout.replace("# `refiner-cka`\n", "# Commands\n", 1)
    about = dict(re.findall(r"^## `refiner-cka (\w+)`\n\n(.*?)\n\n", text, re.M | re.S))
    # Typer cuts what it says of each command in its list.
    return re.sub(
        r"^\* `(\w+)`: .*$", lambda row: f"* `{row[1]}`: {about[row[1]]}", text, flags=re.M
    )


def _offered(file: Path, module: str) -> Iterator[tuple[str, str]]:
    """Yield the public names of a module and where each is defined.

    Those it passes on under their own name, those in its `__all__`, and those it defines.
    """
    body = ast.parse(file.read_text()).body
    listed = [name for node in body for name in _listed(node)]
    for node in body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in (alias.asname, *listed):
                    yield alias.name, f"{module}.{node.module}" if node.module else module
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, module
        elif isinstance(node, ast.AnnAssign) and (name := ast.unparse(node.target)).isupper():
            yield name, module


def _listed(node: ast.stmt) -> list[str]:
    """Return what a statement puts into `__all__`."""
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
        return list(ast.literal_eval(node.value))
    return []


def _page(room: str, names: Iterable[Name]) -> str:
    """Return the page of a room: what it is in a line, then each of its names."""
    module = importlib.import_module(f"{PACKAGE}.{room}")
    about = inspect.cleandoc(module.__doc__ or "").split("\n\n")[0]
    return "\n\n".join([_heading(ROOMS[room]), about, *map(_directive, names)]) + "\n"


def _directive(name: Name) -> str:
    """Return the directive that documents a name."""
    if inspect.isclass(name.thing) and issubclass(name.thing, BaseException):
        return f".. autoexception:: {name.path}\n   :show-inheritance:"
    if inspect.isclass(name.thing):
        return f".. autoclass:: {name.path}\n   :members:\n   :inherited-members: object"
    if inspect.isroutine(name.thing):
        return f".. autofunction:: {name.path}"
    return f".. py:data:: {name.path}\n\n   {_about(name)}"


def _contents(names: Iterable[Name]) -> str:
    """Return the page that lists every public name with the first line of its docstring."""
    lines = [_heading("Python"), ".. code-block:: python\n\n   import refiner_cka as rc"]
    lines.append(".. toctree::\n   :hidden:\n\n" + "\n".join(f"   {room}" for room in ROOMS))
    for room, title in ROOMS.items():
        lines.append(_heading(title, "-"))
        lines.append("\n".join(_line(name) for name in names if name.room == room))
    return "\n\n".join(lines) + "\n"


def _line(name: Name) -> str:
    """Return a row of the list: a link to a name, and what it is."""
    short = name.path.replace(PACKAGE, "rc", 1)
    return f"- :py:obj:`{short} <{name.path}>`: {_about(name)}"


def _about(name: Name) -> str:
    """Return the first paragraph of what is said about a name where it is defined, in one line."""
    if inspect.isroutine(name.thing) or inspect.isclass(name.thing):
        text = inspect.getdoc(name.thing) or ""
    else:
        docs = ModuleAnalyzer.for_module(name.origin).find_attr_docs()
        text = "\n".join(docs["", name.path.rpartition(".")[2]]).strip()
        if choices := get_args(name.thing):
            text += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    return as_rst(text.split("\n\n")[0].strip().replace("\n", " "))


def _heading(title: str, line: str = "=") -> str:
    return f"{title}\n{line * len(title)}"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
