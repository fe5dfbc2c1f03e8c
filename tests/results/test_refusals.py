"""Nothing strange in a file gets through: what is refused, and in what words."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from refiner_cka.results import load, save
from refiner_cka.sums import all_sums
from tests.results.files import edited, refusal
from tests.synthetic import synthetic_result


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
        del file["similarity"]
    assert "newer refiner-cka (format version 2" in refusal(saved)


def test_truncated_at_any_length(saved):
    data = saved.read_bytes()
    for length in range(0, len(data), max(1, len(data) // 50)):
        saved.write_bytes(data[:length])
        assert str(saved) in refusal(saved)


DATASETS = [
    "cka",
    "cka_se",
    "similarity/cka/products",
    "similarity/cka/removed",
    "similarity/cka/third",
    "images",
    "batches",
    "batch_planned",
    "batch_images",
    "batch_digests",
    "image_digests",
    "warnings",
    "layers/model",
    "layers/path",
    "layers/tokens",
    "layers/index",
    "layers/depth",
    "top1/hits",
    "top1/trials",
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
    if path in ("batches", "warnings"):
        del others["longer"]
    for change, values in others.items():
        with h5py.File(saved, "r+") as file:
            if path in file:
                del file[path]
            file[path] = values
        assert path.split("/")[0] in refusal(saved), change
    with h5py.File(saved, "r+") as file:
        del file[path]
        file.create_group(path)
    assert f"{path} is not a dataset" in refusal(saved)


@pytest.mark.parametrize(
    "path", ["similarity/cka/removed", "layers/model", "batches", "warnings", "top1/hits"]
)
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
    secret, path = tmp_path / "secret.h5", "similarity/cka/products"
    save(synthetic_result({"vit_s": 4, "deit_s": 3}, seed=1), secret)
    with h5py.File(saved, "r+") as file:
        shape = file[path].shape
        layout = h5py.VirtualLayout(shape, "f8")
        layout[...] = h5py.VirtualSource(str(secret), path, shape)
        changes = {
            "external link": lambda: file.__setitem__(path, h5py.ExternalLink(secret, path)),
            "soft link": lambda: file.__setitem__(path, h5py.SoftLink("/cka")),
            "virtual": lambda: file.create_virtual_dataset(path, layout),
            "external": lambda: file.create_dataset(
                path, shape, "f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
            ),
            "compressed": lambda: file.create_dataset(path, shape, "f8", compression="gzip"),
        }
    for name, change in changes.items():
        with h5py.File(saved, "r+") as file:
            del file[path]
            change()
        assert f"{path} is" in refusal(saved), name
    with h5py.File(saved, "r+") as file:
        del file["layers"]
        file["layers"] = h5py.ExternalLink(secret, "layers")
    assert "layers/model is a link to elsewhere" in refusal(saved)


def test_additive_links_are_not_followed(saved, tmp_path):
    secret = tmp_path / "secret.h5"
    save(synthetic_result({"vit_s": 4, "deit_s": 3}, seed=1), secret)
    with h5py.File(saved, "r+") as file:
        file["extra/sums"] = h5py.ExternalLink(secret, "similarity/cka/products")
        file["more"] = h5py.SoftLink("/similarity/cka/products")
        file["others"] = h5py.SoftLink("/similarity")
    result = load(saved)
    assert result.sums.keys() == all_sums(result.quantities).keys()
    assert [quantity.name for quantity in result.quantities] == ["cka", "top1"]


def test_groups_nested_by_the_hundred_are_refused(saved):
    """HDF5 itself takes minutes to visit some thousand levels."""
    with edited(saved) as file:
        file.create_group("/".join(["deep"] * 60))
    load(saved)
    with h5py.File(saved, "r+") as file:
        file.create_group("/".join(["deeper"] * 300))
    assert "lies more than 64 levels deep" in refusal(saved)


def test_a_mark_that_the_digest_does_not_cover_is_none(saved):
    """It is of scalar attributes: an array under the name of one would add to the sums unseen."""
    sums = load(saved).sums.keys()
    with h5py.File(saved, "r+") as file:
        file["cka"].attrs["additive"] = np.ones(1)
    assert load(saved).sums.keys() == sums


def test_attributes_of_the_wrong_kind(saved):
    wrong = {"total_batches": "many", "fingerprint": 5, "format_version": 0}
    for name, value in wrong.items():
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
    assert "attribute list of provenance is not one string, number" in refusal(saved)
    with h5py.File(saved, "r+") as file:
        file["provenance"].attrs["list"] = '{"half": '
    assert "is damaged" in refusal(saved)


def test_no_layer(saved):
    moments = [f"similarity/cka/{part}" for part in ("products", "variance", "third", "fourth")]
    with h5py.File(saved, "r+") as file:
        for path in [p for p in DATASETS if p.startswith("layers/")]:
            held = file[path][:0]
            del file[path]
            file[path] = held
        for path, shape in {
            **dict.fromkeys(moments, (0, 0)),
            "similarity/cka/removed": (20, 0, 0),
            "cka": (0, 0),
            "cka_se": (0, 0),
            "top1/hits": (0,),
            "top1/trials": (0,),
            "batch_digests": (40, 0, 32),
        }.items():
            del file[path]
            file[path] = np.zeros(shape, np.uint8 if path == "batch_digests" else float)
    assert "there are no layers" in refusal(saved)


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
