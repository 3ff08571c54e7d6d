"""KID, precision, recall, density, coverage against plain definitions and installed peers: torch-fidelity, prdc."""

import contextlib
import importlib
import io
import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from measure import compare, full
from torch import Tensor

from fastunlearn.metrics import kernel_inception_distance, neighbourhood_scores, precision_recall

D = 2048
M = 1000  # images of a subset
K = 5
ROUNDS = 2


def sides(n: int, d: int = D) -> tuple[Tensor, Tensor]:
    """Real and generated features like Inception's: not negative, float32."""
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, n, d, generator=rng).abs() / 2
    return real, fake * 1.02


def numbers(values: Iterable[float]) -> Tensor:
    """As float64, which a tensor of Python's numbers is not."""
    return torch.tensor([*values], dtype=torch.float64)


def peer(module: str, function: str) -> Callable | None:
    """A package's function, silenced, or None where it does not import (torchvision may not fit torch)."""
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, RuntimeError):
        return None

    def call(*args, **settings) -> Tensor:
        with contextlib.redirect_stdout(io.StringIO()):
            return numbers(found(*args, **settings).values())

    return call


def kid_by_definition(real: Tensor, fake: Tensor, subsets: int) -> Tensor:
    """Each subset by itself."""
    rng = np.random.RandomState(2020)
    values = []
    for _ in range(subsets):
        y, x = (side[torch.from_numpy(rng.choice(len(side), M, replace=False))].double() for side in (fake, real))
        xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        same = xx.sum() - xx.trace() + yy.sum() - yy.trace()
        values.append(same / (M * (M - 1)) - 2 * xy.mean())
    values = torch.stack(values)
    return torch.stack([values.mean(), values.std(correction=0)])


@pytest.mark.parametrize("case", [(1000, 10), *full([(10_000, 5)])], ids=str)
def test_kid(benchmark, case):
    n, subsets = case
    real, fake = sides(n)
    theirs = peer("torch_fidelity.metric_kid", "kid_features_to_metric")
    cases = {
        "reference": lambda: kid_by_definition(real, fake, subsets),
        "native": lambda: numbers(kernel_inception_distance(real, fake, subsets, M, seed=2020)),
    }
    settings = {"kid_subsets": subsets, "kid_subset_size": M, "rng_seed": 2020, "verbose": False}
    if theirs is not None:
        cases["torch-fidelity"] = lambda: theirs(fake, real, **settings)
        cases["torch-fidelity float64"] = lambda: theirs(fake.double(), real.double(), **settings)

    def check():
        found = {name: case() for name, case in cases.items() if name != "torch-fidelity"}
        assert all(torch.allclose(value, found["reference"], rtol=1e-9, atol=1e-13) for value in found.values())

    compare(benchmark, f"KID {n} x {D}, {subsets} subsets of {M}", cases, 0, check, rounds=1)


def prdc_by_definition(real: Tensor, fake: Tensor) -> Tensor:
    """All distances at once."""
    x, y = real.double(), fake.double()
    between = torch.cdist(x, y)
    radius_x, radius_y = (torch.cdist(s, s).kthvalue(K + 1).values for s in (x, y))
    inside = between < radius_x[:, None]
    shares = [(between <= radius_x[:, None]).any(0), (between <= radius_y).any(1), inside.sum(0) / K, inside.any(1)]
    return torch.stack([share.double().mean() for share in shares])


@pytest.mark.parametrize("case", [(2000, D), *full([(5000, 84)])], ids=str)
def test_neighbourhoods(benchmark, case):
    n, d = case
    real, fake = sides(n, d)
    theirs = peer("prdc", "compute_prdc")
    cases = {
        "reference": lambda: prdc_by_definition(real, fake),
        "native": lambda: numbers(itertools.chain(*neighbourhood_scores(real, fake, K, K))),
    }
    if theirs is not None:
        cases["prdc"] = lambda: theirs(real.double().numpy(), fake.double().numpy(), nearest_k=K)

    def check():
        found = [case() for case in cases.values()]
        assert all(torch.allclose(value, found[0], rtol=0, atol=1e-6) for value in found)

    compare(benchmark, f"P, R, density, coverage {n} x {d}", cases, 0, check, rounds=ROUNDS)


def test_precision_recall(benchmark):
    n = 2000
    real, fake = sides(n)
    theirs = peer("torch_fidelity.metric_prc", "prc_features_to_metric")
    cases = {
        "reference": lambda: prdc_by_definition(real, fake)[:2],
        "native": lambda: numbers(precision_recall(real, fake, K)),
    }
    settings = {"prc_neighborhood": K, "verbose": False}
    if theirs is not None:
        cases["torch-fidelity"] = lambda: theirs(fake, real, **settings)[:2]
        cases["torch-fidelity float64"] = lambda: theirs(fake.double(), real.double(), **settings)[:2]

    def check():
        found = [case() for name, case in cases.items() if name != "torch-fidelity"]
        assert all(torch.allclose(value, found[0], rtol=0, atol=1e-6) for value in found)

    compare(benchmark, f"precision, recall {n} x {D}", cases, 0, check, rounds=ROUNDS)
