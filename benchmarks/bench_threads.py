"""Two threads against one, for the kernels on more than 1 MB: fastest of ten calls each, in turn.

What a second thread can bring is the machine's to say. Beside every case, in the same turns, three others that PyTorch
shares among threads: a matrix product, which computes; a copy of 2 MB, which stays in the caches; and a copy of 64 MB,
which one core alone may do at the speed of the memory. A kernel lies between them.

A thread that sleeps while it waits (OMP_WAIT_POLICY=passive) takes longer to wake than some regions to run: the policy
belongs to the result, and `make bench` leaves it at OpenMP's own.
"""

import functools
import itertools
import os
import time

import pytest
import torch
from bench_ewc_penalty import make
from bench_upfirdn2d import FILTER, LAYOUTS, SAMPLINGS
from measure import forward_backward, warm_pages

from fastunlearn import ops

PAIRS = 10
SHORT = 2e-3  # what takes less is called several times in a turn


def images(layout="contiguous", n=8):
    x = torch.randn(n, 128, 64, 64).contiguous(memory_format=LAYOUTS[layout])
    return x.requires_grad_()


def copying(megabytes):
    source, target = torch.ones(2, megabytes << 18)
    return lambda: target.copy_(source)


def multiplying():
    a, b = torch.randn(2, 512, 512)
    return lambda: torch.mm(a, b)


def filtering(sampling, layout="contiguous", n=8):
    return forward_backward(functools.partial(ops.upfirdn2d, f=FILTER, **SAMPLINGS[sampling]), [images(layout, n)])


def activating(layout="contiguous", n=8):
    bias = torch.randn(128, requires_grad=True)
    return forward_backward(functools.partial(ops.bias_act, act="lrelu"), [images(layout, n), bias])


def convolving():
    x, weight = torch.randn(8, 128, 32, 32), torch.randn(128, 128, 3, 3)
    inputs = [t.contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, weight)]
    return forward_backward(functools.partial(ops.conv2d, padding=1), inputs)


def finishing(layout="contiguous", n=8):
    scale, noise = torch.rand(n, 128, requires_grad=True), torch.randn(n, 1, 64, 64)
    bias = torch.randn(128, requires_grad=True)
    x = torch.randn(n, 128, 65, 65).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    layer = functools.partial(ops.styled_epilogue, noise=noise, f=FILTER, padding=1, filter_gain=4)
    return forward_backward(layer, [x, bias, scale])


def activating_between_filters():
    x, taps = torch.randn(2, 64, 148, 148), torch.ones(12) / 12
    layer = functools.partial(ops.filtered_lrelu, fu=taps, fd=taps, up=2, down=2)
    return forward_backward(layer, [x.requires_grad_()])


def comparing():
    x, y = torch.rand(2, 8, 3, 256, 256)
    return forward_backward(functools.partial(ops.ms_ssim, data_range=1.0), [x.requires_grad_(), y.requires_grad_()])


def penalising():
    params, anchors, fisher = make("25 M in 110 tensors", "cpu")
    return lambda: torch.autograd.grad(ops.ewc_penalty(params, anchors, fisher), params)


def repelling(kind):
    params, anchors, _ = make("25 M in 110 tensors", "cpu")
    return lambda: torch.autograd.grad(ops.parameter_repulsion(params, anchors, kind, 1e-4), params)


def updating(op, factor):
    sources, _, targets = make("25 M in 110 tensors", "cpu")
    return functools.partial(op, targets, [source.detach() for source in sources], factor)


def projecting():
    return functools.partial(ops.latent_projection, torch.randn(10_000, 512), torch.randn(512), 0.0, "margin", 0.1)


CONTROLS = {
    "matrix product": multiplying,
    "copy 2 MB": functools.partial(copying, 2),
    "copy 64 MB": functools.partial(copying, 64),
}
CASES = {
    "upfirdn2d fwd+bwd blur, 1×128×64²": functools.partial(filtering, "blur", n=1),
    "bias_act fwd+bwd, 1×128×64²": functools.partial(activating, n=1),
    "styled_epilogue fwd+bwd blur, 1×128×64²": functools.partial(finishing, n=1),
    **{f"upfirdn2d fwd+bwd {name}, 8×128×64²": functools.partial(filtering, name) for name in SAMPLINGS},
    "upfirdn2d fwd+bwd up 2, 8×128×64², channels_last": functools.partial(filtering, "up 2", "channels_last"),
    "conv2d fwd+bwd, 8×128×32²": convolving,
    "bias_act fwd+bwd, 8×128×64²": activating,
    "bias_act fwd+bwd, 8×128×64², channels_last": functools.partial(activating, "channels_last"),
    "styled_epilogue fwd+bwd blur, 8×128×64²": finishing,
    "styled_epilogue fwd+bwd blur, 8×128×64², channels_last": functools.partial(finishing, "channels_last"),
    "filtered_lrelu fwd+bwd, 2×64×148²": activating_between_filters,
    "ms_ssim fwd+bwd, 8×3×256²": comparing,
    "ewc_penalty, 25 M": penalising,
    "parameter_repulsion nl2, 25 M": functools.partial(repelling, "nl2"),
    "parameter_repulsion el2, 25 M": functools.partial(repelling, "el2"),
    "ema_update, 25 M": functools.partial(updating, ops.ema_update, 0.999),
    "fisher_accumulate, 25 M": functools.partial(updating, ops.fisher_accumulate, 1e-6),
    "latent_projection, 10,000 × 512": projecting,
}


def once(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def repeated(function):
    """The function, as often as fills a turn, and how often that is."""
    function()
    times = max(1, int(SHORT / once(function)))
    return (lambda: [function() for _ in range(times)]), times


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")
@pytest.mark.parametrize("case", CASES)
def test_two_threads(benchmark, case):
    torch.manual_seed(0)
    before = torch.get_num_threads()
    fastest = {}
    with warm_pages():  # the system takes its time for fresh ones, whoever asks
        try:
            torch.set_num_threads(1)
            functions = {name: repeated(make()) for name, make in {case: CASES[case], **CONTROLS}.items()}
            # The first pair warms up: it is seldom the fastest.
            for _, (name, (function, times)), threads in itertools.product(range(1 + PAIRS), functions.items(), (1, 2)):
                torch.set_num_threads(threads)
                seconds = once(function) / times
                fastest.setdefault(name, {}).setdefault(threads, seconds)
                fastest[name][threads] = min(fastest[name][threads], seconds)
            benchmark.pedantic(functions[case][0], rounds=1)
        finally:
            torch.set_num_threads(before)
    times_faster = {name: times[1] / times[2] for name, times in fastest.items()}
    print(
        "".join(f"  |  {'' if name == case else name} {r:.2f}x" for name, r in times_faster.items()), end="", flush=True
    )
    benchmark.extra_info |= {
        "case": case,
        "device": "cpu",
        "threads": fastest.pop(case),
        "controls": fastest,
        "waiting": os.environ.get("OMP_WAIT_POLICY", "OpenMP's own"),
    }
