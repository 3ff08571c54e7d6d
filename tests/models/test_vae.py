"""The VAE: shapes, what belongs to what, bundles, refusals. `tests/training/test_variational.py` has its loss."""

import pytest
import torch

from fastunlearn.bundle import load, save_bundle
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, generator_sha256
from fastunlearn.files import state_sha256
from fastunlearn.methods import AdaptThenUnlearn, Extrapolation, unlearn
from fastunlearn.models.protocol import GenerativeModel
from fastunlearn.models.vae import VAE, VAEConfig
from fastunlearn.training.loop import LoopConfig


def tiny(size=16, **changes):
    torch.manual_seed(0)
    n = size.bit_length() - 3
    model = VAE(VAEConfig(**{"size": size, "latent_dim": 5, "g_widths": (6,) * n, "e_widths": (4,) * n, **changes}))
    with torch.no_grad():
        for module in model.modules().values():
            for p in module.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_at_every_size(size, channels):
    model = tiny(size, channels=channels)
    images = model.generate(model.sample_latents(3), torch.arange(3))
    assert images.shape == (3, channels, size, size)
    assert images.dtype == torch.float32
    assert [t.shape for t in model.encoder(images)] == [(3, 5), (3, 5)]
    assert model.encode(images).shape == (3, 5)
    assert isinstance(model, GenerativeModel)
    assert model.discriminator is None
    assert model.ema is None


def test_the_image_is_the_mean_of_the_bernoulli():
    model = tiny()
    z = model.sample_latents(4)
    p = 1 / (1 + (-model.generator.logits(z)).exp())
    assert p.std() > 1e-3
    torch.testing.assert_close(model.generate(z), (2 * p - 1).detach())


def test_encode_gives_the_means_whatever_else_is_in_the_batch():
    model = tiny()
    images = model.generate(model.sample_latents(4))
    mean, log_variance = model.encoder(images)
    torch.testing.assert_close(model.encode(images), mean.detach())
    assert not torch.allclose(mean, log_variance)
    torch.testing.assert_close(model.encode(images[:1]), mean[:1].detach(), atol=1e-6, rtol=1e-5)


def test_a_bundle_comes_back_bit_for_bit(tmp_path):
    model = tiny()
    save_bundle(model, tmp_path / "b", {})
    assert {p.name for p in (tmp_path / "b").glob("*.safetensors")} == {"generator.safetensors", "encoder.safetensors"}
    again = load(tmp_path / "b")
    assert again.config == model.config
    assert generator_sha256(again) == generator_sha256(model)
    for name, module in model.modules().items():
        assert state_sha256(module.state_dict()) == state_sha256(again.modules()[name].state_dict())
    z = model.sample_latents(2)
    assert torch.equal(model.generate(z), again.generate(z))


def test_a_bundle_without_its_encoder_is_refused(tmp_path):
    save_bundle(tiny(), tmp_path / "b", {})
    (tmp_path / "b/encoder.safetensors").unlink()
    with pytest.raises(FastUnlearnError, match=r"encoder\.safetensors: not a readable safetensors file"):
        load(tmp_path / "b")


@pytest.mark.parametrize("method", [AdaptThenUnlearn(), Extrapolation()], ids=lambda method: method.name)
def test_adversarial_methods_need_a_discriminator(tmp_path, method):
    model = tiny()
    labels = torch.tensor([0, 1] * 4, dtype=torch.int8)
    z = model.sample_latents(8)
    feedback = Feedback(z, torch.zeros(8, dtype=torch.int64), labels, None, generator_sha256(model), "person")
    with pytest.raises(FastUnlearnError, match="needs a discriminator, and the model has none") as error:
        unlearn(model, method, feedback, tmp_path / "run", LoopConfig(progress=False))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 24}, "size must be a power of two >= 8, got 24"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"latent_dim": 0}, r"latent_dim must be in \[1, inf\], got 0"),
        ({"e_widths": (8,)}, r"e_widths must hold 3 widths \(4 to 16 px\), got 1"),
        ({"g_widths": (8, 0, 8)}, "g_widths must be >= 1, got 0"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(FastUnlearnError, match=message):
        VAEConfig(**change)
