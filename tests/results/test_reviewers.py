"""What reviewers ask, answered from a file that has lost its machine, and the text for a methods section."""

import dataclasses
import hashlib
import json
import os
import re
import shutil

import h5py
import numpy as np
import pytest

import refiner_cka as rc
from refiner_cka.results.contents import Unreadable
from refiner_cka.results.methods import answers, bibtex, paragraph
from refiner_cka.results.reviewers import neighbours
from tests.synthetic import synthetic_result, with_index, with_smoothing


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """The file of a real run, whose images and weights are gone, and what was known of them."""
    import timm
    import torch

    from tests.images.examples import save, scene

    machine, elsewhere = tmp_path_factory.mktemp("machine"), tmp_path_factory.mktemp("elsewhere")
    for number in range(23):
        save(scene(40, 40, seed=number), machine / "val" / f"{number % 2}" / f"{number}.png")
    (machine / "val" / "1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    module = timm.create_model("test_vit", img_size=32)
    torch.save(module.state_dict(), machine / "ours.pth")
    here = os.getcwd()
    os.chdir(machine)
    try:
        result = rc.analyze(
            [
                "test_vit=ours.pth,img_size=32,label=Ours",
                "test_vit=random,img_size=32,label=theirs",
            ],
            "val",
            batch_size=8,
            tokens="all,cls",
            workers=0,
            device="cpu",
        )
    finally:
        os.chdir(here)
    result.save(elsewhere / "run.h5")
    names = sorted(f"{path.parent.name}/{path.name}" for path in (machine / "val").glob("*/*.png"))
    shutil.rmtree(machine)
    return elsewhere / "run.h5", names


def told(result):
    return dict(answers(result))


def test_twelve_questions_are_answered_from_a_file_that_has_lost_its_machine(lost):
    path, names = lost
    result = rc.load(path)
    found = told(result)
    digest = result.provenance["models"][0]["origin"]["sha256"]
    ours, theirs = found["Which weights?"].splitlines()
    assert ours.startswith("Ours: test_vit; weights of the file ours.pth; ")
    assert f"SHA-256 {digest}." in ours
    assert "untrained, random weights (seed 0)" in theirs
    assert "23 images of 24 planned; data: val; seed of their order: 0." in found["Which images?"]
    assert (
        f"in that order: {', '.join(result.image_names[:3])} (+21 more)" in found["Which images?"]
    )
    assert sorted(result.image_names) == names
    assert found["Which transform?"].startswith(
        "Ours and theirs: bicubic resizing, center crop of "
    )
    assert (
        "3 x 32 x 32 (channels, height, width), mean (0.5, 0.5, 0.5)" in found["Which transform?"]
    )
    assert "unbiased linear CKA" in found["Which estimator?"]
    assert f"revision {result.provenance['estimator']['revision']}." in found["Which estimator?"]
    sizes = "3 batches of 8 images (1 smaller: 7)."
    assert found["Which batch size?"].startswith(sizes)
    assert (
        "6 layers, blocks.0 to blocks.5; read of each (cls): its class token"
        in found["Which layers, read how?"]
    )
    assert found["Which precision?"].startswith(
        "Forward passes: 32-bit floating point; device: cpu."
    )
    assert found["Which images were skipped?"].startswith("1/broken.png: ")
    # The broken image is alone in its fold.
    assert "one of 19 folds of images left out at a time. " in found["What are the errors?"]
    assert "Student's t with 18 degrees" in found["What are the errors?"]
    sd = result.chance()
    np.fill_diagonal(sd, np.nan)
    assert f"at most {np.nanmax(sd):.2g} for any two" in found["What is the level of chance?"]
    assert "(Holm)" in found["What is corrected for many comparisons?"]
    assert "Layers of Ours have 1 prefix token" in found["Class token or patches?"]
    cka = result.cka("Ours")
    line = f"Ours (all)    blocks.0 to blocks.5: {cka[0, 1]:.3f} {cka[1, 2]:.3f}"
    assert line in found["Which neighbouring layers are nearly the same?"]
    assert f"torch {result.provenance['versions']['torch']}" in found["Made with what?"]


def test_everything_recorded_is_exported_with_the_names(lost, tmp_path):
    result = rc.load(lost[0])
    rc.results.export(result, tmp_path / "record.json")
    document = json.loads((tmp_path / "record.json").read_text())
    assert document["image_names"] == list(result.image_names)
    assert document["provenance"] == result.provenance


def test_image_j_of_the_names_is_that_of_place_j(lost):
    from PIL import Image

    path, _ = lost
    with h5py.File(path) as file:
        names = file["image_names"].asstr()[()].tolist()
        digests = file["image_digests"][()].ravel()
    assert digests[names.index("1/broken.png")] == 0
    assert (digests != 0).sum() == 23
    # Of the transform of this network: 40 pixels resized to 32 / crop, cropped to 32.
    from tests.images.examples import scene

    result = rc.load(path)
    way = result.provenance["models"][0]["preprocessing"]

    made = rc.Preprocessing(
        **{key: tuple(of) if isinstance(of, list) else of for key, of in way.items()}
    )
    for number in (4, 7):
        image = Image.fromarray(np.asarray(scene(40, 40, seed=number).convert("RGB")))
        pixels = made.geometry().transform()(image)
        expected = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()[:8]
        place = names.index(f"{number % 2}/{number}.png")
        assert digests[place] == np.frombuffer(expected, np.uint64)[0]


def test_the_paragraph_has_the_numbers_of_this_run(lost):
    result = rc.load(lost[0])
    text = paragraph(result)
    assert "\n" not in text
    parameters = result.provenance["models"][0]["origin"]["parameters"]
    ours = f"Ours (test_vit, weights of the file ours.pth, {parameters:,} parameters, 6 layers)"
    assert ours in text
    assert "They saw 23 images from val, the same in the same order for all models." in text
    assert "1 image was left out that could not be read." in text
    assert "minibatches (Nguyen et al., 2021) of 8 images (1 smaller: 7)." in text
    assert "jackknife over 19 folds of images with Student's t (18 degrees of freedom)" in text
    assert "mean 0 and a standard deviation of at most " in text
    assert "differences between models are paired over images" in text
    assert f"refiner-cka {rc.__version__} (torch {result.provenance['versions']['torch']}" in text


def test_the_paragraph_says_nothing_that_is_not_so():
    few = paragraph(synthetic_result({"a": 3}, batches=1, batch_size=11))
    assert "CKA has no errors over images here" in few
    assert "jackknife" not in few
    assert (
        "We measured how representations change with depth in a (weights not recorded, 3 layers)."
        in few
    )
    for absent in (
        "all models",
        "paired",
        "Preprocessing",
        "left out",
        "Over-smoothing",
        "p-values of differences",
    ):
        assert absent not in few
    assert few.count("not recorded") == 1
    models = dict.fromkeys("abc", 3)
    result = with_smoothing(
        synthetic_result(models, batches=4, total_batches=5, references=["labels"])
    )
    result = with_index(result, "rsa", "RSA", result)
    several = paragraph(result)
    assert "4 of the 5 batches of the run, which is not complete" in several
    assert "RSA was measured too" in several
    assert "compared with the labels of the images" in several
    assert "Effective rank (on a few images)" in several
    assert "the 3 pairs of models (Holm, 1979)" in several


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [
        ("deit_small_patch16_224.fb_in1k", "pretrained", "deit_small_patch16_224.fb_in1k"),
        ("deit_small_patch16_224.fb_in1k", "random", "deit_small_patch16_224"),
        ("my.module:net", "as given", "my.module:net"),
        ("Outer.Inner", "as given", "Outer.Inner"),
    ],
)
def test_the_tag_of_pretrained_weights_is_not_that_of_others(model, weights, expected):
    origin = {"model": model, "weights": weights}
    result = synthetic_result(
        {"a": 3}, batches=2, provenance={"models": [{"name": "a", "origin": origin}]}
    )
    assert told(result)["Which weights?"].startswith(f"a: {expected}; ")


def test_what_was_assumed_or_not_loaded_is_said():
    origin = {"model": "vit", "weights": "a.pth", "tensors_loaded": [150, 152]}
    way = {"input_size": [3, 8, 8], "inputs": "floating, fed as they are"}
    model = {"name": "a", "origin": origin, "preprocessing": way}
    provenance = {"models": [model], "preprocessing_assumed": ["a"]}
    result = synthetic_result({"a": 3}, batches=2, provenance=provenance)
    text = paragraph(result)
    assert "a (vit, weights of the file a.pth, 150 of 152 tensors loaded, 3 layers)" in text
    assert (
        "Preprocessing: inputs of 3 x 8 x 8 (floating, fed as they are). That of a was assumed."
        in text
    )
    assert "that of ImageNet was assumed" in told(result)["Which transform?"]


def test_groups_are_told_apart_from_models():
    groups = {"G": ["a", "b"], "H": ["c", "d"]}
    provenance = {"groups": groups}
    result = synthetic_result(dict.fromkeys("abcd", 3), batches=4, provenance=provenance)
    assert "G is 2 trainings of one recipe: a and b." in told(result)["Which weights?"]
    assert "Over trainings, of G and H" in told(result)["What are the errors?"]
    assert "Errors of groups are over trainings" in paragraph(result)


def test_what_was_skipped_is_named_and_counted_where_it_is_much():
    unreadable = [Unreadable(f"{number}.png", "truncated") for number in range(12)]
    lines = told(synthetic_result(unreadable=unreadable))["Which images were skipped?"].splitlines()
    assert lines[0] == "0.png: truncated."
    assert (
        lines[10] == "2 more that could not be read; the file names all of them (unreadable/image)."
    )
    assert told(synthetic_result())["Which images were skipped?"] == "None."


def test_neighbours_are_the_diagonal_beside_that_of_cka():
    result = synthetic_result({"a": 5, "b": ["one"], "c": 3}, batches=10)
    found = neighbours(result)
    assert [(each.model, len(each.paths)) for each in found] == [("a", 5), ("c", 3)]
    for each in found:
        np.testing.assert_array_equal(each.cka.values, np.diagonal(result.cka(each.model), 1))
        np.testing.assert_array_equal(each.cka.se, np.diagonal(result.cka_se(each.model), 1))


def test_neighbours_that_are_nearly_the_same_are_named_in_runs():
    result = synthetic_result({"a": 5}, batches=10)
    products = result.sums["similarity/cka/products"].copy()
    size = np.sqrt(np.diagonal(products))
    for one, two in ((1, 2), (2, 3)):
        products[one, two] = products[two, one] = 0.9951 * size[one] * size[two]
    sums = result.sums | {"similarity/cka/products": products}
    answer = told(dataclasses.replace(result, sums=sums))[
        "Which neighbouring layers are nearly the same?"
    ]
    first, _, values = answer.splitlines()
    assert (
        first == "CKA of each with the next is at least 0.99 along a (all): blocks.1 to blocks.3."
    )
    assert " 0.995 0.995 " in values
    assert "None: no two" in told(result)["Which neighbouring layers are nearly the same?"]


@pytest.mark.parametrize("value", [None, 3, "text \x1b[2J", [3], {"a": 3}, [{"name": "a"}], True])
def test_whatever_a_file_says_of_itself_is_answered_in_printable_lines(value):
    """What no run records, such as models that are no list, is refused with the file: test_checks.py."""
    keys = "seed precision estimator against data versions device started"
    provenance = {
        **dict.fromkeys(keys.split(), value),
        "preprocessing_assumed": value,
        "command": value,
    }
    deeper = {"models": [{"name": "a", "preprocessing": value, "layers": value}]}
    deepest = {
        "origin": dict.fromkeys(
            ("model", "weights", "sha256", "parameters", "loading", "seed"), value
        )
    }
    ways = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
    deepest["preprocessing"] = dict.fromkeys(ways, value)
    for of in (provenance, deeper, {"models": [{"name": "a", **deepest}]}):
        result = synthetic_result({"a": 3}, batches=2, provenance=of, references=["labels"])
        for _, answer in answers(result):
            assert all(line.isprintable() for line in answer.split("\n"))
        assert paragraph(result).isprintable()
        assert "\x1b" not in bibtex(result)


def test_bibtex_cites_what_the_run_rests_on():
    result = synthetic_result(
        {"a": 3}, batches=2, provenance={"versions": {"refiner-cka": "0.1.0"}}
    )
    keys = re.findall(r"^@\w+\{(\w+),$", bibtex(result), re.MULTILINE)
    assert keys == [
        "kornblith2019similarity",
        "nguyen2021wide",
        "song2012feature",
        "holm1979simple",
        "refinercka",
    ]
    assert "Version 0.1.0" in bibtex(result)
    model = {"name": "a", "origin": {"model": "refiner_small"}}
    crafted = {"models": [model], "versions": {"refiner-cka": "1}\\input{/etc/passwd}"}}
    result = dataclasses.replace(result, provenance=crafted)
    text = bibtex(with_index(result, "knn", "10-NN", result))
    assert re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)[4:] == [
        "huh2024platonic",
        "zhou2021refiner",
        "refinercka",
    ]
    assert "passwd" not in text
    assert text.count("{") == text.count("}")
