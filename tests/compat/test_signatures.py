"""Names, order and defaults of every argument, in the doubles and in ours."""

import importlib
import inspect
import sys

import pytest
import torch

UPFIRDN2D = {
    "setup_filter": "f, device=cpu, normalize=True, flip_filter=False, gain=1, separable=None",
    "upfirdn2d": "x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='cuda'",
    "filter2d": "x, f, padding=0, flip_filter=False, gain=1, impl='cuda'",
    "upsample2d": "x, f, up=2, padding=0, flip_filter=False, gain=1, impl='cuda'",
    "downsample2d": "x, f, down=2, padding=0, flip_filter=False, gain=1, impl='cuda'",
    "_parse_padding": "padding",
    "_get_filter_size": "f",
}
CONV2D = {
    "conv2d": "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1",
    "conv_transpose2d": "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1",
}
NVIDIA = {
    "torch_utils.ops.upfirdn2d": UPFIRDN2D,
    "torch_utils.ops.bias_act": {
        "bias_act": "x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'"
    },
    "torch_utils.ops.conv2d_resample": {
        "conv2d_resample": "x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False"
    },
    "torch_utils.ops.fma": {"fma": "a, b, c"},
    "torch_utils.ops.grid_sample_gradfix": {"grid_sample": "input, grid"},
}
MODULATED = (
    "x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True, flip_weight=True, "
    "fused_modconv=True"
)
FAMILIES = {
    "stylegan2_ada": {
        **NVIDIA,
        "torch_utils.ops.conv2d_gradfix": {**CONV2D, "no_weight_gradients": ""},
        "training.networks": {"modulated_conv2d": MODULATED},
    },
    "stylegan3": {
        **NVIDIA,
        "torch_utils.ops.conv2d_gradfix": {**CONV2D, "no_weight_gradients": "disable=True"},
        "torch_utils.ops.filtered_lrelu": {
            "filtered_lrelu": "x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=1.4142135623730951, "
            "slope=0.2, clamp=None, flip_filter=False, impl='cuda'"
        },
        "training.networks_stylegan2": {"modulated_conv2d": MODULATED},
        "training.networks_stylegan3": {"modulated_conv2d": "x, w, s, demodulate=True, padding=0, input_gain=None"},
    },
    "rosinality": {
        "op.upfirdn2d": {
            "upfirdn2d": "input, kernel, up=1, down=1, pad=(0, 0)",
            "upfirdn2d_native": "input, kernel, up_x, up_y, down_x, down_y, pad_x0, pad_x1, pad_y0, pad_y1",
        },
        "op.fused_act": {
            "fused_leaky_relu": "input, bias=None, negative_slope=0.2, scale=1.4142135623730951",
            "FusedLeakyReLU": "channel, bias=True, negative_slope=0.2, scale=1.4142135623730951",
        },
        "op.conv2d_gradfix": {**CONV2D, "no_weight_gradients": ""},
    },
    "lucidrains": {
        "stylegan2_pytorch.stylegan2_pytorch": {
            "Conv2DMod.forward": "self, x, y",
            "Blur.forward": "self, x",
            "GeneratorBlock.forward": "self, x, prev_rgb, istyle, inoise",
            "RGBBlock.forward": "self, x, prev_rgb, istyle",
        }
    },
    "pytorch_fid": {
        "pytorch_fid.fid_score": {"calculate_frechet_distance": "mu1, sigma1, mu2, sigma2, eps=1e-06"},
    },
    "cleanfid": {"cleanfid.fid": {"frechet_distance": "mu1, sigma1, mu2, sigma2, eps=1e-06"}},
    "torchmetrics": {
        "torchmetrics.image.fid": {"_compute_fid": "mu1, sigma1, mu2, sigma2"},
        "torchmetrics.image.mifid": {"_compute_fid": "mu1, sigma1, mu2, sigma2"},
    },
    "torch_fidelity": {
        "torch_fidelity.metric_fid": {"fid_statistics_to_metric": "stat_1, stat_2, verbose"},
        "torch_fidelity.metrics": {"fid_statistics_to_metric": "stat_1, stat_2, verbose"},
    },
}
CASES = [(family, module) for family, modules in FAMILIES.items() for module in modules]


def written(function) -> str:
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={said(p.default)}" for p in parameters)


def said(default) -> str:
    return "cpu" if default in ("cpu", torch.device("cpu")) else repr(default)


def found(module, path):
    value = module
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(("family", "name"), CASES)
def test_signatures(foreign, family, name):
    dropin = foreign.family(family)
    theirs = importlib.import_module(name)
    before = {path: found(theirs, path) for path in FAMILIES[family][name]}
    with dropin.installed():
        for path, expected in FAMILIES[family][name].items():
            if path != "modulated_conv2d":  # behind a decorator that takes anything
                assert written(before[path]) == expected, f"the double's {path}"
            ours = found(theirs, path)
            assert written(ours) == expected, path
            assert path == "FusedLeakyReLU" or ours is not before[path], f"{path} is still theirs"


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if ".ops." in case[1] or case[1][:3] == "op."])
def test_signatures_of_what_an_import_gives(foreign, family, name):
    with foreign.family(family, compiled=False).installed():
        module = importlib.import_module(name)
        for path, expected in FAMILIES[family][name].items():
            assert written(getattr(module, path)) == expected, path


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if ".ops." in case[1] or case[1][:3] == "op."])
def test_nothing_is_missing(foreign, family, name):
    """Every function and flag of the double has a counterpart, but for two that are private to it."""
    dropin = foreign.family(family)
    theirs = vars(importlib.import_module(name))
    names = {
        n
        for n, value in theirs.items()
        if getattr(value, "__module__", None) == name or (isinstance(value, bool | dict) and not n.startswith("_"))
    }
    assert names
    for module in [m for m in list(sys.modules) if m.partition(".")[0] in ("torch_utils", "op")]:
        del sys.modules[module]
    with dropin.installed():
        ours = importlib.import_module(name)
        assert {n for n in names if not hasattr(ours, n)} <= {"_plugin", "_pair"}
