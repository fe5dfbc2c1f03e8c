"""The tables say what the result says, in the form their programs read."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest

from refiner_cka.errors import ResultFileError, printable
from refiner_cka.results import WRITERS, export
from refiner_cka.results.contents import Unreadable
from refiner_cka.results.latex import number
from refiner_cka.sums import FOLDS, Quantity
from tests.synthetic import synthetic_result, with_index, with_smoothing


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


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def assert_rows(rows, estimate):
    """Rows hold an estimate along depth, with all its digits."""
    for column, part in PARTS.items():
        found = np.array([float(row[column]) for row in rows])
        np.testing.assert_array_equal(found, getattr(estimate, part))
    assert {row["error_over"] for row in rows} == {estimate.over}
    assert {row["resolved"] for row in rows} == {str(estimate.resolved).upper()}


PARTS = {"value": "values", "se": "se", "lower": "lower", "upper": "upper"}


def test_csv_has_one_row_for_each_number(result, tmp_path):
    rows = rows_of(exported(result, tmp_path / "run.csv"))
    for model, tokens in {(layer.model, layer.tokens) for layer in result.layers}:
        own = [r for r in rows if (r["model"], r["readout"]) == (model, tokens)]
        assert {r["what"] for r in own} == {"cka_last", "s"}
        for what, normalize in (("cka_last", "none"), ("s", "first-last")):
            curve = result.curve(model, normalize=normalize, tokens=tokens)
            of = [r for r in own if r["what"] == what]
            assert_rows(of, curve)
            layers = [result.layers[row] for row in result.rows(model, tokens=tokens)]
            assert [(r["layer"], int(r["index"]), float(r["depth"])) for r in of] == [
                (layer.path, layer.index, layer.depth) for layer in layers
            ]
    for row in (row for row in rows if not row["layer"]):
        assert (row["what"], float(row["value"])) == ("top1", result.top1(row["model"]))
        assert row["se"] == "NaN"
    assert len(rows) == 2 * len(result.layers) + 2


@pytest.fixture(scope="module")
def everything():
    """A result with groups, references, another index, over-smoothing (which one layer lacks) and attention."""
    models = {"v0": 3, "w": 2, "v1": 3}
    made = synthetic_result(
        models, references=["labels"], batches=10, provenance={"groups": {"V": ["v0", "v1"]}}
    )
    other = synthetic_result(models, references=["labels"], batches=10, seed=1)
    made = with_smoothing(with_index(made, "rsa", "RSA", other), refined=["w"])
    absent = [
        replace(each, absent=(1,)) if each.name == "token_norm" else each
        for each in made.quantities
    ]
    sums = dict(made.sums)
    for part in ("total", "images"):
        sums[path] = np.array(sums[path := f"smoothing/token_norm/{part}"])
        sums[path][:, 1] = 0
    return replace(made, quantities=tuple(absent), sums=sums)


def test_csv_holds_all_that_was_measured_along_depth(everything, tmp_path):
    rows = rows_of(exported(everything, tmp_path / "run.csv"))

    def found(model, what, readout="all"):
        key = (model, what, readout)
        return [row for row in rows if (row["model"], row["what"], row["readout"]) == key]

    for model in ("v0", "w", "V"):
        assert_rows(
            found(model, "rsa_last"), everything.curve(model, normalize="none", index="rsa")
        )
        assert_rows(found(model, "rsa_s"), everything.curve(model, index="rsa"))
        for measure in ("patch_cosine", "effective_rank"):
            assert_rows(found(model, measure), everything.smoothing(measure, model))
    for model in ("v0", "w"):
        for index in ("cka", "rsa"):
            labels = everything.similarity(index, model, "labels")
            assert_rows(
                found(model, f"{index}_labels"), labels.block((slice(None), 0), labels.depth)
            )
    assert not found("V", "cka_labels")
    for maps in ("softmax", "refined"):
        entropy = found("w", "attention_entropy", maps)
        assert_rows(entropy, everything.smoothing("attention_entropy", "w", maps=maps))
        assert [row["layer"] for row in entropy] == ["blocks.0.attn", "blocks.1.attn"]
    assert_rows(found("V", "ceiling"), everything.ceiling("V"))
    assert_rows(found("V", "rsa_ceiling"), everything.ceiling("V", index="rsa"))
    assert not found("w", "ceiling")
    assert [row["layer"] for row in found("v0", "token_norm")] == ["blocks.0", "blocks.2"]
    assert len(found("v1", "token_norm")) == 3


def test_csv_says_what_errors_and_spreads_are_over(everything, tmp_path):
    rows = rows_of(exported(everything, tmp_path / "run.csv"))
    told = {
        (row["model"], row["what"]): (row["error_over"], row["sd_over"], row["trainings"])
        for row in rows
    }
    assert told["V", "s"] == told["V", "patch_cosine"] == ("trainings", "trainings", "2")
    assert told["V", "ceiling"] == ("images", "pairs of trainings", "2")
    assert told["w", "s"] == told["w", "patch_cosine"] == ("images", "", "1")
    spread = [row["sd"] for row in rows if (row["model"], row["what"]) == ("V", "patch_cosine")]
    expected = everything.smoothing("patch_cosine", "V").spread
    np.testing.assert_array_equal(np.array(spread, float), expected)


def test_pairs_csv_pivots_back_to_the_matrices(everything, tmp_path):
    rows = rows_of(exported(everything, tmp_path / "run.PAIRS.csv"))
    count = len(everything.stack)
    for index in ("cka", "rsa"):
        own = [row for row in rows if row["what"] == index]
        for column, part in PARTS.items():
            found = np.array([float(row[column]) for row in own]).reshape(count, count)
            np.testing.assert_array_equal(found, getattr(everything.similarity(index), part))
    assert [rows[1][name] for name in ("layer", "other_layer")] == ["blocks.0", "blocks.1"]
    assert rows[count - 1]["other_model"] == "labels"


def test_pairs_csv_holds_measures_of_pairs_of_maps(everything, tmp_path):
    rows = rows_of(exported(everything, tmp_path / "run.pairs.csv"))
    for model, maps in (("w", "refined"), ("V", "softmax")):
        own = [
            row
            for row in rows
            if (row["what"], row["model"], row["other_model"], row["readout"], row["other_readout"])
            == ("attention_block_similarity", model, model, maps, maps)
        ]
        estimate = everything.smoothing("attention_block_similarity", model, maps=maps)
        found = np.array([float(row["value"]) for row in own]).reshape(estimate.values.shape)
        # Sums over 10 batches, of all maps at once and of one kind: processors add them in different orders.
        np.testing.assert_allclose(found, estimate.values, rtol=10 * np.finfo(float).eps)


@pytest.mark.parametrize("suffix", [".csv", ".pairs.csv", ".tex"])
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
    assert document["batches"] == list(range(40))
    assert document["axes"]["layers"] == [vars(layer) for layer in result.layers]
    assert [row["what"] for row in document["table"][:4]] == ["cka_last"] * 4
    assert document["table"][1]["value"] is None
    assert document["table"][2]["value"] == result.curve("vit_s", normalize="none").values[2]


def test_json_holds_the_table_and_every_array(everything, tmp_path):
    document = json.loads(exported(everything, tmp_path / "run.json"))
    rows = rows_of(exported(everything, tmp_path / "run.csv"))
    assert len(document["table"]) == len(rows)
    for one, two in zip(document["table"], rows, strict=True):
        assert list(one) == list(two)
        assert one["what"] == two["what"]
        assert one["value"] == float(two["value"])
    np.testing.assert_array_equal(document["rsa"], everything.similarity("rsa").values)
    assert len(document["axes"]["rows"]) == len(document["cka"]) == 9
    measures = document["measures"]
    assert measures == {name: everything.smoothing(name).as_dict() for name in everything.measures}
    axes = {each["name"]: each["axes"] for each in document["quantities"]}
    assert axes["attention_block_similarity"] == ["attention", "attention"]
    assert document["groups"]["V"]["trainings"] == ["v0", "v1"]


def test_npz_needs_no_pickle(result, tmp_path):
    export(result, tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["cka"], result.cka())
        np.testing.assert_array_equal(arrays["cka_se"], result.cka_se())
        assert arrays["layers/model"].tolist() == [layer.model for layer in result.layers]
        rows = (arrays["layers/model"] == "vit_s") & (arrays["layers/tokens"] == "cls")
        curve = result.curve("vit_s", tokens="cls")
        np.testing.assert_array_equal(arrays["s"][rows], curve.values)
        np.testing.assert_array_equal(arrays["s_upper"][rows], curve.upper)
        assert arrays["layers/depth"].dtype == np.float64


def test_npz_holds_what_the_file_holds_but_sums(everything, tmp_path):
    export(everything, tmp_path / "run.npz")
    everything.save(tmp_path / "run.h5")
    with np.load(tmp_path / "run.npz") as arrays, h5py.File(tmp_path / "run.h5") as file:
        for name in everything.derived():
            np.testing.assert_array_equal(arrays[name], file[name][()])
        assert "groups/V/softmax/smoothing/attention_entropy" in arrays
        assert arrays["attention/path"].tolist() == file["attention/path"].asstr()[()].tolist()
        labels = everything.similarity("cka", "w", "labels").values[:, 0]
        np.testing.assert_array_equal(arrays["cka_labels"][arrays["layers/model"] == "w"], labels)


def columns_of(lines):
    """The columns that a table declares: `l`, `S[table-format=1.3(2)]`, ..."""
    (begin,) = (line for line in lines if line.startswith("\\begin{tabular}"))
    return begin.removeprefix("\\begin{tabular}{").removesuffix("}").split(" ")


def as_siunitx(cell):
    """Value and error of `0.512(13)`, by the rule of siunitx: the digits in brackets are the last of the value."""
    whole, decimals, error = re.fullmatch(r"(-?\d+)\.?(\d*)\((\d+)\)", cell).groups()
    return float(f"{whole}.{decimals}"), int(error) / 10 ** len(decimals)


def test_latex_has_one_line_per_model_and_is_well_formed(tmp_path):
    result = synthetic_result({"vit_s": 5, "a&b_{50%}": 5})
    lines = exported(result, tmp_path / "run.tex").splitlines()
    columns = columns_of(lines)
    body = [line for line in lines if line.endswith("\\\\") and "multicolumn" not in line]
    assert len(body) == 1 + 2
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) + 1 == len(columns)
    raw = result.curve("vit_s", normalize="none")
    cells = [cell.strip() for cell in body[1].removesuffix("\\\\").split("&")]
    assert cells[:2] == ["vit\\_s", "5"]
    for cell, value, error in zip(cells[2:6], raw.values, raw.se, strict=False):
        assert as_siunitx(cell) == pytest.approx((value, error), abs=0.15 * error)
    assert cells[6].startswith(f"${result.curve('vit_s').values[-1]:.2f}$ $[")
    assert cells[7] == f"{100 * result.top1('vit_s'):.1f}"
    assert body[2].startswith("a\\&b\\_\\{50\\%\\}")
    head = lines[lines.index("\\toprule") + 1]
    spanned = len(re.findall(r"(?<!\\)&", head)) + 1 + 4 - 1
    assert spanned == len(columns)


def test_latex_says_unresolved_and_undefined(tmp_path):
    result = synthetic_result(
        {"vit_s": 5, "deit_s": 5}, unresolved=["vit_s"], constant=[("deit_s", 4)]
    )
    text = exported(result, tmp_path / "run.tex")
    vit, deit = [line for line in text.splitlines() if line.startswith(("vit", "deit"))]
    assert "\\textit{unresolved}" in vit
    assert deit.count("--") == 4 + 1


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (0.51234, 0.0134, "0.512(13)"),
        (0.51234, 0.0996, "0.51(10)"),
        (0.51234, 0.0354, "0.512(35)"),
        (0.51234, 0.0355, "0.51(4)"),
        (0.51234, 0.00346, "0.5123(35)"),
        (0.51234, 0.0069, "0.512(7)"),
        (0.51234, 0.0095, "0.512(10)"),
        (0.51234, 0.000346, "0.5123(3)"),
        (0.51234, 1e-9, "0.5123(1)"),
        (1.0, 0.0, "1"),
        (0.51234, 0.0, "0.5123"),
        (0.51234, math.nan, "0.512"),
        (math.nan, math.nan, "{--}"),
        (-0.00021, 0.0123, "-0.000(12)"),
        (12.345, 5.31, "12(5)"),
        (1234.5, 123.0, "1234(123)"),
        (5.5e-30, 1e-200, "0.0000(1)"),
    ],
)
def test_numbers_have_the_digits_that_their_errors_leave_them(value, error, told):
    assert number(value, error) == told


def test_latex_tells_over_smoothing_and_aligns_numbers(everything, tmp_path):
    lines = exported(everything, tmp_path / "run.tex").splitlines()
    assert any("{Centred patch cosine, layer}" in line for line in lines)
    columns = columns_of(lines)
    body = [line for line in lines if line.endswith("\\\\") and line.startswith(("v", "w", "V"))]
    assert len(body) == 3 + 1
    cells = [[cell.strip() for cell in line.removesuffix("\\\\").split("&")] for line in body]
    centred = everything.smoothing("patch_cosine_centred", "w")
    at = columns.index("c") + 1
    for cell, end in ((cells[1][at], 0), (cells[1][at + 1], -1)):
        told = as_siunitx(cell)
        error = float(centred.se[end])
        assert told == pytest.approx((float(centred.values[end]), error), abs=0.15 * error)
    for place, column in enumerate(columns):
        if not column.startswith("S["):
            continue
        whole, decimals, error = re.search(r"=(\d)\.(\d)(?:\((\d)\))?", column).groups("0")
        for line in cells:
            found = re.fullmatch(r"(\d+)(?:\.(\d+))?(?:\((\d+)\))?|\{--\}", line[place])
            sizes = [len(part or "") for part in found.groups()]
            assert all(np.array(sizes) <= [int(whole), int(decimals), int(error)])


def test_a_label_is_no_option_of_the_end_of_the_line_before(tmp_path):
    """A bracket after `\\\\` or `\\midrule` would be a length, a star would keep a page together."""
    result = synthetic_result({"[2pt]": 3, "*": 2, '"a"': 2})
    lines = exported(result, tmp_path / "run.tex").splitlines()
    starts = [line.partition(" & ")[0] for line in lines if " & " in line]
    assert starts[-3:] == ["{[}2pt]", "{*}", "{''}a{''}"]


def test_labels_are_text_in_every_format(tmp_path):
    name = "\\input{/etc/passwd} $x$ <b>& \x1b[2J\n\udcff"
    result = synthetic_result({name: 2}, batches=4)
    text = exported(result, tmp_path / "run.tex")
    (line,) = (line for line in text.splitlines() if line.startswith("\\textbackslash"))
    assert line.startswith(
        "\\textbackslash{}input\\{/etc/passwd\\} \\$x\\$ \\textless{}b\\textgreater{}\\& "
        "\\textbackslash{}x1b{[}2J\\textbackslash{}n\\textbackslash{}udcff & 2 &"
    )
    for suffix in (".csv", ".pairs.csv"):
        rows = rows_of(exported(result, tmp_path / f"run{suffix}"))
        assert {row["model"] for row in rows} == {printable(name)}
    assert json.loads(exported(result, tmp_path / "run.json"))["table"][0]["model"] == printable(
        name
    )


def test_json_holds_no_half_of_a_character(tmp_path):
    result = synthetic_result(unreadable=[Unreadable("b\udcff.png", "truncated")])
    assert "\\\\udcff.png" in exported(result, tmp_path / "run.json")


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


def test_a_suffix_that_is_nearly_right_is_named(tmp_path):
    for name, meant in {
        "run.jsn": "run.json",
        "run.latex": "run.tex",
        "a.pairs.cvs": "a.pairs.csv",
    }.items():
        with pytest.raises(ResultFileError, match=f"did you mean {re.escape(meant)}"):
            export(synthetic_result(), tmp_path / name)


def test_a_folder_called_as_a_table_is_no_suffix(tmp_path):
    with pytest.raises(ResultFileError, match="give it one of the suffixes"):
        export(synthetic_result(), tmp_path / "tables" / "csv")


def test_exports_are_the_same_each_time(result, tmp_path):
    for suffix in WRITERS:
        export(result, tmp_path / f"one{suffix}")
        export(result, tmp_path / f"two{suffix}")
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
