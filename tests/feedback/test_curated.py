import pytest
import torch

from fastunlearn.data import ImageDataset, from_uint8
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, curated_feedback


def dataset(labels=(3, 8, 8, 1, 8, 0)):
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 4, 4)
    return ImageDataset(images, torch.tensor(labels), "drawings")


def test_images_of_the_class_are_undesired(tmp_path):
    data = dataset()
    feedback = curated_feedback(data, forget=8)
    assert feedback.label.tolist() == [0, 1, 1, 0, 1, 0]
    assert feedback.source == "curated"
    assert not feedback.has_latents
    assert torch.equal(feedback.images(None, undesired=True), from_uint8(data.images[[1, 2, 4]]))
    feedback.save(tmp_path / "f")
    back = Feedback.load(tmp_path / "f")
    assert torch.equal(back.image, data.images)
    assert back.z.shape == (6, 0)


def test_any_generator_of_the_same_shape_may_use_it(model, make_model):
    feedback = curated_feedback(dataset(), forget=8)
    for generator in (model, make_model()):
        assert len(feedback.images(generator, undesired=False)) == 3
    model.image_shape = (1, 8, 8)
    with pytest.raises(FastUnlearnError, match=r"images are \(1, 4, 4\), the model's are \(1, 8, 8\)"):
        feedback.images(model, undesired=True)


def test_a_random_part(model):
    data = dataset([8, 0] * 50)
    part = curated_feedback(data, 8, n=20, seed=1)
    again, other = curated_feedback(data, 8, n=20, seed=1), curated_feedback(data, 8, n=20, seed=2)
    assert len(part) == 20
    assert torch.equal(part.image, again.image)
    assert not torch.equal(part.image, other.image)
    number = part.image[:, 0, 0, 0]
    assert len(number.unique()) == 20  # each image once
    assert torch.equal(part.label == 1, number % 2 == 0)


@pytest.mark.parametrize(
    ("labels", "forget", "n", "message"),
    [
        ((1, 2, 3), 8, None, "drawings: no undesired samples among 3"),
        ((8, 8), 8, None, "drawings: no desired samples among 2"),
        ((8, 1), 8, 3, "drawings: has 2 images, 3 asked for"),
        ((8, 1), 8, 0, "drawings: has 2 images, 0 asked for"),
    ],
)
def test_unusable_sets(labels, forget, n, message):
    with pytest.raises(FastUnlearnError, match=message):
        curated_feedback(dataset(labels), forget, n)


def test_labels_are_needed():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(FastUnlearnError, match="needs class labels"):
        curated_feedback(ImageDataset(images, None, "drawings"), 8)
