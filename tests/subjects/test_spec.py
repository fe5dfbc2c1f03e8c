"""The text of `--model`, taken apart."""

from pathlib import Path

import pytest

from refiner_cka.errors import CheckpointError, ModelError
from refiner_cka.subjects.spec import Spec, parse, stem


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


# A comma inside a value, a comma inside a label, a key that is no identifier: none of them starts an option.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vit_s", Spec("vit_s", None, {}, "vit_s")),
        ("vit_s=random", Spec("vit_s", "random", {}, "vit_s=random")),
        ("vit_s=random,label=a, b", Spec("vit_s", "random", {}, "a, b")),
        ("vit_s,label=x=y", Spec("vit_s", None, {}, "x=y")),
        ("vit_s=random,group=3", Spec("vit_s", "random", {}, "vit_s=random", group="3")),
        (
            "m:f,size=(32, 64),name=gelu,on=true,off=None,rate=1e-3,label=L",
            Spec(
                "m:f",
                None,
                {"size": (32, 64), "name": "gelu", "on": True, "off": None, "rate": 1e-3},
                "L",
            ),
        ),
        ("vit_s,depth=2", Spec("vit_s", None, {"depth": 2}, "vit_s,depth=2")),
        ("vit_s=random,depth=2", Spec("vit_s", "random", {"depth": 2}, "vit_s=random,depth=2")),
        ("vit_s=w.pth", Spec("vit_s", Path("w.pth"), {}, "vit_s=w")),
        (
            "vit_s=a/b/epoch05.pth.tar",
            Spec("vit_s", Path("a/b/epoch05.pth.tar"), {}, "vit_s=epoch05"),
        ),
        (
            "m:f,code=__import__('os')",
            Spec("m:f", None, {"code": "__import__('os')"}, "m:f,code=__import__('os')"),
        ),
    ],
)
def test_one_model(text, expected):
    assert parse(text) == [expected]


def test_a_file_name_may_hold_what_otherwise_separates():
    touch("runs/lr=0.1,wd=0.05/last.pth", "odd,label=x.pth", "random,label=r")
    [spec] = parse("vit_s=runs/lr=0.1,wd=0.05/last.pth,label=Ours,depth=2")
    assert spec == Spec("vit_s", Path("runs/lr=0.1,wd=0.05/last.pth"), {"depth": 2}, "Ours")
    [spec] = parse("vit_s=odd,label=x.pth")
    assert spec == Spec("vit_s", Path("odd,label=x.pth"), {}, "vit_s=odd,label=x")


def test_a_file_named_random_needs_its_folder():
    touch("random")
    assert parse("vit_s=random")[0].weights == "random"
    assert parse("vit_s=./random")[0].weights == Path("random")


def test_a_glob_gives_one_model_per_file_in_natural_order():
    names = ("epoch10.pth", "epoch2.pth", "epoch1.pth", "b/epoch3.pth", "log.txt")
    touch(*(f"runs/{name}" for name in names))
    specs = parse("deit_s=runs/epoch*.pth,depth=2")
    assert [spec.label for spec in specs] == [f"deit_s=epoch{n},depth=2" for n in (1, 2, 10)]
    assert [spec.arguments for spec in specs] == [{"depth": 2}] * 3


# What tells the files of one glob apart stands in their labels: never `#2`.
@pytest.mark.parametrize(
    ("files", "glob", "labels"),
    [
        ("run1/epoch04.pth run2/epoch04.pth run10/epoch04.pth", "run*/*", "run1 run2 run10"),
        ("seed0/vit/last.pth seed1/vit/last.pth", "seed*/vit/last.pth", "seed0 seed1"),
        (
            "run1/epoch2.pth run1/epoch10.pth run2/epoch2.pth",
            "run*/epoch*.pth",
            "run1/epoch2 run1/epoch10 run2/epoch2",
        ),
        ("a/epoch1.pth.tar a/epoch2.pth.tar", "a/*", "epoch1 epoch2"),
        ("v1.2.pth v1.10.pth", "v*.pth", "v1.2 v1.10"),
        ("runs/epoch1.pth runs/b/epoch3.pth", "runs/**/epoch*.pth", "b/epoch3 epoch1"),
        ("a/last.pth a/b/last.pth", "a/**/*.pth", "b/last last"),
        ("last.pth last.safetensors", "last.*", "last.pth last.safetensors"),
        ("x/a.pth x/a.pt y/a.pth", "?/*", "x/a.pt x/a.pth y/a.pth"),
        ("x/a/b.pth", "**/a/**/*.pth", "b"),
    ],
)
def test_the_labels_of_a_glob_tell_its_files_apart(files, glob, labels):
    touch(*files.split())
    expected = labels.split()
    assert [spec.label for spec in parse(f"vit_s={glob}")] == [f"vit_s={each}" for each in expected]
    named = [spec.label for spec in parse(f"vit_s={glob},label=Ours,depth=2")]
    assert named == ([f"Ours={each}" for each in expected] if len(expected) > 1 else ["Ours"])


def test_the_trainings_of_a_glob_are_one_group():
    touch("seed0/last.pth", "seed1/last.pth")
    specs = parse("vit_s=seed*/last.pth,group=ViT-S, ours,depth=2")
    assert [spec.label for spec in specs] == ["vit_s=seed0,depth=2", "vit_s=seed1,depth=2"]
    assert [(spec.group, spec.arguments) for spec in specs] == [("ViT-S, ours", {"depth": 2})] * 2


def test_brackets_in_a_file_name_that_exists_are_no_glob():
    touch("run[1].pth", "run1.pth")
    assert [spec.weights for spec in parse("vit_s=run[1].pth")] == [Path("run[1].pth")]
    assert [spec.weights for spec in parse("vit_s=run?.pth")] == [Path("run1.pth")]


def test_home_is_expanded(monkeypatch, in_a_folder):
    monkeypatch.setenv("HOME", str(in_a_folder))
    assert parse("vit_s=~/w.pth")[0].weights == in_a_folder / "w.pth"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ModelError, "no name"),
        ("=w.pth", ModelError, "no name"),
        ("vit_s=", ModelError, "no weights after '='"),
        ("vit_s=,label=x", ModelError, "no weights after '='"),
        ("vit_s,depth=1,depth=2", ModelError, "'depth' is given twice"),
        ("vit_s=none*.pth", CheckpointError, r"no file matches 'none\*\.pth'"),
    ],
)
def test_refusals(text, error, message):
    with pytest.raises(error, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.pth.tar", "a"),
        ("a.b.safetensors", "a.b"),
        ("a.PT", "a"),
        ("checkpoint-12", "checkpoint-12"),
        ("epoch=3-step=10.ckpt", "epoch=3-step=10"),
    ],
)
def test_stem(name, expected):
    assert stem(Path("x.y") / name) == expected
