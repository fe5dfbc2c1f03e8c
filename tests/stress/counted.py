"""A small network that writes down each batch it is given."""

import os
import time

import timm
from torch import nn

import refiner_cka.subjects.nano  # noqa: F401  # registers it

BATCH = 8


def build() -> nn.Module:
    """The embedded `vit_nano`, which adds a line with process and time to the file `COUNTED` for every batch."""
    module: nn.Module = timm.create_model("vit_nano", pretrained=True)
    module.register_forward_pre_hook(_count)
    return module


def _count(_module, inputs):
    if (
        len(inputs[0]) == BATCH
    ):  # else the images with which the analysis finds out about the network
        with open(os.environ["COUNTED"], "a") as file:
            file.write(f"{os.environ.get('RANK', '0')} {time.time()}\n")
