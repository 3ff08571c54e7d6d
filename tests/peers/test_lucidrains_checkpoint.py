"""Ours beside the package stylegan2-pytorch, if it is installed or in the folder that FASTUNLEARN_PEERS names."""

import copy
import importlib
import json
import os
import warnings

import pytest
import torch
from torch import nn

from fastunlearn.errors import FastUnlearnError
from fastunlearn.models.checkpoints.lucidrains import matches, read, write

CASES = {
    "32 px": {"image_size": 32},
    "64 px": {"image_size": 64, "network_capacity": 4},
    "128 px": {"image_size": 128, "network_capacity": 4},
    "attention": {"image_size": 32, "network_capacity": 4, "attn_layers": [1, 3, 4, 5]},
    "no constant": {"image_size": 16, "network_capacity": 4, "no_const": True},
    "other sizes": {"image_size": 64, "network_capacity": 24, "latent_dim": 48, "style_depth": 3, "lr_mlp": 0.01},
}
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def package():
    """The package, which refuses to be imported where there is no GPU."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if folder := os.environ.get("FASTUNLEARN_PEERS"):
            patch.syspath_prepend(folder)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        try:
            return importlib.import_module("stylegan2_pytorch.stylegan2_pytorch")
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"stylegan2-pytorch cannot be imported: {error}")


@pytest.fixture(scope="module", params=CASES)
def pair(request, package, tmp_path_factory):
    """The package's networks with random weights everywhere, and ours from their checkpoint."""
    options = CASES[request.param]
    folder = tmp_path_factory.mktemp("models")
    (folder / ".config.json").write_text(json.dumps({"lr_mlp": 0.1, **options}))
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "cuda", lambda self, *_: self)
        theirs = package.StyleGAN2(**options)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "to_noise" in name or name.endswith(("bias", ".g", ".b")):
                p.add_(0.2 * torch.randn_like(p))
    contents = {"GAN": copy.deepcopy(theirs.state_dict()), "version": "1.9.0"}
    assert matches(contents)
    ours, _ = read(contents, folder / "model_1.pt")
    return theirs, ours


def close(ours, theirs, relative=RELATIVE):
    error = ((ours - theirs).norm() / theirs.norm()).item()
    assert error < relative, f"relative error {error:.1e}"


def images_of(package, s, g, z, noise, layers=None):
    """What the package computes of latents z [n_z, N, d], each for so many `layers`, with our noise [N, 1, h, h]."""
    w = package.styles_def_to_tensor([(s(z_i), n) for z_i, n in zip(z, layers or [g.num_layers], strict=True)])
    return 2 * g(w, noise.permute(0, 3, 2, 1)) - 1


@torch.no_grad()
def test_generator(package, pair):
    theirs, ours = pair
    z, noise = ours.sample_latents(3), ours.generator.seeded_noise(torch.arange(3))
    close(ours.generator.mapping(z), theirs.S(z))
    expected = images_of(package, theirs.S, theirs.G, z[None], noise)
    assert (images_of(package, theirs.S, theirs.G, z[None], noise.flip(0)) - expected).norm() > 0.01 * expected.norm()
    close(ours.generator(z, noise), expected)
    close(ours.generate(z, torch.arange(3)), images_of(package, theirs.SE, theirs.GE, z[None], noise).clamp(-1, 1))


@torch.no_grad()
def test_mixing(package, pair):
    theirs, ours = pair
    g = ours.generator
    z, noise = torch.randn(2, 3, ours.latent_dim), g.seeded_noise(torch.arange(3))
    w = g.mix(g.mapping(z[0]), g.mapping(z[1]), torch.full((3,), 2))
    layers = [2, theirs.G.num_layers - 2]
    close(g.synthesis(w, noise), images_of(package, theirs.S, theirs.G, z, noise, layers))


@torch.no_grad()
def test_truncation(package, pair):
    theirs, ours = pair
    z, noise = ours.sample_latents(3), ours.ema.seeded_noise(torch.arange(3))
    mean = theirs.SE(ours.sample_latents(4096, torch.Generator().manual_seed(0))).mean(0)
    w = 0.6 * (theirs.SE(z) - mean) + mean
    expected = images_of(package, nn.Identity(), theirs.GE, w[None], noise)
    close(ours.generate(z, torch.arange(3), truncation=0.6), expected.clamp(-1, 1))


@torch.no_grad()
def test_discriminator_has_the_other_sign(pair):
    theirs, ours = pair
    images = torch.rand(4, *ours.image_shape)
    close(ours.discriminator(2 * images - 1), -theirs.D(images)[0])


def test_gradients(package, pair):
    """Of a loss through both networks, in every weight; as a checkpoint our gradients have the package's names."""
    theirs, ours = pair
    z, noise = ours.sample_latents(2), ours.generator.seeded_noise(torch.arange(2))
    theirs.zero_grad()
    theirs.D((images_of(package, theirs.S, theirs.G, z[None], noise) + 1) / 2)[0].sum().backward()
    gradients = copy.copy(ours)
    gradients.generator, gradients.discriminator = (copy.deepcopy(m) for m in (ours.generator, ours.discriminator))
    (-gradients.discriminator(gradients.generator(z, noise))).sum().backward()
    with torch.no_grad():
        for p in (*gradients.generator.parameters(), *gradients.discriminator.parameters()):
            p.copy_(p.grad)
    actual, compared = write(gradients)["GAN"], 0
    for name, p in theirs.named_parameters():
        if name.startswith(("S.", "G.", "D.")):
            close(actual[name], p.grad, 1e-3)
            compared += 1
    assert compared == len([*gradients.generator.parameters(), *gradients.discriminator.parameters()])


def test_checkpoint_round_trip(pair):
    theirs, ours = pair
    written = write(ours)["GAN"]
    state = theirs.state_dict()
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    theirs.load_state_dict(written)


def test_feature_quantisation_and_transparency_are_refused(package, tmp_path):
    for options, message in (({"fq_layers": [1]}, "fq_layers"), ({"transparent": True}, "transparent")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.Module, "cuda", lambda self, *_: self)
            theirs = package.StyleGAN2(image_size=16, network_capacity=4, latent_dim=8, **options)
        with pytest.raises(FastUnlearnError, match=f"model_1.pt: trained with {message}"):
            read({"GAN": theirs.state_dict()}, tmp_path / "model_1.pt")
