"""Feedback that no method can work with: one line that says what to do, and nothing that is in a second try's way."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastunlearn.bundle import load, save_bundle
from fastunlearn.feedback import Feedback, generator_sha256
from fastunlearn.methods import METHODS
from fastunlearn.models.stylegan2 import StyleGAN2

CHANGED = "was edited or damaged after it was written (its checksum is another one); take the file as it was written"


def marks(model, undesired, desired):
    n = undesired + desired
    z = model.sample_latents(n, torch.Generator().manual_seed(0))
    label = (torch.arange(n) < undesired).to(torch.int8)
    return Feedback(z, torch.arange(n), label, None, generator_sha256(model), "person")


def edit(path, **changes):
    """Change what a file holds and leave its metadata, as with an editor of safetensors files."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for name, change in changes.items():
        if name in tensors:
            tensors[name] = change(tensors[name])
        else:
            metadata[name] = change
    save_file(tensors, path, metadata)


@pytest.fixture
def refused(gan, cli, tmp_path):
    """What a method says of a file."""

    def run(method, path, gan=gan / "bundle"):
        out = tmp_path / "run"
        code, _, err = cli("unlearn", method, "--gan", gan, "--feedback", path, "--out", out, "--no-progress")
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert not out.exists()
        return err

    return run


@pytest.fixture
def path(tmp_path):
    return tmp_path / "marked.safetensors"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("undesired", "desired", "message"),
    [
        (20, 0, "no desired samples among 20, at least 5 needed; label more images, also such as may stay"),
        (0, 20, "no undesired samples among 20, at least 5 needed; label more images\n"),
        (0, 0, "no undesired samples among 0, at least 5 needed; label more images\n"),
        (1, 2, "1 undesired samples among 3, at least 5 needed; label more images\n"),
        (2, 1, "2 undesired samples among 3, at least 5 needed; label more images\n"),
        (3, 497, "3 undesired samples among 500, at least 5 needed; label more images\n"),
    ],
)
def test_too_few(gan, refused, path, method, undesired, desired, message):
    marks(load(gan / "bundle"), undesired, desired).save(path)
    assert f"{path}: {message}" in refused(method, path)


@pytest.mark.parametrize("method", METHODS)
def test_of_another_generator(gan, refused, path, tmp_path, method):
    model = load(gan / "bundle")
    torch.manual_seed(1)
    other = StyleGAN2(model.config)
    save_bundle(other, tmp_path / "other", {})
    marks(model, 10, 10).save(path)
    found = refused(method, path, gan=tmp_path / "other")
    assert f"{path}: labels images of generator {generator_sha256(model)[:12]}, this one is" in found
    assert "use that generator or label this one's images" in found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "changes",
    [
        {"label": lambda label: 1 - label},
        {"z": lambda z: z + 1e-6},
        {"noise_seed": lambda seeds: seeds.flip(0)},
        {"source": "classifier"},
        {"generator_sha256": "0" * 64},
        {"simulator": '{"name": "thickness", "threshold": 3}'},
        {"page": "{}"},
        {"content_sha256": ""},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_edited(gan, refused, path, method, changes):
    marks(load(gan / "bundle"), 10, 10).save(path)
    edit(path, **changes)
    assert f"{path}: {CHANGED}" in refused(method, path)


@pytest.mark.parametrize("method", METHODS)
def test_cut_short(gan, refused, path, method):
    marks(load(gan / "bundle"), 10, 10).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path}: truncated, or not a safetensors file; label the images again" in refused(method, path)


def test_one_flipped_bit_anywhere(path, gan):
    """In the tensors; in the header it is another JSON, or one that names other things."""
    marks(load(gan / "bundle"), 6, 6).save(path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(Exception, match=r"edited or damaged|label must be|not finite"):
            Feedback.load(path)
    path.write_bytes(whole)
    assert len(Feedback.load(path)) == 12


def test_files_from_before_there_was_a_checksum(gan, path):
    feedback = marks(load(gan / "bundle"), 10, 10)
    feedback.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["content_sha256"]
    save_file(load_file(path), path, metadata)
    assert Feedback.load(path).sha256() == feedback.sha256()


def test_the_first_try_is_not_in_the_way_of_the_second(gan, refused, cli, path, tmp_path):
    marks(load(gan / "bundle"), 1, 20).save(path)
    refused("feature-unlearn", path)
    feedback = marks(load(gan / "bundle"), 20, 20)
    replace(feedback, label=(feedback.z[:, 0] > 0).to(torch.int8)).save(path)
    start = ("unlearn", "feature-unlearn", "--gan", gan / "bundle", "--feedback", path, "--out", tmp_path / "run")
    assert cli(*start, "--steps", 1, "--batch-size", 4, "--no-progress", "--grid-every", 0)[0] == 0
