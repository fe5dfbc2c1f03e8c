"""Arrays: layouts, types, inputs that are no pictures, digests."""

import hashlib

import numpy as np
import pytest
import torch

from refiner_cka.errors import DataError
from refiner_cka.images import Preprocessing, arrays, load_batches, open_source, plan_batches
from refiner_cka.images.arrays import ArrayImages
from tests.images.examples import IMAGES, SMALL, batches_of, pixels


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (IMAGES, IMAGES),
        (IMAGES.transpose(0, 3, 1, 2), IMAGES),
        (IMAGES[..., 0], IMAGES[..., [0, 0, 0]]),
        (IMAGES[..., :1], IMAGES[..., [0, 0, 0]]),
        (IMAGES[:, None, :, :, 0], IMAGES[..., [0, 0, 0]]),
        (IMAGES.astype(np.uint16) * 257, IMAGES),
        (np.concatenate([IMAGES, np.full_like(IMAGES[..., :1], 255)], 3), IMAGES),
        (np.concatenate([IMAGES, np.zeros_like(IMAGES[..., :1])], 3), np.full_like(IMAGES, 255)),
    ],
    ids=["NHWC", "NCHW", "NHW", "NHW1", "N1HW", "16 bit", "opaque", "transparent"],
)
def test_layouts_of_integer_arrays(array, expected):
    sources_ = open_source(array), open_source(torch.from_numpy(np.ascontiguousarray(array)))
    for source in sources_:
        assert (pixels(source.read(4)) == expected[4]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_floating_inputs_are_fed_as_they_are(dtype):
    inputs = torch.randn(5, 13, 4, 6).to(dtype).requires_grad_()
    (batch,) = batches_of(open_source(inputs), size=8)
    order = plan_batches(open_source(inputs), batch_size=8, images=None, seed=0).batches[0]
    assert batch.inputs[SMALL].dtype == torch.float32
    assert torch.equal(batch.inputs[SMALL], inputs.detach().float()[list(order)])


@pytest.mark.parametrize(
    ("shape", "channels", "refused"),
    [
        ((64, 2, 4, 4), 3, False),
        ((64, 2, 4, 4), 2, False),
        ((64, 224, 224, 3), 3, True),
        ((64, 224, 224, 3), 224, False),
        ((8, 3, 3, 3), 3, False),
        ((64, 4, 4, 2), 2, True),
        ((64, 4, 4, 2), 3, False),
        ((64, 4, 4, 2), 4, False),
        ((64, 5, 3), 3, False),
    ],
)
def test_channels_are_last_where_the_model_says_so(shape, channels, refused):
    """Only what is certain: the last axis is what the model takes as its first, and the first is not."""
    source = open_source(np.zeros(shape, np.float32))
    wanted = Preprocessing((channels, 4, 4), (0.5,) * channels, (0.5,) * channels)
    plan = plan_batches(source, batch_size=8, images=8, seed=0)
    batches = load_batches(source, plan, [0], [wanted], workers=0)
    if refused:
        with pytest.raises(DataError, match="seem to have their channels last") as caught:
            next(batches)
        assert "\n" not in str(caught.value)
    else:
        assert next(batches).inputs[wanted].shape == (8, *shape[1:])


def test_inputs_of_other_models_than_vision_models_pass_too():
    (batch,) = batches_of(open_source(torch.ones(4, 7)))
    assert batch.inputs[SMALL].shape == (4, 7)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_an_input_that_is_not_finite_is_unreadable(value):
    inputs = np.zeros((4, 3, 2, 2))
    inputs[2, 0, 0, 0] = value
    (batch,) = batches_of(open_source(inputs))
    assert list(batch.unreadable) == [("2", "holds a NaN or an infinity")]


def test_the_digest_of_an_array_knows_all_of_its_chosen_rows():
    changed = IMAGES.copy()
    changed[2, 5, 5, 1] += 1
    assert open_source(changed).digest([0, 1]) == open_source(IMAGES).digest([0, 1])
    assert open_source(changed).digest([0, 2]) != open_source(IMAGES).digest([0, 2])
    assert open_source(IMAGES).digest([0, 2]) != open_source(IMAGES).digest([2, 0])
    assert open_source(IMAGES).digest([0]).whole
    same_bytes = IMAGES.reshape(6, 12, 10, 3)
    assert open_source(same_bytes).digest([0]) != open_source(IMAGES).digest([0])


class Watched:
    """Rows that note how they are read."""

    shape, dtype = IMAGES.shape, IMAGES.dtype

    def __init__(self):
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return IMAGES[index]


def test_rows_are_hashed_in_the_order_of_the_file_and_many_at_a_time(monkeypatch):
    """By hand from the definition, whatever the size of a block; rows that are not wanted do not count."""
    lines = ["|u1 (10, 12, 3)"]
    for index in (5, 0, 3):
        lines.append(f"{index}\0{hashlib.sha256(IMAGES[index].tobytes()).hexdigest()}")
    expected = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    rows = Watched()
    source = ArrayImages.of(rows, "watched")
    assert source.digest([5, 0, 3]).sha256 == expected
    assert rows.read == [slice(0, 6)]
    rows.read.clear()
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 2 * IMAGES[0].nbytes)
    assert source.digest([5, 0, 3]).sha256 == expected
    assert rows.read == [slice(0, 1), slice(3, 4), slice(5, 6)]
    rows.read.clear()
    source.digest([1, 0, 4, 5])
    assert rows.read == [slice(0, 2), slice(4, 6)]
