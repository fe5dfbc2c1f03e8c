"""What docs/tables.md tells to type runs as it stands, and prints what the result says."""

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

import refiner_cka as rc
from tests.cli.running import succeed
from tests.synthetic import synthetic_result, with_smoothing

PAGE = (Path(__file__).parents[1] / "docs" / "tables.md").read_text()
BLOCKS = dict(
    zip(("pandas", "xarray"), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), strict=True)
)


MODELS = dict.fromkeys(("vit_nano", "deit_nano", "resnet_nano", "refiner_nano"), 12)
"""Those of the command in README.md that makes the file of the page."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where every command of the page was run."""
    folder = tmp_path_factory.mktemp("tables")
    stored = with_smoothing(synthetic_result(MODELS, batches=20), refined=["refiner_nano"])
    stored.save(folder / "results" / "demo" / "analysis.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in re.findall(r"^    refiner-cka (.*)$", PAGE, re.MULTILINE):
            succeed(*shlex.split(line))
    return folder


@pytest.fixture(scope="module")
def result(folder):
    return rc.load(folder / "results" / "demo" / "analysis.h5")


def printed(block, folder, monkeypatch):
    """What a block of Python on the page prints."""
    monkeypatch.chdir(folder)
    with redirect_stdout(io.StringIO()) as stdout:
        exec(BLOCKS[block], {})
    return stdout.getvalue()


def test_every_suffix_is_shown_and_says_what_it_holds(folder):
    assert {path.name for path in folder.glob("run.*")} == {
        f"run{end}" for end in rc.results.WRITERS
    }
    for suffix in rc.results.WRITERS:
        assert f"| `{suffix}` |" in PAGE


def test_every_column_and_every_quantity_is_explained(result):
    table = result.to_dataframe()
    for name in (*table.columns, "cka_last", "s", "top1", "patch_cosine", "attention_entropy"):
        assert f"`{name}`" in PAGE
    assert set(table.what) == {"cka_last", "s", "top1", *result.measures} - {
        name for name in result.measures if len(result.quantity(name).axes) > 1
    }


def test_the_example_in_pandas(result, folder, monkeypatch):
    lines = printed("pandas", folder, monkeypatch).splitlines()
    ends = (result.smoothing("patch_cosine_centred", "vit_nano").values[place] for place in (0, -1))
    (vit,) = (line for line in lines if line.startswith("vit_nano"))
    assert [float(cell) for cell in vit.split()[1:]] == pytest.approx([*ends], abs=0.005)
    s = [result.curve(model).values[-1] for model in sorted(MODELS)]
    (last,) = (line for line in lines if re.match(r"11\b", line))
    assert [float(cell) for cell in last.split()[1:]] == pytest.approx(s, abs=0.005)
    matches = result.best_match("vit_nano", "resnet_nano")
    shown = [line.split()[:2] for line in lines[-len(matches) :]]
    assert shown == [[match.layer, match.match] for match in matches]


def test_the_example_in_xarray(result, folder, monkeypatch):
    found = [float(line) for line in printed("xarray", folder, monkeypatch).split()]
    cosine = result.smoothing("patch_cosine", "vit_nano").values[3]
    np.testing.assert_array_equal(found, [result.cka("vit_nano")[0, 11], cosine])
