"""Token-similarity maps against cosines of hooked features."""

import numpy as np
import pytest
import timm
import torch

import refiner_cka as rc
from refiner_cka.images.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=6).eval()
    return rc.Subject.from_module(
        module, "block", name="vit", preprocessing=Preprocessing(input_size=(3, 64, 64))
    )


def images():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_maps_are_cosines_with_the_chosen_patch(subject):
    maps = rc.token_maps(subject, images(), image=2, patch=(0.3, 0.9), device="cpu")
    assert maps.layers == ("blocks.0", "blocks.2", "blocks.3", "blocks.5")
    kept = []
    handle = subject.module.blocks[3].register_forward_hook(lambda _m, _i, out: kept.append(out))
    with torch.inference_mode():
        subject.module(images()[2:3])
    handle.remove()
    tokens = kept[0][0, 1:].double().numpy().reshape(4, 4, -1)
    chosen = tokens[1, 3]
    expected = [
        [token @ chosen / np.linalg.norm(token) / np.linalg.norm(chosen) for token in row]
        for row in tokens
    ]
    np.testing.assert_allclose(maps.cosines[2], expected, atol=1e-6)
    assert maps.image.shape == (64, 64, 3)
    assert (maps.image.min(), maps.image.max()) == (0, 1)
    assert all(not part._forward_hooks for part in subject.module.modules())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image": 9}, rc.DataError, "no image 9"),
        ({"patch": (0.5, 2.0)}, rc.DataError, "from 0 to 1"),
        ({"layers": ["blocks.99"]}, rc.LayerError, "has no module 'blocks.99'"),
        ({"layers": ["blocks.*.nothing"]}, rc.LayerError, "has no module 'blocks..*.nothing'"),
        ({"seed": 2**63}, rc.DataError, "--seed 9223372036854775808"),
        ({"image_size": 0}, rc.DataError, "--image-size 0"),
        ({"layers": ["head"]}, rc.LayerError, "vit: layer head has no tokens on a grid"),
    ],
)
def test_bad_input_is_refused(subject, options, error, message):
    with pytest.raises(error, match=message):
        rc.token_maps(subject, images(), device="cpu", **options)
