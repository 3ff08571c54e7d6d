"""``fastunlearn inspect FILE``: what a checkpoint or a bundle holds."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from ..bundle import Bundle, all_constants
from ..files import file_sha256, state_sha256
from ..models.checkpoints import load_checkpoint
from .convert import CONSTANTS


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Print format, architecture, sizes, step and hashes of a checkpoint file or a bundle.

    Attributes:
        file: checkpoint file, bundle folder or name of a shipped bundle.
    """

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]

    def run(self) -> None:
        """Do it."""
        for name, value in self.facts():
            print(f"{name:22}{value}")

    def facts(self) -> Iterator[tuple[str, Any]]:
        """What there is to know, line by line."""
        bundle = Bundle(self.file)
        if bundle.is_checkpoint:
            checkpoint = load_checkpoint(bundle.folder)
            model, facts, form = checkpoint.model, checkpoint.facts, checkpoint.format
        else:
            model, config, form = bundle.model(), bundle.config, "bundle"
            facts = config.get("training") or config.get("converted") or {}
            facts = {"step": facts.get("steps", facts.get("step")), "images": facts.get("images")}
        yield "format", form
        yield "architecture", model.arch
        yield "images", " x ".join(map(str, model.image_shape))
        widths = {"g_widths": "generator", "d_widths": "discriminator", "e_widths": "encoder"}
        if not any(field.name == "latent_dim" for field in dataclasses.fields(model.config)):
            yield "latent dim", model.latent_dim
        for field in dataclasses.fields(model.config):
            value = getattr(model.config, field.name)
            network = widths.get(field.name)
            if network is None:
                yield field.name.replace("_", " "), "none" if value is None else value
            elif network in model.modules():
                yield f"{network} widths", ", ".join(f"{4 << i}: {width}" for i, width in enumerate(value))
        yield "step", "not in the file" if facts.get("step") is None else facts["step"]
        if facts.get("images") is not None:
            yield "images shown", facts["images"]
        constants = all_constants(model)
        for name, key in CONSTANTS:
            holders = [n.partition(".")[0] for n in constants if n.endswith(key)]
            yield name, ", ".join(holders) or "none"
        for name in ("missing", "left_out"):
            if facts.get(name):
                yield name.replace("_", " "), ", ".join(facts[name])
        for name, module in model.modules().items():
            yield name, f"{sum(p.numel() for p in module.parameters()):,} parameters"
            yield f"{name} sha256", state_sha256(module.state_dict())
        if bundle.is_checkpoint:
            yield "file sha256", file_sha256(bundle.folder)
