"""ProgGAN against its formulas, while it grows, and alone."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fastunlearn.bundle import load, save_bundle
from fastunlearn.data import averaged_to
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, generator_sha256
from fastunlearn.files import state_sha256
from fastunlearn.methods import FeatureUnlearn, FeatureUnlearnConfig, unlearn
from fastunlearn.methods.target_vector import Target, erased
from fastunlearn.models.proggan import ProgGAN, ProgGANConfig, enlarged
from fastunlearn.models.protocol import GenerativeModel
from fastunlearn.training import loop as loop_module
from fastunlearn.training.adversarial import Networks
from fastunlearn.training.loop import Images, LoopConfig, run
from fastunlearn.training.losses import Wasserstein
from fastunlearn.training.progressive import ProgressiveConfig, grow, progressive, staged, stages
from fastunlearn.training.regularizers import r1_penalty

QUIET = LoopConfig(progress=False, grid_every=0, log_every=1, checkpoint_every=2)
ONE_BATCH = {"batch_size": 4, "fade_images": 4, "stable_images": 4}


def tiny(size=16, **changes):
    """A model of which no bias is zero."""
    torch.manual_seed(0)
    widths = tuple(8 - i for i in range(size.bit_length() - 2))
    sizes = {"size": size, "channels": 1, "latent_dim": 5, "g_widths": widths, "d_widths": widths, **changes}
    model = ProgGAN(ProgGANConfig(**sizes))
    for network in model.modules().values():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, 0, 0.3)
    return model


def pictures(model, n=16):
    return torch.randn(n, *model.image_shape, generator=torch.Generator().manual_seed(0)).tanh()


def train(model, folder, steps=4, loop=QUIET, **game):
    config = ProgressiveConfig(**{**ONE_BATCH, **game})
    return run(progressive(model, Images.of(pictures(model)), steps, config), folder, loop)


def grown_to(model, level, alpha=1.0):
    for network in model.modules().values():
        network.grow(level, alpha)
    return model


# ---- the networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 32, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_at_every_stage(size, channels):
    model = tiny(size, channels=channels)
    assert isinstance(model, GenerativeModel)
    z = model.sample_latents(3)
    assert model.generator(z).shape == (3, channels, size, size), "it starts grown"
    for level in range(model.config.n_levels):
        for alpha in (0.4, 1.0):
            grown_to(model, level, alpha)
            images = model.ema(z)
            assert images.shape == (3, channels, 4 << level, 4 << level)
            assert images.dtype == torch.float32
            assert model.discriminator(images).shape == (3,)
            whole = model.generate(z, torch.arange(3))
            assert whole.shape == (3, channels, size, size)
            torch.testing.assert_close(averaged_to(whole, 4 << level), images, atol=1e-5, rtol=1e-5)


def equalised(layer, x, gain, padding=0):
    """Convolution or product with weights of N(0, 1), divided by the root of what goes into an output; leaky ReLU."""
    weight = layer.weight / math.sqrt(layer.weight[0].numel())
    bias = layer.bias.reshape(-1, *(1,) * (layer.weight.ndim - 2))
    y = (x @ weight.T if layer.weight.ndim == 2 else F.conv2d(x, weight, padding=padding)) + bias
    return y if gain is None else torch.where(y > 0, y, 0.2 * y) * gain


def unit(x):
    return x / ((x**2).mean(1, keepdim=True) + 1e-8).sqrt()


@pytest.mark.parametrize("normalize", [False, True])
def test_generator_by_formula(normalize):
    g, root2 = tiny(8, normalize_latents=normalize).generator, math.sqrt(2)
    g.grow(1, 0.3)
    z = torch.randn(6, 5)
    x = equalised(g.first, unit(z) if normalize else z, root2).view(6, 8, 4, 4)
    x = below = unit(equalised(g.conv1, unit(x), root2, padding=1))
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for conv in g.blocks[0]:
        x = unit(equalised(conv, x, root2, padding=1))
    small = equalised(g.to_rgbs[0], below, None).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(g(z), 0.7 * small + 0.3 * equalised(g.to_rgbs[1], x, None), atol=1e-5, rtol=1e-5)


def test_discriminator_by_formula():
    d, root2 = tiny(8, stddev_group=6).discriminator, math.sqrt(2)
    d.grow(1, 0.3)
    image = torch.randn(6, 1, 8, 8)
    x = equalised(d.from_rgbs[1], image, root2)
    for conv in d.blocks[0][:2]:
        x = equalised(conv, x, root2, padding=1)
    small = equalised(d.from_rgbs[0], image.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)), root2)
    x = 0.7 * small + 0.3 * x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    deviation = (x.var(0, correction=0) + 1e-8).sqrt().mean()
    x = equalised(d.final_conv, torch.cat([x, deviation.expand(6, 1, 4, 4)], 1), root2, padding=1)
    logits = equalised(d.output, equalised(d.final_linear, x.flatten(1), root2), None)[:, 0]
    torch.testing.assert_close(d(image), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("level", [1, 2])
def test_a_fade_begins_at_the_stage_before_and_ends_at_its_own(level):
    model = tiny()
    z, image = model.sample_latents(4), torch.randn(4, 1, 4 << level, 4 << level)
    before = grown_to(model, level - 1).generator(z)
    logits = model.discriminator(F.avg_pool2d(image, 2))
    grown_to(model, level, 0.0)
    assert torch.equal(model.generator(z), enlarged(before))
    assert torch.equal(model.discriminator(image), logits)
    done = grown_to(model, level).generator(z)
    assert not torch.equal(done, enlarged(before))
    nearly = grown_to(model, level, 1 - 1e-6).generator(z)
    torch.testing.assert_close(nearly, done, atol=1e-4, rtol=0)
    half = grown_to(model, level, 0.5).generator(z)
    torch.testing.assert_close(half, (enlarged(before) + done) / 2)


def test_equalised_layers_keep_the_variance_at_the_start():
    torch.manual_seed(0)
    model = ProgGAN(ProgGANConfig(size=16, latent_dim=64, g_widths=(64, 48, 32), d_widths=(64, 48, 32)))
    for network in (model.generator, model.discriminator):
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any(), name
            elif parameter.numel() > 500:
                assert parameter.std().item() == pytest.approx(1, abs=0.07), name
    layers = [layer for network in (model.generator, model.discriminator) for layer in network.modules()]
    layers = [layer for layer in layers if hasattr(layer, "scale")]
    assert len(layers) == 6 + 3 + 7 + 3  # of G and its images; of D and its images
    for layer in layers:
        inputs = torch.randn(64, layer.weight.shape[1], *(16,) * (layer.weight.ndim - 2))
        inside = (..., slice(1, -1), slice(1, -1)) if inputs.ndim == 4 else ...
        # E[(√2·leaky(x))²] = 1.04 for a normal x of variance 1
        expected = 1.04 if layer.act == "lrelu" else 1.0
        found = layer(inputs)[inside].square().mean().item()
        assert found == pytest.approx(expected, rel=0.6 if min(layer.weight.shape[:2]) < 4 else 0.15)


def test_gradients_reach_what_is_in_use_and_nothing_else():
    model = grown_to(tiny(), 1, 0.5)
    model.discriminator(model.generator(model.sample_latents(4))).sum().backward()
    for network, first in ((model.generator, "to_rgbs"), (model.discriminator, "from_rgbs")):
        for name, parameter in network.named_parameters():
            # Level 2 has the last image layer; its block is the generator's last and the discriminator's too.
            used = name.split(".")[:2] not in ([first, "2"], ["blocks", "1"])
            assert (parameter.grad is not None and parameter.grad.any().item()) == used, name


def test_second_derivatives_in_the_midst_of_a_fade():
    d = grown_to(tiny(8), 1, 0.5).discriminator.double()
    image = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    weight = d.blocks[0][0].weight
    (found,) = torch.autograd.grad(r1_penalty(d, image), weight)
    direction, step = torch.randn_like(weight), 1e-4
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        ends.append(r1_penalty(d, image).item())
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    # The minibatch standard deviation is computed in float32.
    assert (found * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=3e-3)


# ---- its stages ------------------------------------------------------------------------------------------------------


def test_stages_are_counted_in_images():
    config = ProgressiveConfig(batch_size=4, batch_sizes=(16, 8), fade_images=33, stable_images=64)
    plan = stages(3, 7, config)
    assert [stage.name for stage in plan] == ["stable-4", "fade-8", "stable-8", "fade-16", "stable-16"]
    assert [stage.steps for stage in plan] == [4, 5, 8, 9, 7]
    assert [stage.batch_size for stage in plan] == [16, 8, 8, 4, 4]
    assert [stage.batch_size for stage in stages(3, 7, ProgressiveConfig(batch_size=4))] == [4] * 5


def test_networks_grow_and_fade_linearly(tmp_path, monkeypatch):
    seen, advance = [], loop_module.advance

    def watching(phase, optimizers, real, step, precision):
        alphas = {phase.modules[n].alpha.item() for n in ("generator", "generator_ema", "discriminator")}
        seen.append((phase.name, alphas, tuple(real.shape)))
        return advance(phase, optimizers, real, step, precision)

    monkeypatch.setattr(loop_module, "advance", watching)
    after = train(tiny(8), tmp_path, steps=2, fade_images=16)
    expected = [("stable-4", {1.0}, (4, 1, 4, 4))]
    expected += [("fade-8", {alpha}, (4, 1, 8, 8)) for alpha in (0.0, 0.25, 0.5, 0.75)]
    expected += [("stable-8", {1.0}, (4, 1, 8, 8))] * 2
    assert seen == expected
    for network in after.modules().values():
        assert (network.level.item(), network.alpha.item()) == (1, 1.0)


def test_real_images_are_averaged_and_fade_as_generated_ones_do():
    model = tiny()
    images, networks = pictures(model), Networks(model, model.generator)
    data = staged(Images.of(images), networks)
    plan = stages(3, 1, ProgressiveConfig(**ONE_BATCH))
    by_four = images.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))
    by_two = images.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    grow(networks, plan[0], 0.9)
    torch.testing.assert_close(data.batch(torch.arange(3)), by_four[:3])
    grow(networks, plan[1], 0.25)
    torch.testing.assert_close(data.batch(torch.tensor([5, 1])), (0.75 * enlarged(by_four) + 0.25 * by_two)[[5, 1]])
    grow(networks, plan[4], 0.25)
    assert torch.equal(data.batch(torch.arange(3)), images[:3])
    odd = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(averaged_to(odd, 8), odd.unfold(2, 3, 3).unfold(3, 3, 3).mean((4, 5)))


def test_every_stage_averages_from_its_own_start(tmp_path):
    """Of a stage that ends after one step, the average is 1 − decay of the way from the start to the end."""
    model = tiny(8)
    for phase in progressive(model, Images.of(pictures(model)), 1, ProgressiveConfig(**ONE_BATCH, ema_images=4)):
        start, average = (phase.modules[name] for name in ("generator", "generator_ema"))
        for a, b in zip(average.state_dict().values(), start.state_dict().values(), strict=True):
            assert torch.equal(a, b), phase.name
        before = {name: p.detach().clone() for name, p in start.named_parameters()}
        run(iter([phase]), tmp_path, QUIET)
        for name, p in average.named_parameters():
            torch.testing.assert_close(p, (before[name] + dict(start.named_parameters())[name]) / 2)


@pytest.mark.parametrize("loss", ["non-saturating", "wgan-gp"])
def test_training_moves_every_weight_and_leaves_the_original(tmp_path, loss):
    model = tiny(8)
    before = {name: state_sha256(network.state_dict()) for name, network in model.modules().items()}
    after = train(model, tmp_path, fade_images=8, loss=loss)
    assert {name: state_sha256(network.state_dict()) for name, network in model.modules().items()} == before
    for name, network in model.modules().items():
        trained = dict(after.modules()[name].named_parameters())
        assert all(not torch.equal(p, trained[key]) for key, p in network.named_parameters()), name
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    terms = {"d/adversarial", "g/adversarial"} | ({"d/drift", "d/penalty"} if loss == "wgan-gp" else {"d/r1"})
    assert rows[-1].keys() == {"phase", "step"} | terms


def test_r1_counts_by_the_area_of_the_resolution():
    model = tiny()
    phases = {p.name: p for p in progressive(model, Images.of(pictures(model)), 1, ProgressiveConfig(r1=8.0))}
    weights = {name: phase.settings["game"]["r1"] for name, phase in phases.items()}
    assert weights == {"stable-4": 0.5, "fade-8": 2.0, "stable-8": 2.0, "fade-16": 8.0, "stable-16": 8.0}


def test_wasserstein_by_hand():
    loss = Wasserstein(weight=10, drift=0.5)
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([1.0, -2.0])
    terms = loss.discriminator(real, fake)
    assert (terms["adversarial"].item(), terms["drift"].item()) == (-3.5, 5.0)
    assert loss.generator(fake).item() == 0.5

    slope = torch.nn.Linear(12, 1)  # whose gradient has one length everywhere
    critic = torch.nn.Sequential(torch.nn.Flatten(), slope)
    images = torch.randn(2, 5, 3, 2, 2)
    penalty = loss.penalty(critic, *images)["penalty"]
    torch.testing.assert_close(penalty, 10 * (slope.weight.norm() - 1) ** 2)
    penalty.backward()
    assert slope.weight.grad.any()

    def parabola(x):  # whose gradient at x is x: 0 at the real images, 3 and 4 long at the generated ones
        between.append(x.detach())
        return x.square().flatten(1).sum(1) / 2

    between = []
    zeros, ends = torch.zeros(2, 1, 1, 2), torch.tensor([[3.0, 0.0], [0.0, 4.0]]).view(2, 1, 1, 2)
    found = loss.penalty(parabola, zeros, ends)["penalty"]
    share = between[0].flatten(1).sum(1) / torch.tensor([3.0, 4.0])
    assert ((share > 0) & (share < 1)).all()
    assert share[0] != share[1], "each pair has its own place between"
    torch.testing.assert_close(found, 10 * (between[0].flatten(1).norm(dim=1) - 1).square().mean())


# ---- on disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [("fade-8", 5), ("stable-8", 3)])
def test_stopped_in_the_midst_of_a_stage_it_ends_bit_for_bit_the_same(tmp_path, monkeypatch, stop):
    settings = {"steps": 4, "fade_images": 24}
    whole = train(tiny(8), tmp_path / "whole", **settings)
    advance = loop_module.advance

    def stopping(phase, optimizers, real, step, precision):
        if (phase.name, step) == stop:
            raise KeyboardInterrupt
        return advance(phase, optimizers, real, step, precision)

    with monkeypatch.context() as patched:
        patched.setattr(loop_module, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(8), tmp_path / "stopped", **settings)
    saved = torch.load(tmp_path / "stopped/checkpoint.pt", weights_only=True)
    assert saved["phase"] == stop[0]
    if stop == ("fade-8", 5):  # after the fourth of six steps, which began at 3/6
        for name in ("generator", "generator_ema", "discriminator"):
            assert saved["modules"][name]["level"].item() == 1
            assert saved["modules"][name]["alpha"].item() == 0.5
    resumed = train(tiny(8), tmp_path / "stopped", **settings)
    for name, network in whole.modules().items():
        assert state_sha256(network.state_dict()) == state_sha256(resumed.modules()[name].state_dict()), name
    assert [json.loads(line)["step"] for line in (tmp_path / "stopped/metrics.jsonl").read_text().splitlines()] == [
        json.loads(line)["step"] for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    ]


def test_the_last_stage_may_become_longer_while_it_has_not_ended(tmp_path, monkeypatch):
    advance = loop_module.advance

    def stopping(phase, optimizers, real, step, precision):
        if (phase.name, step) == ("stable-8", 3):
            raise KeyboardInterrupt
        return advance(phase, optimizers, real, step, precision)

    with monkeypatch.context() as patched:
        patched.setattr(loop_module, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(8), tmp_path, steps=4)
    train(tiny(8), tmp_path, steps=6)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["phase"], last["step"]) == ("stable-8", 6)


def test_other_stages_are_another_run(tmp_path):
    train(tiny(8), tmp_path)
    with pytest.raises(FastUnlearnError, match="holds stable-4 of a run with another settings"):
        train(tiny(8), tmp_path, fade_images=8)


@pytest.mark.parametrize(("level", "alpha"), [(1, 0.3), (2, 1.0)])
def test_a_bundle_comes_back_bit_for_bit(tmp_path, level, alpha):
    model = grown_to(tiny(), level, alpha)
    save_bundle(model, tmp_path / "b", {})
    again = load(tmp_path / "b")
    assert again.config == model.config
    for name, module in model.modules().items():
        assert state_sha256(module.state_dict()) == state_sha256(again.modules()[name].state_dict())
    z = model.sample_latents(2)
    assert torch.equal(model.generate(z), again.generate(z))


# ---- unlearning ------------------------------------------------------------------------------------------------------


def marks(model, n=400):
    """Feedback that marks latents far along the first axis."""
    z = model.sample_latents(n, torch.Generator().manual_seed(0))
    label = (z[:, 0] >= 1).to(torch.int8)
    return Feedback(z, torch.arange(n), label, None, generator_sha256(model), "person")


def test_feature_unlearn_moves_the_generator_and_resumes(tmp_path, monkeypatch):
    model = tiny()
    method, feedback = FeatureUnlearn(FeatureUnlearnConfig(steps=6, batch_size=8)), marks(model)
    whole = unlearn(model, method, feedback, tmp_path / "whole", QUIET)
    assert generator_sha256(whole) != generator_sha256(model)
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["g/unlearn"] > 1e-3
    assert rows[0]["g/reconstruction"] < 1e-6
    advance = loop_module.advance

    def stopping(phase, optimizers, real, step, precision):
        if step == 5:
            raise KeyboardInterrupt
        return advance(phase, optimizers, real, step, precision)

    with monkeypatch.context() as patched:
        patched.setattr(loop_module, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            unlearn(model, method, feedback, tmp_path / "stopped", QUIET)
    assert generator_sha256(unlearn(model, method, feedback, tmp_path / "stopped", QUIET)) == generator_sha256(whole)


@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_recorded_of_a_landing_is_what_the_generator_sees(tmp_path, normalize):
    """With normalised latents the image of ẑ is that of ẑ·√d/‖ẑ‖, which does not lie on the threshold."""
    model = tiny(normalize_latents=normalize)
    z = model.sample_latents(64)
    same = torch.allclose(model.generate(z), model.generate(2 * z), atol=1e-5)
    assert same == normalize
    config = FeatureUnlearnConfig(shift="exact", threshold=0.5, steps=0)
    feedback = marks(model)
    unlearn(model, FeatureUnlearn(config), feedback, tmp_path, QUIET)
    facts = json.loads((tmp_path / "facts.json").read_text())["unlearn"]
    assert facts["generator_normalises_latents"] == normalize
    landing = facts["features"][0]["landing"]
    if not normalize:
        assert landing["min"] == pytest.approx(0.5, abs=1e-5)
        assert landing["max"] == pytest.approx(0.5, abs=1e-5)
        return
    assert landing["std"] > 0.05
    target = Target.of(feedback, 0.5)
    moved, shown = erased(z, [target], "exact", 0.0)
    seen = target.project(moved * math.sqrt(5) / moved.norm(dim=1, keepdim=True))[shown]
    torch.testing.assert_close(seen, 0.5 * math.sqrt(5) / moved[shown].norm(dim=1))


# ---- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 48}, "size must be a power of two >= 8, got 48"),
        ({"size": 4}, "size must be a power of two >= 8, got 4"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"latent_dim": 0}, r"latent_dim must be in \[1, inf\], got 0"),
        ({"stddev_group": 0}, r"stddev_group must be in \[1, inf\], got 0"),
        ({"g_widths": (8, 8, 8, 8)}, r"g_widths must hold 5 widths \(4 to 64 px\), got 4"),
        ({"d_widths": (8, 8, 8, 0, 8)}, "d_widths must be >= 1, got 0"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(FastUnlearnError, match=message):
        ProgGANConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fade_images": -1}, r"fade_images must be in \[0, inf\], got -1"),
        ({"stable_images": -1}, r"stable_images must be in \[0, inf\], got -1"),
        ({"batch_sizes": (8, 0)}, "batch_sizes must be >= 1, got 0"),
        ({"drift": -1.0}, r"drift must be in \[0, inf\], got -1"),
        ({"batch_size": 0}, r"batch_size must be in \[1, inf\], got 0"),
    ],
)
def test_bad_stages(change, message):
    with pytest.raises(FastUnlearnError, match=message):
        ProgressiveConfig(**change)


def test_batch_sizes_of_another_size():
    with pytest.raises(FastUnlearnError, match=r"batch_sizes must hold 2 sizes \(4 to 8 px\), got 3"):
        stages(3, 1, replace(ProgressiveConfig(), batch_sizes=(4, 4, 4)))
