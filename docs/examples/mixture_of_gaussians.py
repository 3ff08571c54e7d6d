"""Forget two of eight Gaussians on a circle: Figure 1c of Adapt-then-Unlearn (arXiv 2309.14054), in seconds on a CPU.

It also shows how any generator joins: `Mixture` is all that the methods need to know of one.

    python docs/examples/mixture_of_gaussians.py --out runs/mixture
"""

import argparse
import copy
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from fastunlearn.feedback import Feedback, generator_sha256
from fastunlearn.methods import AdaptConfig, AdaptThenUnlearn, AdaptThenUnlearnConfig, unlearn
from fastunlearn.training.adversarial import AdversarialConfig, Networks, adversarial_phase
from fastunlearn.training.loop import Images, LoopConfig, run

MODES, RADIUS, DEVIATION, FORGET = 8, 2.0, 0.1, (0, 1)


class Mixture:
    """The adapter: networks, prior and `generate`. "Images" are points [n, 2]."""

    latent_dim, image_shape = 2, (2,)

    def __init__(self, width: int = 64):
        def network(n_in: int, n_out: int) -> nn.Sequential:
            hidden = [nn.Linear(n_in, width), nn.LeakyReLU(0.2)]
            return nn.Sequential(*hidden, nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, n_out))

        self.generator = network(self.latent_dim, 2)
        self.ema = copy.deepcopy(self.generator)
        self.discriminator = nn.Sequential(network(2, 1), nn.Flatten(0))

    def sample_latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """From the prior, [n, 2]."""
        return torch.randn(n, self.latent_dim, generator=generator)

    @torch.no_grad()
    def generate(self, z: Tensor, noise_seed: Tensor | None = None) -> Tensor:
        """Points [n, 2] on the CPU; there is no noise to seed."""
        return self.ema(z.to(next(self.ema.parameters()).device)).cpu()


def centres() -> Tensor:
    """[MODES, 2]."""
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)


def draw(n: int, rng: torch.Generator) -> Tensor:
    """n points [n, 2] of the whole mixture."""
    mode = torch.randint(MODES, (n,), generator=rng)
    return centres()[mode] + DEVIATION * torch.randn(n, 2, generator=rng)


def share_forgotten(points: Tensor) -> float:
    """Share of the points whose nearest centre is one of FORGET."""
    nearest = torch.cdist(points, centres()).argmin(dim=1)
    return torch.isin(nearest, torch.tensor(FORGET)).float().mean().item()


def scatter(panels: dict[str, Tensor], path: Path) -> None:
    """One panel per set of points; forgotten modes are circled."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 3.2), layout="constrained")
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        axis.scatter(*points.T, s=3, alpha=0.4, linewidths=0)
        axis.scatter(*centres()[list(FORGET)].T, s=500, facecolors="none", edgecolors="tab:red")
        axis.set(title=title, xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(out: Path, seed: int = 0, pretrain_steps: int = 3000, adapt_steps: int = 400, steps: int = 800) -> dict:
    """Train, give feedback, unlearn, draw; returns the share of forgotten modes at each stage."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    game = AdversarialConfig(batch_size=256, lr=1e-3, r1=0.2, path=0, mixing=0, ema_images=50_000)
    loop = LoopConfig(seed=seed, grid_every=0, checkpoint_every=10_000)

    model = Mixture()
    data = draw(20_000, rng)

    def pretraining():
        networks = Networks(model, model.generator)
        yield adversarial_phase("pretrain", networks, Images.of(data), pretrain_steps, game)
        return networks.model

    model = run(pretraining(), out / "pretrain", loop)

    z = model.sample_latents(4000, rng)
    undesired = torch.isin(torch.cdist(model.generate(z), centres()).argmin(dim=1), torch.tensor(FORGET))
    feedback = Feedback(
        z=z,
        noise_seed=torch.zeros(len(z), dtype=torch.int64),
        label=undesired.to(torch.int8),
        image=None,
        generator_sha256=generator_sha256(model),
        source="person",
    )
    method = AdaptThenUnlearn(
        AdaptThenUnlearnConfig(
            adapt=AdaptConfig(n_adapted=2, adapt_steps=adapt_steps, ewc_weight=1.0),
            unlearn_steps=steps,
            gamma=1.0,
            game=game,
        )
    )
    after = unlearn(model, method, feedback, out / "unlearn", loop)

    latents = model.sample_latents(4000, rng)
    panels = {
        "data": data[:4000],
        "trained": model.generate(latents),
        "undesired": feedback.images(model, undesired=True),
        "unlearned": after.generate(latents),
    }
    scatter(panels, out / "mixture.png")
    return {title: share_forgotten(points) for title, points in panels.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/mixture"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for title, share in main(arguments.out, arguments.seed).items():
        print(f"{title:12}{share:6.1%} in the modes to forget")
    print(arguments.out / "mixture.png")
