"""The structure: which module may import which, what is public, what the wheel holds, what stays light."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import refiner_cka as rc

ROOT = Path(__file__).parents[1]

# Bottom to top; a module imports only from levels below its own. Modules of one level do not know one another.
LEVELS = [
    {"errors", "scaling", "sums"},
    {
        "atomic",
        "decoding",
        "estimate",
        "accumulator",
        "hsic",
        "readout",
        "preprocessing",
        "process",
        "hooks",
        "smoothing",
    },
    {"result", "sources", "subjects", "minibatch", "runtime", "refiner", "attention", "locality"},
    {"formats", "plots", "summary", "images", "layouts", "nano", "probe", "attention_points"},
    {"sites"},
    {"identity", "oversmoothing", "maps", "training"},
    {"preparation"},
    {"engine"},
    {"__init__"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def sources():
    for package in ("refiner_cka", "cli"):
        yield from sorted((ROOT / package).rglob("*.py"))


def house(path):
    """The top-level module or sub-package a file belongs to."""
    relative = path.relative_to(ROOT).with_suffix("")
    if relative.parts[0] == "cli":
        return "cli"
    return relative.parts[1]


def module_level_imports(path):
    """Absolute dotted names a file imports when it is imported, `TYPE_CHECKING` blocks left out."""
    package = path.relative_to(ROOT).parts[:-1]
    pending = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield ".".join([*base, alias.name]), node.lineno
        else:
            pending.extend(ast.iter_child_nodes(node))


def own_imports(path):
    """Houses of this project that a file imports, other than its own."""
    for name, line in module_level_imports(path):
        parts = name.split(".")
        if parts[0] == "cli" or parts[:2] == ["refiner_cka", "cli"]:
            target = "cli"
        elif parts[0] == "refiner_cka":
            target = parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"
        else:
            continue
        if target != house(path):
            yield target, line


def test_every_module_has_a_level():
    assert {house(path) for path in sources()} <= set(LEVEL)


def test_imports_point_down():
    offenders = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for path in sources()
        for target, line in own_imports(path)
        if LEVEL[target] >= LEVEL[house(path)]
    ]
    assert offenders == []


def test_the_command_line_knows_only_the_top_of_the_library():
    offenders = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for path in sources()
        for target, line in own_imports(path)
        if house(path) == "cli" and target != "__init__"
    ]
    assert offenders == []


def test_no_import_cycle_within_a_package():
    for package in ("subjects", "formats", "plots", "refiner"):
        graph = {}
        for path in (ROOT / "refiner_cka" / package).glob("*.py"):
            name = f"refiner_cka.{package}.{path.stem}"
            prefix = f"refiner_cka.{package}."
            graph[name] = {
                prefix + target[len(prefix) :].split(".")[0]
                for target, _ in module_level_imports(path)
                if target.startswith(prefix)
            }
        done = set()
        while ready := {
            name for name in graph if name not in done and not (graph[name] & graph.keys()) - done
        }:
            done |= ready
        assert done == graph.keys(), f"cycle among {sorted(graph.keys() - done)}"


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
        "Preprocessing",
        "Recipe",
        "RefinerCkaError",
        "Result",
        "ResultError",
        "ResultFileError",
        "Subject",
        "accuracy",
        "analyze",
        "cka",
        "formats",
        "load",
        "measure",
        "merge",
        "plots",
        "prepare",
        "save_weights",
        "subjects",
        "summarize",
        "token_maps",
        "train",
    ]
    assert all(getattr(rc, name) is not None for name in rc.__all__)
    assert set(rc.__all__) <= set(dir(rc))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rc.nothing


def test_no_module_bears_the_name_of_a_public_function():
    modules = {path.stem for path in (ROOT / "refiner_cka").glob("*.py")}
    assert (
        modules & {name for name in rc.__all__ if name not in ("formats", "plots", "subjects")}
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


def test_help_imports_neither_numpy_nor_anything_heavier():
    held = imported_by(
        "import sys, cli.app",
        "sys.argv = ['refiner-cka', 'analyze', '--help']",
        "try: cli.app.main()",
        "except SystemExit: pass",
    )
    assert held & {"numpy", "torch", "timm", "matplotlib", "h5py", "scipy"} == set()


def test_showing_and_plotting_a_file_import_neither_torch_nor_timm(tmp_path):
    golden = ROOT / "tests" / "golden" / "v1.h5"
    for arguments in (["show", str(golden)], ["plot", str(golden), "--out", str(tmp_path)]):
        held = imported_by(
            "import sys, cli.app",
            f"sys.argv = ['refiner-cka', *{arguments!r}]",
            "try: cli.app.main()",
            "except SystemExit as done: assert not done.code, done.code",
        )
        assert "h5py" in held
        assert held & {"torch", "timm", "torchvision"} == set()
    assert list(tmp_path.glob("*.pdf"))


def test_importing_the_package_is_light():
    held = imported_by("import refiner_cka as rc", "rc.RefinerCkaError")
    assert held & {"numpy", "torch", "timm"} == set()
