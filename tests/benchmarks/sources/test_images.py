"""Files of every mode decode to RGB, and the others are named."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image
from real_files import picture, save, truncate

from avalanche_vlm.benchmarks.sources.images import ImageFiles, check_ends, image_of, read_image
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_png_decodes_to_rgb(tmp_path, mode):
    image = read_image(save(tmp_path / "a.png", picture(1).convert(mode)))
    assert image.mode == "RGB" and image.size == (40, 30)


def test_cmyk_jpeg(tmp_path):
    assert read_image(save(tmp_path / "a.jpg", picture(1).convert("CMYK"))).mode == "RGB"


def test_transparency_is_laid_on_white(tmp_path):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert read_image(save(tmp_path / "rgba.png", clear)).getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    save(tmp_path / "palette.png", palette, transparency=0)
    assert read_image(tmp_path / "palette.png").getpixel((3, 3)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    image = np.asarray(read_image(save(tmp_path / "deep.png", Image.fromarray(ramp))))
    expected = (ramp.astype(float) / 65535 * 255).astype(np.uint8)
    assert np.abs(image[..., 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_the_bits_in_use_are_scaled_to_eight(tmp_path, bits, ending):
    ramp = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    grey = np.asarray(read_image(save(tmp_path / f"a.{ending}", Image.fromarray(ramp))))[..., 0]
    np.testing.assert_allclose(grey, np.linspace(0, 255, 64).reshape(8, 8), atol=1.5)
    dark = (ramp * 0.6).astype(np.uint16)  # more than half of the depth: scaled as its brighter neighbour is
    darker = np.asarray(read_image(save(tmp_path / f"b.{ending}", Image.fromarray(dark))))[..., 0]
    np.testing.assert_allclose(darker, 0.6 * grey.astype(float), atol=2 if bits > 8 else 2.5)


def test_floats_are_shares_of_white_and_damaged_values_are_black(tmp_path):
    values = np.array([[0.0, 0.25], [0.5, np.nan]], dtype=np.float32)
    grey = np.asarray(read_image(save(tmp_path / "a.tif", Image.fromarray(values))))[..., 0]
    assert grey.tolist() == [[0, 63], [127, 0]]


def colour_png(values: np.ndarray) -> bytes:
    """A PNG file with 16 bits per channel, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_colours_of_sixteen_bits_that_use_fewer(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (6, 7, 3))
    values[0, 0, 0] = 2**bits - 1
    (tmp_path / "a.png").write_bytes(colour_png(values))
    found = np.asarray(read_image(tmp_path / "a.png"))
    np.testing.assert_allclose(found, values / (2**bits - 1) * 255, atol=1.01)
    sent = image_of((tmp_path / "a.png").read_bytes(), "it", most_pixels=42)
    np.testing.assert_array_equal(np.asarray(sent), found)


def test_colours_of_sixteen_bits_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    from avalanche_vlm.benchmarks.sources import images

    monkeypatch.setattr(images, "_sixteen_bits", lambda path: None)  # of an older torchvision
    (tmp_path / "a.png").write_bytes(colour_png(np.full((4, 4, 3), 4095)))
    with pytest.raises(InputError, match=r"a\.png has 16 bits per colour, of which the lower ones alone are used"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(colour_png(np.full((4, 4, 3), 65535)))
    assert read_image(tmp_path / "a.png").getpixel((1, 1)) == (255, 255, 255)


def test_of_an_animation_the_first_frame(tmp_path):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert read_image(tmp_path / "a.gif").getpixel((3, 3)) == (255, 0, 0)


def test_a_models_transform_reads_pictures_of_any_mode_as_files_are_read(tmp_path):
    transform = ImageTransform(8, (0.0,) * 3, (1.0,) * 3)
    wide = Image.fromarray(np.full((8, 8), 4095, dtype=np.uint16))
    assert transform(wide).min() == 1
    assert transform(Image.new("LA", (8, 8), (0, 0))).min() == 1  # transparent, on white


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = save(tmp_path / "turned.jpg", picture(1, 40, 30), exif=exif)
    assert read_image(path).size == (30, 40)


def test_what_cannot_be_read_is_named(tmp_path):
    good = save(tmp_path / "good.jpg")
    cut = truncate(save(tmp_path / "cut.jpg", picture(2, 300, 300)))
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    empty = tmp_path / "empty.png"
    empty.touch()
    missing = tmp_path / "missing.png"
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    read_image(good)
    for path in (cut, text, empty, missing, pipe, tmp_path):
        for read in (read_image, check_ends):
            with pytest.raises(InputError) as caught:
                read(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_a_header_and_an_end_are_enough_and_nothing_is_refused_that_decodes(tmp_path, ending, monkeypatch):
    from avalanche_vlm.benchmarks.sources import images

    path = save(tmp_path / f"a.{ending}", picture(1, 200, 200))
    check_ends(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"more")  # as some cameras do
    read_image(path)
    check_ends(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be decoded|not an image"):
        check_ends(path)
    path.write_bytes(whole)
    decoded = []
    monkeypatch.setattr(images, "read_image", decoded.append)
    check_ends(path)
    assert decoded == ([path] if ending in ("bmp", "tif") else [])


def test_bombs_are_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"large\.png has more pixels"):
        read_image(path)


def test_image_files_hold_paths_only(tmp_path):
    files = ImageFiles([save(tmp_path / f"{i}.png", picture(i)) for i in range(3)])
    assert len(files) == 3 and files[2].tobytes() == picture(2).tobytes()
    assert vars(files) == {"path_texts": [str(path) for path in files.paths], "draft": None}


def test_damaged_files_are_decoded_or_named_and_nothing_else(tmp_path):
    draw = np.random.default_rng(0)
    for name in ("a.jpg", "a.png", "a.gif", "a.tif", "a.webp", "a.bmp"):
        path = save(tmp_path / name, picture(1, 31, 24))
        intact = path.read_bytes()
        for _ in range(25):
            content = bytearray(intact)
            for position in draw.integers(0, min(len(content), 200), 3):
                content[position] = draw.integers(256)
            path.write_bytes(content)
            try:
                assert read_image(path).mode == "RGB"
            except InputError as error:
                assert str(path) in str(error) and "\n" not in str(error)


def test_damaged_orientation_does_not_cost_the_picture(tmp_path):
    path = save(tmp_path / "a.jpg", picture(1), exif=b"Exif\0\0nonsense")
    assert read_image(path).size == (40, 30)


def test_image_files_can_be_sliced(tmp_path):
    files = ImageFiles([save(tmp_path / f"{i}.png", picture(i)) for i in range(3)])
    assert [p.name for p in files[1:].paths] == ["1.png", "2.png"]


@pytest.mark.parametrize(("low", "high"), [(-1000, 1000), (-1, 1), (-1000, 0), (-0.2, 1)])
def test_negative_values_are_refused_and_not_black(tmp_path, low, high):
    values = np.linspace(low, high, 64).reshape(8, 8)
    kind = np.int32 if isinstance(low, int) and high != 1 else np.float32
    path = save(tmp_path / "ct.tif", Image.fromarray(values.astype(kind)))
    with pytest.raises(InputError, match=rf"ct.tif: an image has values from {low} to {high}, and nothing says"):
        read_image(path)


def test_what_resampling_leaves_below_zero_is_black(tmp_path):
    values = np.array([[-0.005, 0.5], [1, 0]], dtype=np.float32)
    image = np.asarray(read_image(save(tmp_path / "a.tif", Image.fromarray(values))))
    assert image[..., 0].tolist() == [[0, 127], [255, 0]]


def test_a_draft_has_half_the_sides_as_often_as_enough_is_left(tmp_path):
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(0, 9, 640), np.linspace(0, 7, 480))
    smooth = 127 + 60 * np.sin(across)[..., None] + 60 * np.cos(down)[..., None] * rng.random(3)
    whole = Image.fromarray(smooth.astype(np.uint8))
    whole.save(tmp_path / "a.jpg", quality=95, subsampling=0)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    whole.save(tmp_path / "turned.jpg", quality=95, exif=turned)
    whole.save(tmp_path / "a.png")
    sides = {draft: read_image(tmp_path / "a.jpg", draft).size for draft in (None, 481, 480, 240, 100, 1)}
    assert list(sides.values()) == [(640, 480), (640, 480), (640, 480), (320, 240), (160, 120), (80, 60)]
    assert read_image(tmp_path / "turned.jpg", 240).size == (240, 320)
    assert read_image(tmp_path / "a.png", 1).size == (640, 480)
    files = ImageFiles([tmp_path / "a.jpg"] * 2, draft=240)
    assert files[1].size == files[:1][0].size == (320, 240)
    # The picture is the same, as far as its model's input goes: 2.5 steps of 8 bits at most on smooth ones.
    transform = ImageTransform(120, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    plain, drafted = (transform.to_uint8(transform(read_image(tmp_path / "a.jpg", draft))) for draft in (None, 240))
    assert (plain.float() - drafted.float()).abs().max() <= 2.5


def test_a_colour_ppm_that_uses_the_lower_bits_alone_is_refused_and_one_that_says_so_is_read(tmp_path):
    values = np.full((4, 4, 3), 4000, dtype=">u2")
    for white in (4095, 65535):
        (tmp_path / f"{white}.ppm").write_bytes(b"P6 4 4 %d\n" % white + values.tobytes())
    assert np.asarray(read_image(tmp_path / "4095.ppm")).min() > 240
    with pytest.raises(InputError, match=r"65535\.ppm has 16 bits per colour, of which the lower ones alone are used"):
        read_image(tmp_path / "65535.ppm")
