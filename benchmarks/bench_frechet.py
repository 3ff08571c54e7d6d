"""The Fréchet distance beside scipy's square root and the packages that are installed: torch-fidelity, torchmetrics.

All work on as many threads as OMP_NUM_THREADS says, which NumPy and SciPy read when they are imported:

    OMP_NUM_THREADS=2 pytest benchmarks/bench_frechet.py --full -s

"reference" is pytorch-fid's and clean-fid's formula, tr (Σ₁Σ₂)^½ by `scipy.linalg.sqrtm`, where a case has no other.
The packages start from moments; where features are given, they get them by NumPy within their time. The truth comes
from the features' own singular values, without any covariance.
"""

import functools
import importlib
import math
import os

import numpy as np
import pytest
import torch
from measure import compare, full
from torch import nn

from fastunlearn.metrics import (
    FeatureStatistics,
    FrechetReference,
    frechet_distance,
    frechet_distance_from_features,
    frechet_loss,
)

THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
WORKERS = "1 thread" if THREADS == 1 else f"{THREADS} threads"
SIZES = [512, *full([2048])]
FEW = {512: 250, 2048: 1000}  # images: fewer than features
ROUNDS = {512: 5, 2048: 3}
EXACT, ROUGH = 1e-12, 1e-4  # of the traces: ours on full rank and on features; peers, of fewer images than features


# ---- contenders ------------------------------------------------------------------------------------------------------


def by_square_root(mu1, sigma1, mu2, sigma2):
    root = importlib.import_module("scipy.linalg").sqrtm(sigma1 @ sigma2)
    return np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2 * root.real)


def by_eigenvalues(mu1, sigma1, mu2, sigma2):
    """torchmetrics' formula in tensors, which can be differentiated."""
    roots = torch.linalg.eigvals(sigma1 @ sigma2).sqrt().real
    return (mu1 - mu2).square().sum() + (sigma1 + sigma2).trace() - 2 * roots.sum()


def torch_fidelity():
    distance = importlib.import_module("torch_fidelity.metric_fid").fid_statistics_to_metric

    def function(mu1, sigma1, mu2, sigma2):
        (value,) = distance({"mu": mu1, "sigma": sigma1}, {"mu": mu2, "sigma": sigma2}, False).values()
        return value

    return function


def torchmetrics():
    distance = importlib.import_module("torchmetrics.image.fid")._compute_fid
    return lambda *moments: distance(*map(torch.from_numpy, moments))


@functools.cache
def peers():
    """The packages that can be imported; the others are named, with the reason."""
    found = {}
    for name, package in {"torch-fidelity": torch_fidelity, "torchmetrics": torchmetrics}.items():
        try:
            found[name] = package()
        except ImportError as error:
            print(f"  |  absent: {name} ({error})", end="")
    return found


# ---- data ------------------------------------------------------------------------------------------------------------


@functools.cache
def features(seed, n, d):
    """float32 [n, d] as an extractor gives them, variances over four orders of magnitude along axes of no meaning."""
    draws = np.random.default_rng(seed)
    x = draws.standard_normal((n, d)) * np.logspace(0, -2, d)
    axis = draws.standard_normal(d)
    x -= np.outer(x @ axis, 2 * axis / (axis @ axis))
    return (x + 0.01 * seed).astype(np.float32)


def moments(x):
    x = x.astype(np.float64)
    return x.mean(0), np.cov(x, rowvar=False)


def truth(x1, x2):
    """The distance and the traces: ‖AᵀB‖_* of the centred features' own factors."""
    means, factors = [], []
    for x in (x1, x2):
        x = x.astype(np.float64)
        means.append(x.mean(0))
        centred = (x - means[-1]) / math.sqrt(len(x) - 1)
        factors.append(np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred)
    norm = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    traces = sum(float(np.square(factor).sum()) for factor in factors)
    return float(np.sum((means[0] - means[1]) ** 2) + traces - 2 * norm), traces


def run(benchmark, name, d, functions, x1, x2, **options):
    """Functions that take nothing and give the distance between the features."""

    def check():
        exact, traces = truth(x1, x2)
        for who, function in functions.items():
            assert abs(float(function()) - exact) <= (EXACT if who == "native" else ROUGH) * traces, who

    name = f"Fréchet distance, {name}, d = {d}, {WORKERS}"
    compare(benchmark, name, functions, 0, check, rounds=ROUNDS[d], threads=THREADS, **options)


def contenders(native, x1, x2, reads_features):
    """Ours beside the formula with the square root and the packages, all from moments or all from features."""
    pytest.importorskip("scipy.linalg")
    kept = moments(x1), moments(x2)

    def theirs(function):
        # Where one side is kept they keep its moments.
        return lambda: function(*kept[0], *(moments(x2) if reads_features else kept[1]))

    packages = {name: theirs(function) for name, function in peers().items()}
    return {"reference": theirs(by_square_root), "native": native, **packages}


# ---- cases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", SIZES)
def test_moments(benchmark, d):
    """The call that the drop-ins replace."""
    x1, x2 = features(1, 2 * d, d), features(2, 2 * d, d)
    native = functools.partial(frechet_distance, *moments(x1), *moments(x2))
    run(benchmark, "moments", d, contenders(native, x1, x2, False), x1, x2)


@pytest.mark.parametrize("d", SIZES)
def test_moments_against_a_reference(benchmark, d):
    x1, x2 = features(1, 2 * d, d), features(2, 2 * d, d)
    reference, (mu, sigma) = FrechetReference(FeatureStatistics.from_moments(*moments(x1))), moments(x2)

    def native():
        return reference.distance(FeatureStatistics.from_moments(mu, sigma))

    run(benchmark, "moments against a reference", d, contenders(native, x1, x2, False), x1, x2)


@pytest.mark.parametrize("d", SIZES)
def test_few_features_against_a_reference(benchmark, d):
    x1, x2 = features(1, 2 * d, d), features(2, FEW[d], d)
    reference = FrechetReference(FeatureStatistics.from_moments(*moments(x1)))

    def native():
        return reference.distance(FeatureStatistics.from_features(x2))

    run(benchmark, f"{FEW[d]} images against a reference", d, contenders(native, x1, x2, True), x1, x2)


@pytest.mark.parametrize("d", SIZES)
def test_few_features_on_both_sides(benchmark, d):
    pytest.importorskip("scipy.linalg")
    x1, x2 = features(1, FEW[d], d), features(2, FEW[d], d)
    theirs = {"reference": by_square_root, **peers()}
    functions = {
        name: lambda function=function: function(*moments(x1), *moments(x2)) for name, function in theirs.items()
    }
    functions["native"] = functools.partial(frechet_distance_from_features, x1, x2)
    run(benchmark, f"{FEW[d]} images on both sides", d, functions, x1, x2)


@pytest.mark.parametrize("d", SIZES)
def test_candidates(benchmark, d):
    """Four sets of few images against a reference; "unkept" is ours without one, all others go one by one."""
    real, candidates = features(1, 2 * d, d), [features(seed, FEW[d], d) for seed in range(2, 6)]
    mu, sigma = moments(real)
    kept = FrechetReference(FeatureStatistics.from_moments(mu, sigma))

    def one_by_one(function):
        return lambda: torch.tensor([float(function(x)) for x in candidates], dtype=torch.float64)

    functions = {
        "reference": one_by_one(lambda x: by_eigenvalues(*map(torch.from_numpy, (mu, sigma, *moments(x))))),
        "native": lambda: torch.from_numpy(kept.distances(map(FeatureStatistics.from_features, candidates))),
        "unkept": one_by_one(
            lambda x: FeatureStatistics.from_moments(mu, sigma).distance(FeatureStatistics.from_features(x))
        ),
    }
    if theirs := peers().get("torch-fidelity"):
        functions["torch-fidelity"] = one_by_one(lambda x: theirs(mu, sigma, *moments(x)))

    def check():
        exact = [truth(real, x) for x in candidates]
        for who, function in functions.items():
            for got, (value, traces) in zip(function().tolist(), exact, strict=True):
                assert abs(got - value) <= (EXACT if who == "native" else ROUGH) * traces, who

    name = f"Fréchet distance, 4 × {FEW[d]} images against a reference, d = {d}, {WORKERS}"
    compare(benchmark, name, functions, 0, check, rounds=ROUNDS[d], threads=THREADS)


@pytest.mark.parametrize("d", SIZES)
def test_streaming(benchmark, d):
    """6,400 features in batches of 64 to mean and covariance; "reference" is torchmetrics' accumulation."""
    batches = torch.from_numpy(features(1, 6400, d)).split(64)

    def moments_of(total, squares, n):
        mean = total / n
        return mean, (squares - n * mean[:, None] * mean) / (n - 1)

    def reference():
        total, squares = torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
        for batch in batches:
            batch = batch.double()
            total += batch.sum(0)
            squares += batch.T @ batch
        return moments_of(total, squares, 6400)

    def native():
        statistics = FeatureStatistics()
        for batch in batches:
            statistics.update(batch)
        return torch.from_numpy(statistics.mean), torch.from_numpy(statistics.cov)

    functions = {"reference": reference, "native": native}
    if "torchmetrics" in peers():
        metrics = importlib.import_module("torchmetrics.image.fid")

        class Features(nn.Identity):
            num_features = d

        def torchmetrics():
            metric = metrics.FrechetInceptionDistance(feature=Features())
            for batch in batches:
                metric.update(batch, real=True)
            return moments_of(metric.real_features_sum, metric.real_features_cov_sum, 6400)

        functions["torchmetrics"] = torchmetrics

    def check():
        exact = moments(features(1, 6400, d))
        for function in functions.values():
            for got, expected in zip(function(), exact, strict=True):
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)

    name = f"Fréchet statistics of 6,400 features, batch 64, d = {d}, {WORKERS}"
    compare(benchmark, name, functions, 0, check, rounds=3, threads=THREADS)


@pytest.mark.parametrize("few", [False, True], ids=["many", "few"])
@pytest.mark.parametrize("d", SIZES)
def test_gradient(benchmark, d, few):
    """Value and gradient in n features; "reference" differentiates the eigenvalues of the product.

    With fewer features than dimensions these are 0, and their square root has no derivative: it is timed all the same.
    """
    real, n = features(1, 2 * d, d), FEW[d] if few else 2 * d
    x = torch.from_numpy(features(2, n, d)).double().requires_grad_()
    mu, sigma = map(torch.from_numpy, moments(real))
    kept = FrechetReference(FeatureStatistics.from_moments(mu, sigma))

    def differentiated(function):
        def run():
            value = function(x)
            return value.detach(), *torch.autograd.grad(value, x)

        return run

    functions = {
        "reference": differentiated(lambda x: by_eigenvalues(x.mean(0), x.T.cov(), mu, sigma)),
        "native": differentiated(lambda x: frechet_loss(x, kept)),
    }

    def check():
        """The gradient is 2 (C − U Vᵀ Aᵀ) / √(n − 1) + 2/n (μ − μ₂), C centred and scaled, C A = U S Vᵀ, A Aᵀ = Σ₂."""
        with torch.no_grad():
            centred, root = (x - x.mean(0)) / math.sqrt(n - 1), torch.linalg.cholesky(sigma)
            left, spectrum, right = torch.linalg.svd(centred @ root, full_matrices=False)
            polar = (left * (spectrum > 1e-10 * spectrum[0])) @ right
            gradient = 2 / math.sqrt(n - 1) * (centred - polar @ root.T) + 2 / n * (x.mean(0) - mu)
        value, traces = truth(real, x.detach().numpy())
        for who in ["native"] if few else functions:
            got, slope = functions[who]()
            assert abs(float(got) - value) <= EXACT * traces, who
            assert torch.dist(slope, gradient) <= 1e-8 * gradient.norm(), who

    name = f"Fréchet distance fwd+bwd, {n} features, d = {d}, {WORKERS}"
    compare(benchmark, name, functions, 0, check, rounds=ROUNDS[d], threads=THREADS)
