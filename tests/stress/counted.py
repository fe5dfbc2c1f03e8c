"""A small network that writes down each batch it is given, and may fail or be slow."""

import os
import time

import timm
from torch import nn

import refiner_cka.subjects.nano  # noqa: F401  # registers it

BATCH = 8


def build() -> nn.Module:
    """The embedded `vit_nano`, which adds a line with process and time to the file `COUNTED` for every batch.

    In the process `FAILS` the third batch is an error, and in the process `SLOW` it takes ten minutes.
    """
    module: nn.Module = timm.create_model("vit_nano", pretrained=True)
    module.register_forward_pre_hook(_count)
    return module


def _count(_module, inputs):
    if len(inputs[0]) != BATCH:
        return  # the images with which the analysis finds out about the network
    rank = os.environ.get("RANK", "0")
    with open(os.environ["COUNTED"], "a+") as file:
        file.write(f"{rank} {time.time()}\n")
        file.flush()
        file.seek(0)
        count = sum(line.split()[0] == rank for line in file)
    if count == 3 and rank == os.environ.get("FAILS"):
        raise RuntimeError("the device is lost")
    if count == 3 and rank == os.environ.get("SLOW"):
        time.sleep(600)
