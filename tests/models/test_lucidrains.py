"""Lucidrains against its formulas: a weight for every sample, filters written out, float64."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastunlearn.bundle import load, save_bundle
from fastunlearn.cli import main
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, generator_sha256, label_with_classifier
from fastunlearn.files import state_sha256
from fastunlearn.methods import AdaptConfig, AdaptThenUnlearn, AdaptThenUnlearnConfig, unlearn
from fastunlearn.models.checkpoints.lucidrains import matches, read, write
from fastunlearn.models.lucidrains import Lucidrains, LucidrainsConfig
from fastunlearn.models.protocol import GenerativeModel
from fastunlearn.training.adversarial import AdversarialConfig
from fastunlearn.training.loop import LoopConfig

TINY = {"size": 16, "latent_dim": 6, "mapping_layers": 2, "capacity": 2}
VARIANTS = {
    "8 px": {"size": 8},
    "16 px": {},
    "32 px": {"size": 32},
    "few channels": {"size": 32, "fmap_max": 5},
    "attention": {"attention": (1, 3, 4)},
    "no constant": {"constant": False},
    "mapping": {"mapping_layers": 3, "mapping_lr": 0.5},
}
QUIET = LoopConfig(progress=False, grid_every=0, log_every=1)


def tiny(**changes):
    """A model with no weight at 0 or 1, whose average is not the generator."""
    torch.manual_seed(0)
    model = Lucidrains(LucidrainsConfig(**{**TINY, **changes}))
    with torch.no_grad():
        for module in model.modules().values():
            for p in module.parameters():
                p.add_(0.2 * torch.randn_like(p))
    return model


@pytest.fixture(params=VARIANTS)
def variant(request):
    return tiny(**VARIANTS[request.param])


# ---- the formulas ----------------------------------------------------------------------------------------------------


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x)


def blur(x):
    h, w = x.shape[2:]
    around = [torch.tensor([abs(i) if i < n else 2 * (n - 1) - i for i in range(-1, n + 1)]) for n in (h, w)]
    x = x[:, :, around[0]][:, :, :, around[1]]
    x = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4


def bilinear(x):
    for dim in (2, 3):
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
        before = torch.cat([first, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
        after = torch.cat([x.narrow(dim, 1, x.shape[dim] - 1), last], dim)
        x = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim + 1).flatten(dim, dim + 1)
    return x


def modulated(x, weight, style, demodulate):
    rows = []
    for image, s in zip(x, style, strict=True):
        w = weight * (s + 1)[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        rows.append(F.conv2d(image[None], w, padding=weight.shape[-1] // 2))
    return torch.cat(rows)


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def convolved(state, name, x, stride=1):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)


def attended(state, name, x):
    def norm(x, which):
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt()
        weight, bias = state[f"{name}.{which}.weight"], state[f"{name}.{which}.bias"]
        return x * weight[:, None, None] + bias[:, None, None]

    n, _, h, w = x.shape
    y = norm(x, "norm1")
    q = convolved(state, f"{name}.query", y).reshape(n, 8, 64, h * w)
    depthwise = F.conv2d(y, state[f"{name}.depthwise.weight"], padding=1, groups=y.shape[1])
    k, v = convolved(state, f"{name}.key_value", depthwise).reshape(n, 2, 8, 64, h * w).unbind(1)
    # The sum over all pairs of pixels, as attention is written before it is made linear.
    pairs = torch.einsum("nhdp,nhdq->nhpq", q.softmax(2) / 8, k.softmax(3))
    out = torch.einsum("nhpq,nheq->nhep", pairs, v).reshape(n, 512, h, w)
    x = x + convolved(state, f"{name}.merge", 0.5 * out * (1 + torch.erf(out / math.sqrt(2))))
    return x + convolved(state, f"{name}.output", lrelu(convolved(state, f"{name}.hidden", norm(x, "norm2"))))


def by_formula_w(config, state, z):
    w = z / z.square().sum(1, keepdim=True).sqrt()
    for i in range(config.mapping_layers):
        weight, bias = (config.mapping_lr * state[f"mapping_layers.{i}.{k}"] for k in ("weight", "bias"))
        w = lrelu(w @ weight.T + bias)
    return w


def by_formula_g(config, state, styles, noise):
    if config.constant:
        x = state["constant"].expand(len(styles), -1, -1, -1)
    else:
        x = torch.einsum("nd,dchw->nchw", styles.mean(1), state["from_style.weight"])
    x, rgb, n = convolved(state, "first", x), 0, config.n_resolutions
    for i in range(n):
        w = styles[:, i]
        x = attended(state, f"attention.{n - i}", x) if n - i in config.attention else x
        x = bilinear(x) if i else x
        corner = noise[:, :, : x.shape[2], : x.shape[3]]
        for layer in (f"convs.{2 * i}", f"convs.{2 * i + 1}"):
            x = modulated(x, state[f"{layer}.weight"], linear(state, f"{layer}.affine", w), True)
            strength, bias = (state[f"{layer}.{k}"][:, None, None] for k in ("noise_strength", "bias"))
            x = lrelu(x + strength * corner + bias)
        style = linear(state, f"to_rgbs.{i}.affine", w)
        rgb = rgb + modulated(x, state[f"to_rgbs.{i}.weight"], style, False)
        rgb = blur(bilinear(rgb)) if i < n - 1 else rgb
    return 2 * rgb - 1


def by_formula_d(config, state, image):
    x = (image + 1) / 2
    for i in range(config.n_resolutions + 1):
        stride = 2 if i < config.n_resolutions else 1
        skip = convolved(state, f"blocks.{i}.skip", x, stride)
        x = lrelu(convolved(state, f"blocks.{i}.conv2", lrelu(convolved(state, f"blocks.{i}.conv1", x))))
        x = convolved(state, f"blocks.{i}.down", blur(x), stride) if stride == 2 else x
        x = (x + skip) / math.sqrt(2)
        x = attended(state, f"attention.{i + 1}", x) if i + 1 in config.attention else x
    return -linear(state, "output", convolved(state, "final_conv", x).flatten(1)).squeeze(1)


def exact(module):
    """The module's tensors in float64, with gradients."""
    return {name: t.double().requires_grad_() for name, t in module.state_dict().items()}


def close(actual, expected, relative=1e-5):
    error = ((actual.double() - expected).norm() / expected.norm()).item()
    assert error < relative, f"relative error {error:.1e}"


# ---- against them ----------------------------------------------------------------------------------------------------


def test_generator_and_its_gradients(variant):
    config, g = variant.config, variant.generator
    z = variant.sample_latents(3)
    noise, state = g.seeded_noise(torch.arange(3)), exact(g)
    w = by_formula_w(config, state, z.double())
    expected = by_formula_g(config, state, w[:, None].expand(-1, config.n_resolutions, -1), noise.double())
    actual = g(z, noise)
    assert actual.shape == (3, 3, config.size, config.size)
    close(actual, expected)
    direction = torch.randn_like(actual)
    ours = torch.autograd.grad((actual * direction).sum(), list(g.parameters()))
    theirs = torch.autograd.grad((expected * direction).sum(), [state[name] for name, _ in g.named_parameters()])
    for mine, its in zip(ours, theirs, strict=True):
        assert its.norm() > 0
        close(mine, its, 1e-4)


def test_discriminator_and_its_gradients(variant):
    d, state = variant.discriminator, exact(variant.discriminator)
    image = torch.rand(4, *variant.image_shape) * 2 - 1
    expected, actual = by_formula_d(variant.config, state, image.double()), d(image)
    close(actual, expected)
    ours = torch.autograd.grad(actual.square().sum(), list(d.parameters()))
    theirs = torch.autograd.grad(expected.square().sum(), [state[name] for name, _ in d.named_parameters()])
    for mine, its in zip(ours, theirs, strict=True):
        close(mine, its, 1e-4)
    assert d.features(image).shape == (4, variant.config.d_widths[-1], 2, 2)


def test_gradients_of_gradients(variant):
    """Of R1 and of the path length, in every weight that they depend on."""
    config, g, d = variant.config, variant.generator, variant.discriminator
    of_g, of_d = exact(g), exact(d)
    image = torch.rand(2, *variant.image_shape) * 2 - 1
    styles = torch.randn(2, config.n_resolutions, config.latent_dim)
    noise, direction = g.seeded_noise(torch.arange(2)), torch.randn_like(image)

    def steepness(function, x):
        (gradient,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        return gradient.square().sum()

    cases = [
        (d, of_d, image, d, lambda x: by_formula_d(config, of_d, x)),
        (
            g,
            of_g,
            styles,
            lambda x: g.synthesis(x, noise) * direction,
            lambda x: by_formula_g(config, of_g, x, noise.double()) * direction.double(),
        ),
    ]
    for module, state, x, ours, formula in cases:
        value = steepness(ours, x.clone().requires_grad_())
        expected = steepness(formula, x.double().requires_grad_())
        close(value.detach(), expected.detach(), 1e-4)
        actual = torch.autograd.grad(value, list(module.parameters()), allow_unused=True, materialize_grads=True)
        wanted = [state[name] for name, _ in module.named_parameters()]
        by_hand = torch.autograd.grad(expected, wanted, allow_unused=True, materialize_grads=True)
        largest = max(gradient.abs().max() for gradient in by_hand)
        for mine, its in zip(actual, by_hand, strict=True):
            assert (mine - its).norm() <= 1e-4 * its.norm() + 1e-6 * largest


def test_mixing_changes_the_style_of_whole_resolutions():
    model = tiny(size=32)
    g, state, z = model.generator, exact(model.generator), torch.randn(2, 3, 6)
    noise, crossover = g.seeded_noise(torch.arange(3)), torch.tensor([1, 3, g.n_styles])
    mixed = g.mix(g.mapping(z[0]), g.mapping(z[1]), crossover)
    w = [by_formula_w(model.config, state, part.double()) for part in z]
    by_hand = torch.stack(
        [torch.stack([w[int(i >= c)][n] for i in range(g.n_styles)]) for n, c in enumerate(crossover)]
    )
    close(g.synthesis(mixed, noise), by_formula_g(model.config, state, by_hand, noise.double()))


def test_truncation_and_the_range_of_generated_images():
    model = tiny()
    state, z, seed = exact(model.ema), model.sample_latents(4), torch.arange(4)
    prior = model.sample_latents(4096, torch.Generator().manual_seed(0)).double()
    mean = by_formula_w(model.config, state, prior).mean(0)
    w = mean + 0.3 * (by_formula_w(model.config, state, z.double()) - mean)
    noise = model.ema.seeded_noise(seed).double()
    expected = by_formula_g(model.config, state, w[:, None].expand(-1, 3, -1), noise).clamp(-1, 1)
    close(model.generate(z, seed, truncation=0.3), expected)
    with torch.no_grad():
        assert model.ema.synthesis(model.ema.mapping(z)).abs().max() > 1, "without clamping"


def test_the_same_latent_and_seed_give_the_same_image_in_any_batch():
    model = tiny()
    assert isinstance(model, GenerativeModel)
    z, seed = model.sample_latents(5), torch.tensor([3, 1, 4, 1, 5])
    together = model.generate(z, seed, batch_size=2)
    alone = torch.cat([model.generate(z[i : i + 1], seed[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    assert (model.generate(z, seed + 1) - together).abs().amax() > 1e-3
    noise = model.ema.seeded_noise(seed)
    assert 0 <= noise.min() < 0.1
    assert 0.9 < noise.max() < 1


# ---- bundles and checkpoints -----------------------------------------------------------------------------------------


def same(a, b):
    return all(
        state_sha256(m.state_dict()) == state_sha256(b.modules()[name].state_dict()) for name, m in a.modules().items()
    )


def test_a_bundle_comes_back_bit_for_bit(variant, tmp_path):
    save_bundle(variant, tmp_path / "b", {})
    again = load(tmp_path / "b")
    assert again.config == variant.config
    assert same(variant, again)
    z = variant.sample_latents(2)
    assert torch.equal(variant.generate(z), again.generate(z))


def test_an_unknown_architecture_is_named(tmp_path):
    save_bundle(tiny(), tmp_path / "b", {})
    config = tmp_path / "b/config.yaml"
    config.write_text(config.read_text().replace("arch: lucidrains", "arch: [vae]"))
    with pytest.raises(FastUnlearnError, match=r"one of stylegan2, lucidrains, .*, vdvae, got '\['vae'\]'"):
        load(tmp_path / "b")


def test_a_checkpoint_comes_back_bit_for_bit(variant, tmp_path):
    (tmp_path / ".config.json").write_text(json.dumps({"lr_mlp": variant.config.mapping_lr}))
    contents = write(variant)
    torch.save(contents, tmp_path / "model_1.pt")
    contents = torch.load(tmp_path / "model_1.pt", weights_only=True)
    assert matches(contents)
    again, facts = read(contents, tmp_path / "model_1.pt")
    assert facts == {"package": "stylegan2_pytorch", "version": "1.9.0", "mapping_lr_from": ".config.json"}
    assert same(variant, again)
    sizes = ("g_widths", "d_widths", "attention", "constant", "mapping_lr", "size", "latent_dim")
    assert [getattr(again.config, k) for k in sizes] == [getattr(variant.config, k) for k in sizes]
    z = variant.sample_latents(2)
    assert torch.equal(variant.generate(z), again.generate(z))


def test_names_and_shapes_are_the_packages():
    contents = write(tiny(size=8, attention=(1,)))["GAN"]
    shapes = {name: list(t.shape) for name, t in contents.items() if not name.startswith("D_aug.")}
    widths = {0: (8, 8), 1: (8, 4)}
    expected = {}
    for s, g in (("S", "G"), ("SE", "GE")):
        for i in (0, 2):
            expected |= {f"{s}.net.{i}.weight": [6, 6], f"{s}.net.{i}.bias": [6]}
        expected |= {f"{g}.initial_block": [1, 8, 4, 4], f"{g}.initial_conv.weight": [8, 8, 3, 3]}
        expected |= {f"{g}.initial_conv.bias": [8], f"{g}.blocks.0.to_rgb.upsample.1.f": [3]}
        for i, (n_in, n_out) in widths.items():
            block = f"{g}.blocks.{i}"
            for j, n in ((1, n_in), (2, n_out)):
                expected |= {f"{block}.to_style{j}.weight": [n, 6], f"{block}.to_style{j}.bias": [n]}
                expected |= {f"{block}.to_noise{j}.weight": [n_out, 1], f"{block}.to_noise{j}.bias": [n_out]}
                expected |= {f"{block}.conv{j}.weight": [n_out, n, 3, 3]}
            expected |= {f"{block}.to_rgb.to_style.weight": [n_out, 6], f"{block}.to_rgb.to_style.bias": [n_out]}
            expected |= {f"{block}.to_rgb.conv.weight": [3, n_out, 1, 1]}
    for i, (n_in, n_out) in enumerate([(3, 8), (8, 16), (16, 32)]):
        block = f"D.blocks.{i}"
        expected |= {f"{block}.conv_res.weight": [n_out, n_in, 1, 1], f"{block}.conv_res.bias": [n_out]}
        expected |= {f"{block}.net.0.weight": [n_out, n_in, 3, 3], f"{block}.net.0.bias": [n_out]}
        expected |= {f"{block}.net.2.weight": [n_out, n_out, 3, 3], f"{block}.net.2.bias": [n_out]}
        if i < 2:
            expected |= {f"{block}.downsample.0.f": [3], f"{block}.downsample.1.bias": [n_out]}
            expected |= {f"{block}.downsample.1.weight": [n_out, n_out, 3, 3]}
    for name, n in (("G.attns.1", 8), ("GE.attns.1", 8), ("D.attn_blocks.0", 8)):
        for i in (0, 1):
            expected |= {f"{name}.{i}.fn.norm.g": [1, n, 1, 1], f"{name}.{i}.fn.norm.b": [1, n, 1, 1]}
        first, second = f"{name}.0.fn.fn", f"{name}.1.fn.fn"
        expected |= {f"{first}.to_q.weight": [512, n, 1, 1], f"{first}.to_kv.net.0.weight": [n, 1, 3, 3]}
        expected |= {f"{first}.to_kv.net.1.weight": [1024, n, 1, 1], f"{first}.to_out.bias": [n]}
        expected |= {f"{first}.to_out.weight": [n, 512, 1, 1], f"{second}.0.weight": [2 * n, n, 1, 1]}
        expected |= {f"{second}.0.bias": [2 * n], f"{second}.2.weight": [n, 2 * n, 1, 1], f"{second}.2.bias": [n]}
    expected |= {"D.final_conv.weight": [32, 32, 3, 3], "D.final_conv.bias": [32]}
    expected |= {"D.to_logit.weight": [1, 128], "D.to_logit.bias": [1]}
    assert shapes == expected
    assert all(torch.equal(t, contents[f"D_aug.{name}"]) for name, t in contents.items() if name.startswith("D."))


@pytest.mark.parametrize(("capacity", "fmap_max"), [(1, 512), (3, 512), (2, 8), (4, 7), (300, 16), (3, 2)])
def test_sizes_are_found_in_the_shapes(capacity, fmap_max, tmp_path):
    model = tiny(size=32, capacity=capacity, fmap_max=fmap_max)
    again, facts = read(write(model), tmp_path / "model_1.pt")
    assert (again.config.g_widths, again.config.d_widths) == (model.config.g_widths, model.config.d_widths)
    assert (again.config.mapping_lr, facts["mapping_lr_from"]) == (0.1, "default")


def test_what_is_no_such_checkpoint():
    assert not any(matches(contents) for contents in (None, {}, {"GAN": 1}, {"GAN": {}}, {"g_ema": {}}, [1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("GE.blocks.1.conv2.weight"), "GE.blocks.1.conv2.weight is missing"),
        (lambda s: s.update({"G.extra": torch.zeros(1)}), "G.extra is not known"),
        (lambda s: s.update({"D.to_logit.bias": torch.zeros(2)}), r"D.to_logit.bias must be \[1\], got \[2\]"),
        (lambda s: s.update({"D.to_logit.bias": "1"}), r"D.to_logit.bias must be \[1\], got str"),
        (lambda s: s["S.net.0.bias"].fill_(math.nan), "S.net.0.bias is not finite"),
        (lambda s: s.update({"D.quantize_blocks.0.fn.x": torch.zeros(1)}), "trained with fq_layers"),
        (
            lambda s: s.update({"G.blocks.2.to_rgb.conv.weight": torch.zeros(4, 4, 1, 1)}),
            "trained with transparent",
        ),
        (
            lambda s: s.pop("D.final_conv.weight"),
            "not a whole lucidrains checkpoint: D.final_conv.weight must have 4 dim",
        ),
        (lambda s: s.update({"S.net.0.weight": torch.zeros(1)}), "not a whole lucidrains checkpoint"),
        (lambda s: s.update({3: torch.zeros(1)}), "must be a state dict with printable names"),
        (lambda s: s.update({"x\ny": torch.zeros(1)}), "must be a state dict with printable names"),
        (lambda s: s.update({"S.net.0.weight": torch.zeros(1, 60_000)}), r"\S+ must be"),  # before 14 GB are allocated
        (lambda s: s.update({"S.net.0.weight": torch.zeros(0, 2**40)}), "not a whole lucidrains checkpoint"),
        (lambda s: s.update({"SE.net.0.weight": s["S.net.0.weight"]}), "SE.net.0.weight is the same tensor as another"),
        (
            lambda s: s.update({f"G.blocks.{i}.to_rgb.conv.weight": torch.zeros(3, 4, 1, 1) for i in range(15)}),
            "is for images of more than 2048 px",
        ),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("G.blocks.")], "not a whole lucidrains checkpoint"),
        (lambda s: [s.pop(k) for k in list(s) if "blocks.1." in k or "blocks.2." in k], "size must be a power of two"),
    ],
)
def test_bad_checkpoints_are_one_line_errors(change, message, tmp_path):
    contents = write(tiny())
    change(contents["GAN"])
    with pytest.raises(FastUnlearnError, match=f"model_3.pt: {message}") as error:
        read(contents, tmp_path / "model_3.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lr", ["NaN", "Infinity", "0", "-1", '"nan"'])
def test_mapping_lr_beside_the_checkpoint_that_is_none(lr, tmp_path):
    (tmp_path / ".config.json").write_text(f'{{"lr_mlp": {lr}}}')
    with pytest.raises(FastUnlearnError, match=r"\.config\.json: lr_mlp must be a positive number"):
        read(write(tiny()), tmp_path / "model_1.pt")


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"lr_mlp": null}', '{"lr_mlp": "x"}', f'{{"lr_mlp": 1{"0" * 400}}}', "[" * 10**5],
    ids=["open", "list", "null", "text", "large", "deep"],
)
def test_bad_settings_beside_the_checkpoint(text, tmp_path):
    (tmp_path / ".config.json").write_text(text)
    with pytest.raises(FastUnlearnError, match=r"\.config\.json: not the settings of a lucidrains model"):
        read(write(tiny()), tmp_path / "model_1.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 24}, "size must be a power of two >= 8, got 24"),
        ({"capacity": 0}, "capacity must be in"),
        ({"attention": (0,)}, r"attention must be in \[1, 4\], got 0"),
        ({"attention": (1, 5)}, r"attention must be in \[1, 4\], got 5"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(FastUnlearnError, match=message):
        LucidrainsConfig(**{**TINY, **change})


# ---- training and unlearning -----------------------------------------------------------------------------------------


class Bright(nn.Module):
    """Two classes: 1 where the image is brighter than `threshold`, else 0."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        brighter = x.mean(dim=(1, 2, 3)) - self.threshold
        return torch.stack([-brighter, brighter], dim=1)


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({}, "float32"),
        ({"attention": (1,)}, "float32"),
        ({"constant": False}, "float32"),
        ({"attention": (1,)}, "bf16"),
    ],
    ids=str,
)
def test_adapts_and_unlearns(changes, precision, tmp_path):
    """Every weight of both players moves, the original's do not."""
    model = tiny(**changes)
    threshold = model.generate(model.sample_latents(200)).mean(dim=(1, 2, 3)).median().item()
    feedback = label_with_classifier(model, Bright(threshold), forget=1, n=60, seed=0, min_undesired=10)
    assert 10 <= feedback.n_undesired < 60
    config = AdaptThenUnlearnConfig(
        adapt=AdaptConfig(n_adapted=2, adapt_steps=3, ewc_weight=10.0),
        unlearn_steps=4,
        negatives=0.2,
        game=AdversarialConfig(batch_size=4, r1_every=2, path_every=2),
    )
    before = {name: state_sha256(m.state_dict()) for name, m in model.modules().items()}
    after = unlearn(model, AdaptThenUnlearn(config), feedback, tmp_path / "run", replace(QUIET, precision=precision))
    assert {name: state_sha256(m.state_dict()) for name, m in model.modules().items()} == before
    for name in ("generator", "discriminator"):
        old = model.modules()[name].named_parameters()
        for (key, a), b in zip(old, after.modules()[name].parameters(), strict=True):
            assert not torch.equal(a, b), f"{name}.{key} did not move"
    assert after.path_length_mean > 0
    assert after.generate(feedback.z[:4]).isfinite().all()
    save_bundle(after, tmp_path / "bundle", {})
    assert same(load(tmp_path / "bundle"), after)


def test_from_the_command_line(tmp_path, capsys):
    model = tiny(size=8)
    save_bundle(model, tmp_path / "gan", {})
    z, label = model.sample_latents(20), (torch.arange(20) % 4 == 0).to(torch.int8)
    Feedback(z, torch.arange(20), label, None, generator_sha256(model), "person").save(tmp_path / "feedback")
    steps = ["--n-adapted", "1", "--adapt-steps", "1", "--unlearn-steps", "1", "--batch-size", "4", "--no-progress"]
    where = ["--gan", tmp_path / "gan", "--feedback", tmp_path / "feedback", "--out", tmp_path / "run"]
    command = ["unlearn", "adapt-then-unlearn", *where, "--forget", "1", *steps, "--device", "cpu"]
    assert main([str(part) for part in command]) == 0, capsys.readouterr().err
    after = load(tmp_path / "run/bundle")
    assert isinstance(after, Lucidrains)
    assert after.config == model.config
    assert not same(after, model)
    sample = ["sample", "--gan", tmp_path / "run/bundle", "--n", "2", "--out", tmp_path / "images"]
    assert main([str(part) for part in sample]) == 0, capsys.readouterr().err
    assert (tmp_path / "images/grid.png").exists()
