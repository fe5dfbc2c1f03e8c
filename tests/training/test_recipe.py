"""Recipes and augmentation: what is drawn lies within its limits, and nonsense is refused."""

import pytest
import torch

import refiner_cka as rc
from refiner_cka.training import Augmentation, Recipe

NONE = {"rotation": 0, "scale": 0, "shear": 0, "shift": 0}


def maps(count, side=129, **limits):
    """Draw maps from places in the new image to places in the old, `(count, 2, 3)`, in pixels from the centre.

    They are read off an image whose pixels say where they lie.
    """
    transform = Augmentation(**NONE | limits).transform()
    across = torch.arange(side, dtype=torch.float32) - side // 2
    places = torch.stack(torch.meshgrid(across, across, indexing="xy"))
    middle = slice(side // 2 - 8, side // 2 + 9)
    new = torch.cat([places, torch.ones(1, side, side)])[:, middle, middle].flatten(1).T
    old = torch.stack([transform(places)[:, middle, middle].flatten(1).T for _ in range(count)])
    return torch.linalg.lstsq(new.expand(count, -1, -1), old).solution.transpose(1, 2)


def test_no_augmentation_is_the_identity():
    image = torch.randint(0, 256, (3, 6, 6), dtype=torch.uint8)
    assert torch.equal(Augmentation(**NONE).transform()(image), image)


def test_rotations_and_shifts_stay_within_their_limits():
    torch.manual_seed(0)
    drawn = maps(500, rotation=90, shift=0.25)
    turns = drawn[:, :, :2]
    eye = torch.eye(2).expand(500, 2, 2)
    torch.testing.assert_close(turns @ turns.transpose(1, 2), eye, atol=1e-4, rtol=0)
    angles = torch.rad2deg(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]))
    assert 85 < angles.abs().max() <= 90
    shifts = torch.linalg.solve(turns, drawn[:, :, 2]).abs()
    assert 31.5 < shifts.max() < 32.5  # of 129 pixels


def test_sizes_and_shears_stay_within_their_limits():
    torch.manual_seed(0)
    sizes = torch.linalg.det(maps(500, rotation=30, scale=0.2)[:, :, :2]) ** -0.5
    assert 0.8 <= sizes.min() < 0.81
    assert 1.19 < sizes.max() <= 1.2 + 1e-4
    sheared = maps(500, shear=0.1)
    torch.testing.assert_close(sheared[:, 1, 1], torch.ones(500), atol=1e-4, rtol=0)
    assert 0.099 < sheared[:, 0, 1].abs().max() <= 0.1 + 1e-4


def test_flips_mirror_half_of_the_images():
    torch.manual_seed(0)
    transform = Augmentation(**NONE, flip=True).transform()
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    changed = [transform(image) for _ in range(400)]
    mirrored = sum(torch.equal(each, image.flip(2)) for each in changed)
    assert 150 < mirrored < 250
    assert mirrored + sum(torch.equal(each, image) for each in changed) == 400


def test_what_was_outside_is_black():
    torch.manual_seed(0)
    transform = Augmentation(**NONE | {"shift": 0.5}).transform()
    white = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    assert {value for _ in range(20) for value in transform(white).unique().tolist()} == {0, 255}


def test_images_of_two_sizes_are_changed_alike_from_one_state_of_the_generator():
    limits = {"rotation": 20, "scale": 0.2, "shear": 0.2, "shift": 0.1, "flip": True}
    torch.manual_seed(3)
    large = maps(20, side=201, **limits)
    torch.manual_seed(3)
    small = maps(20, side=101, **limits)
    torch.testing.assert_close(large[:, :, :2], small[:, :, :2], atol=1e-3, rtol=0)
    # Shifts are whole pixels.
    assert (large[:, :, 2] / 2 - small[:, :, 2]).abs().max() < 1.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "at least 1 epoch"),
        ({"batch_size": 2}, "at least 1 epoch"),
        ({"warmup": 1.5}, "0 to 1"),
        ({"label_smoothing": 2}, "0 to 1"),
    ],
)
def test_recipes_that_train_nothing_are_refused(wrong, message):
    with pytest.raises(rc.ModelError, match=message):
        Recipe(**wrong)
