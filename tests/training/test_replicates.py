"""The script behind `make replicates`, on forty digits."""

import importlib.util
from pathlib import Path

import pytest

import refiner_cka as rc
from refiner_cka.images import open_source
from refiner_cka.subjects import nano

SCRIPT = Path(__file__).parents[2] / "docs/replicates.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("replicates", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def digits(tmp_path):
    source = open_source("digits-train")
    for index in range(40):
        place = tmp_path / "digits" / source.classes[source.labels[index]]
        place.mkdir(parents=True, exist_ok=True)
        source.read(index).save(place / f"{index}.png")
    return str(tmp_path / "digits")


def test_what_is_missing_is_trained_and_the_seeds_are_a_group(script, digits, tmp_path, capsys):
    chain, folder = ("resnet_nano", "deit_nano"), tmp_path / "replicates"
    for seed in (0, 1):
        script.train_chain(folder, chain, seed, 1, digits)
        assert capsys.readouterr().out.count("epoch 1 of 1") == 2
    files = sorted(folder.glob("seed*/*.safetensors"))
    assert len(files) == 4
    written = [file.read_bytes() for file in files]
    assert len(set(written)) == 4

    (folder / "seed1/deit_nano.safetensors").unlink()
    script.train_chain(folder, chain, 1, 1, digits)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{folder}/seed1/resnet_nano.safetensors: there already"
    assert second.startswith("seed 1: deit_nano: epoch 1 of 1")
    # The teacher that is read from its file teaches as the one that was just trained.
    assert [file.read_bytes() for file in files] == written

    texts = [f"{name}={folder}/seed*/{name}.safetensors,group={name[:-5]}" for name in chain]
    analysis = rc.prepare(texts, digits, batch_size=8, workers=0, device="cpu")
    assert analysis.provenance["groups"] == {
        "resnet": ["resnet_nano=seed0", "resnet_nano=seed1"],
        "deit": ["deit_nano=seed0", "deit_nano=seed1"],
    }


def test_every_embedded_network_is_trained(script):
    trained = [name for chain in script.CHAINS for name in chain]
    assert sorted(trained) == sorted(nano.default_cfgs)
