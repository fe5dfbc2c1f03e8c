"""The structure: which module may import which, what is public, what the wheel holds, what stays light."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import refiner_cka as rc

ROOT = Path(__file__).parents[1]


def rooms():
    """The rooms from top to bottom, as the page on the architecture lists them."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    return re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)


def modules():
    """Every module of the project by its dotted name, packages too."""
    found = {}
    for package in ("refiner_cka", "cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module):
    """The room a module belongs to."""
    first, *rest = module.split(".")
    return "cli" if first == "cli" else (rest or ["__init__"])[0]


def imports(path, known):
    """Modules of this project that a file imports, also inside functions and for type checkers alone."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                name = ".".join([*base, alias.name])
                target = name if name in known else ".".join(base)
                if target in known:
                    yield target, node.lineno


def test_every_module_is_in_a_room_and_no_room_is_empty():
    assert {room(module) for module in modules()} == set(rooms())


def test_imports_point_down():
    known, level = modules(), {name: number for number, name in enumerate(reversed(rooms()))}
    offenders = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in known.items()
        for target, line in imports(path, known)
        if room(target) != room(module) and level[room(target)] >= level[room(module)]
    ]
    assert offenders == []


def test_measures_and_results_do_not_know_each_other():
    known = modules()
    offenders = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in known.items()
        for target, line in imports(path, known)
        if {room(module), room(target)} == {"measures", "results"}
    ]
    assert offenders == []


def test_the_command_line_knows_only_the_top_of_the_library():
    known = modules()
    offenders = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in known.items()
        for target, line in imports(path, known)
        if room(module) == "cli" and room(target) not in ("cli", "__init__")
    ]
    assert offenders == []


def test_no_imports_form_a_circle():
    known = modules()
    graph = {
        module: {target for target, _ in imports(path, known)} for module, path in known.items()
    }
    done = set()
    while ready := {name for name in graph if name not in done and not graph[name] - done}:
        done |= ready
    assert done == graph.keys(), f"circle among {sorted(graph.keys() - done)}"


def test_public_names():
    assert sorted(rc.__all__) == [
        "Analysis",
        "AnalysisWarning",
        "Augmentation",
        "CheckpointError",
        "DataError",
        "DeviceError",
        "Interrupted",
        "LayerError",
        "ModelError",
        "Options",
        "Precision",
        "Preprocessing",
        "ProcessError",
        "Recipe",
        "RefinerCkaError",
        "Result",
        "ResultError",
        "ResultFileError",
        "Subject",
        "accuracy",
        "analyze",
        "cka",
        "diff",
        "load",
        "measure",
        "merge",
        "plots",
        "prepare",
        "printable",
        "report",
        "results",
        "save_weights",
        "subjects",
        "summarize",
        "token_maps",
        "train",
    ]
    assert all(getattr(rc, name) is not None for name in rc.__all__)
    assert set(rc.__all__) <= set(dir(rc))
    with pytest.raises(AttributeError, match="nothing"):
        _ = rc.nothing


def test_no_module_bears_the_name_of_a_public_function():
    modules = {path.stem for path in (ROOT / "refiner_cka").glob("*.py")}
    assert (
        modules
        & {name for name in rc.__all__ if name not in ("plots", "report", "results", "subjects")}
        == set()
    )


def test_every_package_is_in_the_wheel():
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "refiner_cka").rglob("__init__.py")
    }
    assert listed == found | {"refiner_cka.cli"}


def imported_by(*lines):
    """Return the modules a fresh interpreter holds after these lines."""
    script = "\n".join([*lines, "import sys, json", "print(json.dumps(sorted(sys.modules)))"])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def imported_by_command(*arguments):
    """Return the modules a fresh interpreter holds after a command that succeeds."""
    return imported_by(
        "import sys, cli.app",
        f"sys.argv = ['refiner-cka', *{arguments!r}]",
        "try: cli.app.main()",
        "except SystemExit as done: assert not done.code, done.code",
    )


@pytest.mark.parametrize("arguments", [("analyze", "--help"), ("models",)])
def test_help_and_the_list_of_aliases_import_nothing_heavy(arguments):
    held = imported_by_command(*arguments)
    assert held & {"numpy", "torch", "timm", "matplotlib", "h5py", "scipy"} == set()


def test_what_works_from_a_file_imports_neither_torch_nor_timm(tmp_path):
    golden = str(ROOT / "tests" / "golden" / "v1.h5")
    for arguments in (
        ["show", golden],
        ["plot", golden, "--out", str(tmp_path)],
        ["report", golden, "--out", str(tmp_path / "page.html")],
    ):
        held = imported_by_command(*arguments)
        assert "h5py" in held
        assert held & {"torch", "timm", "torchvision"} == set()
    assert list(tmp_path.glob("*.pdf"))


def test_importing_the_package_is_light():
    held = imported_by("import refiner_cka as rc", "rc.RefinerCkaError")
    assert held & {"numpy", "torch", "timm"} == set()
