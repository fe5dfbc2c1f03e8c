"""Torch data sets."""

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from refiner_cka.errors import DataError
from refiner_cka.images import UnreadableImage, open_source
from tests.images.examples import IMAGES, Pictures, batches_of, pixels, scene


def test_a_torch_data_set():
    source = open_source(
        Pictures([scene(seed=0).convert("L"), torch.from_numpy(IMAGES[0]), IMAGES[1], 3])
    )
    assert source.labels == [1, 0, 1, 1]
    assert source.classes == ("cat", "dog")
    assert source.description == "a Pictures of 4 images"
    assert pixels(source.read(0)).shape == (16, 24, 3)
    assert (pixels(source.read(1)) == IMAGES[0]).all()
    assert (pixels(source.read(2)) == IMAGES[1]).all()
    with pytest.raises(UnreadableImage, match=r"int64 \(1,\) holds no images"):
        source.read(3)


class Doubled:
    """A transform without a name of its own: its `repr` holds its address."""

    def __call__(self, image):
        return image


def test_a_data_sets_own_transform_is_said_and_its_images_are_not_vouched_for():
    def digest(transform):
        pictures = Pictures([scene()] * 4)
        pictures.transform = transform
        return open_source(pictures).digest(range(4))

    found = digest(Doubled())
    assert not found.whole
    assert "not its images" in found.covers
    assert found.transform is not None
    assert found.transform.endswith("test_datasets.Doubled object>")
    assert found == digest(Doubled()), "no address"
    assert digest(None).transform is None
    assert digest("Resize(9)\n" + "x" * 5000).transform == repr("Resize(9)\n" + "x" * 5000)[:1000]
    inside = Subset(Pictures([scene()] * 4), [0, 1, 2, 3])
    inside.dataset.transforms = "Crop"
    assert open_source(inside).digest(range(4)).transform == "'Crop'"


def test_pictures_and_floating_items_are_not_mixed():
    """Pictures are resized and normalised, floating inputs are not: together they would be nonsense."""
    inputs = torch.zeros(3, 16, 16)
    mixed = Pictures([scene(), scene(), inputs, scene()])
    with pytest.raises(DataError, match=r"^image 2 of .* is a floating input among pictures"):
        batches_of(open_source(mixed))
    mixed = Pictures([inputs, inputs, inputs, scene()])
    with pytest.raises(DataError, match=r"^image 3 of .* is a picture among floating inputs"):
        batches_of(open_source(mixed))


def test_the_first_readable_item_says_what_a_data_set_holds():
    spoilt = torch.full((3, 4, 4), float("nan"))
    source = open_source(Pictures([spoilt, torch.zeros(3, 4, 4)]))
    assert source.input_shape == (3, 4, 4)
    assert open_source(Pictures([3, 3])).input_shape is None


def test_an_item_that_raises_is_unreadable():
    class Failing(Pictures):
        def __getitem__(self, index):
            raise KeyError("broken\nrow")

    with pytest.raises(UnreadableImage, match=r"^KeyError: 'broken"):
        open_source(Failing([0])).read(0)


def test_a_tensor_data_set_is_its_first_tensor():
    inputs = torch.randn(4, 3, 5, 5)
    source = open_source(TensorDataset(inputs, torch.arange(4)))
    found = source.read(2)
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, inputs[2])
    assert source.labels is None
