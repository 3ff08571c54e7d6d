import pytest
import torch

from fastunlearn.data import ImageDataset, from_uint8, to_uint8


def _dataset(labels=True):
    images = torch.arange(3 * 2 * 2, dtype=torch.uint8).reshape(3, 1, 2, 2)
    return ImageDataset(images, torch.tensor([5, 6, 5]) if labels else None, "toy")


def test_bytes_and_floats_are_inverse_for_every_byte():
    every = torch.arange(256, dtype=torch.uint8)
    floats = from_uint8(every)
    assert floats.dtype == torch.float32
    assert (floats[0], floats[255]) == (-1, 1)
    assert torch.equal(to_uint8(floats), every)


def test_to_uint8_rounds_and_clamps():
    # (0.1 + 1) * 127.5 = 140.25 and (0.105 + 1) * 127.5 = 140.8875
    assert to_uint8(torch.tensor([-1.5, 0.1, 0.105, 3.0])).tolist() == [0, 140, 141, 255]


def test_batch_takes_indices_and_scales():
    batch = _dataset().batch(torch.tensor([2, 0]))
    assert batch.shape == (2, 1, 2, 2)
    assert batch[0, 0, 0, 0].item() == pytest.approx(8 / 127.5 - 1)
    assert batch[1, 0, 0, 0].item() == -1


def test_subset_keeps_images_and_labels_together():
    dataset = _dataset()
    part = dataset.subset(dataset.labels == 5)
    assert len(part) == 2
    assert part.labels.tolist() == [5, 5]
    assert torch.equal(part.images, dataset.images[[0, 2]])
    assert part.name == "toy"
    assert part.image_shape == (1, 2, 2)


def test_subset_without_labels():
    assert _dataset(labels=False).subset(torch.tensor([True, False, False])).labels is None


def test_fields_cannot_be_reassigned():
    with pytest.raises(AttributeError, match="cannot assign to field 'name'"):
        _dataset().name = "other"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(2, 1, 4, 4),
            None,
            r"images must be uint8 \[N, C, H, W\], got torch.float32 \(2, 1, 4, 4\)",
        ),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), None, r"images must be uint8 .*\(2, 4, 4\)"),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            r"labels must be int64 \[2\]",
        ),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            torch.zeros(2),
            r"labels must be int64 \[2\], got torch.float32",
        ),
    ],
)
def test_wrong_tensors_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageDataset(images, labels, "toy")


def test_smaller_is_the_mean_of_areas():
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1003, 3, 12, 12), generator=rng).to(torch.uint8)
    small = ImageDataset(images, torch.arange(1003), "toy").resized(4)
    expected = images.double().unfold(2, 3, 3).unfold(3, 3, 3).mean((4, 5))
    assert (small.images - expected).abs().max() <= 0.5 + 1e-3
    assert torch.equal(small.labels, torch.arange(1003))
    assert small.name == "toy"


def test_larger_is_bilinear_and_the_same_is_itself():
    dataset = ImageDataset(torch.tensor([[[[0, 100], [200, 40]]]], dtype=torch.uint8), None, "toy")
    assert dataset.resized(2) is dataset
    row = [0, 25, 75, 100]  # a quarter and three quarters of the way, the ends repeated
    assert dataset.resized(4).images[0, 0, 0].tolist() == row
    # Three quarters of the upper row and a quarter of the lower one, 200, 160, 80, 40.
    assert dataset.resized(4).images[0, 0, 1].tolist() == [50, 59, 76, 85]
