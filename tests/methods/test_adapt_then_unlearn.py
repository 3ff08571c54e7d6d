import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from fastunlearn import ops
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, generator_sha256
from fastunlearn.methods import AdaptConfig, AdaptThenUnlearn, AdaptThenUnlearnConfig, unlearn
from fastunlearn.methods.adapt_then_unlearn import Repulsion, with_negatives
from fastunlearn.methods.extrapolation import Extrapolation, ExtrapolationConfig, extrapolated
from fastunlearn.methods.fisher import N_SAMPLES, fisher_information
from fastunlearn.models.stylegan2 import StyleGAN2, StyleGAN2Config
from fastunlearn.training.adversarial import AdversarialConfig
from fastunlearn.training.loop import LoopConfig, stream_seed
from fastunlearn.training.scoring import Score, ScoringConfig, read_records

QUIET = LoopConfig(progress=False, grid_every=0, log_every=1)
GAME = AdversarialConfig(batch_size=4, r1_every=2, path_every=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = StyleGAN2(
        StyleGAN2Config(
            size=8, latent_dim=4, style_dim=4, mapping_layers=1, g_widths=(4, 4), d_widths=(4, 4), stddev_group=2
        )
    )
    with torch.no_grad():  # as after training: the average is not the raw generator
        for p in model.ema.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.fixture(scope="module")
def feedback(model):
    n = 40
    z = model.sample_latents(n, torch.Generator().manual_seed(1))
    label = (torch.arange(n) % 4 == 0).to(torch.int8)
    return Feedback(z, torch.arange(n), label, None, generator_sha256(model), "person")


def config(**changes):
    adapt = AdaptConfig(n_adapted=2, adapt_steps=3, ewc_weight=10.0)
    return replace(AdaptThenUnlearnConfig(adapt=adapt, unlearn_steps=4, game=GAME), **changes)


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("repulsion", ["il2", "nl2", "el2"])
@pytest.mark.parametrize("reduce", ["mean-inside", "per-model"])
@pytest.mark.parametrize("distance", ["l2", "tensor-mse"])
def test_every_variant_runs_and_leaves_the_original_alone(model, feedback, tmp_path, repulsion, reduce, distance):
    before = {name: weights(m) for name, m in model.modules().items()}
    method = AdaptThenUnlearn(config(repulsion=repulsion, reduce=reduce, distance=distance, gamma=0.1))
    after = unlearn(model, method, feedback, tmp_path, QUIET)
    assert all(same(before[name], weights(m)) for name, m in model.modules().items())
    assert not same(weights(after.generator), before["generator"])
    assert not same(weights(after.ema), before["generator_ema"])
    assert after.generate(feedback.z[:2]).isfinite().all()


def test_stages_start_where_the_reference_code_starts_them(model, feedback, monkeypatch, tmp_path):
    starts = {}
    method = AdaptThenUnlearn(config())
    phases = method.phases(model, feedback)
    for _ in range(3):
        phase = next(phases)
        starts[phase.name] = weights(phase.modules["generator"])
        assert same(weights(phase.modules["discriminator"]), weights(model.discriminator))
    assert list(starts) == ["adapt-0", "adapt-1", "unlearn"]
    assert same(starts["adapt-0"], weights(model.ema))
    assert same(starts["adapt-1"], weights(model.ema))
    assert same(starts["unlearn"], weights(model.generator))


def test_each_stage_sees_its_own_images(model, feedback):
    phases = AdaptThenUnlearn(config()).phases(model, feedback)
    adapt, _, stage_2 = next(phases), next(phases), next(phases)
    assert (adapt.data.n, stage_2.data.n) == (10, 30)
    expected = model.generate(feedback.z[feedback.label == 1], feedback.noise_seed[feedback.label == 1])
    torch.testing.assert_close(adapt.data.batch(torch.arange(10)), expected, atol=1e-5, rtol=1e-5)


def test_repulsion_identity_for_k_models(model):
    """mean-inside with nl2 equals the mean of k losses: (1/k) Σ ‖θ − θ_j‖² = ‖θ − θ̄‖² + spread."""
    torch.manual_seed(0)
    parameters = [
        nn.Parameter(torch.randn(7, 3, dtype=torch.float64)),
        nn.Parameter(torch.randn(5, dtype=torch.float64)),
    ]
    adapted = [[torch.randn_like(p) for p in parameters] for _ in range(4)]
    values, gradients = {}, {}
    for reduce in ("mean-inside", "per-model"):
        for distance in ("l2", "tensor-mse"):
            r = Repulsion(parameters, adapted, config(repulsion="nl2", reduce=reduce, distance=distance, gamma=3.0))
            value = r.terms()["repulsion"]
            gradients[reduce, distance] = torch.autograd.grad(value, parameters)
            values[reduce, distance] = value
    by_hand = (
        -3.0
        * sum(sum((p - a).square().sum() for p, a in zip(parameters, anchors, strict=True)) for anchors in adapted)
        / 4
    )
    torch.testing.assert_close(values["per-model", "l2"], by_hand, rtol=1e-13, atol=0)
    for distance in ("l2", "tensor-mse"):
        a, b = (values[reduce, distance] for reduce in ("mean-inside", "per-model"))
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
        for x, y in zip(gradients["mean-inside", distance], gradients["per-model", distance], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)


def test_auto_alpha_is_one_over_the_distance(model):
    parameters = [nn.Parameter(torch.zeros(10))]
    r = Repulsion(parameters, [[torch.full((10,), 2.0)]], config(repulsion="el2", gamma=5.0))
    assert r.alpha == pytest.approx(1 / 40)
    assert r.terms()["repulsion"].item() == pytest.approx(5.0 / 2.718281828, rel=1e-6)


def test_the_penalty_of_stage_1_pulls_back_with_the_papers_gradient(model, feedback):
    """2·λ·ewc_scale·F(θ − θ_G), against autograd, and not zero: the anchor must not move with θ."""
    adapt = AdaptConfig(n_adapted=1, adapt_steps=1, ewc_weight=1e6, ewc_scale=0.5, fisher="few-shot")
    phase = next(AdaptThenUnlearn(config(adapt=adapt)).phases(model, feedback, seed=3))
    g = phase.modules["generator"]
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.01)
    torch.manual_seed(0)
    ewc = phase.players["g"].terms(torch.zeros(4, 1, 8, 8))["ewc"]
    gradient = torch.autograd.grad(ewc, list(g.parameters()))
    fisher = fisher_information("few-shot", model, model.ema, feedback, seed=3)
    anchors = dict(model.ema.named_parameters())
    for (name, p), actual in zip(g.named_parameters(), gradient, strict=True):
        torch.testing.assert_close(actual, 1e6 * fisher[name] * (p - anchors[name]).detach(), rtol=1e-4, atol=1e-8)
    assert max(x.abs().max() for x in gradient) > 0


def test_fisher_variants_against_autograd_by_hand(model, feedback):
    names = [name for name, _ in model.ema.named_parameters()]
    f = {kind: fisher_information(kind, model, model.ema, feedback, 5) for kind in ("atu", "few-shot", "bce-undesired")}
    assert list(f["atu"]) == [name for name in names if name.startswith("convs.")]
    assert list(f["few-shot"]) == list(f["bce-undesired"]) == names
    for values in f.values():
        assert all((v >= 0).all() and not v.requires_grad for v in values.values())
        assert sum(v.sum() for v in values.values()) > 0
    # Without noise the estimate can be written down: the batch gradient squared.
    quiet = _without_noise(model)
    torch.manual_seed(stream_seed(5, "fisher"))
    z = quiet.sample_latents(N_SAMPLES)
    parameters = list(quiet.ema.parameters())
    loss = nn.functional.softplus(-quiet.discriminator(quiet.ema(z))).mean()
    by_hand = [g.square() for g in torch.autograd.grad(loss, parameters, materialize_grads=True)]
    actual = fisher_information("few-shot", quiet, quiet.ema, feedback, 5)
    for expected, (name, value) in zip(by_hand, actual.items(), strict=True):
        if not name.endswith("noise_strength"):  # its gradient is the noise
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-9)
    per_sample = [torch.zeros_like(p) for p in parameters]
    for i in range(N_SAMPLES):
        gradients = torch.autograd.grad(
            quiet.discriminator(quiet.ema(z[i : i + 1])).sum(), parameters, materialize_grads=True
        )
        for total, g in zip(per_sample, gradients, strict=True):
            total += g.square() / N_SAMPLES
    actual = fisher_information("atu", quiet, quiet.ema, feedback, 5)
    for name, expected in zip(names, per_sample, strict=True):
        if name in actual and not name.endswith("noise_strength"):
            torch.testing.assert_close(actual[name], expected, rtol=1e-3, atol=1e-9)


def _without_noise(model):
    quiet = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (quiet.ema.conv1, *quiet.ema.convs):
            layer.noise_strength.zero_()
    return quiet


def test_curated_data_needs_no_latents_but_one_fisher_does(model, tmp_path):
    n = 15
    image = torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    label = (torch.arange(n) % 3 == 0).to(torch.int8)
    curated = Feedback(torch.empty(n, 0), torch.zeros(n, dtype=torch.int64), label, image, "", "curated")
    unlearn(model, AdaptThenUnlearn(config()), curated, tmp_path / "a", QUIET)
    bce = config(adapt=AdaptConfig(n_adapted=1, adapt_steps=1, fisher="bce-undesired"))
    with pytest.raises(FastUnlearnError, match="bce-undesired needs the latents"):
        unlearn(model, AdaptThenUnlearn(bce), curated, tmp_path / "b", QUIET)


def test_feedback_of_another_generator_is_refused(model, feedback, tmp_path):
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.ema.parameters()).add_(1)
    with pytest.raises(FastUnlearnError, match="use that generator or label"):
        unlearn(other, AdaptThenUnlearn(config()), feedback, tmp_path, QUIET)


def test_nothing_undesired_is_refused(model, feedback, tmp_path):
    nothing = replace(feedback, label=torch.zeros_like(feedback.label))
    with pytest.raises(FastUnlearnError, match="no undesired samples"):
        unlearn(model, AdaptThenUnlearn(config()), nothing, tmp_path, QUIET)


def test_extrapolation_moves_along_the_line_and_back(model, feedback, tmp_path):
    adapt = AdaptConfig(n_adapted=2, adapt_steps=2)
    results = {
        scale: unlearn(
            model, Extrapolation(ExtrapolationConfig(scale=scale, adapt=adapt, game=GAME)), feedback, tmp_path, QUIET
        )
        for scale in (0.0, 1.0, -0.5)
    }
    start, end = weights(model.ema), weights(results[1.0].ema)
    assert same(weights(results[0.0].ema), start)
    assert not same(start, end)
    for moved, a, b in zip(weights(results[-0.5].ema), start, end, strict=True):
        torch.testing.assert_close(moved, a - 0.5 * (b - a))
    generator = copy.deepcopy(model.ema)
    with extrapolated(generator, [end], -2.0):
        assert not same(weights(generator), start)
    assert same(weights(generator), start)


def test_el2_too_narrow_for_the_distance_says_so():
    parameters = [nn.Parameter(torch.zeros(1000))]
    r = Repulsion(parameters, [[torch.full((1000,), 3.0)]], config(repulsion="el2", alpha=1.0))
    with pytest.warns(RuntimeWarning, match="underflow"):
        r.terms()
    assert ops.largest_alpha(9000.0) < 1.0


def test_negatives_take_the_place_of_generated_images_with_their_share(model, feedback):
    torch.manual_seed(0)
    undesired, fake = feedback.images(model, undesired=True), torch.full((4000, 1, 8, 8), 9.0)
    shown = with_negatives(undesired, 0.3, fake)
    replaced = (shown[:, None] == undesired[None]).flatten(2).all(dim=2).any(dim=1)
    assert abs(replaced.float().mean().item() - 0.3) < 0.03
    assert (shown[~replaced] == 9).all()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_discriminator_is_shown_negatives_only_in_stage_2_and_only_if_asked(model, feedback, share):
    undesired, met = feedback.images(model, undesired=True), []
    for phase in AdaptThenUnlearn(config(negatives=share)).phases(model, feedback):
        batches = []
        seen = phase.modules["discriminator"].register_forward_pre_hook(lambda _, x, to=batches: to.append(x[0]))
        phase.players["d"].terms(torch.zeros(8, 1, 8, 8))
        seen.remove()
        met.append((batches[1][:, None] == undesired[None]).flatten(2).all(dim=2).any().item())
    assert met == [False, False, share > 0]


class Sequence:
    """A scorer whose FID after the steps of stage 2 is given, and who counts whom it has looked at."""

    def __init__(self, model, fids):
        self.original, self.fids, self.seen = model, list(fids), []

    def score(self, after, before=None):
        assert before is self.original

        def measure():
            self.seen.append(weights(after().ema))
            return {"fid": self.fids[len(self.seen) - 1]}

        return Score(measure, 10, lambda: {"fid": 1.0}, lambda now, before: (0, now["fid"]), ("lowest fid",))


def test_stage_2_is_scored_by_its_averaged_generator_and_keeps_the_best(model, feedback, tmp_path):
    scorer = Sequence(model, [5.0, 2.0, 3.0, 4.0])
    loop = replace(QUIET, scoring=ScoringConfig(score_every=1, keep="best"))
    after = unlearn(model, AdaptThenUnlearn(config()), feedback, tmp_path, loop, scorer)
    assert len(scorer.seen) == 4
    assert same(weights(after.ema), scorer.seen[1])
    assert list(read_records(tmp_path)) == ["unlearn"]
    unscored = unlearn(model, AdaptThenUnlearn(config()), feedback, tmp_path / "unscored", QUIET)
    assert same(weights(unscored.ema), scorer.seen[3])


def test_deciding_by_scores_that_nobody_takes_is_refused(model, feedback, tmp_path):
    for scoring in (ScoringConfig(keep="best"), ScoringConfig(patience=1)):
        loop = replace(QUIET, scoring=scoring)
        with pytest.raises(FastUnlearnError, match="need scores, and no scorer is given"):
            unlearn(model, AdaptThenUnlearn(config()), feedback, tmp_path, loop)
        with pytest.raises(FastUnlearnError, match="need scores, and extrapolation has no phase to score"):
            unlearn(model, Extrapolation(), feedback, tmp_path, loop, Sequence(model, []))
