"""What stands around the package: the version, the citation, hooks and the workflow of a public CI."""

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import refiner_cka as rc
from refiner_cka.results import bibliography
from tests.cli.running import succeed

ROOT = Path(__file__).parents[1]
WORKFLOW = ".github/workflows/test.yml"
CHECKS = {
    "citation": ["check_jsonschema", "--builtin-schema", "citation-file-format", "CITATION.cff"],
    "workflow": ["check_jsonschema", "--builtin-schema", "github-workflows", WORKFLOW],
    "time limits": [
        *("check_jsonschema", "--builtin-schema", "custom.github-workflows-require-timeout"),
        WORKFLOW,
    ],
    "hooks": ["pre_commit", "validate-config", ".pre-commit-config.yaml"],
}
RECIPE = ".conda/recipe.yaml"
CONDA = {"lazy_loader": "lazy-loader", "matplotlib": "matplotlib-base", "torch": "pytorch"}
"""What packages are called on conda-forge, where it is something else."""


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_that_of_the_project_everywhere():
    project = pyproject()["project"]
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert rc.__version__ == cited == project["version"]


def test_the_conda_recipe_asks_for_what_the_project_does():
    recipe, project = yaml.safe_load((ROOT / RECIPE).read_text()), pyproject()["project"]
    held, needed = recipe["context"], recipe["requirements"]
    assert held["version"] == project["version"]
    assert f">={held['python_min']}" == project["requires-python"]
    asked = [each.partition(">=") for each in project["dependencies"]]
    wanted = [f"{CONDA.get(name, name)} >={least}" for name, _, least in asked]
    assert needed["run"] == ["python >=${{ python_min }}", *wanted]
    build = [each.replace(">=", " >=") for each in pyproject()["build-system"]["requires"]]
    assert needed["host"] == ["python ${{ python_min }}.*", "pip", *build]
    scripts = [f"{name} = {place}" for name, place in project["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts
    about = recipe["about"]
    assert about["summary"] == project["description"]
    assert (about["license"], [about["license_file"]]) == (
        project["license"],
        project["license-files"],
    )


@pytest.mark.whole
@pytest.mark.skipif(
    not find_spec("rattler_build"),
    reason="the packages of the extra `release` are not installed",
)
def test_the_conda_recipe_is_what_the_builder_takes():
    from rattler_build import Stage0Recipe

    (built,) = Stage0Recipe.from_file(ROOT / RECIPE).render()
    package = built.recipe.package
    assert (package.name, str(package.version)) == ("refiner-cka", rc.__version__)


def entry(text):
    """The fields of a BibTeX entry, without the braces around what keeps its case."""
    fields = re.findall(r"^  (\w+)\s*= \{(.*?)\}(?:,$|\s*^\}$)", text, re.MULTILINE | re.DOTALL)
    return {name: re.sub(r"[{}]", "", " ".join(value.split())) for name, value in fields}


def check_same(cited, bibtex):
    """A part of CITATION.cff says what an entry does."""
    people = (
        author.get("name") or f"{author['family-names']}, {author['given-names']}"
        for author in cited["authors"]
    )
    assert cited["title"] == bibtex["title"]
    assert " and ".join(people) == bibtex["author"]
    assert str(cited.get("year", "")) == bibtex.get("year", "")


def test_the_citation_is_what_the_command_line_and_methods_print():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    printed = succeed("--version", "--bibtex").stdout
    assert printed == succeed("--bibtex", "--version").stdout == succeed("--bibtex").stdout
    assert succeed("--version").stdout == f"{rc.__version__}\n"
    check_same(cited, entry(printed))
    assert entry(printed)["note"] == f"Version {cited['version']}"
    cka, refiner = cited["references"]
    check_same(cka, entry(bibliography.CKA))
    assert entry(bibliography.CKA)["booktitle"] == cka["collection-title"]
    assert entry(bibliography.CKA)["pages"] == f"{cka['start']}--{cka['end']}"
    check_same(refiner, entry(bibliography.REFINER))
    assert entry(bibliography.REFINER)["note"] == refiner["identifiers"][0]["value"]


@pytest.mark.whole
@pytest.mark.skipif(
    not all(map(find_spec, ("check_jsonschema", "pre_commit"))),
    reason="the packages of the extra `release` are not installed",
)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_files_for_other_programs_are_what_these_take(check):
    done = subprocess.run(
        [sys.executable, "-m", *check], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
