"""What turns images into features, by name; `load_extractor` is the way in."""

from pathlib import Path

from ...errors import FastUnlearnError
from ...files import file_sha256
from ...models.classifiers import load_classifier
from ...models.lenet import LeNet
from .efficientnet import efficientnet_lite0
from .extractor import Extractor, ModuleExtractor, module_extractor
from .inception import inception
from .lenet import digits, lenet_extractor
from .resize import AS_IS, Resize, antialiased, averaged

__all__ = [
    "AS_IS",
    "EXTRACTORS",
    "Extractor",
    "ModuleExtractor",
    "Resize",
    "antialiased",
    "averaged",
    "digits",
    "efficientnet_lite0",
    "inception",
    "lenet_extractor",
    "load_extractor",
    "module_extractor",
]

EXTRACTORS = {"inception": inception, "efficientnet-lite0": efficientnet_lite0, "digits": digits}
"""By the names on the command line; each is made by a call without arguments."""


def load_extractor(name: str | Path, size: int | None = None) -> ModuleExtractor:
    """An extractor by its name, or any network from a file.

    Args:
        name: one of `EXTRACTORS`; or a TorchScript file that takes images [N, C, H, W] in [−1, 1] to features [N, d];
            or a LeNet of this project (`.safetensors`, or a bundle folder).
        size: height and width to which images come before a TorchScript file sees them (bicubic, antialiased); None
            leaves them as they are. The other extractors have sizes of their own.

    Raises:
        FastUnlearnError: no such name or file, a file that is neither format, a package or weights that are not here,
            or a size for an extractor that has its own.
    """
    if size is not None and size < 1:
        raise FastUnlearnError(f"extractor: size must be at least 1, got {size}")
    if name in EXTRACTORS:
        return _of_own_size(EXTRACTORS[name](), size)
    path = Path(name)
    if not path.exists():
        raise FastUnlearnError(f"extractor must be one of {', '.join(EXTRACTORS)} or a file, got '{name}'")
    module = load_classifier(path)
    if isinstance(module, LeNet):
        return _of_own_size(lenet_extractor(module), size)
    return module_extractor(module, path.name, AS_IS if size is None else antialiased(size), sha256=file_sha256(path))


def _of_own_size(extractor: ModuleExtractor, size: int | None) -> ModuleExtractor:
    if size is not None:
        raise FastUnlearnError(f"extractor: {extractor.name} has a resize rule of its own ({extractor.resize})")
    return extractor
