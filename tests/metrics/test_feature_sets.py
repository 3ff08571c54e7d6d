import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastunlearn.data import ImageDataset
from fastunlearn.errors import FastUnlearnError
from fastunlearn.metrics import (
    FeatureSet,
    FeatureStatistics,
    frechet_score,
    inception_score,
    kernel_inception_distance,
    load_extractor,
    module_extractor,
    precision_recall,
)
from fastunlearn.metrics.extractors import antialiased, averaged


class Means(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class Corner(nn.Module):
    """The pixels of the top left corner."""

    def forward(self, x):
        return x[:, :, :2, :2].flatten(1)


class Noise:
    """A generator whose image i shows its latent."""

    generator = ema = discriminator = None
    latent_dim, image_shape = 3, (3, 4, 4)

    def sample_latents(self, n, generator=None):
        return torch.rand(n, 3, generator=generator) * 2 - 1

    def generate(self, z, noise_seed=None):
        return z[:, :, None, None].expand(-1, -1, 4, 4)


@pytest.fixture
def folder(tmp_path):
    """Seven images of three sizes, one of them in a subfolder, with their mean colours in the order of their paths."""
    colours = np.random.default_rng(0).integers(0, 256, (7, 3))
    for i, colour in enumerate(colours):
        path = tmp_path / "images" / ("sub" if i == 6 else "") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + i % 3, 5), tuple(map(int, colour))).save(path)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images", torch.from_numpy(colours).float() / 127.5 - 1


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_a_folder_of_mixed_sizes_in_the_order_of_its_paths(folder, batch):
    path, colours = folder
    made = FeatureSet.of_folder(module_extractor(Means()), path, batch=batch)
    assert torch.allclose(made.features, colours, atol=1e-6)
    assert made.n == 7
    assert made.d == 3
    assert np.allclose(made.statistics.cov, np.cov(colours.numpy(), rowvar=False), atol=1e-6)
    assert made.provenance.n == 7
    assert made.source == str(path)
    without = FeatureSet.of_folder(module_extractor(Means()), path, batch=batch, keep=False)
    assert without.features is None
    assert frechet_score(made, without).value == 0


def test_each_image_is_resized_by_itself(folder):
    path, colours = folder
    made = FeatureSet.of_folder(module_extractor(Corner(), rule=antialiased(2)), path)
    assert torch.allclose(made.features, colours.repeat_interleave(4, 1), atol=1e-5)
    assert made.provenance.resize == "antialiased bicubic 2x2"


def test_a_part_of_a_folder_is_drawn_by_the_seed(folder):
    path, colours = folder
    extractor = module_extractor(Means())
    first = FeatureSet.of_folder(extractor, path, 4, seed=1).features
    assert torch.equal(FeatureSet.of_folder(extractor, path, 4, seed=1).features, first)
    assert not torch.equal(FeatureSet.of_folder(extractor, path, 4, seed=2).features, first)
    rows = [(colours - row).abs().sum(1).argmin().item() for row in first]
    assert rows == sorted(set(rows))
    with pytest.raises(FastUnlearnError, match=r"images: holds 7 images, 8 are asked for"):
        FeatureSet.of_folder(extractor, path, 8)


def test_channels_follow_the_extractor(folder):
    path, colours = folder
    grey = FeatureSet.of_folder(module_extractor(Means(), channels=1), path).features
    luma = colours @ torch.tensor([[0.299], [0.587], [0.114]])
    assert torch.allclose(grey, luma, atol=0.01)


def test_a_broken_image_is_named(folder):
    path, _ = folder
    (path / "3.png").write_bytes(b"half")
    with pytest.raises(FastUnlearnError, match=r"3\.png: not a readable image"):
        FeatureSet.of_folder(module_extractor(Means()), path)


def test_one_image_has_no_covariance(folder, tmp_path):
    path, _ = folder
    with pytest.raises(FastUnlearnError, match="sub: statistics need at least 2 images, got 1"):
        FeatureSet.of_folder(module_extractor(Means()), path / "sub")


def test_a_generator(capsys):
    extractor = module_extractor(Means())
    made = FeatureSet.of_generator(extractor, Noise(), 600, source="noise", seed=3, progress=True)
    assert made.features.shape == (600, 3)
    assert len(made.features.unique(dim=0)) == 600
    assert "noise: 100%" in capsys.readouterr().err
    again = FeatureSet.of_generator(extractor, Noise(), 300, seed=3)
    assert torch.allclose(again.features, made.features[:300], atol=1e-6)
    assert not torch.allclose(
        FeatureSet.of_generator(extractor, Noise(), 300, seed=4).features, again.features, atol=1e-6
    )


def test_a_file_keeps_statistics_and_provenance_and_other_tools_find_theirs(folder, tmp_path):
    made = FeatureSet.of_folder(module_extractor(Means()), folder[0])
    made.save(tmp_path / "s.npz")
    read = FeatureSet.of_file(tmp_path / "s.npz")
    assert read.provenance == made.provenance
    assert read.n == 7
    assert np.array_equal(read.statistics.mean, made.statistics.mean)
    assert np.array_equal(read.statistics.cov, made.statistics.cov)
    with np.load(tmp_path / "s.npz") as arrays:  # as pytorch-fid and clean-fid read it
        assert np.array_equal(arrays["mu"], made.statistics.mean)
        assert np.array_equal(arrays["sigma"], made.statistics.cov)


def test_few_vectors_stay_in_their_file(folder, tmp_path):
    made = FeatureSet.of_folder(module_extractor(Corner(), rule=antialiased(2)), folder[0])  # 7 of 12 features
    made.save(tmp_path / "s.npz")
    assert torch.equal(FeatureSet.of_file(tmp_path / "s.npz").features, made.features)


def test_a_file_whose_provenance_is_none(tmp_path):
    FeatureStatistics.from_features(np.eye(4)).save(tmp_path / "s.npz")
    assert FeatureSet.of_file(tmp_path / "s.npz").provenance is None
    for text in ("{", "[]", '{"extractor": "x"}'):
        np.savez(tmp_path / "s.npz", mu=np.zeros(2), sigma=np.eye(2), n=5, provenance=np.array(text))
        with pytest.raises(FastUnlearnError, match=r"s\.npz: its provenance cannot be read"):
            FeatureSet.of_file(tmp_path / "s.npz")


def test_score_between_a_folder_and_a_file(folder, tmp_path):
    extractor = module_extractor(Means())
    part, whole = (FeatureSet.of_folder(extractor, folder[0], n) for n in (5, None))
    whole.save(tmp_path / "s.npz")
    score = frechet_score(part, FeatureSet.of_file(tmp_path / "s.npz"))
    assert score.name == "fid"
    assert score.value == pytest.approx(part.statistics.distance(whole.statistics), rel=1e-9)
    assert score.value > 0
    assert (score.provenance.n, score.provenance.n_reference) == (5, 7)
    assert score.provenance.extractor == "Means"
    with pytest.raises(FastUnlearnError, match="sample count differs: 5 against 7"):
        score < frechet_score(whole, whole)  # noqa: B015


def test_scores_of_two_folders_are_torch_fidelitys(torch_fidelity, random_weights, tmp_path):
    rng = np.random.default_rng(0)
    for name, n, high in (("fake", 12, 200), ("real", 14, 256)):
        (tmp_path / name).mkdir()
        for i in range(n):
            pixels = rng.integers(0, high, (3, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(tmp_path / name / f"{i:02}.png")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "fake"),
        input2=str(tmp_path / "real"),
        **{"fid": True, "kid": True, "prc": True, "isc": True, "kid_subset_size": 10, "isc_splits": 3},
        **{
            "feature_extractor": "inception-v3-compat",
            "feature_extractor_weights_path": str(random_weights),
            "cuda": False,
            "cache": False,
            "save_cpu_ram": True,
            "verbose": False,
        },
    )
    extractor = load_extractor("inception")
    fake, real = (FeatureSet.of_folder(extractor, tmp_path / name, batch=5) for name in ("fake", "real"))
    traces = np.trace(fake.statistics.cov) + np.trace(real.statistics.cov)
    assert frechet_score(fake, real).value == pytest.approx(theirs["frechet_inception_distance"], abs=1e-4 * traces)
    kid = kernel_inception_distance(real.features, fake.features, subset_size=10, seed=2020)
    assert kid == pytest.approx(
        (theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]), rel=1e-3, abs=1e-6
    )
    found = precision_recall(real.features, fake.features)
    assert found == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    score = inception_score(extractor.logits(fake.features), splits=3, seed=2020)
    assert score.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-5)


def test_a_file_that_does_not_say_is_taken_for_the_others_like(folder):
    made = FeatureSet.of_folder(module_extractor(Means()), folder[0])
    silent = FeatureSet("theirs", made.statistics, None, None)
    assert frechet_score(made, silent).provenance.extractor == "Means"
    assert frechet_score(silent, made).provenance.n_reference == 7
    unknown = frechet_score(silent, silent)
    assert unknown.value == 0
    assert unknown.provenance.extractor == "unknown"
    assert not unknown.provenance.standard


def test_other_extractors_rules_and_lengths_are_refused(folder):
    path, _ = folder
    made = FeatureSet.of_folder(module_extractor(Means(), "one"), path)
    for extractor, message in (
        (module_extractor(Means(), "two"), "extractor differs: one against two"),
        (module_extractor(Means(), "one", sha256="ff"), "SHA-256 of the extractor's weights differs"),
        (
            module_extractor(Means(), "one", antialiased(3)),
            "resize rule differs: no resize against antialiased bicubic",
        ),
        (module_extractor(Corner(), "one"), "cannot be compared: .* has 3 features, .* has 12 features"),
    ):
        with pytest.raises(FastUnlearnError, match=message):
            frechet_score(made, FeatureSet.of_folder(extractor, path))


def test_features_that_a_metric_needs(folder):
    made = FeatureSet.of_folder(module_extractor(Means()), folder[0])
    assert made.require_features("kid", 7) is made.features
    with pytest.raises(FastUnlearnError, match="kid needs at least 1,000 images, got 7"):
        made.require_features("kid", 1000)
    with pytest.raises(FastUnlearnError, match="theirs: holds statistics alone; kid needs the images"):
        FeatureSet("theirs", made.statistics, None, None).require_features("kid", 2)


def test_a_file_with_an_impossible_covariance(folder, tmp_path):
    made = FeatureSet.of_folder(module_extractor(Means()), folder[0])
    sigma = np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]])  # eigenvalue -1
    np.savez(tmp_path / "s.npz", mu=np.zeros(3), sigma=sigma)
    with pytest.raises(FastUnlearnError, match=r"images and .*s\.npz: .*positive semidefinite"):
        frechet_score(made, FeatureSet.of_file(tmp_path / "s.npz"))


def test_of_a_dataset_and_averaged():
    """Features that are the pixels: those of all images, in their order, each the mean of its area."""
    images = torch.randint(0, 256, (1001, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    dataset = ImageDataset(images, None, "toys")
    extractor = module_extractor(nn.Flatten(), rule=averaged(2))
    features = FeatureSet.of_dataset(extractor, dataset)
    expected = dataset.batch(slice(None)).unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).flatten(1)
    torch.testing.assert_close(features.features, expected)
    assert (features.source, features.n) == ("toys", 1001)
    assert features.provenance.resize == "averaged 2x2"
