import json
import math

import pytest
import torch
from torch import nn

from fastunlearn.errors import FastUnlearnError
from fastunlearn.models.stylegan2 import StyleGAN2, StyleGAN2Config
from fastunlearn.training.adversarial import AdversarialConfig, Networks, adversarial_phase, sample_fake
from fastunlearn.training.augment import AdaptiveAugment
from fastunlearn.training.loop import Images, LoopConfig, run

SIZES = {"size": 8, "latent_dim": 4, "style_dim": 4, "mapping_layers": 1, "g_widths": (4, 4), "d_widths": (4, 4)}
QUIET = LoopConfig(progress=False, grid_every=0, log_every=1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return StyleGAN2(StyleGAN2Config(**SIZES))


def train(model, config, folder, loop=QUIET, steps=4):
    networks = Networks(model, model.generator)
    images = Images.of(torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).tanh())

    def phases():
        yield adversarial_phase("game", networks, images, steps, config)
        return networks.model

    return run(phases(), folder, loop)


def test_a_step_moves_every_weight_of_both_players(model, tmp_path):
    after = train(model, AdversarialConfig(batch_size=4), tmp_path)
    for name, before in model.modules().items():
        for (key, a), b in zip(before.named_parameters(), after.modules()[name].parameters(), strict=True):
            assert not torch.equal(a, b), f"{name}.{key} did not move"
    assert after.path_length_mean > 0


def test_bf16_trains_close_to_float32(model, tmp_path):
    losses = {}
    for precision in ("float32", "bf16"):
        loop = LoopConfig(progress=False, grid_every=0, log_every=1, precision=precision)
        train(model, AdversarialConfig(batch_size=4), tmp_path / precision, loop, steps=1)
        row = (tmp_path / precision / "metrics.jsonl").read_text()
        losses[precision] = json.loads(row)
    assert losses["bf16"] != losses["float32"], "bf16 must do something"
    for name in ("d/adversarial", "g/adversarial"):
        assert math.isclose(losses["bf16"][name], losses["float32"][name], rel_tol=0.05), losses


def test_auto_precision_resolves():
    assert LoopConfig(precision="auto", device="cpu").resolved_precision() in ("float32", "bf16")
    assert LoopConfig(precision="bf16").resolved_precision() == "bf16"


def test_style_mixing_happens_with_its_probability(model):
    networks = Networks(model, model.generator)
    crossovers = []
    g = networks.generator
    mix = g.mix
    g.mix = lambda a, b, crossover: crossovers.append(crossover) or mix(a, b, crossover)
    torch.manual_seed(0)
    for _ in range(20):
        sample_fake(g, torch.randn(50, 4), mixing=0.3)
    mixed = (torch.cat(crossovers) < g.n_styles).float().mean().item()
    assert abs(mixed - 0.3) < 0.05
    assert torch.cat(crossovers).min() >= 1


def test_no_regularisers_when_their_weight_is_zero(model):
    networks = Networks(model, model.generator)
    images = Images.of(torch.zeros(4, 1, 8, 8))
    phase = adversarial_phase("game", networks, images, 1, AdversarialConfig(r1=0, path=0))
    assert phase.players["d"].lazy == phase.players["g"].lazy == ()


def test_augmentation_is_the_identity_at_p_0_and_not_at_1():
    torch.manual_seed(0)
    augment = AdaptiveAugment()
    x = torch.rand(8, 1, 16, 16) * 2 - 1
    torch.testing.assert_close(augment(x), x, atol=1e-5, rtol=0)
    augment.p.fill_(1.0)
    assert all((a - b).abs().max() > 0.05 for a, b in zip(augment(x), x, strict=True))


def test_augmentation_adapts_to_an_overconfident_discriminator():
    augment = AdaptiveAugment(target=0.6, images=100)
    augment.adapt(torch.ones(10))
    assert augment.p.item() == pytest.approx(0.1)
    augment.adapt(-torch.ones(5))
    assert augment.p.item() == pytest.approx(0.05)
    for _ in range(5):
        augment.adapt(-torch.ones(10))
    assert augment.p.item() == 0


def test_ada_trains_and_is_saved_with_the_phase(model, tmp_path):
    train(model, AdversarialConfig(batch_size=4, augment="ada"), tmp_path)
    state = torch.load(tmp_path / "phases/game.pt", weights_only=True)["modules"]
    assert "p" in state["augment"]


def test_an_adapter_that_is_a_module_keeps_its_networks(model):
    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator, self.ema, self.discriminator = model.generator, model.ema, model.discriminator

    adapter = Adapter()
    networks = Networks(adapter, adapter.generator)
    assert networks.model.generator is networks.generator
    assert (adapter.generator, adapter.discriminator) == (model.generator, model.discriminator)


def test_what_the_game_cannot_do_without_is_named(model):
    networks = Networks(model, model.generator)
    networks.generator = nn.Identity()
    data = Images.of(torch.zeros(4, 1, 8, 8))
    with pytest.raises(FastUnlearnError, match="needs a style-based generator; set path to 0"):
        adversarial_phase("game", networks, data, 1, AdversarialConfig())
    networks.discriminator = None
    with pytest.raises(FastUnlearnError, match="needs a discriminator"):
        adversarial_phase("game", networks, data, 1, AdversarialConfig(path=0))
