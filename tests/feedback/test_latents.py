import itertools
from typing import get_args

import pytest
import torch

from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback.latents import BATCH, Purpose, generate, latent_batches


def collect(model, seed, purpose, n):
    z, noise_seed = (torch.cat(parts) for parts in zip(*latent_batches(model, seed, purpose, n), strict=True))
    return z, noise_seed


@pytest.mark.parametrize("n", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH])
def test_shorter_streams_are_prefixes(model, n):
    z, noise_seed = collect(model, 5, "report", 3 * BATCH)
    short = collect(model, 5, "report", n)
    assert torch.equal(short[0], z[:n])
    assert torch.equal(short[1], noise_seed[:n])
    assert noise_seed.dtype == torch.int64


def test_stream_without_an_end(model):
    z = torch.cat([z for z, _ in itertools.islice(latent_batches(model, 5, "report"), 3)])
    assert torch.equal(z, collect(model, 5, "report", 3 * BATCH)[0])


def test_seed_and_purpose_name_different_latents(model):
    streams = [collect(model, s, p, 50) for s in (0, 1) for p in get_args(Purpose)]
    for (z, noise_seed), (other_z, other_seed) in itertools.combinations(streams, 2):
        assert not torch.isin(z, other_z).any()
        assert not torch.isin(noise_seed, other_seed).any()


def test_the_streams_stay_what_they_were(model):
    # Stored reports name their latents by (seed, purpose): another derivation would silently compare other images.
    z, noise_seed = next(latent_batches(model, 0, "report", 1))
    assert z.item() == 0.032080650329589844
    assert noise_seed.item() == 4617063469382723713


def test_the_global_generator_is_left_alone(model):
    state = torch.get_rng_state()
    collect(model, 0, "report", 10)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_pixel_that_is_not_finite(model, monkeypatch):
    images = torch.zeros(3, 1, 4, 4)
    images[1, 0, 2, 3] = torch.inf
    monkeypatch.setattr(model, "generate", lambda z, noise_seed: images)
    with pytest.raises(FastUnlearnError, match="1 of 3 images are not finite"):
        generate(model, torch.rand(3, 1), torch.arange(3))


def test_images_that_are_not_finite(model):
    z, noise_seed = torch.tensor([[0.5], [torch.nan], [torch.inf]]), torch.arange(3)
    with pytest.raises(FastUnlearnError, match="2 of 3 images are not finite; training diverged") as caught:
        generate(model, z, noise_seed)
    assert "\n" not in str(caught.value)


def test_images_of_another_shape(model):
    model.image_shape = (3, 4, 4)
    with pytest.raises(FastUnlearnError, match=r"gives images \(2, 1, 4, 4\), expected \(2, 3, 4, 4\)"):
        generate(model, torch.rand(2, 1), torch.arange(2))
