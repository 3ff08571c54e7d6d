import numpy as np
import pytest
from PIL import Image

from fastunlearn.data import load
from fastunlearn.errors import FastUnlearnError


def _save(path, width, height, colour, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), colour).save(path)
    return path


def _error(*args, **kwargs):
    with pytest.raises(FastUnlearnError) as caught:
        load(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_colours_land_in_their_channels(tmp_path):
    _save(tmp_path / "a.png", 6, 4, (10, 20, 30))
    dataset = load(tmp_path)
    assert dataset.images.shape == (1, 3, 4, 6)
    assert dataset.images[0, :, 0, 0].tolist() == [10, 20, 30]
    assert dataset.labels is None
    assert dataset.name == tmp_path.name


def test_order_is_that_of_the_paths_and_other_files_are_ignored(tmp_path):
    for i, name in enumerate(["b.png", "c.JPG", "a.bmp"]):
        _save(tmp_path / name, 8, 8, 50 * i, "L")
    (tmp_path / "notes.txt").write_text("no image")
    assert load(tmp_path).images[:, 0, 0, 0].tolist() == [100, 0, 50]


def test_subfolders_are_classes(tmp_path):
    for folder, colour in (("zebra", 1), ("ape", 2), ("zebra", 3)):
        _save(tmp_path / folder / f"{colour}.png", 4, 4, colour, "L")
    dataset = load(str(tmp_path))
    assert dataset.images[:, 0, 0, 0].tolist() == [2, 1, 3]
    assert dataset.labels.tolist() == [0, 1, 1]


def test_an_image_beside_subfolders_means_no_classes(tmp_path):
    _save(tmp_path / "ape" / "1.png", 4, 4, 0, "L")
    _save(tmp_path / "2.png", 4, 4, 0, "L")
    assert load(tmp_path).labels is None


def test_size_scales_the_shorter_side_and_cuts_the_centre(tmp_path):
    # 40 × 20: the outer quarters are red, the central 20 × 20 blue.
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[..., 0] = 200
    pixels[:, 10:30] = (0, 0, 250)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = load(tmp_path, size=10).images[0]
    assert image.shape == (3, 10, 10)
    assert image[:, 5, 5].tolist() == [0, 0, 250]
    # Red would be 200 in the outer quarters of a squeezed image; only the filter's edge may reach over.
    assert image[0].max() < 40
    assert image[0, :, 2:8].max() <= 1


def test_size_enlarges(tmp_path):
    _save(tmp_path / "a.png", 3, 5, 70, "L")
    image = load(tmp_path, size=16).images
    assert image.shape == (1, 1, 16, 16)
    assert (image == 70).all()


def test_camera_orientation_is_applied(tmp_path):
    image = Image.new("L", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load(tmp_path).images.shape == (1, 1, 6, 4)


def test_channels(tmp_path):
    _save(tmp_path / "a.png", 4, 4, 9, "L")
    _save(tmp_path / "b.png", 4, 4, (9, 9, 9))
    assert load(tmp_path).image_shape == (1, 4, 4)  # follows the first
    assert load(tmp_path, channels=3).images.unique().tolist() == [9]
    assert load(tmp_path, channels=3).image_shape == (3, 4, 4)
    assert "channels must be 1 or 3, got 2" in _error(tmp_path, channels=2)


def test_palette_and_transparency_become_rgb(tmp_path):
    _save(tmp_path / "a.png", 4, 4, (1, 2, 3, 128), "RGBA")
    Image.new("RGB", (4, 4), (4, 5, 6)).convert("P").save(tmp_path / "b.png")
    dataset = load(tmp_path)
    assert dataset.image_shape == (3, 4, 4)
    assert dataset.images[0, :, 0, 0].tolist() == [1, 2, 3]


def test_empty_folder(tmp_path):
    message = _error(tmp_path)
    assert message.startswith(f"{tmp_path}: no images here")
    assert ".png" in message


def test_wrong_shape_names_the_file_and_both_shapes(tmp_path):
    _save(tmp_path / "a.png", 8, 8, 0, "L")
    odd = _save(tmp_path / "b.png", 8, 6, 0, "L")
    assert _error(tmp_path) == f"{odd}: is 8 x 6 pixels, a.png is 8 x 8; give a size to crop both"


@pytest.mark.parametrize("keep", [0, 20, 60], ids=["empty", "header", "half"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_broken_image_is_named(tmp_path, suffix, keep):
    rng = np.random.default_rng(0)
    _save(tmp_path / "a.png", 8, 8, 0)
    path = tmp_path / f"b.{suffix}"
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: keep and len(path.read_bytes()) * keep // 100])
    assert _error(tmp_path) == f"{path}: not a readable image; repair or remove the file"


def test_text_named_png(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    assert "a.png: not a readable image" in _error(tmp_path)


def test_sixteen_bits(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert "deep.png: more than 8 bits a channel" in _error(tmp_path)


def test_a_file_instead_of_a_folder(tmp_path):
    path = _save(tmp_path / "a.png", 4, 4, 0, "L")
    assert _error(path).startswith(f"{path}: no such dataset or folder")


def test_size_zero(tmp_path):
    _save(tmp_path / "a.png", 4, 4, 0, "L")
    assert "size must be at least 1, got 0" in _error(tmp_path, size=0)
