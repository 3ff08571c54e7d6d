"""The VDVAE: its distributions by hand, capture and replay of its latents, its bound, training, unlearning."""

import json
import math

import pytest
import torch
from torch import distributions

from fastunlearn.bundle import load, save_bundle
from fastunlearn.cli import main
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, generator_sha256
from fastunlearn.files import state_sha256
from fastunlearn.methods import AdaptThenUnlearn, FeatureUnlearn, FeatureUnlearnConfig, feature_unlearn, unlearn
from fastunlearn.models.logistic_mixture import HALF_STEP, LogisticMixture, n_parameters
from fastunlearn.models.protocol import GenerativeModel
from fastunlearn.models.vdvae import VDVAE, Normal, Step, VDVAEConfig, infer
from fastunlearn.training import loop as loop_module
from fastunlearn.training.gradient_guard import GradientGuard
from fastunlearn.training.loop import Images, LoopConfig, advance, run
from fastunlearn.training.pretraining import variational
from fastunlearn.training.variational import HierarchicalConfig, hierarchical_phase

SIZES = {
    "size": 8,
    "encoder": "8d2,4x1,4d4,1x1",
    "decoder": "1x2,4m1,8m4",
    "width": 8,
    "widths": "8:6",
    "latent_channels": 3,
    "latent_channels_at": "4:1,8:0",
    "bottleneck": 0.5,
    "mixtures": 2,
}
QUIET = LoopConfig(progress=False, grid_every=0, log_every=1, checkpoint_every=2)


def tiny(**changes):
    """A model whose prior depends on what was drawn, which that of a fresh one does not."""
    torch.manual_seed(0)
    model = VDVAE(VDVAEConfig(**{**SIZES, **changes}))
    with torch.no_grad():
        for block in model.generator.blocks:
            if block.n_latent:
                block.prior[-1].weight.normal_(0, 0.4)
        for average, network in ((model.ema, model.generator), (model.encoder_ema, model.encoder)):
            average.load_state_dict(network.state_dict())
        if model.sampler is not None:
            model.sampler.load_state_dict(model.generator.state_dict())
    return model


def pictures(n=16, channels=1):
    x = torch.randint(0, 256, (n, channels, 8, 8), generator=torch.Generator().manual_seed(0))
    return x / 127.5 - 1


def train(model, folder, steps=6, **config):
    config = HierarchicalConfig(**{"batch_size": 4, "average": 0.5, **config})
    return run(variational(model, Images.of(pictures()), steps, config), folder, QUIET)


# ---- the logistic mixture --------------------------------------------------------------------------------------------


def mixture(channels=1, k=3, side=2, n=4, seed=0):
    parameters = torch.randn(n, n_parameters(channels, k), side, side, generator=torch.Generator().manual_seed(seed))
    return parameters.double().float() * 1.5


def every_grey():
    """The 256 images of one pixel."""
    return (torch.arange(256) / 127.5 - 1).reshape(256, 1, 1, 1)


@pytest.mark.parametrize("log_scale", [-9.0, -5.0, -1.0, 2.0])
@pytest.mark.parametrize("location", [-1.3, 0.0, 0.99])
def test_the_masses_of_256_values_add_up_to_one(log_scale, location):
    parameters = mixture(n=1, side=1)
    parameters[:, 1::3] += location
    parameters[:, 2::3] = log_scale
    mass = LogisticMixture.of(parameters.expand(256, -1, -1, -1), 1).log_likelihood(every_grey()).exp()
    assert mass.sum().item() == pytest.approx(1, abs=2e-5)
    assert (mass >= 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_likelihood_is_a_difference_of_distribution_functions(channels):
    """In float64, by the logistic distribution's definition, with the ends of the range and the coupling by hand."""
    parameters, k = mixture(channels, n=3), 3
    images = torch.tensor([-1.0, 1.0, 5 / 127.5 - 1]).reshape(3, 1, 1, 1).repeat(1, channels, 2, 2)
    images[:, -1, 0, 0] = 100 / 127.5 - 1
    raw = parameters.double().reshape(3, k, -1, 2, 2)
    weight, x = raw[:, :, 0].softmax(1), images.double()
    mass = weight
    for c in range(channels):
        mean, scale = raw[:, :, 1 + c], raw[:, :, 1 + channels + c].exp()
        ties = raw[:, :, 1 + 2 * channels :].tanh()
        if c == 1:
            mean = mean + ties[:, :, 0] * x[:, None, 0]
        if c == 2:
            mean = mean + ties[:, :, 1] * x[:, None, 0] + ties[:, :, 2] * x[:, None, 1]
        value = x[:, None, c]
        above = torch.where(value == 1, 1.0, ((value + HALF_STEP - mean) / scale).sigmoid())
        below = torch.where(value == -1, 0.0, ((value - HALF_STEP - mean) / scale).sigmoid())
        mass = mass * (above - below)
    expected = mass.sum(1).log().flatten(1).sum(1)
    actual = LogisticMixture.of(parameters, channels).log_likelihood(images)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-4)


def test_a_value_far_from_every_component_has_a_finite_likelihood_and_gradient():
    parameters = mixture(k=1, n=1)
    parameters[:, 1], parameters[:, 2] = 50, -6
    parameters.requires_grad_()
    (likelihood,) = LogisticMixture.of(parameters, 1).log_likelihood(torch.zeros(1, 1, 2, 2))
    likelihood.backward()
    assert likelihood < -1e4
    assert parameters.grad.isfinite().all()
    assert parameters.grad.abs().sum() > 0


def test_the_mean_is_that_of_the_256_values_up_to_rounding():
    parameters = torch.cat([mixture(n=1, side=1, seed=seed) for seed in range(8)])
    for one in parameters.split(1):
        mass = LogisticMixture.of(one.expand(256, -1, -1, -1), 1).log_likelihood(every_grey()).exp()
        expected = (mass * every_grey().flatten()).sum()
        assert LogisticMixture.of(one, 1).mean().item() == pytest.approx(expected.item(), abs=HALF_STEP)


def test_the_mean_of_colours_is_differentiable_and_stays_in_range():
    parameters = (4 * mixture(3)).requires_grad_()
    mean = LogisticMixture.of(parameters, 3).mean()
    assert mean.shape == (4, 3, 2, 2)
    assert mean.abs().max() <= 1
    mean.sum().backward()
    assert parameters.grad.isfinite().all()
    colours = parameters.grad.reshape(4, 3, 10, 2, 2)
    assert (colours.abs().amax((0, 1, 3, 4)) > 0).all(), "weights, locations, scales and couplings all count"


# ---- the hierarchy ---------------------------------------------------------------------------------------------------


def test_kl_against_torch():
    q, p = (Normal(*torch.randn(2, 5, 3, 2, 2, generator=torch.Generator().manual_seed(i))) for i in range(2))
    pair = [distributions.Normal(each.mean, each.log_std.exp()) for each in (q, p)]
    expected = distributions.kl_divergence(*pair).flatten(1).sum(1)
    torch.testing.assert_close(q.kl(p), expected)
    assert q.kl(q).abs().max() < 1e-5


def test_notation():
    config = VDVAEConfig(**SIZES)
    assert config.encoder_steps() == [Step(8, 2), Step(4), Step(4, 4), Step(1)]
    assert config.decoder_steps() == [Step(1), Step(1), Step(4, source=1), Step(8, source=4)]
    assert config.latent_shapes == [(3, 1, 1), (3, 1, 1), (1, 4, 4)]
    assert config.latent_dim == 22
    assert (config.width_at(8), config.width_at(4)) == (6, 8)


def test_the_papers_sizes_have_the_papers_blocks():
    """CIFAR-10's has 39 million parameters."""
    up = "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21"
    down = "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3"
    config = VDVAEConfig(size=32, channels=3, encoder=down, decoder=up, width=384, latent_channels=16)
    assert len(config.latent_shapes) == len(config.decoder_steps()) == 43
    with torch.device("meta"):
        networks = VDVAE(config)
    n = sum(p.numel() for network in (networks.generator, networks.encoder) for p in network.parameters())
    assert 38e6 < n < 40.5e6


@pytest.mark.parametrize("likelihood", ["logistic-mixture", "bernoulli"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(likelihood, channels):
    model = tiny(likelihood=likelihood, channels=channels)
    z = model.sample_latents(3)
    images = model.generate(z, torch.arange(3))
    assert z.shape == model.encode(images).shape == (3, 22)
    assert images.shape == (3, channels, 8, 8)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert isinstance(model, GenerativeModel)
    assert model.discriminator is None
    parameters, kl, latents = infer(model.encoder, model.generator, images)
    assert parameters.shape == (3, channels if likelihood == "bernoulli" else n_parameters(channels, 2), 8, 8)
    assert [each.shape for each in kl] == [(3,)] * 3
    assert latents.shape == (3, 22)


def test_large_sides_start_from_the_state_below():
    model = tiny(size=128, encoder="128d16,8d2,4d4,1x1", decoder="1x2,4m1,128m4", widths="", latent_channels_at="128:0")
    assert list(model.generator.starts) == ["1", "4"]
    assert model.generate(model.sample_latents(2)).shape == (2, 1, 128, 128)


def test_values_are_captured_while_drawing_and_replayed_bit_for_bit():
    noise, values = tiny(), tiny(latents="values")
    eps = noise.sample_latents(6, torch.Generator().manual_seed(3))
    z = values.sample_latents(6, torch.Generator().manual_seed(3))
    assert torch.equal(eps, torch.randn(6, 22, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(eps[:, 3:], z[:, 3:]), "each prior depends on what came before"
    assert torch.equal(noise.generate(eps), values.generate(z))
    assert torch.equal(values.generate(z), values.generate(z, torch.arange(6)))
    again = values.sample_latents(6, torch.Generator().manual_seed(3))
    assert torch.equal(z, again)
    assert not torch.equal(values.generate(z), values.generate(eps))


def test_the_other_kind_of_latents_has_the_same_networks():
    model = tiny()
    other = model.with_latents("values")
    eps = model.sample_latents(4, torch.Generator().manual_seed(1))
    z = other.sample_latents(4, torch.Generator().manual_seed(1))
    assert torch.equal(model.generate(eps), other.generate(z))
    assert generator_sha256(other.with_latents("noise")) == generator_sha256(model)


@pytest.mark.parametrize("latents", ["noise", "values"])
def test_encode_gives_latents_that_replay_the_posteriors_means(latents):
    model, x = tiny(latents=latents), pictures(5)
    expected = model.ema.mean(infer(model.encoder_ema, model.ema, x, sample=False).parameters)
    torch.testing.assert_close(model.generate(model.encode(x)), expected.detach(), atol=1e-5, rtol=1e-4)


def test_truncation_is_the_temperature_of_every_prior():
    model = tiny()
    eps = model.sample_latents(2)
    cold = model.ema.values(0.5 * eps)
    assert torch.equal(model.generate(eps, truncation=0.5), model.with_latents("values").generate(cold.detach()))
    first = model.ema.values(eps)[:, :3] - model.ema.values(0 * eps)[:, :3]
    torch.testing.assert_close(cold[:, :3] - model.ema.values(0 * eps)[:, :3], first / 2)
    with pytest.raises(FastUnlearnError, match=r"truncation needs a model with latents = noise, got 0\.5"):
        tiny(latents="values").generate(eps, truncation=0.5)


@pytest.mark.parametrize("likelihood", ["logistic-mixture", "bernoulli"])
@pytest.mark.parametrize("latents", ["noise", "values"])
def test_the_mean_image_is_differentiable_in_weights_and_latents(likelihood, latents):
    model = tiny(likelihood=likelihood, latents=latents)
    z = model.sample_latents(3).requires_grad_()
    image = model.generator(z)
    gradients = torch.autograd.grad(image.square().sum(), (z, *model.generator.parameters()), allow_unused=True)
    assert gradients[0].isfinite().all()
    assert (gradients[0].abs().amax(0) > 0).all(), "every latent counts"
    assert all(g is None or g.isfinite().all() for g in gradients)
    assert sum(g is None for g in gradients) == 0
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        step = 1e-3
        f = [model.generator(z + s * step * direction).double().square().sum() for s in (1, -1)]
    expected = (f[0] - f[1]).item() / (2 * step)
    assert (gradients[0] * direction).sum().item() == pytest.approx(expected, rel=0.03, abs=0.02)


# ---- its bound -------------------------------------------------------------------------------------------------------


def test_the_terms_are_the_bound_and_their_gradient_is_finite():
    model, x = tiny(), pictures()
    phase = hierarchical_phase("p", model, Images.of(x), 1, HierarchicalConfig(beta=0.5))
    player = phase.players["vdvae"]
    parameters = [*model.generator.parameters(), *model.encoder.parameters()]
    assert {id(p) for p in player.parameters} == {id(p) for p in parameters}
    torch.manual_seed(7)
    terms = player.terms(x)
    torch.manual_seed(7)
    likelihood, kl, _ = infer(model.encoder, model.generator, x)
    reconstruction = -LogisticMixture.of(likelihood, 1).log_likelihood(x).mean() / 64
    torch.testing.assert_close(terms["reconstruction"], reconstruction)
    for i, each in enumerate(kl):
        torch.testing.assert_close(terms[f"kl_{i:02}"], 0.5 * each.mean() / 64)
    assert list(terms) == ["reconstruction", "kl_00", "kl_01", "kl_02", "bits_per_dimension"]
    bits = (reconstruction + sum(each.mean() for each in kl) / 64) / math.log(2)
    torch.testing.assert_close(terms["bits_per_dimension"], bits.detach())
    actual = torch.autograd.grad(sum(terms.values()), parameters, retain_graph=True)
    expected = torch.autograd.grad(reconstruction + 0.5 * sum(each.mean() for each in kl) / 64, parameters)
    for mine, its in zip(actual, expected, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-3)


def test_the_bound_lies_below_the_evidence():
    """With importance sampling of 8,192 latents from the prior as log p(x)."""
    model, x = tiny(likelihood="bernoulli"), (pictures(6) > 0).float() * 2 - 1
    phase = hierarchical_phase("p", model, Images.of(x), 1, HierarchicalConfig())
    with torch.no_grad():
        torch.manual_seed(1)
        bits = torch.stack([phase.players["vdvae"].terms(x)["bits_per_dimension"] for _ in range(100)]).mean()
        bound = -bits * 64 * math.log(2)
        logits = model.generator.descend(8192, model.generator.replay(torch.randn(8192, 22))).flatten(1)
        p_x = distributions.Bernoulli(logits=logits[:, None]).log_prob((x.flatten(1) + 1) / 2).sum(2)
        evidence = (p_x.logsumexp(0) - math.log(8192)).mean()
    assert bound < evidence
    assert evidence - bound < 15, "nor far below, while posterior and prior are alike"


def test_free_nats_make_the_term_the_larger_of_both():
    model, x = tiny(), pictures()
    values = {}
    for free in (0.0, 1e3):
        phase = hierarchical_phase("p", model, Images.of(x), 1, HierarchicalConfig(free_nats=free))
        torch.manual_seed(7)
        values[free] = phase.players["vdvae"].terms(x)
    kl = [key for key in values[0.0] if key.startswith("kl_")]
    assert sum(values[1e3][key] for key in (*kl, "free")).item() == pytest.approx(3 * 1e3 / 64, rel=1e-5)
    assert "free" not in values[0.0]
    assert values[0.0]["bits_per_dimension"] == values[1e3]["bits_per_dimension"]


# ---- training --------------------------------------------------------------------------------------------------------


def test_training_lowers_the_bits_moves_everything_and_averages(tmp_path):
    model = tiny()
    before = {name: {k: t.clone() for k, t in m.state_dict().items()} for name, m in model.modules().items()}
    after = train(model, tmp_path, steps=60, lr=0.01)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    bits = [row["vdvae/bits_per_dimension"] for row in rows]
    assert sum(bits[-10:]) < 0.95 * sum(bits[:10])
    assert all(row["vdvae/gradient_norm"] > 0 and row["vdvae/skipped"] == 0 for row in rows)
    for name, module in after.modules().items():
        assert all(not torch.equal(t, before[name][k]) for k, t in module.state_dict().items()), name
        assert not module.training


def test_the_average_is_one():
    model = tiny()
    start = [p.detach().clone() for p in (*model.ema.parameters(), *model.encoder_ema.parameters())]
    phase = hierarchical_phase("p", model, Images.of(pictures()), 1, HierarchicalConfig(average=0.75, lr=0.1))
    advance(phase, {name: player.optimizer() for name, player in phase.players.items()}, pictures(), 0)
    moved = [*model.generator.parameters(), *model.encoder.parameters()]
    averages = [*model.ema.parameters(), *model.encoder_ema.parameters()]
    for at, average, parameter in zip(start, averages, moved, strict=True):
        torch.testing.assert_close(average, 0.75 * at + 0.25 * parameter)


@pytest.mark.parametrize("latents", ["noise", "values"])
def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(tmp_path, monkeypatch, latents):
    whole = train(tiny(latents=latents), tmp_path / "whole", skip=0.9)
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert rows[1]["vdvae/skipped"] > 0, "a count from before the stop"

    def stopping(phase, optimizers, real, step, precision):
        if step == 5:
            raise KeyboardInterrupt
        return advance(phase, optimizers, real, step, precision)

    monkeypatch.setattr(loop_module, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(latents=latents), tmp_path / "stopped", skip=0.9)
    monkeypatch.setattr(loop_module, "advance", advance)
    resumed = train(tiny(latents=latents), tmp_path / "stopped", skip=0.9)
    for name, network in whole.modules().items():
        assert state_sha256(network.state_dict()) == state_sha256(resumed.modules()[name].state_dict()), name
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "stopped")]
    assert metrics[0] == metrics[1]
    assert torch.equal(*(each.sample_latents(3, torch.Generator().manual_seed(0)) for each in (whole, resumed)))


def test_long_gradients_are_clipped_and_longer_ones_skipped():
    parameter = torch.nn.Parameter(torch.zeros(4))
    guard = GradientGuard(clip=1.0, skip=10.0)
    for norm, followed, left in ((0.5, True, 0.5), (5.0, True, 1.0), (10.0, False, 1.0), (math.nan, False, math.nan)):
        parameter.grad = torch.full((4,), norm / 2)
        assert guard.accepts([parameter]) is followed
        assert parameter.grad.norm().item() == pytest.approx(left, rel=1e-4, nan_ok=True)
        assert guard.values()["gradient_norm"].item() == pytest.approx(norm, nan_ok=True)
    assert guard.values()["skipped"] == 2


def test_a_skipped_step_leaves_weights_and_optimiser_alone():
    model = tiny()
    before = state_sha256(model.generator.state_dict())
    phase = hierarchical_phase("p", model, Images.of(pictures()), 1, HierarchicalConfig(skip=0.0))
    optimizers = {name: player.optimizer() for name, player in phase.players.items()}
    values = advance(phase, optimizers, pictures(), 0)
    assert values["vdvae/skipped"] == 1
    assert state_sha256(model.generator.state_dict()) == before
    assert not optimizers["vdvae"].state
    phase = hierarchical_phase("p", model, Images.of(pictures()), 1, HierarchicalConfig())
    advance(phase, {name: player.optimizer() for name, player in phase.players.items()}, pictures(), 0)
    assert state_sha256(model.generator.state_dict()) != before


# ---- bundles and unlearning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latents", ["noise", "values"])
def test_a_bundle_comes_back_bit_for_bit(tmp_path, latents):
    model = tiny(latents=latents)
    save_bundle(model, tmp_path / "b", {})
    files = {"generator", "generator_ema", "encoder", "encoder_ema"} | ({"sampler"} if latents == "values" else set())
    assert {p.stem for p in (tmp_path / "b").glob("*.safetensors")} == files
    again = load(tmp_path / "b")
    assert again.config == model.config
    assert generator_sha256(again) == generator_sha256(model)
    z, other = (each.sample_latents(2, torch.Generator().manual_seed(0)) for each in (model, again))
    assert torch.equal(z, other)
    assert torch.equal(model.generate(z), again.generate(z))


def bright(model, n=80):
    """Feedback that marks the brighter tenth."""
    z = model.sample_latents(n, torch.Generator().manual_seed(5))
    brightness = model.generate(z).mean((1, 2, 3))
    label = (brightness >= brightness.quantile(0.9)).to(torch.int8)
    return Feedback(z, torch.arange(n), label, None, generator_sha256(model), "person")


@pytest.mark.filterwarnings("ignore::fastunlearn.methods.target_vector.WeakTargetWarning")
@pytest.mark.parametrize("latents", ["noise", "values"])
def test_a_feature_is_unlearned_and_its_bundle_draws_from_the_prior_that_fits(tmp_path, latents):
    model = tiny(likelihood="bernoulli", latents=latents)
    feedback = bright(model)
    method = FeatureUnlearn(FeatureUnlearnConfig(steps=40, batch_size=16, lr=0.01, threshold="pooled", perception=0))
    after = unlearn(model, method, feedback, tmp_path / "run", QUIET)
    z = model.sample_latents(400, torch.Generator().manual_seed(9))
    was, now = (each.generate(z).mean((1, 2, 3)) for each in (model, after))
    line = was.quantile(0.9)
    assert (now >= line).sum() < 0.5 * (was >= line).sum()
    assert generator_sha256(after) != generator_sha256(model)
    save_bundle(after, tmp_path / "b", {})
    stored = load(tmp_path / "b")
    drawn = [each.sample_latents(5, torch.Generator().manual_seed(2)) for each in (model, after, stored)]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]), "of the prior that learned, not of the one that unlearned"
    assert torch.equal(after.generate(drawn[0]), stored.generate(drawn[0]))


@pytest.mark.filterwarnings("ignore::fastunlearn.methods.target_vector.WeakTargetWarning")
@pytest.mark.parametrize(("numbers", "n"), [(2**27, 10_000), (22 * 150, 150), (22, 100)])
def test_fewer_latents_are_described_where_they_are_long(monkeypatch, numbers, n):
    model, drawn = tiny(), []
    sample = model.sample_latents
    monkeypatch.setattr(feature_unlearn, "DESCRIBED_NUMBERS", numbers)
    monkeypatch.setattr(model, "sample_latents", lambda n, generator: (drawn.append(n), sample(n, generator))[1])
    feedback = bright(model)
    drawn.clear()
    next(FeatureUnlearn(FeatureUnlearnConfig(threshold=5.0)).phases(model, feedback))
    assert drawn[0] == n


def test_inspect_counts_the_latents(tmp_path, capsys):
    save_bundle(tiny(), tmp_path / "b", {})
    assert main(["inspect", str(tmp_path / "b")]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, value in (
        ("architecture", "vdvae"),
        ("latent dim", "22"),
        ("decoder", "1x2,4m1,8m4"),
        ("latents", "noise"),
    ):
        assert f"{name:22}{value}" in lines


def test_adversarial_methods_are_refused(tmp_path):
    model = tiny()
    with pytest.raises(FastUnlearnError, match="needs a discriminator, and the model has none"):
        unlearn(model, AdaptThenUnlearn(), bright(model), tmp_path / "run", QUIET)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"encoder": "8x1;4x1"}, r"encoder must be blocks like 16x3 or 16d2, with commas, got '8x1;4x1'"),
        ({"decoder": "1x1,4d2"}, r"decoder must be blocks like 16x3 or 16m2, with commas, got '4d2'"),
        ({"decoder": "1x0"}, "got '1x0'"),
        ({"encoder": "4x1"}, "encoder must go on at 8 pixels, got 4x1"),
        ({"encoder": "8x1,4x1"}, "encoder must go on at 8 pixels, got 4x1"),
        ({"encoder": "8d3"}, "encoder cannot average 8 pixels by 3, got 8d3"),
        ({"decoder": "1x1,8m4"}, "decoder has no state of 4 pixels that 8m4 could take in"),
        ({"decoder": "4x1,8m4,4m8"}, "decoder has no state of 8 pixels that 4m8 could take in"),
        ({"decoder": "1x1,8x1"}, "decoder must reach 8 pixels by 8m1, got 8x1"),
        ({"decoder": "1x1,4m1"}, "decoder must end at 8 pixels, got 4"),
        ({"decoder": "2x1,4m2,8m4"}, "decoder draws latents at 2 pixels, where the encoder has no state"),
        ({"widths": "8=6"}, r"widths must be like 32:16,16:32 \(side:channels\), got '8=6'"),
        ({"widths": "16:6"}, "widths must be >= 1 at a side that has blocks, got 16:6"),
        ({"widths": "8:9"}, "widths must not fall towards smaller sides, got 9 at 8 and 8 at 4"),
        ({"latent_channels_at": "1:0,4:0,8:0"}, "latent_channels must be > 0 in one block at least"),
        ({"bottleneck": -1}, r"bottleneck must be in \[0, inf\], got -1"),
        ({"mixtures": 0}, r"mixtures must be in \[1, inf\], got 0"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(FastUnlearnError, match=message) as error:
        VDVAEConfig(**{**SIZES, "latent_channels_at": "", "widths": "", **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"free_nats": -1}, r"free_nats must be in \[0, inf\], got -1"),
        ({"average": 1.5}, r"average must be in \[0, 1\], got 1.5"),
        ({"skip": -1}, r"skip must be in \[0, inf\], got -1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(FastUnlearnError, match=message):
        HierarchicalConfig(**change)
