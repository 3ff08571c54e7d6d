"""benchmarks/baseline_stylegan2.py computes what our ops compute, on a small StyleGAN2."""

from unittest import mock

import baseline_stylegan2
import bench_steps
import pytest

from fastunlearn.models.stylegan2 import StyleGAN2Config

SMALL = StyleGAN2Config(
    size=16, channels=3, latent_dim=8, style_dim=8, mapping_layers=2, g_widths=(8, 8, 4), d_widths=(8, 8, 4)
)
PLAIN = [name for name in bench_steps.CONTENDERS if name != "native"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench_steps, "CONFIG", SMALL)
    bench_steps.models.cache_clear()
    yield
    bench_steps.models.cache_clear()


@pytest.mark.parametrize("kind", bench_steps.STEPS)
@pytest.mark.parametrize("contender", PLAIN)
def test_losses_and_gradients_are_ours(kind, contender):
    ours, plain = (bench_steps.step(kind, name, "cpu").results() for name in ("native", contender))
    bench_steps.assert_equal(ours, plain, tolerance=1e-3)


def test_a_step_is_the_same_at_every_call():
    step = bench_steps.step("training", "native", "cpu")
    first = step.results()
    bench_steps.assert_equal(step.results(), first, tolerance=0)


def test_none_of_our_kernels_runs_in_the_baseline():
    step = bench_steps.step("unlearning", "reference", "cpu")
    with mock.patch("fastunlearn.kernels.registry.Op.__call__", side_effect=AssertionError("a kernel of ours")):
        step()
        with pytest.raises(AssertionError, match="a kernel of ours"):
            bench_steps.step("unlearning", "native", "cpu")()


def test_another_result_is_refused(monkeypatch):
    ours = bench_steps.step("training", "native", "cpu").results()
    grouped = baseline_stylegan2.grouped_modulated_conv2d

    def a_little_off(x, weight, styles, **options):
        return 1.01 * grouped(x, weight, styles, **options)

    monkeypatch.setattr(baseline_stylegan2, "grouped_modulated_conv2d", a_little_off)
    with pytest.raises(AssertionError, match=" off, norm "):
        bench_steps.assert_equal(ours, bench_steps.step("training", "reference", "cpu").results())
