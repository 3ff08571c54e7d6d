import math

import pytest
import torch

from fastunlearn.data import ImageDataset
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, Simulator, curated_by_feature


def bars(shears):
    """Images of upright bars that lean to the right by `shears` pixels a row."""
    y, x = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(32.0) - 15.5, indexing="ij")
    away = (x + torch.tensor(shears)[:, None, None] * y).abs()
    return torch.where(y.abs() < 10, 255 * (2 - away).clamp(0, 1), 0)[:, None].to(torch.uint8)


def test_images_from_the_threshold_on_are_undesired(tmp_path):
    images = torch.cat([bars([-0.4, 0.0, 0.3, 0.5]), torch.zeros(1, 1, 32, 32, dtype=torch.uint8)])
    feedback = curated_by_feature(ImageDataset(images, None, "bars"), "right-slant", math.atan(0.2))
    assert feedback.label.tolist() == [0, 0, 1, 1, 0]  # nothing can be measured in the black one
    assert (feedback.source, feedback.has_latents) == ("curated", False)
    feedback.save(tmp_path / "f")
    assert Feedback.load(tmp_path / "f").simulator == Simulator("right-slant", math.atan(0.2))
    left = curated_by_feature(ImageDataset(images, None, "bars"), "left-slant", math.atan(0.2))
    assert left.label.tolist() == [1, 0, 0, 0, 0]


def test_refusals():
    data = ImageDataset(bars([-0.4, 0.4]), None, "bars")
    with pytest.raises(FastUnlearnError, match=r"feature must be one of thickness.*got 'bang'"):
        curated_by_feature(data, "bang", 0.0)
    with pytest.raises(FastUnlearnError, match="bars: no undesired samples among 2"):
        curated_by_feature(data, "right-slant", 1.5)
    with pytest.raises(FastUnlearnError, match="right-slant needs grey images, those of photographs have 3 channels"):
        curated_by_feature(
            ImageDataset(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), None, "photographs"), "right-slant", 0
        )
