"""The wheel, built from a clean copy and run in an empty folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import refiner_cka as rc

ROOT = Path(__file__).parents[1]
ENDS = (".tar.gz", "-py3-none-any.whl")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy, so that no earlier build's files get in and none are left."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("refiner_cka", "cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [*command, "--wheel-dir", built, source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(built.glob("refiner_cka-*.whl"))


def check_files(wheel):
    def files(folder, target):
        return {
            f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == files("refiner_cka", "refiner_cka") | files("cli", "refiner_cka/cli")


def test_it_holds_every_module_and_data_file_and_nothing_else(wheel):
    check_files(wheel)


@pytest.mark.whole
@pytest.mark.skipif(
    not all(map(find_spec, ("build", "twine"))),
    reason="the packages of the extra `release` are not installed",
)
def test_what_would_be_published_is_whole_and_its_metadata_are_in_order(source, tmp_path):
    for command in (
        ["build", "--no-isolation", "--outdir", tmp_path, source],
        [
            "twine",
            "check",
            "--strict",
            *(tmp_path / f"refiner_cka-{rc.__version__}{end}" for end in ENDS),
        ],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    check_files(tmp_path / f"refiner_cka-{rc.__version__}{ENDS[1]}")  # made from the other


def test_the_main_job_runs_from_it_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert (
        run("-c", "import refiner_cka; print(refiner_cka.__file__)").strip().startswith(str(site))
    )
    command = "from refiner_cka.cli.app import main; main()"
    arguments = [
        "--data",
        "digits",
        "--images",
        "16",
        "--batch-size",
        "8",
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    found = run("-c", command, "analyze", "--model", "test_vit=random,img_size=32", *arguments)
    assert "CKA(first," in found  # the head of a column, in two lines
    assert (empty / "results" / "analysis.h5").exists()
    assert (empty / "results" / "curves.pdf").exists()
