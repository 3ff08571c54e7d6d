"""``fastunlearn delta BASE MODEL OUT``: an unlearned bundle as the difference to its base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..bundle import Bundle
from ..delta import delta_between_bundles


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Store a bundle as the lossless difference to its base, in one file that `apply` turns into the bundle again.

    Attributes:
        base: name of a shipped bundle or path of a bundle folder; whoever applies the delta needs the same.
        model: the bundle to store.
        out: the file.
    """

    base: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BASE")]
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]

    def run(self) -> None:
        """Do it."""
        base, model = Bundle(self.base), Bundle(self.model)
        delta_between_bundles(base, model, self.out)
        size = self.out.stat().st_size
        whole = sum((model.folder / f"{name}.safetensors").stat().st_size for name in model.model().modules())
        print(f"{self.out}: {size / 1e6:.2f} MB, {size / whole:.0%} of the networks' {whole / 1e6:.2f} MB")
