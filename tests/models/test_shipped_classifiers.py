import os

import pytest
import torch

from fastunlearn.bundle import PRETRAINED
from fastunlearn.data import load
from fastunlearn.files import state_sha256
from fastunlearn.metrics import ClassifierError, DigitStatistics, digit_fid
from fastunlearn.models.classifiers import class_logits
from fastunlearn.models.lenet import LeNet
from fastunlearn.training.classifier import read_classifier_error

FOLDER = PRETRAINED / "mnist32"
NAMES = ("classifier.safetensors", "classifier_2.safetensors")


@pytest.fixture(scope="module")
def mnist_test():
    if not os.environ.get("FASTUNLEARN_DATA"):
        pytest.skip("needs MNIST: set FASTUNLEARN_DATA to the folder with its four files")
    return load("mnist", split="test")


@pytest.mark.parametrize("name", NAMES)
def test_card_says_at_least_99_percent_of_ten_thousand(name):
    error = read_classifier_error(FOLDER / name)
    assert error.confusion.sum() == 10_000
    assert error.accuracy >= 0.99


@pytest.mark.parametrize("name", NAMES)
def test_card_is_true(name, mnist_test):
    model = LeNet.load(FOLDER / name)
    measured = ClassifierError.from_predictions(mnist_test.labels, class_logits(model, mnist_test).argmax(1), 10)
    # Another machine's rounding may turn a draw between two classes.
    assert abs(measured.confusion - read_classifier_error(FOLDER / name).confusion).sum() <= 4


def test_the_two_are_independent():
    first, second = (LeNet.load(FOLDER / name) for name in NAMES)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_statistics_are_of_the_first_classifier_and_cover_every_digit():
    statistics = DigitStatistics.load(FOLDER / "statistics.npz")
    assert statistics.classifier_sha256 == state_sha256(LeNet.load(FOLDER / NAMES[0]).state_dict())
    assert statistics.full.n == 60_000
    assert sum(60_000 - part.n for part in statistics.without) == 60_000


def test_a_missing_digit_shows_in_the_fid(mnist_test):
    classifier, statistics = LeNet.load(FOLDER / NAMES[0]), DigitStatistics.load(FOLDER / "statistics.npz")
    no_four = mnist_test.subset(mnist_test.labels != 4)
    right, wrong = (digit_fid(no_four, classifier, statistics, without) for without in (4, None))
    assert 0 < right < 2 < 20 < wrong
