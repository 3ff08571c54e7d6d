"""Whole steps of StyleGAN2 at 64², ours against plain PyTorch: training, adapting, unlearning.

The widths are the public implementations' own: 512 channels at every resolution, styles of 512, 8 mapping layers. All
contenders run the library's training code on the same weights (`baseline_stylegan2.py`). "reference" filters depthwise,
as NVIDIA's code does without its extension; its losses and gradients are compared with ours before anything is timed.
"single-channel FIR" filters as rosinality's code does, which a test compares at a smaller size. The training step has
all four parts: discriminator, R1, generator, path length.

A step takes seconds. After the comparison, which warms up, each contender's is timed once under each allocator; five
times on a GPU.
"""

import functools
import itertools
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from baseline_stylegan2 import baseline, baseline_ops
from measure import FlopCounter, compare, peak_memory

from fastunlearn import ops
from fastunlearn.methods.adapt_then_unlearn import AdaptThenUnlearnConfig, Repulsion
from fastunlearn.models.stylegan2 import StyleGAN2, StyleGAN2Config
from fastunlearn.training.adversarial import AdversarialConfig, Networks, adversarial_phase
from fastunlearn.training.loop import Images, advance

WIDTHS = (512,) * 5
CONFIG = StyleGAN2Config(
    size=64, channels=3, latent_dim=512, style_dim=512, mapping_layers=8, g_widths=WIDTHS, d_widths=WIDTHS
)
BATCH = {"cpu": 2, "cuda": 16}
CONTENDERS = {
    "reference": functools.partial(baseline_ops, "depthwise"),
    "native": nullcontext,
    "single-channel FIR": functools.partial(baseline_ops, "single-channel"),
}


def noise_like(parameters, seed):
    """Random tensors like these, the same for every device and memory format."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.empty_like(p.detach()).copy_(torch.randn(p.shape, generator=rng)) for p in parameters]


def nearby(parameters, seed):
    """Tensors like these, a little off."""
    return [p.detach() + 0.01 * noise for p, noise in zip(parameters, noise_like(parameters, seed), strict=True)]


def nothing_more(networks, plain):
    return None


def consolidation(networks, plain):
    """The penalty of stage 1, on the generator's convolutions."""
    weights = [p for name, p in networks.generator.named_parameters() if name.startswith("convs.")]
    anchors, fisher = nearby(weights, 0), [noise.square() for noise in noise_like(weights, 1)]
    return lambda: {"ewc": ops.ewc_penalty(weights, anchors, fisher, weight=1e-3)}


def repulsion(networks, plain):
    """The repulsion of stage 2 from three adapted generators; plain code visits one after the other.

    nl2 is the kind whose mean over models is that of the mean model, so that the results are equal.
    """
    weights = list(networks.generator.parameters())
    reduce = "per-model" if plain else "mean-inside"
    config = AdaptThenUnlearnConfig(repulsion="nl2", gamma=0.1, alpha=1.0, reduce=reduce)
    return Repulsion(weights, [nearby(weights, seed) for seed in range(3)], config).terms


# What is added to the generator's loss, and the number of the step in its phase (R1 and path length are due at 0).
STEPS = {"training": (nothing_more, 0), "adaptation": (consolidation, 1), "unlearning": (repulsion, 1)}


class Step:
    """A step of one contender, the same at every call: the learning rate is 0, and nothing else that counts moves."""

    def __init__(self, kind: str, contender: str, model: StyleGAN2, device: str, batch_size: int):
        extra, self.number = STEPS[kind]
        self.ops = CONTENDERS[contender]
        self.networks = Networks(model, model.generator)
        torch.manual_seed(0)
        images = torch.rand(batch_size, *model.image_shape) * 2 - 1
        self.phase = adversarial_phase(
            kind,
            self.networks,
            Images.of(images),
            16,
            AdversarialConfig(batch_size=batch_size, lr=0.0),
            extra=extra(self.networks, plain=contender != "native"),
        )
        self.optimizers = {name: player.optimizer() for name, player in self.phase.players.items()}
        self.real = images.to(device)

    def __call__(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        self.networks.path_length.mean.zero_()
        with self.ops():
            return advance(self.phase, self.optimizers, self.real, self.number)

    def results(self) -> dict[str, torch.Tensor]:
        """The losses of a step, and the gradients of every descent in it; zeros where there is none."""
        names = {p: name for module in self.phase.modules.values() for name, p in module.named_parameters()}
        found, descents = {}, itertools.count(1)

        def keep(optimizer, *_):
            descent = next(descents)
            for p in optimizer.param_groups[0]["params"]:
                gradient = torch.zeros_like(p) if p.grad is None else p.grad.clone()
                found[f"descent {descent}, {names[p]}"] = gradient

        hooks = [optimizer.register_step_pre_hook(keep) for optimizer in self.optimizers.values()]
        found |= self()
        for hook in hooks:
            hook.remove()
        return found


def assert_equal(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 5e-3) -> None:
    """Each within `tolerance` of its norm, and of a tenth of the average norm.

    Rounding moves a few of millions of inputs of leaky ReLU across 0, where the slope jumps: for 10⁻⁶ of them the
    gradient moves by about 10⁻³.
    """
    least = 0.1 * sum(x.norm() for x in expected.values()) / len(expected)
    for name, exact in expected.items():
        error = (got[name] - exact).norm()
        assert error <= tolerance * (exact.norm() + least), f"{name}: {error:.2g} off, norm {exact.norm():.2g}"


@functools.cache
def models(device: str) -> tuple[StyleGAN2, StyleGAN2]:
    """Ours, and the same for the contenders in plain PyTorch."""
    torch.manual_seed(0)
    model = StyleGAN2(CONFIG).to(device)
    return model, baseline(model)


def step(kind: str, contender: str, device: str) -> Step:
    return Step(kind, contender, models(device)[contender != "native"], device, BATCH[device])


def print_peak(kind: str, contender: str) -> None:
    """What a process of its own says about memory on the CPU."""
    torch.set_num_threads(1)
    timed = step(kind, contender, "cpu")
    for optimizer in timed.optimizers.values():  # whose state counts as little as the weights
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        optimizer.step()
        optimizer.zero_grad()
    print(peak_memory(timed, "cpu"))


def peaks(steps: dict[str, Step], kind: str, device: str) -> dict[str, int]:
    """Bytes that a step of the reference and of ours takes beyond networks and optimizers."""
    names = ("reference", "native")
    if device != "cpu":
        return {name: peak_memory(steps[name], device) for name in names}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    programs = [f"import bench_steps; bench_steps.print_peak({kind!r}, {name!r})" for name in names]
    # At once: what they hold does not depend on what they wait for.
    asked = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for program in programs
    ]
    answers = [process.communicate()[0] for process in asked]
    for process in asked:
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return {name: int(answer.split()[-1]) for name, answer in zip(names, answers, strict=True)}


@pytest.mark.parametrize("kind", STEPS)
def test_step(benchmark, device, kind):
    names = [name for name in CONTENDERS if kind == "training" or name != "single-channel FIR"]
    steps = {name: step(kind, name, device) for name in names}
    with FlopCounter() as counter:
        ours = steps["native"].results()

    def check():
        assert_equal(ours, steps["reference"].results())
        for name in names[2:]:
            steps[name]()  # the first step of a contender takes longest

    name = f"StyleGAN2 64² {kind} step, batch {BATCH[device]}"
    compare(benchmark, name, steps, 0, check, device, flops=counter.total, rounds=1 if device == "cpu" else 5)
    if kind == "training" and (device != "cpu" or sys.platform == "linux"):
        benchmark.extra_info["peak_bytes"] = peaks(steps, kind, device)
