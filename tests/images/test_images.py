"""Images: every format, every source, every refusal; order and batches."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset
from torch.utils.data._utils import signal_handling

from refiner_cka.errors import AnalysisWarning, DataError
from refiner_cka.images import sources
from refiner_cka.images.batches import (
    Batch,
    Digest,
    ImageSource,
    digest_of,
    load_batches,
    open_source,
    plan_batches,
)
from refiner_cka.images.decoding import UnreadableImage, decode
from refiner_cka.images.preprocessing import Preprocessing

SMALL = Preprocessing((3, 16, 16))
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def scene(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    """Smooth random colours, so that lossy formats keep them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def read(path: Path) -> Image.Image:
    with path.open("rb") as stream:
        return decode(stream)


def pixels(image: object) -> NDArray[np.uint8]:
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    return np.asarray(image)


def folder_of(path: Path, names: Iterable[str]) -> Path:
    for seed, name in enumerate(names):
        save(scene(seed=seed), path / name)
    return path


def refusal(data: object) -> str:
    with pytest.raises(DataError) as caught:
        open_source(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def batches_of(source: ImageSource, workers: int = 0, size: int = 4) -> list[Batch]:
    plan = plan_batches(source, batch_size=size, images=None, seed=0)
    wanted = range(len(plan.batches))
    return list(load_batches(source, plan, wanted, [SMALL], workers=workers))


class Source:
    """A source written by a user: the protocol and no more."""

    description = "mine"
    labels = None
    classes = None

    def __init__(
        self,
        count: int,
        read: Callable[[int], Image.Image | torch.Tensor],
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.input_shape = input_shape
        self.ids = [f"image {index}" for index in range(count)]
        self.read = read

    def digest(self, indices: Iterable[int]) -> Digest:
        return Digest(" ".join(map(str, indices)), "indices", whole=False)


# ------------------------------------------------------------- small pathological cases


def png(width: int, height: int, *, bits: int = 1, colour: int = 0, content: bytes = b"") -> bytes:
    """A PNG by hand; without content it only claims its size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


UNREADABLE: dict[str, tuple[bytes, str]] = {
    # A download that never began.
    "empty": (b"", "an empty file"),
    # A page that says "404", saved as a picture.
    "text": (b"<html>not found</html>", "in no known image format"),
    # A download that broke off.
    "truncated": (jpeg(scene())[:-200], "truncated"),
    # Bit rot: Pillow raises SyntaxError for a broken header, not OSError.
    "corrupt": (png(8, 8).replace(b"IHDR", b"IHDX"), ""),
    # A decompression bomb: a few bytes that claim nearly a gigapixel.
    "bomb": (png(30_000, 30_000), "30000 x 30000 pixels: the limit is 536870912"),
    # A strip: small, but resized by its short side to 256 it would have 33 million columns.
    "strip": (png(131_072, 1), "131072 x 1 pixels: longer than 200 times its width"),
    # Code in disguise: Pillow would start Ghostscript.
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no known image format"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unusable_file_is_unreadable_and_the_reason_is_one_line(case: str) -> None:
    content, reason = UNREADABLE[case]
    with pytest.raises(UnreadableImage) as caught:
        decode(io.BytesIO(content))
    assert reason in str(caught.value)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value), "an address would differ from run to run"


def test_an_unreadable_image_makes_its_batch_smaller_and_nothing_moves_up(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{index}.png" for index in range(8)])
    whole = batches_of(open_source(tmp_path))
    broken = open_source(tmp_path)
    lost = plan_batches(broken, batch_size=4, images=None, seed=0).batches[0][1]
    (tmp_path / f"{lost}.png").write_bytes(b"")
    batches = batches_of(broken)
    assert [batch.images for batch in batches] == [3, 4]
    assert [(u.id, u.reason) for u in batches[0].unreadable] == [(f"{lost}.png", "an empty file")]
    assert batches[1].unreadable == ()
    kept = whole[0].inputs[SMALL][[0, 2, 3]]
    assert torch.equal(batches[0].inputs[SMALL], kept)
    assert torch.equal(batches[1].inputs[SMALL], whole[1].inputs[SMALL])


def test_the_label_of_an_unreadable_image_goes_with_it(tmp_path: Path) -> None:
    source = open_source(folder_of(tmp_path, ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]))
    (order,) = plan_batches(source, batch_size=4, images=None, seed=0).batches
    (tmp_path / source.ids[order[1]]).write_bytes(b"")
    (batch,) = batches_of(source)
    assert batch.labels is not None
    assert batch.labels.tolist() == [index // 2 for index in order if index != order[1]]


def test_a_batch_of_which_nothing_is_left_is_empty_not_missing() -> None:
    def fail(index: int) -> Image.Image:
        raise UnreadableImage(f"no {index}")

    (batch,) = batches_of(Source(4, fail))
    assert len(batch.digests[SMALL]) == 32
    assert batch.images == 0
    assert batch.inputs[SMALL].shape == (0, 3, 16, 16)
    assert {u.reason for u in batch.unreadable} == {"no 0", "no 1", "no 2", "no 3"}


def test_a_file_that_vanished_is_unreadable(tmp_path: Path) -> None:
    source = open_source(folder_of(tmp_path, ["a.png"]))
    (tmp_path / "a.png").unlink()
    with pytest.raises(UnreadableImage, match=r"^No such file or directory$"):
        source.read(0)


# ------------------------------------------------------------------------------ decoding


def transparent(image: Image.Image) -> Image.Image:
    """Its left half transparent."""
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, image.width // 2, image.height))
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_transparency_is_laid_over_white(mode: str, suffix: str, tmp_path: Path) -> None:
    opaque = scene().convert(mode)
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(transparent(opaque.copy()), tmp_path / f"a{suffix}", **options)
    found = pixels(read(path))
    assert (found[:, :12] == 255).all()
    assert (found[:, 12:] == np.asarray(opaque.convert("RGB"))[:, 12:]).all()


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    path = save(Image.new("RGBA", (4, 4), (*RED, 128)), tmp_path / "a.png")
    assert pixels(read(path))[0, 0].tolist() == [255, 127, 127]


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_a_transparent_level_or_palette_entry_is_white_too(mode: str, tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0) if mode == "P" else Image.new(mode, (4, 4), 0)
    if mode == "P":
        image.putpalette([*RED, *BLUE])
    image.putpixel((3, 3), 1 if mode == "P" else 255)
    path = save(image, tmp_path / "a.png", transparency=0)
    found = pixels(read(path))
    assert tuple(found[0, 0]) == WHITE
    assert tuple(found[3, 3]) == (BLUE if mode == "P" else WHITE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_grey_bilevel_and_palette_become_the_same_colours(mode: str, tmp_path: Path) -> None:
    image = scene().convert(mode)
    found = pixels(read(save(image, tmp_path / "a.png")))
    assert (found == np.asarray(image.convert("RGB"))).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    image = scene(64, 64)
    path = save(image.convert("CMYK"), tmp_path / "a.jpg", quality=98)
    assert np.abs(pixels(read(path)).astype(int) - np.asarray(image)).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_scaled_not_clipped(suffix: str, tmp_path: Path) -> None:
    levels = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xFEFF, 0xFF00, 0xFFFF]], np.uint16)
    path = save(Image.fromarray(levels), tmp_path / f"a{suffix}")
    assert pixels(read(path))[..., 0].tolist() == [[0, 0, 1, 127], [128, 254, 255, 255]]


def test_an_8_bit_image_saved_with_16_bits_is_the_same_image(tmp_path: Path) -> None:
    grey = np.asarray(scene().convert("L"))
    path = save(Image.fromarray(grey.astype(np.uint16) * 257), tmp_path / "a.png")
    assert (pixels(read(path))[..., 0] == grey).all()


def test_32_bit_integers_are_read_as_16_bits_or_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.full((2, 2), 0xFFFF, np.int32)), tmp_path / "a.tif")
    assert pixels(read(path)).min() == 255
    path = save(Image.fromarray(np.array([[-1, 70_000]], np.int32)), tmp_path / "b.tif")
    with pytest.raises(UnreadableImage, match=r"pixel values from -1 to 70000: only 16 bits"):
        read(path)


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 0.5, 1], [0, 128, 255]), ([0, 1.4, 255], [0, 1, 255])]
)
def test_floating_pixels_are_units_or_bytes(
    values: Sequence[float], expected: Sequence[int], tmp_path: Path
) -> None:
    path = save(Image.fromarray(np.array([values], np.float32)), tmp_path / "a.tif")
    assert pixels(read(path))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [-0.1, 256.0, np.nan, np.inf])
def test_other_floating_pixels_are_unreadable(value: float, tmp_path: Path) -> None:
    path = save(Image.fromarray(np.array([[0.5, value]], np.float32)), tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=r"neither 0\.\.1 nor 0\.\.255"):
        read(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_an_image_on_its_side_is_shown_upright(suffix: str, tmp_path: Path) -> None:
    upright = Image.new("RGB", (32, 16), BLUE)
    upright.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    path = save(upright.rotate(90, expand=True), tmp_path / f"a{suffix}", exif=exif)
    found = pixels(read(path)).astype(int)
    assert found.shape == (16, 32, 3)
    assert np.abs(found[8, 4] - RED).max() < 6
    assert np.abs(found[8, 28] - BLUE).max() < 6


def test_16_bit_colour_is_scaled_as_16_bit_grey_is(tmp_path: Path) -> None:
    levels = [0, 0x00FF, 0x0100, 0x7FFF, 0x80FF, 0xFFFF]
    line = b"\0" + b"".join(struct.pack(">HHH", level, level, level) for level in levels)
    (tmp_path / "a.png").write_bytes(png(len(levels), 1, bits=16, colour=2, content=line))
    assert pixels(read(tmp_path / "a.png"))[0, :, 1].tolist() == [0, 0, 1, 127, 128, 255]


def test_a_phones_picture_with_a_second_one_behind_it(tmp_path: Path) -> None:
    first, second = scene(64, 64, 1), scene(64, 64, 2)
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert np.abs(pixels(read(tmp_path / "a.jpg")).astype(int) - np.asarray(first)).mean() < 6


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage garbage", b"Exif\0\0MM\0*\0\0"])
def test_damaged_exif_does_not_spoil_the_pixels(suffix: str, exif: bytes, tmp_path: Path) -> None:
    plain = save(scene(), tmp_path / f"a{suffix}")
    noisy = save(scene(), tmp_path / f"b{suffix}", exif=exif)
    assert (pixels(read(noisy)) == pixels(read(plain))).all()


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_of_several_frames_the_first_counts(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(
        frames[0], tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options
    )
    image = read(path)
    assert tuple(pixels(image)[0, 0]) == RED
    assert SMALL.transform()(image)[:, 0, 0].tolist() == list(RED), "usable when its file is closed"


def test_an_image_larger_than_pillow_permits_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(scene(), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read(path).size == (24, 16)
    assert Image.MAX_IMAGE_PIXELS == 10, "the user's limit is put back"


@pytest.mark.parametrize("suffix", sources.IMAGE_SUFFIXES)
def test_every_suffix_that_is_looked_for_can_be_read(suffix: str, tmp_path: Path) -> None:
    image = scene(64, 64).convert({".pbm": "1", ".pgm": "L"}.get(suffix, "RGB"))
    name = tmp_path / f"a{suffix.upper()}"
    if suffix == ".jfif":
        name.write_bytes(jpeg(image))
    else:
        image.save(name)
    found = pixels(open_source(tmp_path).read(0)).astype(int)
    assert np.abs(found - np.asarray(image.convert("RGB"))).mean() < 6


# ------------------------------------------------------------------------------- folders


def test_a_flat_folder_has_no_labels_and_is_sorted_by_name(tmp_path: Path) -> None:
    source = open_source(str(folder_of(tmp_path, ["b.png", "a.jpg", "B.PNG", "10.png", "9.png"])))
    assert list(source.ids) == ["10.png", "9.png", "B.PNG", "a.jpg", "b.png"]
    assert source.labels is None
    assert source.classes is None
    assert source.description == str(tmp_path)


def test_first_level_folders_are_classes(tmp_path: Path) -> None:
    names = ["dog/x.png", "cat/deep/er/y.png", "cat/z.png"]
    source = open_source(folder_of(tmp_path, names))
    assert list(source.ids) == ["cat/deep/er/y.png", "cat/z.png", "dog/x.png"]
    assert source.classes == ("cat", "dog")
    assert source.labels == [0, 0, 1]


def test_an_image_beside_the_class_folders_undoes_the_labels(tmp_path: Path) -> None:
    source = open_source(folder_of(tmp_path, ["dog/x.png", "cat/y.png", "z.png"]))
    assert source.labels is None


def test_a_folder_around_the_class_folders_is_passed_over(tmp_path: Path) -> None:
    assert open_source(folder_of(tmp_path, ["val/a/1.png", "val/b/2.png"])).classes == ("a", "b")


def test_a_single_class_folder_is_a_class(tmp_path: Path) -> None:
    assert open_source(folder_of(tmp_path, ["n01440764/1.png"])).classes == ("n01440764",)


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a.png", "._a.png", ".thumbnails/a.png"])
    (tmp_path / "notes.txt").write_text("a")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "folder.png").mkdir()
    assert list(open_source(tmp_path).ids) == ["a.png"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = folder_of(tmp_path / "elsewhere", ["e.png"])
    root = folder_of(tmp_path / "root", ["a.png", "sub/b.png"])
    (root / "sub" / "up").symlink_to(root)
    (root / "linked").symlink_to(elsewhere)
    (root / "self").symlink_to(root / "self")
    assert list(open_source(root).ids) == ["a.png", "linked/e.png", "sub/b.png"]


def test_a_broken_link_is_reported_as_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    source = open_source(tmp_path)
    assert list(source.ids) == ["a.png", "b.png"]
    assert len(source.digest([0, 1]).sha256) == 64
    for index in (0, 1):
        with pytest.raises(UnreadableImage):
            source.read(index)


def test_a_folder_that_cannot_be_listed_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, ["a.png", "locked/b.png"])
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.warns(AnalysisWarning, match="folder locked is left out: Permission denied"):
        assert list(open_source(tmp_path).ids) == ["a.png"]
    assert "cannot list" in refusal(tmp_path / "locked")


def test_strange_names_are_printable_and_still_found(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9\n.png"
    os.rename(save(scene(), tmp_path / "a.png"), raw)
    save(scene(), tmp_path / "日本.png")
    source = open_source(tmp_path)
    assert list(source.ids) == ["caf\\udce9\\n.png", "日本.png"]
    assert pixels(source.read(0)).shape == (16, 24, 3)
    assert len(source.digest([0, 1]).sha256) == 64


def test_the_digest_knows_names_sizes_choice_and_order_but_not_the_place(tmp_path: Path) -> None:
    names = [f"{index}.png" for index in range(4)]
    here, there = (open_source(folder_of(tmp_path / place, names)) for place in ("x", "y"))
    assert here.digest([0, 1, 2]) == there.digest([0, 1, 2])
    assert len({here.digest(chosen) for chosen in ([0, 1, 2], [1, 0, 2], [0, 1], [0, 1, 3])}) == 4
    with (tmp_path / "y" / "1.png").open("ab") as stream:
        stream.write(b"!")
    assert here.digest([0, 1, 2]) != there.digest([0, 1, 2])
    assert here.digest([0, 2]) == there.digest([0, 2])


# ----------------------------------------------------------------------------------- tar


def tar_of(path: Path, members: Iterable[tuple[str, bytes]], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


PICTURES = [(f"{'ab'[index % 2]}/{index}.jpg", jpeg(scene(seed=index))) for index in range(6)]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("x.tar", "w"),
        ("x.TAR", "w"),
        ("x.tar.gz", "w:gz"),
        ("x.tgz", "w:gz"),
        ("x.tar.bz2", "w:bz2"),
        ("x.tar.xz", "w:xz"),
    ],
)
def test_a_tar_file_is_the_folder_it_holds(name: str, mode: str, tmp_path: Path) -> None:
    extra = [("notes.txt", b"hello"), (".hidden.jpg", b""), ("./._a.jpg", b"")]
    source = open_source(tar_of(tmp_path / name, [*reversed(PICTURES), *extra], mode))
    for relative, content in PICTURES:
        path = tmp_path / "folder" / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder = open_source(tmp_path / "folder")
    assert list(source.ids) == list(folder.ids)
    assert source.classes == folder.classes == ("a", "b")
    assert source.labels == folder.labels
    assert source.digest(range(6)) == folder.digest(range(6))
    for index in (5, 0, 3):
        assert (pixels(source.read(index)) == pixels(folder.read(index))).all()


def test_the_unpacked_copy_goes_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    source = open_source(tar_of(tmp_path / "x.tar.gz", PICTURES, "w:gz"))
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    assert [batch.images for batch in batches_of(source, workers=2, size=3 + 1)] == [4]
    assert len(list((tmp_path / "tmp").iterdir())) == 1, "a worker that ends must not remove it"
    copied = open_source(tmp_path / "x.tar.gz")
    del source
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as in a forked worker
    del copied
    assert len(list((tmp_path / "tmp").iterdir())) == 1


def test_hostile_members_are_harmless(tmp_path: Path) -> None:
    picture = jpeg(scene())
    (tmp_path / "in").mkdir()
    path = tar_of(
        tmp_path / "in" / "x.tar",
        [("../../up.jpg", picture), ("/abs.jpg", picture), ("./dot.jpg", picture)],
    )
    with tarfile.open(path, "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, "link.jpg"), (tarfile.CHRTYPE, "device.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    source = open_source(path)
    assert list(source.ids) == ["abs.jpg", "dot.jpg", "up.jpg"]
    assert (pixels(source.read(2)) == pixels(decode(io.BytesIO(picture)))).all()
    assert [entry.name for entry in tmp_path.rglob("*")] == ["in", "x.tar"]


def test_hard_links_and_updated_members(tmp_path: Path) -> None:
    old, new = jpeg(scene(seed=1)), jpeg(scene(seed=2))
    path = tar_of(tmp_path / "x.tar", [("original", old), ("b.jpg", old), ("b.jpg", new)])
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.type, member.linkname = tarfile.LNKTYPE, "original"
        archive.addfile(member)
    source = open_source(path)
    assert list(source.ids) == ["a.jpg", "b.jpg"]
    assert (pixels(source.read(0)) == pixels(decode(io.BytesIO(old)))).all()
    assert (pixels(source.read(1)) == pixels(decode(io.BytesIO(new)))).all()


# -------------------------------------------------------------------------------- arrays

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 10, 12, 3), dtype=np.uint8)


def stored(path: Path, **arrays: Any) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".npy":
        np.save(path, *arrays.values())
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return path


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5", ".hdf5"])
def test_an_array_file_is_the_array_it_holds(suffix: str, tmp_path: Path) -> None:
    source = open_source(stored(tmp_path / f"x{suffix}", images=IMAGES))
    assert list(source.ids) == ["0", "1", "2", "3", "4", "5"]
    assert source.labels is None
    for index in (5, 0):
        assert (pixels(source.read(index)) == IMAGES[index]).all()
    assert source.digest([3, 1]) == open_source(IMAGES).digest([3, 1])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (IMAGES, IMAGES),
        (IMAGES.transpose(0, 3, 1, 2), IMAGES),
        (IMAGES[..., 0], IMAGES[..., [0, 0, 0]]),
        (IMAGES[..., :1], IMAGES[..., [0, 0, 0]]),
        (IMAGES[:, None, :, :, 0], IMAGES[..., [0, 0, 0]]),
        (IMAGES.astype(np.uint16) * 257, IMAGES),
        (np.concatenate([IMAGES, np.full_like(IMAGES[..., :1], 255)], 3), IMAGES),
        (np.concatenate([IMAGES, np.zeros_like(IMAGES[..., :1])], 3), np.full_like(IMAGES, 255)),
    ],
    ids=["NHWC", "NCHW", "NHW", "NHW1", "N1HW", "16 bit", "opaque", "transparent"],
)
def test_layouts_of_integer_arrays(array: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    sources_ = open_source(array), open_source(torch.from_numpy(np.ascontiguousarray(array)))
    for source in sources_:
        assert (pixels(source.read(4)) == expected[4]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_floating_inputs_are_fed_as_they_are(dtype: torch.dtype) -> None:
    inputs = torch.randn(5, 13, 4, 6).to(dtype).requires_grad_()
    (batch,) = batches_of(open_source(inputs), size=8)
    order = plan_batches(open_source(inputs), batch_size=8, images=None, seed=0).batches[0]
    assert batch.inputs[SMALL].dtype == torch.float32
    assert torch.equal(batch.inputs[SMALL], inputs.detach().float()[list(order)])


@pytest.mark.parametrize(
    ("shape", "channels", "refused"),
    [
        ((64, 2, 4, 4), 3, False),
        ((64, 2, 4, 4), 2, False),
        ((64, 224, 224, 3), 3, True),
        ((64, 224, 224, 3), 224, False),
        ((8, 3, 3, 3), 3, False),
        ((64, 4, 4, 2), 2, True),
        ((64, 4, 4, 2), 3, False),
        ((64, 4, 4, 2), 4, False),
        ((64, 5, 3), 3, False),
    ],
)
def test_channels_are_last_where_the_model_says_so(
    shape: tuple[int, ...], channels: int, refused: bool
) -> None:
    """Only what is certain: the last axis is what the model takes as its first, and the first is not."""
    source = open_source(np.zeros(shape, np.float32))
    wanted = Preprocessing((channels, 4, 4), (0.5,) * channels, (0.5,) * channels)
    plan = plan_batches(source, batch_size=8, images=8, seed=0)
    batches = load_batches(source, plan, [0], [wanted], workers=0)
    if refused:
        with pytest.raises(DataError, match="seem to have their channels last") as caught:
            next(batches)
        assert "\n" not in str(caught.value)
    else:
        assert next(batches).inputs[wanted].shape == (8, *shape[1:])


def test_inputs_of_other_models_than_vision_models_pass_too() -> None:
    (batch,) = batches_of(open_source(torch.ones(4, 7)))
    assert batch.inputs[SMALL].shape == (4, 7)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_an_input_that_is_not_finite_is_unreadable(value: float) -> None:
    inputs = np.zeros((4, 3, 2, 2))
    inputs[2, 0, 0, 0] = value
    (batch,) = batches_of(open_source(inputs))
    assert [(u.id, u.reason) for u in batch.unreadable] == [("2", "holds a NaN or an infinity")]


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("key", ["labels", "y", "targets"])
def test_labels_in_the_file(suffix: str, key: str, tmp_path: Path) -> None:
    values = np.array([[7], [3], [7], [-1], [3], [7]], np.int16)
    source = open_source(stored(tmp_path / f"x{suffix}", images=IMAGES, **{key: values}))
    assert source.classes == ("-1", "3", "7")
    assert source.labels == [2, 1, 2, 0, 1, 2]


def test_labels_that_are_text(tmp_path: Path) -> None:
    source = open_source(stored(tmp_path / "x.npz", x=IMAGES, y=np.array(list("cabcab"))))
    assert source.classes == ("a", "b", "c")
    assert source.labels == [2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("labels", [np.zeros(6), np.zeros(5, int), np.zeros((6, 10), int)])
def test_labels_that_do_not_fit_are_left_out(labels: NDArray[np.generic], tmp_path: Path) -> None:
    path = stored(tmp_path / "x.npz", images=IMAGES, labels=labels)
    with pytest.warns(AnalysisWarning, match=r"labels in .* are left out"):
        assert open_source(path).labels is None


def test_the_images_are_found_by_name_or_by_being_the_only_ones(tmp_path: Path) -> None:
    other = np.zeros((9, 5, 5), np.uint8)
    named = open_source(stored(tmp_path / "a.npz", masks=other, X=IMAGES))
    assert (pixels(named.read(0)) == IMAGES[0]).all()
    only = open_source(stored(tmp_path / "b.h5", **{"train/pictures": IMAGES, "ids": np.arange(6)}))
    assert (pixels(only.read(0)) == IMAGES[0]).all()


def test_the_digest_of_an_array_knows_all_of_its_chosen_rows() -> None:
    changed = IMAGES.copy()
    changed[2, 5, 5, 1] += 1
    assert open_source(changed).digest([0, 1]) == open_source(IMAGES).digest([0, 1])
    assert open_source(changed).digest([0, 2]) != open_source(IMAGES).digest([0, 2])
    assert open_source(IMAGES).digest([0, 2]) != open_source(IMAGES).digest([2, 0])
    assert open_source(IMAGES).digest([0]).whole
    same_bytes = IMAGES.reshape(6, 12, 10, 3)
    assert open_source(same_bytes).digest([0]) != open_source(IMAGES).digest([0])


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5"])
def test_one_changed_row_of_two_thousand_is_another_digest(suffix: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (2000, 4, 4, 3), dtype=np.uint8)
    before = open_source(stored(tmp_path / f"x{suffix}", images=rows)).digest(range(2000))
    rows[1234, 0, 0, 0] ^= 1
    after = open_source(stored(tmp_path / f"x{suffix}", images=rows)).digest(range(2000))
    assert before != after
    assert before.whole
    assert after.whole


def test_rows_are_hashed_in_the_order_of_the_file_and_many_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand from the definition, whatever the size of a block; rows that are not wanted do not count."""
    source = open_source(stored(tmp_path / "x.npy", images=IMAGES))
    whole = source.digest([5, 0, 3])
    lines = ["|u1 (10, 12, 3)"]
    for index in (5, 0, 3):
        lines.append(f"{index}\0{hashlib.sha256(IMAGES[index].tobytes()).hexdigest()}")
    expected = "".join(f"{line}\n" for line in lines)
    assert whole.sha256 == hashlib.sha256(expected.encode()).hexdigest()
    read: list[object] = []
    plain = sources._NpyRows.__getitem__

    def watched(self: Any, index: Any) -> Any:
        read.append(index)
        return plain(self, index)

    monkeypatch.setattr(sources._NpyRows, "__getitem__", watched)
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 2 * IMAGES[0].nbytes)
    assert source.digest([5, 0, 3]) == whole
    assert read == [slice(0, 1), slice(3, 4), slice(5, 6)]
    read.clear()
    source.digest([1, 0, 4, 5])
    assert read == [slice(0, 2), slice(4, 6)]


def test_a_damaged_part_of_a_file_has_a_digest_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        stack = file.create_dataset("images", data=IMAGES, chunks=(1, 10, 12, 3), fletcher32=True)
        offset = stack.id.get_chunk_info(2).byte_offset
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"damaged")
    source = open_source(path)
    assert source.digest([0, 1]) == open_source(IMAGES).digest([0, 1])
    assert source.digest([0, 2]) != open_source(IMAGES).digest([0, 2])
    with pytest.raises(UnreadableImage):
        source.read(2)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_of_more_bytes_than_the_bound_evenly_spaced_contents_are_hashed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and sizes always are. What is sampled says so."""
    contents = [bytes([index]) * 100 for index in range(6)]

    def digest(place: str, changed: Sequence[bytes]) -> Digest:
        members = [(f"{index}.png", content) for index, content in enumerate(changed)]
        if kind == "tar":
            return open_source(tar_of(tmp_path / f"{place}.tar", members)).digest(range(6))
        (tmp_path / place).mkdir()
        for name, content in members:
            (tmp_path / place / name).write_bytes(content)
        return open_source(tmp_path / place).digest(range(6))

    other = [*contents[:2], b"!" * 100, *contents[3:]]
    longer = [*contents[:2], contents[2] + b"!", *contents[3:]]
    everything = digest("a", contents)
    assert everything != digest("b", other)
    assert (everything.whole, everything.covers) == (True, "names, sizes and all contents")
    monkeypatch.setattr(sources, "HASHED_BYTES", 200)
    sampled = digest("c", contents)
    assert (sampled.whole, sampled.covers) == (
        False,
        "names, sizes and the contents of one image in 3",
    )
    assert sampled == digest("d", other), "of six the first and the fourth are read"
    assert sampled != digest("e", longer)
    assert sampled != digest("f", [b"!" * 100, *contents[1:]])


# -------------------------------------------------------------------------------- digits


def test_the_digits_are_scikit_learns() -> None:
    source = open_source("digits")
    expected = load_digits()
    assert source.description == "digits"
    assert source.classes == tuple("0123456789")
    assert source.labels == expected.target.tolist()
    assert len(source.ids) == 1797
    assert (source.ids[0], source.ids[-1]) == ("digits/0000", "digits/1796")
    for index in (0, 1000, 1796):
        found = pixels(source.read(index))
        assert (found[..., 1] == np.floor(expected.images[index] * 255 / 16 + 0.5)).all()


def test_the_word_is_the_embedded_data_and_a_path_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "digits", ["a.png"])
    assert len(open_source("digits").ids) == 1797
    for folder in ("./digits", "digits/", Path("digits")):
        assert list(open_source(folder).ids) == ["a.png"]


def test_the_digits_are_split_once_and_for_all() -> None:
    everything, train, test = (open_source(name) for name in sources.DIGITS)
    assert [*train.ids, *test.ids] == list(everything.ids)
    assert [*(train.labels or ()), *(test.labels or ())] == list(everything.labels or ())
    assert len(test.ids) == 360
    assert test.read(0).tobytes() == everything.read(1437).tobytes()


# ----------------------------------------------------------------------- torch data sets


class Pictures(Dataset[object]):
    """Like torchvision's: an image and its label, and attributes that say the labels beforehand."""

    targets = (1, 0, 1, 1)
    classes = ("cat", "dog")

    def __init__(self, items: Sequence[object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index], self.targets[index]


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(())


def test_a_torch_data_set() -> None:
    source = open_source(
        Pictures([scene(seed=0).convert("L"), torch.from_numpy(IMAGES[0]), IMAGES[1], 3])
    )
    assert source.labels == [1, 0, 1, 1]
    assert source.classes == ("cat", "dog")
    assert source.description == "a Pictures of 4 images"
    assert pixels(source.read(0)).shape == (16, 24, 3)
    assert (pixels(source.read(1)) == IMAGES[0]).all()
    assert (pixels(source.read(2)) == IMAGES[1]).all()
    with pytest.raises(UnreadableImage, match=r"int64 \(1,\) holds no images"):
        source.read(3)


class Doubled:
    """A transform without a name of its own: its `repr` holds its address."""

    def __call__(self, image: object) -> object:
        return image


def test_a_data_sets_own_transform_is_said_and_its_images_are_not_vouched_for() -> None:
    def digest(transform: object) -> Digest:
        pictures = Pictures([scene()] * 4)
        pictures.transform = transform  # type: ignore[attr-defined]
        return open_source(pictures).digest(range(4))

    found = digest(Doubled())
    assert not found.whole
    assert "not its images" in found.covers
    assert found.transform is not None
    assert found.transform.endswith("test_images.Doubled object>")
    assert found == digest(Doubled()), "no address"
    assert digest(None).transform is None
    assert digest("Resize(9)\n" + "x" * 5000).transform == repr("Resize(9)\n" + "x" * 5000)[:1000]
    inside = Subset(Pictures([scene()] * 4), [0, 1, 2, 3])
    inside.dataset.transforms = "Crop"  # type: ignore[attr-defined]
    assert open_source(inside).digest(range(4)).transform == "'Crop'"


def test_pictures_and_floating_items_are_not_mixed() -> None:
    """Pictures are resized and normalised, floating inputs are not: together they would be nonsense."""
    inputs = torch.zeros(3, 16, 16)
    mixed = Pictures([scene(), scene(), inputs, scene()])
    with pytest.raises(DataError, match=r"^image 2 of .* is a floating input among pictures"):
        batches_of(open_source(mixed))
    mixed = Pictures([inputs, inputs, inputs, scene()])
    with pytest.raises(DataError, match=r"^image 3 of .* is a picture among floating inputs"):
        batches_of(open_source(mixed))


def test_the_first_readable_item_says_what_a_data_set_holds() -> None:
    spoilt = torch.full((3, 4, 4), float("nan"))
    source = open_source(Pictures([spoilt, torch.zeros(3, 4, 4)]))
    assert source.input_shape == (3, 4, 4)
    assert open_source(Pictures([3, 3])).input_shape is None


def test_an_item_that_raises_is_unreadable() -> None:
    class Failing(Pictures):
        def __getitem__(self, index: int) -> object:
            raise KeyError("broken\nrow")

    with pytest.raises(UnreadableImage, match=r"^KeyError: 'broken"):
        open_source(Failing([0])).read(0)


def test_a_tensor_data_set_is_its_first_tensor() -> None:
    inputs = torch.randn(4, 3, 5, 5)
    source = open_source(TensorDataset(inputs, torch.arange(4)))
    found = source.read(2)
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, inputs[2])
    assert source.labels is None


def test_a_source_of_ones_own_is_taken_as_it_is() -> None:
    mine = Source(4, lambda index: scene(seed=index))
    assert open_source(mine) is mine


# -------------------------------------------------------------------------------- plans


def test_the_order_is_pinned() -> None:
    """The permutation is a promise: files of earlier runs are merged and resumed by it."""
    source = Source(11, lambda index: scene())
    plan = plan_batches(source, batch_size=4, images=None, seed=0)
    assert plan.batches == ((3, 2, 1, 8), (6, 0, 7, 4))
    assert plan.left_out == (10, 5, 9)
    assert plan_batches(source, batch_size=4, images=None, seed=1).batches != plan.batches


def test_fewer_images_are_the_beginning_of_more_and_all_are_drawn_from() -> None:
    source = open_source("digits")
    whole = plan_batches(source, batch_size=64, images=None, seed=3)
    part = plan_batches(source, batch_size=64, images=128, seed=3)
    assert part.batches == whole.batches[:2]
    assert max(part.batches[0]) > 1000
    assert sorted(index for batch in whole.batches for index in batch) == list(range(1797))
    assert [len(batch) for batch in whole.batches] == [64] * 28 + [5]


@pytest.mark.parametrize(
    ("images", "sizes", "left_out"),
    [(8, [4, 4], 0), (9, [4, 4], 1), (11, [4, 4], 3), (4, [4], 0), (None, [4, 4, 4], 0)],
)
def test_a_last_batch_of_fewer_than_4_is_left_out_and_counted(
    images: int | None, sizes: list[int], left_out: int
) -> None:
    source = Source(12, lambda index: scene())
    plan = plan_batches(source, batch_size=4, images=images, seed=0)
    assert [len(batch) for batch in plan.batches] == sizes
    assert len(plan.left_out) == left_out
    chosen = plan_batches(source, batch_size=12, images=images, seed=0).batches[0]
    assert sum(plan.batches, ()) + plan.left_out == chosen


def test_a_batch_larger_than_the_data_is_one_batch() -> None:
    plan = plan_batches(Source(7, lambda index: scene()), batch_size=64, images=None, seed=0)
    assert [len(batch) for batch in plan.batches] == [7]


def test_more_images_than_there_are_is_a_warning() -> None:
    with pytest.warns(AnalysisWarning, match=r"mine holds 7 images, not 8: all are taken"):
        plan = plan_batches(Source(7, lambda index: scene()), batch_size=4, images=8, seed=0)
    assert sum(map(len, plan.batches)) + len(plan.left_out) == 7


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (3, {}, "mine holds 3 images: CKA needs at least 4"),
        (9, {"batch_size": 3}, "a batch size of 3 is too small"),
        (9, {"images": 3}, "a number of images of 3 is too small"),
        (9, {"seed": -1}, "the seed is -1"),
    ],
)
def test_plans_that_cannot_be(count: int, options: dict[str, int], message: str) -> None:
    arguments: dict[str, Any] = {"batch_size": 4, "images": None, "seed": 0, **options}
    with pytest.raises(DataError, match=message):
        plan_batches(Source(count, lambda index: scene()), **arguments)


# ------------------------------------------------------------------------------ loading


def test_three_models_decode_each_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(folder_of(tmp_path, [f"{index}.png" for index in range(9)]))
    plan = plan_batches(source, batch_size=4, images=8, seed=0)
    decoded: Counter[str] = Counter()

    def counted(stream: io.BufferedReader) -> Image.Image:
        decoded[Path(stream.name).name] += 1
        return decode(stream)

    monkeypatch.setattr(sources, "decode", counted)
    half = (0.5, 0.5, 0.5)
    three = [
        SMALL,
        Preprocessing((3, 16, 16), half, half),
        Preprocessing((1, 8, 12), (0.5,), (0.5,)),
    ]
    batches = list(load_batches(source, plan, range(2), [*three, SMALL], workers=0))
    chosen = {source.ids[index] for batch in plan.batches for index in batch}
    assert decoded == dict.fromkeys(chosen, 1)
    assert list(batches[0].inputs) == three
    assert batches[0].inputs[three[2]].shape == (4, 1, 8, 12)
    assert batches[0].inputs[three[0]] is batches[0].inputs[three[1]], "one geometry, one tensor"
    for position, index in enumerate(plan.batches[1]):
        image = source.read(index)
        assert isinstance(image, Image.Image)
        for wanted in three:
            assert torch.equal(batches[1].inputs[wanted][position], wanted.transform()(image))


@pytest.mark.parametrize("kind", ["folder", "tar", "h5", "npy"])
def test_workers_change_nothing(kind: str, tmp_path: Path) -> None:
    data: dict[str, Callable[[], Path]] = {
        "folder": lambda: folder_of(tmp_path / "f", [f"{'ab'[i % 2]}/{i}.png" for i in range(14)]),
        "tar": lambda: tar_of(tmp_path / "x.tar", [*PICTURES, ("a/x.jpg", b"not a picture")]),
        "h5": lambda: stored(tmp_path / "x.h5", images=IMAGES, y=np.arange(6)),
        "npy": lambda: stored(tmp_path / "x.npy", images=IMAGES),
    }
    source = open_source(data[kind]())
    source.digest(range(6))
    source.read(0)
    state = torch.get_rng_state()
    alone, helped = batches_of(source), batches_of(source, workers=2)
    assert len(alone) == len(helped) >= 1
    for one, two in zip(alone, helped, strict=True):
        assert one.index == two.index
        assert torch.equal(one.inputs[SMALL], two.inputs[SMALL])
        assert one.unreadable == two.unreadable
        assert one.digests == two.digests
        if one.labels is None or two.labels is None:
            assert one.labels is None
            assert two.labels is None
        else:
            assert torch.equal(one.labels, two.labels)
    assert torch.equal(torch.get_rng_state(), state), "the user's random numbers are untouched"


def test_sources_can_be_sent_to_workers_that_are_not_forks(tmp_path: Path) -> None:
    named = [
        open_source(folder_of(tmp_path / "f", ["a.png"])),
        open_source(tar_of(tmp_path / "x.tgz", PICTURES, "w:gz")),
        open_source(stored(tmp_path / "x.h5", images=IMAGES)),
        open_source(stored(tmp_path / "x.npy", images=IMAGES)),
    ]
    for source in named:
        sent = pickle.dumps(source)
        assert len(sent) < 2000, "contents stay where they are"
        assert (pixels(pickle.loads(sent).read(0)) == pixels(source.read(0))).all()


def test_the_digest_of_a_batch_is_of_its_pixels_and_labels() -> None:
    """By hand from the definition."""
    source = open_source("digits")
    plan = plan_batches(source, batch_size=4, images=4, seed=0)
    grey = Preprocessing((1, 8, 8), (0.5,), (0.5,))
    other = Preprocessing((3, 16, 16), (0.5,) * 3, (0.5,) * 3)
    (batch,) = load_batches(source, plan, [0], [SMALL, other, grey], workers=0)
    assert batch.labels is not None
    for wanted, shape in ((SMALL, "(4, 3, 16, 16)"), (grey, "(4, 1, 8, 8)")):
        expected = hashlib.sha256(f"uint8 {shape}\n".encode())
        expected.update(batch.inputs[wanted].numpy().tobytes())
        expected.update(b"int64 (4,)\n" + batch.labels.numpy().astype("<i8").tobytes())
        assert batch.digests[wanted] == expected.digest()
    assert batch.digests[SMALL] == batch.digests[other], "normalised later"


def test_the_digest_of_a_batch_knows_each_pixel_label_and_order() -> None:
    pixels_, labels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4)
    changed, turned = pixels_.clone(), labels.flip(0)
    changed[3, 2, 1, 1] = 1
    found = {
        digest_of(pixels_, labels),
        digest_of(changed, labels),
        digest_of(pixels_, turned),
        digest_of(pixels_, None),
        digest_of(pixels_.float(), labels),
        digest_of(pixels_.reshape(4, 2, 3, 2), labels),
        digest_of(pixels_[:3], labels[:3]),
        digest_of(pixels_[:0], labels[:0]),
    }
    assert len(found) == 8
    assert digest_of(changed.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1), labels) in found


def test_pinning_keeps_shared_tensors_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    source = open_source("digits")
    plan = plan_batches(source, batch_size=4, images=4, seed=0)
    other = Preprocessing((3, 16, 16), (0.5,) * 3, (0.5,) * 3)
    (batch,) = load_batches(source, plan, [0], [SMALL, other], workers=0, pin_memory=True)
    (plain,) = load_batches(source, plan, [0], [SMALL, other], workers=0)
    assert batch.inputs[SMALL] is batch.inputs[other]
    assert torch.equal(batch.inputs[SMALL], plain.inputs[SMALL])
    assert batch.labels is not None
    assert plain.labels is not None
    assert torch.equal(batch.labels, plain.labels)


def test_labels_go_with_their_images() -> None:
    source = open_source("digits")
    plan = plan_batches(source, batch_size=5, images=10, seed=0)
    (batch,) = load_batches(source, plan, [1], [SMALL], workers=0)
    assert batch.index == 1
    assert batch.labels is not None
    assert batch.labels.dtype == torch.int64
    assert source.labels is not None
    assert batch.labels.tolist() == [source.labels[index] for index in plan.batches[1]]


def test_only_wanted_batches_are_loaded_in_the_order_asked_for() -> None:
    read: list[int] = []

    def recorded(index: int) -> Image.Image:
        read.append(index)
        return scene()

    source = Source(16, recorded)
    plan = plan_batches(source, batch_size=4, images=None, seed=0)
    batches = load_batches(source, plan, [3, 1], [SMALL], workers=0)
    assert read == [], "nothing before it is asked for"
    assert [batch.index for batch in batches] == [3, 1]
    assert read == [*plan.batches[3], *plan.batches[1]]
    assert list(load_batches(source, plan, [], [SMALL], workers=2)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_inputs_of_different_shapes_are_refused_in_one_line(workers: int) -> None:
    source = Source(4, lambda index: torch.zeros(3, 4, 4 + index % 2), input_shape=(3, 4, 4))
    with pytest.raises(DataError, match=r"^inputs of shapes \(3, 4, 4\) and \(3, 4, 5\) cannot"):
        batches_of(source, workers=workers)


def test_a_worker_that_is_killed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told where it is waited for: torch's handler would raise it in a forward pass."""
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # as in a new process
    source = Source(8, lambda index: scene())
    plan = plan_batches(source, batch_size=4, images=None, seed=0)

    def die(index: int) -> Image.Image:
        if index in plan.batches[1]:
            while not (tmp_path / "now").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return scene()

    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        batches = load_batches(Source(8, die), plan, [0, 1], [SMALL], workers=1)
        assert next(batches).images == 4
        (tmp_path / "now").touch()
        time.sleep(0.5)  # the worker dies, and this process goes on with its work
        with pytest.raises(DataError, match=r"a loading process died .*--workers") as caught:
            next(batches)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "\n" not in str(caught.value)


def test_workers_leave_ctrl_c_to_the_main_process() -> None:
    def interrupted(index: int) -> Image.Image:
        os.kill(os.getpid(), signal.SIGINT)
        return scene()

    assert [batch.images for batch in batches_of(Source(8, interrupted), workers=2)] == [4, 4]


# ---------------------------------------------------------------------------- bad input


def test_bad_input_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    folder_of(tmp_path / "validation", ["a.png"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "text.tar").write_text("hello" * 500)
    (tmp_path / "nothing.tar").write_bytes(b"")
    (tmp_path / "text.tar.gz").write_text("hello")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.h5").write_text("hello")
    half = gzip.compress(np.random.default_rng(0).bytes(9000))[:4000]
    (tmp_path / "half.tgz").write_bytes(half)
    tar_of(tmp_path / "empty.tar", [])
    tar_of(tmp_path / "others.tar", [("a.txt", b"a")])
    stored(tmp_path / "two.npz", x_train=IMAGES, x_test=IMAGES, y_test=np.arange(6))
    stored(tmp_path / "none.h5", cka=np.eye(3))
    stored(tmp_path / "matrix.npy", images=np.eye(3))
    np.save(tmp_path / "pickled.npy", np.array([{}, None]), allow_pickle=True)
    np.savez(tmp_path / "pickled.npz", images=np.full((2, 2, 2), None))
    expected = {
        "validatio": "did you mean validation?",
        "nowhere": "no file or folder",
        "empty": "or below: none ends in .avif .bmp",
        "notes.txt": "no known source of images: give a folder or a file (.tar",
        "text.tar": "cannot be read as a tar file",
        "nothing.tar": "cannot be read as a tar file: empty file",
        "text.tar.gz": "cannot be unpacked into",
        "half.tgz": "cannot be unpacked into",
        "empty.tar": "no member ends in .avif .bmp",
        "others.tar": "no member ends in .avif .bmp",
        "text.npz": "cannot be read as an array file: File is not a zip file",
        "text.npy": "cannot be read as an array file",
        "text.h5": "cannot be read as an array file",
        "two.npz": "it holds x_train (6, 10, 12, 3), x_test (6, 10, 12, 3), y_test (6,)",
        "none.h5": "must hold images in an array named images, X, data, x, or in its only array",
        "matrix.npy": "it holds images (3, 3)",
        "pickled.npy": "cannot be read as an array file",
        "pickled.npz": "cannot be read as an array file",
    }
    for name, words in expected.items():
        message = refusal(str(tmp_path / name))
        assert words in message
        assert name in message
    assert not list(tmp_path.glob("refiner-cka-*"))


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "~nobody-of-this-name/x", "digit"])
def test_names_that_cannot_be_paths(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(name)
    assert ("did you mean digits or digits-test?" in message) == (name == "digit")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((0, 4, 4), np.uint8), "holds no images"),
        (np.zeros(4, np.uint8), "holds no images"),
        (np.zeros((4, 8, 8), np.int64), "int64 (4, 8, 8) has no usable type: give uint8 or uint16"),
        (np.zeros((4, 8, 8), bool), "has no usable type"),
        (np.zeros((4, 8, 8), complex), "has no usable type"),
        (np.zeros((4, 8, 8, 2), np.uint8), "with 1, 3 or 4 channels"),
        (np.zeros((4, 192), np.uint8), "must be (images, height, width[, channels])"),
        (torch.zeros(4, 8, 8, dtype=torch.int32), "a tensor (4, 8, 8): the array int32"),
        (3, "images cannot be read from a int"),
        (["a.png", "b.png"], "images cannot be read from a list"),
        (Endless(), "images cannot be read from a Endless"),
    ],
)
def test_arrays_and_objects_that_are_no_images(data: object, words: str) -> None:
    assert words in refusal(data)


# ------------------------------------------------------------------------------ imports


def test_importing_loads_no_model_library() -> None:
    code = "import sys, refiner_cka.images as i; i.open_source('digits'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"timm", "torchvision", "h5py", "transformers", "sklearn", "scipy"}
