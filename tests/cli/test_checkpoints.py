"""`analyze` on checkpoints: of one training, of several seeds, moved."""

import shutil
from pathlib import Path

import torch
from matplotlib.colors import to_rgb

import refiner_cka as rc
from refiner_cka.plots.models import palette
from tests.cli.running import SMALL, succeed


def weights(*files):
    """Write weights of a small ViT, each its own."""
    import timm

    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        torch.save(timm.create_model("test_vit", img_size=32).state_dict(), file)


def colours(models):
    """Return the markers and lightness of the models' lines in a figure."""
    looks = palette(rc.load("results/analysis.h5"), models)
    return {look["marker"] for look in looks}, [sum(to_rgb(look["color"])) for look in looks]


def test_checkpoints_of_a_glob_are_a_trajectory():
    weights(*(f"epoch{epoch}.pth" for epoch in (2, 10, 30)))
    succeed("analyze", "--model", "test_vit=epoch*.pth,img_size=32", *SMALL, "--quiet")
    models = rc.load("results/analysis.h5").models
    assert models == tuple(f"test_vit=epoch{epoch},img_size=32" for epoch in (2, 10, 30))
    markers, lightness = colours(models)
    assert len(markers) == 1
    assert lightness == sorted(lightness, reverse=True)


def test_seeds_of_a_glob_have_names_and_colours_of_their_own():
    """They were `epoch04`, `epoch04#2` and `epoch04#3`, drawn as if one came from the other."""
    weights(*(f"run{seed}/epoch04.pth" for seed in (1, 2, 3)))
    succeed("analyze", "--model", "test_vit=run*/epoch04.pth,img_size=32", *SMALL, "--quiet")
    models = rc.load("results/analysis.h5").models
    assert models == tuple(f"test_vit=run{seed},img_size=32" for seed in (1, 2, 3))
    assert len(colours(models)[0]) == 3


def test_where_a_file_lies_is_no_part_of_what_is_measured():
    weights("epoch1.pth")
    for out, folder in (("one", "."), ("other", "moved")):
        Path(folder).mkdir(exist_ok=True)
        shutil.copy("epoch1.pth", Path(folder) / "copy_epoch1.pth")
        model = f"test_vit={folder}/copy_epoch1.pth,img_size=32"
        succeed("analyze", "--model", model, *SMALL, "--quiet", "--out", out)
    one, other = (rc.load(f"{out}/analysis.h5") for out in ("one", "other"))
    assert one.fingerprint == other.fingerprint
    assert [list(result.provenance["training"].values()) for result in (one, other)] == [
        [{"run": f"{folder}copy_epoch#.pth", "time": [1]}] for folder in ("", "moved/")
    ]
