"""The file opens in xarray as it is, with named dimensions; and what names them leads a reader nowhere."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import xarray as xr

from refiner_cka.results import load, save
from refiner_cka.results.contents import Unreadable
from refiner_cka.sums import FOLDS
from tests.results.files import edited, refusal
from tests.results.test_round_trip import assert_same
from tests.synthetic import synthetic_result, with_smoothing

TRAININGS = ["vit 0", "vit 1"]


@pytest.fixture(scope="module")
def result():
    return with_smoothing(
        synthetic_result(
            {"vit 0": 4, "vit 1": 4, "模型": ["a.0", "a.1"]},
            references=["labels"],
            batches=3,
            warnings=["careful ⚠"],
            unreadable=[Unreadable("b\udcff.png", "no UTF-8")],
            provenance={"groups": {"ViT": TRAININGS}},
        )
    )


@pytest.fixture(scope="module")
def path(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("scales") / "run.h5"
    save(result, path)
    return path


def test_xarray_opens_the_file_as_it_is_and_finds_entries_by_their_labels(result, path):
    with xr.open_dataset(path, engine="h5netcdf") as data:
        assert data.cka.dims == data.cka_se.dims == ("row", "other_row")
        own = data.cka.sel(row="vit 1/blocks.2/all", other_row="模型/a.1/all")
        assert float(own) == result.cka("vit 1", "模型")[2, 1]
        assert data.row.values[-1] == "labels/labels/reference"
        assert data.images.dims == ("fold",)
        assert data.batch_digests.dims == ("batches", "model_name", "digest_byte")
        assert data.image_digests.dims == ("batches", "place")
        assert data.model_name.values.tolist() == [*TRAININGS, "模型"]
        assert data.batches.values.tolist() == [0, 1, 2]
        assert data.warnings.values.tolist() == ["careful ⚠"]


def test_every_group_opens_with_named_dimensions(result, path):
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        measure = tree["smoothing/patch_cosine"]
        assert measure["values"].dims == ("layer",)
        assert measure["total"].dims == ("fold", "layer")
        # Processors add the folds of four columns and of ten in different orders.
        np.testing.assert_allclose(
            measure["values"].sel(layer=[f"vit 1/blocks.{i}/all" for i in range(4)]),
            result.smoothing("patch_cosine", "vit 1").values,
            rtol=2 * FOLDS * np.finfo(float).eps,
        )
        pairs = tree["smoothing/attention_block_similarity/values"]
        assert pairs.dims == ("attention_map", "other_attention_map")
        assert tree["layers/model"].dims == ("layer",)
        assert tree["similarity/cka/removed"].dims == ("fold", "row", "other_row")
        assert tree["top1/hits"].dims == ("model_name",)
        assert tree["unreadable/reason"].dims == ("image",)
        curve = result.curve("ViT", normalize="none")
        found = tree["groups/ViT/all/cka_last"]
        np.testing.assert_array_equal(found, curve.values)
        np.testing.assert_array_equal(found.depth, curve.depth)
        assert tree["groups/ViT/all/smoothing/patch_cosine"].dims == ("depth",)
        of_pairs = tree["groups/ViT/softmax/smoothing/attention_block_similarity"]
        assert of_pairs.dims == ("depth", "other_depth")


def test_no_array_of_the_file_is_without_names(path):
    bare = []

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and not h5py.h5ds.is_scale(node.id):
            bare.extend(name for dimension in node.dims if len(dimension) != 1)

    with h5py.File(path) as file:
        file.visititems(visit)
    assert bare == []


def test_a_file_loads_while_another_package_has_it_open(result, path):
    with xr.open_dataset(path, engine="h5netcdf"):
        assert_same(load(path), result)


@pytest.mark.parametrize("attribute", ["DIMENSION_LIST", "REFERENCE_LIST", "NAME"])
def test_references_are_never_followed(result, path, tmp_path, attribute):
    """They lead to what cannot be read: to a group, to data of another file, nowhere."""
    damaged, place = tmp_path / "run.h5", {"DIMENSION_LIST": "cka"}.get(attribute, "row")
    damaged.write_bytes(path.read_bytes())
    with edited(damaged) as file:
        elsewhere = file.create_group("elsewhere")
        file["secret"] = h5py.ExternalLink("/etc/hostname", "/")
        several = np.array([elsewhere.ref, h5py.Reference()], h5py.ref_dtype)
        del file[place].attrs[attribute]
        file[place].attrs[attribute] = several
    assert_same(load(damaged), result)
    with h5py.File(damaged, "r+") as file:
        file[place].attrs.create("one", file["elsewhere"].ref, dtype=h5py.ref_dtype)
    assert f"attribute one of {place} is not one string" in refusal(damaged)


def test_labels_are_vouched_for(path, tmp_path):
    damaged = tmp_path / "run.h5"
    damaged.write_bytes(path.read_bytes())
    with h5py.File(damaged, "r+") as file:
        file["row"][0] = file["row"][1]
    assert "digest is not that of the contents" in refusal(damaged)
