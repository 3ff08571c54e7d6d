import dataclasses
import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastunlearn.data import from_uint8
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, generator_sha256
from fastunlearn.files import state_sha256

SHA = "ab" * 32


def make(n=5, **changes):
    rng = torch.Generator().manual_seed(3)
    parts = {
        "z": torch.randn(n, 4, generator=rng),
        "noise_seed": torch.randint(2**63 - 1, (n,), generator=rng),
        "label": (torch.arange(n) % 2).to(torch.int8),
        "image": None,
        "generator_sha256": SHA,
        "source": "person",
    }
    return Feedback(**{**parts, **changes})


def bytes_images(n=5):
    return torch.randint(256, (n, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("image", [None, bytes_images()], ids=["latents", "images"])
def test_round_trip_is_exact(tmp_path, image):
    path = tmp_path / "labels.safetensors"
    feedback = make(image=image, noise_seed=torch.tensor([0, 1, -5, 2**62 + 1, -(2**63)]))
    feedback.save(path)
    back = Feedback.load(path)
    for name in ("z", "noise_seed", "label", "image"):
        old, new = getattr(feedback, name), getattr(back, name)
        assert new is None if old is None else torch.equal(new, old) and new.dtype == old.dtype
    assert (back.generator_sha256, back.source, back.origin) == (SHA, "person", str(path))


def test_file_holds_the_documented_names(tmp_path):
    make(image=bytes_images()).save(tmp_path / "f")
    tensors = load_file(tmp_path / "f")
    assert set(tensors) == {"z", "noise_seed", "label", "image"}
    header = (tmp_path / "f").read_bytes()[8:500]
    assert b'"generator_sha256":"' + SHA.encode() in header
    assert b'"version":"1"' in header
    assert b'"source":"person"' in header


def test_save_leaves_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "f"
    make().save(path)
    before = path.read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FastUnlearnError, match="No space left on device") as caught:
        make(n=9).save(path)
    assert str(path) in one_line(caught)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_counts_and_length():
    feedback = make(label=torch.tensor([1, 0, 0, 1, 0], dtype=torch.int8))
    assert (len(feedback), feedback.n_undesired, feedback.n_desired) == (5, 2, 3)


@pytest.mark.parametrize("kept", [0, 4, 30, 200, -1])
def test_truncated_file(tmp_path, kept):
    path = tmp_path / "f"
    make().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FastUnlearnError, match="truncated") as caught:
        Feedback.load(path)
    assert str(path) in one_line(caught)


def test_missing_file(tmp_path):
    with pytest.raises(FastUnlearnError, match="no such feedback file"):
        Feedback.load(tmp_path / "f")


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(FastUnlearnError, match=r"truncated, or not a safetensors file"):
        Feedback.load(tmp_path)


def test_foreign_safetensors_file(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "f")
    with pytest.raises(FastUnlearnError, match="not a feedback file"):
        Feedback.load(tmp_path / "f")


def rewrite(path, tensors=(), **metadata):
    """A valid feedback file with some tensors and metadata replaced."""
    make().save(path)
    facts = {"format": "fastunlearn-feedback", "version": "1", "source": "person", "generator_sha256": SHA}
    save_file({**load_file(path), **dict(tensors)}, path, {**facts, **metadata})
    return path


def test_missing_tensor(tmp_path):
    path = rewrite(tmp_path / "f")
    tensors = load_file(path)
    del tensors["label"]
    save_file(tensors, path, {"format": "fastunlearn-feedback", "version": "1"})
    with pytest.raises(FastUnlearnError, match="not a feedback file"):
        Feedback.load(path)


def test_rewritten_file_is_otherwise_valid(tmp_path):
    assert len(Feedback.load(rewrite(tmp_path / "f"))) == 5


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, {"version": "2"}, "is feedback version 2, this fastunlearn reads 1"),
        ({}, {"version": "2\nerror: x" * 1000}, r"is feedback version 2\\nerror: x2\\ne"),
        ({}, {"source": "oracle"}, "source must be one of .*, got 'oracle'"),
        ({}, {"generator_sha256": ""}, "must hold latents and the generator's SHA-256"),
        ({"label": torch.ones(4, dtype=torch.int8)}, {}, r"label must be int8 \[5\], got int8 \[4\]"),
        ({"label": torch.ones(5)}, {}, r"label must be int8 \[5\], got float32 \[5\]"),
        ({"label": torch.tensor([0, 1, 2, 0, 1], dtype=torch.int8)}, {}, r"label must be 1 .* or 0 .*, got 2"),
        ({"label": torch.tensor([0, 1, -1, 0, 1], dtype=torch.int8)}, {}, "got -1"),
        ({"noise_seed": torch.zeros(6, dtype=torch.int64)}, {}, r"noise_seed must be int64 \[5\], got int64 \[6\]"),
        ({"z": torch.zeros(5, 4, dtype=torch.float64)}, {}, r"z must be float32 \[n, d\], got float64 \[5, 4\]"),
        ({"z": torch.zeros(5)}, {}, r"z must be float32 \[n, d\], got float32 \[5\]"),
        ({"z": torch.tensor([[1.0], [torch.nan], [0], [torch.inf], [0]])}, {}, "z is not finite in 2 of 5 samples"),
        ({"z": torch.zeros(5, 0)}, {}, "feedback by person must hold latents"),
        ({"image": torch.zeros(4, 1, 2, 2, dtype=torch.uint8)}, {}, r"image must be uint8 \[5, C, H, W\]"),
        ({"image": torch.zeros(5, 1, 2, 2)}, {}, r"got float32 \[5, 1, 2, 2\]"),
        ({}, {"source": "curated"}, "curated feedback must hold images and empty z"),
    ],
)
def test_edited_file(tmp_path, tensors, metadata, message):
    path = rewrite(tmp_path / "f", tensors, **metadata)
    with pytest.raises(FastUnlearnError, match=message) as caught:
        Feedback.load(path)
    assert one_line(caught).startswith(f"{path}: ")


def of(model, n=6, **changes):
    z = model.sample_latents(n, torch.Generator().manual_seed(0))
    noise_seed = torch.arange(n)
    parts = {"z": z, "noise_seed": noise_seed, "generator_sha256": generator_sha256(model)}
    return make(n, **{**parts, **changes})


def test_images_are_made_anew_from_latents_and_noise_seeds(model):
    feedback = of(model)
    whole = model.generate(feedback.z, feedback.noise_seed)
    assert torch.equal(feedback.images(model, undesired=True), whole[1::2])
    assert torch.equal(feedback.images(model, undesired=False), whole[::2])


def test_stored_images_need_no_model(model):
    image = bytes_images(6)
    feedback = of(model, image=image)
    for undesired in (True, False):
        want = from_uint8(image[int(undesired) :: 2])
        assert torch.equal(feedback.images(None, undesired), want)
        assert torch.equal(feedback.images(model, undesired), want)
    assert model.batches == []


def test_no_image_of_a_label_is_an_empty_batch(model):
    feedback = of(model, label=torch.zeros(6, dtype=torch.int8))
    assert feedback.images(model, undesired=True).shape == (0, 1, 4, 4)


def test_latents_only_need_the_model(model):
    with pytest.raises(FastUnlearnError, match="stores latents only; images need the model"):
        of(model).images(None, undesired=True)


def test_wrong_generator_names_both_hashes(make_model):
    torch.manual_seed(0)
    first, second = make_model(), make_model()
    feedback = of(first)
    with pytest.raises(FastUnlearnError, match="use that generator or label this one's images") as caught:
        feedback.images(second, undesired=True)
    message = one_line(caught)
    for model in (first, second):
        assert generator_sha256(model)[:12] in message
        assert generator_sha256(model)[:13] not in message
    feedback.check_model(first)


def test_stored_images_of_another_generator_are_refused_too(make_model):
    torch.manual_seed(0)
    with pytest.raises(FastUnlearnError, match="use that generator"):
        of(make_model(), image=bytes_images(6)).images(make_model(), undesired=True)


def test_latents_of_another_length(model):
    feedback = Feedback(
        torch.zeros(2, 7),
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.int8),
        None,
        generator_sha256(model),
        "person",
    )
    with pytest.raises(FastUnlearnError, match=r"z has 7 numbers each, the model's latents have \d+"):
        feedback.check_model(model)


def test_stored_images_of_another_shape(model):
    feedback = of(model, image=torch.zeros(6, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(FastUnlearnError, match=r"images are \(3, 8, 8\), the model's are \(1, 4, 4\)"):
        feedback.images(model, undesired=True)


def test_hash_is_of_the_weights_that_people_sample_from(make_model):
    model = make_model()
    assert generator_sha256(model) == state_sha256(model.ema.state_dict())
    without = make_model(with_ema=False)
    assert generator_sha256(without) == state_sha256(without.generator.state_dict())


@pytest.mark.parametrize(
    ("label", "needed", "message"),
    [
        ([0, 0, 0, 0, 0], {}, "no undesired samples among 5, at least 1 needed"),
        ([1, 1, 1, 1, 1], {}, "no desired samples among 5, at least 1 needed"),
        ([1, 1, 0, 0, 0], {"undesired": 3}, "2 undesired samples among 5, at least 3 needed"),
        ([1, 1, 0, 0, 0], {"desired": 4}, "3 desired samples among 5, at least 4 needed"),
    ],
)
def test_require_refuses_too_few(label, needed, message):
    feedback = make(label=torch.tensor(label, dtype=torch.int8))
    with pytest.raises(FastUnlearnError, match=message) as caught:
        feedback.require(**needed)
    assert "label more images" in one_line(caught)


def test_require_accepts_just_enough():
    make(label=torch.tensor([1, 1, 0, 0, 0], dtype=torch.int8)).require(undesired=2, desired=3)


def test_feedback_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().source = "classifier"
