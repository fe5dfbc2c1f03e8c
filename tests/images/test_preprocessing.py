"""Preprocessing: the same numbers as timm's own evaluation transform."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from refiner_cka.errors import DataError
from refiner_cka.images.preprocessing import Preprocessing

HALF = (0.5, 0.5, 0.5)
CONFIGS = [
    Preprocessing(),
    Preprocessing((3, 224, 224), HALF, HALF, crop_pct=0.9),
    Preprocessing((3, 48, 48), interpolation="bilinear", crop_pct=0.95),
    Preprocessing((3, 32, 64), crop_pct=1.0),
    Preprocessing((3, 64, 64), crop_pct=1.0, crop_mode="squash"),
    Preprocessing((3, 64, 48), crop_pct=0.9, crop_mode="border"),
]


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ordinary(preprocessing: Preprocessing) -> Any:
    """Return timm's transform that normalises at once, on the CPU."""
    stated = dataclasses.asdict(preprocessing)
    del stated["assumed"]
    return create_transform(**stated, is_training=False)


@pytest.mark.parametrize("size", [(90, 57), (31, 300), (8, 8), (1, 1)])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.input_size[1:]}")
def test_normalising_later_changes_no_bit(config: Preprocessing, size: tuple[int, int]) -> None:
    image = picture(*size)
    pixels = config.transform()(image)
    assert pixels.dtype == torch.uint8
    assert tuple(pixels.shape) == config.input_size
    assert torch.equal(config.normalize(pixels[None])[0], ordinary(config)(image))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_grey_model_gets_the_grey_image(mode: str) -> None:
    config = Preprocessing((1, 32, 32), (0.3,), (0.2,), crop_mode=mode)
    grey = picture(40, 50).convert("L")
    pixels = config.transform()(grey.convert("RGB"))
    assert tuple(pixels.shape) == (1, 32, 32)
    assert torch.equal(config.normalize(pixels[None])[0], ordinary(config)(grey))


def test_floating_inputs_are_returned_as_they_are() -> None:
    inputs = torch.randn(2, 5, 8, 8, dtype=torch.float16)
    assert Preprocessing().normalize(inputs) is inputs


def test_normalising_leaves_its_input_alone() -> None:
    pixels = torch.full((1, 3, 2, 2), 7, dtype=torch.uint8)
    Preprocessing().normalize(pixels)
    assert (pixels == 7).all()


def test_preprocessings_that_differ_in_mean_and_std_share_the_image() -> None:
    vit, deit = Preprocessing(mean=HALF, std=HALF), Preprocessing()
    assert vit != deit
    assert vit.geometry() == deit.geometry()
    assert vit.geometry() != dataclasses.replace(vit, crop_pct=0.9).geometry()
    assert torch.equal(
        vit.geometry().transform()(picture(60, 40)), deit.transform()(picture(60, 40))
    )


def test_a_border_is_filled_with_the_mean_so_it_belongs_to_the_geometry() -> None:
    black = Preprocessing((3, 8, 8), (0.0, 0.0, 0.0), crop_pct=1.0, crop_mode="border")
    white = dataclasses.replace(black, mean=(1.0, 1.0, 1.0))
    assert black.geometry() != white.geometry()
    wide = Image.new("RGB", (16, 2), (128, 128, 128))
    assert black.geometry().transform()(wide)[:, 0].max() == 0
    assert white.geometry().transform()(wide)[:, 0].min() == 255


def test_equal_preprocessings_are_one_key() -> None:
    assert len({Preprocessing(), Preprocessing(), Preprocessing(crop_pct=0.9)}) == 2


def test_means_of_another_number_of_channels_are_refused() -> None:
    with pytest.raises(DataError, match="1 input channels has 3 means and 3 standard deviations"):
        Preprocessing((1, 32, 32))


def test_a_model_of_four_channels_takes_arrays_only() -> None:
    config = Preprocessing((4, 8, 8), (0.0,) * 4, (1.0,) * 4)
    with pytest.raises(DataError, match=r"4 input channels cannot be fed images: .*floating array"):
        config.transform()


@pytest.mark.parametrize("size", [(90, 57), (500, 375), (31, 300), (8, 8)])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.input_size[1:]}")
def test_fast_pixels_are_those_of_timm_but_for_roundings(
    config: Preprocessing, size: tuple[int, int]
) -> None:
    coarse = picture(*size).resize((5, 4)).resize(size, Image.Resampling.BICUBIC)
    fast, exact = (config.transform(fast=fast)(coarse).int() for fast in (True, False))
    assert fast.shape == exact.shape
    assert (fast - exact).abs().max() <= 2
    assert (fast != exact).float().mean() < 0.05


def test_what_is_enough_to_decode_is_twice_what_is_resized_to_or_more() -> None:
    sizes = {224: 512, 384: 1024, 32: 128}
    assert {side: Preprocessing((3, side, side)).enough for side in sizes} == sizes
    assert Preprocessing(crop_pct=1.0).enough == Preprocessing(crop_pct=0.9).enough == 512
    assert Preprocessing((3, 64, 300), crop_pct=1.0).enough == 1024
