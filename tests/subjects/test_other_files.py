"""Files that are no checkpoint, or a damaged one, or hold no plain weights: refused with what they are."""

import argparse
import struct

import numpy as np
import pytest
import torch
from torch import nn

from refiner_cka.errors import CheckpointError
from refiner_cka.subjects import checkpoint
from tests.subjects.files import BOTH_FORMATS, STATE, saved

pytestmark = pytest.mark.usefixtures("nothing_runs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html><body>Sign in</body></html>", "web page"),
        (b"hello, these are not weights\n", "damaged or no checkpoint"),
        (b"PK\x03\x04 and then nothing", "damaged or no checkpoint"),
        (bytes(4096), "starts with zeros"),
        (struct.pack("<Q", 2**62) + b"{}", "damaged or no checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.pth.tar"])
def test_a_file_that_is_no_checkpoint(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as refusal:
        checkpoint.read(tmp_path / name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "content", [b"", b"{}", struct.pack("<Q", 2**62) + b"{}", bytes(64), b"<html>"]
)
def test_a_file_that_is_no_safetensors(tmp_path, content):
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / "weights.safetensors")


@BOTH_FORMATS
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_file(tmp_path, zipped, kept):
    file = saved(tmp_path, {"w": torch.randn(2000)}, zipped=zipped)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.read(file)


def test_a_tar_archive_is_not_unpacked(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "model.pth.tar", "w") as archive:
        archive.add(saved(tmp_path, STATE), "model.pth")
    with pytest.raises(CheckpointError, match="tar archive"):
        checkpoint.read(tmp_path / "model.pth.tar")


def test_a_numpy_archive(tmp_path):
    np.savez(tmp_path / "weights.npz", w=np.ones(3))
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.read(tmp_path / "weights.npz")


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
def test_torchscript_is_refused_and_not_loaded(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "scripted.pt")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        checkpoint.read(tmp_path / "scripted.pt")


@BOTH_FORMATS
def test_a_whole_pickled_network(tmp_path, zipped):
    file = saved(tmp_path, nn.Sequential(nn.Linear(2, 2)), zipped=zipped)
    with pytest.raises(CheckpointError, match=r"torch\.nn.*Sequential: save its state_dict"):
        checkpoint.read(file)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"epoch": 3, "lr": 0.1}, {}, torch.ones(3), {"model": {}}, {3: torch.ones(1)}],
)
def test_a_file_without_named_tensors(tmp_path, content):
    with pytest.raises(CheckpointError, match="holds no weights"):
        checkpoint.read(saved(tmp_path, content))


def test_entries_that_contain_themselves(tmp_path):
    content = {}
    content |= dict.fromkeys(checkpoint.ENTRIES, content)
    with pytest.raises(CheckpointError, match="holds no weights"):
        checkpoint.read(saved(tmp_path, content))
    content["w"] = torch.ones(2)
    assert checkpoint.read(saved(tmp_path, content)).entry == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.ones(3).to_sparse(), "sparse"),
        (lambda: torch.ones(3, 3).to_sparse_csr(), "sparse"),
        (lambda: torch.nested.nested_tensor([torch.ones(3)]), "nested"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.empty(3, device="meta"), "without data"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # these tensors are in beta, or deprecated
def test_tensors_that_are_not_dense_numbers(tmp_path, make, message):
    tensor = make()
    for content in ({"w": tensor}, {"model": {"w": tensor}, "args": argparse.Namespace()}):
        with pytest.raises(CheckpointError, match=f"w is {message}"):
            checkpoint.read(saved(tmp_path, content))


def test_a_tensor_that_reads_its_storage_negated_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="conjugate or negative"):
        checkpoint.read(saved(tmp_path, {"w": torch.ones(3, dtype=torch.complex64).conj().imag}))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.bfloat16, torch.int8])
@BOTH_FORMATS
def test_every_type_of_numbers_is_read(tmp_path, zipped, dtype):
    values = torch.arange(12).reshape(3, 4).to(dtype)
    (read,) = checkpoint.read(saved(tmp_path, {"w": values.T}, zipped=zipped)).state.values()
    assert read.dtype == dtype
    assert torch.equal(read.float(), values.T.float())


def test_a_missing_file_names_close_ones(tmp_path):
    saved(tmp_path, STATE, name="epoch10.pth")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint file .*epoch1\.pth; close: epoch10\.pth"
    ):
        checkpoint.read(tmp_path / "epoch1.pth")
    with pytest.raises(CheckpointError, match="is not a file"):
        checkpoint.read(tmp_path)
