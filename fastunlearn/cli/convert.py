"""``fastunlearn convert IN OUT``: checkpoints of other projects into bundles, and bundles into theirs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..bundle import Bundle, all_constants, save_bundle
from ..errors import FastUnlearnError
from ..files import file_sha256
from ..models.checkpoints import FORMATS, load_checkpoint, save_checkpoint
from ..models.registry import Model

CONSTANTS = (("mean style", ".mean_style"), ("fixed noise", ".noise_0"))


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a model between a bundle, rosinality's or lucidrains' checkpoint, and state dicts for NVIDIA's classes.

    Attributes:
        source: checkpoint file, bundle folder or name of a shipped bundle.
        out: what to write; it must not exist yet.
        format: bundle, or the project whose code is to read the file; None takes rosinality for OUT.pt (of a
            StyleGAN2; lucidrains of theirs), else bundle.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    format: str | None = None

    def run(self) -> None:
        """Do it."""
        formats = ("bundle", *FORMATS)
        if self.format not in (None, *formats):
            raise FastUnlearnError(f"convert: --format must be one of {', '.join(formats)}, got '{self.format}'")
        if self.out.suffix == ".pkl":
            raise FastUnlearnError(f"{self.out}: pickles are not written; give OUT.pt and --format nvidia")
        if self.out.exists():
            raise FastUnlearnError(f"{self.out}: exists already; give another OUT")
        model, facts = self.read()
        of_model = next((name for name, module in FORMATS.items() if isinstance(model, module.MODEL)), None)
        wanted = self.format or (of_model if self.out.suffix == ".pt" else "bundle")
        if wanted is None:
            raise FastUnlearnError(f"{self.source}: no other project's format holds a {model.arch}; name a folder")
        if wanted == "bundle":
            save_bundle(model, self.out, facts)
        else:
            save_checkpoint(model, self.out, wanted)
        constants = all_constants(model)
        kept = [name for name, key in CONSTANTS if any(constant.endswith(key) for constant in constants)]
        print(f"{self.out}: {wanted}, {', '.join([*model.modules(), *kept])}")

    def read(self) -> tuple[Model, dict[str, Any]]:
        """The model, and what a bundle says of where it comes from."""
        bundle = Bundle(self.source)
        if not bundle.is_checkpoint:
            facts = {
                key: value for key, value in bundle.config.items() if key in ("training", "unlearned", "converted")
            }
            return bundle.model(), facts
        checkpoint = load_checkpoint(bundle.folder)
        left_out = checkpoint.facts.get("left_out")
        missing = checkpoint.facts.get("missing")
        print(f"{self.source}: {checkpoint.format}" + (f", left out: {', '.join(left_out)}" if left_out else ""))
        if missing:
            print(f"{self.source}: has no {', no '.join(missing)}")
        source = {"file": bundle.folder.name, "sha256": file_sha256(bundle.folder), **checkpoint.facts}
        return checkpoint.model, {"converted": source}
