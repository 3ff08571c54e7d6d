"""``networks.py FAMILY FOLDER NETWORK SIZE [WRONG]``: their networks on their ops and on ours; prints errors as JSON.

A process of its own, since what a repository calls ``model`` or ``training`` another one does too. In this order:

- theirs, imported without us;
- the same objects after `install()`, and again after `uninstall()`;
- their modules imported anew after `install()`, with the same weights.

WRONG is a factor that our FIR filter gets, for a test of the test.
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import natively
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastunlearn import ops
from fastunlearn.compat.cuda_on_cpu import cuda_on_cpu

BATCH = 2

# Rounding moves an input of a leaky ReLU now and then across 0, where the slope jumps. In one of the first layers, of a
# few thousand values, that one alone changes a gradient by a thousandth. A draw of latents with so large an error is
# therefore followed by another, and of gradients the least error counts: what is wrong is wrong in every draw.
DRAWS, NEAR = 4, 2e-4


@dataclass
class Networks:
    """What every family's networks have in common: latents [N, …] → an image [N, 3, H, W], images → logits."""

    modules: dict[str, nn.Module]
    z: Tensor
    latents: Callable[[], Tensor]
    synthesis: Callable[[Tensor], Tensor]
    discriminator: Callable[[Tensor], Tensor] | None


def rosinality(network: str, size: int) -> Networks:
    model = importlib.import_module("model")
    # Their width is fixed: multiplier 1 is the smaller of the two that they offer.
    g, d = model.Generator(size, 64, 2, channel_multiplier=1), model.Discriminator(size, channel_multiplier=1)
    z = torch.randn(BATCH, 64)
    return Networks(
        {"g": g, "d": d},
        z,
        lambda: g.get_latent(z)[:, None].repeat(1, g.n_latent, 1),
        lambda w: g([w], input_is_latent=True, randomize_noise=False)[0],
        d,
    )


def nvidia(module: str, nested: bool) -> Callable[[str, int], Networks]:
    def networks(network: str, size: int) -> Networks:
        theirs = importlib.import_module(f"training.{module if network == 'stylegan2' else 'networks_stylegan3'}")
        width = {"channel_base": 64 * size, "channel_max": 64}
        extra = {"conv_kernel": 1, "use_radial_filters": True} if network == "stylegan3-r" else {}
        g = theirs.Generator(
            z_dim=64,
            c_dim=0,
            w_dim=64,
            img_resolution=size,
            img_channels=3,
            mapping_kwargs={"num_layers": 2},
            **({"synthesis_kwargs": width} if nested else {**width, **extra}),
        )
        z = torch.randn(BATCH, 64)
        if network != "stylegan2":
            return Networks({"g": g}, z, lambda: g.mapping(z, None), g.synthesis, None)
        d = theirs.Discriminator(c_dim=0, img_resolution=size, img_channels=3, **width)
        return Networks(
            {"g": g, "d": d},
            z,
            lambda: g.mapping(z, None),
            lambda w: g.synthesis(w, noise_mode="const"),
            lambda x: d(x, None),
        )

    return networks


def lucidrains(network: str, size: int) -> Networks:
    package = importlib.import_module("stylegan2_pytorch.stylegan2_pytorch")
    theirs = package.StyleGAN2(image_size=size, latent_dim=64, style_depth=2, network_capacity=4)
    z, noise = torch.randn(BATCH, 64), torch.rand(BATCH, size, size, 1)
    return Networks(
        {"s": theirs.S, "g": theirs.G, "d": theirs.D},
        z,
        lambda: theirs.S(z)[:, None].expand(-1, theirs.G.num_layers, -1),
        lambda w: theirs.G(w, noise),
        lambda x: theirs.D(x)[0],
    )


FAMILIES = {
    "lucidrains": lucidrains,
    "rosinality": rosinality,
    "stylegan2_ada": nvidia("networks", nested=True),
    "stylegan3": nvidia("networks_stylegan2", nested=False),
}


def build(family: str, network: str, size: int) -> Networks:
    """With random weights, noise strengths and biases: what starts at zero would hide what it is for."""
    torch.manual_seed(0)
    networks = FAMILIES[family](network, size)
    for module in networks.modules.values():
        module.requires_grad_()
        with torch.no_grad():
            for name, p in module.named_parameters():
                if name.endswith(("noise_strength", "noise.weight", "bias")) and "affine" not in name:
                    p.add_(0.3 * torch.randn_like(p))
    return networks


def results(networks: Networks) -> dict[str, list[Tensor]]:
    """Forward, first gradients, second gradients (R1 in D's weights, path length in G's)."""
    parameters = {name: list(module.parameters()) for name, module in networks.modules.items()}
    of_g = [p for name in parameters if name != "d" for p in parameters[name]]
    of_d = parameters.get("d", [])
    w = networks.latents()
    image = networks.synthesis(w)
    judged = image.square().mean() if networks.discriminator is None else networks.discriminator(image)
    found = {"image": [image.detach()]}
    if of_d:
        found["logits"] = [judged.detach()]
    found["first gradients"] = gradients(F.softplus(-judged).mean(), [*of_g, *of_d])
    if of_d:
        x = image.detach().requires_grad_()
        (direction,) = torch.autograd.grad(networks.discriminator(x).sum(), x, create_graph=True)
        found["R1 gradients"] = gradients(direction.square().sum(), of_d)
    w = networks.latents()
    image = networks.synthesis(w)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)) / image[0, 0].numel() ** 0.5
    (direction,) = torch.autograd.grad((image * noise).sum(), w, create_graph=True)
    found["path length gradients"] = gradients(direction.square().sum(), of_g)
    return found


def gradients(y: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Zeros where there is none, which may also be told by None."""
    found = torch.autograd.grad(y, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Of the whole gradient, in its norm.

    Not tensor by tensor: some tensors' gradients are sums that cancel almost to nothing, and rounding alone, theirs
    against float64 as much as ours against theirs, is large beside what is left.
    """
    difference = sum((a.double() - b.double()).square().sum() for a, b in zip(ours, theirs, strict=True))
    return (difference / sum(b.double().square().sum() for b in theirs)).sqrt().item()


def same(a: dict[str, list[Tensor]], b: dict[str, list[Tensor]]) -> bool:
    return all(torch.equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))


def main(family: str, folder: str, network: str, size: str, wrong: str = "") -> None:
    torch.set_num_threads(1)
    sys.path.insert(0, folder)
    before = set(sys.modules)
    natively.prepare(family)
    compat = importlib.import_module(f"fastunlearn.compat.{family}")
    fir = ops.upfirdn2d
    ops.upfirdn2d = (lambda *args, **options: float(wrong) * fir(*args, **options)) if wrong else fir
    with cuda_on_cpu():
        networks = build(family, network, int(size))
        errors = {}
        for draw in range(DRAWS):
            networks.z.normal_(generator=torch.Generator().manual_seed(draw))
            theirs = results(networks)
            with compat.installed():
                ours = results(networks)
            for name in theirs:
                found = error(ours[name], theirs[name])
                errors[name] = (min if "gradients" in name else max)(errors.get(name, found), found)
            if wrong or max(errors.values()) < NEAR:
                break
        again = results(networks)
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) and sys.modules[name].__file__.startswith(folder):
                del sys.modules[name]
        with compat.installed():
            anew = build(family, network, int(size))
            for name, module in anew.modules.items():
                module.load_state_dict(networks.modules[name].state_dict())
            anew.z.copy_(networks.z)
            ours_anew = results(anew)
    print(
        json.dumps(
            {
                "errors": errors,
                "changed": not same(ours, theirs),
                "uninstalled is theirs": same(again, theirs),
                "before import is after": same(ours_anew, ours),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
