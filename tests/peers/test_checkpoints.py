"""Checkpoints against the code that they come from, where a folder with its checkouts is given:

FASTUNLEARN_PEERS=DIR with DIR/rosinality-stylegan2-pytorch, DIR/stylegan2-ada-pytorch, DIR/stylegan3.
"""

import contextlib
import importlib
import inspect
import os
import pickle
import re
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastunlearn.bundle import load, save_bundle
from fastunlearn.models.checkpoints import load_checkpoint, save_checkpoint

SIZES = (32, 64, 256)
TOLERANCE = 1e-4
NAMES = ("op", "model", "training", "torch_utils", "dnnlib", "legacy")


@contextlib.contextmanager
def checkout(name, **stubs):
    """Imports from a checkout, and from no other; its modules stay usable afterwards."""
    root = os.environ.get("FASTUNLEARN_PEERS")
    if root is None:
        pytest.skip("FASTUNLEARN_PEERS is not set")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    own = [key for key in sys.modules if key.partition(".")[0] in NAMES]
    before = {key: sys.modules.pop(key) for key in own}
    sys.path.insert(0, str(folder))
    sys.modules.update(stubs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path.remove(str(folder))
        for key in [key for key in sys.modules if key.partition(".")[0] in NAMES] + list(stubs):
            sys.modules.pop(key, None)
        sys.modules.update(before)


def module(name, **content):
    made = types.ModuleType(name)
    made.__dict__.update(content)
    return made


def upfirdn2d(x, kernel, up=1, down=1, pad=(0, 0)):
    """rosinality's op from its definition, since his own needs a compiler for CUDA when it is imported."""
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n * c, 1, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n * c, 1, h * up, w * up)
    x = F.pad(x, (pad[0], pad[1], pad[0], pad[1]))
    x = F.conv2d(x, kernel.flip((0, 1))[None, None])[:, :, ::down, ::down]
    return x.reshape(n, c, *x.shape[2:])


def leaky(x, bias=None, negative_slope=0.2, scale=2**0.5):
    x = x if bias is None else x + bias.view(1, -1, *[1] * (x.ndim - 2))
    return F.leaky_relu(x, negative_slope) * scale


class Leaky(nn.Module):
    def __init__(self, channel, bias=True, negative_slope=0.2, scale=2**0.5):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None

    def forward(self, x):
        return leaky(x, self.bias)


def rosinality():
    convolutions = module("op.conv2d_gradfix", conv2d=F.conv2d, conv_transpose2d=F.conv_transpose2d)
    op = module("op", FusedLeakyReLU=Leaky, fused_leaky_relu=leaky, upfirdn2d=upfirdn2d, conv2d_gradfix=convolutions)
    with checkout("rosinality-stylegan2-pytorch", op=op, **{"op.conv2d_gradfix": convolutions}):
        return importlib.import_module("model")


NETWORKS = {"stylegan2-ada-pytorch": "training.networks", "stylegan3": "training.networks_stylegan2"}


@pytest.fixture(params=NETWORKS)
def nvidia(request):
    """Networks of a repository; its modules stay importable, because making a network pickles it."""
    resources = module("pkg_resources", parse_version=lambda text: [int(n) for n in re.findall(r"\d+", text)[:2]])
    with checkout(request.param, pkg_resources=resources):
        yield importlib.import_module(NETWORKS[request.param])


def stir(network, seed):
    """Biases, noise strengths and buffers that a trained network would have, none of them at its start value."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bias" in name or "noise" in name:
                parameter.add_(torch.randn_like(parameter) * (30 if "mapping" in name or "style." in name else 0.3))
        for name, buffer in network.named_buffers():
            if name.endswith("w_avg"):
                buffer.normal_()
    return network.eval().requires_grad_(False)


def outputs(network, names, call):
    """What the named submodules gave while `call` ran."""
    seen = {}

    def keep(name):
        return lambda _, __, y: seen.__setitem__(name, y)

    hooks = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    result = call()
    for hook in hooks:
        hook.remove()
    return result, [seen[name] for name in names]


def close(ours, theirs):
    error = ((ours - theirs).norm() / theirs.norm()).item()
    print(f"{error:.1e}", end=" ")
    assert ours.shape == theirs.shape
    assert error < TOLERANCE
    assert (ours - theirs).abs().max() < TOLERANCE * theirs.abs().max() * 10


def our_layers(g):
    return ["conv1", *(f"convs.{i}" for i in range(len(g.convs)))]


@pytest.mark.parametrize("size", SIZES)
def test_rosinality(size, tmp_path):
    code = rosinality()
    nets = {key: stir(code.Generator(size, 512, 8, channel_multiplier=1), i) for i, key in enumerate(("g", "g_ema"))}
    nets["d"] = stir(code.Discriminator(size, channel_multiplier=1), 2)
    mean = torch.randn(512)
    states = {key: net.state_dict() for key, net in nets.items()}
    torch.save({**states, "latent_avg": mean, "g_optim": {}, "args": {"size": size}}, tmp_path / "001234.pt")
    ck = load_checkpoint(tmp_path / "001234.pt")
    assert (ck.format, ck.facts["step"]) == ("rosinality", 1234)
    model, g, d = ck.model, nets["g_ema"], nets["d"]
    z, other = torch.randn(2, 2, 512)
    with torch.no_grad():
        (theirs, _), layers = outputs(g, our_layers(model.ema), lambda: g([z], randomize_noise=False))
        ours, our = outputs(model.ema, our_layers(model.ema), lambda: model.generate(z))
        for a, b in zip([*our, ours], [*layers, theirs], strict=True):
            close(a, b)
        options = {"truncation": 0.5, "truncation_latent": mean[None], "randomize_noise": False}
        close(model.generate(z, truncation=0.5), g([z], **options)[0])
        mixed = model.ema.mix(model.ema.mapping(z), model.ema.mapping(other), torch.tensor([3, 3]))
        fixed = model.ema.fixed_noise
        close(model.ema.synthesis(mixed, fixed), g([z, other], inject_index=3, randomize_noise=False)[0])
        close(model.discriminator(theirs), d(theirs)[:, 0])
        raw = nets["g"]
        theirs = raw([z], randomize_noise=False)[0]
        close(model.generator.synthesis(model.generator.mapping(z), model.generator.fixed_noise), theirs)
    save_bundle(model, tmp_path / "bundle", {"converted": ck.facts})
    save_checkpoint(load(tmp_path / "bundle"), tmp_path / "back.pt", "rosinality")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    for key, net in nets.items():
        assert net.load_state_dict(back[key])
        assert states[key].keys() == back[key].keys()
        assert all(torch.equal(states[key][name], back[key][name]) for name in states[key])
    assert torch.equal(back["latent_avg"], mean)


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("size", SIZES)
def test_nvidia(nvidia, size, clamp, tmp_path):
    code = nvidia
    common = {"c_dim": 0, "img_resolution": size, "img_channels": 3}
    widths = {"channel_base": 8192, "channel_max": 256, "conv_clamp": clamp, "num_fp16_res": 4}
    parameters = inspect.signature(code.Generator.__mro__[1].__init__).parameters
    nested = parameters["synthesis_kwargs"].kind is not inspect.Parameter.VAR_KEYWORD
    generator = {**common, "z_dim": 96, "w_dim": 128, "mapping_kwargs": {"num_layers": 3}}
    generator |= {"synthesis_kwargs": widths} if nested else widths
    nets = {key: stir(code.Generator(**generator), i) for i, key in enumerate(("G", "G_ema"))}
    nets["D"] = stir(code.Discriminator(**common, **widths, epilogue_kwargs={"mbstd_group_size": 2}), 2)
    path = tmp_path / "network-snapshot-000200.pkl"
    with open(path, "wb") as file:
        pickle.dump({**nets, "training_set_kwargs": {"path": "x.zip"}, "augment_pipe": None}, file)
    ck = load_checkpoint(path)
    assert (ck.format, ck.facts["images"], ck.model.config.conv_clamp) == ("nvidia", 200_000, clamp)
    model, g, d = ck.model, nets["G_ema"], nets["D"]
    z, other = torch.randn(2, 4, 96)
    resolutions = [4 << i for i in range(model.config.n_resolutions)]
    theirs_names = [f"synthesis.b{r}.conv{i}" for r in resolutions for i in (0, 1) if r > 4 or i == 1]
    rgb = [f"synthesis.b{r}.torgb" for r in resolutions]
    our_rgb = ["to_rgb1", *(f"to_rgbs.{i}" for i in range(len(model.ema.to_rgbs)))]
    with torch.no_grad():
        theirs, layers = outputs(g, theirs_names + rgb, lambda: g(z, None, noise_mode="const", force_fp32=True))
        ours, our = outputs(model.ema, our_layers(model.ema) + our_rgb, lambda: model.generate(z))
        for a, b in zip([*our, ours], [*layers, theirs], strict=True):
            close(a, b)
        if clamp is not None:
            assert layers[-1].abs().max() == clamp, "the clamp is at work"
        close(model.generate(z, truncation=0.5), g(z, None, truncation_psi=0.5, noise_mode="const", force_fp32=True))
        first, second = g.mapping(z, None), g.mapping(other, None)
        ws = torch.cat([first[:, :3], second[:, 3:]], dim=1)
        mixed = model.ema.mix(model.ema.mapping(z), model.ema.mapping(other), torch.full((4,), 3))
        close(model.ema.synthesis(mixed, model.ema.fixed_noise), g.synthesis(ws, noise_mode="const", force_fp32=True))
        close(model.discriminator(theirs), d(theirs, None, force_fp32=True)[:, 0])
    save_checkpoint(model, tmp_path / "back.pt", "nvidia")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    for key, net in nets.items():
        arguments = dict(back[f"{key[0]}_kwargs"])
        if key != "D" and not nested:
            arguments |= arguments.pop("synthesis_kwargs")
        again = type(net)(**arguments)
        assert again.load_state_dict(back[key])
        for name, tensor in net.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
    again = load_checkpoint(tmp_path / "back.pt").model
    assert again.config == model.config
    assert torch.equal(again.generate(z), model.generate(z))
