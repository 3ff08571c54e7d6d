"""Runs one package's own ways to its Fréchet distance and prints what they give: python fid_peers.py PACKAGE HOW.

HOW is "theirs", "install" (ours, installed before the import) or "import" (after it). The last line is JSON: under
"old", and under "new", where scipy's sqrtm has no `disp`, case by case a number, a list of them, or the error as text.

The cases are those of the packages' own tests, as far as they need no weights from a network: pytorch-fid's
tests/test_fid_score.py, torch-fidelity's test_fid_stats_fn.py, torchmetrics' test_fid.py and test_mifid.py; clean-fid's
compare folders, here through an extractor of ours.
"""

import functools
import importlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from PIL import Image
from torch import nn


def features(seed, n, d, shift=0.0):
    return shift + np.random.default_rng(seed).standard_normal((n, d))


def moments(x):
    return x.mean(0), np.cov(x, rowvar=False)


def pytorch_fid():
    fid_score = importlib.import_module("pytorch_fid.fid_score")

    class Inception:
        """Without the weights that theirs downloads."""

        BLOCK_INDEX_BY_DIM = fid_score.InceptionV3.BLOCK_INDEX_BY_DIM

        def __init__(self, blocks):
            pass

        def to(self, device):
            return self

    fid_score.InceptionV3 = Inception

    def of_npz(*statistics):
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / f"{k}.npz") for k in range(2)]
            for path, (mu, sigma) in zip(paths, statistics, strict=True):
                np.savez(path, mu=mu, sigma=sigma)
            return fid_score.calculate_fid_given_paths(paths, batch_size=50, device="cpu", dims=2048, num_workers=0)

    return {
        "equal covariances": lambda: of_npz((np.zeros(2048), np.eye(2048)), (np.ones(2048), np.eye(2048))),
        "full rank": lambda: of_npz(moments(features(0, 300, 64)), moments(features(1, 200, 64, 0.3))),
        "fewer images than features": lambda: of_npz(moments(features(0, 30, 64)), moments(features(1, 20, 64, 0.3))),
    }


def cleanfid():
    fid = importlib.import_module("cleanfid.fid")

    def of_folders():
        with tempfile.TemporaryDirectory() as parent:
            for k, top in enumerate((256, 180)):
                folder = Path(parent) / str(k)
                folder.mkdir()
                images = np.random.default_rng(k).integers(0, top, (12, 40, 36, 3), dtype=np.uint8)
                for n, image in enumerate(images):
                    Image.fromarray(image).save(folder / f"{n}.png")
            options = {"num_workers": 0, "batch_size": 8, "device": torch.device("cpu"), "verbose": False}
            pooled = functools.partial(nn.functional.adaptive_avg_pool2d, output_size=1)
            return fid.compute_fid(
                f"{parent}/0", f"{parent}/1", custom_feat_extractor=lambda x: pooled(x).flatten(1), **options
            )

    return {
        "features": lambda: fid.fid_from_feats(features(0, 300, 64), features(1, 200, 64, 0.3)),
        "folders": of_folders,
    }


def torchmetrics():
    image = importlib.import_module("torchmetrics.image")

    class Encoder(nn.Flatten):
        num_features = 48

    def images(seed, n, top, dtype=torch.float32):
        drawn = torch.randint(0, top, (n, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
        return drawn.to(dtype) / 255

    def of_batches(real, fake, **options):
        metric = image.FrechetInceptionDistance(feature=Encoder(), **options)
        for which, batches in ((True, real), (False, fake)):
            for batch in batches.split(10):
                metric.update(batch, real=which)
        return metric

    def again():
        """The real features are kept, the fake ones replaced."""
        metric = of_batches(images(0, 100, 180), images(1, 100, 255), reset_real_features=False)
        found = [metric.compute()]
        metric.reset()
        metric.update(images(2, 90, 220), real=False)
        return torch.stack([*found, metric.compute()])

    def memorised(other):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 512))
        metric = image.MemorizationInformedFrechetInceptionDistance(feature=encoder, normalize=True)
        one = torch.randn(2, 1, 32, 32)
        metric.update(one, real=True)
        metric.update(torch.randn(3, 1, 32, 32) if other else one, real=False)
        return metric.compute()

    same = images(0, 20, 255)
    return {
        "as many": lambda: of_batches(images(0, 100, 180), images(1, 100, 255)).compute(),
        "fewer": lambda: of_batches(images(0, 100, 180), images(1, 90, 255)).compute(),
        "float64": lambda: of_batches(images(0, 100, 180, torch.float64), images(1, 90, 255, torch.float64)).compute(),
        "same images": lambda: of_batches(same, same).compute(),
        "one image": lambda: of_batches(same[:1], same[:1]).compute(),
        "again": again,
        "memorisation-informed": lambda: memorised(True),
        "memorisation-informed, same images": lambda: memorised(False),
    }


def torch_fidelity():
    metric_fid = importlib.import_module("torch_fidelity.metric_fid")
    package = importlib.import_module("torch_fidelity")

    class Pixels(package.FeatureExtractorBase):
        def __init__(self, name, features_list, **options):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("pixels",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "pixels"

        @staticmethod
        def can_be_compiled():
            return False

        @staticmethod
        def get_dummy_input_for_compile():
            return None

        def forward(self, x):
            return (x.flatten(1).double() / 255,)

    package.register_feature_extractor("pixels", Pixels)

    def statistics(n, d):
        """As their test draws them."""
        draws = np.random.RandomState(2023)
        return [metric_fid.fid_features_to_statistics(torch.tensor(draws.randn(n, d))) for _ in range(2)]

    def of_sizes(n):
        pairs = (statistics(n, 2**k) for k in range(1, 9))
        return [metric_fid.fid_statistics_to_metric(*pair, verbose=False)[metric_fid.KEY_METRIC_FID] for pair in pairs]

    def of_images(**more):
        inputs = [torch.from_numpy(features(k, 80, 12).reshape(80, 3, 2, 2) * 30 + 128).byte() for k in range(2)]
        datasets = {f"input{k + 1}": Images(x) for k, x in enumerate(inputs)}
        options = {"cuda": False, "verbose": False, "batch_size": 16, "save_cpu_ram": True, "cache": False}
        return package.calculate_metrics(
            **datasets, **options, fid=True, feature_extractor="pixels", feature_layer_fid="pixels", **more
        )["frechet_inception_distance"]

    return {
        **{f"{2**k} samples": functools.partial(of_sizes, 2**k) for k in range(1, 13)},
        "calculate_metrics": of_images,
        "… with others": lambda: of_images(kid=True, kid_subset_size=20, feature_layer_kid="pixels"),
    }


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __getitem__(self, i):
        return self.images[i]

    def __len__(self):
        return len(self.images)


def said(case):
    try:
        return torch.as_tensor(case()).tolist()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(package, how):
    dropin = importlib.import_module(f"fastunlearn.compat.{package}")
    if how == "install":
        dropin.install()
    cases = globals()[package]()
    if how == "import":
        dropin.install()
    found = {"old": {name: said(case) for name, case in cases.items()}}
    original = scipy.linalg.sqrtm
    scipy.linalg.sqrtm = lambda A: original(A)
    found["new"] = {name: said(case) for name, case in cases.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
