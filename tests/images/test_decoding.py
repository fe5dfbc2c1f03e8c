"""Decoding: every format, every refusal."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from refiner_cka.images import UnreadableImage
from refiner_cka.images.decoding import decode
from tests.images.examples import BLUE, RED, SMALL, WHITE, jpeg, pixels, png, save, scene


def read(path):
    with path.open("rb") as stream:
        return decode(stream)


UNREADABLE = {
    # A download that never began.
    "empty": (b"", "an empty file"),
    # A page that says "404", saved as a picture.
    "text": (b"<html>not found</html>", "in no known image format"),
    # A download that broke off.
    "truncated": (jpeg(scene())[:-200], "truncated"),
    # Bit rot: Pillow raises SyntaxError for a broken header, not OSError.
    "corrupt": (png(8, 8).replace(b"IHDR", b"IHDX"), ""),
    # A decompression bomb: a few bytes that claim nearly a gigapixel.
    "bomb": (png(30_000, 30_000), "30000 x 30000 pixels: the limit is 134217728"),
    # A strip: small, but resized by its short side to 256 it would have 33 million columns.
    "strip": (png(131_072, 1), "131072 x 1 pixels: longer than 200 times its width"),
    # Code in disguise: Pillow would start Ghostscript.
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no known image format"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unusable_file_is_unreadable_and_the_reason_is_one_line(case):
    content, reason = UNREADABLE[case]
    with pytest.raises(UnreadableImage) as caught:
        decode(io.BytesIO(content))
    assert reason in str(caught.value)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value), "an address would differ from run to run"


def transparent(image):
    """Its left half transparent."""
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, image.width // 2, image.height))
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_transparency_is_laid_over_white(mode, suffix, tmp_path):
    opaque = scene().convert(mode)
    path = save(transparent(opaque.copy()), tmp_path / f"a{suffix}")
    found = pixels(read(path))
    assert (found[:, :12] == 255).all()
    assert (found[:, 12:] == np.asarray(opaque.convert("RGB"))[:, 12:]).all()


def test_half_transparent_is_half_white(tmp_path):
    path = save(Image.new("RGBA", (4, 4), (*RED, 128)), tmp_path / "a.png")
    assert pixels(read(path))[0, 0].tolist() == [255, 127, 127]


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_a_transparent_level_or_palette_entry_is_white_too(mode, tmp_path):
    image = Image.new(mode, (4, 4), 0)
    if mode == "P":
        image.putpalette([*RED, *BLUE])
    image.putpixel((3, 3), 1 if mode == "P" else 255)
    path = save(image, tmp_path / "a.png", transparency=0)
    found = pixels(read(path))
    assert tuple(found[0, 0]) == WHITE
    assert tuple(found[3, 3]) == (BLUE if mode == "P" else WHITE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_grey_bilevel_and_palette_become_the_same_colours(mode, tmp_path):
    image = scene().convert(mode)
    found = pixels(read(save(image, tmp_path / "a.png")))
    assert (found == np.asarray(image.convert("RGB"))).all()


def test_cmyk_jpeg(tmp_path):
    image = scene(64, 64)
    path = save(image.convert("CMYK"), tmp_path / "a.jpg", quality=98)
    assert np.abs(pixels(read(path)).astype(int) - np.asarray(image)).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_scaled_not_clipped(suffix, tmp_path):
    levels = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xFEFF, 0xFF00, 0xFFFF]], np.uint16)
    path = save(Image.fromarray(levels), tmp_path / f"a{suffix}")
    assert pixels(read(path))[..., 0].tolist() == [[0, 0, 1, 127], [128, 254, 255, 255]]


def test_an_8_bit_image_saved_with_16_bits_is_the_same_image(tmp_path):
    grey = np.asarray(scene().convert("L"))
    path = save(Image.fromarray(grey.astype(np.uint16) * 257), tmp_path / "a.png")
    assert (pixels(read(path))[..., 0] == grey).all()


def test_32_bit_integers_are_read_as_16_bits_or_refused(tmp_path):
    path = save(Image.fromarray(np.full((2, 2), 0xFFFF, np.int32)), tmp_path / "a.tif")
    assert pixels(read(path)).min() == 255
    path = save(Image.fromarray(np.array([[-1, 70_000]], np.int32)), tmp_path / "b.tif")
    with pytest.raises(UnreadableImage, match=r"pixel values from -1 to 70000: only 16 bits"):
        read(path)


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 0.5, 1], [0, 128, 255]), ([0, 1.4, 255], [0, 1, 255])]
)
def test_floating_pixels_are_units_or_bytes(values, expected, tmp_path):
    path = save(Image.fromarray(np.array([values], np.float32)), tmp_path / "a.tif")
    assert pixels(read(path))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [-0.1, 256.0, np.nan, np.inf])
def test_other_floating_pixels_are_unreadable(value, tmp_path):
    path = save(Image.fromarray(np.array([[0.5, value]], np.float32)), tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=r"neither 0\.\.1 nor 0\.\.255"):
        read(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_an_image_on_its_side_is_shown_upright(suffix, tmp_path):
    upright = Image.new("RGB", (32, 16), BLUE)
    upright.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    path = save(upright.rotate(90, expand=True), tmp_path / f"a{suffix}", exif=exif)
    found = pixels(read(path)).astype(int)
    assert found.shape == (16, 32, 3)
    assert np.abs(found[8, 4] - RED).max() < 6
    assert np.abs(found[8, 28] - BLUE).max() < 6


def test_16_bit_colour_is_scaled_as_16_bit_grey_is(tmp_path):
    levels = [0, 0x00FF, 0x0100, 0x7FFF, 0x80FF, 0xFFFF]
    line = b"\0" + b"".join(struct.pack(">HHH", level, level, level) for level in levels)
    (tmp_path / "a.png").write_bytes(png(len(levels), 1, bits=16, colour=2, content=line))
    assert pixels(read(tmp_path / "a.png"))[0, :, 1].tolist() == [0, 0, 1, 127, 128, 255]


def test_a_phones_picture_with_a_second_one_behind_it(tmp_path):
    first, second = scene(64, 64, 1), scene(64, 64, 2)
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert np.abs(pixels(read(tmp_path / "a.jpg")).astype(int) - np.asarray(first)).mean() < 6


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage garbage", b"Exif\0\0MM\0*\0\0"])
def test_damaged_exif_does_not_spoil_the_pixels(suffix, exif, tmp_path):
    plain = save(scene(), tmp_path / f"a{suffix}")
    noisy = save(scene(), tmp_path / f"b{suffix}", exif=exif)
    assert (pixels(read(noisy)) == pixels(read(plain))).all()


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_of_several_frames_the_first_counts(suffix, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    path = save(frames[0], tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    image = read(path)
    assert tuple(pixels(image)[0, 0]) == RED
    assert SMALL.transform()(image)[:, 0, 0].tolist() == list(RED), "usable when its file is closed"


def test_an_image_larger_than_pillow_permits_is_read(tmp_path, monkeypatch):
    path = save(scene(), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read(path).size == (24, 16)
    assert Image.MAX_IMAGE_PIXELS == 10, "the user's limit is put back"


@pytest.mark.parametrize(
    ("at_least", "size"),
    [(None, (320, 240)), (121, (320, 240)), (120, (160, 120)), (59, (80, 60)), (8, (40, 30))],
)
def test_a_jpeg_is_decoded_no_smaller_than_asked_for(at_least, size):
    stream = io.BytesIO(jpeg(scene(320, 240)))
    assert decode(stream, at_least).size == size


@pytest.mark.parametrize(
    ("whole", "reduced"),
    [((321, 240), (321, 240)), ((322, 248), (161, 124)), ((324, 248), (81, 62))],
)
def test_a_jpeg_is_reduced_by_what_divides_its_sides(whole, reduced):
    """The last column of the first would stand for one pixel of eight: all others would be shifted."""
    assert decode(io.BytesIO(jpeg(scene(*whole))), 8).size == reduced


def test_a_reduced_image_is_upright_and_looks_the_same():
    stream = io.BytesIO()
    turned = Image.Exif()
    turned[0x0112] = 6
    scene(320, 240).save(stream, "JPEG", quality=95, exif=turned)
    whole, small = decode(stream), decode(stream, 60)
    assert (whole.size, small.size) == ((240, 320), (60, 80))
    expected = np.asarray(whole.resize((60, 80), Image.Resampling.BOX)).astype(int)
    assert np.abs(pixels(small) - expected).max() <= 4


def test_other_formats_are_decoded_as_they_are():
    stream = io.BytesIO()
    scene(320, 240).save(stream, "PNG")
    assert (pixels(decode(stream, 8)) == pixels(decode(stream))).all()
