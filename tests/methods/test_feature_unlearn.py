import copy
import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from fastunlearn import load, ops
from fastunlearn.data import ImageDataset
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, curated_feedback, generator_sha256, label_with_morphology
from fastunlearn.methods import Extrapolation, FeatureUnlearn, FeatureUnlearnConfig, unlearn
from fastunlearn.methods.feature_unlearn import losses, similarity
from fastunlearn.methods.target_vector import (
    Target,
    WeakTargetWarning,
    cross_fitted_projections,
    erased,
    noise_length,
    target_vector,
)
from fastunlearn.metrics import roc_auc
from fastunlearn.models.stylegan2 import StyleGAN2, StyleGAN2Config
from fastunlearn.training.loop import LoopConfig

QUIET = LoopConfig(progress=False, grid_every=0, log_every=1, checkpoint_every=5)
EPS = torch.finfo(torch.float32).eps


class Ceilings(nn.Module):
    """Pixel j of the image is min(z_j, c_j). Without what lies beyond t along e_j: c_j = t, all else as it was."""

    def __init__(self, d):
        super().__init__()
        self.ceiling = nn.Parameter(torch.full((d,), 1.5))

    def forward(self, z):
        return torch.minimum(z, self.ceiling).view(len(z), 1, 2, -1)


class CeilingModel:
    discriminator = ema = None
    latent_dim = 4
    image_shape = (1, 2, 2)

    def __init__(self):
        self.generator = Ceilings(4)

    def sample_latents(self, n, generator=None):
        return torch.randn(n, 4, generator=generator)

    @torch.no_grad()
    def generate(self, z, noise_seed=None):
        return self.generator(z)


def marks(model, axis, n=400, seed=0, threshold=1.0):
    """Feedback that marks z_axis ≥ threshold. Mirrored in all other coordinates, so that z_e is along `axis` alone."""
    z = torch.randn(n, model.latent_dim, generator=torch.Generator().manual_seed(seed))
    mirrored = -z
    mirrored[:, axis] = z[:, axis]
    z = torch.cat([z, mirrored])
    label = (z[:, axis] >= threshold).to(torch.int8)
    return Feedback(z, torch.arange(len(z)), label, None, generator_sha256(model), "person")


def random_target(d, length, threshold=0.4):
    vector = torch.randn(d, generator=torch.Generator().manual_seed(d))
    return Target(vector / vector.norm() * length, threshold)


def in_float64(z, target):
    vector = target.vector.double()
    return z.double() @ vector / vector.norm()


@pytest.mark.parametrize("d", [2, 32, 512])
@pytest.mark.parametrize("length", [0.5, 3.0])
def test_exact_lands_on_the_threshold_and_margin_before_it(d, length):
    target, z = random_target(d, length), torch.randn(2000, d, generator=torch.Generator().manual_seed(1))
    moved, shown = erased(z, [target], "exact", 0.0)
    assert 500 < shown.sum() < 900
    assert torch.equal(moved[~shown], z[~shown])
    miss = (in_float64(moved, target) - target.threshold).abs()[shown]
    assert (miss <= 16 * EPS * z.norm(dim=1)[shown]).all()
    early = in_float64(erased(z, [target], "margin", 0.7)[0], target)[shown]
    assert (early - (target.threshold - 0.7)).abs().max() < 1e-5


@pytest.mark.parametrize("length", [0.5, 3.0])
def test_the_printed_shift_overshoots_a_long_target_and_undershoots_a_short_one(length):
    target, z = random_target(32, length), torch.randn(2000, 32, generator=torch.Generator().manual_seed(1))
    moved, shown = erased(z, [target], "paper", 0.0)
    before, landing = in_float64(z, target)[shown], in_float64(moved, target)[shown]
    printed = target.threshold - (length - 1) * (before - target.threshold)
    torch.testing.assert_close(landing, printed, atol=1e-5, rtol=0)
    beyond = landing[before > target.threshold + 1e-3] - target.threshold
    assert (beyond < 0).all() if length > 1 else (beyond > 0).all()


def test_thresholds():
    feedback = marks(CeilingModel(), axis=2)
    undesired = feedback.label == 1
    vector = feedback.z[undesired].mean(0) - feedback.z[~undesired].mean(0)
    pooled = (feedback.z @ vector / vector.norm()).mean().item()
    assert Target.of(feedback, "pooled").threshold == pytest.approx(pooled, abs=1e-5)
    assert Target.of(feedback, 0.25).threshold == 0.25
    torch.testing.assert_close(Target.of(feedback, 0.25).vector, vector, atol=1e-5, rtol=0)
    # The vector is e_2 whatever is left out, up to the noise of the rest: undesired mean 1.53, desired −0.29.
    assert Target.of(feedback, "midpoint").threshold == pytest.approx(0.62, abs=0.06)


def test_cross_fitting_leaves_each_sample_out_of_its_own_vector():
    feedback = marks(CeilingModel(), axis=0, n=15, threshold=0.5)
    undesired = feedback.label == 1
    projected = cross_fitted_projections(feedback.z, undesired)
    folds = min(10, int(undesired.sum()), int((~undesired).sum()))
    assert folds == 10
    for i in (0, 7, 20, 29):
        alike = (undesired == undesired[i]).nonzero().flatten().tolist()
        place = alike.index(i) + 1
        other = (undesired != undesired[i]).nonzero().flatten().tolist()
        out = [j for k, j in enumerate(alike, 1) if k % folds == place % folds]
        out += [j for k, j in enumerate(other, 1) if k % folds == place % folds]
        rest = torch.tensor([j for j in range(30) if j not in out])
        vector = target_vector(feedback.z[rest], undesired[rest])
        expected = feedback.z[i].double() @ vector / vector.norm()
        torch.testing.assert_close(projected[i], expected)


def test_labels_at_random_separate_in_sample_only():
    z = torch.randn(500, 256, generator=torch.Generator().manual_seed(0))
    undesired = torch.arange(500) % 10 == 0
    vector = target_vector(z, undesired)
    in_sample = roc_auc(z.double() @ vector, undesired).value
    assert in_sample > 0.95
    assert abs(roc_auc(cross_fitted_projections(z, undesired), undesired).value - 0.5) < 0.12


def test_a_decoder_of_which_the_answer_is_known(tmp_path):
    model, feedback = CeilingModel(), marks(CeilingModel(), axis=1)
    config = FeatureUnlearnConfig(threshold=0.3, shift="exact", perception=0, steps=400, lr=0.01, lr_decay=1.0)
    after = unlearn(model, FeatureUnlearn(config), feedback, tmp_path, QUIET)
    expected = torch.tensor([1.5, 0.3, 1.5, 1.5])
    torch.testing.assert_close(after.generator.ceiling.detach(), expected, atol=5e-3, rtol=0)
    assert (model.generator.ceiling == 1.5).all()
    assert after.ema is None
    facts = json.loads((tmp_path / "facts.json").read_text())["unlearn"]
    (feature,) = facts["features"]
    assert feature["flagged_share"] == pytest.approx(0.382, abs=0.015)  # 1 − Φ(0.3)
    assert feature["landing"]["mean"] == pytest.approx(0.3, abs=1e-6)
    assert feature["landing"]["max"] - feature["landing"]["min"] < 1e-5
    assert feature["roc_auc"]["value"] > 0.99
    assert feature["target_length"] == pytest.approx(target_vector(feedback.z, feedback.label == 1).norm().item())
    assert not facts["generator_normalises_latents"]


def test_what_is_recorded_of_the_printed_shift(tmp_path):
    feedback = marks(CeilingModel(), axis=1)
    method = FeatureUnlearn(FeatureUnlearnConfig(threshold="pooled", shift="paper", steps=1))
    unlearn(CeilingModel(), method, feedback, tmp_path, QUIET)
    (feature,) = json.loads((tmp_path / "facts.json").read_text())["unlearn"]["features"]
    length, t = feature["target_length"], feature["threshold"]
    assert length > 1.5
    assert feature["flagged_share"] == pytest.approx(math.erfc(t / math.sqrt(2)) / 2, abs=0.02)
    assert feature["flagged_share"] > 0.4  # four times as many as were marked
    mean_beyond = math.exp(-t * t / 2) / math.sqrt(2 * math.pi) / feature["flagged_share"] - t  # of a normal tail
    assert feature["landing"]["mean"] == pytest.approx(t - (length - 1) * mean_beyond, abs=0.04)
    assert feature["landing"]["min"] < t - 2


def test_two_features_at_once(tmp_path):
    model = CeilingModel()
    feedbacks = [marks(model, axis=0), marks(model, axis=3, seed=1)]
    config = FeatureUnlearnConfig(threshold=0.2, shift="exact", perception=0, steps=500, lr=0.01, lr_decay=1.0)
    after = unlearn(model, FeatureUnlearn(config), feedbacks, tmp_path, QUIET)
    expected = torch.tensor([0.2, 1.5, 1.5, 0.2])
    torch.testing.assert_close(after.generator.ceiling.detach(), expected, atol=0.01, rtol=0)
    assert len(json.loads((tmp_path / "facts.json").read_text())["unlearn"]["features"]) == 2


def test_two_features_one_after_the_other_and_the_first_stays_forgotten(tmp_path):
    config = FeatureUnlearnConfig(threshold=0.2, shift="exact", perception=0, steps=400, lr=0.01, lr_decay=1.0)
    first = unlearn(CeilingModel(), FeatureUnlearn(config), marks(CeilingModel(), 0), tmp_path / "1", QUIET)
    second = unlearn(first, FeatureUnlearn(config), marks(first, 3), tmp_path / "2", QUIET)
    z = CeilingModel().sample_latents(5000, torch.Generator().manual_seed(3))
    for model, forgotten in ((first, [True, False, False, False]), (second, [True, False, False, True])):
        image = model.generate(z).flatten(1)
        assert ((image > 0.25).float().mean(0) == 0).tolist() == forgotten


def test_oblique_targets_accept_where_they_send_latents():
    """Two vectors 45 degrees apart: what one shift undoes of the other, the next rounds repair."""
    a, b = Target(torch.tensor([1.0, 0.0]), 0.2), Target(torch.tensor([-1.0, 1.0]), 0.1)
    z = 2 * torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
    moved, shown = erased(z, [a, b], "exact", 0.0)
    assert torch.equal(shown, (in_float64(z, a) >= 0.2) | (in_float64(z, b) >= 0.1))
    assert torch.equal(moved[~shown], z[~shown])
    for target in (a, b):
        assert in_float64(moved, target).max() < target.threshold + 1e-3
    once, _ = erased(erased(z, [a], "exact", 0.0)[0], [b], "exact", 0.0)
    assert max(in_float64(once, t).max() - t.threshold for t in (a, b)) > 0.5  # what a single round leaves


@pytest.mark.parametrize("l1", ["mean", "sum"])
@pytest.mark.parametrize("average", ["batch", "mask"])
def test_losses_by_hand(l1, average):
    rng = torch.Generator().manual_seed(0)
    image, aim = (torch.rand(5, 1, 16, 16, generator=rng) * 2 - 1 for _ in range(2))
    shown = torch.tensor([True, False, False, True, False])
    config = FeatureUnlearnConfig(alpha=3.0, perception=0.5, reconstruction=0.25, l1=l1, average=average)
    terms = losses(image, aim, shown, config)
    pixels = 1 if l1 == "sum" else 256
    distance = [(image[i] - aim[i]).abs().sum().item() / pixels for i in range(5)]
    unlike = [1 - ops.ms_ssim((image[[i]] + 1) / 2, (aim[[i]] + 1) / 2, 1, weights=[1]).item() for i in range(5)]
    of_shown, of_rest = (5, 5) if average == "batch" else (2, 3)
    assert terms["unlearn"].item() == pytest.approx(3 * (distance[0] + distance[3]) / of_shown, rel=1e-5)
    assert terms["perception"].item() == pytest.approx(1.5 * (unlike[0] + unlike[3]) / of_shown, rel=1e-5)
    expected = 0.25 * (distance[1] + distance[2] + distance[4]) / of_rest
    assert terms["reconstruction"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("average", ["batch", "mask"])
@pytest.mark.parametrize("shown", [[False] * 3, [True] * 3])
def test_a_batch_with_all_or_none_flagged_has_a_finite_gradient(average, shown):
    image = torch.rand(3, 1, 32, 32).requires_grad_()
    terms = losses(image, torch.full((3, 1, 32, 32), -1.0), torch.tensor(shown), FeatureUnlearnConfig(average=average))
    sum(terms.values()).backward()
    assert image.grad.isfinite().all()
    assert all(term.isfinite() for term in terms.values())
    assert (terms["unlearn"] == 0) == (not any(shown))
    assert (terms["reconstruction"] == 0) == all(shown)


def test_parts_of_the_objective_can_be_left_out():
    image, aim, shown = torch.rand(2, 1, 16, 16), torch.zeros(2, 1, 16, 16), torch.tensor([True, False])
    config = FeatureUnlearnConfig(perception=0, reconstruction=0)
    assert list(losses(image, aim, shown, config)) == ["unlearn"]


@pytest.mark.parametrize(
    ("side", "scales"), [(11, 1), (20, 1), (21, 2), (32, 2), (64, 3), (128, 4), (161, 5), (256, 5)]
)
def test_scales_of_ms_ssim_that_fit(side, scales):
    rng = torch.Generator().manual_seed(0)
    image, aim = (torch.rand(2, 1, side, side, generator=rng) * 2 - 1 for _ in range(2))
    weights = torch.tensor(ops.MS_SSIM_WEIGHTS[:scales], dtype=torch.float64)
    expected = ops.ms_ssim(
        (image + 1) / 2, (aim + 1) / 2, 1, size_average=False, weights=(weights / weights.sum()).tolist()
    )
    torch.testing.assert_close(similarity(image, aim), expected)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 8, 10])
def test_small_images_have_a_small_window(side):
    image = torch.rand(2, 3, side, side + 1)
    torch.testing.assert_close(similarity(image, image), torch.ones(2))
    assert (similarity(image, -image) < 1).all()


@pytest.fixture(scope="module")
def stylegan():
    torch.manual_seed(0)
    sizes = {"size": 8, "latent_dim": 4, "style_dim": 4, "mapping_layers": 1, "g_widths": (4, 4), "d_widths": (4, 4)}
    model = StyleGAN2(StyleGAN2Config(**sizes))
    with torch.no_grad():  # as after training: noise counts, and the average is not the raw generator
        for name, p in [*model.generator.named_parameters(), *model.ema.named_parameters()]:
            p.add_(0.3 * torch.randn_like(p) if "noise" in name else 0.05 * torch.randn_like(p))
    return model


def test_both_generators_see_the_same_noise(stylegan, tmp_path):
    """Before the first step g is f, so the images of the same latents are the same, noise and all."""
    method = FeatureUnlearn(FeatureUnlearnConfig(threshold=0.0, steps=1, lr=0.0))
    unlearn(stylegan, method, marks(stylegan, axis=0), tmp_path, QUIET)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert row["g/reconstruction"] < 1e-7
    assert row["g/unlearn"] > 1e-3


def test_a_gan_keeps_its_discriminator_and_the_original_its_weights(stylegan, tmp_path):
    before = {name: copy.deepcopy(m.state_dict()) for name, m in stylegan.modules().items()}
    method = FeatureUnlearn(FeatureUnlearnConfig(steps=3))
    after = unlearn(stylegan, method, marks(stylegan, axis=0), tmp_path, QUIET)
    for name, module in stylegan.modules().items():
        assert all(torch.equal(before[name][key], value) for key, value in module.state_dict().items())
    assert after.discriminator is stylegan.discriminator
    assert generator_sha256(after) != generator_sha256(stylegan)
    z = stylegan.sample_latents(3)
    assert not torch.equal(after.generate(z), stylegan.generate(z))
    assert json.loads((tmp_path / "facts.json").read_text())["unlearn"]["generator_normalises_latents"]


def test_a_run_that_was_stopped_ends_with_the_same_weights(stylegan, tmp_path, monkeypatch):
    from fastunlearn.training import loop

    method, feedback = FeatureUnlearn(FeatureUnlearnConfig(steps=12)), marks(stylegan, axis=0)
    whole = unlearn(stylegan, method, feedback, tmp_path / "whole", QUIET)
    advance = loop.advance

    def stop_at_seven(phase, optimizers, real, step, precision="float32"):
        if step == 7:
            raise KeyboardInterrupt
        return advance(phase, optimizers, real, step, precision)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "advance", stop_at_seven)
        with pytest.raises(KeyboardInterrupt):
            unlearn(stylegan, method, feedback, tmp_path / "cut", QUIET)
    assert generator_sha256(unlearn(stylegan, method, feedback, tmp_path / "cut", QUIET)) == generator_sha256(whole)
    other = FeatureUnlearn(replace(method.config, alpha=2.0))
    with pytest.raises(FastUnlearnError, match="another settings"):
        unlearn(stylegan, other, feedback, tmp_path / "cut", QUIET)


def test_labels_at_random_are_warned_of(tmp_path):
    model = CeilingModel()
    feedback = marks(model, axis=0)
    chance = replace(feedback, label=(torch.arange(len(feedback)) % 10 == 0).to(torch.int8))
    assert noise_length(chance) == pytest.approx(math.sqrt(4 * (1 / 80 + 1 / 720)), rel=0.1)
    with pytest.warns(WeakTargetWarning, match=r"labels at random would give about 0\.2\d: .* more than 80 undesired"):
        unlearn(model, FeatureUnlearn(FeatureUnlearnConfig(steps=0)), chance, tmp_path / "chance", QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearn(model, FeatureUnlearn(FeatureUnlearnConfig(steps=0)), feedback, tmp_path / "real", QUIET)


def test_a_printed_shift_that_stops_short_is_warned_of(tmp_path):
    model = CeilingModel()
    feedback = marks(model, axis=0, n=2000)
    shrunk = replace(feedback, z=feedback.z / 3)
    method = FeatureUnlearn(FeatureUnlearnConfig(shift="paper", steps=0))
    with pytest.warns(WeakTargetWarning, match="stops short of the threshold"):
        unlearn(model, method, shrunk, tmp_path, QUIET)


def test_refusals(stylegan, tmp_path):
    model = CeilingModel()
    feedback = marks(model, axis=0)
    method = FeatureUnlearn(FeatureUnlearnConfig(steps=1))
    for label, message in ((0, "no undesired"), (1, "no desired")):
        with pytest.raises(FastUnlearnError, match=message):
            unlearn(model, method, replace(feedback, label=torch.full_like(feedback.label, label)), tmp_path, QUIET)
    three = Feedback(
        feedback.z[:3],
        feedback.noise_seed[:3],
        torch.tensor([1, 0, 0], dtype=torch.int8),
        None,
        feedback.generator_sha256,
        "person",
    )
    with pytest.raises(FastUnlearnError, match="1 undesired samples among 3, at least 5 needed"):
        unlearn(model, method, three, tmp_path, QUIET)
    other = CeilingModel()
    other.generator.ceiling.data += 1
    with pytest.raises(FastUnlearnError, match="labels images of generator"):
        unlearn(other, method, feedback, tmp_path, QUIET)
    with pytest.raises(FastUnlearnError, match="extrapolation takes one feedback, got 2"):
        unlearn(stylegan, Extrapolation(), [marks(stylegan, axis=0)] * 2, tmp_path, QUIET)
    with pytest.raises(FastUnlearnError, match="feature-unlearn takes one feedback, got 0"):
        unlearn(model, method, [], tmp_path, QUIET)
    images = ImageDataset(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1] * 5), "real")
    with pytest.raises(FastUnlearnError, match="needs latents, which curated data has not"):
        unlearn(model, method, curated_feedback(images, 1), tmp_path, QUIET)


@pytest.mark.parametrize(
    "bad", [{"margin": -1.0}, {"alpha": -1.0}, {"batch_size": 0}, {"threshold": math.inf}, {"lr_decay": 2.0}]
)
def test_settings_out_of_range(bad):
    with pytest.raises(FastUnlearnError, match=next(iter(bad))):
        FeatureUnlearnConfig(**bad)


def test_on_the_shipped_stylegan2(tmp_path):
    pytest.importorskip("skimage")
    model = load("mnist32")
    feedback = label_with_morphology(model, "thickness", n=120, seed=0)
    config = FeatureUnlearnConfig(steps=40, batch_size=16, threshold="pooled", shift="exact")
    with pytest.warns(WeakTargetWarning):  # 12 undesired images say little about 128 dimensions
        after = unlearn(model, FeatureUnlearn(config), feedback, tmp_path, QUIET)
    z = model.sample_latents(200, torch.Generator().manual_seed(5))
    moved, shown = erased(z, [Target.of(feedback, "pooled")], "exact", 0.0)
    before, image, aim = model.generate(z), after.generate(z), model.generate(moved)
    distance = (before - aim).abs().mean((1, 2, 3))[shown].mean(), (image - aim).abs().mean((1, 2, 3))[shown].mean()
    assert distance[1] < 0.97 * distance[0]
