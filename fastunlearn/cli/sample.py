"""``fastunlearn sample``: images of a bundle."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ..bundle import load
from ..config import require_range
from ..evaluation.pictures import save_grid, save_images


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw images from a bundle: OUT/grid.png and one PNG each.

    Attributes:
        gan: name of a shipped bundle, or path of a bundle folder or of a checkpoint file.
        out: folder for the images.
        n: number of images.
        seed: of the latents; the same seed gives the same images.
        truncation: ψ in [0, 1]; below 1 trades variety for typicality.
    """

    gan: str
    out: Path
    n: int = 64
    seed: int = 0
    truncation: float = 1.0

    def __post_init__(self) -> None:
        require_range(self, n=(1, math.inf), seed=(0, 2**63 - 1), truncation=(0, 1))

    def run(self) -> None:
        """Do it."""
        model = load(self.gan)
        z = model.sample_latents(self.n, torch.Generator().manual_seed(self.seed))
        images = model.generate(z, torch.arange(self.n), truncation=self.truncation)
        save_grid(images, self.out / "grid.png")
        save_images(images, self.out)
        print(f"{self.out / 'grid.png'}: {self.n} images of {self.gan}")
