"""The originals' numbers and ours: values, first and second gradients, in float32 and float64."""

import importlib

import pytest
import torch
from harness import derivatives

from fastunlearn.compat.nvidia.networks import exchanged_networks

# Largest difference relative to the largest number of a result: values, then gradients of any order.
RELATIVE = {torch.float32: (1e-4, 1e-3), torch.float64: (1e-10, 1e-10), torch.float16: (5e-3, 2e-2)}
RELATIVE[torch.bfloat16] = (4e-2, 1e-1)
DTYPES = [torch.float32, torch.float64]


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def cast(x, dtype):
    return x.detach().to(dtype).requires_grad_(x.requires_grad)


def assert_same(family, call, *args, dtypes=DTYPES):
    """`call` gives the same numbers before the family is installed and while it is, in each of the dtypes."""
    arguments = {dtype: tuple(cast(x, dtype) for x in args) for dtype in dtypes}
    expected = {dtype: derivatives(call, arguments[dtype], {}, 2) for dtype in dtypes}
    with family.installed():
        got = {dtype: derivatives(call, arguments[dtype], {}, 2) for dtype in dtypes}
    for dtype in dtypes:
        assert_close(got[dtype], expected[dtype], *RELATIVE[dtype])
        assert all(ours.dtype == expected[dtype][name].dtype for name, ours in got[dtype].items())


def assert_as_exact(family, call, *args):
    """Values and gradients in half precision are near those of the originals in float64."""
    expected = derivatives(call, tuple(cast(x, torch.float64) for x in args), {}, 1)
    with family.installed():
        got = derivatives(call, args, {}, 1)
    assert got["output 0"].dtype == args[0].dtype
    assert_close(got, expected, *RELATIVE[args[0].dtype])


def assert_close(got, expected, of_values, of_gradients):
    assert got.keys() == expected.keys()
    for name, theirs in expected.items():
        assert got[name].shape == theirs.shape, name
        error = (got[name].double() - theirs.double()).abs().max() / theirs.abs().max().clamp(min=1e-30)
        assert error <= (of_gradients if "gradient" in name else of_values), f"{name}: {error:.2g} relative"


def op(name):
    return importlib.import_module(f"torch_utils.ops.{name}")


@pytest.fixture
def ada(foreign):
    return foreign.family("stylegan2_ada")


@pytest.fixture(params=["stylegan2_ada", "stylegan3"])
def nvidia(request, foreign):
    """For what the two have in modules of their own."""
    return foreign.family(request.param)


@pytest.fixture
def rosinality(foreign):
    return foreign.family("rosinality"), importlib.import_module("model")


# ---- torch_utils.ops -------------------------------------------------------------------------------------------------

FIR = [1.0, 3.0, 3.0, 1.0]
LONG = [0.5, -1.0, 2.0, 5.0, 6.0, 4.0, 1.0, 0.25]
UPFIRDN2D = {
    "filter": {},
    "None": {"f": None, "up": 2, "padding": [1, 2]},
    "1 of 8 taps": {"f": LONG, "padding": 4},
    "1 of 9 taps": {"f": [*LONG, 1.5], "up": 2, "down": 3, "padding": [5, 4, 3, 6]},
    "1 of 4 taps": {"f": FIR, "separable": True, "up": 2, "padding": 2},
    "asymmetric": {"f": [[1.0, 2.0, -1.0], [0.0, 3.0, 5.0]], "padding": 2},
    "flipped": {"f": [1.0, 2.0, -5.0], "flip_filter": True, "padding": 1},
    "1-D flipped": {"f": LONG, "flip_filter": True, "padding": 4},
    "pairs": {"up": [2, 3], "down": [3, 1], "padding": [2, 1]},
    "cropped": {"up": 2, "padding": [-1, 3, 2, -2]},
    "gain": {"gain": 3.5},
    "1-D gain": {"f": LONG, "gain": 4, "padding": 4},
    "ref": {"impl": "ref", "up": 2, "padding": 2},
    "1-D ref": {"f": LONG, "impl": "ref", "gain": 2, "padding": 4},
}


@pytest.mark.parametrize("case", UPFIRDN2D)
def test_upfirdn2d(ada, case):
    ops = op("upfirdn2d")
    options = {"f": FIR, **UPFIRDN2D[case]}
    taps, separable = options.pop("f"), options.pop("separable", None)
    f = None if taps is None else ops.setup_filter(taps, separable=separable)
    assert_same(ada, lambda x: ops.upfirdn2d(x, f, **options), *tensors((2, 3, 7, 9)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("filter2d", {}),
        ("filter2d", {"padding": [1, 0, 2, -1], "flip_filter": True, "gain": 2}),
        ("upsample2d", {}),
        ("upsample2d", {"up": [3, 1], "padding": 1, "gain": 0.5, "flip_filter": True}),
        ("upsample2d", {"up": [1, 2], "impl": "ref"}),
        ("downsample2d", {}),
        ("downsample2d", {"down": [1, 3], "padding": [2, 1], "gain": 3, "flip_filter": True}),
        ("downsample2d", {"down": 4, "padding": [2, 1, 0, 3]}),
    ],
)
def test_resampling_of_images(ada, name, options):
    ops = op("upfirdn2d")
    filters = [None, *map(ops.setup_filter, (FIR, LONG, [1.0, 2.0, -4.0], [[1.0, 2.0, -1.0], [0.0, 3.0, 5.0]]))]

    def call(x):
        return [getattr(ops, name)(x, f if f is None else f.to(x), **options) for f in filters]

    assert_same(ada, call, *tensors((1, 2, 12, 9)))


@pytest.mark.parametrize(
    "options",
    [{}, {"normalize": False}, {"gain": 4}, {"flip_filter": True}, {"separable": False}, {"separable": True}],
    ids=str,
)
def test_setup_filter(ada, options):
    ops = op("upfirdn2d")
    every = [None, 2.0, FIR, LONG, LONG[:7], torch.tensor(LONG).double()]
    if not options.get("separable"):
        every.append([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
    expected = [ops.setup_filter(taps, **options) for taps in every]
    with ada.installed():
        for taps, theirs in zip(every, expected, strict=True):
            ours = ops.setup_filter(taps, **options)
            assert (ours.shape, ours.dtype) == (theirs.shape, torch.float32)
            torch.testing.assert_close(ours, theirs)


def test_the_rule_of_eight_taps(ada):
    with ada.installed():
        setup_filter = op("upfirdn2d").setup_filter
        assert setup_filter(FIR).shape == (4, 4)
        assert setup_filter(LONG[:7]).shape == (7, 7)
        assert setup_filter(LONG).shape == (8,)
        torch.testing.assert_close(setup_filter(LONG, gain=4).sum(), torch.tensor(2.0))  # √4: it meets the image twice
        torch.testing.assert_close(setup_filter(FIR, gain=4).sum(), torch.tensor(4.0))


def test_helpers_of_upfirdn2d(ada):
    ops = op("upfirdn2d")
    with ada.installed():
        assert [ops._parse_padding(p) for p in (3, [1, 2], [1, 2, 3, 4])] == [
            (3, 3, 3, 3),
            (1, 1, 2, 2),
            (1, 2, 3, 4),
        ]
        sizes = [ops._get_filter_size(f) for f in (None, torch.ones(5), torch.ones(2, 3))]
        assert sizes == [(1, 1), (5, 5), (3, 2)]


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"])
def test_activations(ada, act):
    ops = op("bias_act")
    x, b = tensors((3, 4, 5, 2), (4,))
    assert_same(ada, lambda x, b: ops.bias_act(x, b, act=act), x, b)
    assert_same(ada, lambda x, b: ops.bias_act(x, b, act=act, impl="ref"), x, b)
    assert_same(ada, lambda x: ops.bias_act(x, act=act, alpha=0.1, gain=3, clamp=1.5), x)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5, 4), {"act": "lrelu"}),
        ((4, 5, 2), {"dim": 0, "act": "lrelu"}),
        ((2, 3, 4), {"dim": 2, "act": "swish", "gain": 0.5}),
        ((2, 4, 3, 3), {"act": "lrelu", "alpha": 0, "clamp": 0.7}),
        ((2, 4, 3, 3), {"act": "lrelu", "clamp": -1}),
        ((2, 4, 3, 3), {"act": "linear", "gain": 2, "clamp": 1}),
    ],
    ids=str,
)
def test_bias_act(ada, shape, options):
    ops = op("bias_act")
    assert_same(ada, lambda x, b: ops.bias_act(x, b, **options), *tensors(shape, (4,)))


def test_table_of_activations(ada):
    theirs = op("bias_act").activation_funcs
    from fastunlearn.compat.nvidia.bias_act import activation_funcs as ours

    assert list(ours) == list(theirs)
    x = torch.linspace(-2, 2, 9)
    for name, entry in theirs.items():
        assert ours[name].def_gain == pytest.approx(entry.def_gain), name
        assert ours[name].def_alpha == pytest.approx(entry.def_alpha), name
        torch.testing.assert_close(ours[name].func(x, alpha=0.3), entry.func(x, alpha=0.3))


CONV2D = {
    "plain": {},
    "padding": {"padding": 1},
    "stride": {"stride": 2, "padding": (1, 1)},
    "pairs": {"stride": (2, 1), "padding": (0, 2)},
    "groups": {"groups": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": 2},
    "no bias": {"bias": None, "padding": [1, 1]},
    "same": {"padding": "same"},
}


@pytest.mark.parametrize("case", CONV2D)
def test_conv2d(nvidia, case):
    ops = op("conv2d_gradfix")
    options = dict(CONV2D[case])
    x, w, b = tensors((2, 4, 7, 6), (6, 4 // options.get("groups", 1), 3, 3), (6,))
    has_bias = options.pop("bias", True)
    assert_same(nvidia, lambda x, w, b: ops.conv2d(x, w, b if has_bias else None, **options), x, w, b)


TRANSPOSED = {
    "plain": {},
    "stride": {"stride": 2, "padding": 1},
    "output padding": {"stride": 2, "padding": 1, "output_padding": 1},
    "groups": {"groups": 2},
    "dilation": {"dilation": 2},
    "pairs": {"stride": (1, 2), "padding": (1, 0), "output_padding": (0, 1)},
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose2d(nvidia, case):
    ops = op("conv2d_gradfix")
    options = TRANSPOSED[case]
    x, w, b = tensors((2, 4, 5, 6), (4, 6 // options.get("groups", 1), 3, 3), (6,))
    assert_same(nvidia, lambda x, w, b: ops.conv_transpose2d(x, w, b, **options), x, w, b)


def test_groups_stand_before_dilation(nvidia):
    """By position: conv2d has dilation, groups, and conv_transpose2d groups, dilation."""
    ops = op("conv2d_gradfix")
    x, w = tensors((1, 4, 9, 9), (4, 2, 3, 3))
    assert_same(nvidia, lambda x, w: ops.conv2d(x, w, None, 1, 0, 3, 2), x, w)
    assert_same(nvidia, lambda x, w: ops.conv_transpose2d(x, w, None, 1, 0, 0, 2, 3), x, w)


RESAMPLED = {
    "plain": {},
    "padding": {"padding": 1},
    "sides": {"padding": [1, 0, 2, 1]},
    "cropped": {"padding": [-1, 1, 1, -2]},
    "up": {"up": 2, "padding": 1},
    "up convolving": {"up": 2, "padding": 1, "flip_weight": False},
    "up 3": {"up": 3, "padding": [1, 2]},
    "down": {"down": 2, "padding": 1},
    "down convolving": {"down": 2, "padding": 1, "flip_weight": False, "flip_filter": True},
    "up and down": {"up": 2, "down": 3, "padding": 2},
    "groups": {"groups": 2, "padding": 1, "flip_weight": False},
    "groups up": {"groups": 2, "up": 2, "padding": 1},
    "groups down": {"groups": 2, "down": 2, "padding": 1},
    "1×1": {"kernel": 1},
    "1×1 up": {"kernel": 1, "up": 2},
    "1×1 down": {"kernel": 1, "down": 2},
    "1×1 both": {"kernel": 1, "up": 2, "down": 2, "flip_filter": True},
    "1-D": {"f": LONG, "up": 2, "padding": 1},
    "1-D down": {"f": LONG, "down": 2, "padding": 1},
    "asymmetric": {"f": [1.0, 2.0, -5.0], "up": 2, "padding": 1, "flip_filter": True},
    "no filter up": {"f": None, "up": 2, "padding": 1},
    "no filter down": {"f": None, "down": 2, "padding": 1},
    "5×5": {"kernel": 5, "up": 2, "padding": 2},
}


@pytest.mark.parametrize("case", RESAMPLED)
def test_conv2d_resample(ada, case):
    ops = op("conv2d_resample")
    options = {"f": FIR, **RESAMPLED[case]}
    k, taps = options.pop("kernel", 3), options.pop("f")
    f = None if taps is None else op("upfirdn2d").setup_filter(taps)
    x, w = tensors((2, 4, 6, 8), (6, 4 // options.get("groups", 1), k, k))
    assert_same(ada, lambda x, w: ops.conv2d_resample(x, w, f, **options), x, w)


def test_fma(ada):
    fma = op("fma")
    assert_same(ada, lambda a, b, c: fma.fma(a, b, c), *tensors((2, 3, 4, 5), (2, 3, 1, 1), (4, 5)))
    assert_same(ada, lambda a, b, c: fma.fma(a, b, c), *tensors((3,), (2, 3), ()))


def test_grid_sample(nvidia):
    ops = op("grid_sample_gradfix")
    x, grid = tensors((2, 3, 5, 6), (2, 4, 7, 2))
    assert_same(nvidia, lambda x, grid: ops.grid_sample(x, grid), x, grid)


FILTERED = {
    "plain": {},
    "bias": {"b": True},
    "2×": {"fu": LONG, "fd": LONG, "b": True, "up": 2, "down": 2, "padding": [8, 6]},
    "4× → 2×": {"fu": [*LONG, 1, 2, 3, 4], "fd": FIR, "up": 4, "down": 2, "padding": [9, 8, 7, 10]},
    "clamped": {"fu": FIR, "fd": FIR, "up": 2, "down": 2, "padding": 3, "clamp": 0.5},
    "slope, gain": {"b": True, "slope": 0.5, "gain": 3.0},
    "flipped": {"fu": [1.0, 2.0, -5.0], "fd": [3.0, 1.0], "up": 2, "padding": 2, "flip_filter": True},
    "cropped": {"fu": LONG, "up": 2, "padding": [5, -1, 4, -2]},
    "ref": {"fu": FIR, "fd": FIR, "b": True, "up": 2, "down": 2, "padding": 3, "impl": "ref"},
}


@pytest.mark.parametrize("case", FILTERED)
def test_filtered_lrelu(foreign, case):
    family = foreign.family("stylegan3")
    ops = importlib.import_module("torch_utils.ops.filtered_lrelu")
    options = dict(FILTERED[case])
    setup_filter = importlib.import_module("torch_utils.ops.upfirdn2d").setup_filter
    options |= {name: setup_filter(options[name]) for name in ("fu", "fd") if name in options}
    has_bias = options.pop("b", False)
    x, b = tensors((2, 3, 6, 5), (3,))
    assert_same(family, lambda x, b: ops.filtered_lrelu(x, b=b if has_bias else None, **options), x, b)


@pytest.mark.parametrize("name", ["upfirdn2d", "bias_act", "filtered_lrelu"])
def test_unknown_implementation(foreign, name):
    family = foreign.family("stylegan3")
    with family.installed():
        op = getattr(importlib.import_module(f"torch_utils.ops.{name}"), name)
        arguments = [torch.ones(1, 1, 4, 4)] + [None] * (name == "upfirdn2d")
        with pytest.raises(ValueError, match=f"{name}: impl must be 'cuda' or 'ref', got 'slow'"):
            op(*arguments, impl="slow")
        with pytest.raises(TypeError, match="memory_saving"):
            op(*arguments, memory_saving=True)


# ---- modulated convolutions ------------------------------------------------------------------------------------------

MODULATED = {
    "plain": {},
    "3×3": {"padding": 1},
    "convolving": {"padding": 1, "flip_weight": False},
    "up": {"padding": 1, "up": 2, "flip_weight": False},
    "up correlating": {"padding": 1, "up": 2},
    "down": {"padding": 1, "down": 2},
    "1×1": {"kernel": 1, "demodulate": False},
    "not demodulated": {"padding": 1, "demodulate": False},
    "constant noise": {"padding": 1, "noise": (8, 6)},
    "noise": {"padding": 1, "noise": (3, 1, 8, 6)},
    "one noise": {"padding": 1, "noise": (1, 1, 8, 6)},
    "three dimensions of noise": {"padding": 1, "noise": (1, 8, 6)},
    "noise of every channel": {"padding": 1, "noise": (3, 5, 8, 6)},
    "one number of noise": {"padding": 1, "noise": ()},
    "noise, not demodulated": {"padding": 1, "noise": (8, 6), "demodulate": False},
    "noise, up": {"padding": 1, "up": 2, "noise": (3, 1, 16, 12), "flip_weight": False},
    "noise, down": {"padding": 1, "down": 2, "noise": (4, 3)},
    "1-D filter": {"padding": 1, "up": 2, "f": LONG},
    "1-D filter, down": {"padding": 1, "down": 2, "f": LONG},
    "no filter, up": {"padding": 1, "up": 2, "f": None},
    "no filter, down": {"padding": 1, "down": 2, "f": None},
}


def modulated_case(case):
    options = {"f": FIR, **MODULATED[case]}
    noise, taps, k = options.pop("noise", None), options.pop("f"), options.pop("kernel", 3)
    if taps is not None:
        setup_filter = importlib.import_module("torch_utils.ops.upfirdn2d").setup_filter
        options["resample_filter"] = setup_filter(taps)
    shapes = [(3, 4, 8, 6), (5, 4, k, k), (3, 4), *([] if noise is None else [noise])]
    return options, shapes


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("case", MODULATED)
def test_modulated_conv2d(foreign, case, fused):
    family = foreign.family("stylegan2_ada")
    networks = importlib.import_module("training.networks")
    options, shapes = modulated_case(case)

    def call(x, w, s, noise=None):
        return networks.modulated_conv2d(x, w, s, noise, fused_modconv=fused, **options)

    assert_same(family, call, *tensors(*shapes))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("noise_mode", ["random", "const", "none"])
def test_a_synthesis_layer_in_one_pass(ada, noise_mode, clamp, up):
    networks = importlib.import_module("training.networks")
    torch.manual_seed(0)
    layer = networks.SynthesisLayer(4, 5, 3, 8, up, conv_clamp=clamp)
    layer.bias.data.normal_()

    def call(x, w, *parameters):
        torch.manual_seed(1)  # theirs and ours draw the same noise
        arguments = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        options = {"noise_mode": noise_mode, "gain": 0.5}
        return torch.func.functional_call(layer, arguments, (x, w), options).to(x.dtype)

    size = 8 // up
    arguments = (*tensors((2, 4, size, size), (2, 3)), *layer.parameters())
    assert_same(ada, call, *arguments, dtypes=[torch.float32])
    with ada.installed(), pytest.raises(ValueError, match="noise_mode must be random, const or none, got 'other'"):
        layer(*arguments[:2], noise_mode="other")


def test_blocks_keep_their_features_channels_last_on_the_cpu(ada):
    networks = importlib.import_module("training.networks")
    torch.manual_seed(0)
    first, block = networks.SynthesisBlock(0, 8, 3, 4), networks.SynthesisBlock(8, 6, 3, 8)
    w = torch.randn(2, 3)
    x = first(None, w)
    theirs = block(x, w)
    with ada.installed():
        assert torch.equal(first(None, w), x)
        ours = block(x, w)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        made = networks.SynthesisBlock(8, 6, 3, 8)
        assert not exchanged_networks(networks)  # again there is nothing to do
        with pytest.raises(AttributeError):
            block(None, w)
    torch.testing.assert_close(ours, theirs)
    assert theirs.is_contiguous()
    assert not block.channels_last
    assert made.conv0.weight.is_contiguous()


@pytest.mark.parametrize("options", [{"padding": [1, 1]}, {"up": 2, "down": 2}], ids=str)
def test_what_modulated_conv2d_does_not_have(ada, options):
    networks = importlib.import_module("training.networks")
    x, w, s = tensors((3, 4, 8, 6), (5, 4, 3, 3), (3, 4))
    with ada.installed(), pytest.raises(ValueError, match=f"modulated_conv2d: .*{next(iter(options))}.* must be"):
        networks.modulated_conv2d(x, w, s, resample_filter=op("upfirdn2d").setup_filter(FIR), **options)


@pytest.mark.parametrize("case", ["plain", "up", "down", "1×1", "not demodulated", "constant noise", "no filter, up"])
def test_modulated_conv2d_of_stylegan3s_stylegan2(foreign, case):
    family = foreign.family("stylegan3")
    networks = importlib.import_module("training.networks_stylegan2")
    options, shapes = modulated_case(case)

    def call(x, w, s, noise=None):
        return networks.modulated_conv2d(x, w, s, noise, **options)

    assert_same(family, call, *tensors(*shapes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["3×3", "up", "not demodulated", "constant noise", "noise, up", "1×1"])
def test_modulated_conv2d_in_half_precision(foreign, case, dtype):
    """x in half precision, weight, styles and noise in float32, as their networks call it: against float64."""
    family = foreign.family("stylegan2_ada")
    networks = importlib.import_module("training.networks")
    options, shapes = modulated_case(case)
    x, *rest = tensors(*shapes)
    x = cast(x, dtype)

    def call(x, w, s, noise=None):
        return networks.modulated_conv2d(x, w, s, noise, **options)

    with family.installed():
        assert call(x, *rest).dtype == dtype
    assert_as_exact(family, call, x, *rest)


def test_float16_does_not_overflow(foreign):
    """Weights and styles whose products are beyond 65504, which their normalisation keeps within."""
    family = foreign.family("stylegan2_ada")
    networks = importlib.import_module("training.networks")
    x, w, s = (t.detach() for t in tensors((2, 64, 6, 6), (4, 64, 3, 3), (2, 64)))
    x, w, s = (20 * x).half(), w * 300, s * 300
    theirs = networks.modulated_conv2d(x, w, s, padding=1)
    with family.installed():
        ours = networks.modulated_conv2d(x, w, s, padding=1)
    assert theirs.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2 * theirs.abs().max().item())


STYLEGAN3 = {
    "plain": {},
    "padding": {"padding": 2},
    "sides": {"padding": (2, 1)},
    "1×1": {"kernel": 1, "demodulate": False},
    "gain": {"gain": (), "padding": 1},
    "gain of channels": {"gain": (4,), "padding": 1},
    "gain of samples": {"gain": (3, 4), "padding": 1},
    "gain, not demodulated": {"gain": (), "demodulate": False},
}


@pytest.mark.parametrize("case", STYLEGAN3)
def test_modulated_conv2d_of_stylegan3(foreign, case):
    family = foreign.family("stylegan3")
    networks = importlib.import_module("training.networks_stylegan3")
    options = dict(STYLEGAN3[case])
    k, gain = options.pop("kernel", 3), options.pop("gain", None)
    shapes = [(3, 4, 8, 6), (5, 4, k, k), (3, 4), *([] if gain is None else [gain])]

    def call(x, w, s, input_gain=None):
        return networks.modulated_conv2d(x, w, s, input_gain=input_gain, **options)

    assert_same(family, call, *tensors(*shapes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_modulated_conv2d_of_stylegan3_in_half_precision(foreign, dtype):
    family = foreign.family("stylegan3")
    networks = importlib.import_module("training.networks_stylegan3")
    x, *rest = tensors((3, 4, 8, 6), (5, 4, 3, 3), (3, 4))
    x = cast(x, dtype)

    def call(x, w, s):
        return networks.modulated_conv2d(x, w, s, padding=1)

    assert_as_exact(family, call, x, *rest)


# ---- rosinality ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"up": 2, "pad": (2, 1)},
        {"down": 2, "pad": (1, 1)},
        {"up": (2, 3), "down": (1, 2), "pad": (2, 1, 3, 0)},
        {"up": 2, "pad": (-1, 2)},
        {"pad": [2, 2, -1, -1]},
    ],
    ids=str,
)
def test_rosinality_upfirdn2d(rosinality, options):
    family, model = rosinality
    kernel = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 4.0]])
    assert_same(family, lambda x: model.upfirdn2d(x, kernel, **options), *tensors((2, 3, 6, 7)))


def test_rosinality_upfirdn2d_native(rosinality):
    family, _ = rosinality
    kernel = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 4.0]])
    native = importlib.import_module("op.upfirdn2d")
    assert_same(family, lambda x: native.upfirdn2d_native(x, kernel, 2, 1, 1, 2, 3, 0, 1, 2), *tensors((2, 3, 6, 7)))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 5, 2)])
@pytest.mark.parametrize("options", [{}, {"negative_slope": 0.1, "scale": 3.0}, {"negative_slope": 0}], ids=str)
def test_rosinality_fused_leaky_relu(rosinality, shape, options):
    family, model = rosinality
    x, b = tensors(shape, (4,))
    assert_same(family, lambda x, b: model.fused_leaky_relu(x, b, **options), x, b)
    assert_same(family, lambda x: model.fused_leaky_relu(x, **options), x)


@pytest.mark.parametrize("noise", [None, (1, 1, 8, 8), (2, 1, 8, 8), (2, 5, 8, 8)], ids=str)
@pytest.mark.parametrize("upsample", [False, True])
def test_rosinality_styled_conv_in_one_pass(rosinality, upsample, noise):
    family, model = rosinality
    torch.manual_seed(0)
    layer = model.StyledConv(4, 5, 3, 6, upsample=upsample)
    for parameter in layer.parameters():
        parameter.data.normal_()
    size = 4 if upsample else 8

    def call(x, style, *rest):
        torch.manual_seed(1)  # theirs and ours draw the same noise
        given, parameters = (rest[0], rest[1:]) if noise else (None, rest)
        arguments = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(layer, arguments, (x, style, given))

    arguments = (*tensors((2, 4, size, size), (2, 6), *([noise] if noise else [])), *layer.parameters())
    assert_same(family, call, *arguments, dtypes=[torch.float32])


@pytest.mark.parametrize("watched", ["conv", "noise", "activate"])
def test_rosinality_styled_conv_that_is_listened_to(rosinality, watched):
    family, model = rosinality
    layer, seen = model.StyledConv(4, 5, 3, 6), []
    with family.installed():
        layer.activate.forward = None  # is not called
        layer(*tensors((2, 4, 8, 8), (2, 6)))
        del layer.activate.forward
        getattr(layer, watched).register_forward_hook(lambda module, arguments, result: seen.append(module))
        layer(*tensors((2, 4, 8, 8), (2, 6)))
    assert seen == [getattr(layer, watched)]


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(
    ("kernel", "resampling"),
    [(1, {}), (3, {}), (3, {"upsample": True}), (3, {"downsample": True}), (1, {"downsample": True})],
    ids=str,
)
def test_rosinality_modulated_conv2d(rosinality, kernel, resampling, demodulate):
    family, model = rosinality
    layer = model.ModulatedConv2d(4, 5, kernel, 6, demodulate=demodulate, **resampling)

    def call(x, style, weight, modulation):
        changed = {"weight": weight, "modulation.weight": modulation}
        return torch.func.functional_call(layer.to(x.dtype), changed, (x, style))

    shapes = [(2, 4, 6, 8), (2, 6), layer.weight.shape, layer.modulation.weight.shape]
    assert_same(family, call, *tensors(*shapes))


# ---- lucidrains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"kernel": 1, "demod": False}, {"dilation": 2}, {"stride": 2}, {"eps": 0.1}], ids=str
)
def test_lucidrains_conv2d_mod(foreign, options):
    family = foreign.family("lucidrains")
    package = importlib.import_module("stylegan2_pytorch")
    layer = package.Conv2DMod(4, 5, **{"kernel": 3, **options})

    def call(x, y, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x, y))

    assert_same(family, call, *tensors((2, 4, 8, 8), (2, 4), layer.weight.shape))


@pytest.mark.parametrize("options", [{}, {"upsample": False}, {"upsample_rgb": False}, {"rgba": True}], ids=str)
def test_lucidrains_generator_block(foreign, options):
    family = foreign.family("lucidrains")
    package = importlib.import_module("stylegan2_pytorch")
    block = package.GeneratorBlock(6, 4, 5, **options)
    size = 4 if options.get("upsample") is False else 8
    shapes = [(2, 4, 4, 4), (2, 3 + options.get("rgba", 0), size, size), (2, 6), (2, 16, 16, 1)]
    assert_same(family, lambda x, *rest: block.to(x.dtype)(x, *rest), *tensors(*shapes))
    no_image = [shapes[0], *shapes[2:]]
    assert_same(family, lambda x, *rest: block.to(x.dtype)(x, None, *rest), *tensors(*no_image))


def test_lucidrains_blur(foreign):
    family = foreign.family("lucidrains")
    blur = importlib.import_module("stylegan2_pytorch.stylegan2_pytorch").Blur()
    assert_same(family, blur, *tensors((2, 3, 5, 6)))
