"""The command line as a user runs it: what is printed where, exit codes, files, and every refusal in one line."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import typer
from matplotlib.colors import to_rgb
from PIL import Image
from typer.core import TyperOption
from typer.testing import CliRunner

import refiner_cka as rc
from cli.app import app
from refiner_cka.plots.style import palette

PRODUCTS = "similarity/cka/products"
ROOT = Path(__file__).parents[2]
SMALL = [
    "--data",
    "digits",
    "--images",
    "48",
    "--batch-size",
    "8",
    "--workers",
    "0",
    "--device",
    "cpu",
]
MODEL = ["--model", "test_vit=random,img_size=32,label=vit"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Every command runs in an empty folder, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _warnings_as_they_were():
    """The command line sets filters of its own for its process."""
    import warnings

    with warnings.catch_warnings():
        yield


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments):
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    return done


def refused(*arguments, code=1):
    """Run a command that must end with one line on stderr and nothing on stdout; return the line."""
    done = command(*arguments)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_analyze_writes_the_result_and_the_figures_and_prints_what_was_found():
    done = succeed("analyze", *MODEL, "--model", "test_resnet=random", *SMALL)
    assert "CKA(first, last)" in done.stdout
    assert "untrained" in done.stdout
    stems = [
        "cka_test_resnet-random",
        "cka_vit",
        "cka_vit_test_resnet-random",
        "curves",
        "smoothing",
    ]
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
    assert (
        json.loads(succeed("show", "results/analysis.h5", "--json").stdout)["models"]
        == summary["models"]
    )


def test_quiet_is_silent_on_stderr():
    assert succeed("analyze", *MODEL, *SMALL, "--quiet").stderr == ""


def test_the_same_command_again_replaces_its_result_and_another_is_refused():
    succeed("analyze", *MODEL, *SMALL)
    first = rc.load("results/analysis.h5")
    succeed("analyze", *MODEL, *SMALL)
    np.testing.assert_array_equal(
        rc.load("results/analysis.h5").sums[PRODUCTS],
        first.sums[PRODUCTS],
    )
    line = refused("analyze", *MODEL, *SMALL, "--seed", 1)
    assert "holds another run" in line
    assert "--overwrite" in line
    np.testing.assert_array_equal(
        rc.load("results/analysis.h5").sums[PRODUCTS],
        first.sums[PRODUCTS],
    )
    succeed("analyze", *MODEL, *SMALL, "--seed", 1, "--overwrite")
    assert rc.load("results/analysis.h5").fingerprint != first.fingerprint


def test_a_file_of_another_tool_is_not_replaced():
    Path("results").mkdir()
    Path("results/analysis.h5").write_text("my thesis")
    refused("analyze", *MODEL, *SMALL)
    assert Path("results/analysis.h5").read_text() == "my thesis"


def test_shards_merge_to_the_whole():
    succeed("analyze", *MODEL, *SMALL, "--out", "whole")
    for part in (1, 2):
        succeed("analyze", *MODEL, *SMALL, "--out", "parts", "--shard", f"{part}/2")
    assert sorted(path.name for path in Path("parts").iterdir()) == [
        "analysis.1-of-2.h5",
        "analysis.2-of-2.h5",
    ]
    succeed("merge", "parts/analysis.1-of-2.h5", "parts/analysis.2-of-2.h5", "--out", "merged")
    np.testing.assert_allclose(
        rc.load("merged/analysis.h5").cka(), rc.load("whole/analysis.h5").cka(), atol=1e-12
    )
    assert Path("merged/curves.pdf").exists()
    repeated = ["parts/analysis.1-of-2.h5"] * 2
    assert "merge each shard once" in refused("merge", *repeated, "--out", "x")


def test_show_plot_and_export():
    succeed("analyze", *MODEL, *SMALL, "--quiet")
    shown = succeed("show", "results/analysis.h5").stdout
    assert "batch_size: 8" in shown
    assert "fingerprint: " in shown
    succeed("plot", "results/analysis.h5", "--out", "again", "--normalize", "min-max")
    assert Path("again/curves.png").read_bytes()[:4] == b"\x89PNG"
    succeed("plot", "results/analysis.h5", "--out", "one", "--only", "heatmap", "--model", "vit")
    assert sorted(path.name for path in Path("one").iterdir()) == ["heatmap.pdf", "heatmap.png"]
    assert "compare" in refused("plot", "results/analysis.h5", "--only", "pie")
    assert command("plot", "results/analysis.h5", "--model", "vit").exit_code == 2
    succeed("export", "results/analysis.h5", "table.csv")
    assert "blocks.0" in Path("table.csv").read_text()
    assert ".csv" in refused("export", "results/analysis.h5", "table.xls")


def test_models():
    listed = succeed("models").stdout
    for alias in ("vit_ti", "vit_l", "deit_b", "resnet152", "refiner_m"):
        assert alias in listed
    assert "resnet50.a1_in1k" in succeed("models", "--search", "resnet50").stdout
    layers = succeed("models", "deit_ti").stdout
    assert "blocks.11" in layers
    assert "197x192" in layers


def weights(*files):
    """Write weights of a small ViT, each its own."""
    import timm

    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        torch.save(timm.create_model("test_vit", img_size=32).state_dict(), file)


def colours(models):
    """Return the markers and lightness of the models' lines in a figure drawn from the file."""
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


class Namespace(types.SimpleNamespace):
    """Stands for the options object that training scripts save beside the weights."""


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


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.h5", None, "none.h5"),
        ("text.h5", b"not HDF5", "text.h5"),
        ("newer.h5", {"format": "refiner-cka", "format_version": 99}, "newer"),
        ("other.h5", {"creator": "someone else"}, "other.h5"),
    ],
)
def test_a_file_that_is_no_result_is_refused(name, content, expected):
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        with h5py.File(name, "w") as file:
            file.attrs.update(content)
    assert expected in refused("show", name)
    assert expected in refused("plot", name)


def test_the_parser_refuses_with_code_2():
    assert command("analyze").exit_code == 2
    assert command("analyze", *MODEL, *SMALL, "--precision", "fp8").exit_code == 2
    assert command("analyze", *MODEL, *SMALL, "--shard", "one").exit_code == 2


SINGLE = {
    (name, option.opts[0]): option
    for name, each in typer.main.get_command(app).commands.items()
    for option in each.params
    if isinstance(option, TyperOption) and not (option.multiple or option.is_flag)
}


def test_options_of_one_value_are_known():
    wanted = [
        ("analyze", "--data"),
        ("analyze", "--seed"),
        ("models", "--search"),
        ("maps", "--model"),
    ]
    assert set(wanted) <= set(SINGLE)
    assert ("analyze", "--model") not in SINGLE


@pytest.mark.parametrize(("name", "option"), SINGLE)
def test_an_option_of_one_value_given_twice_is_refused(name, option):
    """Also with equal values: whoever writes one twice means something else by one of them."""
    given = [option, *["1"] * SINGLE[name, option].nargs]
    done = command(name, *given, *given)
    assert done.exit_code == 2
    assert done.stdout == ""
    [line] = [line for line in done.stderr.splitlines() if " twice" in line]
    assert f"{option} is given twice: give it once." in line


def test_an_option_given_twice_is_found_however_it_is_written():
    twice = ["--seed=0", "--seed", "0"]
    assert "--seed is given twice" in command("analyze", *MODEL, *SMALL, *twice).stderr
    assert "--seed is given 3 times" in command("analyze", *twice, "--seed=1").stderr
    # A flag says the same thing twice; what stands after `--` is no option.
    assert command("show", "--json", "--json", "none.h5").exit_code == 1
    assert "twice" not in command("models", "--search=a", "--", "--search", "b").stderr


def test_an_unexpected_error_is_one_line_without_debug(monkeypatch):
    def fail(*_args, **_kwargs):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(rc, "prepare", fail)
    assert "unexpected ZeroDivisionError: by" in refused("analyze", *MODEL, *SMALL)
    assert isinstance(command("--debug", "analyze", *MODEL, *SMALL).exception, ZeroDivisionError)


INTERRUPTED = """
import os, pathlib, signal
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1  # The first six calls find out about the model.
        if self.calls == 11 and not pathlib.Path("interrupted").exists():
            pathlib.Path("interrupted").touch()
            os.kill(os.getpid(), signal.SIGINT)
        return self.last(self.first(x))

def build():
    torch.manual_seed(0)
    return Model()
"""


def test_ctrl_c_saves_what_was_measured_and_says_how_to_go_on():
    Path("interrupting.py").write_text(INTERRUPTED)
    arguments = ["analyze", "--model", "interrupting:build,label=mine", "--layers", "*", *SMALL]
    program = [sys.executable, "-m", "cli.app", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # What a shell starts in the background ignores Ctrl-C, and so would what it starts.
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert "interrupted after 4 of 6 batches" in done.stderr
    assert done.stderr.strip().endswith("--resume")
    part = rc.load("results/analysis.partial.h5")
    assert part.batches.tolist() == [0, 1, 2, 3]
    assert not Path("results/analysis.h5").exists()
    assert "go on with --resume" in refused(*arguments)
    assert "another run" in refused(*arguments, "--seed", 1)
    assert rc.load("results/analysis.partial.h5").batches.tolist() == [0, 1, 2, 3]
    succeed(*arguments, "--resume", "--quiet")
    assert rc.load("results/analysis.h5").complete
    assert not Path("results/analysis.partial.h5").exists()
    succeed(*arguments, "--out", "whole", "--quiet")
    np.testing.assert_array_equal(
        rc.load("results/analysis.h5").sums[PRODUCTS],
        rc.load("whole/analysis.h5").sums[PRODUCTS],
    )


def test_there_must_be_something_to_resume():
    assert "nothing to resume" in refused("analyze", *MODEL, *SMALL, "--resume")


def test_part_of_a_run_does_not_replace_the_whole():
    succeed("analyze", *MODEL, *SMALL, "--quiet")
    succeed("analyze", *MODEL, *SMALL, "--quiet", "--shard", "1/2")
    assert "3 batches" in refused("merge", "results/analysis.1-of-2.h5")
    assert rc.load("results/analysis.h5").complete


def test_a_figure_that_cannot_be_written_loses_nothing():
    Path("results/curves.pdf").mkdir(parents=True)
    done = command("analyze", *MODEL, *SMALL)
    assert done.exit_code == 1
    assert "CKA(first, last)" in done.stdout
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
    assert rc.load(next(Path("refuge").glob("*.h5"))).complete


def test_the_preprocessing_assumed_of_ones_own_model_is_said_in_one_line():
    Path("lab.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"
    )
    np.save("floats.npy", np.random.default_rng(0).random((48, 3, 8, 8), dtype=np.float32))
    own = ["--model", "lab:build,label=mine", "--layers", "*", "--smoothing", "none"]
    done = succeed("analyze", *own, *SMALL, "--image-size", 24)
    [line] = [line for line in done.stderr.splitlines() if "assumed" in line]
    assert line.startswith("warning: mine: preprocessing assumed: 24 x 24, bicubic, crop 0.875")
    assert 'preprocessing_assumed: ["mine"]' in succeed("show", "results/analysis.h5").stdout
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
    done = succeed(*arguments)
    assert "The fingerprint covers names, sizes and the contents of one image in" in done.stdout
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
    other = rc.load(next(Path("refuge").glob("*.h5")))
    assert other.fingerprint == first.fingerprint
    succeed(*arguments, "--quiet", "--overwrite")
    assert not rc.load("results/analysis.h5").other_pixels(other)
