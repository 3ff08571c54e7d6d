"""Checkpoints made here by names and shapes, and what they must give by the formulas in plain PyTorch."""

import contextlib
import math
import pickle
import sys
import types
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F

from fastunlearn.bundle import Bundle, load, save_bundle
from fastunlearn.errors import FastUnlearnError
from fastunlearn.models.checkpoints import load_checkpoint, save_checkpoint
from fastunlearn.models.stylegan2 import StyleGAN2, StyleGAN2Config
from fastunlearn.training.adversarial import Networks

SIZE, STYLE, WIDTHS = 16, 6, (8, 4, 2)
KERNEL = torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0])] * 2) / 64


def filtered(x, kernel, up=1, down=1, pad=(0, 0)):
    n, c, h, w = x.shape
    stuffed = x.new_zeros(n, c, h * up, w * up)
    stuffed[:, :, ::up, ::up] = x
    x = F.pad(stuffed, (pad[0], pad[1], pad[0], pad[1]))
    return F.conv2d(x, kernel.expand(c, 1, 4, 4), groups=c)[:, :, ::down, ::down]


def leaky(x, b, gain=1.0, clamp=None):
    y = F.leaky_relu(x + b.view(1, -1, *[1] * (x.ndim - 2)), 0.2) * math.sqrt(2) * gain
    return y if clamp is None else y.clamp(-clamp * gain, clamp * gain)


def linear(x, w, b, lr=1.0):
    return F.linear(x, w * lr / math.sqrt(w.shape[1]), b * lr)


def modulated(x, w, styles, up=False, demodulate=True):
    images = []
    for image, style in zip(x, styles, strict=True):
        own = w * style[:, None, None]
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt() if demodulate else own
        if up:
            y = filtered(F.conv_transpose2d(image[None], own.transpose(0, 1), stride=2), KERNEL * 4, pad=(1, 1))
        else:
            y = F.conv2d(image[None], own, padding=w.shape[-1] // 2)
        images.append(y)
    return torch.cat(images)


def generated(layers, ws, clamp=None):
    """Image from per-layer tensors: const, [(weight, affine w, affine b, noise, bias, up)], [(weight, …, bias)]."""
    const, convs, rgbs = layers
    x, image, seen = const.expand(len(ws), -1, -1, -1), None, []
    for i, (w, a, b, noise, bias, up) in enumerate(convs):
        x = leaky(modulated(x, w, linear(ws[:, i], a, b), up) + noise, bias, clamp=clamp)
        seen.append(x)
        if i % 2 == 0:
            w, a, b, bias = rgbs[i // 2]
            rgb = modulated(x, w / math.sqrt(w.shape[1]), linear(ws[:, i + 1], a, b), demodulate=False)
            rgb = rgb + bias.view(1, -1, 1, 1)
            rgb = rgb if clamp is None else rgb.clamp(-clamp, clamp)
            image = rgb if image is None else filtered(image, KERNEL * 4, up=2, pad=(2, 1)) + rgb
    return image, seen


def judged(layers, x, group=4, clamp=None):
    """Logit: from_rgb, [(conv1, conv2, skip)], final_conv, two linear layers."""
    (w, b), blocks, (wf, bf), (w1, b1), (w2, b2) = layers

    def conv(x, w, b, gain=1.0, **options):
        return leaky(F.conv2d(x, w / math.sqrt(w[0].numel()), **options), b, gain, clamp)

    half = math.sqrt(0.5)
    x = conv(x, w, b)
    for (wa, ba), (wb, bb), ws in blocks:
        skip = F.conv2d(filtered(x, KERNEL, pad=(1, 1)), ws / math.sqrt(ws.shape[1]), stride=2) * half
        y = filtered(conv(x, wa, ba, padding=1), KERNEL, pad=(2, 2))
        x = conv(y, wb, bb, half, stride=2) + skip
    n = len(x)
    deviation = (x.view(min(group, n), -1, *x.shape[1:]).var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    x = torch.cat([x, deviation.repeat(min(group, n)).view(n, 1, 1, 1).expand(n, 1, 4, 4)], 1)
    x = conv(x, wf, bf, padding=1).flatten(1)
    return linear(leaky(linear(x, w1, torch.zeros(len(b1))), b1), w2, b2)[:, 0]


def styles(z, mapping):
    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for weight, bias in mapping:
        w = leaky(linear(w, weight, torch.zeros(len(bias)), 0.01), bias * 0.01)
    return w


# rosinality


def rosinality_g(seed):
    torch.manual_seed(seed)
    c, s = WIDTHS, OrderedDict()
    for i in (1, 2):
        s[f"style.{i}.weight"], s[f"style.{i}.bias"] = torch.randn(STYLE, STYLE) * 100, torch.randn(STYLE) * 50
    s["input.input"] = torch.randn(1, c[0], 4, 4)

    def styled(name, n_in, n_out, up):
        s[f"{name}.conv.weight"] = torch.randn(1, n_out, n_in, 3, 3)
        s[f"{name}.conv.modulation.weight"], s[f"{name}.conv.modulation.bias"] = (
            torch.randn(n_in, STYLE),
            torch.randn(n_in),
        )
        s[f"{name}.noise.weight"], s[f"{name}.activate.bias"] = torch.randn(1), torch.randn(n_out)
        if up:
            s[f"{name}.conv.blur.kernel"] = KERNEL * 4

    def rgb(name, n_in, up):
        s[f"{name}.conv.weight"], s[f"{name}.bias"] = torch.randn(1, 3, n_in, 1, 1), torch.randn(1, 3, 1, 1)
        s[f"{name}.conv.modulation.weight"], s[f"{name}.conv.modulation.bias"] = (
            torch.randn(n_in, STYLE),
            torch.randn(n_in),
        )
        if up:
            s[f"{name}.upsample.kernel"] = KERNEL * 4

    styled("conv1", c[0], c[0], False)
    rgb("to_rgb1", c[0], False)
    for i in (1, 2):
        styled(f"convs.{2 * i - 2}", c[i - 1], c[i], True)
        styled(f"convs.{2 * i - 1}", c[i], c[i], False)
        rgb(f"to_rgbs.{i - 1}", c[i], True)
    for i in range(5):
        s[f"noises.noise_{i}"] = torch.randn(1, 1, *[4 << (i + 1) // 2] * 2)
    return s


def rosinality_d(seed):
    torch.manual_seed(seed)
    c, s = WIDTHS, OrderedDict()
    s["convs.0.0.weight"], s["convs.0.1.bias"] = torch.randn(c[2], 3, 1, 1), torch.randn(c[2])
    for i in (1, 2):
        n_in, n_out = c[3 - i], c[2 - i]
        s[f"convs.{i}.conv1.0.weight"], s[f"convs.{i}.conv1.1.bias"] = torch.randn(n_in, n_in, 3, 3), torch.randn(n_in)
        s[f"convs.{i}.conv2.0.kernel"] = KERNEL
        s[f"convs.{i}.conv2.1.weight"], s[f"convs.{i}.conv2.2.bias"] = (
            torch.randn(n_out, n_in, 3, 3),
            torch.randn(n_out),
        )
        s[f"convs.{i}.skip.0.kernel"], s[f"convs.{i}.skip.1.weight"] = KERNEL, torch.randn(n_out, n_in, 1, 1)
    s["final_conv.0.weight"], s["final_conv.1.bias"] = torch.randn(c[0], c[0] + 1, 3, 3), torch.randn(c[0])
    s["final_linear.0.weight"], s["final_linear.0.bias"] = torch.randn(c[0], c[0] * 16), torch.randn(c[0])
    s["final_linear.1.weight"], s["final_linear.1.bias"] = torch.randn(1, c[0]), torch.randn(1)
    return s


def rosinality_layers(s):
    names = ["conv1", "convs.0", "convs.1", "convs.2", "convs.3"]
    convs = [
        (
            s[f"{n}.conv.weight"][0] / math.sqrt(s[f"{n}.conv.weight"][0, 0].numel()),
            *(s[f"{n}.conv.modulation.{leaf}"] for leaf in ("weight", "bias")),
            s[f"noises.noise_{i}"] * s[f"{n}.noise.weight"],
            s[f"{n}.activate.bias"],
            n in ("convs.0", "convs.2"),
        )
        for i, n in enumerate(names)
    ]
    rgbs = [
        (s[f"{n}.conv.weight"][0], *(s[f"{n}.conv.modulation.{leaf}"] for leaf in ("weight", "bias")), s[f"{n}.bias"])
        for n in ("to_rgb1", "to_rgbs.0", "to_rgbs.1")
    ]
    mapping = [(s[f"style.{i}.weight"], s[f"style.{i}.bias"]) for i in (1, 2)]
    return mapping, (s["input.input"], convs, rgbs)


def rosinality_judge(s):
    def pair(a, b):
        return s[f"{a}.weight"], s[f"{b}.bias"]

    blocks = [
        (
            pair(f"convs.{i}.conv1.0", f"convs.{i}.conv1.1"),
            pair(f"convs.{i}.conv2.1", f"convs.{i}.conv2.2"),
            s[f"convs.{i}.skip.1.weight"],
        )
        for i in (1, 2)
    ]
    ends = pair("final_conv.0", "final_conv.1"), *(pair(f"final_linear.{i}", f"final_linear.{i}") for i in (0, 1))
    return pair("convs.0.0", "convs.0.1"), blocks, *ends


@pytest.fixture(scope="module")
def rosinality():
    optimiser = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.1}]}
    torch.manual_seed(9)
    return {
        "g": rosinality_g(0),
        "d": rosinality_d(1),
        "g_ema": rosinality_g(2),
        "g_optim": optimiser,
        "d_optim": optimiser,
        "latent_avg": torch.randn(STYLE),
        "ada_aug_p": 0.25,
    }


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


@torch.no_grad()
def check_generator(model, g, mapping, layers, mean, clamp=None):
    """Every layer, the image, truncation and mixing of one of the model's generators."""
    z, other = torch.randn(2, 3, model.latent_dim)
    seen = []
    hooks = [layer.register_forward_hook(lambda _, __, y: seen.append(y)) for layer in g.styled_convs]
    w = styles(z, mapping)
    close(g.mapping(z), w)
    image, layer_outputs = generated(layers, w[:, None].expand(-1, 6, -1), clamp)
    close(g.synthesis(g.mapping(z), g.fixed_noise), image)
    for ours, theirs in zip(seen, layer_outputs, strict=True):
        close(ours, theirs)
    for hook in hooks:
        hook.remove()
    if g is model.ema:
        close(model.generate(z), image)
        pulled = mean + 0.5 * (w - mean)
        close(model.generate(z, truncation=0.5), generated(layers, pulled[:, None].expand(-1, 6, -1), clamp)[0])
    mixed = torch.cat([w[:, None].expand(-1, 2, -1), styles(other, mapping)[:, None].expand(-1, 4, -1)], 1)
    ours = g.mix(g.mapping(z), g.mapping(other), torch.full((3,), 2))
    close(g.synthesis(ours, g.fixed_noise), generated(layers, mixed, clamp)[0])


@pytest.mark.parametrize("zipped", [True, False])
def test_rosinality_gives_its_outputs(rosinality, tmp_path, zipped):
    torch.save(rosinality, tmp_path / "000300.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(tmp_path / "000300.pt")
    model = checkpoint.model
    assert checkpoint.format == "rosinality"
    assert model.config.g_widths == model.config.d_widths == WIDTHS
    facts = checkpoint.facts
    assert (facts["step"], facts["left_out"], facts["missing"]) == (300, ["g_optim", "d_optim"], [])
    assert facts["other"] == {"ada_aug_p": 0.25}
    for network, key in ((model.ema, "g_ema"), (model.generator, "g")):
        check_generator(model, network, *rosinality_layers(rosinality[key]), rosinality["latent_avg"])
    images = torch.randn(8, 3, SIZE, SIZE)
    with torch.no_grad():
        close(model.discriminator(images), judged(rosinality_judge(rosinality["d"]), images))


def test_rosinality_through_a_bundle_and_back_is_bit_for_bit(rosinality, tmp_path):
    torch.save(rosinality, tmp_path / "in.pt")
    checkpoint = load_checkpoint(tmp_path / "in.pt")
    save_bundle(checkpoint.model, tmp_path / "bundle", {"converted": checkpoint.facts})
    assert Bundle(tmp_path / "bundle").config["converted"]["other"] == {"ada_aug_p": 0.25}
    save_checkpoint(load(tmp_path / "bundle"), tmp_path / "out.pt", "rosinality")
    back = torch.load(tmp_path / "out.pt", weights_only=True)
    assert back.keys() == {"g", "d", "g_ema", "latent_avg"}
    assert torch.equal(back["latent_avg"], rosinality["latent_avg"])
    for key in ("g", "d", "g_ema"):
        assert back[key].keys() == rosinality[key].keys()
        for name, tensor in rosinality[key].items():
            assert back[key][name].shape == tensor.shape
            assert torch.equal(back[key][name], tensor), name


def test_rosinality_without_noise_mean_raw_generator_and_discriminator(rosinality, tmp_path):
    bare = {name: tensor for name, tensor in rosinality["g_ema"].items() if not name.startswith("noises.")}
    torch.save({"g_ema": bare}, tmp_path / "x.pt")
    checkpoint = load_checkpoint(tmp_path / "x.pt")
    model = checkpoint.model
    assert checkpoint.facts["step"] is None
    assert checkpoint.facts["missing"] == ["generator (a copy of the other one)", "discriminator"]
    assert model.discriminator is None
    assert model.ema.constants() == {}
    save_bundle(model, tmp_path / "b", {})
    assert not (tmp_path / "b/constants.safetensors").exists()
    again = load(tmp_path / "b")
    assert again.discriminator is None
    z = model.sample_latents(2)
    assert torch.equal(again.generate(z, truncation=0.5), model.generate(z, truncation=0.5))
    save_checkpoint(again, tmp_path / "y.pt", "rosinality")
    written = torch.load(tmp_path / "y.pt", weights_only=True)
    assert "d" not in written
    # Its noise is the one that `generate` takes without seeds.
    close(load_checkpoint(tmp_path / "y.pt").model.generate(z), model.generate(z))


def test_training_leaves_the_mean_style_behind_and_keeps_the_noise(rosinality, tmp_path):
    torch.save(rosinality, tmp_path / "x.pt")
    model = load(tmp_path / "x.pt")
    networks = Networks(model, model.ema)
    assert networks.generator.mean_style is networks.ema.mean_style is None
    assert torch.equal(networks.ema.fixed_noise[3], model.ema.fixed_noise[3])
    assert torch.equal(model.ema.mean_style, rosinality["latent_avg"]), "the model stays as it was"


# NVIDIA


def layer(**attributes):
    """Attributes of a module: tensors become parameters or buffers, modules children."""
    state = {"training": False, "_parameters": OrderedDict(), "_buffers": OrderedDict(), "_modules": OrderedDict()}
    for name, value in attributes.items():
        if isinstance(value, Persistent):
            state["_modules"][name] = value
        elif isinstance(value, torch.nn.Parameter):
            state["_parameters"][name] = value
        elif isinstance(value, torch.Tensor):
            state["_buffers"][name] = value
        else:
            state[name] = value
    return state


class Persistent:
    def __init__(self, class_name, **attributes):
        self.class_name, self.state = class_name, layer(**attributes)

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('source of a pickle was executed')",
            "class_name": self.class_name,
            "state": self.state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


@contextlib.contextmanager
def nvidia_names():
    """What a pickle of NVIDIA's names, for the time of writing it."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError

    class EasyDict(dict):
        pass

    names = {}
    for name, content in (("torch_utils.persistence", _reconstruct_persistent_obj), ("dnnlib.util", EasyDict)):
        content.__module__, content.__qualname__ = name, content.__name__
        for part in (name.partition(".")[0], name):
            names[part] = types.ModuleType(part)
        setattr(names[name], content.__name__, content)
    sys.modules.update(names)
    try:
        yield EasyDict
    finally:
        for name in names:
            del sys.modules[name]


def fc(n_in, n_out, lr=1.0, activation="linear"):
    p = torch.nn.Parameter
    weight, bias = p(torch.randn(n_out, n_in) / lr), p(torch.randn(n_out) / lr)
    return Persistent("FullyConnectedLayer", activation=activation, weight=weight, bias=bias, bias_gain=lr)


def nvidia_g(seed, clamp=None, z_dim=5, **changes):
    torch.manual_seed(seed)
    p, c = torch.nn.Parameter, WIDTHS

    def conv(n_in, n_out, resolution, up):
        return Persistent(
            "SynthesisLayer",
            affine=fc(STYLE, n_in),
            weight=p(torch.randn(n_out, n_in, 3, 3)),
            bias=p(torch.randn(n_out)),
            noise_const=torch.randn(resolution, resolution),
            noise_strength=p(torch.randn(())),
            resample_filter=KERNEL.clone(),
            conv_clamp=clamp,
            activation="lrelu",
            up=up,
            act_gain=KERNEL.new_tensor(2.0).sqrt().numpy()[()],  # a NumPy scalar, as np.sqrt gives
        )

    blocks = {}
    for i, n in enumerate(c):
        rgb = {
            "affine": fc(STYLE, n),
            "weight": p(torch.randn(3, n, 1, 1)),
            "bias": p(torch.randn(3)),
            "conv_clamp": clamp,
        }
        content = {
            **({"const": p(torch.randn(n, 4, 4))} if i == 0 else {"conv0": conv(c[i - 1], n, 4 << i, 2)}),
            "conv1": conv(n, n, 4 << i, 1),
            "torgb": Persistent("ToRGBLayer", **rgb),
            "resample_filter": KERNEL.clone(),
            "architecture": changes.get("architecture", "skip"),
        }
        blocks[f"b{4 << i}"] = Persistent("SynthesisBlock", **content)
    layers = {"fc0": fc(z_dim, STYLE, 0.01, "lrelu"), "fc1": fc(STYLE, STYLE, 0.01, "lrelu")}
    mapping = Persistent("MappingNetwork", w_avg=torch.randn(STYLE), **layers)
    synthesis = Persistent("SynthesisNetwork", **blocks)
    return Persistent("Generator", mapping=mapping, synthesis=synthesis, c_dim=changes.get("c_dim", 0), z_dim=z_dim)


def nvidia_d(seed, clamp=None, group=2, num_channels=1, architecture="resnet", taps=KERNEL):
    torch.manual_seed(seed)
    p, c = torch.nn.Parameter, WIDTHS

    def conv(n_in, n_out, k, bias=True, act="lrelu"):
        return Persistent(
            "Conv2dLayer",
            weight=p(torch.randn(n_out, n_in, k, k)),
            **({"bias": p(torch.randn(n_out))} if bias else {}),
            resample_filter=taps.clone(),
            activation=act,
            conv_clamp=clamp if bias else None,
        )

    blocks = {}
    for i in (2, 1):
        content = {"conv0": conv(c[i], c[i], 3), "conv1": conv(c[i], c[i - 1], 3)}
        content["skip"] = conv(c[i], c[i - 1], 1, False, "linear")
        content |= {"fromrgb": conv(3, c[i], 1)} if i == 2 else {}
        block = Persistent("DiscriminatorBlock", **content, resample_filter=taps.clone(), architecture=architecture)
        blocks[f"b{4 << i}"] = block
    blocks["b4"] = Persistent(
        "DiscriminatorEpilogue",
        mbstd=Persistent("MinibatchStdLayer", group_size=group, num_channels=num_channels),
        conv=conv(c[0] + num_channels, c[0], 3),
        fc=fc(c[0] * 16, c[0], activation="lrelu"),
        out=fc(c[0], 1),
        architecture=architecture,
    )
    return Persistent("Discriminator", **blocks, c_dim=0)


def nvidia_pickle(path, protocol=4, **networks):
    with nvidia_names() as easy_dict, open(path, "wb") as file:
        content = {"training_set_kwargs": easy_dict(path="x.zip", resolution=SIZE), "augment_pipe": None, **networks}
        pickle.dump(content, file, protocol=protocol)
    return path


def nvidia_layers(g):
    at = {name: child.state for name, child in g.state["_modules"].items()}
    blocks = [block.state for block in at["synthesis"]["_modules"].values()]

    def tensors(module):
        affine = module.state["_modules"]["affine"].state["_parameters"]
        p, b = module.state["_parameters"], module.state["_buffers"]
        noise = (b["noise_const"] * p["noise_strength"],) if "noise_const" in b else ()
        up = (module.state["up"] == 2,) if noise else ()
        return p["weight"], affine["weight"], affine["bias"], *noise, p["bias"], *up

    names = ("conv0", "conv1")
    convs = [tensors(block["_modules"][n]) for block in blocks for n in names if n in block["_modules"]]
    rgbs = [tensors(block["_modules"]["torgb"]) for block in blocks]
    mapping = [tuple(m.state["_parameters"][n] for n in ("weight", "bias")) for m in at["mapping"]["_modules"].values()]
    return mapping, (blocks[0]["_parameters"]["const"][None], convs, rgbs)


def nvidia_judge(d):
    def pair(module):
        return tuple(module.state["_parameters"].values())

    b16, b8, b4 = (block.state["_modules"] for block in d.state["_modules"].values())
    blocks = [(pair(b["conv0"]), pair(b["conv1"]), pair(b["skip"])[0]) for b in (b16, b8)]
    return pair(b16["fromrgb"]), blocks, pair(b4["conv"]), pair(b4["fc"]), pair(b4["out"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("clamp", [None, 0.8])
def test_nvidia_gives_its_outputs(tmp_path, clamp, protocol):
    nets = {"G": nvidia_g(0, clamp), "D": nvidia_d(1, clamp), "G_ema": nvidia_g(2, clamp)}
    path = nvidia_pickle(tmp_path / "network-snapshot-000400.pkl", protocol, **nets)
    checkpoint = load_checkpoint(path)
    model, facts = checkpoint.model, checkpoint.facts
    assert (checkpoint.format, facts["images"], facts["missing"]) == ("nvidia", 400_000, [])
    assert facts["other"]["training_set_kwargs"] == {"path": "x.zip", "resolution": SIZE}
    assert facts["sources"]["D"]["class"] == "Discriminator"
    assert (model.config.latent_dim, model.config.conv_clamp, model.config.stddev_group) == (5, clamp, 2)
    for network, key in ((model.ema, "G_ema"), (model.generator, "G")):
        mapping, layers = nvidia_layers(nets[key])
        mean = nets[key].state["_modules"]["mapping"].state["_buffers"]["w_avg"]
        check_generator(model, network, mapping, layers, mean, clamp)
    images = torch.randn(8, 3, SIZE, SIZE)
    with torch.no_grad():
        close(model.discriminator(images), judged(nvidia_judge(nets["D"]), images, 2, clamp))


def test_nvidia_state_dicts_have_the_names_shapes_and_values_of_the_pickle(tmp_path):
    nets = {"G": nvidia_g(0, 0.8), "D": nvidia_d(1, 0.8), "G_ema": nvidia_g(2, 0.8)}
    model = load(nvidia_pickle(tmp_path / "x.pkl", **nets))
    save_bundle(model, tmp_path / "bundle", {})
    save_checkpoint(load(tmp_path / "bundle"), tmp_path / "x.pt", "nvidia")
    written = torch.load(tmp_path / "x.pt", weights_only=True)

    def tensors(module, path=""):
        own = {**module.state["_parameters"], **module.state["_buffers"]}
        children = [tensors(child, f"{path}{name}.") for name, child in module.state["_modules"].items()]
        return {
            **{path + name: tensor for name, tensor in own.items()},
            **{k: v for c in children for k, v in c.items()},
        }

    for key, network in nets.items():
        expected = tensors(network)
        assert written[key].keys() == expected.keys()
        assert all(torch.equal(written[key][name], tensor) for name, tensor in expected.items())
        assert all(written[key][name].shape == tensor.shape for name, tensor in expected.items())
    assert written["D_kwargs"]["channel_base"] == 32
    assert written["D_kwargs"]["channel_max"] == 8
    assert written["G_kwargs"]["synthesis_kwargs"]["conv_clamp"] == 0.8
    again = load(tmp_path / "x.pt")
    assert again.config == model.config
    z = model.sample_latents(2)
    assert torch.equal(again.generate(z, truncation=0.7), model.generate(z, truncation=0.7))


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (lambda: {"G_ema": nvidia_g(0, c_dim=10)}, r"conditional \(c_dim = 10\)"),
        (lambda: {"G_ema": nvidia_g(0, architecture="resnet")}, "architecture skip in G .* got 'resnet'"),
        (lambda: {"G_ema": nvidia_g(0), "D": nvidia_d(1, architecture="orig")}, "resnet in D, got 'orig'"),
        (lambda: {"G_ema": nvidia_g(0), "D": nvidia_d(1, num_channels=2)}, "mbstd_num_channels must be 1, got 2"),
        (lambda: {"G_ema": nvidia_g(0), "D": nvidia_d(1, group=None)}, "mbstd_group_size must be a number, got None"),
        (lambda: {"G_ema": nvidia_g(0), "D": nvidia_d(1, clamp=9.0)}, "must have the same conv_clamp"),
        (lambda: {"G_ema": nvidia_g(0, clamp=-1.0)}, "conv_clamp must be a positive number, got -1.0"),
        (lambda: {"G_ema": nvidia_g(0), "D": nvidia_d(1, taps=KERNEL.roll(1))}, r"must be the filter \[1, 3, 3, 1\]"),
        (lambda: {"G_ema": Persistent("Generator", c_dim=0)}, "of another architecture"),
        (
            lambda: {"G_ema": Persistent("Generator", synthesis=Persistent("S", input=Persistent("I", freqs=KERNEL)))},
            "is a StyleGAN3 generator",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_nvidia_networks_that_ours_cannot_be(tmp_path, networks, message):
    path = nvidia_pickle(tmp_path / "x.pkl", **networks())
    with pytest.raises(FastUnlearnError, match=message) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["g_ema"].pop("to_rgbs.1.bias"),
            r"g_ema: is of another architecture \(to_rgbs.1.bias is missing\)",
        ),
        (lambda c: c["g_ema"].update({"x.y": torch.zeros(2)}), "x.y is not expected"),
        (lambda c: c["d"].update({"final_conv.1.bias": torch.zeros(3)}), r"final_conv.1.bias is \(3,\), not \(8,\)"),
        (
            lambda c: c["g_ema"].update({"style.2.bias": c["g_ema"]["style.1.bias"]}),
            "the same tensor under several names",
        ),
        (lambda c: c["g_ema"].update({"input.input": torch.zeros(1, 10**5, 4, 4)}), "is of another architecture"),
        (lambda c: c["g_ema"].update({"convs.0.conv.blur.kernel": torch.ones(3, 3)}), r"the filter \[1, 3, 3, 1\]"),
        (lambda c: c["g_ema"].pop("noises.noise_2"), "a noise image for each of 5 layers or for none"),
        (lambda c: c["g_ema"].update({"noises.noise_2": torch.zeros(1, 1, 8, 4)}), r"noise_2 must be \(1, 1, 8, 8\)"),
        (lambda c: c.update({"latent_avg": torch.zeros(3)}), r"mean_style must be \(6,\), got \(3,\)"),
        (lambda c: c["g_ema"].update({"style.1.bias": torch.zeros(6, dtype=torch.int64)}), "floating-point numbers"),
        (lambda c: c["g_ema"].update({"style.1.bias": "six"}), "floating-point numbers, got str"),
        (lambda c: [c.pop("g_ema"), c.pop("g")], "holds 'd', 'g_optim'.*; no checkpoint of rosinality"),
    ],
)
def test_rosinality_files_of_another_architecture(rosinality, tmp_path, change, message):
    content = {key: value.copy() if isinstance(value, dict) else value for key, value in rosinality.items()}
    change(content)
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(FastUnlearnError, match=message) as error:
        load_checkpoint(tmp_path / "x.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "format", "message"),
    [
        ({"channels": 1}, "rosinality", "only networks with channels = 3, and this model has 1"),
        ({"latent_dim": 7}, "rosinality", "only networks with latent_dim = 6, and this model has 7"),
        ({"conv_clamp": 256.0}, "rosinality", "conv_clamp = None, and this model has 256.0"),
        ({"g_widths": (8, 3, 2)}, "nvidia", r"min\(channel_base / resolution, channel_max\) .* g_widths = 8, 3, 2"),
        ({}, "tensorflow", "format must be one of rosinality, nvidia.*got 'tensorflow'"),
    ],
)
def test_models_that_a_format_cannot_hold(tmp_path, config, format, message):
    sizes = {"size": SIZE, "latent_dim": STYLE, "style_dim": STYLE, "channels": 3}
    model = StyleGAN2(StyleGAN2Config(**{**sizes, "g_widths": WIDTHS, "d_widths": WIDTHS, **config}))
    with pytest.raises(FastUnlearnError, match=message):
        save_checkpoint(model, tmp_path / "x.pt", format)
    assert not (tmp_path / "x.pt").exists()


def test_a_clamp_that_is_none():
    with pytest.raises(FastUnlearnError, match="conv_clamp must be > 0 or None, got 0"):
        StyleGAN2Config(conv_clamp=0)


def test_a_bundle_with_constants_of_another_model(rosinality, tmp_path):
    from safetensors.torch import save_file

    torch.save(rosinality, tmp_path / "x.pt")
    save_bundle(load(tmp_path / "x.pt"), tmp_path / "b", {})
    save_file({"generator.mean_style": torch.zeros(3)}, tmp_path / "b/constants.safetensors")
    with pytest.raises(
        FastUnlearnError, match=r"constants\.safetensors: of another architecture \(generator: mean_style"
    ):
        load(tmp_path / "b")


def test_a_bundle_without_constants_over_one_with(rosinality, tmp_path):
    torch.save(rosinality, tmp_path / "x.pt")
    model = load(tmp_path / "x.pt")
    save_bundle(model, tmp_path / "b", {})
    model.ema.set_constants({})
    model.generator.set_constants({})
    save_bundle(model, tmp_path / "b", {})
    assert load(tmp_path / "b").ema.constants() == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_filters_of_another_precision(tmp_path, dtype):
    torch.save({"g_ema": {name: tensor.to(dtype) for name, tensor in rosinality_g(0).items()}}, tmp_path / "x.pt")
    assert load(tmp_path / "x.pt").config.size == SIZE
