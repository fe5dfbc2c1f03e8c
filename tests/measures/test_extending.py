"""What a newcomer measures, added from outside: one function and one row, and nothing else is changed."""

import functools
import json

import numpy as np
import pytest
import timm
import torch

import refiner_cka as rc
from refiner_cka.measures import attention, smoothing
from refiner_cka.measures.choosing import METERS
from refiner_cka.measures.indices import INDICES, Index
from refiner_cka.measures.meter import Meter, Setting, Site
from refiner_cka.measures.tally import Measure, Tally
from refiner_cka.subjects.hooks import first_outputs
from refiner_cka.sums import FOLDS, LAYERS, Quantity, fold_of
from tests import float64
from tests.analysis import runs

PATHS = ["blocks.0", "blocks.1", "blocks.2"]


def images():
    return runs.inputs(48, 32)


def model():
    sizes = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}
    module = runs.seeded(timm.create_model, "vit_tiny_patch16_224", **sizes)
    return runs.subject(module, PATHS, "m", preprocessing=runs.sized(32))


def analysed(tmp_path, **options):
    """Analyse in two parts, save, load, merge, save and load again."""
    for part in (1, 2):
        result = runs.run(model(), images(), batch_size=8, shard=(part, 2), **options)
        result.save(tmp_path / f"{part}.h5")
    merged = rc.merge([rc.load(tmp_path / f"{part}.h5") for part in (2, 1)])
    merged.save(tmp_path / "merged.h5")
    return rc.load(tmp_path / "merged.h5")


def outputs():
    subject, data = model(), images()
    found, _ = first_outputs(
        subject.module, PATHS, lambda: subject.module(data), lambda output: output.detach()
    )
    return [found[path][0] for path in PATHS]


def exported(result, tmp_path, suffix):
    rc.results.export(result, tmp_path / f"run{suffix}")
    return (tmp_path / f"run{suffix}").read_text()


def token_spread(tokens):
    """Standard deviation of the tokens' lengths."""
    return tokens.norms.std(1)


def test_a_measure_of_tokens(tmp_path, monkeypatch):
    quantity = Quantity(
        "token_spread",
        "smoothing/token_spread",
        "mean",
        (LAYERS,),
        "Spread of norms",
        "standard deviation of the tokens' lengths",
        (0.0, None),
        source="here",
    )
    monkeypatch.setitem(smoothing.MEASURES, "token_spread", Measure(token_spread, quantity))
    result = analysed(tmp_path, smoothing="token_spread")
    monkeypatch.undo()
    found = result.smoothing("token_spread", "m")
    expected = [x[:, 1:].double().norm(dim=2).std(1).mean().item() for x in outputs()]
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    assert result.measures == ("token_spread",)
    assert result.quantity("token_spread") == quantity
    assert "Spread of norms" in rc.plots.smoothing(result).figure.axes[0].get_ylabel()
    assert "token_spread" in exported(result, tmp_path, ".json")


def test_a_measure_of_attention_maps(tmp_path, monkeypatch):
    def largest(maps):
        return maps.weights.amax(-1).mean((1, 2))

    row = Measure(
        largest,
        Quantity(
            "largest", "smoothing/largest", "mean", ("attention",), "Largest", smoother="lower"
        ),
    )
    monkeypatch.setitem(attention.MEASURES, "largest", row)
    result = analysed(tmp_path, smoothing="none", attention=True)
    monkeypatch.undo()
    found = result.smoothing("largest", "m")
    assert found.images.tolist() == [48, 48, 48]
    assert ((found.values > 1 / 16) & (found.values < 1)).all()
    labels = [ax.get_ylabel() for ax in rc.plots.attention(result).figure.axes]
    assert any("Largest" in label for label in labels)
    assert "largest" in exported(result, tmp_path, ".json")


def angles(grams):
    """Angles between the features of two images, from the mean of the batch."""
    lengths = grams.diagonal(dim1=-2, dim2=-1).sqrt()
    return (grams / lengths[:, :, None] / lengths[:, None, :]).clamp(-1, 1).arccos()


def test_a_similarity_index(tmp_path, monkeypatch):
    quantity = Quantity(
        "angles", "similarity/angles", "cosine", (LAYERS, LAYERS), "Angles (n = {n})"
    )
    monkeypatch.setitem(INDICES, "angles", Index(quantity, angles, centring="mean"))
    result = analysed(tmp_path, smoothing="none", index="angles")
    monkeypatch.undo()
    features = [x.double().flatten(1).numpy() for x in outputs()]
    order = [list(batch) for batch in runs.prepare(model(), images(), batch_size=8).plan.batches]
    found = []
    for x in features:
        own = [x[batch] - x[batch].mean(0) for batch in order]
        own = [y / np.linalg.norm(y, axis=1, keepdims=True) for y in own]
        pairs = [np.arccos((y @ y.T).clip(-1, 1))[~np.eye(len(y), dtype=bool)] for y in own]
        found.append(np.concatenate([values - values.mean() for values in pairs]))
    estimate = result.similarity("angles", "m")
    np.testing.assert_allclose(estimate.values, np.corrcoef(found), atol=1e-5)
    assert np.isfinite(estimate.se).all()
    assert result.indices == ("cka", "angles")
    grams = [[float64.gram(x[batch]) for batch in order] for x in features]
    np.testing.assert_allclose(result.cka("m"), float64.minibatch_cka_matrix(grams), atol=1e-6)
    drawn = rc.plots.heatmap(result, "m", index="angles")
    assert "Angles (n = 8)" in [bar.get_ylabel() for bar in drawn.child_axes]
    assert "angles" in exported(result, tmp_path, ".json")


class Zeros(Meter):
    """Share of zeros in the outputs of layers."""

    quantities = (Quantity("zeros", "zeros", "mean", (LAYERS,), "Share of zeros"),)

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def sites(self, models):
        self.rows = sum(len(each.rows) for each in models)
        return [
            Site(each, row.path, functools.partial(self.see, row.position), each.places[row.path])
            for each in models
            for row in each.rows
        ], ()

    def begin(self, batch):
        shapes = {self.quantities[0]: (self.rows,)}
        self.tally = Tally(shapes, batch.folds, self.setting.device)

    def see(self, row, chunks, images):
        shares = [(chunk < 0).flatten(1).double().mean(1) for chunk in chunks]
        self.tally.put("zeros", row, torch.cat(shares))

    def added(self):
        return self.tally.added()


def test_a_meter_of_a_new_kind(tmp_path, monkeypatch):
    monkeypatch.setitem(METERS, "zeros", Zeros)
    result = analysed(tmp_path, smoothing="none")
    monkeypatch.undo()
    found = result.smoothing("zeros", "m")
    expected = [(x < 0).double().mean().item() for x in outputs()]
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    assert "Share of zeros" in rc.plots.smoothing(result).figure.axes[0].get_ylabel()
    assert json.loads(exported(result, tmp_path, ".json"))["measures"]


class FirstPixel(Meter):
    """A mean that adds each image to its fold itself, without a tally."""

    quantities = (Quantity("first_pixel", "first_pixel", "mean", ("models",), "Pixel"),)

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def begin(self, batch):
        (pixels,) = batch.inputs.values()
        self.values, self.folds = pixels[:, :1, 0, 0].double(), batch.folds

    def added(self):
        empty = torch.zeros(FOLDS, 1, dtype=torch.float64)
        path = self.quantities[0].sum
        return {
            path("total"): empty.index_add(0, self.folds, self.values),
            path("images"): empty.index_add(0, self.folds, torch.ones_like(self.values)),
        }


def test_a_meter_that_adds_to_folds_itself(tmp_path, monkeypatch):
    monkeypatch.setitem(METERS, "first_pixel", FirstPixel)
    result = analysed(tmp_path, smoothing="none")
    np.testing.assert_array_equal(result.sums["first_pixel/images"][:, 0], result.sums["images"])
    assert result.sums["images"].tolist() == np.bincount(fold_of(np.arange(48))).tolist()
    total = result.sums["first_pixel/total"].sum()
    assert total == pytest.approx(images()[:, 0, 0, 0].double().sum().item(), rel=1e-12)
