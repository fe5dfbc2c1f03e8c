"""A classifier of small pictures that trains in no time."""

import torch
from torch import nn

import refiner_cka as rc

SIDE = 8
GEOMETRY = rc.Preprocessing((3, SIDE, SIDE), (0.5,) * 3, (0.5,) * 3, crop_pct=1.0)
STILL = rc.Recipe(epochs=1, batch_size=8, augmentation=None)


def network(classes=2):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, classes)
    )


def subject(module=None, **others):
    module = network() if module is None else module
    return rc.Subject.from_module(module, ["1"], name="mine", preprocessing=GEOMETRY, **others)


def state_of(trained):
    return {name: value.clone() for name, value in trained.subject.module.state_dict().items()}
