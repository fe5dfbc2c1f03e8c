"""Batches: what is in them, what is missing, their digests."""

import hashlib
from dataclasses import replace

import torch

from refiner_cka.images import (
    Preprocessing,
    UnreadableImage,
    load_batches,
    open_source,
    plan_batches,
)
from refiner_cka.images.batches import digests_of
from tests.images.examples import SMALL, Source, batches_of, folder_of, save, scene

HALF = Preprocessing((3, 16, 16), (0.5,) * 3, (0.5,) * 3)


def recorded(count):
    """A source, and which of its images have been read."""
    read = []

    def scene_of(index):
        read.append(index)
        return scene(seed=index)

    return Source(count, scene_of), read


def test_three_models_read_each_image_once():
    source, read = recorded(9)
    plan = plan_batches(source, batch_size=4, images=8, seed=0)
    three = [SMALL, HALF, Preprocessing((1, 8, 12), (0.5,), (0.5,))]
    batches = list(load_batches(source, plan, range(2), [*three, SMALL], workers=0))
    assert read == [index for batch in plan.batches for index in batch]
    assert list(batches[0].inputs) == three
    assert batches[0].inputs[three[2]].shape == (4, 1, 8, 12)
    assert batches[0].inputs[three[0]] is batches[0].inputs[three[1]], "one geometry, one tensor"
    for position, index in enumerate(plan.batches[1]):
        for wanted in three:
            expected = wanted.transform()(scene(seed=index))
            assert torch.equal(batches[1].inputs[wanted][position], expected)


def test_fast_pixels_are_decoded_once_for_models_of_about_one_size(tmp_path):
    """And what a model is given does not depend on the others."""
    for number in range(4):
        save(scene(640, 480, seed=number), tmp_path / f"{number}.jpg")
    source = open_source(tmp_path)
    plan = plan_batches(source, batch_size=4, images=None, seed=0)
    larger, largest = replace(SMALL, crop_pct=0.8), Preprocessing((3, 64, 64))
    read = []
    reduced = source.read_reduced
    source.read_reduced = lambda *given: read.append(given) or reduced(*given)

    def loaded(*ways):
        read.clear()
        (batch,) = load_batches(source, plan, [0], ways, workers=0, fast=True)
        return batch.inputs

    alone = loaded(SMALL)
    assert sorted(read) == [(index, 64) for index in range(4)]
    three = loaded(SMALL, larger, largest)
    assert sorted(read) == [(index, side) for index in range(4) for side in (64, 256)]
    assert torch.equal(three[SMALL], alone[SMALL])
    assert torch.equal(three[largest], loaded(largest)[largest])
    (exact,) = load_batches(source, plan, [0], [SMALL], workers=0)
    difference = (exact.inputs[SMALL].int() - alone[SMALL].int()).abs()
    assert 0 < difference.max() <= 3


def test_a_source_without_a_reduced_scale_can_be_fast():
    source, read = recorded(4)
    plan = plan_batches(source, batch_size=4, images=None, seed=0)
    (batch,) = load_batches(source, plan, [0], [SMALL, Preprocessing()], workers=0, fast=True)
    assert sorted(read) == [0, 1, 2, 3]
    assert batch.images == 4


def test_labels_go_with_their_images():
    source = open_source("digits")
    plan = plan_batches(source, batch_size=5, images=10, seed=0)
    (batch,) = load_batches(source, plan, [1], [SMALL], workers=0)
    assert batch.index == 1
    assert batch.labels is not None
    assert batch.labels.dtype == torch.int64
    assert source.labels is not None
    assert batch.labels.tolist() == [source.labels[index] for index in plan.batches[1]]


def test_only_wanted_batches_are_loaded_in_the_order_asked_for():
    source, read = recorded(16)
    plan = plan_batches(source, batch_size=4, images=None, seed=0)
    batches = load_batches(source, plan, [3, 1], [SMALL], workers=0)
    assert read == [], "nothing before it is asked for"
    assert [batch.index for batch in batches] == [3, 1]
    assert read == [*plan.batches[3], *plan.batches[1]]
    assert list(load_batches(source, plan, [], [SMALL], workers=2)) == []


def test_an_unreadable_image_makes_its_batch_smaller_and_nothing_moves_up(tmp_path):
    folder_of(tmp_path, [f"{index}.png" for index in range(8)])
    whole = batches_of(open_source(tmp_path))
    broken = open_source(tmp_path)
    lost = plan_batches(broken, batch_size=4, images=None, seed=0).batches[0][1]
    (tmp_path / f"{lost}.png").write_bytes(b"")
    batches = batches_of(broken)
    assert [batch.images for batch in batches] == [3, 4]
    assert list(batches[0].unreadable) == [(f"{lost}.png", "an empty file")]
    assert batches[1].unreadable == ()
    kept = whole[0].inputs[SMALL][[0, 2, 3]]
    assert torch.equal(batches[0].inputs[SMALL], kept)
    assert torch.equal(batches[1].inputs[SMALL], whole[1].inputs[SMALL])


def test_places_folds_and_digests_are_those_of_the_readable_images(tmp_path):
    """Places count unreadable images too, over all batches of the run."""
    folder_of(tmp_path, [f"{index}.png" for index in range(28)])
    whole = open_source(tmp_path)
    plan = plan_batches(whole, batch_size=12, images=None, seed=0)
    clean = list(load_batches(whole, plan, range(3), [SMALL, HALF], workers=0))
    for position in (0, 9):
        (tmp_path / whole.ids[plan.batches[1][position]]).write_bytes(b"")
    _, batch, last = load_batches(whole, plan, range(3), [SMALL, HALF], workers=0)
    kept = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert batch.places.tolist() == [12 + position for position in kept]
    assert batch.folds.tolist() == [13, 14, 15, 16, 17, 18, 19, 7, 9, 10]
    assert (batch.folds.dtype, batch.folds.device.type) == (torch.int64, "cpu")
    assert batch.image_digests.tolist() == clean[1].image_digests[kept].tolist()
    assert last.places.tolist() == [24, 25, 26, 27]
    for number, pixels in zip(batch.image_digests, batch.inputs[SMALL], strict=True):
        digest = hashlib.sha256(pixels.numpy().tobytes()).digest()
        assert int(number) == int.from_bytes(digest[:8], "little")
    found = [number for each in clean for number in each.image_digests.tolist()]
    assert 0 not in found
    assert len(set(found)) == 28


def test_the_label_of_an_unreadable_image_goes_with_it(tmp_path):
    source = open_source(folder_of(tmp_path, ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]))
    (order,) = plan_batches(source, batch_size=4, images=None, seed=0).batches
    (tmp_path / source.ids[order[1]]).write_bytes(b"")
    (batch,) = batches_of(source)
    assert batch.labels is not None
    assert batch.labels.tolist() == [index // 2 for index in order if index != order[1]]


def test_a_batch_of_which_nothing_is_left_is_empty_not_missing():
    def fail(index):
        raise UnreadableImage(f"no {index}")

    (batch,) = batches_of(Source(4, fail))
    assert len(batch.digests[SMALL]) == 32
    assert batch.images == len(batch.places) == len(batch.folds) == len(batch.image_digests) == 0
    assert batch.inputs[SMALL].shape == (0, 3, 16, 16)
    assert {reason for _, reason in batch.unreadable} == {"no 0", "no 1", "no 2", "no 3"}


def test_the_digest_of_a_batch_is_of_its_pixels_and_labels():
    """By hand from the definition."""
    source = open_source("digits")
    plan = plan_batches(source, batch_size=4, images=4, seed=0)
    grey = Preprocessing((1, 8, 8), (0.5,), (0.5,))
    (batch,) = load_batches(source, plan, [0], [SMALL, HALF, grey], workers=0)
    assert batch.labels is not None
    for wanted, shape in ((SMALL, "(4, 3, 16, 16)"), (grey, "(4, 1, 8, 8)")):
        expected = hashlib.sha256(f"uint8 {shape}\n".encode())
        for image in batch.inputs[wanted]:
            expected.update(hashlib.sha256(image.numpy().tobytes()).digest())
        expected.update(b"int64 (4,)\n" + batch.labels.numpy().astype("<i8").tobytes())
        assert batch.digests[wanted] == expected.digest()
    assert batch.digests[SMALL] == batch.digests[HALF], "normalised later"


def test_the_digest_of_a_batch_knows_each_pixel_label_and_order():
    pixels_, labels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4)
    changed, turned = pixels_.clone(), labels.flip(0)
    changed[3, 2, 1, 1] = 1
    found = {
        digests_of(pixels_, labels)[0],
        digests_of(changed, labels)[0],
        digests_of(pixels_, turned)[0],
        digests_of(pixels_, None)[0],
        digests_of(pixels_.float(), labels)[0],
        digests_of(pixels_.reshape(4, 2, 3, 2), labels)[0],
        digests_of(pixels_[:3], labels[:3])[0],
        digests_of(pixels_[:0], labels[:0])[0],
    }
    assert len(found) == 8
    turned_round = changed.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    assert digests_of(turned_round, labels)[0] in found


def test_pinning_keeps_shared_tensors_shared(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    source = open_source("digits")
    plan = plan_batches(source, batch_size=4, images=4, seed=0)
    (plain,) = load_batches(source, plan, [0], [SMALL, HALF], workers=0)
    batch = plain.pin_memory()
    assert batch.inputs[SMALL] is batch.inputs[HALF]
    assert batch.inputs[SMALL] is not plain.inputs[SMALL]
    assert torch.equal(batch.inputs[SMALL], plain.inputs[SMALL])
    assert torch.equal(batch.labels, plain.labels)
