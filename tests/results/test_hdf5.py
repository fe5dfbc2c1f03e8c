"""The HDF5 file gives back every bit, is whole or not there, and nothing strange in it gets through."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import refiner_cka as rc
import refiner_cka.results.atomic
from refiner_cka import plots
from refiner_cka.errors import ResultFileError
from refiner_cka.results import load, save
from refiner_cka.results.hdf5 import digest_of
from refiner_cka.results.result import Result, Unreadable, merge
from tests.synthetic import synthetic_result, with_smoothing

GOLDEN = Path(__file__).parents[1] / "golden" / "v1.h5"


def assert_same(one: Result, two: Result) -> None:
    """Compare to the last bit, NaN included."""
    for field in dataclasses.fields(Result):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if field.name == "sums":
            assert first.keys() == second.keys()
            for name in first:
                assert first[name].dtype == second[name].dtype == np.float64
                assert first[name].shape == second[name].shape
                assert first[name].tobytes() == second[name].tobytes()
        elif field.name in ("batches", "batch_planned", "batch_images", "batch_digests"):
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)
        else:
            assert first == second, field.name


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.h5"
    save(synthetic_result({"vit_s": 4, "deit_s": 3}), path)
    return path


# What could get lost on the way


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(synthetic_result(), id="plain"),
        pytest.param(synthetic_result({"one": 1}), id="one layer"),
        pytest.param(synthetic_result(batches=0, total_batches=9), id="nothing measured yet"),
        pytest.param(synthetic_result(batches=3, total_batches=50), id="part of a run"),
        pytest.param(synthetic_result(constant=[("vit_s", 3)]), id="undefined layer"),
        pytest.param(synthetic_result({"a": 2, "b": 3}, tokens=["all", "cls"]), id="readouts"),
        pytest.param(synthetic_result({"模型 é": ["blöck.0", ""]}), id="unicode and empty names"),
        pytest.param(
            synthetic_result(
                unreadable=[Unreadable("a/é.png", "truncated"), Unreadable("b\udcff.png", "")],
                warnings=["first", "second, longer ⚠"],
            ),
            id="unreadable images, one with a name that is not UTF-8",
        ),
    ],
)
def test_round_trip_is_exact(tmp_path, result):
    save(result, tmp_path / "run.h5")
    assert_same(load(tmp_path / "run.h5"), result)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -(2**62),
        1.5,
        math.inf,
        True,
        None,
        "",
        "text",
        "null",
        '{"looks": "like JSON"}',
        "[",
        '"quoted"',
        "nul\0inside",
        "not UTF-8: \udcff",
        "1",
        "true",
        [],
        {"nested": [1, 2.5, None, {"é": False}]},
        "x" * 200_000,
    ],
)
def test_provenance_keeps_type_and_value(tmp_path, value):
    save(synthetic_result({"m": 1}, provenance={"küy": value, "other": 1}), tmp_path / "run.h5")
    found = load(tmp_path / "run.h5").provenance
    assert found == {"küy": value, "other": 1}
    assert type(found["küy"]) is type(value)


def test_many_provenance_entries_keep_their_order(tmp_path):
    keys = [f"key {97 * i % 100}" for i in range(100)]
    save(synthetic_result({"m": 1}, provenance=dict.fromkeys(keys, 1)), tmp_path / "run.h5")
    assert list(load(tmp_path / "run.h5").provenance) == keys


def test_1500_layers(tmp_path):
    result = synthetic_result({"deep": 1500}, batches=2, batch_size=4)
    short = dataclasses.replace(result, sums={k: v[:2] for k, v in result.sums.items()})
    save(short, tmp_path / "run.h5")
    assert_same(load(tmp_path / "run.h5"), short)


def test_sums_of_later_versions_are_kept(tmp_path):
    """A quantity this version does not know survives a merge; what is not a sum is ignored."""
    parts = []
    whole = synthetic_result({"m": 3}, batches=20, total_batches=40)
    extra = np.random.default_rng(0).normal(size=(20, 3, 2))
    for number in range(2):
        path = tmp_path / f"{number}.h5"
        half = dataclasses.replace(
            whole,
            sums={**whole.sums, "smoothing/patch_cosine/sums": extra},
            batches=np.arange(20) + 20 * number,
        )
        save(half, path)
        with h5py.File(path, "r+") as file:
            file["smoothing/patch_cosine/values"] = np.zeros(3)
            file["unknown/group/text"] = "ignored"
            file.attrs["unknown"] = [1, 2, 3]
            file.attrs["digest"] = digest_of(file)
        parts.append(load(path))
    merged = merge(parts)
    save(merged, tmp_path / "merged.h5")
    loaded = load(tmp_path / "merged.h5")
    np.testing.assert_array_equal(loaded.sums["smoothing/patch_cosine/sums"], 2 * extra)
    assert set(loaded.sums) == {*whole.sums, "smoothing/patch_cosine/sums"}


def test_equal_results_are_equal_files(tmp_path):
    save(synthetic_result(), tmp_path / "one.h5")
    save(synthetic_result(), tmp_path / "two.h5")
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


# The specification, with h5py alone


def test_layout_is_as_specified(tmp_path):
    result = synthetic_result(
        {"vit_s": 4, "deit_s": 3},
        batches=7,
        total_batches=9,
        unreadable=[Unreadable("x.png", "truncated")],
        warnings=["careful"],
        provenance={"seed": 3, "precision": "fp32", "versions": {"numpy": "2"}, "command": None},
    )
    save(result, tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert set(file.attrs) == {
            "format",
            "format_version",
            "complete",
            "fingerprint",
            "total_batches",
            "digest",
        }
        assert file.attrs["format"] == "refiner-cka"
        assert file.attrs["format_version"] == 1
        assert not file.attrs["complete"]
        assert file.attrs["total_batches"] == 9
        assert file.attrs["fingerprint"] == result.fingerprint
        np.testing.assert_array_equal(file["cka"][()], result.cka())
        np.testing.assert_array_equal(file["cka_se"][()], result.cka_se())
        assert file["layers/model"].asstr()[()].tolist() == ["vit_s"] * 4 + ["deit_s"] * 3
        assert file["layers/path"].asstr()[4] == "blocks.0"
        assert file["layers/tokens"].asstr()[0] == "all"
        assert file["layers/index"][()].tolist() == [0, 1, 2, 3, 0, 1, 2]
        assert file["layers/depth"][-2:].tolist() == [0.5, 1.0]
        for path, name in {
            "sums": "hsic",
            "images": "images",
            "top1/correct": "correct",
            "top1/labelled": "labelled",
        }.items():
            assert file[path].attrs["additive"]
            np.testing.assert_array_equal(file[path][()], result.sums[name])
        assert file["batches"][()].tolist() == list(range(7))
        assert file["batch_planned"][()].tolist() == [16] * 7
        assert file["batch_images"][()].tolist() == [16] * 7
        assert file["batch_digests"].dtype == np.uint8
        np.testing.assert_array_equal(file["batch_digests"][()], result.batch_digests)
        assert file["unreadable/image"].asstr()[()].tolist() == ["x.png"]
        assert file["unreadable/reason"].asstr()[()].tolist() == ["truncated"]
        assert file["warnings"].asstr()[()].tolist() == ["careful"]
        assert dict(file["provenance"].attrs) == {
            "seed": 3,
            "precision": "fp32",
            "versions": '{"numpy": "2"}',
            "command": "null",
        }


def test_golden_file_of_version_1():
    """Once there is a release, a file that it wrote loads for ever, with these numbers."""
    result = load(GOLDEN)
    assert result.models == ("vit_s", "resnet50")
    assert [layer.path for layer in result.layers[3:]] == ["layer1.0", "layer2.0"]
    assert result.images == 96
    assert result.batch_planned.tolist() == result.batch_images.tolist() == [16] * 6
    assert result.batch_digests[1, 1, :3].tolist() == [96, 97, 98]
    assert (result.groups, result.complete, result.tokens) == (6, False, ("all",))
    assert result.unreadable == (Unreadable("n01440764/é.JPEG", "truncated"),)
    assert result.warnings == ("vit_s: the features of layer blocks.1 (all) do not vary",)
    assert result.provenance == {
        "batch_size": 16,
        "seed": 0,
        "precision": "fp32",
        "models": [{"name": "vit_s"}, {"name": "resnet50"}],
        "command": None,
    }
    matrix = result.cka()
    assert np.isnan(matrix[1]).all()
    assert matrix[0, 2] == pytest.approx(0.39160996189805025, abs=1e-12)
    assert result.cka_se()[0, 2] == pytest.approx(0.08742765528090073, abs=1e-12)
    assert result.top1("resnet50") == pytest.approx(0.7604166666666666, abs=1e-12)


def test_golden_file_with_h5py_alone():
    with h5py.File(GOLDEN) as file:
        sums = file["sums"][()].sum(0)
        own = np.sqrt(np.diagonal(sums))
        defined = own > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix = np.where(defined & defined[:, None], sums / np.outer(own, own), np.nan)
        np.testing.assert_allclose(file["cka"][()], matrix, atol=1e-12)


# Whole or not at all


def test_missing_folder_is_made_and_an_old_file_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "run.h5"
    save(synthetic_result({"m": 2}), path)
    save(synthetic_result({"m": 3}), path)
    assert len(load(path).layers) == 3
    assert os.listdir(path.parent) == ["run.h5"]


def test_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    save(synthetic_result({"m": 2}), tmp_path / "run.h5")
    assert (tmp_path / "run.h5").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_symbolic_link_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.h5").symlink_to(tmp_path / "real" / "run.h5")
    save(synthetic_result({"m": 2}), tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    assert len(load(tmp_path / "real" / "run.h5").layers) == 2


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_failure_leaves_the_old_file_and_no_other(saved, monkeypatch, step, failure):
    before = saved.read_bytes()

    def fail(*_):
        raise failure

    if step == "fsync":
        monkeypatch.setattr(refiner_cka.results.atomic.os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    wanted = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else ResultFileError
    with pytest.raises(wanted) as caught:
        save(synthetic_result({"m": 2}), saved)
    if wanted is ResultFileError:
        assert str(caught.value) == (
            f"cannot write {saved}: No space left on device; choose another place"
        )
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["run.h5"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_full_disk(tmp_path):
    """The operating system itself refuses to write on: in a process of its own, as the limit would stay."""
    program = """
import resource, signal, sys
from refiner_cka.errors import ResultFileError
from tests.synthetic import synthetic_result
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
result = synthetic_result()
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    result.save(sys.argv[1])
except ResultFileError as error:
    sys.stderr.write(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run.h5")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        check=True,
    )
    assert (
        done.stderr == f"cannot write {tmp_path / 'run.h5'}: File too large; choose another place"
    )
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    result = synthetic_result({"m": 2})
    with pytest.raises(ResultFileError, match="is a folder; name a file in it"):
        save(result, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ResultFileError, match="file is a file, not a folder"):
        save(result, tmp_path / "file" / "run.h5")
    with pytest.raises(ResultFileError, match="is a file, not a folder"):
        save(result, tmp_path / "file" / "deeper" / "run.h5")
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResultFileError, match="Permission denied"):
        save(synthetic_result({"m": 2}), tmp_path / "run.h5")


# What is refused


def refusal(path: Path) -> str:
    with pytest.raises(ResultFileError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_file_folder_other_file_other_tool(tmp_path):
    assert refusal(tmp_path / "none.h5").startswith("no such file")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "text.h5").write_text("no HDF5")
    assert "is not an HDF5 file" in refusal(tmp_path / "text.h5")
    (tmp_path / "empty.h5").touch()
    assert "is not an HDF5 file" in refusal(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["cka"] = np.eye(3)
    assert "of another tool" in refusal(tmp_path / "other.h5")
    with h5py.File(tmp_path / "other.h5", "r+") as file:
        file.attrs["format"] = "keras"
    assert "of another tool" in refusal(tmp_path / "other.h5")


def test_newer_version(saved):
    with h5py.File(saved, "r+") as file:
        file.attrs["format_version"] = 2
        del file["sums"]
    assert "newer refiner-cka (format version 2" in refusal(saved)


def test_truncated_at_any_length(saved):
    data = saved.read_bytes()
    for length in range(0, len(data), max(1, len(data) // 50)):
        saved.write_bytes(data[:length])
        assert str(saved) in refusal(saved)


DATASETS = [
    "cka",
    "cka_se",
    "sums",
    "images",
    "batches",
    "batch_planned",
    "batch_images",
    "batch_digests",
    "warnings",
    "layers/model",
    "layers/path",
    "layers/tokens",
    "layers/index",
    "layers/depth",
    "top1/correct",
    "top1/labelled",
    "unreadable/image",
    "unreadable/reason",
]


@pytest.mark.parametrize("path", DATASETS)
def test_missing_misshapen_or_mistyped_dataset_is_named(saved, path):
    with h5py.File(saved, "r+") as file:
        held = file[path][()]
        del file[path]
    assert f"{path} is missing" in refusal(saved)
    others = {
        "longer": np.concatenate([held, held, np.zeros((1, *held.shape[1:]), held.dtype)]),
        "rank": held[None],
        "type": np.zeros(held.shape, np.float32),
        "scalar": np.float64(1.0),
        "empty": h5py.Empty("f8"),
    }
    free = {"batches", "warnings"}
    for change, values in others.items():
        if change == "longer" and path in free:
            continue
        with h5py.File(saved, "r+") as file:
            if path in file:
                del file[path]
            file[path] = values
        # The length of `images` is that of all sums: `sums` is then what does not fit.
        blamed = "sums" if (path, change) == ("images", "longer") else path.split("/")[0]
        assert blamed in refusal(saved), change
    with h5py.File(saved, "r+") as file:
        del file[path]
        file.create_group(path)
    assert f"{path} is not a dataset" in refusal(saved)


@pytest.mark.parametrize("path", ["sums", "layers/model", "batches", "warnings", "top1/correct"])
def test_sizes_beyond_the_file_are_refused_before_memory_is_taken(saved, path):
    """10^12 numbers that take no place in the file: never written, or compressed away."""
    with h5py.File(saved, "r+") as file:
        dtype, rank = file[path].dtype, len(file[path].shape)
        del file[path]
        shape = (10**12 // 49, 7, 7)[:rank] if rank > 1 else (10**12,)
        file.create_dataset(path, shape, dtype, chunks=(1024, 7, 7)[:rank])
    assert path in refusal(saved)


def test_numbers_from_elsewhere_are_not_followed(saved, tmp_path):
    """Links, virtual and external datasets would read files that the user never named."""
    secret = tmp_path / "secret.h5"
    save(synthetic_result({"vit_s": 4, "deit_s": 3}, seed=1), secret)
    with h5py.File(saved, "r+") as file:
        shape = file["sums"].shape
        layout = h5py.VirtualLayout(shape, "f8")
        layout[...] = h5py.VirtualSource(str(secret), "sums", shape)
        changes = {
            "external link": lambda: file.__setitem__("sums", h5py.ExternalLink(secret, "sums")),
            "soft link": lambda: file.__setitem__("sums", h5py.SoftLink("/cka")),
            "virtual": lambda: file.create_virtual_dataset("sums", layout),
            "external": lambda: file.create_dataset(
                "sums", shape, "f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
            ),
            "compressed": lambda: file.create_dataset("sums", shape, "f8", compression="gzip"),
        }
    for name, change in changes.items():
        file = h5py.File(saved, "r+")
        del file["sums"]
        change()
        file.close()
        told = refusal(saved)
        assert "sums is" in told, name
    with h5py.File(saved, "r+") as file:
        del file["layers"]
        file["layers"] = h5py.ExternalLink(secret, "layers")
    assert "layers/model is a link to elsewhere" in refusal(saved)


def test_additive_links_are_not_followed(saved, tmp_path):
    secret = tmp_path / "secret.h5"
    save(synthetic_result({"vit_s": 4, "deit_s": 3}, seed=1), secret)
    with h5py.File(saved, "r+") as file:
        file["extra/sums"] = h5py.ExternalLink(secret, "sums")
        file["more"] = h5py.SoftLink("/sums")
    assert set(load(saved).sums) == {"hsic", "images", "correct", "labelled"}


@pytest.mark.parametrize(
    ("path", "change", "told"),
    [
        ("sums", lambda a: a.__setitem__((0, 1, 2), a[0, 1, 2] * 1.01), "sums is not symmetric"),
        ("sums", lambda a: a.__imul__(np.arange(7)), "is not symmetric"),
        ("cka", lambda a: a.__setitem__((1, 2), a[1, 2] + 1e-6), "cka does not follow from sums"),
        ("images", lambda a: a.__setitem__(3, -1.0), "images is not a count"),
        ("images", lambda a: a.__setitem__(3, np.nan), "images is not a count"),
        ("batches", lambda a: a.__setitem__(3, 2), "holds a batch twice"),
        ("batches", lambda a: a.__setitem__(-1, 40), "does not have"),
        ("batches", lambda a: a.__setitem__(0, -1), "does not have"),
        ("batch_images", lambda a: a.__setitem__(3, 17), "17 images in batch 3, for which 16"),
        ("batch_images", lambda a: a.__setitem__(3, -1), "batch_images counts -1 images"),
        (
            "batch_images",
            lambda a: a.__setitem__(3, 15),
            "640 images in the sums where their batches",
        ),
        ("batch_planned", lambda a: a.__setitem__(3, 15), "16 images in batch 3, for which 15"),
        ("images", lambda a: a.__imul__(2), "1280 images in the sums where their batches have 640"),
        ("images", lambda a: a.__setitem__(slice(2), (31, 33)), "added twice, or not at all"),
        ("top1/labelled", lambda a: a.__setitem__((0, 0), 33), "labelled counts more images"),
        ("top1/correct", lambda a: a.__setitem__((0, 0), -1), "correct counts more images"),
        ("layers/depth", lambda a: a.__setitem__(0, np.nan), "layers/depth"),
    ],
)
def test_inconsistent_numbers(saved, path, change, told):
    with h5py.File(saved, "r+") as file:
        values = file[path][()]
        change(values)
        file[path][...] = values
    assert told in refusal(saved)


def test_attributes_of_the_wrong_kind(saved):
    for name, value in {
        "total_batches": "many",
        "fingerprint": 5,
        "format_version": 0,
    }.items():
        with h5py.File(saved, "r+") as file:
            before = file.attrs[name]
            file.attrs[name] = value
        assert f"attribute {name} is" in refusal(saved)
        with h5py.File(saved, "r+") as file:
            del file.attrs[name]
        assert f"attribute {name} is missing" in refusal(saved)
        with h5py.File(saved, "r+") as file:
            file.attrs[name] = before
    with h5py.File(saved, "r+") as file:
        file["provenance"].attrs["list"] = np.zeros(1000)
    assert "attribute list is not one string, number" in refusal(saved)
    with h5py.File(saved, "r+") as file:
        file["provenance"].attrs["list"] = '{"half": '
    assert "is damaged" in refusal(saved)


def test_no_layer(saved):
    with h5py.File(saved, "r+") as file:
        for path in [p for p in DATASETS if p.startswith("layers/")]:
            held = file[path][:0]
            del file[path]
            file[path] = held
        for path, shape in {
            "sums": (20, 0, 0),
            "cka": (0, 0),
            "cka_se": (0, 0),
            "top1/correct": (20, 0),
            "top1/labelled": (20, 0),
        }.items():
            del file[path]
            file[path] = np.zeros(shape)
    assert "layers/model is empty" in refusal(saved)


def sums_edited(saved: Path, path: str, value: float) -> str:
    """Return the refusal of a file in which one number of a sum was replaced and the digest made anew."""
    with h5py.File(saved, "r+") as file:
        file[path][(0,) * file[path].ndim] = value
        file.attrs["digest"] = digest_of(file)
    return refusal(saved)


@pytest.fixture
def measured(tmp_path):
    save(with_smoothing(synthetic_result({"a": 3, "b": 3})), tmp_path / "measured.h5")
    return tmp_path / "measured.h5"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *itertools.product(["top1/correct", "top1/labelled"], [-5.0, 1e9, math.nan, 0.5]),
        *itertools.product(["smoothing/patch_cosine/images"], [-1.0, 1e9, math.nan, 0.5]),
        ("smoothing/patch_cosine/squares", -1e-3),
        ("smoothing/patch_cosine/squares", 0.0),
        ("smoothing/patch_cosine/squares", math.nan),
        ("smoothing/patch_cosine/total", 1e9),
        ("smoothing/attention_block_similarity/total", 1e9),
        ("smoothing/kept_images", 0.5),
    ],
)
def test_sums_that_no_run_can_have_made_are_refused_by_what_they_are(measured, path, value):
    assert path.split("/")[1].removeprefix("kept_") in sums_edited(measured, path, value)


@pytest.mark.parametrize("name", ["smoothing/kept_images", "smoothing/patch_cosine/squares"])
def test_a_sum_that_is_missing_is_named(measured, name):
    with h5py.File(measured, "r+") as file:
        del file[name]
        file.attrs["digest"] = digest_of(file)
    assert f"{name} is missing" in refusal(measured)


def test_a_measure_of_another_version_is_loaded_merged_drawn_and_said(measured, tmp_path):
    with h5py.File(measured, "r+") as file:
        file.copy("smoothing/patch_cosine", "smoothing/novel")
        file["smoothing/novel"].attrs["label"] = "Novelty"
        file["smoothing/novel"].attrs["order"] = -1
        file.attrs["digest"] = digest_of(file)
    result = merge([load(measured)])
    assert result.quantity("novel").label == "Novelty"
    novel, known = (result.smoothing(name, "a") for name in ("novel", "patch_cosine"))
    np.testing.assert_array_equal(novel.values, known.values)
    save(result, tmp_path / "again.h5")
    again = load(tmp_path / "again.h5")
    assert again.quantities == result.quantities
    labels = [ax.get_ylabel() for ax in plots.smoothing(again).axes]
    assert labels[0] == "Novelty"
    assert any("novelty is" in sentence for sentence in rc.summarize(again).sentences)


def test_every_single_bit_that_flips_in_the_arrays_is_noticed(measured):
    """The digest settles it, also where the changed number contradicts nothing."""
    whole = load(measured)
    with h5py.File(measured) as file:
        arrays: dict[str, tuple[int, int]] = {}

        def visit(path: str, node: object) -> None:
            if isinstance(node, h5py.Dataset) and node.id.get_offset() is not None:
                arrays[path] = (node.id.get_offset(), node.nbytes)

        file.visititems(visit)
    content = measured.read_bytes()
    rng = np.random.default_rng(0)
    names = sorted(name for name in arrays if arrays[name][1])
    assert len(names) > 50
    for flip in range(60):
        start, size = arrays[names[flip % len(names)]]
        place, bit = start + int(rng.integers(size)), int(rng.integers(8))
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        measured.write_bytes(damaged)
        refusal(measured)
    measured.write_bytes(content)
    np.testing.assert_array_equal(load(measured).cka(), whole.cka())
