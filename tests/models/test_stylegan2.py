import pytest
import torch

from fastunlearn.bundle import Bundle, load, save_bundle
from fastunlearn.errors import FastUnlearnError
from fastunlearn.files import state_sha256
from fastunlearn.models.protocol import GenerativeModel
from fastunlearn.models.stylegan2 import StyleGAN2, StyleGAN2Config, append_stddev

TINY = {"latent_dim": 8, "style_dim": 8, "mapping_layers": 2}


def tiny(size=16, channels=1, **changes):
    torch.manual_seed(0)
    n = size.bit_length() - 2
    widths = tuple(8 for _ in range(n))
    return StyleGAN2(
        StyleGAN2Config(
            **{**TINY, "size": size, "channels": channels, "g_widths": widths, "d_widths": widths, **changes}
        )
    )


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_at_every_size(size, channels):
    model = tiny(size, channels)
    images = model.generate(model.sample_latents(3), torch.arange(3))
    assert images.shape == (3, channels, size, size)
    assert images.dtype == torch.float32
    assert model.discriminator(images).shape == (3,)
    assert isinstance(model, GenerativeModel)


def test_activations_start_at_unit_variance():
    """Equalised learning rates keep the scale through the depth, whatever the width."""
    model = tiny(32, g_widths=(64, 48, 32, 16), d_widths=(64, 48, 32, 16))
    scales = []
    hooks = [layer.register_forward_hook(lambda _, __, y: scales.append(y.std().item())) for layer in model.ema.convs]
    z = model.sample_latents(64)
    model.generate(z)
    assert len(scales) == len(hooks) == 6
    assert all(0.3 < s < 2 for s in scales), scales


def test_the_same_latent_and_seed_give_the_same_image_in_any_batch():
    model = tiny()
    z, seed = model.sample_latents(5), torch.tensor([3, 1, 4, 1, 5])
    _with_noise(model)
    together = model.generate(z, seed)
    alone = torch.cat([model.generate(z[i : i + 1], seed[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    other = model.generate(z, seed + 1)
    assert (other - together).abs().amax() > 1e-3


def _with_noise(model):
    with torch.no_grad():
        for layer in (model.ema.conv1, *model.ema.convs):
            layer.noise_strength.fill_(0.5)


def test_truncation_pulls_towards_the_mean_style():
    model = tiny()
    z = model.sample_latents(16)
    spread = [model.generate(z, truncation=psi).var(dim=0).mean().item() for psi in (1.0, 0.5, 0.0)]
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 1e-10


def test_mixing_crosses_over_at_the_layer():
    g = tiny().generator
    first, second = torch.zeros(2, 8), torch.ones(2, 8)
    styles = g.mix(first, second, torch.tensor([1, g.n_styles]))
    assert styles[0, :, 0].tolist() == [0] + [1] * (g.n_styles - 1)
    assert styles[1].sum() == 0


def test_stddev_channel_by_hand():
    x = torch.zeros(4, 1, 1, 1)
    x[:, 0, 0, 0] = torch.tensor([0.0, 10.0, 2.0, 10.0])
    # Group of 2 among 4 samples: {0, 2} and {1, 3}; standard deviations 1 and 0.
    out = append_stddev(x, group=2)
    torch.testing.assert_close(out[:, 1, 0, 0], torch.tensor([1.0, 1e-4, 1.0, 1e-4]))
    assert append_stddev(torch.randn(3, 2, 4, 4), group=4).shape == (3, 3, 4, 4), "3 is the largest divisor"


def test_a_bundle_comes_back_bit_for_bit(tmp_path):
    model = tiny()
    model.path_length_mean = 0.25
    save_bundle(model, tmp_path / "b", {"training": {"steps": 0}})
    again = load(tmp_path / "b")
    assert again.path_length_mean == 0.25
    assert again.config == model.config
    for name, module in model.modules().items():
        assert state_sha256(module.state_dict()) == state_sha256(again.modules()[name].state_dict())
    z = model.sample_latents(2)
    assert torch.equal(model.generate(z), again.generate(z))


def test_bad_bundles_are_one_line_errors(tmp_path):
    with pytest.raises(FastUnlearnError, match="nowhere: no such bundle"):
        Bundle("nowhere")
    save_bundle(tiny(), tmp_path / "b", {})
    weights = tmp_path / "b/generator.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(FastUnlearnError, match=r"generator\.safetensors: not a readable safetensors file"):
        load(tmp_path / "b")
    save_bundle(tiny(8), tmp_path / "other", {})
    weights.write_bytes((tmp_path / "other/generator.safetensors").read_bytes())
    with pytest.raises(FastUnlearnError, match=r"weights of another architecture") as error:
        load(tmp_path / "b")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 24}, "size must be a power of two >= 8, got 24"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"g_widths": (8,)}, "g_widths must hold 3 widths"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(FastUnlearnError, match=message):
        StyleGAN2Config(**{"size": 16, "g_widths": (8, 8, 8), "d_widths": (8, 8, 8), **change})
