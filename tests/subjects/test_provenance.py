"""Where weights come from, and which moment of which training a file holds."""

from pathlib import Path

import pytest

from refiner_cka.subjects.provenance import moment


@pytest.mark.parametrize(
    ("file", "run", "time"),
    [
        ("run1/epoch04.safetensors", "run1/epoch#.safetensors", [4]),
        ("./e3.pth", "e#.pth", [3]),
        ("vit-epoch=3-step=1200.ckpt", "vit-epoch=#-step=#.ckpt", [3, 1200]),
        ("out/checkpoint-500/model.safetensors", "out/checkpoint-#/model.safetensors", [500]),
        ("Iter_010.PT", "Iter_#.PT", [10]),
        ("seed3_epoch5.pth.tar", "seed3_epoch#.pth.tar", [5]),
    ],
)
def test_a_number_after_a_word_for_time_is_a_moment(file, run, time):
    assert moment(Path(file)) == {"run": run, "time": time}


@pytest.mark.parametrize(
    "file",
    [
        "seed1.pth",
        "run2/last.pth",
        "model_3.pth",
        "4.pth",
        "lr1e-3.pth",
        "epochs300.pth",
        "size5.pt",
    ],
)
def test_other_numbers_are_none(file):
    assert moment(Path(file)) is None
