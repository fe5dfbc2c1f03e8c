"""What stands around the package: the version, the citation, hooks and the workflow of a public CI."""

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import refiner_cka as rc

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


def test_the_version_is_that_of_the_project_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert rc.__version__ == cited == project["version"]


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
