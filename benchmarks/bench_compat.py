"""Others' code, untouched, before and after `install()`: a training step at 64² and generation at 256².

Both contenders are the same objects with the same weights, of the checkouts that FASTUNLEARN_PEERS names
(`tests/peers/checkouts.py`), at their default widths, with batch 2. "reference" is their own path for the CPU: for
rosinality `upfirdn2d_native` and `leaky_relu`, for stylegan2-ada-pytorch ``impl="ref"``. The training step is what
their training code computes when everything is due: discriminator, R1, generator, path length. In it theirs draw their
random numbers themselves; both get the same.
"""

import importlib
import math
import sys
import types

import pytest
import torch
import torch.nn.functional as F
import torch.utils.cpp_extension
from checkouts import checkout
from measure import compare
from torch import nn

BATCH = 2
FAMILIES = ("rosinality", "stylegan2_ada")


@pytest.fixture(params=FAMILIES)
def family(request, monkeypatch):
    """Its name; its modules can be imported, and are forgotten afterwards."""
    folder = checkout(request.param)
    monkeypatch.syspath_prepend(str(folder))
    # What is compiled at import is for CUDA alone.
    monkeypatch.setattr(torch.utils.cpp_extension, "load", lambda *args, **kwargs: types.SimpleNamespace())
    before = set(sys.modules)
    yield request.param
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def installed(family):
    return importlib.import_module(f"fastunlearn.compat.{family}").installed()


def randomised(*modules: nn.Module) -> None:
    """Noise strengths and biases start at zero, which would hide them from the comparison."""
    with torch.no_grad():
        for module in modules:
            for name, p in module.named_parameters():
                if name.endswith(("noise_strength", "noise.weight", "bias")) and "affine" not in name:
                    p.add_(0.1 * torch.randn_like(p))


class Rosinality:
    """Their `train` with its functions; what it does between reading images and the optimisers."""

    def __init__(self, size):
        model = importlib.import_module("model")
        self.gradfix = importlib.import_module("op").conv2d_gradfix
        self.g, self.d = model.Generator(size, 512, 8), model.Discriminator(size)
        randomised(self.g, self.d)
        self.size = size

    def generate(self, n):
        return self.g([torch.randn(n, 512)])[0]

    def step(self):
        """As in their train.py, whose module starts by importing what a benchmark needs not have."""
        g, d, size = self.g, self.d, self.size
        real = torch.rand(BATCH, 3, size, size) * 2 - 1
        found = []
        g.requires_grad_(False), d.requires_grad_(True)
        fake = g([torch.randn(BATCH, 512)])[0]
        loss = F.softplus(d(fake)).mean() + F.softplus(-d(real)).mean()
        found += backward(loss, d)
        real.requires_grad_()
        pred = d(real)
        with self.gradfix.no_weight_gradients():
            (direction,) = torch.autograd.grad(pred.sum(), real, create_graph=True)
        found += backward((80 * direction.square().sum() / BATCH + 0 * pred[0]).sum(), d)
        g.requires_grad_(True), d.requires_grad_(False)
        found += backward(F.softplus(-d(g([torch.randn(BATCH, 512)])[0])).mean(), g)
        fake, latents = g([torch.randn(max(1, BATCH // 2), 512)], return_latents=True)
        noise = torch.randn_like(fake) / math.sqrt(size * size)
        (direction,) = torch.autograd.grad((fake * noise).sum(), latents, create_graph=True)
        lengths = direction.square().sum(2).mean(1).sqrt()
        found += backward(8 * (0.99 * lengths - 0).square().mean() + 0 * fake[0, 0, 0, 0], g)
        return found


class StyleGAN2ADA:
    """Their `StyleGAN2Loss` itself."""

    def __init__(self, size):
        networks = importlib.import_module("training.networks")
        width = {"channel_base": 16384, "channel_max": 512}  # their auto configuration below 512²
        common = {"c_dim": 0, "img_resolution": size, "img_channels": 3}
        self.g = networks.Generator(
            z_dim=512, w_dim=512, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=width, **common
        )
        self.d = networks.Discriminator(**common, **width)
        randomised(self.g, self.d)
        self.size = size
        self.loss = importlib.import_module("training.loss").StyleGAN2Loss(
            device=torch.device("cpu"), G_mapping=self.g.mapping, G_synthesis=self.g.synthesis, D=self.d
        )

    def generate(self, n):
        return self.g(torch.randn(n, 512), torch.zeros(n, 0))

    def step(self):
        self.loss.pl_mean.zero_()
        real, nothing = torch.rand(BATCH, 3, self.size, self.size) * 2 - 1, torch.zeros(BATCH, 0)
        found = []
        for phase, module in (("Gmain", self.g), ("Greg", self.g), ("Dmain", self.d), ("Dreg", self.d)):
            self.g.requires_grad_(module is self.g), self.d.requires_grad_(module is self.d)
            module.zero_grad()
            self.loss.accumulate_gradients(
                phase, real_img=real, real_c=nothing, gen_z=torch.randn(BATCH, 512), gen_c=nothing, sync=True, gain=1
            )
            found += gradients(module)
        return found


CODE = {"rosinality": Rosinality, "stylegan2_ada": StyleGAN2ADA}


def backward(loss, module):
    module.zero_grad()
    loss.backward()
    return gradients(module)


def gradients(module):
    return [torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])]


def contenders(function):
    """The same twice; what differs is around them."""

    def seeded():
        torch.manual_seed(1)
        return function()

    return {"reference": seeded, "native": seeded}


def around(family):
    """A process installs once: the clock does not see it."""
    return {"native": lambda: installed(family)}


def check_of(cases, family, tolerance):
    """All results at once: rounding moves a few inputs of leaky ReLU across 0, where the slope jumps."""

    def check():
        theirs = cases["reference"]()
        with installed(family):
            ours = cases["native"]()
        assert len(ours) == len(theirs)
        for got, exact in zip(ours, theirs, strict=True):
            assert torch.dist(got, exact) <= tolerance * exact.norm()

    return check


def test_training_step(benchmark, family):
    torch.manual_seed(0)
    cases = contenders(CODE[family](64).step)
    name = f"{family} 64² training step, batch {BATCH}"
    compare(benchmark, name, cases, 0, check_of(cases, family, 5e-3), rounds=1, around=around(family))


@pytest.mark.parametrize("n", [1, 4])
def test_generation(benchmark, family, n):
    torch.manual_seed(0)
    code = CODE[family](256)
    code.g.eval()
    with torch.no_grad():
        cases = contenders(lambda: [code.generate(n)])
        name = f"{family} 256² generation, batch {n}"
        compare(benchmark, name, cases, 0, check_of(cases, family, 1e-4), rounds=5, around=around(family))
