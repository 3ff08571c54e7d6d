"""``fastunlearn apply BASE DELTA OUT``: a bundle from its base and a delta."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..bundle import Bundle
from ..delta import apply_to_bundle


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Turn a file of `delta` into the bundle that it was made from, bit for bit.

    Attributes:
        base: name of a shipped bundle or path of a bundle folder: the one that the delta was made from.
        delta: the file.
        out: folder for the bundle; as RUN/bundle, `evaluate RUN` can judge it.
    """

    base: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BASE")]
    delta: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DELTA")]
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]

    def run(self) -> None:
        """Do it."""
        apply_to_bundle(Bundle(self.base), self.delta, self.out)
        print(f"{self.out}: {self.delta} applied to {self.base}, hash checked")
