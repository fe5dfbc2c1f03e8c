"""The tables say what the result says, in the form their programs read."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from refiner_cka.errors import ResultFileError
from refiner_cka.results import WRITERS, export
from refiner_cka.results.contents import Unreadable
from refiner_cka.sums import FOLDS, Quantity
from tests.synthetic import synthetic_result


@pytest.fixture
def result():
    return synthetic_result(
        {"vit_s": 4, "deit, 50 %": ["a.0", "a.1"]},
        tokens=["all", "cls"],
        constant=[("vit_s", 1)],
        unreadable=[Unreadable("x.png", "truncated")],
        provenance={"seed": 3, "nested": {"nan": math.nan}},
    )


def exported(result, path):
    export(result, path)
    return path.read_text(encoding="utf-8")


def test_csv_has_one_row_per_layer_with_both_curves(result, tmp_path):
    rows = list(csv.DictReader(io.StringIO(exported(result, tmp_path / "run.csv"))))
    assert [(r["model"], r["tokens"], r["path"]) for r in rows] == [
        (layer.model, layer.tokens, layer.path) for layer in result.layers
    ]
    for model, tokens in {(layer.model, layer.tokens) for layer in result.layers}:
        own = [r for r in rows if (r["model"], r["tokens"]) == (model, tokens)]
        for name, normalize in (("cka_last", "none"), ("s", "first-last")):
            curve = result.curve(model, normalize=normalize, tokens=tokens)
            for part, ending in (
                ("values", ""),
                ("se", "_se"),
                ("lower", "_lower"),
                ("upper", "_upper"),
            ):
                found = np.array([float(r[name + ending]) for r in own])
                np.testing.assert_array_equal(found, getattr(curve, part))
        assert {r["s_resolved"] for r in own} == {str(result.curve(model, tokens=tokens).resolved)}


def test_pairs_csv_pivots_back_to_the_matrix(result, tmp_path):
    rows = list(csv.DictReader(io.StringIO(exported(result, tmp_path / "run.PAIRS.csv"))))
    count = len(result.layers)
    assert len(rows) == count**2
    for column, matrix in (("cka", result.cka()), ("cka_se", result.cka_se())):
        found = np.array([float(r[column]) for r in rows]).reshape(count, count)
        np.testing.assert_array_equal(found, matrix)
    assert rows[1]["path"] == "blocks.0"
    assert rows[1]["other_path"] == "blocks.1"


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_index_of_something_else_than_layers_is_no_matrix_of_them(result, tmp_path, suffix):
    of_models = Quantity("other", "similarity/other", "cosine", ("models", "models"))
    count = len(result.models)

    def ones(each):
        return np.ones([FOLDS] * ("folds" in each.axes) + [count, count])

    more = replace(
        result,
        quantities=(*result.quantities, of_models),
        sums=result.sums | {each.path: ones(each) for each in of_models.sums},
    )
    assert more.indices == ("cka",)
    for name, each in {"more": more, "less": result}.items():
        export(each, tmp_path / f"{name}{suffix}")
    files = [(tmp_path / f"{name}{suffix}").read_bytes() for name in ("more", "less")]
    assert files[0] == files[1]
    assert more.similarity("other").values.shape == (count, count)


def test_json_is_strict_and_complete(result, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = exported(result, tmp_path / "run.json")
    document = json.loads(text, parse_constant=refuse)
    matrix = np.array(document["cka"], dtype=float)
    np.testing.assert_array_equal(matrix, result.cka())
    assert document["images"] == result.images == 640
    assert document["unreadable"] == [{"image": "x.png", "reason": "truncated"}]
    assert document["provenance"] == {"seed": 3, "nested": {"nan": None}}
    assert document["top1"] == {model: result.top1(model) for model in result.models}
    assert document["layers"][1]["cka_last"] is None
    assert document["layers"][2]["cka_last"] == result.curve("vit_s", normalize="none").values[2]
    assert document["batches"] == list(range(40))


def test_npz_needs_no_pickle(result, tmp_path):
    export(result, tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["cka"], result.cka())
        np.testing.assert_array_equal(arrays["cka_se"], result.cka_se())
        assert arrays["model"].tolist() == [layer.model for layer in result.layers]
        rows = (arrays["model"] == "vit_s") & (arrays["tokens"] == "cls")
        curve = result.curve("vit_s", tokens="cls")
        np.testing.assert_array_equal(arrays["s"][rows], curve.values)
        assert arrays["depth"].dtype == np.float64


def test_latex_has_one_line_per_model_and_is_well_formed(tmp_path):
    result = synthetic_result({"vit_s": 5, "a&b_{50%}": 5})
    lines = exported(result, tmp_path / "run.tex").splitlines()
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", "\n".join(lines))
    assert columns
    body = [line for line in lines if line.endswith("\\\\") and "multicolumn" not in line]
    assert len(body) == 1 + 2
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) + 1 == len(columns[1])
    raw = result.curve("vit_s", normalize="none")
    cells = [cell.strip() for cell in body[1].removesuffix("\\\\").split("&")]
    assert cells[:2] == ["vit\\_s", "5"]
    assert cells[2:6] == [f"${raw.values[i]:.3f} \\pm {raw.se[i]:.3f}$" for i in range(4)]
    assert cells[6].startswith(f"${result.curve('vit_s').values[-1]:.2f}$ $[")
    assert cells[7] == f"{100 * result.top1('vit_s'):.1f}\\,\\%"
    assert body[2].startswith("a\\&b\\_\\{50\\%\\}")
    head = lines[lines.index("\\toprule") + 1]
    spanned = len(re.findall(r"(?<!\\)&", head)) + 1 + 4 - 1
    assert spanned == len(columns[1])


def test_latex_says_unresolved_and_undefined(tmp_path):
    result = synthetic_result(
        {"vit_s": 5, "deit_s": 5}, unresolved=["vit_s"], constant=[("deit_s", 4)]
    )
    text = exported(result, tmp_path / "run.tex")
    vit, deit = [line for line in text.splitlines() if line.startswith(("vit", "deit"))]
    assert "\\textit{unresolved}" in vit
    assert deit.count("--") == 4 + 1


def test_several_readouts_and_no_classes_change_the_columns(result, tmp_path):
    text = exported(result, tmp_path / "run.tex")
    assert "Model & Tokens & Layers" in text
    unlabelled = synthetic_result({"m": 3})
    unlabelled.sums["top1/trials"][:] = 0
    assert "Top-1" not in exported(unlabelled, tmp_path / "run.tex")


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_writer_takes_one_layer_two_batches_and_any_name(tmp_path, suffix):
    result = synthetic_result({"模型 \udcff": 1}, batches=2)
    export(result, tmp_path / "new" / f"run{suffix}")
    assert (tmp_path / "new" / f"run{suffix}").stat().st_size > 0
    assert os.listdir(tmp_path / "new") == [f"run{suffix}"]


@pytest.mark.parametrize("name", ["run", "run.xlsx", "csv"])
def test_unknown_suffix_lists_the_known(tmp_path, name):
    with pytest.raises(ResultFileError, match=r"\.csv, \.pairs\.csv, \.json, \.npz, \.tex"):
        export(synthetic_result(), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_exports_are_the_same_each_time(result, tmp_path):
    for suffix in WRITERS:
        export(result, tmp_path / f"one{suffix}")
        export(result, tmp_path / f"two{suffix}")
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
