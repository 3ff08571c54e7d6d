import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastunlearn.data import ImageDataset, load
from fastunlearn.errors import FastUnlearnError
from fastunlearn.models.classifiers import class_logits
from fastunlearn.models.lenet import LeNet, read_lenet
from fastunlearn.training.classifier import (
    ClassifierConfig,
    augment,
    read_classifier_error,
    train_classifier,
)

QUICK = ClassifierConfig(epochs=4, batch=64, widths=(6, 12), ema=0.95, shift=1.0, rotation=5.0)


@pytest.fixture(scope="module")
def digits():
    return load("digits"), load("digits", split="test")


@pytest.fixture(scope="module")
def run(digits):
    losses = []
    return train_classifier(*digits, QUICK, lambda epoch, loss: losses.append((epoch, loss))), losses


def test_it_learns_the_digits(run, digits):
    result, losses = run
    assert result.error.accuracy > 0.9
    assert [epoch for epoch, _ in losses] == [1, 2, 3, 4]
    assert losses[-1][1] < losses[0][1] / 3


def test_the_errors_are_those_on_the_test_set(run, digits):
    result, _ = run
    test = digits[1]
    right = (class_logits(result.model, test).argmax(1) == test.labels).sum().item()
    assert result.error.accuracy == pytest.approx(right / 360)
    assert result.error.confusion.sum(1).tolist() == test.labels.bincount().tolist()


def test_the_seed_decides_everything(digits):
    few = digits[0].subset(torch.arange(128))
    config = dataclasses.replace(QUICK, epochs=1)
    torch.manual_seed(1)
    one = train_classifier(few, few, config).model.state_dict()
    torch.manual_seed(2)  # the global generator plays no part, and is not touched either
    state = torch.get_rng_state()
    same = train_classifier(few, few, config).model.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    other = train_classifier(few, few, dataclasses.replace(config, seed=1)).model.state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_the_kept_weights_are_the_moving_average(digits):
    # Three steps w₁, w₂, w₃ are kept as e² w₁ + e (1 − e) w₂ + (1 − e) w₃, a parabola in e = ema.
    few = digits[0].subset(torch.arange(129))

    def kept(ema):
        config = dataclasses.replace(QUICK, epochs=1, batch=43, ema=ema)
        return train_classifier(few, few, config).model.head.weight

    a, b, c, d = kept(0.0), kept(0.25), kept(0.5), kept(0.75)
    assert torch.allclose(a - 3 * b + 3 * c - d, torch.zeros(()), atol=1e-6)
    assert not torch.allclose(a - 2 * b + c, torch.zeros(()), atol=1e-5)


def test_the_file_knows_its_errors(run, tmp_path):
    result, _ = run
    path = tmp_path / "c.safetensors"
    result.save(path)
    assert np.array_equal(read_classifier_error(path).confusion, result.error.confusion)
    card = json.loads(read_lenet(path)[0]["card"])
    assert card["accuracy"] == result.error.accuracy
    assert card["config"]["epochs"] == 4
    x = torch.rand(2, 1, 32, 32)
    assert torch.equal(LeNet.load(path)(x), result.model(x))


def test_a_file_without_errors_or_with_broken_ones(run, tmp_path):
    path = tmp_path / "c.safetensors"
    run[0].model.save(path)
    assert read_classifier_error(path) is None
    save_file(load_file(path), path, {**read_lenet(path)[0], "card": "{}"})
    with pytest.raises(FastUnlearnError, match="its card is damaged"):
        read_classifier_error(path)


def _dot():
    images = torch.full((1, 1, 32, 32), -1.0)
    images[0, 0, 10, 20] = 1.0
    return images


def _rng():
    return torch.Generator().manual_seed(0)


def test_augment_with_nothing_to_do_is_the_identity():
    still = dataclasses.replace(QUICK, shift=0.0, rotation=0.0, zoom=0.0)
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    assert torch.allclose(augment(images, still, _rng()), images, atol=1e-5)


def test_augment_shifts_by_pixels_within_the_bound_and_fills_with_background():
    config = dataclasses.replace(QUICK, shift=3.0, rotation=0.0, zoom=0.0)
    moved = augment(_dot().expand(200, -1, -1, -1), config, _rng())[:, 0] + 1
    rows = torch.arange(32.0)
    y = (moved.sum(2) * rows).sum(1) / moved.sum((1, 2))
    x = (moved.sum(1) * rows).sum(1) / moved.sum((1, 2))
    for centre, place in ((y, 10), (x, 20)):
        assert (centre - place).abs().max() <= 3.001
        assert (centre - place).abs().max() > 2.5
        assert centre.std() == pytest.approx(3 / 3**0.5, rel=0.15)  # uniform on [−3, 3]
    assert moved.min() >= 0
    assert torch.allclose(moved.sum((1, 2)), torch.tensor(2.0), atol=1e-4)


def test_augment_rotates_about_the_centre_and_keeps_lengths():
    config = dataclasses.replace(QUICK, shift=0.0, rotation=30.0, zoom=0.0)
    moved = augment(_dot().expand(200, -1, -1, -1), config, _rng())[:, 0] + 1
    rows = torch.arange(32.0) - 15.5
    y = (moved.sum(2) * rows).sum(1) / moved.sum((1, 2))
    x = (moved.sum(1) * rows).sum(1) / moved.sum((1, 2))
    radius = (5.5**2 + 4.5**2) ** 0.5
    assert torch.allclose(torch.hypot(x, y), torch.full((200,), radius), atol=0.3)
    angle = torch.rad2deg(torch.atan2(y, x)) - np.degrees(np.arctan2(-5.5, 4.5))
    assert 25 < angle.max() < 32
    assert -32 < angle.min() < -25


def test_augment_zooms_both_ways():
    square = torch.full((200, 1, 32, 32), -1.0)
    square[:, :, 8:24, 8:24] = 1.0
    config = dataclasses.replace(QUICK, shift=0.0, rotation=0.0, zoom=0.2)
    area = (augment(square, config, _rng()) + 1).sum((1, 2, 3)) / 2
    # A side of 16 becomes 16 · (1 ± 0.2).
    assert area.min() == pytest.approx((16 * 0.8) ** 2, rel=0.05)
    assert area.max() == pytest.approx((16 * 1.2) ** 2, rel=0.05)


def _set(n=4, labels=True, size=32):
    images = torch.zeros(n, 1, size, size, dtype=torch.uint8)
    return ImageDataset(images, torch.zeros(n, dtype=torch.int64) if labels else None, "toys")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (_set(labels=False), "toys: a classifier needs labelled images"),
        (_set(n=0), "toys: a classifier needs labelled images"),
        (_set(size=28), "toys: the classifier looks at 32 x 32 pixels"),
    ],
)
def test_unusable_data(bad, message):
    for pair in ((bad, _set()), (_set(), bad)):
        with pytest.raises(FastUnlearnError, match=message):
            train_classifier(*pair, QUICK)


def test_a_diverging_run_stops(digits):
    few = digits[0].subset(torch.arange(256))
    with pytest.raises(FastUnlearnError, match=r"classifier: the loss is (nan|inf) in epoch \d; lower lr"):
        train_classifier(few, few, dataclasses.replace(QUICK, lr=1e30))


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch": 0}, {"lr": -1.0}, {"ema": 1.0}, {"zoom": 1.0}])
def test_impossible_recipes(change):
    with pytest.raises(FastUnlearnError, match=f"{next(iter(change))} must be in "):
        ClassifierConfig(**change)


def test_one_step_is_enough_for_a_run(digits):
    few = digits[0].subset(torch.arange(10))
    result = train_classifier(few, few, dataclasses.replace(QUICK, epochs=1))
    assert result.error.confusion.sum() == 10
