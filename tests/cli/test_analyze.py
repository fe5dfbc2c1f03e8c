"""`analyze`: what it writes, prints and replaces."""

import json
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

import refiner_cka as rc
from tests.cli.running import MODEL, SMALL, command, refused, succeed

PRODUCTS = "similarity/cka/products"


def test_analyze_writes_the_result_and_the_figures_and_prints_what_was_found():
    done = succeed("analyze", *MODEL, "--model", "test_resnet=random", *SMALL)
    assert "CKA(half way, last)" in done.stdout
    assert "untrained" in done.stdout
    heatmaps = ("cka", "cka_test_resnet-random", "cka_vit")
    stems = [*heatmaps, "curves", "smoothing"]
    expected = {f"{stem}.{suffix}" for stem in stems for suffix in ("pdf", "png")} | {"analysis.h5"}
    assert {path.name for path in Path("results").iterdir()} == expected
    result = rc.load("results/analysis.h5")
    assert result.models == ("vit", "test_resnet=random")
    assert result.images == 48
    with h5py.File("results/analysis.h5") as file:
        assert file.attrs["format"] == "refiner-cka"
        np.testing.assert_array_equal(file["cka"][:], result.cka())


def test_json_goes_to_stdout_alone():
    done = succeed("analyze", *MODEL, *SMALL, "--json", "--quiet")
    summary = json.loads(done.stdout)
    assert summary["images"] == 48
    assert summary["models"][0]["model"] == "vit"
    assert all(Path(path).exists() for path in summary["files"])
    shown = json.loads(succeed("show", "results/analysis.h5", "--json").stdout)
    assert shown["models"] == summary["models"]


def test_quiet_is_silent_on_stderr():
    assert succeed("analyze", *MODEL, *SMALL, "--quiet").stderr == ""


def test_the_same_command_again_replaces_its_result_and_another_is_refused():
    succeed("analyze", *MODEL, *SMALL)
    first = rc.load("results/analysis.h5")
    succeed("analyze", *MODEL, *SMALL)
    again = rc.load("results/analysis.h5")
    np.testing.assert_array_equal(again.sums[PRODUCTS], first.sums[PRODUCTS])
    line = refused("analyze", *MODEL, *SMALL, "--seed", 1)
    assert "holds another run" in line
    assert "--overwrite" in line
    kept = rc.load("results/analysis.h5")
    np.testing.assert_array_equal(kept.sums[PRODUCTS], first.sums[PRODUCTS])
    succeed("analyze", *MODEL, *SMALL, "--seed", 1, "--overwrite")
    assert rc.load("results/analysis.h5").fingerprint != first.fingerprint


def test_a_file_of_another_tool_is_not_replaced():
    Path("results").mkdir()
    Path("results/analysis.h5").write_text("my thesis")
    refused("analyze", *MODEL, *SMALL)
    assert Path("results/analysis.h5").read_text() == "my thesis"


def test_the_same_command_over_other_pixels_does_not_replace_its_result(monkeypatch):
    """The fingerprint samples large folders, and says so; the digests of the batches tell."""
    monkeypatch.setattr("refiner_cka.images.files.HASHED_BYTES", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(Path.cwd() / "refuge"))
    Path("refuge").mkdir()
    Path("some").mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"some/{index}.bmp")
    arguments = ["analyze", *MODEL, "--data", "some", "--workers", 0, "--device", "cpu"]
    succeed(*arguments)
    told = succeed("show", "results/analysis.h5").stdout
    assert "The fingerprint covers names, sizes and the contents of one image in" in told
    succeed(*arguments, "--quiet")
    first = rc.load("results/analysis.h5")
    Path("some/6.bmp").write_bytes(Path("some/7.bmp").read_bytes())
    line = refused(*arguments, "--quiet")
    assert (
        "results/analysis.h5 holds this run over other images: batch 0 of vit is of other" in line
    )
    assert "nothing is lost: the result is in" in line
    kept = rc.load("results/analysis.h5")
    np.testing.assert_array_equal(kept.sums[PRODUCTS], first.sums[PRODUCTS])
    other = rc.load(next(Path("refuge").glob("*/analysis.h5")))
    assert other.fingerprint == first.fingerprint
    succeed(*arguments, "--quiet", "--overwrite")
    assert not rc.load("results/analysis.h5").other_pixels(other)


def test_a_figure_that_cannot_be_written_loses_nothing():
    Path("results/curves.pdf").mkdir(parents=True)
    done = command("analyze", *MODEL, *SMALL)
    assert done.exit_code == 1
    assert "CKA(half way, last)" in done.stdout
    assert "refiner-cka plot results/analysis.h5 --out FOLDER" in done.stderr
    assert rc.load("results/analysis.h5").complete


def test_a_result_that_cannot_be_written_is_saved_elsewhere(monkeypatch, tmp_path):
    save = rc.Result.save

    def full(self, path):
        if "results" in str(path):
            raise rc.ResultFileError(f"cannot write {path}: No space left on device")
        save(self, path)

    monkeypatch.setattr(rc.Result, "save", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "refuge"))
    Path("refuge").mkdir()
    line = refused("analyze", *MODEL, *SMALL)
    assert "nothing is lost" in line
    assert rc.load(next(Path("refuge").glob("*/analysis.h5"))).complete


def test_the_preprocessing_assumed_of_ones_own_model_is_said_in_one_line():
    Path("lab.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"
    )
    np.save("floats.npy", np.random.default_rng(0).random((48, 3, 8, 8), dtype=np.float32))
    own = ["--model", "lab:build,label=mine", "--layers", "*", "--smoothing", "none"]
    done = succeed("analyze", *own, *SMALL, "--image-size", 24)
    [line] = [line for line in done.stderr.splitlines() if "assumed" in line]
    assert line.startswith("warning: mine: preprocessing assumed: 24 x 24, bicubic, crop 0.875")
    told = "Nobody stated the transform of mine: that of ImageNet was assumed."
    assert told in succeed("show", "results/analysis.h5").stdout
    arguments = ["--data", "floats.npy", *SMALL[2:], "--overwrite"]
    assert "assumed" not in succeed("analyze", *own, *arguments).stderr


def test_what_a_factory_prints_does_not_reach_stdout():
    Path("chatty.py").write_text(
        "print('imported')\nfrom torch import nn\ndef build():\n    print('built')\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"
    )
    done = succeed("analyze", "--model", "chatty:build", "--layers", "*", *SMALL, "--json")
    assert json.loads(done.stdout)["images"] == 48
    assert "built" in done.stderr
