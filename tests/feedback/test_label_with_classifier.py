import pytest
import torch
from torch import nn

from fastunlearn.data import to_uint8
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import generator_sha256, label_with_classifier
from fastunlearn.feedback.latents import BATCH, latent_batches


def stream(model, n):
    return torch.cat([z for z, _ in latent_batches(model, 7, "feedback", n)])


def test_labels_say_which_images_are_of_the_class(model, classifier):
    feedback = label_with_classifier(model, classifier, forget=8, n=400, seed=7, min_undesired=1)
    z = stream(model, 400)
    assert torch.equal(feedback.z, z)
    assert torch.equal(feedback.label == 1, ((z >= 0.8) & (z < 0.9)).flatten())
    assert (feedback.source, feedback.image) == ("classifier", None)
    assert feedback.generator_sha256 == generator_sha256(model)
    assert 20 < feedback.n_undesired < 60


@pytest.mark.parametrize("forget", [0, 9])
def test_every_class_can_be_forgotten(model, classifier, forget):
    feedback = label_with_classifier(model, classifier, forget, n=300, seed=7, min_undesired=1)
    assert torch.equal(feedback.label == 1, ((feedback.z * 10).floor() == forget).flatten())


def test_draws_on_until_enough_are_undesired_and_not_one_more(model, classifier):
    feedback = label_with_classifier(model, classifier, 8, n=10, seed=7, min_undesired=40)
    assert feedback.n_undesired == 40
    assert feedback.label[-1] == 1
    assert len(feedback) > BATCH
    assert torch.equal(feedback.z, stream(model, len(feedback)))


def test_more_feedback_begins_with_less(model, classifier):
    small, large = (label_with_classifier(model, classifier, 8, n, 7, 1) for n in (60, 600))
    assert torch.equal(large.z[:60], small.z)
    assert torch.equal(large.noise_seed[:60], small.noise_seed)
    assert torch.equal(large.label[:60], small.label)


def test_images_can_be_kept(model, classifier):
    feedback = label_with_classifier(model, classifier, 8, 30, 7, 1, store_images=True)
    assert torch.equal(feedback.image, to_uint8(model.generate(feedback.z, feedback.noise_seed)))


def test_images_are_made_a_batch_at_a_time(model, classifier):
    label_with_classifier(model, classifier, 8, n=2 * BATCH + 1, seed=7, min_undesired=1)
    assert model.batches == [BATCH] * 3


class Never(nn.Module):
    def forward(self, x):
        return torch.arange(10.0).expand(len(x), 10)  # always class 9


def test_no_undesired_image_among_n(model):
    with pytest.raises(FastUnlearnError, match="classifier finds no 8 among 300 samples: raise") as caught:
        label_with_classifier(model, Never(), forget=8, n=300, seed=7, min_undesired=5)
    assert "\n" not in str(caught.value)
    assert model.batches == [BATCH] * 2  # gives up at n, not at the limit


def test_an_undesired_image_after_the_nth_comes_too_late(model, classifier):
    first = int((stream(model, BATCH) >= 0.9).flatten().nonzero()[0])
    assert first > 0
    with pytest.raises(FastUnlearnError, match=f"finds no 9 among {first} samples"):
        label_with_classifier(model, classifier, forget=9, n=first, seed=7, min_undesired=1)
    assert len(label_with_classifier(model, classifier, 9, n=first + 1, seed=7, min_undesired=1)) == first + 1


def test_too_few_undesired_images_within_the_limit(model, classifier):
    z = stream(model, 300)
    found = int(((z >= 0.8) & (z < 0.9)).sum())
    message = f"finds only {found} images of class 8 among 300 samples, 100 asked for: ask for fewer"
    with pytest.raises(FastUnlearnError, match=message):
        label_with_classifier(model, classifier, 8, n=100, seed=7, min_undesired=100, max_draws=300)


def test_the_limit_is_twenty_times_what_was_asked_for(model):
    class Rare(nn.Module):
        def forward(self, x):
            return torch.eye(2)[torch.tensor([1] + [0] * (len(x) - 1))]  # the first of each batch

    with pytest.raises(FastUnlearnError, match="finds only 1 images of class 1 among 200 samples, 10 asked for"):
        label_with_classifier(model, Rare(), forget=1, n=5, seed=7, min_undesired=10)


@pytest.mark.parametrize("forget", [10, -1])
def test_unknown_class(model, classifier, forget):
    with pytest.raises(FastUnlearnError, match=f"knows the classes 0 to 9, so {forget} cannot be forgotten"):
        label_with_classifier(model, classifier, forget, n=10, seed=7, min_undesired=1)


@pytest.mark.parametrize("arguments", [{"n": 0}, {"min_undesired": -1}, {"max_draws": 9}])
def test_arguments_out_of_range(model, classifier, arguments):
    with pytest.raises(ValueError, match="label_with_classifier: "):
        label_with_classifier(model, classifier, 8, **{"n": 10, "seed": 7, "min_undesired": 1, **arguments})


def test_progress_bar_shows_the_count(model, classifier, capsys):
    feedback = label_with_classifier(model, classifier, 8, n=100, seed=7, min_undesired=1, progress=True)
    assert "feedback" in capsys.readouterr().err
    assert len(feedback) == 100
