"""modulated_conv2d: the scaled form against per-sample weights in float64."""

import itertools

import pytest
import torch
from fastunlearn.kernels.modulated_conv2d import op
from fastunlearn.kernels.modulated_conv2d.op import IMPLEMENTATIONS, demodulation, modulated_conv2d, styled_conv2d
from harness import DTYPES, LAYOUTS, assert_compiles, assert_matches, derivatives, gradients_agree, on_device

REFERENCE = IMPLEMENTATIONS["reference"]
WHERE = {"cpu": modulated_conv2d}
if torch.cuda.is_available():
    WHERE["cuda"] = on_device(modulated_conv2d, "cuda")
RESAMPLING = [(1, 1), (2, 1), (1, 2), (3, 1)]
# Neither symmetric nor separable into equal halves: a flip or a swapped axis shows.
FILTER = torch.tensor([1.0, 3.0, 2.0, 0.5])[:, None] * torch.tensor([2.0, 1.0, 4.0, 1.5]) / 55.25


def make(n=2, i=3, o=4, h=5, w=6, k=3, dtype=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, i, h, w, generator=rng).to(dtype)
    weight = torch.randn(o, i, k, k, generator=rng).to(dtype)
    styles = (torch.randn(n, i, generator=rng) + 1).to(dtype)
    return [t.requires_grad_() for t in (x, weight, styles)]


@pytest.mark.parametrize(("up", "down"), RESAMPLING)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("device", WHERE)
def test_matches_per_sample_weights(monkeypatch, device, up, down, k, demodulate):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for flip, padding in itertools.product([True, False], [0, 1]):
        arguments = make(k=k)
        options = (up, down, padding, FILTER, demodulate, flip)
        assert_matches(WHERE[device], REFERENCE, *arguments, *options, terms=27 * 16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_dtypes_and_layouts(dtype, layout):
    x, weight, styles = make(dtype=dtype)
    x = LAYOUTS[layout](x.detach()).requires_grad_()
    assert_matches(modulated_conv2d, REFERENCE, x, weight, styles, 2, 1, 1, FILTER, terms=27 * 16, order=1)


@pytest.mark.parametrize("sizes", [{"n": 1, "h": 1, "w": 1}, {"i": 2, "o": 1}, {"n": 5, "h": 3, "w": 8}])
def test_small_sizes(sizes):
    assert_matches(modulated_conv2d, REFERENCE, *make(**sizes), 1, 1, 1, None, terms=27 * 16)


def test_keeps_channels_last():
    x, weight, styles = make(i=8, o=8)
    x = x.detach().to(memory_format=torch.channels_last)
    for up in (1, 2):
        y = modulated_conv2d(x, weight, styles, up=up, padding=1, resample_filter=FILTER)
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("up", "down"), RESAMPLING)
def test_gradients_of_first_and_second_order(up, down):
    tensors = make(h=3, w=4, dtype=torch.float64)
    f = FILTER.double()
    gradients_agree(lambda x, w, s: modulated_conv2d(x, w, s, up, down, 1, f), *tensors)


def test_demodulated_output_has_unit_variance():
    """With unit-variance input, whatever the weight's and the styles' scale: Eq. 3 of the paper."""
    torch.manual_seed(0)
    x = torch.randn(8, 64, 16, 16)
    y = modulated_conv2d(x, 7 * torch.randn(32, 64, 3, 3), 0.1 + 3 * torch.rand(8, 64), padding=0)
    deviation = y.std(dim=(2, 3))
    assert abs(deviation.mean().item() - 1) < 0.05


def test_demodulation_does_not_overflow_half_precision():
    weight = torch.full((1, 512, 3, 3), 8.0, dtype=torch.float16)
    styles = torch.full((1, 512), 8.0, dtype=torch.float16)
    d = demodulation(weight, styles)
    assert d.dtype == torch.float32
    torch.testing.assert_close(d.item(), (512 * 9 * 64.0**2) ** -0.5)


@pytest.mark.parametrize(("up", "down"), RESAMPLING)
def test_several_base_weights_in_one_batch(up, down):
    x, _, styles = make(n=6)
    weights = torch.stack([make(seed=seed)[1].detach() for seed in range(3)]).requires_grad_()
    assert_matches(modulated_conv2d, REFERENCE, x, weights, styles, up, down, 1, FILTER, terms=27 * 16)
    apart = [
        modulated_conv2d(part, weight, style, up, down, 1, FILTER)
        for part, weight, style in zip(x.chunk(3), weights, styles.chunk(3), strict=True)
    ]
    assert torch.equal(modulated_conv2d(x, weights, styles, up, down, 1, FILTER), torch.cat(apart))


@pytest.mark.parametrize("several", [False, True])
def test_large_styles_and_weights_do_not_overflow_float16(several):
    """Without the normalisation the convolution's sums would be 10⁴ times float16's largest number."""
    x, weight, styles = (t.detach() for t in make(n=4, i=64, o=8))
    x, weight, styles = x.half(), 900 * weight, 900 * styles
    weight = torch.stack([weight, weight.flip(0)]) if several else weight
    leaves = [t.requires_grad_() for t in (x, weight, styles)]
    y = modulated_conv2d(*leaves, padding=1)
    exact = modulated_conv2d(*(t.double() for t in leaves), padding=1)
    assert (y.double() - exact).norm() < 2e-3 * exact.norm()
    grads, expected = (torch.autograd.grad(out.sum(), leaves) for out in (y, exact))
    for got, right in zip(grads, expected, strict=True):
        assert (got.double() - right.double()).norm() < 1e-2 * right.double().norm()


@pytest.mark.parametrize("shape", [(3, 5, 3, 3), (2, 4, 7, 1, 1), (4, 0, 3, 3), (1, 1, 2, 5), (70, 90, 3, 3)])
def test_energy_of_taps(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert_matches(op._tap_energy, op.tap_energy_reference, weight, terms=9)
    assert_matches(op._tap_energy, op.tap_energy_reference, weight.double(), terms=9)
    torch.library.opcheck(torch.ops.fastunlearn.tap_energy.default, (weight,))


def test_energy_of_taps_refuses_what_its_pointer_could_not_bear():
    for weight in (torch.ones(2, 3, 3, 3).mT, torch.ones(4), torch.ones(2, 3, 3, 3).bfloat16()):
        with pytest.raises(RuntimeError, match="tap_energy: weight must be"):
            torch.ops.fastunlearn.tap_energy(weight)


@pytest.mark.parametrize("demodulate", [False, True])
def test_weight_is_convolved_in_the_dtype_of_x(demodulate):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 6, generator=generator)
    weight, styles = torch.randn(3, 4, 3, 3, generator=generator), torch.rand(2, 4, generator=generator) + 0.5
    y = modulated_conv2d(x.bfloat16(), weight, styles, padding=1, demodulate=demodulate)
    assert y.dtype == torch.bfloat16
    expected = modulated_conv2d(x, weight, styles, padding=1, demodulate=demodulate)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


def test_float16_by_autocast_is_normalised_too():
    x, weight, styles = (t.detach() for t in make(n=2, i=64, o=8))
    exact = modulated_conv2d(x.double(), weight.double(), styles.double(), padding=1)
    with torch.autocast("cpu", torch.float16):
        y = modulated_conv2d(x, 900 * weight, 900 * styles, padding=1)
    assert y.dtype == torch.float16
    assert (y.double() - exact).norm() < 2e-3 * exact.norm()


def test_layer_is_the_convolution_noise_bias_and_activation():
    x, weight, styles = make()
    b, noise, strength = torch.randn(4), torch.randn(2, 1, 10, 12), torch.tensor(0.4)
    for tensor in (b, noise, strength):
        tensor.requires_grad_()

    def chain(x, weight, styles, b, noise, strength):
        y = REFERENCE(x, weight, styles, 2, 1, 1, FILTER)
        return torch.nn.functional.leaky_relu(y + noise * strength + b[:, None, None], 0.2) * 2**0.5

    def layer(*arguments):
        return styled_conv2d(*arguments, up=2, padding=1, resample_filter=FILTER)

    assert_matches(layer, chain, x, weight, styles, b, noise, strength, terms=27 * 16)


def test_never_builds_per_sample_weights():
    """Peak memory: the largest tensor that appears is an activation, not [N, O, I, k, k]."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for out in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(out, torch.Tensor):
                    largest = max(largest, out.numel())
            return result

    x, weight, styles = make(n=16, i=32, o=32, h=4, w=4)
    with Watch():
        modulated_conv2d(x, weight, styles, padding=1).sum().backward()
    assert largest <= max(x.numel(), weight.numel())


def test_deterministic_and_compiles():
    """On one number of threads: ATen's weight gradient sums in an order that depends on it."""
    x, weight, styles = make()
    first, again = (derivatives(modulated_conv2d, (x, weight, styles, 2, 1, 1, FILTER), {}, 1) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert_compiles(lambda x, w, s: modulated_conv2d(x, w, s, 2, 1, 1, FILTER), x, weight, styles)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 4)}, r"modulated_conv2d: x must be \[N, I, H, W\], got \(2, 3, 4\)"),
        ({"weight": torch.zeros(4, 5, 3, 3)}, r"weight must be \[O, 3, kh, kw\] or k of these, got \(4, 5, 3, 3\)"),
        ({"weight": torch.zeros(3, 4, 3, 3, 3)}, "x must hold equally many samples for 3 weights, got 2"),
        ({"styles": torch.zeros(2, 4)}, r"modulated_conv2d: styles must be \(2, 3\) to match x, got \(2, 4\)"),
        ({"up": 2, "down": 2}, r"not both > 1, got 2 and 2"),
        ({"up": 2, "resample_filter": None}, r"resample_filter must be given when up or down is not 1"),
    ],
)
def test_messages(change, message):
    x, weight, styles = make()
    arguments = {"x": x, "weight": weight, "styles": styles, "resample_filter": FILTER, **change}
    with pytest.raises(ValueError, match=message):
        modulated_conv2d(**arguments)


@pytest.mark.parametrize("planted", ["epsilon", "padding"])
def test_a_planted_bug_turns_the_comparison_red(monkeypatch, planted):
    if planted == "epsilon":
        monkeypatch.setattr(op, "demodulation", lambda w, s: demodulation(w, s) * 1.001)
    else:
        epilogue = op.styled_epilogue
        monkeypatch.setattr(
            op,
            "styled_epilogue",
            lambda x, padding, **k: epilogue(x, padding=[padding[0] + 1, padding[1] - 1, *padding[2:]], **k),
        )
    with pytest.raises(AssertionError, match="error"):
        assert_matches(modulated_conv2d, REFERENCE, *make(), 2, 1, 1, FILTER, terms=27 * 16)
