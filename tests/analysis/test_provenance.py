"""What a fingerprint and the digests of the batches vouch for: no image counts twice, no other image passes."""

import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import Dataset

import refiner_cka as rc
from refiner_cka.images import files
from refiner_cka.images.preprocessing import Preprocessing
from refiner_cka.measures import gram
from refiner_cka.results.merging import differences
from tests import pathological
from tests.analysis.runs import (
    PRODUCTS,
    image_folder,
    in_processes,
    inputs,
    run,
    seeded,
    sized,
    subject,
)


def mine(name="model", **kwargs):
    return subject(seeded(pathological.InplaceReLU), ["fc1", "fc2"], name=name, **kwargs)


def prepare(data, subjects=None, **kwargs):
    return rc.prepare(subjects or mine(), data, workers=0, device="cpu", batch_size=8, **kwargs)


def interrupted(prepared, after):
    """What a run leaves that is interrupted after so many images."""

    def interrupt(done, _total):
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(rc.Interrupted) as caught:
        rc.measure(prepared, progress=interrupt)
    return caught.value.result


# -------------------------------------------------------------------- several processes

DISTRIBUTED = """
import sys
import refiner_cka as rc
from tests.analysis.runs import inputs
from tests.analysis.test_provenance import prepare
folder = sys.argv[1]
prepared = prepare(inputs(100))
rank = prepared.runtime.rank
try:
    rc.measure(prepare(inputs(100, seed=rank)))
except rc.DataError as error:
    open(f"{folder}/{rank}.txt", "w").write(str(error))
part = None if rank == 2 else rc.load(f"{folder}/part.h5")
rc.measure(prepared, resume=part).save(f"{folder}/{rank}.h5")
"""


def test_several_processes_resume_to_what_one_measures(tmp_path):
    """The part is brought in once, where the images of each process's copy counted; one has none.

    And processes that see other images than the first are refused.
    """
    prepared = prepare(inputs(100))
    interrupted(prepared, 40).save(tmp_path / "part.h5")
    in_processes(DISTRIBUTED, tmp_path)
    whole = rc.measure(prepared)
    for rank in range(3):
        result = rc.load(tmp_path / f"{rank}.h5")
        assert result.images == 100
        np.testing.assert_array_equal(result.batches, whole.batches)
        np.testing.assert_array_equal(result.batch_digests, whole.batch_digests)
        # Other threads than here, and so another order of summation in float32.
        np.testing.assert_allclose(result.sums[PRODUCTS], whole.sums[PRODUCTS], rtol=1e-6)
        told = (tmp_path / f"{rank}.txt").read_text()
        assert "process 1 is about to measure something else than process 0: digest of" in told


# ------------------------------------------------------------------------------ results


def test_a_part_of_another_revision_does_not_merge_and_says_so(monkeypatch):
    module = mine()
    one = run(module, inputs(32), batch_size=8, shard=(1, 2))
    assert one.provenance["estimator"]["revision"] == gram.REVISION
    monkeypatch.setattr(gram, "ESTIMATOR", {**gram.ESTIMATOR, "revision": gram.REVISION - 1})
    two = run(module, inputs(32), batch_size=8, shard=(2, 2))
    expected = rf"revision of estimator differs \({gram.REVISION} / {gram.REVISION - 1}\);"
    with pytest.raises(rc.ResultError, match=expected):
        rc.merge([one, two])


def test_what_differs_between_analyses_is_named():
    data = inputs(32)
    one = prepare(data).provenance
    other = subject(pathological.InplaceReLU().eval(), ["fc1"])
    two = prepare(data, other, seed=1, smoothing="none").provenance
    told = differences(one, two)
    assert told.startswith("sha256 of weights of model differs (")
    assert "layers of model differs" in told
    assert "seed differs (0 / 1)" in differences(one, prepare(data, seed=1).provenance)
    assert "digest of images differs" in differences(one, prepare(inputs(32, seed=1)).provenance)
    assert differences(one, prepare(data, mine("else")).provenance).endswith(" and more")
    assert differences(one, one) == differences({}, {}) == ""
    with pytest.raises(
        rc.DataError, match=r"of another analysis: digest of images differs .*, seed differs"
    ):
        rc.measure(prepare(data, seed=1), resume=interrupted(prepare(data), 8))


def test_the_file_says_what_the_estimator_is(tmp_path):
    run(mine(), inputs(16), batch_size=8).save(tmp_path / "run.h5")
    estimator = rc.load(tmp_path / "run.h5").provenance["estimator"]
    assert estimator["unbiased"] is True
    assert estimator["kernel"] == "linear"
    assert "Song et al. 2012, eq. 5" in estimator["formula"]
    assert "2010.15327" in estimator["formula"]


def test_the_fingerprint_is_of_what_the_provenance_lists(tmp_path):
    """As docs/file-format.md says, and still so in a file."""
    run(mine(), inputs(16), batch_size=8).save(tmp_path / "run.h5")
    result = rc.load(tmp_path / "run.h5")
    of = {key: result.provenance[key] for key in result.provenance["identity"]}
    text = json.dumps(of, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == result.fingerprint


# ------------------------------------------------------------------------------- images


class Noise(Dataset):
    """Inputs made on demand: nothing of them can be hashed beforehand."""

    def __init__(self, seed, size=4, transform=None):
        self.data, self.transform = inputs(40, size=size, seed=seed), transform

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def test_what_is_recorded_is_the_same_in_memory_and_in_the_file(tmp_path):
    module = seeded(timm.create_model, "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1)
    analysed = subject(module, "block", preprocessing=sized(32))
    result = run(analysed, inputs(8, 32), smoothing="dirichlet_energy")
    result.save(tmp_path / "run.h5")
    assert result.provenance["models"][0]["layers"][0][2]["grid"] == [4, 4]
    assert rc.load(tmp_path / "run.h5").provenance == result.provenance


def test_other_images_of_a_torch_data_set_are_told_by_their_batches():
    one, two = (prepare(Noise(seed)) for seed in (0, 1))
    assert one.fingerprint == two.fingerprint
    assert one.provenance["fingerprint_of_images"] == {
        "covers": "type, length and transform of the data set, not its images",
        "whole": False,
    }
    first, second = rc.measure(one), rc.measure(two)
    said = "The fingerprint covers type, length and transform of the data set, not its images; what each"
    assert said in dict(rc.results.answers(first))["Which images?"]
    assert first.other_pixels(first) == first.other_pixels(rc.measure(one)) == ""
    assert first.other_pixels(second) == "batch 0 of model is of other pixels"
    with pytest.raises(rc.ResultError, match="of other pixels in two of the results"):
        rc.merge([first, second])
    with pytest.raises(rc.DataError, match="batch 0 has other pixels than when it was measured"):
        rc.measure(two, resume=interrupted(one, 16))
    assert rc.measure(one, resume=interrupted(one, 16)).complete


def test_digests_depend_neither_on_workers_nor_on_company(tmp_path):
    folder = image_folder(tmp_path, 24)
    other = Preprocessing(input_size=(3, 4, 4), crop_pct=0.5)
    alone = run(mine(), folder, batch_size=8)
    beside = run([mine("b", preprocessing=other), mine()], folder, batch_size=8, workers=2)
    np.testing.assert_array_equal(beside.batch_digests[:, 1], alone.batch_digests[:, 0])
    assert (beside.batch_digests[:, 0] != beside.batch_digests[:, 1]).any(1).all()
    assert len({row.tobytes() for row in alone.batch_digests}) == 3


def test_other_labels_of_the_same_images_are_another_analysis(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), dtype=np.uint8)
    found = []
    for number, labels in enumerate((np.arange(16) % 2, np.arange(16) % 2 == 0)):
        np.savez(tmp_path / f"{number}.npz", images=rows, labels=labels.astype(int))
        found.append(prepare(tmp_path / f"{number}.npz").provenance)
    assert differences(*found).startswith("labels of images differs")


def test_preprocessing_is_recorded_as_it_was(tmp_path):
    folder = image_folder(tmp_path, 8)
    pictures = prepare(folder).provenance
    assert pictures["models"][0]["preprocessing"]["interpolation"] == "bicubic"
    assert pictures["images"]["transform"] is None
    tensors = prepare(inputs(8)).provenance
    fed = {"input_size": [3, 4, 4], "inputs": "floating, fed as they are"}
    assert tensors["models"][0]["preprocessing"] == fed
    own = prepare(Noise(0, transform="Normalize(mean=0.5)")).provenance
    assert own["models"][0]["preprocessing"] == fed
    assert own["images"]["transform"] == "'Normalize(mean=0.5)'"

    class Pictures(Noise):
        def __getitem__(self, index):
            return Image.new("RGB", (9, 9), (index, 0, 0))

    both = prepare(Pictures(0, transform="Grey()")).provenance
    assert both["models"][0]["preprocessing"] == pictures["models"][0]["preprocessing"]
    assert both["images"]["transform"] == "'Grey()'"


def test_channels_last_is_refused_for_the_model_that_takes_them_first():
    channels_last = inputs(32).permute(0, 2, 3, 1)
    with pytest.raises(rc.DataError, match="seem to have their channels last") as caught:
        prepare(channels_last)
    assert "\n" not in str(caught.value)
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 8))
    two = subject(flat, ["1"], preprocessing=Preprocessing((2, 4, 4), (0.5,) * 2, (0.5,) * 2))
    data = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert run(two, data, batch_size=32).images == 64


def test_what_the_fingerprint_samples_the_batches_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HASHED_BYTES", 1000)
    folder = image_folder(tmp_path, 16)
    before = run(mine(), folder, batch_size=8)
    assert not before.provenance["fingerprint_of_images"]["whole"]
    path = folder / "0005.png"
    pixels = np.asarray(Image.open(path)).copy()
    size = path.stat().st_size
    pixels[4:8, 4:8] ^= 128
    Image.fromarray(pixels).save(path)
    assert path.stat().st_size == size, "noise does not compress"
    after = run(mine(), folder, batch_size=8)
    assert after.fingerprint == before.fingerprint
    assert "of other pixels" in before.other_pixels(after)


def test_undecoded_images_of_a_last_batch_that_is_left_out_are_named(tmp_path):
    """They were counted as readable. Of two in a batch too small, one is undecoded too."""
    folder = image_folder(tmp_path, 15)
    plan = prepare(folder).plan
    for index in plan.batches[1][:5]:
        (folder / f"{index:04d}.png").write_bytes(b"")
    result = run(mine(), folder, batch_size=8)
    assert result.images == 8
    assert result.batch_images.tolist() == [8, 0]
    assert result.batch_planned.tolist() == [8, 7]
    assert len(result.unreadable) == 5
    assert rc.summarize(result).too_small == 2

    plan = rc.prepare(mine(), folder, batch_size=4, workers=0, device="cpu").plan
    bad = [f"{index:04d}.png" for index in plan.left_out[:2]]
    for name in bad:
        (folder / name).write_bytes(b"not a picture")
    for workers in (0, 2):
        result = run(mine(), folder, batch_size=4, workers=workers)
        named = [entry.image for entry in result.unreadable]
        assert set(bad) <= set(named)
        assert len(set(named)) == len(named)
        lost = sum(result.batch_planned) + 3 - len(named) - result.images
        assert rc.summarize(result).too_small == lost
