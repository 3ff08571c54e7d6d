"""DCGAN against its formulas, in training and alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastunlearn.bundle import load, save_bundle
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import generator_sha256, label_with_classifier
from fastunlearn.files import state_sha256
from fastunlearn.methods import AdaptConfig, AdaptThenUnlearn, AdaptThenUnlearnConfig, unlearn
from fastunlearn.models.dcgan import DCGAN, DCGANConfig
from fastunlearn.models.protocol import GenerativeModel
from fastunlearn.training.adversarial import AdversarialConfig
from fastunlearn.training.loop import Images, LoopConfig, run
from fastunlearn.training.pretraining import DCGANGame, adversarial

QUIET = LoopConfig(progress=False, grid_every=0, log_every=1)


def tiny(size=16, **changes):
    """A model whose normalisations are not at their start."""
    torch.manual_seed(0)
    n = size.bit_length() - 3
    model = DCGAN(DCGANConfig(**{"size": size, "latent_dim": 5, "g_widths": (6,) * n, "d_widths": (4,) * n, **changes}))
    for network in model.modules().values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.normal_(module.bias)
            elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(module.weight, 0, 0.2)
    return model


def train(model, folder, steps=4, loop=QUIET, **game):
    images = Images.of(torch.randn(16, *model.image_shape, generator=torch.Generator().manual_seed(0)).tanh())
    return run(adversarial(model, images, steps, DCGANGame(batch_size=4, **game)), folder, loop)


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("d_norm", [True, False])
def test_shapes_at_every_size(size, channels, d_norm):
    model = tiny(size, channels=channels, d_norm=d_norm)
    images = model.generate(model.sample_latents(3), torch.arange(3))
    assert images.shape == (3, channels, size, size)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert model.discriminator(images).shape == (3,)
    assert isinstance(model, GenerativeModel)


@pytest.mark.parametrize("training", [True, False])
def test_generator_by_formula(training):
    """Projection, then normalisation, ReLU and a doubling transposed convolution as often as there are sizes; Tanh."""
    g = tiny(16).generator.double().train(training)
    state = {name: t.clone() for name, t in g.state_dict().items()}
    z = torch.randn(7, 5, dtype=torch.float64)
    x = torch.einsum("nd,dchw->nchw", z, state["project.weight"])
    for i, conv in enumerate(["convs.0", "to_image"]):
        mean, variance = (state[f"norms.{i}.running_{k}"] for k in ("mean", "var"))
        if training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        factor = state[f"norms.{i}.weight"] / (variance + 1e-5).sqrt()
        x = (x - mean[:, None, None]) * factor[:, None, None] + state[f"norms.{i}.bias"][:, None, None]
        weight, bias = state[f"{conv}.weight"], state.get(f"{conv}.bias", torch.zeros(()).double())
        # Every pixel of the small image paints a 4 × 4 patch of the large one.
        large = torch.zeros(7, weight.shape[1], 2 * x.shape[2] + 2, 2 * x.shape[3] + 2, dtype=torch.float64)
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                patch = torch.einsum("nc,cdhw->ndhw", x[:, :, row, column].clamp(min=0), weight)
                large[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += patch
        x = large[:, :, 1:-1, 1:-1] + bias.reshape(-1, 1, 1)
    # The module gives float32 images.
    torch.testing.assert_close(g(z).double(), x.tanh(), atol=1e-6, rtol=1e-5)


def test_discriminator_by_formula():
    d = tiny(16, d_norm=True).discriminator
    state, image = d.state_dict(), torch.randn(3, 1, 16, 16)
    x = F.conv2d(image, state["convs.0.weight"], state["convs.0.bias"], stride=2, padding=1)
    x = torch.where(x > 0, x, 0.2 * x)
    x = F.conv2d(x, state["convs.1.weight"], None, stride=2, padding=1)
    shift, scale = state["norms.0.running_mean"], (state["norms.0.running_var"] + 1e-5).sqrt()
    x = (x - shift[:, None, None]) / scale[:, None, None] * state["norms.0.weight"][:, None, None]
    x = x + state["norms.0.bias"][:, None, None]
    x = torch.where(x > 0, x, 0.2 * x)
    expected = (x.flatten(1) * state["output.weight"].flatten()).sum(1) + state["output.bias"]
    torch.testing.assert_close(d(image), expected)


def test_weights_start_as_the_paper_says():
    torch.manual_seed(0)
    model = DCGAN(DCGANConfig(d_norm=True))
    for name, module in [*model.generator.named_modules(), *model.discriminator.named_modules()]:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert abs(module.weight.mean().item()) < 2e-3
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02), name
            assert not module.bias.any()


def test_an_image_depends_on_its_latent_alone():
    model = tiny()
    z = model.sample_latents(5)
    together = model.generate(z)
    model.ema.train()  # as somebody may have left it
    alone = torch.cat([model.generate(part) for part in z.split(1)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    assert model.ema.training
    buffers = {name: t.clone() for name, t in model.ema.named_buffers()}
    model.generate(z)
    assert all(torch.equal(t, buffers[name]) for name, t in model.ema.named_buffers()), "drawing is not training"


def test_truncation_pulls_towards_the_mean_of_the_prior():
    model = tiny()
    z = model.sample_latents(16)
    spread = [model.generate(z, truncation=psi).var(dim=0).mean().item() for psi in (1.0, 0.5, 0.0)]
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 1e-10


def test_no_latents_no_images():
    assert tiny().generate(torch.empty(0, 5)).shape == (0, 1, 16, 16)


@pytest.mark.parametrize("d_norm", [True, False])
def test_a_step_moves_every_weight_and_every_statistic(tmp_path, d_norm):
    model = tiny(d_norm=d_norm)
    after = train(model, tmp_path, steps=2, r1=0.0 if d_norm else 1.0)
    for name, before in model.modules().items():
        trained = after.modules()[name].state_dict()
        assert all(not torch.equal(t, trained[key]) for key, t in before.state_dict().items()), name
    assert after.generator.training
    assert not after.ema.training
    assert not model.generator.training, "what is trained is a copy"


def test_the_average_has_the_statistics_of_the_generator(tmp_path):
    after = train(tiny(), tmp_path)
    for a, b in zip(after.ema.buffers(), after.generator.buffers(), strict=True):
        assert torch.equal(a, b)
    assert state_sha256(after.ema.state_dict()) != state_sha256(after.generator.state_dict())


def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(tmp_path, monkeypatch):
    from fastunlearn.training import loop as module

    config = LoopConfig(progress=False, grid_every=0, log_every=1, checkpoint_every=2)
    whole = train(tiny(), tmp_path / "whole", steps=6, loop=config)
    advance = module.advance

    def stopping(phase, optimizers, real, step, precision):
        if step == 5:
            raise KeyboardInterrupt
        return advance(phase, optimizers, real, step, precision)

    monkeypatch.setattr(module, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "stopped", steps=6, loop=config)
    monkeypatch.setattr(module, "advance", advance)
    resumed = train(tiny(), tmp_path / "stopped", steps=6, loop=config)
    for name, network in whole.modules().items():
        assert state_sha256(network.state_dict()) == state_sha256(resumed.modules()[name].state_dict()), name


def test_a_bundle_comes_back_bit_for_bit(tmp_path):
    model = tiny()
    save_bundle(model, tmp_path / "b", {})
    again = load(tmp_path / "b")
    assert again.config == model.config
    for name, module in model.modules().items():
        assert state_sha256(module.state_dict()) == state_sha256(again.modules()[name].state_dict())
    z = model.sample_latents(2)
    assert torch.equal(model.generate(z), again.generate(z))


class Brighter(nn.Module):
    """Class 1 where the image is brighter than `threshold`."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        brighter = x.mean(dim=(1, 2, 3)) - self.threshold
        return torch.stack([-brighter, brighter], dim=1)


def test_adapt_then_unlearn_moves_it_and_leaves_the_original(tmp_path):
    model = tiny()
    threshold = model.generate(model.sample_latents(200)).mean((1, 2, 3)).median().item()
    feedback = label_with_classifier(model, Brighter(threshold), 1, 40, 0, 3)
    before = {name: state_sha256(network.state_dict()) for name, network in model.modules().items()}
    game = AdversarialConfig(batch_size=4, path=0, mixing=0)
    config = AdaptThenUnlearnConfig(
        adapt=AdaptConfig(n_adapted=1, adapt_steps=2), unlearn_steps=2, repulsion="nl2", gamma=0.01, game=game
    )
    after = unlearn(model, AdaptThenUnlearn(config), feedback, tmp_path, QUIET)
    assert generator_sha256(after) != before["generator_ema"]
    assert {name: state_sha256(network.state_dict()) for name, network in model.modules().items()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 24}, "size must be a power of two >= 8, got 24"),
        ({"size": 4}, "size must be a power of two >= 8, got 4"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"latent_dim": 0}, r"latent_dim must be in \[1, inf\], got 0"),
        ({"g_widths": (8,)}, r"g_widths must hold 3 widths \(4 to 16 px\), got 1"),
        ({"d_widths": (8, 0, 8)}, "d_widths must be >= 1, got 0"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(FastUnlearnError, match=message):
        DCGANConfig(**change)
