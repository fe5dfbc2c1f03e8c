"""Bad input to `analyze`: one line, and nothing is written."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.running import refused


class Attack:
    def __reduce__(self):
        return os.system, ("touch owned",)


def checkpoints():
    import timm

    state = timm.create_model("test_vit", img_size=32).state_dict()
    torch.save({"state_dict": state, "args": Attack()}, "attack.pth")
    torch.save(timm.create_model("test_resnet").state_dict(), "other.pth")
    Path("text.pth").write_text("<html>404</html>")
    with open("plain.pth", "wb") as stream:
        pickle.dump(Attack(), stream)


def images():
    for name, count in (("three", 3), ("none", 0), ("corrupt", 6), ("some", 6)):
        Path(name).mkdir()
        for index in range(count):
            path = Path(name) / f"{index}.png"
            Image.new("RGB", (40, 40), (index * 40, 10, 10)).save(path)
            if name == "corrupt" and index < 3:
                path.write_bytes(path.read_bytes()[:60])


RANDOM = "test_vit=random,img_size=32"


BAD = {
    "no such folder": (["--model", RANDOM, "--data", "nowhere"], "nowhere"),
    "a folder without images": (["--model", RANDOM, "--data", "none"], "no images in none"),
    "three images": (["--model", RANDOM, "--data", "three"], "at least 4"),
    "three readable images": (["--model", RANDOM, "--data", "corrupt"], "fewer than 4"),
    "an unknown model": (["--model", "vitt_s", "--data", "some"], "vit_s"),
    "no network": (["--model", "vit_ti", "--data", "some"], "vit_ti=random"),
    "no such checkpoint": (["--model", "test_vit=no.pth", "--data", "some"], "no.pth"),
    "another architecture": (
        ["--model", "test_vit=other.pth,img_size=32", "--data", "some"],
        "cls_token",
    ),
    "a checkpoint that carries code": (
        ["--model", "test_vit=attack.pth,img_size=32", "--data", "some"],
        "code",
    ),
    "a pickle that carries code": (
        ["--model", "test_vit=plain.pth,img_size=32", "--data", "some"],
        "plain.pth",
    ),
    "no checkpoint at all": (
        ["--model", "test_vit=text.pth,img_size=32", "--data", "some"],
        "text.pth",
    ),
    "a pattern that matches nothing": (
        ["--model", RANDOM, "--data", "some", "--layers", "bloc.*"],
        "bloc.*",
    ),
    "an indivisible size": (
        ["--model", "vit_ti=random", "--data", "some", "--image-size", "230"],
        "230",
    ),
    "no class token": (
        ["--model", "test_resnet=random", "--data", "some", "--tokens", "cls"],
        "class token",
    ),
    "a missing device": (["--model", RANDOM, "--data", "some", "--device", "cuda:9"], "cuda:9"),
    "an output that is a file": (
        ["--model", RANDOM, "--data", "some", "--out", "text.pth"],
        "text.pth",
    ),
    "refiner without weights": (["--model", "refiner_s", "--data", "some"], "refiner_s=random"),
    "no such factory": (["--model", "nothing.here:build", "--data", "some"], "nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_and_writes_nothing(case):
    checkpoints()
    images()
    arguments, expected = BAD[case]
    before = {path for path in Path.cwd().rglob("*") if "hf" not in path.parts}
    line = (
        refused("analyze", *arguments, "--workers", 0, "--device", "cpu", "--quiet")
        if ("--device" not in arguments)
        else refused("analyze", *arguments, "--workers", 0, "--quiet")
    )
    assert expected in line
    assert {path for path in Path.cwd().rglob("*") if "hf" not in path.parts} == before
    assert not Path("owned").exists()
