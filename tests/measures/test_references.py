"""The labels and the pixels as rows of the matrix."""

import numpy as np
import pytest
import torch
from PIL import Image

import refiner_cka as rc
from tests.synthetic import u_centred_gram

IMAGES, SIDE = 24, 8


@pytest.fixture
def pictures(tmp_path):
    """A folder of three classes, and the pixels of each image by its place in the run."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        path = tmp_path / "data" / "abc"[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    return tmp_path / "data"


def analysed(data, **options):
    return rc.analyze(
        "vit_nano=random,label=vit_nano",
        data,
        batch_size=12,
        smoothing="none",
        workers=0,
        **options,
    )


def test_similarity_to_the_labels_is_that_to_their_one_hot_vectors(pictures, tmp_path):
    result = analysed(pictures, against="labels,pixels")
    assert result.references == ("labels", "pixels")
    assert result.models == ("vit_nano",)
    source = rc.prepare("vit_nano=random,label=vit_nano", pictures, batch_size=12, smoothing="none")
    own = []
    for batch in source.plan.batches:
        classes = np.eye(3)[[source.source.labels[index] for index in batch]]
        pixels = [
            np.asarray(source.source.read(index).resize((64, 64), Image.Resampling.BICUBIC), float)
            for index in batch
        ]
        flat = np.stack([each.transpose(2, 0, 1).ravel() for each in pixels])
        own.append((u_centred_gram(classes), u_centred_gram(flat)))
    products = [[sum((one[i] * one[j]).sum() for one in own) for j in (0, 1)] for i in (0, 1)]
    expected = products[0][1] / np.sqrt(products[0][0] * products[1][1])
    found = result.similarity("cka", "labels", "pixels").values[0, 0]
    assert found == pytest.approx(expected, abs=1e-6)  # float32 Gram matrices
    path = tmp_path / "r.h5"
    result.save(path)
    again = rc.load(path)
    np.testing.assert_array_equal(again.cka("vit_nano", "labels"), result.cka("vit_nano", "labels"))
    assert again.curve("vit_nano").values.shape == (12,)
    assert "CKA(last, labels)" in rc.summarize(again).tables[0].headers


def test_partial_similarity_is_that_of_what_the_reference_leaves(pictures):
    result = analysed(pictures, against="labels")
    whole = result.cka("vit_nano")[0, 11]
    with_labels = result.cka("vit_nano", "labels")[:, 0]
    expected = (whole - with_labels[0] * with_labels[11]) / np.sqrt(
        (1 - with_labels[0] ** 2) * (1 - with_labels[11] ** 2)
    )
    found = result.partial("vit_nano", given="labels")
    assert found.values[0, 11] == pytest.approx(expected, abs=1e-12)
    assert found.values.shape == (12, 12)
    with pytest.raises(rc.ResultError, match="analyse again with --against pixels"):
        result.partial("vit_nano", given="pixels")


def test_references_change_no_number_of_the_models(pictures):
    with_both, without = analysed(pictures, against="labels,pixels"), analysed(pictures)
    np.testing.assert_array_equal(with_both.cka("vit_nano"), without.cka("vit_nano"))


def test_what_cannot_be_compared_with_is_refused(pictures):
    with pytest.raises(rc.LayerError, match="unknown --against 'classes'"):
        analysed(pictures, against="classes")
    with pytest.raises(rc.LayerError, match="twice"):
        analysed(pictures, against="labels, labels")
    with pytest.raises(rc.DataError, match="has no labels"):
        analysed(np.zeros((12, 32, 32, 3), np.uint8), against="labels")
    with pytest.raises(rc.ModelError, match="a model is called so too"):
        rc.analyze("vit_nano=random,label=labels", pictures, against="labels", batch_size=12)


def test_a_group_that_is_called_as_a_reference_is_refused_before_any_forward_pass(pictures):
    trainings = [
        rc.Subject.from_module(
            torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), "0", name=name, group="labels"
        )
        for name in ("one", "two")
    ]
    for each in trainings:
        each.module.register_forward_pre_hook(lambda *_: pytest.fail("a forward pass"))
    with pytest.raises(rc.ModelError, match="--against labels: a group is called so too"):
        rc.prepare(trainings, pictures, against="labels", batch_size=12, workers=0)
