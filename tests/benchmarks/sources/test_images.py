"""Files of every mode decode to RGB, and the others are named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from real_files import picture, save, truncate

from avalanche_vlm.benchmarks.sources.images import ImageFiles, check_images, read_image
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
    steps = []
    problems = check_images([good, cut, text, empty, missing], lambda done, total: steps.append((done, total)))
    assert [index for index, _ in problems] == [1, 2, 3, 4]
    for (_, sentence), path in zip(problems, (cut, text, empty, missing), strict=True):
        assert str(path) in sentence and "\n" not in sentence
    assert steps[-1] == (5, 5)


def test_bombs_are_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"large\.png has more pixels"):
        read_image(path)


def test_image_files_hold_paths_only(tmp_path):
    files = ImageFiles([save(tmp_path / f"{i}.png", picture(i)) for i in range(3)])
    assert len(files) == 3 and files[2].tobytes() == picture(2).tobytes()
    assert list(vars(files)) == ["paths"]


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
