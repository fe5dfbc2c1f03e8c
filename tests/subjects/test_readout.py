"""From a layer's output to features: containers, layouts, readouts."""

from collections import OrderedDict

import pytest
import torch

from refiner_cka.errors import LayerError
from refiner_cka.subjects.readout import TokenLayout, features_of, tensor_of

SEQUENCE = torch.arange(2 * 6 * 3, dtype=torch.float32).reshape(2, 6, 3)
MAPS = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)


@pytest.mark.parametrize(
    "output",
    [
        SEQUENCE,
        (SEQUENCE, torch.zeros(1)),
        [None, SEQUENCE],
        ((None, SEQUENCE), torch.zeros(1)),
        {"attentions": torch.zeros(1), "last_hidden_state": SEQUENCE},
        OrderedDict(loss=None, hidden=SEQUENCE),
    ],
)
def test_the_tensor_of_an_output(output):
    assert tensor_of(output) is SEQUENCE


def test_of_several_tensors_the_one_of_the_images():
    pixels = torch.zeros(2 * 4, 5, 3)
    assert tensor_of((pixels, SEQUENCE), images=2) is SEQUENCE
    assert tensor_of([MAPS, SEQUENCE], images=2) is MAPS
    assert tensor_of((pixels, SEQUENCE)) is pixels
    assert tensor_of((pixels, torch.zeros(1)), images=2) is pixels
    # What a mapping says is its output stays that, also where it cannot be read.
    states = {"last_hidden_state": pixels, "attentions": SEQUENCE}
    assert tensor_of(states, images=2) is pixels


@pytest.mark.parametrize("output", [None, "text", (), {"a": None}, 3.0])
def test_an_output_without_a_tensor(output):
    assert tensor_of(output) is None


def test_readouts_of_a_sequence_with_two_prefix_tokens():
    layout = TokenLayout("nlc", prefix=2)
    assert features_of(SEQUENCE, layout, "all").shape == (2, 18)
    assert torch.equal(features_of(SEQUENCE, layout, "patch"), SEQUENCE[:, 2:].reshape(2, 12))
    assert torch.equal(features_of(SEQUENCE, layout, "cls"), SEQUENCE[:, 0])
    assert torch.equal(features_of(SEQUENCE, layout, "mean"), SEQUENCE[:, 2:].double().mean(1))


@pytest.mark.parametrize("layout", [TokenLayout("nlc"), TokenLayout("nlc", 4, class_token=False)])
def test_without_a_class_token_there_is_none_to_read(layout):
    """Neither is the first of four registers one."""
    with pytest.raises(LayerError, match="no class token"):
        features_of(SEQUENCE, layout, "cls")


def test_a_sequence_of_prefix_tokens_alone_has_no_patches():
    layout = TokenLayout("nlc", prefix=1)
    alone = SEQUENCE[:, :1]
    assert torch.equal(features_of(alone, layout, "cls"), alone[:, 0])
    for readout in ("patch", "mean"):
        with pytest.raises(LayerError, match="no patch tokens"):
            features_of(alone, layout, readout)


@pytest.mark.parametrize(("format", "axes"), [("nchw", (2, 3)), ("nhwc", (1, 2))])
def test_the_positions_of_a_map_are_its_tokens(format, axes):
    layout = TokenLayout(format)
    torch.testing.assert_close(features_of(MAPS, layout, "mean"), MAPS.double().mean(axes))
    assert features_of(MAPS, layout, "patch").shape == (2, 60)
    with pytest.raises(LayerError, match="no class token"):
        features_of(MAPS, layout, "cls")


def test_channels_last_memory_is_read_without_a_copy():
    stored = MAPS.contiguous(memory_format=torch.channels_last)
    features = features_of(stored, None, "all")
    assert features.data_ptr() == stored.data_ptr()
    assert torch.equal(features.sort(1).values, MAPS.flatten(1).sort(1).values)


def test_a_vector_is_one_patch():
    vector = torch.randn(3, 7)
    for readout in ("all", "patch", "mean"):
        assert torch.equal(features_of(vector, None, readout), vector)
    with pytest.raises(LayerError, match="no class token"):
        features_of(vector, None, "cls")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_mean_is_not_rounded_to_the_type_of_the_tokens(dtype):
    tokens = (SEQUENCE + 1000).to(dtype)
    found = features_of(tokens, TokenLayout("nlc", 2), "mean")
    assert torch.equal(found, tokens[:, 2:].double().mean(1))
    largest = torch.full_like(tokens, torch.finfo(dtype).max)
    assert features_of(largest, TokenLayout(), "mean").isfinite().all()
