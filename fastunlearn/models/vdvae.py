"""VDVAE (Child 2020, arXiv 2011.10650): a VAE whose latents are drawn one block after another, from 1 pixel up.

Block l draws z_l from the prior p(z_l | z_<l), a normal distribution that a network reads off the state x, and adds z_l
and a residual to x. While it learns, z_l comes from the posterior q(z_l | x, z_<l), which also sees the encoder's state
of the same side. The generator is the decoder: the latents of all blocks, concatenated → mean of p(image | z).

Two vectors tell one image, and `VDVAEConfig.latents` chooses: the noise ε_l with z_l = μ_l + σ_l·ε_l, or the z_l.
"""

import copy
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import require_range
from ..errors import FastUnlearnError
from .latent import LatentModel
from .logistic_mixture import LogisticMixture, n_parameters

BATCH = 250

LARGEST_START = 64
"""Pixels up to which a side's state starts from a learned image, not only from the state below. [paper: 64]"""


class Step(NamedTuple):
    """One block as the notation of `VDVAEConfig` writes it.

    Attributes:
        side: pixels of its state.
        down: factor by which the encoder's state is pooled behind it.
        source: pixels of the state that the decoder's takes in before it; None for none.
    """

    side: int
    down: int = 1
    source: int | None = None


@dataclass(frozen=True, kw_only=True)
class VDVAEConfig:
    """Size of a VDVAE, in the paper's notation: blocks behind one another, separated by commas.

    `16x3` is three blocks at 16 pixels; `16d2`, in the encoder, one block and then an average over 2 × 2; `16m8`, in
    the decoder, one block that first takes the state of 8 pixels in, each pixel repeated.

    Attributes:
        size: side of the square images in pixels.
        channels: 1 (grey) or 3 (RGB).
        encoder: its blocks, from `size` down.
        decoder: its blocks, up to `size`.
        width: channels of the states.
        widths: other channels at some sides, such as "32:16,16:32"; they must not fall from one side to a smaller one.
        latent_channels: of the z of each block, a pixel.
        latent_channels_at: others at some sides, such as "16:1,32:0"; a block with 0 has no latent, prior or posterior.
        bottleneck: width within a block, as a share of the state's.
        likelihood: p(image | z). "logistic-mixture" of 256 values, as in the paper; "bernoulli", which takes a value as
            the probability of white: for nearly black and white images, sharper (`training.variational`).
        mixtures: components of the logistic mixture.
        latents: "noise": the latent is ε, N(0, 1) in every dimension, so that every vector is a fair one, and
            truncation is the temperature. "values": it is z itself, as in arXiv 2303.05699; to draw one takes the prior
            of the decoder that learned, which the model keeps beside the generator, also when that has unlearned.
    """

    size: int = 32
    channels: int = 1
    encoder: str = "32x1,32d2,16x2,16d2,8x2,8d2,4x2,4d4,1x2"
    decoder: str = "1x2,4m1,4x1,8m4,8x1,16m8,16x1,32m16,32x1"
    width: int = 64
    widths: str = ""
    latent_channels: int = 4
    latent_channels_at: str = ""
    bottleneck: float = 0.25
    likelihood: Literal["logistic-mixture", "bernoulli"] = "logistic-mixture"
    mixtures: int = 10
    latents: Literal["noise", "values"] = "noise"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise FastUnlearnError(f"channels must be 1 or 3, got {self.channels}")
        many = (1, math.inf)
        require_range(
            self, size=many, width=many, mixtures=many, latent_channels=(0, math.inf), bottleneck=(0, math.inf)
        )
        down, up = self.encoder_steps(), self.decoder_steps()
        for name, least in (("widths", 1), ("latent_channels_at", 0)):
            for side, value in _table(name, getattr(self, name)).items():
                if side not in {step.side for step in (*down, *up)} or value < least:
                    raise FastUnlearnError(f"{name} must be >= {least} at a side that has blocks, got {side}:{value}")
        sides = sorted({step.side for step in (*down, *up)})
        for small, large in itertools.pairwise(sides):
            if self.width_at(small) < self.width_at(large):
                raise FastUnlearnError(
                    f"widths must not fall towards smaller sides, got {self.width_at(large)} at {large} and "
                    f"{self.width_at(small)} at {small}"
                )
        seen = {step.side // step.down for step in down} | {self.size}
        for step in up:
            if self.latent_channels_of(step.side) and step.side not in seen:
                raise FastUnlearnError(f"decoder draws latents at {step.side} pixels, where the encoder has no state")
        if self.latent_dim == 0:
            raise FastUnlearnError("latent_channels must be > 0 in one block at least")

    def encoder_steps(self) -> list[Step]:
        """The encoder's blocks.

        Raises:
            FastUnlearnError: names the first that does not follow from the one before.
        """
        steps, side = [], self.size
        for text, at, kind, number in _tokens("encoder", self.encoder, "xd"):
            if at != side:
                raise FastUnlearnError(f"encoder must go on at {side} pixels, got {text}")
            if kind == "d" and side % number:
                raise FastUnlearnError(f"encoder cannot average {side} pixels by {number}, got {text}")
            steps += [Step(at, number)] if kind == "d" else [Step(at)] * number
            side = steps[-1].side // steps[-1].down
        return steps

    def decoder_steps(self) -> list[Step]:
        """The decoder's blocks.

        Raises:
            FastUnlearnError: names the first that takes in a state that is not there, or whose own is not; or the last
                is not at `size`.
        """
        steps: list[Step] = []
        for text, at, kind, number in _tokens("decoder", self.decoder, "xm"):
            known = {step.side for step in steps}
            if kind == "m" and (number not in known or at % number):
                raise FastUnlearnError(f"decoder has no state of {number} pixels that {text} could take in")
            if kind == "x" and steps and at not in known:
                raise FastUnlearnError(f"decoder must reach {at} pixels by {at}m{steps[-1].side}, got {text}")
            steps += [Step(at, source=number)] if kind == "m" else [Step(at)] * number
        if steps[-1].side != self.size:
            raise FastUnlearnError(f"decoder must end at {self.size} pixels, got {steps[-1].side}")
        return steps

    def width_at(self, side: int) -> int:
        """Channels of the states of a side."""
        return _table("widths", self.widths).get(side, self.width)

    def latent_channels_of(self, side: int) -> int:
        """Channels of z in the blocks of a side."""
        return _table("latent_channels_at", self.latent_channels_at).get(side, self.latent_channels)

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """(C, H, W) of every block's z, in the order of the decoder; blocks without are left out."""
        shapes = [(self.latent_channels_of(step.side), step.side, step.side) for step in self.decoder_steps()]
        return [shape for shape in shapes if shape[0]]

    @property
    def latent_dim(self) -> int:
        """Numbers in the latents of all blocks."""
        return sum(map(math.prod, self.latent_shapes))


def _tokens(name: str, text: str, kinds: str) -> list[tuple[str, int, str, int]]:
    """`16x3` → ("16x3", 16, "x", 3), for all of a string."""
    found = []
    for token in text.split(","):
        match = re.fullmatch(rf"([1-9]\d*)([{kinds}])([1-9]\d*)", token)
        if match is None:
            raise FastUnlearnError(f"{name} must be blocks like 16x3 or 16{kinds[1]}2, with commas, got '{token}'")
        found.append((token, int(match[1]), match[2], int(match[3])))
    return found


def _table(name: str, text: str) -> dict[int, int]:
    """`32:16,16:32` → {32: 16, 16: 32}."""
    if re.fullmatch(r"(\d+:\d+(,\d+:\d+)*)?", text) is None:
        raise FastUnlearnError(f"{name} must be like 32:16,16:32 (side:channels), got '{text}'")
    return {int(side): int(value) for side, value in (pair.split(":") for pair in text.split(",") if pair)}


def bottleneck(n_in: int, n_out: int, width: int, side: int) -> nn.Sequential:
    """1×1, 3×3, 3×3 and 1×1 convolution, a GELU before each; on 1 or 2 pixels 3×3 would see mostly padding."""
    kernel = 3 if side > 2 else 1
    layers: list[nn.Module] = []
    for a, b, k in ((n_in, width, 1), (width, width, kernel), (width, width, kernel), (width, n_out, 1)):
        layers += [nn.GELU(), nn.Conv2d(a, b, k, padding=k // 2)]
    return nn.Sequential(*layers)


def pixels_first(x: Tensor) -> Tensor:
    """x with the channels of a pixel beside one another in memory: 1×1 convolutions are half of the work."""
    return x.contiguous(memory_format=torch.channels_last)


def inner(config: VDVAEConfig, side: int) -> int:
    """Width within the blocks of a side."""
    return max(1, int(config.bottleneck * config.width_at(side)))


class Normal(NamedTuple):
    """Normal distributions of a block's z, each [n, C, H, W], float32."""

    mean: Tensor
    log_std: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> "Normal":
        """From what a network puts out, [n, 2·C, H, W]."""
        return cls(*parameters.float().chunk(2, dim=1))

    def at(self, noise: Tensor) -> Tensor:
        """z = μ + σ·ε."""
        return self.mean + self.log_std.exp() * noise

    def noise(self, z: Tensor) -> Tensor:
        """ε = (z − μ) / σ."""
        return (z - self.mean) * (-self.log_std).exp()

    def kl(self, prior: "Normal") -> Tensor:
        """KL(self ‖ prior) = Σ (log σ_p − log σ + (σ² + (μ − μ_p)²) / (2·σ_p²) − ½), in nats: [n]."""
        square = (2 * (self.log_std - prior.log_std)).exp() + prior.noise(self.mean).square()
        return (prior.log_std - self.log_std + square / 2 - 0.5).flatten(1).sum(1)


Draw = Callable[[int, Tensor, Normal], Tensor]
"""z [n, C, H, W] of the latent's number, the state [n, W, H, W] that the block was given, and the prior."""


class Block(nn.Module):
    """One step down the hierarchy: prior, latent, residual.

    Args:
        config: of the model.
        step: which block.
        scale: factor of the weights that add to the state.
    """

    def __init__(self, config: VDVAEConfig, step: Step, scale: float):
        super().__init__()
        self.side, self.source = step.side, step.source
        self.width, self.n_latent = config.width_at(step.side), config.latent_channels_of(step.side)
        middle = inner(config, step.side)
        if self.n_latent:
            self.prior = bottleneck(self.width, 2 * self.n_latent + self.width, middle, step.side)
            nn.init.zeros_(self.prior[-1].weight)  # N(0, 1), up to the bias
            nn.init.zeros_(self.prior[-1].bias)
            self.project = nn.Conv2d(self.n_latent, self.width, 1)
            self.project.weight.data *= scale
        self.residual = bottleneck(self.width, self.width, middle, step.side)
        self.residual[-1].weight.data *= scale

    def forward(self, x: Tensor, draw: Callable[[Tensor, Normal], Tensor]) -> Tensor:
        """State x [n, W, H, W] → the next."""
        if self.n_latent:
            parameters, mean = self.prior(x).split([2 * self.n_latent, self.width], dim=1)
            z = draw(x, Normal.of(parameters))
            x = x + mean + self.project(pixels_first(z))
        return x + self.residual(x)


class Decoder(nn.Module):
    """Latents → mean image in [−1, 1]."""

    def __init__(self, config: VDVAEConfig):
        super().__init__()
        self.config = config
        steps = config.decoder_steps()
        self.blocks = nn.ModuleList(Block(config, step, len(steps) ** -0.5) for step in steps)
        sides = sorted({step.side for step in steps if step.side <= max(LARGEST_START, steps[0].side)})
        self.starts = nn.ParameterDict({str(side): torch.randn(1, config.width_at(side), side, side) for side in sides})
        last = config.width_at(config.size)
        self.gain = nn.Parameter(torch.ones(1, last, 1, 1))
        self.offset = nn.Parameter(torch.zeros(1, last, 1, 1))
        mixture = config.likelihood == "logistic-mixture"
        self.output = nn.Conv2d(last, n_parameters(config.channels, config.mixtures) if mixture else config.channels, 1)

    def descend(self, n: int, draw: Draw) -> Tensor:
        """Run all blocks on n images: parameters of p(image | z), [n, ·, size, size], float32."""
        states = {int(side): pixels_first(start.expand(n, -1, -1, -1)) for side, start in self.starts.items()}
        number = itertools.count()
        for block in self.blocks:
            x = states.get(block.side, 0)
            if block.source is not None:
                below = states[block.source][:, : block.width]
                x = x + F.interpolate(below, scale_factor=block.side // block.source)
            i = next(number) if block.n_latent else None
            states[block.side] = block(x, lambda x, prior, i=i: draw(i, x, prior))
        return self.output(states[self.config.size] * self.gain + self.offset).float()

    def mean(self, parameters: Tensor) -> Tensor:
        """Mean image of p(image | z), [n, channels, size, size] in [−1, 1], float32."""
        if self.config.likelihood == "bernoulli":
            return (parameters / 2).tanh()  # 2·sigmoid − 1
        return LogisticMixture.of(parameters, self.config.channels).mean()

    def split(self, z: Tensor) -> list[Tensor]:
        """[n, latent_dim] → every block's [n, C, H, W]."""
        shapes = self.config.latent_shapes
        parts = z.split([math.prod(shape) for shape in shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def replay(self, z: Tensor) -> Draw:
        """Draws that take every block's z from latents [n, latent_dim]."""
        parts = self.split(z)
        if self.config.latents == "values":
            return lambda i, x, prior: parts[i]
        return lambda i, x, prior: prior.at(parts[i])

    def forward(self, z: Tensor) -> Tensor:
        """z [n, latent_dim] → mean images [n, channels, size, size], float32."""
        return self.mean(self.descend(len(z), self.replay(z)))

    def values(self, noise: Tensor) -> Tensor:
        """What the blocks draw with noise [n, latent_dim]: z [n, latent_dim]."""
        parts, drawn = self.split(noise), []

        def draw(i: int, x: Tensor, prior: Normal) -> Tensor:
            drawn.append(prior.at(parts[i]))
            return drawn[-1]

        self.descend(len(noise), draw)
        return torch.cat([z.flatten(1) for z in drawn], dim=1)


class Encoder(nn.Module):
    """Images → states of every side, and the posteriors that read them."""

    def __init__(self, config: VDVAEConfig):
        super().__init__()
        steps = config.encoder_steps()
        self.sides = [(step.side, step.down) for step in steps]
        self.widths = [config.width_at(step.side // step.down) for step in steps]
        self.input = nn.Conv2d(config.channels, config.width_at(config.size), 3, padding=1)
        self.blocks = nn.ModuleList(
            bottleneck(config.width_at(s.side), config.width_at(s.side), inner(config, s.side), s.side) for s in steps
        )
        for block in self.blocks:
            block[-1].weight.data *= len(steps) ** -0.5
        self.posteriors = nn.ModuleList(
            bottleneck(2 * config.width_at(side), 2 * n, inner(config, side), side)
            for n, side, _ in config.latent_shapes
        )

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """images [n, C, size, size] → the last state [n, W, side, side] of every side; wider ones start with zeros."""
        x = self.input(pixels_first(images))
        states = {x.shape[-1]: x}
        for block, (side, down), width in zip(self.blocks, self.sides, self.widths, strict=True):
            x = x + block(x)
            if down > 1:
                x = F.pad(F.avg_pool2d(x, down), (0, 0, 0, 0, 0, width - x.shape[1]))
            states[side // down] = x
        return states


class Inference(NamedTuple):
    """What posterior and prior make of n images.

    Attributes:
        parameters: of p(image | z).
        kl: KL(q ‖ p) of every block, each [n], in nats.
        latents: [n, latent_dim], what `Decoder` replays.
    """

    parameters: Tensor
    kl: list[Tensor]
    latents: Tensor


def infer(encoder: Encoder, decoder: Decoder, images: Tensor, sample: bool = True) -> Inference:
    """Draw every block's z from q(z_l | x, z_<l), or take its mean, on the way down."""
    states, kl, latents = encoder(images), [], []
    values = decoder.config.latents == "values"

    def draw(i: int, x: Tensor, prior: Normal) -> Tensor:
        posterior = Normal.of(encoder.posteriors[i](torch.cat([x, states[x.shape[-1]]], dim=1)))
        z = posterior.at(torch.randn_like(posterior.mean)) if sample else posterior.mean
        kl.append(posterior.kl(prior))
        latents.append((z if values else prior.noise(z)).detach().flatten(1))
        return z

    parameters = decoder.descend(len(images), draw)
    return Inference(parameters, kl, torch.cat(latents, dim=1))


class VDVAE(LatentModel):
    """The `GenerativeModel` of a VDVAE: decoder, encoder, the average of both, prior. It has no discriminator.

    `sampler` is the decoder whose prior draws latents that are values; None where they are noise. It is the average
    until that unlearns: what an unlearned prior draws is no longer what feedback and unlearning were about.
    """

    arch = "vdvae"

    def __init__(self, config: VDVAEConfig):
        super().__init__(config, (config.channels, config.size, config.size))
        self.generator = Decoder(config).to(memory_format=torch.channels_last).eval()
        self.ema = copy.deepcopy(self.generator)
        self.encoder = Encoder(config).to(memory_format=torch.channels_last).eval()
        self.encoder_ema = copy.deepcopy(self.encoder)
        self.sampler = copy.deepcopy(self.generator) if config.latents == "values" else None

    def modules(self) -> dict[str, nn.Module]:
        """The networks by the name under which they are stored."""
        networks = {**super().modules(), "encoder": self.encoder, "encoder_ema": self.encoder_ema}
        return networks if self.sampler is None else {**networks, "sampler": self.sampler}

    @torch.no_grad()
    def sample_latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n latents [n, latent_dim], on the CPU: noise from N(0, 1), or the values that the prior makes of it."""
        noise = super().sample_latents(n, generator)
        if self.sampler is None:
            return noise
        device = next(self.sampler.parameters()).device
        return torch.cat([self.sampler.values(part.to(device)).cpu() for part in noise.split(BATCH)])

    def generate(
        self, z: Tensor, noise_seed: Tensor | None = None, *, truncation: float = 1.0, batch_size: int = BATCH
    ) -> Tensor:
        """`LatentModel.generate`; with noise ψ is the temperature: every prior's standard deviation is ψ times its own.

        Raises:
            FastUnlearnError: ψ other than 1 where latents are values, which lie around no common mean.
        """
        if truncation != 1 and self.config.latents == "values":
            raise FastUnlearnError(f"truncation needs a model with latents = noise, got {truncation}")
        return super().generate(z, noise_seed, truncation=truncation, batch_size=batch_size)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Means of q(z_l | x, z_<l) one after another, as latents [n, latent_dim] on the CPU."""
        device = next(self.encoder_ema.parameters()).device
        return infer(self.encoder_ema, self.ema, images.to(device), sample=False).latents.cpu()

    def with_latents(self, latents: Literal["noise", "values"]) -> "VDVAE":
        """A copy whose latents are of the other kind."""
        model = VDVAE(replace(self.config, latents=latents))
        for name, network in model.modules().items():
            network.load_state_dict(self.modules().get(name, self.ema).state_dict())  # a new sampler is the average
        return model
