"""The script behind `make matching`, on forty digits and two blocks."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

import refiner_cka as rc

SCRIPT = Path(__file__).parents[2] / "docs/matching.py"


@pytest.fixture(scope="module")
def script():
    # Its own network is made by a function of the script, which is imported by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        yield importlib.import_module(SCRIPT.stem)
    del sys.modules[SCRIPT.stem]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    source = rc.images.open_source("digits-train")
    for index in range(40):
        place = folder / source.classes[source.labels[index]]
        place.mkdir(exist_ok=True)
        source.read(index).save(place / f"{index}.png")
    return str(folder)


def test_what_is_trained_is_matched(script, digits, tmp_path, capsys):
    network = ("vit", "vit_nano={weights},depth=2")
    trained = [script.train(tmp_path, *network, seed, 1, digits) for seed in (0, 1)]
    files = sorted(tmp_path.glob("vit/seed*.safetensors"))
    written = [file.read_bytes() for file in files]
    assert len(set(written)) == 2
    assert script.train(tmp_path, *network, 1, 1, digits) == trained[1]  # as it is there
    assert [file.read_bytes() for file in files] == written
    capsys.readouterr()

    script.print_matching(trained, digits)
    models, _, head, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert models == "vit 0, vit 1"
    assert head == "| index | batches of 40 | same or next | one batch | same or next | of |"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == ["cka", "cka-cosine", "cka-rbf", "rsa", "knn", "Procrustes"]
    assert {row[-1] for row in cells} == {"4"}  # two layers in either direction
    assert {row[-2] for row in cells} == {"4"}  # of two layers the other one is the next
    found = script.analyse(trained, digits, 40)
    first, second = found.models
    both = found.cka(first, second), found.cka(second, first)
    same = sum(int(each.argmax(1)[row] == row) for each in both for row in (0, 1))
    assert cells[0][3] == str(same)


def test_the_plain_network_learns(script, digits, tmp_path):
    text = script.train(tmp_path, "plain", script.TRAINED["plain"], 0, 1, digits)
    result = script.analyse([text], digits, 40)
    assert [layer.path for layer in result.layers] == [str(place) for place in range(8)]
    assert np.isfinite(result.cka()).all()


def test_matches_are_counted_by_layer(script):
    one = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.7], [0.9, 0.2, 0.4]])
    assert script.found([one]) == (1, 2, 3)
    assert script.found([one, np.eye(3)]) == (4, 5, 6)


def test_procrustes_is_that_of_scipy(script):
    rng = np.random.default_rng(0)
    x, y = (values - values.mean(0) for values in rng.normal(size=(2, 30, 5)))
    _, scale = orthogonal_procrustes(x / np.linalg.norm(x), y / np.linalg.norm(y))
    of_grams = [script.coordinates(values @ values.T) for values in (x, y)]
    found = script.procrustes(of_grams[:1], of_grams)
    np.testing.assert_allclose(found, [[1.0, scale]], rtol=1e-7)


def test_disagreements_are_those_of_the_result(script, digits, capsys, monkeypatch):
    monkeypatch.setattr(script, "ERRORS", 0.0)  # of forty images no difference is clear
    result = script.analyse(["vit_nano", "resnet_nano"], digits, 40)
    script.print_disagreements(result, result, digits)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "knn" in line]
    assert len(rows) == 3
    place = script.disagreement(result, "knn")
    cka, knn = (result.similarity(name).values[place.layer] for name in ("cka", "knn"))
    for other, row in zip(place[1:], rows, strict=False):
        assert [float(cell) for cell in row[3:5]] == pytest.approx(
            [cka[other], knn[other]], abs=6e-4
        )
    assert cka[place.by_cka] > cka[place.by_index]
    assert knn[place.by_cka] < knn[place.by_index]


def test_reasons_are_what_they_say(script):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 6))
    near, far, one_length, lengths = script.reasons(
        x, 3 * x @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    )
    assert [near, far, one_length, lengths] == pytest.approx([1, 1, 1, 1])
    longer = x * np.exp(rng.normal(size=(50, 1)))
    _, _, one_length, lengths = script.reasons(x, longer)
    assert one_length == pytest.approx(1)
    squares = [np.square(each).sum(1) for each in (x, longer)]
    assert lengths == pytest.approx(np.corrcoef(*squares)[0, 1])
    assert lengths < 0.9
