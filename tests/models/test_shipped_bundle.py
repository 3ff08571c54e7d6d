import pytest
import torch

from fastunlearn.bundle import PRETRAINED, Bundle, load
from fastunlearn.config import to_dict
from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation import observe
from fastunlearn.metrics import class_histogram
from fastunlearn.models.classifiers import class_logits

BUNDLES = sorted(path.parent.name for path in PRETRAINED.glob("*/config.yaml"))


@pytest.mark.parametrize("name", BUNDLES)
def test_bundle_is_small_and_has_a_card(name):
    folder = PRETRAINED / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20e6
    card = (folder / "card.md").read_text()
    for word in ("data", "command", "seed", "steps", "time", "FID"):
        assert word in card


@pytest.mark.parametrize("name", BUNDLES)
def test_unlearning_settings_of_a_bundle_are_settings_that_exist(name):
    bundle = Bundle(name)
    settings = dict(bundle.config["unlearn"])
    assert to_dict(bundle.loop()).items() >= settings.pop("loop", {}).items()
    for method, values in settings.items():
        config = to_dict(bundle.method(method).config)
        assert all(config[key] == value for key, value in values.items() if not isinstance(value, dict))


def test_mnist32_draws_every_digit_and_draws_them_well():
    bundle = Bundle("mnist32")
    judges = bundle.judges()
    seen = observe(bundle.model(), judges, n=2000, purpose="selection")
    shares = torch.tensor(class_histogram(seen.classes, 10).counts) / 2000
    assert (shares > 0.04).all(), shares
    assert (shares < 0.16).all(), shares
    # 12.6 at the 15,000 samples of the card; fewer samples raise it a little.
    assert seen.statistics.distance(judges.statistics.full) < 18


@pytest.mark.parametrize(("name", "most"), [("mnist32-dcgan", 19), ("mnist32-vae", 230)])
def test_small_bundles_draw_every_digit_so_that_the_classifier_is_sure(name, most):
    bundle = Bundle(name)
    assert sum(file.stat().st_size for file in bundle.folder.iterdir()) <= 3e6
    model, judges = bundle.model(), bundle.judges()
    assert model.latent_dim <= 32
    seen = observe(model, judges, n=2000, purpose="selection")
    shares = torch.tensor(class_histogram(seen.classes, 10).counts) / 2000
    assert (shares > 0.05).all(), shares
    assert (shares < 0.17).all(), shares
    assert seen.statistics.distance(judges.statistics.full) < most
    images = model.generate(model.sample_latents(500, torch.Generator().manual_seed(0)))
    certainty = class_logits(judges.classifier, images).softmax(1).amax(1)
    assert certainty.mean() > 0.85
    # Whether that says anything: the classifier is not as sure of what is no digit.
    noise = torch.rand(500, *model.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert class_logits(judges.classifier, noise).softmax(1).amax(1).mean() < certainty.mean()


def test_small_bundles_share_the_judges_of_mnist32():
    own = Bundle("mnist32").judges().sha256()
    for name in ("mnist32-dcgan", "mnist32-vae"):
        assert not (PRETRAINED / name / "classifier.safetensors").exists()
        assert Bundle(name).judges().sha256() == own


def test_the_encoder_of_the_vae_finds_latents_of_real_looking_images():
    model = load("mnist32-vae")
    z = model.sample_latents(64, torch.Generator().manual_seed(0))
    images = model.generate(z)
    again = model.generate(model.encode(images))
    assert (again - images).square().mean() < 0.2 * (images - images.mean(0)).square().mean()


@pytest.mark.parametrize("name", ["nowhere", "mnist32-vae", "..", 3])
def test_judges_that_are_none(tmp_path, name):
    (tmp_path / "config.yaml").write_text(f"arch: vae\njudges: {name}\n")
    with pytest.raises(FastUnlearnError, match=f"config.yaml: judges must be one of mnist32, got '{name}'"):
        Bundle(tmp_path).judges()


def test_the_raw_generator_and_its_average_are_both_there():
    model = load("mnist32")
    raw, average = (torch.cat([p.flatten() for p in g.parameters()]) for g in (model.generator, model.ema))
    assert not torch.equal(raw, average)
    assert (raw - average).norm() < 0.5 * average.norm()
