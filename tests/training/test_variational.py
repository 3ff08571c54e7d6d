"""The evidence lower bound: by hand, against torch.distributions and on a model whose evidence is known."""

import json
import math

import pytest
import torch
from torch import distributions

from fastunlearn.errors import FastUnlearnError
from fastunlearn.files import state_sha256
from fastunlearn.models.vae import VAE, VAEConfig
from fastunlearn.training import loop as loop_module
from fastunlearn.training.loop import Images, LoopConfig, run
from fastunlearn.training.pretraining import variational
from fastunlearn.training.variational import (
    VariationalConfig,
    bernoulli_loss,
    gaussian_loss,
    normal_kl,
    variational_phase,
)

SIZES = {"size": 8, "latent_dim": 3, "g_widths": (6,), "e_widths": (6,)}
QUIET = LoopConfig(progress=False, grid_every=0, log_every=1, checkpoint_every=2)


def tiny():
    torch.manual_seed(0)
    return VAE(VAEConfig(**SIZES))


def images():
    return torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).tanh()


def halves():
    """One half white, the other black."""
    left = torch.arange(8).expand(1, 8, 8) < 4
    return torch.stack([left ^ bool(i % 2) for i in range(16)]).float() * 2 - 1


def train(model, folder, steps=6, data=None, **config):
    data = Images.of(images() if data is None else data)
    return run(variational(model, data, steps, VariationalConfig(batch_size=4, **config)), folder, QUIET)


# ---- its terms by hand -----------------------------------------------------------------------------------------------


def test_bernoulli_by_hand():
    logits = torch.tensor([0.0, math.log(3.0)]).reshape(1, 1, 1, 2)  # p = 1/2 and 3/4
    black_and_white = torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2)
    assert bernoulli_loss(logits, black_and_white).item() == pytest.approx(math.log(2) + math.log(4 / 3))
    grey = torch.zeros(1, 1, 1, 2)
    expected = math.log(2) - (math.log(3 / 4) + math.log(1 / 4)) / 2
    assert bernoulli_loss(logits, grey).item() == pytest.approx(expected)
    both = torch.cat([black_and_white, grey])
    mean = (math.log(2) + math.log(4 / 3) + expected) / 2
    assert bernoulli_loss(logits.expand(2, -1, -1, -1), both).item() == pytest.approx(mean), "a mean over images"


def test_gaussian_by_hand_and_no_other_variance_is_likelier():
    logits = torch.zeros(1, 1, 1, 2)  # p = 1/2
    x = torch.tensor([-0.2, 0.6]).reshape(1, 1, 1, 2)  # 0.4 and 0.8: squared errors 0.01 and 0.09
    assert gaussian_loss(logits, x).item() == pytest.approx(math.log(2 * math.pi * 0.05) + 1)
    best = gaussian_loss(logits, x).item()
    for variance in (0.03, 0.05, 0.08):
        density = distributions.Normal(torch.full((2,), 0.5), math.sqrt(variance)).log_prob(torch.tensor([0.4, 0.8]))
        assert -density.sum().item() >= best - 1e-6


def test_kl_by_hand_and_against_torch():
    mean, log_variance = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, math.log(2.0)], [0.0, 0.0]])
    # ½(1 + 1 − 0 − 1) + ½(2 − log 2 − 1) for the first, 0 for the second sample.
    assert normal_kl(mean, log_variance).item() == pytest.approx((0.5 + (1 - math.log(2)) / 2) / 2)
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    posterior = distributions.Normal(mean, (log_variance / 2).exp())
    expected = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(normal_kl(mean, log_variance), expected)


def test_the_bound_lies_below_the_evidence():
    """With importance sampling of 4,096 latents as log p(x), on the model as it is after a short training."""
    model = tiny()
    phase = variational_phase("p", model, Images.of(images()), 1, VariationalConfig(batch_size=16))
    torch.manual_seed(1)
    x = images()
    bound = -torch.stack([sum(phase.players["vae"].terms(x).values()) for _ in range(200)]).mean()
    with torch.no_grad():
        z = torch.randn(4096, 3)
        logits = model.generator.logits(z).flatten(1)
        p_x = distributions.Bernoulli(logits=logits[:, None], validate_args=False).log_prob((x.flatten(1) + 1) / 2)
        evidence = (p_x.sum(2).logsumexp(0) - math.log(4096)).mean()
    assert bound < evidence
    assert evidence - bound < 3, "nor far below, while posterior and prior are alike"


# ---- the phase -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_terms_are_the_formula_and_their_gradient_is_its(likelihood, beta):
    model, x = tiny(), images()
    config = VariationalConfig(likelihood=likelihood, beta=beta)
    phase = variational_phase("p", model, Images.of(x), 1, config)
    torch.manual_seed(7)
    terms = phase.players["vae"].terms(x)
    parameters = phase.players["vae"].parameters
    assert {id(p) for p in parameters} == {id(p) for m in model.modules().values() for p in m.parameters()}
    actual = torch.autograd.grad(sum(terms.values()), parameters)
    torch.manual_seed(7)
    mean, log_variance = model.encoder(x)
    posterior = distributions.Normal(mean, (log_variance / 2).exp())
    p = (model.generator(mean + posterior.scale * torch.randn(16, 3)) + 1) / 2
    target = (x + 1) / 2
    if likelihood == "bernoulli":
        reconstruction = -(target * p.log() + (1 - target) * (1 - p).log()).sum() / 16
    else:
        sigma = (p - target).square().mean().sqrt()
        reconstruction = -distributions.Normal(p, sigma).log_prob(target).sum() / 16
    kl = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0)).sum() / 16
    torch.testing.assert_close(terms["reconstruction"], reconstruction)
    torch.testing.assert_close(terms["kl"], beta * kl)
    expected = torch.autograd.grad(reconstruction + beta * kl, parameters)
    for mine, its in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, its, atol=2e-4, rtol=1e-3)


def test_training_lowers_the_loss_moves_everything_and_ends_in_evaluation_mode(tmp_path):
    model = tiny()
    before = {name: {k: t.clone() for k, t in m.state_dict().items()} for name, m in model.modules().items()}
    after = train(model, tmp_path, steps=60, data=halves(), lr=0.01)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["vae/reconstruction"] + row["vae/kl"] for row in rows]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    for name, module in after.modules().items():
        assert all(not torch.equal(t, before[name][k]) for k, t in module.state_dict().items()), name
        assert not module.training


def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(tmp_path, monkeypatch):
    whole = train(tiny(), tmp_path / "whole")
    advance = loop_module.advance

    def stopping(phase, optimizers, real, step, precision):
        if step == 5:
            raise KeyboardInterrupt
        return advance(phase, optimizers, real, step, precision)

    monkeypatch.setattr(loop_module, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "stopped")
    monkeypatch.setattr(loop_module, "advance", advance)
    resumed = train(tiny(), tmp_path / "stopped")
    for name, network in whole.modules().items():
        assert state_sha256(network.state_dict()) == state_sha256(resumed.modules()[name].state_dict()), name


def test_a_run_with_another_loss_does_not_continue_this_one(tmp_path):
    train(tiny(), tmp_path)
    with pytest.raises(FastUnlearnError, match="settings"):
        train(tiny(), tmp_path, beta=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": -1}, r"beta must be in \[0, inf\], got -1"),
        ({"batch_size": 0}, r"batch_size must be in \[1, inf\], got 0"),
        ({"lr_decay": 1.5}, r"lr_decay must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(FastUnlearnError, match=message):
        VariationalConfig(**change)
