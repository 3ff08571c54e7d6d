"""What every feature extractor offers, and the one class that makes it of a module."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ... import __version__
from ...data import ImageDataset
from ...errors import FastUnlearnError
from ...files import state_sha256
from ...models.classifiers import in_batches
from ..provenance import Provenance
from .resize import AS_IS, Resize


@runtime_checkable
class Extractor(Protocol):
    """Images to features, with what a score must say about them.

    Attributes:
        name: what reports call it.
        sha256: hash of its weights.
        resize: name of the rule that brings images to its size.
        standard: whether published scores use it with this rule.
        d: features of an image; None where only the first answer tells.
    """

    name: str
    sha256: str
    resize: str
    standard: bool
    d: int | None

    def __call__(self, images: Tensor | ImageDataset) -> Tensor:
        """Features [N, d], float32 on the CPU, of images [N, C, H, W] in [−1, 1]."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class ModuleExtractor:
    """An extractor made of a module.

    Args:
        name: what reports and errors call it.
        module: moved to a device by `to`; in evaluation mode while it works.
        function: images of the right size and channels → [N, d]; calls the module.
        rule: brings them to their size.
        sha256: hash of the weights.
        channels: 1 or 3: what `function` takes; grey images become RGB. None takes what comes.
        standard: whether published scores use it with this rule.
        d: features of an image, or None.
        package: whose weights they are, with its version, or None for ours.
        head: features → logits, or None.
    """

    name: str
    module: nn.Module
    function: Callable[[Tensor], Tensor]
    rule: Resize
    sha256: str
    channels: int | None = None
    standard: bool = False
    d: int | None = None
    package: str | None = None
    head: Callable[[Tensor], Tensor] | None = None

    @property
    def resize(self) -> str:
        """Name of the resize rule."""
        return self.rule.name

    def __call__(self, images: Tensor | ImageDataset, batch: int = 500) -> Tensor:
        """Features of images.

        Args:
            images: [N, C, H, W] float32 in [−1, 1], C of 1 or 3, or a dataset.
            batch: images at a time.

        Returns:
            [N, d] float32 on the CPU.

        Raises:
            ValueError: images that are not floating point.
            FastUnlearnError: the network refuses the images, or its features are not finite.
        """
        if isinstance(images, Tensor) and not images.is_floating_point():
            raise ValueError(f"{self.name}: images must be floating point in [−1, 1], got {images.dtype}")
        return in_batches(
            self.module, lambda x: self.function(self.rule.function(self._in_colour(x))), images, self.name, batch
        )

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Class logits [N, classes] of features [N, d]; what the inception score needs.

        Raises:
            FastUnlearnError: it has no classes.
        """
        self.require_head()
        device = next((tensor.device for tensor in self.module.state_dict().values()), torch.device("cpu"))
        return self.head(features.to(device)).cpu()

    def require_head(self) -> None:
        """Refuse what gives no logits.

        Raises:
            FastUnlearnError: it has no classes.
        """
        if self.head is None:
            raise FastUnlearnError(f"{self.name}: gives features but no logits of classes")

    def to(self, device: str | torch.device) -> "ModuleExtractor":
        """Move the module."""
        self.module.to(device)
        return self

    def provenance(self, n: int, n_reference: int | None = None) -> Provenance:
        """That of a score of n images, against n_reference."""
        library = ", ".join(filter(None, (f"fastunlearn {__version__}", self.package)))
        return Provenance(self.name, self.sha256, self.resize, n, library, self.standard, n_reference)

    def _in_colour(self, images: Tensor) -> Tensor:
        if self.channels in (None, images.shape[1]):
            return images
        if self.channels == 3 and images.shape[1] == 1:
            return images.expand(-1, 3, -1, -1)
        raise ValueError(f"takes {self.channels} channels, got {images.shape[1]}")


def module_extractor(
    module: nn.Module,
    name: str | None = None,
    rule: Resize = AS_IS,
    *,
    channels: int | None = None,
    sha256: str | None = None,
) -> ModuleExtractor:
    """Any network as an extractor: its output are the features.

    Args:
        module: images [N, C, H, W] in [−1, 1] → [N, d].
        name: what reports call it; None takes its class's.
        rule: brings images to its size, such as `antialiased(224)`.
        channels: 1 or 3, or None where it takes both.
        sha256: hash of the weights; None computes that of the state dict.
    """
    return ModuleExtractor(
        name=name or type(module).__name__,
        module=module,
        function=module,
        rule=rule,
        sha256=sha256 or state_sha256(module.state_dict()),
        channels=channels,
    )
