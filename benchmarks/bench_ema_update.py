"""ema_update against the loop over tensors and against torch's own fused loop."""

import functools
from collections.abc import Callable

import pytest
import torch
from bench_ewc_penalty import MODELS, make
from fastunlearn.kernels.ema_update import IMPLEMENTATIONS
from measure import compare

BYTES = 12  # a parameter: target and source in, target out


def run_update(benchmark, contenders, device, model, implementations: dict, peer: Callable, factor: float) -> None:
    """Time target ← step(target, source, factor) in place; `peer` is torch's own function of the same arguments."""
    sources, _, targets = make(model, device)
    sources = [source.detach() for source in sources]
    reference, native = implementations["reference"], implementations["cpu"]

    def check():
        expected, *others = ([target.clone() for target in targets] for _ in range(3))
        reference(expected, sources, factor)
        for function, got in zip((native, peer), others, strict=True):
            function(got, sources, factor)
            torch.testing.assert_close(got, expected)

    functions = {**contenders(reference, native), "foreach": peer}
    cases = {name: functools.partial(function, targets, sources, factor) for name, function in functions.items()}
    moved = BYTES * sum(source.numel() for source in sources)
    compare(benchmark, f"{native.__name__}, {model}", cases, moved, check, device)


@pytest.mark.parametrize("model", MODELS)
def test_update(benchmark, contenders, device, model):
    def foreach(averages, params, decay):
        torch._foreach_lerp_(averages, params, 1 - decay)

    run_update(benchmark, contenders, device, model, IMPLEMENTATIONS, foreach, 0.999)
