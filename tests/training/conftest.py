"""What the tests of training share: one thread, and a folder of pictures that are easily told apart."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.tiny import SIDE


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path):
    """Dark and bright pictures, 20 of each, in two class folders."""
    noise = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 40)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(20):
            pixels = level + noise.integers(-30, 30, (SIDE, SIDE, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "images" / name / f"{index}.png"
            )
    return tmp_path / "images"
