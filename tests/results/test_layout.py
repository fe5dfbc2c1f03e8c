"""The file is as its specification says, read with h5py alone; and the files of earlier versions load."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from refiner_cka.results import load, save
from refiner_cka.results.contents import Unreadable
from refiner_cka.results.store import Store
from refiner_cka.sums import all_sums
from tests.synthetic import synthetic_result

GOLDEN = Path(__file__).parents[1] / "golden" / "v1.h5"


def test_layout_is_as_specified(tmp_path):
    result = synthetic_result(
        {"vit_s": 4, "deit_s": 3},
        batches=7,
        total_batches=9,
        unreadable=[Unreadable("x.png", "truncated")],
        warnings=["careful"],
        provenance={"seed": 3, "precision": "fp32", "versions": {"numpy": "2"}, "command": None},
    )
    save(result, tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert dict(file.attrs) == {
            "format": "refiner-cka",
            "format_version": 1,
            "complete": False,
            "total_batches": 9,
            "fingerprint": result.fingerprint,
            "digest": file.attrs["digest"],
        }
        np.testing.assert_array_equal(file["cka"][()], result.cka())
        np.testing.assert_array_equal(file["cka_se"][()], result.cka_se())
        assert file["layers/model"].asstr()[()].tolist() == ["vit_s"] * 4 + ["deit_s"] * 3
        assert file["layers/path"].asstr()[4] == "blocks.0"
        assert file["layers/tokens"].asstr()[0] == "all"
        assert file["layers/index"][()].tolist() == [0, 1, 2, 3, 0, 1, 2]
        assert file["layers/depth"][-2:].tolist() == [0.5, 1.0]
        assert file["layers"].attrs["axis"]
        assert file["similarity/cka/removed"].shape == (20, 7, 7)
        for path in all_sums(result.quantities):
            assert file[path].attrs["additive"]
            np.testing.assert_array_equal(file[path][()], result.sums[path])
        assert file["batches"][()].tolist() == list(range(7))
        assert file["batch_planned"][()].tolist() == [16] * 7
        assert file["batch_images"][()].tolist() == [16] * 7
        assert file["batch_digests"].dtype == np.uint8
        np.testing.assert_array_equal(file["batch_digests"][()], result.batch_digests)
        assert file["image_digests"].dtype == np.uint64
        np.testing.assert_array_equal(file["image_digests"][()], result.image_digests)
        assert file["unreadable/image"].asstr()[()].tolist() == ["x.png"]
        assert file["unreadable/reason"].asstr()[()].tolist() == ["truncated"]
        assert file["warnings"].asstr()[()].tolist() == ["careful"]
        assert dict(file["provenance"].attrs) == {
            "seed": 3,
            "precision": "fp32",
            "versions": '{"numpy": "2"}',
            "command": "null",
        }


def test_names_of_images_keep_their_bytes_and_may_be_missing(tmp_path):
    names = ("a/1.png", "b/\udce9.png", "long" * 20, *map(str, range(29)))
    result = dataclasses.replace(synthetic_result(batches=2), image_names=names)
    result.save(tmp_path / "run.h5")
    assert load(tmp_path / "run.h5").image_names == names
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        assert file["image_names"][1] == b"b/\xe9.png"
        del file["image_names"]
        file.attrs["digest"] = Store(file).digest()
    assert load(tmp_path / "run.h5").image_names == ()


def test_every_quantity_says_in_its_group_what_it_is(measured):
    result = load(measured)
    with h5py.File(measured) as file:
        assert dict(file["smoothing/rank_collapse"].attrs) == {
            "order": 4,
            "name": "rank_collapse",
            "estimator": "mean",
            "axes": '["layers"]',
            "label": "Rank-collapse residual",
            "about": "what Rank-collapse residual is",
            "range": "[0.0, 1.0]",
            "smoother": "lower",
            "source": "a paper",
            "few": False,
            "absent": "[]",
        }
        assert file["smoothing/token_norm"].attrs["smoother"] == "null"
        for path in all_sums(result.quantities):
            assert file[path].attrs["additive"]
        assert file["attention"].attrs["axis"]
        assert file["attention/path"].asstr()[0] == "blocks.0.attn"
        assert file["attention/tokens"].asstr()[()].tolist() == ["softmax"] * 6 + ["refined"] * 3
        for name in result.measures:
            measure = result.smoothing(name)
            np.testing.assert_array_equal(file[f"smoothing/{name}/values"], measure.values)
            np.testing.assert_array_equal(file[f"smoothing/{name}/se"], measure.se)


def test_golden_file_of_version_1():
    """Once there is a release, a file that it wrote loads for ever, with these numbers."""
    result = load(GOLDEN)
    assert result.models == ("vit_s", "resnet50")
    assert [layer.path for layer in result.layers[3:]] == ["layer1.0", "layer2.0"]
    assert result.images == 96
    assert result.batch_planned.tolist() == result.batch_images.tolist() == [16] * 6
    assert result.batch_digests[1, 1, :3].tolist() == [96, 97, 98]
    assert (result.folds, result.complete, result.tokens) == (20, False, ("all",))
    assert result.unreadable == (Unreadable("n01440764/é.JPEG", "truncated"),)
    assert result.warnings == ("vit_s: the features of layer blocks.1 (all) do not vary",)
    assert result.provenance == {
        "batch_size": 16,
        "seed": 0,
        "precision": "fp32",
        "models": [{"name": "vit_s"}, {"name": "resnet50"}],
        "command": None,
    }
    matrix = result.cka()
    assert np.isnan(matrix[1]).all()
    assert matrix[0, 2] == pytest.approx(0.39160996189805025, abs=1e-12)
    assert result.cka_se()[0, 2] == pytest.approx(0.06400944905017887, abs=1e-12)
    assert result.top1("resnet50") == pytest.approx(0.7604166666666666, abs=1e-12)


def test_golden_file_with_h5py_alone():
    with h5py.File(GOLDEN) as file:
        sums = file["similarity/cka/products"][()]
        own = np.sqrt(np.diagonal(sums))
        defined = own > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix = np.where(defined & defined[:, None], sums / np.outer(own, own), np.nan)
        np.testing.assert_allclose(file["cka"][()], matrix, atol=1e-12)
