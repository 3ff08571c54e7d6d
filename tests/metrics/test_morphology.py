import builtins
import math

import numpy as np
import pytest
import torch

from fastunlearn.errors import FastUnlearnError
from fastunlearn.metrics import morphology
from fastunlearn.metrics.morphology import FEATURES, slant, stroke_thickness


def drawn(inside, size=32, samples=8):
    """An image of the points (x, y), in pixels from the centre, for which `inside` holds; edges are grey."""
    edge = (np.arange(size * samples) + 0.5) / samples - size / 2
    x, y = np.meshgrid(edge, edge)
    share = inside(x, y).reshape(size, samples, size, samples).mean((1, 3))
    return torch.from_numpy(share * 2 - 1)[None, None].float()


def bar(width, length=20.0, shear=0.0):
    """An upright bar whose points move right by `shear` pixels for each pixel up (y points down)."""
    return drawn(lambda x, y: (abs(x + shear * y) <= width / 2) & (abs(y) <= length / 2))


def ring(radius, width):
    return drawn(lambda x, y: abs(np.hypot(x, y) - radius) <= width / 2)


@pytest.fixture
def skimage():
    return pytest.importorskip("skimage")


@pytest.mark.parametrize("width", [2.0, 3.0, 4.0, 5.0])
def test_thickness_of_a_ring_is_its_width(skimage, width):
    # A ring's medial axis is its middle circle: no ends, whose branches would pull the mean down. The distance from a
    # pixel's centre to the next one outside is half a pixel (of the enlarged image) more than to the edge between.
    assert stroke_thickness(ring(9, width)).item() == pytest.approx(width, abs=0.25)


def test_thickness_of_lines_of_known_width(skimage):
    for angle in (0.0, 0.3, 0.8, 1.2, math.pi / 2):
        c, s = math.cos(angle), math.sin(angle)
        line = drawn(lambda x, y, c=c, s=s: (abs(c * x + s * y) <= 1.5) & (abs(c * y - s * x) <= 12))
        assert stroke_thickness(line).item() == pytest.approx(3, abs=0.4), angle


def test_thickness_tells_wider_strokes(skimage):
    values = stroke_thickness(torch.cat([bar(w) for w in (2, 2.5, 3, 4, 5)]))
    assert (values.diff() > 0.3).all()


def test_slant_of_sheared_bars():
    shears = [-0.6, -0.2, 0.0, 0.1, 0.5]
    values = slant(torch.cat([bar(3, shear=s) for s in shears]))
    torch.testing.assert_close(values, torch.tensor(shears).double().atan(), atol=2e-3, rtol=0)


def test_left_slant_leans_like_a_backslash():
    backslash, slash = torch.eye(16)[None, None] * 2 - 1, torch.eye(16).flip(1)[None, None] * 2 - 1
    assert FEATURES["left-slant"](backslash).item() == pytest.approx(math.pi / 4)
    assert FEATURES["right-slant"](backslash).item() == pytest.approx(-math.pi / 4)
    assert FEATURES["left-slant"](slash).item() == pytest.approx(-math.pi / 4)


def test_slant_does_not_depend_on_place_or_brightness():
    image = bar(3, length=14, shear=0.4)
    moved, dim = image.roll((3, -4), (2, 3)), (image + 1) * 0.5 - 1
    torch.testing.assert_close(slant(torch.cat([moved, dim])), slant(image).expand(2), atol=5e-3, rtol=0)


def test_thickness_is_that_of_the_definition_one_image_at_a_time(skimage):
    from skimage.morphology import medial_axis
    from skimage.transform import pyramid_expand

    images = torch.cat(
        [bar(3, shear=0.4), ring(7, 2.5), torch.maximum(bar(2).roll(-8, 3), bar(4).roll(6, 3)), ring(11, 4)]
    )
    for image, value in zip(images, stroke_thickness(images), strict=True):
        grey = ((image[0].double() + 1) * 127.5).round().numpy().astype(np.uint8)
        enlarged = (255 * pyramid_expand(grey, upscale=4, order=3)).astype(np.uint8)
        strokes = enlarged >= enlarged.min() + np.ptp(enlarged) * 0.5
        by_chance = [medial_axis(strokes, return_distance=True, rng=seed) for seed in range(5)]
        expected = [2 * distance[skeleton].mean() / 4 for skeleton, distance in by_chance]
        spread = max(expected) - min(expected)
        assert min(expected) - spread - 1e-9 <= value <= max(expected) + spread + 1e-9


def test_enlarging_a_batch_is_enlarging_each(skimage):
    from skimage.transform import pyramid_expand

    images = np.random.default_rng(0).integers(256, size=(5, 12, 17), dtype=np.uint8)
    expected = [(255 * pyramid_expand(image, upscale=4, order=3)).astype(np.int64) for image in images]
    difference = np.abs(morphology._enlarge(images).astype(np.int64) - np.stack(expected))
    assert difference.max() <= 1  # a byte is cut off, not rounded
    assert (difference > 0).mean() < 1e-3


def test_a_value_does_not_depend_on_the_batch(skimage, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    images = torch.cat([ring(9, 3), bar(4, shear=0.5), ring(5, 2), torch.rand(3, 1, 32, 32, generator=rng) * 2 - 1])
    together = stroke_thickness(images)
    alone = torch.cat([stroke_thickness(image[None]) for image in images])
    assert torch.equal(together, alone)
    monkeypatch.setattr(morphology, "AT_ONCE", 4)
    assert torch.equal(stroke_thickness(images), together)


def test_images_without_strokes_have_no_value(skimage):
    images = torch.cat([torch.full((1, 1, 32, 32), grey) for grey in (-1.0, 0.0, 1.0)] + [ring(8, 3)])
    assert stroke_thickness(images).isnan().tolist() == [True, True, True, False]
    assert slant(images[:1]).isnan().all()
    row = torch.full((1, 1, 8, 8), -1.0)
    row[..., 3, 2:6] = 1
    assert slant(row).isnan().all()


def test_no_images(skimage):
    assert stroke_thickness(torch.empty(0, 1, 32, 32)).shape == (0,)
    assert slant(torch.empty(0, 1, 32, 32)).shape == (0,)


@pytest.mark.parametrize("measure", [slant, stroke_thickness])
@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 32, 32)])
def test_only_grey_images(measure, shape):
    with pytest.raises(ValueError, match=r"images must be \[N, 1, H, W\]"):
        measure(torch.zeros(shape))


def test_without_scikit_image(monkeypatch):
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "skimage":
            raise ImportError("No module named 'skimage'")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for cached in (morphology._skimage, morphology._enlarging):
        cached.cache_clear()
    with pytest.raises(FastUnlearnError, match=r"pip install 'fastunlearn\[morphology\]'"):
        stroke_thickness(ring(8, 3))
    assert slant(bar(3)).isfinite().all()  # needs none


def test_what_lies_outside_of_the_image_is_background(skimage):
    at_the_edge, inside = (stroke_thickness(bar(4).roll(shift, 3)) for shift in (-14, -12))
    torch.testing.assert_close(at_the_edge, inside, atol=0.4, rtol=0)  # else twice as thick


def test_handwritten_digits(skimage):
    from fastunlearn.data import load

    try:
        images = load("mnist").batch(slice(0, 500))
    except FastUnlearnError as error:
        pytest.skip(str(error))
    assert 2 < stroke_thickness(images).mean() < 3.5  # pixels of 28
    assert 0 < slant(images).mean() < 0.5  # people write with a lean to the right
