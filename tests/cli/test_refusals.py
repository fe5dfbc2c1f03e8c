"""Bad input to `analyze`: one line, and nothing is written."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli import running
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
    "no such folder": (RANDOM, "nowhere", [], "nowhere"),
    "a folder without images": (RANDOM, "none", [], "no images in none"),
    "three images": (RANDOM, "three", [], "at least 4"),
    "three readable images": (RANDOM, "corrupt", [], "fewer than 4"),
    "an unknown model": ("vitt_s", "some", [], "vit_s"),
    "no network": ("vit_ti", "some", [], "vit_ti=random"),
    "no such checkpoint": ("test_vit=no.pth", "some", [], "no.pth"),
    "another architecture": ("test_vit=other.pth,img_size=32", "some", [], "cls_token"),
    "a checkpoint that carries code": ("test_vit=attack.pth,img_size=32", "some", [], "code"),
    "a pickle that carries code": ("test_vit=plain.pth,img_size=32", "some", [], "plain.pth"),
    "no checkpoint at all": ("test_vit=text.pth,img_size=32", "some", [], "text.pth"),
    "a pattern that matches nothing": (RANDOM, "some", ["--layers", "bloc.*"], "bloc.*"),
    "an indivisible size": ("vit_ti=random", "some", ["--image-size", "230"], "230"),
    "no class token": ("test_resnet=random", "some", ["--tokens", "cls"], "class token"),
    "a missing device": (RANDOM, "some", ["--device", "cuda:9"], "cuda:9"),
    "an output that is a file": (RANDOM, "some", ["--out", "text.pth"], "text.pth"),
    "an output of too long a name": (RANDOM, "some", ["--out", "x" * 300], "File name too long"),
    "an output where none can be": (
        RANDOM,
        "some",
        ["--out", "/proc/results"],
        "name another --out",
    ),
    "a seed beyond 64 bits": (RANDOM, "some", ["--seed", 2**63], "--seed 9223372036854775808"),
    "a batch beyond 64 bits": (RANDOM, "some", ["--batch-size", 2**64], "--batch-size 18446744073"),
    "a shard beyond the last": (RANDOM, "some", ["--shard", "3/2"], "--shard 3/2"),
    "an unknown index": (RANDOM, "some", ["--index", "cca"], "unknown --index 'cca'"),
    "an unknown reference": (RANDOM, "some", ["--against", "words"], "unknown --against 'words'"),
    "no labels to compare with": (RANDOM, "some", ["--against", "labels"], "has no labels"),
    "one training": (f"{RANDOM},group=G", "some", [], "'G' has one training"),
    "refiner without weights": ("refiner_s", "some", [], "refiner_s=random"),
    "no such factory": ("nothing.here:build", "some", [], "nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_and_writes_nothing(case):
    checkpoints()
    images()
    model, data, options, expected = BAD[case]
    device = [] if "--device" in options else ["--device", "cpu"]
    arguments = ["--model", model, "--data", data, *options, *device]
    before = {path for path in Path.cwd().rglob("*") if "hf" not in path.parts}
    assert expected in refused("analyze", *arguments, "--workers", 0, "--quiet")
    assert {path for path in Path.cwd().rglob("*") if "hf" not in path.parts} == before
    assert not Path("owned").exists()


@pytest.mark.parametrize("command", ["analyze", "maps"])
def test_an_output_without_a_name_is_refused(command):
    done = running.command(command, "--model", RANDOM, "--data", "digits", "--out", "")
    assert done.exit_code == 2
    assert "no folder is named" in done.stderr
    assert not os.listdir()


@pytest.mark.parametrize("seconds", ["nan", "-1"])
def test_no_time_between_two_saves_is_refused(seconds):
    done = running.command(
        "analyze", "--model", "nothing", "--data", "nowhere", "--save-every", seconds
    )
    assert done.exit_code in (1, 2)
    assert "--save-every" in done.stderr
    assert "nowhere" not in done.stderr


def test_a_pattern_of_maps_that_matches_nothing_is_refused():
    line = refused(
        "maps", "--model", RANDOM, "--data", "digits", "--layers", "blocks.*.nothing", "--out", "o"
    )
    assert "has no module 'blocks.*.nothing'" in line
    assert not Path("o").exists()
